from operator import attrgetter

import keras
import numpy as np
import pytest

import keras_actlab
from keras_actlab.layers import CRReLU, MeanOnlyBatchNormalization, WeightNormalization
from tests.backends import finite_differences, layer_gradients, numpy, on_one_backend

kinds = keras.layers
# A layer, the shape of its input, and the axes of the norm of each of its kernels.
LAYERS = {
    "Dense": (lambda: kinds.Dense(3), (4, 5), {"kernel": (0,)}),
    "Dense on steps": (lambda: kinds.Dense(3), (2, 4, 5), {"kernel": (0,)}),
    "Conv1D": (lambda: kinds.Conv1D(3, 2), (2, 6, 4), {"kernel": (0, 1)}),
    "Conv2D": (lambda: kinds.Conv2D(3, 2), (2, 5, 6, 4), {"kernel": (0, 1, 2)}),
    "Conv2D in groups": (lambda: kinds.Conv2D(4, 2, groups=2), (2, 5, 6, 4), {"kernel": (0, 1, 2)}),
    "Conv3D": (lambda: kinds.Conv3D(3, 2), (2, 4, 5, 6, 2), {"kernel": (0, 1, 2, 3)}),
    "Conv1DTranspose": (lambda: kinds.Conv1DTranspose(3, 2), (2, 6, 4), {"kernel": (0, 2)}),
    "Conv2DTranspose": (lambda: kinds.Conv2DTranspose(3, 2), (2, 5, 6, 4), {"kernel": (0, 1, 3)}),
    "Conv3DTranspose": (lambda: kinds.Conv3DTranspose(3, 2), (2, 4, 3, 3, 2), {"kernel": (0, 1, 2, 4)}),
    "DepthwiseConv1D": (lambda: kinds.DepthwiseConv1D(3, depth_multiplier=2), (2, 6, 4), {"kernel": (0,)}),
    "DepthwiseConv2D": (lambda: kinds.DepthwiseConv2D(3, depth_multiplier=2), (2, 5, 6, 4), {"kernel": (0, 1)}),
    "SeparableConv1D": (
        lambda: kinds.SeparableConv1D(3, 2, depth_multiplier=2),
        (2, 6, 4),
        {"depthwise_kernel": (0,), "pointwise_kernel": (0, 1)},
    ),
    "SeparableConv2D": (
        lambda: kinds.SeparableConv2D(3, 2),
        (2, 5, 6, 4),
        {"depthwise_kernel": (0, 1), "pointwise_kernel": (0, 1, 2)},
    ),
    "SimpleRNN": (lambda: kinds.SimpleRNN(3), (2, 6, 4), {"cell.kernel": (0,), "cell.recurrent_kernel": (0,)}),
    "LSTM": (
        lambda: kinds.LSTM(3, return_sequences=True),
        (2, 6, 4),
        {"cell.kernel": (0,), "cell.recurrent_kernel": (0,)},
    ),
    "GRU": (lambda: kinds.GRU(3, go_backwards=True), (2, 6, 4), {"cell.kernel": (0,), "cell.recurrent_kernel": (0,)}),
    "ConvLSTM1D": (
        lambda: kinds.ConvLSTM1D(2, 3, padding="same"),
        (2, 3, 6, 4),
        {"cell.kernel": (0, 1), "cell.recurrent_kernel": (0, 1)},
    ),
    "EinsumDense": (lambda: kinds.EinsumDense("abc,cde->abde", (4, 2, 3)), (2, 4, 5), {"kernel": (0,)}),
    "EinsumDense heads": (lambda: kinds.EinsumDense("...de,def->...f", 6), (2, 7, 4, 5), {"kernel": (0, 1)}),
    "EinsumDense in groups": (
        lambda: kinds.EinsumDense("abc,bcd->abd", (4, 6), bias_axes="d"),
        (2, 4, 5),
        {"kernel": (1,)},
    ),
}
# One of each kind; the others differ in Keras' use of the kernels only.
ON_EACH_BACKEND = ("Dense", "Conv2D", "DepthwiseConv2D", "SeparableConv1D", "LSTM", "EinsumDense")
each_layer = pytest.mark.parametrize(
    "name", [*ON_EACH_BACKEND, *on_one_backend(*(name for name in LAYERS if name not in ON_EACH_BACKEND))]
)


def data(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def norm(v, axes):
    return np.sqrt(np.sum(np.square(v.astype("float64")), axis=axes))


@each_layer
def test_starts_as_the_wrapped_layer(name):
    make, shape, norm_axes = LAYERS[name]
    layer = make()
    layer.build(shape)
    x = data(*shape)
    expected = numpy(layer(x))
    wrapper = WeightNormalization(layer)
    np.testing.assert_allclose(numpy(wrapper(x)), expected, atol=1e-5)
    assert tuple(wrapper.compute_output_shape(shape)) == expected.shape
    for kernel, axes in norm_axes.items():
        scale = getattr(wrapper, kernel.removeprefix("cell.").replace("kernel", "scale"))
        np.testing.assert_allclose(numpy(scale), norm(numpy(attrgetter(kernel)(layer)), axes), rtol=1e-6)
    assert len(wrapper.weights) == len(layer.weights) + len(norm_axes)


@each_layer
def test_computes_with_the_normalized_kernels(name):
    make, shape, norm_axes = LAYERS[name]
    wrapper, plain = WeightNormalization(make()), make()
    x = data(*shape)
    wrapper(x)
    plain(x)
    for seed, variable in enumerate(wrapper.variables):
        variable.assign(data(*variable.shape, seed=seed))
    for variable, own in zip(plain.trainable_weights, wrapper.layer.trainable_weights, strict=True):
        variable.assign(own)  # such as biases
    normalized = wrapper.normalized_kernels()
    assert list(normalized) == list(norm_axes)
    for kernel, axes in norm_axes.items():
        v = numpy(attrgetter(kernel)(wrapper.layer))
        scale = numpy(getattr(wrapper, kernel.removeprefix("cell.").replace("kernel", "scale")))
        expected = np.expand_dims(scale / norm(v, axes), axes) * v
        np.testing.assert_allclose(numpy(normalized[kernel]), expected, atol=1e-6)
        attrgetter(kernel)(plain).assign(expected.astype("float32"))
    np.testing.assert_allclose(numpy(wrapper(x)), numpy(plain(x)), atol=2e-5)


def test_gradients():
    x, cotangent = data(6, 5), data(6, 3, seed=1)
    wrapper = WeightNormalization(keras.layers.Dense(3, activation="tanh"))
    wrapper.build(x.shape)
    for seed, variable in enumerate(wrapper.variables):
        variable.assign(data(*variable.shape, seed=seed))

    def formula(x, scale, v, bias):
        return np.sum(np.tanh(x @ (scale * v / np.sqrt(np.sum(v**2, axis=0))) + bias) * cotangent)

    expected = finite_differences(formula, x, *[numpy(variable) for variable in wrapper.variables])
    found = layer_gradients(wrapper, x, cotangent)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    v = numpy(wrapper.layer.kernel)
    np.testing.assert_allclose(np.sum(found[2] * v, axis=0), 0.0, atol=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1e30])
def test_the_length_of_v_has_no_effect(size):
    x = data(2, 5, 6, 4)
    wrapper = WeightNormalization(keras.layers.Conv2D(3, 2))
    before = numpy(wrapper(x))
    wrapper.layer.kernel.assign(numpy(wrapper.layer.kernel) * size)
    np.testing.assert_allclose(numpy(wrapper(x)), before, atol=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_starts_at_norms_of_any_size(size):
    layer = keras.layers.Dense(3, kernel_initializer=keras.initializers.RandomNormal(stddev=size))
    wrapper = WeightNormalization(layer)
    wrapper.build((None, 50))
    np.testing.assert_allclose(numpy(wrapper.scale), norm(numpy(layer.kernel), 0), rtol=1e-5)
    np.testing.assert_allclose(numpy(wrapper.normalized_kernels()["kernel"]), numpy(layer.kernel), rtol=1e-5)


@pytest.mark.parametrize("built_by", ["input", "fit"])
def test_units_of_zeros_learn(built_by):
    if built_by == "fit" and keras.backend.backend() == "tensorflow":
        pytest.skip("tf.function runs each initializer by itself, so that none can see or change another variable")
    x = data(8, 5)
    wrapper = WeightNormalization(keras.layers.Dense(2, kernel_initializer="zeros"))
    model = keras.Sequential(([keras.Input((5,))] if built_by == "input" else []) + [wrapper])
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    model.fit(x, np.ones((8, 2)), verbose=0)
    np.testing.assert_array_equal(numpy(wrapper.scale), 0.0)
    np.testing.assert_allclose(numpy(wrapper.layer.kernel), 5**-0.5, rtol=1e-6)
    np.testing.assert_array_equal(numpy(model(x)), 0.0)
    model.optimizer.learning_rate = 0.1
    for _ in range(3):
        model.train_on_batch(x, x[:, :2])
    assert np.all(numpy(wrapper.scale) != 0.0)
    assert not np.allclose(numpy(wrapper.layer.kernel), 5**-0.5)


def test_one_unit_of_zeros_among_others(tmp_path):
    layer = keras.layers.DepthwiseConv2D(3, depth_multiplier=2)
    layer.build((None, 5, 5, 4))
    kernel = numpy(layer.kernel).copy()
    kernel[:, :, 1, 1] = 0.0
    layer.kernel.assign(kernel)
    x = data(2, 5, 5, 4)
    expected = numpy(layer(x))
    wrapper = WeightNormalization(layer)
    np.testing.assert_allclose(numpy(wrapper(x)), expected, atol=1e-6)
    kernel[:, :, 1, 1] = 1 / 3
    np.testing.assert_allclose(numpy(layer.kernel), kernel, rtol=1e-6)

    # A loaded file determines the values, also zeros.
    kernel[:, :, 1, 1] = 0.0
    layer.kernel.assign(kernel)
    model = keras.Sequential([keras.Input((5, 5, 4)), wrapper])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded.layers[0].layer.kernel), kernel)
    np.testing.assert_allclose(numpy(loaded(x)), expected, atol=1e-6)


def test_mixed_precision_casts_the_kernel_once():
    x = np.eye(3000, dtype="float32")[:4]
    wrapper = WeightNormalization(keras.layers.Dense(3, use_bias=False, dtype="mixed_bfloat16"))
    y = wrapper(x)
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    assert {variable.dtype for variable in wrapper.variables} == {"float32"}
    # The layer computes with the normalized float32 kernel, rounded.
    v = numpy(wrapper.layer.kernel)
    wrapper.scale.assign([1.0, 2.0, 3.0])
    kernel = (np.array([1.0, 2.0, 3.0]) * v / norm(v, 0)).astype("float32")
    np.testing.assert_allclose(numpy(wrapper.normalized_kernels()["kernel"]), kernel, rtol=1e-5)
    rounded = numpy(keras.ops.cast(keras.ops.cast(kernel, "bfloat16"), "float32"))
    found = numpy(keras.ops.cast(wrapper(x), "float32"))
    assert np.mean(found == rounded[:4]) > 0.9
    np.testing.assert_allclose(found, rounded[:4], rtol=2**-7)


def test_dtype_and_trainable_are_the_wrapped_layers():
    layer = keras.layers.Dense(3, dtype="mixed_float16", trainable=False)
    wrapper = WeightNormalization(layer)
    wrapper.build((None, 4))
    assert wrapper.dtype_policy.name == "mixed_float16"
    assert wrapper.trainable_weights == []
    assert WeightNormalization(layer, dtype="float32").compute_dtype == "float32"
    wrapper.trainable = True
    assert len(wrapper.trainable_weights) == 3


class Counting(keras.layers.Layer):
    """An activation with state (the number of training calls), noise and a loss."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.noise = keras.layers.Dropout(0.5, seed=1)

    def build(self, input_shape):
        self.calls = self.add_weight(name="calls", shape=(), initializer="zeros", trainable=False)
        self.noise.build(input_shape)

    def call(self, inputs, training=None):
        if training:
            self.calls.assign(self.calls + 1.0)
            self.calls.assign(self.calls + 1.0)
        self.add_loss(keras.ops.mean(inputs))
        return self.noise(inputs, training=training)

    def compute_output_shape(self, input_shape):
        return input_shape


@pytest.mark.parametrize("built_by", ["input", *on_one_backend("fit")])
@pytest.mark.parametrize("run_eagerly", [False, *on_one_backend(True)])
def test_the_state_of_an_activation_is_kept(built_by, run_eagerly):
    activation = Counting()
    wrapper = WeightNormalization(keras.layers.Dense(2, activation=activation))
    model = keras.Sequential(([keras.Input((5,))] if built_by == "input" else []) + [wrapper])
    model.compile(optimizer="sgd", loss="mse", run_eagerly=run_eagerly)
    model.fit(data(12, 5), np.ones((12, 2)), batch_size=4, verbose=0)
    assert float(activation.calls) == 6.0
    seed = numpy(activation.noise.seed_generator.state)
    assert seed[1] == 3
    model.predict(data(12, 5), verbose=0)
    assert float(activation.calls) == 6.0


def test_updates_of_a_call_outside_a_model():
    activation = Counting()
    wrapper = WeightNormalization(keras.layers.Dense(2, activation=activation))
    first, second = (numpy(wrapper(np.ones((20, 5)), training=True)) for _ in range(2))
    assert float(activation.calls) == 4.0
    assert not np.array_equal(first == 0, second == 0)  # a different dropout mask


def test_losses_of_the_wrapped_layer():
    x = data(4, 5)
    activation = Counting()
    layer = keras.layers.Dense(
        2, activation=activation, kernel_regularizer=keras.regularizers.L2(0.1), activity_regularizer="l2"
    )
    model = keras.Sequential([keras.Input((5,)), WeightNormalization(layer)])

    def expected():
        z = x @ numpy(model.layers[0].normalized_kernels()["kernel"])
        return sorted([z.mean(), 0.01 * np.sum(z**2) / len(x), 0.1 * np.sum(numpy(layer.kernel) ** 2)])

    for _ in range(2):
        model(x)
        np.testing.assert_allclose(sorted(numpy(loss) for loss in model.losses), expected(), rtol=1e-4)

    variables = [
        [variable.value for variable in group] for group in (model.trainable_variables, model.non_trainable_variables)
    ]
    for one in (model, model.layers[0]):
        _, _, losses = one.stateless_call(*variables, x, return_losses=True)
        np.testing.assert_allclose(sorted(numpy(loss) for loss in losses), expected(), rtol=1e-4)

    model.compile(optimizer="sgd", loss="mse")
    found = model.test_on_batch(x, numpy(model(x)))
    np.testing.assert_allclose(found, sum(expected()), rtol=1e-4)


def test_training_with_an_activity_regularizer():
    x = data(16, 5)
    wrapper = WeightNormalization(
        keras.layers.Dense(2, use_bias=False, activity_regularizer=keras.regularizers.L2(10.0))
    )
    model = keras.Sequential([keras.Input((5,)), wrapper])
    model.compile(optimizer=keras.optimizers.SGD(0.05), loss="mse")
    before = numpy(wrapper.scale)
    for _ in range(10):
        model.train_on_batch(x, numpy(model(x)))  # only the regularizer changes the weights
    assert np.all(np.abs(numpy(wrapper.scale)) < 0.5 * before)


def test_two_calls_in_one_model():
    x = data(4, 3)
    wrapper = WeightNormalization(keras.layers.Dense(3, activation="tanh"))
    inputs = keras.Input((3,))
    model = keras.Model(inputs, wrapper(wrapper(inputs)))
    np.testing.assert_allclose(numpy(model(x)), numpy(wrapper(numpy(wrapper(x)))), atol=1e-6)
    model.compile(optimizer="sgd", loss="mse")
    before = [numpy(weight).copy() for weight in wrapper.weights]
    model.train_on_batch(x, np.ones((4, 3)))
    for weight, old in zip(wrapper.weights, before, strict=True):
        assert not np.array_equal(numpy(weight), old), weight.path


def test_within_a_layer_without_an_output_shape():
    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = WeightNormalization(keras.layers.Dense(3, activation=CRReLU(axis=-1)))

        def call(self, inputs):
            return self.inner(inputs) + 1.0

    x = data(4, 5)
    block = Block()
    inputs = keras.Input((5,))
    model = keras.Model(inputs, block(inputs))
    assert model.output_shape == (None, 3)
    np.testing.assert_allclose(numpy(block.inner.scale), norm(numpy(block.inner.layer.kernel), 0), rtol=1e-6)
    np.testing.assert_allclose(numpy(model(x)), numpy(block.inner(x)) + 1.0, atol=1e-6)


def test_training_reaches_the_wrapped_layer():
    x = np.full((4, 5), 2.0, "float32")
    seen = []

    class Recording(keras.layers.Dense):
        def call(self, inputs, training=None):
            seen.append(training)
            return super().call(inputs, training=training)

    wrapper = WeightNormalization(Recording(3))
    wrapper(x)
    wrapper(x, training=True)
    wrapper(x, training=False)
    assert [bool(training) for training in seen] == [False, True, False]
    WeightNormalization(keras.layers.Conv1D(3, 1))(x[None], training=True)  # its `call` has no argument `training`


def test_with_mean_only_batch_normalization():
    x = data(32, 6, 6, 3)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            WeightNormalization(keras.layers.Conv2D(4, 3, use_bias=False)),
            MeanOnlyBatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            WeightNormalization(keras.layers.Dense(1)),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(5e-2), loss="mse")
    history = model.fit(x, x[:, 2:4, 2:4].sum(axis=(1, 2, 3)), epochs=8, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="fails there for a plain Dense too")
def test_rematerialization():
    x, y = data(8, 5), data(8, 2, seed=1)

    def trained():
        keras.utils.set_random_seed(0)
        wrapper = WeightNormalization(keras.layers.Dense(2, activation="tanh"))
        model = keras.Sequential([keras.Input((5,)), wrapper])
        wrapper.scale.assign([3.0, 0.1])
        model.compile(optimizer="sgd", loss="mse")
        model.train_on_batch(x, y)
        return [numpy(weight) for weight in model.weights]

    expected = trained()
    with keras.RematScope("full"):
        found = trained()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_variable_paths_after_loading(tmp_path):
    layer = keras.layers.Dense(3, activation=CRReLU(axis=-1, name="inner"), name="dense")
    inputs = keras.Input((5,))
    model = keras.Model(inputs, WeightNormalization(layer, name="wn")(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    paths = [variable.path for variable in model.variables]
    assert [variable.path for variable in loaded.variables] == paths
    assert paths == ["wn/scale", "wn/dense/kernel", "wn/dense/bias", "wn/inner/epsilon"]


@pytest.mark.parametrize("layer", [None, "dense", keras.layers.Dense])
def test_not_a_layer(layer):
    with pytest.raises(TypeError, match=r"`layer` must be a Keras layer. Received: layer="):
        WeightNormalization(layer)


@pytest.mark.parametrize(
    "kind", [keras.layers.BatchNormalization, lambda: keras.layers.Embedding(3, 2), keras.Sequential]
)
def test_a_layer_without_a_kernel(kind):
    with pytest.raises(ValueError, match=r"`layer` must be a Dense, EinsumDense, .* Received: layer=.*of type"):
        WeightNormalization(kind())


def test_an_einsum_without_a_summed_axis():
    with pytest.raises(ValueError, match=r"`layer` must sum over an axis of its kernel.* Received: .*'ab,b->ab'"):
        WeightNormalization(keras.layers.EinsumDense("ab,b->ab", 4))


@pytest.mark.parametrize("layer", [{"lora_rank": 2}, {"dtype": "int8_from_float32"}])
def test_a_quantized_or_adapted_layer(layer):
    with pytest.raises(ValueError, match=r"`layer` must neither be quantized nor have LoRA. Received: "):
        WeightNormalization(keras.layers.Dense(3, **layer))


@pytest.mark.one_backend
def test_fold_first():
    model = keras.Sequential([keras.Input((4,)), WeightNormalization(keras.layers.Dense(8)), keras.layers.Dense(2)])
    x = data(5, 4)
    before = numpy(model(x))
    wrapper = model.layers[0]
    for layer in (wrapper, wrapper.layer):
        for call in (lambda layer: layer.quantize("int8"), lambda layer: layer.enable_lora(2)):
            with pytest.raises(ValueError, match=r"WeightNormalization computes .* Fold the model first"):
                call(layer)
    np.testing.assert_array_equal(numpy(model(x)), before)
    folded = keras_actlab.fold(model)
    folded.layers[0].quantize("int8")
    np.testing.assert_allclose(numpy(folded(x)), before, atol=0.05)


def test_kernel_and_bias_for_others_to_read():
    wrapper = WeightNormalization(keras.layers.Dense(3, dtype="mixed_bfloat16"))
    wrapper.build((None, 4))
    wrapper.scale.assign([1.0, 2.0, 3.0])
    np.testing.assert_allclose(
        numpy(keras.ops.cast(wrapper.kernel, "float32")), numpy(wrapper.normalized_kernels()["kernel"]), rtol=2**-8
    )
    assert keras.backend.standardize_dtype(wrapper.kernel.dtype) == "bfloat16"
    assert wrapper.bias is wrapper.layer.bias
    separable = WeightNormalization(keras.layers.SeparableConv1D(3, 2))
    separable.build((None, 6, 4))
    with pytest.raises(ValueError, match=r"no `kernel`. Read `normalized_kernels\(\)`"):
        _ = separable.kernel


def test_the_scale_of_a_half_precision_layer_is_wide():
    wrapper = WeightNormalization(keras.layers.Dense(3, dtype="bfloat16"))
    wrapper.build((None, 50))
    assert wrapper.scale.dtype == "float32"
    assert wrapper.layer.kernel.dtype == "bfloat16"
    np.testing.assert_array_equal(
        numpy(keras.ops.cast(wrapper.kernel, "float32")), numpy(keras.ops.cast(wrapper.layer.kernel, "float32"))
    )


def test_kernels_before_they_exist():
    with pytest.raises(ValueError, match="has no `normalized_kernels` before it is built"):
        WeightNormalization(keras.layers.Dense(3)).normalized_kernels()


def test_recurrent_layers_with_masks_and_states():
    x = data(2, 6, 4)
    plain = keras.layers.LSTM(3, return_state=True)
    plain(x)
    wrapper = WeightNormalization(keras.layers.LSTM(3, return_state=True))
    wrapper(x)
    for variable, value in zip(wrapper.layer.weights, plain.weights, strict=True):
        variable.assign(value)
    for name in ("scale", "recurrent_scale"):
        kernel = plain.cell.kernel if name == "scale" else plain.cell.recurrent_kernel
        getattr(wrapper, name).assign(norm(numpy(kernel), 0))
    mask = np.arange(6) < np.array([[3], [5]])
    states = [data(2, 3, seed=seed) for seed in (1, 2)]
    expected = plain(x, initial_state=states, mask=mask)
    for found, one in zip(wrapper(x, initial_state=states, mask=mask), expected, strict=True):
        np.testing.assert_allclose(numpy(found), numpy(one), atol=1e-5)
    inputs = keras.Input((6,), dtype="int32")
    embedded = keras.layers.Embedding(9, 4, mask_zero=True)(inputs)
    tokens = np.array([[3, 4, 0, 0, 0, 0], [5, 6, 7, 1, 2, 0]])
    model, twin = keras.Model(inputs, wrapper(embedded)), keras.Model(inputs, plain(embedded))
    np.testing.assert_allclose(numpy(model(tokens)[0]), numpy(twin(tokens)[0]), atol=1e-5)


@pytest.mark.parametrize(
    "kind", [keras.layers.GRUCell, *on_one_backend(keras.layers.SimpleRNNCell, keras.layers.LSTMCell)]
)
def test_a_cell_in_a_recurrent_layer(kind):
    x = data(2, 6, 4)
    plain = keras.layers.RNN(
        kind(
            3,
            kernel_initializer=keras.initializers.GlorotUniform(seed=1),
            recurrent_initializer=keras.initializers.GlorotUniform(seed=2),
        )
    )
    layer = keras.layers.RNN(
        WeightNormalization(
            kind(
                3,
                kernel_initializer=keras.initializers.GlorotUniform(seed=1),
                recurrent_initializer=keras.initializers.GlorotUniform(seed=2),
            )
        )
    )
    np.testing.assert_allclose(numpy(layer(x)), numpy(plain(x)), atol=1e-5)
    model = keras.Sequential([keras.Input((6, 4)), layer])
    model.compile("sgd", "mse")
    before = [numpy(weight).copy() for weight in layer.trainable_weights]
    model.train_on_batch(x, np.ones((2, 3)))
    for weight, old in zip(layer.trainable_weights, before, strict=True):
        assert not np.array_equal(numpy(weight), old), weight.path
    with pytest.raises(ValueError, match="`layer` must not be a cell with dropout"):
        WeightNormalization(kind(3, dropout=0.1))


@pytest.mark.one_backend
def test_recurrent_layers_are_normalized_where_they_are_named():
    inputs = keras.Input((6, 4))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.LSTM(3, name="lstm")(inputs)))
    x = data(2, 6, 4)
    done = keras_actlab.conversion.report(keras_actlab.conversion.to_weight_normalization(model))
    assert [row.before for row in done.changed] == ["Dense"]
    assert [row.note for row in done.skipped] == ["it is a cell; `where` may name its recurrent layer"]
    converted = keras_actlab.conversion.to_weight_normalization(model, where="lstm")
    assert isinstance(converted.get_layer("lstm"), WeightNormalization)
    np.testing.assert_allclose(numpy(converted(x)), numpy(model(x)), atol=1e-5)
    folded = keras_actlab.fold(converted)
    assert type(folded.get_layer("lstm")) is keras.layers.LSTM
    np.testing.assert_allclose(numpy(folded(x)), numpy(model(x)), atol=1e-5)
