import keras
import numpy as np
import pytest

from keras_actlab._private import keras_layers
from tests.backends import numpy


def built(layer):
    layer.build((None, 3))
    return layer


@pytest.mark.one_backend
def test_a_built_layer_takes_a_layer_only_while_it_is_unlocked():
    dense = built(keras.layers.Dense(2))
    with keras_layers.unlocked(dense):
        dense.inner = keras.layers.ReLU()
    with pytest.raises(ValueError, match="cannot add new elements of state"):
        dense.other = keras.layers.ReLU()


@pytest.mark.one_backend
@pytest.mark.parametrize("new", [keras.activations.tanh, keras.layers.ELU()], ids=["function", "layer"])
@pytest.mark.parametrize("old", [keras.activations.relu, keras.layers.PReLU()], ids=["function", "layer"])
def test_set_attribute(old, new):
    dense = built(keras.layers.Dense(2, activation=old))
    keras_layers.set_attribute(dense, "activation", new)
    assert dense.activation is new
    held = keras_layers.nested_layers(dense)
    assert held == [one for one in (new,) if isinstance(one, keras.layers.Layer)]


@pytest.mark.one_backend
def test_replaced_variables_keep_the_order():
    dense = built(keras.layers.Dense(2))
    kernel = dense.kernel
    with keras_layers.unlocked(dense):
        new = [dense.add_weight(name=name, shape=(2,)) for name in ("one", "two")]
        keras_layers.replace_variables(dense, new, [kernel])
    assert [variable.name for variable in dense.trainable_variables] == ["one", "two", "bias"]


def test_replace_in_place():
    inputs = keras.Input((3,))
    dense = keras.layers.Dense(2, name="dense")
    model = keras.Model(inputs, keras.layers.ReLU()(dense(inputs)))
    other = built(keras.layers.Dense(2, use_bias=False))
    kernel = numpy(other.kernel)
    keras_layers.replace_in_place(dense, other)
    assert model.layers[1] is dense
    assert len(model.weights) == 1
    x = np.float32([[1, -2, 3]])
    np.testing.assert_allclose(numpy(model(x)), np.maximum(x @ kernel, 0), rtol=1e-5)


@pytest.mark.one_backend
def test_move_to_new_object():
    dense = built(keras.layers.Dense(2))
    moved = keras_layers.move_to_new_object(dense)
    keras_layers.replace_in_place(dense, built(keras.layers.Dense(5)))
    assert tuple(moved(np.ones((1, 3))).shape) == (1, 2)
    assert tuple(dense(np.ones((1, 3))).shape) == (1, 5)


@pytest.mark.one_backend
def test_set_path():
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="dense")], name="inner")
    keras_layers.set_path(inner, "outer/block")
    assert [variable.path for variable in inner.weights] == ["outer/block/dense/kernel", "outer/block/dense/bias"]
    assert inner.layers[0].path == "outer/block/dense"


@pytest.mark.one_backend
def test_quantization_is_blocked_and_unblocked():
    def refuse(*arguments, **keywords):
        raise NotImplementedError("refused")

    dense = built(keras.layers.Dense(2))
    keras_layers.forbid_quantization(dense, refuse)
    for change in (lambda: dense.quantize("int8"), lambda: dense.enable_lora(1)):
        with pytest.raises(NotImplementedError, match="refused"):
            change()
    keras_layers.allow_quantization(dense)
    dense.enable_lora(1)


@pytest.mark.one_backend
def test_dtypes_of_variables():
    dense = built(keras.layers.Dense(2, dtype="mixed_bfloat16"))
    read = []
    dense.call = lambda inputs: read.append(dense.kernel.dtype) or inputs
    dense(np.ones((1, 3)))
    keras_layers.set_autocast(dense.kernel, False)
    dense(np.ones((1, 3)))
    assert read == ["bfloat16", "float32"]
    assert not keras_layers.autocast(dense.kernel)
    assert keras_layers.stored_dtype(dense.kernel) == "float32"
    assert keras_layers.has_value(dense.kernel)
