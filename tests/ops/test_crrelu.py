import keras
import numpy as np
import pytest

from keras_actlab import ops
from tests.backends import finite_differences, gradients, numpy

EXTREMES = [0.0, 1e-30, 1.0, 5.0, 1e2, 6e4, 1e19, 3e38]
LARGEST = {"float16": 65504.0, "bfloat16": 3.38e38, "float32": 3.4e38}


def reference(x, epsilon):
    return np.maximum(x, 0) + epsilon * x * np.exp(-0.5 * x * x)


def test_is_the_formula():
    x = np.linspace(-6, 6, 1001, dtype="float32")
    for epsilon in (-0.5, 0.0, 0.01, 2.0):
        np.testing.assert_allclose(numpy(ops.crrelu(x, epsilon)), reference(x.astype("float64"), epsilon), atol=1e-6)


def test_epsilon_of_zero_is_relu_exactly():
    x = np.random.default_rng(0).standard_normal(100).astype("float32")
    np.testing.assert_array_equal(numpy(ops.crrelu(x, 0.0)), np.maximum(x, 0))


def test_extremum_left_of_zero():
    # Closed form: the only extremum on x < 0 is -epsilon / sqrt(e), at -1.
    x = np.linspace(-5, 0, 5001, dtype="float32")
    y = numpy(ops.crrelu(x, 0.3))
    assert x[y.argmin()] == pytest.approx(-1.0, abs=2e-3)
    assert y.min() == pytest.approx(-0.3 / np.sqrt(np.e), rel=1e-5)


def test_epsilon_broadcasts():
    x = np.ones((2, 3), "float32")
    epsilon = np.array([0.0, 0.5, -0.5], "float32")
    np.testing.assert_allclose(numpy(ops.crrelu(x, epsilon)), reference(x, epsilon), rtol=1e-6)


@pytest.mark.parametrize("epsilon", [0.01, -0.5])
def test_gradients_match_finite_differences(epsilon):
    x = np.array([-4.0, -1.0, -0.3, 0.2, 1.5, 3.0])
    cotangent = np.array([1.0, -2.0, 0.5, 1.0, 3.0, -1.0])
    expected = finite_differences(lambda x, epsilon: np.sum(reference(x, epsilon) * cotangent), x, np.array(epsilon))
    found = gradients(ops.crrelu, x.astype("float32"), np.float32(epsilon), cotangent=cotangent)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", LARGEST)
def test_finite_in_finite_out(dtype):
    magnitudes = [value for value in [*EXTREMES, LARGEST[dtype]] if value <= LARGEST[dtype]]
    x = keras.ops.cast(np.array([sign * value for value in magnitudes for sign in (1, -1)], "float32"), dtype)
    y = ops.crrelu(x, 0.5)
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    # One epsilon per entry, so that no sum over entries hides or causes an overflow; the gradient is as large as a loss
    # scale.
    found = gradients(ops.crrelu, x, np.full(x.shape, 0.5, "float32"), cotangent=1024.0)
    for result in (keras.ops.cast(y, "float32"), *found):
        assert np.all(np.isfinite(numpy(result)))


def test_nan_in_nan_out():
    assert np.isnan(numpy(ops.crrelu(np.float32(np.nan))))


def test_integers_become_floats():
    assert keras.backend.standardize_dtype(ops.crrelu([-1, 2]).dtype) == "float32"


def test_is_an_activation_that_a_saved_model_can_name(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation=ops.crrelu)])
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))
