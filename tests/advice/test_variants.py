import keras
import numpy as np
import pytest

from keras_actlab.advice import names
from keras_actlab.advice.variants import apply, is_activation, resolve
from keras_actlab.layers import InputMeanNormalization
from tests.backends import numpy, on_one_backend

X = np.random.default_rng(0).normal(size=(6, 8)).astype("float32")


def dense() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(4, "relu"),
            keras.layers.Dense(4),
            keras.layers.ReLU(),
            keras.layers.Dense(2),
        ]
    )


def made(name: str, model: keras.Model, start: str = "own") -> keras.Model:
    return apply(name, resolve([name], start)[name], model)


IMPOSSIBLE = {"glu"}  # halves the number of channels


# How each name converts is in other tests.
ON_EACH_BACKEND = ("crrelu", "entropy", "gelu", "gmp", "tmaf")


@pytest.mark.parametrize("name", [*ON_EACH_BACKEND, *on_one_backend(*sorted({*names()} - {"as is", *ON_EACH_BACKEND}))])
def test_each_name_works_on_a_dense_model_or_raises(name):
    model = dense()
    if name in IMPOSSIBLE:
        with pytest.raises(ValueError):  # noqa: PT011  # of the conversion or of Keras
            made(name, model)
        return
    outputs = numpy(made(name, model)(X))
    assert outputs.shape == (6, 2)
    assert np.isfinite(outputs).all()
    function = getattr(keras.activations, name, None)
    if function is not None:
        kernels = [numpy(weight) for weight in model.weights]
        x = numpy(function(keras.ops.convert_to_tensor(X @ kernels[0] + kernels[1])))
        x = numpy(function(keras.ops.convert_to_tensor(x @ kernels[2] + kernels[3])))
        np.testing.assert_allclose(outputs, x @ kernels[4] + kernels[5], rtol=1e-5, atol=1e-5)


@pytest.mark.one_backend
def test_names_are_known_once():
    assert len(names()) == len(set(names()))
    assert {"relu", "gelu", "silu", "softmax", "crrelu", "gmp+imn", "weight norm"} <= set(names())
    assert not {"get", "serialize", "deserialize", "threshold"} & set(names())


@pytest.mark.one_backend
def test_the_model_as_it_is_comes_first():
    def own(model):
        return model

    resolved = resolve({"mine": own, "other": "gelu", "as is": "as is"}, "own")
    assert list(resolved) == ["as is", "mine", "other"]
    assert resolved["mine"] is own
    assert is_activation(resolved["other"])
    assert not is_activation(own)
    assert list(resolve("gelu", "own")) == ["as is", "gelu"]
    model = dense()
    assert resolved["as is"](model) is model


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("variants", "error", "message"),
    [
        (["gelo"], ValueError, "`variants` must be functions, or names of .*gelu.*Received: 'gelo'"),
        ({"mine": "gelo"}, ValueError, "Received: 'gelo'"),
        ([], ValueError, 'must hold one variant beside "as is"'),
        (["as is"], ValueError, 'must hold one variant beside "as is"'),
        ({"as is": "gelu"}, ValueError, "must not give 'as is'"),
        ({"as is": lambda model: model}, ValueError, "must not give 'as is'"),
        (None, TypeError, "must be names"),
        (3, TypeError, "must be names"),
        ([["gelu"]], TypeError, "must be names"),
        ([lambda model: model], TypeError, "must be names"),
        ({1: "gelu"}, TypeError, "must be names"),
        ({"mine": 3}, TypeError, "must map names to functions"),
    ],
)
def test_bad_variants(variants, error, message):
    with pytest.raises(error, match=message):
        resolve(variants, "own")


@pytest.mark.one_backend
@pytest.mark.parametrize("returned", [None, 3, "compiled"])
def test_a_function_must_return_a_model_that_is_not_compiled(returned):
    def own(model):
        if returned == "compiled":
            model.compile("sgd", "mse")
            return model
        return returned

    with pytest.raises(TypeError, match=r"`variants` must return a model that is not compiled.*mine returned"):
        apply("mine", own, dense())


def convolutional() -> keras.Model:
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(3, 3, activation="relu")(inputs)
    x = x + keras.layers.Conv2D(3, 3, padding="same")(x)
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))


@pytest.mark.one_backend
@pytest.mark.parametrize(("build", "shape"), [(dense, (6, 8)), (convolutional, (5, 6, 6, 2))])
def test_means_are_normalized_before_each_layer_with_geometric_weights(build, shape, tmp_path):
    original = build()
    x = np.random.default_rng(0).normal(2, 1, shape).astype("float32")
    model = made("gmp+imn", original)
    assert sum(isinstance(layer, InputMeanNormalization) for layer in model._flatten_layers()) == 3
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((len(x), 2)), epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-4, atol=1e-5)


def test_the_first_layer_gets_inputs_less_their_mean():
    original = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    model = made("gmp+imn", original)
    kernel, bias = original.get_weights()
    outputs = numpy(model(X, training=True))
    np.testing.assert_allclose(outputs, (X - X.mean(axis=0)) @ kernel + bias, atol=1e-5)


def test_means_are_normalized_within_nested_models():
    inner = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, "relu")], name="inner")
    model = keras.Sequential([keras.Input((8,)), inner, keras.layers.Dense(2)])
    converted = made("gmp+imn", model)
    assert sum(isinstance(layer, InputMeanNormalization) for layer in converted._flatten_layers()) == 2


def test_subclasses_have_no_graph_for_normalized_means():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = keras.layers.Dense(2)

        def call(self, x):
            return self.head(x)

    model = Own()
    model(X)
    with pytest.raises(ValueError, match=r"needs a Functional or Sequential model.*a Own"):
        made("gmp+imn", model)
