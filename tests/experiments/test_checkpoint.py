import h5py
import keras
import numpy as np
import pytest

from keras_actlab.experiments import _checkpoint as checkpoint
from tests.backends import numpy

NOTES = {"step": 3, "rows": [{"loss": 0.1, "best": float("nan")}], "name": "é"}


def network(seed):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.Adam(0.1), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def weights(model):
    return [numpy(variable) for variable in (*model.weights, *model.optimizer.variables)]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.weights.h5"
    model = network(1)
    model.optimizer.iterations.assign(7)
    checkpoint.save(model, NOTES, path)
    return path


def test_keras_reads_the_weights_and_json_the_notes(path):
    model = network(2)
    model.load_weights(path)
    assert int(model.optimizer.iterations) == 7
    np.testing.assert_array_equal(weights(model)[0], weights(network(1))[0])
    notes = checkpoint.read_notes(path)
    assert np.isnan(notes["rows"][0].pop("best"))
    assert notes == {"step": 3, "rows": [{"loss": 0.1}], "name": "é"}


def test_metrics_may_be_arrays(path):
    checkpoint.save(network(1), {"rows": [np.float32(0.5), np.arange(2)]}, path)
    assert checkpoint.read_notes(path) == {"rows": [0.5, [0, 1]]}


def test_every_shortened_file_is_found_out(path):
    content = path.read_bytes()
    for size in range(0, len(content), 997):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"a\.weights\.h5 cannot be read"):
            checkpoint.read_notes(path)


def contents(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    return found


def test_a_flipped_bit_is_found_out_or_changes_nothing(path):
    expected, content = contents(path), path.read_bytes()
    rng, found = np.random.default_rng(0), 0
    for place in rng.integers(0, len(content), 100):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            checkpoint.read_notes(path)
        except ValueError:
            found += 1
        else:
            np.testing.assert_equal(contents(path), expected)
    assert found > 5  # most of so small a file is empty
