import gzip

import pandas as pd
import pytest

from recipes.common import files

pytestmark = pytest.mark.one_backend

TABLE = pd.DataFrame({"a": range(20), "b": [0.5] * 20})
TEXT = TABLE.to_csv(index=False).encode()


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz", "table.csv.xz", "table.csv.zip"])
def test_files(tmp_path, name):
    TABLE.to_csv(tmp_path / name, index=False)
    pd.testing.assert_frame_equal(files.read_table(tmp_path / name, 20), TABLE)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:60])
    with pytest.raises(ValueError, match=rf"{name} must "):
        files.read_table(tmp_path / name, 20)


@pytest.mark.parametrize(("rows", "words"), [(19, "have 19 rows. Received: more"), (21, "have 21 rows. Received: 20")])
def test_another_number_of_rows(tmp_path, rows, words):
    (tmp_path / "table.csv").write_bytes(TEXT)
    with pytest.raises(ValueError, match=rf"table\.csv must .*{words}"):
        files.read_table(tmp_path / "table.csv", rows)


@pytest.mark.parametrize(
    "content",
    [
        *(gzip.compress(TEXT)[:30], gzip.compress(TEXT)[:15] + b"\xff" * 20, b"no archive", b""),
        *(gzip.compress(text) for text in (b"\xff\xfe\xff", b"", b'a,b\n"1,2\n')),
    ],
    ids=["cut", "bytes", "no archive", "empty", "no text", "nothing", "open quotation"],
)
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "table.csv.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"table\.csv\.gz must be a whole table"):
        files.read_table(tmp_path / "table.csv.gz", 20)


def test_rows_are_appended(tmp_path):
    path = tmp_path / "folder" / "rows.csv"
    files.append_rows([{"a": 1 / 3, "b": "x"}], path)
    found = files.append_rows([{"b": "y", "c": 2.0}], path)
    pd.testing.assert_frame_equal(found, pd.DataFrame({"a": [0.333333, None], "b": ["x", "y"], "c": [None, 2.0]}))
    pd.testing.assert_frame_equal(pd.read_csv(path), found)
