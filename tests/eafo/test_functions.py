import keras
import numpy as np
import pytest

from keras_actlab import eafo, ops
from keras_actlab.eafo.functions import FORMULAS, crrelu
from keras_actlab.layers import CRReLU, EntropyActivation
from tests.backends import numpy

pytestmark = pytest.mark.one_backend

Z = eafo.Gaussian()


def built(layer):
    layer.build((None, 3))
    return layer


@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_is_that_of_keras(name):
    z = np.linspace(-20.0, 20.0, 2001)
    function = ops.crrelu if name == "crrelu" else getattr(keras.activations, name)
    np.testing.assert_allclose(FORMULAS[name](z), numpy(function(z.astype("float32"))), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "sparsemax", "glu"])
def test_an_activation_of_several_numbers_is_refused(name):
    with pytest.raises((ValueError, TypeError), match=r"^`activation` must (be a function of one|return as many)"):
        eafo.entropy(name, Z)


def test_an_activation_without_a_formula_is_taken_from_keras():
    # H(p) + E[z] for exp(z).
    assert "exponential" not in FORMULAS
    assert eafo.entropy("exponential", Z) == pytest.approx(np.log(2 * np.pi * np.e) / 2, abs=1e-3)


def test_formulas_do_not_overflow():
    z = np.array([-1e4, -800.0, 800.0, 1e4])
    for name, function in FORMULAS.items():
        assert np.all(np.isfinite(function(z))), name


SAME = {
    "layer by name": (lambda: keras.layers.Activation("tanh"), "tanh", 1e-9),
    "layer by function": (lambda: keras.layers.Activation(keras.activations.silu), "silu", 1e-9),
    "function of keras": (lambda: keras.activations.gelu, "gelu", 1e-9),
    "function of this package": (lambda: ops.crrelu, "crrelu", 1e-9),
    "function of tensors": (lambda: lambda z: keras.ops.tanh(z), "tanh", 1e-3),
    "function of tensors, not flat": (lambda: lambda z: keras.ops.softplus(z), "softplus", 1e-3),
    "function of arrays": (lambda: lambda z: np.logaddexp(0.0, z), "softplus", 1e-9),
    "ufunc": (lambda: np.tanh, "tanh", 1e-9),
    "alias": (lambda: "swish", "silu", 1e-9),
    "layer without weights": (lambda: built(keras.layers.ReLU(max_value=6.0)), "relu6", 1e-3),
    "CRReLU": (lambda: built(CRReLU(epsilon_initializer=-0.3)), crrelu(-0.3), 1e-6),
    "EntropyActivation": (lambda: built(EntropyActivation("relu")), "relu", 1e-6),
    "EntropyActivation, a curve": (
        lambda: built(EntropyActivation("tanh", num_knots=400, lower=-7.0, upper=7.0)),
        "tanh",
        1e-3,
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_an_activation_has_the_same_entropy_in_each_form(name):
    make, other, tolerance = SAME[name]
    assert eafo.entropy(make(), Z) == pytest.approx(eafo.entropy(other, Z), abs=tolerance)


def test_a_layer_is_taken_with_the_weights_that_it_has_now():
    layer = built(EntropyActivation("relu", num_knots=3, lower=-1.0, upper=1.0))
    layer.set_curve(lambda knots: 3.0 * knots)
    assert eafo.entropy(layer, Z) == pytest.approx(np.log(2 * np.pi * np.e) / 2 + np.log(3), abs=1e-4)
    rectified = built(CRReLU())
    rectified.epsilon.assign(keras.ops.convert_to_tensor(-0.5))
    assert eafo.entropy(rectified, Z) == pytest.approx(eafo.entropy(crrelu(-0.5), Z), abs=1e-6)


BAD = {
    "unknown name": (lambda: "rleu", ValueError, r"the name of an activation\. Received: activation='rleu'"),
    "softmax": (lambda: "softmax", ValueError, r"a function of one number, not of several"),
    "mean subtracted": (lambda: lambda z: z - np.mean(z), ValueError, r"a function of one number, not of several"),
    "sorted": (lambda: lambda z: np.sort(z)[::-1] * z, ValueError, r"a function of one number, not of several"),
    "PReLU": (lambda: built(keras.layers.PReLU()), ValueError, r"one function for all channels, .*PReLU"),
    "CRReLU per channel": (lambda: built(CRReLU(axis=-1)), ValueError, r"one function for all channels, .*CRReLU"),
    "not built": (lambda: EntropyActivation(), ValueError, r"and its layer built.*EntropyActivation"),
    "infinite": (lambda: lambda z: np.where(z > 0.5, np.inf, z), ValueError, r"finite .* which is inf at 1\.2"),
    "NaN on the left": (lambda: lambda z: np.where(z < -3, np.nan, z), ValueError, r"finite .* which is nan at -"),
    "number": (lambda: 3, TypeError, r"a name, a layer, or a function .* Received: activation=3"),
    "None": (lambda: None, TypeError, r"a name, a layer, or a function .* Received: activation=None"),
    "integers": (lambda: lambda z: (z > 0).astype("int64"), TypeError, r"returned shape \(6,\) and dtype int64"),
    "a sum": (lambda: lambda z: np.sum(z), TypeError, r"returned shape \(\) and dtype float64 for shape \(6,\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_activations_that_are_not_elementwise_raise(name):
    make, error, message = BAD[name]
    with pytest.raises(error, match="^`activation` must (be|return) .*" + message.replace("returned", ".*returned")):
        eafo.entropy(make(), Z)
