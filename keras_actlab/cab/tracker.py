"""A callback that records boundaries during training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_actlab._private.keras_layers import nested_layers
from keras_actlab.arguments import as_path, check_number
from keras_actlab.cab._base_tracker import BaseTracker
from keras_actlab.cab.affine import AffineUnits, Units, current
from keras_actlab.cab.geometry import angular_change, boundaries_from
from keras_actlab.cab.track import FIELDS, Track, load_tracks, save_tracks
from keras_actlab.distribution import is_first_process

# A layer or its name, or a tuple of consecutive ones.
Named: TypeAlias = keras.layers.Layer | str | tuple[keras.layers.Layer | str, ...]

# Largest number of snapshots of variables that are kept before their boundaries are computed together.
MAX_SNAPSHOTS = 256
# Memory of a record in NumPy and Python besides the numbers in its arrays, measured on small layers.
OVERHEAD = 2000  # bytes


class BoundaryTracker(BaseTracker):
    """Records the characteristic activation boundaries of layers during training.

    The callback takes a snapshot of the variables before the first training step, then every `every` steps, and at the
    end. From each snapshot it computes, in float64, the location (`phi = -lambda u`) and the normal (u) of each
    boundary, and how far they moved and turned since the previous snapshot.

    Memory is bounded: when the records reach `megabytes`, every second one is dropped, and from then on half as many
    are kept. `moves` and `turns` hold the largest change of all snapshots since the previous record, so that no jump is
    lost.

    Args:
        layers: The layers to record: a layer, a tuple of consecutive layers (see `boundaries`), or a list of these. A
            layer may be given by its name or its path. A track has the name of the affine layer. The layers must be
            built before training.
        every: Number of training steps between snapshots. With `steps_per_execution`, a snapshot is taken at the end of
            an execution.
        megabytes: Largest total memory of the records. Computing new records temporarily takes as much again.
        path: File (.npz) for the tracks, replaced atomically at the end of every epoch. If it exists at the start of
            training, recording continues from it, as training does with `keras.callbacks.BackupAndRestore`; records of
            later steps than the model's are dropped. If an epoch is a single step, frequent writing is slow: use
            `save_tracks` instead. With several processes (see `keras_actlab.distribution`), the first one writes the
            file.

    Raises:
        TypeError: If an argument has the wrong type, or `layers` holds anything but layers and names.
        ValueError: If `every` or `megabytes` is not positive. At the start of training, if a layer is not in the model
            or not built, a name does not match exactly one layer, a layer has no affine map, two tracks have the same
            name, `megabytes` cannot hold four records, or the file at `path` belongs to other layers or another run.

    Example:

    >>> from keras_actlab import cab
    >>> layer = keras.layers.Dense(5, activation="relu")
    >>> model = keras.Sequential([keras.Input((2,)), layer, keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> tracker = cab.BoundaryTracker(layer)  # or its name
    >>> _ = model.fit(np.ones((8, 2)), np.ones(8), batch_size=4, epochs=3, verbose=0, callbacks=[tracker])
    >>> track = tracker.tracks[layer.name]
    >>> track.steps
    array([0, 1, 2, 3, 4, 5, 6])
    >>> track.locations.shape
    (7, 5, 2)
    """

    def __init__(
        self,
        layers: Named | Sequence[Named],
        every: int = 1,
        megabytes: float = 256.0,
        path: str | Path | None = None,
    ):
        super().__init__(every)
        check_number("megabytes", megabytes, positive=True)
        self.layers = list(layers) if isinstance(layers, list) else [layers]
        flat = [layer for units in self.layers for layer in (units if isinstance(units, tuple) else (units,))]
        if not flat or not all(isinstance(layer, (keras.layers.Layer, str)) for layer in flat):
            raise TypeError(
                "`layers` must be a layer or its name, a tuple of these, or a list of layers and tuples. "
                f"Received: layers={layers!r}"
            )
        self.megabytes = megabytes
        self.path = None if path is None else as_path("path", path)
        self._records: list[_Records] = []
        self._restored = False  # whether the records come from a file and training has not started since
        self._pending: list[tuple[int, list[np.ndarray]]] = []  # snapshots: step, and copies of the variables

    @property
    def tracks(self) -> dict[str, Track]:
        """The track of each affine layer, by its name. The last record is always the last snapshot."""
        self._compute()
        return {records.units.name: records.track() for records in self._records if len(records)}

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        units = [AffineUnits(self._named(each)) for each in self.layers]
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
        records = [_Records(each) for each in units]
        size = sum(each.bytes for each in records)
        self._capacity = int(self.megabytes * 1e6 // size)
        if self._capacity < 4:
            raise ValueError(
                f"`megabytes` must hold at least four records, of {size / 1e6:.3g} MB each. "
                f"Received: megabytes={self.megabytes}"
            )
        self._at_once = min(MAX_SNAPSHOTS, max(1, self._capacity // 8))
        if self.path is not None and self.path.exists():
            self._restore(records, load_tracks(self.path))
        self._records = records

    def _named(self, units: Named) -> Units:
        """Returns `units` with layers of the model in place of names."""
        if isinstance(units, tuple):
            return tuple(self._named(layer) for layer in units)
        if not isinstance(units, str):
            return units
        there = nested_layers(self.model)
        found = [layer for layer in there if units in (layer.name, layer.path)]
        if len(found) != 1:
            known = [layer.path for layer in found or there if layer.path]  # inputs have none
            raise ValueError(
                "`layers` must name layers of the model that is trained, by a name that only one has, or by the path. "
                f"Received: {units!r}, which {len(found)} have; {'they are' if found else 'the model has'} {known}"
            )
        return found[0]

    def _restore(self, records: "list[_Records]", tracks: dict[str, Track]) -> None:
        # Matched by order, because Keras' automatic layer names differ between processes.
        there, here = ([track.normals.shape[1:] for track in tracks.values()], [r.start.normals.shape for r in records])
        if there != here:
            raise ValueError(
                f"`path` must be a file of the same layers, or a new one. Received: path={str(self.path)!r}, with "
                f"(boundaries, n) of {there}, while the layers have {here}"
            )
        for of_layer, track in zip(records, tracks.values(), strict=True):
            of_layer.restore(track, self.every)
        self._restored = True

    def begin(self, step: int) -> int:
        self._compute()
        restored, self._restored = self._restored, False
        if len(self._records[0]) and all(records.matches() for records in self._records):
            return max(step, self._records[0].last_step)
        if restored:
            for records in self._records:
                if not records.can_resume_at(step):
                    raise ValueError(
                        f"`path` must be a file of the same run, or a new one. Received: path={str(self.path)!r}, "
                        f"where the boundaries of {records.units.name!r} at step {step} are others than the layer's"
                    )
            for records in self._records:
                records.drop_after(step)
            if len(self._records[0]) and self._records[0].last_step == step:
                return step
        elif len(self._records[0]):
            step = max(step, self._records[0].last_step)
        # The boundaries have moved since the last record: by steps without the tracker, or by other assignments.
        self._copy(step)
        self._compute(after_gap=True)
        return step

    def _copy(self, step: int) -> None:
        copies = [np.array(keras.ops.convert_to_numpy(variable)) for variable in self._variables]
        self._pending.append((step, copies))

    def run(self) -> None:
        self._copy(self.step)
        if len(self._pending) >= self._at_once:
            self._compute()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.path is not None:
            self.run_pending()  # so that the file holds the boundaries at the end of the epoch, for a resumed run
            if is_first_process():
                save_tracks(self.tracks, self.path)

    def _compute(self, after_gap: bool = False) -> None:
        """Computes records of the pending snapshots."""
        if not self._pending:
            return
        steps, copies = zip(*self._pending, strict=True)
        self._pending = []
        stacks = [np.stack(values).astype("float64") for values in zip(*copies, strict=True)]
        values = dict(zip(map(id, self._variables), stacks, strict=True))
        for records in self._records:
            records.add(steps, values, after_gap)
            if len(records) > self._capacity:
                records.thin()


class _Records:
    """The records of one layer's boundaries, each a tuple: step, normals, locations, moves, turns.

    The last record is always the last snapshot. The next snapshot replaces it unless it is `_stride` snapshots after
    the record before it.
    """

    def __init__(self, units: AffineUnits):
        self.units = units
        self.start = boundaries_from(units, current)
        self.bytes = 2 * self.start.normals.nbytes + 2 * self.start.offsets.nbytes + OVERHEAD
        self._kept: list[tuple[Any, ...]] = []
        self._stride = 1
        self._after_stride = 0  # number of snapshots since the last record that is kept

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, steps: Sequence[int], values: Mapping[int, np.ndarray], after_gap: bool) -> None:
        """Adds snapshots at `steps`. `values` holds the values of each variable at them, by the variable's id."""
        found = boundaries_from(self.units, lambda variable: values[id(variable)])
        first = found.normals[0], found.locations[0]
        before = first if after_gap or not self._kept else self._kept[-1][1:3]
        normals, locations = (
            np.concatenate([one[None], more])
            for one, more in zip(before, (found.normals, found.locations), strict=True)
        )
        moves = np.nan_to_num(np.linalg.norm(np.diff(locations, axis=0), axis=-1))
        turns = np.nan_to_num(angular_change(normals[:-1], normals[1:]))
        for step, *arrays in zip(steps, normals[1:], locations[1:], moves, turns, strict=True):
            record = (step, *map(np.copy, arrays))  # copies, because a view would keep all snapshots in memory
            if self._after_stride:
                record = _merge(self._kept.pop(), record)
            self._kept.append(record)
            self._after_stride = (self._after_stride + 1) % self._stride if len(self._kept) > 1 else 0

    def thin(self) -> None:
        """Drops every second record and doubles the stride."""
        first, *rest = self._kept
        pairs = zip(rest[::2], rest[1::2], strict=False)
        last = rest[-1:] if len(rest) % 2 else []
        self._kept = [first, *(_merge(*pair) for pair in pairs), *last]
        off = self._after_stride
        self._after_stride = ((len(rest) - (off > 0)) * self._stride + off) % (2 * self._stride)
        self._stride *= 2

    def track(self) -> Track:
        """Returns the records as a track."""
        columns = {name: np.stack(values) for name, values in zip(FIELDS, zip(*self._kept, strict=True), strict=False)}
        return Track(**columns, units=self.start.units)

    def restore(self, track: Track, every: int) -> None:
        """Replaces the records by those of a track."""
        columns = (track.normals, track.locations, track.moves, track.turns)
        self._kept = list(zip(map(int, track.steps), *columns, strict=True))
        if len(self._kept) > 1:
            self._stride = max(1, int(track.steps[1] - track.steps[0]) // every)

    def drop_after(self, step: int) -> None:
        """Drops the records after a step."""
        kept = [record for record in self._kept if record[0] <= step]
        if len(kept) < len(self._kept):
            self._kept, self._after_stride = kept, 0

    @property
    def last_step(self) -> int:
        """The step of the last record."""
        return self._kept[-1][0]

    def matches(self, record: int = -1) -> bool:
        """Whether the current boundaries equal those of a record, by default the last one."""
        now = boundaries_from(self.units, current)
        pairs = zip(self._kept[record][1:3], (now.normals, now.locations), strict=True)
        return all(np.allclose(*pair, rtol=1e-6, atol=0.0, equal_nan=True) for pair in pairs)

    def can_resume_at(self, step: int) -> bool:
        """Whether the current boundaries equal those of the record at a step, if there is one."""
        return all(self.matches(k) for k, record in enumerate(self._kept) if record[0] == step)


def _merge(former: tuple[Any, ...], latter: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns the latter of two records, with the larger changes of both."""
    return *latter[:3], *map(np.maximum, former[3:], latter[3:])
