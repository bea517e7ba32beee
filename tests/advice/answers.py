"""Answers made up by hand, without training."""

import dataclasses

import keras

from keras_actlab.advice.budget import parse
from keras_actlab.advice.result import Advice
from keras_actlab.advice.starts import Start
from keras_actlab.experiments import Results

BASE = [1.0, 1.2, 0.9, 1.1, 1.05]
BETTER = [0.5, 0.71, 0.39, 0.6, 0.56]
NOISY = [1.3, 0.9, 1.2, 0.8, 1.0]


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


class WithoutModels(Advice):
    def _megabytes(self, name: str) -> float:
        return 2.0


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
    return WithoutModels(question, results, path, list(looks), None, parse("5 pairs"))


def example(**asked) -> Advice:
    """One variant of each kind."""
    return answer({"as is": BASE, "gelu": BETTER, "gmp": NOISY}, {"relu": "the model has it already"}, **asked)
