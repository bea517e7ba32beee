"""Trainable matrix activation functions."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_actlab import constraints, ops
from keras_actlab.arguments import resolve
from keras_actlab.layers.arguments import (
    Constraint,
    Initializer,
    Regularizer,
    Shape,
    boolean,
    channel_spec,
    channels_along,
    check_keywords,
    check_not_tensor,
    curve_values,
)
from keras_actlab.layers.replacement import Replacement
from keras_actlab.ops.matrix_activation import check_thresholds
from keras_actlab.ops.tensor import Tensor, integer


@keras.saving.register_keras_serializable(package="keras_actlab")
class TMAF(Replacement):
    """Trainable matrix activation function: `y = A(x) x`, with a banded matrix of piecewise constant entries.

    `y[i] = sum over |d| <= bandwidth of a[d, i + d](x[i + d]) * x[i + d]`, where the entry of column `j`, `d` places
    off the diagonal, is a step function of channel `j` (the paper does not specify this off the diagonal):

    `a[d, j](s) = levels[bandwidth + d, k, j]  for  thresholds[k - 1] < s <= thresholds[k]`

    - `levels` (the paper's t) are trained. They start as exactly ReLU: on the diagonal 0 left of 0 and 1 right of 0,
      and 0 off the diagonal.
    - `thresholds` (the paper's s) have the given values. They are fixed, as in the paper, or trained with
      `train_thresholds=True`.

    Training the thresholds is an extension of the paper. Their true gradient is 0 almost everywhere and is replaced by
    a
    surrogate: in the derivative with respect to a threshold `s`, the step there has the slope
    `max(0, 1 - |x - s| / w) / w`, where `w` is the mean distance between neighbouring initial thresholds, or 1 if there
    is only one. For `w -> 0` this is the derivative of the expected output. The thresholds are sorted after each step.

    Run time and compile time grow with the number of diagonals, 2 * bandwidth + 1: the full matrix suits tens of
    channels, not hundreds. Eight or more evenly spaced, fixed thresholds use a table lookup, whose run time does not
    depend on their number.

    Args:
        bandwidth: Number of off-diagonals on either side: 0 for the diagonal activation, 1 for the tri-diagonal one, at
            most channels - 1. "full" means channels - 1.
        thresholds: The m points, finite and strictly increasing, at which the entries change.
        axis: The channel axis.
        shared: Whether all channels share one set of levels.
        train_thresholds: Whether the thresholds are trained, with the surrogate gradient above.
        levels_initializer: "relu" or None for ReLU, which needs a threshold at 0, or an initializer for the shape
            (2 * bandwidth + 1, m + 1, channels), or (2 * bandwidth + 1, m + 1, 1) if the levels are shared.
        levels_regularizer: Regularizer of the levels.
        levels_constraint: Constraint of the levels.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of rank 2 or more.

    Input shape:
        Any with a fixed, known number of channels on `axis`.

    Output shape:
        Same as the input.

    Raises:
        ValueError: If the thresholds are not finite and strictly increasing, "relu" is given without a threshold at 0,
            the bandwidth is negative or not below the number of channels, or `axis` is not a non-batch axis of the
            input.
        TypeError: If an argument has the wrong type.

    Example:

    >>> layer = keras_actlab.layers.TMAF(bandwidth=1, thresholds=(-1.0, 0.0, 1.0))
    >>> keras.ops.convert_to_numpy(layer(np.array([[-2.0, 0.5, 3.0]])))
    array([[0. , 0.5, 3. ]], dtype=float32)
    >>> tuple(layer.levels.shape)
    (3, 4, 3)

    Reference:

    - [Liu et al., 2024](https://arxiv.org/abs/2109.09948), "Neural networks with trainable matrix activation
      functions".
    """

    is_activation = True

    def __init__(
        self,
        bandwidth: int | str = 1,
        thresholds: Sequence[float] = (-1.0, 0.0, 1.0),
        axis: int = -1,
        shared: bool = False,
        train_thresholds: bool = False,
        levels_initializer: Initializer = "relu",
        levels_regularizer: Regularizer = None,
        levels_constraint: Constraint = None,
        **kwargs: Any,
    ) -> None:
        check_not_tensor(self, "bandwidth", bandwidth)
        check_keywords(self, kwargs, {"levels": "`levels_initializer`", "threshold": "`thresholds`"})
        super().__init__(**kwargs)
        self.supports_masking = True
        if bandwidth != "full":
            if isinstance(bandwidth, str):
                raise ValueError(f'`bandwidth` must be an integer or "full". Received: bandwidth={bandwidth!r}')
            bandwidth = integer("bandwidth", bandwidth)
            if bandwidth < 0:
                raise ValueError(f"`bandwidth` must not be negative. Received: bandwidth={bandwidth}")
        self.bandwidth = bandwidth
        self.initial_thresholds = check_thresholds(thresholds)
        self.thresholds: Any = self.initial_thresholds  # `build` makes it a variable if it is trained
        self.axis = integer("axis", axis)
        self.shared = boolean("shared", shared)
        self.train_thresholds = boolean("train_thresholds", train_thresholds)
        if levels_initializer is None or (isinstance(levels_initializer, str) and levels_initializer == "relu"):
            if 0.0 not in self.initial_thresholds:
                raise ValueError(
                    "`levels_initializer='relu'` needs a threshold at 0, where ReLU has its kink. "
                    f"Received: thresholds={self.initial_thresholds}"
                )
            self.levels_initializer = "relu"
        else:
            self.levels_initializer = resolve(keras.initializers.get, "levels_initializer", levels_initializer)
        self.levels_regularizer = resolve(keras.regularizers.get, "levels_regularizer", levels_regularizer)
        self.levels_constraint = resolve(keras.constraints.get, "levels_constraint", levels_constraint)

    def build(self, input_shape: Shape) -> None:
        channels = channels_along(self.axis, input_shape)
        bandwidth = channels - 1 if self.bandwidth == "full" else int(self.bandwidth)
        if bandwidth >= channels:
            raise ValueError(
                "`bandwidth` must be less than the number of channels. "
                f"Received: bandwidth={bandwidth}, input_shape={tuple(input_shape)}, axis={self.axis}"
            )
        intervals = len(self.initial_thresholds) + 1
        self.levels = self.add_weight(
            name="levels",
            shape=(2 * bandwidth + 1, intervals, 1 if self.shared else channels),
            initializer=self._relu_levels if self.levels_initializer == "relu" else self.levels_initializer,
            regularizer=self.levels_regularizer,
            constraint=self.levels_constraint,
        )
        if self.train_thresholds:
            self.thresholds = self.add_weight(
                name="thresholds",
                shape=(intervals - 1,),
                initializer=lambda shape, dtype: keras.ops.convert_to_tensor(self.initial_thresholds, dtype),
                constraint=constraints.Increasing(),
                autocast=False,
            )
        self.input_spec = channel_spec(self.axis, input_shape)

    def _relu_levels(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        levels = np.zeros(shape)
        first_positive = self.initial_thresholds.index(0.0) + 1
        levels[shape[0] // 2, first_positive:] = 1.0
        return keras.ops.convert_to_tensor(levels, dtype)

    def call(self, inputs: Tensor) -> Tensor:
        inputs = keras.ops.cast(inputs, self.compute_dtype)
        width = self._mean_spacing() if self.train_thresholds else None
        return ops.matrix_activation(inputs, self.levels, self.thresholds, axis=self.axis, surrogate_width=width)

    def set_curve(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        """Fits the layer to `function` by least squares, on [-4, 4] and at least one unit beyond the outer thresholds.

        On the diagonal, the level of an interval becomes `sum(x * function(x)) / sum(x**2)` over evenly spaced points
        in it. Off the diagonal, levels become 0.

        Args:
            function: Takes points, (n,), float64. Returns its values there: (n,), or (n, channels) for one function per
                channel.

        Raises:
            ValueError: If the layer is not built, or the values have another shape or are not finite.
        """
        values = curve_values(self, function, points := self._points())
        levels = np.zeros(self.levels.shape)
        interval = np.searchsorted(keras.ops.convert_to_numpy(self.thresholds), points)
        for k in range(levels.shape[1]):
            x, y = points[interval == k, None], values[interval == k]
            fit = np.sum(x * y, axis=0) / np.maximum(np.sum(x**2, axis=0), 1e-12)
            levels[levels.shape[0] // 2, k] = np.mean(fit) if self.shared else fit
        self.levels.assign(levels)

    def breakpoints(self, read: Callable[[keras.Variable], np.ndarray]) -> np.ndarray:
        """Returns the thresholds, given what reads a variable."""
        return read(self.thresholds) if self.train_thresholds else np.asarray(self.initial_thresholds)

    def _points(self) -> np.ndarray:
        """Returns evenly spaced points, at least a hundred in each interval."""
        thresholds = keras.ops.convert_to_numpy(self.thresholds).astype("float64")
        ends = np.concatenate([[min(-4.0, thresholds[0] - 1)], thresholds, [max(4.0, thresholds[-1] + 1)]])
        return np.concatenate(
            [np.linspace(low, high, 100 + int(50 * (high - low)))[1:] for low, high in itertools.pairwise(ends)]
        )

    def _mean_spacing(self) -> float:
        spacings = np.diff(self.initial_thresholds)
        return float(np.mean(spacings)) if spacings.size else 1.0

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        levels_initializer = self.levels_initializer
        if levels_initializer != "relu":
            levels_initializer = keras.initializers.serialize(levels_initializer)
        return super().get_config() | {
            "bandwidth": self.bandwidth,
            "thresholds": self.initial_thresholds,
            "axis": self.axis,
            "shared": self.shared,
            "train_thresholds": self.train_thresholds,
            "levels_initializer": levels_initializer,
            "levels_regularizer": keras.regularizers.serialize(self.levels_regularizer),
            "levels_constraint": keras.constraints.serialize(self.levels_constraint),
        }
