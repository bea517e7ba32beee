"""The answer to a question: verdicts, tables, files, and the trained variants."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from keras_actlab.advice.budget import Budget
from keras_actlab.advice.compilation import compile_alike
from keras_actlab.advice.question import NAME, Question
from keras_actlab.advice.report import html
from keras_actlab.advice.variants import AS_IS
from keras_actlab.advice.verdicts import ALPHA, Verdict, judge
from keras_actlab.arguments import check_choice
from keras_actlab.conversion import fold, report
from keras_actlab.experiments import Fit
from keras_actlab.experiments._training import trained
from keras_actlab.experiments.results import Results
from keras_actlab.files import write

# Files of an answer, in its folder.
RESULTS, QUESTION, FILE, REPORT = "results.jsonl", "question.json", "advice.json", "report.html"


def former_looks(file: Path) -> list[int]:
    """Returns the number of test results at each former look, from `advice.json`."""
    if not file.exists():
        return []
    try:
        looks = json.loads(file.read_text(encoding="utf-8"))["looks"]
        return [int(results) for results in looks]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"`path` must be a folder with an intact {FILE}, which counts the looks at the data. Received: {file}"
        ) from error


class Advice:
    """What a run says about each variant of a model.

    `keras_actlab.advise` returns it. Printed, it is a table and one sentence for each variant.

    Attributes:
        question: The model, variants and data.
        results: The rows of all fits, as `keras_actlab.experiments.Results`.
        path: The folder with `report.html`, `advice.json` and the rows.
        looks: Number of test results at each look at the data, this one last.
        smallest_effect: Smallest difference that matters, as given.
        budget: The budget, as given.

    Example:

    >>> import tempfile
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1)])
    >>> model.compile("adam", "mse")
    >>> x = np.random.default_rng(0).normal(size=(120, 3))
    >>> folder = tempfile.TemporaryDirectory()
    >>> advice = keras_actlab.advise(
    ...     model, (x, abs(x[:, 0])), variants=["gmp"], epochs=2, budget="2 pairs", path=folder.name, progress=False
    ... )
    >>> folder.cleanup()
    >>> advice.table[["verdict", "pairs"]]
                 verdict  pairs
    variant
    gmp      cannot tell      2
    >>> [type(layer).__name__ for layer in advice.model("gmp").layers]  # trained once more, and folded
    ['Dense', 'Dense']
    """

    def __init__(
        self,
        question: Question,
        results: Results,
        path: Path,
        looks: list[int],
        smallest_effect: float | None,
        budget: Budget,
    ):
        self.question, self.results, self.path = question, results, path
        self.smallest_effect, self.budget = smallest_effect, budget
        # A look at the same results is the same look. A pair of which a failed fit was repeated has another result.
        seen = [int(self.values.notna().sum().sum())]
        self.looks = looks if looks[-1:] == seen else looks + seen

    @cached_property
    def values(self) -> pd.DataFrame:
        """The test metric of each pair (rows) and method (columns, "as is" first)."""
        return self.results.replicates(NAME, self.question.metric)

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdict on each variant."""
        return (
            *(self._verdict(name) for name in self.question.variants if name != AS_IS),
            *(
                Verdict(name, "changes nothing", self.question.metric, reason=reason)
                for name, reason in self.question.unchanged.items()
            ),
        )

    def _verdict(self, name: str) -> Verdict:
        failures = self.results.failures
        failures = failures[failures["method"] == name]
        reason = str(failures["failure"].iloc[0]) if len(failures) else ""  # of tuning, which comes before
        failed = int((failures["stage"] == "final").sum())
        if self.values[name].isna().all():
            return Verdict(name, "failed", self.question.metric, failed=failed, reason=reason)
        return judge(
            name,
            self.question.metric,
            self.values[[AS_IS, name]],
            sign=1 if self.question.mode == "max" else -1,
            overlap=self.results.overlap(NAME),
            look=len(self.looks),
            comparisons=len(self.question.variants) - 1,
            smallest_effect=self.smallest_effect,
            failed=failed,
            reason=reason,
        )

    def __getitem__(self, variant: str) -> Verdict:
        found = {verdict.variant: verdict for verdict in self.verdicts}
        check_choice("variant", variant, list(found))
        return found[variant]

    def __iter__(self) -> Iterator[Verdict]:
        return iter(self.verdicts)

    @property
    def table(self) -> pd.DataFrame:
        """One row for each variant: verdict, metric, difference to "as is" and its interval, power."""
        rows = [
            {
                "variant": each.variant,
                "verdict": each.verdict,
                each.metric: each.mean,
                "as is": each.baseline,
                "difference": each.difference,
                "from": each.low,
                "to": each.high,
                "pairs": each.pairs,
                "failed": each.failed,
                "detectable": each.detectable,
                "pairs needed": each.pairs_needed,
            }
            for each in self.verdicts
        ]
        return pd.DataFrame(rows).astype({"pairs needed": "Int64"}).set_index("variant")

    def __str__(self) -> str:
        table = self.table.to_string(float_format="{:.4g}".format, na_rep="")
        sentences = "\n".join(each.sentence for each in self.verdicts)
        return f"{table}\n\n{sentences}\n\n{self.question.data.note}\n{self.guarantee}"

    __repr__ = __str__

    @property
    def guarantee(self) -> str:
        """What the levels of the tests guarantee."""
        effect = (
            "half a standard deviation of the paired differences"
            if self.smallest_effect is None
            else f"{self.smallest_effect:.4g}"
        )
        return (
            f"Look {len(self.looks)} at the data. Over all variants and looks, the probability of any false verdict "
            f'"better" or "worse" is at most {100 * ALPHA:g} %. The smallest difference that matters is {effect}.'
        )

    @cached_property
    def costs(self) -> pd.DataFrame:
        """Parameters, megabytes of training state, and seconds per epoch of each method; ratios to "as is"."""
        final = self.results.final
        rows = {}
        for name in self.question.variants:
            one = final[(final["method"] == name) & final["failure"].isna()]
            if len(one):
                rows[name] = {
                    "parameters": int(one["parameters"].iloc[0]),
                    "state, MB": self._megabytes(name),
                    "seconds per epoch": one["seconds_per_epoch"].median(),
                }
        costs = pd.DataFrame.from_dict(rows, orient="index")
        for column in list(costs):
            costs[f"{column} / as is"] = costs[column] / costs.loc[AS_IS, column] if AS_IS in costs.index else math.nan
        return costs

    @property
    def chosen(self) -> pd.DataFrame:
        """In how many pairs each learning rate, and each number of epochs, was chosen for each method."""
        final = self.results.final
        final = final[final["failure"].isna()]
        (name,) = self.results.configurations[NAME]["grid"]
        shown = [name] if self.question.epochs else [name, "epochs"]
        counts = [final.groupby(["method", column]).size().unstack(fill_value=0) for column in shown]
        for column, count in zip(shown, counts, strict=True):
            count.columns = [f"{column.replace('_', ' ')} {value:.3g}" for value in count.columns]
        return pd.concat(counts, axis=1).reindex(list(self.question.variants)).rename_axis(None)

    @property
    def call(self) -> str:
        """The call of `advise` that gave this answer, without the data."""
        question = self.question
        given = {
            "variants": [name for name in (*question.variants, *question.unchanged) if name != AS_IS],
            "metric": question.metric,
            "mode": question.mode,
            "start": "scratch" if question.start.is_drawn else "trained",
            "epochs": question.epochs,
            "batch_size": question.batch_size,
            "steps_per_epoch": question.steps_per_epoch,
            "class_weight": question.class_weight,
            "budget": str(self.budget),
            "smallest_effect": self.smallest_effect,
        }
        lines = "".join(f"    {name}={value!r},\n" for name, value in given.items())
        return f"keras_actlab.advise(\n    model,\n    data,\n{lines})"

    def _megabytes(self, name: str) -> float:
        """Weights, their gradients, and the variables of the optimizer."""
        try:
            model = self._build(name, self._choice(name)[0])
        except Exception:  # a variant that raises in some fits can raise here, too
            return math.nan
        model.optimizer.build(model.trainable_variables)
        variables = [*model.variables, *model.trainable_variables, *model.optimizer.variables]
        sizes = [math.prod(variable.shape) * np.dtype("float32").itemsize for variable in variables]
        return sum(sizes) / 1e6

    def _build(self, name: str, rate: dict[str, float]) -> keras.Model:
        return self.question.comparison(1).methods[name](**rate)

    def _choice(self, name: str) -> tuple[dict[str, float], int]:
        """The learning rate and the number of epochs that were chosen most often."""
        final = [
            row
            for row in self.results.rows
            if row["method"] == name and row["stage"] == "final" and row["failure"] is None
        ]
        counted = Counter((json.dumps(row["hyperparameters"]), row["epochs"]) for row in final)
        rate, epochs = counted.most_common(1)[0][0]
        return json.loads(rate), epochs

    def model(self, variant: str) -> keras.Model:
        """Trains a variant and returns it, folded into plain layers where it can be.

        It is trained once more on the training and validation data of the first pair, with the learning rate and the
        number of epochs that were chosen most often, as the final fit of the first pair. It is compiled as the model.

        Args:
            variant: Name of a variant that was trained, or "as is".

        Raises:
            ValueError: If there is no such variant, or it changes nothing or failed.
        """
        available = [name for name in self.question.variants if not self.values[name].isna().all()]
        check_choice("variant", variant, available)
        rate, epochs = self._choice(variant)
        model = trained(self.question.comparison(1), Fit(NAME, variant, "final", 0, 0, rate, epochs))
        folded = fold(model)
        if not report(folded).changed:
            return model
        compile_alike(folded, self.question.start.original, rate)
        return folded

    def to_dict(self) -> dict[str, Any]:
        """Returns the answer as values for JSON, as `advice.json` holds it. NaN is None."""
        configuration = self.results.configurations[NAME]
        question = self.question
        return {
            "verdicts": [
                {name: _plain(value) for name, value in vars(each).items()} | {"sentence": each.sentence}
                for each in self.verdicts
            ],
            "metric": question.metric,
            "mode": question.mode,
            "looks": self.looks,
            "alpha": ALPHA,
            "smallest_effect": self.smallest_effect,
            "budget": str(self.budget),
            "seconds": round(sum(row.get("seconds", 0.0) for row in self.results.rows), 1),
            "fits": len(self.results.rows),
            "failed_fits": len(self.results.failures),
            "data": {"note": question.data.note, "fingerprint": configuration["data"], "sizes": configuration["sizes"]},
            "model": {"fingerprint": configuration["methods"][AS_IS]},
            "settings": {
                name: configuration[name]
                for name in ("backend", "epochs", "batch_size", "steps_per_epoch", "validate_every", "grid")
            },
            "chosen": {
                name: dict(zip(("hyperparameters", "epochs"), self._choice(name), strict=True))
                for name in question.variants
                if not self.values[name].isna().all()
            },
            "costs": {name: {k: _plain(v) for k, v in row.items()} for name, row in self.costs.T.to_dict().items()},
            "versions": next((row["versions"] for row in self.results.rows if "versions" in row), {}),
        }

    def save(self) -> None:
        """Writes `report.html`, then `advice.json`, each replaced as a whole."""
        write(self.path / REPORT, html(self))
        write(self.path / FILE, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
