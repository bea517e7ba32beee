"""A trainable piecewise linear activation."""

from collections.abc import Callable
from numbers import Real
from typing import Any

import keras
import numpy as np

from keras_actlab import constraints, ops
from keras_actlab.arguments import resolve
from keras_actlab.layers.arguments import (
    Activation,
    Regularizer,
    Shape,
    activation_function,
    boolean,
    check_keywords,
    check_not_tensor,
)
from keras_actlab.layers.replacement import Replacement
from keras_actlab.ops.tensor import Tensor, concrete, integer

# Number of recent training calls that the sample represents.
CALLS_IN_SAMPLE = 16


@keras.saving.register_keras_serializable(package="keras_actlab")
class EntropyActivation(Replacement):
    """Piecewise linear activation with one curve for all channels. The curve can be trained, or set by `set_curve`.

    `y = values[k] + slope[k] * (x - knots[k])  for  knots[k] <= x < knots[k + 1]`

    where `slope[k]` is the slope from `values[k]` to `values[k + 1]`. Outside the knots, the first and the last piece
    continue. Entropy-based activation function optimization needs such a layer: it can take any shape, and the shape
    can change during training without a new model and without recompilation.

    - `knots`, (num_knots,), are evenly spaced from `lower` to `upper` and not trained.
    - `values`, (num_knots,), are trained unless `trainable=False`. They start as the values of `activation` at the
      knots.

    The 32 default knots from -4 to 3.75 are 0.25 apart. One of them is at 0, where ReLU bends, so that the layer starts
    as exactly ReLU.

    With a `sample_size`, the layer keeps values of its input in `sample`, latest first, for a callback that fits the
    curve to them. Each training call replaces a sixteenth of the sample with entries at scattered positions of the
    input, over all channels. This also happens in a layer that is not trainable. Masks are ignored, no random generator
    is used, and an empty batch changes nothing. `sampled` counts the values so far: if it is smaller than
    `sample_size`, only the first `sampled` entries of `sample` are values of the input, and the others are 0. From
    `2**30` the count is reset to `2**29`.

    Args:
        activation: The elementwise activation to start as: a name, a function, or None for the identity.
        num_knots: Number of knots, at least 2.
        lower: The first knot.
        upper: The last knot.
        monotone: Whether the values are non-decreasing, by `keras_actlab.constraints.NonDecreasing`. The constraint is
            also applied to the initial values.
        sample_size: Number of input values to keep; 0 for none.
        values_regularizer: Regularizer of the values.
        **kwargs: Base layer arguments, such as `name`, `dtype` and `trainable`.

    Call arguments:
        inputs: Tensor of any shape.
        training: Whether the input is sampled, if `sample_size` is positive.

    Input shape:
        Any.

    Output shape:
        Same as the input.

    Raises:
        ValueError: If there are fewer than two knots, `lower` and `upper` are not finite and increasing, or
            `sample_size` is negative. `build` raises if `activation` is not elementwise or not finite at the knots.
        TypeError: If an argument has the wrong type.

    Example:

    >>> layer = keras_actlab.layers.EntropyActivation()
    >>> keras.ops.convert_to_numpy(layer(np.array([[-2.0, 0.5, 30.0]])))
    array([[ 0. ,  0.5, 30. ]], dtype=float32)
    >>> layer.set_curve(np.abs)
    >>> keras.ops.convert_to_numpy(layer(np.array([[-2.0, 0.5, 30.0]])))
    array([[ 2. ,  0.5, 30. ]], dtype=float32)

    Reference:

    - [Sun et al., 2024](https://arxiv.org/abs/2405.12954), "A Method on Searching Better Activation Functions".
    """

    is_activation = True

    def __init__(
        self,
        activation: Activation = "relu",
        num_knots: int = 32,
        lower: float = -4.0,
        upper: float = 3.75,
        monotone: bool = False,
        sample_size: int = 0,
        values_regularizer: Regularizer = None,
        **kwargs: Any,
    ) -> None:
        check_not_tensor(self, "activation", activation)
        check_keywords(
            self,
            kwargs,
            {
                "knots": "`num_knots`, `lower` and `upper`",
                "values": "`activation`, whose values at the knots they start as",
            },
        )
        super().__init__(**kwargs)
        self.supports_masking = True
        if isinstance(activation, keras.layers.Layer):
            raise TypeError(f"`activation` must be a function, not a layer. Received: activation={activation}")
        self.activation = activation_function(activation)
        self.num_knots = integer("num_knots", num_knots)
        if self.num_knots < 2:
            raise ValueError(f"`num_knots` must be at least 2. Received: num_knots={num_knots}")
        self.lower, self.upper = _check_range(lower, upper, self.num_knots)
        self.monotone = boolean("monotone", monotone)
        self.sample_size = integer("sample_size", sample_size)
        if self.sample_size < 0:
            raise ValueError(f"`sample_size` must not be negative. Received: sample_size={sample_size}")
        self.values_regularizer = resolve(keras.regularizers.get, "values_regularizer", values_regularizer)

    def build(self, input_shape: Shape) -> None:
        self.knots = self.add_weight(
            name="knots",
            shape=(self.num_knots,),
            initializer=lambda shape, dtype: keras.ops.convert_to_tensor(self._initial_knots(), dtype),
            trainable=False,
            autocast=False,
        )
        self.values = self.add_weight(
            name="values",
            shape=(self.num_knots,),
            initializer=self._initial_values,
            regularizer=self.values_regularizer,
            constraint=constraints.NonDecreasing() if self.monotone else None,
            autocast=False,
        )
        if self.sample_size:
            self.sample = self.add_weight(
                name="sample", shape=(self.sample_size,), initializer="zeros", trainable=False, autocast=False
            )
            self.sampled = self.add_weight(
                name="sampled", shape=(), initializer="zeros", dtype="int32", trainable=False, autocast=False
            )

    def _initial_knots(self) -> np.ndarray:
        return _evenly_spaced(self.lower, self.upper, self.num_knots)

    def _initial_values(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        knots = keras.ops.convert_to_tensor(self._initial_knots(), dtype)
        values = self.activation(knots)
        found = concrete(values)
        if found is not None:
            elementwise = found.shape == shape and np.allclose(
                found[:-1], keras.ops.convert_to_numpy(self.activation(knots[:-1]))
            )
            if not elementwise or not np.all(np.isfinite(found)):
                raise ValueError(
                    "`activation` must be elementwise, and finite at the knots. "
                    f"Received: activation={self.activation}, with the values {found} at the knots {concrete(knots)}"
                )
        return constraints.NonDecreasing()(values) if self.monotone else values

    def set_curve(
        self,
        function: Callable[[np.ndarray], np.ndarray],
        lower: float | None = None,
        upper: float | None = None,
    ) -> None:
        """Makes the layer the piecewise linear interpolation of `function`, without recompilation.

        Args:
            function: Takes the knots, (num_knots,), float64. Returns the values at the knots, or an array (num_knots,
                channels), which is averaged over the channels.
            lower: The first knot; None to leave it unchanged.
            upper: The last knot; None to leave it unchanged.

        Raises:
            ValueError: If the layer is not built, `lower` and `upper` are not finite and increasing, the values have
                another shape or are not finite, or they decrease although the layer is monotone.
            TypeError: If `function` is not callable, or an argument is not a number.
        """
        if not callable(function):
            raise TypeError(f"`function` must be callable. Received: function={function!r}")
        if not self.built:
            raise ValueError(f"The layer must be built before its curve is set. Received: {self.name}, not built")
        now = keras.ops.convert_to_numpy(self.knots)
        lower, upper = _check_range(
            float(now[0]) if lower is None else lower, float(now[-1]) if upper is None else upper, self.num_knots
        )
        knots = _evenly_spaced(lower, upper, self.num_knots)
        with np.errstate(over="ignore"):
            values = np.asarray(function(knots.astype("float64")))
            values = (values.mean(axis=1) if values.ndim == 2 else values).astype("float32")
        if values.shape != knots.shape or not np.all(np.isfinite(values)):
            raise ValueError(
                f"`function` must return {self.num_knots} finite values, in float32. Received: function={function!r}, "
                f"which returned {values}"
            )
        falls = np.flatnonzero(np.diff(values) < 0)
        if self.monotone and falls.size:
            place = falls[0]
            raise ValueError(
                "`function` must not decrease from knot to knot, as the layer is monotone. "
                f"Received: function={function!r}, which falls from {values[place]} at {knots[place]} to "
                f"{values[place + 1]} at {knots[place + 1]}"
            )
        self.knots.assign(knots)
        self.values.assign(values)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        inputs = keras.ops.cast(inputs, self.compute_dtype)
        if training and self.sample_size:
            self._update_sample(keras.ops.stop_gradient(inputs))
        return ops.linear_spline(inputs, self.knots, self.values)

    def breakpoints(self, read: Callable[[keras.Variable], np.ndarray]) -> np.ndarray:
        """Returns the knots at which two pieces meet, given what reads a variable."""
        return read(self.knots)[..., 1:-1]

    def _update_sample(self, inputs: Tensor) -> None:
        if 0 in inputs.shape:
            return
        entries = keras.ops.reshape(inputs, (-1,))
        size = keras.ops.shape(entries)[0]
        count = max(1, self.sample_size // CALLS_IN_SAMPLE)

        def updated() -> tuple[Tensor, Tensor]:
            number = self.sampled + keras.ops.arange(count, dtype="int32")
            # A factor near 2**16 / golden ratio scatters the positions over the input. It is a prime that divides no
            # number of channels, so all channels are sampled, and all entries of a small input. Products fit into
            # int32.
            picked = keras.ops.cast(keras.ops.take(entries, number % 2**15 * 40507 % size), "float32")
            sampled = self.sampled + count
            # Reset by a multiple of 2**15, so that the sequence of positions continues.
            sampled = keras.ops.where(sampled < 2**30, sampled, sampled - 2**29)
            return keras.ops.concatenate([picked, self.sample[: self.sample_size - count]]), sampled

        if None in inputs.shape:  # a TensorFlow replica may receive an empty part of a batch (tensorflow#41657)
            sample, sampled = keras.ops.cond(size > 0, updated, lambda: (self.sample.value, self.sampled.value))
        else:
            sample, sampled = updated()
        self.sample.assign(sample)
        self.sampled.assign(sampled)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "activation": keras.activations.serialize(self.activation),
            "num_knots": self.num_knots,
            "lower": self.lower,
            "upper": self.upper,
            "monotone": self.monotone,
            "sample_size": self.sample_size,
            "values_regularizer": keras.regularizers.serialize(self.values_regularizer),
        }


def _check_range(lower: float, upper: float, num_knots: int) -> tuple[float, float]:
    """Returns both as floats. Raises unless there are `num_knots` distinct float32 numbers from `lower` to `upper`."""
    for name, end in (("lower", lower), ("upper", upper)):
        if isinstance(end, bool) or not isinstance(end, Real):
            raise TypeError(f"`{name}` must be a number. Received: {name}={end!r} (of type {type(end).__name__})")
    lower, upper = float(lower), float(upper)
    knots = _evenly_spaced(lower, upper, num_knots)
    with np.errstate(over="ignore", invalid="ignore"):
        in_order = np.isfinite(knots[-1] - knots[0]) and np.all(knots[:-1] < knots[1:])
    if not in_order:
        raise ValueError(
            f"`lower` must be less than `upper`, by enough for {num_knots} finite knots in float32. "
            f"Received: lower={lower}, upper={upper}"
        )
    return lower, upper


def _evenly_spaced(lower: float, upper: float, num_knots: int) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.linspace(lower, upper, num_knots).astype("float32")
