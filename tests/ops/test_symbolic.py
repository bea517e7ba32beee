import keras
import numpy as np
import pytest

from keras_actlab import constraints, ops
from tests.backends import numpy

LEVELS = np.random.default_rng(0).standard_normal((3, 3, 4)).astype("float32")
# A function of one tensor, and the tensor's shape.
FUNCTIONS = {
    "crrelu": (ops.crrelu, (5, 4)),
    "linear_spline": (lambda x: ops.linear_spline(x, (-1.0, 0.0, 1.0), (0.5, 0.0, 2.0)), (5, 4)),
    "matrix_activation": (lambda x: ops.matrix_activation(x, LEVELS, (0.0, 1.0)), (5, 4)),
    "matrix_activation with surrogate": (
        lambda x: ops.matrix_activation(x, LEVELS, (0.0, 1.0), surrogate_width=1.0),
        (5, 4),
    ),
    "angles_to_direction": (ops.angles_to_direction, (5, 4)),
    "direction_to_angles": (ops.direction_to_angles, (5, 4)),
    "CanonicalAngles": (constraints.CanonicalAngles(), (5, 4)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_functional_model_of_operations(name):
    function, shape = FUNCTIONS[name]
    inputs = keras.Input(batch_shape=shape)
    outputs = function(inputs)
    x = np.random.default_rng(1).standard_normal(shape).astype("float32")
    eager = numpy(function(x))
    assert outputs.shape == eager.shape
    np.testing.assert_allclose(numpy(keras.Model(inputs, outputs)(x)), eager, atol=1e-6)


@pytest.mark.parametrize("function", [ops.angles_to_direction, ops.direction_to_angles, constraints.CanonicalAngles()])
def test_the_number_of_rows_must_be_known(function):
    with pytest.raises(ValueError, match="shape"):
        function(keras.Input((4,)))
