import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from keras import ops

from keras_actlab.experiments._arrays import as_arrays

VALUES = [3.0, 1.0, 2.0]
SHUFFLED = [7, 0, 3]


@pytest.mark.parametrize(
    "values",
    [
        VALUES,
        tuple(VALUES),
        np.array(VALUES),
        np.array(VALUES, dtype=object),
        np.broadcast_to(np.array(VALUES), (3,)),
        pd.Series(VALUES, index=SHUFFLED),
        pd.Index(VALUES),
        pd.Series(VALUES, dtype="Int64", index=SHUFFLED),
        pd.Series(VALUES, dtype="Float32"),
        pd.Series(VALUES, dtype="Sparse[float64]"),
        pd.array([3, 1, 2], dtype="Int64"),
        [np.float32(value) for value in VALUES],
    ],
    ids=lambda values: f"{type(values).__name__}-{getattr(values, 'dtype', '')}",
)
def test_every_kind_of_array_is_read_by_position(values):
    array = as_arrays("y", values)
    assert type(array) is np.ndarray
    assert array.dtype.kind in "if"
    assert array.flags.writeable
    np.testing.assert_array_equal(array, VALUES)


def test_tensors_and_variables_are_read():
    tensor = ops.convert_to_tensor(VALUES)
    for values in (tensor, keras.Variable(VALUES), ops.cast(tensor, "bfloat16")):
        np.testing.assert_array_equal(np.asarray(as_arrays("y", values), "float32"), VALUES)
    if keras.backend.backend() == "torch":
        np.testing.assert_array_equal(as_arrays("y", tensor.clone().requires_grad_()), VALUES)


def test_columns_of_several_types_become_numbers():
    frame = pd.DataFrame(
        {"a": pd.array([1, 2, 3], dtype="Int64"), "b": [True, False, True], "c": VALUES}, index=SHUFFLED
    )
    np.testing.assert_array_equal(as_arrays("x", frame), [[1, 1, 3], [2, 0, 1], [3, 1, 2]])
    frame.columns = ["same", "same", "same"]
    assert as_arrays("x", frame).shape == (3, 3)


def test_structures_stay():
    x = as_arrays("x", {"a": pd.Series(VALUES), "b": (ops.ones((3, 2)), [[1], [2], [3]])})
    assert [x["a"].shape, x["b"][0].shape, x["b"][1].shape] == [(3,), (3, 2), (3, 1)]
    assert isinstance(x["b"], tuple)
    assert [array.shape for array in as_arrays("x", [np.zeros(3), np.zeros((3, 2))])] == [(3,), (3, 2)]


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        (pd.Series(["low", "high"], dtype="category"), ValueError, "encode categories"),
        (pd.DataFrame({"a": [1.0], "b": ["text"]}), ValueError, "column 'b'"),
        (pd.DataFrame({"a": pd.Series(["low"], dtype="category")}), ValueError, r"x\['a'\]"),
        (pd.Series([1, None], dtype="Int64"), ValueError, "1 of 2"),
        (pd.Series(pd.date_range("2020", periods=2)), ValueError, "dates"),
        (np.ma.array([1, 2], mask=[True, False]), ValueError, "1 of 2"),
        (np.array([1, None]), ValueError, "None"),
        (np.array([1, 2j]), ValueError, "real numbers"),
        (pd.DataFrame({"a": [1, 2j]}), ValueError, "column 'a' of dtype complex|real numbers"),
        (pd.Series(pd.period_range("2020", periods=2, freq="D")), ValueError, "Period"),
        (scipy.sparse.eye(3), TypeError, "first axis"),
        ([[1, 2], [3]], TypeError, "equal length"),
        (iter([1, 2]), TypeError, "first axis"),
        (3.0, TypeError, "3.0"),
        (None, TypeError, "None"),
    ],
)
def test_what_is_no_array_of_numbers_says_so(values, error, words):
    with pytest.raises(error, match=f"`x.*{words}"):
        as_arrays("x", values)
