import keras
import numpy as np
import pytest

import keras_actlab
from keras_actlab.conversion import probe, report, rewriting
from tests.backends import numpy

X = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")


def dense():
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, "gelu", name="one"), keras.layers.Dense(2, name="two")]
    )


@pytest.mark.one_backend
def test_a_copy_with_other_outputs(monkeypatch):
    def copy_of(model):
        copied, copies = duplicate(model)
        copied.layers[1].activation = keras.activations.tanh
        return copied, copies

    duplicate = rewriting.duplicate
    monkeypatch.setattr(rewriting, "duplicate", copy_of)
    with pytest.raises(ValueError, match=r"The copy of model=.* The first layer whose outputs differ is two \(Dense\)"):
        keras_actlab.swap_activations(dense(), "relu")
    keras_actlab.swap_activations(dense(), "relu", check=False)


@pytest.mark.one_backend
def test_a_copy_with_other_weights(monkeypatch):
    def copy_of(model):
        copied, copies = duplicate(model)
        copied.layers[1].bias.assign([0.0, 1.0])
        return copied, copies

    duplicate = rewriting.duplicate
    monkeypatch.setattr(rewriting, "duplicate", copy_of)
    with pytest.raises(ValueError, match=r"must have its weights, and has others in .*two/bias"):
        keras_actlab.to_gmp(dense())


@pytest.mark.one_backend
def test_a_conversion_with_other_outputs():
    def change(place):
        place.layer.kernel.assign(2.0 * numpy(place.layer.kernel))
        return ""

    def convert(**arguments):
        return rewriting.rewrite(dense(), "one", lambda place: True, change, lambda copied, places: places, **arguments)

    with pytest.raises(ValueError, match=r"The conversion of model=.* The first layer whose outputs differ is one \(D"):
        convert()
    convert(equal=False)
    convert(check=False)


class Noise(keras.layers.Layer):
    """Differs from call to call, and has no seed generator."""

    count = 0

    def call(self, inputs):
        Noise.count += 1
        return inputs + Noise.count


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: keras.Sequential([keras.Input((4096, 5000)), keras.layers.Dense(2)]), "too large"),
        (lambda: keras.Sequential([keras.Input((4,)), Noise(), keras.layers.Dense(2)]), "different outputs"),
        (
            lambda: keras.Sequential([keras.Input((None, 4)), keras.layers.Reshape((5, 4)), keras.layers.Dense(2)]),
            "cannot be called on a random batch",
        ),
    ],
)
def test_the_report_says_what_was_not_compared(model, reason):
    (note,) = report(keras_actlab.to_gmp(model())).notes
    assert note.startswith("Outputs were not compared")
    assert reason in note


@pytest.mark.one_backend
def test_the_report_says_that_the_optimizer_is_not_kept():
    model = dense()
    model.compile("adam", "mse")
    done = report(keras_actlab.to_gmp(model))
    assert len(done.notes) == 1
    assert "optimizer" in str(done)
    assert model.compiled


def test_unknown_lengths_and_integers():
    inputs = {"tokens": keras.Input((None,), dtype="int32", name="tokens"), "image": keras.Input((None, None, 3))}
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(2, 4)(inputs["tokens"]))
    y = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 20)(inputs["image"]))
    model = keras.Model(list(inputs.values()), keras.layers.Dense(2)(x + y))
    assert not report(keras_actlab.to_gmp(model)).notes


def test_the_caller_s_model_stays_as_it_is():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5), keras.layers.Dense(2)]
    )
    before = [numpy(variable) for variable in model.variables]
    attributes = [set(vars(layer)) for layer in model._flatten_layers()]
    keras_actlab.to_gmp(model)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(numpy(variable), value)
    assert [set(vars(layer)) for layer in model._flatten_layers()] == attributes


@pytest.mark.one_backend
def test_differences():
    one = [np.array([1.0, np.nan, 2.0])]
    assert not probe.differ(one, [np.array([1.0, np.nan, 2.0])], 1e-5)
    assert probe.differ(one, [np.array([1.0, 0.0, 2.0])], 1e-5)
    assert probe.differ(one, [np.array([1.0, np.nan, 2.1])], 1e-5)
    assert probe.differ(one, [np.ones(2)], 1e-5)
