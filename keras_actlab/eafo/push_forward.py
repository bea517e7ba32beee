"""What an activation makes of a density, and its entropy."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import special

from keras_actlab.eafo.densities import Density, as_density, differences
from keras_actlab.eafo.functions import Function, as_function

# Probability that is left out in each tail of an unbounded density.
TAIL = 1e-10
POINTS, MAX_POINTS = 4096, 50_000
# Differences below are of numbers that have lost digits at the end of what floating-point numbers reach.
TINY = 1e-290
# The largest rounding error of the places, in parts of their range, with which entropies can be computed.
MAX_ROUNDING = 1e-5
# A cell is split while this may be its error of the entropy, in nats; how often, and in how many parts each time.
CELL_ERROR, ROUNDS, PARTS = 1e-9, 8, 8


@dataclass(frozen=True)
class Table:
    """An activation and a density on common points.

    Attributes:
        z: Increasing points.
        x: The activation there.
        mass: Probability between neighbours.
        rounding: Relative rounding error of `x`.
    """

    z: np.ndarray
    x: np.ndarray
    mass: np.ndarray
    rounding: float

    @cached_property
    def direction(self) -> np.ndarray:
        """For each cell between neighbours 1 where the activation rises, -1 where it falls, 0 where it is flat."""
        step = np.diff(self.x)
        size = np.maximum(np.abs(self.x[1:]), np.abs(self.x[:-1]))
        flat = np.abs(step) <= np.maximum(4 * self.rounding * size, TINY)
        return np.where(flat, 0, np.sign(step)).astype(int)

    def flat(self) -> list[slice]:
        """Returns the runs of cells in which the activation is flat."""
        return runs(self.direction == 0)

    def rising(self) -> list[slice]:
        """Returns the runs of cells in which the activation rises."""
        return runs(self.direction > 0)

    def falling(self) -> list[slice]:
        """Returns the runs of cells in which the activation falls."""
        return runs(self.direction < 0)


def runs(chosen: np.ndarray) -> list[slice]:
    """Returns the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]])))
    return [slice(*pair) for pair in edges.reshape(-1, 2)]


def support(density: Density) -> tuple[float, float]:
    """Returns between which points nearly all of a density is."""
    ends, inner = density.quantiles(np.array([0.0, 1.0])), density.quantiles(np.array([TAIL, 1.0 - TAIL]))
    lower, upper = np.where(np.isfinite(ends), ends, inner)
    return float(lower), float(upper)


def tabulate(function: Function, rounding: float, density: Density) -> Table:
    """Returns a table of an activation that is finer where its slope, or the density, changes quickly."""
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
    # Nearly all activations bend at 0, which then is in no cell but between two.
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
    """The density of the outputs counts as constant in a cell: the error is the square of what its logarithm does."""
    step = np.abs(np.diff(table.x))
    with np.errstate(divide="ignore", invalid="ignore"):
        log_density = np.where(table.direction == 0, np.inf, np.log(table.mass) - np.log(step))
        change = np.abs(np.diff(log_density))
    change = np.minimum(np.where(np.isnan(change), 0.0, change), 1.0)  # NaN between two that are flat, or empty
    change = np.maximum(np.append(change, 0.0), np.append(0.0, change))
    size = np.maximum(np.abs(table.x[1:]), np.abs(table.x[:-1]))
    exact = (step > 1e3 * table.rounding * size) | (table.direction == 0)
    wide = np.diff(table.z) > 1e-12 * np.maximum(np.abs(table.z[1:]), np.abs(table.z[:-1]))
    return (table.mass * change**2 / 24 > CELL_ERROR) & exact & wide


@dataclass(frozen=True)
class PushForward:
    """The distribution of an activation's outputs: a density, and point masses.

    Attributes:
        edges: Increasing outputs, shape (m + 1,).
        mass: Probability between neighbouring edges, shape (m,), point masses left out.
        atoms: Places and probabilities of the point masses, shape (number, 2): of the density itself, and where the
            activation is flat.

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
        """Returns the density at `x`, constant between two edges; its integral leaves out the point masses."""
        x = np.asarray(x, "float64")
        if not len(self.mass):
            return np.zeros(x.shape)
        cell = np.searchsorted(self.edges, x, side="right") - 1
        inside = (cell >= 0) & (cell < len(self.mass))
        return np.where(inside, (self.mass / np.diff(self.edges))[np.clip(cell, 0, len(self.mass) - 1)], 0.0)

    @property
    def std(self) -> float:
        """Standard deviation of the outputs."""
        scale = max(np.abs(self.edges).max(), np.abs(self.atoms[:, 0]).max(initial=0.0)) or 1.0  # squares overflow
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
        """Entropy in nats, as `keras_actlab.eafo.entropy` describes it."""
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

    For an invertible activation this is the paper's `q(x) = p(y(x)) y'(x)`, with the inverse y. Where the activation is
    flat, the probability of that place is a point mass, as are the images of the density's own point masses. Flat is
    what no longer differs in floating-point numbers, such as tanh beyond 19.

    The activation is taken as linear between points that are dense enough for entropies within 1e-4 nats, where it is
    computed in float64: by name or as a function of NumPy arrays. Functions and layers that compute in float32 give
    about 1e-2, point masses of some 1e-4 where their values no longer differ, and worse where digits cancel, as in
    `z - tanh(z)` near 0.

    Args:
        activation: A name, such as "gelu"; a function of tensors or of NumPy arrays; or a layer that is one function
            for all channels.
        density: A density of this module, or a distribution of `scipy.stats`.

    Returns:
        A `PushForward`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a name is not known, the activation is not finite where the density is not 0, or rounding errors
            are too large for the density.

    Example: half of what ReLU puts out is 0.

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
    """Returns the distribution of outputs, given a table that is fine enough."""
    steep = [*table.rising(), *table.falling()]
    # The first point alone, if there is none.
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
    """Returns point masses in the order of their places, those at one place as one, and none of probability 0."""
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
    paper's functional, `H(p) + E[log |f'|]`. For one that is not, q is a sum over preimages, our answer to a question
    that the paper leaves open. A point mass, such as the zeros of ReLU, counts with its discrete entropy: H is the
    entropy with respect to the length of intervals and the number of such points. Its accuracy is that of
    `push_forward`.

    What it means: of two smooth activations of a similar scale, the one with less entropy gathers the outputs more. It
    does not mean fewer bits. The entropy of a continuous quantity moves with its unit: outputs that are all doubled
    have log 2 = 0.69 more, and it can be negative. `standardized_entropy` does not move so. Nor is a point mass the
    limit of a narrow peak, whose entropy goes to minus infinity: do not compare ReLU, half of whose outputs are 0, with
    leaky ReLU of a tiny slope. CRReLU's tail on z < 0 is such a peak for a small epsilon. On the part where it
    increases, z > 0 with the half-normal density, dH / d epsilon is +0.3536 at 0: *negative* epsilon lowers entropy.

    Args:
        activation: A name, such as "gelu"; a function of tensors or of NumPy arrays; or a layer that is one function
            for all channels.
        density: A density of this module, or a distribution of `scipy.stats`.

    Returns:
        The entropy in nats.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a name is not known, the activation is not finite where the density is not 0, or rounding errors
            are too large for the density.

    Example: the entropy of N(0, 1) is log(2 pi e) / 2 = 1.4189; its distribution function makes it uniform on (0, 1).

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

    It does not change when the activation is multiplied by a number or one is added to it, as the next layer can do
    with its weights. Without point masses it is at most log(2 pi e) / 2 = 1.4189, which normal outputs have; the
    difference is known as negentropy. It tells shapes apart, and nothing about how much noise or rounding the scale of
    the outputs can bear.

    Args:
        activation: As in `entropy`.
        density: As in `entropy`.

    Returns:
        The entropy in nats. Where all outputs are point masses, that of the points, which has no scale.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a name is not known, the activation is not finite where the density is not 0, or rounding errors
            are too large for the density.

    Example:

    >>> from keras_actlab import eafo
    >>> [round(eafo.standardized_entropy(f, eafo.Gaussian()), 4) for f in ("linear", lambda z: 5 * z + 1)]
    [1.4189, 1.4189]
    """
    return push_forward(activation, density).standardized_entropy
