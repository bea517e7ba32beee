"""Private parts of Keras' layers and variables, read in Keras 3.15.1 (`keras/src/layers/layer.py`).

A built layer locks its `Tracker`: it takes no further variables or layers. Keras has no public way to exchange those
that it has.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.quantizers.utils import should_quantize_layer

from keras_actlab._private.object_graph import rebind

# The attribute in which `Embedding` holds its table (`keras/src/layers/core/embedding.py`); `embeddings` is computed.
EMBEDDINGS = "_embeddings"
# What pickle calls to load a layer or model (`keras/src/saving/keras_saveable.py`).
UNPICKLE: Callable[..., Any] = keras.layers.Layer._unpickle_model


def nested_layers(layer: keras.layers.Layer, include_self: bool = False, recursive: bool = True) -> list[Any]:
    """Returns the layers within `layer`, at any depth unless `recursive` is False, each once.

    The public `keras.Model.layers` lists one level only.
    """
    return list(layer._flatten_layers(include_self=include_self, recursive=recursive))


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


def own_variables(layer: keras.Operation) -> list[keras.Variable]:
    """Returns the trainable variables of `layer` itself. An operation of a graph has none."""
    return list(getattr(layer, "_trainable_variables", []))


def free_variables(layer: keras.layers.Layer, kept: Iterable[keras.Variable]) -> None:
    """Removes the variables of `layer` itself that are not among `kept`, so that their memory is freed at once.

    Keras' lists of variables and the tracker of these lists refer to each other. The variables would stay until the
    garbage collector runs, and a large model would be in memory twice.
    """
    ids = set(map(id, kept))
    layer._tracker.unlock()
    for variable in [*layer._trainable_variables, *layer._non_trainable_variables]:
        if id(variable) not in ids:
            layer._untrack_variable(variable)


@contextmanager
def unlocked(layer: keras.layers.Layer) -> Iterator[None]:
    """Within, `layer` takes variables and layers even if it is built."""
    was_locked = layer._tracker.locked
    layer._tracker.unlock()
    yield
    layer._tracker.locked = was_locked


def set_attribute(layer: keras.layers.Layer, name: str, value: Any) -> None:
    """Sets an attribute of `layer`, built or not, also where the old or the new value is a layer."""
    previous = getattr(layer, name)
    with unlocked(layer):
        if isinstance(previous, keras.layers.Layer):
            layer._tracker.untrack(previous)
            delattr(layer, name)
        setattr(layer, name, value)


def set_untracked(layer: keras.layers.Layer, name: str, value: Any) -> None:
    """Sets an attribute of `layer` without Keras' tracking of it."""
    # Keras' `__delattr__` would collect garbage each time. TensorFlow's is called, as it tracks attributes of its own.
    super(keras.layers.Layer, layer).__delattr__(name)
    vars(layer)[name] = value


def replace_variables(layer: keras.layers.Layer, new: Sequence[keras.Variable], old: Sequence[keras.Variable]) -> None:
    """Moves `new`, the last trainable variables of `layer`, to the index of `old`, which are removed.

    Files hold variables by their order.
    """
    variables = layer._trainable_variables
    index = next(index for index, variable in enumerate(variables) if variable is old[0])
    del variables[-len(new) :]
    variables[index:index] = new
    for variable in old:
        layer._untrack_variable(variable)


def set_class(layer: keras.layers.Layer, cls: type) -> None:
    """Makes `layer` an instance of `cls`, past the `__setattr__` of Keras and PyTorch."""
    object.__setattr__(layer, "__class__", cls)


def replace_in_place(layer: keras.layers.Layer, other: keras.layers.Layer) -> None:
    """Turns `layer` into `other`: each attribute, list or graph that holds `layer` then holds the other.

    `other` must not be used afterwards, as the two share their variables and inner layers.
    """
    graph = {name: vars(layer)[name] for name in ("_inbound_nodes", "_outbound_nodes")}
    if isinstance(layer, keras.layers.Layer):  # an operation of the graph has no variables
        free_variables(layer, kept=other.variables)
    set_class(layer, type(other))
    vars(layer).clear()
    vars(layer).update(vars(other) | graph)
    # Keras keeps wrappers of some methods on the instance, which would still act on `other`.
    rebind(layer, other)
    # Keras records the arguments of each call in a graph, with defaults such as mask=None, which not every layer takes.
    for node in layer._inbound_nodes:
        for name in set(node.arguments.kwargs) - set(layer.call_signature_parameters):
            del node.arguments.kwargs[name]


def move_to_new_object(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Returns a new object with all that `layer` holds, so that `layer` can be replaced by one that wraps it."""
    moved = object.__new__(type(layer))
    vars(moved).update(vars(layer) | {"_inbound_nodes": [], "_outbound_nodes": []})
    rebind(moved, layer)
    return moved


def set_path(layer: keras.layers.Layer, path: str) -> None:
    """Sets the path of `layer`, and the start of the paths of all that it holds."""
    old = layer.path
    if old in (None, path):
        return
    for one in nested_layers(layer, include_self=True):
        if one.path is not None and f"{one.path}/".startswith(f"{old}/"):
            vars(one)["_path"] = path + one.path[len(old) :]
    for variable in layer.variables:
        if variable.path.startswith(f"{old}/"):
            variable._path = path + variable.path[len(old) :]


def forbid_quantization(layer: keras.layers.Layer, raise_error: Callable[..., Any]) -> None:
    """Makes `quantize` and `enable_lora` of `layer` call `raise_error`.

    Keras' wrapper of `quantize` looks up `_check_quantize_args` on the layer before it does anything.
    """
    vars(layer)["_check_quantize_args"] = vars(layer)["enable_lora"] = raise_error


def is_quantization_forbidden(layer: keras.layers.Layer) -> bool:
    """Returns whether `forbid_quantization` was called on `layer`."""
    return "_check_quantize_args" in vars(layer)


def allow_quantization(layer: keras.layers.Layer) -> None:
    """Undoes `forbid_quantization`."""
    for name in ("_check_quantize_args", "enable_lora"):
        vars(layer).pop(name, None)


def is_selected_for_quantization(layer: keras.layers.Layer, filters: Any) -> bool:
    """Returns whether the `filters` of `keras.Model.quantize` select `layer`."""
    return bool(should_quantize_layer(layer, filters))


@contextmanager
def without_children(children: Mapping[keras.layers.Layer, Sequence[keras.layers.Layer]]) -> Iterator[None]:
    """Within, the keys of `children` do not list these layers among those that they hold.

    `keras.Model.quantize` skips a layer that holds others, although the activation of a Dense changes nothing about how
    its kernel is quantized (`keras/src/models/model.py`, `keras/src/quantizers/gptq_core.py`).
    """
    held = {layer: list(layer._layers) for layer in children}
    try:
        for layer, hidden in children.items():
            layer._layers[:] = [one for one in held[layer] if not any(one is other for other in hidden)]
        yield
    finally:
        for layer, layers in held.items():
            layer._layers[:] = layers


def mark_called(layer: keras.layers.Layer) -> None:
    """Makes `layer` count as called. `keras.Model.export` to ONNX wants a model that was called, even if it is built.

    The shapes of its inputs come from its graph or from its `build` (`keras/src/export/onnx.py`).
    """
    layer._called = True


def disable_rematerialization(layer: keras.layers.Layer) -> None:
    """Makes `layer` ignore the `keras.RematScope` in which it was created."""
    layer._remat_mode = None


def autocast(variable: keras.Variable) -> bool:
    """Returns whether a layer's call reads `variable` in the compute dtype."""
    return bool(variable._autocast)


def set_autocast(variable: keras.Variable, value: bool) -> None:
    """Sets whether a layer's call reads `variable` in the compute dtype, which Keras offers only on construction."""
    variable._autocast = value


def stored_dtype(variable: keras.Variable) -> str:
    """Returns the dtype in which `variable` is stored; `variable.dtype` is that of the call that reads it."""
    return str(variable._dtype)


def has_value(variable: keras.Variable) -> bool:
    """Returns whether `variable` is initialized; it is not while a backend traces `build`."""
    return variable._value is not None
