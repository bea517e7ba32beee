import keras
import numpy as np
import pytest

from keras_actlab import ops
from keras_actlab.layers import CRReLU, GmPConv1D, GmPConv2D, GmPConv3D, GmPDense
from tests.backends import numpy

FIRST = {"data_format": "channels_first"}
DENSE = (GmPDense, keras.layers.Dense)
CONV1D = (GmPConv1D, keras.layers.Conv1D)
CONV2D = (GmPConv2D, keras.layers.Conv2D)
CONV3D = (GmPConv3D, keras.layers.Conv3D)
# A geometric layer, its Keras counterpart, their arguments, an input shape.
PAIRS = {
    "dense": (*DENSE, {"units": 4}, (2, 5)),
    "dense on steps": (*DENSE, {"units": 4}, (2, 3, 5)),
    "1-D": (*CONV1D, {"filters": 4, "kernel_size": 3, "strides": 2}, (2, 9, 3)),
    "1-D causal": (*CONV1D, {"filters": 4, "kernel_size": 3, "padding": "causal", "dilation_rate": 2}, (2, 9, 3)),
    "1-D causal first": (*CONV1D, {"filters": 4, "kernel_size": 3, "padding": "causal"} | FIRST, (2, 3, 9)),
    "2-D": (*CONV2D, {"filters": 4, "kernel_size": (3, 2), "strides": (1, 2)}, (2, 8, 9, 3)),
    "2-D same": (*CONV2D, {"filters": 4, "kernel_size": 3, "padding": "same", "dilation_rate": 2}, (2, 8, 9, 3)),
    "2-D groups": (*CONV2D, {"filters": 6, "kernel_size": 3, "groups": 3}, (2, 8, 9, 3)),
    "2-D first": (*CONV2D, {"filters": 4, "kernel_size": 3} | FIRST, (2, 3, 8, 9)),
    "3-D": (*CONV3D, {"filters": 4, "kernel_size": 3, "padding": "same"}, (2, 4, 5, 3, 2)),
}


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("scale_inside", [False, True])
@pytest.mark.parametrize("pair", PAIRS)
def test_is_the_plain_layer_with_its_direction_as_kernel(pair, scale_inside, use_bias):
    geometric, plain, arguments, shape = PAIRS[pair]
    layer = geometric(**arguments, use_bias=use_bias, activation="tanh", scale_inside=scale_inside)
    twin = plain(**arguments, use_bias=use_bias)
    layer.build(shape)
    twin.build(shape)
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype("float32")
    scale = rng.standard_normal(layer.scale.shape).astype("float32")
    layer.scale.assign(scale)
    twin.kernel.assign(layer.direction)
    if use_bias:
        radius = rng.standard_normal(layer.radius.shape).astype("float32")
        layer.radius.assign(radius)
        twin.bias.assign(radius)
    linear = numpy(twin(x))
    if arguments.get("data_format") == "channels_first":
        scale = scale.reshape((-1,) + (1,) * (len(shape) - 2))
    expected = np.tanh(linear * scale) if scale_inside else np.tanh(linear) * scale
    y = layer(x)
    np.testing.assert_allclose(numpy(y), expected, atol=1e-5)
    assert tuple(layer.compute_output_shape(shape)) == tuple(y.shape) == expected.shape


def test_a_scale_outside_or_inside_is_the_same_for_relu():
    x = np.random.default_rng(0).standard_normal((6, 5)).astype("float32")
    outside, inside = (
        GmPDense(4, "relu", scale_inside=where, kernel_initializer="he_normal") for where in (False, True)
    )
    outside.build(x.shape)
    inside.build(x.shape)
    inside.set_weights(outside.get_weights())
    np.testing.assert_allclose(numpy(outside(x)), numpy(inside(x)), atol=1e-6)


@pytest.mark.parametrize("pair", PAIRS)
def test_default_start(pair):
    geometric, _, arguments, shape = PAIRS[pair]
    layer = geometric(**arguments)
    layer.build(shape)
    fan_in = layer.angles.shape[0] + 1
    np.testing.assert_allclose(np.linalg.norm(numpy(layer.direction).reshape(fan_in, -1), axis=0), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(numpy(layer.radius), 0.0)
    np.testing.assert_array_equal(numpy(layer.scale), 1.0)


@pytest.mark.parametrize("seed", [3, "generator"])
@pytest.mark.parametrize("pair", PAIRS)
def test_start_from_a_kernel(pair, seed):
    geometric, _, arguments, shape = PAIRS[pair]

    def initializer():
        return keras.initializers.GlorotUniform(keras.random.SeedGenerator(3) if seed == "generator" else seed)

    layer = geometric(**arguments, kernel_initializer=initializer())
    layer.build(shape)
    kernel = numpy(initializer()(layer.direction.shape))
    np.testing.assert_allclose(numpy(layer.direction) * numpy(layer.scale), kernel, atol=1e-6)


@pytest.mark.parametrize("kernel_initializer", [None, "glorot_uniform"])
def test_fan_in_of_one(kernel_initializer):
    layer = GmPDense(1000, kernel_initializer=kernel_initializer)
    layer.build((2, 1))
    assert layer.angles is None
    signs = numpy(layer.direction)[0]
    assert set(signs) == {-1.0, 1.0}
    assert abs(signs.mean()) < 0.15  # five standard deviations of the mean of 1000 fair signs
    assert [weight.name for weight in layer.trainable_weights] == ["radius", "scale"]
    assert (numpy(layer.scale) > 0).all()


def test_fan_in_of_one_in_a_convolution():
    layer = GmPConv2D(4, 1, groups=2)
    layer.build((2, 3, 3, 2))
    assert layer.direction.shape == (1, 1, 1, 4)


def test_start_from_a_kernel_in_a_model_that_is_built_by_fit():
    # Keras first calls the initializers within a trace; the weights must not start from these values.
    model = keras.Sequential([GmPDense(3, kernel_initializer=keras.initializers.HeNormal(seed=1))])
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    model.fit(np.ones((4, 5)), np.ones((4, 3)), verbose=0)
    kernel = numpy(keras.initializers.HeNormal(seed=1)((5, 3)))
    np.testing.assert_allclose(numpy(model.layers[0].direction) * numpy(model.layers[0].scale), kernel, atol=1e-6)


def test_no_radius_without_bias():
    layer = GmPDense(3, use_bias=False)
    layer.build((2, 4))
    assert layer.radius is None
    assert [weight.name for weight in layer.weights] == ["angles", "scale"]


def test_each_weight_has_its_initializer_regularizer_and_constraint():
    layer = GmPDense(
        3,
        angles_initializer=keras.initializers.Constant(1.0),
        radius_initializer=keras.initializers.Constant(2.0),
        scale_initializer=keras.initializers.Constant(3.0),
        angles_regularizer=keras.regularizers.L1(1.0),
        radius_regularizer=keras.regularizers.L1(10.0),
        scale_regularizer=keras.regularizers.L1(100.0),
        angles_constraint=keras.constraints.MaxNorm(1),
        radius_constraint=keras.constraints.NonNeg(),
        scale_constraint=keras.constraints.UnitNorm(),
        activity_regularizer=keras.regularizers.L2(1.0),
    )
    layer(np.zeros((1, 3)))
    assert [numpy(weight).flat[0] for weight in layer.weights] == [1.0, 2.0, 3.0]
    weight_losses = sorted(float(numpy(loss)) for loss in layer.losses)
    np.testing.assert_allclose(weight_losses, [6.0, 60.0, 3 * 6.0**2, 900.0])
    constraints = [type(weight.constraint).__name__ for weight in layer.weights]
    assert constraints == ["MaxNorm", "NonNeg", "UnitNorm"]


@pytest.mark.parametrize("activation", ["relu", keras.ops.tanh, CRReLU(name="inner")])
def test_activation_by_name_function_or_layer(activation):
    layer = GmPDense(3, activation=activation)
    y = layer(np.ones((2, 4)))
    assert tuple(y.shape) == (2, 3)
    if isinstance(activation, keras.Layer):
        assert activation.built
        assert any(weight is activation.epsilon for weight in layer.trainable_weights)


def test_the_kernel_of_a_long_fan_in_survives_mixed_precision():
    layer = GmPDense(16, dtype="mixed_bfloat16")
    layer.build((1, 4608))
    assert layer.angles.dtype == "float32"
    captured = []
    layer.apply_kernel = lambda inputs, kernel: (
        captured.extend([kernel, layer.direction]) or keras.ops.matmul(inputs, kernel)
    )
    layer(np.ones((1, 4608), "float32"))  # within the autocast scope, where a weight could lose its precision
    kernel, direction = captured
    assert keras.backend.standardize_dtype(kernel.dtype) == "bfloat16"
    assert keras.backend.standardize_dtype(direction.dtype) == "float32"
    angles = numpy(layer.angles).astype("float64")
    one = np.ones((1, 16))
    reference = np.cumprod(np.concatenate([one, np.sin(angles)]), axis=0) * np.concatenate([np.cos(angles), one])
    np.testing.assert_allclose(numpy(direction), reference, atol=1e-5)


def test_direction_needs_a_built_layer():
    with pytest.raises(ValueError, match="before it is built"):
        _ = GmPDense(3).direction


def test_a_zero_kernel_has_no_direction():
    with pytest.raises(ValueError, match="zero columns"):
        GmPDense(3, kernel_initializer="zeros").build((2, 4))


@pytest.mark.parametrize("argument", ["angles_initializer", "scale_initializer"])
def test_two_starts_at_once(argument):
    with pytest.raises(ValueError, match="`kernel_initializer` determines the start"):
        GmPDense(3, kernel_initializer="glorot_uniform", **{argument: "ones"})


@pytest.mark.parametrize(
    ("units", "error"), [(0, ValueError), (-2, ValueError), (2.0, TypeError), ("3", TypeError), (True, TypeError)]
)
def test_bad_units(units, error):
    with pytest.raises(error, match=r"`units` must be .* Received: units="):
        GmPDense(units)
    with pytest.raises(error, match=r"`filters` must be .* Received: filters="):
        GmPConv2D(units, 3)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"kernel_size": 0}, ValueError),
        ({"kernel_size": (3, 3, 3)}, ValueError),
        ({"kernel_size": 2.5}, TypeError),
        ({"strides": (1, 0)}, ValueError),
        ({"dilation_rate": -1}, ValueError),
        ({"strides": 2, "dilation_rate": 2}, ValueError),
        ({"padding": "causal"}, ValueError),
        ({"padding": "full"}, ValueError),
        ({"data_format": "first"}, ValueError),
        ({"groups": 0}, ValueError),
        ({"groups": 3}, ValueError),
    ],
)
def test_bad_convolution_arguments(arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        GmPConv2D(**{"filters": 4, "kernel_size": 3} | arguments)


def test_groups_that_do_not_divide_the_channels():
    with pytest.raises(ValueError, match=r"`groups` must divide the number of input channels.* groups=2, input_shape"):
        GmPConv2D(4, 3, groups=2).build((1, 8, 8, 3))


@pytest.mark.parametrize("shape", [(2, 8, 3), (2, 8, 8, 8, 3), (2, 8, 8, None)])
def test_bad_convolution_input(shape):
    for method in ("build", "compute_output_shape"):
        with pytest.raises(ValueError, match="input_shape"):
            getattr(GmPConv2D(4, 3), method)(shape)


def test_bad_dense_input():
    with pytest.raises(ValueError, match=r"Received: input_shape=\(2, None\)"):
        GmPDense(4).build((2, None))


def test_global_data_format():
    keras.config.set_image_data_format("channels_first")
    assert GmPConv2D(4, 3).data_format == "channels_first"


@pytest.mark.parametrize("argument", ["use_bias", "scale_inside"])
def test_flags_are_flags(argument):
    with pytest.raises(TypeError, match=f"`{argument}` must be True or False"):
        GmPDense(3, **{argument: "glorot_uniform"})


def test_arguments_after_the_common_ones_are_keyword_only():
    with pytest.raises(TypeError, match="positional"):
        GmPDense(3, "relu", True, "glorot_uniform")


def test_arguments_that_keras_takes_too():
    layer = GmPConv2D(3, np.array([3, 3]), padding="SAME", radius_initializer=None)
    assert tuple(layer(np.ones((1, 4, 4, 2))).shape) == (1, 4, 4, 3)
    np.testing.assert_array_equal(numpy(layer.radius), 0.0)


def test_a_nested_layer_meets_any_rank():
    layer = GmPDense(5, activation=CRReLU(axis=-1))
    assert tuple(layer(np.ones((2, 4))).shape) == (2, 5)
    assert tuple(layer(np.ones((2, 3, 4))).shape) == (2, 3, 5)


def test_the_boundary_does_not_depend_on_the_scale():
    layer = GmPDense(2, "relu")
    layer.build((1, 2))
    layer.angles.assign([[np.pi / 3, 4.0]])
    layer.radius.assign([0.5, -0.25])
    location = -numpy(layer.radius) * numpy(ops.angles_to_direction(layer.angles))  # -lambda u
    for scale in (1.0, 100.0):
        layer.scale.assign([scale, scale])
        np.testing.assert_allclose(np.diag(numpy(layer(location.T))), 0.0, atol=1e-5)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("activation", "scale_inside"), [(None, False), ("relu", False), ("tanh", True)])
def test_kernel_and_bias_are_those_of_the_plain_layer(pair, activation, scale_inside):
    geometric, plain, arguments, shape = PAIRS[pair]
    layer, twin = geometric(**arguments, activation=activation, scale_inside=scale_inside), plain(**arguments)
    layer.build(shape)
    twin.build(shape)
    rng = np.random.default_rng(0)
    layer.scale.assign(rng.uniform(0.5, 2.0, layer.scale.shape))
    layer.radius.assign(rng.standard_normal(layer.radius.shape))
    twin.kernel.assign(layer.kernel)
    twin.bias.assign(layer.bias)
    twin.activation = keras.activations.get(activation)
    x = rng.standard_normal(shape).astype("float32")
    np.testing.assert_allclose(numpy(layer(x)), numpy(twin(x)), atol=1e-5)


def test_a_kernel_that_no_plain_layer_has():
    layer = GmPDense(3, activation="tanh", name="hidden")
    with pytest.raises(ValueError, match="before it is built"):
        _ = GmPDense(3).kernel
    layer.build((None, 4))
    for name in ("kernel", "bias"):
        with pytest.raises(ValueError, match=f"'hidden' has no `{name}`, because its scale multiplies .* scale_inside"):
            getattr(layer, name)
    assert GmPDense(3, use_bias=False).bias is None


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_parameters_are_float32_for_every_variable_dtype(dtype):
    layer = GmPDense(8, kernel_initializer="glorot_uniform", dtype=dtype)
    layer.build((None, 2048))
    assert {variable.dtype for variable in layer.weights} == {"float32"}
    assert keras.backend.standardize_dtype(layer(np.ones((1, 2048))).dtype) == dtype
    # The initial kernel, rounded once.
    layer = GmPDense(8, kernel_initializer=keras.initializers.GlorotUniform(seed=3), dtype=dtype)
    layer.build((None, 2048))
    kernel = numpy(keras.initializers.GlorotUniform(seed=3)((2048, 8)))
    found = numpy(keras.ops.cast(layer.kernel, "float32"))
    step = {"bfloat16": 2**-8, "float16": 2**-11}[dtype]
    np.testing.assert_allclose(found, kernel, rtol=1.1 * step, atol=1e-5 * np.abs(kernel).max())


def test_half_precision_files_of_older_versions(tmp_path, monkeypatch):
    """Files of 0.1 hold angles, radius and scale in the variable dtype."""
    model = keras.Sequential([keras.Input((6,)), GmPDense(4, activation="relu", dtype="bfloat16")])
    x = np.random.default_rng(0).standard_normal((3, 6)).astype("float32")
    old = [keras.Variable(weight, dtype="bfloat16") for weight in model.weights]

    def save(self, store):
        for index, variable in enumerate(old):
            store[str(index)] = variable

    with monkeypatch.context() as patch:
        patch.setattr(GmPDense, "save_own_variables", save)
        model.save_weights(tmp_path / "old.weights.h5")
    model.load_weights(tmp_path / "old.weights.h5")
    for weight, value in zip(model.weights, old, strict=True):
        assert weight.dtype == "float32"
        np.testing.assert_array_equal(numpy(weight), numpy(keras.ops.cast(value, "float32")))
    assert np.all(np.isfinite(numpy(keras.ops.cast(model(x), "float32"))))


@pytest.mark.parametrize("pair", PAIRS)
def test_an_empty_batch(pair):
    geometric, _, arguments, shape = PAIRS[pair]
    layer = geometric(**arguments, activation="relu")
    expected = layer(np.zeros(shape, "float32")).shape
    assert tuple(layer(np.zeros((0, *shape[1:]), "float32")).shape) == (0, *expected[1:])


@pytest.mark.one_backend
def test_fold_first():
    model = keras.Sequential([keras.Input((4,)), GmPDense(8, "relu"), keras.layers.Dense(2)])
    x = np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
    before = numpy(model(x))
    for call in (lambda layer: layer.quantize("int8"), lambda layer: layer.enable_lora(2)):
        with pytest.raises(ValueError, match=r"GmPDense computes .* Fold the model first"):
            call(model.layers[0])
    np.testing.assert_array_equal(numpy(model(x)), before)


@pytest.mark.parametrize(
    ("argument", "instead"),
    [("kernel_regularizer", "`scale_regularizer`"), ("bias_initializer", "`radius_initializer`")],
)
def test_arguments_of_plain_layers_name_the_right_one(argument, instead):
    with pytest.raises(
        ValueError, match=f"`{argument}` is no argument of GmPDense.*{instead}.*Received: {argument}='l2'"
    ):
        GmPDense(3, **{argument: "l2"})
