import keras
import numpy as np
import pytest

import keras_actlab
from keras_actlab.models._convolution import NORMALIZATIONS, PARAMETERIZATIONS, check, convolution
from tests.backends import layer_gradients, numpy

pytestmark = [pytest.mark.one_backend, pytest.mark.usefixtures("even_starts")]

PAIRS = [
    (parameterization, normalization)
    for parameterization in PARAMETERIZATIONS
    for normalization in NORMALIZATIONS
    if normalization != "batch" or parameterization == "standard"
]


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(1.0, 2.0, shape).astype("float32")


def network(strides: int, activation="relu") -> keras.Model:
    """Returns a model of all pairs in parallel, with generic weights."""
    images = keras.Input((5, 4, 3))
    outputs = [convolution(images, 2, 3, strides, *pair, name="_".join(pair), activation=activation) for pair in PAIRS]
    model = keras.Model(images, keras.layers.Concatenate()(outputs))
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    for variable in model.non_trainable_variables:
        variable.assign(rng.uniform(0.5, 1.5, size=variable.shape))
    return model


def convolve(x, kernel, strides):
    """Returns a 3 x 3 convolution of images that are padded with one zero on every side."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::strides, ::strides]
    return np.einsum("bhwcij,ijco->bhwo", windows, kernel)


def centred(x):
    return x - x.mean(axis=(0, 1, 2))


def expected(model, x, strides, parameterization, normalization):
    name = f"{parameterization}_{normalization}"
    layer = model.get_layer(f"{name}_conv")
    if normalization == "input_mean":
        x = centred(x)
    match parameterization:
        case "standard":
            kernel, scale, bias = numpy(layer.kernel), 1.0, layer.bias
        case "weight_norm":
            v = numpy(layer.layer.kernel)
            kernel = numpy(layer.scale) * v / np.sqrt((v**2).sum(axis=(0, 1, 2)))
            scale, bias = 1.0, layer.layer.bias
        case "gmp":
            kernel, scale, bias = numpy(layer.direction), numpy(layer.scale), layer.radius
            np.testing.assert_allclose((kernel**2).sum(axis=(0, 1, 2)), 1.0, rtol=1e-5)
    y = convolve(x, kernel, strides)
    if normalization in ("none", "input_mean"):
        return scale * np.maximum(y + numpy(bias), 0)
    assert bias is None
    norm = model.get_layer(f"{name}_norm")
    y = centred(scale * y)
    if normalization == "batch":
        y = y / np.sqrt((y**2).mean(axis=(0, 1, 2)) + 1e-5) * numpy(norm.gamma)
    return np.maximum(y + numpy(norm.beta), 0)


@pytest.mark.parametrize("strides", [1, 2])
def test_each_pair_computes_its_formula(strides):
    model, x = network(strides), data(3, 5, 4, 3)
    before = [expected(model, x, strides, *pair) for pair in PAIRS]
    found = np.split(numpy(model(x, training=True)), len(PAIRS), axis=-1)
    for pair, one, other in zip(PAIRS, found, before, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4, err_msg=pair)


def test_every_parameter_has_an_effect():
    model, x = network(1), data(3, 5, 4, 3)
    cotangent = data(3, 5, 4, 2 * len(PAIRS), seed=2)
    _, *gradients = layer_gradients(model, x, cotangent, training=True)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert np.abs(gradient).max() > 1e-3, variable.path


def test_without_an_activation_the_output_is_negative_too():
    names = ["GmPConv2D", "Conv2D", "WeightNormalization", "MeanOnlyBatchNormalization", "BatchNormalization"]
    model = network(1, activation=None)
    assert {type(layer).__name__ for layer in model.layers} - set(names) == {
        "InputLayer",
        "InputMeanNormalization",
        "Concatenate",
    }
    outputs = numpy(model(data(3, 5, 4, 3), training=True))
    assert (outputs.min(axis=(0, 1, 2)) < 0).all()


def test_folded_it_computes_the_same():
    model, x = network(2), data(3, 5, 4, 3)
    folded = keras_actlab.fold(model)
    assert not keras_actlab.conversion.report(folded).skipped
    np.testing.assert_allclose(numpy(folded(x)), numpy(model(x)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("parameterization", ["weight_norm", "gmp"])
def test_a_scale_without_effect_is_refused(parameterization):
    message = rf"the scale would have no effect. Received: .*parameterization='{parameterization}'"
    with pytest.raises(ValueError, match=message):
        check(parameterization, "batch")


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("polar", "none"), r"`parameterization` must be one of .*'gmp'\). Received: parameterization='polar'"),
        (("gmp", None), r"`normalization` must be one of \('none'.*Received: normalization=None"),
    ],
)
def test_unknown_names(pair, message):
    with pytest.raises(ValueError, match=message):
        check(*pair)
