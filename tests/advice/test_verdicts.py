import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from keras_actlab.advice.verdicts import Verdict, alpha_of_look, judge

pytestmark = pytest.mark.one_backend


def verdict(differences, baseline=None, **changes) -> Verdict:
    differences = np.asarray(differences, "float64")
    baseline = np.linspace(1, 2, len(differences)) if baseline is None else np.asarray(baseline)
    values = pd.DataFrame({"as is": baseline, "new": baseline + differences})
    options = {"sign": 1, "overlap": 0.0, "look": 1, "comparisons": 1, "smallest_effect": None}
    return judge("new", "accuracy", values, **options | changes)


def test_levels_of_all_looks_sum_to_less_than_five_percent():
    levels = [alpha_of_look(look, comparisons=3) for look in range(1, 10_000)]
    assert 0.0499 < 3 * sum(levels) < 0.05
    assert levels == sorted(levels, reverse=True)


def test_statistics_are_those_of_scipy_and_statsmodels():
    differences = np.random.default_rng(0).normal(0.1, 1, 12)
    found = verdict(differences, look=2, comparisons=3, smallest_effect=0.5)
    alpha = 0.05 / 6 / 3
    test = stats.ttest_1samp(differences, 0)
    low, high = test.confidence_interval(1 - alpha)
    assert found.p_value == pytest.approx(test.pvalue)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.level == pytest.approx(1 - alpha)
    power = TTestPower()
    assert found.detectable == pytest.approx(
        power.solve_power(nobs=12, alpha=alpha, power=0.8) * differences.std(ddof=1), rel=1e-4
    )
    # The next look is at level alpha / 2, being the third one.
    needed = power.solve_power(0.5 / differences.std(ddof=1), alpha=0.05 / 12 / 3, power=0.8)
    assert found.pairs_needed == np.ceil(needed)
    assert found.verdict == "cannot tell"
    assert f"{found.pairs_needed - 12} more pairs" in found.sentence


@pytest.mark.parametrize(("sign", "expected"), [(1, "better"), (-1, "worse")])
def test_direction_of_a_large_difference(sign, expected):
    found = verdict([1.0, 1.1, 0.9, 1.05, 0.95], sign=sign)
    assert found.verdict == expected
    assert f"new is {expected}" in found.sentence
    assert verdict([-1.0, -1.1, -0.9, -1.05, -0.95], sign=-sign).verdict == expected


@pytest.mark.parametrize("margin", [0.3, 0.9])
def test_equivalence_is_that_of_statsmodels(margin):
    differences = np.random.default_rng(1).normal(0, 1, 40)
    found = verdict(differences, smallest_effect=margin)
    p_value = ttost_paired(differences, np.zeros(40), -margin, margin)[0]
    assert (found.verdict == "no difference") == (p_value <= 0.025)
    assert found.smallest_effect == margin


def test_both_margins_of_equivalence_lead_to_different_verdicts():
    differences = np.random.default_rng(1).normal(0, 1, 40)
    found = [verdict(differences, smallest_effect=margin).verdict for margin in (0.3, 0.9)]
    assert found == ["cannot tell", "no difference"]


def test_smallest_effect_is_half_a_deviation_by_default():
    differences = np.random.default_rng(2).normal(0, 3, 10)
    assert verdict(differences).smallest_effect == pytest.approx(differences.std(ddof=1) / 2)


def test_overlapping_splits_have_wider_intervals():
    differences = np.random.default_rng(0).normal(size=10)
    plain, overlapping = verdict(differences), verdict(differences, overlap=0.25)
    ratio = (overlapping.high - overlapping.low) / (plain.high - plain.low)
    assert ratio == pytest.approx(np.sqrt((1 / 10 + 0.25) / (1 / 10)))
    assert overlapping.pairs_needed is None
    assert "No number of random splits" in overlapping.sentence


@pytest.mark.parametrize("difference", [0.0, 0.25])
def test_differences_that_do_not_vary_decide_nothing(difference):
    # Two accuracies on a small test part are often equal, or differ by the same number of examples.
    found = verdict([difference] * 2, baseline=[0.5, 0.5])
    assert found.verdict == "cannot tell"
    assert found.pairs_needed is None
    assert "nan" not in found.sentence
    assert "equal in all pairs" in found.sentence


def test_zero_differences_are_smaller_than_a_given_effect():
    found = verdict([0.0] * 5, smallest_effect=0.01)
    assert found.verdict == "no difference"
    assert "nan" not in found.sentence
    assert verdict([0.25] * 5, baseline=[0.5] * 5, smallest_effect=0.01).verdict == "cannot tell"


@pytest.mark.parametrize(("differences", "pairs"), [([0.1], 1), ([np.nan, 0.2, np.nan], 1), ([np.nan, np.nan], 0)])
def test_fewer_than_two_pairs_decide_nothing(differences, pairs):
    found = verdict(differences, failed=2, reason="ValueError: no")
    assert (found.verdict, found.pairs) == ("cannot tell", pairs)
    assert "two are needed" in found.sentence
    assert "2 fits failed and are left out: ValueError: no." in found.sentence
    assert "nan" not in found.sentence


def test_pairs_without_a_metric_are_left_out():
    found = verdict([1.0, np.nan, 1.1, 0.9, 1.2])
    assert found.pairs == 4
    assert found.difference == pytest.approx(1.05)
    assert found.mean - found.baseline == pytest.approx(1.05)


def test_false_verdicts_are_rare_over_three_looks_and_three_variants():
    rng = np.random.default_rng(0)
    runs, looks = 2000, (5, 10, 20)
    differences = rng.normal(size=(runs, 3, 20)) - rng.normal(size=(runs, 1, 20))
    rejected = [
        stats.ttest_1samp(differences[..., :pairs], 0, axis=-1).pvalue <= alpha_of_look(look, comparisons=3)
        for look, pairs in enumerate(looks, 1)
    ]
    assert 0 < np.any(rejected, axis=(0, 2)).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)
    # `judge` decides as these tests do, here where they reject and for some others.
    for look, pairs in enumerate(looks, 1):
        places = [*np.argwhere(rejected[look - 1])[:3], *np.argwhere(~rejected[look - 1])[:3]]
        found = [verdict(differences[run, k, :pairs], look=look, comparisons=3).verdict for run, k in places]
        is_false = [each in ("better", "worse") for each in found]
        assert is_false == [bool(rejected[look - 1][run, k]) for run, k in places]


def test_large_effects_are_found_with_the_promised_probability():
    rng = np.random.default_rng(0)
    differences = rng.normal(size=10)
    detectable = verdict(differences).detectable / differences.std(ddof=1)
    tests = stats.ttest_1samp(rng.normal(detectable, 1, (2000, 10)), 0, axis=-1)
    found = (tests.pvalue <= 0.025) & (tests.statistic > 0)
    assert found.mean() == pytest.approx(0.8, abs=3 * np.sqrt(0.16 / 2000))


@pytest.mark.parametrize("kind", ["changes nothing", "failed"])
def test_sentences_without_numbers(kind):
    sentence = Verdict("relu", kind, "accuracy", reason="the model has it already").sentence
    assert sentence.startswith("relu ")
    assert sentence.endswith("the model has it already.")
