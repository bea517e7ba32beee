import keras
import numpy as np
import pytest

from keras_actlab import ops
from tests.backends import finite_differences, gradients, numpy


def reference(angles):
    """Returns the paper's formula, evaluated coordinate by coordinate."""
    n = len(angles) + 1
    direction = np.ones((n, *angles.shape[1:]))
    for i in range(n):
        for k in range(i):
            direction[i] = direction[i] * np.sin(angles[k])
        if i < n - 1:
            direction[i] = direction[i] * np.cos(angles[i])
    return direction


def kernels(n):
    rng = np.random.default_rng(n)
    trailing = rng.standard_normal((n, 16))
    trailing[(n + 1) // 2 :] = 0.0
    spikes = np.zeros((n, 4))
    spikes[0], spikes[-1] = [1, 1, -1, -1], [1, -1, 1, -1]
    axes = np.eye(n)[:, np.unique(np.linspace(0, n - 1, 20).astype(int))]
    return {
        "random": rng.standard_normal((n, 64)),
        "axes": axes,
        "negative axes": -axes,
        "trailing zeros": trailing,
        "two spikes": spikes,
        "wide range": rng.standard_normal((n, 16)) * 10 ** rng.uniform(-15, 15, (n, 16)),
        "tiny": rng.standard_normal((n, 16)) * 1e-30,
        "huge": rng.standard_normal((n, 16)) * 1e37,
        "largest": rng.uniform(-3.4, 3.4, (n, 16)) * 1e38,
    }


def test_is_the_formula():
    angles = np.random.default_rng(0).uniform(-7, 7, (12, 5))
    np.testing.assert_allclose(numpy(ops.angles_to_direction(angles.astype("float32"))), reference(angles), atol=2e-6)


@pytest.mark.parametrize("n", [2, 3, 9, 100, 1152, 4608])
def test_right_inverse_on_the_whole_sphere(n):
    columns = np.concatenate(list(kernels(n).values()), axis=1).astype("float32")
    names = [name for name, kernel in kernels(n).items() for _ in kernel.T]
    angles = ops.direction_to_angles(columns)
    direction = numpy(ops.angles_to_direction(angles))
    columns = columns.astype("float64")
    errors = np.abs(direction - columns / np.linalg.norm(columns, axis=0)).max(axis=0)
    assert errors.max() <= 2e-6, names[errors.argmax()]

    angles = numpy(angles)  # in their principal ranges
    assert angles.min() >= 0
    assert angles[:-1].max(initial=0.0) <= np.float32(np.pi)
    assert angles[-1].max() < 2 * np.pi


def test_a_tiny_negative_last_entry_stays_below_two_pi():
    angles = numpy(ops.direction_to_angles(np.array([[1.0], [-1e-10]], "float32")))
    assert angles[0, 0] < 2 * np.pi


@pytest.mark.parametrize("zeros", [0, 1, 3, 6])
def test_gradient_where_sines_are_zero(zeros):
    rng = np.random.default_rng(zeros)
    angles = rng.uniform(0.2, 2.8, (7, 3))
    angles[7 - zeros :] = 0.0
    cotangent = rng.standard_normal((8, 3))
    (expected,) = finite_differences(lambda angles: np.sum(reference(angles) * cotangent), angles)
    (found,) = gradients(ops.angles_to_direction, angles.astype("float32"), cotangent=cotangent)
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max(), rtol=1e-3)


def test_gradient_of_a_long_kernel():
    # Turning angle k by a small step moves u by step * prod_{j<k} sin(angle j): theorem 3.7's metric, at unit distance.
    angles = np.random.default_rng(0).uniform(1.2, 1.9, (300, 2))
    direction = reference(angles)
    shares = np.cumprod(np.concatenate([np.ones((1, 2)), np.sin(angles[:-1])]), axis=0)
    for k in (0, 1, 150, 299):
        tangent = direction.copy()
        tangent[:k] = 0.0
        tangent[k:] /= shares[k]  # u from coordinate k on, normalized
        derivative = np.zeros_like(tangent)
        derivative[k] = -np.sin(angles[k])
        derivative[k + 1 :] = tangent[k + 1 :] / np.sin(angles[k]) * np.cos(angles[k])
        (found,) = gradients(ops.angles_to_direction, angles.astype("float32"), cotangent=derivative)
        np.testing.assert_allclose(found[k], shares[k], rtol=1e-4)


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_the_gradient_of_the_angles_of_a_kernel_of_any_size(size):
    def angles(w):
        tails = np.sqrt(np.cumsum(w[::-1] ** 2, axis=0)[::-1])
        return np.concatenate([np.arctan2(tails[1:-1], w[:-2]), np.arctan2(w[-1:], w[-2:-1])])

    kernel = np.random.default_rng(0).standard_normal((5, 4))
    cotangent = np.random.default_rng(1).standard_normal((4, 4))
    (expected,) = finite_differences(lambda w: np.sum(angles(w) * cotangent), kernel)
    # Multiplied by the size, because the gradient is inversely proportional to it.
    (found,) = gradients(
        lambda w: ops.direction_to_angles(w) * size, (kernel * size).astype("float32"), cotangent=cotangent
    )
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_angles_are_widened(dtype):
    angles = keras.ops.cast(np.full((50, 2), 1.5), dtype)
    direction = ops.angles_to_direction(angles)
    assert keras.backend.standardize_dtype(direction.dtype) == "float32"
    expected = reference(numpy(keras.ops.cast(angles, "float32")).astype("float64"))
    np.testing.assert_allclose(numpy(direction), expected, atol=1e-6)


def test_nan_in_nan_out():
    direction = numpy(ops.angles_to_direction(np.array([[1.0], [np.nan]], "float32")))
    assert not np.isnan(direction[0, 0])
    assert np.all(np.isnan(direction[1:, 0]))
    assert np.all(np.isnan(numpy(ops.direction_to_angles(np.array([[1.0], [np.nan], [2.0]], "float32"))[0])))


def test_works_while_traced():
    model = keras.Sequential(
        [keras.layers.Lambda(ops.direction_to_angles), keras.layers.Lambda(ops.angles_to_direction)]
    )
    model.compile(jit_compile=keras.backend.backend() != "torch")
    x = np.array([[3.0], [0.0], [-4.0]], "float32")
    np.testing.assert_allclose(model.predict(x, batch_size=3, verbose=0), x / 5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3,), (0, 4), (2, 3, 4)])
def test_bad_angles(shape):
    with pytest.raises(ValueError, match=r"`angles` must have the shape .* Received: angles.shape="):
        ops.angles_to_direction(np.zeros(shape, "float32"))


@pytest.mark.parametrize("shape", [(3,), (1, 4), (2, 3, 4)])
def test_bad_kernel(shape):
    with pytest.raises(ValueError, match=r"`kernel` must have the shape .* Received: kernel.shape="):
        ops.direction_to_angles(np.ones(shape, "float32"))


def test_zero_columns_are_named():
    kernel = np.ones((3, 4), "float32")
    kernel[:, [1, 3]] = 0.0
    with pytest.raises(ValueError, match=r"zero columns at kernel\[:, \[1, 3\]\]"):
        ops.direction_to_angles(kernel)
