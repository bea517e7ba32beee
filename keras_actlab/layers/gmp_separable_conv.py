"""The geometric counterparts of the separable convolutions."""

from collections.abc import Sequence
from typing import Any, Unpack

import keras

from keras_actlab.layers._docstrings import with_parts
from keras_actlab.layers.arguments import Activation, Shape
from keras_actlab.layers.folding import check_not_overridden, fold_geometric
from keras_actlab.layers.gmp import BaseArguments, GeometricArguments
from keras_actlab.layers.gmp_conv import GmPConv, GmPConv1D, GmPConv2D
from keras_actlab.layers.gmp_depthwise_conv import GmPDepthwiseConv, GmPDepthwiseConv1D, GmPDepthwiseConv2D
from keras_actlab.layers.quantization import Unquantized
from keras_actlab.layers.replacement import Replacement
from keras_actlab.ops.tensor import Tensor

WINDOW = ("kernel_size", "strides", "padding", "data_format", "dilation_rate", "depth_multiplier")
GEOMETRIC = tuple(name for name in GeometricArguments.__annotations__ if name not in BaseArguments.__annotations__)


class GmPSeparableConv(Unquantized, Replacement):
    """Base class of the two separable convolutions: a depthwise convolution, followed by a pointwise convolution."""

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
        # It has neither activation nor radius, so `scale_inside` has no effect on it.
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
@with_parts
class GmPSeparableConv1D(GmPSeparableConv):
    """A separable convolution over one axis whose two kernels are given by angles and scale.

    {separable[1]}

    Example:

    >>> layer = keras_actlab.layers.GmPSeparableConv1D(4, kernel_size=3, activation="relu")
    >>> tuple(layer(np.ones((2, 10, 3))).shape)
    (2, 8, 4)
    >>> [weight.path.partition("/")[2] for weight in layer.weights]
    ['depthwise/angles', 'depthwise/scale', 'pointwise/angles', 'pointwise/radius', 'pointwise/scale']

    {reference}
    """

    plain = keras.layers.SeparableConv1D
    depthwise_class = GmPDepthwiseConv1D
    pointwise_class = GmPConv1D


@keras.saving.register_keras_serializable(package="keras_actlab")
@with_parts
class GmPSeparableConv2D(GmPSeparableConv):
    """A separable convolution over two axes whose two kernels are given by angles and scale.

    {separable[2]}

    Example:

    >>> layer = keras_actlab.layers.GmPSeparableConv2D(4, kernel_size=3, activation="relu")
    >>> tuple(layer(np.ones((2, 8, 8, 3))).shape)
    (2, 6, 6, 4)
    >>> [weight.path.partition("/")[2] for weight in layer.weights]
    ['depthwise/angles', 'depthwise/scale', 'pointwise/angles', 'pointwise/radius', 'pointwise/scale']

    {reference}
    """

    plain = keras.layers.SeparableConv2D
    depthwise_class = GmPDepthwiseConv2D
    pointwise_class = GmPConv2D
