import dataclasses
import gzip
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split
from typer.testing import CliRunner

from keras_actlab import experiments
from recipes import uci_regression
from recipes.common import authors
from tests.recipes.choices import assert_test_labels_decide_nothing

pytestmark = pytest.mark.one_backend


@pytest.fixture
def folder(tmp_path):
    """A made-up table with the shape of the Yacht data, one of its columns constant."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(308, 6)).round(3)
    x[:, 2] = 4.0
    columns = [*(f"feature_{k}" for k in range(6)), "residuary_resistance"]
    table = pd.DataFrame(np.column_stack([x, np.abs(x[:, 0]) + x[:, 1]]), columns=columns)
    table.to_csv(tmp_path / "yacht.csv", index=False)
    return tmp_path


def test_smoke(folder):
    arguments = ["yacht", "--smoke", "--data-dir", str(folder), "--out", str(folder / "results")]
    finished = CliRunner().invoke(uci_regression.app, arguments, catch_exceptions=False)
    assert finished.exit_code == 0
    rows = pd.read_csv(folder / "results" / "uci_regression.csv")
    assert len(rows) == 5 * 2 * (2 + 1)
    assert np.isfinite(rows["RMSE"]).all()
    assert "GmP, code's start" in finished.output


def test_authors_smoke(folder):
    arguments = [
        "yacht",
        "--protocol",
        "authors",
        "--smoke",
        "--data-dir",
        str(folder),
        "--out",
        str(folder / "results"),
    ]
    finished = CliRunner().invoke(uci_regression.app, arguments, catch_exceptions=False)
    assert finished.exit_code == 0
    rows = pd.read_csv(folder / "results" / "uci_regression-authors.csv")
    assert list(rows.groupby("method", sort=False).size().items()) == [(method, 2) for method in authors.RATES]
    assert np.isfinite(rows["RMSE"]).all()
    assert rows["best epoch"].between(1, 4).all()


def test_both_protocols_test_on_the_rows_of_scikit_learn(folder):
    x, y = uci_regression.load("yacht", folder)
    ours, theirs = (each("yacht", folder) for each in (uci_regression.comparison, uci_regression.authors_comparison))
    train, test = train_test_split(np.arange(len(y)), test_size=0.2, random_state=3)
    ours, theirs = ours.split(3), theirs.split(3)
    np.testing.assert_array_equal(theirs.test[1], y[test])
    np.testing.assert_array_equal(theirs.train[1], y[train])
    np.testing.assert_allclose(ours.to_units(ours.test[1]), y[test], atol=1e-5)
    np.testing.assert_allclose(
        theirs.train[0], (x[train] - x[train].mean(0)) / np.where(x.std(0), x[train].std(0), 1), atol=1e-5
    )
    assert theirs.validation is None


def test_every_step_changes_one_thing(folder):
    steps = uci_regression.steps("yacht", folder)
    found = [
        (each.name.removeprefix("yacht"), next(iter(each.methods.values())), each.fit, bool(each.grid))
        for each in steps
    ]
    assert [name for name, *_ in found] == [
        ", authors",
        ", squared error",
        ", standardized targets",
        ", cosine",
        ", full batches",
        ", validation chooses the epoch",
        "",
    ]
    losses = [build(0.01).loss if searched else build().loss for _, build, _, searched in found]
    assert losses == ["mae"] + ["mse"] * 6
    assert [fit and (fit.standardize, fit.cosine, fit.batch_size) for *_, fit, _ in found] == [
        (False, False, 1024),
        (False, False, 1024),
        (True, False, 1024),
        (True, True, 1024),
        (True, True, 308),
        None,
        None,
    ]
    assert {each.splits for each in steps} == {20}
    assert float(steps[5].methods["SP at 0.1"]().optimizer.learning_rate) == pytest.approx(0.1)


def test_the_figure_of_the_steps_shows_ratios():
    configuration = {"metrics": ["RMSE"], "monitor": "RMSE", "mode": "min", "grid": {}}
    configuration |= {"sizes": {"train": 8, "validation": 0, "test": 2}}
    methods = {"SP": None, "SP at 0.1": None, "GmP, code's start": None}
    tasks = [*(f"yacht, {step}" for step in (*uci_regression.STEPS, uci_regression.CHOSEN_EPOCH)), "yacht"]
    records, rows = [], []
    for place, task in enumerate(tasks):
        factors = {"SP": 1.0, "SP at 0.1": 0.5, "GmP, code's start": 0.9 - place / 10}
        if task == "yacht":
            del factors["SP at 0.1"]
        known = {method: None for method in methods if method in factors}
        records.append({"task": task, "configuration": configuration | {"methods": known}})
        for method, factor in factors.items():
            for split, noise in enumerate((0.99, 1.0, 1.01)):
                row = {"task": task, "method": method, "stage": "final", "split": split, "seed": 0, "epochs": 1}
                error = factor * (split + 1) * (noise if method == "SP" else 1)
                rows.append(row | {"hyperparameters": {}, "metrics": {"RMSE": error}, "failure": None})
    (ax,) = uci_regression.steps_figure(experiments.Results([*records, {"rows": rows}])).axes
    drawn = [line.get_ydata().item() for line in ax.lines if line.get_marker() == "o"]
    ratios = 0.9 - np.arange(7) / 10
    np.testing.assert_allclose(drawn, [*ratios, *(2 * ratios[:-1])], rtol=1e-3)


def test_help_explains_every_option():
    text = CliRunner().invoke(uci_regression.app, ["--help"], env={"COLUMNS": "200"}).output
    for words in ("boston, concrete", "--data-dir", "Folder with the data", "--out", "--jobs", "--smoke"):
        assert words in text


def test_an_unknown_set_is_refused():
    refused = CliRunner().invoke(uci_regression.app, ["paris"])
    assert refused.exit_code == 2
    assert "Received: paris" in refused.output


def test_a_compressed_file_is_read_as_well(folder):
    x, y = uci_regression.load("yacht", folder)
    (folder / "yacht.csv.gz").write_bytes(gzip.compress((folder / "yacht.csv").read_bytes()))
    (folder / "yacht.csv").unlink()
    again = uci_regression.load("yacht", folder)
    np.testing.assert_array_equal(again[0], x)
    np.testing.assert_array_equal(again[1], y)
    assert x.shape == (308, 6)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda text: text.replace("feature_3,", ""),
            "must have 6 columns of features and then 'residuary_resistance'",
        ),
        (lambda text: text.replace("residuary_resistance", "speed"), "then 'residuary_resistance'. Received: .*speed"),
        (lambda text: re.sub(r"\n[^,]*,", "\nfast,", text, count=1), "finite numbers.*fast in row 1 .* 'feature_0'"),
        (lambda text: re.sub(r"\n[^,]*,", "\n,", text, count=1), "finite numbers.*nan in row 1 of column 'feature_0'"),
        (lambda text: re.sub(r"\n[^,]*,", "\ninf,", text, count=1), "finite numbers.*inf in row 1"),
    ],
)
def test_a_damaged_file_says_where(folder, damage, words):
    file = folder / "yacht.csv"
    text = file.read_text()
    lines = damage(text).splitlines()
    if "," in lines[1] and lines[1].count(",") > lines[0].count(","):  # a column less in the header: in the rows too
        lines[1:] = [",".join(line.split(",")[:3] + line.split(",")[4:]) for line in lines[1:]]
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=words):
        uci_regression.load("yacht", folder)


def test_a_missing_file_is_named(folder):
    with pytest.raises(ValueError, match=r"boston\.csv or boston\.csv\.gz"):
        uci_regression.load("boston", folder)
    with pytest.raises(ValueError, match=r"power\.csv.*https://archive"):
        uci_regression.load("power", None)


def test_openml_s_tables_get_the_same_form(monkeypatch):
    frame = pd.DataFrame(np.arange(70.0).reshape(7, 10), columns=[*"abcdefgh", "heating_load", "cooling_load"])

    class Bunch:
        def __init__(self, data_id, as_frame, parser):
            assert data_id == 44960
            self.frame = frame.copy()

    monkeypatch.setattr(uci_regression, "fetch_openml", Bunch)
    x, y = uci_regression.load("energy", None)
    np.testing.assert_array_equal(x, frame[[*"abcdefgh"]])
    np.testing.assert_array_equal(y, frame["heating_load"])


def test_what_cannot_be_downloaded_is_left_out_and_said(monkeypatch):
    seen = []

    def stop(name, data_dir, smoke):
        seen.append(name)
        raise KeyboardInterrupt

    monkeypatch.setattr(uci_regression, "comparison", stop)
    said = CliRunner().invoke(uci_regression.app, [])
    assert "Skipped, as they cannot be downloaded: power, yacht." in said.output
    assert seen == ["boston"]


def test_the_hidden_layers_have_the_paper_s_parameters(folder):
    comparison = uci_regression.comparison("yacht", folder)
    parameters = {name: build(0.1).count_params() for name, build in comparison.methods.items()}
    plain = 6 * 100 + 100 + 101
    assert parameters["SP"] == parameters["GmP"] == parameters["GmP, code's start"] == plain
    assert parameters["WN"] == plain + 100
    assert comparison.grid["learning_rate"] == [0.001, 0.003, 0.01, 0.03, 0.1, 0.3]
    assert comparison.split(0).sizes == {"train": 196, "validation": 50, "test": 62}


def test_test_labels_decide_nothing(folder, tmp_path):
    comparison = uci_regression.comparison("yacht", folder, smoke=True)
    gmp = {"GmP": comparison.methods["GmP"]}
    assert_test_labels_decide_nothing(dataclasses.replace(comparison, methods=gmp), tmp_path)
