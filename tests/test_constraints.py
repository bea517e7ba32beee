import json

import keras
import numpy as np
import pytest

from keras_actlab import constraints, ops
from tests.backends import numpy


@pytest.mark.parametrize("rows", [1, 2, 9, 300])
def test_canonical_angles_keep_the_direction(rows):
    angles = np.random.default_rng(rows).uniform(-50, 50, (rows, 200)).astype("float32")
    canonical = constraints.CanonicalAngles()(angles)
    np.testing.assert_allclose(
        numpy(ops.angles_to_direction(canonical)), numpy(ops.angles_to_direction(angles)), atol=2e-6
    )
    canonical = numpy(canonical)
    assert canonical.min() >= 0
    assert canonical[:-1].max(initial=0.0) <= np.float32(np.pi)
    assert canonical[-1].max() < 2 * np.pi
    np.testing.assert_array_equal(numpy(constraints.CanonicalAngles()(canonical)), canonical)


def test_canonical_angles_stay_as_they_are_at_the_ends_of_their_ranges():
    ends = np.array([[0.0, np.pi, np.pi, 1.0], [np.pi, np.pi, 0.0, np.pi], [0.0, 6.28, np.pi, 1.0]], "float32")
    np.testing.assert_array_equal(numpy(constraints.CanonicalAngles()(ends)), ends)


def test_angles_just_outside():
    tiny = np.array([[-1e-10], [0.5], [-1e-10]], "float32")
    canonical = numpy(constraints.CanonicalAngles()(tiny))
    np.testing.assert_allclose(canonical, [[1e-10], [np.pi - 0.5], [np.pi]], rtol=1e-6)


def test_canonical_angles_in_training():
    layer_input = keras.Input((6,))
    from keras_actlab.layers import GmPDense

    model = keras.Model(layer_input, GmPDense(5, angles_constraint=constraints.CanonicalAngles())(layer_input))
    model.compile(optimizer=keras.optimizers.SGD(50.0), loss="mse")
    x = np.random.default_rng(0).standard_normal((8, 6)).astype("float32")
    before = numpy(model.layers[1].angles).copy()
    model.train_on_batch(x, np.ones((8, 5), "float32"))
    after = numpy(model.layers[1].angles)
    assert np.abs(after - before).max() > 0.1
    assert after.min() >= 0
    assert after[:-1].max() <= np.float32(np.pi)
    assert after[-1].max() < 2 * np.pi


@pytest.mark.parametrize("shape", [(3,), (0, 4), (2, 3, 4)])
def test_canonical_angles_of_a_bad_shape(shape):
    with pytest.raises(ValueError, match=r"`w` must hold angles .* Received: w.shape="):
        constraints.CanonicalAngles()(np.zeros(shape, "float32"))


def test_integer_angles():
    np.testing.assert_allclose(
        numpy(constraints.CanonicalAngles()([[4], [1]])), [[2 * np.pi - 4], [np.pi + 1]], rtol=1e-6
    )


def test_increasing():
    np.testing.assert_array_equal(
        numpy(constraints.Increasing()(np.array([3.0, -1.0, 2.0, 2.0], "float32"))), [-1.0, 2.0, 2.0, 3.0]
    )


def test_non_decreasing_vectors_stay_as_they_are():
    w = np.sort(np.random.default_rng(0).standard_normal(50).astype("float32"))
    w[10:13] = w[10]
    np.testing.assert_array_equal(numpy(constraints.NonDecreasing()(w)), w)


@pytest.mark.parametrize("shape", [(1,), (2,), (32,), (3, 32)])
def test_non_decreasing(shape):
    w = np.random.default_rng(0).standard_normal(shape).astype("float32")
    found = numpy(constraints.NonDecreasing()(w))
    assert np.all(np.diff(found, axis=-1) >= 0)
    np.testing.assert_array_equal(numpy(constraints.NonDecreasing()(found)), found)
    # Of two decreasing entries, one must move by at least half the difference; no entry moves further.
    falls = np.maximum.accumulate(w, axis=-1) - w
    np.testing.assert_allclose(np.abs(found - w).max(axis=-1), falls.max(axis=-1) / 2, rtol=1e-5)


def test_non_decreasing_is_the_same_from_both_ends():
    w = np.random.default_rng(0).standard_normal(9).astype("float32")
    turned = -numpy(constraints.NonDecreasing()(-w[::-1]))[::-1]
    np.testing.assert_array_equal(turned, numpy(constraints.NonDecreasing()(w)))


@pytest.mark.parametrize("name", ["CanonicalAngles", "Increasing", "NonDecreasing"])
def test_config_round_trip(name):
    original = getattr(constraints, name)()
    config = json.loads(json.dumps(keras.constraints.serialize(original)))
    assert type(keras.constraints.get(config)) is type(original)
