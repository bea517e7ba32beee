import json

import keras
import numpy as np
import pytest

import keras_actlab
from keras_actlab.initializers import UniformSphereAngles
from tests.backends import numpy, on_one_backend


@pytest.mark.parametrize("n", [3, *on_one_backend(2, 64)])
def test_directions_are_uniform_on_the_sphere(n):
    draws = 100_000
    angles = UniformSphereAngles(seed=1)((n - 1, draws))
    direction = numpy(keras_actlab.ops.angles_to_direction(angles))
    # The mean of N unit vectors has E[|mean|^2] = 1 / N.
    assert np.linalg.norm(direction.mean(axis=1)) < 3 / np.sqrt(draws)
    # A coordinate's square has mean 1 / n and variance 2 (n - 1) / (n^2 (n + 2)).
    deviation = np.sqrt(2 * (n - 1) / (n**2 * (n + 2)) / draws)
    np.testing.assert_allclose((direction**2).mean(axis=1), 1 / n, atol=4.5 * deviation)
    # Neighbouring coordinates are uncorrelated: their product has mean 0 and variance 1 / (n (n + 2)).
    products = (direction[:-1] * direction[1:]).mean(axis=1)
    np.testing.assert_allclose(products, 0.0, atol=4.5 / np.sqrt(n * (n + 2) * draws))


def test_seeds():
    first, again, other = (numpy(UniformSphereAngles(seed)((3, 4))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(numpy(UniformSphereAngles()((3, 4))), numpy(UniformSphereAngles()((3, 4))))
    generator = UniformSphereAngles(keras.random.SeedGenerator(1))
    assert not np.array_equal(numpy(generator((3, 4))), numpy(generator((3, 4))))


def test_the_global_seed_decides_without_one():
    keras.utils.set_random_seed(3)
    first = numpy(UniformSphereAngles()((3, 4)))
    keras.utils.set_random_seed(3)
    np.testing.assert_array_equal(first, numpy(UniformSphereAngles()((3, 4))))


def test_dtype():
    assert keras.backend.standardize_dtype(UniformSphereAngles()((3, 4), dtype="float16").dtype) == "float16"


@pytest.mark.parametrize("seed", [7, keras.random.SeedGenerator(7)])
def test_config_round_trip(seed):
    config = json.loads(json.dumps(keras.initializers.serialize(UniformSphereAngles(seed))))
    restored = keras.initializers.get(config)
    np.testing.assert_array_equal(numpy(restored((3, 4))), numpy(UniformSphereAngles(7)((3, 4))))


@pytest.mark.parametrize("shape", [(3,), (0, 4), (2, 3, 4)])
def test_bad_shape(shape):
    with pytest.raises(ValueError, match=r"`shape` must be .* Received: shape="):
        UniformSphereAngles()(shape)
