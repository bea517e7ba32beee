"""A callback that lowers the entropy of activations during training."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
import pandas as pd

from keras_actlab._private.keras_layers import nested_layers
from keras_actlab.callbacks import PeriodicCallback
from keras_actlab.distribution import of_first_process
from keras_actlab.eafo.densities import Empirical, check_number
from keras_actlab.eafo.push_forward import PushForward, Table, push_forward_of, runs, support
from keras_actlab.eafo.search import node_correction
from keras_actlab.layers import EntropyActivation
from keras_actlab.layers.observed import select
from keras_actlab.ops.float64 import linear_spline

ROUNDING = float(np.finfo("float32").eps)
COLUMNS = ("step", "layer", "entropy before", "entropy after", "standardized before", "standardized after")
# Number of points, beside the knots, for the entropies of the outputs.
POINTS = 256
# Largest move of a knot of the inverse, relative to the distance of the knots, so that the inverse stays increasing.
MAX_MOVE = 1 / 3
# Largest share of the sample beyond the knots, on either side.
MAX_OUTSIDE_SHARE = 0.005


class EntropyRefinement(PeriodicCallback):
    r"""Lowers the entropy of `EntropyActivation` layers by one optimization step every `every` training steps.

    For each layer, the callback estimates the density of the recent pre-activations (`Empirical`) and corrects the most
    probable increasing part of the curve, as `improve` does: the new inverse is `y + t eta` at the knots, and is
    interpolated at the knots again. The step t is chosen so that the knots move by `fraction` standard deviations of
    the pre-activations, in the root mean square over their density. No knot moves by more than a third of the distance
    to the next one, and the ends of the part do not move. The paper suggests such an optimization but does not carry it
    out.

    The pre-activations are the samples that the layers keep of their last 16 training calls (`sample_size`), in
    constant memory. If more than 0.5 % of the sample lies beyond the knots on one side, the distances of the knots are
    multiplied by a power of two; if the knots extend four times too far, they are divided. A knot at 0 does not move.
    Knots that all lie on one side of 0 do not follow a sample on the other side. Curves are assigned to variables, so
    nothing is recompiled. A layer is skipped if its sample does not give a density (a single value, NaN, fewer than 16
    numbers) or its curve does not increase on the sample.

    In a trainable layer, refinement steps and gradient steps alternate. With `trainable=False`, only refinement changes
    the layer. The refined curve is saved with the layer. With several processes (see `keras_actlab.distribution`), the
    first one computes the curve from its sample, and all processes use it.

    Args:
        layers: List of layers, of their names or of their paths. A name selects all layers that have it. None selects
            all `EntropyActivation` layers of the model with a sample.
        every: Number of training steps between refinements. With `steps_per_execution`, a refinement takes place at the
            end of an execution.
        fraction: Root mean square move of the knots of the inverse, in standard deviations of the pre-activations.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `every` or `fraction` is not positive. At the start of training, if a layer is not in the model
            or has no `sample_size`, or no layer is found.

    Example:

    >>> from keras_actlab import eafo
    >>> activation = keras_actlab.layers.EntropyActivation(sample_size=512, name="curve")
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8), activation, keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> refinement = eafo.EntropyRefinement(every=5)
    >>> x = np.random.default_rng(0).normal(size=(320, 3))
    >>> _ = model.fit(x, x[:, 0], batch_size=32, verbose=0, callbacks=[refinement])
    >>> refinement.log["step"].tolist()
    [5, 10]
    >>> bool((refinement.log["entropy after"] < refinement.log["entropy before"]).all())
    True

    Reference:

    - [Sun et al., 2024](https://arxiv.org/abs/2405.12954), "A Method on Searching Better Activation Functions".
    """

    def __init__(
        self,
        layers: Sequence[EntropyActivation | str] | None = None,
        every: int = 100,
        fraction: float = 0.02,
    ):
        super().__init__(every)
        check_number("fraction", fraction, positive=True)
        if layers is not None and (
            isinstance(layers, str)
            or not isinstance(layers, Sequence)
            or not layers
            or not all(isinstance(layer, EntropyActivation | str) for layer in layers)
        ):
            raise TypeError(
                f"`layers` must be a list of EntropyActivation layers or their names, or None. Received: {layers!r}"
            )
        self.layers = layers
        self.fraction = fraction
        self._found: list[EntropyActivation] = []
        self._rows: list[tuple[Any, ...]] = []

    @property
    def log(self) -> pd.DataFrame:
        """One row per refinement of a layer: its path, and entropies of the outputs in nats for the same density."""
        return pd.DataFrame(self._rows, columns=COLUMNS)

    def on_train_begin(self, logs: Any = None) -> None:
        there = [layer for layer in nested_layers(self.model) if isinstance(layer, EntropyActivation)]
        if self.layers is None:
            self._found = [layer for layer in there if layer.sample_size]
            if not self._found:
                raise ValueError(
                    "The model must have an EntropyActivation with a `sample_size`. "
                    f"Received: {self.model.name!r}, which has {len(there)} EntropyActivation, none of them with one"
                )
            return
        self._found = select(self.layers, there, "EntropyActivation layers")
        for layer in self._found:
            if not layer.sample_size:
                raise ValueError(
                    f"`layers` must keep a sample: give them a `sample_size`. Received: {layer.path!r}, without one"
                )

    def run(self) -> None:
        for layer in self._found:
            entropies = refine(layer, self.fraction)
            if entropies is not None:
                self._rows.append((self.step, layer.path, *entropies))


def refine(layer: EntropyActivation, fraction: float) -> tuple[float, float, float, float] | None:
    """Refines one layer. Returns entropies before and after, plain and standardized; None if the layer is skipped."""
    # Each process has a sample of its own part of the data, but the curve must be the same in all processes.
    curve = of_first_process(partial(next_curve, layer, fraction))
    if curve is None:
        return None
    layer.knots.assign(curve.knots)
    layer.values.assign(curve.values)
    return curve.entropies


@dataclass(frozen=True)
class Curve:
    """A refined curve, with the entropies of the outputs before and after, plain and then standardized."""

    knots: np.ndarray
    values: np.ndarray
    entropies: tuple[float, float, float, float]


def next_curve(layer: EntropyActivation, fraction: float) -> Curve | None:
    """Returns the curve after one refinement step; None if the layer has to be skipped."""
    seen = min(int(keras.ops.convert_to_numpy(layer.sampled)), layer.sample_size)
    try:
        density = Empirical(keras.ops.convert_to_numpy(layer.sample)[:seen])
    except ValueError:
        return None
    knots, values = (keras.ops.convert_to_numpy(variable).astype("float64") for variable in (layer.knots, layer.values))
    reach = _reach(density, knots)
    wide = knots * reach
    if np.abs(wide).max() > np.finfo("float32").max:
        return None
    values = linear_spline(wide, knots, values)
    table = Table(wide, values, density.between(wide), ROUNDING)
    # Cells whose probability underflows to 0 are excluded.
    parts = runs((table.direction > 0) & (table.mass > 0))
    if not parts:
        return None
    part = max(parts, key=lambda run: table.mass[run].sum())
    nodes = slice(part.start, part.stop + 1)
    z, x = wide[nodes], values[nodes]
    eta = node_correction(z, x, table.mass[part])
    eta[[0, -1]] = 0.0
    weights = density.pdf(z)
    if not np.any(weights * eta**2):
        return None
    mean = np.sqrt(np.average(eta**2, weights=weights))
    farthest = MAX_MOVE * (wide[1] - wide[0])
    moved = z + np.clip(fraction * density.std / mean * eta, -farthest, farthest)
    new = values.copy()
    new[nodes] = np.interp(z, moved, x)
    before, after = _outputs(wide, (values, new), density)
    entropies = before.entropy, after.entropy, before.standardized_entropy, after.standardized_entropy
    return Curve(wide.astype("float32"), new.astype("float32"), entropies)


def _reach(density: Empirical, knots: np.ndarray) -> float:
    """Returns the power of two by which to multiply the knots, so that they cover the density."""
    ends = density.quantiles(np.array([MAX_OUTSIDE_SHARE, 1.0 - MAX_OUTSIDE_SHARE]))
    ratios = [end / knot for end, knot in zip(ends, knots[[0, -1]], strict=True) if knot and end * knot > 0]
    ratio = max(ratios, default=1.0)
    if 0.25 <= ratio <= 1.0:
        return 1.0
    return 2.0 ** (np.ceil(np.log2(ratio)) + (ratio < 0.25))


def _outputs(knots: np.ndarray, curves: Sequence[np.ndarray], density: Empirical) -> list[PushForward]:
    """Returns the push-forward of the density by each curve, given as its values at the knots."""
    lower, upper = support(density)
    z = np.union1d(np.linspace(lower, upper, POINTS), knots[(knots > lower) & (knots < upper)])
    mass = density.between(z)
    outputs = []
    for values in curves:
        curve = partial(linear_spline, knots=knots, values=values)
        outputs.append(push_forward_of(Table(z, curve(z), mass, ROUNDING), curve, density))
    return outputs
