import keras
import numpy as np
import pytest

from keras_actlab._private.object_graph import duplicate
from keras_actlab.advice.compilation import Scaled, check_optimizer, compile_alike, learning_rate
from tests.backends import numpy

X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
Y = keras.ops.ones((8, 1))


def network() -> keras.Model:
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "relu"), keras.layers.Dense(1)], name="small")


def alike(original: keras.Model, rate=None) -> keras.Model:
    model = duplicate(original)[0]
    compile_alike(model, original, rate or dict([learning_rate(original)]))
    return model


def test_functions_that_are_not_registered_are_kept():
    def loss(y, p):
        return keras.ops.mean(keras.ops.abs(y - p) ** 3, axis=-1)

    def error(y, p):
        return keras.ops.mean(keras.ops.abs(y - p), axis=-1)

    original = network()
    weighted = [keras.metrics.MeanMetricWrapper(error, name="weighted")]
    metrics = [error, "mae", keras.metrics.MeanMetricWrapper(lambda y, p: keras.ops.abs(y - p)[:, 0], name="instance")]
    original.compile("adam", loss, metrics=metrics, weighted_metrics=weighted)
    original.train_on_batch(X, Y)  # metrics have a state now
    model = alike(original)
    found = model.test_on_batch(X, Y, sample_weight=np.arange(8.0), return_dict=True)
    errors = np.abs(1 - numpy(model(X)))[:, 0]
    assert found["error"] == pytest.approx(errors.mean(), rel=1e-5)
    assert found["mae"] == pytest.approx(errors.mean(), rel=1e-5)
    assert found["instance"] == pytest.approx(errors.mean(), rel=1e-5)
    assert found["weighted"] == pytest.approx(np.average(errors, weights=np.arange(8.0)), rel=1e-5)
    assert found["loss"] == pytest.approx(np.mean(errors**3 * np.arange(8.0)), rel=1e-5)


def test_a_lambda_is_a_loss():
    original = network()
    original.compile("sgd", lambda y, p: keras.ops.square(y - p)[:, 0])
    found = alike(original).test_on_batch(X, Y)
    assert found == pytest.approx(np.mean((1 - numpy(original(X))) ** 2), rel=1e-5)


def test_a_metric_of_a_users_class_is_copied():
    class Biased(keras.metrics.Mean):
        def __init__(self, bias, name="biased"):
            super().__init__(name=name)
            self.bias = bias  # in no configuration

        def update_state(self, y, p, sample_weight=None):
            return super().update_state(keras.ops.mean(p) + self.bias)

    original = network()
    original.compile("adam", "mse", metrics=[Biased(7.0)])
    original.train_on_batch(X, Y)
    kept = [numpy(v) for v in original.metrics[1].variables]
    model = alike(original)
    found = model.test_on_batch(X, Y, return_dict=True)
    assert found["biased"] == pytest.approx(7 + numpy(model(X)).mean(), rel=1e-5)
    for before, variable in zip(kept, original.metrics[1].variables, strict=True):
        np.testing.assert_array_equal(before, numpy(variable))


def test_losses_and_weights_of_two_outputs_are_kept():
    inputs = keras.Input((3,))
    original = keras.Model(inputs, [keras.layers.Dense(1, name="a")(inputs), keras.layers.Dense(1, name="b")(inputs)])
    original.compile("adam", {"a": "mse", "b": "mae"}, loss_weights={"a": 1.0, "b": 10.0}, metrics={"b": ["mse"]})
    model = alike(original)
    a, b = map(numpy, model(X))
    found = model.test_on_batch(X, {"a": Y, "b": Y}, return_dict=True)
    assert found["loss"] == pytest.approx(np.mean((a - 1) ** 2) + 10 * np.mean(np.abs(b - 1)), rel=1e-5)
    assert found["b_mse"] == pytest.approx(np.mean((b - 1) ** 2), rel=1e-5)


def test_a_learning_rate_replaces_that_of_the_model():
    original = network()
    original.compile(keras.optimizers.SGD(0.3, momentum=0.5, nesterov=True, clipnorm=2.0), "mse")
    assert learning_rate(original) == ("learning_rate", 0.3)
    optimizer = alike(original, {"learning_rate": 0.1}).optimizer
    assert float(optimizer.learning_rate) == pytest.approx(0.1)
    assert (optimizer.momentum, optimizer.nesterov, optimizer.clipnorm) == (0.5, True, 2.0)
    assert float(original.optimizer.learning_rate) == pytest.approx(0.3)


def test_a_schedule_is_scaled_as_a_whole():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.2, 10, 0.5)
    original = network()
    original.compile(keras.optimizers.Adam(schedule), "mse")
    assert learning_rate(original) == ("learning_rate_factor", 1.0)
    model = alike(original, {"learning_rate_factor": 3.0})
    for steps in (0, 1, 2):
        assert float(model.optimizer.learning_rate) == pytest.approx(3 * 0.2 * 0.5 ** (steps / 10), rel=1e-5)
        model.train_on_batch(X, Y)


@pytest.mark.one_backend
def test_a_scaled_schedule_is_saved():
    schedule = Scaled(keras.optimizers.schedules.CosineDecay(0.5, 100), 4.0)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert [float(again(step)) for step in (0, 50)] == pytest.approx([2.0, 1.0])


def test_ways_to_compute_are_kept():
    original = network()
    original.compile("adam", "mse", jit_compile=False, run_eagerly=True)
    model = alike(original)
    assert (model.jit_compile, model.run_eagerly) == (False, True)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch's trainer has one step in an execution")
def test_steps_per_execution_are_kept():
    original = network()
    original.compile("adam", "mse", steps_per_execution=4)
    assert alike(original).steps_per_execution == 4


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    original = network()
    optimizer = keras.optimizers.Adam(0.25)
    if policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8.0)
    original.compile(optimizer, "mse")
    assert learning_rate(original) == ("learning_rate", 0.25)
    model = alike(original, {"learning_rate": 0.125})
    assert type(model.optimizer) is type(original.optimizer)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.125)
    if policy == "mixed_float16":
        assert model.optimizer.initial_scale == 8.0
    model.train_on_batch(X, Y)


def test_float16_gets_a_loss_scale_from_compile():
    keras.config.set_dtype_policy("mixed_float16")
    original = network()
    original.compile("adam", "mse")
    model = alike(original)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert not isinstance(model.optimizer.inner_optimizer, keras.optimizers.LossScaleOptimizer)


@pytest.mark.one_backend
def test_averages_of_weights_are_an_error():
    with pytest.raises(ValueError, match=r"`model` must have an optimizer that does not average.*use_ema=True"):
        check_optimizer(keras.optimizers.Adam(use_ema=True))


@pytest.mark.one_backend
def test_exclusions_from_weight_decay_are_an_error():
    optimizer = keras.optimizers.AdamW(weight_decay=0.1)
    check_optimizer(optimizer)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    with pytest.raises(ValueError, match="`model` must have an optimizer that excludes no variables"):
        check_optimizer(optimizer)
