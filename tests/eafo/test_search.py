import functools
import re

import numpy as np
import pytest
import scipy.stats
from scipy import special

from keras_actlab import eafo

pytestmark = pytest.mark.one_backend

Z = eafo.Gaussian()
CLUSTERS = eafo.Empirical([*np.linspace(-201, -199, 50), *np.linspace(199, 201, 50)], bandwidth=1.0)
GAP = scipy.stats.rv_histogram((np.array([1, 0, 3]), np.array([0.0, 1.0, 2.0, 3.0])), density=False)()


def mixture(rng):
    centres = rng.uniform(-2.0, 2.0, rng.integers(2, 4))
    samples = rng.choice(centres, 160) + rng.normal(size=160) * rng.uniform(0.5, 1.5)
    return eafo.Empirical(samples, bandwidth=rng.uniform(0.4, 0.8))


def random_density(rng):
    match rng.integers(4):
        case 0:
            return eafo.Gaussian(rng.normal(), rng.uniform(0.5, 2.0))
        case 1:
            return eafo.Density(scipy.stats.logistic(rng.normal(), rng.uniform(0.3, 1.0)))
        case 2:
            return eafo.Empirical(rng.normal(rng.normal(), rng.uniform(0.5, 2.0), 200))
        case _:
            return mixture(rng)


def random_activation(rng):
    """Returns a smooth, strictly increasing function and its derivative."""
    a, b, e = rng.uniform(0.2, 1.0, 3)
    c, s = rng.uniform(0.5, 1.5, 2)
    d, t = rng.normal(size=2)

    def function(z):
        return a * z + b * np.tanh(c * z + d) + e * np.logaddexp(0.0, s * z + t)

    def derivative(z):
        return a + b * c / np.cosh(c * z + d) ** 2 + e * s * special.expit(s * z + t)

    return function, derivative


def test_the_worst_activation_of_a_known_density_is_its_distribution_function():
    z = np.linspace(-6.0, 6.0, 241)
    np.testing.assert_allclose(eafo.worst_activation(Z)(z), special.ndtr(z), rtol=0, atol=1e-6)
    line = eafo.worst_activation(eafo.Uniform(-2.0, 3.0), lower=-1.0, upper=4.0)
    inside = np.linspace(-2.0, 3.0, 21)
    np.testing.assert_allclose(line(inside), inside + 1.0, atol=1e-12)
    np.testing.assert_array_equal(line(np.array([-5.0, 9.0])), [-1.0, 4.0])


WORST = {
    "normal": Z,
    "Laplace": eafo.Laplace(0.5, 2.0),
    "Cauchy": scipy.stats.cauchy(),
    "exponential": scipy.stats.expon(),
    "samples": eafo.Empirical(np.random.default_rng(0).gamma(2.0, size=500)),
    "mixture": mixture(np.random.default_rng(1)),
}


@pytest.mark.parametrize("name", WORST)
def test_the_worst_activation_keeps_its_bounds_and_makes_outputs_uniform(name):
    density, lower, upper = WORST[name], -1.0, 2.5
    worst = eafo.worst_activation(density, lower, upper)
    values = worst(np.concatenate([[-1e9], np.linspace(-20.0, 20.0, 401), [1e9]]))
    assert np.all(np.diff(values) >= 0)
    assert values[0] == pytest.approx(lower, abs=1e-6)
    assert values[-1] == pytest.approx(upper, abs=1e-6)
    assert eafo.entropy(worst, density) == pytest.approx(np.log(upper - lower), abs=1e-4)
    outputs = eafo.push_forward(worst, density)
    middle = (outputs.edges[:-1] + outputs.edges[1:]) / 2
    wide = np.diff(outputs.edges) > 1e-5
    np.testing.assert_allclose(outputs.pdf(middle)[wide], 1 / (upper - lower), rtol=1e-3)


@pytest.mark.parametrize("name", ["normal", "Laplace", "mixture"])
def test_other_activations_between_the_bounds_have_less_entropy(name):
    density, rng = WORST[name], np.random.default_rng(2)
    worst = eafo.worst_activation(density, -1.0, 1.0)
    most = eafo.entropy(worst, density)
    for _ in range(5):
        slope, offset = rng.uniform(0.3, 3.0), rng.normal()
        assert eafo.entropy(lambda z, a=slope, b=offset: np.tanh(a * z + b), density) < most - 1e-4
    for size in (-0.2, -0.05, 0.05, 0.2):
        bent = eafo.entropy(lambda z, size=size: worst(z) + size * np.sin(np.pi * worst(z)), density)
        assert bent < most - 1e-4


def test_the_worst_activation_ignores_point_masses():
    samples = np.random.default_rng(0).normal(size=2000)
    density = eafo.Empirical(np.concatenate([samples, np.zeros(2000)]))
    np.testing.assert_allclose(eafo.worst_activation(density)(np.array([-50.0, 50.0])), [0.0, 1.0], rtol=0, atol=1e-12)


def test_the_correction_of_relu_for_normal_data_is_that_of_crrelu():
    found = eafo.correction("relu", Z)
    assert found.x[0] == 0.0
    assert found.x[-1] > 6.0
    expected = found.x * np.exp(-(found.x**2) / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(found.eta, expected, rtol=0, atol=1e-4 * expected.max())


# The inverse, and its first and second derivative, of activations.
INVERSES = {
    "linear": (lambda x: x, np.ones_like, np.zeros_like),
    "tanh": (np.arctanh, lambda x: 1 / (1 - x**2), lambda x: 2 * x / (1 - x**2) ** 2),
    "sigmoid": (special.logit, lambda x: 1 / (x * (1 - x)), lambda x: (2 * x - 1) / (x * (1 - x)) ** 2),
    "softplus": (
        lambda x: x + np.log(-np.expm1(-x)),
        lambda x: 1 / -np.expm1(-x),
        lambda x: -np.exp(-x) / np.expm1(-x) ** 2,
    ),
    "softsign": (
        lambda x: x / (1 - np.abs(x)),
        lambda x: 1 / (1 - np.abs(x)) ** 2,
        lambda x: 2 * np.sign(x) / (1 - np.abs(x)) ** 3,
    ),
}


def kernels(z):
    """Returns the density of `SAMPLED` and its derivative."""
    centres = np.quantile(SAMPLES, (np.arange(150) + 0.5) / 150)
    t = (np.asarray(z)[:, None] - centres) / 0.5
    p = np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi) / 0.5
    return p.mean(axis=1), (-t / 0.5 * p).mean(axis=1)


SAMPLES = np.random.default_rng(3).normal(0.3, 1.2, 600)
SAMPLED = eafo.Empirical(SAMPLES, bandwidth=0.5)
DENSITIES = {
    "normal": (eafo.Gaussian(0.2, 0.8), lambda z: (g := scipy.stats.norm(0.2, 0.8).pdf(z), -(z - 0.2) / 0.64 * g)),
    "Laplace": (
        eafo.Laplace(0.1, 0.7),
        lambda z: (g := scipy.stats.laplace(0.1, 0.7).pdf(z), -np.sign(z - 0.1) / 0.7 * g),
    ),
    "logistic": (
        scipy.stats.logistic(),
        lambda z: (g := special.expit(z) * special.expit(-z), g * (1 - 2 * special.expit(z))),
    ),
    "uniform": (eafo.Uniform(-3.0, 3.0), lambda z: (np.full_like(z, 1 / 6), np.zeros_like(z))),
    "samples": (SAMPLED, kernels),
}


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("activation", INVERSES)
def test_the_correction_is_equation_7(activation, density):
    given, reference = DENSITIES[density]
    z = np.array([-2.0, -1.3, -0.6, -0.2, 0.4, 0.9, 1.7, 2.2])  # off the peak of Laplace, and the bend of softsign
    x = {
        "linear": z,
        "tanh": np.tanh(z),
        "sigmoid": special.expit(z),
        "softplus": np.log1p(np.exp(z)),
        "softsign": z / (1 + np.abs(z)),
    }[activation]
    y, first, second = (function(x) for function in INVERSES[activation])
    np.testing.assert_allclose(y, z, atol=1e-12)
    p, slope = reference(y)
    expected = -(p * second / first + slope * first)
    np.testing.assert_allclose(eafo.correction(activation, given)(x), expected, rtol=1e-3, atol=1e-4)


def test_the_entropy_falls_along_the_correction_by_the_integral_of_its_square():
    rng = np.random.default_rng(4)
    for _ in range(50):
        density, (function, derivative) = random_density(rng), random_activation(rng)
        found = eafo.correction(function, density)
        z = np.linspace(found.z[0], found.z[-1], 4001)
        eta = found(np.clip(function(z), found.x[0], found.x[-1]))
        eta_slope, slope = np.gradient(eta, z), derivative(z)

        def after(t, density=density, z=z, eta=eta, eta_slope=eta_slope, slope=slope):
            """Returns the entropy with the inverse z + t * eta: q(x) dx = p(y) (1 + t eta') dz."""
            p, stretch = density.pdf(z + t * eta), 1 + t * eta_slope
            return np.trapezoid(stretch * p * -np.log(p * stretch / slope), z)

        step = 1e-2 / max(np.max(np.abs(eta_slope)), np.max(np.abs(eta)))
        change = (after(step) - after(-step)) / (2 * step)
        assert change < 0
        assert found.slope == pytest.approx(change, rel=1e-2)
        square = np.trapezoid(eta**2 * slope, z)
        assert found.slope == pytest.approx(-square, rel=1e-3)


def test_a_correction_is_for_the_part_where_the_activation_increases():
    whole, part = eafo.correction("gelu", Z), eafo.correction("gelu", Z, lower=0.0, upper=2.0)
    lowest = -0.7517915
    assert whole.z[0] == pytest.approx(lowest, abs=5e-3)
    assert (part.z[0], part.z[-1]) == (0.0, 2.0)
    x = np.linspace(0.05, 1.9, 30)
    np.testing.assert_allclose(whole(x), part(x), rtol=1e-3, atol=1e-4)
    # The most probable increasing part.
    assert eafo.correction(np.square, eafo.Gaussian(-1.0)).z[0] == pytest.approx(0.0, abs=1e-2)
    assert eafo.correction(np.sin, eafo.Gaussian(2 * np.pi)).z[[0, -1]] == pytest.approx(
        [1.5 * np.pi, 2.5 * np.pi], abs=2e-2
    )


STEPS = {
    "relu": ("relu", Z, {}),
    "relu, half a step": ("relu", Z, {"step": 0.5}),
    "relu, smooth": ("relu", Z, {"step": 0.7, "smoothing": 0.5}),
    "tanh": ("tanh", Z, {"step": 0.1}),
    "softplus": ("softplus", eafo.Laplace(), {"step": 0.2, "smoothing": 0.3}),
    "gelu, part": ("gelu", Z, {"lower": -0.2, "upper": 2.5, "step": 0.1}),
    "samples": ("linear", SAMPLED, {"step": 1.0}),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_lowers_the_entropy(name):
    activation, density, arguments = STEPS[name]
    new = eafo.improve(activation, density, **arguments)
    assert new.entropy_before == pytest.approx(eafo.entropy(activation, density), abs=1e-6)
    assert new.entropy_after == pytest.approx(eafo.entropy(new, density), abs=1e-6)
    assert new.entropy_after < new.entropy_before - 1e-3


FORMULAS = {
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "softplus": lambda z: np.log1p(np.exp(z)),
    "gelu": lambda z: z * special.ndtr(z),
    "linear": lambda z: z,
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_continuous_and_unchanged_outside(name):
    activation, density, arguments = STEPS[name]
    new = eafo.improve(activation, density, **arguments)
    for end, output, away in ((new.z[0], new.x[0], -1.0), (new.z[-1], new.x[-1], 1.0)):
        assert new(end) == pytest.approx(output, abs=1e-9)
        assert new(end + 1e-9 * away) == pytest.approx(output, abs=1e-7)
    before = FORMULAS[activation]
    for distance in (0.5, 3.0):
        left, right = new.z[0] - distance, new.z[-1] + distance
        assert new(left) == pytest.approx(before(left - new.shifts[0]), abs=1e-9)
        assert new(right) == pytest.approx(before(right - new.shifts[1]), abs=1e-9)


@pytest.mark.parametrize("name", [name for name in STEPS if "smooth" not in name and name != "softplus"])
def test_a_step_is_the_inverse_of_the_corrected_inverse(name):
    activation, density, arguments = STEPS[name]
    new = eafo.improve(activation, density, **arguments)
    part = {end: arguments[end] for end in ("lower", "upper") if end in arguments}
    eta = eafo.correction(activation, density, **part)
    z = np.linspace(*np.interp([0.02, 0.9], [0, 1], [new.z[0], new.z[-1]]), 50)
    z = z[(z > eta.z[0]) & (z < eta.z[-1])]
    x = FORMULAS[activation](z)
    np.testing.assert_allclose(new(z + arguments.get("step", 1.0) * eta(x)), x, rtol=0, atol=2e-3)


def test_smoothing_is_the_mean_over_a_gaussian():
    step, width = 0.5, 0.6
    new = eafo.improve("linear", Z, step=step, smoothing=width)
    # z times the normal density, averaged: with v = 1 + width**2, z exp(-z**2 / (2 v)) / sqrt(2 pi v) / v.
    z, v = np.linspace(-2.5, 2.5, 21), 1 + width**2
    eta = z * np.exp(-(z**2) / (2 * v)) / np.sqrt(2 * np.pi * v) / v
    np.testing.assert_allclose(new(z + step * eta), z, rtol=0, atol=1e-3)


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
def test_a_step_of_zero_changes_nothing(activation):
    arguments = {"lower": 0.0} if activation == "gelu" else {}
    new = eafo.improve(activation, Z, step=0, **arguments)
    z = np.linspace(-5.0, 5.0, 101)
    np.testing.assert_allclose(new(z), FORMULAS[activation](z), rtol=0, atol=1e-4)
    assert new.shifts == (0.0, 0.0)
    assert new.entropy_after == pytest.approx(new.entropy_before, abs=1e-3)


def test_ten_smoothed_steps_from_relu_lower_the_entropy_each_time():
    activation, entropies = "relu", [eafo.entropy("relu", Z)]
    for _ in range(10):
        activation = eafo.improve(activation, Z, step=0.1, smoothing=0.5)
        assert activation.entropy_before == pytest.approx(entropies[-1], abs=1e-6)
        entropies.append(activation.entropy_after)
    assert np.all(np.diff(entropies) < -1e-3)
    z = np.linspace(-5.0, 5.0, 1001)
    assert np.all(np.diff(activation(z)) >= 0)


@pytest.mark.parametrize(
    ("activation", "lower"), [("relu", None), ("tanh", None), ("gelu", 0.0), ("linear", None)], ids=str
)
def test_a_step_that_folds_the_inverse_is_named_with_the_largest_one(activation, lower):
    with pytest.raises(ValueError, match=r"^`step` must be less than .* Received: step=1000\.0") as raised:
        eafo.improve(activation, Z, step=1e3, lower=lower)
    most = float(re.search(r"less than ([\d.e+-]+),", str(raised.value))[1])
    eafo.improve(activation, Z, step=0.99 * most, lower=lower)
    with pytest.raises(ValueError, match=r"folds back where the input was"):
        eafo.improve(activation, Z, step=1.01 * most, lower=lower)


def test_the_place_where_the_inverse_folds_back_is_named():
    # eta = z p(z) of the identity decreases fastest at sqrt(3), where eta' = -2 p(sqrt(3)).
    most = 1 / (2 * scipy.stats.norm.pdf(np.sqrt(3)))
    with pytest.raises(ValueError, match=r"^`step` must be less than ") as raised:
        eafo.improve("linear", Z, step=1.01 * most)
    named, left, right = (
        float(number)
        for number in re.search(r"less than (\S+), .* input was (\S+) to (\S+)$", str(raised.value)).groups()
    )
    assert named == pytest.approx(most, rel=5e-3)
    assert abs(left) == pytest.approx(np.sqrt(3), abs=0.3)
    assert right - left == pytest.approx(np.diff(eafo.improve("linear", Z, step=0).z)[0], rel=1e-3)


def test_a_density_that_is_zero_inside_its_range_is_named():
    for density, place in ((CLUSTERS, None), (GAP, (1.0, 2.0))):
        for call in (
            lambda density: eafo.worst_activation(density),
            lambda density: eafo.correction("linear", density),
            lambda density: eafo.improve("linear", density),
        ):
            with pytest.raises(ValueError, match=r"^`density` must not be 0 inside the range\. Received: ") as raised:
                call(density)
            left, right = (
                float(number) for number in re.search(r"is 0 from (\S+) to (\S+), while", str(raised.value)).groups()
            )
            lower, upper = place or (-200.0, 200.0)
            assert lower - 1e-6 <= left < right <= upper + 1e-6


@pytest.mark.parametrize("function", [eafo.correction, eafo.improve], ids=lambda f: f.__name__)
def test_an_activation_without_an_inverse_is_named(function):
    with pytest.raises(ValueError, match=r"^`activation` must increase between .* is flat from -1 to -0\.9"):
        function("relu", Z, lower=-1.0)
    with pytest.raises(ValueError, match=r"^`activation` must increase between .* falls from -2 to -1\.9"):
        function(np.square, Z, lower=-2.0, upper=1.0)
    for constant in (np.zeros_like, lambda z: -z):
        with pytest.raises(ValueError, match=r"^`activation` must increase somewhere, .* from -6\.\d+ to 6\.\d+$"):
            function(constant, Z)
    with pytest.raises(ValueError, match=r"^`activation` must increase somewhere, .* from -6\.\d+ to -"):
        function("relu", Z, upper=-1.0)


def test_bad_arguments_are_named():
    for lower, upper in ((1.0, 1.0), (2.0, 1.0), (-1.0, -1.0)):
        with pytest.raises(ValueError, match=r"^`lower` must be less than `upper`\. Received: lower="):
            eafo.worst_activation(Z, lower, upper)
    with pytest.raises(TypeError, match=r"^`density` must be .* Received: density=None"):
        eafo.worst_activation(None)
    for function in (eafo.worst_activation, functools.partial(eafo.improve, "relu")):
        for name in ("lower", "upper"):
            with pytest.raises(TypeError, match=rf"^`{name}` must be a number\. Received: {name}='0'"):
                function(Z, **{name: "0"})
            with pytest.raises(ValueError, match=rf"^`{name}` must be finite\. Received: {name}=nan"):
                function(Z, **{name: np.nan})
    for function in (eafo.correction, eafo.improve):
        with pytest.raises(TypeError, match=r"^`density` must be .* Received: density=3"):
            function("relu", 3)
        with pytest.raises(ValueError, match=r"^`activation` must be the name .* Received: activation='rleu'"):
            function("rleu", Z)
        with pytest.raises(TypeError, match=r"^`activation` must be .* Received: activation=3"):
            function(3, Z)
        for name in ("lower", "upper"):
            for value in (-50.0, 50.0):
                with pytest.raises(ValueError, match=rf"^`{name}` must be where the density is, .* {name}={value}$"):
                    function("linear", Z, **{name: value})
        with pytest.raises(ValueError, match=r"^`lower` must be less than `upper`\. Received: lower=1\.0, upper=1\.0"):
            function("linear", Z, lower=1.0, upper=1.0)
    for name in ("step", "smoothing"):
        with pytest.raises(ValueError, match=rf"^`{name}` must not be negative\. Received: {name}=-0\.1"):
            eafo.improve("relu", Z, **{name: -0.1})
        with pytest.raises(ValueError, match=rf"^`{name}` must be finite\. Received: {name}=nan"):
            eafo.improve("relu", Z, **{name: np.nan})
        with pytest.raises(TypeError, match=rf"^`{name}` must be a number\. Received: {name}='1'"):
            eafo.improve("relu", Z, **{name: "1"})


def test_a_correction_is_not_known_outside_of_the_image():
    found = eafo.correction("relu", Z)
    for outside in (-0.1, 50, np.nan):
        with pytest.raises(ValueError, match=rf"^`x` must be an output of the activation .* from 0 to .* {outside}"):
            found([1.0, outside])


def test_a_function_in_float32_is_improved_like_its_formula():
    found = eafo.improve(lambda z: silu(z).astype("float32"), Z, 0.1, lower=0.0)
    expected = eafo.improve(silu, Z, 0.1, lower=0.0)
    assert found.entropy_after - found.entropy_before == pytest.approx(
        expected.entropy_after - expected.entropy_before, rel=0.1
    )


def test_outliers_beyond_a_gap_are_excluded():
    samples = np.append(np.random.default_rng(0).normal(size=1000), [60.0, 80.0, 90.0, 100.0])
    density = eafo.Empirical(samples)
    assert (density.pdf([20.0, 40.0]) == 0.0).all()
    improved = eafo.improve("relu", density, 0.3)
    assert improved.entropy_after < improved.entropy_before
    np.testing.assert_allclose(improved([60.0, 100.0]), [60.0, 100.0], atol=1e-6)
    assert eafo.worst_activation(density)(200.0) == 1.0


def silu(z):
    return z / (1.0 + np.exp(-z))
