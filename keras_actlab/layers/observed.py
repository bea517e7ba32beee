"""Observing the activations of a model while it runs, outside of compiled functions."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias, TypeVar

import keras

from keras_actlab._private.keras_layers import nested_layers, replaced_call
from keras_actlab.layers.activations import is_activation
from keras_actlab.ops.tensor import Tensor

EXCLUDED_ACTIVATIONS = (
    keras.activations.linear,
    keras.activations.log_softmax,
    keras.activations.softmax,
    keras.activations.sparsemax,
)

LayerT = TypeVar("LayerT", bound=keras.layers.Layer)

# Called with the layer, the function that it applies (or the layer itself), the input and the output.
Observer: TypeAlias = Callable[[keras.layers.Layer, Callable[..., Any], Tensor, Tensor], None]


def observable(model: keras.Model) -> dict[Any, Callable[..., Any]]:
    """Returns the layers of a model that apply an elementwise activation, each with the function, or itself.

    Linear activations, softmax and those in recurrent layers are not included.
    """
    found = {}
    for layer in nested_layers(model):
        # Recurrent cells, and the layers that hold them, have a `state_size`.
        if isinstance(layer, keras.layers.Softmax) or hasattr(layer, "state_size"):
            continue
        if is_activation(layer):
            found[layer] = layer
        elif _applies(getattr(layer, "activation", None)):
            found[layer] = layer.activation
    return found


def labels(layers: Iterable[keras.layers.Layer]) -> dict[keras.layers.Layer, str]:
    """Returns the name of each layer that no other one has, and the path of the others."""
    layers = list(layers)
    counts = Counter(layer.name for layer in layers)
    return {layer: layer.name if counts[layer.name] == 1 else layer.path or layer.name for layer in layers}


def select(wanted: Iterable[keras.layers.Layer | str], there: Sequence[LayerT], description: str) -> list[LayerT]:
    """Returns those of the layers `there` that `wanted` holds itself or by name or path, each once.

    Raises ValueError if an entry selects none.
    """
    selected: dict[int, LayerT] = {}
    for entry in wanted:
        found = {id(layer): layer for layer in there if entry is layer or entry in (layer.name, layer.path)}
        if not found:
            raise ValueError(
                f"`layers` must be {description} of the model that is trained. Received: "
                f"{entry if isinstance(entry, str) else entry.name!r}, while the model has "
                f"{[layer.path for layer in there]}"
            )
        selected |= found
    return list(selected.values())


@contextmanager
def observed(model: keras.Model, observer: Observer) -> Iterator[None]:
    """Within, `observer` is called at each call of an activation of `model`."""

    def observing(
        layer: keras.layers.Layer, activation: Callable[..., Any], function: Callable[..., Any]
    ) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            outputs = function(*args, **kwargs)
            observer(layer, activation, args[0] if args else next(iter(kwargs.values())), outputs)
            return outputs

        return call

    with ExitStack() as restore:
        for layer, activation in observable(model).items():
            if isinstance(activation, keras.layers.Layer):  # which is `layer`
                restore.enter_context(replaced_call(layer, observing(layer, activation, layer.call)))
            else:
                restore.callback(setattr, layer, "activation", activation)
                layer.activation = observing(layer, activation, activation)
        yield


def _applies(activation: Any) -> bool:
    """Whether `activation` is an elementwise function. Activation layers are found as layers."""
    return (
        callable(activation)
        and not isinstance(activation, keras.layers.Layer | type)
        and activation not in EXCLUDED_ACTIVATIONS
    )
