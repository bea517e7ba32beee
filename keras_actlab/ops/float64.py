"""The spherical map and the spline on NumPy arrays, in float64: for analysis, where float32 is not precise enough."""

import numpy as np


def sine_products(angles: np.ndarray) -> np.ndarray:
    """Returns the products of the sines above each row, (..., n - 1, units) -> (..., n, units).

    `products[i] = sin(angles[0]) * ... * sin(angles[i - 1])`
    """
    one = np.ones_like(angles[..., :1, :])
    return np.concatenate([one, np.cumprod(np.sin(angles), axis=-2)], axis=-2)


def angles_to_direction(angles: np.ndarray) -> np.ndarray:
    """Returns what `keras_actlab.ops.angles_to_direction` does, (..., n - 1, units) -> (..., n, units)."""
    one = np.ones_like(angles[..., :1, :])
    return sine_products(angles) * np.concatenate([np.cos(angles), one], axis=-2)


def direction_to_angles(kernel: np.ndarray) -> np.ndarray:
    """Returns what `keras_actlab.ops.direction_to_angles` does, (..., n, units) -> (..., n - 1, units)."""
    # Summed from the last row up, so that trailing zeros leave norms of exactly 0.
    norms = np.sqrt(np.flip(np.cumsum(np.flip(np.square(kernel, dtype="float64"), axis=-2), axis=-2), axis=-2))
    rest = np.concatenate([norms[..., 1:-1, :], kernel[..., -1:, :]], axis=-2)
    angles = np.arctan2(rest, kernel[..., :-1, :])
    return np.where(angles < 0, angles + 2 * np.pi, angles)


def linear_spline(x: np.ndarray, knots: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns what `keras_actlab.ops.linear_spline` does; the knots may be unevenly spaced."""
    index = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, len(knots) - 2)
    slopes = np.diff(values) / np.diff(knots)
    return values[index] + slopes[index] * (x - knots[index])
