"""Exchanging layers within a model that is built, for which Keras has no public way."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import wraps
from typing import Any

import keras

from keras_actlab._private.object_graph import rebind
from keras_actlab.graph import calls, children
from keras_actlab.layers.gmp import GmP
from keras_actlab.layers.weight_normalization import WeightNormalization


@contextmanager
def scopes(path: str) -> Iterator[None]:
    """Within, the paths of new variables start with `path`."""
    with ExitStack() as stack:
        for name in filter(None, path.split("/")):
            stack.enter_context(keras.name_scope(name))
        yield


def scope_of(layer: keras.layers.Layer) -> AbstractContextManager[None]:
    """Within, a layer that is built gets the variable paths that it would get in the place of `layer`."""
    return scopes((getattr(layer, "path", None) or "").rpartition("/")[0])


def set_class(layer: keras.layers.Layer, cls: type) -> None:
    """Makes `layer` an instance of `cls`, past Keras and PyTorch, for which this is no ordinary attribute."""
    object.__setattr__(layer, "__class__", cls)


def after_build(layer: keras.layers.Layer, action: Callable[[], None]) -> None:
    """Calls `action` at the end of the `build` of `layer`, which is not built yet."""
    build = layer.build

    @wraps(build)
    def build_and_act(*arguments: Any, **keywords: Any) -> None:
        vars(layer)["build"] = build
        try:
            build(*arguments, **keywords)
        except BaseException:
            vars(layer)["build"] = build_and_act
            raise
        action()

    vars(layer)["build"] = build_and_act


def replace_in_place(layer: keras.layers.Layer, other: keras.layers.Layer) -> None:
    """Turns `layer` into `other`, in place: whoever holds it, in an attribute, a list or a graph, holds the other.

    `other` must not be used afterwards, for the two share their variables and inner layers.
    """
    graph = {name: vars(layer)[name] for name in ("_inbound_nodes", "_outbound_nodes")}
    if isinstance(layer, keras.layers.Layer):  # or else an operation of the graph, which has none
        _free_variables(layer, kept=other.variables)
    set_class(layer, type(other))
    vars(layer).clear()
    vars(layer).update(vars(other) | graph)
    # Keras' wrappers of these methods, which it keeps on the instance, would still act on `other`.
    rebind(layer, other)
    # Keras recorded the arguments of each call in a graph, defaults such as mask=None among them, which not every layer
    # takes.
    for node in layer._inbound_nodes:
        for name in set(node.arguments.kwargs) - set(layer.call_signature_parameters):
            del node.arguments.kwargs[name]


def _free_variables(layer: keras.layers.Layer, kept: Iterable[keras.Variable]) -> None:
    """Lets the variables of `layer` go that are not among `kept`.

    Keras' lists of them and what tracks the lists refer to each other. They would wait for the garbage collector, and a
    large model be held twice.
    """
    kept = set(map(id, kept))
    layer._tracker.unlock()
    for variable in [*layer._trainable_variables, *layer._non_trainable_variables]:
        if id(variable) not in kept:
            layer._untrack_variable(variable)


def move_to_new_object(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Returns an object of its own that is what `layer` was, so that `layer` can become something that holds it."""
    moved = object.__new__(type(layer))
    vars(moved).update(vars(layer) | {"_inbound_nodes": [], "_outbound_nodes": []})
    rebind(moved, layer)
    return moved


def set_activation(layer: keras.layers.Layer, activation: Any, name: str = "activation") -> None:
    """Sets the attribute `name` of `layer`, which a built layer refuses where the old or the new one is a layer."""
    previous = getattr(layer, name)
    was_locked = layer._tracker.locked  # a layer that is not built has yet to get its variables
    layer._tracker.unlock()
    if isinstance(previous, keras.layers.Layer):
        layer._tracker.untrack(previous)
        delattr(layer, name)
    setattr(layer, name, activation)
    layer._tracker.locked = was_locked


def activation_name(layer: keras.layers.Layer, holder: keras.layers.Layer) -> str:
    """A name for a new activation of `layer` that no other layer of `holder` has."""
    taken = {child.name for child in children(holder)}
    names = (f"{layer.name}_activation{end}" for end in itertools.chain([""], (f"_{k}" for k in itertools.count(1))))
    return next(name for name in names if name not in taken)


def set_activation_paths(layers: Iterable[keras.layers.Layer]) -> None:
    """Gives the variables of activations, and of what a wrapper holds, the paths that they have once they are loaded.

    Keras' layers load an activation before they are built, beside them. What keeps the config of a layer from it, as
    the layers of this package do, builds it within.
    """
    for layer in layers:
        for child in children(layer):
            is_within = isinstance(layer, GmP | WeightNormalization)
            scope = layer.path if is_within else (layer.path or "").rpartition("/")[0]
            if is_within or child is getattr(layer, "activation", None):
                set_path(child, f"{scope}/{child.name}" if scope else child.name)
        activation = getattr(getattr(layer, "layer", None), "activation", None)
        if isinstance(layer, WeightNormalization) and isinstance(activation, keras.layers.Layer):
            set_path(activation, f"{layer.path}/{activation.name}")


def set_path(layer: keras.layers.Layer, path: str) -> None:
    """Makes `path` the path of `layer`, and the start of those of all that it holds."""
    old = layer.path
    if old in (None, path):
        return
    for one in layer._flatten_layers():
        if one.path is not None and f"{one.path}/".startswith(f"{old}/"):
            vars(one)["_path"] = path + one.path[len(old) :]
    for variable in layer.variables:
        if variable.path.startswith(f"{old}/"):
            variable._path = path + variable.path[len(old) :]


def freeze(layer: keras.layers.Layer) -> None:
    """Freezes `layer` and all that it holds."""
    # On TensorFlow (Keras 3.15), setting an attribute to its value does nothing, and would not reach new layers within.
    layer.trainable = True
    layer.trainable = False


def update_torch_parameters(layer: keras.layers.Layer) -> None:
    """On PyTorch, brings up to date the parameters that `layer` and the layers within show as torch modules."""
    for module in _modules(layer):
        if module.built:
            module._track_variables()


def drop_torch_parameters(layer: keras.layers.Layer) -> None:
    """On PyTorch, lets `layer` and the layers within show no parameters, so that none outlives a layer's change."""
    for module in _modules(layer):
        module._modules.pop("_torch_params", None)


def _modules(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that are torch modules; none on other backends."""
    if keras.backend.backend() != "torch":
        return []
    # A Sequential model has a module that is none of its layers, and lists hold layers that are no modules.
    found = dict.fromkeys([*layer.modules(), *layer._flatten_layers()])
    return [module for module in found if isinstance(module, keras.layers.Layer)]


def split_calls(layer: keras.layers.Layer, model: keras.Model) -> list[keras.layers.Layer]:
    """Gives each call of `layer` in the graph of the Functional `model`, save the first, a layer of its own.

    Returns these layers, which are configured as `layer` is, and named like it with "_1", "_2" and so on.
    """
    taken = {other.name for other in children(model)}
    names = (name for k in itertools.count(1) if (name := f"{layer.name}_{k}") not in taken)
    twins = []
    nodes = calls(layer, model)
    for node, name in zip(nodes[1:], names, strict=False):
        twin = type(layer).from_config(layer.get_config() | {"name": name})
        node.operation = twin
        twin._inbound_nodes.append(node)
        made = {id(tensor) for tensor in node.outputs}
        twin._outbound_nodes.extend(
            user for user in layer._outbound_nodes if any(id(tensor) in made for tensor in user.input_tensors)
        )
        for tensor in node.outputs:
            tensor._keras_history = tensor._keras_history._replace(operation=twin, node_index=0)
        twins.append(twin)
    moved = [user for twin in twins for user in twin._outbound_nodes]
    layer._outbound_nodes = [user for user in layer._outbound_nodes if user not in moved]
    layer._inbound_nodes = nodes[:1]
    replace_in_place(model, keras.Model(model.input, model.output, name=model.name, trainable=model.trainable))
    return twins


def input_shapes(layer: keras.layers.Layer, holder: keras.layers.Layer) -> list[tuple[int | None, ...]]:
    """The shape of what `layer` gets in each of its calls: from the graph, or else by a trial run of what holds it."""
    nodes = calls(layer, holder)
    if nodes:
        return [node.input_tensors[0].shape for node in nodes]
    shapes: list[tuple[int | None, ...]] = []
    call = layer.call

    def spy(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        # What is not known is a symbol of JAX's while it traces.
        shapes.append((None, *(size if isinstance(size, int) else None for size in inputs.shape[1:])))
        return call(inputs, *args, **kwargs)

    def trial(inputs: Any) -> Any:
        shapes.clear()  # some backends trace twice
        return holder.call(inputs)

    config = holder.get_build_config() or {}
    if set(config) == {"input_shape"}:
        vars(layer)["call"] = spy
        with suppress(Exception):  # whatever a call says that is given nothing but its first argument
            # A Lambda layer that does not know the shape of its output traces the function, without data.
            keras.layers.Lambda(trial, dtype=holder.dtype_policy)(
                _placeholders(config["input_shape"], holder.compute_dtype)
            )
        del vars(layer)["call"]
    return shapes


def _placeholders(shapes: Any, dtype: str) -> Any:
    """A symbolic tensor for each of the shapes in a nested structure."""
    if isinstance(shapes, dict):
        return {key: _placeholders(shape, dtype) for key, shape in shapes.items()}
    if any(isinstance(entry, list | tuple | dict) for entry in shapes):
        return [_placeholders(shape, dtype) for shape in shapes]
    return keras.KerasTensor(shapes, dtype=dtype)
