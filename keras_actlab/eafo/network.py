"""Entropies of the activations in a network."""

from typing import Any

import keras
import numpy as np
import pandas as pd
from scipy import special, stats

from keras_actlab.arguments import check_model, received
from keras_actlab.eafo.densities import MIN_SAMPLES, finite_samples, split_atoms
from keras_actlab.eafo.functions import activation_name
from keras_actlab.layers.observed import observed
from keras_actlab.ops.tensor import concrete

BATCH = 128
# Number of values that are kept of the inputs and of the outputs of each activation.
MAX_VALUES = 20_000


def layer_entropies(model: keras.Model, data: Any) -> pd.DataFrame:
    """Returns the entropy before and after every activation of a model, at inference.

    Activations are found at any depth: activation layers, such as `ReLU`, `CRReLU` or `EntropyActivation`, and the
    activations of other layers, as in `Dense(8, activation="gelu")`. Linear activations, softmax and those in recurrent
    layers are skipped. The entropy of an activation is computed over all units and all calls of its layer. Padding is
    included.

    Entropies are estimated from up to 20,000 values, drawn with a fixed seed. A value that at least 0.5 % of them have
    is a point mass, such as the zeros of ReLU. The entropy of the other values is estimated from their spacing
    (`scipy.stats.differential_entropy`), with an error of about 0.02 nats, or 0.06 if their density has narrow peaks or
    heavy tails. `entropy` and `standardized_entropy` explain the meaning.

    Args:
        model: A built model of any kind.
        data: Inputs, with the batch axis first: an array, or a list or dict of arrays.

    Returns:
        A DataFrame with one row per activation, in the order of the first calls. Columns: "layer" (path of the layer),
        "activation", "entropy before", "entropy after", "standardized before" and "standardized after" (in nats), and
        "point masses", the share of the outputs that are point masses.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model is not built, has no activation or computes in half precision, if `data` is empty or
            has unequal lengths, or if an activation has fewer than 16 values, NaN or infinity. The message names the
            layer.

    Example:

    >>> from keras_actlab import eafo
    >>> hidden = keras.layers.Dense(50, activation="relu", kernel_initializer="ones", name="hidden")
    >>> model = keras.Sequential([keras.Input((1,)), hidden, keras.layers.Dense(1)])
    >>> table = eafo.layer_entropies(model, np.random.default_rng(0).normal(size=(1000, 1)))
    >>> table[["activation", "entropy before", "point masses"]].round(1)
      activation  entropy before  point masses
    0       relu             1.3           0.5
    """
    check_model("model", model)
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
    records: dict[int, _Record] = {}

    def record(layer: keras.layers.Layer, activation: Any, inputs: Any, outputs: Any) -> None:
        name, values = activation_name(activation), MAX_VALUES // len(starts) + 1
        records.setdefault(id(layer), _Record(layer.path or layer.name, name, values)).add(inputs, outputs)

    with observed(model, record):
        for start in starts:
            batch = keras.tree.map_structure(lambda array, start=start: array[start : start + BATCH], data)
            model(keras.tree.map_structure(keras.ops.convert_to_tensor, batch), training=False)
    if not records:
        raise ValueError(f"`model` must have an activation. Received: {model.name!r}, which has none")
    rows = []
    for kept in records.values():
        try:
            before, after = (SampleEntropy(np.concatenate(parts)) for parts in (kept.inputs, kept.outputs))
        except ValueError as error:
            raise ValueError(f"The activation of {kept.path!r} has no entropy. {error}") from error
        rows.append(
            {
                "layer": kept.path,
                "activation": kept.name,
                "entropy before": before.entropy,
                "entropy after": after.entropy,
                "standardized before": before.standardized,
                "standardized after": after.standardized,
                "point masses": after.atoms[:, 1].sum(),
            }
        )
    return pd.DataFrame(rows)


class SampleEntropy:
    """Entropy of values, in nats: that of their point masses, and an estimate from the spacing of the others."""

    def __init__(self, values: np.ndarray):
        values = finite_samples(values)
        if len(values) < MIN_SAMPLES:
            raise ValueError(f"There must be at least {MIN_SAMPLES} values. Received: {len(values)}")
        self.atoms, rest = split_atoms(values)
        share = 1.0 - self.atoms[:, 1].sum()
        self.entropy = float(special.entr(self.atoms[:, 1]).sum())
        self.standardized = self.entropy
        if len(rest) >= MIN_SAMPLES:
            # SciPy's default window, or a wider one, so that equal values do not give a spacing of 0.
            ties = np.unique(rest, return_counts=True)[1].max()
            window = min(max(int(np.sqrt(len(rest)) + 0.5), ties), (len(rest) - 1) // 2)
            spacing = stats.differential_entropy(rest, window_length=window)
            self.entropy += float(share * spacing + special.entr(share))
            self.standardized = self.entropy - float(share * np.log(values.std()))


class _Record:
    """A sample of the inputs and outputs of an activation."""

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
