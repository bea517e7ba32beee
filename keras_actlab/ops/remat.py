"""Rematerialization: functions that keep only their arguments for the backward pass and recompute the rest.

Automatic differentiation of a chain of elementwise operations keeps a tensor for nearly every operation, and sums the
gradient of each parameter in a separate pass. Such a chain spends most of its time on memory traffic.

This module imports backends for speed. Keras has no function that compiles a single function, and its custom gradients
cannot contain a loop that XLA compiles on TensorFlow.
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

# Smaller inputs gain little, and PyTorch takes seconds to compile.
MIN_SIZE = 2**20
# A function that has computed this many elements on PyTorch is compiled. Until then, it loses about as much time as its
# compilation takes, and a first step or a short program does not wait for the compiler.
COMPILE_AFTER = 2**27
# Elements per block of rows in the backward pass on a CPU; a block fits into the cache.
BLOCK = 2**17


def remat(function: Function, scatters: bool = False) -> Function:
    """Returns `function` with a backward pass that recomputes intermediate results instead of keeping them.

    Args:
        function: `function(x, *parameters, **constants)`, written in `keras.ops`. Each row of the output (an entry
            along the first axis) depends only on the same row of the tensor `x` and on the whole tensors `parameters`.
            The constants are hashable.
        scatters: Whether gradients of parameters are added to single entries of a table.

    Returns:
        A function with the same values. If `x` has at least `MIN_SIZE` elements:

        - On JAX and TensorFlow on a CPU, one loop over blocks of rows computes the gradients of all parameters. On JAX,
          the same loop computes the gradient of `x`. If it `scatters`, JAX has no loop: XLA takes twice as long in one.
        - On PyTorch, `torch.compile` compiles the forward and the backward pass, each after `COMPILE_AFTER` elements,
          except inside a trace. If PyTorch finds no compiler, the function runs uncompiled and warns once.
          `torch.compiler.set_stance("force_eager")` and the environment variable `TORCH_COMPILE_DISABLE=1` turn the
          compilation off.

        Higher derivatives work. On JAX, `jax.jvp` of a large `x` works around `jax.grad`, but not on the function
        itself.
    """

    @functools.cache
    def with_gradient(**constants: Any) -> Function:
        with_constants = functools.partial(function, **constants)
        match keras.backend.backend():
            case "jax":
                return _on_jax(with_constants, in_blocks=not scatters)
            case "tensorflow":
                return _on_tensorflow(with_constants)
        return _on_torch(with_constants, in_float32=scatters)

    @functools.wraps(function)
    def on_backend(x: Tensor, *parameters: Tensor, **constants: Any) -> Tensor:
        if _is_small(x) or keras.backend.is_keras_tensor(x):
            return function(x, *parameters, **constants)
        return with_gradient(**constants)(x, *parameters)

    return on_backend


def _is_small(x: Tensor) -> bool:
    # TensorFlow traces batches of unknown length; 64 is assumed here.
    lengths = [64 if length is None else length for length in x.shape]
    # Symbolic lengths of `jax.export` cannot be compared, and exported programs compute no gradients.
    return not all(isinstance(length, int) for length in lengths) or math.prod(lengths) < MIN_SIZE


def _on_jax(function: Function, in_blocks: bool) -> Function:
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

        # Not on accelerators, where few large steps are faster, nor with rows sharded over several devices.
        one_cpu = jax.default_backend() == "cpu" and jax.device_count() == 1
        rows = _rows(x) if in_blocks and one_cpu else max(1, x.shape[0])
        dtype = x.dtype
        if one_cpu:  # because XLA's loops convert half precision one number at a time
            x, gradient = at_least_float32(x), at_least_float32(gradient)
        whole = x.shape[0] - x.shape[0] % rows
        # The rows beyond the last whole block come first: their gradients are the initial values of the sums.
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
            # XLA would fuse the gradient of x into a separate pass over memory for the gradient of each parameter.
            length = tf.shape(x)[0]  # not x.shape, because `fit` traces batches of unknown length
            rows = tf.clip_by_value(_rows(x), 1, tf.maximum(length, 1))
            blocks = length // rows
            sums = gradients(parameters, x[blocks * rows :], gradient[blocks * rows :])

            def step(i: Tensor, sums: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
                # Not tensor[i * rows : (i + 1) * rows], because its length would be unknown to XLA.
                start = [i * rows] + [0] * (len(x.shape) - 1)
                block = (tf.slice(tensor, start, (rows, *tensor.shape[1:])) for tensor in (x, gradient))
                return i + 1, [a + b for a, b in zip(sums, gradients(parameters, *block), strict=True)]

            _, sums = tf.while_loop(lambda i, _: i < blocks, step, (0, sums), maximum_iterations=blocks)
            return *gradients((x,), x, gradient), *sums

        return function(x, *parameters), backward

    return recomputing


def _on_torch(function: Function, in_float32: bool) -> Function:
    import torch

    def compiled(function: Function) -> Function:
        fast = _compiled(function)
        # PyTorch compiles a loop with a look-up in half precision to a conversion of one number at a time.
        return (lambda *arguments: fast(*map(at_least_float32, arguments))) if in_float32 else fast

    forward = compiled(function)

    @functools.cache
    def gradients(needed: tuple[bool, ...]) -> Function:
        """Returns a function of the upstream gradient and the arguments that computes the needed gradients."""

        def of_needed(gradient: Tensor, *arguments: Tensor) -> tuple[Tensor, ...]:
            def with_others(*those: Tensor) -> Tensor:
                of_those = iter(those)
                return function(*(next(of_those) if need else a for need, a in zip(needed, arguments, strict=True)))

            those = (argument for need, argument in zip(needed, arguments, strict=True) if need)
            return torch.func.vjp(with_others, *those)[1](gradient)

        return compiled(of_needed)

    class Recomputing(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, *arguments: Tensor) -> Tensor:
            context.save_for_backward(*arguments)
            # Detached, because tensors with gradients would be recompiled.
            return forward(*(argument.detach() for argument in arguments)).to(arguments[0].dtype)

        @staticmethod
        def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
            arguments, needed = context.saved_tensors, context.needs_input_grad
            if torch.is_grad_enabled():  # for second derivatives, which torch.compile does not support
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
        # Within a compiled program, too, intermediate results are recomputed: PyTorch would keep booleans, which is
        # slow.
        if torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting():
            return torch.utils.checkpoint.checkpoint(function, *arguments, use_reentrant=False)
        # A trace, an export or a transform of torch.func must see the single operations.
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
    """Returns `function`, compiled by PyTorch after `COMPILE_AFTER` elements, unless the compilation fails."""
    import torch

    fast = torch.compile(function, dynamic=True, fullgraph=True)

    def compiled(*arguments: Tensor) -> Tensor:
        # Each rank and dtype is another compilation; PyTorch allows 8 by default.
        with torch.compiler.config.patch(recompile_limit=100):
            return fast(*arguments)

    compiles, elements = True, 0

    def on_torch(*arguments: Tensor) -> Tensor:
        nonlocal compiles, elements
        if not compiles or elements < COMPILE_AFTER:
            elements += arguments[0].numel()
            return function(*arguments)
        try:
            return compiled(*arguments)
        except Exception:  # the type depends on which part of the compiler is missing
            try:
                with warnings.catch_warnings():  # PyTorch's own warnings may have been turned into errors
                    warnings.simplefilter("ignore")
                    return compiled(*arguments)
            except Exception as error:
                compiles = False
                reason = " ".join(str(error).splitlines()[:2])
                warnings.warn(f"torch.compile failed, so that an activation runs slowly: {reason}", stacklevel=2)
                return function(*arguments)

    return on_torch


def _rows(x: Tensor) -> int:
    """Returns the number of rows in a block of `x`."""
    return max(1, BLOCK // max(1, math.prod(x.shape[1:])))
