from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from recipes import small_image_networks
from recipes.common.images import Arrays

pytestmark = pytest.mark.one_backend


@pytest.fixture(autouse=True)
def made_up(monkeypatch):
    """Images of one colour, which differs by class, with a bright left half."""
    labels = np.random.default_rng(0).integers(0, 10, 500).astype("int32")
    pixels = np.broadcast_to(10 * labels[:, None, None, None], (500, 32, 32, 3)).astype("uint8")
    pixels[:, :, :16] += 100
    pixels[:, 0, 0, :2] = np.stack(np.divmod(np.arange(500), 256), axis=1)  # tells images apart
    parts = Arrays(pixels[:400], labels[:400], 10), Arrays(pixels[400:], labels[400:], 10)
    monkeypatch.setattr(small_image_networks, "cifar", lambda folder: parts)
    return parts


def test_smoke(tmp_path, monkeypatch):
    tasks = small_image_networks.SIZES["small"]
    monkeypatch.setitem(tasks, "VGG, batch 512", replace(tasks["VGG, batch 512"], rates=(0.03, 0.1)))
    arguments = ["--smoke", "--task", "VGG, batch 512", "--method", "SP", "--out", str(tmp_path)]
    finished = CliRunner().invoke(small_image_networks.app, arguments, catch_exceptions=False)
    assert finished.exit_code == 0
    rows = pd.read_csv(tmp_path / "small_image_networks.csv")
    assert rows.groupby("method").size().to_dict() == {"SP": 2}
    assert rows["accuracy, %"].between(0, 100).all()
    rates = pd.read_csv(tmp_path / "small_image_networks-rates.csv")
    assert set(rates[rates["stage"] == "tune"]["learning_rate"]) >= {0.03, 0.1}
    # The rates of the second stage are those with the highest validation accuracy in the first.
    for method, tried in rates[rates["stage"] == "tune"].groupby("method"):
        (chosen,) = rates[(rates["stage"] == "final") & (rates["method"] == method)]["learning_rate"]
        best = tried["accuracy, %"].max()
        assert chosen in set(tried[tried["accuracy, %"] == best]["learning_rate"])
        assert f"{method} {chosen:g}" in finished.output


@pytest.mark.parametrize(
    "arguments",
    [["--task", "ViT-Tiny"], ["--task", "ViT", "--method", "Mish"], ["--method", "ReLU"]],
    ids=["unknown task", "unknown method", "a method of no task"],
)
def test_bad_choices(arguments, tmp_path):
    finished = CliRunner().invoke(small_image_networks.app, [*arguments, "--out", str(tmp_path)])
    assert finished.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_training_images_are_mirrored_and_not_in_the_validation_part(made_up):
    split = small_image_networks.draw(3, 100, None, validate=True)
    x, y = split.train
    np.testing.assert_array_equal(x[100:], x[:100, :, ::-1])
    np.testing.assert_array_equal(y[100:], y[:100])
    held, _ = split.validation
    assert len(held) == 50
    train, validation = ({image.tobytes() for image in part} for part in (x[:100], held))
    assert len(train) == 100
    assert not train & validation
    np.testing.assert_array_equal(split.test[0], made_up[1].pixels)
    assert small_image_networks.draw(3, 100, None, validate=False).validation is None


def test_a_batch_is_moved_alike():
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 3)).astype("float32")
    shift = small_image_networks.RandomShift(2, alike=True)
    np.testing.assert_array_equal(shift(x), x)
    padded = np.pad(x, [(0, 0), (2, 2), (2, 2), (0, 0)])
    windows = [padded[:, i : i + 6, j : j + 5] for i in range(5) for j in range(5)]
    found = set()
    for _ in range(30):
        moved = np.asarray(shift(x, training=True))
        (place,) = [k for k, window in enumerate(windows) if np.array_equal(window, moved)]
        found.add(place)
    assert len(found) > 10


def test_each_image_is_moved_by_itself_by_whole_pixels():
    x = np.random.default_rng(0).normal(size=(20, 32, 32, 3)).astype("float32")
    moved = np.asarray(small_image_networks.RandomShift(4, alike=False)(x, training=True))
    padded = np.pad(x, [(0, 0), (4, 4), (4, 4), (0, 0)])
    places = set()
    for k in range(len(x)):
        windows = {(i, j): padded[k, i : i + 32, j : j + 32] for i in range(9) for j in range(9)}
        (place,) = [place for place, window in windows.items() if np.array_equal(window, moved[k])]
        places.add(place)
    assert len(places) > 10


@pytest.mark.parametrize("size", small_image_networks.SIZES)
@pytest.mark.parametrize("name", small_image_networks.TASKS)
def test_networks(name, size):
    task = small_image_networks.SIZES[size][name]
    method = list(task.methods)[-1]
    model = small_image_networks.model(task, method, 100, 0.5)
    assert model.output_shape == (None, 10)
    rate = model.optimizer._learning_rate
    np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(100)], [0, 0.25, 0.5, 0], atol=1e-6)
