"""A callback that follows boundaries while a model trains."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_actlab.cab.affine import AffineUnits, Units
from keras_actlab.cab.geometry import angular_change, of_values
from keras_actlab.cab.track import Track, load_tracks, save_tracks
from keras_actlab.cab.watching import Watcher

# Looks whose variables are kept as they are, until geometry is done for all of them at once.
LOOKS_AT_ONCE = 256


class BoundaryTracker(Watcher):
    r"""Follows the characteristic activation boundaries of layers while a model trains.

    Looks before the first training step and then after every `every` steps: where each boundary is
    ($\phi = -\lambda u$), which way it faces ($u$), how far it has moved and turned since the last look. Variables are
    copied at a look; geometry is done in float64, for many looks at once.

    Memory is bounded: when `megabytes` are full, every second record is dropped, and from then on half as many are
    kept. Of the looks in between, `moves` and `turns` keep the largest change, so that no jump is lost.

    Args:
        layers: What to follow: a layer, a tuple of layers that follow one another (see `boundaries`), or a list of
            these. A track has the name of the affine layer. The layers must be built when training begins.
        every: Number of training steps from one look to the next. With `steps_per_execution`, looks are at the ends of
            executions.
        megabytes: What the records of all tracks may take together. Computing new ones takes as much for a while.
        path: File (.npz) in which the tracks are kept, replaced as a whole after every epoch. If it exists when
            training begins, tracking goes on from there, as the model does with `keras.callbacks.BackupAndRestore`;
            records of steps that the model has not taken are dropped. Where an epoch is a single step, writing it that
            often is slow: leave it out, and call `save_tracks`.

    Raises:
        TypeError: If an argument has the wrong type, or `layers` holds other things than layers.
        ValueError: If `every` or `megabytes` is not positive; when training begins, if a layer is not in the model or
            not built, has no affine map, two tracks have the same name, `megabytes` cannot hold four records, or the
            file at `path` is of other layers or of another run.

    Example:

    >>> from keras_actlab import cab
    >>> layer = keras.layers.Dense(5, activation="relu")
    >>> model = keras.Sequential([keras.Input((2,)), layer, keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> tracker = cab.BoundaryTracker(layer)
    >>> _ = model.fit(np.ones((8, 2)), np.ones(8), batch_size=4, epochs=3, verbose=0, callbacks=[tracker])
    >>> track = tracker.tracks[layer.name]
    >>> track.steps
    array([0, 1, 2, 3, 4, 5, 6])
    >>> track.locations.shape
    (7, 5, 2)
    """

    def __init__(
        self,
        layers: Units | Sequence[Units],
        every: int = 1,
        megabytes: float = 256.0,
        path: str | Path | None = None,
    ):
        super().__init__(every)
        if isinstance(megabytes, bool) or not isinstance(megabytes, (int, float)):
            raise TypeError(f"`megabytes` must be a number. Received: megabytes={megabytes!r}")
        if not megabytes > 0:
            raise ValueError(f"`megabytes` must be positive. Received: megabytes={megabytes}")
        self.layers = list(layers) if isinstance(layers, list) else [layers]
        flat = [layer for units in self.layers for layer in (units if isinstance(units, tuple) else (units,))]
        if not flat or not all(isinstance(layer, keras.layers.Layer) for layer in flat):
            raise TypeError(f"`layers` must be a layer, a tuple of layers, or a list of these. Received: {layers!r}")
        self.megabytes = megabytes
        self.path = None if path is None else Path(path)
        self._records: list[_Records] = []
        self._waiting: list[tuple[int, list[np.ndarray]]] = []  # a look's step, and copies of the variables

    @property
    def tracks(self) -> dict[str, Track]:
        """The track of each affine layer, by its name, up to the last look."""
        self._compute()
        return {records.units.name: records.track() for records in self._records}

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        units = [AffineUnits(each) for each in self.layers]
        known = {id(variable) for variable in self.model.variables}
        for each in units:
            if not known.issuperset(map(id, each.variables)):
                raise ValueError(
                    f"`layers` must be layers of the model that is trained. Received: {each.name!r}, "
                    f"which is not in {self.model.name!r}"
                )
        names = [each.name for each in units]
        if len(set(names)) < len(names):
            raise ValueError(f"`layers` must have different names. Received: {names}")
        self._variables = [variable for each in units for variable in each.variables]
        if self._records:
            return  # this `fit` continues an earlier one
        self._records = [_Records(each) for each in units]
        size = sum(records.bytes_a_record for records in self._records)
        self._capacity = int(self.megabytes * 1e6 // size)
        if self._capacity < 4:
            raise ValueError(
                f"`megabytes` must hold at least four records, of {size / 1e6:.3g} MB each. "
                f"Received: megabytes={self.megabytes}"
            )
        self._at_once = min(LOOKS_AT_ONCE, max(1, self._capacity // 8))
        if self.path is not None and self.path.exists():
            self._restore(load_tracks(self.path))

    def _restore(self, tracks: dict[str, Track]) -> None:
        for records in self._records:
            track = tracks.get(records.units.name)
            shape = records.now().normals.shape
            if len(tracks) != len(self._records) or track is None or track.normals.shape[1:] != shape:
                found = {name: track.normals.shape[1:] for name, track in tracks.items()}
                raise ValueError(
                    f"`path` must be a file of the same layers, or a new one. Received: path={str(self.path)!r}, with "
                    f"(boundaries, n) of {found} there and {{{records.units.name!r}: {shape}}} here"
                )
            records.restore(track)

    def begin(self) -> None:
        self._compute()
        for records in self._records:
            records.forget_after(self.step)
            if records.steps[-1:] == [self.step] and not records.ends_with(records.now()):
                raise ValueError(
                    f"`path` must be a file of the same run, or a new one. Received: path={str(self.path)!r}, where "
                    f"the boundaries of {records.units.name!r} at step {self.step} are others than the model's"
                )
        if self._records[0].steps[-1:] != [self.step]:
            self.look()

    def look(self) -> None:
        copies = [np.array(keras.ops.convert_to_numpy(variable)) for variable in self._variables]
        self._waiting.append((self.step, copies))
        if len(self._waiting) >= self._at_once:
            self._compute()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.path is not None:
            save_tracks(self.tracks, self.path)

    def _compute(self) -> None:
        """Makes records of the looks that wait."""
        if not self._waiting:
            return
        steps = [step for step, _ in self._waiting]
        stacks = [np.stack(copies).astype("float64") for copies in zip(*(c for _, c in self._waiting), strict=True)]
        self._waiting = []
        values = dict(zip(map(id, self._variables), stacks, strict=True))
        for records in self._records:
            records.add(steps, values)
            while len(records.steps) > self._capacity:
                records.thin()


class _Records:
    """What is kept of one layer's boundaries."""

    def __init__(self, units: AffineUnits):
        self.units = units
        self.stride = 1  # looks from one record to the next
        self._pending = 0  # looks since the last record on the stride
        self.steps: list[int] = []
        self.normals: list[np.ndarray] = []
