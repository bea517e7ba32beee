import keras
import numpy as np
import pytest

from keras_actlab.layers import MeanOnlyBatchNormalization
from tests.backends import finite_differences, layer_gradients, numpy


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(3.0, 2.0, shape).astype("float32")


@pytest.mark.parametrize(("axis", "others"), [(-1, (0, 1)), (1, (0, 2))])
def test_training_and_inference(axis, others):
    x = data(4, 5, 6)
    layer = MeanOnlyBatchNormalization(axis=axis, momentum=0.9, beta_initializer="random_normal")
    y = numpy(layer(x, training=True))
    mean = x.mean(axis=others, keepdims=True)
    beta = numpy(layer.beta).reshape(mean.shape)
    np.testing.assert_allclose(y, x - mean + beta, atol=1e-5)
    np.testing.assert_allclose(numpy(layer.moving_mean).reshape(mean.shape), 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(numpy(layer(x)), x - 0.1 * mean + beta, atol=1e-5)


def test_beta_starts_at_zero():
    layer = MeanOnlyBatchNormalization()
    layer.build((None, 4))
    np.testing.assert_array_equal(numpy(layer.beta), np.zeros(4))


def test_gradients():
    x, cotangent = data(5, 3), data(5, 3, seed=1)
    layer = MeanOnlyBatchNormalization()
    layer.build(x.shape)
    expected = finite_differences(lambda x, beta: np.sum((x - x.mean(axis=0) + beta) * cotangent), x, np.zeros(3))
    found = layer_gradients(layer, x, cotangent, training=True)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_the_bias_learns_a_mean():
    x = data(64, 2)
    model = keras.Sequential([keras.Input((2,)), MeanOnlyBatchNormalization()])
    model.compile(optimizer=keras.optimizers.SGD(0.5), loss="mse")
    target = x - x.mean(axis=0) + [3.0, -2.0]
    for _ in range(30):
        model.train_on_batch(x, target)
    np.testing.assert_allclose(numpy(model.layers[0].beta), [3.0, -2.0], atol=1e-3)


def test_a_bias_in_front_has_no_effect():
    x = data(6, 3)
    layer = MeanOnlyBatchNormalization(beta_initializer="ones")
    before = numpy(layer(x, training=True))
    np.testing.assert_allclose(numpy(layer(x + np.array([5.0, -1.0, 2.0]), training=True)), before, atol=1e-5)


def test_without_center():
    x = data(6, 3)
    layer = MeanOnlyBatchNormalization(center=False, beta_initializer="ones")
    np.testing.assert_allclose(numpy(layer(x, training=True)), x - x.mean(axis=0), atol=1e-5)
    assert layer.beta is None
    assert layer.trainable_weights == []
    restored = MeanOnlyBatchNormalization.from_config(layer.get_config())
    restored.build(x.shape)
    assert restored.beta is None


def test_masked_entries_do_not_count():
    x = data(4, 6, 3)
    mask = np.random.default_rng(0).random((4, 6)) < 0.5
    layer = MeanOnlyBatchNormalization(beta_initializer="ones")
    y = numpy(layer(x, training=True, mask=mask))
    np.testing.assert_allclose(y, x - x[mask].mean(axis=0) + 1.0, atol=1e-5)


def test_regularizer_and_constraint():
    model = keras.Sequential(
        [
            keras.Input((2,)),
            MeanOnlyBatchNormalization(
                beta_initializer="ones", beta_regularizer=keras.regularizers.L2(0.5), beta_constraint="non_neg"
            ),
        ]
    )
    np.testing.assert_allclose([numpy(loss) for loss in model.losses], [1.0])
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
    model.train_on_batch(np.zeros((4, 2)), np.full((4, 2), -9.0))
    np.testing.assert_array_equal(numpy(model.layers[0].beta), 0.0)


def test_center_of_the_wrong_type():
    with pytest.raises(TypeError, match=r"`center` must be True or False. Received: center='yes'"):
        MeanOnlyBatchNormalization(center="yes")
