"""Functions of rows that keep nothing but their arguments for the backward pass.

Automatic differentiation of a chain of elementwise operations keeps a tensor for nearly every link of it, and reduces
to each parameter's gradient in a pass of its own. Most of the time of such a chain is the traffic to and from memory.

This module is where backends are imported for speed: Keras has no name for a custom gradient with a loop in it that XLA
compiles on TensorFlow, nor for the compilation of a single function.
"""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import keras

from keras_actlab._private.torch_func import transforms_are_active
from keras_actlab.ops.tensor import Tensor, at_least_float32

Function = Callable[..., Tensor]

# Below this number of elements there is little to gain, and PyTorch takes seconds to compile.
MIN_SIZE = 2**20
# On a CPU the backward pass works on as many rows at a time as have this number of elements, which fit its cache.
BLOCK = 2**17


def remat(function: Function) -> Function:
    """Returns `function`, with a backward pass that recomputes it instead of keeping its intermediate results.

    Args:
        function: `function(x, *parameters, **constants)`, made of `keras.ops`, where each row (an entry along the first
            axis) of the output depends on the same row of the tensor `x` only, and on tensors `parameters` as a whole.
            The constants are hashable.

    Returns:
        A function of the same values. Where `x` is large,

        - on JAX and TensorFlow, on a CPU, the gradients of all parameters are computed together, a block of rows at a
          time (and on JAX that of `x` with them);
        - on PyTorch, unless it is being traced, it is compiled by `torch.compile` at the first call, forward and
          backward, or runs as it is if PyTorch finds no compiler. `torch.compiler.set_stance("force_eager")` and the
          environment variable `TORCH_COMPILE_DISABLE=1` keep it from compiling.

        Gradients can be differentiated further. On JAX, forward-mode differentiation (`jax.jvp`) of a large `x` works
        around a gradient only, not on the function itself.
    """

    @functools.cache
    def with_gradient(**constants: Any) -> Function:
        make = {"jax": _on_jax, "tensorflow": _on_tensorflow, "torch": _on_torch}[keras.backend.backend()]
        return make(functools.partial(function, **constants))

    @functools.wraps(function)
    def on_backend(x: Tensor, *parameters: Tensor, **constants: Any) -> Tensor:
        if _is_small(x) or keras.backend.is_keras_tensor(x):
            return function(x, *parameters, **constants)
        return with_gradient(**constants)(x, *parameters)

    return on_backend


def _is_small(x: Tensor) -> bool:
    # TensorFlow traces batches of unknown length, which are taken for 64 here.
    lengths = [64 if length is None else length for length in x.shape]
    # Lengths that are symbols of `jax.export` have no order; with those, nobody asks for gradients.
    return not all(isinstance(length, int) for length in lengths) or math.prod(lengths) < MIN_SIZE


def _on_jax(function: Function) -> Function:
    import jax

    @jax.custom_vjp
    def recomputing(x: Tensor, *parameters: Tensor) -> Tensor:
        return function(x, *parameters)

    def forward(*arguments: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return function(*arguments), arguments

    def backward(arguments: tuple[Tensor, ...], gradient: Tensor) -> tuple[Tensor, ...]:
        x, *parameters = arguments

        def gradients(x: Tensor, gradient: Tensor) -> tuple[Tensor, list[Tensor]]:
            of_x, *of_parameters = jax.vjp(function, x, *parameters)[1](gradient)
            return of_x, of_parameters

        # Not on accelerators, which like few large steps, nor with rows that lie on several devices.
        in_blocks = jax.default_backend() == "cpu" and jax.device_count() == 1
        rows = _rows(x) if in_blocks else max(1, x.shape[0])
        dtype = x.dtype
        if in_blocks:  # as XLA's loops convert half precision number by number
            x, gradient = at_least_float32(x), at_least_float32(gradient)
        whole = x.shape[0] - x.shape[0] % rows
        # The rows that make up no block come first, as their gradients are what the sums start from.
        of_rest, sums = gradients(x[whole:], gradient[whole:])

        def step(sums: list[Tensor], block: tuple[Tensor, Tensor]) -> tuple[list[Tensor], Tensor]:
            of_x, of_parameters = gradients(*block)
            return jax.tree.map(jax.numpy.add, sums, of_parameters), of_x

        blocks = [tensor[:whole].reshape(-1, rows, *tensor.shape[1:]) for tensor in (x, gradient)]
        sums, of_blocks = jax.lax.scan(step, sums, tuple(blocks))
        return jax.numpy.concatenate([of_blocks.reshape(whole, *x.shape[1:]), of_rest]).astype(dtype), *sums

    recomputing.defvjp(forward, backward)
    return jax.jit(recomputing)


def _on_tensorflow(function: Function) -> Function:
    import tensorflow as tf

    @tf.custom_gradient
    def recomputing(x: Tensor, *parameters: Tensor) -> tuple[Tensor, Function]:
        def gradients(sources: tuple[Tensor, ...], x: Tensor, gradient: Tensor) -> list[Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(sources)
                y = function(x, *parameters)
            return list(tape.gradient(y, sources, gradient, unconnected_gradients="zero"))

        def backward(gradient: Tensor) -> tuple[Tensor, ...]:
            if None in (*x.shape[1:], *gradient.shape[1:]) or tf.config.list_physical_devices("GPU"):
                return tuple(gradients((x, *parameters), x, gradient))
            # XLA fuses what makes the gradient of x, and would reduce it to every parameter's in a pass of its own.
            length = tf.shape(x)[0]  # not from x.shape, as `fit` traces batches of unknown length
            rows = tf.clip_by_value(_rows(x), 1, tf.maximum(length, 1))
            blocks = length // rows
            sums = gradients(parameters, x[blocks * rows :], gradient[blocks * rows :])

            def step(i: Tensor, sums: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
                # Not tensor[i * rows : (i + 1) * rows], whose length XLA would not know.
                start = [i * rows] + [0] * (len(x.shape) - 1)
                block = (tf.slice(tensor, start, (rows, *tensor.shape[1:])) for tensor in (x, gradient))
                return i + 1, [a + b for a, b in zip(sums, gradients(parameters, *block), strict=True)]

            _, sums = tf.while_loop(lambda i, _: i < blocks, step, (0, sums), maximum_iterations=blocks)
            return *gradients((x,), x, gradient), *sums

        return function(x, *parameters), backward

    return recomputing


def _on_torch(function: Function) -> Function:
    import torch

    forward = _compiled(function)

    @functools.cache
    def gradients(needed: tuple[bool, ...]) -> Function:
        """Returns the function of an upstream gradient and the arguments that gives gradients of the needed ones."""

        def of_needed(gradient: Tensor, *arguments: Tensor) -> tuple[Tensor, ...]:
            def with_others(*those: Tensor) -> Tensor:
                of_those = iter(those)
                return function(*(next(of_those) if need else a for need, a in zip(needed, arguments, strict=True)))

            those = (argument for need, argument in zip(needed, arguments, strict=True) if need)
            return torch.func.vjp(with_others, *those)[1](gradient)

        return _compiled(of_needed)

    class Recomputing(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, *arguments: Tensor) -> Tensor:
            context.save_for_backward(*arguments)
            return forward(*(argument.detach() for argument in arguments))  # as it is compiled anew for others

        @staticmethod
        def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
            arguments, needed = context.saved_tensors, context.needs_input_grad
            if torch.is_grad_enabled():  # for a gradient of the gradient, which torch.compile has none of
                those = [argument for need, argument in zip(needed, arguments, strict=True) if need]
                found = iter(
                    torch.autograd.grad(
                        function(*arguments), those, gradient, create_graph=True, materialize_grads=True
                    )
                )
            else:
                found = iter(gradients(needed)(gradient, *arguments))
            return tuple(next(found) if need else None for need in needed)

    def recomputing(*arguments: Tensor) -> Tensor:
        # A program that is compiled anyway recomputes, too: PyTorch would keep booleans, with which it is slow.
        if torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting():
            return torch.utils.checkpoint.checkpoint(function, *arguments, use_reentrant=False)
        # Traced, exported, or within torch.func: whoever does that wants to see the operations.
        if (
            torch.compiler.is_compiling()
            or transforms_are_active()
            or any(type(argument) not in (torch.Tensor, torch.nn.Parameter) for argument in arguments)
            or arguments[0].is_meta
        ):
            return function(*arguments)
        return Recomputing.apply(*arguments)

    return recomputing


def _compiled(function: Function) -> Function:
    """Returns `function` compiled by PyTorch; as it is, from the first call on that fails."""
    import torch

    fast = torch.compile(function, dynamic=True, fullgraph=True)

    def compiled(*arguments: Tensor) -> Tensor:
        # Each rank and dtype is compiled anew, of which PyTorch allows 8 by default.
        with torch.compiler.config.patch(recompile_limit=100):
            return fast(*arguments)

    compiles = True

    def on_torch(*arguments: Tensor) -> Tensor:
        nonlocal compiles
        if not compiles:
            return function(*arguments)
        try:
            return compiled(*arguments)
        except Exception:  # what a machine without a compiler raises depends on what it lacks
            try:
                with warnings.catch_warnings():  # unless it was one of PyTorch's own warnings, which are errors to some
                    warnings.simplefilter("ignore")
                    return compiled(*arguments)
            except Exception as error:
                compiles = False
                reason = " ".join(str(error).splitlines()[:2])
                warnings.warn(f"torch.compile failed, so that an activation runs slowly: {reason}", stacklevel=2)
                return function(*arguments)

    return on_torch


def _rows(x: Tensor) -> int:
    """The number of rows in a block of `x`."""
    return max(1, BLOCK // max(1, math.prod(x.shape[1:])))
