"""Refusal of quantization and LoRA by layers that compute their kernels."""

from typing import Any, NoReturn

import keras

from keras_actlab._private import keras_layers


class Unquantized:
    """Mixin of layers that compute their kernels, so that these can neither be quantized nor have LoRA."""

    def quantize(self, mode: Any = None, **kwargs: Any) -> NoReturn:
        """Raises ValueError."""
        raise _refusal(self)

    def enable_lora(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises ValueError."""
        raise _refusal(self)


def refuse_quantization(layer: keras.layers.Layer, computing: Any) -> None:
    """Makes quantization and LoRA of `layer` and of all layers within raise a ValueError.

    `keras.Model.quantize` visits only layers that hold no others. A layer with an activation layer therefore has to
    refuse through this activation.

    Args:
        layer: The layer.
        computing: The layer that computes its kernels, which the message names.
    """
    # The function must not hold the layer, of which a copy of the model would need another function.
    refusal = _refusal(computing)

    def refusing(*args: Any, **kwargs: Any) -> NoReturn:
        raise ValueError(*refusal.args)

    for one in keras_layers.nested_layers(layer, include_self=True):
        keras_layers.forbid_quantization(one, refusing)


def refuses_quantization(layer: keras.layers.Layer) -> bool:
    """Returns whether `layer` computes its kernels, or is within one that does."""
    return isinstance(layer, Unquantized) or keras_layers.is_quantization_forbidden(layer)


def allow_quantization(layer: Any) -> None:
    """Undoes `refuse_quantization`. Functions are left unchanged."""
    if isinstance(layer, keras.layers.Layer):
        for one in keras_layers.nested_layers(layer, include_self=True):
            keras_layers.allow_quantization(one)


def _refusal(layer: Any) -> ValueError:
    # `keras.Model.quantize` would turn a NotImplementedError into a warning and skip the layer.
    return ValueError(
        f"Layer {layer.name!r} of type {type(layer).__name__} computes its kernel, so it can neither be quantized nor "
        "have LoRA. Fold the model first, with `keras_actlab.fold(model)`, and quantize the result. If "
        "`keras.Model.quantize` raised this error, some other layers of this model may already be quantized."
    )
