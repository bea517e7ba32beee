"""A text that identifies the architecture and compilation of a model."""

import json
import re
from collections.abc import Mapping
from typing import Any

import keras

from keras_actlab._private.keras_layers import nested_layers


def describe(model: keras.Model, learning_rate: bool = True) -> str | None:
    """Returns a text that is equal for models that are built and compiled alike.

    It holds the configuration that Keras saves and the shapes of the variables. It does not hold their values or the
    code of custom layers and functions. Names of layers and of the optimizer are replaced, because Keras numbers them
    over the life of a process and no result depends on them. Other names, such as that of a custom function, are kept.

    Args:
        model: A compiled model.
        learning_rate: Whether models that differ in a learning rate that is a number have different texts.

    Returns:
        The text, or None for a model that Keras cannot describe.

    Example:

    >>> from keras_actlab.experiments._description import describe
    >>> def build(learning_rate):
    ...     model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    ...     model.compile(keras.optimizers.SGD(learning_rate), "mse")
    ...     return model
    >>> describe(build(0.1)) == describe(build(0.1)), describe(build(0.1)) == describe(build(0.2))
    (True, False)
    >>> describe(build(0.1), learning_rate=False) == describe(build(0.2), learning_rate=False)
    True
    """
    try:
        saved = json.loads(model.to_json())
    except Exception:  # whatever a layer's get_config raises
        return None
    if not learning_rate:
        _forget_number(saved, "learning_rate")
    names = _names(model)
    shapes = [(tuple(variable.shape), variable.dtype) for variable in model.variables]
    return json.dumps(_renamed(saved, names)) + str(shapes)


def _names(model: keras.Model) -> set[str]:
    """The names of all layers, operations and optimizers of a model."""
    layers = nested_layers(model, include_self=True)
    operations = [each for layer in layers for each in getattr(layer, "operations", ())]
    named = [*layers, *operations, *([model.optimizer] if getattr(model, "optimizer", None) else [])]
    return {each.name for each in named}


def _renamed(saved: Any, names: set[str], places: Mapping[str, str] = {}, of_class: str = "") -> Any:
    """Replaces names where a configuration holds one: under "name", and at the head of references to a tensor.

    A reference becomes the place of the layer in the list of its own model, because layers of two nested models can
    have the same name. Objects that are no layers of the model, such as the preprocessor of a keras-hub task, lose
    their number only.
    """
    if isinstance(saved, dict):
        inner = str(saved.get("class_name", ""))
        if isinstance(entries := saved.get("layers"), list):
            places = {name: f"#{place}" for place, entry in enumerate(entries) if (name := _name(entry))}
        return {
            key: ("#" if value in names else _unnumbered(value, of_class))
            if key == "name" and isinstance(value, str)
            else _renamed(value, names, places, inner if key == "config" else "")
            for key, value in saved.items()
        }
    if isinstance(saved, list):
        is_reference = len(saved) == 3 and isinstance(saved[0], str) and all(type(part) is int for part in saved[1:])
        if is_reference:
            return [places.get(saved[0], saved[0]), *saved[1:]]
        return [_renamed(each, names, places) for each in saved]
    return saved


def _name(entry: Any) -> str | None:
    config = entry.get("config") if isinstance(entry, dict) else None
    return config.get("name") if isinstance(config, dict) else None


def _unnumbered(name: str, of_class: str) -> str:
    """Removes the number with which Keras makes the name of a further object of a class unique."""
    stem = re.sub(r"_\d+$", "", name)
    return stem if stem.replace("_", "") == of_class.lower() else name


def _forget_number(saved: Any, name: str) -> None:
    if isinstance(saved, dict):
        if isinstance(saved.get(name), int | float):
            del saved[name]
        for value in saved.values():
            _forget_number(value, name)
    elif isinstance(saved, list):
        for value in saved:
            _forget_number(value, name)
