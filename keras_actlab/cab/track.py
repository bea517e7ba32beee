"""Boundaries of a layer over the steps of a training run, and files of them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from keras_actlab.arguments import as_path, check_mapping
from keras_actlab.cab.geometry import Boundaries
from keras_actlab.files import atomic_write


@dataclass(frozen=True)
class Track:
    """The boundaries of one layer over the steps of a training run.

    Attributes:
        steps: Number of training steps before each record, shape `(records,)`.
        normals: Shape `(records, boundaries, n)`; see `Boundaries`.
        locations: Shape `(records, boundaries, n)`.
        moves: Distance that each location moved between consecutive snapshots: the largest since the previous record,
            shape `(records, boundaries)`. It is 0 in the first record, after steps without the tracker, and for a unit
            without a boundary.
        turns: The same for the angles between normals, in radians.
        units: Index of each boundary's unit, shape `(boundaries,)`.

    Example:

    >>> from keras_actlab import cab
    >>> normals = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    >>> track = cab.Track(
    ...     steps=np.array([0, 1]), normals=normals, locations=2 * normals, moves=np.array([[0.0], [8**0.5]]),
    ...     turns=np.array([[0.0], [np.pi / 2]]), units=np.array([0]),
    ... )
    >>> track.at(1).offsets
    array([-2.])
    """

    steps: np.ndarray
    normals: np.ndarray
    locations: np.ndarray
    moves: np.ndarray
    turns: np.ndarray
    units: np.ndarray

    def at(self, step: int) -> Boundaries:
        """Returns the boundaries of the last record at or before a step.

        Raises:
            ValueError: If all records are after the step.
        """
        record = int(np.searchsorted(self.steps, step, side="right")) - 1
        if record < 0:
            raise ValueError(
                f"`step` must not be before the first record, which is of step {self.steps[0]}. Received: step={step}"
            )
        normals, locations = self.normals[record], self.locations[record]
        return Boundaries(normals, -np.sum(normals * locations, axis=-1), locations, self.units)


FIELDS = tuple(field.name for field in fields(Track))


def save_tracks(tracks: Mapping[str, Track], path: str | Path) -> None:
    """Writes tracks to a file (.npz). An existing file is replaced atomically.

    Args:
        tracks: Tracks by name, such as `BoundaryTracker.tracks`.
        path: The file. Its folder is created if it does not exist.

    Example: `load_tracks` reads the file.

    >>> import pathlib, tempfile
    >>> from keras_actlab import cab
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cab.save_tracks({}, pathlib.Path(folder) / "tracks.npz")
    """
    check_mapping("tracks", tracks, "a mapping of names to tracks")
    with atomic_write(as_path("path", path)) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **{f"{n}/{field}": getattr(track, field) for n, track in tracks.items() for field in FIELDS})


def load_tracks(path: str | Path) -> dict[str, Track]:
    """Returns the tracks in a file that `save_tracks` or a `BoundaryTracker` has written.

    Args:
        path: The file.

    Returns:
        The tracks by name.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file does not hold tracks, or the shapes of the arrays do not match.

    Example:

    >>> import pathlib, tempfile
    >>> from keras_actlab import cab
    >>> empty = cab.Track(*(np.zeros(shape) for shape in [(1,), (1, 5, 2), (1, 5, 2), (1, 5), (1, 5), (5,)]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "tracks.npz"
    ...     cab.save_tracks({"dense": empty}, path)
    ...     cab.load_tracks(path)["dense"].locations.shape
    (1, 5, 2)
    """
    try:
        with Path(path).open("rb") as file, np.load(file) as arrays:
            names = dict.fromkeys(key.rpartition("/")[0] for key in arrays)
            tracks = {name: Track(**{field: arrays[f"{name}/{field}"] for field in FIELDS}) for name in names}
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged archive makes zipfile, zlib and NumPy raise errors of many types
        raise ValueError(f"`path` must be a file of tracks. Received: path={str(path)!r}") from error
    for name, track in tracks.items():
        _check_shapes(name, track, path)
    return tracks


def _check_shapes(name: str, track: Track, path: str | Path) -> None:
    """Raises unless the arrays of a track hold numbers and their shapes match."""
    records, boundaries = len(track.steps) if track.steps.ndim else 0, len(track.units) if track.units.ndim else 0
    dimensions = track.normals.shape[-1:]
    of_vectors, of_scalars = (records, boundaries, *dimensions), (records, boundaries)
    shapes = dict(zip(FIELDS, [(records,), of_vectors, of_vectors, of_scalars, of_scalars, (boundaries,)], strict=True))
    for field, shape in shapes.items():
        array = getattr(track, field)
        if array.shape != shape or array.dtype.kind not in "iuf":
            raise ValueError(
                f"`path` must be a file of tracks, whose {field} of {name!r} must be numbers of shape {shape}. "
                f"Received: path={str(path)!r}, with {field} of shape {array.shape}, {array.dtype}"
            )
