"""Back to plain layers."""

from collections import Counter
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import keras
import numpy as np

from keras_actlab import layers
from keras_actlab.conversion.coordinates import to_float32
from keras_actlab.conversion.geometric import shared_arguments, starting_with_zeros
from keras_actlab.conversion.parametrized import kernels, unparametrize
from keras_actlab.conversion.places import Place
from keras_actlab.conversion.rewriting import Stays, rewrite
from keras_actlab.conversion.surgery import become, scope_of
from keras_actlab.graph import calls, consumers, holder_counts, is_functional, is_output
from keras_actlab.layers.gmp import GmP, is_positively_homogeneous
from keras_actlab.layers.gmp_separable_conv import GmPSeparableConv
from keras_actlab.layers.kernels import from_columns, to_columns
from keras_actlab.layers.weight_normalization import release

# Layers whose kernel ends with (channels, units), so that a shift of the channels is one of the units.
TAKE_SHIFTS = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


def fold(model: keras.Model, *, check: bool = True) -> keras.Model:
    """Returns a copy of `model` for inference, in plain Keras layers as far as there are any, with the same outputs.

    - Geometric layers become their plain counterparts with `kernel = scale * direction` and `bias = scale * radius`.
      Where the scale multiplies the output of the activation, and is negative or the activation not positively
      homogeneous, the activation becomes a small `Sequential` model of itself and frozen `BatchNormalization` layers,
      which multiply.
    - What `WeightNormalization` wraps gets its normalized kernel for good.
    - Layers of other classes, whose kernels `to_gmp` computes from angles and scale, get plain kernels again, with the
      regularizers and constraints that these had.
    - `InputMeanNormalization` and `MeanOnlyBatchNormalization`, at inference a shift of each channel, go into the bias
      of the Dense or Conv layers that follow at once in a Functional or Sequential model, and leave an `Identity`
      behind. That is exact save before zero padding. Elsewhere they become `Rescaling` layers with an offset.
    - What has no plain counterpart, such as `TMAF` and `CRReLU`, stays. `keras_actlab.conversion.report` lists it.

    If nothing stays, the folded model loads without keras_actlab. The regularizers and constraints of angles, radius
    and scale are dropped.

    Args:
        model: A model that is built. It is left unchanged.
        check: Whether to compare the copy with `model`, and the result, too, on a small random batch. A difference
            raises a ValueError; where no such batch can be made, the report says so.

    Returns:
        A model of the same class, not compiled.

    Raises:
        TypeError: If `model` is not a model.
        ValueError: If the model is not built, or the outputs differ.

    Example:

    >>> layer = keras_actlab.layers.GmPDense(4, activation="relu")
    >>> model = keras.Sequential([keras.Input((3,)), keras_actlab.layers.InputMeanNormalization(), layer])
    >>> folded = keras_actlab.fold(model)
    >>> [type(layer).__name__ for layer in folded.layers]
    ['Identity', 'Dense']
    """
    holders: Counter[int] = Counter()

    def prepare(copied: keras.Model, places: list[Place]) -> list[Place]:
        holders.update(holder_counts(copied))
        # Shifts go into the layers that follow them, once these are plain.
        return sorted(places, key=lambda place: isinstance(place.layer, layers.InputMeanNormalization))

    def change(place: Place) -> str:
        match place.layer:
            case GmP() | GmPSeparableConv():
                return _fold_geometric(place.layer)
            case layers.WeightNormalization():
                return _fold_weight_normalized(place.layer)
            case layers.InputMeanNormalization():
                return _fold_shift(place, holders)
            case _ if kernels(place.layer):
                unparametrize(place.layer)
                return ""
            case _:
                raise Stays("it has no plain counterpart")

    return rewrite(model, None, _is_ours, change, prepare, check=check)


def _is_ours(place: Place) -> bool:
    return type(place.layer).__module__.startswith("keras_actlab.layers.") or bool(kernels(place.layer))


def _fold_geometric(layer: GmP | GmPSeparableConv) -> str:
    # The depthwise part of a separable convolution is linear.
    last = layer.pointwise if isinstance(layer, GmPSeparableConv) else layer
    scale = to_float32(last.scale)
    ones = np.ones_like(scale)
    if last.scale_inside or last.activation is keras.activations.linear:
        inside, before, after = scale, ones, ones
    elif is_positively_homogeneous(last.activation):
        sign = np.where(scale < 0, -1.0, 1.0)
        inside, before, after = scale, sign, sign  # so that the plain kernel is `layer.kernel`
    else:
        inside, before, after = ones, ones, scale
    activation, note = last.activation, ""
    if np.any(after != 1.0):
        if len(last.unit_axes) > 1 and isinstance(last, layers.GmPEinsumDense):
            raise Stays("its scale multiplies the output of its activation along several axes")
        activation = _between(before, activation, after, last)
        note = "its activation ends with a multiplication by the scale"
    plain = layer.plain(**shared_arguments(layer), activation=activation)
    with scope_of(layer), starting_with_zeros(plain):
        plain.build_from_config(layer.get_build_config())
    if isinstance(layer, GmPSeparableConv):
        plain.depthwise_kernel.assign(_kernel(layer.depthwise, layer.depthwise.scale))
        plain.pointwise_kernel.assign(_kernel(last, inside))
    else:
        plain.kernel.assign(_kernel(layer, inside))
    if last.use_bias:
        bias = to_float32(last.radius) * inside if last.plain_bias is None else last.plain_bias
        plain.bias.assign(last.in_plain_shape(bias))
    become(layer, plain)
    return note


def _kernel(layer: GmP, factor: Any) -> np.ndarray:
    """The kernel `factor * direction`, one factor for each unit."""
    direction = layer.direction
    columns = to_columns(direction, layer.unit_axes)
    kernel = from_columns(columns * keras.ops.cast(factor, columns.dtype), direction.shape, layer.unit_axes)
    return keras.ops.convert_to_numpy(kernel)  # so that its memory on JAX can be that of the angles, which are freed


def _between(before: np.ndarray, activation: Callable[..., Any], after: np.ndarray, layer: GmP) -> keras.Sequential:
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


def _fold_weight_normalized(layer: layers.WeightNormalization) -> str:
    for name, kernel in layer.normalized_kernels().items():
        variable = attrgetter(name)(layer.layer)
        variable.assign(kernel)
        variable._autocast = True  # as Keras made it, before the wrapper needed all its digits
    release(layer.layer)
    become(layer, layer.layer)
    return ""


def _fold_shift(place: Place, holders: Mapping[int, int]) -> str:
    layer, holder = place.layer, place.holder
    rank = len(layer.get_build_config()["input_shape"])
    axis = layer.axis % rank
    shift = -to_float32(layer.moving_mean)
    if getattr(layer, "beta", None) is not None:
        shift = shift + to_float32(layer.beta)
    followers = consumers(layer, holder)
    # The graph tells who else calls them only where nothing but the graph holds them.
    in_graph = is_functional(holder) and all(holders[id(one)] == 1 for one in (layer, *followers))
    hidden = in_graph and followers and len(calls(layer, holder)) == 1 and not is_output(layer, holder)
    is_float = hidden and "float" in calls(layer, holder)[0].input_tensors[0].dtype  # Identity would keep integers
    if is_float and all(_takes_shift(follower, holder, axis, rank) for follower in followers):
        for follower in followers:
            _add_to_bias(follower, shift)
        become(layer, keras.layers.Identity(name=layer.name, dtype=layer.dtype_policy.name))
        return f"in the bias of {', '.join(follower.name for follower in followers)}"
    offset = shift.reshape((-1,) + (1,) * (rank - 1 - axis))
    become(layer, keras.layers.Rescaling(1.0, offset=offset, name=layer.name, dtype=layer.dtype_policy))
    return ""


def _takes_shift(follower: keras.Operation, holder: keras.Model, axis: int, rank: int) -> bool:
    """Whether a shift of the channels of what `follower` takes is a shift of its bias, and of no other call's."""
    if type(follower) not in TAKE_SHIFTS or len(calls(follower, holder)) != 1:
        return False
    if getattr(follower, "quantization_mode", None) is not None or getattr(follower, "lora_enabled", False):
        return False
    if isinstance(follower, keras.layers.Dense):
        return axis == rank - 1
    pads = follower.padding != "valid" and any(size > 1 for size in follower.kernel_size)
    return not pads and axis == (1 if follower.data_format == "channels_first" else rank - 1)


def _add_to_bias(layer: keras.layers.Layer, shift: np.ndarray) -> None:
    """Makes `layer` of x what it was of x + shift."""
    kernel = to_float32(layer.kernel).astype("float64")
    kernel = kernel.sum(axis=tuple(range(kernel.ndim - 2)))  # (channels of a group, units)
    groups = getattr(layer, "groups", 1)
    # The units of a group see its channels alone.
    bias = np.einsum(
        "gc,cgu->gu", shift.reshape(groups, -1), kernel.reshape(len(kernel), groups, kernel.shape[1] // groups)
    ).ravel()
    if layer.use_bias:
        layer.bias.assign_add(bias)
        return
    new = type(layer).from_config(layer.get_config() | {"activation": layer.activation, "use_bias": True})
    with scope_of(layer):
        new.build_from_config(layer.get_build_config())
    new.kernel.assign(layer.kernel)
    new.bias.assign(bias)
    become(layer, new)
