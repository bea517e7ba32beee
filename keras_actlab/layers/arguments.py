"""Types of the layers' arguments, and the checks that the layers share."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_actlab.arguments import boolean as boolean
from keras_actlab.arguments import positive_integer as positive_integer
from keras_actlab.arguments import resolve
from keras_actlab.ops.tensor import Tensor

# What `keras.activations.get` and the other `get` functions accept: a name, a config, an object or None.
Activation: TypeAlias = str | dict[str, Any] | Callable[[Tensor], Tensor] | None
Initializer: TypeAlias = str | dict[str, Any] | Callable[..., Tensor] | None
Regularizer: TypeAlias = str | dict[str, Any] | Callable[[Tensor], Tensor] | None
Constraint: TypeAlias = str | dict[str, Any] | Callable[[Tensor], Tensor] | None

Shape: TypeAlias = tuple[int | None, ...]


def check_not_tensor(layer: keras.layers.Layer, name: str, value: Any) -> None:
    """Raises a TypeError if `value`, the first argument of the constructor, is a tensor.

    Two mistakes lead to that: `CRReLU(x)`, and `Dense(8, activation=CRReLU)`, which calls the class with a tensor.
    """
    if isinstance(value, keras.KerasTensor | keras.Variable | np.ndarray) or keras.ops.is_tensor(value):
        cls = type(layer).__name__
        raise TypeError(
            f"{cls} is a class of layers: create a layer and call it, as in `{cls}()(x)`. As an activation, pass a "
            f"layer, `activation={cls}()`, not the class. Received: {name}={value!r}"
        )


def check_keywords(layer: keras.layers.Layer, keywords: Mapping[str, Any], instead: Mapping[str, str]) -> None:
    """Raises a ValueError that names the right argument if `keywords` holds one that the layer does not have.

    Args:
        layer: The layer that received the keywords.
        keywords: The remaining keyword arguments, which are meant for the base layer.
        instead: For each likely wrong name, what to give in its place.
    """
    for name in keywords.keys() & instead.keys():
        raise ValueError(
            f"{type(layer).__name__} has no argument `{name}`; give {instead[name]}. "
            f"Received: {name}={keywords[name]!r}"
        )


def activation_function(value: Activation) -> Callable[[Tensor], Tensor]:
    """Returns the activation that `value` specifies. Raises a TypeError if it is a class."""
    if isinstance(value, type):
        raise TypeError(
            f"`activation` must be a name, a function or a layer, such as `{value.__name__}()`, not a class. "
            f"Received: activation={value!r}"
        )
    found: Callable[[Tensor], Tensor] = resolve(keras.activations.get, "activation", value)
    return found


def curve_values(
    layer: keras.layers.Layer, function: Callable[[np.ndarray], np.ndarray], points: np.ndarray
) -> np.ndarray:
    """Returns the values of `function` at `points`, (n, channels) or (n, 1). Raises unless they are finite."""
    if not layer.built:
        raise ValueError(f"The layer must be built before its curve is set. Received: {layer.name}, not built")
    values = np.asarray(function(points))
    if values.ndim not in (1, 2) or len(values) != len(points) or not np.all(np.isfinite(values)):
        raise ValueError(
            f"`function` must return a finite value for each of {len(points)} points, or one for each point and "
            f"channel. Received: function={function!r}, which returned values of the shape {values.shape}"
        )
    return values.reshape(len(points), -1)


def channels_along(axis: int, input_shape: Shape) -> int:
    """Returns the length of the input along `axis`. Raises unless it is a non-batch axis of known length."""
    rank = len(input_shape)
    if not -rank <= axis < rank or axis % rank == 0:
        raise ValueError(
            f"`axis` must name an axis of the input other than the batch axis. Received: axis={axis}, "
            f"input_shape={tuple(input_shape)}"
        )
    channels = input_shape[axis]
    if channels is None:
        raise ValueError(
            f"The input must have a known length along `axis`. Received: axis={axis}, input_shape={tuple(input_shape)}"
        )
    return channels


def channel_spec(axis: int, input_shape: Shape) -> keras.layers.InputSpec:
    """Returns the input spec of a layer with weights along one axis: a fixed number of channels, and any rank."""
    least_rank = axis + 1 if axis > 0 else 1 - axis
    return keras.layers.InputSpec(min_ndim=least_rank, axes={axis: input_shape[axis]})
