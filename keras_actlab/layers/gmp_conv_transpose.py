"""The geometric counterparts of the transposed convolutions."""

from collections.abc import Sequence
from typing import Any, Unpack

import keras

from keras_actlab.layers.arguments import Activation, Shape, positive_integer
from keras_actlab.layers.gmp import GeometricArguments
from keras_actlab.layers.gmp_convolution import GmPConvolution
from keras_actlab.ops.tensor import Tensor, integer


class GmPConvTranspose(GmPConvolution):
    """What the three transposed convolutions share."""

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
class GmPConv1DTranspose(GmPConvTranspose):
    """A transposed convolution over one axis whose kernel is given by angles, radius and scale.

    `z = scale * activation(conv_transpose(x, direction) + radius)`: geometric parameterization, as in `GmPConv1D`.
    The weights of one unit are those of one output channel: kernel axes, then input channels.

    - `angles` (the paper's theta), (fan_in - 1, filters), start with directions uniform on the sphere. With a fan-in of
      1 there are none, but a fixed `sign` drawn at random.
    - `radius` (lambda), (filters,), starts at 0.
    - `scale` (r), (filters,), starts at 1.

    Args:
        filters: Number of filters.
        kernel_size: Extent of the kernel, an integer or one per axis.
        strides: Steps of the kernel, an integer or one per axis.
        padding: "valid" or "same".
        output_padding: Number of entries added to the output along each axis; None for the usual extent.
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
        The same with the new extents, and `filters` in place of the channels.

    Raises:
        ValueError: If a number is not positive, a name not known, `output_padding` not below `strides`, or strides and
            dilation both exceed 1.
        TypeError: If a number is not an integer.

    Example:

    >>> layer = keras_actlab.layers.GmPConv1DTranspose(4, kernel_size=4, strides=2, padding="same")
    >>> tuple(layer(np.ones((2, 5, 3))).shape)
    (2, 10, 4)
    >>> tuple(layer.angles.shape)
    (11, 4)

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), "Neural Characteristic Activation Analysis and Geometric
      Parameterization for ReLU Networks".
    """

    rank = 1
    plain = keras.layers.Conv1DTranspose


@keras.saving.register_keras_serializable(package="keras_actlab")
class GmPConv2DTranspose(GmPConvTranspose):
    """A transposed convolution over two axes whose kernel is given by angles, radius and scale.

    `z = scale * activation(conv_transpose(x, direction) + radius)`: geometric parameterization, as in `GmPConv2D`.
    The weights of one unit are those of one output channel: kernel axes, then input channels.

    - `angles` (the paper's theta), (fan_in - 1, filters), start with directions uniform on the sphere. With a fan-in of
      1 there are none, but a fixed `sign` drawn at random.
    - `radius` (lambda), (filters,), starts at 0.
    - `scale` (r), (filters,), starts at 1.

    Args:
        filters: Number of filters.
        kernel_size: Extent of the kernel, an integer or one per axis.
        strides: Steps of the kernel, an integer or one per axis.
        padding: "valid" or "same".
        output_padding: Number of entries added to the output along each axis; None for the usual extent.
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
        The same with the new extents, and `filters` in place of the channels.

    Raises:
        ValueError: If a number is not positive, a name not known, `output_padding` not below `strides`, or strides and
            dilation both exceed 1.
        TypeError: If a number is not an integer.

    Example:

    >>> layer = keras_actlab.layers.GmPConv2DTranspose(4, kernel_size=3, strides=2, padding="same")
    >>> tuple(layer(np.ones((2, 4, 4, 3))).shape)
    (2, 8, 8, 4)
    >>> tuple(layer.angles.shape)
    (26, 4)

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), "Neural Characteristic Activation Analysis and Geometric
      Parameterization for ReLU Networks".
    """

    rank = 2
    plain = keras.layers.Conv2DTranspose


@keras.saving.register_keras_serializable(package="keras_actlab")
class GmPConv3DTranspose(GmPConvTranspose):
    """A transposed convolution over three axes whose kernel is given by angles, radius and scale.

    `z = scale * activation(conv_transpose(x, direction) + radius)`: geometric parameterization, as in `GmPConv3D`.
    The weights of one unit are those of one output channel: kernel axes, then input channels.

    - `angles` (the paper's theta), (fan_in - 1, filters), start with directions uniform on the sphere. With a fan-in of
      1 there are none, but a fixed `sign` drawn at random.
    - `radius` (lambda), (filters,), starts at 0.
    - `scale` (r), (filters,), starts at 1.

    Args:
        filters: Number of filters.
        kernel_size: Extent of the kernel, an integer or one per axis.
        strides: Steps of the kernel, an integer or one per axis.
        padding: "valid" or "same".
        output_padding: Number of entries added to the output along each axis; None for the usual extent.
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
        inputs: Tensor of rank 5.

    Input shape:
        (batch, depth, height, width, channels), or (batch, channels, depth, height, width) with "channels_first"

    Output shape:
        The same with the new extents, and `filters` in place of the channels.

    Raises:
        ValueError: If a number is not positive, a name not known, `output_padding` not below `strides`, or strides and
            dilation both exceed 1.
        TypeError: If a number is not an integer.

    Example:

    >>> layer = keras_actlab.layers.GmPConv3DTranspose(4, kernel_size=3, strides=2, padding="same")
    >>> tuple(layer(np.ones((2, 3, 3, 3, 2))).shape)
    (2, 6, 6, 6, 4)
    >>> tuple(layer.angles.shape)
    (53, 4)

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), "Neural Characteristic Activation Analysis and Geometric
      Parameterization for ReLU Networks".
    """

    rank = 3
    plain = keras.layers.Conv3DTranspose
