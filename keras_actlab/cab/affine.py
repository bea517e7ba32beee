"""Layers whose units are affine maps of the input, with the activation after them."""

from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_actlab import layers
from keras_actlab.layers.activations import is_activation
from keras_actlab.layers.gmp import GmP
from keras_actlab.ops.float64 import angles_to_direction

# A layer, or consecutive layers: normalization of the input, the affine layer, normalization of its output, activation.
# All but the affine layer are optional.
Units: TypeAlias = keras.layers.Layer | tuple[keras.layers.Layer, ...]
# Returns the values of a variable in float64, possibly with leading axes, such as one for training steps.
Read: TypeAlias = Callable[[keras.Variable], np.ndarray]

PLAIN = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
# MeanOnlyBatchNormalization is a subclass of InputMeanNormalization.
CHANNELWISE = (keras.layers.BatchNormalization, layers.InputMeanNormalization)


class AffineUnits:
    """The units of a layer as affine maps `w . x + b`, and the breakpoints of their activation.

    Args:
        units: A built layer, or a tuple of consecutive layers.

    Raises:
        TypeError: If `units` is neither.
        ValueError: If a layer is not built, there is not exactly one affine layer, or the order is wrong.
    """

    def __init__(self, units: Units):
        chain = units if isinstance(units, tuple) else (units,)
        if not chain or not all(isinstance(layer, keras.layers.Layer) for layer in chain):
            raise TypeError(f"`units` must be a Keras layer, or a tuple of Keras layers. Received: {units!r}")
        unbuilt = [layer.name for layer in chain if not layer.built]
        if unbuilt:
            raise ValueError(
                f"`units` must be built, as `model.build` does. Received: {_names(chain)}, of which {unbuilt} are not"
            )
        affine = [layer for layer in chain if is_affine(layer)]
        if len(affine) != 1:
            raise ValueError(
                "`units` must hold one affine layer: Dense, Conv1D, Conv2D or Conv3D, plain (neither quantized nor "
                f"with LoRA), geometric or weight-normalized. Received: {_names(chain)}"
            )
        self.layer = affine[0]
        self.name = self.layer.name
        self._plain = self.layer.layer if isinstance(self.layer, layers.WeightNormalization) else self.layer
        place = chain.index(self.layer)
        self.before, after = chain[:place], list(chain[place + 1 :])
        self.activation: Any = self._plain.activation
        self._followed = bool(after)
        linear = self.activation is keras.activations.linear
        if after and is_activation(after[-1]):
            self.activation = after.pop()
        self.after = tuple(after)
        if not all(isinstance(layer, CHANNELWISE) for layer in (*self.before, *self.after)) or (
            self._followed and not linear
        ):
            raise ValueError(
                "`units` must be, in this order: normalization of the input, an affine layer, normalization of its "
                f"output, and one activation. Received: {_names(chain)}, with the affine layer's "
                f"activation={self._plain.activation}"
            )
        if self.before and getattr(self._plain, "groups", 1) > 1:
            raise ValueError(
                f"`units` must not normalize the input of a grouped convolution. Received: {_names(chain)}, "
                f"groups={self._plain.groups}"
            )
        self._check_channels()
        self.variables: list[keras.Variable] = []
        self.maps(self._record)

    def _check_channels(self) -> None:
        """Raises unless normalizations act along the channels of the affine layer's input or along its units."""
        plain = self._plain
        is_geometric = isinstance(plain, GmP)  # its kernel is computed
        shape = plain.kernel_shape(plain.get_build_config()["input_shape"]) if is_geometric else plain.kernel.shape
        *_, channels, units = shape
        for layer in (*self.before, *self.after):
            size = channels if layer in self.before else units
            rank = len(layer.get_build_config()["input_shape"])
            expected = 1 if getattr(plain, "data_format", None) == "channels_first" else rank - 1
            if layer.axis % rank != expected or tuple(layer.moving_mean.shape) != (size,):
                raise ValueError(
                    f"`units` must be normalized along their {size} channels, axis {expected}. Received: "
                    f"{layer.name!r} with axis={layer.axis}, which has {layer.moving_mean.shape[0]}"
                )

    def _record(self, variable: keras.Variable) -> np.ndarray:
        """Returns the value of a variable and adds it to the variables on which the maps depend."""
        self.variables.append(variable)
        return current(variable)

    def maps(self, read: Read) -> tuple[np.ndarray, np.ndarray]:
        """Returns weights w, (..., n, units), and biases minus breakpoints, (..., units, breakpoints).

        The boundaries are `w . x + b = 0` with these biases. For a convolution, x is a patch of the input.
        """
        weights, bias = self._affine_layer_map(read)
        for layer in reversed(self.before):
            scale, shift = _channelwise(layer, read)
            positions = weights.shape[-2] // scale.shape[-1]
            scale, shift = (np.concatenate([part] * positions, axis=-1)[..., None] for part in (scale, shift))
            weights, bias = weights * scale, bias + np.sum(weights * shift, axis=-2)
        for layer in self.after:
            scale, shift = _channelwise(layer, read)
            weights, bias = weights * scale[..., None, :], bias * scale + shift
        return weights, bias[..., :, None] - self._bends(read)[..., None, :]

    def _affine_layer_map(self, read: Read) -> tuple[np.ndarray, np.ndarray]:
        layer = self.layer
        match layer:
            case GmP():
                weights = (
                    read(layer.sign)[..., None, :] if layer.angles is None else angles_to_direction(read(layer.angles))
                )
                bias = read(layer.radius) if layer.use_bias else np.zeros(weights.shape[-1])
                inside = layer.scale_inside or (self._followed and layer.activation is keras.activations.linear)
                if not inside:  # a scale after the activation does not move the boundary
                    return weights, bias
                scale = read(layer.scale)
                return weights * scale[..., None, :], bias * scale
            case layers.WeightNormalization():
                v = self._rows(read(self._plain.kernel))
                norm = np.linalg.norm(v, axis=-2, keepdims=True)
                weights = np.divide(v, norm, out=np.zeros_like(v), where=norm > 0) * read(layer.scale)[..., None, :]
            case _:
                weights = self._rows(read(layer.kernel))
        return weights, read(self._plain.bias) if self._plain.use_bias else np.zeros(weights.shape[-1])

    def _rows(self, kernel: np.ndarray) -> np.ndarray:
        """Returns a kernel, (..., *spatial, channels, units), reshaped to (..., n, units)."""
        leading = kernel.shape[: kernel.ndim - len(self._plain.kernel.shape)]
        return kernel.reshape(*leading, -1, kernel.shape[-1])

    def _bends(self, read: Read) -> np.ndarray:
        bends = _breakpoints(self.activation, read)
        # A smooth activation has no breakpoint; 0 is the kink of ReLU, which many of them resemble.
        return np.zeros(1) if bends is None or np.size(bends) == 0 else np.asarray(bends)


def is_affine(layer: keras.layers.Layer) -> bool:
    """Whether the units of a layer are affine maps whose weights can be read."""
    if isinstance(layer, layers.WeightNormalization):
        layer = layer.layer
    if isinstance(layer, GmP):
        return layer.plain in PLAIN
    changed = getattr(layer, "quantization_mode", None) is not None or getattr(layer, "lora_enabled", False)
    return type(layer) in PLAIN and not changed  # a subclass may compute something else


def breakpoints(activation: Any) -> tuple[float, ...] | None:
    """Returns where a piecewise linear activation bends or jumps, () if nowhere; None if it is not known to be one."""
    found = _breakpoints(activation, current)
    return None if found is None else tuple(float(value) for value in found)


def _breakpoints(activation: Any, read: Read) -> np.ndarray | tuple[float, ...] | None:
    """The breakpoints as `read` gives the variables that they depend on; they lie along the last axis."""
    own: Any = getattr(activation, "breakpoints", None)  # layers other than Keras' own define their breakpoints
    if own is not None:
        return own(read)
    match activation:
        case keras.layers.Activation():
            return _breakpoints(activation.activation, read)
        case keras.layers.LeakyReLU() | keras.layers.PReLU():
            return (0.0,)
        case keras.layers.ReLU():
            ends = (activation.threshold, activation.max_value)
            return tuple(float(end) for end in ends if end is not None)
    known: dict[Any, tuple[float, ...]] = {
        None: (),
        keras.activations.linear: (),
        keras.activations.relu: (0.0,),
        keras.activations.leaky_relu: (0.0,),
        keras.activations.relu6: (0.0, 6.0),
        keras.activations.hard_sigmoid: (-3.0, 3.0),
        keras.activations.hard_tanh: (-1.0, 1.0),
        keras.activations.hard_shrink: (-0.5, 0.5),
        keras.activations.soft_shrink: (-0.5, 0.5),
    }
    return known.get(activation)


def current(variable: keras.Variable) -> np.ndarray:
    """Returns a copy of the current value of a variable, in float64."""
    return np.array(keras.ops.convert_to_numpy(variable), "float64")


def _channelwise(layer: keras.layers.Layer, read: Read) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scale and shift of each channel at inference."""
    mean = read(layer.moving_mean)
    scale = np.ones_like(mean)
    if isinstance(layer, keras.layers.BatchNormalization):
        scale = 1.0 / np.sqrt(read(layer.moving_variance) + layer.epsilon)
        if layer.gamma is not None:
            scale = scale * read(layer.gamma)
    shift = -mean * scale
    beta = getattr(layer, "beta", None)
    return scale, shift if beta is None else shift + read(beta)


def _names(chain: tuple[keras.layers.Layer, ...]) -> str:
    return ", ".join(f"{layer.name} ({type(layer).__name__})" for layer in chain)
