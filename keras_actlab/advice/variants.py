"""The alternatives to a model as it is: functions that take a model and return another one."""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import keras

from keras_actlab._private.keras_graph import is_functional
from keras_actlab.arguments import received
from keras_actlab.conversion import swap_activations, to_gmp, to_weight_normalization
from keras_actlab.conversion.target import To
from keras_actlab.layers import TMAF, InputMeanNormalization
from keras_actlab.layers.gmp import GmP

# Takes a model that is not compiled, changes it or not, and returns a model that is not compiled.
Variant: TypeAlias = Callable[[keras.Model], keras.Model]
Variants: TypeAlias = Sequence[str] | Mapping[str, Variant | str]

AS_IS = "as is"
# Activations of this package, by name.
OWN: dict[str, To] = {
    "crrelu": "crrelu",
    "tmaf": "tmaf",
    "tmaf diagonal": TMAF(bandwidth=0),
    "entropy": "entropy",
    "prelu": "prelu",
}
# Activations that have parameters, and can start as the activation that they replace.
FITTED = {"crrelu", "tmaf", "tmaf diagonal", "entropy"}


def as_is(model: keras.Model) -> keras.Model:
    """Returns the model itself."""
    return model


def with_activation(model: keras.Model, name: str, start: str = "own") -> keras.Model:
    """Returns a copy of a model with another activation in place of its hidden ones.

    Args:
        model: The model.
        name: A name of `OWN`, or of an activation of Keras.
        start: "own", or "same" for an activation that starts as the one that it replaces, if it can.
    """
    to = OWN.get(name, name)
    return swap_activations(model, to, start=start if name in FITTED else "own", check=False)


def with_geometric_weights(model: keras.Model) -> keras.Model:
    """Returns a copy of a model with its kernels in geometric form."""
    return to_gmp(model, check=False)


def with_mean_normalization(model: keras.Model) -> keras.Model:
    """Returns a copy of a Functional or Sequential model with geometric weights and normalized means of their inputs.

    An `InputMeanNormalization` precedes each layer with geometric weights, also within nested models of these kinds.
    """
    converted = to_gmp(model, check=False)
    if not is_functional(converted):
        raise ValueError(
            f"`gmp+imn` needs a Functional or Sequential model. Received: {model.name!r}, a {type(model).__name__}"
        )

    def call(layer: keras.layers.Layer, *inputs: Any, **arguments: Any) -> Any:
        if isinstance(layer, GmP) and len(inputs) == 1:
            first = getattr(layer, "data_format", "channels_last") == "channels_first"
            return layer(InputMeanNormalization(axis=1 if first else -1)(*inputs), **arguments)
        return layer(*inputs, **arguments)

    @functools.cache  # a model that is called twice stays one model
    def within(layer: keras.layers.Layer) -> keras.layers.Layer:
        if not is_functional(layer):
            return layer
        is_sequential = isinstance(layer, keras.Sequential)
        ends = (layer.inputs[0], layer.outputs[0]) if is_sequential else (layer.input, layer.output)
        functional = keras.Model(*ends, name=layer.name)
        return keras.models.clone_model(functional, clone_function=within, call_function=call)

    return within(converted)


def with_weight_normalization(model: keras.Model) -> keras.Model:
    """Returns a copy of a model with its kernels in weight normalization."""
    return to_weight_normalization(model, check=False)


WEIGHTS: dict[str, Variant] = {
    "gmp": with_geometric_weights,
    "gmp+imn": with_mean_normalization,
    "weight norm": with_weight_normalization,
}


def _keras_activations() -> list[str]:
    """The names of `keras.activations`, without functions such as `threshold` that need more than a tensor."""
    functions = vars(keras.activations).items()
    helpers = {"get", "serialize", "deserialize"}
    return [
        name
        for name, value in functions
        if inspect.isfunction(value)
        and name not in helpers
        and all(p.default is not p.empty for p in list(inspect.signature(value).parameters.values())[1:])
    ]


def names() -> list[str]:
    """Returns the name of each variant that `keras_actlab.advise` knows.

    Example:

    >>> keras_actlab.advice.names()[:6]
    ['as is', 'crrelu', 'tmaf', 'tmaf diagonal', 'entropy', 'prelu']
    """
    return [AS_IS, *OWN, *WEIGHTS, *_keras_activations()]


def resolve(variants: Variants, start: str) -> dict[str, Variant]:
    """Returns the function of each variant by name, with the model as it is first.

    Args:
        variants: Names, or a mapping from names to functions and names.
        start: What activations with parameters start as (see `with_activation`).

    Raises:
        TypeError: If an entry is neither a known name nor a function.
        ValueError: If a name is unknown, or there is no variant beside "as is".
    """
    if isinstance(variants, str):
        variants = [variants]
    if not isinstance(variants, Mapping | Sequence):
        raise TypeError(f"`variants` must be names, or map names to functions. {received('variants', variants)}")
    given = variants.items() if isinstance(variants, Mapping) else [(name, name) for name in variants]
    resolved = {AS_IS: as_is} | dict(_named(name, value, start) for name, value in given)
    if len(resolved) == 1:
        raise ValueError(f'`variants` must hold one variant beside "as is". Received: variants={variants!r}')
    return resolved


def _named(name: Any, value: Any, start: str) -> tuple[str, Variant]:
    if not isinstance(name, str):
        raise TypeError(f"`variants` must be names, or map names to functions. {received('variants', name)}")
    if name == AS_IS and value != AS_IS:
        raise ValueError(f"`variants` must not give {AS_IS!r}, the model itself, to another one. Received: {value!r}")
    if not isinstance(value, str):
        if not callable(value):
            raise TypeError(f"`variants` must map names to functions of a model. {received(name, value)}")
        return name, value
    if value not in names():
        raise ValueError(f"`variants` must be functions, or names of {', '.join(names())}. Received: {value!r}")
    if value == AS_IS:
        return name, as_is
    return name, WEIGHTS.get(value) or functools.partial(with_activation, name=value, start=start)


def is_activation(variant: Variant) -> bool:
    """Whether a variant is one of the activations that `advise` knows by name."""
    return isinstance(variant, functools.partial) and variant.func is with_activation


def apply(name: str, variant: Variant, model: keras.Model) -> keras.Model:
    """Returns the variant of a model.

    Raises:
        TypeError: If a function of the user returns something else than a model that is not compiled.
    """
    was_compiled = model.compiled  # a copy of a keras-hub task always is
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Nothing was changed")  # the report says so
        made = variant(model)
    if not isinstance(made, keras.Model) or (made.compiled and not was_compiled):
        raise TypeError(
            f"`variants` must return a model that is not compiled; it is compiled as `model` is. "
            f"Received: {name} returned {made!r}"
        )
    return made
