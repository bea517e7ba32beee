import keras
import numpy as np
import pytest

from keras_actlab.layers import CRReLU
from tests.backends import numpy
from tests.ops.test_crrelu import reference


def test_starts_at_one_hundredth():
    layer = CRReLU()
    x = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")
    np.testing.assert_allclose(numpy(layer(x)), reference(x, 0.01), rtol=1e-5, atol=1e-7)
    assert layer.epsilon.shape == ()


@pytest.mark.parametrize("axis", [1, 2, -1, -2])
def test_one_epsilon_per_entry_of_an_axis(axis):
    x = np.random.default_rng(0).standard_normal((2, 3, 5)).astype("float32")
    epsilon = np.linspace(-0.5, 0.5, x.shape[axis], dtype="float32")
    layer = CRReLU(axis=axis)
    layer.build(x.shape)
    layer.epsilon.assign(epsilon)
    shape = [1, 1, 1]
    shape[axis] = -1
    np.testing.assert_allclose(numpy(layer(x)), reference(x, epsilon.reshape(shape)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "start", [-0.5, keras.initializers.Constant(-0.5), {"class_name": "Constant", "config": {"value": -0.5}}]
)
def test_epsilon_initializer(start):
    layer = CRReLU(epsilon_initializer=start)
    layer.build((2, 3))
    assert float(numpy(layer.epsilon)) == -0.5


def test_none_is_the_default_start():
    layer = CRReLU(epsilon_initializer=None)
    layer.build((2, 3))
    assert float(numpy(layer.epsilon)) == np.float32(0.01)


def test_regularizer_and_constraint():
    layer = CRReLU(
        epsilon_initializer=-2.0, epsilon_regularizer=keras.regularizers.L1(0.5), epsilon_constraint="NonNeg"
    )
    layer(np.ones((1, 2)))
    assert float(numpy(layer.losses[0])) == 1.0
    assert float(numpy(layer.epsilon.constraint(layer.epsilon))) == 0.0


@pytest.mark.parametrize("axis", [0, 3, -3, -4])
def test_axis_outside_the_input(axis):
    with pytest.raises(ValueError, match=f"Received: axis={axis}"):
        CRReLU(axis=axis).build((2, 3, 4))


@pytest.mark.parametrize("axis", ["last", 1.0, True])
def test_axis_of_the_wrong_type(axis):
    with pytest.raises(TypeError, match="`axis` must be an integer"):
        CRReLU(axis=axis)


def test_unknown_length_of_the_axis():
    with pytest.raises(ValueError, match="known length along `axis`"):
        CRReLU(axis=1)(keras.Input((None, 3)))
