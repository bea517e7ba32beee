import functools
from dataclasses import dataclass

import keras
import numpy as np
import pytest

from keras_actlab._private.object_graph import duplicate
from tests.backends import numpy

X = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")


def outputs(model):
    return numpy(model(X))


def functional():
    inputs = keras.Input((4,))
    shared = keras.layers.Dense(4, activation="relu", name="shared")
    x = shared(shared(inputs)) + inputs
    return keras.Model(inputs, keras.layers.Dense(2, name="out")(x)), shared


def test_a_graph():
    model, shared = functional()
    copied, copies = duplicate(model)
    np.testing.assert_array_equal(outputs(copied), outputs(model))
    assert [layer.name for layer in copied.layers] == [layer.name for layer in model.layers]
    assert copies[id(shared)] is copied.get_layer("shared")
    assert [one.path for one in copied.variables] == [one.path for one in model.variables]
    assert not {id(one) for one in copied.variables} & {id(one) for one in model.variables}
    # The graph is that of the copy, through and through: it is saved, cut and extended like any other.
    assert copied.get_config() == model.get_config()
    inner = keras.Model(copied.input, copied.get_layer("shared").output)
    assert inner.layers[1] is copied.get_layer("shared")
    copied.get_layer("shared").kernel.assign(np.zeros((4, 4)))
    assert not np.array_equal(outputs(copied), outputs(model))


def test_training_a_copy_leaves_the_original_alone():
    model, _ = functional()
    model.compile("adam", "mse")
    model.fit(X, np.ones((3, 2)), verbose=0)
    before = outputs(model)
    copied, _ = duplicate(model)
    assert not copied.compiled
    copied.compile("sgd", "mse")
    copied.fit(X, np.ones((3, 2)), verbose=0)
    np.testing.assert_array_equal(outputs(model), before)
    model.fit(X, np.ones((3, 2)), verbose=0)  # which has kept its optimizer
    assert model.optimizer.iterations == 2


@pytest.mark.one_backend
def test_a_graph_deeper_than_the_recursion_limit_allows():
    inputs = x = keras.Input((4,))
    for _ in range(300):
        x = keras.layers.Activation("relu")(x)
    copied, _ = duplicate(keras.Model(inputs, x))
    np.testing.assert_array_equal(outputs(copied), np.maximum(X, 0))


@pytest.mark.one_backend
def test_other_models_of_the_graph_are_not_copied():
    model, shared = functional()
    extractor = keras.Model(model.input, shared.output)
    copied, copies = duplicate(extractor)
    assert id(model.get_layer("out")) not in copies
    assert len(copied.get_layer("shared")._inbound_nodes) == 1
    np.testing.assert_array_equal(outputs(copied), outputs(extractor))


@dataclass
class Pair:
    left: keras.layers.Layer
    scale: float


class Holder:
    def __init__(self, layer):
        self.layer = layer


class Odd(keras.Model):
    """Holds layers and variables in every way but the common one."""

    def __init__(self):
        super().__init__()
        dense = keras.layers.Dense(4, name="dense")
        dense.build((None, 4))
        self.pair = Pair(dense, 2.0)
        self.holder = Holder(dense)
        self.table = {"a": [dense, (dense, 1)], 3: {dense}}
        self.bound = dense.call
        self.closure = lambda x: dense(x) * self.pair.scale
        self.partial = functools.partial(self.apply_to, factor=3.0)
        self.array = np.ones(4, "float32")
        self.seeds = keras.random.SeedGenerator(1)
        self.late = None

    def apply_to(self, x, factor):
        return self.holder.layer(x) * factor * keras.ops.convert_to_tensor(self.array)

    def call(self, x):
        noise = keras.random.uniform(keras.ops.shape(x), seed=self.seeds)
        return self.bound(x) + self.closure(x) + self.partial(x) + noise + self.table["a"][1][0](x)


@pytest.mark.one_backend
def test_whatever_holds_a_layer():
    model = Odd()
    model.late = Pair(model.pair.left, 5.0)
    copied, copies = duplicate(model)
    dense = copies[id(model.pair.left)]
    assert dense is not model.pair.left
    for one in (copied.pair.left, copied.holder.layer, copied.table["a"][0], copied.late.left):
        assert one is dense
    assert copied.table[3] == {dense}
    with keras.StatelessScope():
        np.testing.assert_allclose(outputs(copied), outputs(model), rtol=1e-6)
    dense.kernel.assign(np.zeros((4, 4)))
    copied.array *= 0.0
    assert numpy(model.holder.layer.kernel).any()
    assert model.array.all()
    # Nothing but the noise is left: no way leads to the original's layer.
    assert np.abs(outputs(copied)).max() <= 1.0 + 1e-6


@pytest.mark.one_backend
def test_functions_and_classes_stay_what_they_are():
    def act(x):
        return keras.ops.tanh(x)

    factor = 3.0
    layer = keras.layers.Lambda(lambda x: x * factor)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation=act), layer])
    copied, _ = duplicate(model)
    assert copied.layers[0].activation is act
    assert copied.layers[1].function is layer.function
    np.testing.assert_array_equal(outputs(copied), outputs(model))


@pytest.mark.one_backend
def test_state_that_no_config_tells_of():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="one"), keras.layers.Dense(2, name="two")])
    one, two = model.layers
    one.trainable = False
    one.anything = [1, 2]
    two.kernel.trainable = False
    two.kernel.regularizer = keras.regularizers.L1(0.5)
    one.dtype_policy = keras.dtype_policies.DTypePolicyMap(
        default_policy="float32", policy_map={"a": keras.DTypePolicy("bfloat16")}
    )
    copied, _ = duplicate(model)
    assert [variable.trainable for variable in copied.variables] == [False, False, False, True]
    assert copied.layers[0].anything == [1, 2]
    assert copied.layers[0].anything is not one.anything
    assert copied.layers[1].kernel.regularizer.l1 == 0.5
    assert copied.layers[0].dtype_policy["a"].name == "bfloat16"
    assert sum(float(loss) for loss in copied.losses) == pytest.approx(sum(float(loss) for loss in model.losses))


def test_a_copy_tracks_what_is_set_later():
    model, _ = functional()
    copied, _ = duplicate(model)
    copied.extra = keras.layers.Dense(3)
    copied.extra.build((None, 4))
    assert len(copied.weights) == len(model.weights) + 2
    copied.trainable = False
    assert not copied.trainable_variables
    assert len(model.trainable_variables) == 4


@pytest.mark.one_backend
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="is about torch modules")
def test_torch_modules():
    import torch

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 2)

        def call(self, x):
            return self.linear(x)

    model = Net()
    model(X)
    copied, _ = duplicate(model)
    np.testing.assert_array_equal(outputs(copied), outputs(model))
    assert len(list(copied.parameters())) == 2
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert outputs(model).any()
    assert not outputs(copied).any()


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX's typed keys")
def test_a_key_of_random_numbers_is_copied():
    import jax

    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    object.__setattr__(layer, "key", jax.random.key(3))  # past Keras, as users' own code may set it
    copied, _ = duplicate(layer)
    assert copied.key is not layer.key
    assert jax.random.key_data(copied.key).tolist() == jax.random.key_data(layer.key).tolist()
