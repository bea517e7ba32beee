"""Geometric layers with other kernels than Dense and Conv."""

import itertools

import keras
import numpy as np
import pytest

import keras_actlab
from keras_actlab import layers
from keras_actlab.conversion import report
from tests.backends import numpy, on_one_backend

kinds = keras.layers
FIRST = {"data_format": "channels_first"}
# A geometric layer, its arguments, an input shape, and the unit axes of its kernel.
LAYERS = {
    "Conv1DTranspose": (layers.GmPConv1DTranspose, {"filters": 4, "kernel_size": 3, "strides": 2}, (2, 5, 3), (1,)),
    "Conv2DTranspose": (
        layers.GmPConv2DTranspose,
        {"filters": 4, "kernel_size": (3, 2), "strides": 2, "output_padding": (1, 0)},
        (2, 4, 5, 3),
        (2,),
    ),
    "Conv2DTranspose first": (
        layers.GmPConv2DTranspose,
        {"filters": 4, "kernel_size": 2, "dilation_rate": 2} | FIRST,
        (2, 3, 4, 5),
        (2,),
    ),
    "Conv3DTranspose": (layers.GmPConv3DTranspose, {"filters": 3, "kernel_size": 2}, (2, 3, 3, 2, 2), (3,)),
    "DepthwiseConv1D": (
        layers.GmPDepthwiseConv1D,
        {"kernel_size": 3, "depth_multiplier": 2, "padding": "same"},
        (2, 6, 4),
        (1, 2),
    ),
    "DepthwiseConv2D": (
        layers.GmPDepthwiseConv2D,
        {"kernel_size": (2, 3), "depth_multiplier": 3, "strides": 2},
        (2, 6, 7, 4),
        (2, 3),
    ),
    "DepthwiseConv2D first": (layers.GmPDepthwiseConv2D, {"kernel_size": 3} | FIRST, (2, 3, 5, 5), (2, 3)),
    "heads": (
        layers.GmPEinsumDense,
        {"equation": "abc,cde->abde", "output_shape": (None, 2, 3), "bias_axes": "de"},
        (2, 4, 5),
        (1, 2),
    ),
    "heads swapped": (
        layers.GmPEinsumDense,
        {"equation": "abc,cde->aebd", "output_shape": (3, None, 2), "bias_axes": "de"},
        (2, 4, 5),
        (1, 2),
    ),
    "of heads": (
        layers.GmPEinsumDense,
        {"equation": "abcd,cde->abe", "output_shape": (None, 6), "bias_axes": "e"},
        (2, 4, 2, 3),
        (2,),
    ),
    "units first": (
        layers.GmPEinsumDense,
        {"equation": "...de,fde->...f", "output_shape": 6, "bias_axes": "f"},
        (2, 7, 4, 5),
        (0,),
    ),
    "right": (
        layers.GmPEinsumDense,
        {"equation": "ab...,bc->ac...", "output_shape": 6, "bias_axes": "c"},
        (2, 4, 5, 3),
        (1,),
    ),
    "groups": (
        layers.GmPEinsumDense,
        {"equation": "abc,bcd->abd", "output_shape": (4, 6), "bias_axes": "d", "scale_inside": True},
        (2, 4, 5),
        (0, 2),
    ),
    "groups, bias of another axis": (
        layers.GmPEinsumDense,
        {"equation": "abc,cd->abd", "output_shape": (4, 6), "bias_axes": "b", "scale_inside": True},
        (2, 4, 5),
        (1,),
    ),
    "products": (layers.GmPEinsumDense, {"equation": "ab,b->ab", "output_shape": 5, "bias_axes": "b"}, (2, 5), (0,)),
}
# One of each kind; the others differ in the meaning of the axes only.
ON_EACH_BACKEND = ("Conv2DTranspose", "Conv2DTranspose first", "DepthwiseConv1D", "heads swapped", "groups", "products")
each_layer = pytest.mark.parametrize(
    "name", [*ON_EACH_BACKEND, *on_one_backend(*(name for name in LAYERS if name not in ON_EACH_BACKEND))]
)


def data(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def columns(layer):
    """Returns the unit vectors of a layer by the formula, (fan_in, units)."""
    if layer.angles is None:
        return numpy(layer.sign)[None]
    angles = numpy(layer.angles).astype("float64")
    one = np.ones((1, angles.shape[1]))
    return np.cumprod(np.concatenate([one, np.sin(angles)]), axis=0) * np.concatenate([np.cos(angles), one])


def kernel_of(columns, shape, unit_axes):
    """Returns each column at the index of its unit."""
    kernel = np.full(shape, np.nan)
    for column, unit in zip(columns.T, itertools.product(*(range(shape[axis]) for axis in unit_axes)), strict=True):
        place = [slice(None)] * len(shape)
        for axis, index in zip(unit_axes, unit, strict=True):
            place[axis] = index
        kernel[tuple(place)] = column.reshape(kernel[tuple(place)].shape)
    return kernel


def randomized(layer):
    for seed, weight in enumerate(layer.trainable_weights):
        weight.assign(data(*weight.shape, seed=seed))
    return layer


def skip_where_keras_does(name):
    if keras.backend.backend() == "tensorflow" and "first" in name and "units" not in name:
        pytest.skip("TensorFlow's convolutions on CPU want channels last")


@each_layer
@pytest.mark.parametrize("activation", ["tanh", *on_one_backend(None)])
def test_is_the_plain_layer_with_its_kernel_and_bias(name, activation):
    skip_where_keras_does(name)
    geometric, arguments, shape, unit_axes = LAYERS[name]
    layer = geometric(**arguments | {"scale_inside": True}, activation=activation)
    layer.build(shape)
    randomized(layer)
    plain = layer.plain(
        **{key: value for key, value in arguments.items() if key != "scale_inside"}, activation=activation
    )
    plain.build(shape)
    kernel = kernel_of(columns(layer) * numpy(layer.scale), plain.kernel.shape, unit_axes)
    np.testing.assert_allclose(numpy(layer.kernel), kernel, atol=1e-5)
    plain.kernel.assign(kernel)
    assert tuple(layer.bias.shape) == tuple(plain.bias.shape)
    plain.bias.assign(layer.bias)
    assert not np.allclose(numpy(layer.bias), 0.0)
    x = data(*shape, seed=9)
    y = layer(x)
    np.testing.assert_allclose(numpy(y), numpy(plain(x)), atol=2e-5)
    assert tuple(layer.compute_output_shape(shape)) == tuple(y.shape)
    assert layer.count_params() == plain.count_params() + (0 if layer.sign is None else len(numpy(layer.sign)))
    empty = layer(np.zeros((0, *shape[1:]), "float32"))
    assert tuple(empty.shape) == (0, *y.shape[1:])


@each_layer
def test_the_scale_outside(name):
    """The radius and the scale of a unit act on the outputs of that unit."""
    skip_where_keras_does(name)
    geometric, arguments, shape, _ = LAYERS[name]
    if "groups" in name:
        with pytest.raises(ValueError, match="`bias_axes` must be those of the units"):
            geometric(**arguments | {"scale_inside": False})
        return
    outside = geometric(**arguments | {"activation": "relu"})
    inside = geometric(**arguments | {"activation": "relu", "scale_inside": True})
    for layer in (outside, inside):
        layer.build(shape)
        randomized(layer)
        layer.scale.assign(np.abs(numpy(layer.scale)))
    if outside.sign is not None:
        inside.sign.assign(outside.sign)
    x = data(*shape)
    np.testing.assert_allclose(numpy(outside(x)), numpy(inside(x)), atol=2e-5)


@pytest.mark.one_backend
@each_layer
@pytest.mark.parametrize("activation", ["relu", *on_one_backend(None, "gelu")])
def test_conversion_and_fold(name, activation):
    skip_where_keras_does(name)
    geometric, arguments, shape, _ = LAYERS[name]
    arguments = {key: value for key, value in arguments.items() if key != "scale_inside"}
    plain = geometric.plain(**arguments, activation=activation, name="it")
    model = keras.Sequential([keras.Input(shape[1:]), plain])
    for seed, weight in enumerate(model.weights):
        weight.assign(0.5 * data(*weight.shape, seed=seed))
    x = data(*shape, seed=9)
    before = numpy(model(x))
    converted = keras_actlab.to_gmp(model)
    (new,) = converted.layers
    assert type(new) is geometric
    np.testing.assert_allclose(numpy(converted(x)), before, atol=3e-6 * max(1, np.abs(before).max()))
    if new.sign is None:
        assert converted.count_params() == model.count_params()
    folded = keras_actlab.fold(converted)
    assert type(folded.layers[0]) is type(plain)
    assert folded.layers[0].get_config()["name"] == "it"
    np.testing.assert_allclose(numpy(folded(x)), before, atol=3e-6 * max(1, np.abs(before).max()))
    np.testing.assert_allclose(numpy(folded.layers[0].kernel), numpy(plain.kernel), atol=1e-5)
    assert "keras_actlab" not in str(keras.saving.serialize_keras_object(folded))


SEPARABLE = {
    "1D": (layers.GmPSeparableConv1D, {"filters": 4, "kernel_size": 3, "depth_multiplier": 2}, (2, 7, 3)),
    "2D": (
        layers.GmPSeparableConv2D,
        {"filters": 4, "kernel_size": (3, 2), "strides": 2, "padding": "same"},
        (2, 7, 6, 3),
    ),
    "2D first": (layers.GmPSeparableConv2D, {"filters": 4, "kernel_size": 3} | FIRST, (2, 3, 6, 6)),
}


@pytest.mark.parametrize("activation", ["relu", *on_one_backend(None, "gelu")])
@pytest.mark.parametrize("name", ["2D", *on_one_backend("1D", "2D first")])
def test_separable_convolutions(name, activation):
    skip_where_keras_does(name)
    geometric, arguments, shape = SEPARABLE[name]
    plain = geometric.plain(**arguments, activation=activation, name="it")
    model = keras.Sequential([keras.Input(shape[1:]), plain])
    for seed, weight in enumerate(model.weights):
        weight.assign(0.5 * data(*weight.shape, seed=seed))
    x = data(*shape, seed=9)
    before = numpy(model(x))
    converted = keras_actlab.to_gmp(model)
    (new,) = converted.layers
    assert type(new) is geometric
    np.testing.assert_allclose(numpy(converted(x)), before, atol=3e-6 * max(1, np.abs(before).max()))
    assert converted.count_params() == model.count_params()
    assert tuple(new.compute_output_shape(shape)) == before.shape
    assert tuple(new(np.zeros((0, *shape[1:]), "float32")).shape) == (0, *before.shape[1:])
    folded = keras_actlab.fold(converted)
    assert type(folded.layers[0]) is type(plain)
    np.testing.assert_allclose(numpy(folded(x)), before, atol=3e-6 * max(1, np.abs(before).max()))
    for found, expected in zip(folded.layers[0].weights, plain.weights, strict=True):
        np.testing.assert_allclose(numpy(found), numpy(expected), atol=1e-5)


@pytest.mark.one_backend
@pytest.mark.parametrize("attention", ["multi-head", *on_one_backend("grouped")])
def test_attention_is_converted_within(attention):
    layer = (
        kinds.MultiHeadAttention(2, 3, name="attention")
        if attention == "multi-head"
        else kinds.GroupQueryAttention(3, 4, 2, name="attention")
    )
    inputs = keras.Input((5, 6))
    model = keras.Model(inputs, layer(inputs, inputs))
    for seed, weight in enumerate(model.weights):
        weight.assign(0.5 * data(*weight.shape, seed=seed))
    x = data(2, 5, 6)
    before = numpy(model(x))
    converted = keras_actlab.to_gmp(model)
    assert [row.after for row in report(converted).changed] == ["GmPEinsumDense"] * 4
    np.testing.assert_allclose(numpy(converted(x)), before, atol=1e-5)
    converted.compile(keras.optimizers.SGD(0.1), "mse")
    converted.train_on_batch(x, before)
    folded = keras_actlab.fold(converted)
    assert "keras_actlab" not in str(keras.saving.serialize_keras_object(folded))


@pytest.mark.parametrize(
    ("equation", "message"),
    [("abc->ab", "`equation` must be of the form"), (3, "`equation` must be of the form")],
)
def test_bad_equations(equation, message):
    with pytest.raises(ValueError, match=message):
        layers.GmPEinsumDense(equation, 3)


def test_bad_einsum_arguments():
    with pytest.raises(ValueError, match=r"`bias_axes` must name axes of the output. Received: bias_axes='z'"):
        layers.GmPEinsumDense("ab,bc->ac", 3, bias_axes="z")
    with pytest.raises(ValueError, match=r"must have the axes that `equation` names.* input_shape=\(2, 3, 4\)"):
        layers.GmPEinsumDense("ab,bc->ac", 3).build((2, 3, 4))
    with pytest.raises(ValueError, match=r"must give the lengths of all axes .* none for \['b'\]"):
        layers.GmPEinsumDense("ab,bc->ac", 3).build((2, None))


def test_bad_output_padding():
    with pytest.raises(ValueError, match=r"`output_padding` must be .* Received: output_padding=2, strides=\(2,\)"):
        layers.GmPConv1DTranspose(3, 3, strides=2, output_padding=2)
