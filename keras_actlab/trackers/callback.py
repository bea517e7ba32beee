"""A callback that writes what other callbacks record to an experiment tracker."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_actlab._private.jax_trainer import sync_variables
from keras_actlab.arguments import check_type, positive_integer
from keras_actlab.cab import BoundaryTracker, DeadUnitTracker, RegionTracker
from keras_actlab.callbacks import PeriodicCallback
from keras_actlab.distribution import is_first_process
from keras_actlab.layers.activations import is_activation
from keras_actlab.layers.observed import labels, observable, observed
from keras_actlab.ops.tensor import Tensor
from keras_actlab.trackers.writers import Writer

KINDS = ("scalar", "histogram")


class TrackerCallback(keras.callbacks.Callback):
    """Writes what callbacks recorded, and how trainable activations change, to an experiment tracker.

    At the end of every epoch, and of training, the callback writes

    - of a `BoundaryTracker`, for each record: the largest move and turn of a boundary since the previous record, and
      the distribution of the distances of the boundaries from the origin;
    - of a `RegionTracker`: the number of regions, and the shares of points and units that changed;
    - of a `DeadUnitTracker`: the shares of dead and saturated units;
    - of an `EntropyRefinement`: the entropies before and after each refinement;
    - of each activation layer with parameters: a parameter with one entry as a scalar, others as a histogram;
    - given `data`: the distribution of the inputs of each activation, and a figure of the curve of each activation with
      parameters (`keras_actlab.cab.plots.activation`, which needs the extra `[lab]`).

    With several processes (see `keras_actlab.distribution`), the first one writes.

    Args:
        writer: A `TensorBoardWriter`, `WandbWriter`, `MLflowWriter`, or another object with the methods of `Writer`.
        trackers: The callbacks of the same `fit` whose records are written.
        data: Some inputs of the model, with the batch axis first: an array, or a list or dict of arrays; or None.
        epochs: Number of epochs between the writes of activations. The records of callbacks are written every epoch.

    Raises:
        TypeError: If an argument has the wrong type, or `trackers` holds another callback.
        ValueError: If `epochs` is not positive. At the start of training, if a callback of `trackers` is not one of
            this `fit`.

    Example:

    >>> import tempfile
    >>> from keras_actlab import cab, trackers
    >>> hidden = keras.layers.Dense(5, activation=keras_actlab.layers.CRReLU(), name="hidden")
    >>> model = keras.Sequential([keras.Input((2,)), hidden, keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> units = cab.DeadUnitTracker(np.ones((8, 2)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     writer = trackers.TensorBoardWriter(folder)
    ...     callbacks = [units, trackers.TrackerCallback(writer, [units])]
    ...     _ = model.fit(np.ones((8, 2)), np.ones(8), epochs=2, verbose=0, callbacks=callbacks)
    """

    def __init__(
        self, writer: Writer, trackers: Sequence[keras.callbacks.Callback] = (), data: Any = None, epochs: int = 1
    ):
        super().__init__()
        missing = [name for name in (*KINDS, "figure", "close") if not callable(getattr(writer, name, None))]
        if missing:
            raise TypeError(
                f"`writer` must have the methods scalar, histogram, figure and close. Received: {writer!r}, without "
                f"{', '.join(missing)}"
            )
        check_type("trackers", trackers, (list, tuple), "a list of callbacks")
        self.writer = writer
        self.trackers = list(trackers)
        self._events = [_events_of(tracker) for tracker in trackers]
        self.data = None if data is None else keras.tree.map_structure(np.asarray, data)
        self.epochs = positive_integer("epochs", epochs)
        self._written = [-1] * len(self.trackers)  # the last step of each tracker that is written

    def on_train_begin(self, logs: Any = None) -> None:
        strangers = [one for one in self.trackers if one.model is not self.model]
        if strangers:
            raise ValueError(
                "`trackers` must be callbacks of the same `fit`. Received: "
                f"{[type(one).__name__ for one in strangers]}, which are not"
            )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._write(activations=(epoch + 1) % self.epochs == 0)

    def on_train_end(self, logs: Any = None) -> None:
        for tracker in self.trackers:
            tracker.run_pending()  # what it records at the end of training, wherever it stands among the callbacks
        self._write(activations=False)
        if is_first_process():
            self.writer.close()

    def _write(self, activations: bool) -> None:
        if not is_first_process():
            return
        sync_variables(self.model)
        events = []
        for index, read in enumerate(self._events):
            new = [event for event in read() if event[0] > self._written[index]]
            self._written[index] = max([self._written[index], *(step for step, *_ in new)])
            events += new
        step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        if activations:
            events += [(step, *event) for event in self._activations()]
        for at, kind, name, value in sorted(events, key=lambda event: event[0]):
            getattr(self.writer, kind)(name, value, at)
        if activations and self.data is not None:
            self._write_curves(step)

    def _activations(self) -> Iterator[tuple[str, str, Any]]:
        """The parameters of the activation layers."""
        for layer, label in labels(observable(self.model)).items():
            if is_activation(layer):
                for variable in layer.trainable_variables:
                    values = keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))
                    name = f"activations/{label}/{variable.name}"
                    yield ("scalar", name, float(values.item())) if values.size == 1 else ("histogram", name, values)

    def _write_curves(self, step: int) -> None:
        inputs: dict[keras.layers.Layer, Tensor] = {}

        def record(layer: keras.layers.Layer, activation: Callable[..., Any], values: Tensor, outputs: Tensor) -> None:
            inputs.setdefault(layer, values)  # of the first call, if there are several

        with observed(self.model, record):
            self.model(keras.tree.map_structure(keras.ops.convert_to_tensor, self.data), training=False)
        names = labels(observable(self.model))
        for layer, values in inputs.items():
            array = keras.ops.convert_to_numpy(keras.ops.cast(values, "float32"))
            self.writer.histogram(f"activations/{names[layer]}/inputs", array, step)
            if is_activation(layer) and layer.variables:
                import matplotlib.pyplot as plt

                from keras_actlab.cab import plots

                figure = plots.activation(layer, array)
                self.writer.figure(f"activations/{names[layer]}/curve", figure, step)
                plt.close(figure)


def _events_of(tracker: Any) -> Callable[[], Iterator[tuple[int, str, str, Any]]]:
    """Returns a function that reads all records of a callback, as (step, kind, name, value)."""
    if isinstance(tracker, BoundaryTracker):
        return lambda: _of_boundaries(tracker)
    if isinstance(tracker, RegionTracker):
        return lambda: _of_arrays(tracker, "regions", "regions", "points_changed", "units_changed")
    if isinstance(tracker, DeadUnitTracker):
        return lambda: _of_dead_units(tracker)
    if isinstance(tracker, PeriodicCallback) and hasattr(
        tracker, "log"
    ):  # an EntropyRefinement, whose package needs the extra [lab]
        return lambda: _of_refinement(tracker)
    raise TypeError(
        "`trackers` must hold BoundaryTracker, RegionTracker, DeadUnitTracker or EntropyRefinement. "
        f"Received: {tracker!r} (of type {type(tracker).__name__})"
    )


def _of_boundaries(tracker: BoundaryTracker) -> Iterator[tuple[int, str, str, Any]]:
    for layer, track in tracker.tracks.items():
        for index, step in enumerate(track.steps.tolist()):
            yield step, "scalar", f"boundaries/{layer}/largest_move", float(track.moves[index].max())
            yield step, "scalar", f"boundaries/{layer}/largest_turn", float(track.turns[index].max())
            distances = np.linalg.norm(track.locations[index], axis=-1)
            yield step, "histogram", f"boundaries/{layer}/distance", distances


def _of_arrays(tracker: Any, group: str, *names: str) -> Iterator[tuple[int, str, str, Any]]:
    for name in names:
        for step, value in zip(tracker.steps.tolist(), getattr(tracker, name).tolist(), strict=True):
            yield step, "scalar", f"{group}/{name}", value


def _of_dead_units(tracker: DeadUnitTracker) -> Iterator[tuple[int, str, str, Any]]:
    for name in ("dead", "saturated"):
        for layer, shares in getattr(tracker, name).items():
            for step, share in zip(tracker.steps.tolist(), shares.tolist(), strict=True):
                yield step, "scalar", f"units/{layer}/{name}", share


def _of_refinement(tracker: Any) -> Iterator[tuple[int, str, str, Any]]:
    for row in tracker.log.to_dict("records"):
        for name in ("entropy before", "entropy after"):
            yield row["step"], "scalar", f"entropy/{row['layer']}/{name.replace(' ', '_')}", row[name]
