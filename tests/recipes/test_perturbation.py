import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from keras_actlab import cab
from recipes import perturbation as recipe
from recipes.common import files

pytestmark = pytest.mark.one_backend

RNG = np.random.default_rng(0)
WEIGHTS, BIAS = RNG.normal(size=(2, 50)), RNG.normal(size=50)


@pytest.mark.parametrize("method", recipe.METHODS)
def test_all_methods_write_the_same_boundaries(method):
    write, _ = recipe.METHODS[method]
    found = cab.boundaries(write(WEIGHTS, BIAS))
    norm = np.linalg.norm(WEIGHTS, axis=0)
    np.testing.assert_allclose(found.normals, (WEIGHTS / norm).T, atol=1e-5)
    np.testing.assert_allclose(found.offsets, BIAS / norm, rtol=1e-4)


@pytest.mark.parametrize("method", recipe.METHODS)
def test_steps_have_the_length(method):
    found = recipe.changes(method, 0.01, seed=1, units=200, deviation=1.0)
    moved = found[[f"{name} after" for name in ("u1", "u2", "offset")]].to_numpy()
    before = found[[f"{name} before" for name in ("u1", "u2", "offset")]].to_numpy()
    cosines = np.sum(moved[:, :2] * before[:, :2], axis=1)
    np.testing.assert_allclose(np.degrees(np.arccos(np.minimum(cosines, 1))), found["turn"], atol=1e-3)
    if method == "GmP":  # of angle and radius, with nothing in between
        length = np.hypot(np.radians(found["turn"]), moved[:, 2] - before[:, 2])
        np.testing.assert_allclose(length, 0.01, rtol=1e-3)


def test_a_step_as_long_as_the_weights_turns_plain_ones_only():
    turns = {
        method: recipe.changes(method, 0.001, seed=0, units=200)["turn"].median()
        for method in ("SP", "WN", "BN", "GmP")
    }
    assert min(turns["SP"], turns["WN"], turns["BN"]) > 10
    assert turns["GmP"] <= np.degrees(0.001)


def test_smoke(tmp_path):
    finished = CliRunner().invoke(recipe.app, ["--smoke", "--out", str(tmp_path)], catch_exceptions=False)
    assert finished.exit_code == 0
    table, shown = (pd.read_csv(tmp_path / f"perturbation{ending}.csv") for ending in ("", "-figure"))
    assert len(table) == 2 * 4 * 4 * 2  # deviations, methods, sizes, seeds
    assert len(shown) == 4 * recipe.DRAWS
    assert shown.groupby("method")["offset before"].nunique().tolist() == [1] * 4
    files.write_figure(recipe.figure(table, shown), tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "perturbation.png").read_bytes()
