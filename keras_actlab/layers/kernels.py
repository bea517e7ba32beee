"""Kernels of any rank as matrices with one column for each unit."""

import math

import keras
import numpy as np

from keras_actlab.ops import angles_to_direction
from keras_actlab.ops.tensor import Tensor


def to_columns(kernel: Tensor, unit_axes: tuple[int, ...]) -> Tensor:
    """Returns `kernel` reshaped to (fan_in, units), with both groups of axes in their order."""
    units = math.prod(kernel.shape[axis] for axis in unit_axes)
    return keras.ops.reshape(keras.ops.moveaxis(kernel, unit_axes, _last(unit_axes)), (-1, units))


def from_columns(columns: Tensor, shape: tuple[int, ...], unit_axes: tuple[int, ...]) -> Tensor:
    """Returns the kernel of the given shape whose `to_columns` is `columns`."""
    units = tuple(shape[axis] for axis in unit_axes)
    moved = tuple(shape[axis] for axis in fan_in_axes(len(shape), unit_axes)) + units
    return keras.ops.moveaxis(keras.ops.reshape(columns, moved), _last(unit_axes), unit_axes)


def fan_in_axes(rank: int, unit_axes: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the axes of a kernel along which the weights of one unit lie: all but `unit_axes`."""
    units = [axis % rank for axis in unit_axes]
    return tuple(axis for axis in range(rank) if axis not in units)


def _last(unit_axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(range(-len(unit_axes), 0))


def direction_of(angles: keras.Variable) -> Tensor:
    """Returns the unit vectors with the given angles, (fan_in, units); see `keras_actlab.ops.angles_to_direction`.

    In model parallelism they are divided among the devices as the angles are. Otherwise, XLA may divide them along the
    fan-in, as an input of the layer is divided, and then exchanges rows of angles.
    """
    direction = angles_to_direction(angles)
    distribution = keras.distribution.distribution()
    if isinstance(distribution, keras.distribution.ModelParallel):
        along_units = distribution.get_variable_layout(angles).axes[-1]
        layout = keras.distribution.TensorLayout((None, along_units), distribution.device_mesh)
        direction = keras.distribution.distribute_tensor(direction, layout)
    return direction


def to_float32(variable: object) -> np.ndarray:
    """Returns the values of a variable or tensor, in float32 whatever its dtype."""
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32")))
