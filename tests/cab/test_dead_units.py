import keras
import numpy as np
import pytest

import keras_actlab
from keras_actlab import layers
from keras_actlab.cab import DeadUnitTracker

X = np.random.default_rng(0).uniform(-1, 1, (64, 2)).astype("float32")


def fitted(model, tracker, **options):
    model.compile("sgd", "mse", run_eagerly=False)
    outputs = model.output_shape[1:]
    model.fit(X, np.zeros((64, *outputs)), batch_size=16, verbose=0, callbacks=[tracker], **options)
    return tracker


@pytest.mark.parametrize(
    ("activation", "biases", "dead", "saturated"),
    [
        ("relu", [-9, 0, 9, 0], 0.25, 0.0),
        ("tanh", [-9, 0, 9, 9], 0.0, 0.75),
        ("sigmoid", [-9, 0, 9, 9], 0.25, 0.5),
        ("relu6", [-9, 0, 9, 0], 0.25, 0.25),
        ("gelu", [-9, -9, 9, 0], 0.5, 0.0),
        (None, [-9, 0, 9, 0], None, None),
    ],
)
def test_units_in_a_corner(activation, biases, dead, saturated):
    """Pre-activations lie within 2 of the bias."""
    layer = keras.layers.Dense(4, activation, kernel_initializer="ones", name="hidden")
    model = keras.Sequential([keras.Input((2,)), layer, keras.layers.Dense(1, "tanh", name="out")])
    layer.bias.assign(biases)
    layer.trainable = False
    tracker = fitted(model, DeadUnitTracker(X, every=3))
    assert tracker.steps.tolist() == [0, 3, 4]
    if dead is None:
        assert set(tracker.dead) == {"out"}
        return
    np.testing.assert_array_equal(tracker.dead["hidden"], [dead] * 3)
    np.testing.assert_array_equal(tracker.saturated["hidden"], [saturated] * 3)


@pytest.mark.one_backend
@pytest.mark.parametrize("form", ["layer", "argument", "GmP"])
def test_where_activations_are_found(form):
    biases = keras.initializers.Constant(-9.0)
    units = {
        "layer": [keras.layers.Dense(3, bias_initializer=biases), keras.layers.ReLU(name="it")],
        "argument": [keras.layers.Dense(3, layers.CRReLU(trainable=False, name="it"), bias_initializer=biases)],
        "GmP": [layers.GmPDense(3, "relu", radius_initializer=biases, name="it")],
    }[form]
    inner = keras.Sequential([keras.Input((2,)), *units])
    inner.trainable = False
    model = keras.Sequential([keras.Input((2,)), inner, keras.layers.Dense(1, name="out")])
    tracker = fitted(model, DeadUnitTracker(X, ["it"]))
    (shares,) = tracker.dead.values()
    np.testing.assert_array_equal(shares, [1.0, 1.0])


@pytest.mark.one_backend
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_channels_of_a_convolution(data_format):
    shape = (1, 4, 4) if data_format == "channels_first" else (4, 4, 1)
    layer = keras.layers.Conv2D(5, 3, activation="relu", data_format=data_format, name="conv")
    model = keras.Sequential([keras.Input(shape), layer, keras.layers.Flatten(), keras.layers.Dense(1)])
    layer.bias.assign([-99, 0, 0, 0, -99])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(8, *shape))
    tracker = DeadUnitTracker(x)
    model.fit(x, np.zeros(8), verbose=0, callbacks=[tracker])
    assert tracker.dead["conv"][0] == 0.4


@pytest.mark.one_backend
def test_a_second_fit_continues():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1)])
    tracker = fitted(model, DeadUnitTracker(X, every=2))
    model.fit(X, np.zeros((64, 1)), batch_size=16, verbose=0, callbacks=[tracker])
    assert tracker.steps.tolist() == [0, 2, 4, 6, 8]


@pytest.mark.one_backend
def test_training_is_the_same_with_it():
    results = []
    for callbacks in ([], [DeadUnitTracker(X, every=1)]):
        keras.utils.set_random_seed(3)
        model = keras_actlab.to_gmp(
            keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, layers.CRReLU()), keras.layers.Dense(1)])
        )
        model.compile("sgd", "mse")
        model.fit(X, np.ones((64, 1)), batch_size=16, verbose=0, callbacks=callbacks)
        results.append(model.predict(X, verbose=0))
    np.testing.assert_array_equal(*results)


@pytest.mark.one_backend
def test_errors():
    with pytest.raises(TypeError, match=r"`layers` must be a list .* Received: layers='a'"):
        DeadUnitTracker(X, "a")
    with pytest.raises(ValueError, match="`data` must be arrays of at least one example"):
        DeadUnitTracker(np.zeros((0, 2)))
    with pytest.raises(ValueError, match=r"`tolerance` must be finite and positive. Received: tolerance=0"):
        DeadUnitTracker(X, tolerance=0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="out")])
    with pytest.raises(ValueError, match="must have an elementwise activation"):
        fitted(model, DeadUnitTracker(X))
    with pytest.raises(ValueError, match=r"Received: 'out', while the model has \[\]"):
        fitted(model, DeadUnitTracker(X, ["out"]))
