"""Writers of scalars, histograms and figures, one for each experiment tracker, through the tracker's own client."""

import importlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from keras_actlab.arguments import as_path

BINS = 64


class Writer(Protocol):
    """What `TrackerCallback` needs of an experiment tracker. Write a class with these methods for another tool.

    Names have the form "boundaries/dense/largest_move". Steps are training steps and do not decrease.

    Example: print the scalars.

    >>> class Printer:
    ...     def scalar(self, name, value, step):
    ...         print(step, name, value)
    ...     def histogram(self, name, values, step): ...
    ...     def figure(self, name, figure, step): ...
    ...     def close(self): ...
    >>> callback = keras_actlab.trackers.TrackerCallback(Printer())
    """

    def scalar(self, name: str, value: float, step: int) -> None:
        """Writes a number."""

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Writes the distribution of the finite numbers in an array."""

    def figure(self, name: str, figure: Any, step: int) -> None:
        """Writes a figure of Matplotlib."""

    def close(self) -> None:
        """Called at the end of training: everything must be on disk, or sent. More may follow in a later `fit`."""


class TensorBoardWriter:
    """Writes event files for TensorBoard, by tensorboardX and without TensorFlow.

    Args:
        folder: Folder of the event files, which `tensorboard --logdir` reads.

    Raises:
        ImportError: If tensorboardX is not installed.

    Example:

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     writer = keras_actlab.trackers.TensorBoardWriter(folder)
    ...     writer.scalar("boundaries/dense/largest_move", 0.5, step=1)
    ...     writer.close()
    ...     [path.name.split(".")[0] for path in pathlib.Path(folder).iterdir()]
    ['events']
    """

    def __init__(self, folder: str | Path):
        self._writer = _imported("tensorboardX").SummaryWriter(str(as_path("folder", folder)))

    def scalar(self, name: str, value: float, step: int) -> None:
        """Writes a number."""
        self._writer.add_scalar(name, value, step)

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Writes the distribution of the finite numbers in an array."""
        self._writer.add_histogram(name, _finite(values), step, bins=BINS)

    def figure(self, name: str, figure: Any, step: int) -> None:
        """Writes a figure of Matplotlib."""
        self._writer.add_figure(name, figure, step, close=False)

    def close(self) -> None:
        """Writes what is buffered. Later calls begin a new event file in the same folder."""
        self._writer.close()  # `flush` would leave the last event in the queue


class WandbWriter:
    """Writes to a run of Weights & Biases.

    Everything has a step axis of its own, "keras_actlab/step", because the steps of a run must not decrease and other
    callbacks, such as `wandb.integration.keras.WandbMetricsLogger`, count them otherwise.

    Args:
        run: The run, as `wandb.init` returns it. It is not finished here.

    Raises:
        ImportError: If wandb is not installed.

    Example:

    >>> def fit(model, x, y):
    ...     import wandb
    ...     tracker = keras_actlab.cab.DeadUnitTracker(x)
    ...     with wandb.init(project="units") as run:
    ...         writer = keras_actlab.trackers.WandbWriter(run)
    ...         model.fit(x, y, callbacks=[tracker, keras_actlab.trackers.TrackerCallback(writer, [tracker])])
    """

    STEP = "keras_actlab/step"

    def __init__(self, run: Any):
        self._wandb, self._run = _imported("wandb"), run
        run.define_metric(self.STEP)
        self._defined: set[str] = set()

    def _log(self, name: str, value: Any, step: int) -> None:
        if name not in self._defined:
            self._run.define_metric(name, step_metric=self.STEP)
            self._defined.add(name)
        self._run.log({name: value, self.STEP: step})

    def scalar(self, name: str, value: float, step: int) -> None:
        """Writes a number."""
        self._log(name, value, step)

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Writes the distribution of the finite numbers in an array."""
        self._log(name, self._wandb.Histogram(_finite(values), num_bins=BINS), step)

    def figure(self, name: str, figure: Any, step: int) -> None:
        """Writes a figure of Matplotlib."""
        self._log(name, self._wandb.Image(figure), step)

    def close(self) -> None:
        """Does nothing, because the run belongs to the caller."""


class MLflowWriter:
    """Writes to a run of MLflow: scalars as metrics, histograms and figures as artifacts.

    MLflow has no histograms. The artifact "NAME/STEP.json" has the counts and the edges of the bins, "NAME/STEP.png" a
    figure.

    Args:
        run_id: The run; None for the active one, as `mlflow.start_run` makes it. It is not ended here.

    Raises:
        ImportError: If neither mlflow nor mlflow-skinny is installed.
        ValueError: If `run_id` is None and no run is active.

    Example:

    >>> def fit(model, x, y):
    ...     import mlflow
    ...     tracker = keras_actlab.cab.DeadUnitTracker(x)
    ...     with mlflow.start_run():
    ...         writer = keras_actlab.trackers.MLflowWriter()
    ...         model.fit(x, y, callbacks=[tracker, keras_actlab.trackers.TrackerCallback(writer, [tracker])])
    """

    def __init__(self, run_id: str | None = None):
        mlflow = _imported("mlflow")
        if run_id is None:
            run = mlflow.active_run()
            if run is None:
                raise ValueError(
                    "`run_id` must be given if no run is active: call `mlflow.start_run()` first. Received: run_id=None"
                )
            run_id = run.info.run_id
        self.run_id = run_id
        self._client = mlflow.MlflowClient()

    def scalar(self, name: str, value: float, step: int) -> None:
        """Writes a number."""
        self._client.log_metric(self.run_id, name, value, step=step)

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Writes the distribution of the finite numbers in an array."""
        counts, edges = np.histogram(_finite(values), bins=BINS)
        self._client.log_dict(
            self.run_id, {"counts": counts.tolist(), "edges": edges.tolist()}, f"{name}/{step:08d}.json"
        )

    def figure(self, name: str, figure: Any, step: int) -> None:
        """Writes a figure of Matplotlib."""
        self._client.log_figure(self.run_id, figure, f"{name}/{step:08d}.png")

    def close(self) -> None:
        """Does nothing, because everything is written at once."""


def _finite(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, "float64").ravel()
    return values[np.isfinite(values)]


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"This writer needs {name}. Install the extra [trackers]: pip install 'keras-actlab[trackers]'"
        ) from error
