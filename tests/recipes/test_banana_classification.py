import dataclasses

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from recipes import banana_classification as recipe
from recipes.common import authors, files, tracking
from tests.recipes.choices import assert_test_labels_decide_nothing

pytestmark = pytest.mark.one_backend


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A made-up table with the form of the Banana data: inside and outside of a circle."""
    path = tmp_path_factory.mktemp("data") / "banana.csv"
    points = np.random.default_rng(0).normal(size=(5300, 2)).round(3)
    labels = np.where((points**2).sum(axis=1) < 1.2, 1, -1)
    pd.DataFrame({"At1": points[:, 0], "At2": points[:, 1], "Class": labels}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def finished(file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("banana")
    arguments = ["--smoke", "--data", str(file), "--out", str(folder)]
    result = CliRunner().invoke(recipe.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return folder, result.output


def test_smoke(finished):
    folder, output = finished
    rows = pd.read_csv(folder / "banana_classification.csv")
    assert len(rows) == len(recipe.SMOKE_METHODS) * 2 * (2 + 1)  # splits, rates and the final fit
    assert rows["accuracy, %"].between(40, 100).all()
    assert set(rows["task"]) == {"Banana"}
    assert "GmP+IMN" in output


def test_the_figure_comes_from_its_files(finished):
    folder, _ = finished
    points, table = (pd.read_csv(folder / f"banana_classification-{name}.csv") for name in ("figure", "boundaries"))
    files.write_figure(recipe.figure(points, table), folder / "again.png")
    assert (folder / "again.png").read_bytes() == (folder / "banana_classification.png").read_bytes()
    track = tracking.load_track(folder / "banana_classification-tracks" / "Banana", "BN", 0)
    drawn = points[(points["method"] == "BN") & (points["kind"] == "boundary")]
    last = drawn[drawn["step"] == track.steps[-1]]
    np.testing.assert_allclose(last[["x", "y"]], track.normals[-1], atol=1e-5)
    np.testing.assert_allclose(-last["value"].to_numpy()[:, None] * last[["x", "y"]], track.locations[-1], atol=1e-4)
    turns = np.degrees(track.turns.max())
    assert table.loc[(table["method"] == "BN") & (table["split"] == 0), "largest turn"].item() == pytest.approx(
        turns, rel=1e-4
    )


def test_authors_smoke(file, tmp_path):
    arguments = ["--protocol", "authors", "--smoke", "--data", str(file), "--out", str(tmp_path)]
    assert CliRunner().invoke(recipe.app, arguments, catch_exceptions=False).exit_code == 0
    rows = pd.read_csv(tmp_path / "banana_classification-authors.csv")
    assert list(rows.groupby("method", sort=False).size().items()) == [(method, 2) for method in authors.RATES]
    assert rows["accuracy, %"].between(40, 100).all()


def test_the_authors_draw_the_same_points(file, tmp_path):
    ours, theirs = recipe.comparison(file, tmp_path).split(0), recipe.authors_comparison(file).split(0)
    assert theirs.sizes == {"train": 800, "validation": 0, "test": 200}
    np.testing.assert_array_equal(theirs.test[1], ours.test[1])
    np.testing.assert_allclose(theirs.train[0].mean(axis=0), 0, atol=1e-6)
    fit = recipe.authors_comparison(file).fit
    labels, logits = np.array([[1.0, 1.0, 0.0, 0.0]]), np.array([[2.0, -1.0, 3.0, -4.0]])
    assert (fit.error(labels, logits).item(), fit.metric(labels, logits).item()) == (0.5, 50)


def test_test_labels_choose_nothing(file, tmp_path):
    comparison = recipe.comparison(file, tmp_path, smoke=True)
    methods = {"GmP+IMN": comparison.methods["GmP+IMN"]}
    assert_test_labels_decide_nothing(dataclasses.replace(comparison, methods=methods), tmp_path)


def test_labels_and_accuracy(file):
    name, points, labels = recipe.load(file)
    assert name == "Banana"
    np.testing.assert_array_equal(labels, (points**2).sum(axis=1) < 1.2)
    logits = np.array([[2.0], [-1.0], [3.0], [-4.0]])
    assert recipe.accuracy(np.array([1.0, 1.0, 0.0, 0.0]), logits) == 50.0
    assert recipe.accuracy(np.array([1.0, 0.0, 1.0, 1.0]), logits) == 75.0


def test_the_split_draws_as_many_as_the_paper(file, tmp_path):
    comparison = recipe.comparison(file, tmp_path)
    assert comparison.split(0).sizes == {"train": 640, "validation": 160, "test": 200}
    assert not np.array_equal(comparison.split(0).train[0], comparison.split(1).train[0])


def test_a_missing_file_says_where_to_get_it(tmp_path):
    with pytest.raises(ValueError, match=r"At1, At2, Class.*openml.*Received: data=.*nothing\.csv"):
        recipe.load(tmp_path / "nothing.csv")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda table: table.rename(columns={"At2": "b"}), "Received: At1, b, Class"),
        (lambda table: table.replace({"Class": {1: 2.0, -1: np.nan}}), "entries that are not finite numbers"),
        (lambda table: table.assign(Class=table["At1"].round()), "classes "),
        (lambda table: table.head(50), "must have 5300 rows. Received: 50"),
    ],
    ids=["columns", "missing", "classes", "rows"],
)
def test_another_table_is_refused(file, tmp_path, damage, words):
    damage(pd.read_csv(file)).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(ValueError, match=words):
        recipe.load(tmp_path / "other.csv")


def test_openml_comes_without_names(monkeypatch):
    frame = pd.DataFrame({"V1": np.arange(1000.0), "V2": 0.5, "Class": ["1", "2"] * 500})
    calls = []

    class Bunch:
        pass

    def fetch(**arguments):
        calls.append(arguments)
        Bunch.frame = frame
        return Bunch

    monkeypatch.setattr(recipe, "fetch_openml", fetch)
    name, points, labels = recipe.load(None)
    assert (name, calls[0]["data_id"]) == ("Banana", 1460)
    np.testing.assert_array_equal(points[:, 0], np.arange(1000))
    np.testing.assert_array_equal(labels, [0, 1] * 500)


def test_a_stand_in_says_so_loudly(monkeypatch, tmp_path, capsys):
    def unreachable(**arguments):
        raise OSError("no route")

    monkeypatch.setattr(recipe, "fetch_openml", unreachable)
    comparison = recipe.comparison(None, tmp_path)
    assert "RESULTS ARE THOSE OF TWO CRESCENTS, NOT BANANA" in capsys.readouterr().out
    assert comparison.name == "two crescents, NOT Banana"  # which is what tables and figures show
    assert comparison.split(0).sizes["train"] == 640
