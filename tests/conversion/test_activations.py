import keras
import numpy as np
import pytest

import keras_actlab
from keras_actlab import layers
from keras_actlab.conversion import report
from tests.backends import numpy
from tests.conversion.test_rewriting import Block


def data(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def mixed_model():
    """Activations in all the forms that Keras has for them."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    x = keras.layers.ReLU(name="layer")(x)
    x = keras.layers.Activation("gelu", name="function")(x)
    x = keras.layers.SeparableConv2D(5, 3, activation=keras.layers.LeakyReLU(), name="nested")(x)
    x = keras.layers.EinsumDense("abcd,de->abce", (4, 4, 6), activation="tanh", name="einsum")(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(4, name="linear")(x)
    x = keras.layers.Dense(4, activation="sigmoid", name="hidden_sigmoid")(x)
    x = keras.layers.Dense(4, name="before_head")(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="head")(x))


HIDDEN = ["conv", "layer", "function", "nested", "einsum", "hidden_sigmoid"]


@pytest.mark.parametrize(
    "to",
    [
        "crrelu",
        "CRReLU",
        "tmaf",
        "prelu",
        "silu",
        keras.activations.silu,
        layers.TMAF,
        layers.CRReLU(epsilon_initializer=0.2),
        lambda layer: layers.TMAF(bandwidth=0),
        lambda layer: "gelu",
    ],
)
def test_everything_hidden_is_swapped(to):
    model = mixed_model()
    swapped = keras_actlab.swap_activations(model, to)
    assert [row.layer for row in report(swapped).changed] == HIDDEN
    assert [row.layer for row in report(swapped).skipped] == ["head"]
    assert numpy(swapped(data(2, 8, 8, 3))).shape == (2, 3)
    assert all(layer.built for layer in swapped._flatten_layers())


def test_each_place_gets_its_own_parameters():
    swapped = keras_actlab.swap_activations(mixed_model(), layers.CRReLU(epsilon_initializer=0.2))
    epsilons = [weight for weight in swapped.weights if weight.name == "epsilon"]
    assert sorted(epsilon.path for epsilon in epsilons) == sorted(
        f"{name}/epsilon" if name in ("layer", "function") else f"{name}/activation/epsilon" for name in HIDDEN
    )
    assert [float(numpy(epsilon)) for epsilon in epsilons] == pytest.approx([0.2] * 6)


def test_the_new_activation_acts():
    """Against the same model with the activation written out."""
    x = data(4, 3)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5, "relu"), keras.layers.Dense(2)])
    swapped = keras_actlab.swap_activations(model, "tanh")
    (kernel1, bias1, kernel2, bias2) = model.get_weights()
    np.testing.assert_allclose(numpy(swapped(x)), np.tanh(x @ kernel1 + bias1) @ kernel2 + bias2, atol=1e-6)
    np.testing.assert_allclose(numpy(model(x)), np.maximum(x @ kernel1 + bias1, 0) @ kernel2 + bias2, atol=1e-6)


@pytest.mark.parametrize("to", ["relu", "tmaf"])
def test_what_starts_as_relu_changes_no_relu_network(to):
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.ReLU()]
    )
    swapped = keras_actlab.swap_activations(model, to)
    x = data(2, 8, 8, 3)
    np.testing.assert_array_equal(numpy(swapped(x)), numpy(model(x)))


def test_heads_and_gates_stay_unless_named():
    inputs = keras.Input((6,))
    gate = keras.layers.Dense(6, activation="sigmoid", name="gate")(inputs)
    x = keras.layers.Multiply()([inputs, gate])
    gate2 = keras.layers.Dense(6, activation="sigmoid", name="gate2")(x)
    x = keras.layers.Dense(6, activation="relu", name="hidden")(x * gate2)
    outputs = [
        keras.layers.Dense(1, activation="sigmoid", name="probability")(x),
        keras.layers.Dense(3, activation="softmax", name="classes")(x),
        keras.layers.Dense(1, name="value")(x),
        keras.layers.Softmax(name="attention")(x),
    ]
    model = keras.Model(inputs, outputs)
    done = report(keras_actlab.swap_activations(model, "crrelu"))
    assert [row.layer for row in done.changed] == ["hidden"]
    assert {row.layer for row in done.skipped} == {"gate", "gate2", "probability", "classes", "attention"}
    named = ["gate", "gate2", "probability", "classes", "value", "attention"]
    done = report(keras_actlab.swap_activations(model, "crrelu", where=named))
    assert {row.layer for row in done.changed} == set(named)
    done = report(keras_actlab.swap_activations(model, "crrelu", where=keras.layers.Dense))
    assert [row.layer for row in done.changed] == ["hidden"]
    assert "it has no activation" in {row.note for row in done.skipped}


def test_a_shared_activation_layer_is_several_places():
    inputs = keras.Input((3,))
    act = keras.layers.ReLU(name="act")
    x = act(keras.layers.Dense(4)(inputs))
    x = act(keras.layers.Dense(5)(x))
    y = act(keras.layers.Dense(6)(x))
    model = keras.Model(inputs, [keras.layers.Dense(2)(x), y])
    before = [numpy(output) for output in model(data(4, 3))]
    swapped = keras_actlab.swap_activations(model, "tmaf")
    assert [row.layer for row in report(swapped).changed] == ["act", "act_1", "act_2"]
    assert [swapped.get_layer(name).levels.shape[-1] for name in ("act", "act_1", "act_2")] == [4, 5, 6]
    for found, expected in zip(swapped(data(4, 3)), before, strict=True):
        np.testing.assert_allclose(numpy(found), expected, atol=1e-6)
    again = keras.Model.from_config(swapped.get_config())
    again.set_weights(swapped.get_weights())
    for found, expected in zip(again(data(4, 3)), before, strict=True):
        np.testing.assert_allclose(numpy(found), expected, atol=1e-6)


def test_a_shared_layer_is_one_place():
    inputs = keras.Input((4,))
    dense = keras.layers.Dense(4, "relu", name="shared")
    model = keras.Model(inputs, dense(dense(inputs)))
    swapped = keras_actlab.swap_activations(model, "tmaf")
    assert len(report(swapped).changed) == 1
    np.testing.assert_allclose(numpy(swapped(data(3, 4))), numpy(model(data(3, 4))), atol=1e-6)


def test_nested_models():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, "relu", name="dense")], name="inner")
    inputs = [keras.Input((4,), name="a"), keras.Input((4,), name="b")]
    joined = keras.layers.Add()([inner(inputs[0]), inner(inputs[1])])
    model = keras.Model(inputs, {"sum": joined, "a": keras.layers.Activation("relu", name="act")(inputs[0])})
    swapped = keras_actlab.swap_activations(model, "tmaf")
    assert [row.layer for row in report(swapped).changed] == ["inner/dense", "act"]
    x = [data(3, 4), 2 * data(3, 4)]
    before, after = model(x), swapped(x)
    for name in before:
        np.testing.assert_allclose(numpy(after[name]), numpy(before[name]), atol=1e-6)


def test_activation_layers_within_composite_layers():
    """Their shapes are in no graph."""
    inputs = keras.Input((5,))
    model = keras.Model(inputs, Block(3, name="block")(inputs))
    swapped = keras_actlab.swap_activations(model, "tmaf")
    assert [row.layer.split("/")[0] for row in report(swapped).changed] == ["block", "block"]
    assert swapped.get_layer("block").act.levels.path.startswith("block/")
    np.testing.assert_allclose(numpy(swapped(data(3, 5))), numpy(model(data(3, 5))), atol=1e-6)


class Net(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense1, self.dense2 = keras.layers.Dense(4), keras.layers.Dense(6)
        self.act = keras.layers.ReLU(name="act")
        self.once = keras.layers.ReLU(name="once")

    def call(self, inputs):
        return self.once(self.act(self.dense2(self.act(self.dense1(inputs)))))


def test_subclassed_models():
    model = Net()
    before = numpy(model(data(3, 5)))
    swapped = keras_actlab.swap_activations(model, "tmaf")
    assert [row.layer for row in report(swapped).changed] == ["once"]
    assert report(swapped).skipped[0].note == "2 calls share it"
    np.testing.assert_allclose(numpy(swapped(data(3, 5))), before, atol=1e-6)
    assert len(report(keras_actlab.swap_activations(model, "gelu")).changed) == 2


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="TensorFlow's convolutions on CPU want channels last"
)
def test_channels_first():
    model = keras.Sequential(
        [
            keras.Input((3, 8, 8)),
            keras.layers.Conv2D(4, 3, activation="relu", data_format="channels_first"),
            keras.layers.ReLU(),
            keras.layers.Flatten(data_format="channels_first"),
            keras.layers.Dense(5, "relu"),
        ]
    )
    x = data(2, 3, 8, 8)
    for to, weight in (("tmaf", "levels"), ("prelu", "alpha")):
        swapped = keras_actlab.swap_activations(model, to)
        sizes = [variable.shape for variable in swapped.weights if variable.name == weight]
        assert [size[-1] if to == "tmaf" else size[0] for size in sizes] == [4, 4, 5]
    np.testing.assert_allclose(numpy(keras_actlab.swap_activations(model, "tmaf")(x)), numpy(model(x)), atol=1e-6)


def test_recurrent_cells_stay():
    model = keras.Sequential([keras.Input((4, 3)), keras.layers.LSTM(5, name="lstm"), keras.layers.Dense(2, "relu")])
    done = report(keras_actlab.swap_activations(model, "crrelu"))
    assert [row.note for row in done.skipped] == ["it is a recurrent cell"]


def test_to_may_leave_layers_alone():
    to = {"conv": "crrelu"}
    swapped = keras_actlab.swap_activations(mixed_model(), lambda layer: to.get(layer.name))
    done = report(swapped)
    assert [row.layer for row in done.changed] == ["conv"]
    assert {row.note for row in done.skipped} == {"`to` returns None for it"}


def test_a_function_of_ones_own():
    def squared(x):
        return keras.ops.square(keras.ops.relu(x))

    class Squared(keras.layers.Layer):
        def call(self, inputs):
            return squared(inputs)

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu"), keras.layers.ReLU()])
    x, (kernel, bias) = data(2, 3), model.get_weights()
    expected = np.maximum(x @ kernel + bias, 0) ** 4
    for to in (keras.layers.Activation(squared), Squared, Squared()):
        np.testing.assert_allclose(numpy(keras_actlab.swap_activations(model, to)(x)), expected, atol=1e-5)


def test_dtype_policies_are_those_of_the_place():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu", dtype="mixed_bfloat16")])
    (layer,) = keras_actlab.swap_activations(model, "tmaf").layers
    assert layer.activation.dtype_policy.name == "mixed_bfloat16"


def test_a_second_swap():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu")])
    swapped = keras_actlab.swap_activations(keras_actlab.swap_activations(model, "tmaf"), "crrelu")
    assert [(row.before, row.after) for row in report(swapped).rows] == [("Dense (TMAF)", "Dense (CRReLU)")]
    assert [weight.name for weight in swapped.weights] == ["kernel", "bias", "epsilon"]
    back = keras_actlab.swap_activations(swapped, "relu")
    np.testing.assert_allclose(numpy(back(data(2, 3))), numpy(model(data(2, 3))), atol=1e-6)


def test_torch_modules_show_the_new_parameters():
    if keras.backend.backend() != "torch":
        pytest.skip("only on PyTorch are layers modules")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(2)])
    swapped = keras_actlab.to_gmp(keras_actlab.swap_activations(model, "tmaf"))
    found = {id(parameter) for parameter in swapped.parameters()}
    assert found == {id(weight.value) for weight in swapped.trainable_weights}


def test_unknown_names():
    with pytest.raises(ValueError, match=r"Received: to='rlu'\. Known names: celu, crrelu,.*tmaf"):
        keras_actlab.swap_activations(mixed_model(), "rlu")
    with pytest.raises(ValueError, match="Received: to='rlu'"):
        keras_actlab.swap_activations(mixed_model(), lambda layer: "rlu")


@pytest.mark.parametrize("to", [3, int, None, lambda layer: 3])
def test_to_must_name_an_activation(to):
    with pytest.raises(TypeError, match="`to` must be the name of an activation"):
        keras_actlab.swap_activations(mixed_model(), to)


def test_an_activation_that_does_not_fit():
    with pytest.raises(ValueError, match=r"does not fit conv \(Conv2D\).*`bandwidth` must be less"):
        keras_actlab.swap_activations(mixed_model(), layers.TMAF(bandwidth=4))
