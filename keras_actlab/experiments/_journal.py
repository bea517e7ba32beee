"""The file to which a run appends: one JSON object in each line, safe against a crash at any time."""

import json
import math
import os
import re
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from keras_actlab.distribution import is_first_process
from keras_actlab.files import flush_folder

try:
    import fcntl
except ImportError:  # on Windows, where two processes that write in the same millisecond are not detected
    fcntl = None  # type: ignore[assignment]

# Beginnings of the lines that a crash may truncate.
BEGINNINGS = (b'{"rows": [', b'{"task": "')
CHECKSUM = re.compile(rb', "checksum": "([0-9a-f]{8})"}\n?$')


class Journal:
    """A file to which records are appended.

    A record holds rows, or the configuration of a task. It is one line, which is written and flushed to the disk in one
    call, while the file is locked against other processes. The line ends with its checksum. A crash while it is written
    leaves an incomplete last line, or NUL bytes for data that did not reach the disk. Such a line is ignored and
    overwritten by the next record. All lines before it are kept.

    NaN and infinity are written as null, since JSON has neither, and are read back as NaN in metrics and histories.
    Lines without a checksum, which version 0.1 wrote, are read as they are.

    Args:
        path: The file. It and its folder may be missing.

    Raises:
        ValueError: If a line is no record and no incomplete last line, or does not match its checksum. The message
            names the file and the line.

    Example:

    >>> import pathlib, tempfile
    >>> from keras_actlab.experiments._journal import Journal
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name) / "results.jsonl"
    >>> Journal(path).append({"rows": [{"error": 0.5}]})
    >>> Journal(path).records
    [{'rows': [{'error': 0.5}]}]
    >>> print(path.read_text().strip())
    {"rows": [{"error": 0.5}], "checksum": "d453768c"}
    >>> folder.cleanup()
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.records: list[dict[str, Any]] = []
        if self.path.exists() and not self.path.is_file():  # reading some devices never ends
            kind = "a folder" if self.path.is_dir() else "a device or a pipe"
            raise ValueError(f"`path` must be a file. Received: path={str(path)!r}, which is {kind}")
        content = self.path.read_bytes() if self.path.exists() else b""
        self._size = len(content)
        self._end = 0  # of the complete lines, in bytes
        lines = re.findall(rb"[^\n]*\n|[^\n]+", content)
        for number, line in enumerate(lines, 1):
            try:
                record = _parsed(line)
            except ValueError as error:
                if number == len(lines) and _is_torn(line):
                    break
                raise ValueError(
                    f"`path` must be a file of results, one JSON object a line. Received: path={str(path)!r}, "
                    f"whose line {number} begins with {line[:40]!r} and {error}"
                ) from error
            self.records.append(record)
            self._end += len(line)
        self._complete = not content[: self._end] or content[: self._end].endswith(b"\n")

    def append(self, record: dict[str, Any]) -> None:
        """Writes one record, and returns when it is on the disk. In a distributed run, the first process writes.

        Raises:
            RuntimeError: If another process has written to the file since it was read.
        """
        line = _line(record)
        if is_first_process():
            self._write(line)
        self.records.append(_parsed(line))

    def _write(self, line: bytes) -> None:
        if not self._complete:  # an editor has removed the last line's end
            line = b"\n" + line
        is_new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            _lock(file)
            if file.seek(0, os.SEEK_END) != self._size:
                raise RuntimeError(f"another process has written to the results while this one ran: {self.path}")
            file.truncate(self._end)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            flush_folder(self.path.parent)
        self._end = self._size = self._end + len(line)
        self._complete = True


def _line(record: dict[str, Any]) -> bytes:
    body = json.dumps(_finite(record), allow_nan=False).encode()[:-1]
    return body + b', "checksum": "%08x"}\n' % zlib.crc32(body)


def _parsed(line: bytes) -> dict[str, Any]:
    """Reads a line. The message of its ValueError continues a sentence that begins with "line 3"."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError("is no JSON") from error
    rows = record.get("rows", []) if isinstance(record, dict) else None
    if not isinstance(rows, list) or not all(map(_is_row, rows)):
        raise ValueError("is no record of results")
    if record.keys() - {"checksum"} not in ({"rows"}, {"task", "configuration"}):
        raise ValueError("is no record of results")
    if "checksum" in record:
        signed = CHECKSUM.search(line)
        if not signed or zlib.crc32(line[: signed.start()]) != int(signed[1], 16):
            raise ValueError("is damaged: it does not match its checksum")
        del record["checksum"]
    for row in rows:
        if "together" in row:  # the name in version 0.1
            row["vectorized"] = row.pop("together")
        for part in {"metrics", "history"} & row.keys():
            row[part] = {name: _number(value) for name, value in row[part].items()}
    return record


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and all(isinstance(row.get(part, {}), dict) for part in ("metrics", "history"))


def _is_torn(line: bytes) -> bool:
    """Whether a crash may have left this last line: it is incomplete, or ends with several NUL bytes.

    A complete line with at most one NUL byte has other damage, such as a flipped bit. So has a line with text after its
    checksum.
    """
    written, _, lost = line.partition(b"\0")
    begins = any(written[: len(words)] == words[: len(written)] for words in BEGINNINGS)
    return begins and (lost.startswith(b"\0") or not (line.endswith(b"\n") or CHECKSUM.search(written[:-1])))


def _finite(value: Any) -> Any:
    """Replaces numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return [_number(each) for each in value]
    return math.nan if value is None else value


def _lock(file: BinaryIO) -> None:
    """Waits until no other process writes to the file. Closing it ends the lock."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)
