"""Outputs and gradients of every operation are finite for the largest and the smallest inputs of a dtype."""

import keras
import ml_dtypes
import numpy as np
import pytest

from keras_actlab import ops
from tests.backends import gradients, numpy

RNG = np.random.default_rng(0)
KNOTS = np.linspace(-4.0, 3.75, 32, dtype="float32")
# Small, so that no sum of three numbers overflows.
LEVELS = RNG.uniform(-0.3, 0.3, (3, 3, 4)).astype("float32")
MANY_LEVELS = RNG.uniform(-0.3, 0.3, (3, 10, 4)).astype("float32")

# Functions of rows of four channels, and their other differentiable arguments.
OF_ROWS = {
    "crrelu": (ops.crrelu, np.float32(0.5)),
    "crrelu, an epsilon for each channel": (ops.crrelu, np.full(4, -2.0, "float32")),
    "linear_spline": (lambda x, values: ops.linear_spline(x, KNOTS, values), np.maximum(KNOTS, 0)),
    "matrix_activation": (lambda x, levels: ops.matrix_activation(x, levels, (-1.0, 1.0)), LEVELS),
    "matrix_activation, looked up": (
        lambda x, levels: ops.matrix_activation(x, levels, tuple(range(9))),
        MANY_LEVELS,
    ),
    "matrix_activation, trained thresholds": (
        lambda x, thresholds: ops.matrix_activation(x, LEVELS, thresholds, surrogate_width=0.5),
        keras.ops.convert_to_tensor([-1.0, 1.0]),
    ),
}
# Functions of a matrix of columns.
OF_COLUMNS = {
    "angles_to_direction": ops.angles_to_direction,
    "direction_to_angles": ops.direction_to_angles,
    "unit_vectors": lambda x: ops.unit_vectors(x, 0),
}
each_dtype = pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])


def extremes(dtype: str) -> np.ndarray:
    """Returns columns of six entries."""
    limits = ml_dtypes.finfo(dtype)
    largest, normal, subnormal = (float(limit) for limit in (limits.max, limits.tiny, limits.smallest_subnormal))
    middle = normal**0.5  # its square is the smallest normal number
    mixed = [largest, 1.0, middle, normal, subnormal, 0.0]
    columns = [
        *([size] * 6 for size in (0.0, subnormal, normal, 3 * normal**0.75, middle, 1.0, largest**0.75, largest)),
        *(mixed, mixed[::-1], mixed[2:] + mixed[:2], [1.0, *[middle] * 5], [1.0, *[middle / 9] * 5]),
        *([0.0, 1.0, *[0.0] * 4], [middle, *[0.0] * 5], [*[0.0] * 5, subnormal]),
    ]
    columns = np.array(columns * 2).T * np.where(np.random.default_rng(1).random((6, 2 * len(columns))) < 0.5, -1, 1)
    return columns.astype(ml_dtypes.finfo(dtype).dtype)


def assert_numbers(function, x, *others):
    x = keras.ops.convert_to_tensor(x)
    assert not np.isnan(numpy(keras.ops.cast(function(x, *others), "float32"))).any()
    for gradient in gradients(function, x, *others):
        assert not np.isnan(gradient).any()


def test_the_tables_name_every_operation():
    switches = {"enable_fused_direction"}
    assert {name.partition(",")[0] for name in OF_ROWS} | set(OF_COLUMNS) | switches == set(ops.__all__)


@each_dtype
@pytest.mark.parametrize("name", OF_ROWS)
def test_rows(name, dtype):
    function, *others = OF_ROWS[name]
    assert_numbers(function, extremes(dtype).reshape(-1, 4), *others)


@each_dtype
@pytest.mark.parametrize("name", OF_COLUMNS)
def test_columns(name, dtype):
    x = extremes(dtype)
    if name == "direction_to_angles":  # without columns that have no direction
        x = x[:, np.abs(x.astype("float32")).max(axis=0) >= np.finfo("float32").tiny]
    assert_numbers(OF_COLUMNS[name], x)


@pytest.mark.parametrize("name", OF_ROWS)
def test_an_empty_batch(name):
    function, *others = OF_ROWS[name]
    x = np.zeros((0, 4), "float32")
    assert tuple(function(x, *others).shape) == (0, 4)
    _, *found = gradients(function, x, *others, cotangent=x)
    for gradient, other in zip(found, others, strict=True):
        np.testing.assert_array_equal(gradient, np.zeros(other.shape))


@pytest.mark.parametrize("name", OF_COLUMNS)
def test_no_columns(name):
    function = OF_COLUMNS[name]
    x = np.zeros((3, 0), "float32")
    assert function(x).shape[1] == 0
    (gradient,) = gradients(function, x)
    assert gradient.shape == (3, 0)
