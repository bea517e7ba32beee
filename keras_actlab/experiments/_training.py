"""Trains the fits of one method and one choice of hyper-parameters; each becomes a row of results."""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import ops

from keras_actlab._private.keras_compile import layers_without_jit
from keras_actlab.experiments._arrays import as_arrays
from keras_actlab.experiments._description import describe
from keras_actlab.experiments.comparison import Comparison, Fit
from keras_actlab.experiments.data import Examples, Split, batches, count
from keras_actlab.experiments.ensemble import Ensemble

Callbacks: TypeAlias = list[keras.callbacks.Callback]
# For each evaluated epoch the metrics.
Evaluations: TypeAlias = dict[int, dict[str, float]]

MAX_PROGRAMS = 16


class Programs:
    """The compiled ensembles of a run. A group of fits uses that of an earlier group of the same kind."""

    def __init__(self) -> None:
        self._ensembles: dict[str, Ensemble] = {}

    def ensemble(self, models: list[keras.Model], kind: str | None) -> Ensemble:
        """Returns an ensemble of the models, compiled anew unless there is one of this kind."""
        if kind is None:
            return Ensemble(models)
        if kind in self._ensembles:
            self._ensembles[kind].restart(models)
            return self._ensembles[kind]
        if len(self._ensembles) == MAX_PROGRAMS:  # they take memory, and old ones are not needed again
            self._ensembles.clear()
        self._ensembles[kind] = Ensemble(models)
        return self._ensembles[kind]


def train(
    comparison: Comparison, fits: Sequence[Fit], programs: Programs, history: bool = False
) -> list[dict[str, Any]]:
    """Trains fits that differ in split, seed and number of epochs only.

    They are trained as one program if the comparison asks for it and it works, and otherwise one by one.

    Args:
        comparison: The comparison that the fits belong to.
        fits: The fits.
        programs: The compiled programs of the run.
        history: Whether the rows hold the metrics of every evaluation on the validation part.

    Returns:
        One row a fit, as values for JSON. The row of a fit that raised holds the error, and no metrics.
    """
    if comparison.fit is not None and comparison.vectorize > 1:
        try:
            return _fit_group(comparison, fits, history)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return [failed(fit, f"{type(error).__name__}: {error}") for fit in fits]
    if comparison.vectorize > 1 and not _is_watched(comparison, fits[0]):
        try:
            began = time.perf_counter()
            splits = [comparison.split(fit.split) for fit in fits]
            models = _built_without_callbacks(comparison, fits)
            if models is not None:
                trainer = _Vectorized(comparison, fits, splits, models, programs)
                return _in_blocks(comparison, fits, trainer, began, history)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            warnings.warn(
                f"{fits[0].task}, {fits[0].method}: fits are trained one by one, because training them as one program "
                f"raised {type(error).__name__}: {error}",
                stacklevel=2,
            )
    rows = []
    for fit in fits:
        try:
            rows.append(_train_one(comparison, fit, history))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also sys.exit and GeneratorExit, which would end the run without a message
            rows.append(failed(fit, f"{type(error).__name__}: {error}"))
    return rows


def _built_without_callbacks(comparison: Comparison, fits: Sequence[Fit]) -> list[keras.Model] | None:
    """Returns the models of fits, or None if the method has callbacks, which act on one model at a time."""
    models = []
    for fit in fits:
        model, callbacks = _build(comparison, fit)
        if callbacks:
            return None
        models.append(model)
    return models


def failed(fit: Fit, failure: str) -> dict[str, Any]:
    """The row of a fit that has no metrics."""
    return {**asdict(fit), "failure": failure, **environment()}


def _is_watched(comparison: Comparison, fit: Fit) -> bool:
    return comparison.callbacks is not None and fit.stage == "final"


def _train_one(comparison: Comparison, fit: Fit, history: bool) -> dict[str, Any]:
    began = time.perf_counter()
    split = comparison.split(fit.split)
    data = split.of_stage(fit.stage, fit.seed)
    model, callbacks = _build(comparison, fit)  # after the data, which may draw random numbers
    if comparison.fit is not None:
        _refuse(callbacks, fit)
        found, seconds = _checked(comparison, fit, comparison.fit(model, fit, *data))
        seconds = seconds or [(time.perf_counter() - began) / fit.epochs]
        return _row(comparison, fit, found, history) | _costs(model, began, seconds)
    _warn_unless_compiled(model, fit)
    (row,) = _in_blocks(comparison, [fit], _Single(comparison, fit, split, data, model, callbacks), began, history)
    return row


def _warn_unless_compiled(model: keras.Model, fit: Fit) -> None:
    slow = [] if model.jit_compile or model.run_eagerly else layers_without_jit(model)
    if keras.backend.backend() == "jax" and slow:
        warnings.warn(
            f"{fit.method}: JAX does not compile the training step, which then takes many times as long, because of "
            f"layers that Keras does not allow to be compiled: {', '.join(slow)}",
            stacklevel=2,
        )


def _fit_group(comparison: Comparison, fits: Sequence[Fit], history: bool) -> list[dict[str, Any]]:
    """Does fits by the comparison's own function, which takes and returns lists."""
    began = time.perf_counter()
    parts = [comparison.split(fit.split).of_stage(fit.stage, fit.seed) for fit in fits]
    models = []
    for fit in fits:
        model, callbacks = _build(comparison, fit)
        _refuse(callbacks, fit)
        models.append(model)
    assert comparison.fit is not None
    found = comparison.fit(models, list(fits), *map(list, zip(*parts, strict=True)))
    if not isinstance(found, list | tuple) or len(found) != len(fits):
        raise TypeError(
            f"`fit` must return a list with an entry for each of {len(fits)} fits. Received: {found!r:.200}"
        )
    evaluations = [_checked(comparison, fit, each)[0] for fit, each in zip(fits, found, strict=True)]
    seconds = [(time.perf_counter() - began) / sum(fit.epochs for fit in fits)]
    costs = _costs(models[0], began, seconds, len(fits))
    return [_row(comparison, fit, each, history) | costs for fit, each in zip(fits, evaluations, strict=True)]


def _refuse(callbacks: Callbacks, fit: Fit) -> None:
    if callbacks:
        raise TypeError(
            f"`methods` must return models without callbacks where `fit` is given. "
            f"Received: {fit.method} returned {callbacks}"
        )


def trained(comparison: Comparison, fit: Fit) -> keras.Model:
    """Does a fit by `model.fit`, and returns the model instead of a row."""
    split = comparison.split(fit.split)
    data = split.of_stage(fit.stage, fit.seed)
    model, callbacks = _build(comparison, fit)
    _Single(comparison, fit, split, data, model, callbacks).train(range(fit.epochs))
    return model


def _checked(comparison: Comparison, fit: Fit, found: Any) -> tuple[Evaluations, list[float]]:
    """Returns the metrics of each epoch, and the seconds of epochs for which they are given."""
    if not isinstance(found, Mapping) or not found or not all(isinstance(each, Mapping) for each in found.values()):
        raise TypeError(f"`fit` must return metrics by name for each evaluated epoch. Received: {found!r:.200}")
    evaluations = {int(epoch): _named(comparison, "fit", values) for epoch, values in found.items()}
    return evaluations, [float(values["seconds"]) for values in found.values() if "seconds" in values]


def _named(comparison: Comparison, source: str, found: Mapping[str, Any]) -> dict[str, float]:
    """Returns the metrics of a comparison out of all that were found."""
    missing = [name for name in comparison.metrics if name not in found]
    if missing:
        raise ValueError(f"`metrics` must be names that `{source}` reports, {list(found)}. Received: {missing}")
    return {name: float(found[name]) for name in comparison.metrics}


def _in_blocks(
    comparison: Comparison,
    fits: Sequence[Fit],
    trainer: "_Single | _Vectorized",
    began: float,
    history: bool,
) -> list[dict[str, Any]]:
    """Trains block by block of epochs, with an evaluation after each."""
    evaluations: list[Evaluations] = [{} for _ in fits]
    seconds = []
    for epochs in _blocks(comparison, fits):
        started = time.perf_counter()
        trainer.train(epochs)
        seconds.append((time.perf_counter() - started) / len(epochs) / trainer.size)
        evaluated = [k for k, fit in enumerate(fits) if fit.stage == "tune" or fit.epochs == epochs.stop]
        metrics = trainer.evaluate() if evaluated else []
        for k in evaluated:
            evaluations[k][epochs.stop] = metrics[k]
    costs = _costs(trainer.model, began, seconds, len(fits))
    return [_row(comparison, fit, found, history) | costs for fit, found in zip(fits, evaluations, strict=True)]


def _blocks(comparison: Comparison, fits: Sequence[Fit]) -> list[range]:
    """The epochs between two evaluations. Blocks of equal length share a compiled program."""
    last = max(fit.epochs for fit in fits)
    step = comparison.validate_every or last
    if _is_watched(comparison, fits[0]):
        step = last  # callbacks see one training, from its beginning to its end
    return [range(start, min(start + step, last)) for start in range(0, last, step)]


def _costs(model: keras.Model, began: float, seconds: list[float], fits: int = 1) -> dict[str, Any]:
    """What training took, for the rows."""
    return {
        "parameters": model.count_params(),
        "seconds": round((time.perf_counter() - began) / fits, 4),
        "seconds_per_epoch": float(f"{np.median(seconds):.3g}"),  # a median leaves out the compilation in the first
        "vectorized": fits,
        **environment(),
    }


def _row(comparison: Comparison, fit: Fit, evaluations: Evaluations, history: bool) -> dict[str, Any]:
    best = _best(comparison, fit, evaluations)
    metrics = evaluations[best]
    row = {**asdict(fit), "epochs": best, "metrics": metrics, "failure": None}
    if history and (fit.stage == "tune" or len(evaluations) > 1):
        row["history"] = {"epoch": list(evaluations)}
        row["history"] |= {name: [values[name] for values in evaluations.values()] for name in comparison.metrics}
    if fit.stage == "final" and not math.isfinite(metrics[str(comparison.monitor)]):
        row["failure"] = f"the metric is not finite: {metrics}"
    return row


def _best(comparison: Comparison, fit: Fit, evaluations: Evaluations) -> int:
    """The epoch with the best monitored metric on the validation part; the last one if none is finite, or chosen."""
    last, sign = max(evaluations), 1 if comparison.mode == "min" else -1
    if fit.stage == "final" or comparison.validate_every is None:
        return last
    scores = {
        epoch: sign * metrics[str(comparison.monitor)]
        for epoch, metrics in evaluations.items()
        if epoch % comparison.validate_every == 0 or epoch == last
    }
    finite = [epoch for epoch in scores if math.isfinite(scores[epoch])]
    return min(finite, key=scores.__getitem__, default=last)


def _metrics(comparison: Comparison, split: Split, targets: Any, predictions: Any) -> dict[str, float]:
    if not all(np.isfinite(array).all() for array in keras.tree.flatten(predictions)):
        return dict.fromkeys(comparison.metrics, math.nan)  # a training that diverges is a result, not an error
    own_shapes = _in_units(split, targets), _in_units(split, predictions)
    aligned = tuple(_in_units(split, values) for values in _aligned(targets, predictions))
    found = {}
    assert isinstance(comparison.metrics, Mapping)
    for name, metric in comparison.metrics.items():
        keeps_columns = getattr(metric, "keeps_columns", False)
        try:
            value = metric(*_copied(own_shapes if keeps_columns else aligned))
        except (IndexError, ValueError):  # the metric takes the column itself, as in predictions[:, 0]
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
    """Copies arrays, so that a function that works in place changes neither the data nor what the next one gets."""
    return keras.tree.map_structure(np.array, arrays)


def _aligned(targets: Any, predictions: Any) -> tuple[Any, Any]:
    """Drops the last axis of a column where it would broadcast with the array beside it."""
    try:
        keras.tree.assert_same_structure(targets, predictions)
    except (TypeError, ValueError):  # only the metric can match them
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


def _build(comparison: Comparison, fit: Fit) -> tuple[keras.Model, Callbacks]:
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
    if model.optimizer.use_ema and comparison.fit is None:
        raise ValueError(
            f"`methods` must not return models whose optimizer averages weights at the end of a fit, because "
            f"a fit is trained in several blocks. Received: {fit.method} returned one with use_ema=True"
        )
    return model, [*callbacks]


def _rows(examples: int, batch_size: int | None, epochs: range, fits: Sequence[Fit]) -> np.ndarray:
    """The rows of each batch, shape (steps, fits, batch). A batch of size 0 stands for all examples in their order."""
    if batch_size is None:
        return np.zeros((len(epochs), len(fits), 0), "int32")
    batch = min(batch_size, examples)
    steps = examples // batch
    order = [
        [np.random.default_rng([fit.split, fit.seed, epoch]).permutation(examples) for epoch in epochs] for fit in fits
    ]
    rows = np.asarray(order, "int32")[:, :, : steps * batch].reshape(len(fits), len(epochs) * steps, batch)
    return rows.swapaxes(0, 1)


class _Single:
    """Trains one model by `model.fit`."""

    size = 1

    def __init__(
        self,
        comparison: Comparison,
        fit: Fit,
        split: Split,
        data: tuple[Any, Any],
        model: keras.Model,
        callbacks: Callbacks,
    ):
        self.comparison, self.fit, self.split, self.model = comparison, fit, split, model
        self.data, self.evaluation = data
        self.callbacks = callbacks
        if comparison.callbacks is not None and _is_watched(comparison, fit):
            self.callbacks = [*callbacks, *comparison.callbacks(model, fit.method, fit.split, fit.seed)]

    def train(self, epochs: range) -> None:
        """Trains for a block of epochs; of arrays, all their steps are one epoch of `model.fit`."""
        class_weight = self.comparison.class_weight
        options: dict[str, Any] = {"verbose": 0, "callbacks": self.callbacks, "class_weight": class_weight}
        if self.split.is_dataset:
            # `fit` shuffles only the batches of a finite PyDataset, and warns if it is asked to shuffle others.
            is_sequence = isinstance(self.data, keras.utils.PyDataset)
            options["shuffle"] = is_sequence and self.data.num_batches is not None
            options["steps_per_epoch"] = self.comparison.steps_per_epoch
            with contextlib.nullcontext() if self.comparison.steps_per_epoch else _end_of_data_is_expected():
                self.model.fit(self.data, initial_epoch=epochs.start, epochs=epochs.stop, **options)
        else:
            rows = _rows(count(self.data), self.comparison.batch_size, epochs, [self.fit])
            self.model.fit(_Batches(self.data, rows[:, 0]), shuffle=False, **options)

    def evaluate(self) -> list[dict[str, float]]:
        """Returns the metrics of the fit, in a list as `_Vectorized` does for its fits."""
        model, data = self.model, self.evaluation
        if not isinstance(self.comparison.metrics, Mapping):
            x, y, weights = (data, None, None) if self.split.is_dataset else keras.utils.unpack_x_y_sample_weight(data)
            with _end_of_data_is_expected():
                found = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
            return [_named(self.comparison, "evaluate", found)]
        if self.split.is_dataset:
            targets, predictions = _predictions(model, data)
        else:
            targets, predictions = data[1], model.predict(data[0], batch_size=1024, verbose=0)
        return [_metrics(self.comparison, self.split, targets, predictions)]


@contextlib.contextmanager
def _end_of_data_is_expected() -> Iterator[None]:
    """Silences the warning with which Keras finds out the length of a dataset that does not state it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your input ran out of data")
        yield


def _predictions(model: keras.Model, dataset: Any) -> tuple[Any, Any]:
    """Targets and predictions of a dataset, batch by batch: it may have another order each time that it is read."""
    pairs = []
    for batch in batches(dataset):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(tuple(batch))
        pairs.append((as_arrays("targets", y), model.predict_on_batch(as_arrays("inputs", x))))
    targets, predictions = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *pairs)
    return targets, predictions


class _Vectorized:
    """Trains several models as one program."""

    def __init__(
        self,
        comparison: Comparison,
        fits: Sequence[Fit],
        splits: list[Split],
        models: list[keras.Model],
        programs: Programs,
    ):
        self.comparison, self.fits, self.splits, self.model = comparison, fits, splits, models[0]
        self.size = comparison.vectorize
        parts = [split.of_stage(fit.stage, fit.seed) for split, fit in zip(splits, fits, strict=True)]
        self.examples = count(parts[0][0])
        self.targets = [y for _, (_, y) in parts]
        self.ensemble = programs.ensemble(self._filled(models), _kind(fits[0], models[0]))
        self.data = keras.tree.map_structure(_stack, *self._filled([data for data, _ in parts]))
        self.evaluation = keras.tree.map_structure(_stack, *self._filled([x for _, (x, _) in parts]))

    def _filled(self, items: list[Any]) -> list[Any]:
        """Repeats the last item, so that one program serves groups of any size."""
        return items + items[-1:] * (self.size - len(items))

    def train(self, epochs: range) -> None:
        """Trains all models for a block of epochs."""
        x, y = self.data
        rows = _rows(self.examples, self.comparison.batch_size, epochs, self.fits)
        self.ensemble.train_block(x, y, np.stack(self._filled([*rows.swapaxes(0, 1)]), axis=1))

    def evaluate(self) -> list[dict[str, float]]:
        """Returns the metrics of each fit."""
        outputs = self.ensemble.predictions(self.evaluation)
        predictions = [keras.tree.map_structure(lambda array, k=k: array[k], outputs) for k in range(len(self.fits))]
        found = zip(self.splits, self.targets, predictions, strict=True)
        return [_metrics(self.comparison, split, targets, predicted) for split, targets, predicted in found]


def _stack(*arrays: np.ndarray) -> Any:
    return ops.convert_to_tensor(np.stack(arrays))


def _kind(fit: Fit, model: keras.Model) -> str | None:
    """Names the program that trains a fit. Fits that differ only in a learning rate, a number, share theirs."""
    text = describe(model, learning_rate=False)
    if text is None:
        return None
    point = {name: value for name, value in fit.hyperparameters.items() if name != "learning_rate"}
    return json.dumps([fit.task, fit.method, point, text])


class _Batches(keras.utils.PyDataset):
    """Batches of given rows, in the order given."""

    def __init__(self, data: Examples, rows: np.ndarray):
        super().__init__()
        self.data, self.rows = data, rows

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
