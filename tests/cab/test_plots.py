import importlib
import sys

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from keras_actlab import cab, layers
from keras_actlab.cab import plots
from keras_actlab.colours import COLOURS

pytestmark = pytest.mark.one_backend

FAR = 1e6


def dense(kernel, bias, activation="relu"):
    layer = keras.layers.Dense(len(bias), activation=activation)
    layer.build((None, len(kernel)))
    layer.set_weights([np.array(kernel, "float32"), np.array(bias, "float32")])
    return layer


def hyperplanes(weights, biases):
    """Returns boundaries of units with these weights, (units, n)."""
    return cab.boundaries(dense(np.transpose(weights), biases))


def track(locations, moves=0.0, turns=0.0):
    """Returns a track with these locations, (records, boundaries, n), and one record every ten steps."""
    locations = np.asarray(locations, "float64")
    records, units, inputs = locations.shape
    changes = [np.broadcast_to(np.asarray(change, "float64"), (records, units)) for change in (moves, turns)]
    normals = np.broadcast_to(np.eye(1, inputs), locations.shape)
    return cab.Track(10 * np.arange(records), normals, locations, *changes, np.arange(units))


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def lines(ax):
    """Returns the end points of the lines that `boundaries_2d` draws, (lines, 2, 2)."""
    (found,) = (each for each in ax.collections if isinstance(each, LineCollection))
    return np.array(found.get_segments())


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape)


PLANE = hyperplanes([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], [0.5, -1.0, 0.0])
SPACE = hyperplanes([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0]], [0.5, 0.0, 5.0])
PATHS = {n: track(np.cumsum(normal(20, 3, n), axis=0)) for n in (1, 2, 3)}

DRAWINGS = {
    "features": lambda ax: plots.features(dense([[1.0, -1.0]], [0.0, 0.5]), (-1.0, 1.0), ax=ax),
    "features over training": lambda ax: plots.features(dense([[1.0, 1.0, 1.0]], [0.0] * 3), (-1, 1), PATHS[1], ax=ax),
    "boundaries_2d": lambda ax: plots.boundaries_2d(PLANE, ax=ax),
    "trajectories 1-D": lambda ax: plots.trajectories(PATHS[1], ax=ax),
    "trajectories 2-D": lambda ax: plots.trajectories(PATHS[2], ax=ax),
    "largest_changes": lambda ax: plots.largest_changes({"GmP": track(np.zeros((3, 1, 2)), [[0], [1], [2]])}, ax=ax),
    "planes_3d": lambda ax: plots.planes_3d(SPACE, ax=ax),
    "activation": lambda ax: plots.activation(keras.activations.gelu, normal(50, 2), ax=ax),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_figure_is_closed_in_pyplot_and_labelled(name):
    figure = DRAWINGS[name](None)
    assert not plt.get_fignums()
    ax = figure.axes[0]
    below = ax.child_axes[0] if ax.child_axes else ax
    assert below.get_xlabel()
    assert ax.get_ylabel()
    assert len(legend(ax))

    options = {"projection": "3d"} if name == "planes_3d" else {}
    figure, (left, right) = plt.subplots(1, 2, subplot_kw=options)
    plt.close(figure)
    assert DRAWINGS[name](right) is figure
    assert right.get_legend() is not None
    assert left.get_legend() is None


@pytest.mark.parametrize("name", DRAWINGS)
def test_nothing_overlaps_or_is_cut_off(name):
    figure = DRAWINGS[name](None)
    figure.draw_without_rendering()
    ax = figure.axes[0]
    box = ax.get_legend().get_window_extent()
    assert box.x0 >= ax.get_window_extent().x1
    assert box.x1 <= figure.bbox.x1
    below = ax.child_axes[0] if ax.child_axes else ax
    label = below.xaxis.label.get_window_extent()
    assert label.y0 >= 0
    assert ax.yaxis.label.get_window_extent().x0 >= 0


def test_labels_of_three_axes_are_within_a_row_of_panels():
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained", subplot_kw={"projection": "3d"})
    plt.close(figure)
    plots.planes_3d(hyperplanes(np.ones((8, 3)), np.zeros(8)), ax=axes[2])
    figure.draw_without_rendering()
    for axis in (axes[2].xaxis, axes[2].yaxis, axes[2].zaxis):
        box = axis.label.get_window_extent()
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= figure.bbox.x1


def test_features_are_the_outputs_of_the_layers():
    kernel, bias = np.array([[1.0, -2.0, 0.5]]), np.array([0.1, 0.2, 0.3])
    norm = keras.layers.BatchNormalization(epsilon=0.0, momentum=0.5)
    chain = (dense(kernel, bias, None), norm, keras.layers.ReLU())
    norm.build((None, 3))
    norm.moving_mean.assign([1.0, 2.0, 3.0])
    norm.moving_variance.assign([4.0, 4.0, 4.0])
    ax = plots.features(chain, (-3.0, 5.0)).axes[0]
    assert legend(ax) == ["unit 0", "unit 1", "unit 2"]
    assert ax.get_xlim() == (-3.0, 5.0)
    for unit, line in enumerate(ax.lines):
        x, y = line.get_data()
        assert (x.min(), x.max()) == (-3.0, 5.0)
        expected = np.maximum((kernel[0, unit] * x + bias[unit] - norm.moving_mean[unit].__array__()) / 2, 0)
        np.testing.assert_allclose(y, expected, atol=1e-5)


def test_features_have_a_tick_where_each_unit_bends():
    layer = dense([[1.0, -2.0, 0.0, 1.0]], [0.5, 1.0, 1.0, FAR])
    ax = plots.features(layer, (-1.0, 1.0)).axes[0]
    (rows,) = ax.child_axes
    places = [line.get_xdata() for line in rows.lines]
    np.testing.assert_allclose(places, [[-0.5], [0.5], [np.nan], [-FAR]])
    assert {line.get_marker() for line in rows.lines} == {"|"}
    assert [line.get_color() for line in rows.lines] == [line.get_color() for line in ax.lines]
    assert [label.get_text() for label in rows.get_yticklabels()] == ["boundaries"]
    assert rows.get_xlim() == ax.get_xlim() == (-1.0, 1.0)
    # Nothing is behind the row.
    top_of_row = ax.transData.inverted().transform(rows.transAxes.transform((0, 1)))[1]
    assert min(line.get_ydata().min() for line in ax.lines) > top_of_row
    assert all(tick > top_of_row for tick in ax.get_yticks())


@pytest.mark.parametrize(("records", "steps"), [(3, [0, 10, 20]), (50, [0, 70, 140, 210, 280, 350, 420, 490])])
def test_features_show_some_steps_of_the_training(records, steps):
    over = track(np.arange(records)[:, None, None] + np.array([0.0, 100.0])[:, None])
    ax = plots.features(dense([[1.0, 1.0]], [0.0, 0.0]), (0.0, 200.0), over).axes[0]
    (rows,) = ax.child_axes
    assert [label.get_text() for label in rows.get_yticklabels()] == [str(step) for step in steps]
    assert list(rows.get_yticks()) == list(range(len(steps)))  # the first at the bottom
    for unit, line in enumerate(rows.lines):
        np.testing.assert_array_equal(line.get_xdata(), np.array(steps) / 10 + 100 * unit)
        np.testing.assert_array_equal(line.get_ydata(), range(len(steps)))


def test_many_units_are_not_named():
    ax = plots.features(dense(np.ones((1, 8)), np.zeros(8)), (-1.0, 1.0)).axes[0]
    assert len(ax.lines) == 8
    assert ax.get_legend() is None
    assert to_hex(COLOURS[-1]) not in {to_hex(line.get_color()) for line in ax.lines}


def test_lines_are_where_the_units_switch():
    ax = plots.boundaries_2d(PLANE, limits=((-1.0, 2.0), (-3.0, 1.0))).axes[0]
    assert (ax.get_xlim(), ax.get_ylim()) == ((-1.0, 2.0), (-3.0, 1.0))
    found = lines(ax)
    assert len(found) == 3
    for ends, normal, offset in zip(found, PLANE.normals, PLANE.offsets, strict=True):
        np.testing.assert_allclose(ends @ normal + offset, 0.0, atol=1e-12)
        on_border = (
            np.isclose(ends[:, 0], -1)
            | np.isclose(ends[:, 0], 2)
            | np.isclose(ends[:, 1], -3)
            | np.isclose(ends[:, 1], 1)
        )
        assert on_border.all()
        assert np.linalg.norm(ends[0] - ends[1]) > 1
    (dots,) = ax.lines
    np.testing.assert_array_equal(np.transpose(dots.get_data()), PLANE.locations)
    assert ax.get_aspect() == 1  # right angles are not distorted


def test_boundaries_that_are_missing_or_outside_are_not_drawn():
    found = hyperplanes([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]], [1.0, 0.0, 7.0])
    assert np.isnan(found.normals[0]).all()
    np.testing.assert_allclose(lines(plots.boundaries_2d(found, limits=(-2, 2)).axes[0]), [[[0, -2], [0, 2]]])


def test_limits_hold_the_points():
    points = np.array([[0.0, 10.0], [4.0, 30.0], [2.0, 20.0]])
    ax = plots.boundaries_2d(hyperplanes([[1.0, 0.0]], [FAR]), points).axes[0]
    np.testing.assert_allclose([*ax.get_xlim(), *ax.get_ylim()], [-0.4, 4.4, 8, 32])
    assert legend(ax)[0] == "data"


def test_a_far_location_does_not_squeeze_the_picture():
    turns = np.linspace(0.0, 5.0, 8)
    near = np.stack([np.cos(turns), np.sin(turns)], axis=-1)
    limits = []
    for locations in (near, np.vstack([near, [FAR, -FAR]])):
        n = len(locations)
        found = cab.Boundaries(np.tile([1.0, 0.0], (n, 1)), np.zeros(n), locations, np.arange(n))
        ax = plots.boundaries_2d(found).axes[0]
        limits.append([ax.get_xlim(), ax.get_ylim()])
    np.testing.assert_array_equal(*limits)
    np.testing.assert_allclose(limits[0], [[-1.2, 1.2]] * 2, atol=0.1)


@pytest.mark.parametrize("locations", [np.zeros((3, 2)), np.full((2, 2), np.nan), np.ones((1, 2)), np.eye(5, 2)])
def test_limits_are_sensible_for_few_or_equal_locations(locations):
    n = len(locations)
    ax = plots.boundaries_2d(cab.Boundaries(np.tile([1.0, 0.0], (n, 1)), np.zeros(n), locations, np.arange(n))).axes[0]
    for low, high in (ax.get_xlim(), ax.get_ylim()):
        assert 1.0 < high - low <= 2.0
    present = locations[np.isfinite(locations).all(axis=1)]
    assert np.all((ax.get_xlim()[0] < present[:, 0]) & (present[:, 0] < ax.get_xlim()[1]))


def test_points_are_coloured_by_label():
    points = normal(30, 2)
    labels = np.repeat(["a", "b", "c"], 10)
    ax = plots.boundaries_2d(PLANE, points, labels).axes[0]
    assert legend(ax) == ["class a", "class b", "class c", "boundary", "location"]
    for index, (dots, label) in enumerate(zip(ax.collections, "abc", strict=False)):
        np.testing.assert_array_equal(dots.get_offsets(), points[labels == label])
        assert to_hex(dots.get_facecolor()) == to_hex(COLOURS[index])


@pytest.mark.parametrize(
    "reshape", [lambda scores: scores, lambda scores: keras.ops.convert_to_tensor(scores[:, None])]
)
def test_the_decision_is_where_scores_are_0(reshape):
    ax = plots.boundaries_2d(PLANE, limits=(-1, 1), decision=lambda x: reshape(x[:, 1] - x[:, 0] ** 2 + 0.2)).axes[0]
    (path,) = ax.collections[-1].get_paths()
    x, y = path.vertices.T
    np.testing.assert_allclose(y, x**2 - 0.2, atol=1e-3)
    assert len(x) > 100
    assert ax.collections[-1].get_linewidths()[0] > 2 * ax.collections[0].get_linewidths()[0]
    assert "decision" in legend(ax)


def test_scores_of_one_sign_have_no_line():
    ax = plots.boundaries_2d(PLANE, decision=lambda x: 1 + x[:, 0] ** 2).axes[0]
    assert len(ax.collections) == 1  # the boundaries


def test_trajectories_in_one_dimension_run_over_steps():
    ax = plots.trajectories(PATHS[1]).axes[0]
    for unit, line in enumerate(ax.lines):
        np.testing.assert_array_equal(line.get_xdata(), PATHS[1].steps)
        np.testing.assert_array_equal(line.get_ydata(), PATHS[1].locations[:, unit, 0])
    assert legend(ax) == ["unit 0", "unit 1", "unit 2"]
    assert "step" in ax.get_xlabel()


def test_trajectories_in_two_dimensions_have_a_start_and_an_end():
    locations = PATHS[2].locations.copy()
    locations[0, 0] = locations[:, 1] = np.nan
    ax = plots.trajectories(track(locations)).axes[0]
    assert legend(ax) == ["unit 0", "unit 1", "unit 2", "start", "end"]
    dots = [line for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata())]
    np.testing.assert_array_equal(
        [np.ravel(dot.get_data()) for dot in dots],
        [locations[1, 0], locations[-1, 0], locations[0, 2], locations[-1, 2]],  # the second unit never had weights
    )
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [True, False, True, False]
    paths = [line for line in ax.lines if line.get_marker() == "None"]
    np.testing.assert_array_equal(np.transpose(paths[2].get_data()), locations[:, 2])


@pytest.mark.parametrize("inputs", [1, 2])
def test_one_jump_does_not_squeeze_the_trajectories(inputs):
    locations = PATHS[inputs].locations.copy()
    locations[7, 0] = FAR
    ax = plots.trajectories(track(locations)).axes[0]
    assert np.ptp(ax.get_ylim()) < 50
    if inputs == 2:
        assert np.ptp(ax.get_xlim()) < 50


def test_the_largest_change_of_any_boundary_is_drawn():
    moves = np.array([[0.0, 0.0], [1e-3, 2.0], [0.0, 0.0], [30.0, 0.1]])
    tracks = {"SP": track(np.zeros((4, 2, 1)), moves, moves / 10), "GmP": track(np.zeros((4, 2, 1)), 1.0)}
    ax = plots.largest_changes(tracks).axes[0]
    assert ax.get_yscale() == "log"
    assert legend(ax) == ["SP", "GmP"]
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [0, 10, 20, 30])
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [np.nan, 2.0, np.nan, 30.0])
    assert ax.lines[0].get_marker() == "."  # otherwise a record between gaps would be invisible
    assert 0 < ax.get_ylim()[0] <= 1.0

    ax = plots.largest_changes(tracks, "turns").axes[0]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.degrees([np.nan, 0.2, np.nan, 3.0]))
    assert "degrees" in ax.get_ylabel()


def test_no_change_at_all_can_be_drawn():
    figure = plots.largest_changes({"frozen": track(np.zeros((4, 2, 1)))})
    figure.draw_without_rendering()
    assert np.isnan(figure.axes[0].lines[0].get_ydata()).all()


@pytest.fixture
def planes(monkeypatch):
    """Collects the corners of the planes that are drawn."""
    drawn = []

    class Recorder(Poly3DCollection):
        def __init__(self, corners, **options):
            drawn.extend(corners)
            super().__init__(corners, **options)

    monkeypatch.setattr(plots, "Poly3DCollection", Recorder)
    return drawn


def test_planes_end_at_the_cube(planes):
    ax = plots.planes_3d(SPACE).axes[0]
    square, hexagon = planes  # the third one is outside
    np.testing.assert_allclose(square[:, 0], -0.5)
    np.testing.assert_allclose(np.abs(square[:, 1:]), 1.0)
    np.testing.assert_allclose(hexagon.sum(axis=1), 0.0, atol=1e-6)
    np.testing.assert_allclose(np.sort(np.abs(hexagon), axis=1), [[0, 1, 1]] * 6, atol=1e-6)
    for corners in (square, hexagon):  # sorted: no side is a diagonal
        sides = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1)
        np.testing.assert_allclose(sides, sides[0], rtol=1e-5)
    assert legend(ax) == ["unit 0", "unit 1"]
    assert [ax.get_xlim(), ax.get_ylim(), ax.get_zlim()] == [(-1, 1)] * 3


def test_normals_start_at_locations(planes):
    found = hyperplanes([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0], [1.0, 0.3, 0.3]], [1.5, 1.0, 1.5])
    ax = plots.planes_3d(found, limits=(-1.0, 1.0)).axes[0]
    assert len(planes) == 2
    (arrow,) = (each for each in ax.collections if not isinstance(each, Poly3DCollection))  # the other is outside
    tip, start = np.array(arrow._segments3d[0])
    np.testing.assert_allclose(start, found.locations[0], atol=1e-6)
    along = tip - start
    np.testing.assert_allclose(along / np.linalg.norm(along), found.normals[0], atol=1e-6)


@pytest.fixture
def tmaf():
    layer = layers.TMAF(bandwidth=1, thresholds=(-1.0, 0.0))
    layer.build((None, 4))
    layer.levels.assign(np.random.default_rng(1).normal(size=layer.levels.shape))
    return layer


def test_classes_keep_their_colours_over_figures():
    hidden = keras.layers.Dense(4, activation="relu", name="hidden")
    model = keras.Sequential([keras.Input((2,)), hidden, keras.layers.Dense(1)])
    points, labels = normal(20, 2), np.arange(20) % 3
    figures = [
        plots.boundaries_2d(cab.boundaries(hidden), points, labels),
        plots.slice_2d(cab.slice_regions(model, cab.Plane.of_inputs()), points, labels),
    ]
    colours = []
    for figure in figures:
        legends = figure.axes[0].get_legend_handles_labels()
        found = {
            label: handle.get_facecolor()[0, :3].tolist()
            for handle, label in zip(*legends, strict=True)
            if "class" in label
        }
        assert list(found) == ["class 0", "class 1", "class 2"]
        colours.append(found)
    assert colours[0] == colours[1]
    (line,) = (handle for handle, label in zip(*legends, strict=True) if label == "hidden")
    assert line.get_color()[0, :3].tolist() not in found.values()


def test_entries_of_a_matrix_activation(tmaf):
    ax = plots.activation(tmaf, normal(100, 4), channels=(0, 2)).axes[0]
    drawn = {(to_hex(each.get_edgecolor()), each.get_linestyle()): each.get_data() for each in ax.patches}
    expected = {}
    for channel, colour in {0: "#0072b2", 2: "#d55e00"}.items():
        places = (-2.0, -0.5, 1.0)  # one in each interval
        inputs = np.outer(places, np.eye(4)[channel])
        column = keras.ops.convert_to_numpy(tmaf(inputs)) / np.reshape(places, (3, 1))
        for row in {channel - 1, channel, channel + 1} & set(range(4)):
            line = "-" if row == channel else "--" if row < channel else ":"
            expected[colour, line] = column[:, row]
    assert drawn.keys() == expected.keys()
    for key, steps in drawn.items():
        np.testing.assert_allclose(steps.values, expected[key], rtol=1e-5)
        np.testing.assert_array_equal(steps.edges, [ax.get_xlim()[0], -1.0, 0.0, ax.get_xlim()[1]])
    assert legend(ax) == ["channel 0", "channel 2", "diagonal", "above diagonal", "below diagonal", "inputs"]


def test_shared_entries_are_drawn_once():
    layer = layers.TMAF(bandwidth=1, shared=True)
    layer.build((None, 4))
    ax = plots.activation(layer, normal(10, 4)).axes[0]
    assert len(ax.patches) == 3
    assert legend(ax)[0] == "all channels"


def test_far_thresholds_are_within_the_limits():
    layer = layers.TMAF(bandwidth=0, thresholds=(-50.0, 0.0), train_thresholds=True)
    layer.build((None, 4))
    ax = plots.activation(layer, normal(10, 4)).axes[0]
    assert ax.get_xlim()[0] < -50
    assert legend(ax) == ["channel 0", "channel 1", "channel 2", "inputs"]


def test_a_curve_that_all_channels_share():
    layer = layers.CRReLU(epsilon_initializer=0.5, name="mine")
    layer.build((None, 5))
    ax = plots.activation(layer, normal(10, 3, 5)).axes[0]
    assert legend(ax) == ["ReLU", "mine", "inputs"]
    relu, curve = ax.lines
    x, y = curve.get_data()
    np.testing.assert_allclose(y, np.maximum(x, 0) + 0.5 * x * np.exp(-(x**2) / 2), atol=1e-6)
    np.testing.assert_array_equal(relu.get_ydata(), np.maximum(x, 0))
    assert relu.get_linewidth() < curve.get_linewidth()
    assert relu.get_zorder() > curve.get_zorder()  # otherwise a similar curve would hide it


@pytest.mark.parametrize("axis", [-1, 1])
def test_curves_of_channels(axis):
    shape = (10, 2, 3, 5)
    layer = layers.CRReLU(axis=axis)
    layer.build(shape)
    layer.epsilon.assign(np.arange(shape[axis]))
    ax = plots.activation(layer, normal(*shape), channels=[1, 0]).axes[0]
    assert legend(ax) == ["ReLU", "channel 1", "channel 0", "inputs"]
    for epsilon, line in zip((1, 0), ax.lines[1:], strict=True):
        x, y = line.get_data()
        np.testing.assert_allclose(y, np.maximum(x, 0) + epsilon * x * np.exp(-(x**2) / 2), atol=1e-6)


def test_the_histogram_is_behind_and_holds_the_inputs():
    inputs = normal(100, 4)
    inputs[0, 0] = FAR
    ax, behind = plots.activation(keras.activations.gelu, inputs).axes
    assert np.ptp(ax.get_xlim()) < 12
    assert sum(bar.get_height() for bar in behind.patches) > 390
    assert ax.get_zorder() > behind.get_zorder()
    assert not ax.patch.get_visible()
    assert legend(ax) == ["ReLU", "gelu", "inputs"]


def test_dropout_and_the_like_are_off():
    layer = keras.layers.GaussianNoise(0.5)
    layer.build((None, 4))
    ax = plots.activation(layer, normal(10, 4)).axes[0]
    np.testing.assert_allclose(ax.lines[1].get_ydata(), ax.lines[1].get_xdata(), rtol=1e-6)


PLAIN_1D, PLAIN_2D = dense([[1.0]], [0.0]), dense([[1.0], [1.0]], [0.0])
POINTS = np.zeros((4, 2))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: plots.features(PLAIN_2D, (-1, 1)), ValueError, "`units` must be of units with 1 input. Received: 2"),
        (lambda: plots.features("dense", (-1, 1)), TypeError, "Received: 'dense'"),
        (lambda: plots.features(PLAIN_1D, (-1, 1), PATHS[2]), ValueError, "`track` must .* Received: 2 inputs"),
        (lambda: plots.features(PLAIN_1D, (-1, 1), 3), TypeError, "`track` must be a Track. Received: track=3"),
        (lambda: plots.features(PLAIN_1D, (1, -1)), ValueError, r"`limits` must .* Received: limits=\(1, -1\)"),
        (lambda: plots.features(PLAIN_1D, "wide"), ValueError, "Received: limits='wide'"),
        (lambda: plots.boundaries_2d(SPACE), ValueError, "`boundaries` must .* 2 inputs. Received: 3 inputs"),
        (lambda: plots.boundaries_2d(PLAIN_2D), TypeError, "`boundaries` must be Boundaries. Received: bound"),
        (lambda: plots.boundaries_2d(PLANE, np.zeros((4, 3))), ValueError, r"Received: points.shape=\(4, 3\)"),
        (lambda: plots.boundaries_2d(PLANE, POINTS, [0, 1]), ValueError, r"`labels` must .* labels.shape=\(2,\)"),
        (lambda: plots.boundaries_2d(PLANE, labels=[0, 1]), ValueError, "`labels` must .* points=None"),
        (lambda: plots.boundaries_2d(PLANE, limits=(0, np.inf)), ValueError, "`limits` must"),
        (lambda: plots.boundaries_2d(PLANE, decision=lambda x: x), ValueError, r"scores.shape=\(40401, 2\)"),
        (lambda: plots.trajectories(PATHS[3]), ValueError, "`track` must .* 1 or 2 inputs. Received: 3 inputs"),
        (lambda: plots.trajectories(PLANE), TypeError, "`track` must be a Track. Received: track=Bound"),
        (lambda: plots.largest_changes(PATHS[1]), TypeError, "`tracks` must be a mapping"),
        (lambda: plots.largest_changes({"a": 3}), TypeError, r"`tracks\['a'\]` must be a Track"),
        (lambda: plots.largest_changes({}), ValueError, "`tracks` must"),
        (lambda: plots.largest_changes(PATHS, "jumps"), ValueError, "`quantity` must .* Received: quantity='jumps'"),
        (lambda: plots.planes_3d(PLANE), ValueError, "`boundaries` must .* 3 inputs. Received: 2 inputs"),
        (lambda: plots.planes_3d(SPACE, ax=plt.Figure().subplots()), TypeError, "`ax` must be axes with projection"),
        (lambda: plots.planes_3d(SPACE, ((0, 1), (0, 1))), ValueError, "`limits` must .* each of 3 inputs"),
        (lambda: plots.activation("relu", POINTS), TypeError, "`layer` must .* Received: layer='relu'"),
        (lambda: plots.activation(layers.CRReLU(), POINTS), ValueError, "`layer` must be built"),
        (lambda: plots.activation(PLAIN_2D, POINTS), ValueError, "`layer` must give outputs of the shape"),
        (lambda: plots.activation(keras.ops.relu, np.zeros(4)), ValueError, r"inputs.shape=\(4,\)"),
        (lambda: plots.activation(keras.ops.relu, POINTS, [2]), ValueError, r"`channels` must .* channels=\[2\]"),
        (lambda: plots.activation(keras.ops.relu, POINTS, []), ValueError, "`channels` must"),
    ],
)
def test_bad_input_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
    assert not plt.get_fignums()


def test_a_missing_matplotlib_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.delitem(sys.modules, "keras_actlab.cab.plots")
    with pytest.raises(ImportError, match=r"keras_actlab\.cab\.plots needs matplotlib.*keras-actlab\[lab\]"):
        importlib.import_module("keras_actlab.cab.plots")
