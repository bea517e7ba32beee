import keras
import numpy as np
import pytest

from keras_actlab import layers
from tests.backends import numpy, on_one_backend

CLASSES = {"crrelu": layers.CRReLU, "entropy": layers.EntropyActivation, "tmaf": layers.TMAF}


def model_with(name):
    return keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, name), keras.layers.Activation(name), keras.layers.Dense(2, name)]
    )


@pytest.mark.one_backend
@pytest.mark.parametrize("name", CLASSES)
def test_a_name_gives_each_place_a_layer_of_its_own(name):
    model = model_with(name)
    found = [layer.activation for layer in model.layers]
    assert [type(one) for one in found] == [CLASSES[name]] * 3
    assert len({id(one) for one in found}) == 3
    assert len({one.name for one in found}) == 3


@pytest.mark.one_backend
@pytest.mark.parametrize("name", ["tmaf", *on_one_backend("crrelu", "entropy")])
def test_a_name_is_trained_saved_and_loaded(name, tmp_path):
    keras.utils.set_random_seed(0)
    model = model_with(name)
    x = np.random.default_rng(0).standard_normal((16, 3)).astype("float32")
    model.compile("sgd", "mse")
    model.fit(x, x[:, :2], epochs=2, verbose=0)
    own = [weight for layer in model.layers for weight in layer.activation.trainable_weights]
    assert own
    assert {id(weight) for weight in own} <= {id(weight) for weight in model.trainable_weights}
    start = CLASSES[name]()
    start.build((None, 4))
    initial = numpy(start.trainable_weights[0])
    assert any(not np.array_equal(numpy(weight), initial) for weight in own)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numpy(again(x)), numpy(model(x)), atol=1e-6)


@pytest.mark.one_backend
@pytest.mark.parametrize("name", ["crrelu", "entropy"])
def test_weights_are_loaded_into_a_model_that_was_not_called(name, tmp_path):
    model = model_with(name)
    for weight in model.weights:
        if weight.name in ("epsilon", "values"):
            weight.assign(weight + 0.5)
    model.save_weights(tmp_path / "w.weights.h5")
    again = model_with(name)
    again.load_weights(tmp_path / "w.weights.h5")
    x = np.ones((2, 3), "float32")
    np.testing.assert_allclose(numpy(again(x)), numpy(model(x)), atol=1e-6)


@pytest.mark.one_backend
def test_other_names_still_resolve_to_keras():
    assert keras.activations.get("relu") is keras.activations.relu
    assert keras.layers.Dense(3, "gelu").activation is keras.activations.gelu
    with pytest.raises(ValueError, match="Could not interpret activation function identifier: crreru"):
        keras.layers.Dense(3, "crreru")


@pytest.mark.one_backend
@pytest.mark.parametrize("cls", CLASSES.values())
def test_the_error_for_a_class_or_a_tensor_shows_the_fix(cls):
    name = cls.__name__
    x = np.ones((2, 3), "float32")
    for misuse in (
        lambda: cls(x),
        lambda: cls(keras.ops.convert_to_tensor(x)),
        lambda: cls(keras.Input((3,))),
        lambda: keras.layers.Dense(3, activation=cls)(x),
    ):
        with pytest.raises(TypeError, match=rf"{name} is a class of layers: .*`activation={name}\(\)`, not the class"):
            misuse()
    with pytest.raises(TypeError, match=rf"such as `{name}\(\)`, not a class"):
        layers.EntropyActivation(activation=cls)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("cls", "keywords", "message"),
    [
        (layers.CRReLU, {"epsilon": 0.1}, "CRReLU has no argument `epsilon`; give `epsilon_initializer`.*epsilon=0.1"),
        (layers.TMAF, {"levels": "zeros"}, "TMAF has no argument `levels`; give `levels_initializer`"),
        (layers.EntropyActivation, {"knots": 8}, "EntropyActivation has no argument `knots`; give `num_knots`"),
    ],
)
def test_a_wrong_argument_is_told_the_right_one(cls, keywords, message):
    with pytest.raises(ValueError, match=message):
        cls(**keywords)


@pytest.mark.parametrize("make", [layers.CRReLU, layers.TMAF, lambda: layers.EntropyActivation(sample_size=32)])
def test_an_empty_batch(make):
    layer = make()
    layer(np.ones((2, 6), "float32"), training=True)
    before = layer.get_weights()
    assert tuple(layer(np.zeros((0, 6), "float32"), training=True).shape) == (0, 6)
    for found, expected in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.one_backend
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the others know each shape while they trace")
def test_an_empty_batch_of_a_graph_of_any_batch():
    import tensorflow as tf

    layer = layers.EntropyActivation(sample_size=32)
    layer.build((None, 6))
    call = tf.function(lambda x: layer(x, training=True), input_signature=[tf.TensorSpec((None, 6))])
    call(tf.ones((2, 6)))
    assert numpy(layer.sampled) == 2
    call(tf.ones((0, 6)))
    assert numpy(layer.sampled) == 2
    assert list(numpy(layer.sample)[:3]) == [1, 1, 0]
