"""Layers that neither Keras nor this package defines, which answer for themselves: see docs/extending.md."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_actlab
from keras_actlab import layers
from keras_actlab.cab.affine import AffineUnits, breakpoints
from keras_actlab.cab.regions import activation_patterns
from keras_actlab.conversion import SkipLayer, report
from tests.backends import numpy


@keras.saving.register_keras_serializable(package="tests")
class Kink(keras.layers.Layer):
    """`y = max(slope * x, x)` with a trained slope, by means of an activation function of Keras."""

    is_activation = True

    def build(self, input_shape):
        self.slope = self.add_weight(name="slope", shape=(1,), initializer=keras.initializers.Constant(0.5))

    def call(self, inputs):
        return self.slope * inputs + (1 - self.slope) * keras.activations.relu(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape

    def breakpoints(self, read):
        return 0 * read(self.slope)

    def fold(self):
        return keras.layers.LeakyReLU(float(numpy(self.slope)[0]), name=self.name, dtype=self.dtype_policy)


class Smooth(keras.layers.Layer):
    is_activation = True

    def call(self, inputs):
        return ops.tanh(inputs)


class Block(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.activation_layer = keras.layers.Dense(4, name="dense"), Kink(name="kink")

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.activation_layer.build((*input_shape[:-1], 4))

    def call(self, inputs):
        return self.activation_layer(self.dense(inputs))


class OwnDense(keras.layers.Dense):
    counterpart = layers.GmPDense


class OwnSeparable(keras.layers.SeparableConv1D):
    def counterpart(self, **arguments):
        return layers.GmPSeparableConv1D(**arguments)


class Unsure(keras.layers.Dense):
    def counterpart(self, **arguments):
        raise SkipLayer("its kernel has a meaning")


class Renamed(layers.GmPDense):
    """Computes what GmPDense does."""

    def __init__(self, units=4, **kwargs):
        super().__init__(units, **kwargs)


class Doubled(layers.GmPDense):
    def call(self, inputs):
        return 2 * super().call(inputs)


class Answering(Doubled):
    def fold(self):
        plain = keras.layers.Dense(self.units, self.activation, name=self.name)
        plain.build(self.get_build_config()["input_shape"])
        plain.set_weights([2 * numpy(self.kernel), 2 * numpy(self.bias)])
        return plain


def data(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def sequential(*inner, shape=(3,)):
    model = keras.Sequential([keras.Input(shape), *inner])
    for index, weight in enumerate(model.weights):
        weight.assign(np.random.default_rng(index).standard_normal(weight.shape) + 0.1)
    return model


def test_an_activation_in_a_model_is_replaced():
    model = sequential(keras.layers.Dense(4), Kink(name="own"), keras.layers.Dense(2, Kink(name="held"), name="last"))
    swapped = keras_actlab.swap_activations(model, "relu")
    assert [(row.layer, row.before, row.after) for row in report(swapped).changed] == [
        ("own", "Kink", "Activation (relu)"),
        ("last", "Dense (Kink)", "Dense (relu)"),
    ]
    x = data(5, 3)
    hidden = np.maximum(numpy(model.layers[0](x)), 0)
    dense = model.layers[2]
    np.testing.assert_allclose(
        numpy(swapped(x)), np.maximum(hidden @ numpy(dense.kernel) + numpy(dense.bias), 0), atol=1e-5
    )


@pytest.mark.one_backend
def test_an_activation_in_a_block_is_replaced():
    model = keras.Sequential([keras.Input((3,)), Block(name="block")])
    swapped = keras_actlab.swap_activations(model, layers.CRReLU, was=Kink)
    (row,) = report(swapped).changed
    assert (row.layer, row.before, row.after) == ("block/kink", "Kink", "CRReLU")


@pytest.mark.one_backend
def test_what_is_no_activation_is_not_replaced():
    class Plain(Kink):
        is_activation = False

    model = sequential(keras.layers.Dense(4, name="dense"), Plain(name="plain"))
    with pytest.warns(UserWarning, match="Nothing was changed"):
        swapped = keras_actlab.swap_activations(model, "tanh")
    assert type(swapped.layers[1]) is Plain


@pytest.mark.one_backend
def test_activations_fold_as_they_say_or_are_listed():
    model = sequential(keras.layers.Dense(4), Kink(name="own"), Smooth(name="smooth"))
    folded = keras_actlab.fold(model)
    assert [type(layer).__name__ for layer in folded.layers] == ["Dense", "LeakyReLU", "Smooth"]
    np.testing.assert_allclose(numpy(folded(data(5, 3))), numpy(model(data(5, 3))), atol=1e-6)
    assert [(row.layer, row.after, row.note) for row in report(folded).rows] == [
        ("own", "LeakyReLU", ""),
        ("smooth", None, "it has no plain counterpart"),
    ]


@pytest.mark.one_backend
def test_breakpoints_of_an_activation():
    assert breakpoints(Smooth()) is None
    kink = Kink()
    model = sequential(keras.layers.Dense(4), kink)
    assert breakpoints(kink) == (0.0,)
    units = AffineUnits((model.layers[0], kink))
    assert [variable.name for variable in units.variables] == ["kernel", "bias", "slope"]
    x = data(20, 3)
    np.testing.assert_array_equal(activation_patterns(model, x), numpy(model.layers[0](x)) > 0)


def test_subclasses_of_keras_layers_name_their_counterpart():
    model = sequential(
        keras.layers.Reshape((6, 2)),
        OwnSeparable(4, 2, name="method"),
        OwnDense(3, activation="relu", name="attribute"),
        Unsure(2, name="unsure"),
        shape=(12,),
    )
    converted = keras_actlab.to_gmp(model)
    assert [type(layer).__name__ for layer in converted.layers[1:]] == ["GmPSeparableConv1D", "GmPDense", "Unsure"]
    assert [(row.layer, row.note) for row in report(converted).skipped] == [("unsure", "its kernel has a meaning")]
    np.testing.assert_allclose(numpy(converted(data(5, 12))), numpy(model(data(5, 12))), rtol=1e-5, atol=1e-4)


@pytest.mark.one_backend
@pytest.mark.parametrize("kind", [keras.layers.Dense, keras.layers.Conv1D, keras.layers.EinsumDense])
def test_subclasses_of_keras_layers_without_a_counterpart_are_skipped(kind):
    own = type("Own", (kind,), {})
    arguments = {"Dense": (4,), "Conv1D": (4, 2), "EinsumDense": ("abc,cd->abd", (6, 4))}[kind.__name__]
    model = keras.Sequential([keras.Input((6, 3)), own(*arguments, name="own"), keras.layers.Dense(1)])
    converted = keras_actlab.to_gmp(model)
    (row,) = report(converted).skipped
    assert row.layer == "own"
    assert f"Own is a subclass of {kind.__name__}" in row.note
    with pytest.raises(ValueError, match="names no `counterpart`"):
        keras_actlab.to_gmp(model, "own")


@pytest.mark.one_backend
def test_a_counterpart_that_is_not_geometric_is_an_error():
    own = type("Own", (keras.layers.Dense,), {"counterpart": lambda self, **arguments: keras.layers.Dense(2)})
    with pytest.raises(TypeError, match="`counterpart` must be a geometric layer"):
        keras_actlab.to_gmp(sequential(own(2)))


def test_subclasses_of_geometric_layers_fold_or_are_listed():
    model = sequential(Renamed(activation="relu"), Doubled(5, name="doubled"), Answering(2))
    folded = keras_actlab.fold(model)
    assert [type(layer).__name__ for layer in folded.layers] == ["Dense", "Doubled", "Dense"]
    (row,) = report(folded).skipped
    assert row.layer == "doubled"
    assert "Doubled overrides `call`" in row.note
    before = numpy(model(data(5, 3)))
    np.testing.assert_allclose(numpy(folded(data(5, 3))), before, atol=1e-5 * np.abs(before).max())


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "make",
    [
        lambda cls: cls(keras.layers.Dense(2), name="own"),
        lambda cls: cls(name="own"),
        lambda cls: cls(2, 3, name="own"),
    ],
    ids=["WeightNormalization", "MeanOnlyBatchNormalization", "GmPSeparableConv1D"],
)
def test_subclasses_of_other_layers_that_override_call_are_listed(make, request):
    base = getattr(layers, request.node.callspec.id)
    own = type("Own", (base,), {"call": lambda self, inputs: 2 * base.call(self, inputs)})
    (row,) = report(keras_actlab.fold(sequential(make(own), shape=(4, 3)))).skipped
    assert "Own overrides `call`" in row.note


@pytest.mark.one_backend
def test_a_fold_that_returns_no_layer_is_an_error():
    own = type("Own", (Smooth,), {"fold": lambda self: keras.activations.tanh})
    with pytest.raises(TypeError, match="`fold` must return a layer"):
        keras_actlab.fold(sequential(own(name="own")))


@pytest.mark.one_backend
def test_layers_within_one_that_was_folded_as_a_whole_are_not_in_the_report():
    model = sequential(layers.GmPSeparableConv1D(4, 2, name="separable"), shape=(8, 3))
    folded = keras_actlab.fold(model)
    assert [(row.layer, row.after) for row in report(folded).rows] == [("separable", "SeparableConv1D")]
