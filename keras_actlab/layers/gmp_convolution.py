"""Base class of the geometric convolutions."""

from collections.abc import Iterable, Sequence
from typing import Any, Unpack

import keras

from keras_actlab.layers.arguments import Activation, Shape, positive_integer
from keras_actlab.layers.gmp import GeometricArguments, GmP


class GmPConvolution(GmP):
    """A geometric layer whose kernel slides over `rank` spatial axes."""

    rank: int
    paddings: tuple[str, ...] = ("valid", "same")

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int],
        padding: str,
        data_format: str | None,
        dilation_rate: int | Sequence[int],
        activation: Activation,
        use_bias: bool,
        **kwargs: Unpack[GeometricArguments],
    ) -> None:
        super().__init__(activation, use_bias, **kwargs)
        self.kernel_size = self.one_per_axis("kernel_size", kernel_size)
        self.strides = self.one_per_axis("strides", strides)
        self.dilation_rate = self.one_per_axis("dilation_rate", dilation_rate)
        padding = padding.lower() if isinstance(padding, str) else padding
        if padding not in self.paddings:
            raise ValueError(f"`padding` must be one of {self.paddings}. Received: padding={padding!r}")
        self.padding = padding
        data_formats = ("channels_last", "channels_first")
        if data_format is not None and data_format not in data_formats:
            raise ValueError(
                f"`data_format` must be one of {data_formats} or None. Received: data_format={data_format!r}"
            )
        self.data_format = data_format or keras.config.image_data_format()
        self.unit_axis = -1 if self.data_format == "channels_last" else 1
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ValueError(
                "`strides` and `dilation_rate` must not both exceed 1. "
                f"Received: strides={strides}, dilation_rate={dilation_rate}"
            )

    def one_per_axis(self, name: str, value: int | Sequence[int]) -> tuple[int, ...]:
        """Returns one positive integer per spatial axis."""
        if not isinstance(value, Iterable) or isinstance(value, str):
            return (positive_integer(name, value),) * self.rank
        value = tuple(value)
        if len(value) != self.rank:
            raise ValueError(f"`{name}` must be an integer or have {self.rank} entries. Received: {name}={value!r}")
        return tuple(positive_integer(name, entry) for entry in value)

    def channels(self, input_shape: Shape) -> int:
        """Returns the number of input channels. Raises ValueError if it is unknown, or the rank is wrong."""
        channels = input_shape[self.unit_axis] if len(input_shape) == self.rank + 2 else None
        if channels is None:
            raise ValueError(
                f"The input must have {self.rank} spatial axes and a known number of channels ({self.data_format}). "
                f"Received: input_shape={tuple(input_shape)}"
            )
        return channels

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.input_spec = keras.layers.InputSpec(ndim=self.rank + 2, axes={self.unit_axis: input_shape[self.unit_axis]})

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        kernel = keras.KerasTensor(self.kernel_shape(input_shape))
        return tuple(self.apply_kernel(keras.KerasTensor(input_shape), kernel).shape)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "data_format": self.data_format,
            "dilation_rate": self.dilation_rate,
        }
