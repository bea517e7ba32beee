"""Densities of pre-activations: analytic densities, and one that is estimated from samples."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from scipy import special, stats
from scipy.differentiate import derivative

from keras_actlab.arguments import check_number as check_number

# A value is a point mass if at least this share and this number of the samples have it exactly.
ATOM_SHARE, ATOM_COUNT = 0.005, 5
MIN_SAMPLES = 16
MAX_CENTRES = 512
BLOCK = 2048


class Density:
    """A probability distribution on the real line: a density and point masses.

    Args:
        distribution: A continuous distribution of `scipy.stats` with its parameters, such as `scipy.stats.t(df=3)`.

    Attributes:
        atoms: Array of shape (number, 2): positions and probabilities of the point masses. Only `Empirical` has any.

    Raises:
        TypeError: If `distribution` is not such a distribution.

    Example:

    >>> import scipy.stats
    >>> from keras_actlab import eafo
    >>> density = eafo.Density(scipy.stats.logistic())
    >>> float(density.pdf(0.0)), float(density.cdf(0.0))
    (0.25, 0.5)
    """

    def __init__(self, distribution: Any):
        if not isinstance(getattr(distribution, "dist", None), stats.rv_continuous):
            raise TypeError(
                "`distribution` must be a continuous distribution of scipy.stats with its parameters, such as "
                f"scipy.stats.norm(). Received: distribution={distribution!r}"
            )
        self._distribution = distribution
        self.atoms = np.zeros((0, 2))

    def __repr__(self) -> str:
        arguments = [*map(repr, self._distribution.args), *(f"{k}={v!r}" for k, v in self._distribution.kwds.items())]
        return f"{type(self).__name__}({self._distribution.dist.name}({', '.join(arguments)}))"

    def pdf(self, z: Any) -> np.ndarray:
        """Returns the density at `z`; its integral is 1 minus the probability of all point masses."""
        return self._distribution.pdf(z)

    def derivative(self, z: Any) -> np.ndarray:
        """Returns the derivative of the density at `z`."""
        step = 0.1 * float(np.diff(self.quantiles(np.array([0.25, 0.75])))[0])
        z = np.asarray(z, "float64")
        return derivative(self._distribution.pdf, z, preserve_shape=True, initial_step=step).df

    def cdf(self, z: Any) -> np.ndarray:
        """Returns the probability of values up to `z`, without point masses."""
        return self._distribution.cdf(z)

    def tails(self, z: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns the probabilities of values up to `z` and above `z`, each accurate where it is small."""
        return self._distribution.cdf(z), self._distribution.sf(z)

    def between(self, edges: np.ndarray) -> np.ndarray:
        """Returns the probability between neighbours of increasing `edges`, without point masses."""
        return differences(*self.tails(edges))

    def quantiles(self, probabilities: np.ndarray) -> np.ndarray:
        """Returns the quantiles of the density for the given probabilities; 0 and 1 give the ends of its support."""
        # Above the median, the survival function is used, because it is accurate for small probabilities.
        p = np.asarray(probabilities, "float64")
        return np.where(p < 0.5, self._distribution.ppf(p), self._distribution.isf(1.0 - p))


class Gaussian(Density):
    """The normal density.

    `p(z) = exp(-(z - mean)**2 / (2 std**2)) / (std sqrt(2 pi))`

    Args:
        mean: Its mean.
        std: Its standard deviation.

    Raises:
        ValueError: If `std` is not positive or an argument is not finite.

    Example:

    >>> from keras_actlab import eafo
    >>> round(float(eafo.Gaussian().pdf(0.0)), 4)
    0.3989
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0):
        check_number("mean", mean)
        check_number("std", std, positive=True)
        super().__init__(stats.norm(mean, std))
        self.mean, self.std = mean, std

    def derivative(self, z: Any) -> np.ndarray:
        return -(np.asarray(z) - self.mean) / self.std**2 * self.pdf(z)


class Laplace(Density):
    """The double exponential density.

    `p(z) = exp(-|z - mean| / scale) / (2 scale)`

    Args:
        mean: Its mean.
        scale: Mean distance from the mean.

    Raises:
        ValueError: If `scale` is not positive or an argument is not finite.

    Example:

    >>> from keras_actlab import eafo
    >>> float(eafo.Laplace(scale=2.0).pdf(0.0))
    0.25
    """

    def __init__(self, mean: float = 0.0, scale: float = 1.0):
        check_number("mean", mean)
        check_number("scale", scale, positive=True)
        super().__init__(stats.laplace(mean, scale))
        self.mean, self.scale = mean, scale

    def derivative(self, z: Any) -> np.ndarray:
        """Returns the derivative of the density at `z`. At the peak it is 0, the mean of both sides."""
        return -np.sign(np.asarray(z) - self.mean) / self.scale * self.pdf(z)


class Uniform(Density):
    """The density that is constant between two bounds.

    `p(z) = 1 / (upper - lower)  for  lower <= z <= upper`

    Args:
        lower: Lower bound.
        upper: Upper bound.

    Raises:
        ValueError: If `lower` is not less than `upper`, or one of them is not finite.

    Example:

    >>> from keras_actlab import eafo
    >>> float(eafo.Uniform(-1.0, 3.0).pdf(0.0))
    0.25
    """

    def __init__(self, lower: float = 0.0, upper: float = 1.0):
        check_number("lower", lower)
        check_number("upper", upper)
        if not lower < upper:
            raise ValueError(f"`lower` must be less than `upper`. Received: lower={lower}, upper={upper}")
        super().__init__(stats.uniform(lower, upper - lower))

    def derivative(self, z: Any) -> np.ndarray:
        """Returns 0. The steps at the bounds are ignored."""
        return np.zeros(np.shape(z))


class Empirical(Density):
    r"""A smooth density estimated from samples, such as the pre-activations of a layer.

    `p(z) = (1 - point masses) * mean over centres c of N(z; c, bandwidth**2)`

    A value that at least 0.5 % of the samples (and at least five) have exactly, such as the zeros after a ReLU, is a
    point mass. Point masses are stored in `atoms` and affect neither the density nor the bandwidth. The K centres are
    the quantiles of the n other samples at the probabilities (k + 1/2) / K, where K = n / 4, limited to 16 to 512. The
    outermost samples, two on either side or a thousandth of all, therefore have little effect.

    The bandwidth `min(std, IQR / 1.349) * (4 / (5 n))**(1/7)` is optimal for the *derivative* of a normal density, on
    which entropy corrections depend. It is wider than the usual rule for densities, and it smooths: estimated from
    samples of N(0, 1), the density has the variance 1 + bandwidth**2. The interquartile range (IQR) limits the effect
    of outliers.

    Args:
        samples: Numbers, an array of any shape.
        bandwidth: Standard deviation of the kernels, in units of the samples; None for the rule above.

    Attributes:
        atoms: Array of shape (number, 2): positions and probabilities of the point masses.
        bandwidth: Standard deviation of the kernels.
        std: Standard deviation of the density.

    Raises:
        ValueError: If a sample is NaN or infinite, fewer than 16 samples are left without the point masses, these are
            equal up to rounding, or `bandwidth` is not positive.

    Example: half of the outputs of a ReLU are zeros.

    >>> from keras_actlab import eafo
    >>> samples = np.random.default_rng(0).normal(size=(100, 20))
    >>> density = eafo.Empirical(np.maximum(samples, 0))
    >>> density.atoms.round(2)
    array([[0.  , 0.52]])

    Reference:

    - Chacon, Duong and Wand, 2011, "Asymptotics for general multivariate kernel density derivative estimators",
      Statistica Sinica 21, for the bandwidth.
    """

    def __init__(self, samples: Any, bandwidth: float | None = None):
        if bandwidth is not None:
            check_number("bandwidth", bandwidth, positive=True)
        numbers = finite_samples(samples)
        precision = np.finfo(np.result_type(np.asarray(samples), "float32")).eps
        self.atoms, rest = split_atoms(numbers)
        if len(rest) < MIN_SAMPLES:
            raise ValueError(
                f"`samples` must hold at least {MIN_SAMPLES} numbers besides point masses. Received: "
                f"{len(rest)} such numbers of {len(numbers)}, point masses at {self.atoms[:, 0].tolist()}"
            )
        lower, upper = np.quantile(rest, (0.25, 0.75))
        spread = min(np.std(rest), (upper - lower) / 1.349) or np.std(rest)
        if not spread > 64 * precision * max(abs(lower), abs(upper)):
            raise ValueError(
                f"`samples` must differ by more than rounding. Received: numbers about {lower:.6g} that differ by "
                f"{spread:.3g}"
            )
        if bandwidth is None:
            bandwidth = float(spread * (4 / (5 * len(rest))) ** (1 / 7))
        self.bandwidth = bandwidth
        centres = min(max(len(rest) // 4, MIN_SAMPLES), MAX_CENTRES)
        self._centres = np.quantile(rest, (np.arange(centres) + 0.5) / centres)
        self.std = float(np.hypot(np.std(self._centres), bandwidth))
        self._mass = 1.0 - self.atoms[:, 1].sum()

    def __repr__(self) -> str:
        return f"Empirical(bandwidth={self.bandwidth:.3g}, atoms={self.atoms.tolist()})"

    def _average(self, function: Callable[[np.ndarray], np.ndarray], z: Any) -> np.ndarray:
        """Returns the mean of a function of `(z - centre) / bandwidth` over the centres, times the density's mass."""
        z = np.asarray(z, "float64")
        # A single array would be `centres` times as large as z.
        blocks = np.array_split(z.ravel(), max(1, z.size // BLOCK))
        means = [function((part[:, None] - self._centres) / self.bandwidth).mean(axis=-1) for part in blocks]
        return self._mass * np.concatenate(means).reshape(z.shape)

    def pdf(self, z: Any) -> np.ndarray:
        return self._average(_normal, z) / self.bandwidth

    def derivative(self, z: Any) -> np.ndarray:
        return self._average(lambda t: -t * _normal(t), z) / self.bandwidth**2

    def cdf(self, z: Any) -> np.ndarray:
        return self._average(special.ndtr, z)

    def tails(self, z: Any) -> tuple[np.ndarray, np.ndarray]:
        return self.cdf(z), self._average(lambda t: special.ndtr(-t), z)

    def quantiles(self, probabilities: np.ndarray) -> np.ndarray:
        p = np.asarray(probabilities, "float64")
        found = np.interp(p, *self._table)
        return np.where(p <= 0, -np.inf, np.where(p >= 1, np.inf, found))

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities and values to interpolate, because quantiles of a mixture have no closed form."""
        around = self.bandwidth * np.array([-9, -6, -3, -1, 0, 1, 3, 6, 9])
        values = np.unique(self._centres + around[:, None])
        ends = values[[0, -1]]
        values = np.union1d(ends, values[:: -(-len(values) // MAX_CENTRES)])
        return self.cdf(values) / self._mass, values


def differences(below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Returns the probability between neighbours from those below and above each, without cancellation near 1."""
    return np.maximum(np.where(below[1:] < above[1:], np.diff(below), -np.diff(above)), 0.0)


def as_density(density: Any) -> Density:
    """Returns a density unchanged, and a distribution of scipy.stats as a `Density`. Raises a TypeError for others."""
    if isinstance(density, Density):
        return density
    if isinstance(getattr(density, "dist", None), stats.rv_continuous):
        return Density(density)
    raise TypeError(
        "`density` must be a density of keras_actlab.eafo, or a continuous distribution of scipy.stats with its "
        f"parameters. Received: density={density!r}"
    )


def finite_samples(samples: Any) -> np.ndarray:
    """Returns `samples` as a float64 vector. Raises unless they are finite numbers."""
    flat = np.asarray(samples)
    if flat.dtype.kind not in "iufb":
        raise TypeError(f"`samples` must be numbers. Received: an array of {flat.dtype}, samples={samples!r:.200}")
    flat = flat.astype("float64").ravel()
    finite = np.isfinite(flat)
    if not finite.all():
        raise ValueError(
            f"`samples` must be finite. Received: {np.count_nonzero(~finite)} of {flat.size} that are not, the first "
            f"at index {int(np.argmin(finite))}: {flat[np.argmin(finite)]}"
        )
    return flat


def split_atoms(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the point masses of a vector, (number, 2), with positions and shares, and the remaining samples."""
    values, inverse, counts = np.unique(samples, return_inverse=True, return_counts=True)
    heavy = counts >= max(ATOM_COUNT, ATOM_SHARE * len(samples))
    shares = counts[heavy] / max(1, len(samples))
    return np.stack([values[heavy], shares], axis=1), samples[~heavy[inverse]]


def _normal(t: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * t * t) / np.sqrt(2 * np.pi)
