"""The geometric counterparts of the transposed convolutions."""

from collections.abc import Sequence
from typing import Any, Unpack

import keras

from keras_actlab.layers._docstrings import with_parts
from keras_actlab.layers.arguments import Activation, Shape, positive_integer
from keras_actlab.layers.gmp import GeometricArguments
from keras_actlab.layers.gmp_convolution import GmPConvolution
from keras_actlab.ops.tensor import Tensor, integer


class GmPConvTranspose(GmPConvolution):
    """Base class of the three transposed convolutions."""

    unit_axes = (-2,)

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        output_padding: int | Sequence[int] | None = None,
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        activation: Activation = None,
        use_bias: bool = True,
        **kwargs: Unpack[GeometricArguments],
    ) -> None:
        super().__init__(kernel_size, strides, padding, data_format, dilation_rate, activation, use_bias, **kwargs)
        self.filters = self.units = positive_integer("filters", filters)
        if output_padding is not None:
            entries = (output_padding,) * self.rank if isinstance(output_padding, int) else tuple(output_padding)
            entries = tuple(integer("output_padding", entry) for entry in entries)
            if len(entries) != self.rank or not all(
                0 <= entry < stride for entry, stride in zip(entries, self.strides, strict=True)
            ):
                raise ValueError(
                    "`output_padding` must be None, an integer or one per axis, from 0 to below `strides`. "
                    f"Received: output_padding={output_padding}, strides={self.strides}"
                )
            output_padding = entries
        self.output_padding = output_padding

    def kernel_shape(self, input_shape: Shape) -> tuple[int, ...]:
        return (*self.kernel_size, self.filters, self.channels(input_shape))

    def apply_kernel(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        return keras.ops.conv_transpose(
            inputs,
            kernel,
            strides=self.strides,
            padding=self.padding,
            output_padding=self.output_padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"filters": self.filters, "output_padding": self.output_padding}


@keras.saving.register_keras_serializable(package="keras_actlab")
@with_parts
class GmPConv1DTranspose(GmPConvTranspose):
    """A transposed convolution over one axis whose kernel is given by angles, radius and scale.

    {transposed[1]}

    Example:

    >>> layer = keras_actlab.layers.GmPConv1DTranspose(4, kernel_size=4, strides=2, padding="same")
    >>> tuple(layer(np.ones((2, 5, 3))).shape)
    (2, 10, 4)
    >>> tuple(layer.angles.shape)
    (11, 4)

    {reference}
    """

    rank = 1
    plain = keras.layers.Conv1DTranspose


@keras.saving.register_keras_serializable(package="keras_actlab")
@with_parts
class GmPConv2DTranspose(GmPConvTranspose):
    """A transposed convolution over two axes whose kernel is given by angles, radius and scale.

    {transposed[2]}

    Example:

    >>> layer = keras_actlab.layers.GmPConv2DTranspose(4, kernel_size=3, strides=2, padding="same")
    >>> tuple(layer(np.ones((2, 4, 4, 3))).shape)
    (2, 8, 8, 4)
    >>> tuple(layer.angles.shape)
    (26, 4)

    {reference}
    """

    rank = 2
    plain = keras.layers.Conv2DTranspose


@keras.saving.register_keras_serializable(package="keras_actlab")
@with_parts
class GmPConv3DTranspose(GmPConvTranspose):
    """A transposed convolution over three axes whose kernel is given by angles, radius and scale.

    {transposed[3]}

    Example:

    >>> layer = keras_actlab.layers.GmPConv3DTranspose(4, kernel_size=3, strides=2, padding="same")
    >>> tuple(layer(np.ones((2, 3, 3, 3, 2))).shape)
    (2, 6, 6, 6, 4)
    >>> tuple(layer.angles.shape)
    (53, 4)

    {reference}
    """

    rank = 3
    plain = keras.layers.Conv3DTranspose
