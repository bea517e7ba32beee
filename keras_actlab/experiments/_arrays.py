"""Turns inputs and targets of any array-like kind into NumPy arrays."""

from collections.abc import Mapping
from numbers import Number
from typing import Any

import numpy as np
import pandas as pd


def as_arrays(name: str, values: Any) -> Any:
    """Returns a nested structure of NumPy arrays; rows are taken by position, whatever index pandas gives them.

    Dictionaries, and tuples and lists that hold arrays, are kept as structures. Tuples and lists of numbers become
    arrays.

    Args:
        name: Name of the argument, for error messages.
        values: Array, tensor of any backend, pandas Series or DataFrame, list of numbers, or a nested structure.

    Returns:
        The structure, with a NumPy array at each leaf.

    Raises:
        TypeError: If a leaf is no array: a single number, a generator, rows of different lengths, a sparse matrix.
        ValueError: If it holds other values than numbers or strings (categories, dates), or values are missing.

    Example:

    >>> import pandas as pd
    >>> from keras_actlab.experiments._arrays import as_arrays
    >>> as_arrays("y", pd.Series([1.5, 2.5], index=[7, 3]))
    array([1.5, 2.5])
    >>> as_arrays("x", {"a": [1, 2], "b": [[1.0], [2.0]]})["b"].shape
    (2, 1)
    """
    if isinstance(values, Mapping):
        return {key: as_arrays(f"{name}[{key!r}]", value) for key, value in values.items()}
    if _is_structure(values):
        items = [as_arrays(f"{name}[{index}]", value) for index, value in enumerate(values)]
        return type(values)(*items) if hasattr(values, "_fields") else type(values)(items)
    return as_array(name, values)


def as_array(name: str, values: Any) -> np.ndarray:
    """Returns one NumPy array. See `as_arrays`."""
    if isinstance(values, pd.DataFrame):
        columns = [as_array(f"{name}[{label!r}]", values.iloc[:, k]) for k, label in enumerate(values.columns)]
        for label, column in zip(values.columns, columns, strict=True):
            if column.dtype.kind not in "biuf":
                raise ValueError(
                    f"`{name}` must hold numbers. Received: {name} with column {label!r} of dtype {column.dtype}"
                )
        return np.stack(columns, axis=1) if columns else np.empty(values.shape)
    if isinstance(values, pd.Series | pd.Index | pd.api.extensions.ExtensionArray):
        return _column(name, values)
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ValueError(
            f"`{name}` must have no masked entries. Received: {name} with {_count(np.ma.getmaskarray(values))}"
        )
    if hasattr(values, "detach"):  # PyTorch: NumPy reads no tensor with gradients or on a GPU
        values = values.detach().cpu()
        values = values.float() if "bfloat16" in str(values.dtype) else values
    try:
        array = np.asarray(values)
    except Exception as error:  # each library raises its own type
        raise TypeError(
            f"`{name}` must be an array, or something that NumPy reads as one, with rows of equal length. "
            f"Received: {name}={_short(values)}, for which NumPy raises {type(error).__name__}: {error}"
        ) from error
    if array.ndim == 0:
        raise TypeError(
            f"`{name}` must be an array whose first axis counts examples. Received: {name}={_short(values)}"
        )
    if array.dtype.kind in "mM":
        raise ValueError(f"`{name}` must hold numbers, not dates or durations. Received: {name} of dtype {array.dtype}")
    if array.dtype == object:
        array = _of_objects(name, array)
    if array.dtype.kind == "c":
        raise ValueError(f"`{name}` must hold real numbers. Received: {name} of dtype {array.dtype}")
    return array if array.flags.writeable else array.copy()  # PyTorch warns about arrays that it cannot write to


def _column(name: str, values: Any) -> np.ndarray:
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        raise ValueError(
            f"`{name}` must hold numbers; encode categories first, for example by `pandas.get_dummies` or "
            f"`.cat.codes`. Received: {name} of dtype {dtype}"
        )
    if isinstance(dtype, pd.api.extensions.ExtensionDtype) and (missing := pd.isna(values)).any():
        raise ValueError(f"`{name}` must have no missing values. Received: {name} without {_count(missing)}")
    array = values.to_numpy()
    if array.dtype == object and pd.api.types.is_numeric_dtype(dtype):
        array = array.astype(getattr(dtype, "numpy_dtype", "float64"))  # pandas before 2.2 gives objects
    return as_array(name, array)


def _of_objects(name: str, array: np.ndarray) -> np.ndarray:
    """Returns numbers as an array of numbers and leaves strings unchanged."""
    if all(isinstance(entry, Number | np.number | np.bool_) for entry in array.flat):
        return np.asarray(array.tolist())
    if all(isinstance(entry, str | bytes) for entry in array.flat):
        return array
    other = next(entry for entry in array.flat if not isinstance(entry, Number | np.number | np.bool_))
    raise ValueError(f"`{name}` must hold numbers, or strings alone. Received: {name} with an entry {_short(other)}")


def _is_structure(values: Any) -> bool:
    """Whether a list or tuple holds arrays or structures, and not just numbers."""
    return isinstance(values, list | tuple) and any(
        isinstance(item, Mapping) or len(getattr(item, "shape", ())) > 0 or _is_structure(item) for item in values
    )


def _count(entries: np.ndarray) -> str:
    return f"{int(np.sum(entries))} of {np.size(entries)}"


def _short(values: Any) -> str:
    return f"{values!r:.100} (of type {type(values).__name__})"
