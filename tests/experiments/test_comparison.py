import dataclasses
import sys

import keras
import numpy as np
import pandas as pd
import pytest
from keras import ops

from keras_actlab import experiments
from tests.experiments.examples import comparison, data, linear

pytestmark = pytest.mark.one_backend


def table(count=50):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 3)) * [1, 10, 0] + [5, 0, 2]  # the last column is constant
    return x, rng.normal(size=count) * 7 + 3


def test_parts_do_not_overlap_and_make_up_the_table():
    x, _ = table()
    split = experiments.holdout(x, np.arange(50), seed=3)
    parts = [split.train[1], split.validation[1], split.test[1]]
    assert split.sizes == {"train": 32, "validation": 8, "test": 10}
    assert sorted(np.concatenate(parts)) == list(range(50))
    again = experiments.holdout(x, np.arange(50), seed=3)
    np.testing.assert_array_equal(again.test[0], split.test[0])
    assert not np.array_equal(experiments.holdout(x, np.arange(50), seed=4).test[1], split.test[1])


def test_training_examples_alone_standardize():
    x, y = table()
    split = experiments.holdout(x, y, seed=0, standardize_targets=True)
    rows = experiments.holdout(x, np.arange(50), seed=0)
    train = rows.train[1]
    deviation = np.where(x[train].std(axis=0) > 0, x[train].std(axis=0), 1)
    for part in ("train", "validation", "test"):
        expected = (x[getattr(rows, part)[1]] - x[train].mean(axis=0)) / deviation
        np.testing.assert_allclose(getattr(split, part)[0], expected, atol=1e-5)
        np.testing.assert_allclose(split.to_units(getattr(split, part)[1]), y[getattr(rows, part)[1]], atol=1e-5)
    assert abs(split.train[1].mean()) < 1e-6
    assert np.all(split.train[0][:, 2] == 0)


def test_constant_targets_are_centred():
    split = experiments.holdout(table()[0], np.full(50, 0.1), seed=0, standardize_targets=True)
    np.testing.assert_allclose(split.train[1], 0, atol=1e-7)
    np.testing.assert_allclose(split.to_units(split.test[1]), 0.1)


def test_development_is_training_and_validation():
    split = data(0)
    x, y = split.development
    np.testing.assert_array_equal(x, np.concatenate([split.train[0], split.validation[0]]))
    np.testing.assert_array_equal(y, np.concatenate([split.train[1], split.validation[1]]))


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.zeros(5), np.zeros(5), "shape"),
        (np.zeros((5, 2)), np.zeros(4), "shape"),
        (np.full((5, 2), np.nan), np.zeros(5), "`x` must be finite"),
        (np.zeros((5, 2)), np.full(5, np.inf), "`y` must be finite"),
        (np.full((5, 2), "a"), np.zeros(5), "`x` must hold numbers"),
        (np.zeros((5, 2)), np.full(5, None), "`y` must hold numbers"),
        (np.array([[-1e300, 0], [1e300, 1]] * 3), np.zeros(6), r"`x` must hold numbers that can be.*1e\+300"),
    ],
)
def test_holdout_checks_its_arrays(x, y, words):
    with pytest.raises(ValueError, match=words):
        experiments.holdout(x, y, seed=0)


def test_a_split_needs_as_many_inputs_as_targets():
    good = (np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(ValueError, match="`validation`"):
        experiments.Split(good, (np.zeros((2, 3)), np.zeros(3)), good)
    with pytest.raises(ValueError, match="`test`"):
        experiments.Split(good, good, (np.zeros((0, 3)), np.zeros(0)))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"train": np.zeros((2, 3))}, TypeError, "`train` must be a pair"),
        ({"train": (np.zeros((2, 3)), np.zeros(2), np.ones(2))}, TypeError, "`train` must be a pair"),
        ({"test": (np.zeros((2, 4)), np.zeros(2))}, ValueError, "same structure and shape"),
        ({"test": (np.zeros((2, 3)), np.zeros((2, 1)))}, ValueError, "same structure and shape"),
        ({"validation": ([np.zeros((2, 3))], np.zeros(2))}, ValueError, "same structure and shape"),
        ({"train": (np.zeros((2, 3)), pd.Series(["a", "b"], dtype="category"))}, ValueError, r"`train\[1\]`"),
        ({"to_units": "metres"}, TypeError, "`to_units`"),
        ({"to_units": lambda: 0}, TypeError, "`to_units`"),
    ],
)
def test_a_split_checks_its_parts(changes, error, words):
    good = (np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(error, match=words):
        experiments.Split(**{"train": good, "validation": good, "test": good} | changes)


def test_a_split_holds_arrays_whatever_it_was_given():
    x, y = table(6)
    index = [3, 1, 2, 0]
    frame = (pd.DataFrame(x[:4], index=index), pd.Series(y[:4], index=index))
    split = experiments.Split(frame, (x[4:5].tolist(), y[4:5].tolist()), (x[5:], ops.convert_to_tensor(y[5:])))
    np.testing.assert_array_equal(split.train[0], x[:4])
    np.testing.assert_array_equal(split.train[1], y[:4])
    np.testing.assert_array_equal(split.development[1], y[:5])
    nested = ({"a": x, "b": [y, y[:, None]]}, {"c": y, "d": y, "e": y})
    split = experiments.Split(nested, nested, nested)
    assert split.sizes == {"train": 6, "validation": 6, "test": 6}
    assert split.development[0]["b"][1].shape == (12, 1)


def test_holdout_reads_tables_of_pandas():
    x, y = table()
    shuffled = np.random.default_rng(0).permutation(50)
    frame = experiments.holdout(pd.DataFrame(x, index=shuffled), pd.Series(y, index=shuffled), seed=0)
    for part in ("train", "validation", "test"):
        for got, expected in zip(getattr(frame, part), getattr(experiments.holdout(x, y, seed=0), part), strict=True):
            np.testing.assert_array_equal(got, expected)


def test_options_are_true_or_false():
    with pytest.raises(TypeError, match="`standardize_targets` must be True or False"):
        experiments.holdout(*table(), seed=0, standardize_targets="no")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"methods": {}}, TypeError, "`methods`"),
        ({"methods": {"linear": "linear"}}, TypeError, "`methods`"),
        ({"methods": [linear]}, TypeError, "`methods`"),
        ({"metrics": {"RMSE": "rmse"}}, TypeError, "`metrics`"),
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
        ({"metrics": {"MSE": keras.metrics.MeanSquaredError()}}, TypeError, "MSE.*averages over all its calls"),
        ({"data": lambda: data(0)}, TypeError, "`data`.*too many"),
        ({"callbacks": lambda model: []}, TypeError, "`callbacks`.*too many"),
        ({"grid": {"learning_rate": [0.1, float("nan")]}}, ValueError, "`grid`.*finite"),
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
    }.items():
        assert changed.configuration()[name] != base[name]
