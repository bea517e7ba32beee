import dataclasses
import json
import math

import keras
import numpy as np
import pytest

from keras_actlab.advice.budget import parse
from keras_actlab.advice.figures import differences, rates
from keras_actlab.advice.report import html
from keras_actlab.advice.result import Advice, former_looks
from keras_actlab.advice.starts import Start
from keras_actlab.experiments import Results

pytestmark = pytest.mark.one_backend


@dataclasses.dataclass
class Asked:
    """A question that has been answered already."""

    variants: dict
    unchanged: dict
    start: Start
    data: object
    name: str = "small <b>model</b>"
    metric: str = "mae"
    mode: str = "min"
    epochs: int | None = 3
    batch_size: int = 8
    steps_per_epoch: int | None = None
    class_weight: dict | None = None


@dataclasses.dataclass
class Note:
    note: str = "A pair is one seed."


def row(method, seed, stage, metric, rate=0.1, failure=None, parameters=10, seconds=1.0):
    return {
        **{"task": "advice", "method": method, "stage": stage, "split": 0, "seed": seed, "epochs": 3},
        **{"hyperparameters": {"learning_rate": rate}, "metrics": {"mae": metric}, "failure": failure},
        **{"parameters": parameters, "seconds": 2.0, "seconds_per_epoch": seconds, "versions": {"keras": "3"}},
    }


def answer(values, unchanged=None, failures=(), looks=(), path=None, **asked) -> Advice:
    """An answer with the given test metrics of each method; in pairs of `failures`, a method has failed."""
    configuration = {
        **{"methods": {name: ["f00"] for name in values}, "metrics": ["mae"], "monitor": "mae", "mode": "min"},
        **{"grid": {"learning_rate": [0.01, 0.1, 1.0]}, "data": "d00", "backend": "torch", "epochs": 3},
        **{"sizes": {"train": 60, "validation": 20, "test": 20}, "batch_size": 8, "steps_per_epoch": None},
        "validate_every": None,
    }
    rows = []
    for size, (method, metrics) in enumerate(values.items(), 1):
        for seed, metric in enumerate(metrics):
            rows.append(row(method, seed, "tune", metric, rate=1.0))
            rows.append(row(method, seed, "tune", metric - 0.1))
            if (method, seed) in failures:
                failed = {"task": "advice", "method": method, "stage": "final", "split": 0, "seed": seed, "epochs": 3}
                rows.append(failed | {"hyperparameters": {"learning_rate": 0.1}, "failure": "LookupError: <none>"})
            else:
                rows.append(row(method, seed, "final", metric, parameters=10 * size, seconds=0.5 * size))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    question = Asked(dict.fromkeys(values, None), unchanged or {}, Start(model, True), Note(), **asked)
    results = Results([{"task": "advice", "configuration": configuration}, {"rows": rows}])
    return Advice(question, results, path, list(looks), None, parse("5 pairs"))


@pytest.fixture(autouse=True)
def _no_models(monkeypatch):
    monkeypatch.setattr(Advice, "_megabytes", lambda self, name: 2.0)


BASE = [1.0, 1.2, 0.9, 1.1, 1.05]
BETTER = [0.5, 0.71, 0.39, 0.6, 0.56]
NOISY = [1.3, 0.9, 1.2, 0.8, 1.0]


@pytest.fixture
def advice():
    return answer({"as is": BASE, "gelu": BETTER, "gmp": NOISY}, {"relu": "the model has it already"}, name="small")


def test_verdicts_and_their_table(advice):
    assert [(each.variant, each.verdict) for each in advice] == [
        ("gelu", "better"),
        ("gmp", "cannot tell"),
        ("relu", "changes nothing"),
    ]
    table = advice.table
    assert table.loc["gelu", "mae"] == pytest.approx(np.mean(BETTER))
    assert table.loc["gelu", "as is"] == pytest.approx(np.mean(BASE))
    assert table.loc["gelu", "difference"] == pytest.approx(np.mean(BETTER) - np.mean(BASE))
    text = str(advice)
    assert all(each.sentence in text for each in advice)
    assert "A pair is one seed." in text
    assert "at most 5 %" in text


def test_the_direction_of_the_metric_decides():
    assert answer({"as is": BASE, "gelu": BETTER}, mode="max")["gelu"].verdict == "worse"


def test_looks_are_counted_when_pairs_were_added():
    values = {"as is": BASE, "gelu": BETTER}
    assert answer(values).looks == [5]
    assert answer(values, looks=[5]).looks == [5]
    assert answer(values, looks=[2, 3]).looks == [2, 3, 5]
    assert answer(values, looks=[2, 3])["gelu"].level == pytest.approx(1 - 0.05 / 12)


def test_levels_allow_for_the_variants_that_were_trained(advice):
    assert advice["gelu"].level == pytest.approx(1 - 0.05 / 2 / 2)


def test_costs_are_beside_those_of_the_model(advice):
    assert advice.costs["parameters"].to_dict() == {"as is": 10, "gelu": 20, "gmp": 30}
    assert advice.costs["seconds per epoch / as is"].to_dict() == {"as is": 1, "gelu": 2, "gmp": 3}


def test_choices_are_counted(advice):
    assert advice.chosen["learning rate 0.1"].to_dict() == {"as is": 5, "gelu": 5, "gmp": 5}


def test_failures_are_named_and_counted(tmp_path):
    advice = answer({"as is": BASE, "gelu": BETTER}, failures=[("gelu", 1), ("gelu", 3)], path=tmp_path)
    assert (advice["gelu"].pairs, advice["gelu"].failed) == (3, 2)
    assert "2 fits failed and are left out: LookupError: <none>." in advice["gelu"].sentence
    assert advice.chosen["learning rate 0.1"].to_dict() == {"as is": 5, "gelu": 3}
    text = html(advice)
    assert "LookupError: &lt;none&gt;" in text
    assert "<none>" not in text
    assert "2 failed" in text


@pytest.mark.parametrize("method", ["as is", "gelu"])
def test_all_fits_of_a_method_failed(tmp_path, method):
    failures = [(method, seed) for seed in range(5)]
    advice = answer({"as is": BASE, "gelu": BETTER, "gmp": NOISY}, failures=failures, path=tmp_path)
    assert advice["gelu"].verdict == ("cannot tell" if method == "as is" else "failed")
    advice.save()
    read = json.loads((tmp_path / "advice.json").read_text())
    assert read["failed_fits"] == 5
    assert method not in read["chosen"]


def test_files_hold_the_whole_answer(advice, tmp_path):
    advice.path = tmp_path
    advice.save()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["advice.json", "report.html"]
    assert former_looks(tmp_path / "advice.json") == [5]
    read = json.loads((tmp_path / "advice.json").read_text())
    assert read["verdicts"][0]["sentence"] == advice["gelu"].sentence
    assert read["verdicts"][2]["mean"] is None
    assert read["data"]["fingerprint"] == "d00"
    assert read["fits"] == 45
    assert read["seconds"] == 90
    text = (tmp_path / "report.html").read_text()
    assert "http" not in text
    for words in (
        "d00",
        "f00",
        "5 pairs",
        "variants=[&#39;gelu&#39;, &#39;gmp&#39;, &#39;relu&#39;]",
        "keras 3",
        "train 60",
    ):
        assert words in text, words
    assert text.count("data:image/svg+xml;base64,") == 2


def test_names_are_escaped_in_the_report():
    text = html(answer({"as is": BASE, "<i>mine</i>": BETTER}))
    assert "<i>" not in text
    assert "small <b>" not in text
    assert "&lt;i&gt;mine&lt;/i&gt; is better" in text


def test_calls_are_python(advice):
    call = advice.call
    assert "start='scratch'" in call
    compile(call, "call", "eval")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"looks": 3}', '{"looks": ["a"]}'], ids=["empty", "list", "none", "number", "text"]
)
def test_files_that_do_not_count_looks(tmp_path, text):
    (tmp_path / "advice.json").write_text(text)
    with pytest.raises(ValueError, match=r"`path` must be a folder with an intact advice\.json"):
        former_looks(tmp_path / "advice.json")
    assert former_looks(tmp_path / "none.json") == []


def test_differences_are_drawn(advice):
    (ax,) = differences(advice).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["gelu\nbetter", "gmp\ncannot tell"]
    points = ax.collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 0], np.subtract(BETTER, BASE))
    interval = next(line for line in ax.lines if line.get_label() == "mean and interval")
    np.testing.assert_allclose(interval.get_xdata(), [advice["gelu"].low, advice["gelu"].high])
    assert "left is better" in ax.get_xlabel()


def test_a_figure_without_verdicts():
    advice = answer({"as is": BASE, "gelu": BETTER}, failures=[("gelu", seed) for seed in range(5)])
    (ax,) = differences(advice).axes
    assert not ax.collections


def test_rates_are_drawn(advice):
    (ax,) = rates(advice).axes
    assert [line.get_label() for line in ax.lines] == ["as is", "gelu", "gmp"]
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0.1, 1.0])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [np.mean(BASE) - 0.1, np.mean(BASE)])
    assert ax.get_xscale() == "log"


def test_one_pair_decides_nothing():
    verdict = answer({"as is": BASE[:1], "gelu": BETTER[:1]})["gelu"]
    assert verdict.verdict == "cannot tell"
    assert math.isnan(verdict.low)
