"""The switch between the plain form of the direction map and kernels for GPUs.

PyTorch and JAX are imported here because Keras does not know where a tensor is.
"""

from collections.abc import Callable

import keras

from keras_actlab._private.torch_func import transforms_are_active
from keras_actlab.arguments import boolean
from keras_actlab.ops.tensor import Tensor

_kernel: Callable[[Tensor], Tensor] | None = None  # None while the kernels are disabled


def enable_fused_direction(enabled: bool = True) -> None:
    """Lets `angles_to_direction`, and all geometric layers, compute directions with one kernel on a GPU, or no longer.

    The kernel is written in Triton for PyTorch, and in Pallas for JAX. It reads the angles and writes the directions
    once; its gradient reads angles and cotangent and writes the gradient once. The plain form makes about twenty such
    passes. Values are equal up to rounding, except that the kernel computes sines of angles beyond `2**16`, too, which
    the plain form clips on JAX.

    The kernels are disabled at first, because Triton needs a C compiler where the program runs, and because the kernel
    for JAX has hardly run on a GPU: on an NVIDIA H200, the kernel for PyTorch agreed with float64 for all sizes that
    were tried, that for JAX for two sizes. The latter has not been timed.

    - The setting holds for programs that are traced afterwards. Call the function before `compile` and `fit`.
    - The plain form computes angles that are not on a GPU, second derivatives, exported programs and transforms of
      `torch.func`; on JAX also everything in programs for several devices.
    - On JAX, forward-mode derivatives (`jax.jvp`) of the kernel raise a TypeError.

    Args:
        enabled: Whether to use the kernels.

    Raises:
        TypeError: If `enabled` is not a bool.
        RuntimeError: If the kernels are enabled on TensorFlow, or where the backend computes on no GPU.
        ImportError: If the kernels are enabled on PyTorch without Triton.

    Example:

    >>> keras_actlab.ops.enable_fused_direction(False)  # True needs a GPU
    """
    global _kernel
    _kernel = direction_kernel() if boolean("enabled", enabled) else None


def direction_kernel() -> Callable[[Tensor], Tensor]:
    """Returns the function that computes directions with one kernel. Raises an error if the backend has no GPU."""
    backend = keras.backend.backend()
    platform = _platform(backend)
    if platform not in ("gpu", "cuda"):
        raise RuntimeError(
            f"The fused direction map needs JAX or PyTorch on a GPU. Received: {backend} on {platform or 'any device'}"
        )
    if backend == "jax":
        from keras_actlab.ops import _direction_pallas

        return _direction_pallas.direction
    try:
        from keras_actlab.ops import _direction_triton
    except ImportError as error:
        raise ImportError("On PyTorch, the fused direction map needs Triton. Install the extra [kernels].") from error
    return _direction_triton.direction


def _platform(backend: str) -> str | None:
    if backend == "jax":
        import jax

        return jax.default_backend()
    if backend == "torch":
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"
    return None


def fused_direction(angles: Tensor) -> Tensor | None:
    """Returns the directions that the kernel computes, or None if it is disabled or not suited to these angles."""
    if _kernel is None or keras.backend.is_keras_tensor(angles) or 0 in angles.shape:
        return None
    suited = _on_one_device() if keras.backend.backend() == "jax" else _on_gpu(angles) and not _in_trace(angles)
    return _kernel(angles) if suited else None


def _on_one_device() -> bool:
    import jax

    return jax.device_count() == 1  # otherwise, XLA would gather angles that are divided among devices


def _on_gpu(angles: Tensor) -> bool:
    return angles.is_cuda


def _in_trace(angles: Tensor) -> bool:
    """Returns whether PyTorch must see the single operations. `torch.compile` need not."""
    import torch

    if torch.compiler.is_dynamo_compiling():
        return torch.compiler.is_exporting()
    return (
        torch.compiler.is_compiling()
        or transforms_are_active()
        or type(angles) not in (torch.Tensor, torch.nn.Parameter)
    )
