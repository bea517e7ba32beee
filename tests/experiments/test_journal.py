import pytest

from keras_actlab.experiments.journal import Journal

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


def test_a_last_line_of_zeros_or_nonsense_is_damaged(path):
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"rows": [' + b"\x00" * 100 + b"\n")
    journal = Journal(path)
    assert journal.records == RECORDS
    journal.append(RECORDS[2])
    assert path.read_bytes() == whole + b'{"rows": []}\n'


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


def test_two_writers_do_not_overwrite_each_other(path):
    first, second = Journal(path), Journal(path)
    first.append(RECORDS[1])
    with pytest.raises(RuntimeError, match="another process"):
        second.append(RECORDS[2])
    assert Journal(path).records == [*RECORDS, RECORDS[1]]


def test_a_folder_is_no_journal(tmp_path):
    with pytest.raises(ValueError, match="which is a folder"):
        Journal(tmp_path)
