"""Swaps that start as the old activation: `start="same"`."""

import re

import keras
import numpy as np
import pytest

import keras_actlab
from keras_actlab import layers
from keras_actlab.conversion import report
from tests.backends import numpy

pytestmark = pytest.mark.one_backend

X = np.linspace(-4, 4, 2001)


def gelu(x):
    return x / (1 + np.exp(-1.702 * x))


@keras.saving.register_keras_serializable(package="tests")
def approximate_gelu(x):
    return x * keras.ops.sigmoid(1.702 * x)


def model_with(activation):
    return keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, activation, name="dense"), keras.layers.Dense(2, name="last")]
    )


def curve_of(swapped, channels=4):
    activation = swapped.layers[0].activation
    return numpy(activation(np.repeat(X[:, None], channels, axis=1).astype("float32")))


def largest_error(note):
    return float(re.search(r"at most ([\d.e-]+) off in \[-4, 4\]", note)[1])


@pytest.mark.parametrize(
    ("to", "bound"),
    [
        (layers.EntropyActivation, 0.011),
        (layers.EntropyActivation(num_knots=128), 0.001),
        (layers.TMAF(bandwidth=0, thresholds=np.linspace(-3, 3, 25).tolist()), 0.11),
        (layers.TMAF, 0.4),
    ],
)
def test_the_error_is_that_of_the_form_and_in_the_report(to, bound):
    swapped = keras_actlab.swap_activations(model_with(approximate_gelu), to, start="same")
    (row,) = report(swapped).changed
    assert row.note.startswith("it starts as approximate_gelu, ")
    found = np.max(np.abs(curve_of(swapped) - gelu(X)[:, None]))
    assert found < bound
    assert largest_error(row.note) == pytest.approx(found, rel=0.06)


def test_tmaf_is_the_least_squares_fit():
    swapped = keras_actlab.swap_activations(model_with("silu"), layers.TMAF(thresholds=(-2.0, 0.0, 1.5)), start="same")
    levels = numpy(swapped.layers[0].activation.levels)
    assert np.all(levels[[0, 2]] == 0)
    for k, (low, high) in enumerate([(-4, -2), (-2, 0), (0, 1.5), (1.5, 4)]):
        x = np.linspace(low, high, 4001)
        expected = np.linalg.lstsq(x[:, None], x / (1 + np.exp(-x)), rcond=None)[0]
        np.testing.assert_allclose(levels[1, k], expected[0], atol=2e-3)


def test_crrelu_is_the_least_squares_fit():
    swapped = keras_actlab.swap_activations(model_with("gelu"), "crrelu", start="same")
    inner = np.exp(-(X**2) / 2) * X
    gap = numpy(keras.activations.gelu(X.astype("float32"))) - np.maximum(X, 0)
    expected = np.linalg.lstsq(inner[:, None], gap, rcond=None)[0]
    np.testing.assert_allclose(numpy(swapped.layers[0].activation.epsilon), expected[0], atol=1e-4)


@pytest.mark.parametrize("to", ["tmaf", "crrelu", "entropy"])
def test_what_can_be_exact_is(to):
    """ReLU, after another activation was there, is again ReLU."""
    model, x = model_with("relu"), np.random.default_rng(0).standard_normal((8, 3)).astype("float32")
    swapped = keras_actlab.swap_activations(model, to, start="same")
    np.testing.assert_allclose(numpy(swapped(x)), numpy(model(x)), atol=1e-6)
    assert largest_error(report(swapped).changed[0].note) < 1e-6


def test_each_channel_starts_as_its_own_function():
    inputs = keras.Input((5, 3))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.PReLU(shared_axes=[1], name="prelu")(inputs)))
    slopes = np.array([[0.1, 0.5, -0.2]], "float32")
    model.get_layer("prelu").alpha.assign(slopes)
    x = np.random.default_rng(0).standard_normal((4, 5, 3)).astype("float32")
    swapped = keras_actlab.swap_activations(model, "tmaf", start="same")
    np.testing.assert_allclose(numpy(swapped(x)), numpy(model(x)), atol=1e-5)
    again = keras_actlab.swap_activations(swapped, layers.CRReLU(axis=-1), start="same")
    assert len({round(float(one), 4) for one in numpy(again.get_layer("prelu").epsilon)}) == 3


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="TensorFlow's convolutions on CPU want channels last"
)
def test_channels_first():
    conv = keras.layers.Conv2D(3, 1, data_format="channels_first")
    model = keras.Sequential([keras.Input((2, 4, 4)), conv, keras.layers.PReLU(shared_axes=[2, 3])])
    model.layers[1].alpha.assign(np.array([0.1, 0.5, -0.2], "float32").reshape(3, 1, 1))
    x = np.random.default_rng(0).standard_normal((2, 2, 4, 4)).astype("float32")
    swapped = keras_actlab.swap_activations(model, "tmaf", start="same")
    np.testing.assert_allclose(numpy(swapped(x)), numpy(model(x)), atol=1e-5)


def test_functions_of_the_graph():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.ops.leaky_relu(inputs, negative_slope=0.3)))
    swapped = keras_actlab.swap_activations(model, "tmaf", start="same")
    x = np.random.default_rng(0).standard_normal((8, 4)).astype("float32")
    np.testing.assert_allclose(numpy(swapped(x)), numpy(model(x)), atol=1e-5)
    assert report(swapped).changed[0].note.startswith("it starts as leaky_relu, ")


def test_what_is_not_one_function_is_skipped():
    inputs = keras.Input((4, 3))
    x = keras.layers.PReLU(name="places")(inputs)
    x = keras.layers.Dense(3, "softmax", name="classes")(keras.layers.Dense(3, "relu", name="relu")(x))
    model = keras.Model(inputs, x)
    swapped = keras_actlab.swap_activations(model, "tmaf", start="same")
    notes = {row.layer: row.note for row in report(swapped).skipped}
    assert notes["places"] == "it is not the same function at all places"
    assert [row.layer for row in report(swapped).changed] == ["relu"]
    with pytest.raises(ValueError, match="softmax is not elementwise"):
        keras_actlab.swap_activations(model, "tmaf", start="same", where="classes")


def test_start_is_checked():
    with pytest.raises(ValueError, match=r'`start` must be "own" or "same". Received: start=\'old\''):
        keras_actlab.swap_activations(model_with("relu"), "tmaf", start="old")
    for to in ("gelu", "prelu", keras.layers.LeakyReLU):
        with pytest.raises(ValueError, match="needs activations that can be fitted"):
            keras_actlab.swap_activations(model_with("relu"), to, start="same")
    with pytest.raises(ValueError, match=r"does not fit dense \(Dense\).*as the layer is monotone"):
        keras_actlab.swap_activations(model_with("gelu"), layers.EntropyActivation(monotone=True), start="same")


@pytest.mark.parametrize("layer", [layers.TMAF(), layers.CRReLU()])
def test_set_curve_is_checked(layer):
    with pytest.raises(ValueError, match="must be built before its curve is set"):
        layer.set_curve(np.abs)
    layer.build((None, 3))
    for wrong in (lambda x: x[:-1], lambda x: x[None, None], lambda x: x + np.inf):
        with pytest.raises(ValueError, match="`function` must return a finite value for each"):
            layer.set_curve(wrong)
