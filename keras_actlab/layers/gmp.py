"""The geometric parameterization of any layer whose units are affine maps."""

import math
from typing import Any, TypedDict, Unpack

import keras
import numpy as np

from keras_actlab import ops
from keras_actlab.arguments import resolve
from keras_actlab.initializers import UniformSphereAngles
from keras_actlab.layers.activations import is_positively_homogeneous
from keras_actlab.layers.arguments import (
    Activation,
    Constraint,
    Initializer,
    Regularizer,
    Shape,
    activation_function,
    boolean,
)
from keras_actlab.layers.folding import check_not_overridden, fold_geometric
from keras_actlab.layers.kernels import direction_of, from_columns, to_columns
from keras_actlab.layers.quantization import Unquantized, refuse_quantization
from keras_actlab.layers.replacement import Replacement
from keras_actlab.ops.tensor import Tensor, along_axis, concrete


class BaseArguments(TypedDict, total=False):
    """The arguments of every Keras layer."""

    name: str | None
    dtype: Any
    trainable: bool
    autocast: bool
    activity_regularizer: Regularizer


class GeometricArguments(BaseArguments, total=False):
    """The keyword arguments of every geometric layer."""

    scale_inside: bool
    kernel_initializer: Initializer
    angles_initializer: Initializer
    angles_regularizer: Regularizer
    angles_constraint: Constraint
    radius_initializer: Initializer
    radius_regularizer: Regularizer
    radius_constraint: Constraint
    scale_initializer: Initializer
    scale_regularizer: Regularizer
    scale_constraint: Constraint


# Arguments of plain layers that geometric layers lack, each with its replacement.
PLAIN_ARGUMENTS = {
    "kernel_regularizer": "`scale_regularizer`, which acts on the norm, or `angles_regularizer`",
    "kernel_constraint": "`scale_constraint` or `angles_constraint`",
    "bias_initializer": "`radius_initializer`",
    "bias_regularizer": "`radius_regularizer`",
    "bias_constraint": "`radius_constraint`",
}


class GmP(Unquantized, Replacement):
    """Base class of the geometric layers: `z = scale * activation(direction . x + radius)`.

    The kernel may have any rank. Its `unit_axes` index the units; the other axes hold the weights of one unit, its
    fan-in. A subclass defines:

    - `plain`: the Keras layer that it is the counterpart of;
    - `kernel_shape` and `compute_output_shape`: the shapes of kernel and output for an input;
    - `apply_kernel`: the operation of the kernel on the input;
    - `unit_axis` or `along_units`: the axis of the output along which the units lie.
    """

    plain: type[keras.layers.Layer]
    # `build` creates these variables or leaves them None. `sign` replaces `angles` if the fan-in is 1; `plain_bias`
    # replaces `radius` in a GmPEinsumDense whose bias does not have one entry per unit.
    angles: Any
    sign: Any
    radius: Any
    scale: Any
    plain_bias: Any = None
    unit_axes: tuple[int, ...] = (-1,)
    unit_axis: int = -1

    def __init__(
        self,
        activation: Activation = None,
        use_bias: bool = True,
        *,
        scale_inside: bool = False,
        kernel_initializer: Initializer = None,
        angles_initializer: Initializer = None,
        angles_regularizer: Regularizer = None,
        angles_constraint: Constraint = None,
        radius_initializer: Initializer = "zeros",
        radius_regularizer: Regularizer = None,
        radius_constraint: Constraint = None,
        scale_initializer: Initializer = None,
        scale_regularizer: Regularizer = None,
        scale_constraint: Constraint = None,
        **kwargs: Unpack[BaseArguments],
    ) -> None:
        for name, instead in PLAIN_ARGUMENTS.items():
            if name in kwargs:
                raise ValueError(
                    f"`{name}` is no argument of {type(self).__name__}, whose kernel is `scale * direction`: use "
                    f"{instead}. Received: {name}={kwargs[name]!r}"  # type: ignore[literal-required]
                )
        super().__init__(**kwargs)
        if kernel_initializer is not None and (angles_initializer is not None or scale_initializer is not None):
            raise ValueError(
                "`kernel_initializer` determines the start of angles and scale, so `angles_initializer` and "
                f"`scale_initializer` must be None beside it. Received: kernel_initializer={kernel_initializer}, "
                f"angles_initializer={angles_initializer}, scale_initializer={scale_initializer}"
            )
        self.angles = self.sign = self.radius = self.scale = None
        self.activation = activation_function(activation)
        self.use_bias = boolean("use_bias", use_bias)
        self.scale_inside = boolean("scale_inside", scale_inside)
        self.kernel_initializer = resolve(keras.initializers.get, "kernel_initializer", kernel_initializer)
        self.angles_initializer = resolve(keras.initializers.get, "angles_initializer", angles_initializer)
        self.angles_regularizer = resolve(keras.regularizers.get, "angles_regularizer", angles_regularizer)
        self.angles_constraint = resolve(keras.constraints.get, "angles_constraint", angles_constraint)
        self.radius_initializer = keras.initializers.get("zeros" if radius_initializer is None else radius_initializer)
        self.radius_regularizer = resolve(keras.regularizers.get, "radius_regularizer", radius_regularizer)
        self.radius_constraint = resolve(keras.constraints.get, "radius_constraint", radius_constraint)
        self.scale_initializer = resolve(keras.initializers.get, "scale_initializer", scale_initializer)
        self.scale_regularizer = resolve(keras.regularizers.get, "scale_regularizer", scale_regularizer)
        self.scale_constraint = resolve(keras.constraints.get, "scale_constraint", scale_constraint)

    def kernel_shape(self, input_shape: Shape) -> tuple[int, ...]:
        """Returns the shape of the plain layer's kernel. Raises ValueError if the input does not fit."""
        raise NotImplementedError

    def apply_kernel(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """Returns the output of the plain layer with `kernel`, without bias and activation."""
        raise NotImplementedError

    def along_units(self, vector: Tensor, rank: int) -> Tensor:
        """Returns `vector`, (units,), reshaped to broadcast with an output that has `rank` axes."""
        return along_axis(vector, self.unit_axis, rank)

    def along_bias(self, vector: Tensor, rank: int) -> Tensor:
        """Returns `vector`, one entry per entry of the bias, reshaped to broadcast with an output."""
        return self.along_units(vector, rank)

    def build(self, input_shape: Shape) -> None:
        self._kernel_shape = self.kernel_shape(input_shape)
        units = math.prod(self._kernel_shape[axis] for axis in self.unit_axes)
        fan_in = math.prod(self._kernel_shape) // units
        angles, scale, sign = self._starting_values()
        if fan_in > 1:
            self.angles = self._add_geometric("angles", (fan_in - 1, units), angles)
        else:
            self.sign = self.add_weight(
                name="sign",
                shape=(units,),
                initializer=sign,
                trainable=False,
                autocast=False,
                dtype=self._geometric_dtype,
            )
        self._add_bias(units)
        self.scale = self._add_geometric("scale", (units,), scale)
        # An activation layer that is already built, for example a shared one, is left unchanged.
        if isinstance(self.activation, keras.layers.Layer):
            if not self.activation.built:
                self.activation.build(self.compute_output_shape(input_shape))
            refuse_quantization(self.activation, self)

    def _add_bias(self, units: int) -> None:
        if self.use_bias:
            self.radius = self._add_geometric("radius", (units,), self.radius_initializer)

    @property
    def _geometric_dtype(self) -> str:
        """Float32 or wider for every dtype policy, because a kernel is a product of thousands of sines of angles."""
        return keras.backend.result_type(self.variable_dtype, "float32")

    def _add_geometric(self, name: str, shape: tuple[int, ...], initializer: Initializer) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer,
            regularizer=getattr(self, f"{name}_regularizer"),
            constraint=getattr(self, f"{name}_constraint"),
            autocast=False,  # the kernel is cast once it is computed
            dtype=self._geometric_dtype,
        )

    def _starting_values(self) -> tuple[Initializer, Initializer, Initializer]:
        """Returns the initializers of angles, scale and, for a fan-in of 1, sign."""
        initializer = self.kernel_initializer or keras.initializers.RandomNormal(stddev=1.0)
        drawn: list[np.ndarray] = []

        def kernel() -> Tensor:
            """Returns one kernel, drawn once, from which angles and scale start; within a trace, a placeholder."""
            if drawn:
                return keras.ops.convert_to_tensor(drawn[0])
            columns = to_columns(initializer(self._kernel_shape, dtype="float32"), self.unit_axes)
            values = concrete(columns)
            if values is not None:
                drawn.append(values)
            return columns

        def angles(shape: Shape, dtype: str) -> Tensor:
            return keras.ops.cast(ops.direction_to_angles(kernel()), dtype)

        def scale(shape: Shape, dtype: str) -> Tensor:
            return keras.ops.cast(keras.ops.norm(kernel(), axis=0), dtype)

        def sign(shape: Shape, dtype: str) -> Tensor:
            return keras.ops.cast(keras.ops.where(kernel()[0] < 0, -1.0, 1.0), dtype)

        if self.kernel_initializer is not None:
            return angles, scale, sign
        return self.angles_initializer or UniformSphereAngles(), self.scale_initializer or "ones", sign

    @property
    def direction(self) -> Tensor:
        """The unit vectors u(angles) in the shape of the plain layer's kernel; float32 or wider."""
        return from_columns(self._columns("direction"), self._kernel_shape, self.unit_axes)

    def _columns(self, wanted: str) -> Tensor:
        """Returns the unit vectors, (fan_in, units)."""
        if not self.built:
            # Not an AttributeError, because PyTorch's attribute lookup would replace its message.
            raise ValueError(f"Layer {self.name!r} has no `{wanted}` before it is built.")
        if self.angles is None:
            return keras.ops.reshape(self.sign, (1, -1))
        return direction_of(self.angles)

    @property
    def kernel(self) -> Tensor:
        """`scale * direction`, the kernel of the plain layer that `fold` returns, in the compute dtype; read-only.

        If the scale multiplies the output of the activation, the kernel exists only for positively homogeneous
        activations, such as ReLU. The output of a unit with a negative scale is then `-activation(-(kernel . x +
        bias))`.
        """
        self._check_plain("kernel")
        return keras.ops.cast(self._scaled_kernel(), self.compute_dtype)

    @property
    def bias(self) -> Tensor | None:
        """`scale * radius`, the bias that belongs to `kernel`, in the plain layer's shape; None without a radius."""
        if not self.use_bias:
            return None
        self._check_plain("bias")
        return self.in_plain_shape(keras.ops.cast(self._scaled_bias(), self.compute_dtype))

    def in_plain_shape(self, vector: Tensor) -> Tensor:
        """Returns a bias with one entry per unit in the shape of the plain layer's bias."""
        return vector

    def _check_plain(self, wanted: str) -> None:
        if not (self.scale_inside or is_positively_homogeneous(self.activation)):
            raise ValueError(
                f"Layer {self.name!r} has no `{wanted}`, because its scale multiplies the output of an activation that "
                "is not positively homogeneous, so no plain layer with this activation computes the same. Give the "
                f"layer scale_inside=True, or read `direction`, `radius` and `scale`. Received: {self.activation}"
            )

    def _scaled_kernel(self) -> Tensor:
        columns = self._columns("kernel")
        return from_columns(columns * keras.ops.convert_to_tensor(self.scale), self._kernel_shape, self.unit_axes)

    def _scaled_bias(self) -> Tensor:
        if not self.built:
            raise ValueError(f"Layer {self.name!r} has no `bias` before it is built.")
        return keras.ops.convert_to_tensor(self.radius) * self.scale

    def preactivation(self, inputs: Tensor) -> Tensor:
        """Returns the input of the activation: `direction . x + radius`, times the scale if `scale_inside`.

        Args:
            inputs: The layer's input.

        Returns:
            Tensor of the output's shape, in the compute dtype.

        Raises:
            ValueError: If the layer is not built.
        """
        return self._affine(inputs, self.scale_inside)

    def _affine(self, inputs: Tensor, scaled: bool) -> Tensor:
        # The scale multiplies in float32, so that a half-precision kernel is rounded only once.
        kernel = self._scaled_kernel() if scaled else self.direction
        if inputs.shape[0] == 0:  # on TensorFlow 2.21, convolving an empty batch gives a wrong number of channels
            outputs = keras.ops.zeros((0, *self.compute_output_shape((1, *inputs.shape[1:]))[1:]), self.compute_dtype)
        else:
            outputs = self.apply_kernel(*(keras.ops.cast(x, self.compute_dtype) for x in (inputs, kernel)))
        if self.use_bias:
            bias = self._scaled_bias() if scaled else self.radius
            outputs = outputs + self.along_bias(keras.ops.cast(bias, self.compute_dtype), len(outputs.shape))
        return outputs

    def call(self, inputs: Tensor) -> Tensor:
        if self.activation is keras.activations.linear:
            return self._affine(inputs, scaled=True)
        # An activation layer may have another dtype policy.
        outputs = keras.ops.cast(self.activation(self.preactivation(inputs)), self.compute_dtype)
        if self.scale_inside:
            return outputs
        return outputs * self.along_units(keras.ops.cast(self.scale, self.compute_dtype), len(outputs.shape))

    def fold(self) -> keras.layers.Layer:
        """Returns the plain layer that computes the same. Raises SkipLayer where there is none."""
        check_not_overridden(self, "plain", ("call", "preactivation", "direction", "apply_kernel", "kernel_shape"))
        return fold_geometric(self, {"kernel": self})

    def get_config(self) -> dict[str, Any]:
        activation = keras.activations.serialize(self.activation)
        if isinstance(activation, dict):
            # With it, Keras would build the nested layer before its parent, with shorter variable paths.
            activation.pop("build_config", None)
        return super().get_config() | {
            "activation": activation,
            "use_bias": self.use_bias,
            "scale_inside": self.scale_inside,
            "activity_regularizer": keras.regularizers.serialize(self.activity_regularizer),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "angles_initializer": keras.initializers.serialize(self.angles_initializer),
            "angles_regularizer": keras.regularizers.serialize(self.angles_regularizer),
            "angles_constraint": keras.constraints.serialize(self.angles_constraint),
            "radius_initializer": keras.initializers.serialize(self.radius_initializer),
            "radius_regularizer": keras.regularizers.serialize(self.radius_regularizer),
            "radius_constraint": keras.constraints.serialize(self.radius_constraint),
            "scale_initializer": keras.initializers.serialize(self.scale_initializer),
            "scale_regularizer": keras.regularizers.serialize(self.scale_regularizer),
            "scale_constraint": keras.constraints.serialize(self.scale_constraint),
        }
