"""Random changes of training images with Pillow: crops, flips, RandAugment, random erasing, and changes of colour.

A change is a function of an RGB image and a random generator that returns an image. The settings of
`random_resized_crop`, `flip`, `rand_augment` and `erase` are the defaults of the library timm and of its
"rand-m9-mstd0.5-inc1"; interpolation is bilinear. `keras_actlab.layers.RandAugment` has the same changes as a layer.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageEnhance

from keras_actlab.ops.augmentation import CHANGES

Change = Callable[[Image.Image, np.random.Generator], Image.Image]

MEAN, STANDARD_DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, from 0 to 255
FILL = tuple(map(round, MEAN))
MAGNITUDE, SPREAD = 9.0, 0.5  # of RandAugment, whose magnitudes are from 0 to 10
ERASED = 0.25  # share of images
# Principal components of ImageNet's colours (columns), and the square roots of their variances (Krizhevsky et al.,
# 2012), both for values from 0 to 1.
COMPONENTS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
DEVIATIONS = np.array([0.2175, 0.0188, 0.0045])
VALUES = np.arange(256)


def resize_and_crop(
    image: Image.Image, rng: np.random.Generator, side: int, shorter: tuple[int, int] = (256, 480)
) -> Image.Image:
    """Resizes the shorter side to a random length, and returns a random square crop.

    Args:
        image: The image.
        rng: The random generator.
        side: Side of the crop.
        shorter: Range of the length for a side of 224; in proportion for others.
    """
    low, high = (round(length * side / 224) for length in shorter)
    image = resize_shorter(image, int(rng.integers(low, high + 1)), side)
    left, top = (int(rng.integers(0, length - side + 1)) for length in image.size)
    return image.crop((left, top, left + side, top + side))


def resize_shorter(image: Image.Image, length: int, least: int) -> Image.Image:
    """Returns an image with a shorter side of `length`, and both sides of `least` or more."""
    scale = length / min(image.size)
    size = tuple(max(least, round(scale * one)) for one in image.size)
    return _cut(image, (0, 0, *image.size), size)


def _cut(image: Image.Image, box: tuple[int, int, int, int], size: tuple[int, int]) -> Image.Image:
    """Returns a box of an image, resized.

    A JPEG that is not decoded yet is decoded at a half, a quarter or an eighth if the box then has `size` or more.
    """
    (width, height), (left, top, right, bottom) = image.size, box
    image.draft("RGB", (math.ceil(width * size[0] / (right - left)), math.ceil(height * size[1] / (bottom - top))))
    left, top, right, bottom = (edge / round(width / image.size[0]) for edge in box)
    # Cropped first, so that no pixel outside of the box contributes.
    x, y = math.floor(left), math.floor(top)
    image = image.crop((x, y, math.ceil(right), math.ceil(bottom)))
    return image.resize(size, Image.Resampling.BILINEAR, (left - x, top - y, right - x, bottom - y))


def random_resized_crop(image: Image.Image, rng: np.random.Generator, side: int) -> Image.Image:
    """Resizes a random crop of 8 to 100 % of the image, with an aspect ratio from 3 / 4 to 4 / 3, to a square."""
    width, height = image.size
    for _ in range(10):
        area = rng.uniform(0.08, 1) * width * height
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            break
    else:  # the image is elongated
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        left, top = (width - w) // 2, (height - h) // 2
    return _cut(image, (left, top, left + w, top + h), (side, side))


def flip(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Flips half of the images from left to right."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=FILL)


def _pixels(image: Image.Image) -> np.ndarray:
    """Returns the pixels of an image, (height, 3, width): NumPy is faster if channels are not the last axis."""
    return np.frombuffer(image.tobytes("raw", "RGB;L"), "uint8").reshape(image.height, 3, image.width)


def _image(pixels: np.ndarray) -> Image.Image:
    """Returns an image of pixels, (height, 3, width)."""
    height, _, width = pixels.shape
    return Image.frombytes("RGB", (width, height), pixels.astype("uint8").tobytes(), "raw", "RGB;L")


# The two that follow are much faster than `ImageOps.autocontrast` and `ImageOps.equalize` for small images.


def _auto_contrast(image: Image.Image) -> Image.Image:
    ranges = [(low, high) if low < high else (0, 255) for low, high in image.getextrema()]
    low, high = np.array(ranges).T[..., None]
    scale = 255 / (high - low)
    return _image(_pixels(image) * scale - low * scale)


def _equalize(image: Image.Image) -> Image.Image:
    places = _pixels(image) + 256 * np.arange(3)[:, None]  # in the tables of the three channels, one after another
    histogram = np.bincount(places.ravel(), minlength=768).reshape(3, 256)
    highest = 255 - (histogram[:, ::-1] > 0).argmax(1)
    step = (image.width * image.height - histogram[np.arange(3), highest])[:, None] // 255
    below = histogram.cumsum(1) - histogram
    tables = np.where(step > 0, (step // 2 + below) // np.maximum(step, 1), VALUES)
    return _image(np.minimum(tables, 255).take(places))


def _posterize(image: Image.Image, level: float) -> Image.Image:
    # At least one bit is kept; timm's magnitude 10 keeps none, which is a black image.
    bits = 4 - min(3, int(abs(level) / 10 * 4))
    return _image(_pixels(image) & np.uint8(256 - 2 ** (8 - bits)))


def _solarize(image: Image.Image, level: float) -> Image.Image:
    pixels = _pixels(image)
    return _image(np.where(pixels >= 256 - int(abs(level) / 10 * 256), 255 - pixels, pixels))


def _solarize_add(image: Image.Image, level: float) -> Image.Image:
    pixels, addition = _pixels(image), np.uint8(abs(level) / 10 * 110)
    return _image(np.where(pixels < 128, np.minimum(pixels, 255 - addition) + addition, pixels))


def _contrast(image: Image.Image, level: float) -> Image.Image:
    mean = round(np.asarray(image.convert("L")).sum() / (image.width * image.height))
    return Image.blend(Image.new("RGB", image.size, (mean, mean, mean)), image, _factor(level))


def _factor(level: float) -> float:
    return max(0.1, 1 + 0.09 * level)


# For each change of RandAugment a function of an image and a level from -10 to 10.
LEVELS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "auto_contrast": lambda image, level: _auto_contrast(image),
    "equalize": lambda image, level: _equalize(image),
    "invert": lambda image, level: ImageChops.invert(image),
    "rotate": lambda image, level: image.rotate(3 * level, Image.Resampling.BILINEAR, fillcolor=FILL),
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "color": lambda image, level: ImageEnhance.Color(image).enhance(_factor(level)),
    "contrast": _contrast,
    "brightness": lambda image, level: ImageEnhance.Brightness(image).enhance(_factor(level)),
    "sharpness": lambda image, level: ImageEnhance.Sharpness(image).enhance(_factor(level)),
    "shear_x": lambda image, level: _affine(image, 1, 0.03 * level, 0, 0, 1, 0),
    "shear_y": lambda image, level: _affine(image, 1, 0, 0, 0.03 * level, 1, 0),
    "translate_x": lambda image, level: _affine(image, 1, 0, 0.045 * level * image.width, 0, 1, 0),
    "translate_y": lambda image, level: _affine(image, 1, 0, 0, 0, 1, 0.045 * level * image.height),
}


def rand_augment(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Draws two changes, and applies each with probability one half, with a magnitude that is normal around 9."""
    draws, levels = rng.random((2, 3)), rng.normal(MAGNITUDE, SPREAD, 2)
    for (kind, applied, sign), level in zip(draws.tolist(), levels.tolist(), strict=True):
        if applied < 0.5:
            level = min(max(level, 0.0), 10.0)
            image = LEVELS[CHANGES[int(kind * len(CHANGES))]](image, level if sign < 0.5 else -level)
    return image


def erase(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Fills a rectangle of 2 to 33 % of a quarter of the images with noise.

    The noise is normal with the mean and the standard deviation of ImageNet, clipped to the range of pixels; timm does
    not clip it.
    """
    if rng.random() >= ERASED:
        return image
    width, height = image.size
    for _ in range(10):
        area, ratio, left, top = rng.random(4).tolist()  # faster than other draws
        area = (0.02 + (1 / 3 - 0.02) * area) * width * height
        ratio = 0.3 ** (2 * ratio - 1)
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w < width and 0 < h < height:
            mean, deviation = np.array([MEAN, STANDARD_DEVIATION], "float32")[..., None]
            noise = mean + deviation * rng.standard_normal((h, 3, w), "float32")
            image = image.copy()
            image.paste(_image(noise.round().clip(0, 255)), (int(left * (width - w + 1)), int(top * (height - h + 1))))
            return image
    return image


def shift_colours(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Adds to all pixels one multiple of the principal components of ImageNet's colours (Krizhevsky et al., 2012)."""
    shift = 255 * COMPONENTS @ (rng.normal(0, 0.1, 3) * DEVIATIONS)
    return image.point((VALUES + shift[:, None]).round().clip(0, 255).astype(int).ravel().tolist())
