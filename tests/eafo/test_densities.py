import numpy as np
import pytest
import scipy.stats
from scipy import special

from keras_actlab import eafo

pytestmark = pytest.mark.one_backend

SAMPLES = np.random.default_rng(0).normal(1.0, 2.0, 1000)
DENSITIES = {
    "Gaussian": eafo.Gaussian(1.0, 0.5),
    "Laplace": eafo.Laplace(-1.0, 2.0),
    "Uniform": eafo.Uniform(-2.0, 3.0),
    "Density": eafo.Density(scipy.stats.logistic(0.5, 0.7)),
    "Empirical": eafo.Empirical(SAMPLES),
    "Empirical, point masses": eafo.Empirical(np.concatenate([np.maximum(SAMPLES, 0.0), np.full(100, 5.0)])),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_the_density_and_the_point_masses_are_1_in_total(name):
    density = DENSITIES[name]
    z = np.linspace(-60.0, 60.0, 240_01)
    total = np.trapezoid(density.pdf(z), z) + density.atoms[:, 1].sum()
    assert total == pytest.approx(1.0, abs=2e-3 if name == "Uniform" else 1e-5)
    assert density.between(z).sum() + density.atoms[:, 1].sum() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("name", DENSITIES)
def test_each_function_is_the_derivative_of_the_one_before(name):
    density, step = DENSITIES[name], 1e-5
    z = np.linspace(-1.9, 2.9, 40)  # off the peak of Laplace and the steps of the uniform density
    np.testing.assert_allclose(
        (density.cdf(z + step) - density.cdf(z - step)) / (2 * step), density.pdf(z), rtol=1e-5, atol=1e-8
    )
    np.testing.assert_allclose(
        (density.pdf(z + step) - density.pdf(z - step)) / (2 * step), density.derivative(z), rtol=1e-5, atol=1e-8
    )
    assert density.pdf(z.reshape(4, 10)).shape == density.derivative(z.reshape(4, 10)).shape == (4, 10)
    assert np.shape(density.pdf(0.3)) == np.shape(density.cdf(0.3)) == np.shape(density.derivative(0.3)) == ()
    np.testing.assert_allclose(density.between(z), np.diff(density.cdf(z)), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", DENSITIES)
def test_quantiles_invert_the_distribution_function(name):
    density = DENSITIES[name]
    p = np.array([1e-10, 1e-4, 0.02, 0.3, 0.5, 0.8, 0.999])
    mass = 1 - density.atoms[:, 1].sum()
    np.testing.assert_allclose(density.cdf(density.quantiles(p)) / mass, p, rtol=0, atol=2e-3)
    if not name.startswith("Empirical"):
        np.testing.assert_allclose(density.cdf(density.quantiles(p)), p, rtol=1e-7)
    assert np.all(np.diff(density.quantiles(p)) > 0)
    ends = [-2.0, 3.0] if name == "Uniform" else [-np.inf, np.inf]
    np.testing.assert_array_equal(density.quantiles(np.array([0.0, 1.0])), ends)


def test_probabilities_are_exact_in_both_tails():
    edges = np.arange(5.0, 9.0)
    expected = np.exp(-edges[:-1]) * (1 - np.exp(-1.0)) / 2
    for density in (eafo.Laplace(), eafo.Density(scipy.stats.laplace())):
        np.testing.assert_allclose(density.between(edges + 30), expected * np.exp(-30), rtol=1e-12)
        np.testing.assert_allclose(density.between(-edges[::-1] - 30), expected[::-1] * np.exp(-30), rtol=1e-12)
    for density, scale in ((eafo.Gaussian(), 1.0), (eafo.Empirical(np.linspace(-1e-3, 1e-3, 64), bandwidth=1.0), 1.0)):
        edges = np.array([7.0, 8.0, 9.0])
        expected = scale * -np.diff(special.ndtr(-edges))
        np.testing.assert_allclose(density.between(edges), expected, rtol=1e-4)
        np.testing.assert_allclose(density.between(-edges[::-1]), expected[::-1], rtol=1e-4)
    np.testing.assert_allclose(eafo.Gaussian().quantiles(np.array([1e-10, 1 - 1e-10])).sum(), 0.0, atol=1e-6)


def test_the_tails_of_symmetric_samples_are_symmetric():
    half = np.random.default_rng(1).gamma(2.0, size=200)
    density = eafo.Empirical(np.concatenate([half, -half]))
    edges = np.linspace(0.0, half.max() + 5 * density.bandwidth, 60)
    left, right = density.between(-edges[::-1])[::-1], density.between(edges)
    np.testing.assert_allclose(left, right, rtol=1e-8)
    assert np.all(right > 0)


def test_known_densities_are_their_formulas():
    z = np.linspace(-3.0, 4.0, 15)
    t = (z - 1) / 2
    np.testing.assert_allclose(eafo.Gaussian(1.0, 2.0).pdf(z), np.exp(-(t**2) / 2) / np.sqrt(8 * np.pi))
    np.testing.assert_allclose(eafo.Laplace(1.0, 2.0).pdf(z), np.exp(-np.abs(t)) / 4)
    np.testing.assert_allclose(eafo.Uniform(-1.0, 3.0).pdf(z), np.where((z >= -1) & (z <= 3), 0.25, 0.0))
    assert eafo.Laplace(1.0, 2.0).derivative(1.0) == 0.0


def test_samples_give_the_mean_of_normal_kernels():
    density = eafo.Empirical(SAMPLES, bandwidth=0.3)
    centres = np.quantile(SAMPLES, (np.arange(250) + 0.5) / 250)
    z = np.linspace(-8.0, 9.0, 35)
    expected = scipy.stats.norm.pdf(z[:, None], centres, 0.3).mean(axis=1)
    np.testing.assert_allclose(density.pdf(z), expected, rtol=1e-10)
    assert density.std == pytest.approx(np.hypot(centres.std(), 0.3))


@pytest.mark.parametrize("number", [16, 100, 3000])
def test_the_bandwidth_is_that_for_derivatives(number):
    samples = np.random.default_rng(number).standard_t(3, number)
    lower, upper = np.quantile(samples, (0.25, 0.75))
    spread = min(samples.std(), (upper - lower) / 1.349)
    assert eafo.Empirical(samples).bandwidth == pytest.approx(spread * (4 / (5 * number)) ** (1 / 7), rel=1e-12)


def test_samples_give_nearly_the_density_that_they_are_from():
    samples = np.random.default_rng(0).normal(size=(200, 200))
    density = eafo.Empirical(samples)
    wide = scipy.stats.norm(0.0, np.hypot(1.0, density.bandwidth))
    z = np.linspace(-4.0, 4.0, 81)
    np.testing.assert_allclose(density.pdf(z), wide.pdf(z), rtol=0, atol=0.01)
    np.testing.assert_allclose(density.cdf(z), wide.cdf(z), rtol=0, atol=0.01)


def test_a_few_outliers_have_no_effect():
    clean = eafo.Empirical(SAMPLES)
    dirty = eafo.Empirical(np.concatenate([SAMPLES, [1e6, 1e6]]))
    assert dirty.bandwidth == pytest.approx(clean.bandwidth, rel=0.01)
    z = np.linspace(-5.0, 7.0, 61)
    np.testing.assert_allclose(dirty.pdf(z), clean.pdf(z), rtol=0, atol=0.01 * clean.pdf(z).max())
    assert eafo.entropy("linear", dirty) == pytest.approx(eafo.entropy("linear", clean), abs=0.02)


def test_values_that_many_samples_share_are_point_masses():
    rectified = np.maximum(SAMPLES, 0.0)
    zeros = np.count_nonzero(rectified == 0)
    density = eafo.Empirical(rectified)
    np.testing.assert_allclose(density.atoms, [[0.0, zeros / 1000]], rtol=0, atol=1e-12)
    rest = eafo.Empirical(SAMPLES[SAMPLES > 0])
    assert density.bandwidth == rest.bandwidth
    z = np.linspace(-2.0, 8.0, 21)
    np.testing.assert_allclose(density.pdf(z), (1 - zeros / 1000) * rest.pdf(z))
    np.testing.assert_allclose(density.quantiles(np.array([0.1, 0.5])), rest.quantiles(np.array([0.1, 0.5])))


@pytest.mark.parametrize(
    ("number", "count", "heavy"), [(100, 4, False), (100, 5, True), (2000, 9, False), (2000, 10, True)]
)
def test_a_point_mass_is_half_a_percent_and_five(number, count, heavy):
    samples = np.concatenate([np.random.default_rng(0).normal(size=number - count), np.full(count, 0.25)])
    expected = [[0.25, count / number]] if heavy else np.zeros((0, 2))
    np.testing.assert_allclose(eafo.Empirical(samples).atoms, expected)


def test_an_estimate_is_equivariant_to_shift_and_scale():
    samples = np.concatenate([np.maximum(SAMPLES, 0.0), SAMPLES])
    density, moved = eafo.Empirical(samples), eafo.Empirical(1e3 * samples - 5.0)
    z = np.linspace(-5.0, 7.0, 25)
    assert moved.bandwidth == pytest.approx(1e3 * density.bandwidth)
    np.testing.assert_allclose(moved.pdf(1e3 * z - 5.0), density.pdf(z) / 1e3, rtol=1e-8)
    np.testing.assert_allclose(moved.atoms, density.atoms * [1e3, 1.0] - [5.0, 0.0])
    p = np.array([0.05, 0.5, 0.9])
    np.testing.assert_allclose(moved.quantiles(p), 1e3 * density.quantiles(p) - 5.0, rtol=1e-6)


def test_sixteen_samples_suffice():
    samples = np.arange(16.0)
    assert eafo.Empirical(samples).pdf(7.5) > 0
    assert eafo.Empirical(samples.astype("int32")).bandwidth == eafo.Empirical(samples.reshape(4, 4)).bandwidth
    with pytest.raises(
        ValueError, match=r"^`samples` must hold at least 16 numbers .* Received: 15 such numbers of 15"
    ):
        eafo.Empirical(samples[1:])


BAD = {
    "NaN": (np.append(SAMPLES, np.nan), ValueError, r"^`samples` must be finite\. Received: 1 .* at index 1000: nan"),
    "infinite": (np.insert(SAMPLES, 3, [np.inf, -np.inf]), ValueError, r"Received: 2 .* at index 3: inf"),
    "none": ([], ValueError, r"^`samples` must hold at least 16 numbers .* Received: 0 such numbers of 0"),
    "one value": (np.full(100, 2.5), ValueError, r"Received: 0 such numbers of 100, point masses at \[2\.5\]"),
    "mostly one value": (
        np.append(np.zeros(100), np.arange(1.0, 11.0)),
        ValueError,
        r"Received: 10 such numbers of 110, point masses at \[0\.0\]",
    ),
    "within rounding": (1.0 + 3e-16 * np.arange(50), ValueError, r"^`samples` must differ by more than rounding"),
    "text": (["a"] * 20, TypeError, r"^`samples` must be numbers\. Received: an array of <U1"),
    "complex": (SAMPLES + 1j, TypeError, r"^`samples` must be numbers\. Received: an array of complex128"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_samples_are_named(name):
    samples, error, message = BAD[name]
    with pytest.raises(error, match=message):
        eafo.Empirical(samples)


def test_bad_parameters_are_named():
    makers = {
        "mean": [lambda v: eafo.Gaussian(mean=v), lambda v: eafo.Laplace(mean=v)],
        "std": [lambda v: eafo.Gaussian(std=v)],
        "scale": [lambda v: eafo.Laplace(scale=v)],
        "lower": [lambda v: eafo.Uniform(lower=v)],
        "upper": [lambda v: eafo.Uniform(upper=v)],
        "bandwidth": [lambda v: eafo.Empirical(SAMPLES, bandwidth=v)],
    }
    for name, functions in makers.items():
        for make in functions:
            for value in (np.nan, np.inf, *((0.0, -1.0) if name in ("std", "scale", "bandwidth") else ())):
                with pytest.raises(ValueError, match=rf"^`{name}` must be finite.* Received: {name}={value}"):
                    make(value)
            for value in ("1", True):
                with pytest.raises(TypeError, match=rf"^`{name}` must be a number\. Received: {name}="):
                    make(value)
    with pytest.raises(ValueError, match=r"^`lower` must be less than `upper`\. Received: lower=1\.0, upper=1\.0"):
        eafo.Uniform(1.0, 1.0)
    for distribution in (scipy.stats.norm, scipy.stats.poisson(2.0), "norm", None):
        with pytest.raises(TypeError, match=r"^`distribution` must be a continuous distribution of scipy\.stats"):
            eafo.Density(distribution)


def test_one_outlier_does_not_make_samples_equal_up_to_rounding():
    samples = np.random.default_rng(0).normal(size=1000)
    with_outlier = eafo.Empirical(np.append(samples, 1e6))
    assert with_outlier.bandwidth == pytest.approx(eafo.Empirical(samples).bandwidth, rel=0.01)


def test_samples_far_from_zero_are_told_apart_in_float64():
    samples = 1e7 + np.random.default_rng(0).normal(size=1000)
    assert eafo.Empirical(samples).std == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_derivatives_of_distributions_at_any_scale(scale):
    z = scale * np.array([-1.0, 0.5, 2.0])
    found = eafo.Density(scipy.stats.norm(0, scale)).derivative(z)
    np.testing.assert_allclose(found, eafo.Gaussian(0, scale).derivative(z), rtol=1e-6)
