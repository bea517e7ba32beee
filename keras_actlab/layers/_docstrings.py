"""The parts of docstrings that geometric convolutions of one, two and three axes share.

This module imports nothing outside the standard library, because the documentation is built without Keras.
"""

import inspect
from typing import TypeVar

Class = TypeVar("Class", bound=type)

INPUT_SHAPES = {
    1: '(batch, steps, channels), or (batch, channels, steps) with "channels_first"',
    2: '(batch, height, width, channels), or (batch, channels, height, width) with "channels_first"',
    3: '(batch, depth, height, width, channels), or (batch, channels, depth, height, width) with "channels_first"',
}

START = """\
- `angles` (the paper's theta), (fan_in - 1, {units}), start with directions uniform on the sphere; fan_in is the number
  of weights of one unit. With a fan-in of 1 there are no angles, but a fixed `sign` drawn at random.
- `radius` (lambda), ({units},), starts at 0.
- `scale` (r), ({units},), starts at 1."""

OPTIONS = """\
    use_bias: Whether there is a radius.
    scale_inside: Where the scale r multiplies: the activation's output (False, the paper), or its input (True). The two
        agree for positively homogeneous activations, such as ReLU, and positive scales.
    kernel_initializer: None, or an initializer of a plain kernel, from which angles and scale start: the angles of each
        unit's weights, and their norm (as in the authors' code, with "glorot_uniform").
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
    **kwargs: Base layer arguments, such as `name` and `dtype`."""

SHAPES = """\
Call arguments:
    inputs: Tensor of rank {input_rank}.

Input shape:
    {input_shape}

Output shape:
    The input shape with the new extents, and {outputs} in place of the channels."""

REFERENCE = """\
Reference:

- [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), "Neural Characteristic Activation Analysis and Geometric
  Parameterization for ReLU Networks"."""

CONVOLUTION = f"""\
`z = scale * activation(conv(x, direction) + radius)` (equation 13 of the paper), where each filter of `direction` is
the unit vector with the spherical coordinates `angles`, in the order of the kernel (kernel axes, then input channels).

{START.format(units="filters")}

Args:
    filters: Number of filters.
    kernel_size: Extent of the kernel, an integer or one per axis.
    strides: Steps of the kernel, an integer or one per axis.
    padding: "valid" (none), "same" (zeros, so that stride 1 keeps the shape) or, for `GmPConv1D` only, "causal" (no
        output depends on later steps).
    data_format: "channels_last", "channels_first", or None for Keras' global setting.
    dilation_rate: Spacing of the kernel's entries, an integer or one per axis; not together with strides.
    groups: Number of groups that the channels and the filters are split into.
    activation: Name, function or layer; None for linear. With "channels_first", a layer with an axis of its own, such
        as `TMAF`, needs `axis=1`.
{OPTIONS}

{SHAPES.replace("{outputs}", "`filters`")}

Raises:
    ValueError: If a number is not positive, a name is unknown, `groups` does not divide channels and filters, strides
        and dilation both exceed 1, or `kernel_initializer` is given with an initializer of angles or scale.
    TypeError: If a number is not an integer."""

TRANSPOSED = f"""\
`z = scale * activation(conv_transpose(x, direction) + radius)`: geometric parameterization, as in `GmPConv{{axes}}D`.
A unit is an output channel; its weights are in the order kernel axes, then input channels.

{START.format(units="filters")}

Args:
    filters: Number of filters.
    kernel_size: Extent of the kernel, an integer or one per axis.
    strides: Steps of the kernel, an integer or one per axis.
    padding: "valid" or "same".
    output_padding: Number of entries added to the output along each axis; None for the usual extent.
    data_format: "channels_last", "channels_first", or None for Keras' global setting.
    dilation_rate: Spacing of the kernel's entries, an integer or one per axis; not together with strides.
    activation: Name, function or layer; None for linear.
{OPTIONS}

{SHAPES.replace("{outputs}", "`filters`")}

Raises:
    ValueError: If a number is not positive, a name is unknown, `output_padding` is not below `strides`, or strides and
        dilation both exceed 1.
    TypeError: If a number is not an integer."""

DEPTHWISE = f"""\
`z = scale * activation(depthwise_conv(x, direction) + radius)`: geometric parameterization, as in `GmPConv{{axes}}D`.
A unit is a pair of input channel and multiplier, and sees the window of its channel only.

{START.format(units="units")}

Args:
    kernel_size: Extent of the kernel, an integer or one per axis.
    strides: Steps of the kernel, an integer or one per axis.
    padding: "valid" (none), "same" (zeros, so that stride 1 keeps the shape).
    depth_multiplier: Number of units for each input channel.
    data_format: "channels_last", "channels_first", or None for Keras' global setting.
    dilation_rate: Spacing of the kernel's entries, an integer or one per axis; not together with strides.
    activation: Name, function or layer; None for linear.
{OPTIONS}

{SHAPES.replace("{outputs}", "channels * depth_multiplier")}

Raises:
    ValueError: If a number is not positive, a name is unknown, or strides and dilation both exceed 1.
    TypeError: If a number is not an integer."""

SEPARABLE = f"""\
`z = scale * activation(direction . depthwise(x) + radius)`: the layer consists of `depthwise`, a linear
`GmPDepthwiseConv{{axes}}D` without a radius, and `pointwise`, a `GmPConv{{axes}}D` of kernel size 1 with radius and
activation. These two layers describe what their parameters start as. Each of them gets the initializers, regularizers
and constraints of angles and scale.

Args:
    filters: Number of filters.
    kernel_size: Extent of the depthwise kernel, an integer or one per axis.
    strides: Steps of the depthwise kernel, an integer or one per axis.
    padding: "valid" (none), "same" (zeros, so that stride 1 keeps the shape).
    data_format: "channels_last", "channels_first", or None for Keras' global setting.
    dilation_rate: Spacing of the depthwise kernel's entries, an integer or one per axis; not together with strides.
    depth_multiplier: Number of depthwise units for each input channel.
    activation: Name, function or layer; None for linear.
{OPTIONS}

{SHAPES.replace("{outputs}", "`filters`")}

Raises:
    ValueError: If a number is not positive, a name is unknown, or strides and dilation both exceed 1.
    TypeError: If a number is not an integer."""


def _for_each_number_of_axes(template: str) -> dict[int, str]:
    return {
        axes: template.format(axes=axes, input_rank=axes + 2, input_shape=shape) for axes, shape in INPUT_SHAPES.items()
    }


PARTS = {
    "convolution": _for_each_number_of_axes(CONVOLUTION),
    "transposed": _for_each_number_of_axes(TRANSPOSED),
    "depthwise": _for_each_number_of_axes(DEPTHWISE),
    "separable": _for_each_number_of_axes(SEPARABLE),
    "reference": REFERENCE,
}


def filled(docstring: str) -> str:
    """Returns a docstring with its placeholders, such as `{convolution[2]}`, replaced by the parts they name."""
    return inspect.cleandoc(docstring).format(**PARTS)


def with_parts(cls: Class) -> Class:
    """Fills the placeholders in the docstring of a class; a decorator."""
    if cls.__doc__ is not None:  # as under `python -OO`
        cls.__doc__ = filled(cls.__doc__)
    return cls
