"""Activations that layers hold as attributes, whichever names these have, and that their configs may not show.

`LlamaTransformerDecoder` of keras-hub applies its attribute `activation`, Swin's `Mlp` its `act_layer`, and
`XLNetEncoder` its `activation_function_ff`, which it makes when it is built. A layer keeps the functions whose places
others took, so that its config can be asked for as it was; `Modified` saves what the attributes are now.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras

from keras_actlab._private.keras_layers import set_attribute

ORIGINALS = "_keras_actlab_original_activations"


def originals(layer: keras.Operation) -> Mapping[str, Any]:
    """The functions that `layer` had as attributes before they were exchanged, by the names of the attributes."""
    found: Mapping[str, Any] = vars(layer).get(ORIGINALS, {})
    return found


def set_activations(layer: keras.layers.Layer, activations: Mapping[str, Any]) -> None:
    """Sets the attributes of `layer` that are named, and keeps what they were at first."""
    kept = dict(originals(layer))
    for name, activation in activations.items():
        original = kept.setdefault(name, getattr(layer, name))
        if activation is original:
            del kept[name]
        set_attribute(layer, name, activation)
    # Past Keras, which would track the dictionary.
    vars(layer).pop(ORIGINALS, None)
    if kept:
        vars(layer)[ORIGINALS] = kept


@contextmanager
def with_originals(layer: keras.layers.Layer) -> Iterator[None]:
    """Within, `layer` has its original functions; past Keras, for which a layer that is built is locked."""
    shown = originals(layer)
    held = {name: vars(layer)[name] for name in shown if name in vars(layer)}
    vars(layer).update(shown)
    try:
        yield
    finally:
        for name in shown:
            del vars(layer)[name]
        vars(layer).update(held)
