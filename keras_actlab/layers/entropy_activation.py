"""An activation whose shape is a variable: a piecewise linear function."""

from collections.abc import Callable
from numbers import Real
from typing import Any

import keras
import numpy as np

from keras_actlab import constraints, ops
from keras_actlab.arguments import interpreted
from keras_actlab.layers.arguments import (
    Activation,
    Regularizer,
    Shape,
    activation_function,
    boolean,
    check_is_no_tensor,
    check_keywords,
)
from keras_actlab.layers.replacement import Replacement
from keras_actlab.ops.tensor import Tensor, concrete, integer

# Number of recent training calls that the sample represents.
CALLS_IN_SAMPLE = 16


@keras.saving.register_keras_serializable(package="keras_actlab")
class EntropyActivation(Replacement):
    """Piecewise linear activation, the same for all channels, to be trained or to be set as a whole.

    `y = values[k] + slope[k] * (x - knots[k])  for  knots[k] <= x < knots[k + 1]`

    where `slope[k]` leads from `values[k]` to `values[k + 1]`, and the first and the last piece go on outside of the
    knots. This is what entropy-based activation function optimization needs: room for any curve, whose shape may change
    in training without a new model or a new compilation.

    `values` start as those of `activation` at the `knots`. The 32 knots from -4 to 3.75 lie 0.25 apart and have one at
    0, where ReLU bends, so that by default the layer starts as exactly ReLU. The values are trained, unless the layer
    has `trainable=False`; the knots are not. `set_curve` sets both.

    With a `sample_size` the layer keeps values of its input, for a callback that fits the curve to them: in `sample`,
    latest first. Each training call, also of a layer that is not trainable, replaces a sixteenth of them by entries at
    scattered positions of the input, which take in all channels; masks are ignored. `sampled` tells how many values
    there have been, so that only the first `sampled` entries of `sample` are values of the input, and the others are
    zeros. At `2**30` it falls back to `2**29`. Nothing is drawn from a random generator. An empty batch changes
    nothing.

    Args:
        activation: The elementwise activation to start as: a name, a function, or None for the identity.
        num_knots: Number of knots, at least 2.
        lower: The first knot.
        upper: The last knot.
        monotone: Whether the values are kept non-decreasing, by `keras_actlab.constraints.NonDecreasing`, which they
            are from the start.
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
        ValueError: If there are fewer than two knots, `lower` and `upper` are not finite and in this order,
            `sample_size` is negative, or, on building, `activation` is not elementwise or not finite at the knots.
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
        check_is_no_tensor(self, "activation", activation)
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
        self.values_regularizer = interpreted(keras.regularizers.get, "values_regularizer", values_regularizer)

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
        return _even(self.lower, self.upper, self.num_knots)

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
        """Makes the layer the piecewise linear interpolation of `function`; what is compiled stays so.

        Args:
            function: Takes the knots, (num_knots,), float64, and returns the values at them, or (num_knots, channels),
                of which the mean over the channels is taken.
            lower: The first knot; None for where it is.
            upper: The last knot; None for where it is.

        Raises:
            ValueError: If the layer is not built, `lower` and `upper` are not finite and in this order, the values have
                another shape or are not finite, or one falls below the one before it in a monotone layer.
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
        knots = _even(lower, upper, self.num_knots)
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
            # Scattered over the input by a factor near 2**16 / golden ratio. As it is a prime, which divides no number
            # of channels, all channels have their turn, and all entries of a small input. No product exceeds an int32.
            picked = keras.ops.cast(keras.ops.take(entries, number % 2**15 * 40507 % size), "float32")
            sampled = self.sampled + count
            # Falls back by a multiple of 2**15, so that the positions go on as they would.
            sampled = keras.ops.where(sampled < 2**30, sampled, sampled - 2**29)
            return keras.ops.concatenate([picked, self.sample[: self.sample_size - count]]), sampled

        if None in inputs.shape:  # a replica of TensorFlow's may get an empty part of a batch (tensorflow#41657)
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
    """Returns both as floats; raises unless `num_knots` numbers can lie between them."""
    for name, end in (("lower", lower), ("upper", upper)):
        if isinstance(end, bool) or not isinstance(end, Real):
            raise TypeError(f"`{name}` must be a number. Received: {name}={end!r} (of type {type(end).__name__})")
    lower, upper = float(lower), float(upper)
    knots = _even(lower, upper, num_knots)
    with np.errstate(over="ignore", invalid="ignore"):
        in_order = np.isfinite(knots[-1] - knots[0]) and np.all(knots[:-1] < knots[1:])
    if not in_order:
        raise ValueError(
            f"`lower` must be less than `upper`, by enough for {num_knots} finite knots in float32. "
            f"Received: lower={lower}, upper={upper}"
        )
    return lower, upper


def _even(lower: float, upper: float, num_knots: int) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.linspace(lower, upper, num_knots).astype("float32")
