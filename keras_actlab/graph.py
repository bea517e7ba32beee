"""Reading a model: which layers it holds, and how its graph calls them.

Keras has no public way to ask for all of this. Nothing is changed here; that is done in `conversion/surgery.py`.
"""

from collections import Counter, defaultdict
from typing import Any

import keras

from keras_actlab.layers.activations import is_activation_operation


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
