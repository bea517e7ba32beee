"""Which piece of a piecewise linear network each point is in, at any depth, and how that changes in training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_actlab import layers
from keras_actlab._private.keras_graph import calls, children, consumers, is_functional, is_output
from keras_actlab.arguments import numbers
from keras_actlab.cab.affine import breakpoints, is_affine
from keras_actlab.cab.watching import Watcher
from keras_actlab.layers.activations import is_activation
from keras_actlab.layers.gmp import GmP
from keras_actlab.layers.gmp_conv import convolve
from keras_actlab.ops.tensor import Tensor, along_axis, floating

# Functions of `keras.ops` that may stand in a model's graph, by the names of their classes there.
AFFINE_OPERATIONS = (
    *("Add", "Concatenate", "ExpandDims", "GetItem", "Mean", "Negative", "Reshape", "Squeeze", "Stack", "Subtract"),
    *("Sum", "Transpose"),
)


def preactivations(model: keras.Model, x: Any) -> dict[str, np.ndarray]:
    """Returns what goes into the piecewise linear activations of a model, at inference.

    An activation counts if it bends or jumps somewhere: ReLU, ReLU6, leaky ReLU, PReLU, `TMAF` and the like. It may be
    a layer of its own, or built into `Dense`, `Conv1D`, `Conv2D`, `Conv3D`, their geometric forms, or one of the plain
    ones in `WeightNormalization`. A layer that puts out what the model does may have any activation; if that is not
    piecewise linear, softmax say, it is left out. What is no activation and not affine either, such as max pooling or
    layer normalization, is not seen.

    Args:
        model: A Functional or Sequential model with one input, without layers in layers, that calls each layer with
            such an activation once.
        x: Inputs, with the batch axis first.

    Returns:
        Arrays of shape `(points, units)` under the names of the layers that hold the activations, in the order of
        computation. Units are all entries of what goes into an activation, flattened: for a convolution, one for each
        position and filter.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model is of another kind, an activation is not known to be piecewise linear, or `x` does not
            fit.

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
    """Returns, for every point and unit, the index of the interval between breakpoints that the unit is in.

    For ReLU that is 0 where the unit is off and 1 where it is on. Intervals are open on the left and closed on the
    right, as those of `TMAF`. If nothing but activations bends in the model, all points of the input space with one
    pattern form a convex set, on which each pre-activation is an affine function of the input (and so is the output,
    but for its own activation, and for points just on a boundary where an activation jumps). The model may be affine
    on a larger set than that: units may bend where the layers after them do not look.

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
    """Returns how many activation regions a set of points is in: the number of different patterns.

    Args:
        model: As in `preactivations`.
        x: Inputs, with the batch axis first.

    Returns:
        A number between 1 and that of the points.

    Raises:
        TypeError: As in `preactivations`.
        ValueError: As in `preactivations`.

    Example: a single unit makes two regions.

    >>> from keras_actlab import cab
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, activation="relu"), keras.layers.Dense(1)])
    >>> cab.count_regions(model, [[-2.0], [-1.0], [1.0], [2.0]])
    2

    Reference:

    - [Hanin and Rolnick, 2019](https://arxiv.org/abs/1906.00904), "Deep ReLU Networks Have Surprisingly Few Activation
      Patterns".
    """
    return _different(activation_patterns(model, x))


class RegionTracker(Watcher):
    """Follows in training how many activation regions a set of points is in, and how many points and units change.

    Looks before the first training step, then after every `every` steps, and at the end, at inference. Only the
    patterns of the last look are kept. Later calls of `fit` go on where the last one ended; on another model, they
    start anew.

    Args:
        x: Inputs, with the batch axis first.
        every: Number of training steps from one look to the next. With `steps_per_execution`, looks are at the ends of
            executions.

    Raises:
        TypeError: If `every` is not an integer.
        ValueError: If `every` is not positive; when training begins, if no activation of the model has a breakpoint, or
            as in `preactivations`.

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

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), appendix E, which leaves the assignment of data to regions
      to later work.
    """

    def __init__(self, x: Any, every: int = 1):
        super().__init__(every)
        numbers("x", x)
        self.x = x
        self._looks: list[tuple[int, int, float, float]] = []
        self._network: Network  # from the beginning of training on
        self._points: np.ndarray
        self._patterns: np.ndarray  # of the last look

    @property
    def steps(self) -> np.ndarray:
        """Number of training steps before each look."""
        return np.array([look[0] for look in self._looks], int)

    @property
    def regions(self) -> np.ndarray:
        """Number of regions that the points were in at each look."""
        return np.array([look[1] for look in self._looks], int)

    @property
    def points_changed(self) -> np.ndarray:
        """Fraction of the points whose pattern was another one at the look before; 0 at the first."""
        return np.array([look[2] for look in self._looks], float)

    @property
    def units_changed(self) -> np.ndarray:
        """Fraction of the units, over all points, that were in another interval at the look before; 0 at the first."""
        return np.array([look[3] for look in self._looks], float)

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        network = Network(self.model)
        points = network.checked_points(self.x)
        if not any(probe.bends for probe in network.probes):
            raise ValueError(f"The model must have an activation that bends. Received: {_describe(self.model)}")
        if self._looks and self._network.model is not self.model:
            self._looks = []
        self._network, self._points = network, points

    def begin(self, step: int) -> int:
        if self._looks:
            step = max(step, self._looks[-1][0])  # the optimizer may be a new one, or have skipped steps
            if np.array_equal(self._patterns, self._network.patterns(self._points)):
                return step  # the last `fit` ended with a look
        self.step = step
        self.look()
        return step

    def look(self) -> None:
        patterns = self._network.patterns(self._points)
        changed = patterns != (self._patterns if self._looks else patterns)
        self._looks.append((self.step, _different(patterns), float(changed.any(axis=1).mean()), float(changed.mean())))
        self._patterns = patterns


@dataclass(frozen=True)
class Probe:
    """What is read in a model: the input of an activation, or an output.

    Attributes:
        name: Name of the layer that holds the activation, or of the output.
        layer: That layer, if it is affine and what goes into its activation has to be computed from its input.
        activation: The activation; None for an output, or where it is smooth.
    """

    name: str
    layer: keras.layers.Layer | None
    activation: Any

    @property
    def bends(self) -> tuple[float, ...]:
        """Where the activation bends now; thresholds may be trained."""
        return breakpoints(self.activation) or ()


class Network:
    """Reads pre-activations and outputs of a Functional or Sequential model.

    Args:
        model: As in `preactivations`.

    Attributes:
        probes: What is read, in the order of computation. All that has breakpoints, and the outputs: before the
            activation, where that is smooth.
    """

    def __init__(self, model: keras.Model):
        if not isinstance(model, keras.Model):
            raise TypeError(f"`model` must be a Keras model. Received: model={model!r}")
        if not is_functional(model) or not model.built or len(model.inputs) != 1:
            raise ValueError(
                "`model` must be a Functional model or a built Sequential model, with one input. "
                f"Received: {_describe(model)}"
            )
        for operation in (*model.layers, *getattr(model, "operations", ())):
            bending = not isinstance(operation, keras.Layer) and type(operation).__name__ not in AFFINE_OPERATIONS
            if bending or isinstance(operation, keras.layers.Lambda):
                raise ValueError(
                    "`model` must have its activations in layers, and no operations beside them but affine ones "
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
            if bends is None:  # an output's own activation, before which the output is read
                outputs = [output for output in outputs if output is not node.output_tensors[0]]
                activation = None
            self.probes.append(Probe(layer.name, layer if _computes_preactivation(layer) else None, activation))
        self.probes += [Probe(output.name, None, None) for output in outputs]
        self._inner = keras.Model(model.inputs[0], [*tensors, *outputs])

    def checked_points(self, x: Any) -> np.ndarray:
        """Returns `x` as an array; raises unless it holds inputs of the model."""
        numbers("x", x)
        points = np.asarray(keras.ops.convert_to_numpy(x))
        self.check_shape("x", points.shape[1:])
        if not len(points):
            raise ValueError(f"`x` must hold at least one point. Received: x.shape={points.shape}")
        return points

    def check_shape(self, name: str, shape: Sequence[int]) -> None:
        """Raises unless `shape` is that of one input of the model."""
        expected = tuple(self.model.inputs[0].shape[1:])
        if len(shape) != len(expected) or any(e not in (None, s) for e, s in zip(expected, shape, strict=True)):
            raise ValueError(
                f"`{name}` must have the shape of the model's input, {expected}. Received: {name} of {tuple(shape)}"
            )

    def __call__(self, points: np.ndarray) -> list[np.ndarray]:
        """Returns what the probes read, each of shape (points, units), float32 or wider."""
        found = self._inner(points, training=False)
        found = found if isinstance(found, list) else [found]  # Keras unpacks a list of one
        values = []
        for probe, value in zip(self.probes, found, strict=True):
            value = value if probe.layer is None else _preactivation(probe.layer, value)
            value = keras.ops.convert_to_numpy(floating(value, at_least="float32"))
            values.append(value.reshape(len(points), -1))
        return values

    def patterns(self, points: np.ndarray) -> np.ndarray:
        """Returns what `activation_patterns` does."""
        columns = [np.zeros((len(points), 0), "int32")]  # there may be no other
        for probe, value in zip(self.probes, self(points), strict=True):
            if probe.bends:
                # Breakpoints in the precision of the values, as the activation itself compares them.
                intervals = np.searchsorted(np.asarray(probe.bends, value.dtype), value, side="left")
                columns.append(intervals.astype("int32"))
        return np.concatenate(columns, axis=1)


def _activation_of(layer: keras.layers.Layer) -> Any:
    """Returns the activation that a layer is, or that it ends with; None if there is none."""
    if is_activation(layer):
        return layer
    return getattr(layer.layer if isinstance(layer, layers.WeightNormalization) else layer, "activation", None)


def _check_layer(
    layer: keras.layers.Layer, model: keras.Model, activation: Any, bends: tuple[float, ...] | None
) -> None:
    """Raises unless it is known where the layer bends, and what goes into its activation."""
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
    """Returns what goes into the activation of an affine layer, as the layer computes it at inference."""
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
        outputs = convolve(plain, inputs, kernel)  # Keras' own `convolution_op` knows no causal padding
    if not plain.use_bias:
        return outputs
    return outputs + along_axis(keras.ops.cast(plain.bias, plain.compute_dtype), unit_axis, len(outputs.shape))


def _different(patterns: np.ndarray) -> int:
    return len({pattern.tobytes() for pattern in patterns})


def _describe(layer: keras.layers.Layer) -> str:
    return f"{layer.name!r} ({type(layer).__name__})"
