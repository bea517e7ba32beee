import json
import math

import numpy as np
import pytest

from keras_actlab.advice.report import html
from keras_actlab.advice.result import former_looks
from tests.advice.answers import BASE, BETTER, NOISY, answer, example

pytestmark = pytest.mark.one_backend


@pytest.fixture
def advice():
    return example(name="small")


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


def test_looks_are_counted_when_results_were_added():
    values = {"as is": BASE, "gelu": BETTER}
    assert answer(values).looks == [10]
    assert answer(values, looks=[10]).looks == [10]
    assert answer(values, looks=[2, 3]).looks == [2, 3, 10]
    with_a_failure = answer(values, failures=[("gelu", 1)])
    assert with_a_failure.looks == [9]
    assert answer(values, looks=with_a_failure.looks).looks == [9, 10]  # the fit was repeated, and succeeded
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
    assert former_looks(tmp_path / "advice.json") == [15]
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


def test_one_pair_decides_nothing():
    verdict = answer({"as is": BASE[:1], "gelu": BETTER[:1]})["gelu"]
    assert verdict.verdict == "cannot tell"
    assert math.isnan(verdict.low)
