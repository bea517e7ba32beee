"""Replaces files as a whole, so that a crash or a power failure leaves no partial file."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

# Beginning of the names of unfinished files.
UNFINISHED = "part-"


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Makes an empty file to write to, which replaces `path` when the block ends.

    The content is flushed to the disk before the file is renamed. After a power failure, `path` therefore has either
    its old content or all of the new one. The unfinished file is in the folder of `path`, and its name ends with that
    of `path`, because some libraries choose the format by the name. It is new and has a random name, so two processes
    do not write to the same file, and a symbolic link is not followed. If the block raises an error, the file is
    removed and `path` is left unchanged.

    Args:
        path: The file. Its folder is made if it does not exist.

    Yields:
        The path of the unfinished file.

    Example:

    >>> import pathlib, tempfile
    >>> from keras_actlab.files import atomic_write
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "note.txt"
    ...     with atomic_write(path) as unfinished:
    ...         _ = unfinished.write_text("whole")
    ...     path.read_text()
    'whole'
    """
    path = Path(path)
    _make_folder(path.parent)
    unfinished = path.with_name(f"{UNFINISHED}{secrets.token_hex(4)}-{path.name}")
    os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield unfinished
        _flush(unfinished)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def write(path: str | Path, content: str | bytes) -> None:
    """Writes a file, which is replaced as a whole (see `atomic_write`)."""
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(content if isinstance(content, bytes) else content.encode())


def flush_folder(folder: Path) -> None:
    """Flushes the names in a folder to the disk."""
    if os.name != "nt":  # Windows cannot open folders, and writes names by itself
        _flush(folder, os.O_RDONLY)


def _flush(path: Path, flags: int = os.O_RDWR) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        flush_folder(each.parent)
