import keras
import numpy as np
import pytest

from keras_actlab import experiments
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


def test_labels_differ_and_name_files():
    values = ("a/b", "m\\n", "final", 0, 1, {"rate": 0.1}, 5)
    fit = experiments.Fit(*values)
    changed = [
        experiments.Fit(*values[:k], other, *values[k + 1 :]) for k, other in enumerate(("c", "m", "tune", 1, 2))
    ]
    changed += [experiments.Fit(*values[:5], {"rate": 0.2}, 5), experiments.Fit(*values[:6], 6)]
    assert len({each.label for each in [fit, *changed]}) == 8
    assert fit.label.startswith("a_b, m_n, final, split 0, seed 1, ")
