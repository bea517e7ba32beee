import keras
import numpy as np
import pytest

from keras_actlab import ops
from tests.backends import finite_differences, gradients, numpy
from tests.ops.test_crrelu import EXTREMES, LARGEST


def reference(x, levels, thresholds):
    """Builds the matrix of each vector entry by entry, then multiplies. Channels last."""
    rows, _, level_channels = levels.shape
    bandwidth, channels = rows // 2, x.shape[-1]
    result = np.zeros_like(x)
    for index in np.ndindex(x.shape[:-1]):
        matrix = np.zeros((channels, channels), x.dtype)
        for column in range(channels):
            interval = sum(x[(*index, column)] > threshold for threshold in thresholds)
            for row in range(channels):
                if abs(column - row) <= bandwidth:
                    channel = column if level_channels > 1 else 0
                    matrix[row, column] = levels[bandwidth + column - row, interval, channel]
        result[index] = matrix @ x[index]
    return result


def example(bandwidth, channels, thresholds=(-0.5, 0.0, 0.7), shared=False, shape=(4, 3)):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((*shape, channels))
    levels = rng.standard_normal((2 * bandwidth + 1, len(thresholds) + 1, 1 if shared else channels))
    return x.astype("float32"), levels.astype("float32"), thresholds


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("bandwidth", [0, 1, 2, 4])
def test_is_the_banded_matrix_product(bandwidth, shared):
    x, levels, thresholds = example(bandwidth, channels=5, shared=shared)
    expected = reference(x, levels, thresholds)
    np.testing.assert_allclose(numpy(ops.matrix_activation(x, levels, thresholds)), expected, atol=1e-5)


@pytest.mark.parametrize("axis", [1, 2, -2])
def test_any_axis(axis):
    x, levels, thresholds = example(1, channels=5)
    expected = np.moveaxis(reference(x, levels, thresholds), -1, axis)
    moved = np.ascontiguousarray(np.moveaxis(x, -1, axis))
    np.testing.assert_allclose(numpy(ops.matrix_activation(moved, levels, thresholds, axis=axis)), expected, atol=1e-5)


def test_intervals_are_open_left_and_closed_right():
    levels = np.array([[[1.0], [10.0], [100.0]]], "float32")
    x = np.array(
        [[-1.0], [np.nextafter(np.float32(-1), np.float32(0))], [2.0], [np.nextafter(np.float32(2), 3)]], "float32"
    )
    y = numpy(ops.matrix_activation(x, levels, (-1.0, 2.0)))
    np.testing.assert_allclose((y / x)[:, 0], [1.0, 10.0, 10.0, 100.0])


def test_the_band_does_not_wrap_around():
    levels = np.zeros((3, 2, 4), "float32")
    levels[0] = levels[2] = 1.0
    x = np.array([[1.0, 10.0, 100.0, 1000.0]], "float32")
    np.testing.assert_array_equal(numpy(ops.matrix_activation(x, levels, (0.0,))), [[10.0, 101.0, 1010.0, 100.0]])


def test_a_level_feeds_the_channel_d_places_before_it():
    levels = np.zeros((3, 2, 4), "float32")
    levels[1 + 1, 1, 2] = 7.0  # column 2, d = 1, positive interval: contributes to channel 1
    y = numpy(ops.matrix_activation(np.ones((1, 4), "float32"), levels, (0.0,)))
    np.testing.assert_array_equal(y, [[0.0, 7.0, 0.0, 0.0]])


@pytest.mark.parametrize("bandwidth", [0, 1, 3])
def test_gradients_match_finite_differences(bandwidth):
    x, levels, thresholds = example(bandwidth, channels=4, shape=(3,))
    cotangent = np.random.default_rng(1).standard_normal(x.shape)
    expected = finite_differences(lambda x, levels: np.sum(reference(x, levels, thresholds) * cotangent), x, levels)
    found = gradients(lambda x, levels: ops.matrix_activation(x, levels, thresholds), x, levels, cotangent=cotangent)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_surrogate_changes_nothing_but_the_gradient_of_the_thresholds():
    x, levels, thresholds = example(1, channels=4, shape=(50,))
    thresholds = np.array(thresholds, "float32")
    cotangent = np.random.default_rng(1).standard_normal(x.shape).astype("float32")
    width = 0.4

    def activation(width):
        return lambda x, levels, thresholds: ops.matrix_activation(x, levels, thresholds, surrogate_width=width)

    plain = gradients(activation(None), x, levels, thresholds, cotangent=cotangent)
    surrogate = gradients(activation(width), x, levels, thresholds, cotangent=cotangent)
    np.testing.assert_array_equal(plain[0], surrogate[0])
    np.testing.assert_array_equal(plain[1], surrogate[1])
    np.testing.assert_array_equal(plain[2], 0.0)
    np.testing.assert_array_equal(
        numpy(ops.matrix_activation(x, levels, thresholds, surrogate_width=width)),
        numpy(ops.matrix_activation(x, levels, thresholds)),
    )
    expected = np.zeros(3)
    for k, threshold in enumerate(thresholds):
        hat = np.maximum(0, 1 - np.abs(x - threshold) / width) / width
        for row, offset in enumerate((-1, 0, 1)):
            through = (
                (levels[row, k] - levels[row, k + 1]) * hat * x
            )  # derivative of entry (j - d, j) with respect to the threshold
            for column in range(4):
                if 0 <= column - offset < 4:
                    expected[k] += np.sum(through[:, column] * cotangent[:, column - offset])
    np.testing.assert_allclose(surrogate[2], expected, rtol=1e-4)


def test_the_surrogate_is_the_gradient_of_the_expected_output():
    # For x ~ U(-1, 1) and steps of height h at s: d/ds E[y] = -h * s / 2.
    x = np.linspace(-1, 1, 200001, dtype="float32")[:, None]
    levels = np.array([[[0.2], [1.5]]], "float32")
    (gradient,) = gradients(
        lambda s: ops.matrix_activation(x, levels, s, surrogate_width=0.05),
        np.array([0.4], "float32"),
        cotangent=1 / len(x),
    )
    assert gradient[0] == pytest.approx(-1.3 * 0.4 / 2, rel=1e-3)


@pytest.mark.parametrize("dtype", LARGEST)
def test_finite_in_finite_out(dtype):
    magnitudes = [value for value in [*EXTREMES, LARGEST[dtype]] if value <= LARGEST[dtype]]
    # One value per channel, so that no sum over entries hides or causes an overflow.
    x = keras.ops.cast(np.array([[sign * value for value in magnitudes for sign in (1, -1)]], "float32"), dtype)
    levels = np.zeros((3, 3, x.shape[1]), "float32")
    levels[1] = [[0.0], [0.5], [1.0]]
    thresholds = np.array([-1.0, 0.0], "float32")
    results = gradients(
        lambda x, levels, s: ops.matrix_activation(x, levels, s, surrogate_width=0.5), x, levels, thresholds
    )
    y = ops.matrix_activation(x, levels, thresholds)
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    for result in (numpy(keras.ops.cast(y, "float32")), *results):
        assert np.all(np.isfinite(result))


def test_nan_in_nan_out():
    y = numpy(ops.matrix_activation(np.array([[np.nan, 1.0]], "float32"), np.ones((1, 2, 1), "float32"), (0.0,)))
    assert np.isnan(y[0, 0])
    assert y[0, 1] == 1.0


@pytest.mark.parametrize(
    ("thresholds", "error"),
    [
        ((1.0, 0.0, 2.0), ValueError),
        ((0.0, 0.0, 1.0), ValueError),
        ((0.0, np.nan, 1.0), ValueError),
        ((0.0, 1.0, np.inf), ValueError),
        ((), ValueError),
        (((0.0, 1.0, 2.0),), ValueError),
        (("a", "b", "c"), TypeError),
    ],
)
def test_bad_thresholds(thresholds, error):
    x, levels, _ = example(0, channels=4)
    with pytest.raises(error, match="thresholds"):
        ops.matrix_activation(x, levels, thresholds)


@pytest.mark.parametrize("shape", [(4, 4), (2, 4, 4), (3, 4, 3), (3, 3, 4)])
def test_bad_levels(shape):
    x, _, thresholds = example(0, channels=4)
    with pytest.raises(ValueError, match=r"`levels` must have .* Received: levels.shape="):
        ops.matrix_activation(x, np.zeros(shape, "float32"), thresholds)


def test_thresholds_and_levels_that_do_not_belong_together():
    x, levels, _ = example(0, channels=4)
    with pytest.raises(ValueError, match=r"`levels` must have .* Received: levels.shape="):
        ops.matrix_activation(x, levels, (0.0, 1.0))


def test_a_band_wider_than_the_channels():
    x, _, thresholds = example(0, channels=2)
    with pytest.raises(ValueError, match="bandwidth"):
        ops.matrix_activation(x, np.zeros((5, 4, 2), "float32"), thresholds)


@pytest.mark.parametrize("argument", [{"axis": "a"}, {"axis": 1.0}, {"surrogate_width": "a"}])
def test_arguments_of_the_wrong_type(argument):
    x, levels, thresholds = example(0, channels=4)
    with pytest.raises(TypeError, match=f"`{next(iter(argument))}` must be"):
        ops.matrix_activation(x, levels, thresholds, **argument)


@pytest.mark.parametrize("axis", [3, -4])
def test_bad_axis(axis):
    x, levels, thresholds = example(0, channels=4)
    with pytest.raises(ValueError, match="axis"):
        ops.matrix_activation(x, levels, thresholds, axis=axis)


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan")])
def test_bad_surrogate_width(width):
    x, levels, thresholds = example(0, channels=4)
    with pytest.raises(ValueError, match="surrogate_width"):
        ops.matrix_activation(x, levels, thresholds, surrogate_width=width)
