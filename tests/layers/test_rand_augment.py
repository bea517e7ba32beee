import keras
import numpy as np
import pytest
from PIL import Image

from keras_actlab.layers import RandAugment
from keras_actlab.ops import augmentation
from recipes.common.augmentation import FILL, LEVELS
from tests.backends import numpy


def pictures(count=4, height=20, width=24):
    """Smooth colours that cover nearly the whole range."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(0, 12, (count, height, width, 3)).cumsum(1).cumsum(2)
    return (pixels / 2 + 120).clip(3, 250).astype("uint8")


def test_each_change_is_that_of_pillow():
    """All changes in one batch, in which each image has a change and a level of its own."""
    images = pictures()
    levels = [-10.0, -9.3, -5.2, 0.0, 2.6, 8.9]
    cases = [(kind, level, image) for kind in range(len(LEVELS)) for level in levels for image in images]
    kinds, strengths, batch = (np.array(column) for column in zip(*cases, strict=True))
    found = augmentation.change(
        keras.ops.convert_to_tensor(batch.astype("float32")),
        keras.ops.convert_to_tensor(kinds.astype("int32")),
        keras.ops.convert_to_tensor(strengths.astype("float32")),
        keras.ops.convert_to_tensor(FILL, "float32"),
    )
    found = numpy(found)
    for number, name in enumerate(augmentation.CHANGES):
        here = kinds == number
        pairs = zip(batch[here], strengths[here], strict=True)
        expected = [np.asarray(LEVELS[name](Image.fromarray(image), level)) for image, level in pairs]
        difference = np.abs(found[here] - np.array(expected, float))
        assert difference.max() <= 1, name
        assert (difference > 0).mean() < 0.03, name  # where rounding differs between float32 and float64


def test_no_change_leaves_every_value():
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3)).astype("float32")
    none = keras.ops.full((3,), augmentation.NONE, dtype="int32")
    fill = keras.ops.zeros((3,))
    found = augmentation.change(keras.ops.convert_to_tensor(images), none, keras.ops.full((3,), 9.0), fill)
    np.testing.assert_array_equal(numpy(found), images)


@pytest.mark.parametrize("value", [0, 100, 255])
def test_images_of_one_colour(value):
    images = keras.ops.full((len(augmentation.CHANGES), 4, 4, 3), float(value))
    kinds = keras.ops.arange(len(augmentation.CHANGES), dtype="int32")
    levels = keras.ops.full((len(augmentation.CHANGES),), 9.0)
    found = numpy(augmentation.change(images, kinds, levels, keras.ops.convert_to_tensor(FILL, "float32")))
    for image, name in zip(found, augmentation.CHANGES, strict=True):
        expected = LEVELS[name](Image.new("RGB", (4, 4), (value,) * 3), 9.0)
        np.testing.assert_allclose(image, np.asarray(expected), atol=1, err_msg=name)


def shares(layer, image, count=10_000):
    """Augmented copies of an image."""
    return numpy(layer(np.broadcast_to(image, (count, *image.shape)), training=True))


def test_a_quarter_of_the_images_is_erased():
    image = np.full((8, 8, 3), 255, "uint8")
    image[..., 1] = 0
    found = shares(RandAugment(probability=0.0, flip=0.0, erase=0.25, seed=0), image)
    erased = (found != image).any(-1)
    assert erased.any((1, 2)).mean() == pytest.approx(0.25, abs=0.01)
    areas = erased[erased.any((1, 2))].mean((1, 2))
    assert areas.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
    np.testing.assert_allclose(found[erased].mean(0), [124, 116, 104], atol=3)  # 5 % of the values are clipped
    assert found.min() >= 0
    assert found.max() <= 255


@pytest.mark.one_backend
def test_half_of_the_images_are_flipped():
    image = pictures(1, 4, 5)[0]
    found = shares(RandAugment(probability=0.0, seed=0), image, 4000)
    flipped = (found == image[:, ::-1]).all((1, 2, 3))
    assert flipped.mean() == pytest.approx(0.5, abs=0.03)
    assert (flipped | (found == image).all((1, 2, 3))).all()


@pytest.mark.one_backend
def test_two_changes_are_drawn_and_each_is_applied_to_half_of_the_images(monkeypatch):
    calls = []

    def change(images, kind, level, fill):
        calls.append((numpy(kind), numpy(level)))
        return images

    monkeypatch.setattr(augmentation, "change", change)
    shares(RandAugment(seed=0), np.zeros((1, 1, 3)))
    assert len(calls) == 2
    for kind, level in calls:
        counts = np.bincount(kind, minlength=16) / len(kind)
        assert counts[augmentation.NONE] == pytest.approx(0.5, abs=0.02)
        np.testing.assert_allclose(counts[:-1], 1 / 30, atol=0.01)
        assert np.abs(level).mean() == pytest.approx(9, abs=0.02)
        assert np.abs(level).std() == pytest.approx(0.5, abs=0.02)
        assert (level > 0).mean() == pytest.approx(0.5, abs=0.02)
        assert np.abs(level).max() == 10


@pytest.mark.one_backend
def test_value_range_scales_the_result():
    images = pictures()
    bytes_, unit = RandAugment(erase=1.0, seed=3), RandAugment(erase=1.0, value_range=(0, 1), seed=3)
    expected = numpy(bytes_(images, training=True))
    found = numpy(unit(images.astype("float32") / 255, training=True))
    np.testing.assert_allclose(255 * found, expected, atol=1e-3)
    assert (expected != images).any((1, 2, 3)).all()


@pytest.mark.one_backend
def test_pixels_outside_of_the_range_are_refused():
    with pytest.raises(ValueError, match=r"Pixels must be in `value_range`, \(0, 255\). Received: values from -1"):
        RandAugment()(np.full((1, 4, 4, 3), -1.0), training=True)
    with pytest.raises(ValueError, match=r"values from 0\.0 to 200\.0"):
        RandAugment(value_range=(0, 1))(np.linspace(0, 200, 48).reshape(1, 4, 4, 3), training=True)
    RandAugment()(np.full((1, 4, 4, 3), -1.0))  # not changed, and not checked


@pytest.mark.one_backend
@pytest.mark.parametrize("shape", [(2, 4, 4, 1), (2, 4, 4), (2, None, 4, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"fixed height and width and 3 channels\. Received: input_shape"):
        RandAugment().build(shape)


def test_a_compiled_step_is_the_eager_one():
    images = pictures(8, 8, 8).astype("float32")
    layer = RandAugment(erase=0.5, seed=1)
    eager = [(numpy(layer(images, training=True)).sum((1, 2, 3)) / 1e4) ** 2 for _ in range(2)]
    head = keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(1e-4))
    layers = [RandAugment(erase=0.5, seed=1), keras.layers.Flatten(), head]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    # PyTorch's compiler takes half a minute, and XLA draws other random numbers than TensorFlow.
    jit_compile = keras.backend.backend() == "jax"
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=jit_compile)
    first = float(model.train_on_batch(images, np.zeros((8, 1))))
    assert first == pytest.approx(eager[0].mean(), rel=1e-3)
    second = float(model.train_on_batch(images, np.zeros((8, 1))))
    assert second == pytest.approx(eager[1].mean(), rel=1e-3)
    assert second != pytest.approx(first, rel=1e-2)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_shapes_and_dtypes(policy):
    layer = RandAugment(erase=0.25, dtype=policy)
    images = pictures()
    for batch in (images, images[:0]):
        for training in (False, True):
            found = layer(batch, training=training)
            assert tuple(found.shape) == batch.shape
            assert keras.backend.standardize_dtype(found.dtype) == layer.compute_dtype
    assert layer(keras.Input((8, 9, 3))).shape == (None, 8, 9, 3)


@pytest.mark.one_backend
def test_channels_first():
    images = pictures()
    last, first = RandAugment(erase=1.0, seed=3), RandAugment(erase=1.0, data_format="channels_first", seed=3)
    expected = numpy(last(images, training=True))
    found = numpy(first(images.transpose(0, 3, 1, 2), training=True))
    np.testing.assert_array_equal(found.transpose(0, 2, 3, 1), expected)


@pytest.mark.one_backend
def test_a_saved_model_has_the_same_layer(tmp_path):
    arguments = {"count": 3, "magnitude": 5.0, "spread": 1.0, "probability": 0.7, "flip": 0.1, "erase": 0.2, "seed": 4}
    arguments |= {"value_range": (0, 1), "fill_value": (0.5,), "data_format": "channels_last"}
    model = keras.Sequential([keras.Input((4, 4, 3)), RandAugment(**arguments)])
    model.save(tmp_path / "model.keras")
    config = keras.models.load_model(tmp_path / "model.keras").layers[0].get_config()
    assert {name: tuple(v) if isinstance(v := config[name], list) else v for name in arguments} == arguments
