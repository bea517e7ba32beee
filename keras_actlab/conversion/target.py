"""New activations: the values that `to` can have, and the layers that are made of them."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_actlab.layers import ACTIVATIONS
from keras_actlab.layers.activations import FUNCTIONS, OPS, computes
from keras_actlab.layers.arguments import Shape

To: TypeAlias = str | type[keras.layers.Layer] | Callable[..., Any]
Was: TypeAlias = To | Sequence[To]

LAYERS: dict[str, type[keras.layers.Layer]] = {**ACTIVATIONS, "prelu": keras.layers.PReLU}

OTHER_LIBRARIES = ("flax", "jax", "tensorflow", "torch")


@dataclass(frozen=True)
class Target:
    """A new activation, with its name resolved, and whether it starts as the old one."""

    to: Any
    start_same: bool

    def __post_init__(self) -> None:
        if self.start_same and not hasattr(self.to, "set_curve"):
            raise ValueError(
                '`start="same"` needs activations that can be fitted to others: TMAF, EntropyActivation, CRReLU, or a '
                f"layer with a method `set_curve` like theirs. Received: to={self.to!r}"
            )

    @property
    def is_function(self) -> bool:
        """Whether it is a function of tensors, which has no parameters."""
        return is_function_of_tensors(self.to)


def chooser(to: To) -> Callable[[keras.layers.Layer], Any]:
    """Returns `to` as a function of the layer whose activation is swapped; the function checks what it returns."""
    if _is_the_same_for_all_layers(to):
        check(to)
        return lambda layer: to
    if not callable(to) or _is_of_another_library(to):
        check(to)
    function: Any = to

    def choose(layer: keras.layers.Layer) -> Any:
        try:
            chosen = function(layer)
        except Exception as error:
            raise ValueError(
                f"`to` must be a function of a layer, if it is a function. Received: to={to!r}, which fails on "
                f"{layer.name} ({type(layer).__name__}): {error}. Register a function of tensors with "
                "keras.saving.register_keras_serializable, or wrap it as keras.layers.Activation(function)."
            ) from error
        if chosen is not None:
            check(chosen)
        return chosen

    return choose


def _is_the_same_for_all_layers(to: Any) -> bool:
    return isinstance(to, str | type | keras.layers.Layer) or is_function_of_tensors(to)


def is_function_of_tensors(to: Any) -> bool:
    """Returns whether `to` is a function of tensors: one of Keras, or a registered one."""
    if not inspect.isfunction(to):
        return False
    return to in FUNCTIONS.values() or to in OPS.values() or keras.saving.get_registered_name(to) != to.__name__


def _is_of_another_library(to: Any) -> bool:
    cls = to if isinstance(to, type) else type(to)
    if issubclass(cls, keras.layers.Layer):
        return False
    modules = [getattr(one, "__module__", None) or "" for one in (to, *cls.__mro__)]
    return any(module.split(".")[0] in OTHER_LIBRARIES for module in modules)


def check(to: Any) -> None:
    """Raises unless `to` is an activation."""
    if isinstance(to, str):
        if to.lower() not in FUNCTIONS | LAYERS:
            raise ValueError(
                f"`to` must be the name of an activation. Received: to={to!r}. Known names: "
                f"{', '.join(sorted(FUNCTIONS | LAYERS))}"
            )
    elif _is_of_another_library(to):
        raise TypeError(
            "`to` must be an activation of Keras, so that the model can be saved: its name, such as 'gelu', a function "
            f"of keras.activations, a class of layers or a layer. Received: to={to!r}, of another library"
        )
    elif not _is_the_same_for_all_layers(to) or (isinstance(to, type) and not issubclass(to, keras.layers.Layer)):
        raise TypeError(
            "`to` must be the name of an activation, a function of keras.activations, a class of layers or a layer, or "
            f"a function of a layer that returns one of these. Received: to={to!r}"
        )
    elif to in OPS.values():
        _saved_form(to)


def old_activations(was: Was) -> Callable[[Any], bool]:
    """Returns a function that decides whether an activation, a layer or an operation matches `was`."""
    found: list[Any] = []
    for one in was if isinstance(was, list | tuple) else [was]:
        named = (FUNCTIONS | LAYERS).get(one.lower()) if isinstance(one, str) else one
        if not (is_function_of_tensors(named) or (isinstance(named, type) and issubclass(named, keras.layers.Layer))):
            raise (ValueError if isinstance(one, str) else TypeError)(
                "`was` must be the name of an activation, a function of keras.activations, a class of layers, or a "
                f"list of these. Received: was={was!r}. Known names: {', '.join(sorted(FUNCTIONS | LAYERS))}"
            )
        found.append(named)
    return lambda applied: any(
        isinstance(applied, one) if isinstance(one, type) else computes(applied, one) for one in found
    )


def resolve(to: To) -> Any:
    """Returns the class or function that a name means; of two equal functions, that of `keras.activations`."""
    if isinstance(to, str):
        return (FUNCTIONS | LAYERS)[to.lower()]
    return _saved_form(to) if is_function_of_tensors(to) else to


def _saved_form(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function that Keras loads if `function` was saved; Keras saves the name alone."""
    if function not in OPS.values():
        return function
    name = next(name for name in OPS if OPS[name] is function)
    x = keras.ops.convert_to_tensor(np.linspace(-4, 4, 33, dtype="float32")[None])
    own, loaded = (keras.ops.convert_to_numpy(one(x)) for one in (function, FUNCTIONS[name]))
    if not np.allclose(own, loaded, rtol=0, atol=1e-5):
        raise ValueError(
            f"`to` must be a function that Keras can save. Received: to=keras.ops.{name}, which Keras loads as "
            f"keras.activations.{name}, with other values. Give to='{name}', or register a function of your own with "
            "keras.saving.register_keras_serializable."
        )
    return FUNCTIONS[name]


def make(to: Any, name: str, dtype: str, shape: Shape, channels_first: bool) -> keras.layers.Layer:
    """Returns a new layer of the class `to`, or like the template `to`."""
    if isinstance(to, keras.layers.Activation):
        return keras.layers.Activation(to.activation, name=name, dtype=dtype)  # whose function may not be registered
    if isinstance(to, keras.layers.Layer):
        return type(to).from_config(to.get_config() | {"name": name, "dtype": dtype})
    channels_first = channels_first and len(shape) > 2
    arguments: dict[str, Any] = {}
    if to is keras.layers.PReLU:
        channel_axis = 1 if channels_first else len(shape) - 1
        arguments["shared_axes"] = [axis for axis in range(1, len(shape)) if axis != channel_axis]
    elif channels_first:
        parameter = inspect.signature(to).parameters.get("axis")
        if parameter is not None and parameter.default == -1:
            arguments["axis"] = 1
    return to(**arguments, name=name, dtype=dtype)
