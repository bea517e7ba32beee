"""From plain layers to geometric and to weight-normalized ones."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from keras_actlab import layers
from keras_actlab.conversion.places import Place
from keras_actlab.conversion.rewriting import Stays, Where, rewrite, warned
from keras_actlab.conversion.surgery import become, move, scope_of
from keras_actlab.layers.gmp import GmP, is_positively_homogeneous
from keras_actlab.layers.gmp_separable_conv import GmPSeparableConv

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
SHARED = (
    "units", "filters", "kernel_size", "strides", "padding", "output_padding", "data_format", "dilation_rate", "groups",
    "depth_multiplier", "equation", "output_shape", "bias_axes", "use_bias",
)  # fmt: skip


def to_gmp(model: keras.Model, where: Where = None, *, check: bool = True) -> keras.Model:
    """Returns a copy of `model` with its layers that have kernels in geometric form, and the same outputs.

    These are Dense, EinsumDense (with it, the projections of attention layers), and all convolutions: plain,
    transposed, depthwise and separable.

    A unit `activation(w . x + b)` becomes `r * activation(u(theta) . x + lambda)` (equation 13 of the paper) with
    `angles` theta of `w / ||w||`, `scale` `r = ||w||` and `radius` `lambda = b / ||w||`. That is the same where the
    activation is positively homogeneous, `activation(r z) = r activation(z)`: linear, ReLU, leaky ReLU, PReLU. With any
    other activation, GELU say, the layer gets `scale_inside=True`, `activation(r * (u(theta) . x + lambda))`.

    A unit whose weights are all 0 keeps its output: its scale is 0, and learns. Where it has a bias, too, and its
    output is not 0 (the bias of a ReLU is positive, say), no direction and radius give it, and the layer stays.

    The L2 regularizer of a kernel, which is that of its norm, goes to the scale. Other regularizers, and constraints,
    of kernel and bias have no counterpart; the report names them. Numbers of parameters stay the same with a bias, and
    without.

    Args:
        model: A model that is built. It is left unchanged. Composite layers and models within,
            such as those of keras-hub, are searched, too.
        where: Which layers: a name or path, a pattern such as `"block1_*"` or `"*/mlp/*"`, a class of layers, a
            function of a layer that returns True or False, or a list of these. None for all.
        check: Whether to compare the copy with `model`, and the result, too, on a small random batch. A difference
            raises a ValueError; where no such batch can be made, the report says so.

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
    return warned(rewrite(model, where, _has_kernel, _to_geometric, lambda copied, places: places, check=check))


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
    return warned(rewrite(model, where, _has_kernel, _to_weight_normalized, lambda copied, places: places, check=check))


def shared_arguments(layer: keras.layers.Layer) -> dict[str, Any]:
    """Returns the arguments that a plain layer and its geometric counterpart have in common, save the activation."""
    config = layer.get_config()
    return {
        **{key: config[key] for key in SHARED if key in config},
        "activity_regularizer": layer.activity_regularizer,
        "name": layer.name,
        "trainable": layer.trainable,
        "dtype": layer.dtype_policy,
    }


def _has_kernel(place: Place) -> bool:
    layer = place.layer
    if type(layer).__module__.startswith("keras_actlab.layers."):
        return False
    return hasattr(layer, "kernel") or hasattr(layer, "depthwise_kernel") or _holds_matrices(layer)


def _holds_matrices(layer: keras.Operation) -> bool:
    """Whether `layer` has stacked matrices of its own, as layers of experts have, which the report should list."""
    # An operation of the graph, which is no layer, has no variables.
    own = getattr(layer, "_trainable_variables", [])
    return any(len(variable.shape) > 2 and min(variable.shape) > 1 for variable in own)


def _check_kernel_is_free(place: Place) -> None:
    """Raises `Stays` where something other than the layer itself has a say in its kernel."""
    layer = place.layer
    if isinstance(place.holder, keras.layers.SpectralNormalization | layers.WeightNormalization):
        raise Stays(f"{type(place.holder).__name__} owns its kernel")
    if getattr(layer, "quantization_mode", None) is not None:
        raise Stays("it is quantized")
    if getattr(layer, "lora_enabled", False):
        raise Stays("it has LoRA weights")


def _to_geometric(place: Place) -> str:
    layer = place.layer
    if type(layer) not in COUNTERPARTS:
        raise Stays(f"{type(layer).__name__} has no geometric counterpart")
    _check_kernel_is_free(place)
    names = [f"{part}_regularizer" for part in KERNELS if hasattr(layer, f"{part}_regularizer")]
    on_norm = _norm_regularizer([getattr(layer, name) for name in names])
    new = COUNTERPARTS[type(layer)](
        **shared_arguments(layer),
        activation=layer.activation,
        scale_inside=not is_positively_homogeneous(layer.activation) or _has_other_bias(layer),
        scale_regularizer=on_norm,
    )
    parts = _parts(new, layer)
    try:
        with scope_of(layer), _zeros(part for part, _, _ in parts):
            new.build_from_config(layer.get_build_config())
    except ValueError as error:
        raise Stays(f"it does not say which input it was built for: {error}") from error
    for part, kernel, bias in parts:
        _set(part, kernel, bias)
    named = [f"{part}_{kind}" for kind in ("regularizer", "constraint") for part in (*KERNELS, "bias")]
    lost = [name for name in named if getattr(layer, name, None) is not None and not (on_norm and name in names)]
    become(layer, new)
    return f"without {', '.join(lost)}" if lost else ""


# What the regularizers and constraints of kernels are named after.
KERNELS = ("kernel", "depthwise", "pointwise")


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


@contextmanager
def _zeros(parts: Iterable[GmP]) -> Iterator[None]:
    """Within, angles start as zeros, which are about to be set, because random ones take long."""
    parts = list(parts)
    for part in parts:
        part.angles_initializer = keras.initializers.Zeros()
    yield
    for part in parts:
        part.angles_initializer = None


def _set(new: GmP, kernel: keras.Variable, bias: keras.Variable | None) -> None:
    """Gives a geometric layer the angles, radius and scale that make it what a plain one is. Raises `Stays`."""
    values = to_float32(kernel)
    ends = tuple(range(-len(new.unit_axes), 0))
    rows = np.moveaxis(values, new.unit_axes, ends).reshape(-1, new.scale.shape[0])
    norm = np.linalg.norm(rows.astype("float64"), axis=0)
    own_bias = new.radius is not None and bias is not None
    # The plain layer may keep its biases in another order than that of the units.
    biases = np.zeros_like(norm)
    if own_bias:
        order = keras.ops.convert_to_numpy(new.in_plain_shape(np.arange(len(norm))))
        biases[order.ravel()] = to_float32(bias).ravel()
    # Beside such a bias, float32 does not tell the weights from 0.
    vanishing = (norm <= 1e-7 * np.abs(biases)) | (np.abs(rows).max(axis=0) < np.finfo("float32").tiny)
    constant = vanishing & (biases != 0)
    if new.activation is keras.activations.relu:
        constant &= biases > 0  # the others put out 0, as they do with a scale of 0
    if constant.any():
        raise Stays(f"the weights of unit {np.flatnonzero(constant)[0]} vanish, but its bias does not")
    rows = np.where(vanishing, 1.0, rows).astype("float64")
    if new.angles is None:
        new.sign.assign(np.where(rows[0] < 0, -1.0, 1.0))
    else:
        new.angles.assign(_precise_angles(rows))
    # Not the norm, but the scale with which the direction comes closest to the weights: rounding makes products of
    # thousands of sines a few millionths too small, which would add up over the layers of a model.
    direction = np.moveaxis(to_float32(new.direction), new.unit_axes, ends).reshape(rows.shape).astype("float64")
    scale = np.sum(rows * direction, axis=0) / np.sum(direction**2, axis=0)
    new.scale.assign(np.where(vanishing, 0.0, scale))
    if own_bias:
        new.radius.assign(biases / np.where(vanishing, 1.0, scale))
    elif bias is not None:
        new.plain_bias.assign(to_float32(bias).ravel())


def _precise_angles(rows: np.ndarray) -> np.ndarray:
    """What `ops.direction_to_angles` gives, in float64.

    The arctan2 of some backends leans to one side near pi / 2, by a tenth of float32's resolution there. That moves all
    weights of a layer the same way, and over the 50 layers of a ResNet the outputs by 2e-5.
    """
    norms = np.sqrt(np.cumsum(rows[::-1] ** 2, axis=0)[::-1])
    return np.arctan2(np.concatenate([norms[1:-1], rows[-1:]]), rows[:-1]) % (2 * np.pi)


def _to_weight_normalized(place: Place) -> str:
    layer = place.layer
    if not isinstance(layer, keras.layers.Layer):
        raise Stays(f"{type(layer).__name__} is a function in the graph, not a layer")
    _check_kernel_is_free(place)
    if isinstance(place.holder, keras.layers.RNN):
        raise Stays("it is a cell; `where` may name its recurrent layer")
    if isinstance(layer, keras.layers.RNN) and isinstance(place.holder, keras.layers.Bidirectional):
        raise Stays("Bidirectional computes with its cell")
    try:
        new = layers.WeightNormalization(
            move(layer), name=layer.name, trainable=layer.trainable, dtype=layer.dtype_policy
        )
    except ValueError as error:
        raise Stays(f"{type(layer).__name__} is no layer that WeightNormalization takes") from error
    with scope_of(layer):
        new.build_from_config(layer.get_build_config())
    become(layer, new)
    return ""


def to_float32(variable: object) -> np.ndarray:
    """Returns the values of a variable or tensor, in float32 whatever its dtype."""
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32")))
