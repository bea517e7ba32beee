"""Input mean normalization."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_actlab.layers.arguments import Shape, boolean, channel_spec, channels_along
from keras_actlab.layers.folding import check_not_overridden
from keras_actlab.layers.kernels import to_float32
from keras_actlab.ops.replicas import mean_over_replicas
from keras_actlab.ops.tensor import Tensor, along_axis, floating, integer


@keras.saving.register_keras_serializable(package="keras_actlab")
class InputMeanNormalization(keras.layers.Layer):
    """Input mean normalization: subtracts from each channel its mean over the mini-batch.

    `y = x - mean(x)` (equation 14 of the paper), with the mean over all axes but the channel axis (batch, and time or
    space). There are no trainable parameters. In training, the layer subtracts the mean of the batch, and the gradient
    flows through the mean. At inference, it subtracts a moving mean, which starts at 0 and is updated after each
    training
    batch: `momentum * moving_mean + (1 - momentum) * mean`. Means are computed in float32 under every mixed policy.

    For the paper's GmP+IMN, place the layer before a geometric layer: with centred inputs, every boundary starts in the
    middle of the data, because `radius` starts at 0.

    Args:
        axis: The channel axis.
        momentum: Momentum of the moving average, in [0, 1].
        synchronized: Whether data-parallel replicas share one mean, in which each replica is weighted with its number
            of samples. Otherwise each replica uses the mean of its part of the batch, and the moving mean is that of
            the first replica. On JAX the mean is always shared, because a program computes with the global batch. See
            `keras_actlab.distribution`.
        **kwargs: Base layer arguments, such as `name` and `dtype`. A layer that is not `trainable` runs in inference
            mode, as Keras' `BatchNormalization` does.

    Call arguments:
        inputs: Tensor of rank 2 or more.
        training: Whether to use the mean of the batch and to update the moving mean.
        mask: Boolean tensor over the leading axes of `inputs`, such as (batch,) or (batch, time). Entries where the
            mask is False are excluded from the mean. A fully masked batch has mean 0 and does not update the moving
            mean.

    Input shape:
        Any with a fixed, known number of channels on `axis`.

    Output shape:
        Same as the input.

    Raises:
        ValueError: If `axis` is not a non-batch axis of the input, `momentum` is not in [0, 1], or the mask does not
            have the shape of the leading axes of the input.
        TypeError: If an argument has the wrong type.

    Example:

    >>> layer = keras_actlab.layers.InputMeanNormalization()
    >>> keras.ops.convert_to_numpy(layer(np.array([[1.0, 5.0], [3.0, 9.0]]), training=True))
    array([[-1., -2.],
           [ 1.,  2.]], dtype=float32)

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), equation 14.
    """

    def __init__(self, axis: int = -1, momentum: float = 0.99, synchronized: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.axis = integer("axis", axis)
        if isinstance(momentum, bool) or not isinstance(momentum, (int, float)):
            raise TypeError(f"`momentum` must be a number. Received: momentum={momentum!r}")
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"`momentum` must be in [0, 1]. Received: momentum={momentum}")
        self.momentum = momentum
        self.synchronized = boolean("synchronized", synchronized)

    def build(self, input_shape: Shape) -> None:
        self.moving_mean = self.add_weight(
            name="moving_mean",
            shape=(channels_along(self.axis, input_shape),),
            initializer="zeros",
            trainable=False,
            autocast=False,
        )
        self.input_spec = channel_spec(self.axis, input_shape)

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        x = floating(inputs, at_least="float32")
        use_batch = training and self.trainable
        mean = self._batch_mean(x, mask) if use_batch else ops.cast(self.moving_mean, x.dtype)
        return ops.cast(x - along_axis(mean, self.axis, len(x.shape)), self.compute_dtype)

    def _batch_mean(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Returns the mean of each channel of `x`, (channels,), and updates the moving mean."""
        rank = len(x.shape)
        axes = [axis for axis in range(rank) if axis != self.axis % rank]
        if mask is None:
            present = ops.ones_like(ops.take(x, [0], axis=self.axis))
        else:
            known = [size for size in zip(mask.shape, x.shape, strict=False) if None not in size]
            if len(mask.shape) > rank or any(one != other for one, other in known):
                raise ValueError(
                    "`mask` must have the shape of the leading axes of `inputs`. "
                    f"Received: mask.shape={tuple(mask.shape)}, inputs.shape={tuple(x.shape)}"
                )
            mask = ops.reshape(ops.cast(mask, x.dtype), tuple(ops.shape(mask)) + (1,) * (rank - len(mask.shape)))
            present = ops.broadcast_to(mask, ops.shape(x))
            x = ops.where(present > 0, x, 0.0)
        count = ops.sum(present, axis=axes, keepdims=True)
        # Division before the sum, so that large values do not overflow.
        mean = ops.sum(x / ops.maximum(count, 1.0), axis=axes)
        count = ops.reshape(count, (-1,))
        if self.synchronized:
            mean_count = mean_over_replicas(count)
            mean = mean_over_replicas(mean * (count / ops.maximum(mean_count, 1e-9)))
            count = mean_count
        moving_mean = ops.cast(self.moving_mean, mean.dtype)
        updated = self.momentum * moving_mean + (1.0 - self.momentum) * ops.stop_gradient(mean)
        self.moving_mean.assign(ops.where(count > 0, updated, moving_mean))
        return mean

    def fold(self) -> keras.layers.Layer:
        """Returns a layer that adds the offset of inference. Raises SkipLayer if a subclass overrides `call`."""
        check_not_overridden(self, "offset", ("call",))
        rank = len(self.get_build_config()["input_shape"])
        offset = self.offset().reshape((-1,) + (1,) * (rank - 1 - self.axis % rank))
        return keras.layers.Rescaling(1.0, offset=offset, name=self.name, dtype=self.dtype_policy)

    def offset(self) -> np.ndarray:
        """Returns what the layer adds to each channel at inference, (channels,), in float32."""
        return -to_float32(self.moving_mean)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "axis": self.axis,
            "momentum": self.momentum,
            "synchronized": self.synchronized,
        }
