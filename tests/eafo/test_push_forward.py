import numpy as np
import pytest
import scipy.stats
from scipy import special

from keras_actlab import eafo
from keras_actlab.eafo.functions import crrelu

pytestmark = pytest.mark.one_backend

NORMAL = np.log(2 * np.pi * np.e) / 2
HALF_NORMAL = float(scipy.stats.halfnorm.entropy())
Z = eafo.Gaussian()


def entropy_between(distribution, lower, upper):
    """Returns the integral of -p log p by Gauss-Legendre quadrature on 50 intervals."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    edges = np.linspace(lower, upper, 51)
    z = (edges[:-1, None] + np.diff(edges)[:, None] * (nodes + 1) / 2).ravel()
    return np.sum(np.outer(np.diff(edges) / 2, weights).ravel() * special.entr(distribution.pdf(z)))


CLOSED_FORMS = {
    "normal": ("linear", Z, NORMAL),
    "normal, wide and moved": ("linear", eafo.Gaussian(-2.0, 30.0), NORMAL + np.log(30)),
    "normal, affine": (lambda z: 5 * z + 1, Z, NORMAL + np.log(5)),
    "normal, falling": (lambda z: -0.01 * z + 100, Z, NORMAL + np.log(0.01)),
    "normal, its distribution function": (scipy.stats.norm.cdf, Z, 0.0),
    "normal, cubed": (lambda z: z**3, Z, NORMAL + np.log(3) + 2 * -(np.euler_gamma + np.log(2)) / 2),
    "normal, absolute": (np.abs, Z, HALF_NORMAL),
    "normal, squared": (np.square, Z, float(scipy.stats.chi2(1).entropy())),
    "normal, exponential": (np.exp, Z, NORMAL),
    "normal, sine of the share": (
        lambda z: np.sin(2 * np.pi * scipy.stats.norm.cdf(z)),
        Z,
        float(scipy.stats.arcsine(-1, 2).entropy()),
    ),
    "uniform": ("linear", eafo.Uniform(-1.0, 3.0), np.log(4)),
    "uniform, a line": (lambda z: 3 - 2 * z, eafo.Uniform(-1.0, 3.0), np.log(8)),
    "Laplace": ("linear", eafo.Laplace(), 1 + np.log(2)),
    "Laplace, wide and moved": ("linear", eafo.Laplace(3.0, 0.2), 1 + np.log(0.4)),
    "Laplace, absolute": (np.abs, eafo.Laplace(), 1.0),
    "logistic, sigmoid": ("sigmoid", scipy.stats.logistic(), 0.0),
    "t(3)": ("linear", scipy.stats.t(3), float(scipy.stats.t(3).entropy())),
    "Cauchy": ("linear", scipy.stats.cauchy(), np.log(4 * np.pi)),
    "exponential": ("linear", scipy.stats.expon(), 1.0),
    "exponential, to uniform": (lambda z: np.exp(-z), eafo.Density(scipy.stats.expon()), 0.0),
    "gamma": ("linear", scipy.stats.gamma(2.5), float(scipy.stats.gamma(2.5).entropy())),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_entropy_is_the_closed_form(name):
    activation, density, expected = CLOSED_FORMS[name]
    assert eafo.entropy(activation, density) == pytest.approx(expected, abs=1e-4)


def test_entropy_of_the_image_of_a_slope_is_that_of_the_density_and_the_mean_logarithm():
    # H(p) + E[log f'] for an invertible f, with Gauss-Hermite quadrature.
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    for activation, slope in (
        ("softplus", special.expit),
        ("tanh", lambda z: 1 / np.cosh(z) ** 2),
        ("squareplus", lambda z: (1 + z / np.sqrt(z**2 + 4)) / 2),
    ):
        mean = np.sum(weights * np.log(slope(nodes))) / np.sqrt(2 * np.pi)
        assert eafo.entropy(activation, Z) == pytest.approx(NORMAL + mean, abs=1e-4)


# The point masses, and the ends of the interval on which the activation has slope 1.
ATOMS = {
    "relu": ("relu", Z, [(0.0, 0.5)], (0.0, 40.0)),
    "relu, moved": ("relu", eafo.Gaussian(1.0, 2.0), [(0.0, special.ndtr(-0.5))], (0.0, 60.0)),
    "relu6": (
        "relu6",
        eafo.Gaussian(2.0, 3.0),
        [(0.0, special.ndtr(-2 / 3)), (6.0, special.ndtr(-4 / 3))],
        (0.0, 6.0),
    ),
    "hard_tanh": ("hard_tanh", Z, [(-1.0, special.ndtr(-1)), (1.0, special.ndtr(-1))], (-1.0, 1.0)),
    "hard_tanh, t(3)": (
        "hard_tanh",
        scipy.stats.t(3),
        [(-1.0, scipy.stats.t(3).cdf(-1)), (1.0, scipy.stats.t(3).cdf(-1))],
        (-1.0, 1.0),
    ),
    "two flats of one value": (
        lambda z: np.maximum(np.abs(z) - 1, 0) * np.sign(z),
        Z,
        [(0.0, 1 - 2 * special.ndtr(-1))],
        None,
    ),
    "a step, flat on both sides": (np.sign, Z, [(-1.0, 0.5), (1.0, 0.5)], None),
    "constant": (np.zeros_like, Z, [(0.0, 1.0)], None),
}


@pytest.mark.parametrize("name", ATOMS)
def test_flat_parts_are_point_masses(name):
    activation, density, atoms, kept = ATOMS[name]
    outputs = eafo.push_forward(activation, density)
    np.testing.assert_allclose(outputs.atoms, np.array(atoms), rtol=0, atol=1e-7)
    assert outputs.mass.sum() + outputs.atoms[:, 1].sum() == pytest.approx(1.0, abs=1e-9)
    if kept is not None:
        distribution = density._distribution if isinstance(density, eafo.Density) else density
        expected = entropy_between(distribution, *kept) + sum(special.entr(share) for _, share in atoms)
        assert outputs.entropy == eafo.entropy(activation, density) == pytest.approx(expected, abs=1e-4)


def test_entropy_of_relu_is_half_of_the_half_normal_and_one_bit():
    np.testing.assert_allclose(eafo.push_forward("relu", Z).atoms, [(0.0, 0.5)], rtol=0, atol=1e-9)
    expected = -0.5 * np.log(0.5) - 0.5 * np.log(0.5) + 0.5 * HALF_NORMAL
    assert eafo.entropy("relu", Z) == pytest.approx(expected, abs=1e-4)


def test_point_masses_of_the_density_go_to_their_images():
    rng = np.random.default_rng(0)
    rectified = np.maximum(rng.normal(size=4000), 0.0)
    density = eafo.Empirical(np.concatenate([rectified, np.full(1000, -2.0), np.full(1000, 2.0)]))
    zeros = np.count_nonzero(rectified == 0) / 6000
    outputs = eafo.push_forward(np.abs, density)
    np.testing.assert_allclose(outputs.atoms, [(0.0, zeros), (2.0, 1 / 3)], atol=1e-9)
    assert outputs.mass.sum() == pytest.approx(2 / 3 - zeros, abs=1e-9)
    # A flat interval and the image of a point mass at the same position are merged.
    (place, share), *_ = eafo.push_forward("relu", density).atoms
    assert place == 0.0
    assert share == pytest.approx(zeros + 1 / 6 + density.cdf(0.0), abs=1e-6)


def test_density_of_the_outputs_is_the_sum_over_preimages():
    x = np.linspace(0.05, 3.0, 60)
    np.testing.assert_allclose(eafo.push_forward(np.square, Z).pdf(x), scipy.stats.chi2(1).pdf(x), rtol=2e-2)
    np.testing.assert_allclose(eafo.push_forward(np.exp, Z).pdf(x), scipy.stats.lognorm(1).pdf(x), rtol=2e-2)
    np.testing.assert_array_equal(eafo.push_forward(np.square, Z).pdf([-1.0, 1e3]), 0.0)
    np.testing.assert_array_equal(eafo.push_forward(np.zeros_like, Z).pdf([-1.0, 0.0]), 0.0)


def test_std_is_that_of_the_outputs():
    assert eafo.push_forward("linear", eafo.Gaussian(7.0, 3.0)).std == pytest.approx(3.0, rel=1e-4)
    assert eafo.push_forward(np.square, Z).std == pytest.approx(np.sqrt(2), rel=1e-4)
    # max(z, 0) has the mean 1 / sqrt(2 pi) and the mean square 1 / 2.
    assert eafo.push_forward("relu", Z).std == pytest.approx(np.sqrt(0.5 - 0.5 / np.pi), rel=1e-4)


@pytest.mark.parametrize("name", ["gelu", "silu", "mish", "crrelu"])
def test_entropy_agrees_with_a_histogram_where_there_is_no_inverse(name):
    activation = {
        "gelu": lambda z: z * special.ndtr(z),
        "silu": lambda z: z / (1 + np.exp(-z)),
        "mish": lambda z: z * np.tanh(np.log1p(np.exp(z))),
        "crrelu": lambda z: np.maximum(z, 0) - 0.5 * z * np.exp(-(z**2) / 2),
    }[name]
    number = 10_000_000
    samples = activation(np.random.default_rng(0).standard_normal(number, dtype="float32").astype("float64"))
    counts, edges = np.histogram(samples, 100_000)
    counts = counts[counts > 0]
    # The plug-in estimate with the bias correction of Miller and Madow.
    expected = np.log(number) - np.sum(counts * np.log(counts)) / number + len(counts) / (2 * number)
    expected += np.log(edges[1] - edges[0])
    assert eafo.entropy(crrelu(-0.5) if name == "crrelu" else name, Z) == pytest.approx(expected, abs=0.01)


def test_negative_epsilon_lowers_the_entropy_of_crrelu_where_it_increases():
    positive = scipy.stats.halfnorm()
    step = 1e-3
    slope = (eafo.entropy(crrelu(step), positive) - eafo.entropy(crrelu(-step), positive)) / (2 * step)
    assert slope == pytest.approx(1 / (2 * np.sqrt(2)), abs=1e-3)
    for epsilon, change in ((0.1, 0.0335), (-0.1, -0.0374), (-0.5, -0.2437)):
        found = eafo.entropy(crrelu(epsilon), positive) - eafo.entropy("relu", positive)
        assert found == pytest.approx(change, abs=1e-4)
        # H(p) + E[log f'] by a sum over 10^5 quantiles.
        z = positive.ppf((np.arange(100_000) + 0.5) / 100_000)
        slope = 1 + epsilon * (1 - z**2) * np.exp(-(z**2) / 2)
        assert found == pytest.approx(np.mean(np.log(slope)), abs=1e-4)


@pytest.mark.parametrize("name", ["relu", "gelu", "tanh", "hard_tanh"])
def test_standardized_entropy_does_not_change_under_scale_and_shift(name):
    function = {
        "relu": lambda z: np.maximum(z, 0),
        "gelu": lambda z: z * special.ndtr(z),
        "tanh": np.tanh,
        "hard_tanh": lambda z: np.clip(z, -1, 1),
    }[name]
    expected = eafo.standardized_entropy(name, Z)
    for factor, offset in ((5.0, 1.0), (-0.02, 0.0), (1e-3, -3e-3)):
        found = eafo.standardized_entropy(lambda z, a=factor, b=offset: a * function(z) + b, Z)
        assert found == pytest.approx(expected, abs=1e-4)


def test_standardized_entropy_is_most_for_normal_outputs():
    assert eafo.standardized_entropy("linear", eafo.Gaussian(3.0, 7.0)) == pytest.approx(NORMAL, abs=1e-4)
    assert eafo.standardized_entropy("linear", eafo.Uniform(2.0, 5.0)) == pytest.approx(np.log(12) / 2, abs=1e-4)
    for density in (Z, eafo.Laplace(), scipy.stats.t(5), eafo.Uniform(-1.0, 2.0)):
        for activation in ("gelu", "silu", "mish", "elu", "softplus", "tanh", "sigmoid", "leaky_relu", np.abs):
            assert eafo.standardized_entropy(activation, density) <= NORMAL + 1e-4


def test_standardized_entropy_of_points_is_that_of_the_points():
    assert eafo.standardized_entropy(np.sign, Z) == pytest.approx(np.log(2), abs=1e-5)
    assert eafo.standardized_entropy(np.zeros_like, Z) == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize(
    "function", [eafo.entropy, eafo.push_forward, eafo.standardized_entropy], ids=lambda f: f.__name__
)
def test_bad_input_is_named(function):
    with pytest.raises(TypeError, match=r"^`density` must be .* Received: density='normal'"):
        function("relu", "normal")
    with pytest.raises(TypeError, match=r"^`density` must be "):
        function("relu", scipy.stats.poisson(3.0))
    with pytest.raises(ValueError, match=r"^`activation` must be the name .* Received: activation='rleu'"):
        function("rleu", Z)
    with pytest.raises(ValueError, match=r"^`activation` must be finite .* which is inf at 5\."):
        function(lambda z: np.where(z > 5, np.inf, z), Z)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_standardized_entropy_at_extreme_scales(scale):
    found = eafo.standardized_entropy("linear", eafo.Gaussian(0.0, scale))
    assert found == pytest.approx(scipy.stats.norm.entropy(), abs=1e-4)


@pytest.mark.parametrize("name", ["squareplus", "tanh_shrink"])
@pytest.mark.parametrize("scale", [1e-4, 1e8])
def test_formulas_keep_their_digits_at_any_scale(name, scale):
    """Compares with E[log f'] + H(p), with derivatives that avoid cancellation."""
    slopes = {
        "squareplus": lambda z: 2.0 / (np.hypot(z, 2.0) * (np.hypot(z, 2.0) - z)),
        "tanh_shrink": lambda z: np.tanh(z) ** 2,
    }
    z = scale * np.linspace(-9, 9, 200_001)[1::2]  # never 0, where the logarithm of tanh's square is -inf
    weights = scipy.stats.norm.pdf(z, scale=scale)
    with np.errstate(divide="ignore"):
        if name == "squareplus":
            # For z < 0 the other root: 2 / (h (h - z)) does not cancel there; for z > 0 it is (h + z) / (2 h).
            h = np.hypot(z, 2.0)
            logs = np.log(np.where(z < 0, slopes[name](np.minimum(z, 0.0)), (h + z) / (2 * h)))
        else:
            logs = np.log(slopes[name](z))
    expected = np.average(logs, weights=weights) + scipy.stats.norm(0, scale).entropy()
    assert eafo.entropy(name, eafo.Gaussian(0.0, scale)) == pytest.approx(expected, abs=2e-3)


def test_too_large_rounding_errors_raise():
    with pytest.raises(ValueError, match=r"`density` must lie near 0, compared with its width.*rounding errors"):
        eafo.entropy("linear", eafo.Gaussian(1e13, 1.0))
    with pytest.raises(ValueError, match=r"`density` must lie near 0.*a density from 99\..* to 100\."):
        eafo.entropy(lambda z: z.astype("float32"), eafo.Gaussian(100.0, 0.01))
