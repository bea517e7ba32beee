"""Worst and better activations for a density."""

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
# Each step takes two derivatives of the step before, which grows what is finer than the points without bound: a flow
# that lowers entropy is the diffusion equation run backwards. Fewer points are smoother.
STEP_POINTS = 129
STEP_TAIL = 1e-5
# Share of a density that may lie beyond gaps in which it is 0.
MAX_EXCLUDED_SHARE = 0.01


def worst_activation(density: Any, lower: float = 0.0, upper: float = 1.0) -> Function:
    """Returns the activation that leaves the most entropy between two bounds (the paper's WAFBC).

    `f(z) = lower + (upper - lower) * P(Z <= z)`

    A scaled distribution function: its outputs are distributed uniformly, whose entropy, `log(upper - lower)`, no other
    activation with these bounds exceeds. Normal data give a curve like a sigmoid, uniform data a line.

    Args:
        density: A density of this module, or a distribution of `scipy.stats`. Point masses are left out.
        lower: What the output tends to on the left.
        upper: What the output tends to on the right.

    Returns:
        A function of NumPy arrays.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the bounds are not finite and increasing, or the density is 0 inside its range, where the
            distribution function is flat and has no inverse. Gaps beyond which less than 1 % of it lies do not count.

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
    """The entropy correction of an activation on a part where it increases; see `correction`.

    Attributes:
        z: Increasing inputs.
        x: The activation there.
        eta: The correction of its inverse there, in units of z.

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
                "`x` must be what the activation puts out on the part that is corrected, from "
                f"{self.x[0]:.6g} to {self.x[-1]:.6g}, where it has an inverse. Received: {x[outside].ravel()[0]:.6g}"
            )
        return np.interp(x, self.x, self.eta)

    @property
    def slope(self) -> float:
        """Derivative of the entropy along the correction, in nats: `-integral of eta(x)**2 dx`, at most 0.

        It holds where the density vanishes at both ends of the part, or the correction does.
        """
        return float(-np.trapezoid(self.eta**2, self.x))


def correction(activation: Any, density: Any, lower: float | None = None, upper: float | None = None) -> Correction:
    r"""Returns the correction of an activation's inverse that lowers entropy fastest (equation 7 of the paper).

    `eta(x) = -(p(y) y'' / y' + p'(y) y')`

    with the inverse y(x) of the activation and the density p. In terms of the density of the outputs, q, this is
    `-dq(f(z)) / dz`: a derivative with respect to the input, and so it is computed, by differences on 4,097 points.
    The inverse `y + t eta` has the entropy `H - t * integral of eta(x)**2 dx` to first order in t, if the density
    vanishes where the corrected part ends, or the correction does; elsewhere the ends add a term of either sign.

    The correction is that of one part of the activation, on which it increases: from `lower` to `upper`, or the one
    with the most probability. For ReLU that is z > 0, and `eta` is proportional to `x exp(-x**2 / 2)` for N(0, 1).
    Where a part ends at a minimum of the activation, such as GELU's, q and the correction tend to infinity.

    Args:
        activation: A name, such as "gelu"; a function of tensors or of NumPy arrays; or a layer that is one function
            for all channels.
        density: A density of this module, or a distribution of `scipy.stats`.
        lower: Input from which on the activation is corrected; None for where that part begins.
        upper: Input up to which the activation is corrected; None for where that part ends.

    Returns:
        A `Correction`: call it with outputs x; its attributes are arrays. Its `slope` is the derivative of the entropy.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the activation increases nowhere, does not increase everywhere between `lower` and `upper`, or
            the density is 0 in between; the message names the place. Ends that are not given leave out gaps beyond
            which less than 1 % of the density lies.

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
    # The outermost values are so rare that differences of their probabilities are mostly rounding.
    inner = density.quantiles(np.array([0.0, 1.0]))
    inner = np.where(np.isfinite(inner), inner, density.quantiles(np.array([tail, 1.0 - tail])))
    z = np.linspace(max(ends[0], inner[0]), min(ends[1], inner[1]), points)
    table = Table(z, function(z), density.between(z), rounding)
    # Ends that nobody asked for are left out where saturated values or rare inputs no longer differ.
    # So are outliers, beyond gaps of an empirical density.
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
    """Returns `-dq/dz` at points, given the probability between them; beyond the first and last, q is constant.

    To first order in a small multiple t of it, `z + t eta` as the inverse always has less of the entropy that the
    piecewise linear function through the points leaves, `-sum of mass * log(mass / diff(x))`.
    """
    q = mass / np.diff(x)
    middle = (z[1:] + z[:-1]) / 2
    inner = -np.diff(q) / np.diff(middle)
    if len(inner) < 2:
        return np.zeros_like(z)
    # At the ends what the neighbours lead to.
    first = inner[0] + (inner[1] - inner[0]) * (z[0] - z[1]) / (z[2] - z[1])
    last = inner[-1] + (inner[-1] - inner[-2]) * (z[-1] - z[-2]) / (z[-2] - z[-3])
    return np.concatenate([[first], inner, [last]])


def _part(table: Table, lower: float | None, upper: float | None) -> tuple[float, float]:
    """Returns the ends of the part of an activation that is to be corrected."""
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
    """An activation that one step of `improve` made, as a function of NumPy arrays.

    Attributes:
        z: Increasing inputs, at which the corrected inverse arrives.
        x: The outputs there.
        before: The activation before the step, as a function of NumPy arrays.
        shifts: How far the corrected part has moved at its lower and upper end; beyond them the activation goes on as
            before, moved by as much.
        rounding: Relative rounding error of its values.
        entropy_before: Entropy that the activation before the step leaves, in nats.
        entropy_after: Entropy that this one leaves.

    Example: a step makes ReLU less steep near 0, and leaves it as it is far from 0.

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
    r"""Returns an activation that leaves less entropy, as a rule, by one step along the correction of the inverse.

    `f_new = g^-1,  g(x) = y(x) + step * eta(x)`

    with the inverse y of the activation and its correction (equation 7 of the paper, see `correction`); `step` 1 is the
    paper's. The corrected inverse is inverted exactly at 129 points, between which a monotone cubic spline runs.
    Outside of the part that is corrected the activation goes on as before. Where the correction is not 0 at an end of
    the part, that end moves: ReLU's kink does for a density that is not flat at 0. Where the density does not vanish
    there, as at the bounds of a uniform one, the entropy may even rise; `entropy_after` tells.

    A step is not the same at all scales: from ReLU, the correction for data of standard deviation s is 1 / s**3 times
    as large, compared with s, as for s = 1. `EntropyRefinement` measures its steps in s.

    The result is an activation again, so that steps can be repeated. There is no best activation to arrive at, only
    better ones, and the way there is the diffusion equation run backwards: details grow faster the finer they are, and
    after two or three steps the inverse folds back. `smoothing` holds them down.

    Args:
        activation: A name, such as "gelu"; a function of tensors or of NumPy arrays; or a layer that is one function
            for all channels.
        density: A density of this module, or a distribution of `scipy.stats`.
        step: How far to go, at least 0.
        lower: Input from which on the activation is corrected; None for where it begins to increase.
        upper: Input up to which the activation is corrected; None for where it no longer increases.
        smoothing: Standard deviation, in units of z, of the Gaussian that the correction is averaged with; 0 for
            equation 7 as it is. With half of the density's standard deviation, ten steps of 0.1 are possible from ReLU.

    Returns:
        An `Improvement`, which is a function of NumPy arrays and knows the entropy before and after. Give it to
        `EntropyActivation.set_curve` to use it in a model.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `step` or `smoothing` is negative, or `step` so large that the corrected inverse folds back, or
            as in `correction`; the message names the place.

    Example: the paper's step from ReLU, made two times.

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
