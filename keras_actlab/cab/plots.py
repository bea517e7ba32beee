"""Plots of units, of their boundaries and of the boundaries during training, and of trainable activations.

Every function draws into the given axes, or into a new figure, and returns the figure.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_actlab.arguments import check_choice, check_type, integer, numbers, received
from keras_actlab.cab import geometry
from keras_actlab.cab.affine import Units, current
from keras_actlab.cab.geometry import Boundaries
from keras_actlab.cab.slices import Slice
from keras_actlab.cab.track import Track
from keras_actlab.colours import COLOURS
from keras_actlab.layers import TMAF

try:
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.figure import Figure
    from mpl_toolkits.mplot3d import Axes3D
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection
except ImportError as error:
    raise ImportError(
        f"keras_actlab.cab.plots needs {error.name}. Install the extra [lab]: pip install 'keras-actlab[lab]'"
    ) from error

LINE_COLOURS = COLOURS[:-1]  # the last one, yellow, is too pale for lines on white
GREY = "0.35"
ROWS = 8  # number of training steps that `features` shows
GRID = 201  # points along an axis at which functions are evaluated
CHANNELS = 3  # default number of channels to show


def features(units: Units, limits: tuple[float, float], track: Track | None = None, ax: Axes | None = None) -> Figure:
    """Plots the outputs of units with one input, and the positions of their boundaries below.

    With a track, the boundaries are shown at about eight steps of the training run, the first one at the bottom.

    Args:
        units: A built layer with one input, or a tuple of layers, as in `cab.boundaries`. They run in inference mode.
        limits: Ends of the interval of inputs.
        track: The boundaries of these units during training; None for the current boundaries.
        ax: Axes to draw into.

    Returns:
        The figure. Boundaries outside the limits are not drawn.

    Raises:
        TypeError: If `units` is neither a layer nor a tuple of layers, or `track` is not a `Track`.
        ValueError: If units or track have several inputs, `limits` is not an interval, or as in `cab.boundaries`.

    Example:

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from keras_actlab.cab import plots
    >>> layer = keras.layers.Dense(5, activation="relu")
    >>> layer.build((None, 1))
    >>> figure = plots.features(layer, limits=(-1.0, 1.0))
    >>> figure.axes[0].get_ylabel()
    'output of each unit'
    """
    now = geometry.boundaries(units)
    _check_inputs("units", now.normals, 1)
    if track is not None:
        _check_track("track", track)
        _check_inputs("track", track.normals, 1)
    ((low, high),) = _limits(limits, 1)
    x = np.linspace(low, high, 2 * GRID)[:, None]
    y = x
    for layer in units if isinstance(units, tuple) else (units,):
        y = layer(y, training=False)
    y = numbers("y", y)
    if track is None:
        names, locations, units_of = ["boundaries"], now.locations[None], now.units
    else:
        records = np.unique(np.linspace(0, len(track.steps) - 1, ROWS).round().astype(int))
        names, locations, units_of = [str(step) for step in track.steps[records]], track.locations[records], track.units

    ax = _axes(ax, (6.4, 4.8))
    for output, style in zip(y.T, _styles(np.arange(y.shape[1])), strict=True):
        ax.plot(x[:, 0], output, linewidth=1, **style)
    height = 0.045 * len(names) + 0.03  # of the rows
    bottom, top = ax.get_ylim()
    ax.set_yticks([tick for tick in ax.get_yticks() if bottom <= tick <= top])
    ax.set(xlim=(low, high), ylim=(top - (top - bottom) / (1 - height), top))
    ax.set_ylabel("output of each unit", y=(1 + height) / 2)
    ax.tick_params(bottom=False, labelbottom=False)
    rows = ax.inset_axes((0, 0, 1, height), sharex=ax)
    for path, style in zip(locations[..., 0].T, _styles(units_of), strict=True):
        rows.plot(path, range(len(names)), color=style["color"], marker="|", markersize=9, linewidth=0.4)
    rows.set(xlabel="input", ylim=(-0.8, len(names) - 0.2), yticks=range(len(names)), yticklabels=names)
    rows.tick_params(labelsize="small")
    if track is not None:
        rows.set_ylabel("boundaries at step")
    return _add_legend(ax)


def boundaries_2d(
    boundaries: Boundaries,
    points: Any = None,
    labels: Any = None,
    decision: Callable[[np.ndarray], Any] | None = None,
    limits: Any = None,
    ax: Axes | None = None,
) -> Figure:
    """Plots boundaries of units with two inputs as lines, with their locations as dots.

    Args:
        boundaries: The result of `cab.boundaries` or `Track.at`.
        points: Inputs, shape `(points, 2)`.
        labels: A label for each point, which determines its colour.
        decision: Function of inputs, shape `(n, 2)`, that returns n scores, such as the logits of a classifier, or its
            probabilities minus 0.5. A thick line marks a score of 0.
        limits: `(low, high)` for both inputs, or one such pair for each. By default the limits include all points, or
            without points the locations, except for outliers.
        ax: Axes to draw into.

    Returns:
        The figure. Boundaries outside the limits are not drawn.

    Raises:
        TypeError: If `boundaries` is not a `Boundaries`.
        ValueError: If the number of inputs is not two, the shapes of `points`, `labels` and scores do not match, or
            `limits` are not intervals.

    Example:

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from keras_actlab import cab
    >>> from keras_actlab.cab import plots
    >>> layer = keras.layers.Dense(5, activation="relu")
    >>> layer.build((None, 2))
    >>> parabola = lambda x: x[:, 0] ** 2 - x[:, 1]
    >>> figure = plots.boundaries_2d(cab.boundaries(layer), decision=parabola, limits=(-1.0, 1.0))
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['boundary', 'location', 'decision']
    """
    _check_boundaries(boundaries, 2)
    classes = _points_by_label(points, labels)
    if limits is not None:
        limits = _limits(limits, 2)
    else:
        limits = _range(np.concatenate([*classes.values()])) if classes else _robust_range(boundaries.locations)
    if decision is not None:
        if not callable(decision):
            raise TypeError(f"`decision` must be a function or None. {received('decision', decision)}")
        grid = np.stack(np.meshgrid(*(np.linspace(low, high, GRID) for low, high in limits)), axis=-1)
        scores = numbers("decision", decision(grid.reshape(-1, 2)))
        if scores.size != GRID**2:
            raise ValueError(
                f"`decision` must return a score for each of {GRID**2} inputs. Received: scores.shape={scores.shape}"
            )

    ax = _axes(ax, (6, 4.5))
    for index, (name, places) in enumerate(classes.items()):
        ax.scatter(places[:, 0], places[:, 1], s=12, color=_colour(index), alpha=0.5, linewidths=0, label=name)
    ends = [_box_intersection(*plane, limits) for plane in zip(boundaries.normals, boundaries.offsets, strict=True)]
    ax.add_collection(LineCollection([each for each in ends if len(each)], colors=GREY, linewidths=1, label="boundary"))
    ax.plot(*boundaries.locations.T, "o", color=GREY, markersize=4, label="location")
    if decision is not None:
        ax.plot([], [], color="black", linewidth=2.5, label="decision")
        if scores.min() <= 0 <= scores.max():  # Matplotlib warns about an empty contour
            ax.contour(
                *np.moveaxis(grid, -1, 0), scores.reshape(GRID, GRID), levels=[0.0], colors="black", linewidths=2.5
            )
    ax.set(xlim=limits[0], ylim=limits[1], xlabel="input 1", ylabel="input 2", aspect="equal")
    return _add_legend(ax)


def slice_2d(sliced: Slice, points: Any = None, labels: Any = None, ax: Axes | None = None) -> Figure:
    """Plots the linear regions of a network on a plane, with one colour for the boundaries of each layer.

    Args:
        sliced: The result of `cab.slice_regions`.
        points: Coordinates (a, b) on the plane, shape `(points, 2)`.
        labels: A label for each point, which determines its colour.
        ax: Axes to draw into.

    Returns:
        The figure.

    Raises:
        TypeError: If `sliced` is not a `Slice`.
        ValueError: If the shapes of `points` and `labels` do not match.

    Example:

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from keras_actlab import cab
    >>> from keras_actlab.cab import plots
    >>> hidden = keras.layers.Dense(8, activation="relu", name="hidden")
    >>> model = keras.Sequential([keras.Input((2,)), hidden, keras.layers.Dense(1)])
    >>> figure = plots.slice_2d(cab.slice_regions(model, cab.Plane.of_inputs()))
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['hidden']
    """
    if not isinstance(sliced, Slice):
        raise TypeError(f"`sliced` must be a Slice. Received: sliced={sliced!r}")
    classes = _points_by_label(points, labels)
    ax = _axes(ax, (6, 4.5))
    ax.add_collection(PolyCollection(sliced.polygons, facecolors=COLOURS, alpha=0.1, linewidths=0))
    names = list(dict.fromkeys(sliced.layers))  # in the order of computation
    for index, name in enumerate(names, len(classes)):
        segments = sliced.segments[sliced.layers == name]
        ax.add_collection(LineCollection(segments, colors=_colour(index), linewidths=1, label=name))
    for index, (name, places) in enumerate(classes.items()):  # in the same colours as in `boundaries_2d`
        ax.scatter(places[:, 0], places[:, 1], s=12, color=_colour(index), label=name)
    ax.set(xlim=sliced.plane.limits[0], ylim=sliced.plane.limits[1], xlabel="a", ylabel="b")
    return _add_legend(ax)


def trajectories(track: Track, ax: Axes | None = None) -> Figure:
    """Plots the locations of boundaries during training: over the steps with one input, as paths with two inputs.

    Args:
        track: The boundaries during training.
        ax: Axes to draw into.

    Returns:
        The figure. Its limits include the locations, except for outliers.

    Raises:
        TypeError: If `track` is not a `Track`.
        ValueError: If the number of inputs is neither one nor two.

    Example:

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from keras_actlab import cab
    >>> from keras_actlab.cab import plots
    >>> normals, none = np.ones((10, 1, 1)), np.zeros((10, 1))
    >>> locations = np.linspace(0.0, 1.0, 10)[:, None, None]
    >>> track = cab.Track(np.arange(10), normals, locations, moves=none, turns=none, units=np.array([0]))
    >>> plots.trajectories(track).axes[0].get_xlabel()
    'training step'
    """
    _check_track("track", track)
    _check_inputs("track", track.normals, 1, 2)
    inputs = track.locations.shape[-1]
    limits = _robust_range(track.locations.reshape(-1, inputs))
    paths, styles = np.moveaxis(track.locations, 1, 0), _styles(track.units)
    ax = _axes(ax, (6.4, 4))
    if inputs == 1:
        for path, style in zip(paths, styles, strict=True):
            ax.plot(track.steps, path[:, 0], linewidth=1, **style)
        ax.set(xlabel="training step", ylabel="location (unit of the input)", ylim=limits[0])
    else:
        for path, style in zip(paths, styles, strict=True):
            ax.plot(*path.T, linewidth=1, alpha=0.7, **style)
            present = path[np.isfinite(path).all(axis=-1)]
            ax.plot(*present[:1].T, "o", color=style["color"], markersize=5, markerfacecolor="white")
            ax.plot(*present[-1:].T, "o", color=style["color"], markersize=5)
        ax.plot([], [], "o", color=GREY, markersize=5, markerfacecolor="white", label="start")
        ax.plot([], [], "o", color=GREY, markersize=5, label="end")
        ax.set(xlim=limits[0], ylim=limits[1], xlabel="input 1", ylabel="input 2", aspect="equal")
    return _add_legend(ax)


def largest_changes(tracks: Mapping[str, Track], quantity: str = "moves", ax: Axes | None = None) -> Figure:
    """Plots the largest change of any boundary during training, for each track, on a logarithmic axis.

    Args:
        tracks: Tracks by name, such as one for each method.
        quantity: "moves" for the distances that locations moved between snapshots, or "turns" for the angles that
            normals turned, in degrees.
        ax: Axes to draw into.

    Returns:
        The figure. Where nothing changed, the line has a gap.

    Raises:
        TypeError: If `tracks` is not a mapping of names to tracks.
        ValueError: If `tracks` is empty, or `quantity` is unknown.

    Example:

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from keras_actlab import cab
    >>> from keras_actlab.cab import plots
    >>> normals = np.ones((3, 1, 1))
    >>> changes = np.array([[0.0], [0.1], [0.01]])
    >>> track = cab.Track(np.arange(3), normals, normals, moves=changes, turns=changes, units=np.array([0]))
    >>> plots.largest_changes({"GmP": track}, "turns").axes[0].get_ylabel()
    'largest turn of a boundary (degrees)'
    """
    if not isinstance(tracks, Mapping):
        raise TypeError(f"`tracks` must be a mapping of names to tracks. Received: {tracks!r}")
    for name, track in tracks.items():
        _check_track(f"tracks[{name!r}]", track)
    if not tracks:
        raise ValueError("`tracks` must hold a track at least. Received: none")
    axis_labels = {
        "moves": "largest move of a location (unit of the inputs)",
        "turns": "largest turn of a boundary (degrees)",
    }
    check_choice("quantity", quantity, axis_labels)
    ax = _axes(ax, (6.4, 4))
    for index, (name, track) in enumerate(tracks.items()):
        changes = track.moves if quantity == "moves" else np.degrees(track.turns)
        largest = changes.max(axis=1)
        shown = np.where(largest > 0, largest, np.nan)
        # Dots as wide as the line, because a record between two gaps has no line.
        ax.plot(track.steps, shown, ".-", markersize=1.5, linewidth=1, color=_colour(index), label=name)
    ax.set(xlabel="training step", ylabel=axis_labels[quantity], yscale="log")
    return _add_legend(ax)


def planes_3d(boundaries: Boundaries, limits: Any = (-1.0, 1.0), ax: Axes | None = None) -> Figure:
    """Plots boundaries of units with three inputs as planes, with the normal of each plane at its location.

    Args:
        boundaries: The result of `cab.boundaries` or `Track.at`.
        limits: `(low, high)` for all inputs, or one such pair for each.
        ax: Axes with `projection="3d"` to draw into.

    Returns:
        The figure. Planes are clipped at the limits; planes and locations outside the limits are not drawn.

    Raises:
        TypeError: If `boundaries` is not a `Boundaries`, or `ax` is not 3-D axes.
        ValueError: If the number of inputs is not three, or `limits` are not intervals.

    Example:

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from keras_actlab import cab
    >>> from keras_actlab.cab import plots
    >>> layer = keras.layers.Dense(2, activation="relu")
    >>> layer.build((None, 3))
    >>> len(plots.planes_3d(cab.boundaries(layer)).axes[0].get_legend().get_texts())
    2
    """
    _check_boundaries(boundaries, 3)
    limits = _limits(limits, 3)
    if ax is not None and not isinstance(ax, Axes3D):
        raise TypeError(f'`ax` must be axes with projection="3d". Received: ax={ax!r}')
    space: Any = _axes(ax, (6, 4.5), projection="3d")
    length = 0.4 * np.min(limits[:, 1] - limits[:, 0])
    planes = zip(boundaries.normals, boundaries.offsets, boundaries.locations, _styles(boundaries.units), strict=True)
    for normal, offset, location, style in planes:
        corners = _box_intersection(normal, offset, limits)
        if not len(corners):
            continue
        colour = style["color"]
        space.add_collection3d(
            Poly3DCollection([_sort_corners(corners, normal)], alpha=0.3, edgecolors=colour, facecolors=colour)
        )
        space.plot([], [], [], linewidth=6, alpha=0.4, **style)  # for the legend, which does not support collections
        if np.all((limits[:, 0] <= location) & (location <= limits[:, 1])):
            space.plot(*location[:, None], "o", color=colour, markersize=4)
            space.quiver(*location, *length * normal, color=colour, linewidth=1.5, arrow_length_ratio=0.2)
    for axis, (low, high), name in zip("xyz", limits, ("input 1", "input 2", "input 3"), strict=True):
        space.set(**{f"{axis}lim": (low, high), f"{axis}ticks": (low, (low + high) / 2, high), f"{axis}label": name})
    space.set_box_aspect(limits[:, 1] - limits[:, 0], zoom=0.85)  # leaves room for the labels
    return _add_legend(space)


def activation(
    layer: Callable[..., Any], inputs: Any, channels: Sequence[int] | None = None, ax: Axes | None = None
) -> Figure:
    """Plots the curve of a trained activation over a histogram of its inputs.

    For a `TMAF`, the plot shows the entries of the matrix that depend on a channel, as step functions of that channel.
    For other activations, it shows the outputs and, for comparison, ReLU.

    Args:
        layer: A built activation layer, or a function of tensors. It must be elementwise, except for `TMAF`.
        inputs: Inputs of the activation, shape `(examples, ..., channels)`, or with the channels on the layer's `axis`.
        channels: Indices of the channels to plot; None for the first three. If all their curves are equal, one line is
            drawn. If a layer has parameters for each
            spatial position or time step, those of the first one are used.
        ax: Axes to draw into.

    Returns:
        The figure. Its limits include the inputs, except for outliers.

    Raises:
        TypeError: If `layer` is not callable.
        ValueError: If `layer` is not built or returns another shape, `inputs` is empty or has no channels, or a channel
            does not exist.

    Example:

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from keras_actlab.cab import plots
    >>> layer = keras_actlab.layers.TMAF(bandwidth=1)
    >>> inputs = np.random.default_rng(0).normal(size=(100, 8))
    >>> _ = layer(inputs)
    >>> plots.activation(layer, inputs, channels=[3]).axes[0].get_ylabel()
    'entry of the matrix'
    """
    if not callable(layer):
        raise TypeError(f"`layer` must be an activation layer or a function. Received: layer={layer!r}")
    if isinstance(layer, keras.Layer) and not layer.built:
        raise ValueError(f"`layer` must be built. Received: {layer.name} ({type(layer).__name__}), which is not")
    values = numbers("inputs", inputs)
    if values.ndim < 2 or not values.size:
        raise ValueError(
            f"`inputs` must have the shape (examples, ..., channels). Received: inputs.shape={values.shape}"
        )
    axis = getattr(layer, "axis", None) or -1
    count = values.shape[axis]
    if channels is None:
        channels = range(min(CHANNELS, count))
    check_type("channels", channels, Sequence, "a sequence of integers")
    chosen = [integer("channels", channel) for channel in channels]
    if not chosen or not all(channel in range(count) for channel in chosen):
        raise ValueError(f"`channels` must be of 0 to {count - 1}, one at least. Received: channels={channels}")
    ((low, high),) = _robust_range(values.reshape(-1, 1))

    if isinstance(layer, TMAF):
        thresholds = numbers("thresholds", layer.thresholds)
        low, high = min(low, thresholds[0] - 0.5), max(high, thresholds[-1] + 0.5)
        ax = _axes(ax, (6.4, 4))
        _draw_entries(ax, current(layer.levels), np.array([low, *thresholds, high]), count, chosen)
        ax.set_ylabel("entry of the matrix")
    else:
        x = np.linspace(low, high, GRID)
        curves = _curves(layer, x, values.shape[1:], axis)[:, chosen]
        ax = _axes(ax, (6.4, 4))
        # Dashed and above the curves, so that a curve close to ReLU is visible through the gaps.
        ax.plot(x, np.maximum(x, 0.0), "--", color="black", linewidth=1, zorder=3, label="ReLU")
        if np.allclose(curves, curves[:, :1]):
            name = getattr(layer, "name", getattr(layer, "__name__", "activation"))
            ax.plot(x, curves[:, 0], color=_colour(0), label=name)
        else:
            for index, channel in enumerate(chosen):
                ax.plot(x, curves[:, index], color=_colour(index), label=f"channel {channel}")
        ax.set_ylabel("output")
    ax.set(xlabel="input", xlim=(low, high))
    behind = ax.twinx()
    behind.hist(values.ravel(), bins=60, range=(low, high), color="0.88", label="inputs")
    behind.set_yticks([])
    ax.set_zorder(behind.get_zorder() + 1)
    ax.patch.set_visible(False)
    return _add_legend(ax, behind)


def _draw_entries(ax: Axes, levels: np.ndarray, edges: np.ndarray, count: int, chosen: list[int]) -> None:
    """Plots the entries of a matrix activation in the columns of `chosen`; levels (diagonals, m + 1, channels)."""
    bandwidth = len(levels) // 2
    columns = {f"channel {channel}": channel for channel in chosen}
    if levels.shape[-1] < count:
        columns = {"all channels": 0}
    lines = {0: "-", 1: "--", -1: ":"}
    for index, (name, channel) in enumerate(columns.items()):
        for place in range(-bandwidth, bandwidth + 1):
            row = channel - place
            if 0 <= row < count or levels.shape[-1] < count:
                entry = levels[bandwidth + place, :, channel]
                line, label = lines[int(np.sign(place))], name if place == 0 else None
                ax.stairs(entry, edges, baseline=None, color=_colour(index), linestyle=line, linewidth=1.5, label=label)
    if bandwidth:
        for line, label in zip(lines.values(), ("diagonal", "above diagonal", "below diagonal"), strict=True):
            ax.plot([], [], line, color=GREY, label=label)


def _curves(layer: Callable[..., Any], x: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """Returns the outputs of each channel for inputs that are equal at all positions, (len(x), channels)."""
    inputs = np.broadcast_to(x.reshape(-1, *[1] * len(shape)), (len(x), *shape)).astype("float32")
    options = {"training": False} if isinstance(layer, keras.Layer) else {}
    outputs = numbers("layer", layer(keras.ops.convert_to_tensor(inputs), **options))
    if outputs.shape != inputs.shape:
        raise ValueError(
            "`layer` must give outputs of the shape of its inputs. "
            f"Received: layer={layer!r}, which gives {outputs.shape} for {inputs.shape}"
        )
    outputs = np.moveaxis(outputs, axis, -1)
    return outputs.reshape(len(x), -1, outputs.shape[-1])[:, 0]


def _box_intersection(normal: np.ndarray, offset: float, limits: np.ndarray) -> np.ndarray:
    """Returns the intersections of a hyperplane with the edges of a box, (points, n): end points or corners.

    There are none if the hyperplane is outside the box or NaN.
    """
    corners = np.array(list(itertools.product(*limits)))
    heights = corners @ normal + offset
    points = [
        (heights[i] * corners[j] - heights[j] * corners[i]) / (heights[i] - heights[j])
        for i, j in itertools.combinations(range(len(corners)), 2)
        if (heights[i] > 0) != (heights[j] > 0) and np.sum(corners[i] != corners[j]) == 1
    ]
    return np.array(points).reshape(-1, len(normal))


def _sort_corners(corners: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Returns the corners of a convex polygon in space sorted by their angle around its centre."""
    across = np.linalg.svd(normal[None])[2][1:]  # (2, 3), in the plane
    return corners[np.argsort(np.arctan2(*across @ (corners - corners.mean(axis=0)).T))]


def _range(values: np.ndarray) -> np.ndarray:
    """Returns limits that include all values, (k, n) -> (n, 2)."""
    low, high = values.min(axis=0), values.max(axis=0)
    margin = np.where(high > low, 0.1 * (high - low), 1.0)
    return np.stack([low - margin, high + margin], axis=-1)


def _robust_range(values: np.ndarray) -> np.ndarray:
    """Returns limits that include all values except outliers, (k, n) -> (n, 2)."""
    values = values[np.isfinite(values).all(axis=-1)]
    if not len(values):
        return _range(np.zeros((1, values.shape[-1])))
    median = np.median(values, axis=0)
    distance = np.abs(values - median)
    most = np.quantile(distance, 0.75, axis=0, method="lower")
    return _range(np.where(distance <= 5.0 * np.where(most > 0, most, np.inf), values, median))


def _limits(limits: Any, inputs: int) -> np.ndarray:
    """Returns limits as an array (inputs, 2)."""
    try:
        pairs = np.broadcast_to(numbers("limits", limits), (inputs, 2))
    except (TypeError, ValueError):
        pairs = np.full((1, 2), np.nan)
    if not np.all(np.isfinite(pairs)) or not np.all(pairs[:, 0] < pairs[:, 1]):
        each = "" if inputs == 1 else f", or one such pair for each of {inputs} inputs"
        raise ValueError(f"`limits` must be (low, high), low < high{each}. Received: limits={limits!r}")
    return pairs


def _check_boundaries(boundaries: Boundaries, inputs: int) -> None:
    if not isinstance(boundaries, Boundaries):
        raise TypeError(f"`boundaries` must be Boundaries. Received: boundaries={boundaries!r}")
    _check_inputs("boundaries", boundaries.normals, inputs)


def _check_track(name: str, track: Track) -> None:
    if not isinstance(track, Track):
        raise TypeError(f"`{name}` must be a Track. Received: {name}={track!r}")


def _check_inputs(name: str, normals: np.ndarray, *allowed: int) -> None:
    if normals.shape[-1] not in allowed:
        wanted = f"{' or '.join(map(str, allowed))} input{'s' if max(allowed) > 1 else ''}"
        raise ValueError(f"`{name}` must be of units with {wanted}. Received: {normals.shape[-1]} inputs")


def _points_by_label(points: Any, labels: Any) -> dict[str, np.ndarray]:
    """Returns points in the plane by label; an empty dictionary if there are none."""
    if points is None and labels is None:
        return {}
    points = None if points is None else numbers("points", points)
    if points is not None and (points.ndim != 2 or points.shape[1] != 2 or not len(points)):
        raise ValueError(f"`points` must have the shape (points, 2). Received: points.shape={points.shape}")
    if labels is None:
        return {"data": points}
    labels = np.asarray(keras.ops.convert_to_numpy(labels))
    if points is None or labels.shape != points.shape[:1]:
        raise ValueError(
            "`labels` must be one for each of `points`. "
            f"Received: labels.shape={labels.shape}, points={None if points is None else points.shape}"
        )
    return {f"class {each}": points[labels == each] for each in np.unique(labels)}


def _colour(index: int) -> str:
    return LINE_COLOURS[index % len(LINE_COLOURS)]


def _styles(units: np.ndarray) -> list[dict[str, Any]]:
    """Returns plot options for each unit: its colour, and its name if no two units share a colour."""
    named = max(units, default=0) < len(LINE_COLOURS)
    return [{"color": _colour(unit), "label": f"unit {unit}" if named else None} for unit in units]


def _axes(ax: Axes | None, size: tuple[float, float], **options: Any) -> Any:
    check_type("ax", ax, (Axes, type(None)), "axes of Matplotlib, or None")
    if ax is None:
        figure, ax = plt.subplots(figsize=size, layout="constrained", subplot_kw=options)
        plt.close(figure)  # pyplot must not keep it
    return ax


def _add_legend(ax: Any, *others: Axes) -> Figure:
    """Adds a legend outside the axes, with each label once. Returns the figure."""
    found = [axes.get_legend_handles_labels() for axes in (ax, *others)]
    entries = {label: handle for handles, labels in found for handle, label in zip(handles, labels, strict=True)}
    if entries:
        handles, labels = list(entries.values()), list(entries)
        ax.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, fontsize="small")
    return ax.figure.figure  # of a subfigure, the whole
