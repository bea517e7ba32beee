import dataclasses

import keras
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from recipes import levy_regression as recipe
from recipes.common import authors, files, tracking
from recipes.common.parameterizations import HIDDEN
from tests.recipes.choices import assert_test_labels_decide_nothing

pytestmark = pytest.mark.one_backend


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("levy")
    result = CliRunner().invoke(recipe.app, ["--smoke", "--out", str(folder)], catch_exceptions=False)
    assert result.exit_code == 0
    return folder, result.output


def test_smoke(finished):
    folder, output = finished
    rows = pd.read_csv(folder / "levy_regression.csv")
    assert len(rows) == len(recipe.SMOKE_METHODS) * 2 * (2 + 1)  # splits, rates and the final fit
    assert np.isfinite(rows["RMSE"]).all()
    assert "WN" in output


def test_every_final_fit_was_watched_from_its_first_step_to_its_last(finished):
    folder, _ = finished
    table = pd.read_csv(folder / "levy_regression-boundaries.csv")
    assert list(zip(table["method"], table["split"], strict=True)) == [
        (m, split) for m in recipe.SMOKE_METHODS for split in (0, 1)
    ]
    for fit in table.to_dict("records"):
        track = tracking.load_track(folder / "levy_regression-tracks", fit["method"], fit["split"])
        np.testing.assert_array_equal(track.steps, np.arange(fit["epochs"] + 1))
        steps = np.abs(np.diff(track.locations[..., 0], axis=0))
        assert fit["largest step"] == pytest.approx(steps.max(), rel=1e-4)
        assert fit["largest turn"] == pytest.approx(180.0 * (np.diff(track.normals[..., 0], axis=0) != 0).any())
    # One of Adam's steps moves a radius by about its rate, and lets a plain boundary jump.
    largest = table.groupby("method")["largest step"].max()
    assert largest["GmP"] < 0.1 < largest["SP"]


def test_weight_normalization_of_one_input_is_the_plain_layer(finished):
    folder, _ = finished
    table = pd.read_csv(folder / "levy_regression.csv").set_index(["method", "stage", "split", "learning_rate"])["RMSE"]
    np.testing.assert_allclose(table["WN"], table["SP"], rtol=1e-3)


def test_the_figure_comes_from_its_files(finished):
    folder, _ = finished
    points, table = (pd.read_csv(folder / f"levy_regression-{name}.csv") for name in ("figure", "boundaries"))
    files.write_figure(recipe.figure(points, table), folder / "again.png")
    assert (folder / "again.png").read_bytes() == (folder / "levy_regression.png").read_bytes()
    curve = points[(points["method"] == "SP") & (points["kind"] == "largest")]
    largest = table.loc[(table["method"] == "SP") & (table["split"] == 0), "largest step"].item()
    assert curve["y"].max() == pytest.approx(largest)


def test_authors_smoke(tmp_path):
    arguments = ["--protocol", "authors", "--smoke", "--out", str(tmp_path)]
    assert CliRunner().invoke(recipe.app, arguments, catch_exceptions=False).exit_code == 0
    rows = pd.read_csv(tmp_path / "levy_regression-authors.csv")
    assert list(rows.groupby("method", sort=False).size().items()) == [(method, 2) for method in authors.RATES]
    assert np.isfinite(rows["RMSE"]).all()


def test_the_authors_train_on_all_points_and_watch_them():
    comparison = recipe.authors_comparison()
    assert comparison.split(0).sizes == {"train": 50, "validation": 0, "test": 201}
    assert (comparison.fit.watch, comparison.fit.patience, comparison.methods["SP"]().loss) == ("training", 1000, "mae")
    assert comparison.fit.error(np.array([[1.0, 2.0]]), np.array([[0.0, 4.0]])).tolist() == [1.5]


def test_the_function():
    # w is 1, -1 and 1.5.
    np.testing.assert_allclose(recipe.levy(np.array([[1.0], [-7.0], [3.0]])), [0.0, 4.0, 1.25], atol=1e-12)


def test_every_split_has_points_of_its_own():
    first, again, other = recipe.data(0), recipe.data(0), recipe.data(1)
    np.testing.assert_array_equal(first.train[0], again.train[0])
    assert not np.isin(first.development[0], other.development[0]).any()
    assert first.sizes == {"train": 40, "validation": 10, "test": 201}
    noise = np.concatenate([recipe.data(split).development[1] for split in range(20)])
    noise -= recipe.levy(np.concatenate([recipe.data(split).development[0] for split in range(20)]))
    assert 0.09 < noise.std() < 0.11
    np.testing.assert_allclose(first.test[1], recipe.levy(first.test[0]))


def test_test_targets_choose_nothing(tmp_path):
    comparison = recipe.comparison(tmp_path, smoke=True)
    methods = {name: comparison.methods[name] for name in ("SP", "GmP")}
    assert_test_labels_decide_nothing(dataclasses.replace(comparison, methods=methods), tmp_path)


@pytest.mark.parametrize("method", HIDDEN)
def test_parameterizations(method):
    keras.utils.set_random_seed(0)
    hidden = keras.Sequential([keras.Input((3,)), *HIDDEN[method](5)])
    outputs = keras.ops.convert_to_numpy(hidden(np.ones((2, 3), "float32")))
    assert outputs.shape == (2, 5)
    assert (outputs >= 0).all()
    per_unit = {"SP": 4, "WN": 5, "BN": 5, "GmP": 4, "GmP, code's start": 4, "GmP+IMN": 4}
    trainable = sum(np.prod(variable.shape) for variable in hidden.trainable_variables)
    assert trainable == 5 * per_unit[method]


def test_the_figure_shows_a_split_in_which_nothing_failed():
    table = pd.DataFrame({"method": ["SP", "SP", "SP", "GmP", "GmP"], "split": [0, 1, 2, 1, 2]})
    assert tracking.shown_split(table) == 1
    assert tracking.shown_split(table[table["split"] == 0].assign(split=4)) == 4
    assert tracking.shown_split(table.iloc[[0, 3]]) is None
    assert tracking.shown_split(table.iloc[:0]) is None
