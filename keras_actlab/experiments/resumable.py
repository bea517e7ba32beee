"""A long training run: it continues where it was killed, and ends with the same weights as if it had not been."""

import json
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pandas as pd

from keras_actlab.arguments import as_path, check_model, check_type, integer, positive_integer
from keras_actlab.distribution import data_shard, is_first_process
from keras_actlab.experiments import checkpoint
from keras_actlab.experiments.fit_key import differences, fit_key, shown
from keras_actlab.files import UNFINISHED, atomic_write

if TYPE_CHECKING:
    import grain

# How the name of a checkpoint begins when a newer one was written.
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
    verbose: int = 1,
) -> pd.DataFrame:
    """Trains a model with `fit`, or goes on with a training that was killed, from its last checkpoint.

    The folder gets `settings.json`, `log.csv` with a row for each epoch, and the last two checkpoints: weights, the
    state of the optimizer, the log, and a checksum. Each file is replaced as a whole and written through to the disk,
    so that neither a kill nor a power failure costs more than the steps since a checkpoint. If the last checkpoint
    cannot be read, the run goes on from the one before, with a warning that names the file.

    A step is a batch, also with `steps_per_execution` or gradient accumulation. Batches are read by number, so a run
    goes on at the very next one. Random layers (drop-out, augmentation) draw numbers that depend on `seed` and the step
    of the last checkpoint only; for this, `keras.utils.set_random_seed` is called after each of them. Where the backend
    is deterministic, as on a CPU, a run that was killed ends with the same weights, bit for bit, as one that was not.
    With `use_ema` the model has the averaged weights at the end, as after `fit`. After a restart, the row of the
    interrupted epoch covers only the remaining steps; its validation is complete.

    A run is what its settings, model (configurations of all layers, dtype policies), optimizer with its schedule,
    losses, metrics, backend and data make it. If any of these is another one, the folder is refused. Of the data, the
    first, the middle and the last batch are compared. The code of custom layers and functions is not.

    Training stops before it saves a state that is not finite, so that the last checkpoint is a good one. A loss that is
    NaN or infinite is an error too, except with a `LossScaleOptimizer`, which skips such steps.

    Within `keras_actlab.distribution.data_parallel`, the first process writes, and all of them read.

    Args:
        model: A compiled model that is built.
        batches: Training step i takes batch i, which must be the same each time that it is read.
        folder: Of this run alone.
        steps_per_epoch: Steps from one validation to the next, a multiple of the model's `steps_per_execution`.
        epochs: Number of epochs.
        seed: Of the random layers.
        settings: What else makes this run what it is: anything that JSON can hold, and NaN.
        validation: Batches to evaluate the model on after each epoch.
        save_every: Steps from one checkpoint to the next. There is one after each epoch, too. With
            `steps_per_execution`, checkpoints are at the ends of executions.
        workers: Number of threads that make batches.
        verbose: As in `keras.Model.fit`.

    Returns:
        The log: `epoch`, `step`, `seconds`, and what `fit` reports.

    Raises:
        ValueError: If the model is not built or not compiled, or has another optimizer that is not built; if a number
            is not positive, or `steps_per_epoch` is no multiple of `steps_per_execution`; if there are too few batches,
            or one that changes; if the folder holds another run, or no checkpoint of it can be read.
        TypeError: If `settings` holds something that JSON cannot, or a batch something else than arrays.
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

    check_model("model", model)
    check_type("batches", batches, grain.MapDataset, "a grain.MapDataset")
    check_type("validation", validation, (grain.MapDataset, type(None)), "a grain.MapDataset or None")
    check_type("settings", settings, (dict, type(None)), "a dict or None")
    folder = as_path("folder", folder)
    integer("seed", seed)
    numbers = {"steps_per_epoch": steps_per_epoch, "epochs": epochs, "save_every": save_every, "workers": workers}
    for name, number in numbers.items():
        positive_integer(name, number)
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
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=2 * workers)

    def fit(epoch: int, epochs: int, steps: int) -> None:
        with warnings.catch_warnings():
            # Keras counts validation batches only by running out of them. Told their number, it would take too many
            # with `steps_per_execution`.
            warnings.filterwarnings("ignore", "Your input ran out of data")
            model.fit(
                batches[step : epochs * steps_per_epoch].to_iter_dataset(options),
                initial_epoch=epoch,
                epochs=epochs,
                steps_per_epoch=steps,
                shuffle=False,  # Keras warns that it could not
                validation_data=None if validation is None else validation.to_iter_dataset(options),
                callbacks=[checkpoints],
                verbose=verbose if is_first_process() else 0,
            )

    epoch, done = divmod(step, steps_per_epoch)
    if done:  # what is left of the epoch that was interrupted
        fit(epoch, epoch + 1, steps_per_epoch - done)
        epoch, step = epoch + 1, (epoch + 1) * steps_per_epoch
        if epoch < epochs:
            checkpoints.undo_average(model)
    if epoch < epochs:
        fit(epoch, epochs, steps_per_epoch)
    elif not done:  # as `fit` does at its end, for optimizers that average weights
        model.optimizer.finalize_variable_values(model.trainable_variables)
    return pd.DataFrame(checkpoints.rows)


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
    """Keeps the last states of a run, and its log.

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
        self.start = 0.0
        self._fit_start = 0  # the step at which this epoch began in this `fit`
        self._last: Path | None = None  # the checkpoint of which the training is a continuation
        self._unaveraged: list[np.ndarray] = []

    def restore(self, model: keras.Model) -> int:
        """Gives the model the state of the last checkpoint, if there is one, and returns how many steps it has seen."""
        settings = self._read_settings()
        notes = self._read_newest()
        before = notes.get("fit_key", notes.get("identity")) if notes else settings
        if before is not None:
            self._check(before)
        if notes:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "Skipping")  # Keras' only word on a state that it does not restore
                model.load_weights(self._last)
            self.step, self.rows = notes["step"], notes["rows"]
        if is_first_process():
            for unfinished in self.folder.glob(f"{UNFINISHED}*"):  # of a run that was killed
                unfinished.unlink()
            if settings != self.key:
                _write(json.dumps(self.key), self.folder / "settings.json")
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
        """Finds the newest checkpoint that is whole, and returns its notes."""
        paths = [path for path in self.folder.glob("*step-*.weights.h5") if not path.name.startswith(UNFINISHED)]
        errors = []
        for path in sorted(paths, key=lambda path: path.name.removeprefix(PREVIOUS), reverse=True):
            try:
                notes = checkpoint.read_notes(path)
            except ValueError as error:
                errors.append(str(error))
                continue
            for damage in errors:
                warnings.warn(f"{damage}. The run goes on from {path}", stacklevel=4)
            self._last = path
            return notes
        if errors:
            raise ValueError(f"`folder` must hold a checkpoint that can be read. Received: {'; '.join(errors)}")
        return None

    def _check(self, before: dict[str, Any]) -> None:
        """Raises unless this run is the one whose key was written down."""
        this = dict(self.key)
        if not is_first_process():  # which has written down its own part of the data
            this |= {name: before.get(name) for name in ("batches", "validation")}
        found = differences(this, before)
        if found:
            raise ValueError(
                "`folder` must be new, or that of a run with the same settings, model and data. "
                f"Received: folder={str(self.folder)!r}, {shown(found)}"
            )

    def undo_average(self, model: keras.Model) -> None:
        """Gives the model the weights with which training goes on, where `fit` has left averaged ones."""
        for variable, value in zip(model.trainable_variables, self._unaveraged, strict=False):
            variable.assign(value)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.start = time.perf_counter()
        self._fit_start = self.step

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if not self.is_seeded:  # not before, as PyTorch's loaders of data draw random numbers, too
            self._seed(self.model)
            self.is_seeded = True

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        before, self.step = self.step, self._fit_start + batch + 1  # of an execution, `batch` is the last one
        if self.step // self.save_every > before // self.save_every and self.step % self.steps_per_epoch:
            self._check_finite(logs)
            self._save()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if self.step % self.steps_per_epoch:
            raise ValueError(
                f"`batches` must have a batch at each index: do not filter it. Received: none after step {self.step}"
            )
        self._check_finite(logs)
        row = {"epoch": epoch, "step": self.step, "seconds": time.perf_counter() - self.start}
        self.rows.append(row | (logs or {}))
        if _averages(self.model.optimizer):
            variables = self.model.trainable_variables
            self._unaveraged = [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]
        self._save()
        if is_first_process():
            self._write_log()

    def _check_finite(self, logs: dict[str, float] | None) -> None:
        """Raises if a checkpoint of this step would be worth nothing."""
        model = self.model  # at which JAX brings its variables up to date
        kept = "there is no checkpoint yet" if self._last is None else f"the last checkpoint, {self._last}, is kept"
        loss = float((logs or {}).get("loss", 0.0))
        if not np.isfinite(loss) and not isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
            raise FloatingPointError(f"The loss is {loss} at step {self.step}. Training stops; {kept}.")
        frozen = {id(variable) for variable in model.non_trainable_weights}  # which may be infinite, such as a mask
        for variable in (*model.weights, *model.optimizer.variables):
            values = keras.ops.convert_to_numpy(variable)
            is_bad = np.isnan(values) if id(variable) in frozen else ~np.isfinite(values)
            if keras.backend.is_float_dtype(variable.dtype) and np.any(is_bad):
                raise FloatingPointError(f"{variable.path} is not finite at step {self.step}. Training stops; {kept}.")

    def _save(self) -> None:
        model = self.model  # at which JAX brings its variables up to date
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
        _write(pd.DataFrame(self.rows).to_csv(index=False), self.folder / "log.csv")

    def _seed(self, model: keras.Model) -> None:
        # No file of weights holds the state of random layers. From here on it follows from the seed and the step.
        process, _ = data_shard()  # of which each draws for its own part of a batch
        # PyTorch's drop-out draws from its global generator, if the layer was given no seed.
        keras.utils.set_random_seed((1_000_003 * self.seed + 1009 * process + self.step) % 2**32)
        saved = {id(variable) for variable in model.weights}
        for number, variable in enumerate(model.non_trainable_variables):
            if id(variable) not in saved and "seed_generator" in variable.path:
                state = [1_000_003 * self.seed + 1009 * process + number, self.step]
                variable.assign(keras.ops.cast(state, variable.dtype))


def _averages(optimizer: keras.Optimizer) -> bool:
    return bool(getattr(optimizer, "inner_optimizer", optimizer).use_ema)


def _write(text: str, path: Path) -> None:
    with atomic_write(path) as unfinished:
        unfinished.write_text(text)
