"""Activations that are attributes of a layer, under any name, and that its config may not contain.

`LlamaTransformerDecoder` of keras-hub applies its attribute `activation`, Swin's `Mlp` its `act_layer`, and
`XLNetEncoder` its `activation_function_ff`, which it creates in `build`. A layer stores the functions that were
replaced, so that it can return its original config; `Modified` saves the present attributes.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras

from keras_actlab._private.keras_layers import set_attribute

ORIGINALS = "_keras_actlab_original_activations"


def originals(layer: keras.Operation) -> Mapping[str, Any]:
    """Returns the functions that were replaced in `layer`, by the names of the attributes."""
    found: Mapping[str, Any] = vars(layer).get(ORIGINALS, {})
    return found


def set_activations(layer: keras.layers.Layer, activations: Mapping[str, Any]) -> None:
    """Sets attributes of `layer` by name, and stores their original values."""
    kept = dict(originals(layer))
    for name, activation in activations.items():
        original = kept.setdefault(name, getattr(layer, name))
        if activation is original:
            del kept[name]
        set_attribute(layer, name, activation)
    # Without Keras' `__setattr__`, which would track the dictionary.
    vars(layer).pop(ORIGINALS, None)
    if kept:
        vars(layer)[ORIGINALS] = kept


@contextmanager
def with_originals(layer: keras.layers.Layer) -> Iterator[None]:
    """Within, `layer` has its original functions, which are set without Keras, as a built layer is locked."""
    shown = originals(layer)
    held = {name: vars(layer)[name] for name in shown if name in vars(layer)}
    vars(layer).update(shown)
    try:
        yield
    finally:
        for name in shown:
            del vars(layer)[name]
        vars(layer).update(held)
