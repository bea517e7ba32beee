"""The geometric counterparts of the depthwise convolutions."""

from collections.abc import Sequence
from typing import Any, Unpack

import keras

from keras_actlab.layers.arguments import Activation, Shape, positive_integer
from keras_actlab.layers.gmp import GeometricArguments
from keras_actlab.layers.gmp_convolution import GmPConvolution
from keras_actlab.ops.tensor import Tensor


class GmPDepthwiseConv(GmPConvolution):
    """What the two depthwise convolutions share."""

    unit_axes = (-2, -1)

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        activation: Activation = None,
        use_bias: bool = True,
        **kwargs: Unpack[GeometricArguments],
    ) -> None:
        super().__init__(kernel_size, strides, padding, data_format, dilation_rate, activation, use_bias, **kwargs)
        self.depth_multiplier = positive_integer("depth_multiplier", depth_multiplier)

    def kernel_shape(self, input_shape: Shape) -> tuple[int, ...]:
        return (*self.kernel_size, self.channels(input_shape), self.depth_multiplier)

    def apply_kernel(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        return keras.ops.depthwise_conv(
            inputs,
            kernel,
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"depth_multiplier": self.depth_multiplier}


@keras.saving.register_keras_serializable(package="keras_actlab")
class GmPDepthwiseConv1D(GmPDepthwiseConv):
    """A depthwise convolution over one axis whose kernel is given by angles, radius and scale.

    `z = scale * activation(depthwise_conv(x, direction) + radius)`: geometric parameterization, as in `GmPConv1D`. A
    unit is a pair of input channel and multiplier, and sees the window of its channel alone.

    - `angles` (the paper's theta), (fan_in - 1, units), start with directions uniform on the sphere. With a fan-in of
      1 there are none, but a fixed `sign` drawn at random.
    - `radius` (lambda), (units,), starts at 0.
    - `scale` (r), (units,), starts at 1.

    Args:
        kernel_size: Extent of the kernel, an integer or one per axis.
        strides: Steps of the kernel, an integer or one per axis.
        padding: "valid" (none), "same" (zeros, so that stride 1 keeps the shape).
        depth_multiplier: Number of units for each input channel.
        data_format: "channels_last", "channels_first", or None for Keras' global setting.
        dilation_rate: Spacing of the kernel's entries, an integer or one per axis; not together with strides.
        activation: Name, function or layer; None for linear.
        use_bias: Whether there is a radius.
        scale_inside, kernel_initializer, angles_initializer, angles_regularizer, angles_constraint, radius_initializer,
            radius_regularizer, radius_constraint, scale_initializer, scale_regularizer, scale_constraint: As in
            `GmPDense`.
        activity_regularizer: Regularizer of the layer's output.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of rank 3.

    Input shape:
        (batch, steps, channels), or (batch, channels, steps) with "channels_first"

    Output shape:
        The same with the new extents, and channels * depth_multiplier in place of the channels.

    Raises:
        ValueError: If a number is not positive, a name not known, or strides and dilation both exceed 1.
        TypeError: If a number is not an integer.

    Example:

    >>> layer = keras_actlab.layers.GmPDepthwiseConv1D(kernel_size=3, depth_multiplier=2)
    >>> tuple(layer(np.ones((2, 10, 3))).shape)
    (2, 8, 6)
    >>> tuple(layer.angles.shape)
    (2, 6)

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), "Neural Characteristic Activation Analysis and Geometric
      Parameterization for ReLU Networks".
    """

    rank = 1
    plain = keras.layers.DepthwiseConv1D


@keras.saving.register_keras_serializable(package="keras_actlab")
class GmPDepthwiseConv2D(GmPDepthwiseConv):
    """A depthwise convolution over two axes whose kernel is given by angles, radius and scale.

    `z = scale * activation(depthwise_conv(x, direction) + radius)`: geometric parameterization, as in `GmPConv2D`. A
    unit is a pair of input channel and multiplier, and sees the window of its channel alone.

    - `angles` (the paper's theta), (fan_in - 1, units), start with directions uniform on the sphere. With a fan-in of
      1 there are none, but a fixed `sign` drawn at random.
    - `radius` (lambda), (units,), starts at 0.
    - `scale` (r), (units,), starts at 1.

    Args:
        kernel_size: Extent of the kernel, an integer or one per axis.
        strides: Steps of the kernel, an integer or one per axis.
        padding: "valid" (none), "same" (zeros, so that stride 1 keeps the shape).
        depth_multiplier: Number of units for each input channel.
        data_format: "channels_last", "channels_first", or None for Keras' global setting.
        dilation_rate: Spacing of the kernel's entries, an integer or one per axis; not together with strides.
        activation: Name, function or layer; None for linear.
        use_bias: Whether there is a radius.
        scale_inside, kernel_initializer, angles_initializer, angles_regularizer, angles_constraint, radius_initializer,
            radius_regularizer, radius_constraint, scale_initializer, scale_regularizer, scale_constraint: As in
            `GmPDense`.
        activity_regularizer: Regularizer of the layer's output.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of rank 4.

    Input shape:
        (batch, height, width, channels), or (batch, channels, height, width) with "channels_first"

    Output shape:
        The same with the new extents, and channels * depth_multiplier in place of the channels.

    Raises:
        ValueError: If a number is not positive, a name not known, or strides and dilation both exceed 1.
        TypeError: If a number is not an integer.

    Example:

    >>> layer = keras_actlab.layers.GmPDepthwiseConv2D(kernel_size=3, depth_multiplier=2)
    >>> tuple(layer(np.ones((2, 8, 8, 3))).shape)
    (2, 6, 6, 6)
    >>> tuple(layer.angles.shape)
    (8, 6)

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), "Neural Characteristic Activation Analysis and Geometric
      Parameterization for ReLU Networks".
    """

    rank = 2
    plain = keras.layers.DepthwiseConv2D
