import keras
import numpy as np
import pytest
import scipy.stats

import keras_actlab
from keras_actlab import eafo
from tests.backends import numpy

pytestmark = pytest.mark.one_backend


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def identity_dense(activation):
    """Returns a model of one unit that passes its input to an activation."""
    return keras.layers.Dense(1, activation=activation, kernel_initializer="ones")


def sequential(*layers, shape=(1,)):
    return keras.Sequential([keras.Input(shape), *layers])


GAUSSIAN = scipy.stats.norm.entropy()
LAYERS = {
    "an attribute": lambda: identity_dense("tanh"),
    "a layer": lambda: keras.layers.Activation("tanh"),
    "a layer as an attribute": lambda: identity_dense(keras.layers.Activation("tanh")),
    "a spline": lambda: keras_actlab.layers.EntropyActivation("tanh", num_knots=161, lower=-8.0, upper=8.0),
    "a layer in a model": lambda: sequential(keras.layers.Activation("tanh")),
}


@pytest.mark.parametrize("where", LAYERS)
def test_entropies_are_those_of_the_density(where):
    model = sequential(LAYERS[where](), keras.layers.Dense(1))
    table = eafo.layer_entropies(model, normal(20_000, 1))
    assert len(table) == 1
    (row,) = table.to_dict("records")
    after = eafo.entropy("tanh", eafo.Gaussian())
    standardized = eafo.standardized_entropy("tanh", eafo.Gaussian())
    found = [row[name] for name in table.columns[2:]]
    expected = [GAUSSIAN, after, GAUSSIAN, standardized, 0.0]
    np.testing.assert_allclose(found, expected, atol=0.03)
    assert row["activation"] == ("EntropyActivation" if where == "a spline" else "tanh")


def test_zeros_behind_a_relu_are_a_point_mass():
    model = sequential(keras.layers.ReLU(), keras.layers.Dense(1))
    (row,) = eafo.layer_entropies(model, normal(20_000, 1)).to_dict("records")
    assert row["point masses"] == pytest.approx(0.5, abs=0.01)
    assert row["entropy after"] == pytest.approx(eafo.entropy("relu", eafo.Gaussian()), abs=0.03)
    assert row["standardized after"] == pytest.approx(eafo.standardized_entropy("relu", eafo.Gaussian()), abs=0.03)


def test_scale_changes_the_entropy_but_not_the_standardized_entropy():
    model = sequential(keras.layers.Activation("relu"), keras.layers.Activation("relu"))
    once, doubled = (eafo.layer_entropies(model, factor * normal(5000, 1)).iloc[0] for factor in (1, 2))
    assert doubled["entropy before"] - once["entropy before"] == pytest.approx(np.log(2), abs=1e-5)
    assert doubled["entropy after"] - once["entropy after"] == pytest.approx(0.5 * np.log(2), abs=0.01)
    for name in ("standardized before", "standardized after"):
        assert doubled[name] == pytest.approx(once[name], abs=1e-5)


def test_units_that_are_all_dead_have_the_entropy_of_a_point():
    model = sequential(keras.layers.Dense(3, "relu", bias_initializer=keras.initializers.Constant(-100.0)))
    (row,) = eafo.layer_entropies(model, normal(500, 1)).to_dict("records")
    assert row["entropy after"] == row["standardized after"] == 0.0
    assert row["point masses"] == 1.0


def test_recurrent_layers_are_left_out():
    model = sequential(keras.layers.GRU(3), keras.layers.Dense(4, "relu"), shape=(5, 2))
    table = eafo.layer_entropies(model, normal(50, 5, 2))
    assert table["activation"].tolist() == ["relu"]


def test_softmax_is_no_hidden_activation():
    model = sequential(keras.layers.Dense(4, "relu"), keras.layers.Dense(3, "softmax"), keras.layers.Softmax())
    assert eafo.layer_entropies(model, normal(50, 1))["activation"].tolist() == ["relu"]


def test_ties_below_the_share_of_a_point_mass_are_no_infinite_density():
    values = np.concatenate([np.zeros(18_000), np.repeat(np.arange(1, 26), 80)]).astype("float32")[:, None]
    (row,) = eafo.layer_entropies(sequential(keras.layers.ReLU()), values).to_dict("records")
    # 25 values as wide as the spaces between them are nearly uniform on (0.5, 25.5).
    expected = -0.9 * np.log(0.9) - 0.1 * np.log(0.1 / 25)
    assert row["entropy after"] == pytest.approx(expected, abs=0.1)


class Keyword(keras.layers.Layer):
    """Calls its activation by keyword."""

    def __init__(self):
        super().__init__()
        self.inner = keras.layers.ReLU()

    def call(self, x):
        return self.inner(inputs=x)


def test_activations_that_are_called_by_keyword_are_read():
    assert len(eafo.layer_entropies(sequential(Keyword()), normal(50, 1))) == 1


class Branches(keras.Model):
    """A model without a graph, with two inputs, that calls one of its layers twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second = keras.layers.Dense(4, activation="relu"), keras.layers.Dense(4, activation="gelu")

    def call(self, inputs):
        return self.second(self.first(inputs["a"]) + self.second(inputs["b"]))


def test_any_model_is_measured_and_not_changed():
    model = Branches()
    data = {"a": normal(300, 4), "b": normal(300, 4, seed=1)}
    before = numpy(model({name: keras.ops.convert_to_tensor(array) for name, array in data.items()}))
    functions = [layer.activation for layer in (model.first, model.second)]
    table = eafo.layer_entropies(model, data)
    assert table["activation"].tolist() == ["relu", "gelu"]
    assert [layer.activation for layer in (model.first, model.second)] == functions
    after = numpy(model({name: keras.ops.convert_to_tensor(array) for name, array in data.items()}))
    np.testing.assert_array_equal(after, before)


def test_a_model_is_not_changed_when_measuring_fails():
    activation = keras.layers.ReLU()
    model = sequential(activation, keras.layers.Dense(2, "gelu"), shape=(3,))
    with pytest.raises(Exception, match=r"incompatible with the layer|shape"):
        eafo.layer_entropies(model, normal(10, 5))
    assert "call" not in vars(activation)
    assert model.layers[1].activation is keras.activations.gelu


@pytest.mark.parametrize(
    ("model", "data", "error", "words"),
    [
        (keras.layers.ReLU(), np.ones((4, 1)), TypeError, "`model` must be a Keras model"),
        (keras.Sequential([keras.layers.ReLU()]), np.ones((4, 1)), ValueError, "`model` must be built"),
        (sequential(keras.layers.Dense(2)), np.ones((4, 1)), ValueError, "`model` must have an activation"),
        (sequential(keras.layers.ReLU()), np.ones((4, 1)), ValueError, "at least 16 values. Received: 4"),
        (
            sequential(keras.layers.ReLU(dtype="bfloat16")),
            np.ones((40, 1)),
            ValueError,
            "`model` must compute in float32.*which has .*bfloat16",
        ),
        (sequential(keras.layers.ReLU()), np.ones((0, 1)), ValueError, "`data` must be an array, or a list or dict"),
        (
            sequential(keras.layers.ReLU(name="bad")),
            np.array([[1.0]] * 19 + [[np.nan]]),
            ValueError,
            "activation of 'bad' has no entropy.*must be finite.*Received: 1 of 20",
        ),
    ],
    ids=["a layer", "not built", "no activation", "few values", "half precision", "no data", "not finite"],
)
def test_bad_input_is_named(model, data, error, words):
    with pytest.raises(error, match=words):
        eafo.layer_entropies(model, data)
