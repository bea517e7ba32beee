"""Statistics of paired differences: interval, tests of difference and of equivalence, power."""

import bisect
import math
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import stats
from scipy.optimize import elementwise

from keras_actlab.arguments import check_number, numbers

# The largest number of pairs that `pairs_needed` considers.
MAX_PAIRS = 1_000_000
# From this number of standard errors on, the power has a simpler formula.
FAR = 1000.0


@dataclass(frozen=True, eq=False)
class Paired:
    r"""Statistics of the differences between two methods, one difference for each pair of fits.

    The n differences have a mean and a standard deviation s. The mean is taken to have the standard error

    `error = s * sqrt(1 / n + overlap)`

    and `(mean - true mean) / error` to follow Student's t with n - 1 degrees of freedom. Random splits of one table
    overlap, so that their differences are not independent. For them, `overlap` is the number of test examples divided
    by the number of training examples (Nadeau and Bengio); it is 0 for independent pairs. With an overlap, the error
    does not vanish as n grows, so that small effects are not found by any number of pairs.

    One pair, or differences that are equal up to rounding (1e-9 of the mean), have no distribution. All statistics but
    the mean are then NaN, and `pairs_needed` is None, with one exception: if all of at least two differences are 0, the
    p-value is 1, and the p-value of equivalence is 0.

    Args:
        differences: Finite numbers, shape `(pairs,)`: metric of a method minus metric of the baseline.
        overlap: Test examples / training examples of splits that overlap.

    Attributes:
        differences: The same as a float64 array.

    Raises:
        TypeError: If an argument does not consist of numbers.
        ValueError: If there is no difference, the array has another rank or is not finite, or `overlap` is negative.

    Example:

    >>> from keras_actlab import experiments
    >>> pairs = experiments.Paired([0.2, 0.5, 0.1, 0.4, 0.3])
    >>> low, high = pairs.interval()
    >>> f"{pairs.mean:.2f}, 95 % interval {low:.2f} to {high:.2f}, p = {pairs.p_value:.3f}"
    '0.30, 95 % interval 0.10 to 0.50, p = 0.013'
    >>> pairs.pairs_needed(effect=0.1, alpha=0.05)
    22

    Reference:

    - [Nadeau and Bengio, 2003](https://doi.org/10.1023/A:1024068626366)
    - [Schuirmann, 1987](https://doi.org/10.1007/BF01068419), equivalence by two one-sided tests
    """

    differences: Any
    overlap: float = 0.0

    def __post_init__(self) -> None:
        differences = numbers("differences", self.differences)
        if differences.ndim != 1 or not len(differences) or not np.isfinite(differences).all():
            raise ValueError(
                "`differences` must be a one-dimensional array of at least one finite number. "
                f"Received: differences={self.differences!r:.200}"
            )
        check_number("overlap", self.overlap)
        if self.overlap < 0:
            raise ValueError(f"`overlap` must not be negative. Received: overlap={self.overlap}")
        object.__setattr__(self, "differences", differences)

    @property
    def pairs(self) -> int:
        """The number of pairs, n."""
        return len(self.differences)

    @property
    def mean(self) -> float:
        """The mean difference."""
        return float(self.differences.mean())

    @property
    def deviation(self) -> float:
        """The standard deviation of the differences, s; NaN for one pair."""
        return float(self.differences.std(ddof=1)) if self.pairs > 1 else math.nan

    @property
    def error(self) -> float:
        """The standard error of the mean difference; NaN for one pair."""
        return self._error(self.pairs)

    def _error(self, pairs: int) -> float:
        return self.deviation * math.sqrt(1 / pairs + self.overlap)

    @cached_property
    def _student(self) -> Any:
        """The distribution of the true mean, given the differences; None if there is none."""
        known = self.error > 1e-9 * abs(self.mean)  # False also for NaN
        return stats.t(self.pairs - 1, self.mean, self.error) if known else None

    @property
    def _all_zero(self) -> bool:
        return self.pairs > 1 and not self.differences.any()

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Returns the ends of the confidence interval of the true mean difference.

        Args:
            level: Probability that the interval covers it, between 0 and 1.
        """
        _check_probability("level", level)
        low, high = self._student.interval(level) if self._student else (math.nan, math.nan)
        return float(low), float(high)

    @property
    def p_value(self) -> float:
        """The p-value of the two-sided t-test of the hypothesis that the true mean difference is 0."""
        if self._student is None:
            return 1.0 if self._all_zero else math.nan
        return float(2 * min(self._student.cdf(0), self._student.sf(0)))

    def equivalence(self, margin: float) -> float:
        """Returns the p-value of the hypothesis that the true mean difference is at least `margin` in size.

        It is the larger one of the p-values of two one-sided t-tests. If it is below alpha, the methods are equivalent:
        the true mean difference lies between -margin and margin.

        Args:
            margin: The smallest difference that matters, positive, in the units of the differences.
        """
        check_number("margin", margin, positive=True)
        if self._student is None:
            return 0.0 if self._all_zero else math.nan
        return float(max(self._student.cdf(-margin), self._student.sf(margin)))

    def power(self, effect: float, alpha: float) -> float:
        """Returns the probability that the two-sided t-test finds a true mean difference.

        The number of pairs, the overlap and the standard deviation are those of these pairs.

        Args:
            effect: The true mean difference, in the units of the differences.
            alpha: Significance level of the test, between 0 and 1.
        """
        check_number("effect", effect)
        _check_probability("alpha", alpha)
        if self._student is None:
            return math.nan
        return float(_power(abs(effect) / self.error, self.pairs - 1, alpha))

    def detectable(self, alpha: float, power: float = 0.8) -> float:
        """Returns the smallest true mean difference that the two-sided t-test finds with a given probability.

        Args:
            alpha: Significance level of the test, between 0 and 1.
            power: The probability, between alpha and 1.
        """
        _check_probability("alpha", alpha)
        _check_probability("power", power, above=alpha)
        if self._student is None:
            return math.nan

        def missing(shift: Any) -> Any:
            return _power(shift, self.pairs - 1, alpha) - power

        bracket = elementwise.bracket_root(missing, 0.0, 1.0, xmin=0.0).bracket
        return float(elementwise.find_root(missing, bracket).x) * self.error

    def pairs_needed(self, effect: float, alpha: float, power: float = 0.8) -> int | None:
        """Returns the smallest number of pairs, those at hand included, that finds a true mean difference.

        It is found by the two-sided t-test with a given probability if the standard deviation and the overlap remain
        those of these pairs.

        Args:
            effect: The true mean difference, positive, in the units of the differences.
            alpha: Significance level of the test, between 0 and 1.
            power: The probability, between alpha and 1.

        Returns:
            The number of pairs. None if no number, or none up to 1,000,000, is enough, or if the pairs have no
            distribution.
        """
        check_number("effect", effect, positive=True)
        _check_probability("alpha", alpha)
        _check_probability("power", power, above=alpha)
        if self._student is None:
            return None
        candidates = range(2, MAX_PAIRS + 1)
        place = bisect.bisect_left(
            candidates, power, key=lambda pairs: _power(effect / self._error(pairs), pairs - 1, alpha)
        )
        return candidates[place] if place < len(candidates) else None


def _power(shift: Any, freedom: int, alpha: float) -> Any:
    """The power of the two-sided t-test, if the true mean is `shift` standard errors away from 0.

    It is not statsmodels' `TTestPower`, which is NaN in many places, for example for 40 pairs and 9.5 standard errors.
    """
    critical = stats.t.isf(alpha / 2, freedom)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Error in function cdf", RuntimeWarning)
        # At most the normal distribution's tail below -shift. SciPy returns NaN for some values below 1e-15.
        lower = np.nan_to_num(stats.nct.cdf(-critical, freedom, np.minimum(shift, 10)))
        near = stats.nct.sf(critical, freedom, np.minimum(shift, FAR)) + lower
    # SciPy can take minutes for larger shifts. The numerator of t varies by 1 / shift there, which changes the power by
    # less than 1e-6, so that chi-squared of the denominator decides.
    ratio = np.minimum(shift / critical, 1e100)
    return np.where(shift > FAR, stats.chi2.cdf(freedom * ratio**2, freedom), near)


def _check_probability(name: str, value: Any, above: float = 0.0) -> None:
    check_number(name, value)
    if not above < value < 1:
        raise ValueError(f"`{name}` must be between {above} and 1. Received: {name}={value}")
