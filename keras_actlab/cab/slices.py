"""Linear regions of a network on a plane in its input space, and the boundaries between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import keras
import numpy as np

from keras_actlab.arguments import numbers
from keras_actlab.cab.regions import Network

ROWS = 1024  # batch size for the network
# Values below this share of the largest value of a layer on a polygon count as 0; several times the rounding error.
TOLERANCE = 1e-5

Interval = tuple[float, float]


@dataclass(frozen=True)
class Plane:
    """A rectangle in the input space: the inputs `origin + a * first + b * second`.

    Args:
        origin: An input, without the batch axis.
        first: Direction of the coordinate a, an array of the same shape.
        second: Direction of the coordinate b, an array of the same shape.
        limits: Ends of the intervals of a and b.

    Raises:
        ValueError: If the shapes differ, a value is not finite, the directions are parallel, or a limit is not an
            increasing pair.

    Example:

    >>> from keras_actlab import cab
    >>> plane = cab.Plane(origin=[0.0, 0.0, 1.0], first=[1.0, 0.0, 0.0], second=[0.0, 1.0, 0.0])
    >>> plane.inputs([[0.5, -1.0]])
    array([[ 0.5, -1. ,  1. ]])
    """

    origin: np.ndarray
    first: np.ndarray
    second: np.ndarray
    limits: tuple[Interval, Interval] = ((-1.0, 1.0), (-1.0, 1.0))

    def __post_init__(self) -> None:
        arrays = {name: np.array(numbers(name, getattr(self, name))) for name in ("origin", "first", "second")}
        shapes = {name: array.shape for name, array in arrays.items()}
        if len(set(shapes.values())) > 1 or not arrays["origin"].ndim:
            raise ValueError(
                f"`origin`, `first` and `second` must have the shape of an input, all the same. Received: {shapes}"
            )
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise ValueError(f"`{name}` must be finite. Received: {name}={array}")
            object.__setattr__(self, name, array)
        directions = np.stack([self.first.ravel(), self.second.ravel()])
        products = directions @ directions.T
        if not np.linalg.det(products) > 1e-12 * products[0, 0] * products[1, 1]:
            raise ValueError(
                f"`first` and `second` must not be parallel, nor 0. Received: first={self.first}, second={self.second}"
            )
        limits = numbers("limits", self.limits)
        if limits.shape != (2, 2) or not np.isfinite(limits).all() or not (limits[:, 0] < limits[:, 1]).all():
            raise ValueError(f"`limits` must be two pairs of increasing finite numbers. Received: limits={self.limits}")

    @classmethod
    def of_inputs(cls, limits: tuple[Interval, Interval] = ((-1.0, 1.0), (-1.0, 1.0))) -> Self:
        """Returns the plane of all inputs of a model with two input features: a is the first one, b the second.

        Args:
            limits: Ends of the intervals of the two features.
        """
        return cls(np.zeros(2), np.array([1.0, 0.0]), np.array([0.0, 1.0]), limits)

    @classmethod
    def through(cls, points: Sequence[Any], limits: tuple[Interval, Interval] = ((-0.5, 1.5), (-0.5, 1.5))) -> Self:
        """Returns the plane through three inputs, such as images, with coordinates (0, 0), (1, 0) and (0, 1).

        Args:
            points: Three inputs of the same shape.
            limits: Ends of the intervals of a and b.

        Raises:
            ValueError: If there are not three points, their shapes differ, or they lie on one line.
        """
        if len(points) != 3:
            raise ValueError(f"`points` must be three inputs. Received: {len(points)} of them")
        arrays = [np.array(point, "float64") for point in points]
        if len({array.shape for array in arrays}) > 1:
            raise ValueError(f"`points` must have the same shape. Received: shapes={[array.shape for array in arrays]}")
        origin, second, third = arrays
        return cls(origin, second - origin, third - origin, limits)

    def inputs(self, coordinates: Any) -> np.ndarray:
        """Returns the inputs at coordinates (a, b).

        Args:
            coordinates: Shape `(points, 2)`.

        Returns:
            Float64 array of shape `(points, *shape of an input)`.
        """
        return self.origin + np.tensordot(np.asarray(coordinates, "float64"), np.stack([self.first, self.second]), 1)


@dataclass(frozen=True)
class Slice:
    """The activation regions of a network on a plane, the result of `slice_regions`. Points are coordinates (a, b).

    Attributes:
        plane: The plane.
        polygons: The regions: convex polygons, each an array of corners, shape `(k, 2)`, counter-clockwise.
        segments: End points of the boundary segments, shape `(segments, 2, 2)`.
        layers: Name of the layer of each segment, shape `(segments,)`.
        units: Index of the unit of each segment, in the order of `preactivations`, shape `(segments,)`.

    Example: one unit, whose boundary is the vertical axis.

    >>> from keras_actlab import cab
    >>> kernel = keras.initializers.Constant([[1.0], [0.0]])
    >>> hidden = keras.layers.Dense(1, activation="relu", kernel_initializer=kernel)
    >>> model = keras.Sequential([keras.Input((2,)), hidden, keras.layers.Dense(1)])
    >>> found = cab.slice_regions(model, cab.Plane.of_inputs(((-2, 2), (-1, 1))))
    >>> len(found.polygons), np.ptp(found.segments[0], axis=0).tolist(), found.units
    (2, [0.0, 2.0], array([0]))
    """

    plane: Plane
    polygons: list[np.ndarray]
    segments: np.ndarray
    layers: np.ndarray
    units: np.ndarray


def slice_regions(model: keras.Model, plane: Plane) -> Slice:
    r"""Returns the convex polygons of a plane on which a piecewise linear network is affine.

    The function proceeds layer by layer. On a polygon from the previous layers, each pre-activation is an affine
    function of (a, b), which is determined by its values at three or more points. Where the function passes a
    breakpoint of the activation, the polygon is split in two. The result contains the boundaries of units at any depth;
    they bend where they meet boundaries of previous layers.

    The subdivision is exact up to rounding. A region in which a pre-activation exceeds a breakpoint by less than 1e-5
    of the layer's largest value is merged with its neighbour.

    Args:
        model: As in `preactivations`, with no nonlinear layers but activations.
        plane: The plane.

    Returns:
        One polygon for each activation pattern on the plane, with all boundaries between them.

    Raises:
        TypeError: If `plane` is not a `Plane`, or `model` is not a Keras model.
        ValueError: As in `preactivations`, or if the network is not affine on each polygon, for example because of max
            pooling.

    Example: two units whose boundaries cross.

    >>> from keras_actlab import cab
    >>> hidden = keras.layers.Dense(2, activation="relu", kernel_initializer="identity")
    >>> model = keras.Sequential([keras.Input((2,)), hidden, keras.layers.Dense(1)])
    >>> found = cab.slice_regions(model, cab.Plane.of_inputs())
    >>> len(found.polygons)
    4

    Reference:

    - [Hanin and Rolnick, 2019](https://arxiv.org/abs/1901.09021), "Complexity of Linear Regions in Deep Networks",
      which counts regions on planes like these.
    """
    if not isinstance(plane, Plane):
        raise TypeError(f"`plane` must be a Plane. Received: plane={plane!r}")
    network = Network(model)
    network.check_shape("plane", plane.origin.shape)
    (left, right), (bottom, top) = plane.limits
    polygons = [np.array([(left, bottom), (right, bottom), (right, top), (left, top)], "float64")]
    segments: list[np.ndarray] = []
    names: list[str] = []
    units: list[int] = []
    for index, probe in enumerate(network.probes):
        bends = np.array(probe.bends)
        pieces = []
        for polygon, values in zip(polygons, _corner_values(network, index, plane, polygons), strict=True):
            tolerance = TOLERANCE * np.abs(values).max()
            below = values.min(axis=0)[:, None] - bends < -tolerance
            unit, bend = np.nonzero(below & (values.max(axis=0)[:, None] - bends > tolerance))
            parts, cuts = _cut(polygon, values[:, unit] - bends[bend], tolerance)
            pieces += parts
            for column, ends in cuts:
                segments.append(ends)
                names.append(probe.name)
                units.append(int(unit[column]))
        polygons = pieces
    return Slice(plane, polygons, np.array(segments).reshape(-1, 2, 2), np.array(names, str), np.array(units, int))


def _corner_values(network: Network, index: int, plane: Plane, polygons: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the limits of a probe's values at the corners of polygons, approached from within, (k, units) each.

    At the corners themselves, an activation that jumps might have the value of the other side of the boundary.
    """
    centres = np.stack([polygon.mean(axis=0) for polygon in polygons])
    midway = [(centre + polygon) / 2 for centre, polygon in zip(centres, polygons, strict=True)]
    read = _read(network, index, plane, np.concatenate([centres, *midway]))
    ends = np.cumsum([len(centres), *map(len, midway)])
    at_centres, *at_midway = np.split(read, ends[:-1])
    # The mean of the midpoints is the centre, so the mean of an affine function's values there is its value at the
    # centre. Deviations are weighted by area: in a polygon about as narrow as the tolerance, an activation that jumps
    # may be on either side.
    areas = np.array([_area(polygon) for polygon in polygons])
    deviations = [np.abs(values.mean(axis=0) - centre) for values, centre in zip(at_midway, at_centres, strict=True)]
    deviation, largest = np.max(areas @ np.stack(deviations)) / np.sum(areas), np.abs(read).max()
    if not deviation <= TOLERANCE * largest:
        raise ValueError(
            "`model` must be piecewise linear, with no bends but those of its activations (unlike max pooling), and "
            f"precise enough to tell. Received: a model that before, in or after {network.probes[index].name!r} is off "
            f"by {deviation:.2g} on average, where the largest value is {largest:.2g}"
        )
    return [2 * values - centre for values, centre in zip(at_midway, at_centres, strict=True)]


def _read(network: Network, index: int, plane: Plane, coordinates: np.ndarray) -> np.ndarray:
    """Returns the values of a probe at points of the plane, (points, units), in float64."""
    read = []
    for start in range(0, len(coordinates), ROWS):
        chunk = coordinates[start : start + ROWS]
        # A constant number of rows, so that the model is compiled only once.
        padded = np.pad(chunk, ((0, ROWS - len(chunk)), (0, 0)), mode="edge")
        read.append(network(plane.inputs(padded))[index][: len(chunk)].astype("float64"))
    return np.concatenate(read)


def _cut(
    polygon: np.ndarray, values: np.ndarray, tolerance: float
) -> tuple[list[np.ndarray], list[tuple[int, np.ndarray]]]:
    """Splits a convex polygon along the lines on which affine functions are 0.

    Args:
        polygon: Corners, shape (k, 2).
        values: Values of the functions at the corners, shape (k, functions).
        tolerance: Magnitudes up to this count as 0.

    Returns:
        The pieces, and the cuts, each with the index of its function and its end points, shape (2, 2).
    """
    pieces, cuts = [], []
    waiting = [np.concatenate([polygon, values], axis=1)]  # values are interpolated together with the coordinates
    while waiting:
        corners = waiting.pop()
        values = corners[:, 2:]
        crossing = np.flatnonzero((values.min(axis=0) < -tolerance) & (values.max(axis=0) > tolerance))
        if not crossing.size:
            pieces.append(corners[:, :2])
            continue
        column = int(crossing[0])
        is_above = values[:, column] > tolerance
        # Rotated so that the corners above come first.
        start = np.flatnonzero(is_above & ~np.roll(is_above, 1))[0]
        above, rest = np.split(np.roll(corners, -start, axis=0), [is_above.sum()])
        between = ((above[-1], rest[0]), (above[0], rest[-1]))
        ends = np.stack([_zero_crossing(corner, other, 2 + column, tolerance) for corner, other in between])
        below = rest[rest[:, 2 + column] < -tolerance]
        waiting += [np.concatenate([above, ends]), np.concatenate([ends[:1], below, ends[1:]])]
        cuts.append((column, ends[:, :2]))
    return pieces, cuts


def _zero_crossing(above: np.ndarray, other: np.ndarray, column: int, tolerance: float) -> np.ndarray:
    """Returns the point between two corners where a column is 0; the second corner if its value is within tolerance."""
    if other[column] >= -tolerance:
        return other
    return above + above[column] / (above[column] - other[column]) * (other - above)


def _area(polygon: np.ndarray) -> float:
    x, y = (polygon - polygon[0]).T  # relative to a corner, for precision
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
