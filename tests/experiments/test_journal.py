import itertools
import json
import math
import os
import random
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from keras_actlab import distribution
from keras_actlab.experiments._journal import Journal

pytestmark = pytest.mark.one_backend

RECORDS = [{"task": "plane", "configuration": {"epochs": 3}}, {"rows": [{"RMSE": 0.5, "failure": None}]}, {"rows": []}]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "new folder" / "results.jsonl"
    journal = Journal(path)
    for record in RECORDS:
        journal.append(record)
    return path


def test_records_come_back(path):
    assert Journal(path).records == RECORDS


def test_a_crash_at_any_byte_of_the_last_write_loses_only_that(path):
    whole = path.read_bytes()
    before = whole[: whole[:-1].rindex(b"\n") + 1]
    for end in range(len(before), len(whole) - 1):
        path.write_bytes(whole[:end])
        journal = Journal(path)
        assert journal.records == RECORDS[:2]
        assert path.read_bytes() == whole[:end]  # reading changes nothing
        journal.append(RECORDS[2])
        assert path.read_bytes() == whole


@pytest.mark.parametrize("zeros", [1, 2, 512])
def test_zeros_after_the_last_line_are_left_out(path, zeros):
    """After a power failure, a file may have grown on the disk without its content."""
    whole = path.read_bytes()
    for end in range(len(whole) - 20, len(whole) + 1):
        path.write_bytes(whole[:end] + bytes(zeros))
        journal = Journal(path)
        assert journal.records == RECORDS[: 3 if end == len(whole) else 2]
        journal.append(RECORDS[2])
        assert Journal(path).records[:2] == RECORDS[:2]


def test_a_last_line_of_zeros_or_nonsense_is_damaged(path):
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"rows": [' + b"\x00" * 100 + b"\n")
    journal = Journal(path)
    assert journal.records == RECORDS
    journal.append(RECORDS[2])
    assert path.read_bytes().startswith(whole)
    assert Journal(path).records == [*RECORDS, RECORDS[2]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"method,RMSE\nReLU,0.5\n", r"line 1 begins with b'method,RMSE"),
        (b"precious text without a line's end", "line 1"),
        (b'{"rows": []}\nnonsense\n{"rows": []}\n', "line 2"),
        (b'{"rows": [}\n{"rows": []}\n', "line 1"),
        (b"[1, 2]\n", "line 1"),
        (b'{"precious": 1}', "line 1"),
        (b'{"event": 1}\n{"event": 2}\n', "line 1"),
        (b'{"rows": []}\n{"precious', "line 2"),
    ],
)
def test_another_file_is_refused_and_kept(tmp_path, content, words):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        Journal(path)
    assert path.read_bytes() == content


def test_a_last_line_that_lost_only_its_end_is_whole(path):
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    journal = Journal(path)
    assert journal.records == RECORDS
    journal.append(RECORDS[1])
    journal.append(RECORDS[2])
    assert Journal(path).records == [*RECORDS, *RECORDS[1:]]


def full(path):
    """A journal of a configuration and rows with every kind of value, and the records as they are read."""
    journal = Journal(path)
    journal.append({"task": "plane", "configuration": {"epochs": 3, "batch_size": None, "metrics": ["RMSE"]}})
    for seed in range(3):
        history = {"epoch": [1, 2], "RMSE": [0.7, math.nan]}
        row = {"task": "plane", "seed": seed, "metrics": {"RMSE": seed / 7}, "failure": None, "history": history}
        journal.append({"rows": [row, {"task": "plane", "seed": -1, "failure": 'ValueError: "@" {ä}\n\x00'}]})
    return path.read_bytes(), repr(Journal(path).records)


def test_a_flipped_bit_is_an_error_with_file_and_line(tmp_path):
    path = tmp_path / "results.jsonl"
    whole, _ = full(path)
    places = [(place, bit) for place in range(len(whole)) for bit in range(8)]
    lines = [place for place in range(len(whole)) if whole[place] == ord("\n")]
    chosen = [*random.Random(0).sample(places, 300), *itertools.product([*lines, len(whole) - 2], range(8))]
    for place, bit in chosen:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << bit
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=f"path={re.escape(repr(str(path)))}, whose line [1-4] "):
            Journal(path)


def test_a_shortened_file_holds_its_first_lines(tmp_path):
    path = tmp_path / "results.jsonl"
    whole, records = full(path)
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        found = repr(Journal(path).records)
        assert records.startswith(found[:-1])
        assert len(Journal(path).records) == whole[:end].count(b"\n")


def test_every_line_is_json_without_nan(tmp_path):
    path = tmp_path / "results.jsonl"
    journal = Journal(path)
    values = [0.5, math.nan, math.inf, -math.inf]
    journal.append({"rows": [{"metrics": dict(zip("abcd", values, strict=True)), "history": {"a": values}}]})
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    for records in (journal.records, Journal(path).records):
        ((row,),) = (record["rows"] for record in records)
        assert list(map(math.isnan, row["metrics"].values())) == [False, True, True, True]
        assert list(map(math.isnan, row["history"]["a"])) == [False, True, True, True]


def test_lines_without_a_checksum_are_read(tmp_path):
    """Version 0.1 wrote none, and NaN as it stands."""
    path = tmp_path / "results.jsonl"
    path.write_text('{"rows": [{"metrics": {"RMSE": NaN}, "together": 3}]}\n')
    journal = Journal(path)
    (row,) = journal.records[0]["rows"]
    assert math.isnan(row["metrics"]["RMSE"])
    assert row["vectorized"] == 3
    journal.append(RECORDS[1])
    assert len(Journal(path).records) == 2


def append_until(path, count, name):
    written = 0
    while written < count:
        journal = Journal(path)
        try:
            journal.append({"rows": [{"name": name, "number": written}]})
        except RuntimeError:
            continue  # somebody else was faster
        written += 1


def test_no_record_of_two_writers_at_once_is_lost(tmp_path):
    """Threads stand for processes: each opens the file for itself, and such locks exclude one another."""
    path = tmp_path / "results.jsonl"
    names = ["first", "second"]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: append_until(path, 50, name), names))
    rows = [row for record in Journal(path).records for row in record["rows"]]
    for name in names:
        assert [row["number"] for row in rows if row["name"] == name] == list(range(50))


def test_two_writers_do_not_overwrite_each_other(path):
    first, second = Journal(path), Journal(path)
    first.append(RECORDS[1])
    with pytest.raises(RuntimeError, match="another process"):
        second.append(RECORDS[2])
    assert Journal(path).records == [*RECORDS, RECORDS[1]]


def test_a_journal_is_a_file(tmp_path):
    with pytest.raises(ValueError, match="which is a folder"):
        Journal(tmp_path)
    if os.name == "posix":
        with pytest.raises(ValueError, match="which is a device"):
            Journal(os.devnull)


def test_another_process_than_the_first_keeps_records_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(distribution, "data_shard", lambda: (1, 2))
    journal = Journal(tmp_path / "results.jsonl")
    journal.append(RECORDS[0])
    assert len(journal.records) == 1
    assert not list(tmp_path.iterdir())
