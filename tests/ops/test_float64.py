import numpy as np
import pytest

from keras_actlab import ops
from keras_actlab.ops import float64
from tests.backends import numpy

pytestmark = pytest.mark.one_backend
RNG = np.random.default_rng(0)


def test_angles_and_directions_are_those_of_ops():
    kernel = RNG.normal(size=(7, 4))
    angles = float64.direction_to_angles(kernel)
    direction = float64.angles_to_direction(angles)
    assert angles.dtype == direction.dtype == "float64"
    np.testing.assert_allclose(direction, kernel / np.linalg.norm(kernel, axis=0), rtol=1e-13)
    np.testing.assert_allclose(angles, numpy(ops.direction_to_angles(kernel.astype("float32"))), rtol=1e-5)
    np.testing.assert_allclose(direction, numpy(ops.angles_to_direction(angles.astype("float32"))), atol=1e-6)


def test_leading_axes_are_independent():
    kernels = RNG.normal(size=(3, 2, 5, 4))
    angles = float64.direction_to_angles(kernels)
    np.testing.assert_array_equal(angles[1, 0], float64.direction_to_angles(kernels[1, 0]))
    np.testing.assert_array_equal(float64.angles_to_direction(angles)[1, 0], float64.angles_to_direction(angles[1, 0]))


def test_trailing_zeros_and_a_negative_last_entry():
    angles = float64.direction_to_angles(np.array([[1.0, 0.0], [0.0, 0.0], [0.0, -2.0]]))
    np.testing.assert_array_equal(angles[:, 0], 0.0)
    np.testing.assert_allclose(angles[:, 1], [np.pi / 2, 1.5 * np.pi])


def test_the_spline_interpolates_and_extrapolates_linearly():
    knots, values = np.array([-1.0, 0.0, 3.0]), np.array([2.0, 0.0, 1.5])
    inside = np.linspace(-1.0, 3.0, 41)
    np.testing.assert_allclose(float64.linear_spline(inside, knots, values), np.interp(inside, knots, values))
    np.testing.assert_allclose(float64.linear_spline(np.array([-3.0, 5.0]), knots, values), [6.0, 2.5])
