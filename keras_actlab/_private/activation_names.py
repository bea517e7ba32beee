"""The names of activations that are layers, as in `Dense(8, activation="crrelu")`.

`keras.activations.get` looks a name up in a dictionary and returns the same object each time, while each use of a layer
with parameters needs a new one. Registered objects are looked up by their config, not by their name. So the dictionary
is replaced by one that makes a new layer. (Read in Keras 3.15.1: `keras/src/activations/__init__.py`.)
"""

from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras.src import activations


class _Names(dict[str, Any]):
    """Keras' dictionary of activations, and functions that make a new layer for a name."""

    makers: Mapping[str, Callable[[], keras.layers.Layer]] = {}

    def get(self, name: str, default: Any = None) -> Any:
        return self.makers[name]() if name in self.makers else super().get(name, default)


def register(makers: Mapping[str, Callable[[], keras.layers.Layer]]) -> None:
    """Makes `keras.activations.get`, and so each layer that takes an activation, accept the names in `makers`."""
    names = _Names(activations.ALL_OBJECTS_DICT)
    names.makers = makers
    activations.ALL_OBJECTS_DICT = names
