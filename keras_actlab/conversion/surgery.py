"""Names, paths and shapes of layers that are replaced within a built model.

The replacement itself is in `_private/keras_layers.py`.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import wraps
from typing import Any

import keras

from keras_actlab._private.keras_graph import calls, children
from keras_actlab._private.keras_layers import replaced_call, set_path
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
    """Within, a layer that is built gets the variable paths that it would have in place of `layer`."""
    return scopes((getattr(layer, "path", None) or "").rpartition("/")[0])


def after_build(layer: keras.layers.Layer, action: Callable[[], None]) -> None:
    """Calls `action` at the end of the `build` of `layer`, which must not be built yet."""
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


def activation_name(layer: keras.layers.Layer, holder: keras.layers.Layer) -> str:
    """Returns a name for a new activation of `layer` that no other layer of `holder` has."""
    taken = {child.name for child in children(holder)}
    names = (f"{layer.name}_activation{end}" for end in itertools.chain([""], (f"_{k}" for k in itertools.count(1))))
    return next(name for name in names if name not in taken)


def set_activation_paths(layers: Iterable[keras.layers.Layer]) -> None:
    """Gives the variables of activations, and of wrapped layers, the paths that they have after loading.

    Keras builds the activation of a layer when it loads the config, so that its path is beside that of the layer. The
    layers of this package build it themselves, so that its path is within.
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


def freeze(layer: keras.layers.Layer) -> None:
    """Freezes `layer` and all layers within."""
    # On TensorFlow (Keras 3.15), setting an attribute to its own value does nothing, and would not freeze new layers.
    layer.trainable = True
    layer.trainable = False


def input_shapes(layer: keras.layers.Layer, holder: keras.layers.Layer) -> list[tuple[int | None, ...]]:
    """Returns the shape of the input of each call of `layer`, from the graph, or else by tracing its holder."""
    nodes = calls(layer, holder)
    if nodes:
        return [node.input_tensors[0].shape for node in nodes]
    shapes: list[tuple[int | None, ...]] = []
    call = layer.call

    def spy(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        # While JAX traces, an unknown size is a symbol.
        shapes.append((None, *(size if isinstance(size, int) else None for size in inputs.shape[1:])))
        return call(inputs, *args, **kwargs)

    def trial(inputs: Any) -> Any:
        shapes.clear()  # some backends trace twice
        return holder.call(inputs)

    config = holder.get_build_config() or {}
    if set(config) == {"input_shape"}:
        # The call may need further arguments, and may raise anything without them.
        with suppress(Exception), replaced_call(layer, spy):
            # A Lambda layer without an output shape traces its function without data.
            keras.layers.Lambda(trial, dtype=holder.dtype_policy)(
                _placeholders(config["input_shape"], holder.compute_dtype)
            )
    return shapes


def _placeholders(shapes: Any, dtype: str) -> Any:
    """Returns a symbolic tensor for each of the shapes in a nested structure."""
    if isinstance(shapes, dict):
        return {key: _placeholders(shape, dtype) for key, shape in shapes.items()}
    if any(isinstance(entry, list | tuple | dict) for entry in shapes):
        return [_placeholders(shape, dtype) for shape in shapes]
    return keras.KerasTensor(shapes, dtype=dtype)
