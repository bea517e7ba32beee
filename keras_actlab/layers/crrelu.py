"""CRReLU with a learned correction."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_actlab import ops
from keras_actlab.arguments import check_number, resolve
from keras_actlab.layers.arguments import (
    Constraint,
    Initializer,
    Regularizer,
    Shape,
    channel_spec,
    channels_along,
    check_keywords,
    check_not_tensor,
    curve_values,
)
from keras_actlab.layers.replacement import Replacement
from keras_actlab.ops.tensor import Tensor, along_axis, integer


@keras.saving.register_keras_serializable(package="keras_actlab")
class CRReLU(Replacement):
    """Correction Regularized Rectified Linear Unit, with a learned size of the correction.

    `y = max(0, x) + epsilon * x * exp(-x**2 / 2)`

    `epsilon` starts at 0.01 and is one scalar for the layer (the paper), or one per entry along `axis`. For
    pre-activations distributed as N(0, 1), a positive `epsilon` raises the entropy of the output and a negative one
    lowers it (dH/d epsilon = +0.354 at 0). The paper argues for lower entropy, that is a negative sign, but its
    networks start at +0.01. Training may change the sign.

    Args:
        axis: None for one scalar, or the axis along which each entry gets its own `epsilon`.
        epsilon_initializer: A number, or an initializer; None for 0.01.
        epsilon_regularizer: Regularizer of `epsilon`.
        epsilon_constraint: Constraint of `epsilon`; `epsilon` in [-1, 2.24] keeps y increasing on x > 0.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of any shape.

    Input shape:
        Any; with `axis`, the length along it must be known and stay the same.

    Output shape:
        Same as the input.

    Raises:
        ValueError: If `axis` is not a non-batch axis of the input, or an argument is unknown.
        TypeError: If `axis` is not an integer.

    Example:

    >>> layer = keras_actlab.layers.CRReLU(axis=-1)
    >>> tuple(layer(np.ones((2, 4, 4, 8))).shape)
    (2, 4, 4, 8)
    >>> tuple(layer.epsilon.shape)
    (8,)

    Reference:

    - [Sun et al., 2024](https://arxiv.org/abs/2405.12954), "A Method on Searching Better Activation Functions".
    """

    is_activation = True

    def __init__(
        self,
        axis: int | None = None,
        epsilon_initializer: float | Initializer = 0.01,
        epsilon_regularizer: Regularizer = None,
        epsilon_constraint: Constraint = None,
        **kwargs: Any,
    ) -> None:
        check_not_tensor(self, "axis", axis)
        check_keywords(self, kwargs, {"epsilon": "`epsilon_initializer`, the number that epsilon starts as"})
        super().__init__(**kwargs)
        self.supports_masking = True
        self.axis = None if axis is None else integer("axis", axis)
        if epsilon_initializer is None:
            epsilon_initializer = 0.01
        if isinstance(epsilon_initializer, (int, float)):
            check_number("epsilon_initializer", epsilon_initializer)
            epsilon_initializer = keras.initializers.Constant(epsilon_initializer)
        self.epsilon_initializer = resolve(keras.initializers.get, "epsilon_initializer", epsilon_initializer)
        self.epsilon_regularizer = resolve(keras.regularizers.get, "epsilon_regularizer", epsilon_regularizer)
        self.epsilon_constraint = resolve(keras.constraints.get, "epsilon_constraint", epsilon_constraint)

    def build(self, input_shape: Shape) -> None:
        shape: tuple[int, ...] = ()
        if self.axis is not None:
            shape = (channels_along(self.axis, input_shape),)
            self.input_spec = channel_spec(self.axis, input_shape)
        self.epsilon = self.add_weight(
            name="epsilon",
            shape=shape,
            initializer=self.epsilon_initializer,
            regularizer=self.epsilon_regularizer,
            constraint=self.epsilon_constraint,
        )

    def call(self, inputs: Tensor) -> Tensor:
        inputs = keras.ops.cast(inputs, self.compute_dtype)
        if self.axis is None:
            return ops.crrelu(inputs, self.epsilon)
        return ops.crrelu(inputs, along_axis(self.epsilon, self.axis, len(inputs.shape)))

    def set_curve(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        """Fits the layer to `function` on [-4, 4] by least squares.

        `epsilon = sum((function(x) - max(0, x)) * g(x)) / sum(g(x)**2)` over evenly spaced points,
        `g(x) = x * exp(-x**2 / 2)`.

        Args:
            function: Takes points, (n,), float64. Returns its values there: (n,), or (n, channels) for one function per
                channel.

        Raises:
            ValueError: If the layer is not built, or the values have another shape or are not finite.
        """
        x = np.linspace(-4.0, 4.0, 801)
        values = curve_values(self, function, x)
        correction = (x * np.exp(-(x**2) / 2))[:, None]
        fit = np.sum((values - np.maximum(x, 0)[:, None]) * correction, axis=0) / np.sum(correction**2)
        self.epsilon.assign(np.mean(fit) if self.axis is None else np.broadcast_to(fit, self.epsilon.shape))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "axis": self.axis,
            "epsilon_initializer": keras.initializers.serialize(self.epsilon_initializer),
            "epsilon_regularizer": keras.regularizers.serialize(self.epsilon_regularizer),
            "epsilon_constraint": keras.constraints.serialize(self.epsilon_constraint),
        }
