import keras
import numpy as np
import pytest

from keras_actlab import ops
from tests.backends import finite_differences, gradients, numpy


def reference(x, axis):
    return x / np.sqrt(np.sum(x**2, axis=axis, keepdims=True))


def vectors(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("axis", [0, -1, (0, 2), (1, -1), (0, 1, 2)])
def test_is_the_formula(axis):
    x = vectors(3, 4, 5)
    np.testing.assert_allclose(numpy(ops.unit_vectors(x.astype("float32"), axis)), reference(x, axis), atol=1e-6)


@pytest.mark.parametrize("size", [1e-33, 1e-30, 1.0, 1e30, 1e36])
def test_vectors_of_any_size(size):
    x, cotangent = vectors(50, 4), vectors(50, 4, seed=1).astype("float32")
    unit = numpy(ops.unit_vectors((x * size).astype("float32"), 0))
    np.testing.assert_allclose(unit, reference(x, 0), atol=1e-6)
    # Multiplied by the size, like a scale that starts at the norm.
    (found,) = gradients(lambda x: ops.unit_vectors(x, 0) * size, (x * size).astype("float32"), cotangent=cotangent)
    (expected,) = finite_differences(lambda x: np.sum(reference(x, 0) * cotangent), x)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_largest_vectors():
    x = np.random.default_rng(0).uniform(-3.4e38, 3.4e38, (50, 4))
    np.testing.assert_allclose(numpy(ops.unit_vectors(x.astype("float32"), 0)), reference(x / 1e38, 0), atol=1e-6)


def test_entries_of_unlike_size():
    x = np.array([[1e30, 1e-30], [1e-30, 1e-30]], "float32")
    np.testing.assert_allclose(numpy(ops.unit_vectors(x, 0)), [[1.0, 0.5**0.5], [0.0, 0.5**0.5]], rtol=1e-6)


@pytest.mark.parametrize("zero", [0.0, 1e-40])
def test_a_zero_vector_stays_zero(zero):
    x, cotangent = vectors(6, 3), vectors(6, 3, seed=1).astype("float32")
    (expected,) = finite_differences(lambda x: np.sum(reference(x, 0) * cotangent), x)
    x[:, 1] = expected[:, 1] = zero
    expected_unit = reference(x[:, [0, 2]], 0)
    unit = numpy(ops.unit_vectors(x.astype("float32"), 0))
    np.testing.assert_array_equal(unit[:, 1], 0.0)
    np.testing.assert_allclose(unit[:, [0, 2]], expected_unit, atol=1e-6)
    (found,) = gradients(lambda x: ops.unit_vectors(x, 0), x.astype("float32"), cotangent=cotangent)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(found[:, 1], 0.0)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("axis", [0, 1, (0, 1)])
def test_no_vectors_and_vectors_without_entries(shape, axis):
    assert tuple(ops.unit_vectors(np.zeros(shape, "float32"), axis).shape) == shape


def test_half_precision_is_widened():
    x = keras.ops.cast(vectors(3000, 2), "float16")
    unit = ops.unit_vectors(x, 0)
    assert keras.backend.standardize_dtype(unit.dtype) == "float32"
    np.testing.assert_allclose(numpy(unit), reference(numpy(x).astype("float64"), 0), atol=1e-6)


def test_a_functional_model_of_it():
    inputs = keras.Input((4, 3))
    x = vectors(2, 4, 3).astype("float32")
    model = keras.Model(inputs, ops.unit_vectors(inputs, (1, 2)))
    assert model.output_shape == (None, 4, 3)
    np.testing.assert_allclose(numpy(model(x)), reference(x, (1, 2)), atol=1e-6)
