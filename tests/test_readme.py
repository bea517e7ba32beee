import re
from pathlib import Path

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from keras_actlab import cli
from keras_actlab.layers import CRReLU

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")

EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.one_backend
def test_the_first_screen_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(120, 3)).astype("float32")
    names = {"model": model, "x": x, "y": x[:, 0]}
    assert 'budget="15min"' in EXAMPLES[0]
    small = 'variants=["crrelu"], epochs=1, budget="2 pairs", progress=False'
    exec(EXAMPLES[0].replace('budget="15min"', small), names)
    assert "crrelu" in capsys.readouterr().out
    assert (tmp_path / "advice" / "report.html").exists()
    assert isinstance(names["model"].layers[0].activation, CRReLU)


@pytest.mark.one_backend
def test_the_command_has_the_options_that_are_shown():
    (command,) = re.findall(r"^keras-actlab (advise .*)$", README, re.MULTILINE)
    help_text = CliRunner().invoke(cli.app, ["advise", "--help"], env={"COLUMNS": "200"}).output
    options = re.findall(r"--[\w-]+", command)
    assert options
    assert all(option in help_text for option in options)


@pytest.mark.one_backend
def test_the_example_runs():
    code = EXAMPLES[2]
    names = {}
    exec(code, names)
    model = names["model"]
    x = np.random.default_rng(0).standard_normal((4, 28, 28, 1)).astype("float32")
    assert np.isfinite(model.train_on_batch(x, np.arange(4)))
    assert tuple(keras.ops.shape(model(x))) == (4, 10)


def small_network(weights):
    convolutions = [keras.layers.Conv2D(4, 3, name=f"conv{stage}") for stage in (1, 5)]
    activations = [keras.layers.ReLU(name=f"conv{stage}_relu") for stage in (1, 5)]
    hidden = [layer for pair in zip(convolutions, activations, strict=True) for layer in pair]
    return keras.Sequential([keras.Input((8, 8, 3)), *hidden, keras.layers.Flatten(), keras.layers.Dense(3)])


@pytest.mark.one_backend
def test_the_conversion_runs(monkeypatch, capsys):
    monkeypatch.setattr(keras.applications, "ResNet50", small_network)
    names = {}
    exec(EXAMPLES[1], names)
    report = capsys.readouterr().out
    assert re.search(r"conv5_relu\s.*CRReLU", report)
    assert not re.search(r"conv1_relu\s.*CRReLU", report)
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(names["folded"](x)), keras.ops.convert_to_numpy(names["converted"](x)), atol=1e-5
    )


@pytest.mark.one_backend
def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http|#)([^)]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
