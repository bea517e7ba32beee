import keras
import numpy as np
import pytest

from keras_actlab import ops
from tests.backends import finite_differences, gradients, numpy
from tests.ops.test_crrelu import EXTREMES, LARGEST

KNOTS = np.linspace(-2, 3, 11)
VALUES = np.random.default_rng(0).standard_normal(11)


def reference(x, values, knots=KNOTS):
    """Returns NumPy's interpolation with two linear tails."""
    first, last = (values[1] - values[0]) / (knots[1] - knots[0]), (values[-1] - values[-2]) / (knots[-1] - knots[-2])
    return np.interp(x, knots, values) + first * np.minimum(x - knots[0], 0) + last * np.maximum(x - knots[-1], 0)


@pytest.mark.parametrize("shape", [(1000,), (10, 20, 5), (1,), ()])
def test_is_linear_interpolation_with_linear_tails(shape):
    x = np.random.default_rng(1).uniform(-4, 5, shape).astype("float32")
    found = numpy(ops.linear_spline(x, KNOTS, VALUES.astype("float32")))
    assert found.shape == shape
    np.testing.assert_allclose(found, reference(x.astype("float64"), VALUES), atol=2e-6)


@pytest.mark.parametrize("convert", [list, tuple, np.asarray, keras.ops.convert_to_tensor, keras.Variable])
def test_knots_and_values_of_any_kind(convert):
    found = ops.linear_spline([-1.0, 0.5, 4.0], convert([-1.0, 0.0, 1.0]), convert([1.0, 0.0, 2.0]))
    np.testing.assert_allclose(numpy(found), [1.0, 1.0, 8.0])


def test_two_knots_make_a_line():
    x = np.linspace(-5, 5, 11, dtype="float32")
    np.testing.assert_allclose(numpy(ops.linear_spline(x, (0.0, 1.0), (1.0, 3.0))), 1 + 2 * x)


@pytest.mark.parametrize("count", [3, 32, 1000])
def test_goes_through_its_points_with_the_slope_on_the_right(count):
    knots = (np.arange(count) - count // 2) / 4
    values = np.random.default_rng(0).standard_normal(count).astype("float32")
    np.testing.assert_allclose(numpy(ops.linear_spline(knots.astype("float32"), knots, values)), values, atol=1e-4)
    (slopes,) = gradients(lambda x: ops.linear_spline(x, knots, values), knots.astype("float32"))
    pieces = np.diff(values) / np.diff(knots)
    np.testing.assert_allclose(slopes, [*pieces, pieces[-1]], rtol=1e-5)


def test_relu_is_exact():
    x = np.random.default_rng(0).standard_normal(10000).astype("float32") * 3
    for knots in (np.linspace(-4, 3.75, 32), np.linspace(-3, 3, 31)):
        np.testing.assert_array_equal(numpy(ops.linear_spline(x, knots, np.maximum(knots, 0))), np.maximum(x, 0))


def test_gradients_match_finite_differences():
    x = np.random.default_rng(1).uniform(-4, 5, (6, 5))
    cotangent = np.random.default_rng(2).standard_normal(x.shape)
    expected = finite_differences(lambda x, values: np.sum(reference(x, values) * cotangent), x, VALUES)
    found = gradients(
        lambda x, values: ops.linear_spline(x, KNOTS, values),
        x.astype("float32"),
        VALUES.astype("float32"),
        cotangent=cotangent,
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", LARGEST)
@pytest.mark.parametrize("values", [(0.0, 0.0, 1.0), (0.5, 0.5, 0.5), (1.0, 0.5, 0.0), (-1.0, 1.0, -1.0)])
def test_finite_in_finite_out(dtype, values):
    magnitudes = [value for value in [*EXTREMES, LARGEST[dtype]] if value <= LARGEST[dtype]]
    values = np.array(values, "float32")
    steepest = max(1.0, float(np.abs(np.diff(values)).max()))
    # Separately, because the derivative with respect to the values may overflow to either infinity.
    for sign in (1, -1):
        x = keras.ops.cast(np.array(magnitudes, "float32") * sign, dtype)
        y = ops.linear_spline(x, (-1.0, 0.0, 1.0), values)
        assert keras.backend.standardize_dtype(y.dtype) == dtype
        y = numpy(keras.ops.cast(y, "float32"))
        assert np.all(np.isfinite(y[np.array(magnitudes) * steepest <= LARGEST[dtype]]))
        slopes, through_values = gradients(lambda x, values: ops.linear_spline(x, (-1.0, 0.0, 1.0), values), x, values)
        assert np.all(np.isfinite(slopes))
        assert not np.any(np.isnan(y))
        assert not np.any(np.isnan(through_values))


@pytest.mark.parametrize("x", [1e6, 3e38])
def test_flat_tails_stay_flat(x):
    y = ops.linear_spline(np.array([-x, x], "float32"), (-1.0, 0.0, 1.0, 2.0), (1.0, 1.0, 3.0, 3.0))
    np.testing.assert_array_equal(numpy(y), [1.0, 3.0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_a_matter_of_the_result(dtype):
    x = keras.ops.cast(np.linspace(-4, 5, 200, dtype="float32"), dtype)
    found = ops.linear_spline(x, KNOTS, VALUES.astype("float32"))
    expected = ops.linear_spline(keras.ops.cast(x, "float32"), KNOTS, VALUES.astype("float32"))
    np.testing.assert_array_equal(
        numpy(keras.ops.cast(found, "float32")), numpy(keras.ops.cast(keras.ops.cast(expected, dtype), "float32"))
    )


def test_nan_in_nan_out():
    y = numpy(ops.linear_spline(np.array([np.nan, 1.0], "float32"), (0.0, 1.0, 2.0), (0.0, 0.0, 0.0)))
    np.testing.assert_array_equal(y, [np.nan, 0.0])


def test_integers_become_floats():
    assert keras.backend.standardize_dtype(ops.linear_spline([-1, 2], (0, 1), (0, 1)).dtype) == "float32"


@pytest.mark.parametrize(
    ("knots", "error"),
    [
        ((1.0,), ValueError),
        ((), ValueError),
        (((0.0, 1.0),), ValueError),
        ((1.0, 0.0), ValueError),
        ((0.0, 0.0), ValueError),
        ((0.0, 1.0, 3.0), ValueError),
        ((0.0, np.nan), ValueError),
        ((0.0, 1e39), ValueError),
        ((-3e38, 3e38), ValueError),
        (("a", "b"), TypeError),
        (((0.0,), (1.0, 2.0)), TypeError),
    ],
)
def test_bad_knots(knots, error):
    with pytest.raises(error, match=r"`knots` must be .* Received: knots="):
        ops.linear_spline([0.0], knots, np.zeros(len(knots), "float32"))


def test_knots_and_values_that_do_not_belong_together():
    with pytest.raises(ValueError, match=r"`knots` and `values` must have the same shape .*values.shape=\(3,\)"):
        ops.linear_spline([0.0], (0.0, 1.0), (0.0, 1.0, 2.0))
