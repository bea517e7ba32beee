"""Training on several devices: data parallelism by the backends' own engines, and layouts for model parallelism.

The backends are imported because Keras' own distribution works on JAX only. On TensorFlow it is `tf.distribute`, and on
PyTorch a group of processes, which Keras' trainer does not support.
"""

import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import keras

from keras_actlab._private.keras_trainer import training_hooks
from keras_actlab.conversion.layouts import layout_map
from keras_actlab.ops.replicas import mean_over_replicas
from keras_actlab.ops.tensor import Tensor, integer

T = TypeVar("T")

__all__ = ["data_parallel", "data_shard", "is_first_process", "layout_map", "local_batch_size", "of_first_process"]


@contextlib.contextmanager
def data_parallel() -> Iterator[None]:
    """Trains models that are built, compiled and fitted inside on all devices, each with its part of every batch.

    Weights, gradients, loss and metrics are global: each step is that of one device with the whole batch, up to
    rounding. Layers that compute statistics of their batch may use the part of each device, see the argument
    `synchronized` of `keras_actlab.layers.InputMeanNormalization`. On one device, the context has no effect.

    - JAX: `keras.distribution.DataParallel` over all devices, those of other hosts too after
      `keras.distribution.initialize()`.
    - TensorFlow: the current `tf.distribute` strategy, otherwise a `MirroredStrategy` over all GPUs of the machine (or
      its CPU devices).
    - PyTorch: one process for each device, started by `torchrun`, and the group that its environment variables
      describe (NCCL for GPUs, gloo for CPUs) unless there is a group already. Without these variables there is one
      process, and no effect. Inside, `fit` and `train_on_batch` start from the weights of process 0, average the
      gradients before the optimizer sees them, and report metrics of all processes. All processes must read the same
      number of batches.

    Each process reads only its part of the data, see `data_shard` and `local_batch_size`.

    Yields:
        Nothing.

    Raises:
        ValueError: If the environment describes a group of PyTorch's processes incompletely.

    Example:

    >>> with keras_actlab.distribution.data_parallel():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    ...     model.compile("sgd", "mse")
    ...     index, count = keras_actlab.distribution.data_shard()
    ...     batch_size = keras_actlab.distribution.local_batch_size(8)
    ...     x, y = np.zeros((16, 4)), np.zeros((16, 1))
    ...     model.fit(x[index::count], y[index::count], batch_size=batch_size, verbose=0).history["loss"]
    [0.0]

    Reference:

    - [Goyal et al., 2017](https://arxiv.org/abs/1706.02677), "Accurate, Large Minibatch SGD", on the effects of the
      batch size.
    """
    if keras.backend.backend() == "jax":
        # Every process reads its own part of any data; Keras could only divide a tf.data.Dataset.
        scope = keras.distribution.DataParallel(auto_shard_dataset=False).scope()
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        strategy = tf.distribute.get_strategy() if tf.distribute.has_strategy() else _mirrored_strategy()
        scope = strategy.scope()
    else:
        scope = _group_of_processes()
    with scope:
        yield


@functools.cache
def _mirrored_strategy() -> Any:
    """Returns the one strategy of this process.

    TensorFlow numbers the collective operations of each strategy from the same start, so those of a second strategy
    collide with the first's. Where their shapes differ, TensorFlow 2.21 raises "Collective ops is aborted by: Shape
    mismatch in the collective instance 109. ... expected shape [5] but another member in the group expected shape [3]".
    """
    import tensorflow as tf

    return tf.distribute.MirroredStrategy()


def data_shard() -> tuple[int, int]:
    """Returns which part of the data this process must read, as an index and the number of parts.

    There are as many parts as processes: hosts on JAX, devices on PyTorch. On TensorFlow it is (0, 1), since
    `tf.distribute` divides every batch itself. Entries `index::count` of the data, in batches of `local_batch_size`,
    are this process' parts of the batches that one device would read. Call it inside `data_parallel`.

    Returns:
        `(index, count)`, with 0 <= index < count.

    Example:

    >>> keras_actlab.distribution.data_shard()
    (0, 1)
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.process_index(), jax.process_count()
    if keras.backend.backend() == "torch":
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def is_first_process() -> bool:
    """Returns whether this process is the one that must write files and print. Call it inside `data_parallel`.

    Returns:
        True in one of the processes, and where there is only one.

    Example:

    >>> keras_actlab.distribution.is_first_process()
    True
    """
    return data_shard()[0] == 0


def of_first_process(compute: Callable[[], T]) -> T:
    """Returns, in every process, the result of `compute` in the first one. All processes must call it.

    On JAX each process calls `compute` itself: variables are the same in all processes, as one program computes with
    the global batch.

    Args:
        compute: Takes nothing and returns something that can be pickled.

    Returns:
        The result of `compute`.

    Example:

    >>> keras_actlab.distribution.of_first_process(lambda: 1 + 1)
    2
    """
    if keras.backend.backend() != "torch" or data_shard()[1] == 1:
        return compute()
    from torch import distributed

    found = [compute() if is_first_process() else None]
    distributed.broadcast_object_list(found, src=0)
    return found[0]  # type: ignore[return-value]


def local_batch_size(batch_size: int) -> int:
    """Returns how many samples of each global batch this process must read. Call it inside `data_parallel`.

    Args:
        batch_size: Number of samples in a global batch.

    Returns:
        `batch_size` divided by the number of parts of the data.

    Raises:
        ValueError: If `batch_size` is not a positive multiple of the number of replicas.
        TypeError: If `batch_size` is not an integer.

    Example:

    >>> keras_actlab.distribution.local_batch_size(64)
    64
    """
    batch_size, replicas = integer("batch_size", batch_size), _replicas()
    if batch_size < 1 or batch_size % replicas:
        raise ValueError(
            f"`batch_size` must be a positive multiple of the number of replicas, which is {replicas}. "
            f"Received: batch_size={batch_size}"
        )
    return batch_size // data_shard()[1]


def _replicas() -> int:
    if keras.backend.backend() == "jax":
        distribution = keras.distribution.distribution()
        return 1 if distribution is None else distribution.device_mesh.devices.size
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.distribute.get_strategy().num_replicas_in_sync
    return data_shard()[1]


_groups = itertools.count()  # numbers the groups of processes that this one joined


@contextlib.contextmanager
def _group_of_processes() -> Iterator[None]:
    import torch

    if not torch.distributed.is_available() or not (torch.distributed.is_initialized() or "WORLD_SIZE" in os.environ):
        yield
        return
    joins = not torch.distributed.is_initialized()
    if joins:
        if torch.cuda.is_available():  # Keras uses the current device
            torch.cuda.set_device(torch.distributed.get_node_local_rank())
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        store, rank, count = next(torch.distributed.rendezvous("env://"))
        # With a prefix, so that a second group does not find the addresses of the first.
        store = torch.distributed.PrefixStore(f"data_parallel_{next(_groups)}", store)
        torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=count)

    def start_from_the_first(model: keras.Model) -> None:
        for variable in model.weights + model.optimizer.variables:
            value = variable.value.detach().contiguous()
            torch.distributed.broadcast(value, src=0)
            variable.assign(value)
        model.optimizer.apply = _with_mean_gradients(model.optimizer.apply)

    def sums_over_processes(model: keras.Model) -> list[tuple[keras.Variable, Tensor]]:
        # Metrics add up in their variables, as on TensorFlow, where they are declared as sums over replicas.
        _, count = data_shard()
        return [(variable, count * mean_over_replicas(variable.value)) for variable in model.metrics_variables]

    with training_hooks(start_from_the_first, sums_over_processes):
        yield
    if joins:  # not after an error, when the others may be waiting for this process
        torch.distributed.destroy_process_group()


def _with_mean_gradients(apply: Callable[..., None]) -> Callable[..., None]:
    import torch

    def apply_mean(gradients: Sequence[Tensor | None], trainable_variables: Sequence[Any] | None = None) -> None:
        present = [gradient for gradient in gradients if gradient is not None]
        # All gradients in one exchange, as each exchange has a fixed cost.
        means = mean_over_replicas(torch.cat([gradient.flatten() for gradient in present]))
        parts = iter(means.split([gradient.numel() for gradient in present]))
        apply([g if g is None else next(parts).view_as(g).to(g.dtype) for g in gradients], trainable_variables)

    return apply_mean
