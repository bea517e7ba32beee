"""Recording which activation functions a model calls, and from where."""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import keras

from keras_actlab._private.activation_calls import line_of_caller, observed
from keras_actlab._private.keras_layers import nested_layers
from keras_actlab.conversion.hidden import SOFTMAXES
from keras_actlab.conversion.target import is_function_of_tensors
from keras_actlab.layers.activations import is_activation
from keras_actlab.layers.arguments import Shape

# Lengths that are tried for axes of unknown length: some models need more than a few pixels or tokens. A model is
# traced with both lengths of a pair, which shows which axes of the inputs of activations depend on them.
SIZES = ((8, 16), (32, 64), (128, 256))
# Largest number of entries of an input.
MAX_NUMBERS = 2**24


@dataclass(frozen=True)
class Call:
    """A call of an activation function.

    Attributes:
        name: The name of the function, or of the class of a layer that is an activation.
        layer: The layer that was running, or that was called; None outside of all.
        attribute: The name of the attribute of `layer` that the function was called as; None if it was not.
        shape: The shape of its input.
        line: The file and line that called a function; empty for a layer.
    """

    name: str
    layer: keras.layers.Layer | None
    attribute: str | None
    shape: Shape
    line: str


@dataclass(frozen=True)
class Use:
    """How one layer applies activations.

    Attributes:
        attributes: The attributes that it calls, each with the shapes of their inputs.
        functions: The functions that its `call` calls, each with the file and line.
        inputs: The shapes of the inputs of a layer that is an activation.
    """

    attributes: dict[str, list[Shape]]
    functions: list[str]
    inputs: list[Shape]


def uses(model: keras.Model) -> dict[int, Use] | None:
    """Returns how layers that Keras does not define, and `model` itself, apply activations, by the id of each.

    Layers that are activations are included, Softmax is not. Returns None if `model` cannot be traced without data.
    """
    layers = [layer for layer in nested_layers(model, include_self=True) if not is_known(layer)]
    if not layers:
        return {}
    calls = calls_of(model, layers)
    if calls is None:
        return None
    found: dict[int, Use] = {}
    for call in calls:
        is_layer = is_activation(call.layer)
        if call.layer is None or call.name in SOFTMAXES:
            continue
        if call.line and (is_layer or is_known(call.layer)):
            continue  # a part of what a known layer, or an activation, computes
        use = found.setdefault(id(call.layer), Use({}, [], []))
        if is_layer:
            use.inputs.append(call.shape)
        elif call.attribute is not None:
            use.attributes.setdefault(call.attribute, []).append(call.shape)
        elif (function := f"{call.name} ({call.line})") not in use.functions:
            use.functions.append(function)
    return found


def is_known(layer: keras.layers.Layer) -> bool:
    """Whether Keras or this package defines the `call` of `layer`."""
    return (getattr(type(layer).call, "__module__", None) or "").startswith(("keras.src.", "keras_actlab."))


@contextmanager
def recorded(layers: Sequence[keras.layers.Layer] = (), may_build: bool = True) -> Iterator[list[Call]]:
    """Within, the calls of activation functions are appended to the list that this returns.

    Recorded are functions of `keras.activations` and `keras.ops`, however they were imported, of `jax.nn`,
    `tensorflow.nn` or `torch.nn.functional`, and what is called as an attribute of one of `layers`. Calls within a
    recorded call are not. Unless `may_build`, a call that would build a layer raises a NotBuiltError.
    """
    calls: list[Call] = []
    running: list[keras.layers.Layer] = []
    within = 0

    def on_start(operation: keras.Operation, x: Any) -> None:
        is_hidden = is_activation(operation) and not isinstance(operation, keras.layers.Softmax)
        if is_hidden and not within:
            calls.append(Call(type(operation).__name__, operation, None, _shape(x), ""))
        if isinstance(operation, keras.layers.Layer):
            running.append(operation)

    def on_end(operation: keras.Operation) -> None:
        if isinstance(operation, keras.layers.Layer):
            running.pop()

    def on_call(name: str, x: Any, line: str) -> None:
        if not within:
            calls.append(Call(name, running[-1] if running else None, None, _shape(x), line))

    def spy(layer: keras.layers.Layer, attribute: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def spying(*arguments: Any, **keywords: Any) -> Any:
            nonlocal within
            line = line_of_caller(1)
            within += 1
            try:
                y = function(*arguments, **keywords)
            finally:
                within -= 1
            shape = _shape(y)
            # A regularizer returns a number.
            if not within and not keywords and [_shape(one) for one in arguments] == [shape]:
                calls.append(Call(function.__name__, layer, attribute, shape, line))
            return y

        return spying

    spied = [(layer, name, function) for layer in layers for name, function in _function_attributes(layer)]
    try:
        # Without Keras' `__setattr__`, which would track the functions.
        for layer, name, function in spied:
            vars(layer)[name] = spy(layer, name, function)
        with observed(on_call, on_start, on_end, may_build):
            yield calls
    finally:
        for layer, name, function in spied:
            vars(layer)[name] = function


def _function_attributes(layer: keras.layers.Layer) -> list[tuple[str, Callable[..., Any]]]:
    """The attributes of `layer` that are known activation functions, or functions with "act" in their names."""
    return [
        (name, value)
        for name, value in vars(layer).items()
        if inspect.isfunction(value) and (is_function_of_tensors(value) or "act" in name)
        if value is not keras.activations.linear
    ]


def _shape(x: Any) -> Shape:
    return tuple(size if isinstance(size, int) else None for size in getattr(x, "shape", ()))


def calls_of(model: keras.Model, layers: Sequence[keras.layers.Layer]) -> list[Call] | None:
    """Returns the calls of activations in one call of `model`; None if it cannot be traced without data.

    The model is traced without numbers. Axes of unknown length are None in the shapes.
    """
    for sizes in SIZES:
        with suppress(Exception):  # a model may raise anything on inputs that it is not made for
            one = _trace(model, layers, sizes[0])
            if not any(call.attribute or not call.line for call in one):
                return one  # no shape is needed
            other = _trace(model, layers, sizes[1])
            return [_unknown(call, twin) for call, twin in zip(one, other, strict=True)]
    return None


def _unknown(call: Call, other: Call) -> Call:
    shape = tuple(size if size == twin else None for size, twin in zip(call.shape, other.shape, strict=True))
    return Call(call.name, call.layer, call.attribute, (None, *shape[1:]), call.line)


def _trace(model: keras.Model, layers: Sequence[keras.layers.Layer], size: int) -> list[Call]:
    calls: list[Call] = []

    def run(inputs: Any) -> Any:
        with recorded(layers, may_build=False) as found:  # to build would change the caller's model
            outputs = model(**inputs) if isinstance(inputs, _Keywords) else model(inputs)
        calls[:] = found  # some backends trace twice
        return next(one for one in keras.tree.flatten(outputs) if keras.ops.is_tensor(one))

    # A Lambda layer without an output shape traces its function without data.
    keras.layers.Lambda(run, dtype=model.dtype_policy)(_inputs(model, size))
    return calls


class _Keywords(dict[str, Any]):
    """Inputs that are passed as separate arguments, not as a dictionary."""


def _inputs(model: keras.Model, size: int) -> Any:
    def symbol(shape: Shape, dtype: str) -> keras.KerasTensor:
        known = (2, *(length or size for length in shape[1:]))
        if math.prod(known) > MAX_NUMBERS:
            raise ValueError(f"an input of the shape {known} is too large")
        return keras.KerasTensor(known, dtype=dtype)

    if getattr(model, "inputs", None):
        structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
        return keras.tree.map_structure(lambda tensor: symbol(tensor.shape, tensor.dtype), structure)
    shapes = model.get_build_config() or {}
    shapes = shapes.get("shapes_dict", shapes)
    symbols = {
        name.removesuffix("_shape"): keras.tree.map_shape_structure(
            lambda shape: symbol(shape, model.compute_dtype), shape
        )
        for name, shape in shapes.items()
    }
    return next(iter(symbols.values())) if len(symbols) == 1 else _Keywords(symbols)
