"""A file of weights with a checksum and with notes about the run."""

import json
import zlib
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from keras_actlab.files import atomic_write

NOTES = "notes"


def save(model: keras.Model, notes: dict[str, Any], path: Path) -> None:
    """Writes weights, the state of the optimizer and notes, and flushes them to the disk.

    `keras.Model.load_weights` can read the file, too.

    Args:
        model: A built model.
        notes: Anything that JSON can hold, and arrays.
        path: The file (.weights.h5), which is replaced as a whole.
    """
    text = json.dumps(notes, default=lambda value: np.asarray(value).tolist())  # metrics may be arrays
    with atomic_write(path) as unfinished:
        model.save_weights(unfinished)
        with h5py.File(unfinished, "r+") as file:
            file[NOTES] = np.frombuffer(text.encode(), "uint8")
            file.attrs["checksum"] = _checksum(file)


def read_notes(path: Path) -> dict[str, Any]:
    """Returns the notes of a file.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        with h5py.File(path) as file:
            whole = int(file.attrs["checksum"]) == _checksum(file)
            notes: dict[str, Any] = json.loads(file[NOTES][()].tobytes()) if whole else {}
    except Exception as error:  # h5py raises many kinds for a damaged file
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not whole:
        raise ValueError(f"{path} cannot be read: its checksum is wrong")
    return notes


def _checksum(file: h5py.File) -> int:
    checksum = 0

    def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
        nonlocal checksum
        checksum = zlib.crc32(name.encode(), checksum)
        if isinstance(item, h5py.Dataset):
            checksum = zlib.crc32(f"{item.dtype} {item.shape}".encode(), checksum)
            checksum = zlib.crc32(item[()].tobytes(), checksum)

    file.visititems(add)
    return checksum
