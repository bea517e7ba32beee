"""Mean-only batch normalization."""

from typing import Any

import keras
import numpy as np

from keras_actlab.arguments import resolve
from keras_actlab.layers.arguments import Constraint, Initializer, Regularizer, Shape, boolean
from keras_actlab.layers.input_mean_normalization import InputMeanNormalization
from keras_actlab.layers.kernels import to_float32
from keras_actlab.ops.tensor import Tensor, along_axis


@keras.saving.register_keras_serializable(package="keras_actlab")
class MeanOnlyBatchNormalization(InputMeanNormalization):
    """Mean-only batch normalization: replaces the mean of each channel over the mini-batch by a trained bias.

    `y = x - mean(x) + beta` (section 3 of the paper), with the mean over all axes but the channel axis (batch, and time
    or space). Unlike batch normalization, the layer does not divide by the standard deviation. Use it with
    `keras_actlab.layers.WeightNormalization`, which controls the scale: place it between the weight-normalized layer
    and the activation function.

    `beta`, (channels,), starts at 0. Give the layer before it `use_bias=False`: subtracting the mean cancels a bias.

    The mean is computed as in `keras_actlab.layers.InputMeanNormalization`. In training, the layer subtracts the mean
    of the batch, and the gradient flows through the mean. At inference, it subtracts a moving mean, which starts at 0
    and is updated after each training batch: `momentum * moving_mean + (1 - momentum) * mean`. Means are computed in
    float32 under every mixed policy.

    Args:
        axis: The channel axis.
        momentum: Momentum of the moving average, in [0, 1].
        center: Whether there is a `beta`.
        synchronized: Whether data-parallel replicas share one mean; see
            `keras_actlab.layers.InputMeanNormalization`.
        beta_initializer: Initializer of `beta`.
        beta_regularizer: Regularizer of `beta`.
        beta_constraint: Constraint of `beta`.
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

    >>> layer = keras_actlab.layers.MeanOnlyBatchNormalization(beta_initializer="ones")
    >>> keras.ops.convert_to_numpy(layer(np.array([[1.0, 5.0], [3.0, 9.0]]), training=True))
    array([[ 0., -1.],
           [ 2.,  3.]], dtype=float32)

    Reference:

    - [Salimans and Kingma, 2016](https://arxiv.org/abs/1602.07868), section 3, "Weight Normalization: A Simple
      Reparameterization to Accelerate Training of Deep Neural Networks".
    """

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        center: bool = True,
        synchronized: bool = False,
        beta_initializer: Initializer = "zeros",
        beta_regularizer: Regularizer = None,
        beta_constraint: Constraint = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(axis=axis, momentum=momentum, synchronized=synchronized, **kwargs)
        self.center = boolean("center", center)
        self.beta = None  # `build` makes it a variable if `center`
        self.beta_initializer = resolve(keras.initializers.get, "beta_initializer", beta_initializer)
        self.beta_regularizer = resolve(keras.regularizers.get, "beta_regularizer", beta_regularizer)
        self.beta_constraint = resolve(keras.constraints.get, "beta_constraint", beta_constraint)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        if self.center:
            self.beta = self.add_weight(
                name="beta",
                shape=self.moving_mean.shape,
                initializer=self.beta_initializer,
                regularizer=self.beta_regularizer,
                constraint=self.beta_constraint,
            )

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        outputs = super().call(inputs, training=training, mask=mask)
        if self.beta is None:
            return outputs
        # Cast here, because Keras casts variables in `__call__` only, and `stateless_call` bypasses it.
        beta = keras.ops.cast(self.beta, outputs.dtype)
        return outputs + along_axis(beta, self.axis, len(outputs.shape))

    def offset(self) -> np.ndarray:
        offset = super().offset()
        return offset if self.beta is None else offset + to_float32(self.beta)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "center": self.center,
            "beta_initializer": keras.initializers.serialize(self.beta_initializer),
            "beta_regularizer": keras.regularizers.serialize(self.beta_regularizer),
            "beta_constraint": keras.constraints.serialize(self.beta_constraint),
        }
