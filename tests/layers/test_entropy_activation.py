import json
import math
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_actlab import ops
from keras_actlab.layers import EntropyActivation
from tests.backends import numpy, on_one_backend


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def layer_and_model(channels=3, optimizer=0.1, **arguments):
    layer = EntropyActivation(**arguments)
    model = keras.Sequential([keras.Input((channels,)), layer, keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.SGD(optimizer), loss="mse")
    return layer, model


def erf_gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def test_starts_as_exactly_relu():
    x = 4 * normal(50, 7)
    np.testing.assert_array_equal(numpy(EntropyActivation()(x)), np.maximum(x, 0))


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("gelu", erf_gelu),
        (ops.crrelu, lambda x: np.maximum(x, 0) + 0.01 * x * np.exp(-x * x / 2)),
        (None, lambda x: x),
    ],
)
def test_starts_close_to_any_activation(activation, expected):
    layer = EntropyActivation(activation)
    x = np.random.default_rng(0).uniform(-4, 4, (100, 3)).astype("float32")
    np.testing.assert_allclose(numpy(layer(x)), expected(x.astype("float64")), atol=1e-2)
    knots = numpy(layer.knots)
    np.testing.assert_allclose(numpy(layer.values), expected(knots.astype("float64")), atol=1e-5)


@pytest.mark.parametrize("arguments", [{"activation": "gelu"}, {"num_knots": 2}, {"lower": -1.0, "upper": 7}])
def test_knots(arguments):
    layer = EntropyActivation(**arguments)
    layer.build((None, 3))
    ends = arguments.get("lower", -4.0), arguments.get("upper", 3.75), arguments.get("num_knots", 32)
    np.testing.assert_allclose(numpy(layer.knots), np.linspace(*ends), rtol=1e-6)
    assert [weight.name for weight in layer.trainable_weights] == ["values"]
    assert [weight.name for weight in layer.weights] == ["values", "knots"]


@pytest.mark.parametrize("activation", ["softmax", "log_softmax", "glu", lambda x: x - keras.ops.mean(x)])
def test_an_activation_that_is_not_elementwise(activation):
    with pytest.raises(ValueError, match=r"`activation` must be elementwise.* Received: activation="):
        EntropyActivation(activation).build((None, 3))


def test_an_activation_that_is_not_finite():
    with pytest.raises(ValueError, match=r"finite at the knots. Received: activation="):
        EntropyActivation(keras.ops.log).build((None, 3))


def test_an_activation_with_weights():
    with pytest.raises(TypeError, match="`activation` must be a function, not a layer"):
        EntropyActivation(keras.layers.PReLU())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_knots": 1}, ValueError, "`num_knots` must be at least 2. Received: num_knots=1"),
        ({"num_knots": 2.0}, TypeError, "`num_knots` must be an integer"),
        ({"lower": 3.75}, ValueError, "`lower` must be less than `upper`.* Received: lower=3.75, upper=3.75"),
        ({"lower": -np.inf}, ValueError, "`lower` must be less than `upper`.* Received: lower=-inf"),
        ({"lower": "low"}, TypeError, "`lower` must be a number. Received: lower='low'"),
        ({"upper": np.nan}, ValueError, "`lower` must be less than `upper`.* Received: lower=-4.0, upper=nan"),
        ({"upper": 1e39}, ValueError, "in float32. Received: lower=-4.0, upper=1e"),
        ({"lower": -3e38, "upper": 3e38}, ValueError, "in float32. Received: lower=-3e"),
        ({"lower": 1.0, "upper": 1.000001}, ValueError, "by enough for 32 finite knots in float32"),
        ({"upper": True}, TypeError, "`upper` must be a number. Received: upper=True"),
        ({"monotone": 1}, TypeError, "`monotone` must be True or False"),
        ({"sample_size": -1}, ValueError, "`sample_size` must not be negative. Received: sample_size=-1"),
        ({"sample_size": 1.0}, TypeError, "`sample_size` must be an integer"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        EntropyActivation(**arguments)


def test_config_names_the_activation():
    layer = EntropyActivation(ops.crrelu, num_knots=5, values_regularizer="l2", sample_size=7)
    config = json.loads(json.dumps(layer.get_config()))
    restored = EntropyActivation.from_config(config)
    assert restored.activation is ops.crrelu
    assert restored.get_config() == layer.get_config()


def test_regularizer():
    layer = EntropyActivation(None, num_knots=3, lower=-1.0, upper=1.0, values_regularizer=keras.regularizers.L1(0.5))
    layer(normal(2, 3))
    assert float(numpy(layer.losses[0])) == 1.0


def test_set_curve():
    layer = EntropyActivation(num_knots=201)
    layer.build((None, 3))
    seen = []
    layer.set_curve(lambda knots: seen.append(knots) or np.sin(knots), lower=-2, upper=2.0)
    np.testing.assert_allclose(numpy(layer.knots), np.linspace(-2, 2, 201), atol=1e-6)
    assert seen[0].dtype == np.float64
    x = np.linspace(-2, 2, 50, dtype="float32")
    np.testing.assert_allclose(numpy(layer(x)), np.sin(x), atol=1e-4)
    layer.set_curve(np.cos)
    np.testing.assert_allclose(numpy(layer.knots), np.linspace(-2, 2, 201), atol=1e-6)
    np.testing.assert_allclose(numpy(layer(x)), np.cos(x), atol=1e-4)


def test_set_curve_before_building():
    with pytest.raises(ValueError, match="must be built before"):
        EntropyActivation().set_curve(np.sin)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3.0,), TypeError, r"`function` must be callable. Received: function=3.0"),
        ((lambda knots: 0.0,), ValueError, r"`function` must return 32 finite values"),
        ((lambda knots: knots[1:],), ValueError, r"`function` must return 32 finite values"),
        ((lambda knots: knots * np.nan,), ValueError, r"`function` must return 32 finite values"),
        ((lambda knots: knots * 1e38,), ValueError, r"`function` must return 32 finite values, in float32"),
        ((np.sin, 4.0), ValueError, r"Received: lower=4.0, upper=3.75"),
        ((np.sin, None, np.inf), ValueError, r"Received: lower=-4.0, upper=inf"),
        ((np.sin, "a"), TypeError, r"`lower` must be a number"),
        ((np.square,), ValueError, r"`function` must not decrease .* falls from 16.0 at -4.0 to 14.0625 at -3.75"),
    ],
)
def test_a_curve_that_cannot_be_set(arguments, error, message):
    layer = EntropyActivation(monotone=True)
    layer.build((None, 3))
    before = layer.get_weights()
    with pytest.raises(error, match=message):
        layer.set_curve(*arguments)
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="nothing is traced there")
def test_no_retracing_when_the_curve_changes(monkeypatch):
    traced = []
    original = ops.linear_spline
    monkeypatch.setattr(ops, "linear_spline", lambda *arguments: traced.append(1) or original(*arguments))
    layer, model = layer_and_model(sample_size=32)
    x = normal(8, 3)
    predicted = []
    for curve in (np.tanh, np.cos, np.sin):
        layer.set_curve(curve, lower=-1 - len(predicted))
        model.train_on_batch(x, x[:, :1])
        predicted.append(model.predict_on_batch(x))
        if len(predicted) == 1:
            count = len(traced)
    assert len(traced) == count
    assert not np.allclose(predicted[0], predicted[1])


def test_a_callback_can_set_the_curve_between_epochs():
    layer, model = layer_and_model(optimizer=0.0, sample_size=16)
    seen = []

    class Refit(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(int(numpy(layer.sampled)))
            layer.set_curve(lambda knots: (epoch + 1) * knots)

    x = normal(8, 3)
    model.fit(x, x[:, :1], epochs=3, batch_size=4, callbacks=[Refit()], verbose=0)
    assert seen == [2, 4, 6]
    np.testing.assert_allclose(numpy(layer.values), 3 * numpy(layer.knots), rtol=1e-6)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_monotone_values_stay_so(activation):
    layer, model = layer_and_model(optimizer=1.0, activation=activation, monotone=True)
    assert np.all(np.diff(numpy(layer.values)) >= 0)
    before = numpy(layer.values).copy()
    x = normal(64, 3)
    for _ in range(5):
        model.train_on_batch(x, np.cos(3 * x[:, :1]))
        assert np.all(np.diff(numpy(layer.values)) >= 0)
    assert np.abs(numpy(layer.values) - before).max() > 1e-2


def test_monotone_matters():
    layer, model = layer_and_model(optimizer=1.0)
    x = normal(64, 3)
    for _ in range(5):
        model.train_on_batch(x, np.cos(3 * x[:, :1]))
    assert np.diff(numpy(layer.values)).min() < 0


def test_a_fixed_curve_is_still_sampled():
    layer, model = layer_and_model(trainable=False, sample_size=32)
    before = numpy(layer.values).copy()
    x = normal(16, 3)
    model.train_on_batch(x, x[:, :1])
    np.testing.assert_array_equal(numpy(layer.values), before)
    assert int(numpy(layer.sampled)) == 2


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_an_empty_batch_does_not_change_the_sample(run_eagerly):
    # A replica without samples runs a training step compiled for any batch size (tensorflow#41657).
    layer = EntropyActivation(sample_size=32)
    layer(normal(5, 3), training=True)
    before = numpy(layer.sample).copy()

    def call(x):
        return layer(x, training=True)

    if keras.backend.backend() == "tensorflow" and not run_eagerly:
        import tensorflow as tf

        call = tf.function(call, input_signature=[tf.TensorSpec((None, 3))])
    assert tuple(call(normal(0, 3)).shape) == (0, 3)
    np.testing.assert_array_equal(numpy(layer.sample), before)
    assert int(numpy(layer.sampled)) == 2
    call(normal(5, 3) + 1)
    assert int(numpy(layer.sampled)) == 4
    np.testing.assert_array_equal(numpy(layer.sample)[2:4], before[:2])
    assert np.isin(numpy(layer.sample)[:2], normal(5, 3) + 1).all()


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="on the others no replica is without samples")
def test_a_replica_without_samples():
    code = """
import keras, numpy as np, tensorflow as tf
from keras_actlab import distribution, layers
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
with distribution.data_parallel():
    layer = layers.EntropyActivation(sample_size=32)
    model = keras.Sequential([keras.Input((4,)), layer, layers.InputMeanNormalization(synchronized=True), layers.TMAF(),
                              layers.CRReLU(), layers.MeanOnlyBatchNormalization(), layers.GmPDense(1)])
    model.compile("sgd", "mse")
    model.fit(np.random.default_rng(0).normal(size=(33, 4)), np.ones(33), batch_size=32, verbose=0)
    assert all(np.isfinite(weight).all() for weight in model.get_weights()), model.get_weights()
    assert int(layer.sampled.numpy()) == 4
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("sample_size", [1, 5, 16, 100, 1000])
def test_the_sample_holds_the_latest_inputs(sample_size):
    layer = EntropyActivation(sample_size=sample_size)
    count = max(1, sample_size // 16)
    for step in range(20):
        layer(np.full((4, 3), step + 1.0, "float32"), training=True)
        assert int(numpy(layer.sampled)) == count * (step + 1)
    expected = np.repeat(np.arange(20, 0, -1), count)[:sample_size]
    expected = np.pad(expected, (0, sample_size - len(expected)))
    np.testing.assert_array_equal(numpy(layer.sample), expected)


def test_inference_is_not_sampled():
    layer, model = layer_and_model(sample_size=32)
    x = normal(8, 3)
    model.predict(x, verbose=0)
    layer(x)
    layer(x, training=False)
    assert not numpy(layer.sample).any()
    assert int(numpy(layer.sampled)) == 0


@pytest.mark.parametrize("shape", [(5, 7, 7, 3), (3, 1000), *on_one_backend((64, 3), (8, 8, 8, 64), (2, 128))])
def test_every_channel_is_sampled(shape):
    x = np.arange(np.prod(shape), dtype="float32").reshape(shape)
    layer = EntropyActivation(sample_size=16 * max(64, 2 * shape[-1]))
    for _ in range(16):
        layer(x, training=True)
    sample = numpy(layer.sample)
    assert np.isin(sample, x).all()
    counts = np.bincount(sample.astype(int) % shape[-1], minlength=shape[-1])
    assert counts.min() > 0.5 * counts.mean()
    # The positions are as mixed as the channels.
    assert len(np.unique(sample)) > 0.5 * min(x.size, sample.size)
    assert abs(sample.mean() / x.mean() - 1) < 0.1


def test_channels_first_are_sampled_alike():
    channels = np.broadcast_to(np.arange(64, dtype="float32")[:, None, None], (8, 64, 32, 32))
    layer = EntropyActivation(sample_size=4096)
    for _ in range(16):
        layer(channels, training=True)
    counts = np.bincount(numpy(layer.sample).astype(int), minlength=64)
    assert counts.min() > 0.5 * counts.mean()


def test_the_count_goes_round_far_above_the_sample():
    layer = EntropyActivation(sample_size=64)
    layer.build((None, 3))
    layer.sampled.assign(2**30 - 2)
    layer(normal(8, 3), training=True)
    assert int(numpy(layer.sampled)) == 2**29 + 2


def test_the_sample_is_float32_under_mixed_precision():
    layer = EntropyActivation(sample_size=16, dtype="mixed_float16")
    x = np.full((4, 3), 60000.0, "float32")
    layer(x, training=True)
    assert layer.sample.dtype == "float32"
    assert numpy(layer.sample)[0] == 60000.0


def test_the_curve_is_float32_under_mixed_precision():
    # Beyond the knots, the difference of the last two values is multiplied by at least 50.
    x = np.float32([[-400.0, 200.0, 400.0]])
    full, mixed = (EntropyActivation("silu", dtype=policy)(x) for policy in ("float32", "mixed_bfloat16"))
    np.testing.assert_allclose(numpy(keras.ops.cast(mixed, "float32")), numpy(full), rtol=2**-8)


def test_batches_of_any_size():
    layer, model = layer_and_model(sample_size=64)
    x = normal(11, 3)
    model.fit(x, x[:, :1], batch_size=4, verbose=0)
    assert np.isin(numpy(layer.sample)[:12], x).all()


def test_a_saved_model_keeps_curve_and_sample(tmp_path):
    layer, model = layer_and_model(activation="gelu", sample_size=16)
    layer.set_curve(np.sin, lower=-2.0, upper=2.0)
    x = normal(8, 3)
    model.train_on_batch(x, x[:, :1])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))
    for found, expected in zip(loaded.layers[0].weights, layer.weights, strict=True):
        np.testing.assert_array_equal(numpy(found), numpy(expected))
