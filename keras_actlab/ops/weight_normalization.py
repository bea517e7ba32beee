"""The direction of weight vectors."""

from collections.abc import Sequence

import numpy as np
from keras import backend, ops

from keras_actlab.ops.tensor import Tensor, floating, integer, largest_magnitude


def unit_vectors(x: Tensor, axis: int | Sequence[int]) -> Tensor:
    """Returns each vector divided by its Euclidean norm.

    `unit_vectors(x) = x / norm(x)`, the norm over `axis`

    A vector of zeros has no direction: the result is zero, and its gradient is 0. The same holds for a vector of
    subnormal numbers, which some backends flush to zero.

    Args:
        x: Tensor of any shape. Half-precision numbers are cast to float32.
        axis: The axis, or the axes, along which the entries of one vector lie.

    Returns:
        A tensor with the shape of `x`, float32 or wider. Neither the computation nor its gradient overflows or
        underflows, however large or small the vector is.

    Example:

    >>> u = keras_actlab.ops.unit_vectors([[3.0, 0.0], [4.0, 0.0]], axis=0)
    >>> keras.ops.convert_to_numpy(u)
    array([[0.6, 0. ],
           [0.8, 0. ]], dtype=float32)

    Reference:

    - [Salimans and Kingma, 2016](https://arxiv.org/abs/1602.07868), "Weight Normalization: A Simple Reparameterization
      to Accelerate Training of Deep Neural Networks".
    """
    x = floating(x, at_least="float32")
    for each in axis if isinstance(axis, Sequence) and not isinstance(axis, str) else [axis]:
        if not -len(x.shape) <= integer("axis", each) < len(x.shape):
            raise ValueError(f"`axis` must name axes of `x`. Received: axis={axis}, x.shape={tuple(x.shape)}")
    largest = largest_magnitude(x, axis)  # the norm of x / largest neither overflows nor underflows
    present = largest >= np.finfo(backend.standardize_dtype(x.dtype)).tiny
    x = x / ops.where(present, largest, 1.0)
    squares = ops.where(present, ops.sum(ops.square(x), axis=axis, keepdims=True), 1.0)
    return x * ops.where(present, ops.rsqrt(squares), 0.0)
