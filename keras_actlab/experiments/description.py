"""A text that tells compiled models apart."""

import json
from typing import Any

import keras


def describe(model: keras.Model, learning_rate: bool = True) -> str | None:
    """Returns a text that is equal for models that are built and compiled alike.

    It holds what Keras saves of a model and the shapes of its variables, but neither their values nor the bodies of
    custom layers and functions. Names of layers and of the optimizer do not count: Keras numbers them over the life of
    a process, and no result depends on them. Every other name, such as that of a custom function, does.

    Args:
        model: A compiled model.
        learning_rate: Whether models that differ in a learning rate that is a number have different texts.

    Returns:
        The text, or None for a model that Keras cannot describe.

    Example:

    >>> from keras_actlab.experiments.description import describe
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


def _names(model: keras.Model) -> dict[str, str]:
    """Gives each layer, operation and optimizer a name by its place in the model."""
    layers = model._flatten_layers()  # which has no public name that enters custom layers
    operations = [each for layer in layers for each in getattr(layer, "operations", ())]
    named = [*layers, *operations, *([model.optimizer] if getattr(model, "optimizer", None) else [])]
    return {name: f"#{place}" for place, name in enumerate(dict.fromkeys(each.name for each in named))}


def _renamed(saved: Any, names: dict[str, str]) -> Any:
    """Replaces names where a configuration holds one: under "name", and at the head of references to a tensor."""
    if isinstance(saved, dict):
        return {
            key: names.get(value, value) if key == "name" and isinstance(value, str) else _renamed(value, names)
            for key, value in saved.items()
        }
    if isinstance(saved, list):
        is_reference = len(saved) == 3 and isinstance(saved[0], str) and all(type(part) is int for part in saved[1:])
        return [names.get(saved[0], saved[0]), *saved[1:]] if is_reference else [_renamed(v, names) for v in saved]
    return saved


def _forget_number(saved: Any, name: str) -> None:
    if isinstance(saved, dict):
        if isinstance(saved.get(name), int | float):
            del saved[name]
        for value in saved.values():
            _forget_number(value, name)
    elif isinstance(saved, list):
        for value in saved:
            _forget_number(value, name)
