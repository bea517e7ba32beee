import keras
import numpy as np
import pytest

import keras_actlab
from keras_actlab import layers
from keras_actlab.conversion import to_weight_normalization
from tests.backends import numpy

X = np.random.default_rng(0).standard_normal((64, 32)).astype("float32")


def network(activation="gelu"):
    return keras.Sequential(
        [keras.Input((32,)), keras.layers.Dense(64, activation, name="hidden"), keras.layers.Dense(8, name="out")]
    )


def with_negative_scales():
    """A model that folds to a Dense whose activation is a model, which multiplies by the scale."""
    layer = layers.GmPDense(64, "tanh", name="hidden")
    model = keras.Sequential([keras.Input((32,)), layer, keras.layers.Dense(8, name="out")])
    layer.scale.assign(np.where(np.arange(64) % 2, 1, -1))
    return model


MODELS = {
    "plain": network,
    "CRReLU": lambda: keras_actlab.swap_activations(network(), "crrelu"),
    "CRReLU of one's own": lambda: network(layers.CRReLU()),
    "TMAF": lambda: keras_actlab.swap_activations(network(), "tmaf"),
    "GmP, folded": lambda: keras_actlab.fold(with_negative_scales()),
    "GmP with CRReLU, folded": lambda: keras_actlab.fold(
        keras_actlab.to_gmp(keras_actlab.swap_activations(network(), "crrelu"))
    ),
    "weight normalization, folded": lambda: keras_actlab.fold(to_weight_normalization(network())),
}


def kernel_bytes(model, name):
    layer = model.get_layer(name)
    kernel = layer.quantized_kernel if hasattr(layer, "quantized_kernel") else layer._kernel
    return np.prod(kernel.shape) * np.dtype(keras.backend.standardize_dtype(kernel.dtype)).itemsize


@pytest.mark.one_backend
@pytest.mark.parametrize("name", MODELS)
# float8 learns its scales in training, and starts with 1.
@pytest.mark.parametrize(("mode", "tolerance", "smaller"), [("int8", 0.05, 4), ("int4", 0.3, 8), ("float8", 0.2, 1)])
def test_each_dense_layer_is_quantized(name, mode, tolerance, smaller):
    model = MODELS[name]()
    expected = numpy(model(X))
    weights = len(model.trainable_variables)
    assert kernel_bytes(model, "hidden") == 32 * 64 * 4
    keras_actlab.quantize(model, mode)
    assert [layer.quantization_mode for layer in model.layers] == [mode, mode]
    found = numpy(model(X))
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()
    assert np.any(found != expected)
    if mode != "float8":
        assert 32 * 64 * 4 / kernel_bytes(model, "hidden") == smaller
        assert len(model.trainable_variables) == weights - 2  # kernels of integers are not trained
    np.testing.assert_array_equal(model.predict(X, verbose=0), found)


@pytest.mark.parametrize("name", ["CRReLU", "GmP, folded"])
def test_saved_and_loaded(tmp_path, name):
    model = MODELS[name]()
    keras_actlab.quantize(model, "int8")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("hidden").quantization_mode == "int8"
    np.testing.assert_allclose(numpy(loaded(X)), numpy(model(X)), atol=1e-5)


@pytest.mark.one_backend
def test_filters():
    for filters in ("hid", ["hid"], lambda layer: layer.name == "hidden"):
        model = MODELS["CRReLU"]()
        keras_actlab.quantize(model, "int8", filters=filters)
        assert [layer.quantization_mode for layer in model.layers] == ["int8", None]


@pytest.mark.one_backend
def test_a_config_of_the_user():
    model = MODELS["CRReLU"]()
    keras_actlab.quantize(model, config=keras.quantizers.Int4QuantizationConfig(block_size=None))
    assert model.layers[0].quantization_mode == "int4"


@pytest.mark.one_backend
def test_later_training_finds_all_variables():
    model = MODELS["CRReLU"]()
    keras_actlab.quantize(model, "int8")
    model.compile("sgd", "mse")
    epsilon = model.layers[0].activation.epsilon
    before = numpy(epsilon).copy()
    model.fit(X, np.ones((64, 8)), verbose=0)
    assert np.any(numpy(epsilon) != before)


UNFOLDED = {
    "GmP": lambda: keras_actlab.to_gmp(network()),
    "GmP with an activation layer": lambda: keras_actlab.to_gmp(keras_actlab.swap_activations(network(), "crrelu")),
    "GmP, then another activation": lambda: keras_actlab.swap_activations(keras_actlab.to_gmp(network()), "crrelu"),
    "weight normalization": lambda: to_weight_normalization(network()),
    "weight normalization of a layer with an activation layer": lambda: to_weight_normalization(
        network(layers.CRReLU())
    ),
    "weight normalization, then another activation": lambda: keras_actlab.swap_activations(
        to_weight_normalization(network()), "crrelu"
    ),
    "weight normalization of a cell": lambda: keras.Sequential(
        [keras.Input((4, 8)), layers.WeightNormalization(keras.layers.LSTM(4), name="hidden")]
    ),
    "separable convolution": lambda: keras.Sequential(
        [keras.Input((8, 8, 3)), layers.GmPSeparableConv2D(4, 3, activation=layers.CRReLU(), name="hidden")]
    ),
    "other layers": lambda: keras_actlab.to_gmp(
        keras.Sequential([keras.Input((4, 8)), keras.layers.LSTM(4, name="hidden")]), keras.layers.LSTMCell
    ),
}


@pytest.mark.one_backend
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize")  # Keras' own, of inputs
@pytest.mark.parametrize("name", UNFOLDED)
def test_nothing_is_quantized_before_it_is_folded(name, tmp_path):
    model = UNFOLDED[name]()
    model.save(tmp_path / "model.keras")
    for one in (model, keras.saving.load_model(tmp_path / "model.keras")):
        with pytest.raises(ValueError, match=r"fold it first, .*hidden"):
            keras_actlab.quantize(one, "int8")
        assert not any(layer.quantization_mode for layer in one.layers)
        # Keras' own method, too, which skips with a warning what raises NotImplementedError.
        with pytest.raises(ValueError, match="Fold the model first"):
            one.quantize("int8")
    folded = keras_actlab.fold(model)
    if "conv" not in name and "cell" not in name and "other" not in name:
        keras_actlab.quantize(folded, "int8")
        assert folded.get_layer("hidden").quantization_mode == "int8"


@pytest.mark.one_backend
def test_other_layers_beside_an_unfolded_one():
    model = keras.Sequential([keras.Input((32,)), layers.GmPDense(4, name="gmp"), keras.layers.Dense(4, name="plain")])
    keras_actlab.quantize(model, "int8", filters="plain")
    assert [layer.quantization_mode for layer in model.layers] == [None, "int8"]


@pytest.mark.one_backend
def test_arguments():
    with pytest.raises(TypeError, match=r"`model` must be a keras.Model. Received: model='a'"):
        keras_actlab.quantize("a", "int8")
    with pytest.raises(ValueError, match="`model` must be built"):
        keras_actlab.quantize(keras.Sequential([keras.layers.Dense(3)]), "int8")
    with pytest.raises(ValueError, match="Keras can quantize"):
        keras_actlab.quantize(keras.Sequential([keras.Input((3,)), layers.CRReLU()]), "int8")
    with pytest.raises(ValueError, match="int3"):
        keras_actlab.quantize(network(), "int3")
    for group_size in (-1, 48, 256):
        config = keras.quantizers.GPTQConfig(["a"], str.split, group_size=group_size)
        with pytest.raises(ValueError, match=f"must divide 128, .*Received: group_size={group_size}"):
            keras_actlab.quantize(network(), config=config)
