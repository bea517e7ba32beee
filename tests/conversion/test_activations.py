import keras
import numpy as np
import pytest

import keras_actlab
from keras_actlab import layers
from keras_actlab.conversion import report
from tests.backends import numpy
from tests.conversion.test_rewriting import Block

pytestmark = pytest.mark.one_backend


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


@pytest.mark.parametrize(
    ("was", "where", "expected"),
    [
        ("relu", None, ["conv", "layer"]),
        (keras.activations.relu, "conv", ["conv"]),
        (["gelu", keras.layers.LeakyReLU], None, ["function", "nested"]),
        ("Sigmoid", "hidden*", ["hidden_sigmoid"]),
    ],
)
def test_what_was_there_before_selects(was, where, expected):
    swapped = keras_actlab.swap_activations(mixed_model(), "crrelu", where, was=was)
    assert [row.layer for row in report(swapped).rows] == expected


@pytest.mark.parametrize(
    ("was", "where", "error", "message"),
    [
        ("selu", None, ValueError, "`was` must be an activation of `model`. Received: was='selu', which none"),
        ("relu", "function", ValueError, "`where` must match a layer of the model. Received: where='function'"),
        ("crreru", None, ValueError, "`was` must be the name of an activation.*Received: was='crreru'"),
        ([3], None, TypeError, r"`was` must be the name of an activation.*Received: was=\[3\]"),
    ],
)
def test_bad_was(was, where, error, message):
    with pytest.raises(error, match=message):
        keras_actlab.swap_activations(mixed_model(), "crrelu", where, was=was)


def test_each_place_gets_its_own_parameters():
    swapped = keras_actlab.swap_activations(mixed_model(), layers.CRReLU(epsilon_initializer=0.2))
    epsilons = [weight for weight in swapped.weights if weight.name == "epsilon"]
    assert sorted(epsilon.path for epsilon in epsilons) == sorted(
        f"{name}/epsilon" if name in ("layer", "function") else f"{name}_activation/epsilon" for name in HIDDEN
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


@keras.saving.register_keras_serializable(package="tests")
class Backbone(keras.Model):
    """A Functional model that is saved as the arguments of its constructor, as those of keras-hub are."""

    def __init__(self, units, **kwargs):
        inputs = keras.Input((5,))
        x = keras.ops.silu(keras.layers.Dense(units, name="first")(inputs))
        x = keras.activations.relu(keras.layers.Dense(units, name="second")(x))
        super().__init__(inputs=inputs, outputs=keras.layers.Dense(2, name="last")(x), **kwargs)
        self.units = units

    def get_config(self):
        return {"units": self.units, "name": self.name}


def functional_with_operations():
    inputs = keras.Input((5,))
    x = keras.activations.relu(keras.layers.Dense(4)(inputs))
    x = keras.layers.ReLU()(keras.layers.Dense(4)(x))
    x = keras.ops.leaky_relu(keras.layers.Dense(4)(x), negative_slope=0.3)
    return keras.Model(inputs, keras.layers.Dense(2)(x))


@pytest.mark.parametrize(
    ("make", "before"),
    [(functional_with_operations, ["ReLU", "ReLU", "LeakyRelu"]), (lambda: Backbone(4), ["Silu", "ReLU"])],
)
def test_functions_of_the_graph(make, before, tmp_path):
    model, x = make(), data(3, 5)
    expected = numpy(model(x))
    swapped = keras_actlab.swap_activations(model, layers.CRReLU(epsilon_initializer=0.3))
    assert [(row.before, row.after) for row in report(swapped).changed] == [(name, "CRReLU") for name in before]
    np.testing.assert_array_equal(numpy(model(x)), expected)
    assert sum(weight.name == "epsilon" for weight in swapped.trainable_weights) == len(before)
    kernels = [numpy(weight) for weight in swapped.weights if weight.name in ("kernel", "bias")]
    y = x
    for kernel, bias in zip(kernels[::2], kernels[1::2], strict=True):
        y = y @ kernel + bias
        if kernel.shape[1] == 4:
            y = np.maximum(y, 0) + 0.3 * y * np.exp(-(y**2) / 2)
    np.testing.assert_allclose(numpy(swapped(x)), y, atol=1e-5)
    swapped.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert [weight.shape for weight in again.weights] == [weight.shape for weight in swapped.weights]
    np.testing.assert_allclose(numpy(again(x)), y, atol=1e-5)


def test_functions_of_the_graph_that_stay_are_left_as_they_are():
    inputs = keras.Input((5,))
    x = keras.ops.silu(keras.layers.Dense(4, name="dense")(inputs))
    x = keras.activations.relu(x)
    model = keras.Model(inputs, keras.ops.softmax(keras.layers.Dense(3)(x)))
    silu, relu, softmax = (one.name for one in model.operations if not isinstance(one, keras.layers.Layer))
    swapped = keras_actlab.swap_activations(model, "tmaf", where=relu)
    kept = [type(one).__name__ for one in swapped.operations if one.name in (silu, softmax)]
    assert kept == ["Silu", "Softmax"]
    assert [row.layer for row in report(swapped).rows] == [relu]
    assert [row.note for row in report(keras_actlab.swap_activations(model, "tmaf")).skipped] == [
        "softmax is no hidden activation; give its name to swap it"
    ]


def test_a_function_of_the_graph_gets_the_policy_of_the_layer_before():
    inputs = keras.Input((5,))
    x = keras.layers.Dense(4, dtype="mixed_bfloat16")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.activations.relu(x)))
    swapped = keras_actlab.swap_activations(model, "tmaf")
    (layer,) = (layer for layer in swapped.layers if isinstance(layer, layers.TMAF))
    assert layer.dtype_policy.name == "mixed_bfloat16"


@pytest.mark.parametrize("name", ["tanh", "softplus", "hard_sigmoid", "exponential"])
@pytest.mark.parametrize(
    "head",
    [
        lambda x, name: keras.layers.Dense(3, activation=name, name="head")(x),
        lambda x, name: keras.layers.Activation(name, name="head")(keras.layers.Dense(3)(x)),
        lambda x, name: keras.layers.Dense(3, activation=keras.layers.Activation(name), name="head")(x),
    ],
)
def test_output_ranges_are_kept(name, head):
    inputs = keras.Input((5,))
    x = keras.layers.Dense(4, activation="tanh", name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Reshape((3, 1))(head(x, name)))
    assert [row.layer for row in report(keras_actlab.swap_activations(model, "crrelu")).changed] == ["hidden"]
    named = keras_actlab.swap_activations(model, "crrelu", where="head")
    assert [row.layer for row in report(named).changed] == ["head"]


def test_hard_sigmoids_written_as_relu6_are_kept():
    """As in keras.applications.MobileNetV3."""
    inputs = keras.Input((5,))
    x = keras.layers.ReLU(6.0, name="hidden")(keras.layers.Dense(4)(inputs) + 2.0)
    gate = keras.layers.ReLU(6.0, name="gate")(keras.layers.Dense(4)(x) + 3.0) * (1.0 / 6.0)
    x = keras.layers.Multiply()([x, gate])
    gate = keras.layers.Dense(4)(x) * keras.ops.relu6(keras.layers.Dense(4)(x) + 3.0) / 6.0
    model = keras.Model(inputs, keras.layers.Dense(2)(gate))
    done = report(keras_actlab.swap_activations(model, "crrelu"))
    assert [row.layer for row in done.changed] == ["hidden"]
    assert [row.before for row in done.skipped] == ["ReLU", "Relu6"]
    assert all("hard sigmoid" in row.note for row in done.skipped)
    assert len(report(keras_actlab.swap_activations(model, "crrelu", where="gate")).changed) == 1


@pytest.mark.slow
def test_the_gates_of_mobilenet_v3_are_kept():
    model = keras.applications.MobileNetV3Small(weights=None, input_shape=(32, 32, 3), include_top=False)
    done = report(keras_actlab.swap_activations(model, "crrelu"))
    gates = [row for row in done.skipped if "hard sigmoid" in row.note]
    # 9 blocks with squeeze and excite, each with one gate; 2 activations in each of 11 blocks, of which the first has
    # one, and one at either end; and one in each of the 9.
    assert (len(gates), len(done.skipped), len(done.changed)) == (9, 9, 21 + 2 + 9)


def test_models_on_one_graph_share_what_they_hold():
    inputs = keras.Input((5,))
    code = keras.layers.ReLU(name="code")(keras.layers.Dense(3)(inputs))
    encoder = keras.Model(inputs, code, name="encoder")
    whole = keras.Model(inputs, keras.layers.Dense(5)(code), name="whole")
    outer = keras.Input((5,))
    model = keras.Model(outer, [encoder(outer), whole(outer)])
    swapped = keras_actlab.swap_activations(model, layers.CRReLU(epsilon_initializer=0.5))
    assert [row.layer for row in report(swapped).rows] == ["encoder/code"]
    found = [swapped.get_layer(name).get_layer("code") for name in ("encoder", "whole")]
    assert found[0] is found[1]
    assert isinstance(found[0], layers.CRReLU)


def test_an_axis_of_unknown_length_is_skipped():
    inputs = keras.Input((None, 3))
    x = keras.layers.Permute((2, 1))(keras.layers.Dense(3, activation="relu", name="known")(inputs))
    model = keras.Model(inputs, keras.layers.ReLU(name="unknown")(x))
    done = report(keras_actlab.swap_activations(model, "tmaf"))
    assert [row.layer for row in done.changed] == ["known"]
    assert [row.note for row in done.skipped] == ["TMAF does not take an input of shape (None, 3, None)"]


class Expert(keras.layers.Layer):
    """Its arguments are not serializable, and it has no get_config, as the experts of Mixtral."""

    def __init__(self, activation, **kwargs):
        super().__init__(**kwargs)
        self.activation = activation

    def build(self, input_shape):
        self.built = True

    def call(self, inputs):
        return self.activation(inputs)


def test_a_layer_without_a_config_is_swapped():
    inputs = keras.Input((4,))
    x = Expert(keras.activations.relu, name="expert")(keras.layers.Dense(3, "relu", name="dense")(inputs))
    model = keras.Model(inputs, x)
    swapped = keras_actlab.swap_activations(model, "tanh")
    assert [row.layer for row in report(swapped).changed] == ["dense", "expert"]
    x, (kernel, bias) = data(2, 4), model.get_weights()
    np.testing.assert_allclose(numpy(swapped(x)), np.tanh(np.tanh(x @ kernel + bias)), atol=1e-6)


def test_a_swap_that_changes_nothing_warns():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(4, "softmax", name="classes")(inputs))
    with pytest.warns(
        UserWarning, match=r"(?s)Nothing was changed in .*classes +Dense \(softmax\) +unchanged"
    ) as caught:
        keras_actlab.swap_activations(model, "crrelu")
    assert [one.filename for one in caught if one.category is UserWarning] == [__file__]


def plain_model():
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, "relu", name="act[1]"),
            keras.layers.Dense(4, "gelu", name="act1"),
            keras.layers.ReLU(name="act*"),
            keras.layers.Dense(4, keras.ops.relu, name="what?"),
            keras.layers.Dense(2, "sigmoid", name="head"),
        ]
    )


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("act[1]", ["act[1]"]),
        ("act*", ["act*"]),
        ("what?", ["what?"]),
        ("act?", ["act1", "act*"]),
        (keras.layers.ReLU, ["act*"]),
        (keras.activations.relu, ["act[1]", "act*", "what?"]),
        (keras.ops.gelu, ["act1"]),
        ([keras.activations.gelu, "what?"], ["act1", "what?"]),
        (lambda layer: layer.name == "act1", ["act1"]),
    ],
)
def test_where(where, expected):
    done = report(keras_actlab.swap_activations(plain_model(), "crrelu", where=where))
    assert [row.layer for row in done.changed] == expected


def test_where_takes_a_layer_of_the_model():
    model = plain_model()
    swapped = keras_actlab.swap_activations(model, "crrelu", where=[model.layers[1], model.layers[-1]])
    assert [row.layer for row in report(swapped).changed] == ["act1", "head"]  # the head, for it is named
    with pytest.raises(ValueError, match="`where` must match a layer of the model"):
        keras_actlab.swap_activations(model, "crrelu", where=keras.layers.ReLU())


def test_where_finds_functions_of_the_graph_by_their_function_and_by_a_function_of_layers():
    inputs = keras.Input((5,))
    x = keras.ops.silu(keras.layers.Dense(4)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.activations.relu(x)))
    for where in (keras.activations.silu, lambda layer: getattr(layer, "activation", None) is keras.activations.silu):
        done = report(keras_actlab.swap_activations(model, "crrelu", where=where))
        assert [row.before for row in done.changed] == ["Silu"]


def test_a_function_that_fails_names_the_layer():
    with pytest.raises(ValueError, match=r"`where` must return True or False.*fails on act\* \(ReLU\): .*units"):
        keras_actlab.swap_activations(plain_model(), "crrelu", where=lambda layer: layer.units > 2)
    with pytest.raises(ValueError, match=r"`to` must be a function of a layer.*fails on act\* \(ReLU\): .*units"):
        keras_actlab.swap_activations(plain_model(), lambda layer: "gelu" if layer.units > 2 else None)
    with pytest.raises(ValueError, match=r"fails on act\[1\] \(Dense\).*keras.layers.Activation\(function\)"):
        keras_actlab.swap_activations(plain_model(), lambda x: keras.ops.relu(x) ** 2)


@keras.saving.register_keras_serializable(package="tests")
def cubed(x):
    return x**3


@pytest.mark.parametrize(
    ("to", "function"),
    [
        (keras.ops.silu, lambda x: x / (1 + np.exp(-x))),
        (keras.ops.tanh, np.tanh),
        (keras_actlab.ops.crrelu, lambda x: np.maximum(x, 0) + 0.01 * x * np.exp(-(x**2) / 2)),
        (cubed, lambda x: x**3),
        ("entropy", lambda x: np.maximum(x, 0)),
    ],
)
def test_to_takes_functions_of_tensors(to, function, tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "gelu")])
    swapped = keras_actlab.swap_activations(model, to)
    (kernel, bias), x = model.get_weights(), data(5, 3)
    np.testing.assert_allclose(numpy(swapped(x)), function(x @ kernel + bias), atol=1e-5)
    swapped.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numpy(again(x)), numpy(swapped(x)), atol=1e-6)


def test_a_function_that_keras_loads_as_another_is_refused():
    with pytest.raises(
        ValueError, match=r"Received: to=keras\.ops\.gelu, which Keras loads as keras\.activations\.gelu"
    ):
        keras_actlab.swap_activations(plain_model(), keras.ops.gelu)


def test_to_of_another_library():
    module = pytest.importorskip({"torch": "torch", "jax": "jax", "tensorflow": "tensorflow"}[keras.backend.backend()])
    wrong = {
        "torch": lambda: [module.nn.GELU(), module.nn.GELU, module.nn.functional.gelu],
        "jax": lambda: [module.nn.gelu, module.nn.relu],
        "tensorflow": lambda: [module.nn.gelu, module.nn.relu],
    }[keras.backend.backend()]()
    for to in wrong:
        with pytest.raises(TypeError, match=r"must be an activation of Keras.*of another library"):
            keras_actlab.swap_activations(plain_model(), to)
