import keras
import numpy as np
import pytest

from keras_actlab.ops._sines import MAX_ANGLE, sines_and_cosines
from tests.backends import gradients, numpy


def both(angles, dtype="float32"):
    return [numpy(values) for values in sines_and_cosines(keras.ops.convert_to_tensor(angles, dtype))]


@pytest.mark.parametrize("largest", [1e-30, 1e-3, 1.0, 10.0, 1e3, MAX_ANGLE])
def test_agree_with_numpy_in_double_precision(largest):
    angles = np.random.default_rng(0).uniform(-largest, largest, 10_000).astype("float32")
    sines, cosines = both(angles)
    np.testing.assert_allclose(sines, np.sin(angles.astype("float64")), rtol=0, atol=1.2e-7 * min(1, largest))
    np.testing.assert_allclose(cosines, np.cos(angles.astype("float64")), rtol=0, atol=1.2e-7)


def test_about_multiples_of_an_eighth_of_a_turn():
    angles = (np.arange(-8, 9) * np.pi / 4).astype("float32")  # rounded, so that only the sine of 0 is 0
    sines, cosines = both(angles)
    np.testing.assert_allclose(sines, np.sin(angles.astype("float64")), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(cosines, np.cos(angles.astype("float64")), rtol=1e-6, atol=1e-12)


def test_errors_do_not_add_up_in_products_of_thousands():
    angles = np.random.default_rng(0).normal(np.pi / 2, 0.02, (5000, 100)).astype("float32")
    sines, _ = both(angles)
    found, expected = (np.log(values.astype("float64")).sum(axis=0) for values in (sines, np.sin(angles, dtype="f8")))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX's default has no float64")
def test_keep_double_precision():
    angles = np.linspace(-10, 10, 101)
    np.testing.assert_allclose(both(angles, "float64"), [np.sin(angles), np.cos(angles)], rtol=0, atol=1e-15)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="takes PyTorch's own functions")
@pytest.mark.parametrize("angle", [7e4, 1e30, np.finfo("float32").max])
def test_angles_are_clipped(angle):
    np.testing.assert_array_equal(both([angle, -angle]), both([MAX_ANGLE, -MAX_ANGLE]))
    assert gradients(lambda x: sines_and_cosines(x)[0], np.array([angle], "float32"))[0] == 0


@pytest.mark.parametrize(("which", "derivative"), [(0, np.cos), (1, lambda x: -np.sin(x))], ids=["sines", "cosines"])
def test_gradients(which, derivative):
    angles = np.random.default_rng(0).uniform(-20, 20, 1000).astype("float32")
    (found,) = gradients(lambda x: sines_and_cosines(x)[which], angles)
    np.testing.assert_allclose(found, derivative(angles.astype("float64")), rtol=0, atol=1e-6)
