"""Trains the fits of one method and one choice of hyper-parameters; each becomes a row of results."""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_actlab.experiments.comparison import Comparison, Examples, Split, count
from keras_actlab.experiments.description import describe
from keras_actlab.experiments.ensemble import Ensemble


@dataclass(frozen=True)
class Fit:
    """One model to train: which method, on which data, from which start.

    Args:
        task: Name of the comparison.
        method: Name of the method.
        stage: "tune", trained on the training part and judged on the validation part, or "final", trained on both and
            judged on the test part.
        split: Index of the split.
        seed: Decides the start of the weights and the order of the batches.
        hyperparameters: What the method's function is called with.
        epochs: Number of epochs to train.
    """

    task: str
    method: str
    stage: str
    split: int
    seed: int
    hyperparameters: dict[str, Any]
    epochs: int


def train(
    comparison: Comparison, fits: Sequence[Fit], history: bool = False, run: str | None = None
) -> list[dict[str, Any]]:
    """Trains fits that differ in split, seed and number of epochs only, together where the comparison says so.

    Args:
        comparison: What they belong to.
        fits: The fits.
        history: Whether the rows hold the metrics of every look at the validation part.
        run: Name of the run, within which a program that is compiled for one group serves the next one.

    Returns:
        One row a fit, as JSON can hold it. A fit that raised has its error in the row, and no metrics.
    """
    watched = comparison.callbacks is not None and fits[0].stage == "final"
    if comparison.vectorize > 1 and not watched:
        try:
            return _rows(comparison, fits, history, run)
        except _HasCallbacksError:
            pass
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            warnings.warn(
                f"{fits[0].task}, {fits[0].method}: fits are trained one by one, for training them together "
                f"raised {type(error).__name__}: {error}",
                stacklevel=2,
            )
    rows = []
    for fit in fits:
        try:
            rows += _rows(comparison, [fit], history)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also sys.exit and GeneratorExit, which would end the run without a word
            rows.append(failed(fit, f"{type(error).__name__}: {error}"))
    return rows


def failed(fit: Fit, failure: str) -> dict[str, Any]:
    """The row of a fit that has no metrics."""
    return {**asdict(fit), "failure": failure, **environment()}


class _HasCallbacksError(Exception):
    """A fit cannot be trained together with others, for its method's callbacks look at one model."""


def _rows(comparison: Comparison, fits: Sequence[Fit], history: bool, run: str | None = None) -> list[dict[str, Any]]:
    began = time.perf_counter()
    splits = [comparison.split(fit.split) for fit in fits]
    tuning = fits[0].stage == "tune"
    learn = [split.train if tuning else split.development for split in splits]
    judge = [split.validation if tuning else split.test for split in splits]
    models = []
    for fit in fits:
        model, callbacks = _model(comparison, fit)
        if callbacks and run is not None:
            raise _HasCallbacksError
        models.append(model)
    parameters = models[0].count_params()
    trainer: _Alone | _Together
    blocks = _blocks(comparison, fits)
    if run is None:
        if comparison.callbacks is not None and not tuning:
            callbacks += comparison.callbacks(models[0], fits[0].method, fits[0].split, fits[0].seed)
            blocks = [range(fits[0].epochs)]  # callbacks see one training, from its beginning to its end
        trainer = _Alone(models[0], learn[0], judge[0], callbacks)
    else:
        trainer = _Together(models, learn, judge, comparison.vectorize, _program(run, fits[0], models[0]))

    looks: list[dict[int, dict[str, float]]] = [{} for _ in fits]  # for each fit the metrics at each epoch
    pace = []
    for epochs in blocks:
        started = time.perf_counter()
        trainer.train(_batches(count(learn[0]), comparison.batch_size, epochs, fits))
        pace.append((time.perf_counter() - started) / len(epochs) / trainer.size)
        judged = [k for k, fit in enumerate(fits) if tuning or fit.epochs == epochs.stop]
        predictions = trainer.predict() if judged else []
        for k in judged:
            looks[k][epochs.stop] = _metrics(comparison, splits[k], judge[k][1], predictions[k])

    shared = {
        "parameters": parameters,
        "seconds": round((time.perf_counter() - began) / trainer.size, 4),
        "seconds_per_epoch": float(f"{np.median(pace):.3g}"),  # a median leaves out the compilation in the first
        "vectorized": len(fits),
        **environment(),
    }
    return [
        _row(comparison, fit, metrics, history and tuning) | shared for fit, metrics in zip(fits, looks, strict=True)
    ]


def _blocks(comparison: Comparison, fits: Sequence[Fit]) -> list[range]:
    """The epochs between two looks. Blocks of equal length share a compiled program."""
    last = max(fit.epochs for fit in fits)
    step = comparison.validate_every or last
    return [range(start, min(start + step, last)) for start in range(0, last, step)]


def _row(comparison: Comparison, fit: Fit, metrics: dict[int, dict[str, float]], history: bool) -> dict[str, Any]:
    best = _best(comparison, metrics)
    row = {**asdict(fit), "epochs": best, "metrics": metrics[best], "failure": None}
    if history:
        row["history"] = {"epoch": list(metrics)}
        row["history"] |= {name: [look[name] for look in metrics.values()] for name in comparison.metrics}
    if fit.stage == "final" and not math.isfinite(metrics[best][str(comparison.monitor)]):
        row["failure"] = f"the metric is not finite: {metrics[best]}"
    return row


def _best(comparison: Comparison, metrics: dict[int, dict[str, float]]) -> int:
    """The epoch with the best monitored metric; the last one if none is finite."""
    sign = 1 if comparison.mode == "min" else -1
    monitor = str(comparison.monitor)
    scores = {epoch: sign * values[monitor] for epoch, values in metrics.items()}
    finite = [epoch for epoch in scores if math.isfinite(scores[epoch])]
    return min(finite, key=scores.__getitem__, default=max(metrics))


def _metrics(comparison: Comparison, split: Split, targets: Any, predictions: Any) -> dict[str, float]:
    if not all(np.isfinite(array).all() for array in keras.tree.flatten(predictions)):
        return dict.fromkeys(comparison.metrics, math.nan)  # a rate that diverges is a result, not a fault
    own_shapes = _in_units(split, targets), _in_units(split, predictions)
    aligned = tuple(_in_units(split, values) for values in _aligned(targets, predictions))
    found = {}
    for name, metric in comparison.metrics.items():
        try:
            value = metric(*_copied(aligned))
        except (IndexError, ValueError):  # the metric itself takes the column, as in predictions[:, 0]
            value = metric(*_copied(own_shapes))
        try:
            found[name] = float(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"`metrics` must return numbers. Received: {name} returned {value!r:.200}") from error
    return found


def _in_units(split: Split, values: Any) -> Any:
    changed = split.to_units(_copied(values))
    given, shapes = ([np.shape(array) for array in keras.tree.flatten(each)] for each in (values, changed))
    if {shape[:1] for shape in shapes} != {shape[:1] for shape in given}:
        raise ValueError(
            f"`to_units` must return as many examples as it is given. Received: shapes {shapes} from {given}"
        )
    return changed


def _copied(arrays: Any) -> Any:
    """So that a user's function that works in place changes neither the data nor what the next one gets."""
    return keras.tree.map_structure(np.array, arrays)


def _aligned(targets: Any, predictions: Any) -> tuple[Any, Any]:
    """Drops the last axis of a column where it would broadcast with the array beside it."""
    try:
        keras.tree.assert_same_structure(targets, predictions)
    except (TypeError, ValueError):  # only the metric can tell what belongs together
        return targets, predictions
    pairs = [_column_dropped(*pair) for pair in zip(*map(keras.tree.flatten, (targets, predictions)), strict=True)]
    return tuple(
        keras.tree.pack_sequence_as(structure, list(arrays))
        for structure, arrays in zip((targets, predictions), zip(*pairs, strict=True), strict=True)
    )


def _column_dropped(targets: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if predictions.shape == (*targets.shape, 1):
        return targets, predictions[..., 0]
    if targets.shape == predictions.shape or targets.shape[-1] != 1:
        if predictions.ndim == targets.ndim and predictions.shape[-1] == 1 != targets.shape[-1]:
            warnings.warn(
                f"a metric gets targets of shape {targets.shape} and predictions of shape {predictions.shape}, which "
                "NumPy broadcasts",
                stacklevel=2,
            )
        return targets, predictions
    if predictions.shape == targets.shape[:-1] or predictions.shape[:-1] == targets.shape[:-1]:
        return targets[..., 0], predictions  # also class numbers beside a score for each class
    return targets, predictions


def _model(comparison: Comparison, fit: Fit) -> tuple[keras.Model, list[keras.callbacks.Callback]]:
    start = np.random.SeedSequence([fit.split, fit.seed]).generate_state(1)[0]
    keras.utils.set_random_seed(int(start))
    made = comparison.methods[fit.method](**fit.hyperparameters)
    model, callbacks = made if isinstance(made, tuple) and len(made) == 2 else (made, [])
    listed = isinstance(callbacks, list | tuple) and all(isinstance(c, keras.callbacks.Callback) for c in callbacks)
    if not isinstance(model, keras.Model) or not model.compiled or not listed:
        raise TypeError(
            "`methods` must return compiled models, or pairs of one and a list of callbacks. "
            f"Received: {fit.method} returned {made}"
        )
    if int(model.optimizer.iterations) > 0:
        raise ValueError(
            f"`methods` must return a new model at each call. Received: {fit.method} returned a trained one"
        )
    if model.optimizer.use_ema:
        raise ValueError(
            f"`methods` must not return models whose optimizer averages weights at the end of a fit, as a fit is "
            f"trained in several blocks. Received: {fit.method} returned one with use_ema=True"
        )
    return model, [*callbacks]


def _batches(examples: int, batch_size: int | None, epochs: range, fits: Sequence[Fit]) -> np.ndarray:
    """The rows of each batch, shape (steps, fits, batch); a batch of 0 stands for all examples in their order."""
    if batch_size is None:
        return np.zeros((len(epochs), len(fits), 0), "int32")
    batch = min(batch_size, examples)
    steps = examples // batch
    order = [
        [np.random.default_rng([fit.split, fit.seed, epoch]).permutation(examples) for epoch in epochs] for fit in fits
    ]
    rows = np.asarray(order, "int32")[:, :, : steps * batch].reshape(len(fits), len(epochs) * steps, batch)
    return rows.swapaxes(0, 1)


class _Alone:
    """Trains one model by `model.fit`."""

    def __init__(self, model: keras.Model, learn: Examples, judge: Examples, callbacks: list[keras.callbacks.Callback]):
        self.model, self.learn, self.judge, self.callbacks, self.size = model, learn, judge, callbacks, 1

    def train(self, rows: np.ndarray) -> None:
        self.model.fit(_Batches(*self.learn, rows[:, 0]), shuffle=False, verbose=0, callbacks=self.callbacks)

    def predict(self) -> list[Any]:
        return [self.model.predict(self.judge[0], batch_size=1024, verbose=0)]


class _Together:
    """Trains several models as one."""

    def __init__(
        self, models: list[keras.Model], learn: list[Examples], judge: list[Examples], size: int, program: str | None
    ):
        self.count, self.size = len(models), size
        self.models = _ensemble(self._filled(models), program)
        self.learn = keras.tree.map_structure(_stack, *self._filled(learn))
        self.judge = keras.tree.map_structure(_stack, *(x for x, _ in self._filled(judge)))

    def _filled(self, items: list[Any]) -> list[Any]:
        """Repeats the last item, so that one program serves groups of any size."""
        return items + items[-1:] * (self.size - len(items))

    def train(self, rows: np.ndarray) -> None:
        x, y = self.learn
        self.models.train_block(x, y, np.stack(self._filled([*rows.swapaxes(0, 1)]), axis=1))

    def predict(self) -> list[Any]:
        outputs = self.models.predictions(self.judge)
        return [keras.tree.map_structure(lambda array, k=k: array[k], outputs) for k in range(self.count)]


def _stack(*arrays: np.ndarray) -> Any:
    return ops.convert_to_tensor(np.stack(arrays))


# Compiled programs of the present run, by what they depend on.
_programs: dict[str, Ensemble] = {}


def forget_programs() -> None:
    """Frees what a run has compiled in this process."""
    _programs.clear()


def _program(run: str, fit: Fit, model: keras.Model) -> str | None:
    """Names the program that trains a fit. Fits that differ only in the optimizer's rate, a number, share theirs."""
    text = describe(model, learning_rate=False)
    if text is None:
        return None
    point = {name: value for name, value in fit.hyperparameters.items() if name != "learning_rate"}
    return json.dumps([run, fit.task, fit.method, point, text])


def _ensemble(models: list[keras.Model], program: str | None) -> Ensemble:
    if program is None:
        return Ensemble(models)
    if program in _programs:
        _programs[program].restart(models)
        return _programs[program]
    if len(_programs) == 16:  # programs take memory, and old ones are not needed again
        _programs.clear()
    _programs[program] = Ensemble(models)
    return _programs[program]


class _Batches(keras.utils.PyDataset):
    """Batches of given rows, in the order given."""

    def __init__(self, x: Any, y: Any, rows: np.ndarray):
        super().__init__()
        self.data, self.rows = (x, y), rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Examples:
        if self.rows.shape[1] == 0:
            return self.data
        return keras.tree.map_structure(lambda array: array[self.rows[index]], self.data)


def environment() -> dict[str, Any]:
    """Where a fit was trained, for its row."""
    backend = keras.backend.backend()
    versions = {"python": platform.python_version()}
    for package in ("keras-actlab", "keras", backend, "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    device = f"{ops.zeros(1).device} ({platform.machine()}, {os.cpu_count()} cores)"
    return {"backend": backend, "device": device, "versions": versions}
