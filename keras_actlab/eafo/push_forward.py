"""The push-forward of a density by an activation: the distribution of the outputs, and its entropy."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import special

from keras_actlab.eafo.densities import Density, as_density, differences
from keras_actlab.eafo.functions import Function, as_function

# Probability that is ignored in each tail of an unbounded density.
TAIL = 1e-10
POINTS, MAX_POINTS = 4096, 50_000
# Smaller differences are between subnormal or nearly subnormal numbers, which have fewer digits.
TINY = 1e-290
# Largest rounding error of the points, relative to their range, with which entropies can be computed.
MAX_ROUNDING = 1e-5
# A cell is split while its error of the entropy may exceed CELL_ERROR nats, at most ROUNDS times, into PARTS parts.
CELL_ERROR, ROUNDS, PARTS = 1e-9, 8, 8


@dataclass(frozen=True)
class Table:
    """An activation and a density tabulated at the same points.

    Attributes:
        z: Increasing points.
        x: Values of the activation at the points.
        mass: Probability between neighbouring points.
        rounding: Relative rounding error of `x`.
    """

    z: np.ndarray
    x: np.ndarray
    mass: np.ndarray
    rounding: float

    @cached_property
    def direction(self) -> np.ndarray:
        """The sign of the slope in each cell between neighbouring points; 0 where the activation is flat."""
        step = np.diff(self.x)
        size = np.maximum(np.abs(self.x[1:]), np.abs(self.x[:-1]))
        flat = np.abs(step) <= np.maximum(4 * self.rounding * size, TINY)
        return np.where(flat, 0, np.sign(step)).astype(int)

    def flat(self) -> list[slice]:
        """Returns the runs of cells in which the activation is flat."""
        return runs(self.direction == 0)

    def rising(self) -> list[slice]:
        """Returns the runs of cells in which the activation increases."""
        return runs(self.direction > 0)

    def falling(self) -> list[slice]:
        """Returns the runs of cells in which the activation decreases."""
        return runs(self.direction < 0)


def runs(chosen: np.ndarray) -> list[slice]:
    """Returns the runs of True in a vector, as slices."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]])))
    return [slice(*pair) for pair in edges.reshape(-1, 2)]


def support(density: Density) -> tuple[float, float]:
    """Returns the two points between which nearly all of a density lies."""
    ends, inner = density.quantiles(np.array([0.0, 1.0])), density.quantiles(np.array([TAIL, 1.0 - TAIL]))
    lower, upper = np.where(np.isfinite(ends), ends, inner)
    return float(lower), float(upper)


def tabulate(function: Function, rounding: float, density: Density) -> Table:
    """Returns a table of an activation, with more points where its slope or the density changes quickly."""
    lower, upper = support(density)
    if rounding * max(abs(lower), abs(upper)) > MAX_ROUNDING * (upper - lower):
        raise ValueError(
            "`density` must lie near 0, compared with its width, or the activation be given as a name or a function of "
            f"NumPy arrays, in float64. Received: a density from {lower:.6g} to {upper:.6g}, and an activation with "
            f"rounding errors of {rounding:.2g}"
        )
    shares = special.expit(np.linspace(np.log(TAIL), -np.log(TAIL), POINTS // 2))
    left, right = density.quantiles(np.array([1e-4, 1.0 - 1e-4]))
    centre = np.linspace(left, right, POINTS // 2)
    # 0 is a point of the table, because nearly all activations bend there.
    z = np.unique(np.clip(np.concatenate([density.quantiles(shares), centre, [lower, 0.0, upper]]), lower, upper))
    columns = np.stack([z, function(z), *density.tails(z)])
    for _ in range(ROUNDS):
        z, x, below, above = columns
        split = _cells_to_split(Table(z, x, differences(below, above), rounding))
        if not split.any() or len(z) > MAX_POINTS:
            break
        left, width = z[:-1][split], np.diff(z)[split]
        added = np.setdiff1d((left[:, None] + width[:, None] * np.arange(1, PARTS) / PARTS).ravel(), z)
        columns = np.concatenate([columns, np.stack([added, function(added), *density.tails(added)])], axis=1)
        columns = columns[:, np.argsort(columns[0])]
    z, x, below, above = columns
    return Table(z, x, differences(below, above), rounding)


def _cells_to_split(table: Table) -> np.ndarray:
    """Returns which cells to split. The density is constant in a cell, so the error is the square of its log change."""
    step = np.abs(np.diff(table.x))
    with np.errstate(divide="ignore", invalid="ignore"):
        log_density = np.where(table.direction == 0, np.inf, np.log(table.mass) - np.log(step))
        change = np.abs(np.diff(log_density))
    change = np.minimum(np.where(np.isnan(change), 0.0, change), 1.0)  # NaN between two flat or empty cells
    change = np.maximum(np.append(change, 0.0), np.append(0.0, change))
    size = np.maximum(np.abs(table.x[1:]), np.abs(table.x[:-1]))
    exact = (step > 1e3 * table.rounding * size) | (table.direction == 0)
    wide = np.diff(table.z) > 1e-12 * np.maximum(np.abs(table.z[1:]), np.abs(table.z[:-1]))
    return (table.mass * change**2 / 24 > CELL_ERROR) & exact & wide


@dataclass(frozen=True)
class PushForward:
    """The distribution of an activation's outputs: a density and point masses.

    Attributes:
        edges: Increasing outputs, shape (m + 1,).
        mass: Probability between neighbouring edges, shape (m,), without point masses.
        atoms: Positions and probabilities of the point masses, shape (number, 2). They come from point masses of the
            density and from intervals on which the activation is flat.

    Example:

    >>> from keras_actlab import eafo
    >>> outputs = eafo.push_forward("hard_tanh", eafo.Uniform(-2.0, 2.0))
    >>> outputs.atoms.round(4)
    array([[-1.  ,  0.25],
           [ 1.  ,  0.25]])
    >>> round(outputs.std, 4)
    0.8165
    """

    edges: np.ndarray
    mass: np.ndarray
    atoms: np.ndarray

    def pdf(self, x: Any) -> np.ndarray:
        """Returns the density at `x`, constant between two edges, without point masses."""
        x = np.asarray(x, "float64")
        if not len(self.mass):
            return np.zeros(x.shape)
        cell = np.searchsorted(self.edges, x, side="right") - 1
        inside = (cell >= 0) & (cell < len(self.mass))
        return np.where(inside, (self.mass / np.diff(self.edges))[np.clip(cell, 0, len(self.mass) - 1)], 0.0)

    @property
    def std(self) -> float:
        """Standard deviation of the outputs."""
        # Otherwise squares might overflow.
        scale = max(np.abs(self.edges).max(), np.abs(self.atoms[:, 0]).max(initial=0.0)) or 1.0
        left, right = self.edges[:-1] / scale, self.edges[1:] / scale
        places, shares = self.atoms.T
        places = places / scale
        total = self.mass.sum() + shares.sum()
        mean = (np.sum(self.mass * (left + right) / 2) + np.sum(shares * places)) / total
        left, right, places = left - mean, right - mean, places - mean
        square = np.sum(self.mass * (left**2 + left * right + right**2) / 3) + np.sum(shares * places**2)
        return float(scale * np.sqrt(square / total))

    @property
    def entropy(self) -> float:
        """Entropy in nats, as `keras_actlab.eafo.entropy` defines it."""
        kept = self.mass > 0
        mass, width = self.mass[kept], np.diff(self.edges)[kept]
        return float(-np.sum(mass * np.log(mass / width)) + np.sum(special.entr(self.atoms[:, 1])))

    @property
    def standardized_entropy(self) -> float:
        """Entropy in nats of the outputs divided by their standard deviation."""
        share = self.mass.sum()
        return self.entropy - float(share * np.log(self.std)) if share > 0 else self.entropy


def push_forward(activation: Any, density: Any) -> PushForward:
    r"""Returns the distribution of an activation's outputs.

    `q(x) = sum over the z with f(z) = x of p(z) / |f'(z)|`

    For an invertible activation this is the paper's `q(x) = p(y(x)) y'(x)`, with the inverse y. An interval on which
    the activation is flat becomes a point mass. Point masses of the density become point masses of the outputs. An
    activation is flat where its floating-point values no longer differ, such as tanh beyond 19.

    The activation is approximated as linear between points. They are dense enough for entropies within 1e-4 nats if the
    activation computes in float64: given by name or as a function of NumPy arrays. With functions and layers that
    compute in float32, entropies are accurate to about 1e-2 nats, and equal float32 values give point masses of about
    1e-4. The errors are larger where digits cancel, as in `z - tanh(z)` near 0.

    Args:
        activation: A name, such as "gelu"; a function of tensors or of NumPy arrays; or a layer that applies one
            function to all channels.
        density: A density of this module, or a distribution of `scipy.stats`.

    Returns:
        A `PushForward`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a name is unknown, the activation is not finite where the density is not 0, or the rounding
            errors are too large for the density.

    Example: half of the outputs of ReLU are 0.

    >>> from keras_actlab import eafo
    >>> outputs = eafo.push_forward("relu", eafo.Gaussian())
    >>> outputs.atoms.round(6)
    array([[0. , 0.5]])
    >>> outputs.pdf([-1.0, 1.0]).round(3)
    array([0.   , 0.242])
    """
    density = as_density(density)
    function, rounding = as_function(activation)
    return push_forward_of(tabulate(function, rounding, density), function, density)


def push_forward_of(table: Table, function: Function, density: Density) -> PushForward:
    """Returns the distribution of the outputs from a table that is fine enough."""
    steep = [*table.rising(), *table.falling()]
    # If the activation is flat everywhere, the first point is the only edge.
    edges = np.unique(np.concatenate([table.x[:1], *(table.x[run.start : run.stop + 1] for run in steep)]))
    mass = np.zeros(len(edges) - 1)
    for run in steep:
        x = table.x[run.start : run.stop + 1]
        below = np.append(0.0, np.cumsum(table.mass[run]))
        if table.direction[run.start] < 0:
            x, below = x[::-1], below[-1] - below[::-1]
        mass += np.maximum(np.diff(np.interp(edges, x, below)), 0.0)
    atoms = [(table.x[run.start], table.mass[run].sum()) for run in table.flat()]
    atoms += [(function(np.array([place]))[0], share) for place, share in density.atoms]
    return PushForward(edges, mass, _merge_atoms(np.array(atoms).reshape(-1, 2), table.rounding))


def _merge_atoms(atoms: np.ndarray, rounding: float) -> np.ndarray:
    """Returns point masses sorted by position, with equal positions merged and without those of probability 0."""
    places, shares = atoms[np.argsort(atoms[:, 0], kind="stable")].T
    apart = np.diff(places) > 8 * rounding * np.abs(places[1:])
    group = np.append(0, np.cumsum(apart)) if len(places) else np.zeros(0, int)
    places = places[np.append(True, apart)] if len(places) else places
    shares = np.bincount(group, shares, minlength=len(places))
    return np.stack([places, shares], axis=1)[shares > 0]


def entropy(activation: Any, density: Any) -> float:
    r"""Returns the entropy of an activation's outputs, in nats.

    `H = -integral of q(x) log q(x) dx - sum over point masses of P log P`

    with the density q of the outputs (see `push_forward`). For an invertible activation f and the density p this is the
    paper's functional, `H(p) + E[log |f'|]`. If f is not invertible, q is a sum over preimages; the paper leaves this
    case open. A point mass, such as the zeros of ReLU, contributes its discrete entropy: H is the entropy with respect
    to the length of intervals and the number of such points. Its accuracy is that of `push_forward`.

    Interpretation: of two smooth activations of similar scale, the one with less entropy concentrates the outputs more.
    Less entropy does not mean fewer bits: the entropy of a continuous quantity depends on its unit and can be negative.
    Doubling all outputs adds log 2 = 0.69. `standardized_entropy` does not depend on the unit. A point mass is not the
    limit of a narrow peak, because the entropy of the peak tends to minus infinity: do not compare ReLU, half of whose
    outputs are 0, with leaky ReLU of a tiny slope. The tail of CRReLU on z < 0 is such a peak for a small epsilon. On
    z > 0, where CRReLU increases, with the half-normal density, dH / d epsilon is +0.3536 at 0: a *negative* epsilon
    lowers the entropy.

    Args:
        activation: A name, such as "gelu"; a function of tensors or of NumPy arrays; or a layer that applies one
            function to all channels.
        density: A density of this module, or a distribution of `scipy.stats`.

    Returns:
        The entropy in nats.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a name is unknown, the activation is not finite where the density is not 0, or the rounding
            errors are too large for the density.

    Example: the entropy of N(0, 1) is log(2 pi e) / 2 = 1.4189. Its distribution function maps it to the uniform
    distribution on (0, 1), whose entropy is 0.

    >>> import scipy.stats
    >>> from keras_actlab import eafo
    >>> round(eafo.entropy("linear", eafo.Gaussian()), 4)
    1.4189
    >>> abs(round(eafo.entropy(scipy.stats.norm.cdf, eafo.Gaussian()), 4))
    0.0

    Reference:

    - [Sun et al., 2024](https://arxiv.org/abs/2405.12954), "A Method on Searching Better Activation Functions".
    """
    return push_forward(activation, density).entropy


def standardized_entropy(activation: Any, density: Any) -> float:
    """Returns the entropy of an activation's outputs divided by their standard deviation, in nats.

    `H(x / std) = H(x) - (1 - probability of all point masses) * log(std)`

    It does not change if the activation is scaled or shifted, as the next layer can do with its weights. Without point
    masses it is at most log(2 pi e) / 2 = 1.4189, the value of normal outputs; the difference is the negentropy. It
    describes the shape of the distribution, but not how sensitive outputs of this scale are to noise or rounding.

    Args:
        activation: As in `entropy`.
        density: As in `entropy`.

    Returns:
        The entropy in nats. If all outputs are point masses, it is their discrete entropy, which has no scale.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a name is unknown, the activation is not finite where the density is not 0, or the rounding
            errors are too large for the density.

    Example:

    >>> from keras_actlab import eafo
    >>> [round(eafo.standardized_entropy(f, eafo.Gaussian()), 4) for f in ("linear", lambda z: 5 * z + 1)]
    [1.4189, 1.4189]
    """
    return push_forward(activation, density).standardized_entropy
