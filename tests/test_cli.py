import json
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest

from keras_actlab import cli
from keras_actlab.experiments import holdout

pytestmark = pytest.mark.one_backend
RNG = np.random.default_rng(0)
TABLE = pd.DataFrame(RNG.normal(5, 2, (60, 3)), columns=["a", "b", "y"])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    file = tmp_path_factory.mktemp("model") / "model.keras"
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "relu"), keras.layers.Dense(1)])
    network.compile("adam", "mse", metrics=["mae"])
    network.save(file)
    return file


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "table.csv"
    TABLE.to_csv(file, index=False)
    return file


def run(monkeypatch, capsys, *arguments):
    """Runs the command in this process. Returns its exit code and what it prints to both streams."""
    monkeypatch.setattr(sys, "argv", ["keras-actlab", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    printed = capsys.readouterr()
    return stopped.value.code, printed.out, printed.err


QUICK = ("--target", "y", "--variants", "crrelu, gmp", "--epochs", 1, "--budget", "2 pairs")


def test_a_table_of_a_csv_file(model, csv, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("keras_actlab.experiments.running.MAX_EXTENSION", 0)
    options = (*QUICK, "--standardize", "--path", tmp_path / "answer", "--smallest-effect", 0.5)
    code, out, _ = run(monkeypatch, capsys, "advise", model, csv, *options)
    assert code == 0
    assert f"Report: {tmp_path / 'answer' / 'report.html'}" in out
    answer = json.loads((tmp_path / "answer" / "advice.json").read_text())
    assert [each["variant"] for each in answer["verdicts"]] == ["crrelu", "gmp"]
    assert all(each["sentence"] in out for each in answer["verdicts"])
    assert answer["metric"] == "mae"
    assert answer["smallest_effect"] == 0.5
    expected = holdout(*cli.read(csv, "y"), 0, standardize_targets=True)
    assert answer["data"]["fingerprint"] == expected.fingerprint()


def test_formats_hold_the_same(csv, tmp_path):
    pytest.importorskip("pyarrow")
    TABLE.to_parquet(tmp_path / "table.parquet")
    np.savez(tmp_path / "one.npz", x=TABLE[["a", "b"]].to_numpy("float32"), y=TABLE["y"])
    np.savez(tmp_path / "several.npz", **{name: TABLE[name] for name in TABLE})
    for file in (csv, tmp_path / "table.parquet", tmp_path / "one.npz"):
        x, y = cli.read(file, "y")
        np.testing.assert_allclose(x, TABLE[["a", "b"]], rtol=1e-6)
        np.testing.assert_allclose(y, TABLE["y"])
        assert x.dtype == "float32"
    x, y = cli.read(tmp_path / "several.npz", "y")
    assert list(x) == ["a", "b"]
    np.testing.assert_array_equal(x["b"], TABLE["b"])


def test_targets_that_are_classes_are_not_standardized(tmp_path):
    TABLE.assign(y=RNG.integers(0, 3, 60)).to_csv(tmp_path / "table.csv", index=False)
    x, y = cli.read(tmp_path / "table.csv", "y")
    split = cli.standardized(x, y)(2)
    assert set(split.train[1]) == {0, 1, 2}
    np.testing.assert_allclose(split.train[0].mean(axis=0), 0, atol=1e-5)
    split = cli.standardized(x, TABLE["y"].to_numpy())(2)
    assert split.train[1].std() == pytest.approx(1, abs=1e-4)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files that cannot be used, by name."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "broken.npz").write_bytes(b"no archive")
    (folder / "broken.parquet").write_bytes(b"no table")
    (folder / "broken.keras").write_bytes(b"no model")
    (folder / "empty.csv").write_text("")
    (folder / "data.txt").write_text("1 2")
    TABLE.assign(a="word").to_csv(folder / "words.csv", index=False)
    TABLE.assign(b=np.nan).to_csv(folder / "gaps.csv", index=False)
    TABLE[["y"]].to_csv(folder / "alone.csv", index=False)
    np.savez(folder / "objects.npz", x=np.array([1, "a", None], object), y=np.zeros(3))
    return folder


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("missing.csv", (), "`DATA` must be a file"),
        ("data.txt", (), "`DATA` must be a .npz, .csv or .parquet file"),
        ("broken.npz", (), "`DATA` must be an intact .npz file"),
        ("broken.parquet", (), "`DATA` must be an intact .parquet file"),
        ("objects.npz", (), "`DATA` must be an intact .npz file"),
        ("empty.csv", (), "`DATA` must be an intact .csv file"),
        ("words.csv", (), "`DATA` must have columns of numbers; encode categories first. Received: others in ['a']"),
        ("gaps.csv", (), "finite"),
        ("alone.csv", (), "`--target` must name one of several columns, ['y']"),
        (None, ("--target", "z"), "`--target` must name one of several columns, ['a', 'b', 'y']. Received: 'z'"),
        (None, ("--variants", "gelo"), "Received: 'gelo'"),
        (None, ("--metric", "accuracy"), "`metric` must be one that `model` is compiled with"),
        (None, ("--budget", "soon"), "`budget` must be a text"),
        (None, ("--budget", "0.001s"), "`budget` must be enough for 2 pairs"),
        (None, ("--standardize", "--test", "DATA"), "it excludes `--validation` and `--test`"),
    ],
)
def test_errors_are_one_line(model, csv, files, tmp_path, monkeypatch, capsys, data, options, message):
    file = csv if data is None else files / data
    options = [csv if option == "DATA" else option for option in options]
    code, out, err = run(monkeypatch, capsys, "advise", model, file, *QUICK, "--path", tmp_path / "answer", *options)
    assert code == 1
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert not list(tmp_path.glob("answer/results.jsonl"))


@pytest.mark.parametrize("name", ["missing.keras", "broken.keras"])
def test_models_that_cannot_be_read(csv, files, tmp_path, monkeypatch, capsys, name):
    code, _, err = run(monkeypatch, capsys, "advise", files / name, csv, *QUICK, "--path", tmp_path / "answer")
    assert code == 1
    assert err.count("\n") == 1
    assert name in err


@pytest.mark.parametrize(
    "options", [("--epochs", "0"), ("--start", "middle"), ("--mode", "mean"), ("--jobs", "0"), ("--unknown",)]
)
def test_options_that_the_command_does_not_have(model, csv, monkeypatch, capsys, options):
    code, _, err = run(monkeypatch, capsys, "advise", model, csv, *QUICK, *options)
    assert code == 2
    assert options[0] in err


def test_help_explains_every_option(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(monkeypatch, capsys, "advise", "--help")
    assert code == 0
    for words in (
        "--target",
        "--validation",
        "--variants",
        "--metric",
        "--start",
        "--standardize",
        "--budget",
        "--jobs",
    ):
        assert words in out


@pytest.mark.slow
def test_the_module_is_a_command():
    finished = subprocess.run([sys.executable, "-m", "keras_actlab.cli"], capture_output=True, text=True)
    assert finished.returncode == 2
    assert "advise" in finished.stdout + finished.stderr
