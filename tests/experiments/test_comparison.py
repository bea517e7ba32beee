import dataclasses
import sys

import grain
import keras
import numpy as np
import pytest

from keras_actlab import experiments
from tests.experiments.examples import comparison, data, linear

pytestmark = pytest.mark.one_backend


def batches(repetitions):
    """Datasets of one batch, repeated so many times, or without an end."""
    part = grain.MapDataset.source([data(0).train])
    return experiments.Split(part.repeat(repetitions), part, part)


x, y = np.zeros((4, 3)), np.zeros(4)
weighted = experiments.Split(*[(x, y, np.ones(4))] * 3)
two_targets = experiments.Split(*[(x, [y, y])] * 3)


def fitting(model, fit, train, evaluation):
    return {1: {"loss": 0.0}}


class Nameless(keras.metrics.Mean):
    def __init__(self, weight=2.0):
        super().__init__(name="nameless")

    def get_config(self):
        raise NotImplementedError("no config")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"methods": {}}, TypeError, "`methods`"),
        ({"methods": {"linear": "linear"}}, TypeError, "`methods`"),
        ({"methods": [linear]}, TypeError, "`methods`"),
        ({"metrics": {"RMSE": "rmse"}}, ValueError, "`metrics`"),
        ({"metrics": []}, TypeError, "`metrics` must map names to functions, or be a list of names"),
        ({"metrics": ["loss"]}, ValueError, "`metrics` must map names to functions where `vectorize` is above 1"),
        (
            {"metrics": ["loss"], "fit": lambda model: {}, "vectorize": 1},
            TypeError,
            "`fit` must be a function of",
        ),
        ({"fit": fitting}, ValueError, "`fit` decides.*'batch_size': 16"),
        ({"steps_per_epoch": 0}, ValueError, "`steps_per_epoch`"),
        ({"data": [1, 2]}, TypeError, "`data`"),
        ({"data": data(0), "splits": 3}, ValueError, "`splits` must be 1"),
        ({"callbacks": [1, 2]}, TypeError, "`callbacks`"),
        ({"epochs": 0}, ValueError, "`epochs`"),
        ({"epochs": 2.5}, ValueError, "`epochs`"),
        ({"seeds": True}, ValueError, "`seeds`"),
        ({"batch_size": -1}, ValueError, "`batch_size`"),
        ({"vectorize": 0}, ValueError, "`vectorize`"),
        ({"grid": {"learning_rate": []}}, ValueError, "`grid`"),
        ({"grid": {1: [0.1]}}, TypeError, "`grid`"),
        ({"grid": {"learning_rate": "fast"}}, ValueError, "`grid`"),
        ({"grid": {"activation": [linear]}}, TypeError, "`grid`"),
        ({"grid": {"seed": [1, 2]}}, ValueError, "seed"),
        ({"grid": {"width": [8, 16, 8]}}, ValueError, "twice"),
        ({"grid": {"learning_rate": 0.1}}, ValueError, "`grid`"),
        ({"grid": [0.1, 0.2]}, TypeError, "`grid`"),
        ({"methods": {1: linear}}, TypeError, "`methods`"),
        ({"name": None}, TypeError, "`name`"),
        ({"metrics": {"method": np.mean}}, ValueError, "method"),
        ({"monitor": "accuracy"}, ValueError, "`monitor`"),
        ({"mode": "least"}, ValueError, "`mode`"),
        ({"independent_splits": "no"}, TypeError, "`independent_splits`"),
        ({"methods": {"linear": linear(0.1)}}, TypeError, "a new model at each call.*linear=<Sequential"),
        ({"metrics": {"RMSE": lambda targets: 0}}, TypeError, r"metrics\['RMSE'\].*too many"),
        ({"metrics": {"MSE": "mean_sqared_error"}}, ValueError, "names of metrics. Received: MSE='mean_sqared_error'"),
        ({"metrics": {"MSE": Nameless()}}, ValueError, "Keras can save and load.*Received: MSE=<Nameless"),
        ({"data": lambda: data(0)}, TypeError, "`data`.*too many"),
        ({"callbacks": lambda model: []}, TypeError, "`callbacks`.*too many"),
        ({"grid": {"learning_rate": [0.1, float("nan")]}}, ValueError, "`grid`.*finite"),
        ({"class_weight": [1, 5]}, TypeError, "`class_weight` must be a mapping"),
        ({"class_weight": {}}, ValueError, "`class_weight` must name a class"),
        ({"class_weight": {"a": 1}}, TypeError, "`a key of class_weight` must be an integer"),
        ({"class_weight": {0: "a"}}, TypeError, r"`class_weight\[0\]` must be a number"),
        ({"class_weight": {0: np.inf}}, ValueError, r"`class_weight\[0\]` must be finite"),
        ({"class_weight": {0: -1.0}}, ValueError, "`class_weight` must map.*negative"),
        ({"class_weight": {-1: 1.0}}, ValueError, "`class_weight` must map.*negative"),
        ({"class_weight": {0: 1.0}}, ValueError, "`vectorize` must be 1 where `class_weight` is given"),
        (
            {"class_weight": {0: 1.0}, "vectorize": 1, "batch_size": None, "metrics": ["loss"], "fit": fitting},
            ValueError,
            "`fit` decides.*'class_weight': {0: 1.0}",
        ),
    ],
)
def test_bad_descriptions_say_what_is_wrong(changes, error, words):
    with pytest.raises(error, match=words):
        comparison(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": {"m": lambda rate: linear(rate)}}, r"methods\['m'\].*\(rate\).*'rate'"),
        ({"methods": {"m": lambda: linear(0.1)}}, r"methods\['m'\].*'learning_rate'"),
        ({"methods": {"m": lambda learning_rate, width: None}}, r"methods\['m'\].*'width'"),
        ({"grid": {}}, r"methods\['linear'\].*'learning_rate'"),
    ],
)
def test_a_method_takes_what_the_grid_gives(changes, words):
    with pytest.raises(TypeError, match=words):
        comparison(**changes).configuration()


def test_candidates_are_the_product_of_the_grid():
    grid = {"learning_rate": [0.1, 0.2], "width": [8, 16, 32]}
    points = comparison(grid=grid).candidates
    assert len(points) == 6
    assert points[0] == {"learning_rate": 0.1, "width": 8}
    assert comparison(grid={}).candidates == [{}]


def test_a_grid_is_what_json_gives_back():
    assert comparison(grid={"units": [(4, 4), (8,)], "rate": np.array([0.5, 1.0])}).grid == {
        "units": [[4, 4], [8]],
        "rate": [0.5, 1.0],
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": experiments.Split(data(0).train, None, data(0).test), "splits": 1}, "must have a validation part"),
        ({"steps_per_epoch": 5}, "`steps_per_epoch` must be None for arrays"),
        ({"data": batches(4), "splits": 1}, "`batch_size` must be None and `vectorize` 1 for datasets"),
        ({"data": lambda split: batches(4), "batch_size": None, "vectorize": 1}, "`splits` must be 1 for datasets"),
        ({"data": batches(None), "splits": 1, "batch_size": None, "vectorize": 1}, "`steps_per_epoch` must be given"),
        (
            {"data": weighted, "splits": 1},
            "`vectorize` must be 1 and `class_weight` None where `data` has sample weights",
        ),
        (
            {"data": weighted, "splits": 1, "vectorize": 1, "class_weight": {0: 2}},
            "`vectorize` must be 1 and `class_weight` None where `data` has sample weights",
        ),
        (
            {"data": batches(4), "splits": 1, "batch_size": None, "vectorize": 1, "class_weight": {0: 2}},
            "`class_weight` must be None unless.*MapDataset",
        ),
        (
            {"data": two_targets, "splits": 1, "vectorize": 1, "class_weight": {0: 2}},
            "`class_weight` must be None unless targets are one array",
        ),
    ],
)
def test_options_must_fit_the_data(changes, words):
    with pytest.raises(ValueError, match=words):
        comparison(**changes).split(0)


def test_data_must_be_splits_that_stay():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="the same split at each call"):
        comparison(data=lambda split: experiments.holdout(rng.normal(size=(20, 3)), np.zeros(20), 0)).configuration()
    with pytest.raises(TypeError, match="`data` must return a Split"):
        comparison(data=lambda split: ([1], [2])).configuration()


def test_data_that_ends_the_process_is_an_error():
    with pytest.raises(RuntimeError, match="`data` raised SystemExit: 0, for split 0"):
        comparison(data=lambda split: sys.exit(0)).configuration()


def test_methods_are_compared_at_each_point_of_the_grid():
    def other(learning_rate):
        return linear(learning_rate if learning_rate < 0.05 else 2 * learning_rate)

    here, there = (comparison(methods={"m": method}).configuration()["methods"]["m"] for method in (linear, other))
    assert [one == another for one, another in zip(here, there, strict=True)] == [True, False]


def test_a_configuration_tells_what_decides_the_numbers():
    base = comparison().configuration()
    assert comparison().configuration() == base  # although Keras has counted on, and names its layers otherwise
    assert comparison(splits=7, seeds=2, vectorize=1).configuration() == base

    def shifted(split):
        return dataclasses.replace(data(split), test=data(split + 1).test)

    for name, changed in {
        "data": comparison(data=shifted),
        "methods": comparison(methods={"linear": lambda learning_rate: linear(2 * learning_rate)}),
        "grid": comparison(grid={"learning_rate": [0.1]}),
        "epochs": comparison(epochs=5),
        "batch_size": comparison(batch_size=None),
        "class_weight": comparison(vectorize=1, class_weight={1: 5}),
    }.items():
        assert changed.configuration()[name] != base[name]
