"""Entropies within a network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import pandas as pd
from scipy import special, stats

from keras_actlab.arguments import received
from keras_actlab.eafo.densities import FEWEST_SAMPLES, finite_samples, split_atoms
from keras_actlab.eafo.functions import name_of
from keras_actlab.layers.activations import is_activation
from keras_actlab.ops.tensor import concrete

BATCH = 128
# Values that are kept of each activation's inputs, and of its outputs.
MOST_VALUES = 20_000
NO_HIDDEN_ACTIVATIONS = (
    keras.activations.linear,
    keras.activations.log_softmax,
    keras.activations.softmax,
    keras.activations.sparsemax,
)


def layer_entropies(model: keras.Model, data: Any) -> pd.DataFrame:
    """Returns the entropy before and after every activation of a model, at inference.

    Activations are found at any depth: layers that are one, such as `ReLU`, `CRReLU` or `EntropyActivation`, and those
    that a layer applies itself, as in `Dense(8, activation="gelu")`, but for linear ones, softmax, and those within
    recurrent layers. Each has one entropy for all units; a layer that is called several times, for all calls. Padding
    counts like any other input.

    Entropies are those of up to 20,000 values, taken at random by a fixed seed. Values that at least 0.5 % of them
    share are point masses, such as the zeros of ReLU; the entropy of the others is estimated by the spacing between
    them (`scipy.stats.differential_entropy`), to about 0.02 nats, or 0.06 where their density has narrow peaks or heavy
    tails. See `entropy` and `standardized_entropy` for what they mean.

    Args:
        model: A built model of any kind.
        data: Inputs, with the batch axis first: an array, or a list or dict of arrays.

    Returns:
        A DataFrame with a row for each activation, in the order of the first calls, and the columns "layer" (the path
        of the layer that holds it), "activation", "entropy before", "entropy after", "standardized before",
        "standardized after", all in nats, and "point masses", the share of outputs that are.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built or has no activation, computes in half precision, `data` are empty or of unequal
            lengths, or an activation has fewer than 16 values, or NaN or infinity; the message names its layer.

    Example:

    >>> from keras_actlab import eafo
    >>> hidden = keras.layers.Dense(50, activation="relu", kernel_initializer="ones", name="hidden")
    >>> model = keras.Sequential([keras.Input((1,)), hidden, keras.layers.Dense(1)])
    >>> table = eafo.layer_entropies(model, np.random.default_rng(0).normal(size=(1000, 1)))
    >>> table[["activation", "entropy before", "point masses"]].round(1)
      activation  entropy before  point masses
    0       relu             1.3           0.5
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a Keras model. Received: model={model!r}")
    if not model.built:
        raise ValueError(f"`model` must be built. Received: {model.name!r}, which is not")
    data = keras.tree.map_structure(np.asarray, data)
    lengths = {len(array) if array.ndim else 0 for array in keras.tree.flatten(data)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            "`data` must be an array, or a list or dict of arrays, with the same number of examples, at least one. "
            f"{received('data', data)}: arrays of lengths {sorted(lengths)}"
        )
    (examples,) = lengths
    starts = range(0, examples, BATCH)
    with _recording(model, MOST_VALUES // len(starts) + 1) as records:
        for start in starts:
            batch = keras.tree.map_structure(lambda array, start=start: array[start : start + BATCH], data)
            model(keras.tree.map_structure(keras.ops.convert_to_tensor, batch), training=False)
    if not records:
        raise ValueError(f"`model` must have an activation. Received: {model.name!r}, which has none")
    rows = []
    for record in records.values():
        try:
            before, after = (SampleEntropy(np.concatenate(parts)) for parts in (record.inputs, record.outputs))
        except ValueError as error:
            raise ValueError(f"The activation of {record.path!r} has no entropy. {error}") from error
        rows.append(
            {
                "layer": record.path,
                "activation": record.name,
                "entropy before": before.entropy,
                "entropy after": after.entropy,
                "standardized before": before.standardized,
                "standardized after": after.standardized,
                "point masses": after.atoms[:, 1].sum(),
            }
        )
    return pd.DataFrame(rows)


class SampleEntropy:
    """Entropy of values, in nats: of their point masses, and of the spacing between the others."""

    def __init__(self, values: np.ndarray):
        values = finite_samples(values)
        if len(values) < FEWEST_SAMPLES:
            raise ValueError(f"There must be at least {FEWEST_SAMPLES} values. Received: {len(values)}")
        self.atoms, rest = split_atoms(values)
        share = 1.0 - self.atoms[:, 1].sum()
        self.entropy = float(special.entr(self.atoms[:, 1]).sum())
        self.standardized = self.entropy
        if len(rest) >= FEWEST_SAMPLES:
            # The usual window, or a wider one where spaces between equal values would be 0.
            ties = np.unique(rest, return_counts=True)[1].max()
            window = min(max(int(np.sqrt(len(rest)) + 0.5), ties), (len(rest) - 1) // 2)
            spacing = stats.differential_entropy(rest, window_length=window)
            self.entropy += float(share * spacing + special.entr(share))
            self.standardized = self.entropy - float(share * np.log(values.std()))


class _Record:
    """What an activation got and gave: some of the values."""

    def __init__(self, path: str, name: str, values: int):
        self.path, self.name = path, name
        self.inputs: list[np.ndarray] = []
        self.outputs: list[np.ndarray] = []
        self._values, self._random = values, np.random.default_rng(0)

    def add(self, inputs: Any, outputs: Any) -> None:
        before, after = (self._read(tensor) for tensor in (inputs, outputs))
        picked = np.arange(len(before))
        if len(picked) > self._values:
            picked = self._random.integers(0, len(before), self._values)
        self.inputs.append(before[picked])
        self.outputs.append(after[picked])

    def _read(self, tensor: Any) -> np.ndarray:
        if keras.backend.standardize_dtype(tensor.dtype) in ("bfloat16", "float16"):
            raise ValueError(
                "`model` must compute in float32, as the rounding of half precision looks like point masses. "
                f"Received: {self.path!r}, which has {tensor.dtype}"
            )
        values = concrete(tensor)
        if values is None:
            raise ValueError(
                f"`model` must run without being traced. Received: {self.path!r}, which runs in a compiled function"
            )
        return values.ravel()


@contextmanager
def _recording(model: keras.Model, values: int) -> Iterator[dict[int, _Record]]:
    """Records what the activations of a model compute when it is called with values, by the ids of their layers."""
    records: dict[int, _Record] = {}

    def recorded(layer: keras.layers.Layer, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            outputs = function(*args, **kwargs)
            record = records.setdefault(id(layer), _Record(layer.path or layer.name, name, values))
            record.add(args[0] if args else next(iter(kwargs.values())), outputs)
            return outputs

        return call

    swapped: list[tuple[keras.layers.Layer, Any]] = []
    try:
        for layer in model._flatten_layers(include_self=False):
            # Recurrent cells, and the layers that hold them, have a `state_size`.
            if isinstance(layer, keras.layers.Softmax) or hasattr(layer, "state_size"):
                continue
            if is_activation(layer):
                # An attribute of the instance goes before the method of its class.
                layer.call = recorded(layer, name_of(layer), layer.call)
                swapped.append((layer, None))
                continue
            activation: Any = getattr(layer, "activation", None)
            if _applies(activation):
                layer.activation = recorded(layer, name_of(activation), activation)
                swapped.append((layer, activation))
        yield records
    finally:
        for layer, activation in swapped:
            if activation is None:
                del layer.call
            else:
                layer.activation = activation


def _applies(activation: Any) -> bool:
    """Whether an attribute is the activation of one number; layers in that place are found on their own."""
    return (
        callable(activation)
        and not isinstance(activation, keras.layers.Layer | type)
        and activation not in NO_HIDDEN_ACTIVATIONS
    )
