"""The file that a run appends to: one JSON object a line, safe against a crash at any moment."""

import json
import os
from pathlib import Path
from typing import Any

# How the lines begin that a crash may have cut off.
BEGINNINGS = (b'{"rows": [', b'{"task": "')


class Journal:
    """A file of records that is only ever appended to.

    A record holds rows, or the configuration of a task. It is one line, written and flushed to the disk in one call. A
    crash in the middle of it leaves a last line without its end; that line is ignored here and overwritten by the next
    record. Everything before it stays.

    Args:
        path: The file. It need not exist, nor its folder.

    Raises:
        ValueError: If a line is neither a record nor the beginning of a last one, so that the file is no journal.

    Example:

    >>> import pathlib, tempfile
    >>> from keras_actlab.experiments.journal import Journal
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name) / "results.jsonl"
    >>> Journal(path).append({"rows": [{"error": 0.5}]})
    >>> Journal(path).records
    [{'rows': [{'error': 0.5}]}]
    >>> folder.cleanup()
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.records: list[dict[str, Any]] = []
        if self.path.is_dir():
            raise ValueError(f"`path` must be a file. Received: path={str(path)!r}, which is a folder")
        content = self.path.read_bytes() if self.path.exists() else b""
        self._size = len(content)
        self._end = 0  # of what is whole, in bytes
        lines = content.splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            record = _parsed(line)
            if record is None:
                torn = any(line[: len(words)] == words[: len(line)] for words in BEGINNINGS)
                if number == len(lines) and torn:
                    break
                raise ValueError(
                    f"`path` must be a file of results, one JSON object a line. Received: path={str(path)!r}, "
                    f"whose line {number} begins with {line[:40]!r}"
                )
            self.records.append(record)
            self._end += len(line)
        self._complete = not content[: self._end] or content[: self._end].endswith(b"\n")

    def append(self, record: dict[str, Any]) -> None:
        """Writes one record, and returns when it is on the disk.

        Raises:
            RuntimeError: If something else has written to the file since it was read.
        """
        line = json.dumps(record).encode() + b"\n"
        if not self._complete:  # an editor has taken the last line's end
            line = b"\n" + line
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if self.path.exists() else "xb") as file:
            if file.seek(0, os.SEEK_END) != self._size:
                raise RuntimeError(f"another process has written to the results while this one ran: {self.path}")
            file.seek(self._end)
            file.truncate()
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.records.append(record)
        self._end = self._size = self._end + len(line)
        self._complete = True


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and ("rows" in record or "configuration" in record) else None
