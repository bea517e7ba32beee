"""Verdicts on variants: better, worse, no difference larger than a limit, or undecided."""

import dataclasses
import math

import pandas as pd

from keras_actlab.experiments import Paired

# Probability of any false "better" or "worse", over all variants and all looks at growing data; likewise for any false
# "no difference".
ALPHA = 0.05
# Probability with which a difference of the stated size is found.
POWER = 0.8
# The default of the smallest difference that matters, in standard deviations of a pair.
SMALLEST = 0.5
# Backends compute metrics in float32. Smaller differences, relative to the metric, are rounding errors.
ROUNDING = 1e-6


def alpha_of_look(look: int, comparisons: int) -> float:
    """Returns the level of each test at a look, `ALPHA / (look * (look + 1)) / comparisons`.

    The levels of all looks sum to less than `ALPHA`, because 1/2 + 1/6 + 1/12 + ... = 1. By the union bound, the
    probability of any false verdict is at most `ALPHA`, however many looks there are, when they are taken, and however
    the variants depend on each other.

    Args:
        look: Number of the look, from 1. The data grow from look to look.
        comparisons: Number of variants that are compared at this look.
    """
    return ALPHA / (look * (look + 1)) / comparisons


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a run says about one variant.

    Attributes:
        variant: Name of the variant.
        verdict: "better", "worse", "no difference", "cannot tell", "changes nothing" or "failed".
        metric: Name of the metric.
        pairs: Number of pairs with finite metrics on both sides.
        failed: Number of fits of the variant that failed.
        baseline: Mean metric of the model as it is, over these pairs.
        mean: Mean metric of the variant.
        difference: Mean of the paired differences, variant minus "as is".
        low: Lower end of the interval of the difference.
        high: Upper end of it.
        level: Level of the interval. It allows for the number of variants and of looks.
        p_value: Two-sided p-value of the paired t-test, to be compared with 1 - `level`.
        smallest_effect: Smallest difference that matters.
        detectable: Smallest true difference that this run finds with 80 % probability.
        pairs_needed: Number of pairs, in total, with which the next look would find `smallest_effect` with 80 %
            probability; None if no number does, because random splits share examples.
        reason: Why a variant changes nothing or failed.

    Example:

    >>> from keras_actlab.advice import Verdict
    >>> Verdict("relu", "changes nothing", "accuracy", reason="the model has it already").sentence
    'relu changes nothing in this model: the model has it already.'
    """

    variant: str
    verdict: str
    metric: str
    pairs: int = 0
    failed: int = 0
    baseline: float = math.nan
    mean: float = math.nan
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    level: float = math.nan
    p_value: float = math.nan
    smallest_effect: float = math.nan
    detectable: float = math.nan
    pairs_needed: int | None = None
    reason: str = ""

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        if self.verdict == "changes nothing":
            return f"{self.variant} changes nothing in this model: {self.reason}."
        if self.verdict == "failed":
            return f"{self.variant} failed in all fits: {self.reason}."
        failures = f" {self.failed} fits failed and are left out: {self.reason}." if self.failed else ""
        if self.pairs < 2:
            return f"{self.variant}: cannot tell from {self.pairs} pairs with both metrics; two are needed.{failures}"
        interval = (
            "equal in all pairs"
            if math.isnan(self.low)
            else f"{100 * self.level:.4g} % interval {self.low:+.3g} to {self.high:+.3g}"
        )
        numbers = (
            f"{self.metric} {self.mean:.4g} instead of {self.baseline:.4g}, difference {self.difference:+.3g} "
            f"({interval}, {self.pairs} pairs)"
        )
        if self.verdict in ("better", "worse"):
            return f"{self.variant} is {self.verdict}: {numbers}.{failures}"
        if self.verdict == "no difference":
            return f"{self.variant}: no difference larger than {self.smallest_effect:.3g} ({numbers}).{failures}"
        return f"{self.variant}: cannot tell ({numbers}). {self._power}{failures}"

    @property
    def _power(self) -> str:
        if math.isnan(self.detectable):
            return "More pairs, or a larger test part, show how much the difference varies."
        if self.pairs_needed is None:
            more = (
                f"No number of random splits of these examples would find {self.smallest_effect:.3g} as reliably; more "
                "examples would."
            )
        else:
            more = (
                f"{max(self.pairs_needed - self.pairs, 1)} more pairs would find {self.smallest_effect:.3g} with the "
                "same probability."
            )
        return f"A true difference of {self.detectable:.3g} would be found with 80 % probability. {more}"


def judge(
    variant: str,
    metric: str,
    values: pd.DataFrame,
    *,
    sign: int,
    overlap: float,
    look: int,
    comparisons: int,
    smallest_effect: float | None,
    failed: int = 0,
    reason: str = "",
) -> Verdict:
    """Returns the verdict on one variant.

    With a paired t-test at `alpha_of_look`, the variant is better or worse if 0 lies outside of the interval. There is
    no difference larger than `smallest_effect` if two one-sided t-tests at the same level reject larger ones. Else the
    run cannot tell.

    Args:
        variant: Name of the variant.
        metric: Name of the metric.
        values: The metric of "as is" (first column) and of the variant (second column) in each pair (rows).
        sign: 1 if high values are better, -1 if low ones are.
        overlap: Ratio of test to training examples for random splits of one table, otherwise 0 (see
            `keras_actlab.experiments.Paired`).
        look: Number of the look, from 1.
        comparisons: Number of variants that are compared.
        smallest_effect: Smallest difference that matters. None for `SMALLEST` standard deviations of a pair.
        failed: Number of fits of the variant that failed.
        reason: Why the first of them failed.

    Reference:

    - [Schuirmann, 1987](https://doi.org/10.1007/BF01068419), two one-sided tests.
    """
    known = values.dropna()
    if len(known) < 2:
        return Verdict(variant, "cannot tell", metric, len(known), failed, reason=reason)
    differences = known.iloc[:, 1] - known.iloc[:, 0]
    rounding = ROUNDING * known.iloc[:, 0].abs()
    pairs = Paired(differences.where(differences.abs() > rounding, 0.0).to_numpy(), overlap)
    alpha = alpha_of_look(look, comparisons)
    low, high = pairs.interval(1 - alpha)
    limit = SMALLEST * pairs.deviation if smallest_effect is None else smallest_effect
    if pairs.p_value <= alpha:
        verdict = "better" if sign * pairs.mean > 0 else "worse"
    elif limit > 0 and pairs.equivalence(limit) <= alpha:
        verdict = "no difference"
    else:
        verdict = "cannot tell"
    undecided = verdict == "cannot tell" and limit > 0
    return Verdict(
        variant,
        verdict,
        metric,
        len(known),
        failed,
        baseline=known.iloc[:, 0].mean(),
        mean=known.iloc[:, 1].mean(),
        difference=pairs.mean if abs(pairs.mean) > rounding.mean() else 0.0,
        low=low,
        high=high,
        level=1 - alpha,
        p_value=pairs.p_value,
        smallest_effect=limit,
        detectable=pairs.detectable(alpha, POWER),
        pairs_needed=pairs.pairs_needed(limit, alpha_of_look(look + 1, comparisons), POWER) if undecided else None,
        reason=reason,
    )
