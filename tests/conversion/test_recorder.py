"""Activations that only a run of the model shows: attributes under any name, and functions in `call`."""

import keras
import numpy as np
import pytest
from keras.src import backend

import keras_actlab
from keras_actlab import layers
from keras_actlab.conversion import recorder, report
from tests.backends import numpy

FUNCTIONS = ("gelu", "leaky_relu", "relu", "relu6", "silu", "softplus")
relu_by_name = keras.activations.relu
silu_by_name = keras.ops.silu


def data(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


@pytest.fixture
def count(monkeypatch):
    """Counts calls of Keras' activation functions in a run of a model, on real data."""
    calls = []

    def counted(name, function):
        def call(*args, **kwargs):
            calls.append(name)
            return function(*args, **kwargs)

        return call

    for name in FUNCTIONS:
        monkeypatch.setattr(backend.nn, name, counted(name, getattr(backend.nn, name)))

    def run(model, inputs):
        calls.clear()
        model(inputs, training=False)
        return len(calls)

    return run


@keras.saving.register_keras_serializable(package="tests")
class Gated(keras.layers.Layer):
    """A gated MLP, whose config does not show its activation."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.act_fn = keras.ops.silu
        self.unused_act = keras.activations.relu
        self.gate, self.up = keras.layers.Dense(units, name="gate"), keras.layers.Dense(units, name="up")

    def build(self, input_shape):
        self.gate.build(input_shape)
        self.up.build(input_shape)

    def call(self, inputs):
        return relu_by_name(self.act_fn(self.gate(inputs)) * self.up(inputs))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return super().get_config() | {"units": self.units}


def gated_model():
    inputs = keras.Input((None, 3))
    return keras.Model(inputs, keras.layers.Dense(2)(Gated(4, name="gated")(inputs)))


def test_an_attribute_that_call_uses_is_swapped(count, tmp_path):
    model, x = gated_model(), data(2, 5, 3)
    gated = model.get_layer("gated")
    assert count(model, x) == 2
    swapped = keras_actlab.swap_activations(model, layers.CRReLU(epsilon_initializer=0.3))
    assert count(swapped, x) == 1 + 1  # the relu in `call`, and that of CRReLU
    (row,) = report(swapped).changed
    assert row.layer == "gated"
    assert row.note.startswith("its attribute act_fn; functions in its `call` are left unchanged: relu (")
    assert "test_recorder.py:" in row.note
    assert (gated.act_fn, gated.unused_act) == (keras.ops.silu, keras.activations.relu)
    assert swapped.get_layer("gated").unused_act is keras.activations.relu
    g = x @ numpy(gated.gate.kernel)
    g = np.maximum(g, 0) + 0.3 * g * np.exp(-(g**2) / 2)
    hidden = np.maximum(g * (x @ numpy(gated.up.kernel)), 0)
    expected = hidden @ numpy(model.layers[-1].kernel)
    np.testing.assert_allclose(numpy(swapped(x)), expected, atol=1e-5)
    assert sum(weight.name == "epsilon" for weight in swapped.trainable_weights) == 1
    swapped.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numpy(again(x)), expected, atol=1e-5)
    assert [weight.path for weight in again.weights] == [weight.path for weight in swapped.weights]
    assert report(again).changed[0].layer == "gated"


@pytest.mark.one_backend
def test_an_attribute_is_swapped_again_and_back():
    model, x = gated_model(), data(2, 5, 3)
    swapped = keras_actlab.swap_activations(model, "tmaf")
    again = keras_actlab.swap_activations(swapped, "silu")
    assert len(report(again).changed) == 1
    np.testing.assert_allclose(numpy(again(x)), numpy(model(x)), atol=1e-5)


class Functions(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(4, "gelu", name="dense")

    def call(self, inputs):
        return keras.activations.mish(silu_by_name(self.dense(inputs)))


@pytest.mark.one_backend
def test_functions_in_the_call_of_a_model_are_noted():
    model = Functions()
    model(data(2, 3))
    done = report(keras_actlab.swap_activations(model, "crrelu"))
    assert [row.layer for row in done.changed] == ["dense"]
    (note,) = [note for note in done.notes if "`call` of the model" in note]
    assert note.index("silu (") < note.index("mish (")
    assert note.count("test_recorder.py:") == 2


def test_the_recorder_sees_functions_however_they_were_imported():
    x = keras.ops.convert_to_tensor(data(2, 3))
    module = {"torch": "torch", "jax": "jax", "tensorflow": "tensorflow"}[keras.backend.backend()]
    library = pytest.importorskip(module)
    nn = library.nn.functional if module == "torch" else library.nn
    dense = keras.layers.Dense(3, "softplus")
    with recorder.recorded() as calls:
        relu_by_name(x)
        silu_by_name(x)
        keras.layers.LeakyReLU()(x)
        dense(x)
        nn.gelu(x)
        keras.activations.relu(x, max_value=6)
    functions = [call for call in calls if call.line]
    assert [call.name for call in functions] == ["relu", "silu", "leaky_relu", "softplus", "gelu", "relu"]
    assert [type(call.layer).__name__ for call in functions] == [
        "NoneType",
        "NoneType",
        "LeakyReLU",
        "Dense",
        "NoneType",
        "NoneType",
    ]
    assert all("test_recorder.py" in functions[k].line for k in (0, 1, 4, 5))
    assert {call.shape for call in calls} == {(2, 3)}


@pytest.mark.one_backend
def test_the_recorder_restores_everything_also_after_an_error():
    layer = Gated(3)
    before = backend.nn.relu, keras.Operation.__call__, layer.act_fn
    with pytest.raises(ZeroDivisionError), recorder.recorded([layer]):
        assert 1 / int(layer.act_fn is before[2])
    assert (backend.nn.relu, keras.Operation.__call__, layer.act_fn) == before


@pytest.mark.one_backend
def test_a_model_that_cannot_be_traced_says_so():
    class Refusing(keras.layers.Layer):
        def call(self, inputs):
            if keras.ops.shape(inputs)[0] != 3:
                raise ValueError("three or none")
            return keras.activations.relu(inputs)

        def compute_output_shape(self, input_shape):
            return input_shape

    inputs = keras.Input((3,))
    model = keras.Model(inputs, Refusing()(keras.layers.Dense(3, "relu")(inputs)))
    done = report(keras_actlab.swap_activations(model, "crrelu"))
    assert any("were not searched" in note for note in done.notes)


def test_looking_for_activations_builds_nothing():
    class Lazy(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = keras.layers.Dense(3)

        def build(self, input_shape):
            self.built = True

        def call(self, inputs):
            return keras.activations.relu(self.dense(inputs))

        def compute_output_shape(self, input_shape):
            return input_shape

    inputs = keras.Input((3,))
    lazy = Lazy()
    model = keras.Model(inputs, lazy(keras.layers.Dense(3, "relu")(inputs)))
    done = report(keras_actlab.swap_activations(model, "crrelu", check=False))
    assert not lazy.dense.built
    assert any("were not searched" in note for note in done.notes)


SMALL = {
    "vocabulary_size": 11,
    "num_layers": 1,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "hidden_dim": 8,
    "intermediate_dim": 12,
}
TWO_HEADS = {"vocabulary_size": 11, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}


def tokens():
    ids = np.arange(10).reshape(2, 5)
    return {"token_ids": ids, "padding_mask": np.ones((2, 5), bool)}


def xlnet_tokens():
    return tokens() | {"segment_ids": np.zeros((2, 5), int)}


def image():
    return data(1, 32, 32, 3)


# The class in keras-hub, its arguments, an input, and the numbers of activations that are attributes and functions.
slow = pytest.mark.slow
FAMILIES = [
    pytest.param("LlamaBackbone", SMALL, tokens, 1, 0),
    pytest.param("MixtralBackbone", SMALL | {"num_experts": 2, "top_k": 1}, tokens, 1, 0),
    pytest.param("BloomBackbone", TWO_HEADS, tokens, 0, 1),
    pytest.param("GemmaBackbone", SMALL | {"head_dim": 4}, tokens, 0, 1, marks=slow),
    pytest.param("MistralBackbone", SMALL, tokens, 1, 0, marks=slow),
    pytest.param("QwenBackbone", SMALL, tokens, 1, 0, marks=slow),
    pytest.param("Phi3Backbone", SMALL, tokens, 1, 0, marks=slow),
    pytest.param("XLNetBackbone", TWO_HEADS, xlnet_tokens, 1, 0, marks=slow),
    pytest.param(
        "SwinTransformerBackbone",
        {
            "image_shape": (32, 32, 3),
            "embed_dim": 8,
            "depths": [1],
            "num_heads": [2],
            "window_size": 4,
            "patch_size": 4,
        },
        image,
        1,
        0,
        marks=slow,
    ),
    pytest.param(
        "MiTBackbone",
        {
            "layerwise_depths": [1],
            "num_layers": 1,
            "layerwise_num_heads": [1],
            "layerwise_sr_ratios": [2],
            "max_drop_path_rate": 0.1,
            "layerwise_patch_sizes": [7],
            "layerwise_strides": [4],
            "hidden_dims": [4],
            "image_shape": (32, 32, 3),
        },
        image,
        0,
        1,
        marks=slow,
    ),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("name", "arguments", "inputs", "attributes", "functions"), FAMILIES)
def test_families_of_keras_hub(name, arguments, inputs, attributes, functions, count, tmp_path):
    model = getattr(pytest.importorskip("keras_hub").models, name)(**arguments)
    x = inputs()
    assert count(model, x) == attributes + functions
    if not attributes:
        with pytest.warns(UserWarning, match=r"functions in its `call` are left\s+unchanged"):
            swapped = keras_actlab.swap_activations(model, layers.TMAF, check=False)
    else:
        swapped = keras_actlab.swap_activations(model, layers.TMAF, check=False)
    assert count(swapped, x) == functions
    done = report(swapped)
    assert len(done.changed) == attributes
    assert sum("keras_hub/src/models" in row.note for row in done.skipped) == functions
    assert sum(weight.name == "levels" for weight in swapped.trainable_weights) == attributes
    assert type(swapped).__name__ == name
    if attributes:
        swapped.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
        for found, expected in zip(keras.tree.flatten(again(x)), keras.tree.flatten(swapped(x)), strict=True):
            np.testing.assert_allclose(numpy(found), numpy(expected), atol=1e-5)
