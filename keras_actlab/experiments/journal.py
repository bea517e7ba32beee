"""The file that a run appends to: one JSON object a line, safe against a crash at any moment."""

import json
import math
import os
import re
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from keras_actlab.files import flush_folder

try:
    import fcntl
except ImportError:  # on Windows; two processes that write in the same millisecond are not noticed there
    fcntl = None  # type: ignore[assignment]

# How the lines begin that a crash may have cut off.
BEGINNINGS = (b'{"rows": [', b'{"task": "')
CHECKSUM = re.compile(rb', "checksum": "([0-9a-f]{8})"}\n?$')


class Journal:
    """A file of records that is only ever appended to.

    A record holds rows, or the configuration of a task. It is one line, written and flushed to the disk in one call,
    while no other process writes to the file. The line ends with a checksum of itself. A crash in the middle of it
    leaves a last line without its end, or with a run of NUL bytes where the disk was not reached; that line is ignored
    here and overwritten by the next record. Everything before it stays.

    NaN and infinity are written as null, since JSON has neither, and are read back as NaN in metrics and histories.
    Lines without a checksum, which version 0.1 wrote, are read as they are.

    Args:
        path: The file. It need not exist, nor its folder.

    Raises:
        ValueError: If a line is neither a record nor the beginning of a last one, or does not match its checksum. The
            message names the file and the line.

    Example:

    >>> import pathlib, tempfile
    >>> from keras_actlab.experiments.journal import Journal
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
        if self.path.exists() and not self.path.is_file():  # some devices never end
            kind = "a folder" if self.path.is_dir() else "a device or a pipe"
            raise ValueError(f"`path` must be a file. Received: path={str(path)!r}, which is {kind}")
        content = self.path.read_bytes() if self.path.exists() else b""
        self._size = len(content)
        self._end = 0  # of what is whole, in bytes
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
        """Writes one record, and returns when it is on the disk.

        Raises:
            RuntimeError: If something else has written to the file since it was read.
        """
        line = _line(record)
        record = _parsed(line)
        if not self._complete:  # an editor has taken the last line's end
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
        self.records.append(record)
        self._end = self._size = self._end + len(line)
        self._complete = True


def _line(record: dict[str, Any]) -> bytes:
    body = json.dumps(_finite(record), allow_nan=False).encode()[:-1]
    return body + b', "checksum": "%08x"}\n' % zlib.crc32(body)


def _parsed(line: bytes) -> dict[str, Any]:
    """Reads a line. Raises a ValueError whose message ends a sentence that begins with "line 3 ..."."""
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
    """Whether a crash may have left this last line: a beginning without its end, or a run of NUL bytes.

    A line with an end and at most one NUL byte is damaged otherwise, as by a flipped bit; so is one that goes on after
    its checksum.
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
