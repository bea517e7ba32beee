"""Activation regions of piecewise linear networks, and how points change regions during training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_actlab import layers
from keras_actlab._private.keras_graph import calls, children, consumers, is_functional, is_output
from keras_actlab.arguments import check_model, numbers
from keras_actlab.cab._base_tracker import BaseTracker
from keras_actlab.cab.affine import breakpoints, is_affine
from keras_actlab.layers.activations import is_activation
from keras_actlab.layers.gmp import GmP
from keras_actlab.layers.gmp_conv import convolve
from keras_actlab.ops.tensor import Tensor, along_axis, floating

# Operations of `keras.ops` that are allowed in the graph of a model, by class name.
AFFINE_OPERATIONS = (
    *("Add", "Concatenate", "ExpandDims", "GetItem", "Mean", "Negative", "Reshape", "Squeeze", "Stack", "Subtract"),
    *("Sum", "Transpose"),
)


def preactivations(model: keras.Model, x: Any) -> dict[str, np.ndarray]:
    """Returns the inputs of the piecewise linear activations of a model, at inference.

    Activations with at least one breakpoint are included: ReLU, ReLU6, leaky ReLU, PReLU, `TMAF` and others. The
    activation may be a layer, or an argument of `Dense`, `Conv1D`, `Conv2D`, `Conv3D`, their geometric counterparts, or
    a plain one in `WeightNormalization`. The output layer may have any activation; it is skipped if it is not piecewise
    linear, such as softmax. Other nonlinear layers, such as max pooling or layer normalization, are ignored.

    Args:
        model: A Functional or Sequential model with one input and without nested layers, which calls each layer with
            such an activation once.
        x: Inputs, with the batch axis first.

    Returns:
        Arrays of shape `(points, units)` by the names of the layers with the activations, in the order of computation.
        The units are all entries of the input of an activation, flattened: for a convolution, one per position and
        filter.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model is of another kind, an activation is not known to be piecewise linear, or `x` does not
            have the shape of the model's input.

    Example:

    >>> from keras_actlab import cab
    >>> hidden = keras.layers.Dense(1, activation="relu", kernel_initializer="ones", name="hidden")
    >>> model = keras.Sequential([keras.Input((2,)), hidden, keras.layers.Dense(3, activation="softmax")])
    >>> cab.preactivations(model, [[1.0, 2.0], [-4.0, 1.0]])
    {'hidden': array([[ 3.], [-3.]], dtype=float32)}
    """
    network = Network(model)
    values = network(network.checked_points(x))
    return {probe.name: value for probe, value in zip(network.probes, values, strict=True) if probe.bends}


def activation_patterns(model: keras.Model, x: Any) -> np.ndarray:
    """Returns, for every point and unit, the index of the interval between breakpoints that contains the
    pre-activation.

    For ReLU the index is 0 where the unit is off and 1 where it is on. Intervals are open on the left and closed on the
    right, as in `TMAF`. If activations are the only nonlinear layers of the model, all points with the same pattern
    form a convex set, on which each pre-activation is an affine function of the input. The output before its own
    activation is affine there too, except at boundaries where an activation jumps. The set on which the model is affine
    may be larger, because later layers may ignore a unit.

    Args:
        model: As in `preactivations`.
        x: Inputs, with the batch axis first.

    Returns:
        Int32 array of shape `(points, units)`, with the units of all layers of `preactivations`.

    Raises:
        TypeError: As in `preactivations`.
        ValueError: As in `preactivations`.

    Example:

    >>> from keras_actlab import cab
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.ReLU(max_value=6.0)])
    >>> cab.activation_patterns(model, [[-1.0, 3.0, 8.0]])
    array([[0, 1, 2]], dtype=int32)

    Reference:

    - [Raghu et al., 2017](https://arxiv.org/abs/1606.05336), "On the Expressive Power of Deep Neural Networks".
    """
    network = Network(model)
    return network.patterns(network.checked_points(x))


def count_regions(model: keras.Model, x: Any) -> int:
    """Returns the number of activation regions that contain at least one of the points: the number of patterns.

    Args:
        model: As in `preactivations`.
        x: Inputs, with the batch axis first.

    Returns:
        An integer from 1 to the number of points.

    Raises:
        TypeError: As in `preactivations`.
        ValueError: As in `preactivations`.

    Example: a single unit has two regions.

    >>> from keras_actlab import cab
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, activation="relu"), keras.layers.Dense(1)])
    >>> cab.count_regions(model, [[-2.0], [-1.0], [1.0], [2.0]])
    2

    Reference:

    - [Hanin and Rolnick, 2019](https://arxiv.org/abs/1906.00904), "Deep ReLU Networks Have Surprisingly Few Activation
      Patterns".
    """
    return _count_different(activation_patterns(model, x))


class RegionTracker(BaseTracker):
    """Records the number of activation regions of a set of points during training, and how many points change region.

    The callback makes a record before the first training step, then every `every` steps, and at the end, in inference
    mode. Which units are active at each point (the pattern) is kept for the last record only. A later `fit` of the same
    model continues the records; a `fit` of another model starts new ones.

    Args:
        x: Inputs, with the batch axis first.
        every: Number of training steps between records. With `steps_per_execution`, a record is made at the end of an
            execution.

    Raises:
        TypeError: If `every` is not an integer.
        ValueError: If `every` is not positive. At the start of training, if no activation of the model has a
            breakpoint, or as in `preactivations`.

    Example:

    >>> from keras_actlab import cab
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(5, activation="relu"), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(size=(8, 2))
    >>> tracker = cab.RegionTracker(x)
    >>> _ = model.fit(x, np.ones(8), batch_size=4, epochs=2, verbose=0, callbacks=[tracker])
    >>> tracker.steps
    array([0, 1, 2, 3, 4])
    >>> tracker.regions.shape
    (5,)

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), appendix E, which proposes the assignment of data to
      regions as future work.
    """

    def __init__(self, x: Any, every: int = 1):
        super().__init__(every)
        numbers("x", x)
        self.x = x
        self._records: list[tuple[int, int, float, float]] = []
        self._network: Network  # set at the start of training
        self._points: np.ndarray
        self._patterns: np.ndarray  # of the last record

    @property
    def steps(self) -> np.ndarray:
        """Number of training steps before each record."""
        return np.array([record[0] for record in self._records], int)

    @property
    def regions(self) -> np.ndarray:
        """Number of regions that contain points, at each record."""
        return np.array([record[1] for record in self._records], int)

    @property
    def points_changed(self) -> np.ndarray:
        """Fraction of the points whose pattern changed since the previous record; 0 at the first record."""
        return np.array([record[2] for record in self._records], float)

    @property
    def units_changed(self) -> np.ndarray:
        """Fraction of the units, over all points, whose interval changed since the previous record; 0 at the first."""
        return np.array([record[3] for record in self._records], float)

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        network = Network(self.model)
        points = network.checked_points(self.x)
        if not any(probe.bends for probe in network.probes):
            raise ValueError(f"The model must have an activation that bends. Received: {_describe(self.model)}")
        if self._records and self._network.model is not self.model:
            self._records = []
        self._network, self._points = network, points

    def begin(self, step: int) -> int:
        if self._records:
            step = max(step, self._records[-1][0])  # the optimizer may be new or may have skipped steps
            if np.array_equal(self._patterns, self._network.patterns(self._points)):
                return step  # the last `fit` ended with a record
        self.step = step
        self.run()
        return step

    def run(self) -> None:
        patterns = self._network.patterns(self._points)
        changed = patterns != (self._patterns if self._records else patterns)
        self._records.append(
            (self.step, _count_different(patterns), float(changed.any(axis=1).mean()), float(changed.mean()))
        )
        self._patterns = patterns


@dataclass(frozen=True)
class Probe:
    """A tensor that is read in a model: the input of an activation, or an output.

    Attributes:
        name: Name of the layer with the activation, or of the output.
        layer: The layer, if it is affine, so that the pre-activation has to be computed from its input; otherwise None.
        activation: The activation; None for an output or a smooth activation.
    """

    name: str
    layer: keras.layers.Layer | None
    activation: Any

    @property
    def bends(self) -> tuple[float, ...]:
        """The current breakpoints of the activation; they may be trained."""
        return breakpoints(self.activation) or ()


class Network:
    """Reads pre-activations and outputs of a Functional or Sequential model.

    Args:
        model: As in `preactivations`.

    Attributes:
        probes: The tensors that are read, in the order of computation: inputs of activations with breakpoints, and
            outputs. An output with a smooth activation is read before the activation.
    """

    def __init__(self, model: keras.Model):
        check_model("model", model)
        if not is_functional(model) or not model.built or len(model.inputs) != 1:
            raise ValueError(
                "`model` must be a Functional model or a built Sequential model, with one input. "
                f"Received: {_describe(model)}"
            )
        for operation in (*model.layers, *getattr(model, "operations", ())):
            bending = not isinstance(operation, keras.Layer) and type(operation).__name__ not in AFFINE_OPERATIONS
            if bending or isinstance(operation, keras.layers.Lambda):
                raise ValueError(
                    "`model` must have its activations in layers, and no other operations than affine ones "
                    f"({', '.join(AFFINE_OPERATIONS)}). Received: {operation.name!r} ({type(operation).__name__})"
                )
        self.model = model
        self.probes: list[Probe] = []
        tensors: list[keras.KerasTensor] = []
        outputs = list(model.outputs)
        for layer in model.layers:
            activation = _activation_of(layer)
            bends = breakpoints(activation)
            _check_layer(layer, model, activation, bends)
            if bends == ():
                continue
            (node,) = calls(layer, model)
            tensors.append(node.input_tensors[0])
            if bends is None:  # a smooth activation of an output
                outputs = [output for output in outputs if output is not node.output_tensors[0]]
                activation = None
            self.probes.append(Probe(layer.name, layer if _computes_preactivation(layer) else None, activation))
        self.probes += [Probe(output.name, None, None) for output in outputs]
        self._inner = keras.Model(model.inputs[0], [*tensors, *outputs])

    def checked_points(self, x: Any) -> np.ndarray:
        """Returns `x` as an array. Raises unless it holds inputs of the model."""
        numbers("x", x)
        points = np.asarray(keras.ops.convert_to_numpy(x))
        self.check_shape("x", points.shape[1:])
        if not len(points):
            raise ValueError(f"`x` must hold at least one point. Received: x.shape={points.shape}")
        return points

    def check_shape(self, name: str, shape: Sequence[int]) -> None:
        """Raises unless `shape` is the shape of one example of the model's input."""
        expected = tuple(self.model.inputs[0].shape[1:])
        if len(shape) != len(expected) or any(e not in (None, s) for e, s in zip(expected, shape, strict=True)):
            raise ValueError(
                f"`{name}` must have the shape of the model's input, {expected}. Received: {name} of {tuple(shape)}"
            )

    def __call__(self, points: np.ndarray) -> list[np.ndarray]:
        """Returns the values of the probes, each of shape (points, units), float32 or wider."""
        found = self._inner(points, training=False)
        found = found if isinstance(found, list) else [found]  # Keras unpacks a list of one
        values = []
        for probe, value in zip(self.probes, found, strict=True):
            value = value if probe.layer is None else _preactivation(probe.layer, value)
            value = keras.ops.convert_to_numpy(floating(value, at_least="float32"))
            values.append(value.reshape(len(points), -1))
        return values

    def patterns(self, points: np.ndarray) -> np.ndarray:
        """Returns the patterns; see `activation_patterns`."""
        columns = [np.zeros((len(points), 0), "int32")]  # for a model without breakpoints
        for probe, value in zip(self.probes, self(points), strict=True):
            if probe.bends:
                # The activation compares in the precision of the values, so the breakpoints are rounded to it.
                intervals = np.searchsorted(np.asarray(probe.bends, value.dtype), value, side="left")
                columns.append(intervals.astype("int32"))
        return np.concatenate(columns, axis=1)


def _activation_of(layer: keras.layers.Layer) -> Any:
    """Returns a layer if it is an activation, otherwise its activation; None if it has none."""
    if is_activation(layer):
        return layer
    return getattr(layer.layer if isinstance(layer, layers.WeightNormalization) else layer, "activation", None)


def _check_layer(
    layer: keras.layers.Layer, model: keras.Model, activation: Any, bends: tuple[float, ...] | None
) -> None:
    """Raises unless the breakpoints and the pre-activations of the layer can be computed."""
    held = [child for child in children(layer) if not is_activation(child)]
    if held and not isinstance(layer, layers.WeightNormalization):
        raise ValueError(f"`model` must have no layers in layers. Received: {_describe(layer)}, which has {held}")
    if bends == ():
        return
    if bends is None and (not is_output(layer, model) or consumers(layer, model)):
        raise ValueError(
            "`model` must have no activations but piecewise linear ones before its output. "
            f"Received: {_describe(layer)}, activation={activation}"
        )
    if not (bends is None or _computes_preactivation(layer) or is_activation(layer)):
        raise ValueError(
            "`model` must have its activations in layers of their own, or in Dense, Conv1D, Conv2D or Conv3D, plain "
            "(neither quantized nor with LoRA), geometric or weight-normalized. "
            f"Received: {_describe(layer)}, activation={activation}"
        )
    times = len(calls(layer, model))
    if times > 1:
        raise ValueError(
            f"`model` must call each layer with an activation once. Received: {_describe(layer)}, called {times} times"
        )


def _computes_preactivation(layer: keras.layers.Layer) -> bool:
    return is_affine(layer) or isinstance(layer, GmP)


def _preactivation(layer: keras.layers.Layer, inputs: Tensor) -> Tensor:
    """Returns the pre-activation of an affine layer at inference."""
    if isinstance(layer, GmP):
        return layer.preactivation(inputs)
    if isinstance(layer, layers.WeightNormalization):
        plain, kernel = layer.layer, layer.normalized_kernels()["kernel"]
    else:
        plain, kernel = layer, layer.kernel
    inputs, kernel = (keras.ops.cast(tensor, plain.compute_dtype) for tensor in (inputs, kernel))
    if isinstance(plain, keras.layers.Dense):
        unit_axis, outputs = -1, keras.ops.matmul(inputs, kernel)
    else:
        unit_axis = -1 if plain.data_format == "channels_last" else 1
        outputs = convolve(plain, inputs, kernel)  # Keras' `convolution_op` does not support causal padding
    if not plain.use_bias:
        return outputs
    return outputs + along_axis(keras.ops.cast(plain.bias, plain.compute_dtype), unit_axis, len(outputs.shape))


def _count_different(patterns: np.ndarray) -> int:
    return len({pattern.tobytes() for pattern in patterns})


def _describe(layer: keras.layers.Layer) -> str:
    return f"{layer.name!r} ({type(layer).__name__})"
