import pickle

import keras
import numpy as np
import pytest

from keras_actlab.advice.metrics import CompiledMetric, compiled
from keras_actlab.advice.starts import Start
from keras_actlab.experiments import Comparison, Split
from keras_actlab.experiments._training import Programs, train
from keras_actlab.experiments.comparison import Fit

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype("float32")
LABELS = RNG.integers(0, 3, 40)


def network(units, activation, loss, metrics) -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units, activation)])
    model.compile(keras.optimizers.SGD(0.01), loss, metrics=metrics)
    return model


CASES = {
    "binary": (1, "sigmoid", "binary_crossentropy", ["accuracy", "auc"], (LABELS > 0).astype("int32")),
    "binary column": (1, "sigmoid", "binary_crossentropy", ["accuracy"], (LABELS > 0).astype("int32")[:, None]),
    "classes": (3, "softmax", "sparse_categorical_crossentropy", ["accuracy"], LABELS),
    "classes in a column": (3, "softmax", "sparse_categorical_crossentropy", ["accuracy"], LABELS[:, None]),
    "one-hot": (
        3,
        "softmax",
        keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
        ["accuracy"],
        np.eye(3)[LABELS],
    ),
    "regression": (
        1,
        None,
        lambda y, p: keras.ops.mean(keras.ops.square(y - p), -1),
        ["mae", "r2_score"],
        X[:, 0].astype("float64"),
    ),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("case", CASES)
def test_fits_report_what_the_model_evaluates(case):
    *arguments, y = CASES[case]
    model = network(*arguments)
    start = Start(model, is_drawn=False)
    comparison = Comparison(
        name="advice",
        methods={"as is": lambda: compiled(start)},
        data=Split((X, y), None, (X, y)),
        metrics={name: CompiledMetric(start, name) for name in ("loss", *arguments[-1])},
        epochs=1,
    )
    fit = Fit("advice", "as is", "final", 0, 0, {}, 1)
    (row,) = train(comparison, [fit], Programs())
    assert row["failure"] is None
    trained = compiled(start)
    trained.fit(X, y, batch_size=40, verbose=0)
    expected = trained.evaluate(X, y, batch_size=40, verbose=0, return_dict=True)
    assert row["metrics"] == pytest.approx({name: expected[name] for name in row["metrics"]}, rel=1e-4, abs=1e-6)


@pytest.mark.one_backend
def test_a_metric_keeps_no_state_and_can_be_sent():
    model = network(1, None, "mse", ["mae"])
    metric = CompiledMetric(Start(model, is_drawn=False), "mae")
    assert metric(np.zeros((4, 1)), np.ones((4, 1))) == pytest.approx(1)
    assert metric(np.zeros((4, 1)), np.full((4, 1), 3.0)) == pytest.approx(3)
    assert pickle.loads(pickle.dumps(metric))(np.zeros((4, 1)), np.ones((4, 1))) == pytest.approx(1)
