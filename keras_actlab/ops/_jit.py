"""Compilation of a single function outside a compiled training step.

JAX is imported here because Keras cannot compile a single function.
"""

from collections.abc import Callable

import keras

from keras_actlab.ops.tensor import Tensor


def jit(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Returns `function`, which on JAX is compiled as a whole when it is called with concrete arrays.

    Without this, JAX compiles each operation for each new shape. For a chain of a hundred operations on different
    shapes that takes seconds; compiling the chain as a whole takes a fraction of it. Within a larger trace, `function`
    is compiled with the rest. The other backends run operations one by one without compiling them.

    On JAX, the backward pass recomputes intermediate results of the forward pass: on a CPU, allocating memory to keep
    them takes longer than the arithmetic.
    """
    if keras.backend.backend() != "jax":
        return function
    import jax

    recomputed = jax.checkpoint(function)
    jitted = jax.jit(recomputed)

    def on_jax(x: Tensor) -> Tensor:
        if not isinstance(x, jax.Array):  # a KerasTensor
            return function(x)
        return recomputed(x) if isinstance(x, jax.core.Tracer) else jitted(x)

    return on_jax
