import keras
import numpy as np
import pytest

import keras_actlab
from keras_actlab import layers
from keras_actlab.conversion import report
from tests.backends import numpy, on_one_backend


def data(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def randomized(model):
    """`model` with negative scales, too, and moving means that are not 0."""
    for index, weight in enumerate(model.weights):
        weight.assign(data(*weight.shape, seed=index))
    return model


def check(model, x, classes):
    before = numpy(model(x))
    folded = keras_actlab.fold(model)
    assert [
        type(layer).__name__ for layer in folded.layers if not isinstance(layer, keras.layers.InputLayer)
    ] == classes
    np.testing.assert_allclose(numpy(folded(x)), before, rtol=0, atol=3e-6 * max(1, np.abs(before).max()))
    return folded


@pytest.mark.parametrize(
    ("activation", "scale_inside", "expected"),
    [
        (None, False, "function"),
        ("gelu", True, "function"),
        ("relu", True, "function"),
        ("relu", False, "Sequential"),
        ("tanh", False, "Sequential"),
    ],
)
def test_negative_scales(activation, scale_inside, expected):
    layer = layers.GmPDense(6, activation=activation, scale_inside=scale_inside)
    model = randomized(keras.Sequential([keras.Input((5,)), layer]))
    assert numpy(layer.scale).min() < 0 < numpy(layer.scale).max()
    folded = check(model, data(7, 5), ["Dense"])
    assert type(folded.layers[0].activation).__name__ == expected
    # Also once it is saved, and trained: what multiplies by the scale is frozen.
    folded.compile("sgd", "mse")
    folded.train_on_batch(data(7, 5), data(7, 6))
    assert "keras_actlab" not in str(keras.saving.serialize_keras_object(folded))


@pytest.mark.one_backend
def test_positive_scales_need_no_second_layer():
    layer = layers.GmPDense(6, activation="relu")
    model = randomized(keras.Sequential([keras.Input((5,)), layer]))
    layer.scale.assign(np.abs(numpy(layer.scale)))
    folded = check(model, data(7, 5), ["Dense"])
    assert folded.layers[0].activation is keras.activations.relu


@pytest.mark.one_backend
@pytest.mark.parametrize("layer_type", ["1D", "2D channels_first", "3D"])
def test_convolutions_with_negative_scales(layer_type):
    if "channels_first" in layer_type and keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow's convolutions on CPU want channels last")
    layer, shape = {
        "1D": (layers.GmPConv1D(4, 3, padding="causal", activation="relu"), (2, 9, 3)),
        "2D channels_first": (layers.GmPConv2D(4, 3, data_format="channels_first", activation="relu"), (2, 3, 8, 8)),
        "3D": (layers.GmPConv3D(4, 2, use_bias=False, activation="relu"), (2, 4, 4, 4, 2)),
    }[layer_type]
    check(
        randomized(keras.Sequential([keras.Input(shape[1:]), layer])),
        data(*shape),
        [type(layer).__name__.removeprefix("GmP")],
    )


@pytest.mark.one_backend
def test_masks_pass_a_folded_layer_with_negative_scales():
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, 4, mask_zero=True)(inputs)
    x = layers.GmPDense(5, activation="relu")(x)
    model = randomized(keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x)))
    x = np.array([[3, 4, 0, 0], [5, 6, 7, 0]])
    before = numpy(model(x))
    folded = keras_actlab.fold(model)
    assert type(folded.layers[-2]) is keras.layers.Dense
    np.testing.assert_allclose(numpy(folded(x)), before, atol=1e-5)


@pytest.mark.parametrize("shift", [layers.MeanOnlyBatchNormalization, *on_one_backend(layers.InputMeanNormalization)])
@pytest.mark.parametrize(
    ("follower", "shape", "folds"),
    [
        (lambda: layers.GmPDense(4, activation="relu"), (3, 5), True),
        (lambda: keras.layers.Conv2D(6, 3, groups=3), (3, 8, 8, 6), True),
        (lambda: keras.layers.Conv2D(4, 3, padding="same"), (3, 8, 8, 2), False),
        pytest.param(lambda: keras.layers.Dense(4, activation="relu"), (3, 5), True, marks=pytest.mark.one_backend),
        pytest.param(lambda: keras.layers.Dense(4, use_bias=False), (3, 6, 5), True, marks=pytest.mark.one_backend),
        pytest.param(
            lambda: layers.WeightNormalization(keras.layers.Dense(4)), (3, 5), True, marks=pytest.mark.one_backend
        ),
        pytest.param(
            lambda: keras.layers.Conv2D(4, 3, strides=2, use_bias=False),
            (3, 8, 8, 2),
            True,
            marks=pytest.mark.one_backend,
        ),
        pytest.param(
            lambda: keras.layers.Conv2D(4, 1, padding="same"), (3, 8, 8, 2), True, marks=pytest.mark.one_backend
        ),
        pytest.param(
            lambda: keras.layers.Conv1D(4, 2, padding="causal"), (3, 8, 2), False, marks=pytest.mark.one_backend
        ),
        pytest.param(lambda: keras.layers.DepthwiseConv2D(3), (3, 8, 8, 2), False, marks=pytest.mark.one_backend),
        pytest.param(lambda: keras.layers.ReLU(), (3, 5), False, marks=pytest.mark.one_backend),
    ],
)
def test_shifts(shift, follower, shape, folds):
    layer = follower()
    model = randomized(keras.Sequential([keras.Input(shape[1:]), shift(), layer]))
    before = numpy(model(data(*shape)))
    folded = keras_actlab.fold(model)
    assert type(folded.layers[0]) is (keras.layers.Identity if folds else keras.layers.Rescaling)
    np.testing.assert_allclose(numpy(folded(data(*shape))), before, atol=3e-6 * max(1, np.abs(before).max()))
    assert "keras_actlab" not in str(keras.saving.serialize_keras_object(folded))


@pytest.mark.one_backend
def test_shifts_with_channels_first():
    """The offset does not depend on Keras' global data format."""
    model = randomized(keras.Sequential([keras.Input((3, 4, 4)), layers.InputMeanNormalization(axis=1)]))
    x = data(2, 3, 4, 4)
    before = numpy(model(x))
    folded = check(model, x, ["Rescaling"])
    keras.config.set_image_data_format("channels_first")
    np.testing.assert_allclose(numpy(folded(x)), before, atol=1e-6)


@pytest.mark.one_backend
def test_shifts_that_others_see_stay():
    inputs = keras.Input((5,))
    shifted = layers.InputMeanNormalization()(inputs)
    x = keras.layers.Dense(4)(shifted)
    model = randomized(keras.Model(inputs, [x, shifted]))
    folded = keras_actlab.fold(model)
    assert type(folded.layers[1]) is keras.layers.Rescaling
    for found, expected in zip(folded(data(3, 5)), model(data(3, 5)), strict=True):
        np.testing.assert_allclose(numpy(found), numpy(expected), atol=1e-5)

    shared = keras.layers.Dense(5)
    x = shared(layers.InputMeanNormalization()(shared(inputs)))
    model = randomized(keras.Model(inputs, x))
    before = numpy(model(data(3, 5)))
    np.testing.assert_allclose(
        numpy(keras_actlab.fold(model)(data(3, 5))), before, atol=3e-6 * max(1, np.abs(before).max())
    )


@pytest.mark.one_backend
def test_shifts_into_two_layers():
    inputs = keras.Input((5,))
    shifted = layers.InputMeanNormalization()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(4)(shifted) + layers.GmPDense(4, activation="relu")(shifted))
    model = randomized(model)
    before = numpy(model(data(3, 5)))
    folded = keras_actlab.fold(model)
    assert type(folded.layers[1]) is keras.layers.Identity
    np.testing.assert_allclose(numpy(folded(data(3, 5))), before, atol=3e-6 * max(1, np.abs(before).max()))


@pytest.mark.one_backend
def test_what_has_no_plain_counterpart_stays():
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.GmPDense(4, activation=layers.CRReLU(), name="gmp"),
            layers.TMAF(name="tmaf"),
            layers.GmPDense(2, name="out"),
        ]
    )
    folded = check(randomized(model), data(3, 5), ["Dense", "TMAF", "Dense"])
    done = report(folded)
    assert [row.layer for row in done.changed] == ["gmp", "out"]
    assert {row.note for row in done.skipped} == {"it has no plain counterpart"}
    assert [row.before for row in done.skipped] == ["CRReLU", "TMAF"]


@pytest.mark.one_backend
def test_a_model_with_nothing_to_fold():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
    check(model, data(3, 5), ["Dense"])
    assert report(keras_actlab.fold(model)).rows == ()
