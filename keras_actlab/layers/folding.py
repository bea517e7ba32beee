"""Functions with which layers implement `fold`, the conversion to a plain Keras layer; see `docs/extending.md`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from keras_actlab.layers.activations import is_positively_homogeneous
from keras_actlab.layers.kernels import from_columns, to_columns, to_float32
from keras_actlab.layers.quantization import allow_quantization
from keras_actlab.layers.replacement import SkipLayer

SHARED = (
    "units", "filters", "kernel_size", "strides", "padding", "output_padding", "data_format", "dilation_rate", "groups",
    "depth_multiplier", "equation", "output_shape", "bias_axes", "use_bias",
)  # fmt: skip

# Prefixes of the names of initializers, regularizers and constraints of kernels.
KERNELS = ("kernel", "depthwise", "pointwise")


def shared_arguments(layer: keras.layers.Layer) -> dict[str, Any]:
    """Returns the arguments that a plain layer and its geometric counterpart share, except the activation."""
    config = layer.get_config()
    return {
        **{key: config[key] for key in SHARED if key in config},
        "activity_regularizer": layer.activity_regularizer,
        "name": layer.name,
        "trainable": layer.trainable,
        "dtype": layer.dtype_policy,
    }


@contextmanager
def starting_with_zeros(*layers: keras.layers.Layer) -> Iterator[None]:
    """Within, `layers` are built with kernels or angles of zeros, which are faster than random ones and set later."""
    changed = []
    for layer in layers:
        is_geometric = "angles_initializer" in vars(layer)
        names = ["angles_initializer"] if is_geometric else [f"{part}_initializer" for part in KERNELS]
        for name in filter(vars(layer).__contains__, names):
            changed.append((layer, name, getattr(layer, name)))
            setattr(layer, name, keras.initializers.Zeros())
    yield
    for layer, name, initializer in changed:
        setattr(layer, name, initializer)


def check_not_overridden(layer: keras.layers.Layer, stated: str, methods: Sequence[str]) -> None:
    """Raises SkipLayer if a subclass overrides one of `methods`, and so may compute something else.

    Subclasses are those of the class that defines the attribute `stated`. A subclass that defines it, too, confirms
    that it can be folded in the same way.
    """
    for cls in type(layer).__mro__:
        overridden = [name for name in methods if name in vars(cls)]
        if stated in vars(cls):
            return
        if overridden:
            raise SkipLayer(
                f"its class {cls.__name__} overrides `{overridden[0]}`, so it may compute something else: give it a "
                "method `fold`"
            )


def fold_geometric(layer: Any, parts: dict[str, Any]) -> keras.layers.Layer:
    """Returns the plain layer that computes what a geometric one does.

    Args:
        layer: The geometric layer.
        parts: The layers with angles and scale that it is made of, by the names of the plain layer's kernels. Only the
            last one has an activation that is not linear.

    Raises:
        SkipLayer: If there is no such layer.
    """
    *_, last = parts.values()
    scale = to_float32(last.scale)
    ones = np.ones_like(scale)
    if last.scale_inside or last.activation is keras.activations.linear:
        inside, before, after = scale, ones, ones
    elif is_positively_homogeneous(last.activation):
        sign = np.where(scale < 0, -1.0, 1.0)
        inside, before, after = scale, sign, sign  # so that the plain kernel is `layer.kernel`
    else:
        inside, before, after = ones, ones, scale
    activation = last.activation
    allow_quantization(activation)
    if np.any(after != 1.0):
        if len(last.unit_axes) > 1 and last.plain is keras.layers.EinsumDense:
            raise SkipLayer("its scale multiplies the output of its activation along several axes")
        activation = _between(before, activation, after, last)
    plain = layer.plain(**shared_arguments(layer), activation=activation)
    with starting_with_zeros(plain):
        plain.build_from_config(layer.get_build_config())
    for name, part in parts.items():
        getattr(plain, name).assign(_kernel(part, inside if part is last else part.scale))
    if last.use_bias:
        bias = to_float32(last.radius) * inside if last.plain_bias is None else last.plain_bias
        plain.bias.assign(last.in_plain_shape(bias))
    return plain


def _kernel(layer: Any, factor: Any) -> np.ndarray:
    """The kernel `factor * direction`, one factor for each unit."""
    direction = layer.direction
    columns = to_columns(direction, layer.unit_axes)
    kernel = from_columns(columns * keras.ops.cast(factor, columns.dtype), direction.shape, layer.unit_axes)
    return keras.ops.convert_to_numpy(kernel)  # so that its memory on JAX can be that of the angles, which are freed


def _between(before: np.ndarray, activation: Callable[..., Any], after: np.ndarray, layer: Any) -> keras.Sequential:
    """`after * activation(before * z)` for each channel, in plain Keras."""
    if not isinstance(activation, keras.layers.Layer):
        activation = keras.layers.Activation(activation, dtype=layer.dtype_policy)
    shape = layer.compute_output_shape(layer.get_build_config()["input_shape"])
    result = keras.Sequential([keras.Input(batch_shape=shape)], name="activation")
    for factor, name in ((before, "sign"), (None, ""), (after, "scale")):
        if factor is None:
            result.add(activation)
        elif np.any(factor != 1.0):
            # Frozen, it does not normalize, but multiply, on any axis.
            times = keras.layers.BatchNormalization(
                axis=layer.unit_axis, center=False, epsilon=0.0, trainable=False, dtype=layer.dtype_policy, name=name
            )
            result.add(times)
            times.gamma.assign(factor)
    return result
