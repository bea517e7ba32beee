"""Compiling a chain of operations as one, outside of a compiled training step.

JAX is imported here because Keras has no name for compiling a function alone.
"""

from collections.abc import Callable

import keras

from keras_actlab.ops.tensor import Tensor


def jit(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Returns `function`, which on JAX is compiled as a whole when it is called with values.

    JAX compiles each operation of a chain for each shape that it meets, which for a chain of a hundred operations, each
    on another shape, takes seconds; all of them together take a fraction. Where `function` is traced as a part of
    something larger, that is compiled already. The other backends run operations one by one without compiling them.

    On JAX, the backward pass computes what it needs of the forward pass anew, since on a CPU, new memory for what is
    kept takes longer than the arithmetic.

    This is why JAX is imported here: Keras has no name for it.
    """
    if keras.backend.backend() != "jax":
        return function
    import jax

    recomputed = jax.checkpoint(function)
    jitted = jax.jit(recomputed)

    def on_jax(x: Tensor) -> Tensor:
        if not isinstance(x, jax.Array):  # but a KerasTensor
            return function(x)
        return recomputed(x) if isinstance(x, jax.core.Tracer) else jitted(x)

    return on_jax
