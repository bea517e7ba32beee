import pickle

import keras
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from keras_actlab import experiments
from keras_actlab.experiments._keras_metric import KerasMetric

ONE = pytest.mark.one_backend
TARGETS = np.array([0, 2, 1, 2])
PREDICTIONS = np.array([[0.7, 0.2, 0.1], [0.5, 0.2, 0.3], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
BINARY = np.array([0, 1, 1, 0, 1])
SCORES = np.array([[0.2], [0.9], [0.4], [0.6], [0.7]])


@pytest.mark.parametrize(
    ("metric", "targets", "predictions", "expected"),
    [
        ("accuracy", TARGETS, PREDICTIONS, 0.75),
        pytest.param("accuracy", np.eye(3)[TARGETS], PREDICTIONS, 0.75, marks=ONE),
        pytest.param("accuracy", BINARY, SCORES, 0.6, marks=ONE),
        pytest.param("mae", SCORES, 1 - SCORES, np.abs(2 * SCORES - 1).mean(), marks=ONE),
        pytest.param("RootMeanSquaredError", SCORES[:, 0], np.zeros((5, 1)), np.sqrt(np.mean(SCORES**2)), marks=ONE),
        pytest.param(keras.metrics.SparseTopKCategoricalAccuracy(2), TARGETS, PREDICTIONS, 1.0, marks=ONE),
        (keras.metrics.AUC(num_thresholds=1000), BINARY, SCORES, roc_auc_score(BINARY, SCORES[:, 0])),
    ],
)
def test_known_values(metric, targets, predictions, expected):
    function = KerasMetric(metric)
    for _ in range(2):  # no call depends on an earlier one
        assert function(targets, predictions) == pytest.approx(expected, abs=1e-6)


@pytest.mark.one_backend
def test_a_comparison_of_pandas_objects_with_metrics_of_keras(tmp_path):
    """DataFrames and Series in, DataFrames out; rows are matched by position."""
    rng = np.random.default_rng(0)
    x = pd.DataFrame(rng.normal(size=(90, 2)), columns=["a", "b"])
    y = pd.Series((x["a"] > 0).astype(int).to_numpy(), index=rng.permutation(90), name="class")

    def build(learning_rate):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, "sigmoid")])
        model.compile(keras.optimizers.SGD(learning_rate), "binary_crossentropy")
        return model

    comparison = experiments.Comparison(
        name="sign",
        methods={"logistic": build},
        data=lambda split: experiments.holdout(x, y, seed=split, standardize_targets=False),
        metrics={
            "accuracy": "accuracy",
            "AUC": keras.metrics.AUC(num_thresholds=1000),
            "share": lambda t, p: np.mean(t == (p > 0.5)),
            "area": roc_auc_score,
        },
        grid={"learning_rate": [0.1, 2.0]},
        epochs=5,
        mode="max",
    )
    results = experiments.run(comparison, tmp_path / "rows.jsonl", progress=False)
    assert isinstance(results.final, pd.DataFrame)
    row = results.final.iloc[0]
    assert row["accuracy"] == pytest.approx(row["share"], abs=1e-6)
    assert row["AUC"] == pytest.approx(row["area"], abs=1e-3)


@pytest.mark.one_backend
def test_it_can_be_sent_to_another_process():
    metric = keras.metrics.AUC()
    metric.update_state(BINARY, SCORES[:, 0])
    expected = KerasMetric(keras.metrics.AUC())(BINARY, SCORES)
    assert pickle.loads(pickle.dumps(KerasMetric(metric)))(BINARY, SCORES) == expected
