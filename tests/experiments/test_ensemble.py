import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_actlab.experiments import Ensemble
from keras_actlab.layers import CRReLU, EntropyActivation

MEMBERS = 2


def model(seed, optimizer="adam", loss="mse", kind=keras.Sequential):
    """Batch statistics, a regularizer, a constraint, and a layer of this package."""
    keras.utils.set_random_seed(seed)
    network = kind(
        [
            keras.Input((4,)),
            # Without a bias, whose gradient before a batch normalization is rounding alone, which Adam blows up.
            layers.Dense(5, use_bias=False, kernel_regularizer="l2", kernel_constraint=keras.constraints.MaxNorm(0.5)),
            layers.BatchNormalization(),
            CRReLU(),
            layers.Dense(1),
        ]
    )
    network.compile(optimizer, loss)
    return network


def examples(count=10):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(MEMBERS, count, 4)), rng.normal(size=(MEMBERS, count, 1))
    return x.astype("float32"), y.astype("float32")


def train(ensemble, x, y, rows):
    ensemble.train_block(ops.convert_to_tensor(x), ops.convert_to_tensor(y), rows)
    return ensemble.predictions(ops.convert_to_tensor(x))


@pytest.mark.parametrize("batch", [0, 4])
def test_members_train_as_they_would_alone(batch):
    def optimizer():
        return keras.optimizers.AdamW(0.02, weight_decay=0.1)

    x, y = examples()
    rows = np.random.default_rng(1).integers(0, 10, size=(8, MEMBERS, batch), dtype="int32")
    outputs = train(Ensemble([model(seed, optimizer()) for seed in range(MEMBERS)]), x, y, rows)
    for k in range(MEMBERS):
        alone = model(k, optimizer())
        for step in rows:
            alone.train_on_batch(*((x[k], y[k]) if batch == 0 else (x[k][step[k]], y[k][step[k]])))
        np.testing.assert_allclose(outputs[k], alone.predict_on_batch(x[k]), atol=1e-5)
        assert np.abs(outputs[k] - model(k).predict_on_batch(x[k])).max() > 1e-2  # it did train


def test_factors_multiply_the_learning_rate_of_each_member():
    def small(seed):
        keras.utils.set_random_seed(seed)
        network = keras.Sequential([keras.Input((4,)), layers.Dense(5, activation="relu"), layers.Dense(1)])
        network.compile(keras.optimizers.Adam(0.02), "mae")
        return network

    x, y = examples()
    factors = np.array([[1.0, 1.0], [0.1, 2.0], [0.0, 0.5], [1.0, 0.01]])
    ensemble = Ensemble([small(seed) for seed in range(MEMBERS)])
    inputs, targets = ops.convert_to_tensor(x), ops.convert_to_tensor(y)
    ensemble.train_block(inputs, targets, np.zeros((4, MEMBERS, 0), "int32"), factors)
    outputs = ensemble.predictions(inputs)
    for k in range(MEMBERS):
        alone = small(k)
        for factor in factors[:, k]:
            alone.optimizer.learning_rate = 0.02 * factor
            alone.train_on_batch(x[k], y[k])
        np.testing.assert_allclose(outputs[k], alone.predict_on_batch(x[k]), atol=1e-5)


def test_a_variable_that_the_backward_pass_needs_may_change_in_the_forward_pass():
    def small():
        network = keras.Sequential([keras.Input((4,)), EntropyActivation(sample_size=16), layers.Dense(1)])
        network.compile("sgd", "mse")
        return network

    ensemble = Ensemble([small() for _ in range(MEMBERS)])
    x, y = examples()
    train(ensemble, x, y, np.zeros((2, MEMBERS, 0), "int32"))
    sample = next(each for each in ensemble.non_trainable_variables if each.shape == (MEMBERS, 16))
    for values, seen in zip(ops.convert_to_numpy(sample), x, strict=True):
        assert np.isin(values[:2], seen).all()


def test_a_member_does_not_see_the_others():
    x, y = examples()
    rows = np.zeros((3, MEMBERS, 0), "int32")
    first = train(Ensemble([model(seed) for seed in range(MEMBERS)]), x, y, rows)
    y[1] += 100
    second = train(Ensemble([model(seed) for seed in range(MEMBERS)]), x, y, rows)
    np.testing.assert_allclose(second[0], first[0], atol=1e-6)
    assert np.abs(second[1] - first[1]).max() > 1e-4


def test_a_restart_is_a_new_start():
    x, y = examples()
    rows = np.zeros((4, MEMBERS, 0), "int32")
    used = Ensemble([model(seed, keras.optimizers.Adam(0.5)) for seed in range(MEMBERS)])
    train(used, x, y, rows)
    members = [model(seed, keras.optimizers.Adam(0.01)) for seed in (7, 8)]
    used.restart(members)
    again = train(used, x, y, rows)
    np.testing.assert_allclose(again, train(Ensemble(members), x, y, rows), atol=1e-6)


def act_1(x):
    return x


def act_2(x):
    return x + 4


def activated(activation):
    network = keras.Sequential([keras.Input((4,)), layers.Dense(1, activation)])
    network.compile("sgd", "mse")
    return network


def excluding():
    optimizer = keras.optimizers.AdamW(weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["kernel"])
    return optimizer


class OwnStep(keras.Sequential):
    def train_step(self, *arguments):
        return super().train_step(*arguments)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (lambda: [model(0, keras.optimizers.Adam(clipnorm=1.0))], "clipnorm"),
        (lambda: [model(0, keras.optimizers.Adam(global_clipnorm=1.0))], "clipnorm"),
        (lambda: [model(0, keras.optimizers.Lamb())], "one of SGD"),
        (lambda: [model(0, kind=OwnStep)], "train_step"),
        (lambda: [model(0, loss=["mse"])], "one loss"),
        (lambda: [model(0), keras.Sequential([keras.Input((4,)), layers.Dense(2)])], "alike"),
        (lambda: [model(0), model(1, keras.optimizers.Adam(0.5))], "alike"),
        (lambda: [model(0), model(1, loss="mae")], "alike"),
        (lambda: [activated(act_1), activated(act_2)], "alike"),
        (lambda: [], "at least one"),
        (lambda: [model(0, keras.optimizers.Adam(use_ema=True))], "use_ema"),
        (lambda: [model(0, excluding())], "exclusions"),
    ],
)
def test_what_cannot_be_stacked_says_so(members, words):
    with pytest.raises(ValueError, match=words):
        Ensemble(members())


def test_its_variables_are_its_own():
    members = [model(seed) for seed in range(MEMBERS)]
    ensemble = Ensemble(members)
    assert len(ensemble.variables) == len(members[0].variables)
    assert len({variable.path for variable in ensemble.variables}) == len(ensemble.variables)
    assert all(variable.shape[0] == MEMBERS for variable in ensemble.variables)


def test_a_mask_for_the_loss_is_refused():
    network = keras.Sequential([keras.Input((4,)), layers.Embedding(5, 3, mask_zero=True), layers.Dense(1)])
    network.compile("sgd", "mse")
    x, y = ops.zeros((1, 2, 4), "int32"), ops.zeros((1, 2, 4, 1))
    with pytest.raises(ValueError, match="mask"):
        Ensemble([network]).train_block(x, y, np.zeros((1, 1, 0), "int32"))
