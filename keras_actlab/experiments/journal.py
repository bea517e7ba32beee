"""The file that a run appends to: one JSON object a line, safe against a crash at any moment."""

import json
import os
from pathlib import Path
from typing import Any


class Journal:
    """A file of records that is only ever appended to.

    Every record is one line, written and flushed to the disk in one call. A crash in the middle of it leaves a last
    line without its end; that line is ignored here and overwritten by the next record. Everything before it stays.

    Args:
        path: The file. It need not exist, nor its folder.

    Raises:
        ValueError: If a line other than a damaged last one is no record, so that the file is not a journal.

    Example:

    >>> import pathlib, tempfile
    >>> from keras_actlab.experiments.journal import Journal
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name) / "results.jsonl"
    >>> Journal(path).append({"error": 0.5})
    >>> Journal(path).records
    [{'error': 0.5}]
    >>> folder.cleanup()
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.records: list[dict[str, Any]] = []
        self._end = 0  # of what is whole, in bytes
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        for number, line in enumerate(lines, 1):
            record = _parsed(line)
            if record is None:
                if number == len(lines) and line.startswith(b"{"):
                    break
                raise ValueError(
                    f"`path` must be a file of results, one JSON object a line. Received: path={str(self.path)!r}, "
                    f"whose line {number} begins with {line[:40]!r}"
                )
            self.records.append(record)
            self._end += len(line)

    def append(self, record: dict[str, Any]) -> None:
        """Writes one record, and returns when it is on the disk."""
        line = json.dumps(record).encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.seek(self._end)
            file.truncate()
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.records.append(record)
        self._end += len(line)


def _parsed(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
