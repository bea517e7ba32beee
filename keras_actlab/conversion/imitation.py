"""Fitting new activations to the ones that they replace."""

from typing import Any

import keras
import numpy as np

from keras_actlab.conversion.hidden import SOFTMAXES
from keras_actlab.layers.activations import activation_name
from keras_actlab.layers.arguments import Shape
from keras_actlab.layers.replacement import SkipLayer

# The range in which the largest error is measured: few inputs of an activation are farther from 0.
LOWER, UPPER, POINTS = -4.0, 4.0, 801


def imitate(new: keras.layers.Layer, old: Any, shape: Shape) -> str:
    """Fits `new`, built for inputs of `shape`, to the activation `old`, and returns a note on the largest error.

    Raises:
        SkipLayer: If `old` is not one function, or one for each channel, with finite values.
    """
    axis = getattr(new, "axis", None)
    axis = -1 if axis is None else axis
    name = activation_name(old) or getattr(old, "__name__", type(old).__name__)
    if name in SOFTMAXES:
        raise SkipLayer(f"{name} is not elementwise, so no activation can start as it")

    def curve(x: np.ndarray) -> np.ndarray:
        y = _values(old, x, axis, shape)
        if not np.all(np.isfinite(y)):
            raise SkipLayer(f"{name} has values that are not finite")
        return y[:, 0] if np.all(y == y[:, :1]) else y

    new.set_curve(curve)
    x = np.linspace(LOWER, UPPER, POINTS)
    error = np.max(np.abs(_values(new, x, axis, shape) - _values(old, x, axis, shape)))
    return f"it starts as {name}, at most {error:.2g} off in [{LOWER:g}, {UPPER:g}]"


def _values(activation: Any, x: np.ndarray, axis: int, shape: Shape) -> np.ndarray:
    """The values of an activation at the points `x`, in each channel, as (points, channels)."""
    axis %= len(shape)
    lengths = [1] * len(shape)
    lengths[0], lengths[axis] = len(x), shape[axis] or 1
    inputs = np.broadcast_to(x.reshape(-1, *[1] * (len(shape) - 1)), lengths)
    try:
        y = activation(keras.ops.convert_to_tensor(inputs, dtype="float32"))
        y = np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(y, "float32")))
    except Exception as error:  # such as a PReLU with a slope for each place
        raise SkipLayer(f"it is not the same function at all places: {error}") from error
    if list(y.shape) != lengths:
        raise SkipLayer("it is not the same function at all places")
    return y.reshape(len(x), -1)
