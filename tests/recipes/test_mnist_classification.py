import dataclasses

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from recipes import mnist_classification
from tests.recipes.choices import assert_test_labels_decide_nothing
from tests.recipes.made_up import save

pytestmark = pytest.mark.one_backend


@pytest.fixture
def folder(tmp_path):
    save(tmp_path)
    return tmp_path


@pytest.fixture
def small(monkeypatch):
    """One of the networks: compiling the other would take half a minute."""
    monkeypatch.setattr(mnist_classification, "VECTORIZE", {"dense": 2})


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
    for words in ("--examples", "half as many", "--data-dir", "--out", "--jobs", "--smoke", "very small"):
        assert words in text


def test_too_many_examples_are_refused(folder):
    with pytest.raises(ValueError, match=r"`examples` must be from 2 to 200.*Received: examples=201"):
        mnist_classification.comparisons(folder, examples=201)


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
