"""Weight normalization of Keras layers with a kernel."""

import math
from operator import attrgetter
from typing import Any, Self

import keras

from keras_actlab import ops
from keras_actlab._private import keras_layers
from keras_actlab.layers.arguments import Shape
from keras_actlab.layers.folding import check_not_overridden
from keras_actlab.layers.kernels import fan_in_axes
from keras_actlab.layers.quantization import Unquantized, allow_quantization, refuse_quantization
from keras_actlab.layers.replacement import Replacement
from keras_actlab.ops.tensor import Tensor, concrete


@keras.saving.register_keras_serializable(package="keras_actlab")
class WeightNormalization(Unquantized, Replacement, keras.layers.Wrapper):
    """Weight normalization: a wrapper that gives a layer separate parameters for the norm and direction of its weights.

    `kernel = scale * v / norm(v)` (equation 2 of the paper), with the norm over the weights of each unit.

    - `v` is the kernel variable of the wrapped layer, with its initial value. Its norm has no effect. A unit that
      starts with zero weights has no direction: it gets equal entries in `v` and a `scale` of 0, so that it can learn.
      This fails if TensorFlow builds the model within `fit`: build the model before `fit`, or use another initializer
      than zeros.
    - `scale` (g in the paper below), one per unit, starts at `norm(v)`, so that the outputs at first equal those of the
      wrapped layer.

    A unit of Dense and of the convolutions is an output channel. A unit of a depthwise convolution is a pair of input
    channel and multiplier. A unit of an EinsumDense is an index into the axes that its kernel and output have in
    common. Separable convolutions have two kernels, and so a `depthwise_scale` and a `pointwise_scale`; recurrent
    layers have a `scale` and a `recurrent_scale`, and their units are the entries of all gates.

    Gradients flow through the norm, which is computed in float32 under every mixed policy. Bias, activation and all
    other parts of the wrapped layer are unchanged. The kernel's regularizer and constraint act on `v`.

    Args:
        layer: A Dense, EinsumDense, Conv1D/2D/3D, Conv1D/2D/3DTranspose, DepthwiseConv1D/2D, SeparableConv1D/2D,
            SimpleRNN, LSTM, GRU, ConvLSTM1D/2D/3D, or a SimpleRNNCell, LSTMCell or GRUCell without dropout. It may be
            built, but neither quantized nor have LoRA. Use it only through the wrapper afterwards. The kernels of a
            recurrent layer are computed once per call, those of a cell once per time step.
        **kwargs: Base layer arguments, such as `name` and `dtype`. `dtype` and `trainable` default to those of the
            wrapped layer.

    Call arguments:
        inputs: Input of the wrapped layer.
        initial_state: Initial states of a recurrent layer, or the current states of a cell.
        mask: Passed on to a recurrent layer.
        training: Passed on to the wrapped layer.

    Input shape:
        That of the wrapped layer.

    Output shape:
        That of the wrapped layer.

    Raises:
        ValueError: If the layer has an unsupported type, is quantized or has LoRA, is an EinsumDense that sums over no
            axis of its kernel, or is a cell with dropout.
        TypeError: If `layer` is not a layer.

    Example:

    >>> layer = keras_actlab.layers.WeightNormalization(keras.layers.Conv2D(8, 3, activation="relu"))
    >>> tuple(layer(np.ones((2, 6, 6, 4))).shape)
    (2, 4, 4, 8)
    >>> [weight.name for weight in layer.weights]
    ['scale', 'kernel', 'bias']

    Reference:

    - [Salimans and Kingma, 2016](https://arxiv.org/abs/1602.07868), "Weight Normalization: A Simple Reparameterization
      to Accelerate Training of Deep Neural Networks".
    """

    def __init__(self, layer: keras.Layer, **kwargs: Any) -> None:
        if not isinstance(layer, keras.Layer):
            raise TypeError(
                f"`layer` must be a Keras layer. Received: layer={layer!r} (of type {type(layer).__name__})"
            )
        _check_layer(layer)
        super().__init__(layer, **{"dtype": layer.dtype_policy, "trainable": layer.trainable} | kwargs)
        self.supports_masking = layer.supports_masking
        refuse_quantization(layer, self)
        # Rematerialization (`keras.RematScope`) of the wrapped layer alone would recompute it in the backward pass with
        # v in place of the kernel. The wrapper's own mode covers the wrapped layer.
        keras_layers.disable_rematerialization(layer)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        for kernel, axes in _unit_axes(self.layer).items():
            setattr(self, _scale_of(kernel), self._add_scale(kernel, axes))
        # An activation layer that is built within `_Substitution` would get placeholders as initial values.
        activation = getattr(self.layer, "activation", None)
        if isinstance(activation, keras.Layer) and not activation.built:
            activation.build(self.layer.compute_output_shape(input_shape))

    def _add_scale(self, kernel: str, unit_axes: tuple[int, ...]) -> keras.Variable:
        v = attrgetter(kernel)(self.layer)
        keras_layers.set_autocast(v, False)  # the norm needs all digits of v
        norm_axes = fan_in_axes(len(v.shape), unit_axes)

        def norm_of_v(shape: Shape, dtype: str) -> Tensor:
            unit = ops.unit_vectors(v, norm_axes)
            norm = keras.ops.sum(unit * keras.ops.cast(v, unit.dtype), axis=norm_axes)
            # Within a trace there are no values, and Keras calls this again outside of it. The exception is a trace of
            # `fit` on TensorFlow, which is run without another call.
            values = concrete(unit)
            if values is not None and not values.any(axis=norm_axes).all():
                equal = math.prod(v.shape[axis] for axis in norm_axes) ** -0.5
                present = values.any(axis=norm_axes, keepdims=True)
                v.assign(keras.ops.where(present, keras.ops.convert_to_tensor(v), equal))
            return keras.ops.cast(norm, dtype)

        return self.add_weight(
            name=_scale_of(kernel),
            shape=tuple(v.shape[axis] for axis in unit_axes),
            initializer=norm_of_v,
            autocast=False,
            dtype=keras.backend.result_type(self.variable_dtype, "float32"),
        )

    def normalized_kernels(self) -> dict[str, Tensor]:
        """Returns `scale * v / norm(v)` by the name of the wrapped layer's kernel attribute.

        Returns:
            The kernels of the wrapped layer before the cast to its compute dtype: float32 or wider.

        Raises:
            ValueError: If the wrapper is not built, or the wrapped layer is quantized or has LoRA.
        """
        if not self.built:
            raise ValueError(f"Layer {self.name!r} has no `normalized_kernels` before it is built.")
        _check_layer(self.layer)
        kernels = {}
        for kernel, unit_axes in _unit_axes(self.layer).items():
            v = attrgetter(kernel)(self.layer)
            unit = ops.unit_vectors(v, fan_in_axes(len(v.shape), unit_axes))
            shape = [1] * len(v.shape)
            for axis in unit_axes:
                shape[axis] = v.shape[axis]
            scale = keras.ops.cast(getattr(self, _scale_of(kernel)), unit.dtype)
            kernels[kernel] = unit * keras.ops.reshape(scale, shape)
        return kernels

    def call(
        self, inputs: Tensor, initial_state: Any = None, mask: Tensor | None = None, training: bool | None = None
    ) -> Any:
        inputs = keras.ops.cast(inputs, self.compute_dtype)
        if inputs.shape[0] == 0 and initial_state is None and keras.backend.backend() == "tensorflow":
            # On TensorFlow 2.21 with oneDNN, convolving an empty batch gives a wrong number of channels or raises.
            shapes = self.compute_output_shape(inputs.shape)
            return keras.tree.map_shape_structure(lambda shape: keras.ops.zeros(shape, self.compute_dtype), shapes)
        substitution = _Substitution()
        for name, kernel in self.normalized_kernels().items():
            substitution.put(attrgetter(name)(self.layer), keras.ops.cast(kernel, self.layer.compute_dtype))
        states = () if initial_state is None else (initial_state,)
        is_masked = mask is not None and "mask" in self.layer.call_signature_parameters
        with substitution:
            outputs = self.layer(inputs, *states, training=training, **({"mask": mask} if is_masked else {}))
        for variable, value in substitution.updates:
            variable.assign(value)
        for loss in substitution.losses:
            self.add_loss(loss)
        # The wrapped layer and an activation layer may have other dtype policies.
        return keras.tree.map_structure(lambda output: keras.ops.cast(output, self.compute_dtype), outputs)

    @property
    def state_size(self) -> Any:
        """That of a wrapped cell, for `keras.layers.RNN`."""
        return self.layer.state_size

    @property
    def output_size(self) -> Any:
        """That of a wrapped cell, for `keras.layers.RNN`."""
        return self.layer.output_size

    def get_initial_state(self, batch_size: int | None = None) -> Any:
        """Returns that of a wrapped recurrent layer or cell."""
        return self.layer.get_initial_state(batch_size)

    @property
    def kernel(self) -> Tensor:
        """The normalized kernel in the compute dtype, if the wrapped layer has a single `kernel`; read-only."""
        # Not an AttributeError, because PyTorch's attribute lookup would replace its message.
        kernels = self.normalized_kernels()
        if "kernel" not in kernels:
            raise ValueError(
                f"{type(self.layer).__name__} {self.layer.name!r} has no `kernel`. Read `normalized_kernels()`, which "
                f"has: {list(kernels)}"
            )
        return keras.ops.cast(kernels["kernel"], self.layer.compute_dtype)

    @property
    def bias(self) -> keras.Variable | None:
        """The wrapped layer's bias."""
        return getattr(self.layer, "bias", None)

    def fold(self) -> keras.layers.Layer:
        """Returns the wrapped layer with its normalized kernels. Raises SkipLayer if a subclass overrides `call`."""
        check_not_overridden(self, "normalized_kernels", ("call",))
        for name, kernel in self.normalized_kernels().items():
            variable = attrgetter(name)(self.layer)
            variable.assign(kernel)
            keras_layers.set_autocast(variable, True)  # as Keras made it, before the wrapper needed all its digits
        allow_quantization(self.layer)
        return self.layer

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None) -> Tensor | None:
        return self.layer.compute_mask(inputs, previous_mask)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        # With it, Keras would build nested layers before the wrapper, with shorter variable paths.
        layer = config["layer"]
        layer.pop("build_config", None)
        if isinstance(layer["config"].get("activation"), dict):
            layer["config"]["activation"].pop("build_config", None)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        return super().from_config(dict(config), custom_objects)  # a copy, because Keras removes the layer from it


class _Substitution(keras.StatelessScope):
    """A scope in which the kernels of the wrapped layer read as the normalized ones. All other state is unaffected.

    Keras has no other means, safe among threads and within traces, to call a layer with substitutes for its variables.
    A stateless scope captures updates and losses, but the wrapper must pass them on. Losses go to the enclosing
    stateless scope, or else to `losses`; updates are collected in `updates`.
    """

    def __init__(self) -> None:
        super().__init__(collect_losses=True)
        self.updates: list[tuple[keras.Variable, Tensor]] = []

    def put(self, variable: keras.Variable, value: Tensor) -> None:
        """Makes reading `variable` return `value`."""
        super().add_update((variable, value))

    def __enter__(self) -> Self:
        super().__enter__()
        if self.original_scope is not None:
            self.collect_losses = self.original_scope.collect_losses
        return self

    def get_current_value(self, variable: keras.Variable) -> Tensor | None:
        value = super().get_current_value(variable)
        if value is None and self.original_scope is not None:
            value = self.original_scope.get_current_value(variable)
        return value

    def add_update(self, update: tuple[keras.Variable, Tensor]) -> None:
        super().add_update(update)
        self.updates.append(update)

    def add_loss(self, loss: Tensor) -> None:
        if self.original_scope is None:
            super().add_loss(loss)
        else:
            self.original_scope.add_loss(loss)


def _check_layer(layer: keras.Layer) -> None:
    """Raises unless the wrapper supports the layer."""
    _unit_axes(layer)
    lora_rank = getattr(layer, "lora_rank", None)
    if layer.quantization_mode is not None or lora_rank is not None:
        raise ValueError(
            "`layer` must neither be quantized nor have LoRA. "
            f"Received: layer={layer!r}, quantization_mode={layer.quantization_mode!r}, lora_rank={lora_rank}"
        )


def _unit_axes(layer: keras.Layer) -> dict[str, tuple[int, ...]]:
    """Returns the unit axes of each kernel of the layer, by the name of the kernel's attribute."""
    kinds = keras.layers
    match layer:
        case kinds.Dense() | kinds.Conv1D() | kinds.Conv2D() | kinds.Conv3D():
            return {"kernel": (-1,)}
        case kinds.Conv1DTranspose() | kinds.Conv2DTranspose() | kinds.Conv3DTranspose():
            return {"kernel": (-2,)}
        case kinds.DepthwiseConv1D() | kinds.DepthwiseConv2D():
            return {"kernel": (-2, -1)}
        case kinds.SeparableConv1D() | kinds.SeparableConv2D():
            return {"depthwise_kernel": (-2, -1), "pointwise_kernel": (-1,)}
        case kinds.SimpleRNN() | kinds.LSTM() | kinds.GRU():
            return {"cell.kernel": (-1,), "cell.recurrent_kernel": (-1,)}
        case kinds.ConvLSTM1D() | kinds.ConvLSTM2D() | kinds.ConvLSTM3D():
            return {"cell.kernel": (-1,), "cell.recurrent_kernel": (-1,)}
        case kinds.SimpleRNNCell() | kinds.LSTMCell() | kinds.GRUCell():
            if layer.dropout or layer.recurrent_dropout:
                raise ValueError(
                    "`layer` must not be a cell with dropout, whose masks its recurrent layer draws: wrap that one. "
                    f"Received: layer={layer!r}, dropout={layer.dropout}, recurrent_dropout={layer.recurrent_dropout}"
                )
            return {"kernel": (-1,), "recurrent_kernel": (-1,)}
        case kinds.EinsumDense():
            operands, _, output = layer.equation.partition("->")
            letters = operands.partition(",")[2]
            if set(letters) <= set(output):
                raise ValueError(
                    "`layer` must sum over an axis of its kernel. "
                    f"Received: layer={layer!r}, equation={layer.equation!r}"
                )
            return {"kernel": tuple(axis for axis, letter in enumerate(letters) if letter in output)}
    raise ValueError(
        "`layer` must be a Dense, EinsumDense, Conv1D/2D/3D, Conv1D/2D/3DTranspose, DepthwiseConv1D/2D, "
        "SeparableConv1D/2D, SimpleRNN, LSTM, GRU, ConvLSTM1D/2D/3D or a cell of these. "
        f"Received: layer={layer!r} (of type {type(layer).__name__})"
    )


def _scale_of(kernel: str) -> str:
    """Returns the name of the scale of a kernel attribute."""
    return kernel.rpartition(".")[2].replace("kernel", "scale")
