"""The graphs of Functional models, read in Keras 3.15.1 (`keras/src/ops/node.py`, `keras/src/models/functional.py`).

A node is one call of an operation, such as a layer, in a graph. Keras lists the layers of a graph once, when it makes
the model, and has no public way to read nodes or to change them.
"""

import itertools
from typing import Any

import keras

from keras_actlab._private.keras_layers import nested_layers, replace_in_place


def children(layer: keras.Operation) -> list[keras.layers.Layer]:
    """Returns the layers that `layer` holds itself, without inputs: first those of its graph, then the others.

    The order in which it came to hold them would be simpler, but in subclasses of Functional depends on the backend.
    """
    if not isinstance(layer, keras.layers.Layer):
        return []
    held = [operation for operation in getattr(layer, "operations", []) if isinstance(operation, keras.layers.Layer)]
    held += nested_layers(layer, recursive=False)
    return [one for one in dict.fromkeys(held) if not isinstance(one, keras.layers.InputLayer)]


def producer(tensor: keras.KerasTensor) -> keras.Operation:
    """Returns the operation that computes `tensor`."""
    return tensor._keras_history.operation


def producing_call(tensor: keras.KerasTensor) -> Any:
    """Returns the node that computes `tensor`."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def calls(layer: keras.layers.Layer, holder: keras.layers.Layer) -> list[Any]:
    """Returns the nodes in which `layer` is called in the graph of `holder`."""
    nodes = _nodes(holder)
    return [node for node in layer._inbound_nodes if node in nodes]


def consumers(layer: keras.layers.Layer, holder: keras.layers.Layer) -> list[keras.Operation]:
    """Returns the operations that take the output of `layer`, in the graph of `holder`."""
    nodes = _nodes(holder)
    return [node.operation for node in layer._outbound_nodes if node in nodes]


def is_functional(layer: keras.layers.Layer) -> bool:
    """Returns whether `layer` is a graph of layers and nothing more: a Functional or Sequential model."""
    return isinstance(layer, keras.Sequential) or (
        isinstance(layer, keras.Model) and type(layer).__name__ == "Functional"
    )


def is_output(layer: keras.layers.Layer, model: keras.Model) -> bool:
    """Returns whether the output of `layer` is an output of the graph of `model`."""
    return any(producer(output) is layer for output in getattr(model, "outputs", None) or [])


def track_layers(layer: keras.layers.Layer) -> None:
    """Makes `layer`, and the models within, hold each layer of their graphs, also one that was an operation before.

    The weights of a model are listed in the order of its layers. A layer that Keras finds in the graph when it loads
    the model has the index that it has there; so has one that is added here.
    """
    for inner in (layer, *nested_layers(layer)):
        in_graph = children(inner) if hasattr(inner, "_nodes_by_depth") else []
        missing = [one for one in in_graph if not any(one is held for held in inner._layers)]
        if missing:
            for one in missing:
                inner._tracker.track(one)
            order = {id(one): index for index, one in enumerate(in_graph)}
            inner._layers.sort(key=lambda one: order.get(id(one), len(order)))


def split_calls(layer: keras.layers.Layer, model: keras.Model) -> list[keras.layers.Layer]:
    """Gives each call of `layer` in the graph of the Functional `model`, except the first, a layer of its own.

    Returns these layers, which are configured as `layer` is, and named like it with "_1", "_2" and so on.
    """
    taken = {other.name for other in children(model)}
    names = (name for k in itertools.count(1) if (name := f"{layer.name}_{k}") not in taken)
    twins = []
    nodes = calls(layer, model)
    for node, name in zip(nodes[1:], names, strict=False):
        twin = type(layer).from_config(layer.get_config() | {"name": name})
        node.operation = twin
        twin._inbound_nodes.append(node)
        made = {id(tensor) for tensor in node.outputs}
        twin._outbound_nodes.extend(
            user for user in layer._outbound_nodes if any(id(tensor) in made for tensor in user.input_tensors)
        )
        for tensor in node.outputs:
            tensor._keras_history = tensor._keras_history._replace(operation=twin, node_index=0)
        twins.append(twin)
    moved = [user for twin in twins for user in twin._outbound_nodes]
    layer._outbound_nodes = [user for user in layer._outbound_nodes if user not in moved]
    layer._inbound_nodes = nodes[:1]
    replace_in_place(model, keras.Model(model.input, model.output, name=model.name, trainable=model.trainable))
    return twins


def _nodes(holder: keras.layers.Layer) -> list[Any]:
    """The nodes of the graph of `holder`; none, if it has no graph."""
    # A Sequential model is called through a Functional one.
    by_depth = getattr(getattr(holder, "_functional", holder), "_nodes_by_depth", {})
    return [node for nodes in by_depth.values() for node in nodes]
