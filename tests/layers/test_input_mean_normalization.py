import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_actlab.layers import InputMeanNormalization
from tests.backends import finite_differences, layer_gradients, numpy


@pytest.mark.parametrize(("axis", "others"), [(-1, (0, 1)), (2, (0, 1)), (1, (0, 2)), (-2, (0, 2))])
def test_subtracts_the_mean_of_each_channel(axis, others):
    x = np.random.default_rng(0).normal(3.0, 2.0, (4, 5, 6)).astype("float32")
    layer = InputMeanNormalization(axis=axis)
    np.testing.assert_allclose(numpy(layer(x, training=True)), x - x.mean(axis=others, keepdims=True), atol=1e-5)


def test_moving_mean():
    layer = InputMeanNormalization(momentum=0.9)
    rng = np.random.default_rng(0)
    expected = np.zeros(3)
    for _ in range(4):
        x = rng.normal(2.0, 1.0, (8, 3)).astype("float32")
        layer(x, training=True)
        expected = 0.9 * expected + 0.1 * x.mean(axis=0)
    np.testing.assert_allclose(numpy(layer.moving_mean), expected, rtol=1e-5)
    np.testing.assert_allclose(numpy(layer(x)), x - expected, atol=1e-5)
    np.testing.assert_allclose(numpy(layer.moving_mean), expected, rtol=1e-5)


def test_frozen_runs_in_inference_mode():
    layer = InputMeanNormalization()
    layer.trainable = False
    x = np.full((2, 3), 5.0, "float32")
    np.testing.assert_array_equal(numpy(layer(x, training=True)), x)
    np.testing.assert_array_equal(numpy(layer.moving_mean), 0.0)


def test_gradient_flows_through_the_mean():
    rng = np.random.default_rng(0)
    x, cotangent = rng.standard_normal((2, 5, 3))
    (expected,) = finite_differences(lambda x: np.sum((x - x.mean(axis=0)) * cotangent), x)
    layer = InputMeanNormalization()
    layer.build(x.shape)
    (found,) = layer_gradients(layer, x.astype("float32"), cotangent.astype("float32"), training=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=0), 0.0, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 6, 3), (4, 6, 2, 3)])
def test_masked_entries_do_not_count(shape):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype("float32")
    mask = rng.random(shape[:2]) < 0.5
    x[~mask] = np.nan  # masked values have no effect
    layer = InputMeanNormalization()
    y = numpy(layer(x, training=True, mask=mask))
    mean = x[mask].reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(y[mask], (x - mean)[mask], atol=1e-5)
    np.testing.assert_allclose(numpy(layer.moving_mean), 0.01 * mean, rtol=1e-4)


def test_a_batch_that_is_masked_altogether():
    layer = InputMeanNormalization()
    x = np.ones((2, 4, 3), "float32")
    layer(x, training=True)
    before = numpy(layer.moving_mean).copy()
    y = numpy(layer(x, training=True, mask=np.zeros((2, 4), bool)))
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(numpy(layer.moving_mean), before)


def test_the_mask_comes_from_the_layer_before():
    x = np.random.default_rng(0).normal(5.0, 1.0, (3, 4, 2)).astype("float32")
    x[:, 2:] = 0.0
    model = keras.Sequential([keras.Input((4, 2)), keras.layers.Masking(), InputMeanNormalization(momentum=0.0)])
    model(x, training=True)
    np.testing.assert_allclose(numpy(model.layers[-1].moving_mean), x[:, :2].mean(axis=(0, 1)), rtol=1e-5)


def test_masks_of_any_length_in_compiled_training():
    x = np.random.default_rng(0).normal(5.0, 1.0, (6, 4, 2)).astype("float32")
    x[:3, 2:] = 0.0
    counts = np.any(x != 0, axis=-1)
    model = keras.Sequential(
        [
            keras.Input((None, 2)),
            keras.layers.Masking(),
            InputMeanNormalization(momentum=0.0),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(optimizer="sgd", loss="mse")
    model.train_on_batch(x, np.ones((6, 1)))
    np.testing.assert_allclose(numpy(model.layers[1].moving_mean), x[counts].mean(axis=0), rtol=1e-5)


def test_the_mean_of_large_half_precision_numbers():
    x = np.full((1000, 2), 60000.0, "float32")
    x[:, 1] = 1.0
    y = InputMeanNormalization(dtype="mixed_float16")(x, training=True)
    np.testing.assert_allclose(numpy(y), 0.0, atol=1e-2)


@pytest.mark.parametrize("synchronized", [False, True])
def test_the_mean_of_the_largest_numbers(synchronized):
    y = numpy(InputMeanNormalization(synchronized=synchronized)(np.full((100, 1), 3e38, "float32"), training=True))
    assert np.all(np.abs(y) <= 1e-5 * 3e38)


@pytest.mark.parametrize("momentum", [-0.1, 1.5, float("nan")])
def test_bad_momentum(momentum):
    with pytest.raises(ValueError, match="`momentum` must be in"):
        InputMeanNormalization(momentum=momentum)


@pytest.mark.parametrize("axis", [0, 2, -3])
def test_axis_outside_the_input(axis):
    with pytest.raises(ValueError, match=f"Received: axis={axis}"):
        InputMeanNormalization(axis=axis).build((2, 3))


def test_momentum_of_the_wrong_type():
    with pytest.raises(TypeError, match="`momentum` must be a number"):
        InputMeanNormalization(momentum="a")


@pytest.mark.parametrize("shape", [(2, 3, 4, 1), (2, 5), (3,)])
def test_a_mask_that_does_not_fit(shape):
    with pytest.raises(ValueError, match=r"`mask` must have the shape of the leading axes.* Received: mask.shape="):
        InputMeanNormalization()(np.ones((2, 3, 4)), training=True, mask=np.ones(shape, bool))


def test_synchronized_without_replicas():
    x = np.random.default_rng(0).normal(3.0, 2.0, (6, 2)).astype("float32")
    layer = InputMeanNormalization(synchronized=True)
    np.testing.assert_allclose(numpy(layer(x, training=True)), x - x.mean(axis=0), atol=1e-5)


REPLICAS = """
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from keras_actlab.layers import InputMeanNormalization
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    layer = InputMeanNormalization(momentum=0.0, synchronized=True)
    layer.build((None, 1))
shares = [np.array([[1.0], [2.0], [6.0]], "float32"), np.array([[11.0]], "float32")]
inputs = strategy.experimental_distribute_values_from_function(lambda context: shares[context.replica_id_in_sync_group])
results = strategy.run(lambda x: layer(x, training=True), args=(inputs,))
results = np.concatenate([result.numpy() for result in strategy.experimental_local_results(results)])
np.testing.assert_allclose(results[:, 0], [-4.0, -3.0, 1.0, 6.0])
np.testing.assert_allclose(layer.moving_mean.numpy(), [5.0])
"""


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.distribute is TensorFlow's")
def test_replicas_are_weighted_with_their_batch_sizes():
    finished = subprocess.run([sys.executable, "-c", REPLICAS], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
