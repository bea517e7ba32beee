"""A long training run: it continues where it was killed, and ends with the same weights as if it had not been."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import pandas as pd

from keras_actlab import distribution

if TYPE_CHECKING:
    import grain


def long_run(
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

    The folder gets `settings.json`, `log.csv` with a row for each epoch, and the last checkpoint: weights, the state of
    the optimizer and, in its name, the number of steps. Each file is replaced as a whole. Batches are read by number,
    so a run goes on at the very next one. Random layers (drop-out, augmentation) draw numbers that depend on `seed` and
    the step of the last checkpoint only; for this, `keras.utils.set_random_seed` is called after each of them. Where
    the backend is deterministic, as on a CPU, a run that was killed ends with the same weights, bit for bit, as one
    that was not. The row of an epoch in which a run was killed is about what was left of it, but for the validation.

    Within `keras_actlab.distribution.data_parallel`, the first process writes, and all of them read.

    Args:
        model: A compiled model that is built.
        batches: Training step i takes batch i.
        folder: Of this run alone.
        steps_per_epoch: Steps from one validation to the next.
        epochs: Number of epochs.
        seed: Of the random layers.
        settings: What else makes this run what it is: anything that JSON can hold.
        validation: Batches to evaluate the model on after each epoch.
        save_every: Steps from one checkpoint to the next. There is one after each epoch, too.
        workers: Number of threads that make batches.
        verbose: As in `keras.Model.fit`.

    Returns:
        The log: `epoch`, `step`, `seconds`, and what `fit` reports.

    Raises:
        ValueError: If the model is not built or not compiled, a number is not positive, there are too few batches, or
            the folder holds a run with other settings or weights of other shapes.

    Example:

    >>> import grain, tempfile
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> batches = grain.MapDataset.source([(np.ones((8, 3)), np.zeros((8, 1)))]).repeat()
    >>> folder = tempfile.mkdtemp()
    >>> log = keras_actlab.experiments.long_run(model, batches, folder, steps_per_epoch=2, epochs=3, verbose=0)
    >>> log["step"].tolist()
    [2, 4, 6]
    """
    import grain

    numbers = {"steps_per_epoch": steps_per_epoch, "epochs": epochs, "save_every": save_every, "workers": workers}
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"`{name}` must be positive. Received: {name}={number}")
    if not model.built or not model.compiled:
        raise ValueError(
            f"`model` must be built and compiled. Received: built={model.built}, compiled={model.compiled}"
        )
    if len(batches) < epochs * steps_per_epoch:
        raise ValueError(
            f"`batches` must have a batch for each of {epochs * steps_per_epoch} steps (see its `repeat`). "
            f"Received: {len(batches)} batches"
        )
    folder = Path(folder)
    settings = dict(settings or {}, steps_per_epoch=steps_per_epoch, epochs=epochs, seed=seed, save_every=save_every)
    settings["weights"] = [[variable.name, *variable.shape] for variable in model.weights]
    _check_settings(json.loads(json.dumps(settings)), folder / "settings.json")
    checkpoints = _Checkpoints(folder, seed, steps_per_epoch, save_every)
    step = checkpoints.restore(model)
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=2 * workers)

    def fit(epoch: int, epochs: int, steps: int) -> None:
        model.fit(
            batches[step : epochs * steps_per_epoch].to_iter_dataset(options),
            initial_epoch=epoch,
            epochs=epochs,
            steps_per_epoch=steps,
            shuffle=False,  # Keras warns that it could not
            validation_data=None if validation is None else validation.repeat().to_iter_dataset(options),
            validation_steps=None if validation is None else len(validation),
            callbacks=[checkpoints],
            verbose=verbose if _is_first() else 0,
        )

    epoch, done = divmod(step, steps_per_epoch)
    if done:  # what is left of the epoch that was interrupted
        fit(epoch, epoch + 1, steps_per_epoch - done)
        epoch, step = epoch + 1, (epoch + 1) * steps_per_epoch
    if epoch < epochs:
        fit(epoch, epochs, steps_per_epoch)
    return pd.DataFrame(checkpoints.rows)


def _is_first() -> bool:
    return distribution.data_shard()[0] == 0


def _check_settings(settings: dict[str, Any], path: Path) -> None:
    """Raises unless the run in this folder has these settings; writes them down if there is none."""
    if path.exists():
        before = json.loads(path.read_text())
        other = sorted(name for name in settings | before if settings.get(name) != before.get(name))
        if other:
            differences = (f"{name}={settings.get(name)!r}, there {before.get(name)!r}" for name in other)
            raise ValueError(
                "`folder` must be new, or that of a run with the same settings and weights. "
                f"Received: folder={str(path.parent)!r}, {'; '.join(differences)}"
            )
    elif _is_first():
        _write(json.dumps(settings), path)


def _write(text: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(text)
    unfinished.replace(path)


class _Checkpoints(keras.callbacks.Callback):
    """Keeps the last state of a run, and its log."""

    def __init__(self, folder: Path, seed: int, steps_per_epoch: int, save_every: int) -> None:
        super().__init__()
        self.folder, self.seed = folder, seed
        self.steps_per_epoch, self.save_every = steps_per_epoch, save_every
        self.step = 0
        self.is_seeded = False
        self.rows: list[dict[str, float]] = []
        self.start = 0.0

    def restore(self, model: keras.Model) -> int:
        """Gives the model the state of the last checkpoint, if there is one, and returns how many steps it has seen."""
        model.optimizer.build(model.trainable_variables)
        path = max(self.folder.glob("step-*.weights.h5"), default=None)
        if path is not None:
            model.load_weights(path)
            self.step = int(path.name[len("step-") : -len(".weights.h5")])
            rows = pd.read_csv(self.folder / "log.csv").to_dict("records") if self.step >= self.steps_per_epoch else []
            self.rows = [row for row in rows if row["step"] <= self.step]
        return self.step

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.start = time.perf_counter()

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if not self.is_seeded:  # not before, as PyTorch's loaders of data draw random numbers, too
            self._seed(self.model)
            self.is_seeded = True

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.step += 1
        if self.step % self.save_every == 0 and self.step % self.steps_per_epoch:
            self._save()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        row = {"epoch": epoch, "step": self.step, "seconds": time.perf_counter() - self.start}
        self.rows.append(row | (logs or {}))
        if _is_first():
            _write(pd.DataFrame(self.rows).to_csv(index=False), self.folder / "log.csv")
        self._save()  # after the row: a run that is killed in between writes it again

    def _save(self) -> None:
        model = self.model  # at which JAX brings its variables up to date
        if _is_first():
            path = self.folder / f"step-{self.step:09d}.weights.h5"
            unfinished = self.folder / "part.weights.h5"
            model.save_weights(unfinished)
            unfinished.replace(path)
            for older in self.folder.glob("step-*.weights.h5"):
                if older != path:
                    older.unlink()
        self.is_seeded = False

    def _seed(self, model: keras.Model) -> None:
        # No file of weights holds the state of random layers. From here on it follows from the seed and the step.
        process, _ = distribution.data_shard()  # of which each draws for its own part of a batch
        # PyTorch's drop-out draws from its global generator, if the layer was given no seed.
        keras.utils.set_random_seed((1_000_003 * self.seed + 1009 * process + self.step) % 2**32)
        saved = {id(variable) for variable in model.weights}
        for number, variable in enumerate(model.non_trainable_variables):
            if id(variable) not in saved and "seed_generator" in variable.path:
                state = [1_000_003 * self.seed + 1009 * process + number, self.step]
                variable.assign(keras.ops.cast(state, variable.dtype))
