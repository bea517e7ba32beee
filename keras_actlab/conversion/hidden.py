"""Telling activations of hidden layers from outputs and gates."""

from typing import Any

import keras

from keras_actlab._private import keras_graph as graph
from keras_actlab.conversion.layer_refs import LayerRef
from keras_actlab.layers.activations import activation_name
from keras_actlab.layers.replacement import SkipLayer

# Layers that pass on their input, or a part of it.
PASS_ON = (
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.Identity,
    keras.layers.Permute,
    keras.layers.RepeatVector,
    keras.layers.Reshape,
)
SOFTMAXES = ("softmax", "log_softmax", "sparsemax")
SIGMOIDS = ("sigmoid", "hard_sigmoid", "sparse_sigmoid")
# Activations whose range suits an output: bounded, positive or the logarithm of a probability.
RANGES = ("exponential", "hard_tanh", "log_sigmoid", "softplus", "softsign", "sparse_plus", "squareplus", "tanh")


def check_hidden(ref: LayerRef, activation: Any, holders: list[keras.layers.Layer]) -> None:
    """Raises `SkipLayer` if the activation is an output or a gate, unless `where` names the layer.

    Args:
        ref: A layer or operation that is an activation, or a layer that applies the one in an attribute.
        activation: That activation.
        holders: The layers whose graphs show what follows; empty if the layer is called by a function.
    """
    if ref.named:
        return
    layer = ref.layer
    name = activation_name(activation)
    if name == "linear":
        raise SkipLayer("it has no activation")
    if name in SOFTMAXES:
        raise SkipLayer("softmax is no hidden activation; give its name to swap it")
    consumers = [consumer for holder in holders for consumer in _consumers(layer, holder)]
    gates = not consumers or any(consumer is None or type(consumer).__name__ == "Multiply" for consumer in consumers)
    if name in SIGMOIDS and gates:
        raise SkipLayer(f"this {name} is, or may be, an output or a gate; give its name to swap it")
    if name in RANGES and None in consumers:
        raise SkipLayer(f"this {name} is an output; give its name to swap it")
    if name == "relu6" and any(_adds_three(node) for holder in holders for node in graph.calls(layer, holder)):
        raise SkipLayer("this relu6 of x + 3 is a hard sigmoid, a gate; give its name to swap it")


def _consumers(layer: keras.Operation, holder: keras.layers.Layer) -> list[keras.Operation | None]:
    """The operations that compute with the output of `layer`, behind those that pass it on; None for a model output."""
    consumers: list[keras.Operation | None] = [None] if graph.is_output(layer, holder) else []
    for follower in graph.consumers(layer, holder):
        consumers += _consumers(follower, holder) if isinstance(follower, PASS_ON) else [follower]
    return consumers


def _adds_three(node: Any) -> bool:
    """Whether the input of the node is the sum of a tensor and the number 3."""
    adding = graph.producing_call(node.input_tensors[0])
    if type(adding.operation).__name__ != "Add":
        return False
    arguments = adding.arguments
    return 3 in [value for value in (*arguments.args, *arguments.kwargs.values()) if isinstance(value, int | float)]
