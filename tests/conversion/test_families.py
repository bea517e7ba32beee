"""Every model family that conversions promise to work on: equal outputs, parameters, classes, and what is saved."""

import json

import keras
import numpy as np
import pytest

import keras_actlab
from keras_actlab.conversion import report, to_weight_normalization
from tests.conversion.families import FAMILIES, randomized

keras_hub = pytest.importorskip("keras_hub")

# Keras and keras-hub on what they do themselves.
pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed"),
    pytest.mark.filterwarnings("ignore:The structure of `inputs` doesn't match"),
]
# JAX compiles each operation for each new shape, a minute for each of these; TensorFlow traces each model.
LARGE = ["MobileNetV2", "EfficientNetB0", "VGG16"] if keras.backend.backend() != "torch" else []
LARGE += ["ResNet50"]  # which tests/test_readme.py converts and folds
ALL_RELU = ["ResNet50", "VGG16", "ResNetBackbone", "VGGBackbone", "ResNetV2Backbone"]


def families(names):
    """Parameters for these families, of which some are left to the slow tests."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in names]


def outputs(model, x):
    return [np.asarray(output, "float32") for output in keras.tree.flatten(model.predict(x, verbose=0))]


def difference(found, expected):
    """The largest difference, relative to the largest entry."""
    return max(np.abs(one - other).max() / np.abs(other).max() for one, other in zip(found, expected, strict=True))


@pytest.fixture(scope="module", params=families(FAMILIES))
def family(request):
    keras.utils.set_random_seed(0)
    model, x = FAMILIES[request.param]()
    model = randomized(model)
    weights = [weight.copy() for weight in model.get_weights()]
    yield request.param, model, x, outputs(model, x)
    # All the tests of this module leave the original alone.
    for weight, before in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(weight, before)


def test_to_gmp_and_back(family):
    _, model, x, expected = family
    converted = keras_actlab.to_gmp(model)
    assert isinstance(converted, type(model))
    assert difference(outputs(converted, x), expected) <= 1e-5
    done = report(converted)
    assert done.parameters_before == done.parameters_after == model.count_params()
    kinds = keras.layers
    kinds = (kinds.Dense, kinds.EinsumDense, kinds.Conv2D, kinds.DepthwiseConv2D)
    assert len(done.changed) == sum(type(layer) in kinds for layer in model._flatten_layers())
    assert not done.skipped

    folded = keras_actlab.fold(converted)
    assert difference(outputs(folded, x), expected) <= 1e-5
    assert [type(layer) for layer in folded._flatten_layers()] == [type(layer) for layer in model._flatten_layers()]
    assert "keras_actlab" not in json.dumps(keras.saving.serialize_keras_object(folded))
    assert not report(folded).skipped


@pytest.mark.parametrize("family", families(["MobileNetV2", "GPT2Backbone", "ViTImageClassifier"]), indirect=True)
def test_to_weight_normalization_and_back(family):
    _, model, x, expected = family
    converted = to_weight_normalization(model)
    assert difference(outputs(converted, x), expected) <= 1e-5
    assert not report(converted).skipped
    folded = keras_actlab.fold(converted)
    assert difference(outputs(folded, x), expected) <= 1e-5
    assert "keras_actlab" not in json.dumps(keras.saving.serialize_keras_object(folded))


@pytest.mark.parametrize("family", families(ALL_RELU), indirect=True)
def test_relu_for_relu_changes_nothing(family):
    _, model, x, expected = family
    swapped = keras_actlab.swap_activations(model, "relu")
    assert report(swapped).changed
    assert difference(outputs(swapped, x), expected) == 0.0


def test_crrelu_everywhere(family):
    name, model, x, expected = family
    swapped = keras_actlab.swap_activations(model, "crrelu")
    done = report(swapped)
    assert done.parameters_after == done.parameters_before + len(done.changed)
    assert all("CRReLU" in row.after for row in done.changed)
    left = [row.before for row in done.skipped if "softmax" not in row.before.lower() and "sigmoid" not in row.before]
    assert not left
    if name in ALL_RELU:
        assert 0 < difference(outputs(swapped, x), expected) < 0.5


@pytest.mark.parametrize("family", ["ViTBackbone"], indirect=True)
def test_keras_nlp_is_keras_hub(family):
    keras_nlp = pytest.importorskip("keras_nlp")
    assert keras_nlp.models.ViTBackbone is keras_hub.models.ViTBackbone is type(family[1])
