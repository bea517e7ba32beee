import json

import numpy as np
import pytest
from typer.testing import CliRunner

import keras_actlab
from recipes import quickstart

pytestmark = pytest.mark.one_backend


def test_smoke(tmp_path):
    arguments = ["--smoke", "--out", str(tmp_path)]
    finished = CliRunner().invoke(quickstart.app, arguments, catch_exceptions=False)
    assert finished.exit_code == 0
    files = {name: tmp_path / name / "advice.json" for name in ("digits", "diabetes")}
    answers = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}
    for name, found in answers.items():
        assert [verdict["variant"] for verdict in found["verdicts"]] == ["crrelu", "gmp"]
        assert found["failed_fits"] == 0
        assert found["looks"] == [6]
        assert (tmp_path / name / "report.html").stat().st_size > 10_000
        assert str(tmp_path / name / "report.html") in finished.output
    assert {name: found["metric"] for name, found in answers.items()} == {"digits": "accuracy", "diabetes": "mae"}


def test_help_explains_every_option():
    text = CliRunner().invoke(quickstart.app, ["--help"], env={"COLUMNS": "200"}).output
    for words in ("--budget", "number of pairs", "--out", "Folder for", "--jobs", "processes", "--smoke", "very small"):
        assert words in text


def test_models_take_their_data():
    digits, (images, labels), _ = quickstart.digits()
    assert 0 <= images.min() < images.max() <= 1
    diabetes, draw, _ = quickstart.diabetes()
    x, y = draw(3).train
    for model, inputs, targets in ((digits, images, labels), (diabetes, x, y)):
        assert np.isfinite(model.evaluate(inputs[:8], targets[:8], verbose=0)).all()


def test_a_split_leaves_what_the_docstring_says():
    _, (_, labels), _ = quickstart.digits()
    assert len(labels) == 1797
    assert quickstart.diabetes()[1](3).sizes == {"train": 282, "validation": 71, "test": 89}


def test_all_variants_are_known():
    assert set(quickstart.VARIANTS) <= set(keras_actlab.advice.names())
