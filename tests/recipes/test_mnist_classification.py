import dataclasses

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from recipes import mnist_classification
from tests.recipes.choices import assert_test_labels_decide_nothing


def save(folder, **changes):
    """Made-up digits: each pixel tells which image it belongs to, and a bright block which digit it is."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, examples in {"train": 300, "test": 60}.items():
        labels = rng.integers(0, 10, examples, dtype="uint8")
        images = rng.integers(0, 100, (examples, 28, 28), dtype="uint8")
        images[np.arange(examples), 2 * labels] += 120
        arrays |= {f"x_{part}": images, f"y_{part}": labels}
    arrays |= changes
    np.savez(folder / "mnist.npz", **{name: array for name, array in arrays.items() if array is not None})
    return arrays


@pytest.fixture
def folder(tmp_path):
    save(tmp_path)
    return tmp_path


@pytest.fixture
def small(monkeypatch):
    """One of the networks: compiling the other would take half a minute."""
    monkeypatch.setattr(mnist_classification, "TOGETHER", {"dense": 2})


@pytest.mark.usefixtures("small")
def test_smoke(folder):
    arguments = ["--smoke", "--data-dir", str(folder), "--out", str(folder / "results")]
    finished = CliRunner().invoke(mnist_classification.app, arguments, catch_exceptions=False)
    assert finished.exit_code == 0
    rows = pd.read_csv(folder / "results" / "mnist_classification.csv")
    assert len(rows) == 2 * 2 * (2 + 1)
    assert rows["accuracy, %"].between(0, 100).all()
    assert rows["failure"].isna().all()
    assert (folder / "results" / "mnist_classification.png").stat().st_size > 10_000

    cost = pd.read_csv(folder / "results" / "mnist_classification-cost.csv", index_col=["task", "method"])
    final, tuning = rows[rows["stage"] == "final"], rows[rows["stage"] == "tune"]
    assert cost.index.tolist() == [("dense", "ReLU"), ("dense", "TMAF tri-diagonal")]
    mean = final.groupby(["task", "method"])["accuracy, %"].mean()
    pd.testing.assert_series_equal(cost["accuracy, %"].sort_index(), mean)
    fastest = tuning.groupby(["task", "method"])["seconds_per_epoch"].min()
    np.testing.assert_allclose(cost["seconds per epoch"].sort_index(), fastest)
    assert (cost["to ReLU's"].xs("ReLU", level="method") == 1).all()
    table = (folder / "results" / "mnist_classification-cost.md").read_text()
    assert table.startswith("| task")
    assert table in finished.output


def test_help_explains_every_option():
    text = CliRunner().invoke(mnist_classification.app, ["--help"], env={"COLUMNS": "200"}).output
    for words in ("--examples", "half as many more", "--data-dir", "--out", "--jobs", "--smoke", "Everything very"):
        assert words in text


def test_the_parts_do_not_overlap(folder):
    official = save(folder)
    split = mnist_classification.draw(1, 200, folder)
    assert split.sizes == {"train": 200, "validation": 100, "test": 60}
    seen = {image.tobytes() for image in split.development[0]}
    assert len(seen) == 300
    assert not seen & {image.tobytes() for image in split.test[0]}
    np.testing.assert_array_equal(split.test[0][..., 0], (official["x_test"] / 255).astype("float32"))
    np.testing.assert_array_equal(split.test[1], official["y_test"])
    for x, y in (split.train, split.validation):  # each image kept its label
        np.testing.assert_array_equal(x[:, ::2, :, 0].mean(axis=2)[:, :10].argmax(axis=1), y)


def test_the_split_decides_the_training_examples(folder):
    first, again, other = (mnist_classification.draw(split, 100, folder) for split in (0, 0, 1))
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
        mnist_classification.comparisons(folder)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 the beginning of one"])
def test_a_file_of_another_kind_is_refused(folder, content):
    (folder / "mnist.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"mnist\.npz in `data_dir` must be a NumPy archive.*Received: data_dir="):
        mnist_classification.comparisons(folder)


def test_a_missing_file_is_named(folder):
    with pytest.raises(ValueError, match=r"`data_dir` must hold mnist\.npz. Received: data_dir="):
        mnist_classification.comparisons(folder / "elsewhere")


def test_too_many_examples_are_refused(folder):
    with pytest.raises(ValueError, match=r"`examples` must be from 2 to 200.*Received: examples=201"):
        mnist_classification.comparisons(folder, examples=201)


def test_without_a_folder_the_data_come_from_keras(folder, monkeypatch):
    official = save(folder)
    pairs = tuple((official[f"x_{part}"], official[f"y_{part}"]) for part in ("train", "test"))
    monkeypatch.setattr(mnist_classification.keras.datasets.mnist, "load_data", lambda: pairs)
    found, expected = mnist_classification.draw(0, 200, None), mnist_classification.draw(0, 200, folder)
    np.testing.assert_array_equal(found.train[0], expected.train[0])
    np.testing.assert_array_equal(found.test[1], expected.test[1])


def test_networks_differ_by_the_activations_parameters(folder):
    dense, convolutional = mnist_classification.comparisons(folder, examples=200)
    assert dense.grid == convolutional.grid == {"learning_rate": [0.001, 0.003, 0.01]}
    expected = {"leaky ReLU": 0, "PReLU": 1, "GELU": 0, "TMAF diagonal": 4, "TMAF tri-diagonal": 12}  # a channel
    for comparison, channels, layers in ((dense, 2 * 128, 2), (convolutional, 8 + 16 + 64, 3)):
        parameters = {method: build(0.1).count_params() for method, build in comparison.methods.items()}
        for method, count in expected.items():
            assert parameters[method] - parameters["ReLU"] == count * channels
        assert parameters["CRReLU"] - parameters["ReLU"] == layers
    assert dense.methods["ReLU"](0.1).count_params() == 785 * 128 + 129 * 128 + 129 * 10


@pytest.mark.usefixtures("small")
def test_test_labels_decide_nothing(folder, tmp_path):
    (dense,) = mnist_classification.comparisons(folder, smoke=True)
    tmaf = {"TMAF tri-diagonal": dense.methods["TMAF tri-diagonal"]}
    assert_test_labels_decide_nothing(dataclasses.replace(dense, methods=tmaf), tmp_path)
