import re
from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import keras_actlab
from keras_actlab import experiments, models
from keras_actlab.models import deit
from recipes import cifar_tmaf, cifar_transformers, imagenet32_vgg, imagenet_resnet, imagenet_transformers
from recipes.common import image_classification, transformers
from recipes.common.image_classification import Method, Setting, comparison, cosine_schedule, step_schedule
from recipes.common.images import Arrays, first
from recipes.imagenet32_vgg import authors_network
from tests.backends import numpy
from tests.recipes.common.test_images import CIFAR10, save_batches, save_folders

pytestmark = pytest.mark.one_backend

RECIPES = {
    "imagenet32_vgg": (imagenet32_vgg, "GmP+IMN", "VGG-6"),
    "imagenet_resnet": (imagenet_resnet, "BN", "ResNet-18"),
    "cifar_transformers": (cifar_transformers, "CRReLU", "TNT-Small"),
    "imagenet_transformers": (imagenet_transformers, "ReLU", "DeiT-Tiny"),
    "cifar_tmaf": (cifar_tmaf, "TMAF diagonal", "ResNet-18"),
}


def tiny(shape, classes, activation="relu", **options):
    """A network that trains in no time, in place of the papers', which have tests of their own."""
    layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.GlobalAveragePooling2D()]
    model = keras.Sequential([keras.Input(shape), *layers, keras.layers.Dense(classes)])
    return keras_actlab.swap_activations(model, activation)


def two_heads(shape, classes, **options):
    """In place of DeiT."""
    inputs = keras.Input(shape)
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    heads = [keras.layers.Dense(classes, name=name)(pooled) for name in ("class_head", "distillation_head")]
    return keras.Model(inputs, keras.layers.Average()(heads))


@pytest.fixture
def _tiny(monkeypatch):
    for name in ("vgg6", "resnet18"):
        monkeypatch.setattr(models, name, tiny)
    for name in transformers.NETWORKS:
        monkeypatch.setitem(transformers.NETWORKS, name, two_heads if name == "DeiT-Tiny" else tiny)


def invoke(app, *arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


@pytest.mark.usefixtures("_tiny")
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
    assert rows["accuracy"].between(0, 1).all()
    assert rows["top5"].ge(rows["accuracy"]).all()
    (row,) = experiments.load(tmp_path / "out" / f"{name}.jsonl").rows
    assert row["history"]["epoch"] == [1, 2]
    assert "epochs 2, " in row["task"]
    assert re.search(r"seed 0, \w+: [\d,]+ images per second, \d+% of the time waiting for input", finished.output)
    assert re.search(rf"\| top5 +\| +{row['task']} ", finished.output)
    assert (tmp_path / "out" / f"{name}.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", RECIPES)
def test_unknown_methods_are_refused(name):
    app = RECIPES[name][0].app
    text = invoke(app, "--help").output
    assert "--data-parallel" in text
    refused = invoke(app, "--method", "sigmoid")
    assert refused.exit_code == 2
    assert "--method must be among" in refused.output.replace("\n", " ").replace("│ ", "")


SETTING = Setting(batch_size=4, epochs=2, side=4)


def arrays(count=12, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3)).astype("uint8")
    return Arrays(pixels, np.arange(count, dtype="int32") % 6, 6)


def run(folder, train, setting=SETTING, seeds=1, network=tiny, task="task", names=("a",)):
    methods = {name: Method(network, step_schedule(0.1)) for name in names}
    described = comparison(task, methods, setting, train, arrays(seed=1), seeds, folder / "fits")
    return experiments.run(described, folder / "rows.jsonl", history=True, progress=False)


def test_finished_fits_are_not_trained_again(tmp_path):
    one = run(tmp_path, arrays(), names=("a", "b"))
    assert len(list((tmp_path / "fits").iterdir())) == 2
    two = run(tmp_path, arrays(), seeds=2, names=("a", "b"))
    assert len(list((tmp_path / "fits").iterdir())) == 4
    assert two.rows[:2] == one.rows
    assert two.final["seed"].tolist() == [0, 1, 0, 1]
    (ax,) = experiments.curves(two, "loss").axes
    assert [line.get_label() for line in ax.lines] == ["a", "b"]
    np.testing.assert_allclose(
        ax.lines[0].get_ydata()[-1], two.final.loc[two.final["method"] == "a", "loss"].mean(), rtol=1e-6
    )


@pytest.mark.parametrize("jit_compile", ["auto", True])
def test_whether_a_model_is_compiled_by_the_backend(jit_compile, tmp_path):
    methods = {"a": Method(tiny, step_schedule(0.1))}
    setting = replace(SETTING, jit_compile=jit_compile)
    described = comparison("task", methods, setting, arrays(), arrays(seed=1), 1, tmp_path)
    expected = jit_compile is True or keras.backend.backend() != "torch"
    assert described.methods["a"]().jit_compile == expected


def test_throughput_is_that_of_the_epochs_after_the_first(tmp_path, capsys):
    log = {"step": [3, 6, 9], "training_seconds": [50.0, 1.0, 2.0], "waiting_seconds": [40.0, 0.25, 0.5]}
    fit = experiments.Fit("task", "ReLU", "final", 0, 1, {}, 3)

    def resumable(model, fit, train, test):
        (tmp_path / fit.label).mkdir()
        pd.DataFrame(log).to_csv(tmp_path / fit.label / "log.csv")
        return {3: {"loss": 1.0}}

    resumable.folder = tmp_path
    setting = replace(SETTING, batch_size=1000)
    assert image_classification.fit_and_report(resumable, setting, None, fit, None, None) == {3: {"loss": 1.0}}
    assert capsys.readouterr().out == f"{fit.label}: 2,000 images per second, 25% of the time waiting for input\n"


@pytest.mark.parametrize(
    ("train", "setting", "words"),
    [
        (first(arrays(), 8), SETTING, "data: "),
        (arrays(seed=2), SETTING, "data: "),
        (arrays(), replace(SETTING, epochs=3), "epochs: 2 there, 3 here"),
    ],
)
def test_other_data_and_settings_are_another_task(train, setting, words, tmp_path):
    run(tmp_path, arrays())
    with pytest.raises(ValueError, match=f"differs in.*{words}"):
        run(tmp_path, train, setting)
    both = run(tmp_path, train, setting, task="another task")
    assert len(both.rows) == 1
    assert len(experiments.load(tmp_path / "rows.jsonl").rows) == 2


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`batch_size` must be from 1 to the number of images, 2"):
        run(tmp_path, arrays(2))
    assert not list(tmp_path.iterdir())


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


@pytest.mark.usefixtures("_tiny")
def test_a_teacher_is_trained_first_or_read_from_a_file(tmp_path):
    save_batches(tmp_path, CIFAR10)
    arguments = ["--smoke", "--data-dir", tmp_path, "--data", "cifar10", "--method", "ReLU", "--network", "DeiT-Tiny"]
    app = cifar_transformers.app
    assert invoke(app, *arguments, "--out", tmp_path / "a").exit_code == 0
    folders = sorted(path.name for path in (tmp_path / "a" / "cifar_transformers").iterdir())
    assert folders[-1] == "teacher, cifar10, DeiT-Tiny, batch 4, epochs 2, limit 8"
    (row,) = experiments.load(tmp_path / "a" / "cifar_transformers.jsonl").rows
    assert row["parameters"] == 2 * 40 + 162  # two heads and the teacher

    constant = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
    constant.save(tmp_path / "teacher.keras")
    options = ["--augmentation", "layer", "--teacher", tmp_path / "teacher.keras", "--out", tmp_path / "b"]
    assert invoke(app, *arguments, *options).exit_code == 0
    assert invoke(app, *arguments, "--teacher", "none", "--out", tmp_path / "c").exit_code == 0
    refused = invoke(app, *arguments, "--teacher", "nowhere.keras", "--out", tmp_path / "d")
    assert refused.exit_code == 2
    assert "--teacher must be a .keras file" in refused.output.replace("\n", " ").replace("│ ", "")


def test_vision_transformers_start_as_in_timm():
    model = deit.network((8, 8, 3), 5, 4, "gelu", blocks=1, heads=3, dim=96)
    transformers.start(model)
    for variable in model.trainable_variables:
        values = numpy(variable)
        if variable.name == "bias":
            assert not values.any()
        elif variable.name == "kernel" and values.ndim == 4:  # 4 x 4 x 3 inputs
            assert 0.95 * 48**-0.5 < np.abs(values).max() <= 48**-0.5
        elif variable.name in ("gamma", "beta"):
            assert (values == (variable.name == "gamma")).all()
        else:  # of a normal distribution that is truncated at two standard deviations
            assert np.mean(np.abs(values) > 0.04 + 1e-6) < 1e-4  # on PyTorch, Keras truncates all but few
            assert values.std() == pytest.approx(0.02 * 0.88, rel=0.2), variable.path


@pytest.mark.parametrize(
    ("options", "layers", "head"),
    [
        (("standard", "none"), ["Conv2D", "ReLU"], "Dense"),
        (("standard", "batch"), ["Conv2D", "BatchNormalization", "ReLU"], "Dense"),
        (("weight_norm", "none"), ["WeightNormalization", "ReLU"], "WeightNormalization"),
        (
            ("weight_norm", "mean_only"),
            ["WeightNormalization", "MeanOnlyBatchNormalization", "ReLU"],
            "WeightNormalization",
        ),
        (("gmp", "none"), ["GmPConv2D"], "Dense"),
        (("gmp", "input_mean"), ["GmPConv2D", "InputMeanNormalization"], "Dense"),
    ],
)
def test_vgg6_of_the_authors(options, layers, head):
    model = authors_network((8, 8, 3), 5, *options, filters=(16,))
    names = [type(layer).__name__ for layer in model.layers]
    assert names == ["InputLayer", *layers, *layers, "MaxPooling2D", "GlobalAveragePooling2D", head]
    if options[0] == "gmp":
        second = [layer for layer in model.layers if hasattr(layer, "scale")][1]
        assert not numpy(second.radius).any()
        # The norm of 144 uniform weights within the square root of 6 / (144 + 16).
        assert numpy(second.scale).mean() == pytest.approx((144 * 6 / 160 / 3) ** 0.5, rel=0.05)


@pytest.mark.slow
def test_the_rate_falls_on_a_plateau_of_the_test_part(tmp_path):
    setting = replace(SETTING, epochs=40, plateau=True)
    rates = []

    class Recorder(keras.optimizers.SGD):
        def finalize_variable_values(self, variables):
            rates.append(float(numpy(self.learning_rate)))
            super().finalize_variable_values(variables)

    method = Method(tiny, lambda batch_size, steps, epochs: Recorder(1e-6))  # which changes no rank
    described = comparison("task", {"a": method}, setting, arrays(), arrays(seed=1), 1, tmp_path)
    (row,) = experiments.run(described, tmp_path / "rows.jsonl", progress=False).rows
    assert rates == pytest.approx([1e-8])  # from the sixth epoch without a gain, and from the eleventh
    assert set(row["metrics"]) == {"accuracy", "top5", "loss"}
