import keras
import numpy as np
import pytest

import keras_actlab
from keras_actlab import layers
from keras_actlab.conversion import report, to_weight_normalization
from tests.backends import numpy, on_one_backend


def nothing_changed():
    return pytest.warns(UserWarning, match="Nothing was changed")


def data(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def model_of(layer, shape):
    model = keras.Sequential([keras.Input(shape[1:]), layer])
    for index, weight in enumerate(model.weights):
        weight.assign(0.5 * data(*weight.shape, seed=index))
    return model


LAYERS = {
    "Dense": (lambda **k: keras.layers.Dense(4, **k), (3, 5)),
    "Dense of one input": (lambda **k: keras.layers.Dense(4, **k), (3, 1)),
    "Dense on sequences": (lambda **k: keras.layers.Dense(4, **k), (3, 6, 5)),
    "Conv1D causal": (lambda **k: keras.layers.Conv1D(4, 3, padding="causal", dilation_rate=2, **k), (3, 9, 2)),
    "Conv2D groups": (lambda **k: keras.layers.Conv2D(4, 3, groups=2, strides=2, padding="same", **k), (3, 8, 8, 2)),
    "Conv3D": (lambda **k: keras.layers.Conv3D(2, 2, **k), (2, 4, 4, 4, 2)),
}
ACTIVATIONS = {"linear": None, "relu": "relu", "gelu": "gelu", "tanh": "tanh", "PReLU": keras.layers.PReLU}


@pytest.mark.parametrize("activation", ["relu", *on_one_backend("linear", "gelu", "tanh", "PReLU")])
@pytest.mark.parametrize("use_bias", [True, *on_one_backend(False)])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("convert", [keras_actlab.to_gmp, to_weight_normalization])
def test_outputs_stay(convert, name, use_bias, activation):
    make, shape = LAYERS[name]
    activation = ACTIVATIONS[activation]
    if isinstance(activation, type):
        activation = activation(shared_axes=list(range(1, len(shape) - 1)))
    layer = make(use_bias=use_bias, activation=activation, name="the_layer")
    if isinstance(activation, keras.layers.Layer):
        activation.build((None, *shape[1:-1], 2 if "3D" in name else 4))
    model, x = model_of(layer, shape), data(*shape)
    before = numpy(model(x))
    converted = convert(model)
    (new,) = converted.layers
    assert type(new).__module__.startswith("keras_actlab")
    assert new.name == "the_layer"
    np.testing.assert_allclose(numpy(converted(x)), before, rtol=0, atol=2e-6 * max(1, np.abs(before).max()))
    folded = keras_actlab.fold(converted)
    assert [type(inner) for inner in folded.layers] == [type(layer)]
    np.testing.assert_allclose(numpy(folded(x)), before, rtol=0, atol=2e-6 * max(1, np.abs(before).max()))
    np.testing.assert_array_equal(numpy(model(x)), before)


@pytest.mark.one_backend
def test_parameters_are_those_of_the_kernel():
    model = model_of(keras.layers.Dense(4, activation="relu"), (3, 5))
    (layer,) = keras_actlab.to_gmp(model).layers
    kernel, bias = (numpy(weight) for weight in model.layers[0].weights)
    norm = np.linalg.norm(kernel, axis=0)
    np.testing.assert_allclose(numpy(layer.scale), norm, rtol=1e-6)
    np.testing.assert_allclose(numpy(layer.radius), bias / norm, rtol=1e-6)
    np.testing.assert_allclose(numpy(layer.direction), kernel / norm, atol=1e-6)
    assert not layer.scale_inside


@pytest.mark.one_backend
def test_what_is_not_homogeneous_gets_its_scale_inside():
    inside = {}
    activations = ["linear", "relu", "leaky_relu", "gelu", "softmax"]
    activations += [keras.layers.ReLU(), keras.layers.ReLU(6.0), keras.layers.PReLU(), keras.layers.Activation("tanh")]
    for activation in activations:
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation)])
        inside[str(activation)] = keras_actlab.to_gmp(model).layers[0].scale_inside
    assert list(inside.values()) == [False, False, False, True, True, False, True, False, True]


@pytest.mark.one_backend
@pytest.mark.parametrize("convert", [keras_actlab.to_gmp, to_weight_normalization])
def test_zero_columns_stay_and_learn(convert):
    model = model_of(keras.layers.Dense(3, activation="gelu"), (8, 5))
    kernel = numpy(model.layers[0].kernel).copy()
    kernel[:, 1] = 0.0
    model.layers[0].kernel.assign(kernel)
    model.layers[0].bias.assign([0.1, 0.0, 0.2])
    x = data(8, 5)
    converted = convert(model)
    np.testing.assert_allclose(numpy(converted(x)), numpy(model(x)), atol=1e-6)
    assert numpy(converted.layers[0].scale)[1] == 0.0
    converted.compile(keras.optimizers.SGD(0.1), "mse")
    converted.fit(x, np.ones((8, 3)), epochs=2, verbose=0)
    assert np.all(np.isfinite(np.concatenate([weight.ravel() for weight in converted.get_weights()])))
    assert numpy(converted.layers[0].scale)[1] != 0.0


@pytest.mark.one_backend
def test_a_constant_unit_has_no_boundary():
    model = model_of(keras.layers.Dense(3, activation="relu", name="it"), (8, 5))
    x = data(8, 5)
    model.layers[0].kernel.assign(numpy(model.layers[0].kernel) * [1, 0, 1])
    model.layers[0].bias.assign([0.1, -0.3, 0.2])  # a dead unit puts out 0, and so does a scale of 0
    converted = keras_actlab.to_gmp(model)
    np.testing.assert_allclose(numpy(converted(x)), numpy(model(x)), atol=1e-6)
    model.layers[0].bias.assign([0.1, 0.3, 0.2])
    with nothing_changed():
        (row,) = report(keras_actlab.to_gmp(model)).skipped
    assert (row.layer, row.note) == ("it", "the weights of unit 1 vanish, but its bias does not")
    with pytest.raises(ValueError, match="unit 1 vanish"):
        keras_actlab.to_gmp(model, where="it")


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_extreme_weights(size):
    model = model_of(keras.layers.Dense(3, use_bias=False), (8, 5))
    model.layers[0].kernel.assign(size * data(5, 3))
    x = data(8, 5)
    for converted in (keras_actlab.to_gmp(model), to_weight_normalization(model)):
        np.testing.assert_allclose(numpy(converted(x)) / size, numpy(model(x)) / size, atol=1e-5)


def test_a_long_fan_in():
    """Angles of thousands of rows lose no more than float32 must."""
    model = model_of(keras.layers.Dense(16), (8, 4608))
    x = np.abs(data(8, 4608))  # as after a ReLU: errors that lean to one side add up
    before = numpy(model(x))
    after = numpy(keras_actlab.to_gmp(model)(x))
    assert np.abs(after - before).max() / np.abs(before).max() < 5e-6


@pytest.mark.one_backend
def test_regularizers_and_constraints():
    layer = keras.layers.Dense(
        4,
        kernel_regularizer=keras.regularizers.L2(0.3),
        activity_regularizer=keras.regularizers.L2(0.1),
        bias_regularizer="l2",
        kernel_constraint="max_norm",
        name="it",
    )
    model = model_of(layer, (3, 5))
    model.layers[0].bias.assign(np.zeros(4))
    converted = keras_actlab.to_gmp(model)
    assert report(converted).changed[0].note == "without bias_regularizer, kernel_constraint"
    x = data(3, 5)
    model(x), converted(x)
    found, expected = (sum(float(numpy(loss)) for loss in one.losses) for one in (converted, model))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.one_backend
def test_what_a_layer_is_besides_its_weights():
    layer = keras.layers.Conv2D(4, 3, data_format="channels_last", dtype="mixed_bfloat16", trainable=False, name="it")
    model = model_of(layer, (3, 8, 8, 2))
    (new,) = keras_actlab.to_gmp(model).layers
    assert (new.name, new.dtype_policy.name, new.trainable) == ("it", "mixed_bfloat16", False)
    assert [weight.path for weight in new.weights] == [f"{layer.path}/{name}" for name in ("angles", "radius", "scale")]


def test_training_goes_on():
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(1)])
    x, y = data(64, 5), data(64, 1, seed=1)
    for converted in (keras_actlab.to_gmp(model), to_weight_normalization(model)):
        converted.compile(keras.optimizers.SGD(0.05), "mse")
        before = [weight.copy() for weight in converted.get_weights()]
        losses = [float(converted.train_on_batch(x, y)) for _ in range(2)]
        assert losses[1] < losses[0]
        for weight, old in zip(converted.trainable_weights, before, strict=True):
            assert not np.array_equal(numpy(weight), old), weight.path


class OwnDense(keras.layers.Dense):
    """A subclass, which may compute something else."""


@pytest.mark.one_backend
def test_layers_without_a_counterpart_are_listed():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            keras.layers.DepthwiseConv2D(3, name="depthwise"),
            keras.layers.SeparableConv2D(4, 3, name="separable"),
            keras.layers.Conv2DTranspose(4, 3, name="transpose"),
            keras.layers.BatchNormalization(),
            keras.layers.SpectralNormalization(keras.layers.Conv2D(2, 3, name="inner"), name="spectral"),
            keras.layers.Conv2D(2, 3, name="plain"),
            OwnDense(3, name="own"),
        ]
    )
    done = report(keras_actlab.to_gmp(model))
    assert [row.layer for row in done.changed] == ["depthwise", "separable", "transpose", "plain"]
    assert {row.layer: row.note for row in done.skipped} == {
        "spectral": "SpectralNormalization has no geometric counterpart",
        "spectral/inner": "SpectralNormalization owns its kernel",
        "own": "OwnDense is a subclass of Dense, which may compute something else, and names no `counterpart`",
    }
    done = report(to_weight_normalization(model))
    assert [row.layer for row in done.changed] == ["depthwise", "separable", "transpose", "plain", "own"]


@pytest.mark.one_backend
def test_lora_and_quantized_layers_stay():
    model = model_of(keras.layers.Dense(4, name="it"), (3, 5))
    model.layers[0].enable_lora(2)
    for convert in (keras_actlab.to_gmp, to_weight_normalization):
        with nothing_changed():
            assert "LoRA" in report(convert(model)).skipped[0].note
    model = model_of(keras.layers.Dense(4, name="it"), (3, 5))
    model.layers[0].quantize("int8")
    with nothing_changed():
        assert "quantized" in report(keras_actlab.to_gmp(model)).skipped[0].note


@pytest.mark.one_backend
@pytest.mark.parametrize("convert", [keras_actlab.to_gmp, to_weight_normalization])
def test_a_function_in_the_graph_is_no_layer(convert):
    inputs = keras.Input((5,))
    hidden = keras.activations.gelu(keras.layers.Dense(4)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(hidden + 1.0))
    x = data(3, 5)
    converted = convert(model)
    assert len(report(converted).changed) == 2
    for one in (converted, keras_actlab.fold(converted)):
        np.testing.assert_allclose(numpy(one(x)), numpy(model(x)), atol=1e-6)
    with pytest.raises(ValueError, match="`where` must select layers that can be converted"):
        convert(model, where="*elu*")


@pytest.mark.one_backend
def test_a_second_conversion_finds_nothing_left():
    converted = keras_actlab.to_gmp(model_of(keras.layers.Dense(4), (3, 5)))
    with nothing_changed():
        again = keras_actlab.to_gmp(converted)
    assert report(again).rows == ()
    assert isinstance(again.layers[0], layers.GmPDense)


@pytest.mark.parametrize("convert", [keras_actlab.to_gmp, to_weight_normalization])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_loses_nothing_but_rounding(convert, dtype):
    """Angles of 2,048 inputs in bfloat16 moved the outputs by 7 %."""
    model = keras.Sequential([keras.Input((2048,)), keras.layers.Dense(32, dtype=dtype)])
    kernel, found = (numpy(keras.ops.cast(one.layers[0].kernel, "float32")) for one in (model, convert(model)))
    assert np.mean(found == kernel) > 0.9
    np.testing.assert_allclose(found, kernel, rtol={"bfloat16": 2**-7, "float16": 2**-10}[dtype], atol=2e-7)


class Tied(keras.Model):
    """An autoencoder whose decoder is the transposed encoder."""

    def __init__(self):
        super().__init__()
        self.encoder = keras.layers.Dense(3, "relu", name="encoder")

    def build(self, input_shape):
        self.encoder.build(input_shape)

    def call(self, x):
        return keras.ops.matmul(self.encoder(x), keras.ops.transpose(self.encoder.kernel))

    def get_config(self):
        return {}


@pytest.mark.one_backend
@pytest.mark.parametrize("convert", [keras_actlab.to_gmp, to_weight_normalization])
def test_a_kernel_that_others_read(convert):
    x = data(16, 6)
    model = Tied()
    before = numpy(model(x))
    converted = convert(model)
    np.testing.assert_allclose(numpy(converted(x)), before, atol=1e-5)
    converted.compile(keras.optimizers.SGD(0.05), "mse")
    losses = [float(converted.train_on_batch(x, x)) for _ in range(4)]
    assert losses[-1] < losses[0]
    scale = converted.encoder.scale
    scale.assign(numpy(scale) * [1, -1, 1])  # as training may
    trained = numpy(converted(x))
    np.testing.assert_allclose(numpy(keras_actlab.fold(converted)(x)), trained, atol=1e-5)


class BuiltFromAVector(keras.layers.Layer):
    """Builds its Dense layer from a shape without the batch, as ViTDet of keras-hub does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(3, name="dense")

    def build(self, input_shape):
        self.dense.build(input_shape[-1:])

    def call(self, x):
        return self.dense(x)


@pytest.mark.one_backend
def test_a_dense_layer_built_without_the_batch_axis():
    model = keras.Sequential([keras.Input((2, 5)), BuiltFromAVector()])
    x = data(4, 2, 5)
    converted = keras_actlab.to_gmp(model)
    assert isinstance(converted.layers[0].dense, layers.GmPDense)
    np.testing.assert_allclose(numpy(converted(x)), numpy(model(x)), atol=1e-6)
    np.testing.assert_allclose(numpy(keras_actlab.fold(converted)(x)), numpy(model(x)), atol=1e-6)


class Experts(keras.layers.Layer):
    """Stacked matrices in a list, where no attribute is theirs."""

    def build(self, input_shape):
        self.experts = [self.add_weight(name="experts", shape=(2, input_shape[-1], 3))]

    def call(self, x):
        return keras.ops.einsum("...i,eio->...o", x, self.experts[0])


@pytest.mark.one_backend
def test_kernels_that_a_layer_holds_itself_are_listed():
    model = keras.Sequential([keras.Input((4,)), Experts(name="experts"), keras.layers.Dense(2)])
    (row,) = report(keras_actlab.to_gmp(model)).skipped
    assert (row.layer, row.note) == ("experts", "Experts has no geometric counterpart")


@pytest.mark.one_backend
def test_activations_stay():
    """The levels of TMAF, which have three axes, became angles."""
    layer = keras.layers.Dense(4, activation=layers.TMAF(name="activation"))
    converted = keras_actlab.to_gmp(keras.Sequential([keras.Input((3,)), layer]))
    assert [weight.name for weight in converted.weights] == ["angles", "radius", "scale", "levels"]
