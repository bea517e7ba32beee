import dataclasses

import keras
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from recipes import quickstart
from tests.recipes.choices import assert_test_labels_decide_nothing

pytestmark = pytest.mark.one_backend


def test_smoke(tmp_path):
    arguments = ["--smoke", "--out", str(tmp_path)]
    finished = CliRunner().invoke(quickstart.app, arguments, catch_exceptions=False)
    assert finished.exit_code == 0
    written = pd.read_csv(tmp_path / "quickstart.csv")
    assert len(written) == 2 * 3 * 2 * (2 + 1)  # tasks, methods, splits, rates and the final fit
    assert written["failure"].isna().all()
    assert (tmp_path / "quickstart.png").stat().st_size > 10_000
    assert "GmP+IMN" in finished.output
    # Started again, it trains nothing, and says the same.
    again = CliRunner().invoke(quickstart.app, arguments, catch_exceptions=False)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "quickstart.csv"), written)
    tables = [run.output[run.output.index("| method") :] for run in (finished, again)]
    assert tables[0] == tables[1]


def test_help_explains_every_option():
    text = CliRunner().invoke(quickstart.app, ["--help"], env={"COLUMNS": "200"}).output
    for words in ("--splits", "random splits", "--out", "Folder for", "--jobs", "processes", "--smoke", "very small"):
        assert words in text


def test_every_method_has_a_network():
    for comparison in quickstart.comparisons():
        assert len(comparison.methods) == 9
        x, y = comparison.split(0).train
        outputs = {"digits": 10, "diabetes": 1}[comparison.name]
        for build in comparison.methods.values():
            model = build(0.01)
            assert model.output_shape == (None, outputs)
            assert keras.ops.convert_to_numpy(model.optimizer.learning_rate) == pytest.approx(0.01)
        assert np.isfinite(model.evaluate(x[:8], y[:8], verbose=0))


def test_a_split_leaves_what_the_docstring_says():
    digits, diabetes = (comparison.split(3).sizes for comparison in quickstart.comparisons())
    assert digits == {"train": 1149, "validation": 288, "test": 360}
    assert diabetes == {"train": 282, "validation": 71, "test": 89}


def test_test_labels_decide_nothing(tmp_path):
    _, diabetes = quickstart.comparisons(2, smoke=True)
    first = dict(list(diabetes.methods.items())[:1])
    assert_test_labels_decide_nothing(dataclasses.replace(diabetes, methods=first), tmp_path)
