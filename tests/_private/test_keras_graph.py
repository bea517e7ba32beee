import keras
import numpy as np
import pytest

from keras_actlab._private import keras_graph
from tests.backends import numpy

pytestmark = pytest.mark.one_backend


def shared():
    inputs = keras.Input((3,))
    dense, relu = keras.layers.Dense(3, name="dense"), keras.layers.ReLU(name="relu")
    hidden = relu(dense(inputs))
    return keras.Model(inputs, [relu(hidden), hidden]), dense, relu


@pytest.mark.parametrize("sequential", [True, False])
def test_reading_a_graph(sequential):
    model, dense, relu = shared()
    if sequential:
        model = keras.Sequential([keras.Input((3,)), dense, relu])
    assert keras_graph.is_functional(model)
    assert [child.name for child in keras_graph.children(model)] == ["dense", "relu"]
    assert len(keras_graph.calls(dense, model)) == 1
    assert len(keras_graph.calls(relu, model)) == (1 if sequential else 2)
    assert keras_graph.consumers(dense, model) == [relu]
    assert keras_graph.consumers(relu, model) == ([] if sequential else [relu])
    assert keras_graph.is_output(relu, model)
    assert not keras_graph.is_output(dense, model)
    assert keras_graph.producer(model.outputs[0]) is relu
    assert keras_graph.producing_call(model.outputs[0]).operation is relu


def test_the_calls_of_others_do_not_count():
    model, dense, _ = shared()
    other = keras.Input((3,))
    dense(other)
    assert len(keras_graph.calls(dense, model)) == 1


def test_split_calls():
    model, _, relu = shared()
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    before = [numpy(y) for y in model(x)]
    (twin,) = keras_graph.split_calls(relu, model)
    assert [layer.name for layer in model.layers[1:]] == ["dense", "relu", "relu_1"]
    assert keras_graph.consumers(relu, model) == [twin]
    for y, expected in zip(model(x), before, strict=True):
        np.testing.assert_array_equal(numpy(y), expected)
