from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import keras_actlab
from keras_actlab import models
from recipes import (
    cifar_tmaf,
    cifar_transformers,
    image_classification,
    imagenet32_vgg,
    imagenet_resnet,
    imagenet_transformers,
    transformers,
)
from recipes.image_classification import Method, Setting, compare, cosine_schedule, fingerprint, step_schedule
from recipes.images import Arrays, class_folders, first
from tests.backends import numpy
from tests.recipes.test_images import CIFAR10, save_batches, save_folders

pytestmark = pytest.mark.one_backend

RECIPES = {
    "imagenet32_vgg": (imagenet32_vgg, "GmP+IMN", "VGG-6"),
    "imagenet_resnet": (imagenet_resnet, "BN", "ResNet-18"),
    "cifar_transformers": (cifar_transformers, "CRReLU", "TNT-Small"),
    "imagenet_transformers": (imagenet_transformers, "ReLU", "ViT-Tiny"),
    "cifar_tmaf": (cifar_tmaf, "TMAF diagonal", "ResNet-18"),
}


def tiny(shape, classes, activation="relu", **options):
    """A network that trains in no time, in place of the papers', which have tests of their own."""
    layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.GlobalAveragePooling2D()]
    model = keras.Sequential([keras.Input(shape), *layers, keras.layers.Dense(classes)])
    return keras_actlab.swap_activations(model, activation)


@pytest.fixture
def _tiny(monkeypatch):
    for name in ("vgg6", "resnet18"):
        monkeypatch.setattr(models, name, tiny)
    for name in transformers.NETWORKS:
        monkeypatch.setitem(transformers.NETWORKS, name, tiny)


def invoke(app, *arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


@pytest.mark.usefixtures("_tiny")
@pytest.mark.filterwarnings("ignore:Tensor.T is deprecated on 0-D tensors")  # which Keras' Equalization calls
@pytest.mark.parametrize("name", RECIPES)
def test_smoke(name, tmp_path):
    recipe, method, network = RECIPES[name]
    arguments = ["--smoke", "--data-dir", tmp_path, "--out", tmp_path / "out", "--method", method, "--network", network]
    if name.startswith("imagenet_"):
        save_folders(tmp_path, sizes=((9, 8),) * 4)
        arguments += ["--side", 8]
    else:
        save_batches(tmp_path, CIFAR10)
        arguments += ["--data", "cifar10"]
    finished = invoke(recipe.app, *arguments)
    assert finished.exit_code == 0, finished.output
    rows = pd.read_csv(tmp_path / "out" / f"{name}.csv")
    assert rows["method"].tolist() == [method]
    assert rows["test accuracy, %"].between(0, 100).all()
    assert rows["test top-5, %"].ge(rows["test accuracy, %"]).all()
    assert (tmp_path / "out" / f"{name}.md").read_text() in finished.output
    assert pd.read_csv(tmp_path / "out" / f"{name}-curves.csv")["epoch"].tolist() == [0, 1]
    assert (tmp_path / "out" / f"{name}.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", RECIPES)
def test_unknown_methods_are_refused(name):
    app = RECIPES[name][0].app
    text = invoke(app, "--help").output
    assert "--data-parallel" in text
    refused = invoke(app, "--method", "sigmoid")
    assert refused.exit_code == 2
    assert "--method must be among" in refused.output.replace("\n", " ").replace("│ ", "")


def test_rows_of_finished_runs_are_kept(tmp_path):
    arrays = Arrays(np.zeros((8, 4, 4, 3), "uint8"), np.arange(8, dtype="int32") % 6, 6)
    setting = Setting(batch_size=4, epochs=1, side=4, resize=(4, 4))
    calls = []

    def network(shape, classes):
        calls.append(shape)
        return tiny(shape, classes)

    methods = {name: Method(network, step_schedule(0.1)) for name in ("a", "b")}
    one = compare("test", methods, setting, arrays, arrays, 1, tmp_path, "task")
    assert len(calls) == 2
    two = compare("test", methods, setting, arrays, arrays, 2, tmp_path, "task")
    assert len(calls) == 4
    assert two["seed"].tolist() == [0, 0, 1, 1]
    pd.testing.assert_frame_equal(one, two[:2])
    table = image_classification.table(two)
    mean, error = two.groupby("method")["training loss"].agg(["mean", "sem"]).loc["a"]
    assert table.loc[("task", "a"), "training loss"] == f"{mean:.2f} ± {error:.2f}"


def test_other_data_and_settings_make_other_runs(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3)).astype("uint8")
    full = Arrays(pixels, np.arange(12, dtype="int32") % 6, 6)
    changed = Arrays(pixels ^ (np.arange(12) == 3)[:, None, None, None].astype("uint8"), full.labels, 6)
    setting = Setting(batch_size=4, epochs=1, side=4, resize=(4, 4))
    methods = {"a": Method(tiny, step_schedule(0.1))}
    for data, of_this in (
        (first(full, 4), setting),
        (full, setting),
        (changed, setting),
        (full, replace(setting, epochs=2)),
        (full, setting),
    ):
        rows = compare("test", methods, of_this, data, full, 1, tmp_path, "task")
    assert rows["training images"].tolist() == [4, 12, 12, 12]
    assert rows["run"].nunique() == len(list((tmp_path / "test").iterdir())) == 4
    table = image_classification.table(rows)
    assert table.index.names == ["task", "method", "epochs", "training images", "data"]
    assert table["seeds"].tolist() == [1, 1, 1, 1]
    assert image_classification.table(rows[1:2]).index.names == ["task", "method"]
    logs = image_classification.logs("test", rows[:2], tmp_path)
    assert logs.groupby("training images")["step"].max().to_dict() == {4: 1, 12: 3}
    labels = [line.get_label() for line in image_classification.curves(logs.drop(columns="data")).axes[0].lines]
    assert labels == ["a, training images 4", "a, training images 12"]


def test_rows_of_an_earlier_version_are_refused(tmp_path):
    (tmp_path / "test.csv").write_text("task,method,seed\ntask,a,0\n")
    arrays = Arrays(np.zeros((8, 4, 4, 3), "uint8"), np.arange(8, dtype="int32") % 6, 6)
    with pytest.raises(ValueError, match=r"`out` must hold results of this version.*test\.csv, without a column `run`"):
        compare("test", {}, Setting(4, 1, 4, (4, 4)), arrays, arrays, 1, tmp_path, "task")


def test_files_are_told_apart_by_name_and_size(tmp_path):
    save_folders(tmp_path)
    train, _ = class_folders(tmp_path)
    before = fingerprint(train)
    assert fingerprint(class_folders(tmp_path)[0]) == before
    with train.paths[0].open("ab") as file:
        file.write(b"0")
    assert fingerprint(train) != before


def test_each_of_many_methods_has_a_line_of_its_own():
    methods = [f"method {number}" for number in range(9)]
    logs = pd.DataFrame(
        [
            {"task": "task", "method": method, "seed": seed, "epoch": epoch, "val_accuracy": (seed + epoch) / 10}
            for method in methods
            for seed in range(3)
            for epoch in range(2)
        ]
    )
    (ax,) = image_classification.curves(logs).axes
    assert [line.get_label() for line in ax.lines] == methods
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == 9
    for line in ax.lines:
        np.testing.assert_allclose(line.get_ydata(), [10, 20])  # means over seeds, in %


def rate(optimizer, step):
    optimizer.iterations.assign(step)
    return float(numpy(optimizer.learning_rate))


def test_the_rate_falls_by_ten_at_30_60_and_80_of_90_epochs():
    optimizer = step_schedule(0.1)(256, 5, 90)
    steps = {0: 0.1, 30 * 5: 0.1, 30 * 5 + 1: 0.01, 60 * 5 + 1: 1e-3, 80 * 5 + 1: 1e-4}
    for step, expected in steps.items():
        assert rate(optimizer, step) == pytest.approx(expected)
    assert optimizer.momentum == 0.9


def test_the_rate_warms_up_for_20_of_100_epochs_and_falls_on_a_cosine():
    optimizer = cosine_schedule(256, 10, 100)
    assert rate(optimizer, 0) == pytest.approx(1e-6)
    assert rate(optimizer, 200) == pytest.approx(2.5e-4)
    assert rate(optimizer, 600) == pytest.approx((2.5e-4 + 1e-5) / 2, rel=1e-3)
    assert rate(optimizer, 1000) == pytest.approx(1e-5)
    assert (optimizer.weight_decay, optimizer.global_clipnorm) == (0.05, 1.0)
    assert rate(cosine_schedule(512, 10, 100), 200) == pytest.approx(5e-4)
