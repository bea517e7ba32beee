import itertools

import keras
import numpy as np
import pytest
from keras.layers import Dense

from keras_actlab import layers
from keras_actlab.cab.affine import breakpoints
from keras_actlab.cab.plots import slice_2d
from keras_actlab.cab.regions import activation_patterns, preactivations
from keras_actlab.cab.slices import Plane, slice_regions

# Only geometry in NumPy is tested; test_regions.py compares pre-activations on every backend.
pytestmark = pytest.mark.one_backend

ROWS = 2048
SQUARE = ((-2.0, 2.0), (-1.0, 3.0))


def drawn(model):
    """Gives a model the same random weights on every backend."""
    rng = np.random.default_rng(3)
    for variable in model.weights:
        values = rng.normal(scale=0.7, size=variable.shape)
        variable.assign(np.abs(values) + 0.5 if variable.path.endswith("moving_variance") else values)
    return model


def sequential(*hidden, shape=(2,)):
    return drawn(keras.Sequential([keras.Input(shape), *hidden]))


def in_chunks(function, points):
    """Calls `function` with a constant number of rows, so that it is compiled only once."""
    chunks = [points[start : start + ROWS] for start in range(0, len(points), ROWS)]
    padded = (np.pad(chunk, ((0, ROWS - len(chunk)), (0, 0)), mode="edge") for chunk in chunks)
    return np.concatenate([function(chunk) for chunk in padded])[: len(points)]


def area(polygon):
    x, y = polygon.T
    return 0.5 * np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))


def test_lines_in_general_position_make_as_many_regions_as_they_should():
    hidden = Dense(12, "relu")
    found = slice_regions(sequential(hidden, Dense(1)), Plane.of_inputs(SQUARE))
    kernel, bias = (np.array(w, "float64") for w in hidden.get_weights())
    low, high = np.transpose(SQUARE)
    corners = np.array(list(itertools.product(*SQUARE)))
    lines = [unit for unit in range(12) if len(set(np.sign(corners @ kernel[:, unit] + bias[unit]))) == 2]
    crossings = [
        np.linalg.solve(kernel[:, pair].T, -bias[list(pair)]) for pair in map(list, itertools.combinations(lines, 2))
    ]
    inside = sum(bool(np.all((low < point) & (point < high))) for point in crossings)
    assert inside > 5
    assert len(found.polygons) == 1 + len(lines) + inside
    assert set(found.units) == set(lines)
    assert set(found.layers) == {hidden.name}


def residual():
    x = keras.Input((2,))
    h = keras.layers.ReLU()(Dense(6)(x))
    h = keras.layers.ReLU()(keras.layers.Add()([h, Dense(6)(x)]))
    return drawn(keras.Model(x, Dense(1)(h)))


NETWORKS = {
    "ReLU": lambda: sequential(
        Dense(6, "relu"),
        Dense(6, "relu"),
        Dense(6, "relu"),
        Dense(1),
    ),
    "leaky ReLU": lambda: sequential(Dense(6, "leaky_relu"), Dense(6), keras.layers.LeakyReLU(), Dense(1)),
    "ReLU6": lambda: sequential(
        Dense(6, "relu6"),
        Dense(6),
        keras.layers.ReLU(6.0, threshold=0.5),
        Dense(1),
    ),
    "PReLU": lambda: sequential(Dense(6), keras.layers.PReLU(), Dense(6, "relu"), Dense(1)),
    "TMAF, diagonal": lambda: sequential(Dense(6), layers.TMAF(0), Dense(6, layers.TMAF(0)), Dense(1)),
    "TMAF, tri-diagonal": lambda: sequential(Dense(6), layers.TMAF(1), Dense(6, layers.TMAF(1)), Dense(1)),
    "GmP": lambda: sequential(layers.GmPDense(6, "relu"), layers.GmPDense(6, "relu"), Dense(1)),
    "weight normalization": lambda: sequential(
        layers.WeightNormalization(Dense(6, "relu")),
        layers.WeightNormalization(Dense(6, "relu")),
        Dense(1),
    ),
    "batch normalization": lambda: sequential(
        Dense(6),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        Dense(6, "relu"),
        Dense(1),
    ),
    "residual": residual,
    "smooth output": lambda: sequential(Dense(6, "relu"), Dense(6, "relu"), Dense(3, "softmax")),
    "output that bends": lambda: sequential(Dense(6, "relu"), Dense(6, "relu")),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_cuts_the_rectangle_where_the_network_bends(kind):
    model = NETWORKS[kind]()
    found = slice_regions(model, Plane.of_inputs(SQUARE))
    areas = np.array([area(polygon) for polygon in found.polygons])
    assert areas.min() > 0
    np.testing.assert_allclose(areas.sum(), 16.0)

    # One pattern per polygon.
    rng = np.random.default_rng(3)
    inner = [0.02 * polygon.mean(axis=0) + 0.98 * polygon for polygon in found.polygons]
    weights = [rng.dirichlet(np.ones(len(corners)), 8) for corners in inner]
    samples = np.concatenate([w @ corners for w, corners in zip(weights, inner, strict=True)])
    patterns = in_chunks(lambda x: activation_patterns(model, x), samples).reshape(len(areas), 8, -1)
    wide = areas > 1e-4  # in smaller ones, rounding may move a sample across a side
    assert wide.mean() > 0.9
    assert (patterns == patterns[:, :1])[wide].all()
    ours = {pattern.tobytes() for pattern in patterns[:, 0]}
    assert len(ours) == len(areas) > 12

    # The polygons include every pattern of a grid, and few others.
    (left, right), (bottom, top) = SQUARE
    grid = np.stack(np.meshgrid(np.linspace(left, right, 201), np.linspace(bottom, top, 201)), axis=-1).reshape(-1, 2)
    seen = {pattern.tobytes() for pattern in in_chunks(lambda x: activation_patterns(model, x), grid)}
    assert 0.8 * len(ours) < len(seen)
    assert len(seen - ours) <= 1

    # On its boundaries, a unit is at a breakpoint.
    middles = found.segments.mean(axis=1)
    for layer in model.layers:
        mine = found.layers == layer.name
        if not mine.any():
            continue
        values = in_chunks(lambda x, name=layer.name: preactivations(model, x)[name], middles[mine])
        values = values[np.arange(mine.sum()), found.units[mine]]
        bends = breakpoints(layer) or breakpoints(getattr(layer, "layer", layer).activation)
        assert np.abs(values[:, None] - np.array(bends)).min(axis=1).max() < 1e-4

    # The network is affine on each polygon (before its own activation).
    if kind not in ("smooth output", "output that bends"):
        outputs = in_chunks(lambda x: model.predict(x, batch_size=ROWS, verbose=0), np.concatenate([samples, *inner]))
        at_samples, *at_corners = np.split(outputs, np.cumsum([len(samples), *map(len, inner)])[:-1])
        expected = [w @ values for w, values in zip(weights, at_corners, strict=True)]
        errors = np.abs(at_samples - np.concatenate(expected)).reshape(len(areas), 8)
        assert errors[wide].max() < 1e-4 * np.abs(outputs).max()


def test_only_its_unit_changes_across_a_segment():
    model = NETWORKS["leaky ReLU"]()
    found = slice_regions(model, Plane.of_inputs(SQUARE))
    directions = found.segments[:, 1] - found.segments[:, 0]
    lengths = np.linalg.norm(directions, axis=1)
    long = lengths > 1e-2
    assert long.sum() > 30
    steps = 1e-4 * np.stack([-directions[:, 1], directions[:, 0]], axis=1) / lengths[:, None]
    points = found.segments[:, 0] + 0.41 * directions
    one_side, other = (in_chunks(lambda x: activation_patterns(model, x), points + s * steps) for s in (1, -1))
    first, _ = dict.fromkeys(found.layers)
    column = found.units + np.where(found.layers == first, 0, 6)
    np.testing.assert_array_equal((one_side != other)[long], np.eye(12, dtype=bool)[column[long]])


def test_boundaries_that_meet_in_a_point_or_coincide_leave_no_slivers():
    first, second = (Dense(units, "relu", use_bias=False) for units in (8, 6))
    found = slice_regions(sequential(first, second, Dense(1)), Plane.of_inputs())
    assert set(found.units[found.layers == first.name]) == set(range(8))
    for polygon in found.polygons:  # sectors around the origin
        assert area(polygon) > 1e-4
        assert np.linalg.norm(polygon - np.roll(polygon, 1, axis=0), axis=1).min() > 1e-4
    np.testing.assert_allclose(sum(map(area, found.polygons)), 4.0, rtol=1e-12)
    once, twice = Dense(5, "relu"), Dense(10, "relu")
    models = [sequential(layer, Dense(1)) for layer in (once, twice)]
    twice.set_weights([np.concatenate([weights, -3.1 * weights], axis=-1) for weights in once.get_weights()])
    counts = [len(slice_regions(model, Plane.of_inputs(SQUARE)).polygons) for model in models]
    assert counts[0] == counts[1] > 5


def images():
    return np.random.default_rng(3).normal(size=(3, 5, 5, 1))


def convolutional(pooling):
    convolution = keras.layers.Conv2D(2, 2, activation="relu", name="convolution")
    after = (keras.layers.Flatten(), Dense(4, "relu"), Dense(3, "softmax"))
    return sequential(convolution, pooling, *after, shape=(5, 5, 1))


def test_a_convolutional_network_on_a_plane_through_three_images():
    model, plane = convolutional(keras.layers.AveragePooling2D(2)), Plane.through(images())
    np.testing.assert_allclose(plane.inputs([(0, 0), (1, 0), (0, 1)]), images())
    found = slice_regions(model, plane)
    np.testing.assert_allclose(sum(area(polygon) for polygon in found.polygons), 4.0)
    middles = found.segments.mean(axis=1)
    mine = found.layers == "convolution"
    values = in_chunks(lambda x: preactivations(model, plane.inputs(x))["convolution"], middles)[mine]
    assert np.abs(values[np.arange(mine.sum()), found.units[mine]]).max() < 1e-4
    centres = np.array([polygon.mean(axis=0) for polygon in found.polygons])
    patterns = in_chunks(lambda x: activation_patterns(model, plane.inputs(x)), centres)
    assert len(np.unique(patterns, axis=0)) == len(centres) > 50


def test_refuses_max_pooling_wherever_it_stands():
    with pytest.raises(ValueError, match=r"`model` must be piecewise linear.*max pooling"):
        slice_regions(convolutional(keras.layers.MaxPooling2D(2)), Plane.through(images()))
    last = sequential(keras.layers.MaxPooling2D(2), keras.layers.Flatten(), Dense(1), shape=(5, 5, 1))
    with pytest.raises(ValueError, match="max pooling"):
        slice_regions(last, Plane.through(images()))


def test_a_network_without_bends_is_one_region():
    found = slice_regions(sequential(Dense(3), Dense(1)), Plane.of_inputs(SQUARE))
    np.testing.assert_array_equal(found.polygons, [[(-2, -1), (2, -1), (2, 3), (-2, 3)]])
    assert found.segments.shape == (0, 2, 2)
    assert len(found.layers) == len(found.units) == 0


def test_thresholds_that_are_trained_count_as_they_are():
    activation = layers.TMAF(0, thresholds=(0.0,), train_thresholds=True)
    model = sequential(activation, Dense(1))
    activation.thresholds.assign([0.5])
    found = slice_regions(model, Plane.of_inputs())
    np.testing.assert_allclose(np.sort(np.abs(found.segments).min(axis=(1, 2)))[-1], 0.5, atol=1e-6)
    assert len(found.polygons) == 4


def test_checks_its_arguments():
    plane, model = Plane.of_inputs(), sequential(Dense(1, "relu"))
    with pytest.raises(TypeError, match="`plane` must be a Plane"):
        slice_regions(model, np.ones((3, 2)))
    with pytest.raises(TypeError, match="`model` must be a Keras model"):
        slice_regions(model.layers[0], plane)
    with pytest.raises(ValueError, match=r"`plane` must have the shape of the model's input, \(2,\)"):
        slice_regions(model, Plane(np.zeros(3), np.array([1, 0, 0]), np.array([0, 1, 0])))
    x, y = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    faults = [
        ({"origin": np.zeros(3)}, "the shape of an input, all the same"),
        ({"origin": np.array([0.0, np.nan])}, "`origin` must be finite"),
        ({"second": -2 * x}, "must not be parallel"),
        ({"second": 0 * x}, "must not be parallel, nor 0"),
        ({"limits": ((0.0, 1.0), (1.0, 1.0))}, "`limits` must be two pairs"),
        ({"limits": (0.0, 1.0)}, "`limits` must be two pairs"),
        ({"limits": ((0.0, np.inf), (0.0, 1.0))}, "`limits` must be two pairs"),
    ]
    for fault, message in faults:
        with pytest.raises(ValueError, match=message):
            Plane(**{"origin": np.zeros(2), "first": x, "second": y} | fault)
    with pytest.raises(ValueError, match="`points` must be three inputs"):
        Plane.through([x, y])
    with pytest.raises(ValueError, match="`points` must have the same shape"):
        Plane.through([x, y, np.zeros(3)])
    with pytest.raises(ValueError, match="parallel"):
        Plane.through([x, 2 * x, 3 * x])


def test_draws_a_slice():
    found = slice_regions(
        sequential(Dense(6, "relu"), Dense(6, "relu"), Dense(1)),
        Plane.of_inputs(SQUARE),
    )
    figure = slice_2d(found, np.zeros((4, 2)), [0, 1, 0, 1])
    (ax,) = figure.axes
    assert ax.get_xlim() == SQUARE[0]
    assert ax.get_ylim() == SQUARE[1]
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == [*dict.fromkeys(found.layers), "class 0", "class 1"]
    polygons, first, second, *classes = ax.collections
    assert len(polygons.get_paths()) == len(found.polygons)
    assert len(first.get_segments()) + len(second.get_segments()) == len(found.segments)
    assert [len(each.get_offsets()) for each in classes] == [2, 2]
    assert slice_2d(found, ax=ax) is figure
    with pytest.raises(TypeError, match="`sliced` must be a Slice"):
        slice_2d(found.polygons)
    with pytest.raises(ValueError, match="`points` must have the shape"):
        slice_2d(found, np.zeros((4, 3)))
    for arguments in ({"labels": [0, 1]}, {"points": np.zeros((4, 2)), "labels": [0, 1]}):
        with pytest.raises(ValueError, match="`labels` must be one for each"):
            slice_2d(found, **arguments)
