"""Boundaries of units, the angles between them, and the effect of parameter steps on them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_actlab.arguments import check_mapping, numbers
from keras_actlab.cab.affine import AffineUnits, Read, Units, current
from keras_actlab.ops.float64 import sine_products


@dataclass(frozen=True)
class Boundaries:
    """Characteristic activation boundaries: hyperplanes `{x : u . x + lambda = 0}`.

    A unit has one boundary for each breakpoint of its activation. Boundaries are sorted by unit. A unit whose weights
    are all 0, or not finite, has no boundary: its normal, offset and location are NaN.

    Attributes:
        normals: The unit vectors u, shape `(boundaries, n)`.
        offsets: The values lambda, shape `(boundaries,)`: minus the signed distance from the origin.
        locations: The points `phi = -lambda u` nearest to the origin, shape `(boundaries, n)`.
        units: Index of each boundary's unit, shape `(boundaries,)`.

    Example: ReLU6 has two breakpoints, 0 and 6.

    >>> from keras_actlab import cab
    >>> layer = keras.layers.Dense(1, activation="relu6", kernel_initializer="ones", bias_initializer="ones")
    >>> layer.build((None, 1))
    >>> cab.boundaries(layer).locations
    array([[-1.],
           [ 5.]])
    """

    normals: np.ndarray
    offsets: np.ndarray
    locations: np.ndarray
    units: np.ndarray


def boundaries(units: Units) -> Boundaries:
    """Returns the characteristic activation boundaries of a layer.

    The unit `activation(w . x + b)` switches on the hyperplane `{x : w . x + b = 0}` (definition 2.1 of the paper),
    with the normal `u = w / norm(w)`, the offset `lambda = b / norm(w)` and the location `phi = -lambda u`. An
    activation with several breakpoints s, such as the thresholds of a `TMAF` or 0 and 6 of ReLU6, has one hyperplane
    `{x : w . x + b = s}` for each. A smooth activation has no breakpoint; its boundary is computed for s = 0.

    Args:
        units: A built layer, or a tuple of consecutive layers. Exactly one of them is affine: `Dense`, `Conv1D`,
            `Conv2D`, `Conv3D`, their geometric counterparts, or a plain one in `WeightNormalization`.
            `BatchNormalization`, `InputMeanNormalization` and `MeanOnlyBatchNormalization` are allowed before and after
            it, and are used as at inference. The last layer may be an activation layer.

    Returns:
        Float64 arrays. For a convolution, x is a patch, flattened in the order of the kernel. Padding is ignored.

    Raises:
        TypeError: If `units` is neither a layer nor a tuple of layers.
        ValueError: If a layer is not built, there is not exactly one affine layer, the order is wrong, or a
            normalization acts along another axis than the channels.

    Example: the distance of the boundary x1 + 2 x2 = 5 from the origin is 5 ** 0.5.

    >>> from keras_actlab import cab
    >>> layer = keras.layers.Dense(1, activation="relu")
    >>> layer.build((None, 2))
    >>> layer.set_weights([np.array([[1.0], [2.0]]), np.array([-5.0])])
    >>> cab.boundaries(layer).locations
    array([[1., 2.]])

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), section 2.
    """
    return boundaries_from(AffineUnits(units), current)


def boundaries_from(units: AffineUnits, read: Read) -> Boundaries:
    """Returns the boundaries for the values of the variables that `read` returns.

    Leading axes of the values become leading axes of `normals`, `offsets` and `locations`.
    """
    weights, bias = units.maps(read)
    bends = bias.shape[-1]
    norm = np.linalg.norm(weights, axis=-2)  # (..., units)
    norm = np.where((norm > 0) & (norm < np.inf), norm, np.nan)
    offsets = bias / norm[..., None]
    offsets = offsets.reshape(*offsets.shape[:-2], -1)
    normals = np.repeat(np.swapaxes(weights / norm[..., None, :], -1, -2), bends, axis=-2)
    return Boundaries(normals, offsets, -offsets[..., None] * normals, np.repeat(np.arange(norm.shape[-1]), bends))


def angular_change(before: Any, after: Any) -> np.ndarray:
    """Returns the angle between each vector before and the same vector after a change, in radians.

    The angle between unit vectors a and b is computed as `2 * arctan2(norm(a - b), norm(a + b))` (Kahan). This is
    accurate for angles near 0 and near pi, where an arc cosine loses half of the digits.

    Args:
        before: Vectors along the last axis, shape `(..., n)`, of any length, such as `Boundaries.normals`.
        after: Vectors of the same shape.

    Returns:
        Float64 array of shape `(...)`, in [0, pi]. It is NaN where a vector is 0 or NaN and so has no direction.

    Raises:
        ValueError: If the shapes differ or the arguments are scalars.

    Example:

    >>> from keras_actlab import cab
    >>> print(cab.angular_change([1.0, 0.0], [1.0, 1e-9]))
    1e-09

    Reference:

    - [Kahan, 2006](https://people.eecs.berkeley.edu/~wkahan/Mindless.pdf), "How Futile are Mindless Assessments of
      Roundoff in Floating-Point Computation?", section 12.
    """
    before, after = numbers("before", before), numbers("after", after)
    if before.shape != after.shape or not before.ndim:
        raise ValueError(
            "`before` and `after` must have the same shape, (..., n). "
            f"Received: before.shape={before.shape}, after.shape={after.shape}"
        )
    before, after = _normalized(before), _normalized(after)
    return 2.0 * np.arctan2(np.linalg.norm(before - after, axis=-1), np.linalg.norm(before + after, axis=-1))


def _normalized(vectors: np.ndarray) -> np.ndarray:
    """Returns the vectors divided by their norms; NaN where the norm is 0."""
    largest = np.max(np.abs(vectors), axis=-1, keepdims=True)  # so that squares neither overflow nor underflow
    vectors = vectors / np.where(largest > 0, largest, np.nan)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def metric_tensor(angles: Any) -> np.ndarray:
    """Returns the metric tensor of the unit sphere in spherical coordinates.

    `M = diag(1, sin(theta[0])**2, sin(theta[0])**2 * sin(theta[1])**2, ...)`

    A small step e of the angles turns the direction by `sqrt(e . M e)` (theorem 3.7 of the paper), which is never more
    than `norm(e)`.

    Args:
        angles: Radians, shape `(n - 1,)`, or `(n - 1, units)` like the `angles` of a geometric layer.

    Returns:
        Float64 array of shape `(n - 1, n - 1)`, or `(units, n - 1, n - 1)`.

    Raises:
        ValueError: If `angles` has another rank or no rows.

    Example:

    >>> from keras_actlab import cab
    >>> cab.metric_tensor([np.pi / 6, 1.0]).round(2)
    array([[1.  , 0.  ],
           [0.  , 0.25]])

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), theorem 3.7.
    """
    angles = numbers("angles", angles)
    if angles.ndim not in (1, 2) or not len(angles):
        raise ValueError(
            f"`angles` must have the shape (n - 1,) or (n - 1, units), n >= 2. Received: angles.shape={angles.shape}"
        )
    diagonal = np.square(sine_products(angles.reshape(len(angles), -1))[:-1]).T  # (units, n - 1)
    tensors = diagonal[..., None] * np.eye(len(angles))
    return tensors if angles.ndim == 2 else tensors[0]


def perturb(units: Units, steps: Mapping[str, Any]) -> Boundaries:
    """Returns the boundaries that a layer would have after a step of its parameters. The layer is left unchanged.

    Propositions 2.3 to 2.5 and theorem 3.7 of the paper compare such steps. A step e of the weights w of a plain,
    weight-normalized or batch-normalized layer turns its boundary by the angle between `w` and `w + e`, which can be
    any angle up to pi if `norm(e) > norm(w)`. A step of the angles of a geometric layer turns its boundary by at most
    the length of the step.

    Args:
        units: As in `boundaries`.
        steps: Mapping of parameter names to arrays that are added to the parameters: "kernel" and "bias" of a plain
            layer; "kernel" (the v), "scale" and "bias" of a weight-normalized layer; "gamma", "beta", "moving_mean" and
            "moving_variance" of batch normalization; "angles" and "radius" of a geometric layer. If several layers of
            `units` have a parameter of this name, prefix it with as much of the variable's path as makes it unique.

    Returns:
        The boundaries, with the steps added in float64.

    Raises:
        TypeError: If `units` is neither a layer nor a tuple of layers.
        ValueError: If a name does not match exactly one parameter that the boundaries depend on, a shape differs, or as
            in `boundaries`.

    Example: a step slightly longer than the weights reverses the boundary.

    >>> from keras_actlab import cab
    >>> layer = keras.layers.Dense(1, activation="relu")
    >>> layer.build((None, 2))
    >>> step = -1.01 * layer.get_weights()[0]
    >>> turn = cab.angular_change(cab.boundaries(layer).normals, cab.perturb(layer, {"kernel": step}).normals)
    >>> np.degrees(turn).round(2)
    array([180.])

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), propositions 2.3 to 2.5, theorem 3.7, figure 1.
    """
    affine = AffineUnits(units)
    check_mapping("steps", steps, "a mapping of the names of parameters to their steps")
    moved = {}
    for name, step in steps.items():
        fitting = [v for v in affine.variables if f"/{v.path}".endswith(f"/{name}")]
        if len(fitting) != 1:
            raise ValueError(
                f"`steps` must name one parameter of {[v.path for v in affine.variables]} each. Received: {name!r}, "
                f"which fits {len(fitting)} of them"
            )
        step = numbers(f"steps[{name!r}]", step)
        if step.shape != tuple(fitting[0].shape):
            raise ValueError(
                f"`steps` must have the shapes of the parameters. Received: {name!r} of shape {step.shape} for "
                f"{tuple(fitting[0].shape)}"
            )
        moved[id(fitting[0])] = current(fitting[0]) + step
    return boundaries_from(affine, lambda variable: moved.get(id(variable), current(variable)))
