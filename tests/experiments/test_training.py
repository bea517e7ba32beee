import json

import keras
import numpy as np
import pytest

from keras_actlab import experiments
from keras_actlab.experiments._journal import Journal
from tests.experiments.examples import comparison, linear

pytestmark = pytest.mark.one_backend


def one(fit, path, **changes):
    """Runs a comparison whose fits a function does."""
    plan = {"grid": {}, "splits": 1, "batch_size": None, "vectorize": 1, "metrics": ["error"], "history": True}
    plan |= {"methods": {"linear": lambda: linear(0.1)}} | changes
    history = plan.pop("history")
    return experiments.run(comparison(fit=fit, **plan), path, history=history, progress=False)


def errors(by_epoch):
    return lambda model, fit, train, evaluation: {epoch: {"error": error} for epoch, error in by_epoch.items()}


def test_a_function_does_the_fits(tmp_path):
    asked = []

    def fit(model, fit, train, evaluation):
        asked.append((fit.stage, fit.epochs, len(train[0]), len(evaluation[0])))
        assert isinstance(model, keras.Model)
        return {epoch: {"error": 1 / epoch, "seconds": 3.0, "more": 2} for epoch in range(1, fit.epochs + 1)}

    results = one(fit, tmp_path / "results.jsonl")
    assert asked == [("tune", 4, 38, 10), ("final", 4, 48, 12)]
    assert results.final["error"].item() == 0.25
    assert results.final["seconds_per_epoch"].item() == 3
    assert results.rows[1]["history"] == {"epoch": [1, 2, 3, 4], "error": [1, 1 / 2, 1 / 3, 1 / 4]}
    (ax,) = experiments.curves(results).axes
    assert ax.get_ylabel() == "validation error"


def test_validation_chooses_among_multiples_of_validate_every_and_the_test_among_none(tmp_path):
    found = one(errors({1: 0.1, 2: 0.5, 3: 0.2, 4: 0.6}), tmp_path / "results.jsonl")
    assert found.tuning["epochs"].item() == 2
    assert found.final["error"].item() == 0.6
    last = one(errors({1: 0.1, 2: 0.5}), tmp_path / "last.jsonl", validate_every=None)
    assert last.final["error"].item() == 0.5
    (ax,) = experiments.curves(last).axes
    assert ax.get_ylabel() == "test error"
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [0.1, 0.5])


@pytest.mark.parametrize(
    ("fit", "words"),
    [
        (errors({}), "`fit` must return metrics by name"),
        (lambda *_: {"error": 0.5}, "`fit` must return metrics by name"),
        (
            lambda *_: {1: {"loss": 0.5}},
            r"names that `fit` reports, \['loss'\]. Received: \['error'\]",
        ),
    ],
)
def test_what_a_function_returns_is_checked(fit, words, tmp_path):
    with pytest.raises(RuntimeError, match="no final fit"):
        one(fit, tmp_path / "results.jsonl", validate_every=None)
    failures = experiments.load(tmp_path / "results.jsonl").failures["failure"]
    assert failures.str.contains(words).all()


def test_a_function_does_groups_of_fits(tmp_path):
    groups = []

    def fit(models, fits, train, evaluation):
        groups.append([(fit.stage, fit.split) for fit in fits])
        assert all(isinstance(model, keras.Model) for model in models)
        assert [len(part[0]) for part in evaluation] == [10 if fit.stage == "tune" else 12 for fit in fits]
        assert len(train) == len(fits)
        return [{fit.epochs: {"error": 1.0 + fit.split}} for fit in fits]

    results = one(fit, tmp_path / "results.jsonl", splits=3, vectorize=2)
    assert groups == [[(stage, k) for k in ks] for stage in ("tune", "final") for ks in ((0, 1), (2,))]
    assert results.final["error"].tolist() == [1, 2, 3]
    assert results.final["vectorized"].tolist() == [2, 2, 1]
    one(fit, tmp_path / "results.jsonl", splits=3, vectorize=2)
    assert len(groups) == 4  # nothing is done again


@pytest.mark.parametrize(
    ("fit", "words"),
    [
        (lambda models, *_: [{4: {"error": 0.5}}], "`fit` must return a list with an entry for each of 2 fits"),
        (lambda models, *_: {4: {"error": 0.5}}, "`fit` must return a list with an entry for each of 2 fits"),
        (lambda models, *_: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_what_a_function_of_groups_returns_is_checked(fit, words, tmp_path):
    with pytest.raises(RuntimeError, match="no final fit"):
        one(fit, tmp_path / "results.jsonl", validate_every=None, splits=2, vectorize=2)
    failures = experiments.load(tmp_path / "results.jsonl").failures["failure"]
    assert len(failures) == 2
    assert failures.str.contains(words).all()


def test_metrics_by_name_are_those_of_evaluate(tmp_path):
    def compiled(learning_rate):
        model = linear(learning_rate)
        model.compile(model.optimizer, "mse", metrics=["mae"])
        return model

    plan = {"methods": {"linear": compiled}, "grid": {"learning_rate": [0.1]}, "splits": 1, "vectorize": 1}
    functions = {
        "mae": lambda targets, predictions: np.abs(targets - predictions).mean(),
        "loss": lambda targets, predictions: np.square(targets - predictions).mean(),
    }
    split = comparison().split(0)
    data = experiments.Split(split.train, split.validation, split.test)
    found, expected = (
        experiments.run(comparison(data=data, metrics=metrics, **plan), tmp_path / f"{k}.jsonl", progress=False).final
        for k, metrics in enumerate((["mae", "loss"], functions))
    )
    np.testing.assert_allclose(found[["mae", "loss"]], expected[["mae", "loss"]], rtol=1e-4)


INPUTS = np.random.default_rng(0).normal(size=(30, 3))
CLASSES = np.random.default_rng(1).integers(3, size=30)
WEIGHTS = np.random.default_rng(2).uniform(0, 3, 30)
# At the rows of the identity, predictions of a linear model are its weights.
COEFFICIENTS = {f"w{k}": lambda targets, predictions, k=k: predictions[k] for k in range(3)}


def without_bias():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    model.compile(keras.optimizers.SGD(0.1), "mse", weighted_metrics=["mae"])
    return model


def descended(rows, weights, steps=4):
    """The coefficients after gradient descent on the weighted squared error of some rows."""
    found = np.ones(3)
    for _ in range(steps):
        errors = INPUTS[rows] @ found - CLASSES[rows]
        found -= 0.1 * 2 * (weights * errors) @ INPUTS[rows] / len(errors)
    return found


def trained(split, path, **changes):
    plan = {"methods": {"linear": without_bias}, "data": split, "metrics": COEFFICIENTS, "grid": {}, "splits": 1}
    plan |= {"batch_size": None, "vectorize": 1, "validate_every": None} | changes
    (row,) = experiments.run(comparison(**plan), path, progress=False).rows
    return np.array([*row["metrics"].values()])


def parts(*arrays):
    """Arrays as training and validation part, and a test part that shows the coefficients."""
    return [tuple(array[rows] for array in arrays) for rows in (slice(20), slice(20, 30))] + [(np.eye(3), np.zeros(3))]


def test_sample_weights_weight_the_loss(tmp_path):
    split = experiments.Split(*parts(INPUTS, CLASSES, WEIGHTS))
    found = trained(split, tmp_path / "results.jsonl")
    np.testing.assert_allclose(found, descended(slice(30), WEIGHTS), rtol=1e-4)
    assert abs(found - descended(slice(30), np.ones(30))).max() > 0.01


def test_evaluation_by_name_is_weighted(tmp_path):
    train, _, _ = parts(INPUTS, CLASSES, WEIGHTS)
    test = INPUTS[20:], CLASSES[20:], WEIGHTS[20:]
    split = experiments.Split((*train[:2], np.zeros(20)), None, test)  # the weights 0 leave the model unchanged
    errors = INPUTS[20:].sum(axis=1) - CLASSES[20:]
    expected = np.mean(WEIGHTS[20:] * errors**2), np.average(abs(errors), weights=WEIGHTS[20:])
    np.testing.assert_allclose(trained(split, tmp_path / "rows.jsonl", metrics=["loss", "mae"]), expected, rtol=1e-5)


@pytest.mark.parametrize("targets", [CLASSES, np.eye(3)[CLASSES]], ids=["numbers", "one-hot"])
def test_class_weights_weight_the_loss(targets, tmp_path):
    def classifier():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, use_bias=False, kernel_initializer="zeros")])
        model.add(keras.layers.Softmax())
        model.compile("sgd", "categorical_crossentropy" if targets.ndim == 2 else "sparse_categorical_crossentropy")
        return model

    expected = classifier()
    expected.fit(INPUTS, targets, sample_weight=np.array([0.5, 1.0, 4.0])[CLASSES], batch_size=30, epochs=3, verbose=0)
    split = experiments.Split((INPUTS, targets), None, (INPUTS, targets))
    plan = {"methods": {"softmax": classifier}, "metrics": ["loss"], "epochs": 3}
    found = trained(split, tmp_path / "rows.jsonl", class_weight={0: 0.5, 2: 4}, **plan)
    assert found == pytest.approx(expected.evaluate(INPUTS, targets, verbose=0), rel=1e-5)
    assert trained(split, tmp_path / "other.jsonl", **plan) != pytest.approx(found, rel=1e-3)


def test_a_file_without_class_weights_is_continued(tmp_path):
    plan = {"grid": {}, "splits": 1, "vectorize": 1, "validate_every": None, "methods": {"m": lambda: linear(0.1)}}
    configuration = json.loads(json.dumps(comparison(**plan).configuration()))
    assert configuration.pop("class_weight") is None
    Journal(tmp_path / "rows.jsonl").append({"task": "plane", "configuration": configuration})
    assert len(experiments.run(comparison(**plan), tmp_path / "rows.jsonl", progress=False).final) == 1
    with pytest.raises(ValueError, match=r"class_weight: None there, \{'1': 5.0\} here"):
        experiments.run(comparison(class_weight={1: 5}, **plan), tmp_path / "rows.jsonl", progress=False)


def test_labels_differ_and_name_files():
    values = ("a/b", "m\\n", "final", 0, 1, {"rate": 0.1}, 5)
    fit = experiments.Fit(*values)
    changed = [
        experiments.Fit(*values[:k], other, *values[k + 1 :]) for k, other in enumerate(("c", "m", "tune", 1, 2))
    ]
    changed += [experiments.Fit(*values[:5], {"rate": 0.2}, 5), experiments.Fit(*values[:6], 6)]
    assert len({each.label for each in [fit, *changed]}) == 8
    assert fit.label.startswith("a_b, m_n, final, split 0, seed 1, ")
