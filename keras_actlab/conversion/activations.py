"""Other activations for a model."""

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import keras

from keras_actlab import graph, layers
from keras_actlab.conversion import surgery
from keras_actlab.conversion.rewriting import Place, Stays, Where, rewrite
from keras_actlab.graph import ACTIVATION_LAYERS
from keras_actlab.layers.arguments import Shape

To: TypeAlias = str | type[keras.layers.Layer] | Callable[..., Any]

FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: function
    for name, function in vars(keras.activations).items()
    # glu halves the channels, which is no activation of a layer that others follow.
    if inspect.isfunction(function) and name not in ("get", "serialize", "deserialize", "glu")
}
LAYERS: dict[str, type[keras.layers.Layer]] = {
    "crrelu": layers.CRReLU,
    "prelu": keras.layers.PReLU,
    "tmaf": layers.TMAF,
}
PASS_ON = (
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.Identity,
    keras.layers.Permute,
    keras.layers.RepeatVector,
    keras.layers.Reshape,
)
SIGMOIDS = (keras.activations.sigmoid, keras.activations.hard_sigmoid)
SOFTMAXES = (keras.activations.softmax, keras.activations.log_softmax, keras.activations.sparsemax)


def swap_activations(model: keras.Model, to: To, where: Where = None, *, check: bool = True) -> keras.Model:
    """Returns a copy of `model` with other activations.

    Found are the activations of layers, as in `Dense(8, activation="relu")`, and activations that are layers, such as
    `Activation`, `ReLU` or `CRReLU`, at any depth. Each place gets parameters of its own, also where several calls of
    one activation layer in a Functional model are several places. All other weights are those of `model`.

    What is no hidden activation stays, unless `where` gives its very name: that of a linear layer, a softmax, and a
    sigmoid that is an output, a gate in front of a multiplication, or in a layer whose graph cannot be seen. What stays
    in any case are the activations of recurrent cells.

    Args:
        model: A model that is built. It is left unchanged. Composite layers and models within,
            such as those of keras-hub, are searched, too.
        to: What takes the place: the name of an activation ("crrelu", "tmaf", "prelu" with one slope for each channel,
            or any of `keras.activations`), a function of `keras.activations`, a class of layers, a layer as a template,
            or your own function of the layer in question (that of the copy), which returns one of these, or None to
            leave that layer alone. Wrap a function of tensors as `keras.layers.Activation(function)`. In a model with
            the channels first, names and classes get `axis=1` where they have a channel axis.
        where: Which layers: a name or path, a pattern such as `"block1_*"` or `"*/mlp/*"`, a class of layers, a
            function of a layer that returns True or False, or a list of these. None for all.
        check: Whether to compare the copy, before anything is changed, with `model` on a small random batch. A
            difference raises a ValueError; where no such batch can be made, the report says so.

    Returns:
        A model of the same class, not compiled. Save and load it like the original, with `import keras_actlab`.
        `keras_actlab.conversion.report` tells what was changed and what not, and why.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model is not built, the copy differs from it, the name of the activation is not known, the
            activation does not fit a shape, or an entry of `where` matches no layer, or none that can be changed.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1, "sigmoid")])
    >>> swapped = keras_actlab.swap_activations(model, "tmaf")
    >>> [keras_actlab.conversion.report(swapped).changed[0].after, swapped.layers[1].activation.__name__]
    ['Dense (TMAF)', 'sigmoid']
    """
    choose = _chooser(to)
    holders: Counter[int] = Counter()

    def prepare(copied: keras.Model, places: list[Place]) -> list[Place]:
        holders.update(graph.holder_counts(copied))
        return _one_place_per_call(places)

    def change(place: Place) -> str:
        chosen = choose(place.layer)
        if chosen is None:
            raise Stays("`to` returns None for it")
        _check(chosen)
        if not isinstance(place.layer, ACTIVATION_LAYERS):
            _swap_attribute(place, chosen)
        elif holders[id(place.layer)] > 1:
            raise Stays("several layers hold it")
        else:
            _swap_layer(place, chosen)
        return ""

    return rewrite(model, where, _has_activation, change, prepare, check=check, equal=False)


def _chooser(to: To) -> Callable[[keras.layers.Layer], Any]:
    """Returns `to` as a function of the layer whose activation is to be swapped."""
    if callable(to) and not _is_constant(to):
        return to
    _check(to)
    return lambda layer: to


def _is_constant(to: To) -> bool:
    """Whether `to` says the same of every layer."""
    return isinstance(to, str | type | keras.layers.Layer) or to in FUNCTIONS.values()


def _check(to: Any) -> None:
    if isinstance(to, str):
        if to.lower() not in FUNCTIONS | LAYERS:
            raise ValueError(
                f"`to` must be the name of an activation. Received: to={to!r}. Known names: "
                f"{', '.join(sorted(FUNCTIONS | LAYERS))}"
            )
    elif not _is_constant(to) or (isinstance(to, type) and not issubclass(to, keras.layers.Layer)):
        raise TypeError(
            "`to` must be the name of an activation, a function of keras.activations, a class of layers or a layer, or "
            f"a function of a layer that returns one of these. Received: to={to!r}"
        )


def _has_activation(place: Place) -> bool:
    layer = place.layer
    if isinstance(layer, ACTIVATION_LAYERS):
        return True
    return _owns_activation(layer) and layer.activation is not keras.activations.linear


def _owns_activation(layer: keras.layers.Layer) -> bool:
    """Whether `layer` itself applies the activation that it has, and does not hand it on to layers within."""
    activation = getattr(layer, "activation", None)
    return callable(activation) and all(child is activation for child in graph.children(layer))


def _one_place_per_call(places: list[Place]) -> list[Place]:
    owners = tuple(f"{place.path}/" for place in places if _owns_activation(place.layer))
    found = []
    for place in places:
        layer, holder = place.layer, place.holder
        if place.path.startswith(owners):
            continue  # a part of an activation that will be swapped as a whole
        found.append(place)
        is_shared = isinstance(layer, ACTIVATION_LAYERS) and len(graph.calls(layer, holder)) > 1
        if is_shared and graph.is_functional(holder):
            for twin in surgery.separate(layer, holder):
                found.append(replace(place, path="".join(place.path.rpartition("/")[:2]) + twin.name, layer=twin))
    return found


def _check_hidden(place: Place) -> None:
    """Raises `Stays` where the activation is none of a hidden layer, and not asked for by name."""
    if place.named:
        return
    layer = place.layer
    activation = keras.activations.softmax if isinstance(layer, keras.layers.Softmax) else layer.activation
    if activation is keras.activations.linear:
        raise Stays("it has no activation")
    if activation in SOFTMAXES:
        raise Stays("softmax is no hidden activation; give its name to swap it")
    if activation in SIGMOIDS:
        takers = _takers(layer, place.holder)
        if not takers or any(taker is None or type(taker).__name__ == "Multiply" for taker in takers):
            raise Stays("this sigmoid is, or may be, an output or a gate; give its name to swap it")


def _takers(layer: keras.layers.Layer, holder: keras.layers.Layer) -> list[keras.Operation | None]:
    """What computes with the output of `layer`, past what only passes it on; None for an output of the model."""
    takers: list[keras.Operation | None] = [None] if graph.is_output(layer, holder) else []
    for follower in graph.consumers(layer, holder):
        takers += _takers(follower, holder) if isinstance(follower, PASS_ON) else [follower]
    return takers


def _swap_layer(place: Place, to: To) -> None:
    layer = place.layer
    if hasattr(layer, "activation") or isinstance(layer, keras.layers.Softmax):
        _check_hidden(place)
    to = _resolve(to)
    if to in FUNCTIONS.values():
        surgery.become(layer, keras.layers.Activation(to, name=layer.name, dtype=layer.dtype_policy))
        return
    shapes = surgery.input_shapes(layer, place.holder)
    if len(shapes) != 1:
        raise Stays(f"{len(shapes)} calls share it" if shapes else "the shape of its input is not known")
    siblings = graph.children(place.holder)
    new = _make(to, layer.name, layer.dtype_policy.name, shapes[0], any(map(_has_channels_first, siblings)))
    with surgery.scopes("" if graph.is_functional(place.holder) else place.holder.path or ""):
        _build(new, shapes[0], place)
    surgery.become(layer, new)


def _swap_attribute(place: Place, to: To) -> None:
    layer = place.layer
    if not _owns_activation(layer):
        raise Stays("it applies no activation itself")
    if hasattr(layer, "state_size"):
        raise Stays("it is a recurrent cell")
    _check_hidden(place)
    build_config = layer.get_build_config()
    if "activation" not in layer.get_config() or set(build_config) != {"input_shape"}:
        raise Stays("it applies its activation in a way of its own")
    to = _resolve(to)
    if to in FUNCTIONS.values():
        surgery.set_activation(layer, to)
        return
    if layer.quantization_mode is not None:
        raise Stays("it is quantized")
    shape = layer.compute_output_shape(build_config["input_shape"])
    name = surgery.activation_name(layer, place.holder)
    new = _make(to, name, layer.dtype_policy.name, shape, _has_channels_first(layer))
    with surgery.scope_of(layer):
        _build(new, shape, place)
    surgery.set_activation(layer, new)


def _has_channels_first(layer: keras.layers.Layer) -> bool:
    return getattr(layer, "data_format", None) == "channels_first"


def _resolve(to: To) -> Any:
    """What a name stands for."""
    return (FUNCTIONS | LAYERS)[to.lower()] if isinstance(to, str) else to


def _make(to: Any, name: str, dtype: str, shape: Shape, channels_first: bool) -> keras.layers.Layer:
    """Returns a layer of its own, of the class, or like the template, `to`."""
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


def _build(activation: keras.layers.Layer, shape: Shape, place: Place) -> None:
    try:
        activation.build(shape)
        inputs = keras.KerasTensor(shape, dtype=activation.compute_dtype)
        output_shape = tuple(activation.compute_output_spec(inputs).shape)
        if output_shape != tuple(shape):
            raise ValueError(f"its output has the shape {output_shape}")
    except ValueError as error:
        raise ValueError(
            f"`to` must fit every layer that it is for. Received: to={activation!r}, which does not fit {place} with "
            f"input_shape={tuple(shape)}: {error}"
        ) from error
