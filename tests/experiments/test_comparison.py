import dataclasses

import numpy as np
import pytest

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
        ({"together": 0}, ValueError, "`together`"),
        ({"grid": {"learning_rate": []}}, ValueError, "`grid`"),
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
    ],
)
def test_bad_descriptions_say_what_is_wrong(changes, error, words):
    with pytest.raises(error, match=words):
        comparison(**changes)


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


def test_a_configuration_tells_what_decides_the_numbers():
    base = comparison().configuration()
    assert comparison().configuration() == base  # although Keras has counted on, and names its layers otherwise
    assert comparison(splits=7, seeds=2, together=1).configuration() == base

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
