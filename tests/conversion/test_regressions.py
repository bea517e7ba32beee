"""Faults that were found and mended: models in which a conversion could go wrong without a word."""

import keras
import numpy as np
import pytest

import keras_actlab
from keras_actlab import layers
from keras_actlab.conversion import report, to_weight_normalization
from tests.backends import numpy

pytestmark = pytest.mark.one_backend


def data(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def randomized(model):
    rng = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(rng.standard_normal(weight.shape))
    return model


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow on CPU wants channels last")
@pytest.mark.parametrize(("axis", "shape"), [(1, (8, 6, 6)), (-1, (8, 8, 8))])
def test_fold_a_shift_before_a_convolution_with_channels_first(axis, shape):
    shift = layers.InputMeanNormalization(axis=axis)
    conv = keras.layers.Conv2D(4, 3, data_format="channels_first")
    model = randomized(keras.Sequential([keras.Input(shape), shift, conv]))
    folded = keras_actlab.fold(model)
    assert type(folded.layers[0]) is (keras.layers.Identity if axis == 1 else keras.layers.Rescaling)
    before = numpy(model(data(2, *shape)))
    np.testing.assert_allclose(numpy(folded(data(2, *shape))), before, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("convert", [keras_actlab.to_gmp, to_weight_normalization])
def test_fold_under_other_policies(convert, policy):
    model = keras.Sequential([keras.Input((8, 8, 2)), keras.layers.Conv2D(4, 3, activation="relu", dtype=policy)])
    folded = keras_actlab.fold(convert(model))
    x = data(2, 8, 8, 2)
    assert folded(x).dtype == model(x).dtype
    found, expected = (numpy(keras.ops.cast(one(x), "float32")) for one in (folded, model))
    np.testing.assert_allclose(found, expected, atol=2e-2 if policy == "mixed_bfloat16" else 4e-3)


class Unregistered(keras.Model):
    """With layers that get their names from Keras, and no decorator."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = keras.layers.Dense(4, activation="relu")
        self.second = keras.layers.Dense(2)

    def call(self, inputs):
        return self.second(self.first(inputs))


def test_chains_of_conversions_of_unregistered_classes():
    model = Unregistered()
    before = numpy(model(data(3, 5)))
    converted = keras_actlab.to_gmp(keras_actlab.swap_activations(model, "tmaf"))
    np.testing.assert_allclose(numpy(converted(data(3, 5))), before, atol=1e-6)
    folded = keras_actlab.fold(keras_actlab.to_gmp(model))
    assert type(folded) is Unregistered
    np.testing.assert_allclose(numpy(folded(data(3, 5))), before, atol=1e-6)


@pytest.mark.parametrize("convert", [keras_actlab.to_gmp, to_weight_normalization])
def test_folded_layers_can_be_quantized(convert):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="it")])
    folded = keras_actlab.fold(convert(model))
    before = numpy(folded(data(3, 8)))
    folded.get_layer("it").quantize("int8")
    assert folded.get_layer("it").quantization_mode == "int8"
    np.testing.assert_allclose(numpy(folded(data(3, 8))), before, atol=0.1)


class Twice(keras.Model):
    """A layer that is called in the graph of an inner model, and beside it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(3, name="dense")
        shift = layers.InputMeanNormalization(name="shift")
        self.inner = keras.Sequential([keras.Input((5,)), shift, self.dense], name="inner")

    def call(self, inputs):
        return self.dense(inputs) + self.inner(inputs)


def test_a_shift_does_not_move_into_a_layer_that_others_call():
    model = Twice()
    model(data(3, 5))
    randomized(model)
    np.testing.assert_allclose(numpy(keras_actlab.fold(model)(data(3, 5))), numpy(model(data(3, 5))), atol=1e-5)


class Two(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(4, name="dense")
        self.act = keras.layers.ReLU(name="act")

    def call(self, first, second):
        return self.act(self.dense(first) + self.dense(second))


def test_calls_with_several_arguments():
    model = Two()
    model(data(3, 5), data(3, 5))
    assert [row.layer for row in report(keras_actlab.swap_activations(model, "gelu")).changed] == ["act"]
    with pytest.raises(ValueError, match="the shape of its input is not known"):
        keras_actlab.swap_activations(model, "tmaf", where="act")


def test_an_activation_that_several_models_hold():
    act = keras.layers.ReLU(name="act")

    class Pair(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.one = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), act], name="one")
            self.two = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5), act], name="two")

        def call(self, inputs):
            return self.one(inputs), self.two(inputs)

    model = Pair()
    model(data(2, 3))
    with pytest.warns(UserWarning, match="Nothing was changed"):
        swapped = keras_actlab.swap_activations(model, "tmaf")
    assert [row.note for row in report(swapped).skipped] == ["2 calls share it"]
    swapped(data(2, 3))


@pytest.mark.parametrize("to", ["glu", keras.layers.Dense(7)])
def test_activations_keep_the_shape(to):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu")])
    with pytest.raises(ValueError, match="`to` must"):
        keras_actlab.swap_activations(model, to)


def test_heads_and_gates_past_what_passes_them_on():
    inputs = keras.Input((4, 4, 6))
    gate = keras.layers.Dense(6, "sigmoid", name="gate")(keras.layers.GlobalAveragePooling2D()(inputs))
    x = keras.layers.Multiply()([inputs, keras.layers.Reshape((1, 1, 6))(gate)])
    x = keras.layers.Dense(8, "sigmoid", name="hidden")(keras.layers.Flatten()(x))
    x = keras.layers.Dense(8, name="linear")(keras.layers.Dropout(0.1)(x))
    x = keras.layers.Reshape((2, 1))(keras.layers.Dense(2, "sigmoid", name="head")(x))
    done = report(keras_actlab.swap_activations(keras.Model(inputs, x), "crrelu"))
    assert [row.layer for row in done.changed] == ["hidden"]
    assert [row.layer for row in done.skipped] == ["gate", "head"]


def test_integers_before_a_shift():
    inputs = keras.Input((6, 2), dtype="int32")
    model = keras.Model(inputs, keras.layers.Conv1D(3, 2)(layers.InputMeanNormalization()(inputs)))
    x = np.arange(24).reshape(2, 6, 2)
    np.testing.assert_allclose(numpy(keras_actlab.fold(randomized(model))(x)), numpy(model(x)), rtol=1e-5)


@keras.saving.register_keras_serializable(package="tests.regressions")
class BuiltByItsCall(keras.layers.Layer):
    """Holds a layer and an activation, and has no `build`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(3, name="dense")
        self.act = keras.activations.gelu

    def call(self, x):
        return self.act(self.dense(x))


@keras.saving.register_keras_serializable(package="tests.regressions")
class Outer(keras.layers.Layer):
    """Holds such a layer, under the same name in each."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = BuiltByItsCall(name="inner")

    def call(self, x):
        return self.inner(x)


PATHS = {
    keras_actlab.to_gmp: ("inner/dense/angles", "inner/dense/radius", "inner/dense/scale"),
    lambda model: keras_actlab.swap_activations(model, "crrelu"): (
        "inner/dense/kernel",
        "inner/dense/bias",
        "inner_act/epsilon",
    ),
}


@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called on layer")  # Keras says so as it loads them
@pytest.mark.parametrize(("convert", "names"), PATHS.items(), ids=["to_gmp", "swap"])
def test_paths_of_layers_in_blocks_without_build(convert, names, tmp_path):
    """The layers of both blocks had one path once they were loaded, and PyTorch saw the parameters of one alone."""
    inputs = keras.Input((3,))
    model = keras.Model(inputs, Outer(name="second")(Outer(name="first")(inputs)))
    converted = convert(model)
    converted.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    paths = [variable.path for variable in loaded.variables]
    assert paths == [variable.path for variable in converted.variables]
    assert set(paths) == {f"{block}/{name}" for block in ("first", "second") for name in names}
    np.testing.assert_allclose(numpy(loaded(data(2, 3))), numpy(converted(data(2, 3))), atol=1e-6)


@keras.saving.register_keras_serializable(package="tests.regressions")
class Around(keras.Model):
    """Gets a part, which its config shows, and makes a part that is like what that part holds."""

    def __init__(self, part, **kwargs):
        super().__init__(**kwargs)
        self.part = part
        self.block = BuiltByItsCall(name="block")

    def call(self, x):
        return self.block(self.part(x))

    def get_config(self):
        return {"name": self.name, "part": keras.saving.serialize_keras_object(self.part)}

    @classmethod
    def from_config(cls, config):
        return cls(**config | {"part": keras.saving.deserialize_keras_object(config["part"])})


@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called on layer")
def test_a_layer_like_one_within_what_the_config_shows(tmp_path):
    """PARSeq's decoder has attention layers like those of its image encoder, and was loaded without its changes."""
    inputs = keras.Input((3,))
    model = Around(keras.Model(inputs, BuiltByItsCall(name="block")(inputs)))
    model(data(2, 3))
    converted = keras_actlab.to_gmp(model)
    converted.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.block.dense) is layers.GmPDense
    np.testing.assert_allclose(numpy(loaded(data(2, 3))), numpy(model(data(2, 3))), atol=1e-6)
