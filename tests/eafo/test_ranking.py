import keras
import numpy as np
import pandas as pd
import pytest
import scipy.stats

from keras_actlab import eafo

pytestmark = pytest.mark.one_backend

COLUMNS = ["activation", "entropy", "standardized entropy", "point masses"]


def test_a_table_has_the_least_entropy_first():
    activations = ["linear", "relu", "tanh", "gelu", "hard_tanh"]
    density = eafo.Laplace(0.3, 0.8)
    table = eafo.rank(activations, density)
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == COLUMNS
    assert list(table.index) == list(range(5))
    assert sorted(table["activation"]) == sorted(activations)
    assert np.all(np.diff(table["entropy"]) >= 0)
    assert list(table["activation"]) != activations
    for row in table.itertuples(index=False):
        assert row[1] == eafo.entropy(row[0], density)
        assert row[2] == eafo.standardized_entropy(row[0], density)
    shares = table.set_index("activation")["point masses"]
    below, inside = scipy.stats.laplace(0.3, 0.8).cdf([0.0, -1.0]), scipy.stats.laplace(0.3, 0.8).sf(1.0)
    assert shares["relu"] == pytest.approx(below[0], abs=1e-6)
    assert shares["hard_tanh"] == pytest.approx(below[1] + inside, abs=1e-6)
    assert shares["linear"] == 0.0


def test_a_mapping_gives_the_names():
    density = scipy.stats.norm()
    table = eafo.rank({"double": lambda z: 2 * z, "third": lambda z: z / 3, "as it is": "linear"}, density)
    assert list(table["activation"]) == ["third", "as it is", "double"]
    np.testing.assert_allclose(np.diff(table["entropy"]), np.log([3, 2]), atol=1e-4)


def test_functions_and_layers_are_called_by_their_names():
    table = eafo.rank([keras.activations.silu, keras.layers.Activation("tanh"), np.arctan, "relu"], eafo.Gaussian())
    assert set(table["activation"]) == {"silu", "tanh", "arctan", "relu"}


def test_none_stands_for_all_activations_of_one_number():
    table = eafo.rank(None, eafo.Gaussian())
    assert {"crrelu", "gelu", "relu", "linear", "tanh"} < set(table["activation"])
    assert np.all(np.isfinite(table[COLUMNS[1:]]))
    assert np.all(np.diff(table["entropy"]) >= 0)


def test_equal_entropies_keep_their_order():
    table = eafo.rank({"b": "elu", "c": "celu", "a": "elu"}, eafo.Gaussian())
    assert list(table["activation"]) == ["b", "c", "a"]


def test_bad_input_is_named():
    for activations in ("relu", 3, np.tanh):
        with pytest.raises(TypeError, match=r"^`activations` must be a sequence or a mapping\. Received: activations="):
            eafo.rank(activations, eafo.Gaussian())
    for activations in ([], {}):
        with pytest.raises(ValueError, match=r"^`activations` must hold at least one\. Received: activations="):
            eafo.rank(activations, eafo.Gaussian())
    with pytest.raises(ValueError, match=r"^`activation` must be the name .* Received: activation='rleu'"):
        eafo.rank(["relu", "rleu"], eafo.Gaussian())
    with pytest.raises(TypeError, match=r"^`density` must be "):
        eafo.rank(["relu"], "normal")


def test_two_activations_of_one_name_are_both_in_the_table():
    table = eafo.rank([lambda z: 2 * z, lambda z: z], eafo.Gaussian())
    assert len(table) == 2
