"""The geometric counterparts of the separable convolutions."""

from collections.abc import Sequence
from typing import Any, Unpack

import keras

from keras_actlab.layers.arguments import Activation, Shape
from keras_actlab.layers.folding import check_not_overridden, fold_geometric
from keras_actlab.layers.gmp import BaseArguments, GeometricArguments, Unquantized
from keras_actlab.layers.gmp_conv import GmPConv, GmPConv1D, GmPConv2D
from keras_actlab.layers.gmp_depthwise_conv import GmPDepthwiseConv, GmPDepthwiseConv1D, GmPDepthwiseConv2D
from keras_actlab.layers.replacement import Replacement
from keras_actlab.ops.tensor import Tensor

WINDOW = ("kernel_size", "strides", "padding", "data_format", "dilation_rate", "depth_multiplier")
GEOMETRIC = tuple(name for name in GeometricArguments.__annotations__ if name not in BaseArguments.__annotations__)


class GmPSeparableConv(Unquantized, Replacement):
    """What the two separable convolutions share: a depthwise convolution, then a pointwise one of what it gives."""

    plain: type[keras.layers.Layer]
    depthwise_class: type[GmPDepthwiseConv]
    pointwise_class: type[GmPConv]

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        depth_multiplier: int = 1,
        activation: Activation = None,
        use_bias: bool = True,
        **kwargs: Unpack[GeometricArguments],
    ) -> None:
        arguments: dict[str, Any] = dict(kwargs)
        geometric = {name: arguments.pop(name) for name in GEOMETRIC if name in arguments}
        super().__init__(**arguments)
        window = (kernel_size, strides, padding, depth_multiplier, data_format, dilation_rate)
        # It has neither activation nor radius, so it does not matter on which side of them its scale multiplies.
        self.depthwise = self.depthwise_class(
            *window, use_bias=False, dtype=self.dtype_policy, name="depthwise", **geometric
        )
        self.pointwise = self.pointwise_class(
            filters,
            1,
            data_format=data_format,
            activation=activation,
            use_bias=use_bias,
            dtype=self.dtype_policy,
            name="pointwise",
            **geometric,
        )

    @property
    def activation(self) -> Activation:
        """The activation of the pointwise convolution."""
        return self.pointwise.activation

    def build(self, input_shape: Shape) -> None:
        self.depthwise.build(input_shape)
        self.pointwise.build(self.depthwise.compute_output_shape(input_shape))
        self.input_spec = self.depthwise.input_spec

    def call(self, inputs: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(inputs))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return self.pointwise.compute_output_shape(self.depthwise.compute_output_shape(input_shape))

    def fold(self) -> keras.layers.Layer:
        """Returns the plain layer that computes the same. Raises SkipLayer where there is none."""
        check_not_overridden(self, "plain", ("call",))
        return fold_geometric(self, {"depthwise_kernel": self.depthwise, "pointwise_kernel": self.pointwise})

    def get_config(self) -> dict[str, Any]:
        depthwise, pointwise = self.depthwise.get_config(), self.pointwise.get_config()
        config = super().get_config()
        config |= {name: depthwise[name] for name in WINDOW}
        config |= {name: pointwise[name] for name in ("filters", "activation", "use_bias", *GEOMETRIC)}
        return config | {"activity_regularizer": keras.regularizers.serialize(self.activity_regularizer)}


@keras.saving.register_keras_serializable(package="keras_actlab")
class GmPSeparableConv1D(GmPSeparableConv):
    """A separable convolution over one axis whose two kernels are given by angles and scale.

    `z = scale * activation(direction . depthwise(x) + radius)`: a linear `GmPDepthwiseConv1D` without a radius,
    `depthwise`, and a `GmPConv1D` of kernel size 1, `pointwise`, which has radius and activation.

    What their angles, radius and scale start as is told in these two layers.

    Args:
        filters: Number of filters.
        kernel_size: Extent of the depthwise kernel, an integer or one per axis.
        strides: Steps of the depthwise kernel, an integer or one per axis.
        padding: "valid" (none), "same" (zeros, so that stride 1 keeps the shape).
        data_format: "channels_last", "channels_first", or None for Keras' global setting.
        dilation_rate: Spacing of the depthwise kernel's entries, an integer or one per axis; not together with strides.
        depth_multiplier: Number of depthwise units for each input channel.
        activation: Name, function or layer; None for linear.
        use_bias: Whether there is a radius.
        scale_inside, kernel_initializer, angles_initializer, angles_regularizer, angles_constraint, radius_initializer,
            radius_regularizer, radius_constraint, scale_initializer, scale_regularizer, scale_constraint: As in
            `GmPDense`; those of kernel, angles and scale for each of the two convolutions.
        activity_regularizer: Regularizer of the layer's output.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of rank 3.

    Input shape:
        (batch, steps, channels), or (batch, channels, steps) with "channels_first"

    Output shape:
        The same with the new extents, and `filters` in place of the channels.

    Raises:
        ValueError: If a number is not positive, a name not known, or strides and dilation both exceed 1.
        TypeError: If a number is not an integer.

    Example:

    >>> layer = keras_actlab.layers.GmPSeparableConv1D(4, kernel_size=3, activation="relu")
    >>> tuple(layer(np.ones((2, 10, 3))).shape)
    (2, 8, 4)
    >>> [weight.path.partition("/")[2] for weight in layer.weights]
    ['depthwise/angles', 'depthwise/scale', 'pointwise/angles', 'pointwise/radius', 'pointwise/scale']

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), "Neural Characteristic Activation Analysis and Geometric
      Parameterization for ReLU Networks".
    """

    plain = keras.layers.SeparableConv1D
    depthwise_class = GmPDepthwiseConv1D
    pointwise_class = GmPConv1D


@keras.saving.register_keras_serializable(package="keras_actlab")
class GmPSeparableConv2D(GmPSeparableConv):
    """A separable convolution over two axes whose two kernels are given by angles and scale.

    `z = scale * activation(direction . depthwise(x) + radius)`: a linear `GmPDepthwiseConv2D` without a radius,
    `depthwise`, and a `GmPConv2D` of kernel size 1, `pointwise`, which has radius and activation.

    What their angles, radius and scale start as is told in these two layers.

    Args:
        filters: Number of filters.
        kernel_size: Extent of the depthwise kernel, an integer or one per axis.
        strides: Steps of the depthwise kernel, an integer or one per axis.
        padding: "valid" (none), "same" (zeros, so that stride 1 keeps the shape).
        data_format: "channels_last", "channels_first", or None for Keras' global setting.
        dilation_rate: Spacing of the depthwise kernel's entries, an integer or one per axis; not together with strides.
        depth_multiplier: Number of depthwise units for each input channel.
        activation: Name, function or layer; None for linear.
        use_bias: Whether there is a radius.
        scale_inside, kernel_initializer, angles_initializer, angles_regularizer, angles_constraint, radius_initializer,
            radius_regularizer, radius_constraint, scale_initializer, scale_regularizer, scale_constraint: As in
            `GmPDense`; those of kernel, angles and scale for each of the two convolutions.
        activity_regularizer: Regularizer of the layer's output.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of rank 4.

    Input shape:
        (batch, height, width, channels), or (batch, channels, height, width) with "channels_first"

    Output shape:
        The same with the new extents, and `filters` in place of the channels.

    Raises:
        ValueError: If a number is not positive, a name not known, or strides and dilation both exceed 1.
        TypeError: If a number is not an integer.

    Example:

    >>> layer = keras_actlab.layers.GmPSeparableConv2D(4, kernel_size=3, activation="relu")
    >>> tuple(layer(np.ones((2, 8, 8, 3))).shape)
    (2, 6, 6, 4)
    >>> [weight.path.partition("/")[2] for weight in layer.weights]
    ['depthwise/angles', 'depthwise/scale', 'pointwise/angles', 'pointwise/radius', 'pointwise/scale']

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), "Neural Characteristic Activation Analysis and Geometric
      Parameterization for ReLU Networks".
    """

    plain = keras.layers.SeparableConv2D
    depthwise_class = GmPDepthwiseConv2D
    pointwise_class = GmPConv2D
