"""A mean over the replicas of data-parallel training.

PyTorch's distributed package is imported here because Keras' `ops.moments` averages over replicas on TensorFlow, but
not on PyTorch.
"""

import functools
from collections.abc import Callable
from typing import Any

from keras import backend, ops

from keras_actlab.ops.tensor import Tensor


def mean_over_replicas(x: Tensor) -> Tensor:
    """Returns the mean of `x` over the replicas. Its gradient is that of the mean loss over the replicas.

    With one replica the result is `x`. On JAX it is always `x`, because a program computes with the global batch.
    """
    if backend.backend() == "tensorflow":
        mean, _ = ops.moments(x[None], axes=[0], synchronized=True)
        return mean
    if backend.backend() == "torch":
        import torch

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return _mean_over_processes()(x)
    return x


@functools.cache
def _mean_over_processes() -> Callable[[Tensor], Tensor]:
    import torch
    from torch import distributed

    def mean(x: Tensor) -> Tensor:
        x = x.contiguous() / distributed.get_world_size()
        distributed.all_reduce(x)
        return x

    class Mean(torch.autograd.Function):  # PyTorch's own all-reduce with a gradient is deprecated
        @staticmethod
        def forward(context: Any, x: Tensor) -> Tensor:
            return mean(x)

        @staticmethod
        def backward(context: Any, gradient: Tensor) -> Tensor:
            return mean(gradient)

    return Mean.apply
