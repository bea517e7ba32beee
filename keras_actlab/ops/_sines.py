"""Sines and cosines of many angles at once."""

import math
from collections.abc import Callable

import numpy as np
from keras import backend, ops
from numpy.polynomial import Chebyshev, Polynomial

from keras_actlab.ops.tensor import Tensor

# Above this angle, neighbouring float32 numbers are at least 1 / 128 apart, too coarse for training steps.
MAX_ANGLE = 2.0**16

# A quarter turn as a sum of three numbers. The first two have so few digits that their products with the number of
# quarter turns in MAX_ANGLE are exact in float32.
QUARTER = math.pi / 2
QUARTER_PARTS = (201 / 2**7, 127 / 2**18, QUARTER - 201 / 2**7 - 127 / 2**18)


def _fit(function: Callable[[np.ndarray], np.ndarray], degree: int) -> list[float]:
    """Returns the coefficients of a polynomial in r**2 that approximates `function(r)` for |r| <= 0.8 > pi / 4."""
    fit = Chebyshev.interpolate(lambda square: function(np.sqrt(square)), degree, domain=[0, 0.8**2])
    return fit.convert(kind=Polynomial, domain=[-1, 1], window=[-1, 1]).coef.tolist()


COSINE = _fit(np.cos, 4)
SINE_OVER_R = _fit(lambda r: np.sinc(r / np.pi), 4)


def sines_and_cosines(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the sines and the cosines of angles in radians.

    On CPUs, XLA calls a function for each single sine, and repeats the call in each loop that it fuses the sine into.
    On JAX and TensorFlow, float32 angles are therefore evaluated with polynomials, which XLA vectorizes. They are as
    accurate as the functions, also for values just below 1, where errors would show in products of thousands of sines.
    Angles are clipped to [-2**16, 2**16].
    """
    if backend.backend() == "torch" or backend.standardize_dtype(angles.dtype) != "float32":
        return ops.sin(angles), ops.cos(angles)
    r = ops.clip(angles, -MAX_ANGLE, MAX_ANGLE)
    quarters = ops.round(r / QUARTER)
    for part in QUARTER_PARTS:
        r = r - quarters * part
    sine, cosine = r * _polynomial(SINE_OVER_R, r * r), _polynomial(COSINE, r * r)
    half_turns = ops.floor(quarters / 2)
    sign = 1 - 2 * (half_turns - 2 * ops.floor(half_turns / 2))
    odd = quarters > 2 * half_turns
    return sign * ops.where(odd, cosine, sine), sign * ops.where(odd, -sine, cosine)


def _polynomial(coefficients: list[float], x: Tensor) -> Tensor:
    *lower, result = coefficients
    for coefficient in reversed(lower):
        result = result * x + coefficient
    return result
