import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from keras_actlab.experiments import Paired

pytestmark = pytest.mark.one_backend

HERE, THERE = np.array([1.3, 1.2, 1.1, 1.6, 1.4]), np.array([1.0, 1.2, 0.9, 1.4, 1.1])


def simulated(count, pairs, overlap, effect):
    """Pairs with standard deviation 1 that share an error, as those of splits that overlap do."""
    rng = np.random.default_rng(0)
    return effect + rng.normal(size=(count, pairs)) + np.sqrt(overlap) * rng.normal(size=(count, 1))


def found(differences, overlap, alpha):
    """Share of samples in which a t-test written out in NumPy finds a difference."""
    pairs = differences.shape[1]
    error = differences.std(axis=1, ddof=1) * np.sqrt(1 / pairs + overlap)
    return np.mean(abs(differences.mean(axis=1) / error) > stats.t.isf(alpha / 2, pairs - 1))


def of_deviation_one(pairs, overlap=0.0):
    values = np.random.default_rng(0).normal(size=pairs)
    return Paired(values / values.std(ddof=1), overlap)


def test_mean_interval_and_p_value_are_those_of_scipy():
    paired, expected = Paired(HERE - THERE), stats.ttest_rel(HERE, THERE)
    assert (paired.pairs, paired.mean) == (5, pytest.approx(np.mean(HERE - THERE)))
    assert paired.error == pytest.approx(stats.sem(HERE - THERE))
    assert paired.p_value == pytest.approx(expected.pvalue)
    for level in (0.5, 0.95):
        assert paired.interval(level) == pytest.approx(tuple(expected.confidence_interval(level)))


@pytest.mark.parametrize("margin", [0.05, 0.3, 1.0])
def test_equivalence_is_that_of_statsmodels(margin):
    expected = DescrStatsW(HERE - THERE).ttost_mean(-margin, margin)[0]
    assert Paired(HERE - THERE).equivalence(margin) == pytest.approx(expected)
    assert Paired(THERE - HERE).equivalence(margin) == pytest.approx(expected)


def test_overlap_widens_the_error():
    paired = Paired(HERE - THERE, overlap=0.25)
    assert paired.error == pytest.approx(paired.deviation * np.sqrt(1 / 5 + 0.25))
    assert paired.p_value == pytest.approx(2 * stats.t.sf(paired.mean / paired.error, 4))
    low, high = paired.interval()
    assert (high - low) / 2 / paired.error == pytest.approx(stats.t.ppf(0.975, 4))


@pytest.mark.parametrize("overlap", [0.0, 0.25])
def test_intervals_cover_the_true_mean_as_often_as_they_say(overlap):
    draws = [Paired(row, overlap).interval(0.8) for row in simulated(400, 6, overlap, effect=2.0)]
    assert np.mean([low < 2 < high for low, high in draws]) == pytest.approx(0.8, abs=3 * np.sqrt(0.8 * 0.2 / 400))


@pytest.mark.parametrize(
    ("pairs", "overlap", "effect", "alpha"), [(5, 0, 1.5, 0.05), (10, 0.25, 1.2, 0.05), (3, 0, 4, 0.01), (6, 0, 0, 0.1)]
)
def test_power_is_the_share_of_samples_in_which_the_test_finds_the_effect(pairs, overlap, effect, alpha):
    share = found(simulated(20_000, pairs, overlap, effect), overlap, alpha)
    # The simulated deviation is 1, and so is that of the pairs which promise the power.
    assert of_deviation_one(pairs, overlap).power(effect, alpha) == pytest.approx(share, abs=0.012)
    assert of_deviation_one(pairs, overlap).power(-effect, alpha) == pytest.approx(share, abs=0.012)


def test_power_is_that_of_statsmodels_where_it_has_a_value():
    for pairs in (3, 10, 40):
        for overlap in (0.0, 0.1):
            paired = of_deviation_one(pairs, overlap)
            effects = np.array([0.0, 0.3, 0.6, 0.9])
            expected = TTestPower().power(effects, nobs=1 / (1 / pairs + overlap), alpha=0.05, df=pairs - 1)
            assert [paired.power(effect, 0.05) for effect in effects] == pytest.approx(list(expected), rel=1e-6)


@pytest.mark.parametrize("pairs", [2, 5, 100])
@pytest.mark.parametrize("alpha", [0.05, 1e-3, 1e-5])
def test_power_grows_from_alpha_to_one(pairs, alpha):
    paired = of_deviation_one(pairs)
    critical = stats.t.isf(alpha / 2, pairs - 1) * paired.error
    powers = [paired.power(effect, alpha) for effect in [0, *np.geomspace(0.01, 100, 20) * critical]]
    assert powers[0] == pytest.approx(alpha)
    assert powers[-1] == pytest.approx(1)
    assert np.all(np.diff(powers) > -1e-12)


@pytest.mark.parametrize(("pairs", "alpha", "shift"), [(2, 2e-4, 2500), (3, 1e-6, 1100), (2, 1e-8, 3e7)])
def test_power_is_right_for_effects_of_thousands_of_standard_errors(pairs, alpha, shift):
    paired, critical = of_deviation_one(pairs), stats.t.isf(alpha / 2, pairs - 1)
    chi = np.sqrt(stats.chi2.ppf((np.arange(100_000) + 0.5) / 100_000, pairs - 1) / (pairs - 1))
    expected = stats.norm.cdf(shift - critical * chi).mean()  # over equally probable values of the denominator of t
    assert 0.2 < expected < 0.99
    assert paired.power(shift * paired.error, alpha) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("pairs", [2, 5, 100])
@pytest.mark.parametrize(("alpha", "power"), [(0.05, 0.8), (1e-8, 0.8), (0.05, 0.99), (0.05, 0.06)])
def test_a_detectable_difference_has_the_power(pairs, alpha, power):
    paired = of_deviation_one(pairs, overlap=0.1)
    assert paired.power(paired.detectable(alpha, power), alpha) == pytest.approx(power, rel=1e-6)
    assert Paired(10 * paired.differences, 0.1).detectable(alpha, power) == pytest.approx(
        10 * paired.detectable(alpha, power)
    )


def test_more_pairs_detect_smaller_differences_and_overlap_larger_ones():
    by_pairs = [of_deviation_one(pairs).detectable(0.05) for pairs in (2, 3, 5, 10, 100)]
    assert by_pairs == sorted(by_pairs, reverse=True)
    by_overlap = [of_deviation_one(10, overlap).detectable(0.05) for overlap in (0, 0.1, 0.5)]
    assert by_overlap == sorted(by_overlap)


@pytest.mark.parametrize(("overlap", "effect", "alpha"), [(0.0, 1.0, 0.05), (0.0, 0.1, 0.01), (0.1, 1.2, 0.05)])
def test_pairs_needed_is_the_smallest_number_with_the_power(overlap, effect, alpha):
    needed = of_deviation_one(7, overlap).pairs_needed(effect, alpha)
    assert of_deviation_one(needed, overlap).power(effect, alpha) >= 0.8
    assert of_deviation_one(needed - 1, overlap).power(effect, alpha) < 0.8


def test_pairs_needed_is_none_where_no_number_is_enough():
    z = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)  # standard errors that a test with known deviation detects
    floor = z * np.sqrt(0.25)  # the effect, in standard deviations, that an infinite number of pairs finds
    overlapping = of_deviation_one(7, overlap=0.25)
    assert overlapping.pairs_needed(0.999 * floor, 0.05) is None
    assert overlapping.pairs_needed(1.01 * floor, 0.05) < 1000
    assert of_deviation_one(7).pairs_needed(1.01 * z / 1000, 0.05) < 1_000_000
    assert of_deviation_one(7).pairs_needed(0.99 * z / 1000, 0.05) is None


@pytest.mark.parametrize(
    "differences", [[0.5], [0.0], [0.5, 0.5, 0.5], 1.1 - np.array([0.1, 0.1 + 1e-17, 0.1 - 1e-17])]
)
def test_pairs_without_a_distribution_have_no_statistics(differences):
    paired = Paired(differences)
    assert paired.mean == differences[0]
    values = [
        *paired.interval(),
        paired.p_value,
        paired.equivalence(10),
        paired.power(1, 0.05),
        paired.detectable(0.05),
    ]
    assert np.isnan(values).all()
    assert paired.pairs_needed(1, 0.05) is None


def test_methods_that_never_differ_are_equivalent():
    paired = Paired(np.zeros(3), overlap=0.2)
    assert paired.p_value == 1
    assert paired.equivalence(1e-300) == 0
    assert np.isnan(paired.interval()).all()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (([],), ValueError, "`differences` must be a one-dim.*at least one"),
        (([1.0, np.nan],), ValueError, "`differences`.*finite"),
        (([1.0, np.inf],), ValueError, "`differences`.*finite"),
        (([[1.0, 2.0]],), ValueError, "`differences` must be a one-dimensional"),
        (("abc",), TypeError, "`differences` must be an array of numbers"),
        (([1.0, 2.0], -0.1), ValueError, "`overlap` must not be negative"),
        (([1.0, 2.0], np.nan), ValueError, "`overlap` must be finite"),
    ],
)
def test_pairs_are_checked(arguments, error, words):
    with pytest.raises(error, match=words):
        Paired(*arguments)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda paired: paired.interval(1), "`level` must be between 0.0 and 1"),
        (lambda paired: paired.equivalence(0), "`margin` must be finite and positive"),
        (lambda paired: paired.power(np.nan, 0.05), "`effect` must be finite"),
        (lambda paired: paired.power(1, 0), "`alpha` must be between"),
        (lambda paired: paired.detectable(0.05, 0.05), "`power` must be between 0.05 and 1"),
        (lambda paired: paired.pairs_needed(0, 0.05), "`effect` must be finite and positive"),
        (lambda paired: paired.pairs_needed(1, 0.05, 1.5), "`power` must be between 0.05 and 1"),
    ],
)
def test_arguments_are_checked(call, words):
    with pytest.raises(ValueError, match=words):
        call(Paired(HERE - THERE))
