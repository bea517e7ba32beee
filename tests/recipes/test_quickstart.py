import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from recipes import quickstart


@pytest.fixture(scope="module")
def results():
    """Made-up errors, as a run would write them."""
    rng = np.random.default_rng(0)
    rows = [
        {"task": task, "method": method, "seed": seed, "rate": rate, "validation": rng.random(), "test": rng.random()}
        for task in quickstart.TASKS
        for method in quickstart.METHODS
        for seed in range(5)
        for rate in (0.01, 0.1)
    ]
    return pd.DataFrame(rows)


def test_smoke(tmp_path):
    finished = CliRunner().invoke(quickstart.app, ["--smoke", "--out", str(tmp_path)], catch_exceptions=False)
    assert finished.exit_code == 0
    written = pd.read_csv(tmp_path / "quickstart.csv")
    assert len(written) == 2 * 9 * 2 * 2
    assert written[["validation", "test"]].notna().all().all()
    assert (tmp_path / "quickstart.png").stat().st_size > 10_000
    assert "GmP+IMN" in finished.output


def test_help_explains_every_option():
    text = CliRunner().invoke(quickstart.app, ["--help"], env={"COLUMNS": "200"}).output
    for words in ("--seeds", "Paired repetitions", "--out", "Folder for", "--smoke", "one epoch"):
        assert words in text


def test_validation_data_alone_choose(results):
    best = quickstart.chosen(results)
    assert len(best) == len(results) / 2
    least = results.groupby(["task", "method", "seed"])["validation"].min()
    np.testing.assert_array_equal(best.set_index(["task", "method", "seed"])["validation"].sort_index(), least)
    shuffled = results.assign(test=results["test"].sample(frac=1, random_state=0).to_numpy())
    pd.testing.assert_frame_equal(quickstart.chosen(shuffled).drop(columns="test"), best.drop(columns="test"))


def test_the_difference_is_paired_by_seed(results):
    table = quickstart.summary(results)
    best = quickstart.chosen(results).set_index(["task", "method", "seed"])["test"].sort_index()
    difference = (best["digits", "GmP"] - best["digits", quickstart.BASELINE]).to_numpy()
    row = table.loc[("digits", "GmP")]
    assert row["difference"] == pytest.approx(difference.mean())
    interval = stats.ttest_rel(best["digits", "GmP"], best["digits", quickstart.BASELINE]).confidence_interval(0.95)
    assert (row["95 % from"], row["to"]) == pytest.approx(tuple(interval))
    assert np.isnan(table.loc[("digits", quickstart.BASELINE), "difference"])


def test_the_parts_do_not_overlap():
    parts = quickstart.TASKS["digits"].split(seed=3)
    assert [len(y) for _, y in parts.values()] == [1077, 360, 360]
    again = quickstart.TASKS["digits"].split(seed=3)
    np.testing.assert_array_equal(parts["test"][0], again["test"][0])
    # The scaler saw the training part only: its mean is 0 there, and not exactly 0 elsewhere.
    assert np.abs(parts["train"][0].mean(axis=0)).max() < 1e-5
    assert np.abs(parts["test"][0].mean(axis=0)).max() > 1e-3
