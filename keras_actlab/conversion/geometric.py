"""Converting plain layers to geometric and to weight-normalized ones."""

import math
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from keras_actlab import layers
from keras_actlab._private.keras_layers import EMBEDDINGS, move_to_new_object, own_variables, replace_in_place
from keras_actlab.conversion.coordinates import closest_scale, columns_of, norms, precise_angles, vanish
from keras_actlab.conversion.layer_refs import LayerRef, layer_refs
from keras_actlab.conversion.parametrized import UnitAxes, attributes, kernels, parametrize
from keras_actlab.conversion.rewriting import Where, rewrite, warn_if_unchanged
from keras_actlab.conversion.surgery import scope_of
from keras_actlab.layers.activations import is_activation, is_positively_homogeneous
from keras_actlab.layers.folding import KERNELS, shared_arguments, starting_with_zeros
from keras_actlab.layers.gmp import GmP
from keras_actlab.layers.gmp_separable_conv import GmPSeparableConv
from keras_actlab.layers.kernels import fan_in_axes, to_float32
from keras_actlab.layers.replacement import SkipLayer

GEOMETRIC = (
    layers.GmPDense,
    layers.GmPEinsumDense,
    layers.GmPConv1D,
    layers.GmPConv2D,
    layers.GmPConv3D,
    layers.GmPConv1DTranspose,
    layers.GmPConv2DTranspose,
    layers.GmPConv3DTranspose,
    layers.GmPDepthwiseConv1D,
    layers.GmPDepthwiseConv2D,
    layers.GmPSeparableConv1D,
    layers.GmPSeparableConv2D,
)
COUNTERPARTS: dict[type, type] = {geometric.plain: geometric for geometric in GEOMETRIC}


def to_gmp(model: keras.Model, where: Where = None, *, check: bool = True) -> keras.Model:
    """Returns a copy of `model` with its layers that have kernels in geometric form, and the same outputs.

    These are Dense, EinsumDense (with it, the projections of attention layers), and all convolutions: plain,
    transposed, depthwise and separable. Each becomes a layer of `keras_actlab.layers`.

    A layer of another class is converted, too, if it has an attribute `counterpart`: a geometric class, or a method
    that takes the arguments of one and returns a geometric layer. Without that attribute, a subclass of a layer of
    Keras is left unchanged, as it may compute something else.

    Layers of other classes that hold stacks of matrices, such as the experts of Mixtral, keep their class and get
    `<kernel>_angles` and `<kernel>_scale` in place of each kernel. So do the cells of SimpleRNN, LSTM, GRU and ConvLSTM
    (a unit is an entry of a gate), and Embedding (a unit is a row), but only if `where` selects the layer. A fused
    recurrent layer computes its kernels once a call, any other one at each step.

    A unit `activation(w . x + b)` becomes `r * activation(u(theta) . x + lambda)` (equation 13 of the paper) with
    `angles` theta of `w / ||w||`, `scale` `r = ||w||` and `radius` `lambda = b / ||w||`. That is the same where the
    activation is positively homogeneous, `activation(r z) = r activation(z)`: linear, ReLU, leaky ReLU, PReLU. With any
    other activation, GELU say, the layer gets `scale_inside=True`, `activation(r * (u(theta) . x + lambda))`.

    A unit whose weights are all 0 keeps its output: its scale is 0, and is trained. If such a unit has a bias and its
    output is not 0 (a positive bias and ReLU, say), no direction and radius represent it, and the layer is skipped.

    The L2 regularizer of a kernel, which is that of its norm, becomes that of the scale. Other regularizers, and
    constraints, of kernel and bias have no counterpart and are dropped; the report names them. The number of parameters
    does not change.

    Args:
        model: A model that is built. It is left unchanged. Composite layers and models within,
            such as those of keras-hub, are searched, too.
        where: Which layers: a name or path, a pattern such as `"block1_*"` or `"*/mlp/*"`, a class of layers, a
            function of a layer that returns True or False, or a list of these. None for all.
        check: Whether to compare the copy and the result with `model` on a small random batch. A difference raises a
            ValueError. If no such batch can be made, the report says so.

    Returns:
        A model of the same class, not compiled. Save and load it like the original, with `import keras_actlab`.
        `keras_actlab.conversion.report` lists what was changed, and what was left unchanged and why. A conversion that
        changes nothing warns, with that table.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model is not built, the outputs differ, or an entry of `where` matches no layer, or none that
            can be converted.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
    >>> converted = keras_actlab.to_gmp(model)
    >>> [type(layer).__name__ for layer in converted.layers]
    ['GmPDense', 'GmPDense']
    >>> x = np.ones((2, 3))
    >>> bool(np.allclose(converted.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6))
    True

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), "Neural Characteristic Activation Analysis and Geometric
      Parameterization for ReLU Networks".
    """
    return warn_if_unchanged(rewrite(model, where, _has_kernel, _to_geometric, _cells, check=check))


def to_weight_normalization(model: keras.Model, where: Where = None, *, check: bool = True) -> keras.Model:
    """Returns a copy of `model` with each layer that has a kernel in `WeightNormalization`, and the same outputs.

    A kernel `w` becomes `g * v / ||v||`, which starts with `v = w` and `g = ||w||`.

    Args:
        model: As in `keras_actlab.to_gmp`.
        where: As in `keras_actlab.to_gmp`.
        check: As in `keras_actlab.to_gmp`.

    Returns:
        A model of the same class, not compiled; see `keras_actlab.to_gmp`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model is not built, the outputs differ, or an entry of `where` matches no layer, or none that
            can be converted.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
    >>> converted = keras_actlab.conversion.to_weight_normalization(model, where=lambda layer: layer.units > 1)
    >>> [type(layer).__name__ for layer in converted.layers]
    ['WeightNormalization', 'Dense']

    Reference:

    - [Salimans and Kingma, 2016](https://arxiv.org/abs/1602.07868), "Weight Normalization".
    """
    return warn_if_unchanged(
        rewrite(model, where, _has_kernel, _to_weight_normalized, lambda copied, refs: refs, check=check)
    )


def _has_kernel(ref: LayerRef) -> bool:
    layer = ref.layer
    if hasattr(layer, "fold"):
        return False  # it is geometric or weight-normalized already
    has_kernel = hasattr(layer, "kernel") or hasattr(layer, "depthwise_kernel")
    return has_kernel or _counterpart(layer) is not None or _holds_matrices(layer)


def _holds_matrices(layer: keras.Operation) -> bool:
    """Whether `layer` has kernels of its own, and no geometric counterpart, as layers of experts have."""
    # Those of Keras' own layers have counterparts. Levels of TMAF have three axes, too.
    own = [] if _is_of_keras(layer) or is_activation(layer) else own_variables(layer)
    return type(layer).__name__ in MATRICES or any(map(_is_stack, own))


def _is_stack(variable: keras.Variable) -> bool:
    """Whether `variable` has at least three axes and is no table."""
    return len(variable.shape) > 2 and min(variable.shape) > 1 and not variable.name.endswith(TABLES)


def _is_of_keras(layer: keras.Operation) -> bool:
    return type(layer).__module__.startswith("keras.")


# Ends of the names of variables that are looked up, added or multiplied entry by entry, as XLNet's `segment_encoding`.
TABLES = ("alpha", "beta", "bias", "embed", "embedding", "embeddings", "encoding", "gamma", "scale", "table")
CELLS = ("SimpleRNNCell", "LSTMCell", "GRUCell", "ConvLSTMCell")  # Keras does not export the last
# Layers of keras-hub that hold kernels of rank 2: a depthwise convolution, channels first, and low-rank projections.
MATRICES: dict[str, UnitAxes] = {
    "Qwen3_5GatedDeltaNet": {"conv1d_weight": (0,)},
    "RWKV7TimeMix": {f"{gate}{index}": (-1,) for gate in "wavg" for index in (1, 2)},
}


def _parametrize(ref: LayerRef) -> str:
    """Computes the kernels of a layer that has no geometric counterpart from angles and scale. Returns a note."""
    layer = ref.layer
    _check_kernel_is_free(ref)
    unit_axes = _unit_axes(ref)
    held = attributes(layer)
    fan_ins = {name: fan_in_axes(len(held[name].shape), axes) for name, axes in unit_axes.items()}
    # A single weight has no angle: it is its scale already.
    chosen = {
        name: axes
        for name, axes in unit_axes.items()
        if math.prod(held[name].shape[axis] for axis in fan_ins[name]) > 1
    }
    if not chosen:
        raise SkipLayer("its units have one weight each")
    lost = [
        f"{name.lstrip('_')}_{kind}"
        for name in chosen
        for kind in ("regularizer", "constraint")
        if getattr(held[name], kind) is not None and type(getattr(held[name], kind)) is not keras.regularizers.L2
    ]
    parametrize(layer, chosen)
    shown = (f"{name.lstrip('_')} (fan-in axes {', '.join(map(str, fan_ins[name]))})" for name in chosen)
    note = f"angles and scale for {', '.join(shown)}"
    return f"{note}; without {', '.join(lost)}" if lost else note


def _unit_axes(ref: LayerRef) -> UnitAxes:
    """The kernels of a layer without a geometric counterpart, by the names of their attributes. Raises `SkipLayer`."""
    layer = ref.layer
    kind = type(layer).__name__
    plain = next((cls.__name__ for cls in COUNTERPARTS if isinstance(layer, cls)), None)
    if plain is not None:
        raise SkipLayer(
            f"{kind} is a subclass of {plain}, which may compute something else, and names no `counterpart`"
        )
    if isinstance(layer, keras.layers.ReversibleEmbedding):
        raise SkipLayer("it is also used in reverse")
    if type(layer) is keras.layers.Embedding:
        return _only_if_selected(ref, {EMBEDDINGS: (0,)})
    if kind in CELLS and _is_of_keras(layer):
        return _only_if_selected(ref, {"kernel": (-1,), "recurrent_kernel": (-1,)})
    held = attributes(layer) if _holds_matrices(layer) else {}
    # An axis of the stack, one of the inputs and one of the outputs.
    found: dict[str, tuple[int, ...]] = {
        name: (0, -1) for name, variable in held.items() if _is_stack(variable) and len(variable.shape) == 3
    }
    found |= {name: axes for name, axes in MATRICES.get(kind, {}).items() if name in held}
    if not found:
        raise SkipLayer(f"{kind} has no geometric counterpart")
    return found


def _only_if_selected(ref: LayerRef, unit_axes: UnitAxes) -> UnitAxes:
    if _has_kernel in ref.selected_by:
        raise SkipLayer(f"{type(ref.layer).__name__} is converted only if `where` selects it")
    return unit_axes


def _cells(copied: keras.Model, chosen: list[LayerRef]) -> list[LayerRef]:
    """The places to convert, with the cells of recurrent layers, which hold the kernels, in place of these layers."""
    holders = {id(ref.layer): ref.holder for ref in layer_refs(copied)}
    found = {}
    for ref in chosen:
        is_wrapped = isinstance(ref.holder, layers.WeightNormalization)
        if isinstance(ref.layer, keras.layers.RNN) and not is_wrapped:
            for cell in getattr(ref.layer.cell, "cells", [ref.layer.cell]):
                path = f"{ref.path}/{cell.name}"
                found[id(cell)] = replace(ref, path=path, layer=cell, holder=ref.layer)
        else:
            # A wrapper of the recurrent layer owns the kernels of the cell.
            wrapper = holders.get(id(ref.holder))
            is_owned = isinstance(wrapper, layers.WeightNormalization)
            found.setdefault(id(ref.layer), replace(ref, holder=wrapper) if is_owned else ref)
    return list(found.values())


def _check_kernel_is_free(ref: LayerRef) -> None:
    """Raises `SkipLayer` if something other than the layer itself determines its kernel."""
    layer = ref.layer
    if any(map(kernels, [layer, layer.cell] if isinstance(layer, keras.layers.RNN) else [layer])):
        raise SkipLayer("its kernels are computed from angles and scale")
    if isinstance(ref.holder, keras.layers.SpectralNormalization | layers.WeightNormalization):
        raise SkipLayer(f"{type(ref.holder).__name__} owns its kernel")
    if getattr(layer, "quantization_mode", None) is not None:
        raise SkipLayer("it is quantized")
    if getattr(layer, "lora_enabled", False):
        raise SkipLayer("it has LoRA weights")


def _to_geometric(ref: LayerRef) -> str:
    layer = ref.layer
    counterpart = _counterpart(layer)
    if counterpart is None:
        return _parametrize(ref)
    _check_kernel_is_free(ref)
    names = [f"{part}_regularizer" for part in KERNELS if hasattr(layer, f"{part}_regularizer")]
    on_norm = _norm_regularizer([getattr(layer, name) for name in names])
    new = counterpart(
        **shared_arguments(layer),
        activation=layer.activation,
        scale_inside=not is_positively_homogeneous(layer.activation) or _has_other_bias(layer),
        scale_regularizer=on_norm,
    )
    if not isinstance(new, GmP | GmPSeparableConv):
        raise TypeError(
            f"`counterpart` must be a geometric layer of keras_actlab.layers, or return one. Received: {new!r}, from "
            f"{layer.name!r} of type {type(layer).__name__}"
        )
    parts = _parts(new, layer)
    try:
        with scope_of(layer), starting_with_zeros(*(part for part, _, _ in parts)):
            new.build_from_config(layer.get_build_config())
    except ValueError as error:
        raise SkipLayer(f"its build config does not have the shape of its input: {error}") from error
    for part, kernel, bias in parts:
        _set(part, kernel, bias)
    named = [f"{part}_{kind}" for kind in ("regularizer", "constraint") for part in (*KERNELS, "bias")]
    lost = [name for name in named if getattr(layer, name, None) is not None and not (on_norm and name in names)]
    replace_in_place(layer, new)
    return f"without {', '.join(lost)}" if lost else ""


def _counterpart(layer: keras.layers.Layer) -> Any:
    """The class, or method, that makes the geometric layer: the one that the layer names, or that for Keras' class."""
    own: Any = getattr(layer, "counterpart", None)
    return own if callable(own) else COUNTERPARTS.get(type(layer))


def _norm_regularizer(regularizers: list[Any]) -> Any:
    """The regularizer of the kernels, if it is one of their norms, and the same for all."""
    if regularizers and all(type(one) is keras.regularizers.L2 for one in regularizers):
        return regularizers[0] if len({float(one.l2) for one in regularizers}) == 1 else None
    return None


def _has_other_bias(layer: keras.layers.Layer) -> bool:
    """Whether the bias of an EinsumDense has other axes than the units."""
    if not isinstance(layer, keras.layers.EinsumDense) or layer.bias_axes is None:
        return False
    operands, _, output = layer.equation.partition("->")
    units = set(operands.partition(",")[2]) & set(output)
    return set(layer.bias_axes) != units


def _parts(
    new: keras.layers.Layer, layer: keras.layers.Layer
) -> list[tuple[GmP, keras.Variable, keras.Variable | None]]:
    """The geometric layers that `new` is made of, each with the kernel and the bias of `layer` that it gets."""
    bias = getattr(layer, "bias", None)
    if isinstance(new, GmPSeparableConv):
        return [(new.depthwise, layer.depthwise_kernel, None), (new.pointwise, layer.pointwise_kernel, bias)]
    return [(new, layer.kernel, bias)]


def _set(new: GmP, kernel: keras.Variable, bias: keras.Variable | None) -> None:
    """Gives a geometric layer the angles, radius and scale that make it what a plain one is. Raises `SkipLayer`."""
    columns = columns_of(kernel, new.unit_axes)
    norm = norms(columns)
    own_bias = new.radius is not None and bias is not None
    # The plain layer may keep its biases in another order than that of the units.
    biases = np.zeros_like(norm)
    if own_bias:
        order = keras.ops.convert_to_numpy(new.in_plain_shape(np.arange(len(norm))))
        biases[order.ravel()] = to_float32(bias).ravel()
    # Beside such a bias, the weights have no effect in float32.
    vanishing = (norm <= 1e-7 * np.abs(biases)) | vanish(columns)
    constant = vanishing & (biases != 0)
    if new.activation is keras.activations.relu:
        constant &= biases > 0  # the output of the others is 0, as it is with a scale of 0
    if constant.any():
        raise SkipLayer(f"the weights of unit {np.flatnonzero(constant)[0]} vanish, but its bias does not")
    columns = np.where(vanishing, 1.0, columns)
    if new.angles is None:
        new.sign.assign(np.where(columns[0] < 0, -1.0, 1.0))
    else:
        new.angles.assign(precise_angles(columns))
    scale = closest_scale(columns, columns_of(new.direction, new.unit_axes))
    new.scale.assign(np.where(vanishing, 0.0, scale))
    if own_bias:
        new.radius.assign(biases / np.where(vanishing, 1.0, scale))
    elif bias is not None:
        new.plain_bias.assign(to_float32(bias).ravel())


def _to_weight_normalized(ref: LayerRef) -> str:
    layer = ref.layer
    if not isinstance(layer, keras.layers.Layer):
        raise SkipLayer(f"{type(layer).__name__} is a function in the graph, not a layer")
    _check_kernel_is_free(ref)
    if isinstance(ref.holder, keras.layers.RNN):
        raise SkipLayer("it is a cell; `where` may name its recurrent layer")
    if isinstance(layer, keras.layers.RNN) and isinstance(ref.holder, keras.layers.Bidirectional):
        raise SkipLayer("Bidirectional computes with its cell")
    try:
        new = layers.WeightNormalization(
            move_to_new_object(layer), name=layer.name, trainable=layer.trainable, dtype=layer.dtype_policy
        )
    except ValueError as error:
        raise SkipLayer(f"{type(layer).__name__} is no layer that WeightNormalization takes") from error
    with scope_of(layer):
        new.build_from_config(layer.get_build_config())
    replace_in_place(layer, new)
    return ""
