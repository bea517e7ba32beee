"""A callback that counts dead and saturated units during training."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_actlab.arguments import check_number, check_type
from keras_actlab.cab._base_tracker import BaseTracker
from keras_actlab.layers.observed import labels, observable, observed, select
from keras_actlab.ops.tensor import Tensor, concrete

# Distance of the two points whose outputs give the slope, relative to the pre-activation: small enough for a sigmoid,
# and so large that rounding in float32 changes a slope by about 1e-5.
DISTANCE = 0.01


class DeadUnitTracker(BaseTracker):
    """Records which share of the units of each layer is dead or saturated.

    The model is called on a fixed batch before the first training step, then every `every` steps, and at the end. A
    unit, a channel of the output of an activation, has learned into a corner if the activation's slope is at most
    `tolerance` at each of its pre-activations in the batch: no gradient passes it. Such a unit is

    - dead if its outputs are 0 within `tolerance`, such as a ReLU whose pre-activations are all negative;
    - saturated otherwise, such as a tanh near 1 or -1, or a ReLU6 at 6.

    Slopes are central differences of the activation in float32. For `TMAF` with neighbouring channels, all channels are
    moved together.

    Args:
        data: Inputs of the model, with the batch axis first: an array, or a list or dict of arrays. A few hundred
            examples suffice; with fewer, more units seem dead.
        layers: List of layers, of their names or of their paths, which apply an elementwise activation or are one.
            None selects all of them at any depth, except softmax, linear and recurrent ones.
        every: Number of training steps between records. With `steps_per_execution`, a record is taken at the end of an
            execution.
        tolerance: Largest slope and output that count as 0.

    Attributes:
        steps: Array of the training steps at which records were taken.
        dead: Array of the share of dead units at these steps, by the name of the layer; by its path if several have it.
        saturated: The same of saturated units.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `every` or `tolerance` is not positive, or `data` has no examples. At the start of training, if
            an entry of `layers` selects no layer with an activation, or the model has none.

    Example:

    >>> from keras_actlab import cab
    >>> hidden = keras.layers.Dense(4, activation="relu", name="hidden")
    >>> model = keras.Sequential([keras.Input((2,)), hidden, keras.layers.Dense(1)])
    >>> _ = hidden.bias.assign([-9.0, 0.0, 0.0, 0.0])
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(size=(64, 2))
    >>> tracker = cab.DeadUnitTracker(x, every=10)
    >>> _ = model.fit(x, x[:, 0], epochs=2, verbose=0, callbacks=[tracker])
    >>> tracker.steps, float(tracker.dead["hidden"][0])
    (array([0, 4]), 0.25)
    """

    def __init__(
        self,
        data: Any,
        layers: Sequence[keras.layers.Layer | str] | None = None,
        every: int = 100,
        tolerance: float = 1e-3,
    ):
        super().__init__(every)
        check_number("tolerance", tolerance, positive=True)
        if layers is not None:
            check_type("layers", layers, (list, tuple), "a list of layers or their names, or None")
            for layer in layers:
                check_type("layers", layer, (keras.layers.Layer, str), "a list of layers or their names, or None")
        self.data = keras.tree.map_structure(np.asarray, data)
        if not all(array.ndim and len(array) for array in keras.tree.flatten(self.data)):
            raise ValueError(f"`data` must be arrays of at least one example. Received: data={data!r:.500}")
        self.layers = layers
        self.tolerance = tolerance
        self._labels: dict[keras.layers.Layer, str] = {}
        self._records: list[tuple[int, dict[str, tuple[float, float]]]] = []

    @property
    def steps(self) -> np.ndarray:
        return np.array([step for step, _ in self._records], int)

    @property
    def dead(self) -> dict[str, np.ndarray]:
        return self._shares(0)

    @property
    def saturated(self) -> dict[str, np.ndarray]:
        return self._shares(1)

    def _shares(self, index: int) -> dict[str, np.ndarray]:
        names = self._records[0][1] if self._records else ()
        return {name: np.array([shares[name][index] for _, shares in self._records]) for name in names}

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        there = list(observable(self.model))
        selected = there
        if self.layers is not None:
            selected = select(self.layers, there, "layers with an elementwise activation")
        if not selected:
            raise ValueError(f"The model must have an elementwise activation. Received: {self.model.name!r}")
        self._labels = labels(selected)

    def begin(self, step: int) -> int:
        if self._records:
            step = max(step, self._records[-1][0])  # the optimizer may be new or may have skipped steps
            if step == self._records[-1][0]:
                return step  # the last `fit` ended with a record
        self.step = step
        self.run()
        return step

    def run(self) -> None:
        idle: dict[str, list[np.ndarray]] = {}
        silent: dict[str, list[np.ndarray]] = {}

        def record(layer: keras.layers.Layer, activation: Callable[..., Any], inputs: Tensor, outputs: Tensor) -> None:
            if within or layer not in self._labels:
                return  # a call for the slope, or another layer
            within.append(layer)
            slopes = self._slopes(activation, inputs)
            within.pop()
            label = self._labels[layer]
            for values, found in ((slopes, idle), (outputs, silent)):
                found.setdefault(label, []).append(_largest_of_units(values, layer) <= self.tolerance)

        within: list[keras.layers.Layer] = []
        with observed(self.model, record):
            self.model(keras.tree.map_structure(keras.ops.convert_to_tensor, self.data), training=False)
        shares = {}
        for label in idle:
            # A layer that is called several times is idle if it is in each call.
            no_slope, no_output = np.all(idle[label], axis=0), np.all(silent[label], axis=0)
            shares[label] = float(np.mean(no_slope & no_output)), float(np.mean(no_slope & ~no_output))
        self._records.append((self.step, shares))

    @staticmethod
    def _slopes(activation: Callable[..., Any], inputs: Tensor) -> Tensor:
        distance = DISTANCE * keras.ops.maximum(1.0, keras.ops.abs(inputs))
        upper, lower = inputs + distance, inputs - distance
        return (activation(upper) - activation(lower)) / (upper - lower)


def _largest_of_units(values: Tensor, layer: keras.layers.Layer) -> np.ndarray:
    """Returns the largest absolute value of each channel."""
    array = concrete(keras.ops.cast(values, "float32"))
    if array is None:
        raise ValueError(f"The model must run without being traced. Received: {layer.path!r}, which is compiled")
    is_first = getattr(layer, "data_format", None) == "channels_first"
    axis = getattr(layer, "axis", None)
    axis = 1 if is_first else axis if isinstance(axis, int) else -1
    return np.abs(np.moveaxis(array, axis, -1)).reshape(-1, array.shape[axis]).max(axis=0)
