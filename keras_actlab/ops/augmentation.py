"""Random changes of batches of images. Pixels are whole numbers from 0 to 255 in float32, channels last."""

import math

from keras import ops

from keras_actlab.ops.tensor import Tensor

CHANGES = (
    "auto_contrast",
    "equalize",
    "invert",
    "rotate",
    "posterize",
    "solarize",
    "solarize_add",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
NONE = len(CHANGES)  # the number of no change


def change(images: Tensor, kind: Tensor, level: Tensor, fill: Tensor) -> Tensor:
    """Returns images, each after one of the changes.

    A change is computed for the whole batch with a strength that depends on the image, and is the identity for images
    of other kinds. Results are rounded as in Pillow.

    Args:
        images: Tensor of shape `(batch, height, width, 3)`.
        kind: Integers of shape `(batch,)`: the number of a change in `CHANGES`, or `NONE`.
        level: Numbers from -10 to 10 of shape `(batch,)`; changes without direction use the magnitude.
        fill: Colour of pixels that a rotation, shear or translation uncovers, `(3,)`.
    """

    def only(name: str, value: Tensor, otherwise: float) -> Tensor:
        return ops.where(kind == CHANGES.index(name), value, otherwise)[:, None, None, None]

    size = ops.abs(level)
    x = _warp(images, kind, level, fill)
    x = _blend(x, kind, ops.maximum(0.1, 1 + 0.09 * level))
    x = _stretch(x, only("auto_contrast", 1.0, 0.0))
    x = _equalize(x, only("equalize", 1.0, 0.0))
    quantum = only("posterize", 2 ** (4 + ops.minimum(ops.floor(0.4 * size), 3.0)), 1.0)  # at least one bit is kept
    x = ops.floor(x / quantum) * quantum
    threshold = ops.minimum(only("solarize", 256 - ops.floor(25.6 * size), 256.0), only("invert", 0.0, 256.0))
    x = ops.where(x >= threshold, 255 - x, x)
    return ops.where(x < 128, ops.minimum(255.0, x + only("solarize_add", ops.floor(11 * size), 0.0)), x)


def _warp(images: Tensor, kind: Tensor, level: Tensor, fill: Tensor) -> Tensor:
    """Rotates, shears or translates images, with bilinear interpolation."""
    _, height, width, channels = images.shape

    def only(name: str, step: float) -> Tensor:
        return ops.where(kind == CHANGES.index(name), step * level, 0.0)[:, None, None]

    turn = only("rotate", math.pi / 60)
    # Each pixel of the result reads the place (u, v). Places count from the upper left corner of the image.
    x = ops.arange(width, dtype="float32")[None, None, :] + 0.5
    y = ops.arange(height, dtype="float32")[None, :, None] + 0.5
    dx, dy = x - width / 2, y - height / 2
    # The difference of the cosine from 1 keeps images that are not turned exactly where they are.
    less = -2 * ops.sin(turn / 2) ** 2
    u = x + (less * dx - ops.sin(turn) * dy) + only("shear_x", 0.03) * y + only("translate_x", 0.045 * width)
    v = y + (ops.sin(turn) * dx + less * dy) + only("shear_y", 0.03) * x + only("translate_y", 0.045 * height)
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    left, top = ops.floor(u - 0.5), ops.floor(v - 0.5)
    right_share, lower_share = (u - 0.5 - left)[..., None], (v - 0.5 - top)[..., None]
    flat = ops.reshape(images, (-1, height * width, channels))

    def pixels(row: Tensor, column: Tensor) -> Tensor:
        place = ops.clip(row, 0, height - 1) * width + ops.clip(column, 0, width - 1)
        place = ops.reshape(ops.cast(place, "int32"), (-1, height * width, 1))
        return ops.reshape(ops.take_along_axis(flat, place, axis=1), (-1, height, width, channels))

    upper = pixels(top, left) * (1 - right_share) + pixels(top, left + 1) * right_share
    lower = pixels(top + 1, left) * (1 - right_share) + pixels(top + 1, left + 1) * right_share
    # Rounding in float32 must not take a whole number below itself.
    moved = ops.floor(upper * (1 - lower_share) + lower * lower_share + 1e-3)
    return ops.where(inside[..., None], moved, fill)


def _blend(x: Tensor, kind: Tensor, factor: Tensor) -> Tensor:
    """Moves images away from, or towards, a copy without colour, contrast, brightness or sharpness."""
    kind = kind[:, None, None, None]
    weights = ops.convert_to_tensor([19595 / 65536, 38470 / 65536, 7471 / 65536], "float32")  # Pillow's
    grey = ops.floor(ops.sum(x * weights, axis=-1, keepdims=True) + 0.5)
    mean = ops.floor(ops.mean(grey, (1, 2), keepdims=True) + 0.5)
    copy = ops.where(kind == CHANGES.index("color"), grey, x)
    copy = ops.where(kind == CHANGES.index("contrast"), mean, copy)
    copy = ops.where(kind == CHANGES.index("brightness"), 0.0, copy)
    copy = ops.where(kind == CHANGES.index("sharpness"), _smooth(x), copy)
    return ops.floor(ops.clip(copy + factor[:, None, None, None] * (x - copy) + 1e-3, 0.0, 255.0))


def _smooth(x: Tensor) -> Tensor:
    """Returns weighted means of 3 x 3 pixels, the middle one with weight 5. Pixels at the edges keep their values."""
    height, width = x.shape[1:3]
    if min(height, width) < 3:
        return x
    rows = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * x[:, 1:-1, 1:-1]
    inner = ops.pad(ops.floor(total / 13 + 0.5), ((0, 0), (1, 1), (1, 1), (0, 0)))
    is_inner = ops.pad(ops.ones((1, height - 2, width - 2, 1), dtype="bool"), ((0, 0), (1, 1), (1, 1), (0, 0)))
    return ops.where(is_inner, inner, x)


def _stretch(x: Tensor, share: Tensor) -> Tensor:
    """Stretches each channel to the whole range where `share` is 1."""
    low, high = ops.min(x, (1, 2), keepdims=True), ops.max(x, (1, 2), keepdims=True)
    stretched = ops.floor((x - low) * 255 / ops.maximum(high - low, 1.0) + 1e-3)
    return ops.where((share > 0) & (high > low), stretched, x)


def _equalize(x: Tensor, share: Tensor) -> Tensor:
    """Makes the distribution of each channel's values as even as possible where `share` is 1."""
    batch, channels = ops.shape(x)[0], x.shape[-1]
    first = 256 * ops.reshape(ops.arange(batch * channels, dtype="int32"), (-1, 1, 1, channels))
    place = ops.reshape(ops.cast(x, "int32") + first, (-1,))
    histogram = ops.segment_sum(ops.ones_like(place), place, 256 * batch * channels)
    histogram = ops.reshape(histogram, (-1, 256))
    # As in Pillow, the step leaves out the pixels of the highest value.
    values = ops.arange(256, dtype="int32")
    top = ops.max(ops.where(histogram > 0, values, 0), axis=1, keepdims=True)
    of_top = ops.take_along_axis(histogram, top, axis=1)
    step = (x.shape[1] * x.shape[2] - of_top) // 255
    below = ops.cumsum(histogram, axis=1) - histogram
    table = ops.minimum((step // 2 + below) // ops.maximum(step, 1), 255)
    table = ops.where(step > 0, table, values)
    equal = ops.reshape(ops.take(ops.reshape(table, (-1,)), place), ops.shape(x))
    return ops.where(share > 0, ops.cast(equal, x.dtype), x)


def rectangles(draws: Tensor, height: int, width: int) -> Tensor:
    """Returns masks, `(batch, height, width)`, of a rectangle of 2 to 33 % of each image.

    The logarithm of its height by its width is uniform from that of 0.3 to its negative. A rectangle that is too long
    for the image is shortened to one pixel less than the side; Zhong et al. (2017) draw another one.

    Args:
        draws: Uniform random numbers, `(batch, 4)`: area, ratio, and the place of the upper left corner.
        height: Height of the images.
        width: Width of the images.
    """
    area, ratio, row, column = (draws[:, k, None, None] for k in range(4))
    area = (0.02 + (1 / 3 - 0.02) * area) * height * width
    ratio = ops.exp((2 * ratio - 1) * math.log(0.3))
    rows = ops.minimum(ops.round(ops.sqrt(area * ratio)), height - 1)
    columns = ops.minimum(ops.round(ops.sqrt(area / ratio)), width - 1)
    top, left = ops.floor(row * (height - rows + 1)), ops.floor(column * (width - columns + 1))
    y, x = ops.arange(height, dtype="float32")[:, None], ops.arange(width, dtype="float32")[None]
    return (y >= top) & (y < top + rows) & (x >= left) & (x < left + columns)
