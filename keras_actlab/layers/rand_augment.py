"""RandAugment with flips and random erasing, as a layer."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_actlab.arguments import check_number, received
from keras_actlab.layers.arguments import Shape, positive_integer
from keras_actlab.ops import augmentation
from keras_actlab.ops.tensor import Tensor, concrete


@keras.saving.register_keras_serializable(package="keras_actlab")
class RandAugment(keras.layers.Layer):
    """Random augmentation of images in training: flips, RandAugment and random erasing, drawn for each image.

    Each image is flipped from left to right with probability `flip`. Then `count` changes are drawn, with replacement,
    from fifteen: contrast stretched or equalized, inverted, rotated, posterized, solarized, solarized with an addition,
    colour, contrast, brightness, sharpness, and shears and translations along both axes. Each is applied with
    `probability`. Its level is normal with mean `magnitude` and standard deviation `spread`, clipped to [0, 10].
    Last, with probability `erase`, normal noise around `fill_value` replaces a rectangle of 2 to 33 % of the image.

    At magnitude 9, images are rotated by 27 degrees, sheared by 0.27 and translated by 0.405 of their size, in either
    direction; colour, contrast, brightness and sharpness change by a factor of 1.81 or 0.19; posterization keeps 1 bit,
    solarization inverts values from 26 on, and the addition is 99 for values below 128.

    The settings are those of the library timm ("rand-m9-mstd0.5-inc1"), and changes equal Pillow's up to a rounding
    error of one level out of 255. `keras.layers.RandAugment` applies the same changes to all images of a batch, and its
    magnitudes differ. The layer runs within the compiled training step of every backend. There are no weights.

    Args:
        count: Number of changes for each image.
        magnitude: Mean level, from 0 to 10.
        spread: Standard deviation of the levels.
        probability: Probability of each change.
        flip: Probability of a flip from left to right.
        erase: Probability of random erasing.
        value_range: Lowest and highest possible value of a pixel, such as (0, 255) or (0, 1).
        fill_value: Colour of pixels that were outside of the image, as a share of the value range, which is also the
            mean of erased pixels: a number, or three. The default is ImageNet's mean. The noise has a standard
            deviation of 0.226 of the range, and is clipped to it.
        data_format: "channels_last", "channels_first", or None for Keras' global setting.
        seed: Seed of the random numbers.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Images.
        training: Whether images are changed. Otherwise they are returned in the compute dtype.

    Input shape:
        `(batch, height, width, 3)`, or `(batch, 3, height, width)` with "channels_first". Height and width are fixed.

    Output shape:
        Same as the input.

    Raises:
        ValueError: If an argument is out of range, the input has another shape, or an eager batch at the first call in
            training has values outside of `value_range`.
        TypeError: If an argument has the wrong type.

    Example:

    >>> layer = keras_actlab.layers.RandAugment(seed=1)
    >>> images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), "uint8")
    >>> layer(images, training=True).shape == images.shape
    True
    >>> bool(keras.ops.all(layer(images) == images))  # not training
    True

    Reference:

    - [Cubuk et al., 2019](https://arxiv.org/abs/1909.13719), "RandAugment: Practical automated data augmentation with a
      reduced search space".
    - [Zhong et al., 2017](https://arxiv.org/abs/1708.04896), "Random Erasing Data Augmentation".
    """

    def __init__(
        self,
        count: int = 2,
        magnitude: float = 9.0,
        spread: float = 0.5,
        probability: float = 0.5,
        flip: float = 0.5,
        erase: float = 0.0,
        value_range: tuple[float, float] = (0, 255),
        fill_value: float | tuple[float, float, float] = (0.485, 0.456, 0.406),
        data_format: str | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.count = positive_integer("count", count)
        highest = {"magnitude": 10, "spread": np.inf, "probability": 1, "flip": 1, "erase": 1}
        values = {"magnitude": magnitude, "spread": spread, "probability": probability, "flip": flip, "erase": erase}
        for name, value in values.items():
            check_number(name, value)
            if not 0 <= value <= highest[name]:
                raise ValueError(f"`{name}` must be from 0 to {highest[name]}. Received: {name}={value}")
        self.magnitude, self.spread, self.probability, self.flip, self.erase = values.values()
        self.value_range = _numbers("value_range", value_range, (2,))
        if not self.value_range[0] < self.value_range[1]:
            raise ValueError(f"`value_range` must be increasing. Received: value_range={value_range}")
        self.fill_value = _numbers("fill_value", fill_value, (1, 3))
        if not all(0 <= share <= 1 for share in self.fill_value):
            raise ValueError(f"`fill_value` must be from 0 to 1. Received: fill_value={fill_value}")
        self.data_format = keras.config.image_data_format() if data_format is None else data_format
        if self.data_format not in ("channels_last", "channels_first"):
            raise ValueError(
                '`data_format` must be "channels_last", "channels_first" or None. '
                f"{received('data_format', data_format)}"
            )
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise TypeError(f"`seed` must be an integer or None. {received('seed', seed)}")
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._is_checked = False

    def build(self, input_shape: Shape) -> None:
        axis = 1 if self.data_format == "channels_first" else -1
        if len(input_shape) != 4 or input_shape[axis] != 3 or None in input_shape[1:]:
            raise ValueError(
                "The input must be a batch of images with a fixed height and width and 3 channels. "
                f"Received: input_shape={tuple(input_shape)}, data_format={self.data_format!r}"
            )

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        if not training or inputs.shape[0] == 0:  # the extremes of an empty batch do not exist
            return ops.cast(inputs, self.compute_dtype)
        self._check_range(inputs)
        x = ops.cast(inputs, "float32")
        if self.data_format == "channels_first":
            x = ops.transpose(x, (0, 2, 3, 1))
        low, high = self.value_range
        x = ops.clip(ops.round((x - low) * (255 / (high - low))), 0.0, 255.0)
        x = ops.stop_gradient(self._augment(x))
        x = x * ((high - low) / 255) + low
        if self.data_format == "channels_first":
            x = ops.transpose(x, (0, 3, 1, 2))
        return ops.cast(x, self.compute_dtype)

    def _augment(self, x: Tensor) -> Tensor:
        """Returns augmented images, for whole numbers from 0 to 255, channels last."""
        batch, seed = ops.shape(x)[0], self.seed_generator
        draws = keras.random.uniform((batch, 6 + 3 * self.count), dtype="float32", seed=seed)
        levels = keras.random.normal((batch, self.count), self.magnitude, self.spread, dtype="float32", seed=seed)
        levels = ops.clip(levels, 0.0, 10.0)
        flip, erase, place, kinds, applied, signs = ops.split(draws, [1, 2, 6, 6 + self.count, 6 + 2 * self.count], 1)
        x = ops.where((flip < self.flip)[..., None, None], ops.flip(x, 2), x)
        kinds = ops.cast(ops.floor(kinds * len(augmentation.CHANGES)), "int32")
        kinds = ops.where(applied < self.probability, kinds, augmentation.NONE)
        levels = ops.where(signs < 0.5, -levels, levels)
        fill = 255 * ops.convert_to_tensor(self.fill_value, "float32")
        for k in range(self.count if self.probability else 0):
            x = augmentation.change(x, kinds[:, k], levels[:, k], ops.round(fill))
        if not self.erase:
            return x
        mask = augmentation.rectangles(place, *x.shape[1:3]) & (erase < self.erase)[..., None]
        noise = fill + 0.226 * 255 * keras.random.normal(ops.shape(x), dtype="float32", seed=seed)
        return ops.where(mask[..., None], ops.clip(ops.round(noise), 0.0, 255.0), x)

    def _check_range(self, inputs: Tensor) -> None:
        """Raises if the first batch has values outside of the range. Compiled steps have no values to check."""
        if self._is_checked or (values := concrete(inputs)) is None:
            return
        self._is_checked = True
        if values.size and not self.value_range[0] <= values.min() <= values.max() <= self.value_range[1]:
            raise ValueError(
                f"Pixels must be in `value_range`, {self.value_range}. "
                f"Received: values from {values.min()} to {values.max()}"
            )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "count": self.count,
            "magnitude": self.magnitude,
            "spread": self.spread,
            "probability": self.probability,
            "flip": self.flip,
            "erase": self.erase,
            "value_range": self.value_range,
            "fill_value": self.fill_value,
            "data_format": self.data_format,
            "seed": self.seed,
        }


def _numbers(name: str, values: Any, lengths: tuple[int, ...]) -> tuple[float, ...]:
    """Returns numbers as a tuple. Raises unless there are as many as one of `lengths`."""
    found = tuple(values) if isinstance(values, tuple | list) else (values,)
    if len(found) not in lengths:
        raise ValueError(f"`{name}` must have {' or '.join(map(str, lengths))} numbers. {received(name, values)}")
    for value in found:
        check_number(name, value)
    return found
