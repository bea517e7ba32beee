"""Attributes of layers and variables that Keras keeps private (read in Keras 3.15.1: `keras/src/layers/layer.py`)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras


def nested_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns all layers within `layer`, at any depth. The public `keras.Model.layers` lists one level only."""
    return list(layer._flatten_layers(include_self=False))


@contextmanager
def replaced_call(layer: keras.layers.Layer, call: Callable[..., Any]) -> Iterator[None]:
    """Within, calling `layer` runs `call` instead of its method `call`. Keras has no forward hooks.

    An attribute of the instance takes precedence over the method of its class.
    """
    layer.call = call
    try:
        yield
    finally:
        del layer.call


def set_autocast(variable: keras.Variable, autocast: bool) -> None:
    """Sets whether a layer reads `variable` in its compute dtype. `add_weight` allows that for new variables only."""
    variable._autocast = autocast


def disable_rematerialization(layer: keras.layers.Layer) -> None:
    """Excludes `layer` from `keras.RematScope`. Keras reads the scope once, in the constructor of a layer."""
    layer._remat_mode = None


def forbid_quantization(layer: keras.layers.Layer, refuse: Callable[..., Any]) -> None:
    """Makes `layer.quantize` and `layer.enable_lora` call `refuse`, which raises, before they change anything.

    Keras wraps `quantize` of every class; the wrapper first looks `_check_quantize_args` up on the layer.
    """
    vars(layer)["_check_quantize_args"] = vars(layer)["enable_lora"] = refuse


def allow_quantization(layer: keras.layers.Layer) -> None:
    """Undoes `forbid_quantization`."""
    for name in ("_check_quantize_args", "enable_lora"):
        vars(layer).pop(name, None)
