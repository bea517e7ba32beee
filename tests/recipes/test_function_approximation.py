import dataclasses

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from keras_actlab import experiments
from recipes import function_approximation as recipe

pytestmark = pytest.mark.one_backend


def test_targets():
    x = np.linspace(-1, 1, 41)
    in_one = {name: recipe.TARGETS[name].function(x[:, None]) for name in recipe.TARGETS if name != "4-D"}
    np.testing.assert_allclose(in_one["smooth"], [2.718281828459045 ** np.sin(3.141592653589793 * s) for s in x])
    for frequency in recipe.FREQUENCIES:
        wave = np.exp(1j * np.pi * frequency * x).imag
        np.testing.assert_allclose(in_one[f"sine {frequency}"], wave, atol=1e-12)
    steps = in_one["jumps"] - np.sin(2 * np.pi * x)
    expected = [0.0 if s < -0.5 else 1.5 if s < 0.3 else -1.0 for s in x]
    np.testing.assert_allclose(steps, expected, atol=1e-12)
    points = np.random.default_rng(0).uniform(-1, 1, (10, 4))
    waves = [np.sin(np.pi * a + np.pi * b + np.pi * c + np.pi * d) for a, b, c, d in points]
    np.testing.assert_allclose(recipe.TARGETS["4-D"].function(points), waves, atol=1e-12)


@pytest.mark.parametrize("name", ["sine 8", "4-D"])
def test_every_split_has_points_of_its_own(name):
    target = recipe.TARGETS[name]
    first, again, other = target.data(0), target.data(0), target.data(1)
    np.testing.assert_array_equal(first.train[0], again.train[0])
    assert not np.isin(first.train[0], other.train[0]).any()
    assert not np.isin(first.train[0], first.validation[0]).any()
    assert first.sizes == {"train": target.train, "validation": target.validation, "test": target.test}
    for x, y in (first.train, first.validation, first.test):
        assert x.shape[1] == target.dimensions
        assert np.abs(x).max() <= 1
        np.testing.assert_allclose(y, target.function(x.astype("float64")), atol=1e-5)


def test_the_error_is_relative():
    targets = np.array([1.0, 3.0, 5.0])
    assert recipe.relative_error(targets, np.full((3, 1), 3.0)) == pytest.approx(1.0)
    assert recipe.relative_error(targets, targets[:, None] + 1) == pytest.approx(1 / np.sqrt(8 / 3))


@pytest.mark.parametrize("dimensions", [1, 4])
def test_sizings(dimensions):
    widths = {method: recipe.equal_parameters(method, dimensions) for method in recipe.ACTIVATIONS}
    counts = {method: recipe.parameters(method, width, dimensions) for method, width in widths.items()}
    assert max(counts.values()) < 1.04 * min(counts.values()), counts
    assert widths["TMAF 5 diagonals"] == recipe.equal_width("ReLU", dimensions) == 32
    for method in ("ReLU", "PReLU", "TMAF tri-diagonal"):
        assert recipe.network(method, widths[method], dimensions)(0.01).count_params() == counts[method]


def test_test_targets_choose_nothing(tmp_path):
    comparison = recipe.comparison("sine 2", "equal width", smoke=True)
    comparison = dataclasses.replace(comparison, methods={"ReLU": comparison.methods["ReLU"]}, epochs=10)

    def permuted(split):
        data = comparison.split(split)
        x, y = data.test
        return dataclasses.replace(data, test=(x, np.random.default_rng(9).permutation(y)))

    kept = experiments.run(comparison, tmp_path / "kept.jsonl", progress=False)
    other = experiments.run(dataclasses.replace(comparison, data=permuted), tmp_path / "other.jsonl", progress=False)
    choices = [
        {place: (row["hyperparameters"], row["epochs"]) for place, row in results.choices.items()}
        for results in (kept, other)
    ]
    assert choices[0] == choices[1]
    assert len(choices[0]) == 2
    assert not np.allclose(kept.final["relative error"], other.final["relative error"])


def test_smoke(tmp_path):
    arguments = ["--smoke", "--out", str(tmp_path)]
    finished = CliRunner().invoke(recipe.app, arguments, catch_exceptions=False)
    assert finished.exit_code == 0
    rows = pd.read_csv(tmp_path / "function_approximation.csv")
    tuned, final = (rows[rows["stage"] == stage] for stage in ("tune", "final"))
    assert len(tuned) == 2 * len(final) == 2 * 2 * 3 * 2  # rates, sizings, methods, splits
    assert np.isfinite(rows["relative error"]).all()
    assert (tmp_path / "function_approximation_frequency.png").stat().st_size > 10_000
    assert "sine 2, equal parameters" in finished.output


def test_help_explains_every_option():
    text = CliRunner().invoke(recipe.app, ["--help"], env={"COLUMNS": "200"}).output
    for words in ("sine 16", "--out", "Folder for rows", "--jobs", "Number of processes", "--smoke", "very small"):
        assert words in text


@pytest.mark.parametrize("arguments", [["sine 3"], ["--sizing", "sine 3"]])
def test_an_unknown_choice_is_refused(arguments):
    finished = CliRunner().invoke(recipe.app, arguments, env={"COLUMNS": "200"})
    assert finished.exit_code == 2
    assert "Received: sine 3" in finished.output


def test_more_steps_of_one_sizing():
    (chosen,) = recipe.comparisons(targets=["sine 4"], sizings=["equal width"], steps=6000)
    assert (chosen.name, chosen.epochs, chosen.validate_every) == ("sine 4, equal width, 6,000 steps", 6000, 300)
