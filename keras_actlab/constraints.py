"""Constraints that an optimizer applies to a weight after each step."""

import math

import keras
from keras import ops

from keras_actlab.ops.tensor import Tensor, floating


@keras.saving.register_keras_serializable(package="keras_actlab")
class CanonicalAngles(keras.constraints.Constraint):
    """Maps spherical angles to their principal values. The direction does not change.

    All rows but the last are mapped into [0, pi], the last row into [0, 2 pi). A column whose angles are all in these
    ranges does not change at all. A polar angle outside its range is reflected. If that changes the sign of its sine,
    all later coordinates would change sign; therefore the later polar angles become `pi - angle`, and the last angle
    becomes `angle + pi`.

    Use this to read angles, not to train them: the gradient of a reflected angle changes sign, but the momentum of an
    optimizer does not.

    Example: two angles just outside their ranges are mapped to angles within them, with the same direction.

    >>> angles = keras_actlab.constraints.CanonicalAngles()(np.array([[-0.25], [1.0]], "float32"))
    >>> keras.ops.convert_to_numpy(angles)[:, 0].round(4)
    array([0.25  , 4.1416], dtype=float32)

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), section 3.
    """

    def __call__(self, w: Tensor) -> Tensor:
        w = floating(w)
        if len(w.shape) != 2 or not w.shape[0]:
            raise ValueError(
                f"`w` must hold angles of shape (n - 1, units), n >= 2. Received: w.shape={tuple(w.shape)}"
            )
        polar, last = w[:-1, :], w[-1:, :]
        outside = ops.logical_or(polar < 0, polar > math.pi)
        reflected = ops.logical_and(outside, ops.sin(polar) < 0)
        reflections = ops.cumsum(ops.cast(reflected, "int32"), axis=0)  # up to and including each row
        before = reflections - ops.cast(reflected, "int32")
        # arctan2 reduces an angle of any size without the rounding error of a division by 2 pi.
        polar = ops.where(outside, ops.abs(_reduce(polar)), polar)
        polar = ops.where(ops.equal(before % 2, 1), math.pi - polar, polar)
        flipped = ops.equal(ops.sum(ops.cast(reflected, "int32"), axis=0, keepdims=True) % 2, 1)
        last = ops.where(flipped, last + math.pi, last)
        reduced = _reduce(last)
        reduced = ops.where(reduced < 0, reduced + 2 * math.pi, reduced)
        reduced = ops.where(reduced >= 2 * math.pi, 0.0, reduced)  # a tiny negative angle plus 2 pi rounds to 2 pi
        last = ops.where(ops.logical_or(last < 0, last >= 2 * math.pi), reduced, last)
        return ops.concatenate([polar, last], axis=0)


@keras.saving.register_keras_serializable(package="keras_actlab")
class Increasing(keras.constraints.Constraint):
    """Sorts the entries of a vector into increasing order.

    The constraint keeps the trained thresholds of `keras_actlab.layers.TMAF` in order if a training step exchanges two.

    Example:

    >>> w = keras_actlab.constraints.Increasing()(np.array([0.5, -1.0, 2.0], "float32"))
    >>> keras.ops.convert_to_numpy(w)
    array([-1. ,  0.5,  2. ], dtype=float32)
    """

    def __call__(self, w: Tensor) -> Tensor:
        return ops.sort(ops.convert_to_tensor(w), axis=-1)


@keras.saving.register_keras_serializable(package="keras_actlab")
class NonDecreasing(keras.constraints.Constraint):
    """Maps a vector to a non-decreasing one: the mean of its running maximum and its running minimum from the end.

    A non-decreasing vector does not change at all. Otherwise, no entry moves by more than half the largest decrease
    from one entry to a later one. No other map to a non-decreasing vector has a smaller maximal move.

    The constraint keeps the values of `keras_actlab.layers.EntropyActivation` non-decreasing if it is monotone.

    Example:

    >>> w = keras_actlab.constraints.NonDecreasing()(np.array([-1.0, 2.0, 1.0, 3.0], "float32"))
    >>> keras.ops.convert_to_numpy(w)
    array([-1. ,  1.5,  1.5,  3. ], dtype=float32)
    """

    def __call__(self, w: Tensor) -> Tensor:
        w = floating(w)
        places = ops.arange(w.shape[-1])
        up_to = places[None, :] <= places[:, None]
        row = w[..., None, :]
        # Keras lacks a cumulative maximum that works on every backend. For tens of entries, a table is small enough.
        highest_before = ops.max(ops.where(up_to, row, -math.inf), axis=-1)
        lowest_after = ops.min(ops.where(ops.transpose(up_to), row, math.inf), axis=-1)
        return 0.5 * (highest_before + lowest_after)


def _reduce(angle: Tensor) -> Tensor:
    """Returns the same angle in [-pi, pi]."""
    return ops.arctan2(ops.sin(angle), ops.cos(angle))
