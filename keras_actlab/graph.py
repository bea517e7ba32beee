"""Reading a model: which layers it holds, and how its graph calls them.

Keras has no public way to ask for all of this. Nothing is changed here; that is done in `conversion/surgery.py`.
"""

import inspect
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache
from typing import Any

import keras

from keras_actlab import layers

# Layers that are an activation and nothing else.
ACTIVATION_LAYERS = (
    keras.layers.Activation,
    keras.layers.ELU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ReLU,
    keras.layers.Softmax,
    layers.CRReLU,
    layers.EntropyActivation,
    layers.TMAF,
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
    """The operations that the functions in `FUNCTIONS` and `OPS` put into a graph, each with its function."""
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
                operations[type(output._keras_history.operation)] = function
            except Exception:  # some take no KerasTensor (mish and hard_silu of Keras 3.15), so they are in no graph
                continue
    return operations


def is_activation_operation(operation: keras.Operation) -> bool:
    """Whether `operation` is what an activation function, called on a KerasTensor, puts into a graph."""
    return type(operation) in activation_operations()


def activation_name(activation: Any) -> str | None:
    """The name of what an activation, a layer or an operation computes; None where it is no function of Keras."""
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
    """Whether an activation, a layer or an operation is, or applies, `function`."""
    if function in (activation, getattr(activation, "activation", None)):
        return True
    name = activation_name(function)
    return name is not None and activation_name(activation) == name


def applied_activation(layer: keras.Operation) -> Any:
    """What `layer` applies: itself, where it is an activation, or its attribute `activation`; None if it has none."""
    is_itself = isinstance(layer, ACTIVATION_LAYERS) or is_activation_operation(layer)
    return layer if is_itself else getattr(layer, "activation", None)


def as_layer(operation: keras.Operation) -> keras.layers.Layer:
    """`operation`, if it is a layer, or else a layer that computes the same, for functions that expect layers."""
    if isinstance(operation, keras.layers.Layer):
        return operation
    return keras.layers.Activation(activation_operations()[type(operation)], name=operation.name)


def children(layer: keras.Operation) -> list[keras.layers.Layer]:
    """The layers that `layer` holds itself, save inputs: those of its graph, if it has one, and then the others.

    The order in which it came to hold them would be simpler, but in subclasses of Functional depends on the backend.
    """
    if not isinstance(layer, keras.layers.Layer):
        return []
    held = [operation for operation in getattr(layer, "operations", []) if isinstance(operation, keras.layers.Layer)]
    held += layer._flatten_layers(include_self=False, recursive=False)
    return [one for one in dict.fromkeys(held) if not isinstance(one, keras.layers.InputLayer)]


def parts(layer: keras.Operation) -> list[keras.Operation]:
    """The `children` of `layer` and the operations of its graph that are activations, in the order of the graph."""
    held = children(layer)
    known = set(held)
    in_graph = [one for one in getattr(layer, "operations", []) if one in known or is_activation_operation(one)]
    return list(dict.fromkeys([*in_graph, *held]))


def holders(model: keras.Model) -> dict[int, list[keras.layers.Layer]]:
    """The layers that hold each of the `parts` within `model`, by its id."""
    found: dict[int, list[keras.layers.Layer]] = defaultdict(list)

    def visit(holder: keras.layers.Layer) -> None:
        for part in parts(holder):
            found[id(part)].append(holder)
            if len(found[id(part)]) == 1:
                visit(part)

    visit(model)
    return found


def holder_counts(model: keras.Model) -> Counter[int]:
    """How many layers hold each layer within `model`, by its id."""
    return Counter({part: len(found) for part, found in holders(model).items()})


def _graph(holder: keras.layers.Layer) -> list[Any]:
    """The nodes of the graph of `holder`; none, if it has no graph."""
    # A Sequential model is called through a Functional one.
    by_depth = getattr(getattr(holder, "_functional", holder), "_nodes_by_depth", {})
    return [node for nodes in by_depth.values() for node in nodes]


def calls(layer: keras.layers.Layer, holder: keras.layers.Layer) -> list[Any]:
    """The nodes in which `layer` is called in the graph of `holder`."""
    nodes = _graph(holder)
    return [node for node in layer._inbound_nodes if node in nodes]


def consumers(layer: keras.layers.Layer, holder: keras.layers.Layer) -> list[keras.Operation]:
    """The operations that take what `layer` puts out, in the graph of `holder`."""
    nodes = _graph(holder)
    return [node.operation for node in layer._outbound_nodes if node in nodes]


def is_functional(layer: keras.layers.Layer) -> bool:
    """Whether `layer` is a graph of layers and nothing more: a Functional or Sequential model."""
    return isinstance(layer, keras.Sequential) or (
        isinstance(layer, keras.Model) and type(layer).__name__ == "Functional"
    )


def is_output(layer: keras.layers.Layer, model: keras.Model) -> bool:
    """Whether `model`, if it has a graph, puts out what `layer` does."""
    outputs = getattr(model, "outputs", None) or []
    return any(output._keras_history.operation is layer for output in outputs)
