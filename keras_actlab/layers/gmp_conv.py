"""The geometric counterparts of Conv1D, Conv2D and Conv3D."""

from collections.abc import Sequence
from typing import Any, Unpack

import keras
from keras import ops

from keras_actlab.layers._docstrings import with_parts
from keras_actlab.layers.arguments import Activation, Shape, positive_integer
from keras_actlab.layers.gmp import GeometricArguments
from keras_actlab.layers.gmp_convolution import GmPConvolution
from keras_actlab.ops.tensor import Tensor


def convolve(layer: keras.layers.Layer, inputs: Tensor, kernel: Tensor) -> Tensor:
    """Returns the convolution of a geometric or plain layer with any kernel, without bias and activation."""
    padding = layer.padding
    if padding == "causal":
        widths = [[0, 0], [0, 0], [0, 0]]
        steps_axis = 1 if layer.data_format == "channels_last" else 2
        widths[steps_axis] = [layer.dilation_rate[0] * (layer.kernel_size[0] - 1), 0]
        inputs = ops.pad(inputs, widths)
        padding = "valid"
    return ops.conv(
        inputs,
        kernel,
        strides=layer.strides,
        padding=padding,
        data_format=layer.data_format,
        dilation_rate=layer.dilation_rate,
    )


class GmPConv(GmPConvolution):
    """Base class of the three convolutions."""

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
        activation: Activation = None,
        use_bias: bool = True,
        **kwargs: Unpack[GeometricArguments],
    ) -> None:
        super().__init__(kernel_size, strides, padding, data_format, dilation_rate, activation, use_bias, **kwargs)
        self.filters = self.units = positive_integer("filters", filters)
        self.groups = positive_integer("groups", groups)
        if self.filters % self.groups:
            raise ValueError(f"`groups` must divide `filters`. Received: filters={filters}, groups={groups}")

    def kernel_shape(self, input_shape: Shape) -> tuple[int, ...]:
        channels = self.channels(input_shape)
        if channels % self.groups:
            raise ValueError(
                "`groups` must divide the number of input channels. "
                f"Received: groups={self.groups}, input_shape={tuple(input_shape)}"
            )
        return (*self.kernel_size, channels // self.groups, self.filters)

    def apply_kernel(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        return convolve(self, inputs, kernel)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        *kernel_size, _, filters = self.kernel_shape(input_shape)
        # Keras' symbolic convolution does not support groups, and the output shape does not depend on them.
        kernel_shape = (*kernel_size, input_shape[self.unit_axis], filters)
        outputs = self.apply_kernel(keras.KerasTensor(input_shape), keras.KerasTensor(kernel_shape))
        return tuple(outputs.shape)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"filters": self.filters, "groups": self.groups}


@keras.saving.register_keras_serializable(package="keras_actlab")
@with_parts
class GmPConv1D(GmPConv):
    """A convolution over one axis whose kernel is given by angles, radius and scale (geometric parameterization).

    {convolution[1]}

    Example:

    >>> layer = keras_actlab.layers.GmPConv1D(4, kernel_size=3, activation="relu")
    >>> tuple(layer(np.ones((2, 10, 3))).shape)
    (2, 8, 4)
    >>> tuple(layer.angles.shape)
    (8, 4)

    {reference}
    """

    rank = 1
    paddings = ("valid", "same", "causal")
    plain = keras.layers.Conv1D


@keras.saving.register_keras_serializable(package="keras_actlab")
@with_parts
class GmPConv2D(GmPConv):
    """A convolution over two axes whose kernel is given by angles, radius and scale (geometric parameterization).

    {convolution[2]}

    Example:

    >>> layer = keras_actlab.layers.GmPConv2D(4, kernel_size=3, activation="relu")
    >>> tuple(layer(np.ones((2, 8, 8, 3))).shape)
    (2, 6, 6, 4)
    >>> tuple(layer.angles.shape)
    (26, 4)

    {reference}
    """

    rank = 2
    plain = keras.layers.Conv2D


@keras.saving.register_keras_serializable(package="keras_actlab")
@with_parts
class GmPConv3D(GmPConv):
    """A convolution over three axes whose kernel is given by angles, radius and scale (geometric parameterization).

    {convolution[3]}

    Example:

    >>> layer = keras_actlab.layers.GmPConv3D(4, kernel_size=3, activation="relu")
    >>> tuple(layer(np.ones((2, 8, 8, 8, 3))).shape)
    (2, 6, 6, 6, 4)
    >>> tuple(layer.angles.shape)
    (80, 4)

    {reference}
    """

    rank = 3
    plain = keras.layers.Conv3D
