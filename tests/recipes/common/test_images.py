import pickle
from functools import partial

import keras
import numpy as np
import pytest
from PIL import Image

from recipes.common import images
from recipes.common.augmentation import resize_and_crop

pytestmark = pytest.mark.one_backend


def save_batches(folder, names, count=6, key="labels", first=0, classes=10):
    rng = np.random.default_rng(0)
    content = []
    for name in names:
        batch = {
            "data": rng.integers(0, 256, (count, 3072), "uint8"),
            key: (np.arange(count) % classes + first).tolist(),
        }
        (folder / name).write_bytes(pickle.dumps(batch))
        content.append(batch)
    return content


def save_folders(folder, sizes=((9, 7), (8, 12)), classes=("ant", "bee"), parts=("train", "val")):
    rng = np.random.default_rng(0)
    for part in parts:
        for name in classes:
            (folder / part / name).mkdir(parents=True)
            for number, size in enumerate(sizes):
                pixels = rng.integers(0, 256, (size[1], size[0], 3), "uint8")
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    return folder


CIFAR10 = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def test_batch_files_hold_one_channel_after_another(tmp_path):
    content = save_batches(tmp_path, CIFAR10)
    train, test = images.cifar(10, tmp_path)
    assert len(train) == 30
    assert len(test) == 6
    np.testing.assert_array_equal(train.pixels[7, 2, 3], content[1]["data"][1].reshape(3, 32, 32)[:, 2, 3])
    assert train.labels[:7].tolist() == [0, 1, 2, 3, 4, 5, 0]


def test_labels_of_imagenet32_start_at_1(tmp_path):
    names = [*(f"train_data_batch_{number}" for number in range(1, 11)), "val_data"]
    save_batches(tmp_path, names, count=2, first=1, classes=1000)
    train, _ = images.imagenet32(tmp_path)
    assert train.labels.tolist() == [0, 1] * 10
    assert train.classes == 1000


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "`data_dir` must hold data_batch_2"),
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "data_batch_2 in `data_dir` must be a pickled"),
        (lambda path: path.write_bytes(pickle.dumps({"data": 3})), "data_batch_2 in `data_dir` must be a pickled"),
        (lambda path: path.write_bytes(pickle.dumps(print)), "asks for builtins.print"),
        # A module that runs a program when it is imported.
        (
            lambda path: path.write_bytes(b"\x80\x03cnumpy.f2py.__main__\ndtype\n."),
            "asks for numpy.f2py.__main__.dtype",
        ),
        (lambda path: path.write_bytes(pickle.dumps(np.array([path.name, None]))), "holds an array of O8"),
        (lambda path: path.write_bytes(pickle.dumps(np.arange(3), 5)), r"asks for numpy\._core\.numeric\._frombuffer"),
        (
            lambda path: path.write_bytes(pickle.dumps({"data": np.zeros((2, 3072), "uint8"), "labels": [1, [2, 3]]})),
            "labels must be a list of integers",
        ),
        (
            lambda path: path.write_bytes(pickle.dumps({"data": np.zeros((2, 3072), "uint8"), "labels": [1, 2**70]})),
            "must be from 0 to 9. Received: labels from 1",
        ),
        (
            lambda path: path.write_bytes(pickle.dumps({"data": np.zeros((2, 3072)), "labels": [1, 2]})),
            "3 x 32 x 32 bytes. Received: 2 labels, data of shape .*, float64",
        ),
        # A state of another form for an array, and one for what makes arrays.
        (lambda path: path.write_bytes(b"\x80\x03cnumpy\nndarray\n)RK\x01b."), "must be a pickled"),
        (lambda path: path.write_bytes(b"\x80\x03cnumpy\nndarray\nK\x01b."), "must be a pickled"),
        (lambda path: save_batches(path.parent, [path.name], first=5), "must be from 0 to 9. Received: labels from 5"),
    ],
    ids=[
        *("missing", "truncated", "no pictures", "code", "import", "objects", "buffer", "nested labels"),
        *("large label", "floats", "state", "state of a class", "labels"),
    ],
)
def test_bad_batch_files_are_refused(tmp_path, damage, words):
    save_batches(tmp_path, CIFAR10)
    damage(tmp_path / "data_batch_2")
    with pytest.raises(ValueError, match=words):
        images.cifar(10, tmp_path)


def test_a_batch_file_of_python_2(tmp_path):
    # As the published files are: protocol 2, with bytes as text.
    pixels = np.random.default_rng(0).integers(0, 256, 3072, "uint8")
    (tmp_path / "batch").write_bytes(
        b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03K\x07aU\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\n"
        b"ndarray\nq\x06K\x00\x85U\x01b\x87R(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nq\x07U\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00" + pixels.tobytes() + b"tbu."
    )
    found = images._batch_files([tmp_path / "batch"], "labels", 0, 10)
    np.testing.assert_array_equal(found.pixels[0], pixels.reshape(3, 32, 32).transpose(1, 2, 0))
    assert found.labels.tolist() == [7]


@pytest.mark.parametrize("name", ["imagenet32", "folders"])
def test_what_cannot_be_downloaded_needs_a_folder(name):
    with pytest.raises(ValueError, match="`data_dir` must name a folder"):
        images.SETS[name](None)


def test_an_empty_class_and_other_classes_are_refused(tmp_path):
    save_folders(tmp_path)
    (tmp_path / "val" / "cat").mkdir()
    with pytest.raises(ValueError, match=r"3 classes, in one of the two only: \['cat'\]"):
        images.class_folders(tmp_path)
    (tmp_path / "train" / "cat").mkdir()
    with pytest.raises(ValueError, match=r"Received: none in .*cat"):
        images.class_folders(tmp_path)
    with pytest.raises(ValueError, match="`data_dir` must hold the folder train"):
        images.class_folders(tmp_path / "train")


def collect(dataset, count=None):
    return [dataset[index] for index in range(len(dataset) if count is None else count)]


def test_every_picture_once_in_each_pass_in_another_order():
    pixels = np.arange(10, dtype="uint8")[:, None, None, None] * np.ones((1, 2, 2, 3), "uint8")
    arrays = images.Arrays(pixels, np.arange(10, dtype="int32"), 10)
    batches = collect(images.training_batches(arrays, 5, seed=0), 4)
    first, second = (np.concatenate([labels for _, labels in batches[part : part + 2]]) for part in (0, 2))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first.tolist() != second.tolist()
    assert all((x[:, 0, 0, 0] == labels).all() for x, labels in batches)
    again = images.training_batches(arrays, 5, seed=0)[3]
    np.testing.assert_array_equal(again[1], batches[3][1])
    with pytest.raises(ValueError, match="batch_size=11"):
        images.training_batches(arrays, 11, seed=0)


def test_pictures_of_files_are_cut_at_random_for_training_and_in_the_middle_for_the_test(tmp_path):
    train, test = images.class_folders(save_folders(tmp_path, sizes=((8, 8), (8, 8))))
    everything = np.asarray(Image.open(test.paths[2]))
    (x, labels), *_ = collect(images.evaluation_batches(test, 4, side=6, resize=8))
    assert labels.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(x[2], everything[1:7, 1:7])

    crop = partial(resize_and_crop, side=6, shorter=(299, 299))  # 8 pixels for a side of 6
    dataset = images.training_batches(train, 2, seed=0, changes=[crop])
    first, later = dataset[0], collect(dataset, 12)
    assert first[0].shape == (2, 6, 6, 3)
    assert len({x[0].tobytes() for x, _ in later}) > 5
    np.testing.assert_array_equal(dataset[7][0], later[7][0])


def test_files_travel_to_worker_processes(tmp_path):
    train, _ = images.class_folders(save_folders(tmp_path))
    copy = pickle.loads(pickle.dumps(train))
    assert copy.read(0)[0].tobytes() == train.read(0)[0].tobytes()
    assert copy.corrupt == set()


def test_a_few_corrupt_pictures_are_counted_and_replaced(tmp_path, capsys):
    train, _ = images.class_folders(save_folders(tmp_path, sizes=((8, 8),) * 3))
    train.paths[1].write_bytes(train.paths[1].read_bytes()[:60])
    train.paths[2].write_bytes(b"")
    x, labels = images.evaluation_batches(train, 6, side=8, resize=8)[0]
    np.testing.assert_array_equal(x[1], x[3])
    assert labels.tolist() == [0, 1, 1, 1, 1, 1]
    assert train.corrupt == set(train.paths[1:3])
    assert "Cannot be read, 2 of at most 10" in capsys.readouterr().out
    strict = images.Files(train.paths, train.labels, 2, max_corrupt=1)
    with pytest.raises(ValueError, match="must not hold more than 1 images that cannot be read"):
        images.evaluation_batches(strict, 6, side=8, resize=8)[0]


def test_all_of_few_pictures_are_corrupt(tmp_path):
    train, _ = images.class_folders(save_folders(tmp_path))
    for path in train.paths:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"must hold images that can be read. Received: .*ant.*0\.png, .*bee.*1\.png"):
        train.read(2)


def pictures(folder, save):
    """Two pictures of one class, of which `save` writes the first."""
    train, _ = images.class_folders(save_folders(folder, classes=("ant",)))
    save(train.paths[0])
    return train


RAMP = np.arange(256, dtype="uint8").reshape(16, 16)
COLOURS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), "uint8")


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (lambda: Image.fromarray(RAMP * np.uint16(257)), RAMP[..., None]),
        (lambda: Image.fromarray(RAMP), RAMP[..., None]),
        (lambda: Image.fromarray(RAMP > 100), 255 * (RAMP > 100)[..., None]),
        (lambda: Image.fromarray(np.stack([RAMP, 255 - RAMP], axis=-1)), RAMP[..., None]),
        (lambda: Image.fromarray(np.concatenate([COLOURS, RAMP[..., None]], axis=-1)), COLOURS),
        (lambda: palette(), np.array([[250, 10, 20], [30, 40, 240]], "uint8")[RAMP % 2]),
    ],
    ids=["16 bits", "grey", "1 bit", "grey and alpha", "colours and alpha", "transparent palette"],
)
def test_pictures_of_other_modes(tmp_path, picture, expected):
    train = pictures(tmp_path, lambda path: picture().save(path))
    found, _ = train.read(0)
    assert found.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(found), np.broadcast_to(expected, (16, 16, 3)))
    assert not train.corrupt


def palette():
    image = Image.fromarray(RAMP % 2).convert("P")
    image.putpalette([250, 10, 20, 30, 40, 240])
    image.info["transparency"] = b"\x00\xff"
    return image


def test_a_print_picture_and_one_that_lies_on_its_side(tmp_path):
    red = Image.new("CMYK", (16, 8), (0, 255, 255, 0))
    train = pictures(tmp_path, lambda path: red.save(path, "JPEG", quality=100))
    found = np.asarray(train.read(0)[0])
    assert np.abs(found.astype(int) - [255, 0, 0]).max() <= 4

    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the right by a quarter
    train = pictures(tmp_path / "other", lambda path: Image.fromarray(COLOURS[:8]).save(path, exif=exif))
    np.testing.assert_array_equal(np.asarray(train.read(0)[0]), np.rot90(COLOURS[:8], -1))


def test_batches_of_jpeg_files(tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the right by a quarter
    save_folders(tmp_path, sizes=())
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), "uint8"))
    for name, options in {"0": {}, "1": {"exif": exif}, "2": {}}.items():
        for folder in ("train/ant", "train/bee", "val/ant", "val/bee"):
            colours.save(tmp_path / folder / f"{name}.jpg", **options)
    damaged = tmp_path / "train" / "ant" / "2.jpg"
    damaged.write_bytes(damaged.read_bytes()[:3000])
    train, _ = images.class_folders(tmp_path)

    def size(image, rng):
        sizes.append((image.size, image.format))
        return resize_and_crop(image, rng, side=4)

    sizes = []
    x, _ = images.training_batches(train, 6, 0, [size])[0]
    assert x.shape == (6, 4, 4, 3)
    # A JPEG is not decoded yet, except one that must be turned.
    assert set(sizes) == {((128, 96), "JPEG"), ((96, 128), None)}
    assert train.corrupt == {damaged}
    assert "1 of at most 10" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda path: Image.new("RGB", (9, 9)).save(path, "EPS"), "cannot identify"),
        (lambda path: Image.new("RGB", (9, 9)).save(path, "GIF"), "cannot identify"),
        (lambda path: Image.new("L", (2**13 + 1, 2**13)).save(path), "at most 67108864 pixels"),
        (lambda path: Image.new("L", (650, 10)).save(path), "Received: 650 x 10 pixels"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "cannot identify"),
    ],
    ids=["PostScript", "GIF", "large", "elongated", "a header"],
)
def test_other_files_than_pictures_are_not_read(tmp_path, capsys, content, words):
    train = pictures(tmp_path, content)
    picture, _ = train.read(0)
    assert picture.size == (8, 12)
    assert train.corrupt == {train.paths[0]}
    assert words in capsys.readouterr().out


def test_a_part_of_the_pictures_is_always_the_same():
    arrays = images.Arrays(np.zeros((50, 1, 1, 3), "uint8"), np.arange(50), 50)
    one, other = (images.first(arrays, 7).labels.tolist() for _ in range(2))
    assert one == other
    assert len(set(one)) == 7
    assert images.first(arrays, None) is arrays


def test_keras_layers_read_the_batches():
    arrays = images.Arrays(np.zeros((6, 4, 4, 3), "uint8"), np.arange(6, dtype="int32") % 2, 2)
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    found = model.evaluate(
        images.evaluation_batches(arrays, 4, 4, 4).to_iter_dataset(), steps=2, verbose=0, return_dict=True
    )
    assert found["accuracy"] == 0.5
