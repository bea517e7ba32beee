"""Training that continues from its last checkpoint, and ends with the same weights as an uninterrupted run."""

import json
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pandas as pd

from keras_actlab.arguments import as_path, check_model, check_type, integer, positive_integer
from keras_actlab.distribution import data_shard, is_first_process
from keras_actlab.experiments import _checkpoint as checkpoint
from keras_actlab.experiments._fit_key import differences, fit_key, shown
from keras_actlab.experiments.comparison import Fit
from keras_actlab.files import UNFINISHED, write

if TYPE_CHECKING:
    import grain

# Beginning of the name of a checkpoint when a newer one was written.
PREVIOUS = "previous-"


def fit_resumable(
    model: keras.Model,
    batches: "grain.MapDataset",
    folder: str | Path,
    *,
    steps_per_epoch: int,
    epochs: int,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    validation: "grain.MapDataset | None" = None,
    save_every: int = 1000,
    workers: int = 2,
    processes: int = 0,
    verbose: int = 1,
) -> pd.DataFrame:
    """Trains a model with `fit`, or continues a training that was killed from its last checkpoint.

    The folder gets `settings.json`, `log.csv` with a row for each epoch, and the last two checkpoints: weights, the
    state of the optimizer, the log, and a checksum. Each file is replaced as a whole and flushed to the disk, so a kill
    or a power failure loses at most the steps since the last checkpoint. If the last checkpoint cannot be read, the run
    continues from the one before, with a warning that names the file.

    A step is a batch, also with `steps_per_execution` or gradient accumulation. Batches are read by index, so a run
    continues with the next batch. Random layers (drop-out, augmentation) draw numbers that depend on `seed` and the
    step of the last checkpoint only; for this, `keras.utils.set_random_seed` is called after each checkpoint. If the
    backend is deterministic, as on a CPU, a resumed run ends with the same weights, bit for bit, as an uninterrupted
    one. With `use_ema`, the model has the averaged weights at the end, as after `fit`. After a restart, the row of the
    interrupted epoch covers only the remaining steps; its validation is complete.

    The settings, the model (configurations of all layers, dtype policies), the optimizer with its schedule, the losses,
    metrics, backend and data must be those of the run in the folder. Otherwise an error is raised. Of the data, the
    first, the middle and the last batch are compared. The code of custom layers and functions is not compared.

    Training stops with an error before it saves a state that is not finite, so the last checkpoint is finite. A loss
    that is NaN or infinite is an error, too, except with a `LossScaleOptimizer`, which skips such steps.

    Within `keras_actlab.distribution.data_parallel`, the first process writes, and all of them read.

    Args:
        model: A compiled model that is built.
        batches: Training step i takes batch i, which must be the same each time that it is read.
        folder: Folder of this run only.
        steps_per_epoch: Number of steps between two validations, a multiple of the model's `steps_per_execution`.
        epochs: Number of epochs.
        seed: Seed of the random layers.
        settings: Further values that identify this run: anything that JSON can hold, and NaN.
        validation: Batches to evaluate the model on after each epoch.
        save_every: Number of steps between two checkpoints. A checkpoint is also written after each epoch. With
            `steps_per_execution`, checkpoints are at the ends of executions.
        workers: Number of threads that prepare batches.
        processes: Number of processes that prepare training batches, each with `workers` threads, for functions that
            hold Python's interpreter lock, such as augmentation of small images. They are started anew (spawned), so
            `batches` must be picklable by cloudpickle, and a script must guard its own start by
            `if __name__ == "__main__":`. 0 for threads of this process only. The batches are the same.
        verbose: As in `keras.Model.fit`.

    Returns:
        The log: `epoch`, `step`, `seconds`, `training_seconds` (without the validation), `waiting_seconds` (of these,
        spent waiting for batches; on TensorFlow, whose own threads wait, preparing them), and the metrics that `fit`
        reports.

    Raises:
        ValueError: If the model is not built or not compiled, or has another optimizer that is not built; if a number
            is not positive, or `steps_per_epoch` is no multiple of `steps_per_execution`; if there are too few batches,
            or a batch changes; if the folder holds another run, or no checkpoint that can be read.
        TypeError: If `settings` holds a value that JSON cannot, or a batch does not consist of arrays.
        FloatingPointError: If the loss, the weights or the state of the optimizer are not finite at a checkpoint.

    Example:

    >>> import grain, tempfile
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> batches = grain.MapDataset.source([(np.ones((8, 3)), np.zeros((8, 1)))]).repeat()
    >>> folder = tempfile.mkdtemp()
    >>> log = keras_actlab.experiments.fit_resumable(model, batches, folder, steps_per_epoch=2, epochs=3, verbose=0)
    >>> log["step"].tolist()
    [2, 4, 6]
    """
    import grain

    from keras_actlab.experiments._waiting import TimedBatches

    check_model("model", model)
    check_type("batches", batches, grain.MapDataset, "a grain.MapDataset")
    check_type("validation", validation, (grain.MapDataset, type(None)), "a grain.MapDataset or None")
    check_type("settings", settings, (dict, type(None)), "a dict or None")
    folder = as_path("folder", folder)
    integer("seed", seed)
    numbers = {"steps_per_epoch": steps_per_epoch, "epochs": epochs, "save_every": save_every, "workers": workers}
    for name, number in numbers.items():
        positive_integer(name, number)
    if integer("processes", processes) < 0:
        raise ValueError(f"`processes` must not be negative. Received: processes={processes}")
    if verbose not in (0, 1, 2, "auto"):
        raise ValueError(f'`verbose` must be 0, 1, 2 or "auto". Received: verbose={verbose!r}')
    _check_model(model)
    if steps_per_epoch % model.steps_per_execution:
        raise ValueError(
            "`steps_per_epoch` must be a multiple of the model's `steps_per_execution`. "
            f"Received: steps_per_epoch={steps_per_epoch}, steps_per_execution={model.steps_per_execution}"
        )
    if len(batches) < epochs * steps_per_epoch:
        raise ValueError(
            f"`batches` must have a batch for each of {epochs * steps_per_epoch} steps (see its `repeat`). "
            f"Received: {len(batches)} batches"
        )
    if validation is not None and not len(validation):
        raise ValueError("`validation` must have a batch. Received: none")
    folder = Path(folder)
    model.optimizer.build(model.trainable_variables)
    key = fit_key(
        model,
        batches,
        validation,
        settings or {},
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        seed=seed,
        save_every=save_every,
    )
    checkpoints = _Checkpoints(folder, key)
    step = checkpoints.restore(model)

    def fit(epoch: int, epochs: int, steps: int) -> None:
        with warnings.catch_warnings():
            # Keras learns the number of validation batches by running out of them. If it is given, Keras takes too
            # many with `steps_per_execution`.
            warnings.filterwarnings("ignore", "Your input ran out of data")
            checkpoints.batches = TimedBatches(read_ahead(batches[step : epochs * steps_per_epoch], workers, processes))
            model.fit(
                checkpoints.batches,
                initial_epoch=epoch,
                epochs=epochs,
                steps_per_epoch=steps,
                shuffle=False,  # with True, Keras warns that it cannot
                validation_data=None if validation is None else read_ahead(validation, workers),
                callbacks=[checkpoints],
                verbose=verbose if is_first_process() else 0,
            )

    epoch, done = divmod(step, steps_per_epoch)
    if done:  # the remaining steps of the interrupted epoch
        fit(epoch, epoch + 1, steps_per_epoch - done)
        epoch, step = epoch + 1, (epoch + 1) * steps_per_epoch
        if epoch < epochs:
            checkpoints.undo_average(model)
    if epoch < epochs:
        fit(epoch, epochs, steps_per_epoch)
    elif not done:  # as `fit` does at its end, for optimizers that average weights
        model.optimizer.finalize_variable_values(model.trainable_variables)
    return pd.DataFrame(checkpoints.rows)


def read_ahead(batches: "grain.MapDataset", threads: int, processes: int = 0) -> "grain.IterDataset":
    """Returns batches in their order, which threads prepare in this process, or in each of several processes."""
    import grain

    found = batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))
    if not processes:
        return found
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain reads a flag of absl, which raises in a program that does not parse flags
    return found.mp_prefetch(grain.MultiprocessingOptions(processes))


@dataclass(frozen=True)
class Resumable:
    """Does the fits of a `Comparison` by `fit_resumable`: a fit that was killed continues from its last checkpoint.

    It is the `fit` of a comparison whose parts are `grain.MapDataset`s of batches, and whose `metrics` are a list of
    names. Each fit is evaluated after every epoch. Its folder, which is named by `Fit.label`, holds the log.

    Args:
        folder: Where each fit has a folder.
        steps_per_epoch: As in `fit_resumable`.
        save_every: As in `fit_resumable`.
        workers: As in `fit_resumable`.
        processes: As in `fit_resumable`.
        verbose: As in `fit_resumable`.

    Raises:
        TypeError: If `folder` is no path, or a number is no integer.
        ValueError: If a number is not positive.

    Example:

    >>> import grain, tempfile
    >>> from keras_actlab import experiments
    >>> def linear():
    ...     model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    ...     model.compile("sgd", "mse")
    ...     return model
    >>> batches = grain.MapDataset.source([(np.ones((8, 3)), np.zeros((8, 1)))])
    >>> folder = tempfile.TemporaryDirectory()
    >>> comparison = experiments.Comparison(
    ...     name="zeros",
    ...     methods={"linear": linear},
    ...     data=experiments.Split(train=batches.repeat(6), validation=None, test=batches),
    ...     metrics=["loss"],
    ...     epochs=3,
    ...     fit=experiments.Resumable(folder.name, steps_per_epoch=2, verbose=0),
    ... )
    >>> results = experiments.run(comparison, f"{folder.name}/results.jsonl", history=True, progress=False)
    >>> results.rows[0]["history"]["epoch"]
    [1, 2, 3]
    >>> folder.cleanup()
    """

    folder: str | Path
    steps_per_epoch: int
    save_every: int = 1000
    workers: int = 2
    processes: int = 0
    verbose: int = 1

    def __post_init__(self) -> None:
        as_path("folder", self.folder)
        for name in ("steps_per_epoch", "save_every", "workers"):
            positive_integer(name, getattr(self, name))
        if integer("processes", self.processes) < 0:
            raise ValueError(f"`processes` must not be negative. Received: processes={self.processes}")

    def __call__(self, model: keras.Model, fit: Fit, train: Any, evaluation: Any) -> dict[int, dict[str, float]]:
        """Trains a model, and returns the metrics and seconds of each epoch, counted from 1."""
        log = fit_resumable(
            model,
            train,
            Path(self.folder) / fit.label,
            steps_per_epoch=self.steps_per_epoch,
            epochs=fit.epochs,
            seed=fit.seed,
            settings=asdict(fit),
            validation=evaluation,
            save_every=self.save_every,
            workers=self.workers,
            processes=self.processes,
            verbose=self.verbose,
        )
        return {
            int(row["epoch"]) + 1: {
                name.removeprefix("val_"): row[name] for name in row if name.startswith("val_") or name == "seconds"
            }
            for row in log.to_dict("records")
        }


def _check_model(model: keras.Model) -> None:
    if not model.built or not model.compiled:
        raise ValueError(
            f"`model` must be built and compiled. Received: built={model.built}, compiled={model.compiled}"
        )
    for name, value in vars(model).items():
        if isinstance(value, keras.Optimizer) and value is not model.optimizer and not value.built:
            raise ValueError(
                "`model` must have no optimizer that is not built, as Keras would not restore its state. "
                f"Received: model.{name}, not built"
            )


class _Checkpoints(keras.callbacks.Callback):
    """Saves the last two states of a run, and its log.

    The last checkpoint is `step-N.weights.h5`, the one before it `previous-step-M.weights.h5`.
    """

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        super().__init__()
        self.folder, self.key = folder, key
        self.seed: int = key["seed"]
        self.steps_per_epoch: int = key["steps_per_epoch"]
        self.save_every: int = key["save_every"]
        self.step = 0
        self.is_seeded = False
        self.rows: list[dict[str, float]] = []
        self.start = self.trained = 0.0
        self.batches: Any = None  # the `TimedBatches` of this `fit`
        self._fit_start = 0  # the first step of this epoch in this `fit`
        self._last: Path | None = None  # the newest checkpoint that was read or written
        self._unaveraged: list[np.ndarray] = []

    def restore(self, model: keras.Model) -> int:
        """Restores the state of the last checkpoint, if there is one, and returns its number of steps."""
        settings = self._read_settings()
        notes = self._read_newest()
        before = notes.get("fit_key", notes.get("identity")) if notes else settings
        if before is not None:
            self._check(before)
        if notes:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "Skipping")  # Keras' message about states that it skips
                model.load_weights(self._last)
            self.step, self.rows = notes["step"], notes["rows"]
        if is_first_process():
            for unfinished in self.folder.glob(f"{UNFINISHED}*"):  # of a run that was killed
                unfinished.unlink()
            if settings != self.key:
                write(self.folder / "settings.json", json.dumps(self.key))
            if self.rows:
                self._write_log()
        return self.step

    def _read_settings(self) -> dict[str, Any] | None:
        path = self.folder / "settings.json"
        try:
            return dict(json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (TypeError, ValueError, RecursionError) as error:
            warnings.warn(f"{path} cannot be read and is written again: {error}", stacklevel=4)
            return None

    def _read_newest(self) -> dict[str, Any] | None:
        """Finds the newest checkpoint that is not damaged, and returns its notes."""
        paths = [path for path in self.folder.glob("*step-*.weights.h5") if not path.name.startswith(UNFINISHED)]
        errors = []
        for path in sorted(paths, key=lambda path: path.name.removeprefix(PREVIOUS), reverse=True):
            try:
                notes = checkpoint.read_notes(path)
            except ValueError as error:
                errors.append(str(error))
                continue
            for damage in errors:
                warnings.warn(f"{damage}. The run continues from {path}", stacklevel=4)
            self._last = path
            return notes
        if errors:
            raise ValueError(f"`folder` must hold a checkpoint that can be read. Received: {'; '.join(errors)}")
        return None

    def _check(self, before: dict[str, Any]) -> None:
        """Raises unless this run has the key that was saved."""
        this = dict(self.key)
        if not is_first_process():  # which saved the digests of its own part of the data
            this |= {name: before.get(name) for name in ("batches", "validation")}
        found = differences(this, before)
        if found:
            raise ValueError(
                "`folder` must be new, or that of a run with the same settings, model and data. "
                f"Received: folder={str(self.folder)!r}, {shown(found)}"
            )

    def undo_average(self, model: keras.Model) -> None:
        """Restores the weights with which training continues, if `fit` has left averaged ones."""
        for variable, value in zip(model.trainable_variables, self._unaveraged, strict=False):
            variable.assign(value)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.start = time.perf_counter()
        self.trained = self.batches.seconds = 0.0
        self._fit_start = self.step

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        self.trained = time.perf_counter()

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if not self.is_seeded:  # not earlier, because PyTorch's data loaders draw random numbers, too
            self._seed(self.model)
            self.is_seeded = True

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        before, self.step = self.step, self._fit_start + batch + 1  # `batch` is the last one of an execution
        if self.step // self.save_every > before // self.save_every and self.step % self.steps_per_epoch:
            self._check_finite(logs)
            self._save()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if self.step % self.steps_per_epoch:
            raise ValueError(
                f"`batches` must have a batch at each index: do not filter it. Received: none after step {self.step}"
            )
        self._check_finite(logs)
        now = time.perf_counter()
        row = {"epoch": epoch, "step": self.step, "seconds": now - self.start}
        row["training_seconds"] = (self.trained or now) - self.start
        row["waiting_seconds"] = self.batches.seconds
        self.rows.append(row | (logs or {}))
        if _averages(self.model.optimizer):
            variables = self.model.trainable_variables
            self._unaveraged = [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]
        self._save()
        if is_first_process():
            self._write_log()

    def _check_finite(self, logs: dict[str, float] | None) -> None:
        """Raises if the state of this step is not finite."""
        model = self.model  # reading it updates the variables on JAX
        kept = "there is no checkpoint yet" if self._last is None else f"the last checkpoint, {self._last}, is kept"
        loss = float((logs or {}).get("loss", 0.0))
        if not np.isfinite(loss) and not isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
            raise FloatingPointError(f"The loss is {loss} at step {self.step}. Training stops; {kept}.")
        frozen = {id(variable) for variable in model.non_trainable_weights}  # these may be infinite, such as a mask
        for variable in (*model.weights, *model.optimizer.variables):
            values = keras.ops.convert_to_numpy(variable)
            is_bad = np.isnan(values) if id(variable) in frozen else ~np.isfinite(values)
            if keras.backend.is_float_dtype(variable.dtype) and np.any(is_bad):
                raise FloatingPointError(f"{variable.path} is not finite at step {self.step}. Training stops; {kept}.")

    def _save(self) -> None:
        model = self.model  # reading it updates the variables on JAX
        path = self.folder / f"step-{self.step:09d}.weights.h5"
        if is_first_process():
            checkpoint.save(model, {"step": self.step, "rows": self.rows, "fit_key": self.key}, path)
            previous = self._last
            if previous is not None and not previous.name.startswith(PREVIOUS):
                previous = previous.replace(previous.with_name(f"{PREVIOUS}{previous.name}"))
            for other in self.folder.glob("*step-*.weights.h5"):
                if other not in (path, previous):
                    other.unlink()
        self._last = path
        self.is_seeded = False

    def _write_log(self) -> None:
        write(self.folder / "log.csv", pd.DataFrame(self.rows).to_csv(index=False))

    def _seed(self, model: keras.Model) -> None:
        # A file of weights does not hold the state of random layers. Here it is set from the seed and the step.
        process, _ = data_shard()  # each draws for its own part of a batch
        # PyTorch's drop-out draws from its global generator if the layer has no seed.
        keras.utils.set_random_seed((1_000_003 * self.seed + 1009 * process + self.step) % 2**32)
        saved = {id(variable) for variable in model.weights}
        for number, variable in enumerate(model.non_trainable_variables):
            if id(variable) not in saved and "seed_generator" in variable.path:
                state = [1_000_003 * self.seed + 1009 * process + number, self.step]
                variable.assign(keras.ops.cast(state, variable.dtype))


def _averages(optimizer: keras.Optimizer) -> bool:
    return bool(getattr(optimizer, "inner_optimizer", optimizer).use_ema)
