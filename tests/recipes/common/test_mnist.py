import contextlib

import numpy as np
import pytest

from recipes.common import mnist
from tests.recipes.made_up import save

pytestmark = pytest.mark.one_backend


@pytest.fixture
def folder(tmp_path):
    save(tmp_path)
    return tmp_path


def test_the_parts_do_not_overlap(folder):
    official = save(folder)
    split = mnist.draw(1, 200, folder)
    assert split.sizes == {"train": 200, "validation": 100, "test": 60}
    seen = {image.tobytes() for image in split.development[0]}
    assert len(seen) == 300
    assert not seen & {image.tobytes() for image in split.test[0]}
    np.testing.assert_array_equal(split.test[0][..., 0], (official["x_test"] / 255).astype("float32"))
    np.testing.assert_array_equal(split.test[1], official["y_test"])
    for x, y in (split.train, split.validation):  # each image kept its label
        np.testing.assert_array_equal(x[:, ::2, :, 0].mean(axis=2)[:, :10].argmax(axis=1), y)


def test_the_split_decides_the_training_examples(folder):
    first, again, other = (mnist.draw(split, 100, folder) for split in (0, 0, 1))
    np.testing.assert_array_equal(first.train[0], again.train[0])
    assert not np.array_equal(first.train[0], other.train[0])
    np.testing.assert_array_equal(first.test[0], other.test[0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_test": None}, "must be a NumPy archive of x_train, y_train, x_test, y_test.*y_test"),
        ({"x_train": np.zeros((300, 784), "uint8")}, r"x_train .* shape \('n', 28, 28\).*Received: shape=\(300, 784\)"),
        ({"y_train": np.zeros(299, "uint8")}, r"y_train .*Received: shape=\(299,\)"),
        ({"x_test": np.zeros((0, 28, 28), "uint8")}, r"x_test .*Received: shape=\(0, 28, 28\)"),
        ({"x_test": np.array(7)}, r"x_test .*Received: shape=\(\)"),
        ({"y_train": np.full(300, 0.5)}, "y_train .* integers from 0 to 9.*Received: dtype=float64, first entries"),
        ({"y_train": np.full(300, "seven")}, "y_train .* integers from 0 to 9.*Received: dtype=<U5"),
        ({"y_test": np.full(60, 10)}, "y_test .* integers from 0 to 9"),
        ({"x_test": np.full((60, 28, 28), -1)}, "x_test .* integers from 0 to 255"),
    ],
)
def test_a_damaged_file_says_what_is_wrong(folder, changes, words):
    save(folder, **changes)
    with pytest.raises(ValueError, match=words):
        mnist.load(folder)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 the beginning of one"])
def test_a_file_of_another_kind_is_refused(folder, content):
    (folder / "mnist.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"mnist\.npz in `data_dir` must be a NumPy archive.*Received: data_dir="):
        mnist.load(folder)


def test_every_damage_of_an_archive_is_refused(folder):
    path = folder / "mnist.npz"
    np.savez_compressed(path, **save(folder))
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content) - 8, 40):
        path.write_bytes(content[:place] + rng.bytes(8) + content[place + 8 :])
        with contextlib.suppress(ValueError):  # and by no other error; what is damaged may be without meaning
            mnist.load(folder)


def test_a_missing_file_is_named(folder):
    with pytest.raises(ValueError, match=r"`data_dir` must hold mnist\.npz. Received: data_dir="):
        mnist.load(folder / "elsewhere")


def test_without_a_folder_the_data_come_from_keras(folder, monkeypatch):
    official = save(folder)
    pairs = tuple((official[f"x_{part}"], official[f"y_{part}"]) for part in ("train", "test"))
    monkeypatch.setattr(mnist.keras.datasets.mnist, "load_data", lambda: pairs)
    found, expected = mnist.draw(0, 200, None), mnist.draw(0, 200, folder)
    np.testing.assert_array_equal(found.train[0], expected.train[0])
    np.testing.assert_array_equal(found.test[1], expected.test[1])
