import gc
import weakref

import keras
import numpy as np
import pytest

import keras_actlab
from keras_actlab.conversion import report, rewriting
from tests.backends import numpy

pytestmark = pytest.mark.one_backend


@keras.saving.register_keras_serializable(package="tests")
class Block(keras.layers.Layer):
    """A composite layer that makes its own layers, some of them without a name."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.first = keras.layers.Dense(self.units, activation="relu", name="first")
        self.first.build(input_shape)
        self.act = keras.layers.ReLU()
        self.rest = [keras.layers.Dense(self.units), keras.layers.Dense(input_shape[-1])]
        self.rest[0].build((*input_shape[:-1], self.units))
        self.rest[1].build((*input_shape[:-1], self.units))

    def call(self, inputs):
        return inputs + self.rest[1](self.act(self.rest[0](self.first(inputs))))

    def get_config(self):
        return super().get_config() | {"units": self.units}


def blocks():
    inputs = keras.Input((5,))
    x = Block(3, name="block1")(inputs)
    x = Block(4, name="block2")(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(x), name="net")


def names(model):
    return [row.layer for row in report(model).changed]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("head", ["head"]),
        ("block1/*", ["block1/first", "block1/dense", "block1/dense_1"]),
        ("*/first", ["block1/first", "block2/first"]),
        ("first", ["block1/first", "block2/first"]),
        (["block2/first", "head"], ["block2/first", "head"]),
        (lambda layer: getattr(layer, "units", 0) == 2, ["head"]),
    ],
)
def test_where(where, expected):
    keras.backend.clear_session()
    assert names(keras_actlab.to_gmp(blocks(), where)) == expected


def test_where_by_class():
    converted = keras_actlab.to_gmp(blocks(), keras.layers.Dense)
    assert len(names(converted)) == 7
    assert not report(converted).skipped


def test_a_predicate_sees_the_layers_of_the_original():
    model = blocks()
    head = model.get_layer("head")
    assert names(keras_actlab.to_gmp(model, lambda layer: layer is head)) == ["head"]


def test_where_must_match():
    with pytest.raises(ValueError, match=r"(?s)'haed' matches none of: .*block1/first \(Dense\).*head \(Dense\)"):
        keras_actlab.to_gmp(blocks(), ["head", "haed"])
    with pytest.raises(ValueError, match="must not be empty"):
        keras_actlab.to_gmp(blocks(), [])


def test_where_must_match_what_can_be_converted():
    with pytest.raises(ValueError, match=r"'block1' selects only layers that are skipped: block1 \(Block\)"):
        keras_actlab.to_gmp(blocks(), ["head", "block1"])
    with pytest.raises(ValueError, match="ReLU has no geometric counterpart"):
        keras_actlab.to_gmp(blocks(), keras.layers.ReLU)


@pytest.mark.parametrize("where", [3, [3], int, [None]])
def test_where_must_be_something_that_selects(where):
    with pytest.raises(TypeError, match="`where` must"):
        keras_actlab.to_gmp(blocks(), where)


@pytest.mark.parametrize("convert", [keras_actlab.to_gmp, keras_actlab.fold])
def test_the_model(convert):
    with pytest.raises(TypeError, match=r"`model` must be a keras\.Model\. Received: model=<Dense"):
        convert(keras.layers.Dense(3))
    with pytest.raises(ValueError, match="`model` must be built"):
        convert(keras.Sequential([keras.layers.Dense(3)]))


def test_a_model_that_keras_cannot_save():
    class Net(keras.Model):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def call(self, inputs):
            return self.layer(inputs)

        def get_config(self):
            raise NotImplementedError("no config")

    model = Net(keras.layers.Dense(2, name="dense"))
    x = np.random.default_rng(0).standard_normal((4, 3)).astype("float32")
    before = numpy(model(x))
    converted = keras_actlab.to_gmp(model)
    assert names(converted) == ["dense"]
    np.testing.assert_allclose(numpy(converted(x)), before, atol=1e-6)


def test_classes_and_functions_need_not_be_registered():
    def doubled(x):
        return 2.0 * keras.ops.relu(x)

    class Twice(keras.layers.Layer):
        def call(self, inputs):
            return 2.0 * inputs

    model = keras.Sequential([keras.Input((3,)), Twice(), keras.layers.Dense(4, activation=doubled)])
    x = np.random.default_rng(0).standard_normal((5, 3))
    np.testing.assert_allclose(numpy(keras_actlab.to_gmp(model)(x)), numpy(model(x)), atol=1e-6)


def test_lambda_layers_are_copied():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x * 2.0), keras.layers.Dense(4)])
    x = np.random.default_rng(0).standard_normal((5, 3))
    np.testing.assert_allclose(numpy(keras_actlab.to_gmp(model)(x)), numpy(model(x)), atol=1e-6)


def test_state_that_is_no_weight_is_copied():
    lookup = keras.layers.Normalization()
    lookup.adapt(np.random.default_rng(0).normal(3.0, 2.0, (100, 3)))
    model = keras.Sequential([keras.Input((3,)), lookup, keras.layers.Dense(4)])
    x = np.random.default_rng(0).standard_normal((5, 3)).astype("float32")
    np.testing.assert_allclose(numpy(keras_actlab.to_gmp(model)(x)), numpy(model(x)), atol=1e-5)


def test_the_original_and_the_result_share_nothing():
    model = blocks()
    x = np.random.default_rng(0).standard_normal((4, 5)).astype("float32")
    before = numpy(model(x))
    converted = keras_actlab.to_gmp(model)
    converted.compile("sgd", "mse")
    converted.fit(x, np.ones((4, 2)), verbose=0)
    np.testing.assert_array_equal(numpy(model(x)), before)
    assert type(model.get_layer("block1")) is Block
    assert not {id(layer) for layer in model._flatten_layers()} & {id(layer) for layer in converted._flatten_layers()}


def test_the_report():
    model = blocks()
    converted = keras_actlab.swap_activations(model, "tmaf", where="block1/*")
    rows = {row.layer.rpartition("/")[2]: row for row in report(converted).rows}
    first = rows["first"]
    assert (first.before, first.after) == ("Dense (relu)", "Dense (TMAF)")
    assert (first.parameters_before, first.parameters_after) == (18, 18 + 3 * 4 * 3)
    text = str(report(converted))
    assert "Dense (relu)   Dense (TMAF)" in text
    assert f"{model.count_params():,} -> {converted.count_params():,}" in text
    with pytest.raises(ValueError, match="must be what a conversion returned"):
        report(model)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the others keep nothing for gradients unless asked to")
def test_a_conversion_keeps_nothing_for_gradients():
    """What PyTorch kept took seven times the size of BERT."""
    import torch

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu")])
    enabled = []
    swapped = keras_actlab.swap_activations(model, lambda layer: enabled.append(torch.is_grad_enabled()) or "crrelu")
    assert enabled == [False]
    assert torch.is_grad_enabled()
    assert all(parameter.requires_grad for parameter in swapped.parameters())


@pytest.mark.parametrize("convert", [keras_actlab.to_gmp, keras_actlab.fold])
def test_replaced_weights_are_freed_at_once(convert, monkeypatch):
    # Without the garbage collector, which would come too late for a model that fills half of the memory.
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    if convert is keras_actlab.fold:
        model = keras_actlab.to_gmp(model)
    copied_weights = []
    duplicate = rewriting.duplicate

    def spied(model):
        copied, copies = duplicate(model)
        copied_weights.extend(weakref.ref(variable) for variable in copied.variables)
        return copied, copies

    monkeypatch.setattr(rewriting, "duplicate", spied)
    gc.collect()
    gc.disable()
    try:
        convert(model)
        assert copied_weights
        assert all(weight() is None for weight in copied_weights)
    finally:
        gc.enable()
