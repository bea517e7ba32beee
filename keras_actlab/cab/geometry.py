"""Where the units of a layer switch, how far they turn, and what a step of the parameters does to them."""

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

    A unit has one for each value at which its activation bends; they stand next to each other, units in their order.
    A unit whose weights are all 0, or not finite, has no boundary: its normal, offset and location are NaN.

    Attributes:
        normals: The unit vectors u, shape `(boundaries, n)`.
        offsets: The lambda, shape `(boundaries,)`: minus the signed distance from the origin.
        locations: The points `phi = -lambda u` nearest to the origin, shape `(boundaries, n)`.
        units: Index of each boundary's unit, shape `(boundaries,)`.

    Example: ReLU6 bends twice.

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
    with the normal `u = w / norm(w)`, the offset `lambda = b / norm(w)` and the location `phi = -lambda u`. Where an
    activation bends at other values s than 0, there is one hyperplane `{x : w . x + b = s}` for each: the thresholds of
    a `TMAF`, say, or 0 and 6 for ReLU6. Smooth activations are taken to bend at 0, around which those that resemble
    ReLU turn.

    Args:
        units: A built layer, or a tuple of layers that follow one another. One of them is affine: `Dense`, `Conv1D`,
            `Conv2D`, `Conv3D`, their geometric forms, or one of the plain ones in `WeightNormalization`.
            `BatchNormalization`, `InputMeanNormalization` and `MeanOnlyBatchNormalization` may stand before it and
            after it, and count as they are at inference. The last may be an activation layer.

    Returns:
        Float64 arrays. For a convolution, x is a patch, flattened in the kernel's order; padding is left out of
        account.

    Raises:
        TypeError: If `units` is no layer and no tuple of layers.
        ValueError: If a layer is not built, there is not exactly one affine layer, the order is another one, or
            something is normalized along another axis than its channels.

    Example: the boundary x1 + 2 x2 = 5 passes the origin at a distance of 5 ** 0.5.

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
    """Returns the boundaries for other values of the variables than those that they hold.

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
    """Returns the angles between two sets of vectors, in radians.

    The angle between unit vectors a and b is computed as `2 * arctan2(norm(a - b), norm(a + b))` (Kahan), which is
    accurate for tiny angles and up to pi, where an arc cosine loses half of the digits.

    Args:
        before: Vectors on the last axis, shape `(..., n)`, of any length, such as `Boundaries.normals`.
        after: As many.

    Returns:
        Float64 array of shape `(...)`, in [0, pi]. It is NaN where a vector is 0 or NaN, for want of a direction.

    Raises:
        ValueError: If the shapes differ or are those of scalars.

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
    """Returns unit vectors; NaN where there is no direction."""
    largest = np.max(np.abs(vectors), axis=-1, keepdims=True)  # first, so that no square leaves the range
    vectors = vectors / np.where(largest > 0, largest, np.nan)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def metric_tensor(angles: Any) -> np.ndarray:
    """Returns the metric tensor of the sphere in spherical angles.

    `M = diag(1, sin(theta[0])**2, sin(theta[0])**2 * sin(theta[1])**2, ...)`

    A small step e of the angles turns the direction by `sqrt(e . M e)` (theorem 3.7 of the paper), which is never more
    than `norm(e)`.

    Args:
        angles: Radians, shape `(n - 1,)`, or `(n - 1, units)` as in the `angles` of a geometric layer.

    Returns:
        Float64 array of shape `(n - 1, n - 1)`, or `(units, n - 1, n - 1)`.

    Raises:
        ValueError: If `angles` has another rank, or no row.

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
    """Returns the boundaries that a layer would have after a step of its parameters. The layer stays as it is.

    What propositions 2.3 to 2.5 and theorem 3.7 of the paper compare: a step e of the weights w of a plain,
    weight-normalized or batch-normalized layer turns its boundary by the angle between `w` and `w + e`, which for
    `norm(e) > norm(w)` may be any up to pi; a step of a geometric layer's angles turns it by no more than the length of
    the step.

    Args:
        units: As in `boundaries`.
        steps: For the names of parameters what is added to them, shape of the parameter: "kernel" and "bias" of a plain
            layer; "kernel" (the v), "scale" and "bias" under weight normalization; "gamma", "beta", "moving_mean" and
            "moving_variance" of batch normalization; "angles" and "radius" of a geometric layer. Where layers of
            `units` have parameters of the same name, as much of the variable's path as tells them apart.

    Returns:
        The boundaries, with the steps added in float64.

    Raises:
        TypeError: If `units` is no layer and no tuple of layers.
        ValueError: If a name fits none or several of the parameters that the boundaries depend on, a shape differs, or
            as in `boundaries`.

    Example: a step a little longer than the weights turns the boundary around.

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
