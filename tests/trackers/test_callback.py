import keras
import numpy as np
import pytest

from keras_actlab import cab, eafo, layers
from keras_actlab.trackers import TrackerCallback

X = np.random.default_rng(0).uniform(-1, 1, (32, 2)).astype("float32")


class Recorder:
    """A writer that keeps what it gets, by name."""

    def __init__(self):
        self.written = {"scalar": {}, "histogram": {}, "figure": {}}
        self.steps = []
        self.closed = 0

    def _keep(self, kind, name, value, step):
        self.written[kind].setdefault(name, []).append((step, value))
        self.steps.append(step)

    def scalar(self, name, value, step):
        self._keep("scalar", name, value, step)

    def histogram(self, name, values, step):
        self._keep("histogram", name, np.array(values), step)

    def figure(self, name, figure, step):
        self._keep("figure", name, figure.axes[0].get_ylabel(), step)

    def close(self):
        self.closed += 1


def network():
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(4, "relu", name="first"),
            keras.layers.Dense(4, name="second"),
            layers.EntropyActivation("relu", sample_size=32, name="curve"),
            keras.layers.Dense(4, name="third"),
            layers.CRReLU(name="correction"),
            keras.layers.Dense(1, name="out"),
        ]
    )
    model.compile("sgd", "mse")
    return model


def fit(model, callbacks, epochs=2):
    model.fit(X, X[:, :1], batch_size=8, epochs=epochs, verbose=0, callbacks=callbacks)


def test_everything_that_was_recorded_is_written():
    writer = Recorder()
    trackers = [
        cab.BoundaryTracker("first"),
        cab.DeadUnitTracker(X, ["first"], every=3),
        eafo.EntropyRefinement(every=4),
    ]
    model = network()
    fit(model, [TrackerCallback(writer, trackers, data=X), *trackers])  # in any order
    scalars = writer.written["scalar"]
    boundaries, units, refinement = trackers
    track = boundaries.tracks["first"]
    assert scalars["boundaries/first/largest_move"] == [
        (step, moves.max()) for step, moves in zip(track.steps, track.moves, strict=True)
    ]
    assert [step for step, _ in scalars["units/first/dead"]] == units.steps.tolist() == [0, 3, 6, 8]
    path = model.get_layer("curve").path
    assert [value for _, value in scalars[f"entropy/{path}/entropy_after"]] == refinement.log["entropy after"].tolist()
    np.testing.assert_allclose(
        writer.written["histogram"]["boundaries/first/distance"][-1][1], np.linalg.norm(track.locations[-1], axis=-1)
    )
    epsilon = float(keras.ops.convert_to_numpy(model.get_layer("correction").epsilon))
    assert scalars["activations/correction/epsilon"][-1] == (8, epsilon)
    assert len(writer.written["histogram"]["activations/curve/values"]) == 2
    assert writer.written["histogram"]["activations/first/inputs"][0][1].shape == (32, 4)
    assert writer.written["figure"] == {
        f"activations/{name}/curve": [(4, "output"), (8, "output")] for name in ("curve", "correction")
    }
    assert writer.steps == sorted(writer.steps)
    assert writer.closed == 1


@pytest.mark.one_backend
def test_a_second_fit_writes_only_what_is_new():
    writer, tracker = Recorder(), cab.RegionTracker(X)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callback = TrackerCallback(writer, [tracker])
    for _ in range(2):
        fit(model, [tracker, callback], epochs=1)
    assert [step for step, _ in writer.written["scalar"]["regions/points_changed"]] == list(range(9))
    names = ("regions", "points_changed", "units_changed")
    assert set(writer.written["scalar"]) == {f"regions/{name}" for name in names}


@pytest.mark.one_backend
def test_every_second_epoch():
    writer = Recorder()
    fit(network(), [TrackerCallback(writer, epochs=2)], epochs=5)
    assert [step for step, _ in writer.written["scalar"]["activations/correction/epsilon"]] == [8, 16]
    assert not writer.written["figure"]


@pytest.mark.one_backend
def test_errors():
    with pytest.raises(TypeError, match=r"`writer` must have the methods .* without scalar"):
        TrackerCallback("folder")
    with pytest.raises(TypeError, match="`trackers` must hold BoundaryTracker"):
        TrackerCallback(Recorder(), [keras.callbacks.History()])
    with pytest.raises(TypeError, match="`trackers` must be a list"):
        TrackerCallback(Recorder(), cab.BoundaryTracker("first"))
    with pytest.raises(ValueError, match=r"callbacks of the same `fit`. Received: \['BoundaryTracker'\]"):
        fit(network(), [TrackerCallback(Recorder(), [cab.BoundaryTracker("first")])])
