"""Angles and scale of given weights, as precise as float32 allows."""

import numpy as np

from keras_actlab.layers.kernels import fan_in_axes, to_float32
from keras_actlab.ops import float64

# Number of entries that are converted to float64 at a time: 2 MB, which fit into a processor's cache.
BLOCK = 2**18


def columns_of(kernel: object, unit_axes: tuple[int, ...]) -> np.ndarray:
    """Returns the values of a kernel as (fan_in, units), in float32."""
    values = to_float32(kernel)
    weights = fan_in_axes(values.ndim, unit_axes)
    units = [axis % values.ndim for axis in unit_axes]
    return values.transpose(*weights, *units).reshape(np.prod([values.shape[axis] for axis in weights], dtype=int), -1)


def norms(columns: np.ndarray) -> np.ndarray:
    """Returns the norm of each column, in float64."""
    return np.sqrt(_dot(columns, columns))


def vanish(columns: np.ndarray) -> np.ndarray:
    """Returns for each column whether all entries are 0, or so small that some backends flush them to 0."""
    return np.maximum(columns.max(axis=0), -columns.min(axis=0)) < np.finfo("float32").tiny


def precise_angles(columns: np.ndarray) -> np.ndarray:
    """Returns `ops.direction_to_angles`, computed in float64. A column of zeros gets the angles of equal entries.

    The arctan2 of some backends is biased near pi / 2, by a tenth of float32's resolution there. The bias moves all
    weights of a layer in one direction, and the outputs of a ResNet of 50 layers by 2e-5.
    """
    angles = np.empty((len(columns) - 1, columns.shape[1]), "float32")
    units = max(1, BLOCK // len(columns))
    for start in range(0, columns.shape[1], units):
        block = columns[:, start : start + units]
        block = np.where(vanish(block), 1.0, block).astype("float64")
        angles[:, start : start + units] = float64.direction_to_angles(block)
    return angles


def closest_scale(columns: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Returns the least-squares factor from each column of `direction` to that of `columns`, in float64.

    This differs slightly from the norm: rounding makes products of thousands of sines a few millionths too small, which
    would add up over the layers of a model.
    """
    return _dot(columns, direction) / _dot(direction, direction)


def _dot(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The inner product of each pair of columns, accumulated in float64 without a copy of the arrays."""
    return np.einsum("fu,fu->u", one, other, dtype="float64")
