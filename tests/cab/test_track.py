import pickle

import numpy as np
import pytest

from keras_actlab import cab

pytestmark = pytest.mark.one_backend

SHAPES = {
    "steps": (3,), "normals": (3, 5, 2), "locations": (3, 5, 2), "moves": (3, 5), "turns": (3, 5), "units": (5,)
}  # fmt: skip


def arrays(**changes):
    rng = np.random.default_rng(0)
    return {f"dense/{field}": rng.normal(size=shape) for field, shape in SHAPES.items()} | {
        f"dense/{field}": array for field, array in changes.items()
    }


@pytest.mark.parametrize("field", SHAPES)
def test_shapes_must_agree(tmp_path, field):
    path = tmp_path / "tracks.npz"
    np.savez(path, **arrays())
    assert getattr(cab.load_tracks(path)["dense"], field).shape == SHAPES[field]
    others = np.array(SHAPES[field]) + np.eye(len(SHAPES[field]), dtype=int)
    for shape in [(), (*SHAPES[field], 1), *others]:
        np.savez(path, **arrays(**{field: np.zeros(shape)}))
        with pytest.raises(ValueError, match=r"`path` must be a file of tracks, whose .* Received: path=.*tracks\.npz"):
            cab.load_tracks(path)


def test_entries_must_be_numbers(tmp_path):
    np.savez(tmp_path / "tracks.npz", **arrays(steps=np.array(["0", "1", "2"])))
    with pytest.raises(ValueError, match=r"with steps of shape \(3,\), <U1"):
        cab.load_tracks(tmp_path / "tracks.npz")


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", pickle.dumps({"dense": 1}), np.lib.format.magic(1, 0) + b"\xff\xff{" + b"(" * 500]
)
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "tracks.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"`path` must be a file of tracks. Received: path=.*tracks\.npz"):
        cab.load_tracks(tmp_path / "tracks.npz")


def refusal(path) -> str | None:
    try:
        cab.load_tracks(path)
    except ValueError as error:
        return str(error)
    return None  # a damaged file may be unreadable


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_damage_is_refused_with_the_file_s_name(tmp_path, save):
    path = tmp_path / "tracks.npz"
    save(path, **arrays())
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content) - 4, 200):
        path.write_bytes(content[:place] + rng.bytes(4) + content[place + 4 :])
        assert "tracks.npz" in (refusal(path) or "tracks.npz")
    for length in rng.integers(0, len(content), 50):
        path.write_bytes(content[:length])
        assert "tracks.npz" in refusal(path)
