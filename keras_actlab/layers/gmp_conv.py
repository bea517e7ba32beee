"""The geometric counterparts of Conv1D, Conv2D and Conv3D."""

from collections.abc import Sequence
from typing import Any, Unpack

import keras
from keras import ops

from keras_actlab.layers.arguments import Activation, Shape, positive_integer
from keras_actlab.layers.gmp import GeometricArguments
from keras_actlab.layers.gmp_convolution import GmPConvolution
from keras_actlab.ops.tensor import Tensor


def convolve(layer: keras.layers.Layer, inputs: Tensor, kernel: Tensor) -> Tensor:
    """Returns the convolution that a geometric or plain layer makes, with any kernel, without bias and activation."""
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
    """What the three convolutions share."""

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
        # Keras' symbolic convolution knows no groups, and the output's shape does not depend on them.
        kernel_shape = (*kernel_size, input_shape[self.unit_axis], filters)
        outputs = self.apply_kernel(keras.KerasTensor(input_shape), keras.KerasTensor(kernel_shape))
        return tuple(outputs.shape)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"filters": self.filters, "groups": self.groups}


@keras.saving.register_keras_serializable(package="keras_actlab")
class GmPConv1D(GmPConv):
    """A convolution over one axis whose kernel is given by angles, radius and scale (geometric parameterization).

    `z = scale * activation(conv(x, direction) + radius)` (equation 13 of the paper), where each filter of `direction`
    is the unit vector that its `angles` name in spherical coordinates, read in the kernel's own order (kernel axes,
    then input channels).

    - `angles` (the paper's theta), (fan_in - 1, filters), where fan_in is the number of entries of one filter, start
      with directions uniform on the sphere. With a fan-in of 1 there are none, but a fixed `sign` drawn at random.
    - `radius` (lambda), (filters,), starts at 0.
    - `scale` (r), (filters,), starts at 1.

    Args:
        filters: Number of filters.
        kernel_size: Extent of the kernel, an integer or one per axis.
        strides: Steps of the kernel, an integer or one per axis.
        padding: "valid" (none), "same" (zeros, so that stride 1 keeps the shape), "causal" (no output depends on later
            steps).
        data_format: "channels_last", "channels_first", or None for Keras' global setting.
        dilation_rate: Spacing of the kernel's entries, an integer or one per axis; not together with strides.
        groups: Number of groups that the channels, and the filters, are split into.
        activation: Name, function or layer; None for linear. A layer with an axis of its own, such as `TMAF`, needs
            `axis=1` beside "channels_first".
        use_bias: Whether there is a radius.
        scale_inside: Where the scale r multiplies: the activation's output (False, the paper), or its input (True).
            The two agree for positively homogeneous activations, such as ReLU, and positive scales.
        kernel_initializer: None, or an initializer of a plain kernel, from which angles and scale start: the angles of
            each unit's weights, and their norm (the start of the authors' code, with "glorot_uniform").
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
        inputs: Tensor of rank 3.

    Input shape:
        (batch, steps, channels), or (batch, channels, steps) with "channels_first"

    Output shape:
        The same with the new extents, and `filters` in place of the channels.

    Raises:
        ValueError: If a number is not positive, a name not known, `groups` does not divide channels and filters,
            strides and dilation both exceed 1, or `kernel_initializer` stands beside an initializer of angles or scale.
        TypeError: If a number is not an integer.

    Example:

    >>> layer = keras_actlab.layers.GmPConv1D(4, kernel_size=3, activation="relu")
    >>> tuple(layer(np.ones((2, 10, 3))).shape)
    (2, 8, 4)
    >>> tuple(layer.angles.shape)
    (8, 4)

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), "Neural Characteristic Activation Analysis and Geometric
      Parameterization for ReLU Networks".
    """

    rank = 1
    paddings = ("valid", "same", "causal")
    plain = keras.layers.Conv1D


@keras.saving.register_keras_serializable(package="keras_actlab")
class GmPConv2D(GmPConv):
    """A convolution over two axes whose kernel is given by angles, radius and scale (geometric parameterization).

    `z = scale * activation(conv(x, direction) + radius)` (equation 13 of the paper), where each filter of `direction`
    is the unit vector that its `angles` name in spherical coordinates, read in the kernel's own order (kernel axes,
    then input channels).

    - `angles` (the paper's theta), (fan_in - 1, filters), where fan_in is the number of entries of one filter, start
      with directions uniform on the sphere. With a fan-in of 1 there are none, but a fixed `sign` drawn at random.
    - `radius` (lambda), (filters,), starts at 0.
    - `scale` (r), (filters,), starts at 1.

    Args:
        filters: Number of filters.
        kernel_size: Extent of the kernel, an integer or one per axis.
        strides: Steps of the kernel, an integer or one per axis.
        padding: "valid" (none), "same" (zeros, so that stride 1 keeps the shape).
        data_format: "channels_last", "channels_first", or None for Keras' global setting.
        dilation_rate: Spacing of the kernel's entries, an integer or one per axis; not together with strides.
        groups: Number of groups that the channels, and the filters, are split into.
        activation: Name, function or layer; None for linear. A layer with an axis of its own, such as `TMAF`, needs
            `axis=1` beside "channels_first".
        use_bias: Whether there is a radius.
        scale_inside: Where the scale r multiplies: the activation's output (False, the paper), or its input (True).
            The two agree for positively homogeneous activations, such as ReLU, and positive scales.
        kernel_initializer: None, or an initializer of a plain kernel, from which angles and scale start: the angles of
            each unit's weights, and their norm (the start of the authors' code, with "glorot_uniform").
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
        inputs: Tensor of rank 4.

    Input shape:
        (batch, height, width, channels), or (batch, channels, height, width) with "channels_first"

    Output shape:
        The same with the new extents, and `filters` in place of the channels.

    Raises:
        ValueError: If a number is not positive, a name not known, `groups` does not divide channels and filters,
            strides and dilation both exceed 1, or `kernel_initializer` stands beside an initializer of angles or scale.
        TypeError: If a number is not an integer.

    Example:

    >>> layer = keras_actlab.layers.GmPConv2D(4, kernel_size=3, activation="relu")
    >>> tuple(layer(np.ones((2, 8, 8, 3))).shape)
    (2, 6, 6, 4)
    >>> tuple(layer.angles.shape)
    (26, 4)

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), "Neural Characteristic Activation Analysis and Geometric
      Parameterization for ReLU Networks".
    """

    rank = 2
    plain = keras.layers.Conv2D


@keras.saving.register_keras_serializable(package="keras_actlab")
class GmPConv3D(GmPConv):
    """A convolution over three axes whose kernel is given by angles, radius and scale (geometric parameterization).

    `z = scale * activation(conv(x, direction) + radius)` (equation 13 of the paper), where each filter of `direction`
    is the unit vector that its `angles` name in spherical coordinates, read in the kernel's own order (kernel axes,
    then input channels).

    - `angles` (the paper's theta), (fan_in - 1, filters), where fan_in is the number of entries of one filter, start
      with directions uniform on the sphere. With a fan-in of 1 there are none, but a fixed `sign` drawn at random.
    - `radius` (lambda), (filters,), starts at 0.
    - `scale` (r), (filters,), starts at 1.

    Args:
        filters: Number of filters.
        kernel_size: Extent of the kernel, an integer or one per axis.
        strides: Steps of the kernel, an integer or one per axis.
        padding: "valid" (none), "same" (zeros, so that stride 1 keeps the shape).
        data_format: "channels_last", "channels_first", or None for Keras' global setting.
        dilation_rate: Spacing of the kernel's entries, an integer or one per axis; not together with strides.
        groups: Number of groups that the channels, and the filters, are split into.
        activation: Name, function or layer; None for linear. A layer with an axis of its own, such as `TMAF`, needs
            `axis=1` beside "channels_first".
        use_bias: Whether there is a radius.
        scale_inside: Where the scale r multiplies: the activation's output (False, the paper), or its input (True).
            The two agree for positively homogeneous activations, such as ReLU, and positive scales.
        kernel_initializer: None, or an initializer of a plain kernel, from which angles and scale start: the angles of
            each unit's weights, and their norm (the start of the authors' code, with "glorot_uniform").
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
        inputs: Tensor of rank 5.

    Input shape:
        (batch, depth, height, width, channels), or (batch, channels, depth, height, width) with "channels_first"

    Output shape:
        The same with the new extents, and `filters` in place of the channels.

    Raises:
        ValueError: If a number is not positive, a name not known, `groups` does not divide channels and filters,
            strides and dilation both exceed 1, or `kernel_initializer` stands beside an initializer of angles or scale.
        TypeError: If a number is not an integer.

    Example:

    >>> layer = keras_actlab.layers.GmPConv3D(4, kernel_size=3, activation="relu")
    >>> tuple(layer(np.ones((2, 8, 8, 8, 3))).shape)
    (2, 6, 6, 6, 4)
    >>> tuple(layer.angles.shape)
    (80, 4)

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), "Neural Characteristic Activation Analysis and Geometric
      Parameterization for ReLU Networks".
    """

    rank = 3
    plain = keras.layers.Conv3D
