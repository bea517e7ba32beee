"""The geometric counterpart of Dense."""

from typing import Any, Unpack

import keras

from keras_actlab.layers.arguments import Activation, Shape, positive_integer
from keras_actlab.layers.gmp import GeometricArguments, GmP
from keras_actlab.ops.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_actlab")
class GmPDense(GmP):
    """A densely connected layer whose weights are given by angles, radius and scale (geometric parameterization).

    `z = scale * activation(direction . x + radius)` (equation 13 of the paper), where `direction` is the unit vector
    u(theta) with the spherical coordinates `angles`; see `keras_actlab.ops.angles_to_direction`. A ReLU unit switches
    on at the boundary `{x : direction . x = -radius}`: the angles turn it, the radius shifts it, and the scale does not
    move it.

    - `angles` (the paper's theta), (fan_in - 1, units), start with directions uniform on the sphere. With a fan-in of 1
      there are no angles, but a fixed `sign` drawn at random.
    - `radius` (lambda), (units,), starts at 0.
    - `scale` (r), (units,), starts at 1.

    A unit has `fan_in + 1` parameters, as in Dense.

    Args:
        units: Number of units.
        activation: Name, function or layer; None for linear.
        use_bias: Whether there is a radius.
        scale_inside: Where the scale r multiplies: the activation's output (False, the paper), or its input (True).
            The two agree for positively homogeneous activations, such as ReLU, and positive scales.
        kernel_initializer: None, or an initializer of a plain kernel, from which angles and scale start: the angles of
            each unit's weights, and their norm (as in the authors' code, with "glorot_uniform").
        angles_initializer: Initializer of the angles; None for directions uniform on the sphere.
        angles_regularizer: Regularizer of the angles.
        angles_constraint: Constraint of the angles.
        radius_initializer: Initializer of the radius; None for zeros.
        radius_regularizer: Regularizer of the radius.
        radius_constraint: Constraint of the radius.
        scale_initializer: Initializer of the scale; None for ones.
        scale_regularizer: Regularizer of the scale.
        scale_constraint: Constraint of the scale.
        activity_regularizer: Regularizer of the layer's output.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of rank 2 or more.

    Input shape:
        (batch, ..., fan_in)

    Output shape:
        (batch, ..., units)

    Raises:
        ValueError: If `units` is not positive, or `kernel_initializer` is given with an initializer of angles or scale.
        TypeError: If `units` is not an integer.

    Example:

    >>> layer = keras_actlab.layers.GmPDense(4, activation="relu")
    >>> tuple(layer(np.ones((2, 3))).shape)
    (2, 4)
    >>> tuple(layer.angles.shape), tuple(layer.radius.shape), tuple(layer.scale.shape)
    ((2, 4), (4,), (4,))

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), "Neural Characteristic Activation Analysis and Geometric
      Parameterization for ReLU Networks".
    """

    plain = keras.layers.Dense

    def __init__(
        self,
        units: int,
        activation: Activation = None,
        use_bias: bool = True,
        **kwargs: Unpack[GeometricArguments],
    ) -> None:
        super().__init__(activation, use_bias, **kwargs)
        self.units = positive_integer("units", units)
        self.supports_masking = True

    def kernel_shape(self, input_shape: Shape) -> tuple[int, ...]:
        # As in Dense, the shape may lack the batch axis, because some layers of keras-hub pass only the last axis.
        if not input_shape or input_shape[-1] is None:
            raise ValueError(
                f"The input must have rank 2 or more and a known last axis. Received: input_shape={tuple(input_shape)}"
            )
        return (input_shape[-1], self.units)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})

    def apply_kernel(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        return keras.ops.matmul(inputs, kernel)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"units": self.units}
