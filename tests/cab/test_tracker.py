import itertools

import keras
import numpy as np
import pytest

from keras_actlab import cab, distribution
from keras_actlab.layers import GmPDense
from tests.backends import numpy

X = np.random.default_rng(0).normal(size=(12, 2)).astype("float32")
Y = np.sin(3 * X[:, :1])

pytestmark = pytest.mark.one_backend


def network(hidden=None, **compile_arguments):
    keras.utils.set_random_seed(1)
    hidden = hidden or [keras.layers.Dense(4, name="dense"), keras.layers.BatchNormalization(), keras.layers.ReLU()]
    model = keras.Sequential([keras.Input((2,)), *hidden, keras.layers.Dense(1, name="output")])
    model.compile(keras.optimizers.Adam(0.1), "mse", **compile_arguments)
    return model


def units_of(model):
    return tuple(model.layers[:-1])


def train(model, epochs, *callbacks, **arguments):
    return model.fit(X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=[*callbacks], **arguments)


class Snapshots(keras.callbacks.Callback):
    """Keeps the result of `boundaries` at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.taken = []

    def on_train_begin(self, logs=None):
        self.taken.append(cab.boundaries(units_of(self.model)))

    def on_epoch_end(self, epoch, logs=None):
        self.taken.append(cab.boundaries(units_of(self.model)))


def whole(tracker):
    (track,) = tracker.tracks.values()
    return track


def assert_same(track, other):
    for name in ("steps", "normals", "locations", "moves", "turns", "units"):
        np.testing.assert_allclose(getattr(track, name), getattr(other, name), rtol=1e-6, atol=1e-12, err_msg=name)


def test_the_track_equals_boundaries():
    model, snapshots = network(), Snapshots()
    tracker = cab.BoundaryTracker(units_of(model), every=3)  # three steps per epoch
    train(model, 5, tracker, snapshots)
    track = whole(tracker)
    np.testing.assert_array_equal(track.steps, [0, 3, 6, 9, 12, 15])
    normals, locations = (np.stack([getattr(b, name) for b in snapshots.taken]) for name in ("normals", "locations"))
    np.testing.assert_allclose(track.normals, normals)
    np.testing.assert_allclose(track.locations, locations)
    moves = [np.sqrt(((a - b) ** 2).sum(-1)) for a, b in zip(locations[1:], locations[:-1], strict=True)]
    turns = [np.arccos((a * b).sum(-1)) for a, b in zip(normals[1:], normals[:-1], strict=True)]
    np.testing.assert_allclose(track.moves, [np.zeros(4), *moves])
    np.testing.assert_allclose(track.turns, [np.zeros(4), *turns], rtol=1e-6)
    np.testing.assert_array_equal(track.units, np.arange(4))


def test_tracking_does_not_change_the_training():
    plain, watched = network(), network()
    train(plain, 3)
    train(watched, 3, cab.BoundaryTracker(units_of(watched)))
    for one, other in zip(plain.get_weights(), watched.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_memory_is_bounded_and_no_jump_is_lost():
    model = network()
    full = cab.BoundaryTracker(units_of(model))
    # A record has 4 normals and locations of 2 numbers, 4 moves and 4 turns, of 8 bytes each, and 2,000 bytes of
    # overhead.
    small = cab.BoundaryTracker(units_of(model), megabytes=8 * 2192 / 1e6)
    train(model, 15, full, small)
    full, small = whole(full), whole(small)
    assert len(full.steps) == 46
    assert 4 < len(small.steps) <= 8
    assert small.steps[-1] == 45
    kept = np.searchsorted(full.steps, small.steps)
    np.testing.assert_array_equal(full.locations[kept], small.locations)
    for name in ("moves", "turns"):
        all_of_them = getattr(full, name)
        largest = [all_of_them[a + 1 : b + 1].max(axis=0) for a, b in itertools.pairwise(kept)]
        np.testing.assert_array_equal(getattr(small, name)[1:], largest)
    strides = np.diff(small.steps[:-1])
    assert (strides == strides[0]).all()


@pytest.mark.parametrize("records", [4, 5, 7])
def test_thinning_keeps_even_strides(records):
    model = network()
    tracker = cab.BoundaryTracker(units_of(model), megabytes=records * 2192.5 / 1e6)
    for epochs in (1, 2, 3, 5, 8):
        train(model, epochs, tracker)
        steps = whole(tracker).steps
        assert len(steps) <= records
        strides = np.diff(steps)
        assert (strides[:-1] == strides[0]).all()
        assert strides[-1] <= strides[0]
        assert np.log2(strides[0]) % 1 == 0


def test_a_second_fit_continues():
    model, other = network(), network()
    once, twice = cab.BoundaryTracker(units_of(model)), cab.BoundaryTracker(units_of(other))
    train(model, 4, once)
    train(other, 3, twice)
    train(other, 1, twice)
    assert_same(whole(twice), whole(once))


def test_steps_that_were_not_watched_are_a_gap():
    model = network()
    tracker = cab.BoundaryTracker(units_of(model))
    train(model, 1, tracker)
    train(model, 2)
    train(model, 1, tracker)
    track = whole(tracker)
    np.testing.assert_array_equal(track.steps, [0, 1, 2, 3, 9, 10, 11, 12])
    assert (track.moves[4] == 0).all()
    assert (track.moves[5] > 0).all()


def test_weights_that_were_set_are_a_gap():
    model = network()
    tracker = cab.BoundaryTracker(units_of(model))
    train(model, 1, tracker)
    model.layers[0].kernel.assign_add(np.ones((2, 4)))  # like EarlyStopping, which restores the best weights
    model.compile("sgd", "mse")  # with an optimizer that has taken no step
    train(model, 1, tracker)
    track = whole(tracker)
    np.testing.assert_array_equal(track.steps, [0, 1, 2, 3, 3, 4, 5, 6])
    assert (track.moves[4] == 0).all()
    assert (track.moves[5:] > 0).all()


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch executes one step at a time")
def test_the_last_execution_of_an_epoch_may_be_shorter():
    model = network(steps_per_execution=2)
    tracker = cab.BoundaryTracker(units_of(model))
    train(model, 2, tracker)
    np.testing.assert_array_equal(whole(tracker).steps, [0, 2, 3, 5, 6])


def test_zero_epochs_give_no_track():
    model = network()
    tracker = cab.BoundaryTracker(units_of(model))
    train(model, 0, tracker)
    assert tracker.tracks == {}


def test_short_fits_lose_no_step():
    model, other = network(), network()
    once, often = cab.BoundaryTracker(units_of(model), every=5), cab.BoundaryTracker(units_of(other), every=5)
    train(model, 6, once)
    for _ in range(6):
        train(other, 1, often)
    np.testing.assert_array_equal(whole(once).steps, [0, 5, 10, 15, 18])
    np.testing.assert_array_equal(whole(often).steps, np.arange(0, 19, 3))
    np.testing.assert_array_equal(whole(often).locations[-1], whole(once).locations[-1])
    assert (whole(often).moves[1:] > 0).all()


@pytest.mark.parametrize("kind", ["accumulation", "skipped"])
def test_a_second_fit_continues_when_steps_are_not_updates(kind):
    model = network()
    if kind == "accumulation":
        model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), "mse")
    else:  # a scale at which the gradients of the first steps are infinite
        scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=2.0**127)
        model.compile(scaled, "mse")
    tracker = cab.BoundaryTracker(units_of(model))
    for _ in range(3):
        train(model, 1, tracker)
    if kind == "accumulation":
        assert int(numpy(model.optimizer.iterations)) == 4
    np.testing.assert_array_equal(whole(tracker).steps, np.arange(10))


class PowerCutError(Exception):
    pass


class Crash(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 0 and batch == 1:
            raise PowerCutError

    def on_epoch_end(self, epoch, logs=None):
        self.epoch -= 1


def test_a_resumed_run_has_the_same_track(tmp_path):
    model = network()
    tracker = cab.BoundaryTracker(units_of(model))
    train(model, 5, tracker)

    def start():
        model = network()
        watcher = cab.BoundaryTracker(units_of(model), path=tmp_path / "tracks" / "run.npz")
        return model, watcher, keras.callbacks.BackupAndRestore(tmp_path / "backup")

    first, first_tracker, backup = start()
    with pytest.raises(PowerCutError):
        train(first, 5, first_tracker, backup, Crash(2))
    assert whole_steps(tmp_path)[-1] == 6
    second, second_tracker, backup = start()
    train(second, 5, second_tracker, backup)
    assert_same(whole(second_tracker), whole(tracker))
    assert_same(cab.load_tracks(tmp_path / "tracks" / "run.npz")["dense"], whole(tracker))


def whole_steps(folder):
    return cab.load_tracks(folder / "tracks" / "run.npz")["dense"].steps


def test_a_resumed_track_keeps_its_stride(tmp_path):
    model = network()
    for epochs in (8, 2):
        tracker = cab.BoundaryTracker(units_of(model), megabytes=8 * 2192 / 1e6, path=tmp_path / "run.npz")
        train(model, epochs, tracker)
    steps = whole(tracker).steps
    np.testing.assert_array_equal(steps, [0, 8, 16, 24, 30])


def test_layer_names_may_differ_in_a_resumed_run(tmp_path):
    tracks = []
    for _ in range(2):
        start = keras.initializers.GlorotUniform(seed=3)
        model = network([keras.layers.Dense(4, kernel_initializer=start)])  # Keras gives it another name
        tracker = cab.BoundaryTracker(units_of(model), path=tmp_path / "run.npz")
        train(model, 1, tracker)
        tracks.append(tracker.tracks)
    assert tracks[0].keys() != tracks[1].keys()
    assert_same(*(track for names in tracks for track in names.values()))


def test_a_run_that_starts_again_replaces_its_track(tmp_path):
    tracks = []
    for epochs in (3, 2):
        model = network()
        tracker = cab.BoundaryTracker(units_of(model), path=tmp_path / "run.npz")
        train(model, epochs, tracker)
        tracks.append(whole(tracker))
    np.testing.assert_array_equal(tracks[1].steps, np.arange(7))
    assert_same(cab.load_tracks(tmp_path / "run.npz")["dense"], tracks[1])
    np.testing.assert_array_equal(tracks[1].locations, tracks[0].locations[:7])


def test_the_file_of_another_run_is_refused(tmp_path):
    path = tmp_path / "run.npz"
    model = network()
    train(model, 1, cab.BoundaryTracker(units_of(model), path=path))
    other = network()
    other.layers[0].kernel.assign_add(np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"of the same run.*'dense' at step 0"):
        train(other, 1, cab.BoundaryTracker(units_of(other), path=path))
    wide = network([keras.layers.Dense(5, name="dense")])
    with pytest.raises(ValueError, match=r"of the same layers.*\(4, 2\).*\(5, 2\)"):
        train(wide, 1, cab.BoundaryTracker(units_of(wide), path=path))
    for content in (b"something else", path.read_bytes()[:-30], b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="must be a file of tracks"):
            train(model, 1, cab.BoundaryTracker(units_of(model), path=path))


def test_one_of_several_processes_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(distribution, "data_shard", lambda: (1, 2))
    model = network()
    tracker = cab.BoundaryTracker(units_of(model), path=tmp_path / "run.npz")
    train(model, 1, tracker)
    assert whole(tracker).steps.tolist() == [0, 1, 2, 3]
    assert not list(tmp_path.iterdir())


def test_layers_may_be_named():
    model = network()
    inner = keras.Sequential([keras.Input((1,)), keras.layers.Dense(3, name="dense")], name="inner")
    both = keras.Sequential([keras.Input((2,)), *model.layers, inner, keras.layers.Dense(1)])
    both.compile("sgd", "mse")
    names, dense = tuple(layer.name for layer in model.layers[:-1]), model.layers[0]
    by_name, themselves = cab.BoundaryTracker([names[1:], "output"]), cab.BoundaryTracker([units_of(model)])
    with pytest.raises(ValueError, match="one affine layer"):
        train(both, 1, by_name)
    for layers in (("dense", *names[1:]), "dense"):
        with pytest.raises(ValueError, match=rf"'dense', which 2 have; they are \['{dense.path}', 'inner/dense'\]"):
            train(both, 1, cab.BoundaryTracker(layers))
    with pytest.raises(ValueError, match=rf"'dens', which 0 have; the model has \['{dense.path}', 'seq"):
        train(both, 1, cab.BoundaryTracker("dens"))
    by_name = cab.BoundaryTracker(names)
    train(model, 1, by_name, themselves)
    assert_same(whole(by_name), whole(themselves))
    by_path = cab.BoundaryTracker(["inner/dense", "output"])
    train(both, 1, by_path)
    assert list(by_path.tracks) == ["dense", "output"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    model = network()
    tracker = cab.BoundaryTracker(units_of(model), path=path)
    train(model, 1, tracker)

    def torn(file, **arrays):
        file.write(b"half")
        raise PowerCutError

    monkeypatch.setattr(np, "savez", torn)
    with pytest.raises(PowerCutError):
        train(model, 1, tracker)
    assert cab.load_tracks(path)["dense"].steps[-1] == 3


def test_several_layers_and_convolutions():
    keras.utils.set_random_seed(0)
    first, second = keras.layers.Conv2D(3, 2, activation="relu", name="conv"), GmPDense(4, name="gmp")
    model = keras.Sequential([keras.Input((4, 4, 2)), first, keras.layers.Flatten(), second])
    model.compile("sgd", "mse")
    tracker = cab.BoundaryTracker([first, (second,)])
    model.fit(np.ones((4, 4, 4, 2)), np.ones((4, 4)), verbose=0, epochs=2, callbacks=[tracker])
    tracks = tracker.tracks
    assert {name: track.locations.shape for name, track in tracks.items()} == {"conv": (3, 3, 8), "gmp": (3, 4, 27)}
    np.testing.assert_allclose(tracks["gmp"].at(2).offsets, numpy(second.radius), atol=1e-6)


def test_a_missing_boundary_does_not_move():
    hidden = keras.layers.Dense(3, kernel_initializer="zeros", name="dense")
    model = network([hidden])
    tracker = cab.BoundaryTracker(hidden)
    train(model, 1, tracker)
    track = whole(tracker)
    assert np.isnan(track.locations[0]).all()
    assert np.isfinite(track.locations[1:]).all()
    assert (track.moves[:2] == 0).all()
    assert (track.moves[2:] > 0).all()
    assert (track.turns[:2] == 0).all()


def test_mixed_precision_and_several_steps_an_execution():
    hidden = keras.layers.Dense(4, name="dense", dtype="mixed_bfloat16")
    # PyTorch executes one step at a time.
    model = network([hidden], steps_per_execution=1 if keras.backend.backend() == "torch" else 3)
    tracker = cab.BoundaryTracker(hidden)
    train(model, 2, tracker)
    track = whole(tracker)
    assert track.steps[-1] == 6
    np.testing.assert_allclose(track.at(6).locations, cab.boundaries(hidden).locations)


def test_the_record_at_a_step():
    model = network()
    tracker = cab.BoundaryTracker(units_of(model), every=2)
    train(model, 2, tracker)
    track = whole(tracker)
    np.testing.assert_array_equal(track.steps, [0, 2, 4, 6])
    found = track.at(5)
    np.testing.assert_array_equal(found.locations, track.locations[2])
    np.testing.assert_allclose(found.locations, -found.offsets[:, None] * found.normals)
    with pytest.raises(ValueError, match=r"first record, which is of step 0. Received: step=-1"):
        track.at(-1)


def test_a_layer_of_another_model_is_refused():
    model, other = network(), network()
    with pytest.raises(ValueError, match="'dense', which is not in"):
        train(model, 1, cab.BoundaryTracker(units_of(other)))


def test_two_tracks_of_one_name_are_refused():
    model = network()
    with pytest.raises(ValueError, match=r"different names.*'dense', 'dense'"):
        train(model, 1, cab.BoundaryTracker([units_of(model), model.layers[0]]))


def test_too_little_memory_is_refused():
    model = network()
    with pytest.raises(ValueError, match=r"at least four records, of 0.00219 MB each. Received: megabytes=0.005"):
        train(model, 1, cab.BoundaryTracker(units_of(model), megabytes=0.005))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"every": 0}, ValueError, "`every` must be positive"),
        ({"every": 1.5}, TypeError, "`every` must be an integer"),
        ({"megabytes": 0}, ValueError, "`megabytes` must be finite and positive"),
        ({"megabytes": "1"}, TypeError, "`megabytes` must be a number"),
        ({"layers": []}, TypeError, "`layers` must be"),
        ({"layers": 3}, TypeError, "`layers` must be"),
        ({"layers": [(keras.layers.Dense(1), 3)]}, TypeError, "`layers` must be"),
    ],
    ids=range(7),
)
def test_arguments_are_checked(arguments, error, words):
    with pytest.raises(error, match=words):
        cab.BoundaryTracker(**{"layers": keras.layers.Dense(1)} | arguments)


def test_a_missing_file_of_tracks(tmp_path):
    with pytest.raises(FileNotFoundError):
        cab.load_tracks(tmp_path / "nothing.npz")
