"""Folding a model into plain layers for inference."""

from collections import Counter
from collections.abc import Mapping

import keras
import numpy as np

from keras_actlab import layers
from keras_actlab._private.keras_graph import calls, consumers, is_functional, is_output
from keras_actlab._private.keras_layers import replace_in_place
from keras_actlab.conversion.layer_refs import LayerRef
from keras_actlab.conversion.parametrized import kernels, unparametrize
from keras_actlab.conversion.rewriting import rewrite
from keras_actlab.conversion.structure import holder_counts
from keras_actlab.conversion.surgery import scope_of
from keras_actlab.layers.gmp import GmP
from keras_actlab.layers.gmp_separable_conv import GmPSeparableConv
from keras_actlab.layers.kernels import to_float32
from keras_actlab.layers.replacement import SkipLayer

# Layers whose kernel ends with (channels, units), so that a shift of the channels is one of the units.
TAKE_SHIFTS = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


def fold(model: keras.Model, *, check: bool = True) -> keras.Model:
    """Returns a copy of `model` for inference, in plain Keras layers where possible, with the same outputs.

    - Geometric layers become their plain counterparts with `kernel = scale * direction` and `bias = scale * radius`.
      Where the scale multiplies the output of the activation, and is negative or the activation not positively
      homogeneous, the activation becomes a small `Sequential` model of itself and frozen `BatchNormalization` layers,
      which multiply.
    - A layer within `WeightNormalization` is unwrapped, with its normalized kernel.
    - Layers of other classes, whose kernels `to_gmp` computes from angles and scale, get plain kernels again, with the
      regularizers and constraints that these had.
    - `InputMeanNormalization` and `MeanOnlyBatchNormalization`, at inference a shift of each channel, go into the bias
      of the Dense or Conv layers that follow directly in a Functional or Sequential model, and become an `Identity`.
      Before zero padding that would not be exact. There, and elsewhere, they become `Rescaling` layers with an offset.
    - Other layers with a method `fold` become what it returns, or are left unchanged for the reason with which it
      raises `keras_actlab.conversion.SkipLayer`. A subclass of a geometric layer that overrides `call` is left
      unchanged.
    - Activations without a plain counterpart, such as `TMAF` and `CRReLU`, are left unchanged.
      `keras_actlab.conversion.report` lists them.

    If no layer is left unchanged, the folded model loads without keras_actlab. The regularizers and constraints of
    angles, radius and scale are dropped.

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

    def prepare(copied: keras.Model, refs: list[LayerRef]) -> list[LayerRef]:
        holders.update(holder_counts(copied))
        # Shifts are folded into the layers that follow them, which must be plain by then.
        return sorted(refs, key=lambda ref: isinstance(ref.layer, layers.InputMeanNormalization))

    def change(ref: LayerRef) -> str:
        layer = ref.layer
        if kernels(layer):
            unparametrize(layer)
            return ""
        if not callable(getattr(layer, "fold", None)):
            raise SkipLayer("it has no plain counterpart")
        with scope_of(layer):
            plain = layer.fold()
        if not isinstance(plain, keras.layers.Layer):
            raise TypeError(f"`fold` must return a layer. Received: {plain!r}, from {ref}")
        if isinstance(layer, layers.InputMeanNormalization):
            return _fold_shift(ref, plain, holders)
        activation = getattr(plain, "activation", None)
        ends_with_scale = isinstance(activation, keras.Sequential) and isinstance(layer, GmP | GmPSeparableConv)
        replace_in_place(layer, plain)
        return "its activation ends with a multiplication by the scale" if ends_with_scale else ""

    return rewrite(model, None, _is_candidate, change, prepare, check=check)


def _is_candidate(ref: LayerRef) -> bool:
    """Whether the layer says how it folds, or is an activation that Keras does not define."""
    layer = ref.layer
    return hasattr(layer, "fold") or getattr(layer, "is_activation", False) or bool(kernels(layer))


def _fold_shift(ref: LayerRef, plain: keras.layers.Layer, holders: Mapping[int, int]) -> str:
    layer, holder = ref.layer, ref.holder
    rank = len(layer.get_build_config()["input_shape"])
    axis = layer.axis % rank
    followers = consumers(layer, holder)
    # The graph shows all their calls only if no other layer holds them.
    in_graph = is_functional(holder) and all(holders[id(one)] == 1 for one in (layer, *followers))
    hidden = in_graph and followers and len(calls(layer, holder)) == 1 and not is_output(layer, holder)
    is_float = hidden and "float" in calls(layer, holder)[0].input_tensors[0].dtype  # Identity would keep integers
    if is_float and all(_takes_shift(follower, holder, axis, rank) for follower in followers):
        for follower in followers:
            _add_to_bias(follower, layer.offset())
        replace_in_place(layer, keras.layers.Identity(name=layer.name, dtype=layer.dtype_policy.name))
        return f"in the bias of {', '.join(follower.name for follower in followers)}"
    replace_in_place(layer, plain)
    return ""


def _takes_shift(follower: keras.Operation, holder: keras.Model, axis: int, rank: int) -> bool:
    """Whether a shift of the input channels of `follower` is a shift of its bias, and affects no other call."""
    if type(follower) not in TAKE_SHIFTS or len(calls(follower, holder)) != 1:
        return False
    if getattr(follower, "quantization_mode", None) is not None or getattr(follower, "lora_enabled", False):
        return False
    if isinstance(follower, keras.layers.Dense):
        return axis == rank - 1
    pads = follower.padding != "valid" and any(size > 1 for size in follower.kernel_size)
    return not pads and axis == (1 if follower.data_format == "channels_first" else rank - 1)


def _add_to_bias(layer: keras.layers.Layer, shift: np.ndarray) -> None:
    """Changes the bias of `layer` so that `layer(x)` becomes what `layer(x + shift)` was."""
    kernel = to_float32(layer.kernel).astype("float64")
    kernel = kernel.sum(axis=tuple(range(kernel.ndim - 2)))  # (channels of a group, units)
    groups = getattr(layer, "groups", 1)
    # The units of a group depend on its channels alone.
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
    replace_in_place(layer, new)
