"""Replacing a file as a whole, so that neither a crash nor a power failure leaves a part of one."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

# How the names of unfinished files begin.
UNFINISHED = "part-"


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Gives an empty file to write to, which replaces `path` when the block ends, on the disk too.

    The data reach the disk before the name does. After a power failure `path` therefore holds either what it held
    before or all of what was written. The unfinished file lies beside `path`, and its name ends like that of `path`,
    since some libraries choose the format by it. It is new and has a random name: two processes do not write to the
    same one, and a symbolic link in its place is not followed. If the block raises an error, it is removed and `path`
    is left unchanged.

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


def flush_folder(folder: Path) -> None:
    """Returns when the names in a folder are on the disk."""
    if os.name != "nt":  # Windows opens no folder, and writes names by itself
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
