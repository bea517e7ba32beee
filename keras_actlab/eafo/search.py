"""Activations with the most entropy, and corrections that lower entropy, for a given density."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter1d

from keras_actlab.eafo.densities import Density, as_density, check_number
from keras_actlab.eafo.functions import Function, as_function
from keras_actlab.eafo.push_forward import TAIL, Table, push_forward_of, runs, support, tabulate

POINTS = 4097
# Each step takes two derivatives of the result of the previous step, which amplifies details without bound: lowering
# entropy is the diffusion equation run backwards. Fewer points smooth the details.
STEP_POINTS = 129
STEP_TAIL = 1e-5
# Largest share of a density that may lie beyond gaps in which it is 0.
MAX_EXCLUDED_SHARE = 0.01


def worst_activation(density: Any, lower: float = 0.0, upper: float = 1.0) -> Function:
    """Returns the activation whose outputs have the most entropy between two bounds (the paper's WAFBC).

    `f(z) = lower + (upper - lower) * P(Z <= z)`

    It is a scaled distribution function. Its outputs are uniform, with the entropy `log(upper - lower)`, which no other
    activation with these bounds exceeds. For a normal density it resembles a sigmoid; for a uniform density it is a
    line.

    Args:
        density: A density of this module, or a distribution of `scipy.stats`. Point masses are ignored.
        lower: Limit of the output on the left.
        upper: Limit of the output on the right.

    Returns:
        A function of NumPy arrays.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the bounds are not finite and increasing, or the density is 0 inside its range, where the
            distribution function is flat and has no inverse. Gaps beyond which less than 1 % of the density lies are
            ignored.

    Example:

    >>> from keras_actlab import eafo
    >>> worst = eafo.worst_activation(eafo.Gaussian(), lower=-1.0, upper=1.0)
    >>> worst(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.6827,  0.    ,  0.6827])

    Reference:

    - [Sun et al., 2024](https://arxiv.org/abs/2405.12954), "A Method on Searching Better Activation Functions".
    """
    density = as_density(density)
    check_number("lower", lower)
    check_number("upper", upper)
    if not lower < upper:
        raise ValueError(f"`lower` must be less than `upper`. Received: lower={lower}, upper={upper}")
    z = np.linspace(*support(density), POINTS)
    mass = density.between(z)
    best = _most_probable(runs(mass > 0), mass)
    if best is None or mass[best].sum() < (1.0 - MAX_EXCLUDED_SHARE) * mass.sum():
        _check_density(z, mass)
    share = 1.0 - density.atoms[:, 1].sum()
    return lambda z: lower + (upper - lower) * density.cdf(z) / share


@dataclass(frozen=True)
class Correction:
    """The entropy correction of an activation on an interval where it increases; see `correction`.

    Attributes:
        z: Increasing inputs.
        x: The activation at `z`.
        eta: The correction of the inverse at `x`, in units of `z`.

    Example:

    >>> from keras_actlab import eafo
    >>> round(eafo.correction("linear", eafo.Gaussian()).slope, 4)
    -0.141
    """

    z: np.ndarray
    x: np.ndarray
    eta: np.ndarray

    def __call__(self, x: Any) -> np.ndarray:
        """Returns the correction at outputs `x` of the activation."""
        x = np.asarray(x, "float64")
        outside = ~((x >= self.x[0]) & (x <= self.x[-1]))
        if outside.any():
            raise ValueError(
                "`x` must be an output of the activation on the corrected interval, from "
                f"{self.x[0]:.6g} to {self.x[-1]:.6g}, where it has an inverse. Received: {x[outside].ravel()[0]:.6g}"
            )
        return np.interp(x, self.x, self.eta)

    @property
    def slope(self) -> float:
        """Derivative of the entropy along the correction, in nats: `-integral of eta(x)**2 dx`, at most 0.

        This is exact if the density or the correction vanishes at both ends of the interval.
        """
        return float(-np.trapezoid(self.eta**2, self.x))


def correction(activation: Any, density: Any, lower: float | None = None, upper: float | None = None) -> Correction:
    r"""Returns the correction of an activation's inverse that lowers entropy fastest (equation 7 of the paper).

    `eta(x) = -(p(y) y'' / y' + p'(y) y')`

    with the inverse y(x) of the activation and the density p. With the density q of the outputs, this equals
    `-dq(f(z)) / dz`, which is computed by finite differences on 4,097 points. The inverse `y + t eta` has the entropy
    `H - t * integral of eta(x)**2 dx` to first order in t, if the density or the correction vanishes at the ends of the
    corrected interval. Otherwise the ends add a term of either sign.

    The correction covers one interval on which the activation increases: from `lower` to `upper`, or the most probable
    one. For ReLU and N(0, 1) this is z > 0, and `eta` is proportional to `x exp(-x**2 / 2)`. At a minimum of the
    activation, such as that of GELU, q and the correction tend to infinity.

    Args:
        activation: A name, such as "gelu"; a function of tensors or of NumPy arrays; or a layer that applies one
            function to all channels.
        density: A density of this module, or a distribution of `scipy.stats`.
        lower: Lower end of the corrected interval of inputs; None for the start of the increasing part.
        upper: Upper end of the corrected interval of inputs; None for the end of the increasing part.

    Returns:
        A `Correction`: a function of the outputs x. Its attributes are arrays. Its `slope` is the derivative of the
        entropy.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the activation increases nowhere, does not increase everywhere between `lower` and `upper`, or
            the density is 0 in between. The message names the position. If `lower` or `upper` is None, gaps beyond
            which less than 1 % of the density lies are excluded.

    Example: in units of its value at 1, the correction of ReLU is x exp((1 - x**2) / 2).

    >>> from keras_actlab import eafo
    >>> eta = eafo.correction("relu", eafo.Gaussian())
    >>> (eta([0.5, 1.0, 2.0]) / eta(1.0)).round(3)
    array([0.727, 1.   , 0.446])

    Reference:

    - [Sun et al., 2024](https://arxiv.org/abs/2405.12954), "A Method on Searching Better Activation Functions".
    """
    density = as_density(density)
    return _correction(*as_function(activation), density, lower, upper, POINTS, TAIL)


def _correction(
    function: Function,
    rounding: float,
    density: Density,
    lower: float | None,
    upper: float | None,
    points: int,
    tail: float,
) -> Correction:
    ends = _part(tabulate(function, rounding, density), lower, upper)
    # Beyond `tail`, differences of probabilities are mostly rounding errors.
    inner = density.quantiles(np.array([0.0, 1.0]))
    inner = np.where(np.isfinite(inner), inner, density.quantiles(np.array([tail, 1.0 - tail])))
    z = np.linspace(max(ends[0], inner[0]), min(ends[1], inner[1]), points)
    table = Table(z, function(z), density.between(z), rounding)
    # If an end is None, saturated values and rare inputs that no longer differ are excluded, and so are outliers beyond
    # gaps of an empirical density.
    best = _most_probable(runs((table.direction > 0) & (table.mass > 0)), table.mass)
    if best is not None and table.mass[best].sum() > (1.0 - MAX_EXCLUDED_SHARE) * table.mass.sum():
        first = 0 if lower is not None else best.start
        last = len(table.mass) if upper is not None else best.stop
        z = z[first : last + 1]
        table = Table(z, table.x[first : last + 1], table.mass[first:last], rounding)
    _check_rising(table)
    _check_density(z, table.mass)
    return Correction(z, table.x, node_correction(z, table.x, table.mass))


def node_correction(z: np.ndarray, x: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Returns `-dq/dz` at points, given the probability between them.

    To first order in t, the inverse `z + t eta` lowers the entropy of the piecewise linear function through the points,
    `-sum of mass * log(mass / diff(x))`.
    """
    q = mass / np.diff(x)
    middle = (z[1:] + z[:-1]) / 2
    inner = -np.diff(q) / np.diff(middle)
    if len(inner) < 2:
        return np.zeros_like(z)
    # Linear extrapolation to the ends.
    first = inner[0] + (inner[1] - inner[0]) * (z[0] - z[1]) / (z[2] - z[1])
    last = inner[-1] + (inner[-1] - inner[-2]) * (z[-1] - z[-2]) / (z[-2] - z[-3])
    return np.concatenate([[first], inner, [last]])


def _part(table: Table, lower: float | None, upper: float | None) -> tuple[float, float]:
    """Returns the ends of the interval on which an activation is corrected."""
    for name, bound in (("lower", lower), ("upper", upper)):
        if bound is not None:
            check_number(name, bound)
        if bound is not None and not table.z[0] <= bound <= table.z[-1]:
            raise ValueError(
                f"`{name}` must be where the density is, from {table.z[0]:.6g} to {table.z[-1]:.6g}. "
                f"Received: {name}={bound}"
            )
    if lower is not None and upper is not None and not lower < upper:
        raise ValueError(f"`lower` must be less than `upper`. Received: lower={lower}, upper={upper}")
    inside = np.ones(len(table.mass), bool)
    inside &= table.z[1:] > (-np.inf if lower is None else lower)
    inside &= table.z[:-1] < (np.inf if upper is None else upper)
    rising = [run for run in table.rising() if inside[run].any()]
    if not rising:
        raise ValueError(
            "`activation` must increase somewhere, to have an inverse there. Received: one that does not from "
            f"{table.z[:-1][inside][0]:.6g} to {table.z[1:][inside][-1]:.6g}"
        )
    best = max(rising, key=lambda run: table.mass[run][inside[run]].sum())
    start, stop = table.z[best.start], table.z[best.stop]
    return start if lower is None else lower, stop if upper is None else upper


def _most_probable(parts: list[slice], mass: np.ndarray) -> slice | None:
    return max(parts, key=lambda part: mass[part].sum(), default=None)


def _check_rising(table: Table) -> None:
    wrong = np.flatnonzero(table.direction <= 0)
    if len(wrong):
        k = wrong[0]
        raise ValueError(
            "`activation` must increase between `lower` and `upper`, to have an inverse there. Received: one that "
            f"{'falls' if table.direction[k] else 'is flat'} from {table.z[k]:.6g} to {table.z[k + 1]:.6g}"
        )


def _check_density(z: np.ndarray, mass: np.ndarray) -> None:
    empty = np.flatnonzero(mass <= 0)
    if len(empty):
        k = empty[0]
        raise ValueError(
            "`density` must not be 0 inside the range. Received: one that is 0 from "
            f"{z[k]:.6g} to {z[k + 1]:.6g}, while the range is from {z[0]:.6g} to {z[-1]:.6g}"
        )


@dataclass(frozen=True)
class Improvement:
    """The result of one step of `improve`: an activation, as a function of NumPy arrays.

    Attributes:
        z: Increasing inputs, the values of the corrected inverse.
        x: The outputs at `z`.
        before: The activation before the step, as a function of NumPy arrays.
        shifts: Moves of the lower and the upper end of the corrected interval. Beyond each end, the activation is the
            former one shifted by as much.
        rounding: Relative rounding error of the values.
        entropy_before: Entropy of the outputs before the step, in nats.
        entropy_after: Entropy of the outputs after the step.

    Example: a step makes ReLU less steep near 0 and does not change it far from 0.

    >>> from keras_actlab import eafo
    >>> eafo.improve("relu", eafo.Gaussian())(np.array([-1.0, 0.5, 6.0])).round(2)
    array([0.  , 0.36, 6.  ])
    """

    z: np.ndarray
    x: np.ndarray
    before: Function
    shifts: tuple[float, float]
    rounding: float
    entropy_before: float
    entropy_after: float

    def __call__(self, z: Any) -> np.ndarray:
        """Returns the activation at `z`."""
        return _extended(np.asarray(z, "float64"), self.z, self.x, self.before, self.shifts)


def _extended(
    z: np.ndarray, nodes: np.ndarray, x: np.ndarray, before: Function, shifts: tuple[float, float]
) -> np.ndarray:
    beyond = before(np.where(z < nodes[0], z - shifts[0], z - shifts[1]))
    inside = (z >= nodes[0]) & (z <= nodes[-1])
    return np.where(inside, PchipInterpolator(nodes, x)(np.clip(z, nodes[0], nodes[-1])), beyond)


def improve(
    activation: Any,
    density: Any,
    step: float = 1.0,
    lower: float | None = None,
    upper: float | None = None,
    smoothing: float = 0.0,
) -> Improvement:
    r"""Returns an activation whose outputs usually have less entropy, by one step along the correction of the inverse.

    `f_new = g^-1,  g(x) = y(x) + step * eta(x)`

    with the inverse y of the activation and its correction (equation 7 of the paper, see `correction`). The paper uses
    `step` 1. The corrected inverse is inverted exactly at 129 points; a monotone cubic spline interpolates between
    them. Outside the corrected interval the activation is unchanged. An end of the interval moves if the correction
    there is not 0: the kink of ReLU moves if the density is not flat at 0. If the density does not vanish there, as at
    the bounds of a uniform density, the entropy may rise; compare `entropy_after` with `entropy_before`.

    The effect of a step depends on the scale: from ReLU, the correction for data of standard deviation s, relative to
    s, is 1 / s**3 times that for s = 1. `EntropyRefinement` measures its steps in units of s.

    The result is an activation, so steps can be repeated. They do not converge: lowering entropy is the diffusion
    equation run backwards, the finest details grow fastest, and after two or three steps the inverse is no longer
    increasing. `smoothing` damps the details.

    Args:
        activation: A name, such as "gelu"; a function of tensors or of NumPy arrays; or a layer that applies one
            function to all channels.
        density: A density of this module, or a distribution of `scipy.stats`.
        step: Step size, at least 0.
        lower: Lower end of the corrected interval of inputs; None for the start of the increasing part.
        upper: Upper end of the corrected interval of inputs; None for the end of the increasing part.
        smoothing: Standard deviation, in units of z, of the Gaussian filter of the correction; 0 for none, as in
            equation 7. With half of the density's standard deviation, ten steps of 0.1 are possible from ReLU.

    Returns:
        An `Improvement`: a function of NumPy arrays with the entropies before and after the step. Pass it to
        `EntropyActivation.set_curve` to use it in a model.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `step` or `smoothing` is negative, if `step` is so large that the corrected inverse is not
            increasing, or as in `correction`. The message names the position.

    Example: the paper's step from ReLU, taken twice.

    >>> from keras_actlab import eafo
    >>> first = eafo.improve("relu", eafo.Gaussian())
    >>> [round(first.entropy_before, 3), round(first.entropy_after, 3)]
    [1.056, 0.973]
    >>> eafo.improve(first, eafo.Gaussian()).entropy_after < first.entropy_after
    True

    Reference:

    - [Sun et al., 2024](https://arxiv.org/abs/2405.12954), "A Method on Searching Better Activation Functions".
    """
    for name, value in (("step", step), ("smoothing", smoothing)):
        check_number(name, value)
        if value < 0:
            raise ValueError(f"`{name}` must not be negative. Received: {name}={value}")
    density = as_density(density)
    function, rounding = as_function(activation)
    found = _correction(function, rounding, density, lower, upper, STEP_POINTS, STEP_TAIL)
    eta = found.eta
    if smoothing > 0:
        eta = gaussian_filter1d(eta, smoothing / (found.z[1] - found.z[0]), mode="nearest")
    z = found.z + step * eta
    folds = np.flatnonzero(np.diff(z) <= 0)
    if len(folds):
        nearing = np.diff(eta) < 0
        most = np.min(-np.diff(found.z)[nearing] / np.diff(eta)[nearing])
        places = found.z[folds[0] : folds[0] + 2]
        raise ValueError(
            f"`step` must be less than {most:.3g}, or the corrected inverse folds back. `smoothing` helps; "
            "near a minimum or a kink, so does a `lower` that leaves it out. Received: "
            f"step={step}, with which the inverse folds back where the input was {places[0]:.6g} to {places[1]:.6g}"
        )
    shifts = float(z[0] - found.z[0]), float(z[-1] - found.z[-1])
    new = partial(_extended, nodes=z, x=found.x, before=function, shifts=shifts)
    before, after = (push_forward_of(tabulate(f, rounding, density), f, density).entropy for f in (function, new))
    return Improvement(z, found.x, function, shifts, rounding, before, after)
