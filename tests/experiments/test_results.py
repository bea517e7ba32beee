import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from keras_actlab import experiments
from tests.experiments.examples import results

pytestmark = pytest.mark.one_backend

ERRORS = {"ReLU": [1.0, 1.2, 0.9, 1.4, 1.1], "CRReLU": [0.9, 1.0, 0.95, 1.1, 1.0], "TMAF": [1.3, 1.2, 1.1, 1.6, 1.4]}


def test_mean_and_standard_error_are_numpy_s():
    table = results(ERRORS).table()
    for method, values in ERRORS.items():
        row = table.loc[("plane", method)]
        assert row["n"] == 5
        assert row["mean"] == pytest.approx(np.mean(values))
        assert row["s.e."] == pytest.approx(np.std(values, ddof=1) / np.sqrt(5))


def test_over_seeds_the_difference_is_a_paired_t_test():
    table = results(ERRORS, unit="seed").table()
    for method in ("CRReLU", "TMAF"):
        expected = stats.ttest_rel(ERRORS[method], ERRORS["ReLU"])
        row = table.loc[("plane", method)]
        assert row["difference"] == pytest.approx(np.mean(ERRORS[method]) - np.mean(ERRORS["ReLU"]))
        assert row["p"] == pytest.approx(expected.pvalue)
        assert (row["95 % from"], row["to"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert np.isnan(table.loc[("plane", "ReLU"), "difference"])


def test_over_splits_the_interval_allows_for_their_overlap():
    seeds, splits = (results(ERRORS, unit=unit).table().loc[("plane", "TMAF")] for unit in ("seed", "split"))
    wider = np.sqrt((1 / 5 + 20 / 80) / (1 / 5))  # Nadeau and Bengio: 1/n + n_test/n_train in place of 1/n
    assert (splits["to"] - splits["95 % from"]) / (seeds["to"] - seeds["95 % from"]) == pytest.approx(wider)
    t = seeds["difference"] / (seeds["to"] - seeds["95 % from"]) * 2 * stats.t.ppf(0.975, 4)
    assert splits["p"] == pytest.approx(2 * stats.t.sf(abs(t) / wider, 4))


def test_p_values_allow_for_their_number():
    table = results(ERRORS).table()
    small, large = sorted(table["p"].dropna())
    assert sorted(table["p, corrected"].dropna()) == pytest.approx([min(2 * small, large), large])


def test_methods_that_never_differ():
    same = results({"ReLU": ERRORS["ReLU"], "copy": ERRORS["ReLU"], "shifted": [e + 1 for e in ERRORS["ReLU"]]})
    table = same.table()
    assert table.loc[("plane", "copy"), ["difference", "p"]].tolist() == [0, 1]
    assert table.loc[("plane", "shifted"), "difference"] == pytest.approx(1)
    assert table.loc[("plane", "shifted"), ["95 % from", "to", "p"]].isna().all()  # no variation, no distribution


def test_one_replicate_has_no_interval():
    row = results({"ReLU": [1.0], "CRReLU": [0.5]}).table().loc[("plane", "CRReLU")]
    assert row["difference"] == -0.5
    assert row[["95 % from", "to", "p"]].isna().all()


def test_a_failed_replicate_leaves_the_others_paired():
    found = results(ERRORS)
    broken = next(row for row in found.rows if row["method"] == "CRReLU" and row["split"] == 1)
    broken |= {"failure": "ValueError: broken", "metrics": {}}
    table = found.table()
    keep = [0, 2, 3, 4]
    expected = np.mean([ERRORS["CRReLU"][k] - ERRORS["ReLU"][k] for k in keep])
    assert table.loc[("plane", "CRReLU"), "difference"] == pytest.approx(expected)
    assert table["n"].tolist() == [5, 4, 5]
    assert table["pairs"].tolist()[1:] == [4, 5]
    assert found.failures["failure"].tolist() == ["ValueError: broken"]


def test_seeds_of_one_split_are_one_replicate():
    rows = []
    for method, values in ERRORS.items():
        for split, value in enumerate(values):
            rows += [
                row | {"split": split, "seed": seed, "metrics": {"RMSE": value + shift}}
                for seed, shift in enumerate((-0.1, 0.1))
                for row in results({method: [value]}).rows
            ]
    many = experiments.Results(
        [{"task": "plane", "configuration": results(ERRORS).configurations["plane"]}, {"rows": rows}]
    )
    pd.testing.assert_frame_equal(many.table(), results(ERRORS).table())


def test_a_seed_that_failed_leaves_its_pair_out():
    """The methods are equal wherever both are there, whatever the seeds' own levels."""
    rows = [
        {
            **{"task": "plane", "method": method, "stage": "final", "split": split, "seed": seed, "epochs": 2},
            **{"hyperparameters": {}, "metrics": {"RMSE": 1.0 + seed + 0.1 * split}},
            "failure": "lost" if method == "B" and seed == 1 and split < 2 else None,
        }
        for method in "AB"
        for split in range(4)
        for seed in range(2)
    ]
    configuration = results({"A": [], "B": []}).configurations["plane"]
    table = experiments.Results([{"task": "plane", "configuration": configuration}, {"rows": rows}]).table()
    assert table.loc[("plane", "B"), "difference"] == pytest.approx(0)
    assert table.loc[("plane", "B"), "pairs"] == 4


def test_one_split_of_several_is_one_replicate():
    found = results(ERRORS)
    for row in found.rows:
        row["failure"] = None if row["split"] == 0 else "not yet"
    table = found.table()
    assert table["n"].tolist() == [1, 1, 1]
    assert table["p"].isna().all()


def test_independent_splits_do_not_overlap():
    free = results(ERRORS, independent_splits=True).table()
    pd.testing.assert_frame_equal(free, results(ERRORS, unit="seed").table())


def test_equal_candidates_are_decided_by_the_grid(tmp_path):
    configuration = results({"A": []}, grid={"rate": [0.2, 0.1]}).configurations["plane"]
    rows = [
        {
            **{"task": "plane", "method": "A", "stage": "tune", "split": 0, "seed": 0, "epochs": 2, "failure": None},
            **{"hyperparameters": {"rate": rate}, "metrics": {"RMSE": 1.0}},
        }
        for rate in (0.1, 0.2)
    ]
    for order in (rows, rows[::-1]):
        found = experiments.Results([{"task": "plane", "configuration": configuration}, {"rows": order}])
        assert found.choices[("plane", "A", 0, 0)]["hyperparameters"] == {"rate": 0.2}


def test_the_last_row_of_a_fit_counts():
    first, second = results(ERRORS), results({method: [2 * v for v in values] for method, values in ERRORS.items()})
    both = experiments.Results(
        [{"task": "plane", "configuration": first.configurations["plane"]}, {"rows": first.rows}, {"rows": second.rows}]
    )
    pd.testing.assert_frame_equal(both.table(), second.table())


def test_tables_are_rendered(tmp_path):
    found = results(ERRORS)
    assert found.overview().loc["ReLU", "plane"] == "1.120 ± 0.086"
    assert "| plane  | CRReLU   |   5 |   0.99 |" in found.to_markdown()
    assert "p, corrected" in str(found)
    files = found.save(tmp_path / "new", "found")
    assert [file.name for file in files] == ["found.csv", "found-table.csv", "found-table.md", "found.png"]
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == sorted(file.name for file in files)
    written = pd.read_csv(files[0])
    assert len(written) == 15
    assert list(written.columns[:7]) == ["task", "method", "stage", "split", "seed", "epochs", "RMSE"]
    pd.testing.assert_frame_equal(pd.read_csv(files[1]).set_index(["task", "method"]), found.table(), check_dtype=False)
    assert files[3].stat().st_size > 10_000


def test_another_figure_takes_the_place_of_the_dots(tmp_path):
    figure, ax = plt.subplots(figsize=(1, 1))
    plt.close(figure)
    ax.plot([0, 1])
    results({"ReLU": [1.0, 2.0]}).save(tmp_path, "plain", figure)
    assert plt.imread(tmp_path / "plain.png").shape[:2] == (150, 150)


def test_a_file_without_rows_has_empty_tables():
    empty = results({"ReLU": [], "CRReLU": []})
    assert len(empty.frame) == len(empty.failures) == len(empty.final) == 0
    assert empty.table()["n"].tolist() == [0, 0]


def test_unknown_names_say_so():
    with pytest.raises(ValueError, match="`metric` must be one of"):
        results(ERRORS).table("accuracy")
    with pytest.raises(ValueError, match="`task` must be one of"):
        experiments.curves(results(ERRORS), task="sphere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        experiments.load("nowhere.jsonl")


def test_dots_show_every_replicate():
    (ax,) = experiments.dots(results(ERRORS)).axes
    shown = [collection.get_offsets() for collection in ax.collections if len(collection.get_offsets()) == 5]
    assert [sorted(points[:, 0]) for points in shown] == [sorted(values) for values in ERRORS.values()]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(ERRORS)


def line_of_0_1(record):
    return json.dumps(record) + "\n"  # without a checksum


CONFIGURATION = {"methods": {"a": None}, "metrics": ["RMSE"], "monitor": "RMSE", "mode": "min", "grid": {}, "sizes": {}}
HEADER = {"task": "t", "configuration": CONFIGURATION}
ROW = {
    **{"task": "t", "method": "a", "stage": "final", "split": 0, "seed": 0, "hyperparameters": {}, "epochs": 1},
    **{"metrics": {"RMSE": 1.0}, "failure": None},
}


def without(row, key):
    return {name: value for name, value in row.items() if name != key}


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([HEADER, {"rows": [without(ROW, "stage")]}], r"record 2 has a row without \['stage'\]"),
        ([{"rows": [ROW]}], "record 1 has a row of 't', 'a', whose configuration no record before it has"),
        ([HEADER, {"rows": [ROW | {"method": "b"}]}], "record 2 has a row of 't', 'b'"),
        ([{"task": "t", "configuration": 3}], "record 1 has no configuration: 3"),
        ([{"task": "t", "configuration": without(CONFIGURATION, "monitor")}], "record 1 has no configuration"),
        # Two files in one, as by `cat`.
        (
            [HEADER, {"rows": [ROW]}, {"task": "t", "configuration": CONFIGURATION | {"epochs": 9}}, {"rows": [ROW]}],
            "record 3 has another configuration of 't' than a record before it: other epochs",
        ),
        ([HEADER, {"rows": [ROW | {"metrics": 3}]}], "line 2 begins with .* and is no record of results"),
    ],
)
def test_a_file_that_makes_no_table_is_refused(records, words, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text("".join(map(line_of_0_1, records)))
    with pytest.raises(ValueError, match=f"`path` must be a file of results.*results.jsonl.*{words}"):
        experiments.load(path)


def test_a_configuration_may_be_extended_and_written_twice(tmp_path):
    path = tmp_path / "results.jsonl"
    more = {"task": "t", "configuration": CONFIGURATION | {"methods": {"a": None, "b": None}}}
    rows = [{"rows": [ROW]}, {"rows": [ROW | {"method": "b"}]}]
    path.write_text("".join(map(line_of_0_1, [HEADER, HEADER, rows[0], more, rows[1]])))
    assert experiments.load(path).final["method"].tolist() == ["a", "b"]


def test_each_metric_has_an_overview_of_the_tasks_that_have_it():
    one = results(ERRORS)
    plane = one.configurations["plane"]
    assert [overview.index.name for overview in one.overviews] == ["method"]
    rows = [
        row | {"task": "sphere", "metrics": {"MAE": row["metrics"]["RMSE"], "max": 2 * row["metrics"]["RMSE"]}}
        for row in one.rows
    ]
    sphere = plane | {"metrics": ["MAE", "max"], "monitor": "MAE"}
    records = [{"task": "plane", "configuration": plane}, {"task": "sphere", "configuration": sphere}]
    found = experiments.Results([*records, {"rows": [*one.rows, *rows]}]).overviews
    assert [overview.index.name for overview in found] == ["RMSE", "MAE", "max"]
    assert [list(overview.columns) for overview in found] == [["plane"], ["sphere"], ["sphere"]]
    assert found[1].loc["ReLU", "sphere"] == "1.120 ± 0.086"
