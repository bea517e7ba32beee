"""The results of a run: rows, choices, failures, tables."""

import io
import json
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from keras_actlab.arguments import as_path, check_choice, received
from keras_actlab.experiments._journal import Journal
from keras_actlab.experiments.figures import dots
from keras_actlab.experiments.paired import Paired
from keras_actlab.files import write

KEY = ("task", "method", "stage", "split", "seed")
NESTED = ("hyperparameters", "metrics", "versions")
# Keys that every row and every configuration have.
ROW = {*KEY, "hyperparameters", "epochs", "failure"}
CONFIGURATION = {"methods", "metrics", "monitor", "mode", "grid", "sizes"}


class _Printed(pd.DataFrame):
    """A frame that prints selected columns only, with their whole text."""

    _metadata: ClassVar = ["_columns_to_print"]

    def __init__(self, frame: pd.DataFrame, columns: list[str]):
        super().__init__(frame)
        self._columns_to_print = columns

    @property
    def _constructor(self) -> type[pd.DataFrame]:  # results of its methods are ordinary frames
        return pd.DataFrame

    def __repr__(self) -> str:
        return pd.DataFrame(self)[self._columns_to_print].to_string(index=False, max_rows=100)

    def _repr_html_(self) -> str:
        return pd.DataFrame(self)[self._columns_to_print].to_html(index=False, max_rows=100)


class Results:
    """The rows of a results file, and tables made from them.

    Args:
        records: Records of the file, as `run` and `load` read them.

    Example:

    >>> from keras_actlab import experiments
    >>> configuration = {
    ...     "methods": {"ReLU": None, "CRReLU": None}, "metrics": ["RMSE"], "monitor": "RMSE", "mode": "min",
    ...     "grid": {}, "sizes": {"train": 64, "validation": 16, "test": 20},
    ... }
    >>> rows = [
    ...     {"task": "noise", "method": method, "stage": "final", "split": split, "seed": 0, "hyperparameters": {},
    ...      "epochs": 5, "metrics": {"RMSE": error + 0.01 * split}, "failure": None}
    ...     for method, errors in {"ReLU": [0.5, 0.6, 0.7], "CRReLU": [0.4, 0.5, 0.5]}.items()
    ...     for split, error in enumerate(errors)
    ... ]
    >>> results = experiments.Results([{"task": "noise", "configuration": configuration}, {"rows": rows}])
    >>> results.table()[["mean", "difference"]].round(3)
                   mean  difference
    task  method
    noise ReLU    0.610         NaN
          CRReLU  0.477      -0.133
    """

    def __init__(self, records: Sequence[dict[str, Any]]):
        dicts = isinstance(records, list | tuple) and all(isinstance(record, dict) for record in records)
        if not dicts or not all({"configuration", "rows"} & record.keys() for record in records):
            raise TypeError(f"`records` must be those of a file of results. {received('records', records)}")
        # A configuration that was extended, and a fit that was repeated, replace the former.
        self.configurations: dict[str, dict[str, Any]] = {}
        rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        for number, record in enumerate(records, 1):
            if fault := self._fault(record):
                raise ValueError(f"`records` must be those of a file of results. Received: record {number} has {fault}")
            if "configuration" in record:
                self.configurations[record["task"]] = record["configuration"]
            rows |= {row_key(row): row for row in record.get("rows", [])}
        self.rows = list(rows.values())

    def _fault(self, record: dict[str, Any]) -> str | None:
        """Returns what is wrong with a record, given the records before it."""
        if "configuration" in record:
            new, name = record["configuration"], record.get("task")
            if not isinstance(name, str) or not isinstance(new, dict) or not new.keys() >= CONFIGURATION:
                return f"no configuration: {new!r:.200}"
            old = self.configurations.get(name, new)
            changed = [key for key in {**old, **new} if key != "methods" and old.get(key) != new.get(key)]
            if changed:
                return f"another configuration of {name!r} than a record before it: other {' and '.join(changed)}"
        for row in record.get("rows", []):
            if missing := ROW - row.keys():
                return f"a row without {sorted(missing)}"
            known = self.configurations.get(row["task"])
            if known is None or row["method"] not in known["methods"]:
                return f"a row of {row['task']!r}, {row['method']!r}, whose configuration no record before it has"
        return None

    @cached_property
    def choices(self) -> dict[tuple[str, str, int, int], dict[str, Any]]:
        """For each task, method, split and seed the row of the candidate with the best validation metric."""
        best: dict[tuple[str, str, int, int], dict[str, Any]] = {}
        rows = [row for row in self.rows if row["stage"] == "tune" and not row["failure"]]
        # The order decides between equal ones: those of the grid first.
        for row in sorted(rows, key=lambda row: (self._beyond(row), self._place(row))):
            if not math.isfinite(self._score(row)):
                continue
            place = row["task"], row["method"], row["split"], row["seed"]
            if place not in best or self._score(row) < self._score(best[place]):
                best[place] = row
        return best

    def _score(self, row: dict[str, Any]) -> float:
        configuration = self.configurations[row["task"]]
        return row["metrics"][configuration["monitor"]] * (1 if configuration["mode"] == "min" else -1)

    def _beyond(self, row: dict[str, Any]) -> float:
        """Distance of the extended hyper-parameter of a row from the range of its grid."""
        configuration = self.configurations[row["task"]]
        name = configuration.get("extend")
        if name is None:
            return 0
        value, values = row["hyperparameters"][name], configuration["grid"][name]
        return max(min(values) - value, value - max(values), 0)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """All rows as a table with one column for each hyper-parameter and metric, in the comparisons' order."""
        flat = []
        for row in sorted(self.rows, key=self._place):
            point, metrics, versions = (row.get(name, {}) for name in ("hyperparameters", "metrics", "versions"))
            rest = {name: value for name, value in row.items() if name not in ("history", *NESTED)}
            packages = " ".join(f"{name} {version}" for name, version in versions.items())
            flat.append({**rest, **point, **metrics, "versions": packages})
        frame = pd.DataFrame(flat)
        columns = [*KEY, *self._names("grid"), "epochs", *self._names("metrics"), "failure", *frame.columns]
        return frame.reindex(columns=list(dict.fromkeys(columns)))

    def _names(self, *parts: str) -> list[str]:
        """The names of all tasks' hyper-parameters ("grid") or metrics."""
        return list(dict.fromkeys(name for part in parts for c in self.configurations.values() for name in c[part]))

    def _place(self, row: dict[str, Any]) -> tuple[Any, ...]:
        """Sort key of a row, which does not depend on the order in which processes finished."""
        configuration = self.configurations[row["task"]]
        point, extended = row["hyperparameters"], configuration.get("extend")
        grid = [
            point[name] if name == extended else values.index(point[name])  # the extended one may lie outside the grid
            for name, values in configuration["grid"].items()
            if row["epochs"]
        ]
        tasks, methods, stages = list(self.configurations), list(configuration["methods"]), ["tune", "final"]
        place = tasks.index(row["task"]), methods.index(row["method"]), stages.index(row["stage"])
        return *place, row["split"], row["seed"], grid

    @property
    def tuning(self) -> pd.DataFrame:
        """The rows with metrics of the validation part. `chosen` is True for the choices of the final fits."""
        chosen = {row_key(row) for row in self.choices.values()}
        rows = [row for row in sorted(self.rows, key=self._place) if row["stage"] == "tune"]
        frame = self.frame[self.frame["stage"] == "tune"].assign(chosen=[row_key(row) in chosen for row in rows])
        return _Printed(frame, ["task", "method", "split", "seed", *self._names("grid", "metrics"), "epochs", "chosen"])

    @property
    def final(self) -> pd.DataFrame:
        """The rows with metrics of the test part."""
        return self.frame[self.frame["stage"] == "final"]

    @property
    def failures(self) -> pd.DataFrame:
        """The rows of fits that raised an error, or whose final metrics are not finite."""
        return _Printed(self.frame[self.frame["failure"].notna()], [*KEY, *self._names("grid"), "failure"])

    def table(self, metric: str | None = None) -> pd.DataFrame:
        """Compares every method with the first one, on the test part.

        A replicate is a split (the mean over its seeds) or, with one split only, a seed. Over n replicates, the
        differences of a method to the baseline have a mean and a standard deviation s. Random splits overlap, so their
        differences are not independent; the variance of the mean is taken as

        `s**2 * (1 / n + test examples / training examples of the final fit)`

        (Nadeau and Bengio), without the second term for seeds and for splits that are drawn independently. The
        interval and the p-value are those of Student's t with n - 1 degrees of freedom. "p, corrected" allows for
        the number of comparisons in the table: it controls the rate of false discoveries (Benjamini and Hochberg).

        Args:
            metric: Name of the metric. Without it, each task's monitored one.

        Returns:
            One row for each task and method: number of replicates, mean, standard error of the mean (as papers state
            it, without the term for overlap), number of pairs with the baseline, mean difference of the pairs, the
            ends of its 95 % interval, p-value, corrected p-value. Replicates that failed are left out.

        Raises:
            ValueError: If no task has the metric.

        Reference:

        - [Nadeau and Bengio, 2003](https://doi.org/10.1023/A:1024068626366)
        - [Benjamini and Hochberg, 1995](https://doi.org/10.1111/j.2517-6161.1995.tb02031.x)
        """
        rows = []
        if metric is not None:
            check_choice("metric", metric, self._names("metrics"))
        tasks = {t: c for t, c in self.configurations.items() if (metric or c["monitor"]) in c["metrics"]}
        for task, configuration in tasks.items():
            values = self._values(task, metric or configuration["monitor"])
            unit, overlap = self._unit(task), self.overlap(task)
            for method in values:
                means = values[method].dropna().groupby(level=unit).mean()
                row = {"task": task, "method": method, "n": len(means), "mean": means.mean(), "s.e.": means.sem()}
                if method != values.columns[0]:
                    differences = (values[method] - values.iloc[:, 0]).dropna().groupby(level=unit).mean()
                    row["pairs"] = len(differences)
                    if len(differences):
                        paired = Paired(differences, overlap)
                        low, high = paired.interval()
                        row |= {"difference": paired.mean, "95 % from": low, "to": high, "p": paired.p_value}
                rows.append(row)
        columns = ["task", "method", "n", "mean", "s.e.", "pairs", "difference", "95 % from", "to", "p", "p, corrected"]
        table = pd.DataFrame(rows, columns=columns).astype({"p, corrected": "float64"})
        known = table["p"].notna()
        if known.any():
            table.loc[known, "p, corrected"] = stats.false_discovery_control(table.loc[known, "p"].astype("float64"))
        return table.set_index(["task", "method"])

    def overlap(self, task: str) -> float:
        """The ratio of test to training examples of a task whose replicates are splits of one table; otherwise 0."""
        configuration = self.configurations[task]
        if self._unit(task) == "seed" or configuration.get("independent_splits"):
            return 0.0
        sizes = configuration["sizes"]
        return float(sizes["test"] / (sizes["train"] + sizes["validation"]))

    def _unit(self, task: str) -> str:
        """The unit of a replicate, "split" or "seed", also for an unfinished run."""
        return "split" if len({row["split"] for row in self.rows if row["task"] == task}) > 1 else "seed"

    def _values(self, task: str, metric: str) -> pd.DataFrame:
        """The finite test metrics of each split and seed (rows) and method (columns, the baseline first)."""
        final = self.final[(self.final["task"] == task) & self.final["failure"].isna()]
        final = final.assign(**{metric: final[metric].astype("float64").replace([np.inf, -np.inf], np.nan)})
        values = final.pivot(index=["split", "seed"], columns="method", values=metric)
        return values.reindex(columns=list(self.configurations[task]["methods"]))

    def replicates(self, task: str, metric: str) -> pd.DataFrame:
        """The test metric of each replicate (rows) and method (columns, the baseline first)."""
        return self._values(task, metric).groupby(level=self._unit(task)).mean()

    def filter(self, plan: dict[str, tuple[list[str], list[tuple[int, int]]]]) -> "Results":
        """Returns the results of the given methods and pairs of split and seed of each task."""
        records: list[dict[str, Any]] = []
        for task, (methods, _) in plan.items():
            configuration = self.configurations[task]
            known = {method: configuration["methods"][method] for method in methods}
            records.append({"task": task, "configuration": configuration | {"methods": known}})
        wanted = {
            (t, method, *place) for t, (methods, places) in plan.items() for method in methods for place in places
        }
        rows = [r for r in self.rows if (r["task"], r["method"], r["split"], r["seed"]) in wanted]
        return Results([*records, {"rows": rows}])

    def overview(self, metric: str | None = None) -> pd.DataFrame:
        """Mean and standard error of each method (rows) on each task that has the metric (columns), as text."""
        table = self.table(metric)
        text = pd.Series([_with_error(*pair) for pair in table[["mean", "s.e."]].to_numpy("float64")], table.index)
        methods, tasks = (list(dict.fromkeys(names)) for names in (table.index.get_level_values(k) for k in (1, 0)))
        return text.unstack("task").reindex(index=methods, columns=tasks).fillna("")

    def __str__(self) -> str:
        table = self.table().to_string(float_format="{:.4g}".format, na_rep="")
        failed = len(self.failures)
        return f"{table}\n\n{failed} fits failed; see `failures`." if failed else table

    def to_markdown(self, metric: str | None = None) -> str:
        """The table in Markdown."""
        table = self.table(metric).reset_index()
        table = table.astype(object).where(table.notna(), None)  # None is printed as an empty cell, NaN as text
        table["method"] = table["method"].str.replace("|", r"\|")
        return table.to_markdown(index=False, floatfmt=".4g", missingval="")

    def _shown_metrics(self) -> list[str | None]:
        """All metrics, or None for the monitored ones if each task has one metric."""
        several = any(len(configuration["metrics"]) > 1 for configuration in self.configurations.values())
        return list(self._names("metrics")) if several else [None]

    @property
    def overviews(self) -> list[pd.DataFrame]:
        """The overview of each metric, named by its index; a single one if each task has one metric."""
        return [self.overview(metric).rename_axis(metric or "method") for metric in self._shown_metrics()]

    def _all_tables(self) -> str:
        """The overview and the table of each metric in Markdown."""
        return "\n".join(
            f"{overview.to_markdown()}\n\n{self.to_markdown(metric)}\n"
            for overview, metric in zip(self.overviews, self._shown_metrics(), strict=True)
        )

    def save(self, folder: str | Path, name: str, figure: Figure | None = None) -> list[Path]:
        """Writes all rows, the tables, and a figure. Each file is replaced as a whole.

        Args:
            folder: The folder, which is made if it does not exist.
            name: Beginning of the names of the files.
            figure: Figure for `name.png`. The default is `dots` of all replicates.

        Returns:
            The files: `name.csv` (rows), `name-table.csv`, `name-table.md`, `name.png`.
        """
        folder = Path(folder)
        figure = figure or dots(self)
        picture = io.BytesIO()
        figure.savefig(picture, dpi=150)
        contents = {
            f"{name}.csv": self.frame.to_csv(index=False),
            f"{name}-table.csv": self.table().to_csv(),
            f"{name}-table.md": self._all_tables(),
            f"{name}.png": picture.getvalue(),
        }
        for file, content in contents.items():
            write(folder / file, content)
        return [folder / file for file in contents]


def load(path: str | Path) -> Results:
    r"""Reads a results file.

    Args:
        path: A file that `run` wrote.

    Returns:
        Its rows, with tables and figures. An incomplete last line, from a crash, is skipped.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no results file.

    Example:

    >>> import pathlib, tempfile
    >>> from keras_actlab import experiments
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "results.jsonl"
    ...     _ = path.write_text('{"rows": []}\n')
    ...     experiments.load(path).rows
    []
    """
    if not as_path("path", path).exists():
        raise FileNotFoundError(f"`path` must be a file of results. Received: path={str(path)!r}")
    return results_of(Journal(path))


def results_of(journal: Journal) -> Results:
    """Returns the results in a file. Errors name the file and the record, which is a line of it."""
    try:
        return Results(journal.records)
    except ValueError as error:
        raise ValueError(f"`path` must be a file of results. Received: path={str(journal.path)!r}: {error}") from error


def row_key(row: dict[str, Any]) -> tuple[Any, ...]:
    """Returns the key of a fit, without the hyper-parameters of a final fit, which follow from the rest."""
    point = json.dumps(row["hyperparameters"], sort_keys=True) if row["stage"] == "tune" else None
    return *(row[name] for name in KEY), point


def _with_error(mean: float, error: float) -> str:
    """Formats an error with two significant digits, and the mean with as many decimals."""
    if not error > 0:
        return "" if np.isnan(mean) else f"{mean:.4g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{mean:.{decimals}f} ± {error:.{decimals}f}"
