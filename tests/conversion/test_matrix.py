"""Each way in which models are used and reused in Keras, with the result of each conversion."""

import copy
import pickle
import zipfile

import keras
import numpy as np
import pytest

import keras_actlab
from keras_actlab.conversion import report, to_weight_normalization
from tests.backends import numpy, on_one_backend
from tests.conversion.parts import Backbone, Extractor

pytestmark = pytest.mark.filterwarnings("ignore:The structure of `inputs` doesn't match")

CONVERSIONS = {
    "swap": lambda model: keras_actlab.swap_activations(model, "crrelu"),
    "to_gmp": lambda model: keras_actlab.to_gmp(keras_actlab.swap_activations(model, "crrelu", keras.layers.Dense)),
    "to_weight_normalization": to_weight_normalization,
    "fold": lambda model: keras_actlab.fold(keras_actlab.to_gmp(model)),
}


def gpt2():
    models = pytest.importorskip("keras_hub").models
    return models.GPT2Backbone(
        vocabulary_size=11, num_layers=2, num_heads=2, hidden_dim=8, intermediate_dim=16, max_sequence_length=6
    )


CASES = {
    "own": (Backbone, np.random.default_rng(0).normal(size=(3, 4)).astype("float32")),
    "keras-hub": (gpt2, {"token_ids": np.arange(12).reshape(2, 6) % 11, "padding_mask": np.ones((2, 6), "int32")}),
}


def randomized(model):
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if "float" in weight.dtype:
            weight.assign(0.5 * rng.standard_normal(weight.shape))
    return model


def converted(case, conversion):
    keras.utils.set_random_seed(0)
    model = randomized(CASES[case][0]())
    return CONVERSIONS[conversion](model)


# Two layers of keras-hub's compile for minutes on JAX.
EACH_CASE = ["own", pytest.param("keras-hub", marks=pytest.mark.one_backend)]


@pytest.fixture(scope="module", params=EACH_CASE)
def case(request):
    return request.param


# "to_gmp" swaps, too, and weight normalization wraps layers as it does.
@pytest.fixture(scope="module", params=["to_gmp", "fold", *on_one_backend("swap", "to_weight_normalization")])
def conversion(request):
    return request.param


@pytest.fixture(scope="module")
def result(case, conversion):
    return case, conversion, converted(case, conversion), CASES[case][1]


def check(found, expected, x, skipped=0):
    np.testing.assert_allclose(numpy(found(x)), numpy(expected(x)), rtol=0, atol=1e-6)
    assert shapes(found.trainable_variables) == shapes(expected.trainable_variables)
    assert shapes(found.variables) == shapes(expected.variables)
    # In any order, as a clone holds its layers in that of its graph.
    assert sorted(kinds(found)[skipped:]) == sorted(kinds(expected)[skipped:])


def shapes(variables):
    return [(variable.name, tuple(variable.shape)) for variable in variables]


def kinds(model):
    return [type(layer).__name__ for layer in model._flatten_layers()]


def reloaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.saving.load_model(tmp_path / "model.keras")  # in safe mode


def test_the_file(result, tmp_path):
    _, conversion, model, x = result
    loaded = reloaded(model, tmp_path)
    check(loaded, model, x)
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        assert (b"keras_actlab" in file.read("config.json")) == (conversion != "fold")
    if conversion == "fold":
        with pytest.raises(ValueError, match="must be what a conversion returned"):
            report(loaded)
    else:
        # Also of the model that is loaded from the file of the loaded model.
        for again in (loaded, reloaded(loaded, tmp_path)):
            assert [(row.layer.split("/")[0], row.before, row.after) for row in report(again).rows] == [
                (row.layer.split("/")[0], row.before, row.after)
                for row in report(keras.models.Model(model.input, model.output)).rows
            ]
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    fresh.load_weights(tmp_path / "model.weights.h5")
    check(fresh, model, x)


def test_a_head_on_its_output(result, tmp_path):
    _, _, model, x = result
    whole = keras.Model(model.input, keras.layers.Dense(2, name="head")(model.output))
    check(reloaded(whole, tmp_path), whole, x)


def test_clone_model(result):
    _, _, model, x = result
    whole = keras.Model(model.input, keras.layers.Dense(2, name="head")(model.output))
    for one in (whole, model):
        clone = keras.models.clone_model(one)
        clone.set_weights(one.get_weights())
        # Keras clones a model of a class with a graph as a plain Functional one.
        check(clone, one, x, skipped=1 if one is model else 0)


def test_a_feature_extractor(result, tmp_path):
    case, _, model, x = result
    features = keras.Model(model.input, model.layers[-2].output)
    check(reloaded(features, tmp_path), features, x)
    if case == "own":
        extractor = Extractor(model)
        extractor(x)
        check(reloaded(extractor, tmp_path), extractor, x)


def test_nested(result, tmp_path):
    _, _, model, x = result
    inputs = keras.tree.map_structure(
        lambda tensor: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=tensor.name), model.input
    )
    whole = keras.Model(inputs, keras.layers.Dense(2, name="head")(model(inputs)))
    check(reloaded(whole, tmp_path), whole, x)


def test_pickle_and_deepcopy(result):
    _, _, model, x = result
    check(pickle.loads(pickle.dumps(model)), model, x)
    check(copy.deepcopy(model), model, x)


def test_presets(result, tmp_path):
    case, _, model, x = result
    if case != "keras-hub":
        pytest.skip("presets are keras-hub's")
    models = pytest.importorskip("keras_hub").models
    model.save_to_preset(str(tmp_path))
    for cls in (models.GPT2Backbone, models.Backbone):
        check(cls.from_preset(str(tmp_path)), model, x)


def test_training_sees_each_parameter(result):
    model = result[2]
    assert len({variable.path for variable in model.variables}) == len(model.variables)
    if keras.backend.backend() == "torch":
        seen = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
        assert seen == {id(variable.value) for variable in model.trainable_variables}
        assert len(model.state_dict()) == len(model.variables)
    model.compile("sgd", "mse")
    tree = model.get_state_tree()
    assert len(keras.tree.flatten(tree["trainable_variables"])) == len(model.trainable_variables)


def test_frozen_parts(case, conversion):
    model = CASES[case][0]()
    model.layers[-2].trainable = False
    before = model.layers[-2].count_params()
    free = sum(np.prod(variable.shape) for variable in model.trainable_variables)
    result = CONVERSIONS[conversion](model)
    assert not result.layers[-2].trainable_variables
    assert sum(layer.trainable for layer in result.layers[-2]._flatten_layers()) == 0
    if conversion in ("fold", "to_gmp"):  # these keep the number of parameters, except with two activations
        assert 0 <= sum(np.prod(variable.shape) for variable in result.trainable_variables) - free <= 2
        assert 0 <= result.layers[-2].count_params() - before <= 1


def test_lora(conversion):
    model = randomized(Backbone())
    dense = model.layers[-2].out
    dense.enable_lora(2)
    dense.lora_kernel_b.assign(np.ones(dense.lora_kernel_b.shape))
    result = CONVERSIONS[conversion](model)
    found = result.layers[-2].out
    assert type(found) is keras.layers.Dense
    assert found.lora_enabled
    assert shapes(found.trainable_variables) == shapes(dense.trainable_variables)
    np.testing.assert_array_equal(numpy(found.lora_kernel_a), numpy(dense.lora_kernel_a))
    np.testing.assert_array_equal(numpy(found.lora_kernel_b), 1.0)
    x = CASES["own"][1]
    if conversion != "swap" and conversion != "to_gmp":
        np.testing.assert_allclose(numpy(result(x)), numpy(model(x)), atol=1e-5)


@pytest.mark.one_backend
def test_quantized(conversion):
    model = randomized(Backbone())
    dense = model.layers[-2].out
    dense.quantize("int8")
    result = CONVERSIONS[conversion](model)
    found = result.layers[-2].out
    assert (type(found), found.quantization_mode) == (keras.layers.Dense, "int8")
    assert shapes(found.variables) == shapes(dense.variables)
    x = CASES["own"][1]
    if conversion != "swap" and conversion != "to_gmp":
        np.testing.assert_allclose(numpy(result(x)), numpy(model(x)), atol=1e-5)
