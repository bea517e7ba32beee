import keras
import numpy as np
import pytest

from keras_actlab.experiments import Fit
from recipes.common import authors

pytestmark = pytest.mark.one_backend


class Optimizer:
    """What the callbacks of Keras change."""

    def __init__(self):
        self.learning_rate = keras.Variable(1.0, trainable=False)


class Model:
    """What the callbacks of Keras see: a training whose errors are given."""

    def __init__(self):
        self.optimizer, self.stop_training, self.jit_compile = Optimizer(), False, False

    def get_weights(self):
        return []

    def set_weights(self, weights):
        pass


def by_keras(errors, patience):
    """The learning rate after each epoch, the number of epochs, and the best epoch."""
    model = Model()
    drop = keras.callbacks.ReduceLROnPlateau("error", factor=0.1, patience=patience // 2, mode="min")
    stop = keras.callbacks.EarlyStopping("error", patience=patience, mode="min", restore_best_weights=True)
    rates = []
    for callback in (drop, stop):
        callback.set_model(model)
        callback.on_train_begin()
    for epoch, error in enumerate(errors):
        for callback in (drop, stop):
            callback.on_epoch_end(epoch, {"error": float(error)})
        if model.stop_training:
            break
        rates.append(float(model.optimizer.learning_rate))
    return rates, epoch + 1, stop.best_epoch + 1


@pytest.mark.parametrize("scale", [1.0, 2e-4], ids=["large errors", "errors near the smallest improvement"])
def test_plateaus_are_those_of_keras(scale):
    noise = np.random.default_rng(0).normal(size=(8, 300))
    errors = scale * (np.exp(-np.arange(300) / 40) + 0.1 * noise)
    plateau = authors.Plateau(8, patience=20)
    improved, factors = [], []
    for column in errors.T:
        improved.append(plateau.update(column))
        factors.append(plateau.factors.copy())
    improved, factors = np.array(improved).T, np.array(factors).T
    lengths = set()
    for k, row in enumerate(errors):
        rates, epochs, best = by_keras(row, patience=20)
        lengths.add(epochs)
        np.testing.assert_allclose(factors[k, : len(rates)], rates, rtol=1e-6)
        assert epochs == 300 or not factors[k, epochs - 1 :].any()
        assert np.flatnonzero(improved[k])[-1] + 1 == best
    assert len(lengths) > 4
    assert max(lengths) < 300


def test_an_error_that_is_not_finite_is_no_improvement():
    plateau = authors.Plateau(2, patience=2)
    assert plateau.update(np.array([np.nan, 1.0])).tolist() == [False, True]
    plateau.update(np.array([np.nan, 0.5]))
    assert plateau.factors.tolist() == [0, 1]


def build(method="SP", features=2):
    keras.utils.set_random_seed(0)
    return authors.network(method, 5, features, "mae")()


def examples(count, offset=0.0):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(count, 2)).astype("float32")
    return x, x[:, 0] - x[:, 1] + offset


FIT = Fit("task", "SP", "final", 0, 0, {}, 30)


def run(fits, train, test, **options):
    strategy = authors.Authors("RMSE", authors.root_mean_squared, authors.mean_squared, **options)
    return strategy([build() for _ in fits], fits, [train] * len(fits), [test] * len(fits))


def test_the_best_epoch_counts_as_with_callbacks_of_keras():
    train, test = examples(40), examples(20, offset=0.3)
    (found,) = run([FIT], train, test, patience=6)
    model = build()
    stop = keras.callbacks.EarlyStopping("val_loss", patience=6, mode="min", restore_best_weights=True)
    drop = keras.callbacks.ReduceLROnPlateau("val_loss", patience=3, mode="min")
    model.compile(model.optimizer, "mae", metrics=["mse"])
    for callback in (stop, drop):
        callback.monitor = "val_mse"
    model.fit(*train, batch_size=40, epochs=30, validation_data=test, callbacks=[drop, stop], verbose=0)
    error = np.sqrt(np.mean((model.predict(test[0], verbose=0)[:, 0] - test[1]) ** 2))
    assert found[30]["RMSE"] == pytest.approx(error, rel=1e-4)
    assert found[30][authors.EPOCH] == stop.best_epoch + 1


def test_training_data_can_choose():
    train, test = examples(40), examples(20, offset=100.0)
    (by_test,), (by_training,) = (run([FIT], train, test, watch=watch) for watch in ("test", "training"))
    assert by_test[30]["RMSE"] <= by_training[30]["RMSE"]
    assert by_training[30][authors.EPOCH] == 30


def test_standardized_targets_have_errors_in_their_own_units():
    train, test = examples(40, offset=1000.0), examples(20, offset=1000.0)
    (raw,), (standardized,) = (run([FIT], train, test, standardize=each) for each in (False, True))
    assert raw[30]["RMSE"] > 900
    assert standardized[30]["RMSE"] < 2


def test_every_example_is_in_one_batch_of_an_epoch():
    strategy = authors.Authors("RMSE", authors.root_mean_squared, authors.mean_squared, batch_size=4)
    batches = strategy._batches([np.random.default_rng(k) for k in range(3)], 10)
    assert [rows.shape for rows in batches] == [(2, 3, 4), (1, 3, 2)]
    orders = np.concatenate([rows.swapaxes(0, 1).reshape(3, -1) for rows in batches], axis=1)
    np.testing.assert_array_equal(np.sort(orders), np.tile(np.arange(10), (3, 1)))
    assert not np.array_equal(orders[0], orders[1])
    assert [rows.shape for rows in strategy._batches([np.random.default_rng(0)], 4)] == [(1, 1, 0)]


def test_methods_have_the_authors_rates_and_heads():
    for method, rate in authors.RATES.items():
        model = build(method, features=3)
        assert float(model.optimizer.learning_rate) == pytest.approx(rate)
        assert len(model.layers[-1].trainable_variables) == (3 if method == "WN" else 2)
