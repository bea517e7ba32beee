"""The geometric parameterization, for any layer whose units are affine maps."""

import math
from typing import Any

import keras
import numpy as np

from keras_actlab import ops
from keras_actlab.initializers import UniformSphereAngles
from keras_actlab.layers.arguments import Activation, Constraint, Initializer, Regularizer, Shape, boolean
from keras_actlab.layers.replacement import Replacement
from keras_actlab.ops.tensor import Tensor, along_axis, concrete


class GmP(Replacement):
    """`z = scale * activation(direction . x + radius)`: what `GmPDense` and the `GmPConv` layers share.

    A subclass says how many `units` there are, on which axis of the output they lie (`unit_axis`), which shape the
    kernel and the output have for an input (`kernel_shape`, `compute_output_shape`), and how the kernel acts on it
    (`apply_kernel`).
    """

    unit_axis: int = -1

    def __init__(
        self,
        units: int,
        activation: Activation,
        use_bias: bool,
        scale_inside: bool,
        kernel_initializer: Initializer,
        angles_initializer: Initializer,
        angles_regularizer: Regularizer,
        angles_constraint: Constraint,
        radius_initializer: Initializer,
        radius_regularizer: Regularizer,
        radius_constraint: Constraint,
        scale_initializer: Initializer,
        scale_regularizer: Regularizer,
        scale_constraint: Constraint,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if kernel_initializer is not None and (angles_initializer is not None or scale_initializer is not None):
            raise ValueError(
                "`kernel_initializer` determines the start of angles and scale, so `angles_initializer` and "
                f"`scale_initializer` must be None beside it. Received: kernel_initializer={kernel_initializer}, "
                f"angles_initializer={angles_initializer}, scale_initializer={scale_initializer}"
            )
        self.units = units
        self.angles = self.sign = self.radius = self.scale = None  # variables from `build` on
        self.activation = keras.activations.get(activation)
        self.use_bias = boolean("use_bias", use_bias)
        self.scale_inside = boolean("scale_inside", scale_inside)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.angles_initializer = keras.initializers.get(angles_initializer)
        self.angles_regularizer = keras.regularizers.get(angles_regularizer)
        self.angles_constraint = keras.constraints.get(angles_constraint)
        self.radius_initializer = keras.initializers.get("zeros" if radius_initializer is None else radius_initializer)
        self.radius_regularizer = keras.regularizers.get(radius_regularizer)
        self.radius_constraint = keras.constraints.get(radius_constraint)
        self.scale_initializer = keras.initializers.get(scale_initializer)
        self.scale_regularizer = keras.regularizers.get(scale_regularizer)
        self.scale_constraint = keras.constraints.get(scale_constraint)

    def kernel_shape(self, input_shape: Shape) -> tuple[int, ...]:
        """Returns the shape of the plain layer's kernel, the units last; raises where the input does not fit."""
        raise NotImplementedError

    def apply_kernel(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """Returns what the plain layer would, without bias and activation."""
        raise NotImplementedError

    def build(self, input_shape: Shape) -> None:
        self._kernel_shape = self.kernel_shape(input_shape)
        fan_in = math.prod(self._kernel_shape[:-1])
        angles, scale, sign = self._starting_values(fan_in)
        # Not autocast: the direction is computed in float32 and cast once, whatever the policy.
        if fan_in > 1:
            self.angles = self.add_weight(
                name="angles",
                shape=(fan_in - 1, self.units),
                initializer=angles,
                regularizer=self.angles_regularizer,
                constraint=self.angles_constraint,
                autocast=False,
            )
        else:
            self.sign = self.add_weight(
                name="sign", shape=(self.units,), initializer=sign, trainable=False, autocast=False
            )
        if self.use_bias:
            self.radius = self.add_weight(
                name="radius",
                shape=(self.units,),
                initializer=self.radius_initializer,
                regularizer=self.radius_regularizer,
                constraint=self.radius_constraint,
            )
        self.scale = self.add_weight(
            name="scale",
            shape=(self.units,),
            initializer=scale,
            regularizer=self.scale_regularizer,
            constraint=self.scale_constraint,
        )
        # A layer that the caller built, or shares, stays as it is.
        if isinstance(self.activation, keras.layers.Layer) and not self.activation.built:
            self.activation.build(self.compute_output_shape(input_shape))

    def _starting_values(self, fan_in: int) -> tuple[Initializer, Initializer, Initializer]:
        """Returns the initializers of angles, scale and, for a fan-in of 1, sign."""
        initializer = self.kernel_initializer or keras.initializers.RandomNormal(stddev=1.0)
        drawn: list[np.ndarray] = []

        def kernel() -> Tensor:
            """One draw, from which angles and scale start; placeholders, as long as a backend only traces."""
            if drawn:
                return keras.ops.convert_to_tensor(drawn[0])
            rows = keras.ops.reshape(initializer(self._kernel_shape, dtype="float32"), (fan_in, self.units))
            values = concrete(rows)
            if values is not None:
                drawn.append(values)
            return rows

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
        """The unit vectors u(angles) as a kernel, in the shape of the Keras counterpart's; float32 or wider."""
        if not self.built:
            # Not an AttributeError, which PyTorch's attribute look-up would replace with one of its own.
            raise ValueError(f"Layer {self.name!r} has no `direction` before it is built.")
        rows = self.sign if self.angles is None else ops.angles_to_direction(self.angles)
        return keras.ops.reshape(rows, self._kernel_shape)

    def preactivation(self, inputs: Tensor) -> Tensor:
        """Returns what goes into the activation: `direction . x + radius`, times the scale if that is inside.

        Args:
            inputs: The layer's input.

        Returns:
            Tensor of the output's shape, in the compute dtype.

        Raises:
            ValueError: If the layer is not built.
        """
        inputs, direction = (keras.ops.cast(x, self.compute_dtype) for x in (inputs, self.direction))
        outputs = self.apply_kernel(inputs, direction)
        if self.use_bias:
            outputs = outputs + self._along_units(self.radius, outputs)
        return outputs * self._along_units(self.scale, outputs) if self.scale_inside else outputs

    def call(self, inputs: Tensor) -> Tensor:
        # An activation that is a layer may have a dtype policy of its own.
        outputs = keras.ops.cast(self.activation(self.preactivation(inputs)), self.compute_dtype)
        return outputs if self.scale_inside else outputs * self._along_units(self.scale, outputs)

    def _along_units(self, vector: Tensor, outputs: Tensor) -> Tensor:
        # Keras casts variables itself within a call only.
        return along_axis(keras.ops.cast(vector, self.compute_dtype), self.unit_axis, len(outputs.shape))

    def get_config(self) -> dict[str, Any]:
        activation = keras.activations.serialize(self.activation)
        if isinstance(activation, dict):
            # Keras would build the nested layer when loading it, outside its parent, under a shorter variable path.
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
