"""Quantization of a folded model."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras

from keras_actlab._private.keras_layers import is_selected_for_quantization, nested_layers, without_children
from keras_actlab._private.torch_modules import update_parameters
from keras_actlab.arguments import check_choice
from keras_actlab.conversion.attributes import originals
from keras_actlab.layers.quantization import refuses_quantization

# As in keras.Model.quantize: regular expressions of names, or a function of a layer.
Filters: TypeAlias = str | Sequence[str] | Callable[[keras.layers.Layer], bool] | None


def quantize(model: keras.Model, mode: str | None = None, *, config: Any = None, filters: Filters = None) -> None:
    """Quantizes a model in place, as `keras.Model.quantize` does, including layers whose activation is a layer.

    `keras.Model.quantize` skips each layer that holds another one, and so a Dense whose activation `swap_activations`
    replaced, or to whose activation `fold` added a multiplication. It warns of each layer without a kernel.

    The layers that Keras quantizes are Dense, EinsumDense, Embedding and ReversibleEmbedding. Convolutions keep their
    kernels.

    Args:
        model: A model that is built, without layers that compute their kernels: use the result of `fold`.
        mode: `"int8"`, `"int4"` or `"float8"`. Optional if `config` is given.
        config: A `keras.quantizers.QuantizationConfig`. `"awq"` needs `keras.quantizers.AWQConfig`, whose
            `quantization_layer_structure` must name layers of this model unless its class has the method
            `get_quantization_layer_structure`. `"gptq"` needs `keras.quantizers.GPTQConfig` likewise, with a
            `group_size` that divides 128.
        filters: Which layers to quantize: a regular expression of names, a list of these, or a function of a layer.

    Raises:
        TypeError: If `model` is not a model.
        ValueError: If the model is not built, the selected layers include one that computes its kernel, none can be
            quantized, or GPTQ's `group_size` does not divide 128. The model is unchanged then.

    Example:

    >>> model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
    >>> model = keras_actlab.fold(keras_actlab.to_gmp(keras_actlab.swap_activations(model, "crrelu")))
    >>> keras_actlab.quantize(model, "int8")
    >>> [layer.dtype_policy.name for layer in model.layers]
    ['int8_from_float32', 'int8_from_float32']
    """
    if mode is not None or config is None:
        check_choice("mode", mode, ("int8", "int4", "float8", "awq", "gptq"))
    # Keras 3.15 starts another group after each block of 128 inputs, and then fails halfway: it has more scales than
    # groups. With at most 128 inputs, -1 is the same as 128.
    if isinstance(config, keras.quantizers.GPTQConfig) and (config.group_size < 1 or 128 % config.group_size):
        raise ValueError(
            "`group_size` of GPTQ must divide 128, because Keras fails otherwise for layers with more than 128 inputs. "
            f"Received: group_size={config.group_size}"
        )
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: model={model!r} (of type {type(model).__name__})")
    if not model.built:
        raise ValueError(f"`model` must be built. Received: model={model.name!r}, which is not built")
    selected = [layer for layer in nested_layers(model) if is_selected_for_quantization(layer, filters)]
    computing = [layer for layer in selected if refuses_quantization(layer)]
    if computing:
        raise ValueError(
            "`model` must have no layers that compute their kernels: fold it first, with `keras_actlab.fold(model)`. "
            f"Received: model={model.name!r}, with {', '.join(layer.path or layer.name for layer in computing)}"
        )
    activations = {layer: held for layer in selected if (held := _activations(layer))}
    with without_children(activations):
        able = {id(layer) for layer in selected if _is_quantized_alone(layer)}
        if not able:
            raise ValueError(
                "`model` must have layers that Keras can quantize: Dense, EinsumDense, Embedding or "
                f"ReversibleEmbedding. Received: model={model.name!r}, filters={filters!r}"
            )
        model.quantize(mode, config=config, filters=lambda layer: id(layer) in able)
    update_parameters(model)


def _activations(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that are activations of `layer`."""
    held = [getattr(layer, name, None) for name in ("activation", *originals(layer))]
    return [one for one in held if isinstance(one, keras.layers.Layer)]


def _is_quantized_alone(layer: keras.layers.Layer) -> bool:
    """Whether `layer` holds no other layers and its class says how it is quantized."""
    has_method = type(layer).quantize is not keras.layers.Layer.quantize
    return has_method and not nested_layers(layer)
