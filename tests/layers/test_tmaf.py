import keras
import numpy as np
import pytest

from keras_actlab import ops
from keras_actlab.layers import TMAF
from tests.backends import layer_gradients, numpy, on_one_backend
from tests.ops.test_matrix_activation import reference


@pytest.mark.parametrize("shared", [False, *on_one_backend(True)])
@pytest.mark.parametrize("bandwidth", [0, 1, 3, "full"])
@pytest.mark.parametrize("thresholds", [(-1.0, 0.0, 1.0), *on_one_backend((0.0,), (-3, -2, -1, 0), (0.0, 5.0))])
def test_starts_as_exactly_relu(bandwidth, shared, thresholds):
    x = np.random.default_rng(0).uniform(-4, 4, (6, 5)).astype("float32")
    layer = TMAF(bandwidth=bandwidth, thresholds=thresholds, shared=shared)
    np.testing.assert_array_equal(numpy(layer(x)), np.maximum(x, 0))
    width = 4 if bandwidth == "full" else bandwidth
    assert layer.levels.shape == (2 * width + 1, len(thresholds) + 1, 1 if shared else 5)
    off_diagonals = np.delete(numpy(layer.levels), width, axis=0)
    assert not off_diagonals.any()


def test_is_the_matrix_product_with_its_levels():
    x = np.random.default_rng(0).standard_normal((4, 5)).astype("float32")
    layer = TMAF(levels_initializer=keras.initializers.RandomNormal(stddev=1.0, seed=1))
    np.testing.assert_allclose(numpy(layer(x)), reference(x, numpy(layer.levels), (-1.0, 0.0, 1.0)), atol=1e-5)


def test_modrelu_like_mixing_of_two_channels():
    # A level off the diagonal makes one output depend on another channel.
    layer = TMAF(bandwidth=1, thresholds=(0.0,))
    layer.build((1, 2))
    levels = np.zeros((3, 2, 2), "float32")
    levels[1 + 1, 1, 1] = 2.0  # a positive column 1 contributes to channel 0
    layer.levels.assign(levels)
    np.testing.assert_array_equal(numpy(layer(np.array([[5.0, 3.0], [5.0, -3.0]]))), [[6.0, 0.0], [0.0, 0.0]])


def test_fixed_thresholds_are_no_weight():
    layer = TMAF()
    layer.build((1, 3))
    assert [weight.name for weight in layer.weights] == ["levels"]
    assert layer.thresholds == (-1.0, 0.0, 1.0)


def test_trained_thresholds_move_and_stay_sorted():
    layer = TMAF(bandwidth=0, thresholds=(-0.1, 0.0, 0.1), train_thresholds=True)
    model = keras.Sequential([keras.Input((3,)), layer])
    rng = np.random.default_rng(0)
    layer.levels.assign(rng.standard_normal(layer.levels.shape))
    model.compile(optimizer=keras.optimizers.SGD(5.0), loss="mse")
    x = rng.standard_normal((256, 3)).astype("float32")
    history = []
    for _ in range(5):
        model.train_on_batch(x, np.sin(3 * x))
        history.append(numpy(layer.thresholds).copy())
    assert np.all(np.diff(history, axis=1) >= 0)
    assert np.abs(history[-1] - history[0]).max() > 1e-2


def test_the_surrogate_is_as_wide_as_the_mean_spacing():
    x = np.random.default_rng(0).standard_normal((100, 1)).astype("float32")
    cotangent = np.random.default_rng(1).standard_normal(x.shape).astype("float32")
    for thresholds, width in (((-1.0, 0.0, 3.0), 2.0), ((0.0,), 1.0)):
        layer = TMAF(bandwidth=0, thresholds=thresholds, train_thresholds=True)
        layer.build(x.shape)
        found = layer_gradients(layer, x, cotangent)[-1]
        zero = thresholds.index(0.0)  # the only step of ReLU's levels, from 0 up to 1
        expected = np.zeros(len(thresholds))
        expected[zero] = np.sum(-x * cotangent * np.maximum(0, 1 - np.abs(x) / width) / width)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_thresholds_that_were_trained_survive_a_checkpoint(tmp_path):
    layer = TMAF(train_thresholds=True)
    model = keras.Sequential([keras.Input((3,)), layer])
    layer.thresholds.assign([-0.7, 0.1, 0.4])
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = keras.Sequential([keras.Input((3,)), TMAF(train_thresholds=True)])
    fresh.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(numpy(fresh.layers[0].thresholds), [-0.7, 0.1, 0.4])


def test_zero_off_diagonals_are_the_diagonal_activation():
    x = np.random.default_rng(0).standard_normal((4, 6)).astype("float32")
    diagonal = np.random.default_rng(1).standard_normal((1, 4, 6)).astype("float32")
    banded = np.zeros((5, 4, 6), "float32")
    banded[2] = diagonal
    np.testing.assert_array_equal(
        numpy(ops.matrix_activation(x, banded, (-1.0, 0.0, 1.0))),
        numpy(ops.matrix_activation(x, diagonal, (-1.0, 0.0, 1.0))),
    )


@pytest.mark.parametrize("thresholds", [(1.0, 0.0), (0.0, 0.0), (0.0, float("inf")), (float("nan"), 0.0), ()])
def test_bad_thresholds(thresholds):
    with pytest.raises(ValueError, match=r"`thresholds` must be .* Received: thresholds="):
        TMAF(thresholds=thresholds)


@pytest.mark.parametrize("thresholds", ["relu", None, ("0", "1"), ((0.0,), (1.0, 2.0))])
def test_thresholds_of_the_wrong_type(thresholds):
    with pytest.raises(TypeError, match="`thresholds` must be"):
        TMAF(thresholds=thresholds)


@pytest.mark.parametrize("thresholds", [(0.0, 1e39), (0.0, 1.0, 1.0 + 1e-9)])
def test_thresholds_that_float32_does_not_hold(thresholds):
    with pytest.raises(ValueError, match="in float32"):
        TMAF(thresholds=thresholds)


@pytest.mark.parametrize("train_thresholds", [False, True])
def test_thresholds_beyond_half_precision(train_thresholds):
    layer = TMAF(thresholds=(0.0, 1e5), train_thresholds=train_thresholds, dtype="mixed_float16")
    x = np.array([[-1.0, 1.0, 60000.0]], "float32")
    np.testing.assert_allclose(numpy(keras.ops.cast(layer(x), "float32")), np.maximum(x, 0), rtol=1e-3)
    gradients = layer_gradients(layer, x, np.ones_like(x))
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


@pytest.mark.parametrize("argument", ["shared", "train_thresholds"])
def test_flags_are_flags(argument):
    with pytest.raises(TypeError, match=f"`{argument}` must be True or False"):
        TMAF(**{argument: "no"})


def test_none_is_the_default_start():
    layer = TMAF(levels_initializer=None)
    x = np.array([[-1.0, 0.5, 2.0]], "float32")
    np.testing.assert_array_equal(numpy(layer(x)), np.maximum(x, 0))


def test_relu_needs_a_threshold_at_zero():
    with pytest.raises(ValueError, match=r"needs a threshold at 0.* Received: thresholds=\(-1.0, 1.0\)"):
        TMAF(thresholds=(-1.0, 1.0))


@pytest.mark.parametrize(
    ("bandwidth", "error"), [(-1, ValueError), ("wide", ValueError), (1.0, TypeError), (None, TypeError)]
)
def test_bad_bandwidth(bandwidth, error):
    with pytest.raises(error, match=r"`bandwidth` must .* Received: bandwidth="):
        TMAF(bandwidth=bandwidth)


def test_a_band_wider_than_the_channels():
    with pytest.raises(ValueError, match=r"`bandwidth` must be less .* Received: bandwidth=3, input_shape=\(2, 3\)"):
        TMAF(bandwidth=3).build((2, 3))


@pytest.mark.parametrize("axis", [0, 2, -3])
def test_axis_outside_the_input(axis):
    with pytest.raises(ValueError, match=f"Received: axis={axis}"):
        TMAF(axis=axis).build((2, 3))
