import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from keras_actlab.experiments import Paired
from recipes import verdicts

pytestmark = pytest.mark.one_backend

PAGE = verdicts.RESULTS.parents[1] / "docs" / "verdicts.md"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verdicts")
    result = CliRunner().invoke(verdicts.app, ["--out", str(folder)], catch_exceptions=False)
    assert result.exit_code == 0
    return folder


@pytest.mark.parametrize("committed", [PAGE, verdicts.RESULTS / "verdicts.csv"], ids=lambda path: path.name)
def test_the_committed_files_are_those_of_the_committed_results(written, committed):
    assert (written / committed.name).read_text() == committed.read_text(), "copy what `recipes.verdicts` writes"


def cells(text):
    """The cells of the only row of the page that holds a text."""
    (line,) = [line for line in PAGE.read_text().splitlines() if text in line]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(
    ("text", "file", "task", "methods", "metric", "overlap"),
    [
        ("lower error than SP on Boston", "uci_regression", "boston", ("GmP, code's start", "SP"), "RMSE", 0.25),
        ("lower error than SP on Energy", "uci_regression", "energy", ("GmP, code's start", "SP"), "RMSE", 0.25),
        (
            "better than ReLU: sine 16, equal width, relative error",
            "function_approximation",
            "sine 16, equal width",
            ("TMAF tri-diagonal", "ReLU"),
            "relative error",
            0,
        ),
        (
            "CRReLU classifies better than GELU: MNIST, dense network",
            "entropy_search",
            "MNIST, dense",
            ("CRReLU from 0.01", "GELU"),
            "accuracy, %",
            2 / 3,
        ),
    ],
)
def test_the_figures_of_the_page_are_those_of_the_rows(text, file, task, methods, metric, overlap):
    *_, figure, smallest, _ = cells(text)
    mean, low, high = map(float, re.match(r"(\S+) \((\S+) to (\S+)\)", figure).groups())
    rows = pd.read_csv(verdicts.RESULTS / f"{file}.csv")
    rows = rows[(rows["task"] == task) & (rows["stage"] == "final")].set_index("split")
    better, worse = (rows.loc[rows["method"] == method, metric] for method in methods)
    differences = better - worse
    n = len(differences)
    error = differences.std() * np.sqrt(1 / n + overlap)
    assert mean == pytest.approx(differences.mean(), rel=0.01)
    assert low == pytest.approx(differences.mean() - stats.t.isf(0.025, n - 1) * error, rel=0.01, abs=1e-3)
    assert high == pytest.approx(differences.mean() + stats.t.isf(0.025, n - 1) * error, rel=0.01, abs=1e-3)
    # The power at the smallest difference, by simulation.
    rng = np.random.default_rng(0)
    t = (rng.normal(size=20_000) + float(smallest) / error) / np.sqrt(rng.chisquare(n - 1, 20_000) / (n - 1))
    assert np.mean(np.abs(t) > stats.t.isf(0.025, n - 1)) == pytest.approx(0.8, abs=0.02)


def test_published_figures_are_the_paper_s():
    assert cells("lower error than SP on Boston")[4].endswith("paper -0.313")
    assert "paper 0.859;" in cells("GmP with the code's start has a lower error than SP, as a ratio")[4]
    assert "paper +9.6" in cells("ViT-Tiny on CIFAR-10,")[4]


@pytest.mark.parametrize(
    ("differences", "gain", "higher", "verdict"),
    [
        ([-1.0, -1.1, -0.9], -0.5, False, "confirmed"),
        ([1.0, 1.1, 0.9], None, True, "confirmed"),
        ([0.1, -0.1, 0.05], -0.5, False, "refuted"),
        ([1.0, 1.1, 0.9], -0.5, False, "refuted"),
        ([1.0, -1.0, 0.5], -0.5, False, "not told apart"),
        ([1.0, -1.0, 0.5], None, True, "not told apart"),
        ([1.0, 1.1, 0.9], None, False, "refuted"),
    ],
)
def test_the_rule(differences, gain, higher, verdict):
    assert verdicts.judged(Paired(differences), gain, higher).verdict == verdict


def test_ratios_are_shown_as_such():
    finding = verdicts.judged(Paired(np.log([0.5, 0.52, 0.48])), np.log(0.6), ratio=True)
    assert finding.figure.startswith("0.500 (")
    assert finding.figure.endswith("paper 0.600")


def test_every_verdict_is_one_of_four_and_every_claim_has_a_command():
    table = pd.read_csv(verdicts.RESULTS / "verdicts.csv")
    assert set(table["verdict"]) <= {"confirmed", "refuted", "not told apart", "undecided"}
    assert table["number"].tolist() == list(range(1, len(table) + 1))
    assert not table["claim"].duplicated().any()
    assert table["command"].str.match(r"python -m recipes\.\w+").all()
    assert table["figure"].notna().all()
    tested = table["figure"].str.contains(" to ")
    assert table.loc[tested, "smallest difference"].notna().all()


def test_the_entropies_that_are_computed_here():
    x = np.random.default_rng(0).normal(size=400_000)
    slopes = 0.5 * stats.norm.pdf(0.5 * x)
    entropy = stats.norm.entropy() + np.log(slopes).mean()  # of Φ(x / 2): that of x plus the mean of log f'
    assert f"{entropy:.2f}" == "-0.32"
    assert "-0.318 (s = 0.5)" in verdicts.worst_activation().figure
    positive = np.abs(x)
    found = re.findall(r"(\S+) nats at (\S+?)(?:,|$)", verdicts.sign_of_epsilon().figure)
    assert [float(epsilon) for _, epsilon in found] == [0.01, -0.01]
    for change, epsilon in found:
        expected = np.log(1 + float(epsilon) * (1 - positive**2) * np.exp(-(positive**2) / 2)).mean()
        assert float(change) == pytest.approx(expected, abs=1e-4)


def test_the_growth_of_a_gain_is_that_of_the_rows():
    rows = pd.read_csv(verdicts.RESULTS / "small_image_networks-large.csv")
    accuracy = rows.set_index(["task", "method", "split"])["accuracy, %"]
    gain = accuracy.xs("GmP+IMN", level="method") - accuracy.xs("SP", level="method")
    expected = stats.ttest_rel(gain["VGG, batch 512"].to_numpy(), gain["VGG, batch 64"].to_numpy())
    low, high = expected.confidence_interval(0.95)
    *_, figure, _, _ = cells("gain of GmP+IMN over SP grows with the batch: larger VGG-6")
    mean = (gain["VGG, batch 512"] - gain["VGG, batch 64"]).mean()
    assert figure == f"{mean:+.3g} ({low:+.3g} to {high:+.3g})"
