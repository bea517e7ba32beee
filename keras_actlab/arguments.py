"""Checks of arguments. Each error names the argument, the value received and what was expected."""

import os
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import keras
import numpy as np


def received(name: str, value: Any) -> str:
    """Returns the end of an error message: the name, the value and the type of an argument."""
    return f"Received: {name}={value!r:.500} (of type {type(value).__name__})"


def boolean(name: str, value: Any) -> bool:
    """Returns `value`. Raises a TypeError unless it is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be True or False. {received(name, value)}")
    return value


def integer(name: str, value: Any) -> int:
    """Returns `value` as an int. Raises a TypeError unless it is an integer."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"`{name}` must be an integer. {received(name, value)}")
    return int(value)


def positive_integer(name: str, value: Any) -> int:
    """Returns `value` as an int. Raises unless it is an integer of at least 1."""
    value = integer(name, value)
    if value < 1:
        raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
    return value


def check_number(name: str, value: Any, positive: bool = False) -> None:
    """Raises unless `value` is a finite number, and positive if `positive`."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real | np.number):
        raise TypeError(f"`{name}` must be a number. {received(name, value)}")
    if not np.isfinite(float(value)) or (positive and value <= 0):
        raise ValueError(f"`{name}` must be finite{' and positive' * positive}. Received: {name}={value}")


def check_type(name: str, value: Any, kind: type | tuple[type, ...], expected: str) -> None:
    """Raises a TypeError unless `value` has the type `kind`, which `expected` describes in words."""
    if not isinstance(value, kind):
        raise TypeError(f"`{name}` must be {expected}. {received(name, value)}")


def check_model(name: str, value: Any) -> None:
    """Raises a TypeError unless `value` is a Keras model."""
    check_type(name, value, keras.Model, "a Keras model")


def check_mapping(name: str, value: Any, expected: str) -> None:
    """Raises a TypeError unless `value` is a mapping. `expected` describes its content."""
    check_type(name, value, Mapping, expected)


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raises a ValueError unless `value` is one of several strings."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"`{name}` must be one of {list(choices)}. {received(name, value)}")


def as_path(name: str, value: Any) -> Path:
    """Returns `value` as a path. Raises unless it is a valid path."""
    check_type(name, value, (str, os.PathLike), "a path")
    if "\0" in str(value):
        raise ValueError(f"`{name}` must be a path without NUL characters. {received(name, value)}")
    return Path(value)


def numbers(name: str, value: Any) -> np.ndarray:
    """Returns `value`, an array or a tensor, as a float64 array. Raises unless it holds numbers."""
    try:
        if value is None:  # NumPy would convert it to NaN
            raise TypeError("None is no number")
        return np.asarray(keras.ops.convert_to_numpy(value), "float64")
    except Exception as error:  # the type depends on the backend
        raise TypeError(f"`{name}` must be an array of numbers. {received(name, value)}") from error


def resolve(get: Callable[[Any], Any], name: str, value: Any) -> Any:
    """Returns `get(value)`, with a function such as `keras.initializers.get`. Errors name the argument."""
    try:
        return get(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"`{name}` is unknown to Keras. {received(name, value)}. {error}") from error
