"""Observing the calls of activation functions, however they were imported.

`keras.activations.relu` and `keras.ops.relu` both call `keras.src.backend.nn.relu`, which they look up at each call;
a function that replaces it there is called by code that imported either function by its name, too. (Read in Keras
3.15.1: `keras/src/activations/activations.py`, `keras/src/ops/nn.py`.) Functions of the backend are observed in its
public modules, which are imported for that.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from types import ModuleType
from typing import Any

import keras
from keras.src import backend
from keras.src.ops.operation import Operation

from keras_actlab._private.replacing import replaced
from keras_actlab.layers.activations import FUNCTIONS

# Functions of these files belong to the call of an activation, not to the code that calls it.
INNER = ("keras/src/activations/", "keras/src/backend/", "keras/src/ops/", "keras/src/utils/", "keras_actlab/_private/")


class NotBuiltError(RuntimeError):
    """Raised with the name of a layer that is not built yet, and that a call would build."""


@contextmanager
def observed(
    on_call: Callable[[str, Any, str], None],
    on_start: Callable[[keras.Operation, Any], None],
    on_end: Callable[[keras.Operation], None],
    may_build: bool,
) -> Iterator[None]:
    """Within, calls of activation functions and of operations are reported.

    Args:
        on_call: Gets the name of the function, its first argument, and the file and line that call it. Calls of one
            activation function by another are not reported.
        on_start: Gets an operation, such as a layer, and its first argument, when its call starts.
        on_end: Gets the operation when its call ends.
        may_build: Whether a call may build a layer. Where it may not, NotBuiltError is raised.
    """
    depth = 0

    def observe(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function, updated=())
        def observing(*arguments: Any, **keywords: Any) -> Any:
            nonlocal depth
            if depth == 0 and arguments:
                keras_name, line = _caller()
                on_call(keras_name or name, arguments[0], line)
            depth += 1
            try:
                return function(*arguments, **keywords)
            finally:
                depth -= 1

        return observing

    call = Operation.__call__

    def observing_call(self: Operation, *arguments: Any, **keywords: Any) -> Any:
        on_start(self, arguments[0] if arguments else None)
        try:
            return call(self, *arguments, **keywords)
        finally:
            on_end(self)

    layer_call = keras.layers.Layer.__call__

    def refusing_call(self: keras.layers.Layer, *arguments: Any, **keywords: Any) -> Any:
        if not self.built:
            raise NotBuiltError(self.name)
        return layer_call(self, *arguments, **keywords)

    with ExitStack() as stack:
        stack.enter_context(replaced(Operation, "__call__", observing_call))
        if not may_build:
            stack.enter_context(replaced(keras.layers.Layer, "__call__", refusing_call))
        for module, name in _functions():
            stack.enter_context(replaced(module, name, observe(name, getattr(module, name))))
        yield


def _functions() -> list[tuple[ModuleType, str]]:
    match keras.backend.backend():
        case "torch":
            import torch

            own = [torch.nn.functional, torch]
        case "jax":
            import jax

            own = [jax.nn, jax.numpy]
        case "tensorflow":
            import tensorflow as tf

            own = [tf.nn, tf]
        case _:
            own = []
    names = set(FUNCTIONS) - {"exponential", "linear", "threshold"}
    return [
        (module, name)
        for module in (backend.nn, backend.numpy, *own)
        for name in sorted(names)
        if callable(vars(module).get(name))
    ]


def _caller() -> tuple[str | None, str]:
    """The name of the activation of Keras that is called, if it is one, and the file and line which call it."""
    name = None
    depth = 2
    while (frame := sys._getframe(depth)).f_back and any(inner in frame.f_code.co_filename for inner in INNER):
        name = frame.f_code.co_name if frame.f_code.co_name in FUNCTIONS else name
        depth += 1
    return name, line_of_caller(depth)


def line_of_caller(depth: int) -> str:
    """The file and line that are executed `depth` calls above the caller of this function."""
    frame = sys._getframe(depth + 1)
    return f"{frame.f_code.co_filename.rpartition('site-packages/')[2]}:{frame.f_lineno}"
