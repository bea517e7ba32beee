"""Activations of Keras, and what identifies other layers as activations.

The tables have Keras' own functions and layers only. Another layer that is an activation and nothing else has the class
attribute `is_activation = True`, see `docs/extending.md`.
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import keras

from keras_actlab._private.keras_graph import producer

# Keras' own layers that are an activation and nothing else.
KERAS_LAYERS = (
    keras.layers.Activation,
    keras.layers.ELU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ReLU,
    keras.layers.Softmax,
)

# The activations of Keras that are functions, by their names. glu halves the channels, so no layer has it.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: function
    for name, function in vars(keras.activations).items()
    if inspect.isfunction(function) and name not in ("get", "serialize", "deserialize", "glu")
}
# Keras has a second function for most of them, and some differ: keras.ops.gelu is the approximation.
OPS: dict[str, Callable[..., Any]] = {
    name: getattr(keras.ops, name) for name in FUNCTIONS if inspect.isfunction(getattr(keras.ops, name, None))
}

NAMES = {function: name for functions in (OPS, FUNCTIONS) for name, function in functions.items()}


@cache
def activation_operations() -> dict[type[keras.Operation], Callable[..., Any]]:
    """Returns the operations that the functions in `FUNCTIONS` and `OPS` add to a graph, each with its function."""
    operations = {}
    for name, function in FUNCTIONS.items():
        if name == "exponential":
            continue  # the operation of every keras.ops.exp
        required = [
            parameter.name
            for parameter in inspect.signature(function).parameters.values()
            if parameter.default is parameter.empty
        ]
        for one in (function, OPS.get(name, function)):
            try:
                output = one(keras.KerasTensor((2, 2)), *[1.0] * (len(required) - 1))
                operations[type(producer(output))] = function
            except Exception:  # mish and hard_silu of Keras 3.15 do not take a KerasTensor, so they are in no graph
                continue
    return operations


def is_activation(layer: Any) -> bool:
    """Returns whether `layer` is an activation and nothing else: one of Keras, or one with `is_activation = True`."""
    return isinstance(layer, KERAS_LAYERS) or (
        isinstance(layer, keras.layers.Layer) and getattr(layer, "is_activation", False) is True
    )


def is_activation_operation(operation: keras.Operation) -> bool:
    """Returns whether `operation` is one that an activation function, called on a KerasTensor, adds to a graph."""
    return type(operation) in activation_operations()


def activation_name(activation: Any) -> str | None:
    """Returns the name of the function that an activation or operation computes; None if Keras does not define it."""
    match activation:
        case keras.layers.Softmax():
            return "softmax"
        case keras.layers.ReLU():
            return "relu6" if activation.max_value == 6 and not activation.negative_slope else "relu"
        case keras.layers.ELU():
            return "elu"
        case keras.layers.LeakyReLU():
            return "leaky_relu"
        case keras.layers.Activation():
            return activation_name(activation.activation)
        case keras.layers.Layer():
            return None
        case keras.Operation():
            function = activation_operations().get(type(activation))
            return "relu6" if getattr(activation, "max_value", None) == 6 else activation_name(function)
        case _:
            return NAMES.get(activation) if inspect.isfunction(activation) else None


def computes(activation: Any, function: Callable[..., Any]) -> bool:
    """Returns whether an activation, a layer or an operation is, or applies, `function`."""
    if function in (activation, getattr(activation, "activation", None)):
        return True
    name = activation_name(function)
    return name is not None and activation_name(activation) == name


def applied_activation(layer: keras.Operation) -> Any:
    """Returns `layer` if it is an activation, or else its attribute `activation`; None if it has none."""
    if is_activation(layer) or is_activation_operation(layer):
        return layer
    return getattr(layer, "activation", None)


def as_layer(operation: keras.Operation) -> keras.layers.Layer:
    """Returns `operation` if it is a layer, or else a layer that computes the same."""
    if isinstance(operation, keras.layers.Layer):
        return operation
    return keras.layers.Activation(activation_operations()[type(operation)], name=operation.name)


def is_positively_homogeneous(activation: object) -> bool:
    """Returns whether `activation(r * z) == r * activation(z)` for all r >= 0 is known."""
    match activation:
        case keras.layers.ReLU():
            return activation.max_value is None and activation.threshold == 0
        case keras.layers.LeakyReLU() | keras.layers.PReLU():
            return True
        case keras.layers.Activation():
            return is_positively_homogeneous(activation.activation)
        case _:
            return activation in (None, keras.activations.linear, keras.activations.relu, keras.activations.leaky_relu)
