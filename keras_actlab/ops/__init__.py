"""Pure functions of tensors, the same on every backend."""

from keras_actlab.ops.crrelu import crrelu
from keras_actlab.ops.fused import enable_fused_direction
from keras_actlab.ops.linear_spline import linear_spline
from keras_actlab.ops.matrix_activation import matrix_activation
from keras_actlab.ops.spherical import angles_to_direction, direction_to_angles
from keras_actlab.ops.weight_normalization import unit_vectors

__all__ = [
    "angles_to_direction",
    "crrelu",
    "direction_to_angles",
    "enable_fused_direction",
    "linear_spline",
    "matrix_activation",
    "unit_vectors",
]
