"""The changes are compared with Pillow's own functions, or a few lines of NumPy."""

from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from keras_actlab.experiments.resumable import read_ahead
from keras_actlab.ops.augmentation import CHANGES
from recipes.common import augmentation, images
from recipes.common.augmentation import FILL, LEVELS

pytestmark = pytest.mark.one_backend


def picture(width=24, height=20, seed=0):
    """Smooth colours that cover nearly the whole range."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(0, 12, (height, width, 3)).cumsum(0).cumsum(1)
    return Image.fromarray((pixels / 2 + 120).clip(3, 250).astype("uint8"))


def affine(image, a, b, c, d, e, f):
    """Bilinear interpolation as Pillow defines it: the middle of the first pixel is (0.5, 0.5)."""
    pixels, (width, height) = np.asarray(image).astype(float), image.size
    y, x = np.mgrid[:height, :width] + 0.5
    u, v = a * x + b * y + c, d * x + e * y + f
    column, row = np.floor(u - 0.5).astype(int), np.floor(v - 0.5).astype(int)
    found = np.zeros_like(pixels)
    for down, right in np.ndindex(2, 2):
        weight = np.abs(1 - right - (u - 0.5 - column)) * np.abs(1 - down - (v - 0.5 - row))
        found += weight[..., None] * pixels[np.clip(row + down, 0, height - 1), np.clip(column + right, 0, width - 1)]
    found[(u < 0) | (u >= width) | (v < 0) | (v >= height)] = FILL
    return found


def rotation(image, degrees):
    """The matrix of a rotation about the middle of the image, against the clock."""
    cos, sin, (x, y) = np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), np.array(image.size) / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


def factor(enhancement, value):
    return lambda image: enhancement(image).enhance(value)


# What timm's "rand-m9-inc1" does at magnitude 9, in both directions.
REFERENCES = {
    "auto_contrast": [ImageOps.autocontrast] * 2,
    "equalize": [ImageOps.equalize] * 2,
    "invert": [lambda image: 255 - np.asarray(image)] * 2,
    "rotate": [lambda image, angle=angle: affine(image, *rotation(image, angle)) for angle in (27, -27)],
    "posterize": [lambda image: np.asarray(image) // 128 * 128] * 2,
    "solarize": [lambda image: ImageOps.solarize(image, 26)] * 2,
    "solarize_add": [
        lambda image: np.where(np.asarray(image) < 128, np.minimum(255, np.asarray(image, int) + 99), image)
    ] * 2,
    "color": [factor(ImageEnhance.Color, value) for value in (1.81, 0.19)],
    "contrast": [factor(ImageEnhance.Contrast, value) for value in (1.81, 0.19)],
    "brightness": [factor(ImageEnhance.Brightness, value) for value in (1.81, 0.19)],
    "sharpness": [factor(ImageEnhance.Sharpness, value) for value in (1.81, 0.19)],
    "shear_x": [lambda image, shear=shear: affine(image, 1, shear, 0, 0, 1, 0) for shear in (0.27, -0.27)],
    "shear_y": [lambda image, shear=shear: affine(image, 1, 0, 0, shear, 1, 0) for shear in (0.27, -0.27)],
    "translate_x": [lambda image, move=move: affine(image, 1, 0, move * 24, 0, 1, 0) for move in (0.405, -0.405)],
    "translate_y": [lambda image, move=move: affine(image, 1, 0, 0, 0, 1, move * 20) for move in (0.405, -0.405)],
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_the_reference(name):
    for level, reference in zip((9, -9), REFERENCES[name], strict=True):
        for image in (picture(), picture(seed=1)):
            found, expected = np.asarray(LEVELS[name](image, level), float), np.asarray(reference(image), float)
            assert np.abs(found - expected).max() < 1.001  # Pillow truncates what the reference interpolates
            assert (found != np.asarray(image)).any()


@pytest.mark.parametrize("level", [0, 2.4, 2.6, 5.1, 7.6, 9.99, 10])
def test_posterization_keeps_4_bits_at_magnitude_0_and_1_at_9(level):
    bits = {0: 4, 2.4: 4, 2.6: 3, 5.1: 2, 7.6: 1, 9.99: 1, 10: 1}[level]
    ramp = np.arange(256, dtype="uint8").reshape(16, 16, 1).repeat(3, 2)
    found = np.asarray(LEVELS["posterize"](Image.fromarray(ramp), level))
    np.testing.assert_array_equal(found, ramp >> (8 - bits) << (8 - bits))


def test_magnitudes_and_probabilities(monkeypatch):
    calls = []
    names = dict(enumerate(CHANGES))
    for name in CHANGES:
        monkeypatch.setitem(LEVELS, name, lambda image, level, name=name: calls.append((name, level)) or image)
    image, rng = picture(), np.random.default_rng(0)
    count = 4000
    for _ in range(count):
        augmentation.rand_augment(image, rng)
    assert len(calls) / count == pytest.approx(1, abs=0.04)  # two changes with probability one half
    kinds, levels = zip(*calls, strict=True)
    shares = [kinds.count(name) / len(calls) for name in names.values()]
    np.testing.assert_allclose(shares, 1 / 15, atol=0.015)
    sizes = np.abs(levels)
    assert np.mean(sizes) == pytest.approx(9, abs=0.03)
    assert np.std(sizes) == pytest.approx(0.5, abs=0.03)
    assert sizes.max() == 10  # is clipped
    assert np.mean(np.array(levels) > 0) == pytest.approx(0.5, abs=0.03)


def test_a_quarter_of_the_images_is_erased_by_noise():
    image, rng = Image.new("RGB", (32, 32), (255, 0, 255)), np.random.default_rng(0)
    found = [augmentation.erase(image, rng) for _ in range(10_000)]
    changed = np.stack([np.asarray(one) for one in found if one is not image])
    assert len(changed) / 10_000 == pytest.approx(0.25, abs=0.01)
    erased = (changed != (255, 0, 255)).any(-1)
    areas = erased.mean((1, 2))
    assert 0.01 < areas.min() < 0.03
    assert 0.3 < areas.max() < 0.36
    assert np.mean(areas) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.01)
    np.testing.assert_allclose(changed[erased].mean(0), augmentation.MEAN, atol=3)
    # A rectangle holds all erased places, save those whose noise has the colour of the image.
    sizes = erased.any(1).sum(1) * erased.any(2).sum(1)
    assert (erased.sum((1, 2)) / sizes).min() > 0.95
    assert np.asarray(image).std(axis=(0, 1)).max() == 0  # the image itself stays


def test_half_of_the_images_are_flipped():
    image, rng = picture(), np.random.default_rng(0)
    found = [np.asarray(augmentation.flip(image, rng)) for _ in range(2000)]
    flipped = [np.array_equal(pixels, np.asarray(image)[:, ::-1]) for pixels in found]
    assert np.mean(flipped) == pytest.approx(0.5, abs=0.03)
    assert all(is_flipped or np.array_equal(pixels, image) for is_flipped, pixels in zip(flipped, found, strict=True))


class Recorder:
    """In place of an image: takes down how it is cropped and resized."""

    def __init__(self, *size):
        self.size, self.calls = size, []

    def draft(self, mode, size):
        """As of an image that is decoded already."""

    def crop(self, box):
        self.calls.append(np.array(box))
        self.size = (box[2] - box[0], box[3] - box[1])
        return self

    def resize(self, size, resample, box):
        self.calls.append(np.array(size))
        self.size = tuple(size)
        return self


def record(change, *size, count=500):
    rng = np.random.default_rng(0)
    found = [change(Recorder(*size), rng) for _ in range(count)]
    return map(np.array, zip(*(one.calls for one in found), strict=True))


def test_random_resized_crops_have_8_to_100_percent_of_the_image():
    crops, sizes = record(partial(augmentation.random_resized_crop, side=64), 200, 120)
    left, top, right, bottom = crops.T
    areas, ratios = (right - left) * (bottom - top) / (200 * 120), (right - left) / (bottom - top)
    assert 0.075 < areas.min() < 0.1
    assert 0.7 < areas.max() <= 1  # a larger one fits only at the ratio of the image
    assert 0.74 < ratios.min() < 0.77
    assert 1.29 < ratios.max() < 1.36
    assert left.min() == top.min() == 0
    assert (right.max(), bottom.max()) == (200, 120)
    assert (sizes == 64).all()
    crops, _ = record(partial(augmentation.random_resized_crop, side=8), 300, 6, count=3)
    assert crops.tolist() == [[146, 0, 154, 6]] * 3  # an elongated image: a ratio of 4 / 3 in the middle


def test_the_shorter_side_is_resized_within_a_range():
    _, sizes, crops = record(partial(augmentation.resize_and_crop, side=56), 200, 100)
    assert (sizes[:, 1].min(), sizes[:, 1].max()) == (64, 120)  # 256 and 480 for a side of 224
    assert (sizes[:, 0] == 2 * sizes[:, 1]).all()
    left, top, right, bottom = crops.T
    assert (right - left == 56).all()
    assert (bottom - top == 56).all()
    assert left.min() < 3
    assert (right <= sizes[:, 0]).all()
    assert top.max() > 50


@pytest.mark.parametrize("change", ["random_resized_crop", "resize_and_crop"])
def test_a_jpeg_is_decoded_no_larger_than_the_crop_needs(change, tmp_path):
    path = tmp_path / "picture.jpg"
    x, y = np.arange(403), np.arange(301)[:, None]
    Image.fromarray(np.stack(np.broadcast_arrays(x / 1.6, y / 1.2, 255 - y / 1.2), 2).astype("uint8")).save(path)
    with Image.open(path) as image:
        whole = image.copy()
    sizes, differences = [], []
    for seed in range(40):
        expected = getattr(augmentation, change)(whole, np.random.default_rng(seed), side=32)
        with Image.open(path) as image:
            found = getattr(augmentation, change)(image, np.random.default_rng(seed), side=32)
            sizes.append(image.size)
        differences.append(np.abs(np.asarray(found, float) - np.asarray(expected, float)).max())
    assert (51, 38) in sizes
    assert set(sizes) <= {(202, 151), (101, 76), (51, 38)}
    assert max(differences) < 4  # of 255, where neighbouring pixels of the crop differ by up to 8
    assert found.size == (32, 32)


def test_colours_move_along_principal_components():
    rng, image = np.random.default_rng(0), Image.new("RGB", (2, 2), (128, 128, 128))
    shifts = np.array([np.asarray(augmentation.shift_colours(image, rng))[0, 0] - 128.0 for _ in range(1000)])
    directions, deviations = augmentation.COMPONENTS, augmentation.DEVIATIONS
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-3)
    expected = directions @ np.diag((255 * 0.1 * deviations) ** 2) @ directions.T
    np.testing.assert_allclose(np.cov(shifts.T), expected + np.eye(3) / 12, rtol=0.15, atol=0.15)
    black = augmentation.shift_colours(Image.new("RGB", (2, 2)), np.random.default_rng(1))
    assert np.asarray(black).max() < 60  # no value wraps around


CHANGED = (augmentation.flip, augmentation.rand_augment, augmentation.erase)


def test_pictures_depend_on_seed_epoch_and_place():
    arrays = images.Arrays(np.stack([picture(8, 8, seed) for seed in range(6)]), np.arange(6, dtype="int32"), 6)
    whole = list(images.training_batches(arrays, 3, 1, CHANGED)[:6])
    again = images.training_batches(arrays, 3, 1, CHANGED)
    for step in (5, 2, 0):
        np.testing.assert_array_equal(again[step][0], whole[step][0])
    other = images.training_batches(arrays, 3, 2, CHANGED)
    assert any((other[step][0] != whole[step][0]).any() for step in range(2))
    pixels, labels = (np.concatenate(part) for part in zip(*whole, strict=True))
    for label in range(6):  # an image is changed otherwise in another epoch
        versions = {version.tobytes() for version in pixels[labels == label]}
        assert len(versions) > 1


def test_pictures_depend_on_neither_the_batch_size_nor_the_number_of_processes(monkeypatch):
    arrays = images.Arrays(np.stack([picture(8, 8, seed) for seed in range(6)]), np.arange(6, dtype="int32"), 6)
    whole = np.concatenate([x for x, _ in images.training_batches(arrays, 6, 1, CHANGED)[:2]])
    for size in (2, 3):
        batches = images.training_batches(arrays, size, 1, CHANGED)[: 12 // size]
        np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), whole)
    monkeypatch.setattr(images.distribution, "data_shard", lambda: (1, 2))
    share, _ = images.training_batches(arrays, 6, 1, CHANGED)[1]
    np.testing.assert_array_equal(share, whole[6:][1::2])


@pytest.mark.slow
def test_a_resumed_run_reads_the_same_pictures_in_worker_processes():
    arrays = images.Arrays(np.stack([picture(8, 8, seed) for seed in range(6)]), np.arange(6, dtype="int32"), 6)
    batches = images.training_batches(arrays, 3, 1, CHANGED)[:6]
    resumed = read_ahead(batches[2:4], threads=2, processes=2)  # epoch 2 after a restart, by new processes
    for found, expected in zip(resumed, [batches[2], batches[3]], strict=True):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
