"""The geometric counterparts of the depthwise convolutions."""

from collections.abc import Sequence
from typing import Any, Unpack

import keras

from keras_actlab.layers._docstrings import with_parts
from keras_actlab.layers.arguments import Activation, Shape, positive_integer
from keras_actlab.layers.gmp import GeometricArguments
from keras_actlab.layers.gmp_convolution import GmPConvolution
from keras_actlab.ops.tensor import Tensor


class GmPDepthwiseConv(GmPConvolution):
    """Base class of the two depthwise convolutions."""

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
@with_parts
class GmPDepthwiseConv1D(GmPDepthwiseConv):
    """A depthwise convolution over one axis whose kernel is given by angles, radius and scale.

    {depthwise[1]}

    Example:

    >>> layer = keras_actlab.layers.GmPDepthwiseConv1D(kernel_size=3, depth_multiplier=2)
    >>> tuple(layer(np.ones((2, 10, 3))).shape)
    (2, 8, 6)
    >>> tuple(layer.angles.shape)
    (2, 6)

    {reference}
    """

    rank = 1
    plain = keras.layers.DepthwiseConv1D


@keras.saving.register_keras_serializable(package="keras_actlab")
@with_parts
class GmPDepthwiseConv2D(GmPDepthwiseConv):
    """A depthwise convolution over two axes whose kernel is given by angles, radius and scale.

    {depthwise[2]}

    Example:

    >>> layer = keras_actlab.layers.GmPDepthwiseConv2D(kernel_size=3, depth_multiplier=2)
    >>> tuple(layer(np.ones((2, 8, 8, 3))).shape)
    (2, 6, 6, 6)
    >>> tuple(layer.angles.shape)
    (8, 6)

    {reference}
    """

    rank = 2
    plain = keras.layers.DepthwiseConv2D
