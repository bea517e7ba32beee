import os
import stat

import pytest

from keras_actlab import files
from keras_actlab.files import atomic_write

pytestmark = pytest.mark.one_backend


def write(text, path):
    with atomic_write(path) as unfinished:
        unfinished.write_text(text)


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "note.txt"
    write("first", path)
    with atomic_write(path) as unfinished:
        assert unfinished.parent == path.parent
        assert unfinished.name.endswith("-note.txt")
        unfinished.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "note.txt"
    write("first", path)
    with pytest.raises(UnicodeEncodeError):
        write("sec\ud800", path)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such calls")
def test_data_reach_the_disk_before_names_do(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor):
        fsync(descriptor)
        status = os.fstat(descriptor)
        done.append(("folder", status.st_ino) if stat.S_ISDIR(status.st_mode) else os.pread(descriptor, 99, 0))

    def note_replace(source, target):
        replace(source, target)
        done.append("replace")

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    path = tmp_path / "folder" / "note.txt"
    write("text", path)
    folder, above = path.parent.stat().st_ino, tmp_path.stat().st_ino
    assert done == [("folder", above), b"text", "replace", ("folder", folder)]


@pytest.mark.skipif(os.name == "nt", reason="links and permissions are others on Windows")
def test_a_symbolic_link_is_not_followed(tmp_path):
    elsewhere, path = tmp_path / "elsewhere.txt", tmp_path / "note.txt"
    elsewhere.write_text("precious")
    path.symlink_to(elsewhere)
    (tmp_path / "note.txt.part").symlink_to(elsewhere)  # where unfinished files were before
    write("text", path)
    assert elsewhere.read_text() == "precious"
    assert not path.is_symlink()
    plain = tmp_path / "plain.txt"
    plain.write_text("text")
    assert path.stat().st_mode == plain.stat().st_mode


def test_each_unfinished_file_has_a_name_of_its_own(tmp_path):
    path = tmp_path / "note.txt"
    with atomic_write(path) as one, atomic_write(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"  # the last to end


def test_text_and_bytes_are_written(tmp_path):
    files.write(tmp_path / "folder" / "text", "ä\n")
    files.write(tmp_path / "bytes", b"\0")
    assert (tmp_path / "folder" / "text").read_bytes() == "ä\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\0"
