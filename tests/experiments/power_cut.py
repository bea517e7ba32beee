"""A disk that forgets what was not written through to it."""

import os
import stat
from pathlib import Path


class Disk:
    """Notes, at each change of a folder, what a power failure would leave there.

    File systems may write names before or after data. Both extremes are noted: that names lag until the folder is
    flushed, and that they are written at once. Data are those of the last `fsync` of the file, and none before it.

    Attributes:
        cuts: What is left after a power failure at each moment: contents by name, and `saved` at that moment.
        saved: Whatever the test sets.
    """

    def __init__(self, folder: Path, graveyard: Path, monkeypatch):
        self.folder, self.graveyard = folder, graveyard
        self.cuts: list[tuple[dict[str, bytes], int]] = []
        self.saved = 0
        self._names: dict[str, int] = {}
        self._contents: dict[int, bytes] = {}
        for name in ("fsync", "replace", "unlink"):
            monkeypatch.setattr(os, name, self._noting(getattr(os, name)))

    def _noting(self, call):
        def noting(*arguments, **options):
            result = call(*arguments, **options)
            if call.__name__ == "fsync":
                self._flushed(arguments[0])
            if self.folder.exists():
                for names in (self._names, self._listed()):
                    left = {name: self._contents.get(inode, b"") for name, inode in names.items()}
                    if (left, self.saved) not in self.cuts[-2:]:
                        self.cuts.append((left, self.saved))
            return result

        return noting

    def _flushed(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if not stat.S_ISDIR(status.st_mode):
            if status.st_ino not in self._contents:  # kept, so that no other file gets this number
                (path,) = (entry.path for entry in os.scandir(self.folder) if entry.inode() == status.st_ino)
                os.link(path, self.graveyard / str(status.st_ino))
            self._contents[status.st_ino] = os.pread(descriptor, status.st_size, 0)
        elif self.folder.exists() and status.st_ino == self.folder.stat().st_ino:
            self._names = self._listed()

    def _listed(self) -> dict[str, int]:
        return {entry.name: entry.inode() for entry in os.scandir(self.folder)}


def restore(files: dict[str, bytes], folder: Path) -> None:
    """Makes a folder hold these files and no others."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
