import keras
import numpy as np
import pytest

from keras_actlab import layers
from keras_actlab.cab.regions import RegionTracker, activation_patterns, count_regions, preactivations
from tests.backends import numpy

pytestmark = pytest.mark.one_backend

RNG = np.random.default_rng(0)


def sequential(*hidden, shape=(3,)):
    return keras.Sequential([keras.Input(shape), *hidden])


# A function that makes an affine layer with an activation, and the shape of its input.
AFFINE = {
    "Dense": (lambda a: keras.layers.Dense(4, a), (5,)),
    "Dense without bias": (lambda a: keras.layers.Dense(4, a, use_bias=False), (5,)),
    "Dense on steps": (lambda a: keras.layers.Dense(4, a), (3, 5)),
    "Conv1D causal": (lambda a: keras.layers.Conv1D(4, 3, padding="causal", activation=a), (6, 2)),
    "Conv2D": (lambda a: keras.layers.Conv2D(4, 3, 2, padding="same", activation=a), (5, 6, 2)),
    "Conv2D first": (lambda a: keras.layers.Conv2D(4, 3, data_format="channels_first", activation=a), (2, 5, 7)),
    "GmPDense": (lambda a: layers.GmPDense(4, a), (5,)),
    "GmPDense, scale inside": (lambda a: layers.GmPDense(4, a, scale_inside=True), (5,)),
    "GmPConv2D": (lambda a: layers.GmPConv2D(4, 3, activation=a), (5, 6, 2)),
    "WeightNormalization(Dense)": (lambda a: layers.WeightNormalization(keras.layers.Dense(4, a)), (5,)),
    "WeightNormalization(Conv2D)": (
        lambda a: layers.WeightNormalization(keras.layers.Conv2D(4, 3, activation=a)),
        (5, 6, 2),
    ),
}


@pytest.mark.parametrize("kind", AFFINE)
def test_preactivations_equal_the_output_without_activation(kind):
    make, shape = AFFINE[kind]
    layer, linear = make("relu"), make("linear")
    model = sequential(layer, shape=shape)
    linear.build((None, *shape))
    layer.set_weights([RNG.normal(size=w.shape) for w in layer.get_weights()])
    linear.set_weights(layer.get_weights())
    if kind in ("GmPDense", "GmPConv2D"):
        linear.scale.assign(np.ones(4))  # it multiplies the output of the activation
    x = RNG.normal(size=(7, *shape)).astype("float32")
    found = preactivations(model, x)
    assert list(found) == [layer.name]
    np.testing.assert_allclose(found[layer.name], numpy(linear(x)).reshape(7, -1), atol=1e-5)


def residual_network():
    x = keras.Input((3,))
    h = keras.layers.Dense(4, "relu", name="first")(x)
    h = keras.layers.BatchNormalization()(keras.layers.Dense(4)(h))
    h = keras.layers.ReLU(name="second")(h)
    h = keras.layers.Identity(name="sum")(h + keras.layers.Dense(4)(x))
    h = layers.TMAF(name="third")(h)
    return keras.Model(x, keras.layers.Dense(2, "softmax")(h))


def test_preactivations_of_an_activation_layer_are_its_input():
    model = residual_network()
    model.set_weights([np.abs(RNG.normal(size=w.shape)) - 0.1 for w in model.get_weights()])
    x = RNG.normal(size=(6, 3)).astype("float32")
    found = preactivations(model, x)
    assert list(found) == ["first", "second", "third"]
    inner = keras.Model(model.inputs[0], [model.get_layer("second").input, model.get_layer("sum").output])
    for name, expected in zip(("second", "third"), inner(x, training=False), strict=True):
        np.testing.assert_array_equal(found[name], numpy(expected))


def test_a_sequential_model_with_an_added_layer():
    model = keras.Sequential([keras.Input((3,))])
    for units in (4, 5, 6):
        model.add(keras.layers.Dense(units, "relu"))
    model.pop()
    assert [value.shape for value in preactivations(model, np.ones((2, 3))).values()] == [(2, 4), (2, 5)]


def test_a_layer_that_another_model_calls_too_is_read_in_its_own_graph():
    x, shared = keras.Input((2,)), keras.layers.ReLU()
    keras.Model(x, shared(keras.layers.Rescaling(3.0)(x)))
    model = keras.Model(x, shared(keras.layers.Rescaling(-1.0)(x)))
    (found,) = preactivations(model, np.array([[1.0, 2.0]])).values()
    np.testing.assert_array_equal(found, [[-1.0, -2.0]])


def test_under_a_mixed_policy_values_are_float32_of_the_network_s_own_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = sequential(
        layers.GmPDense(4, "relu", scale_inside=True),
        layers.WeightNormalization(keras.layers.Dense(4, "relu")),
        keras.layers.Dense(4, layers.TMAF()),
        keras.layers.Dense(1),
    )
    model.set_weights([RNG.normal(size=w.shape) for w in model.get_weights()])
    inner = keras.Model(model.inputs[0], [layer.output for layer in model.layers[:2]])
    x = RNG.normal(size=(6, 3)).astype("float32")
    first, second, _ = preactivations(model, x).values()
    assert first.dtype == "float32"
    expected = [numpy(keras.ops.cast(output, "float32")) for output in inner(x)]
    np.testing.assert_array_equal(np.maximum(first, 0), expected[0])
    # With weight normalization, TensorFlow multiplies in float32.
    np.testing.assert_allclose(np.maximum(second, 0), expected[1], atol=0.05)


def test_patterns_are_indices_of_intervals_closed_on_the_right():
    x = np.array([[-2.0], [-1.0], [-0.9], [0.0], [0.1], [1.0], [1.1], [6.0], [6.1]])
    expected = {
        keras.layers.Activation("relu"): [0, 0, 0, 0, 1, 1, 1, 1, 1],
        keras.layers.ReLU(max_value=6.0): [0, 0, 0, 0, 1, 1, 1, 1, 2],
        keras.layers.LeakyReLU(): [0, 0, 0, 0, 1, 1, 1, 1, 1],
        keras.layers.Activation("hard_tanh"): [0, 0, 1, 1, 1, 1, 2, 2, 2],
        layers.TMAF(0): [0, 0, 1, 1, 2, 2, 3, 3, 3],
        layers.TMAF(0, thresholds=(0.0, 0.1)): [0, 0, 0, 0, 1, 2, 2, 2, 2],  # 0.1 in float32, like the values
        keras.layers.Activation("linear"): None,
    }
    for layer, intervals in expected.items():
        patterns = activation_patterns(sequential(layer, shape=(1,)), x)
        assert patterns.dtype == "int32"
        assert patterns.T.tolist() == ([] if intervals is None else [intervals])


def test_patterns_follow_thresholds_that_are_trained():
    activation = layers.TMAF(0, thresholds=(0.0,), train_thresholds=True)
    model = sequential(activation, shape=(1,))
    activation.thresholds.assign([2.0])
    assert activation_patterns(model, np.array([[1.0], [3.0]])).tolist() == [[0], [1]]


def test_patterns_follow_the_knots_of_a_spline():
    spline = layers.EntropyActivation(num_knots=4, lower=-3.0, upper=3.0)  # bends at -1 and 1
    model = keras.Sequential([keras.Input((1,)), spline])
    x = np.array([[-5.0], [-2.0], [0.0], [2.0], [5.0]])
    np.testing.assert_array_equal(activation_patterns(model, x)[:, 0], [0, 0, 1, 2, 2])
    spline.set_curve(np.abs, lower=-9.0, upper=9.0)  # at -3 and 3
    np.testing.assert_array_equal(activation_patterns(model, x)[:, 0], [0, 1, 1, 1, 2])


def test_between_points_of_one_pattern_the_network_is_affine():
    model = sequential(keras.layers.Dense(3, "relu"), keras.layers.Dense(3, layers.TMAF(1)), keras.layers.Dense(1))
    model.set_weights([RNG.normal(size=w.shape) for w in model.get_weights()])
    x = RNG.normal(size=(200, 3)).astype("float32")
    patterns = activation_patterns(model, x)
    _, inverse = np.unique(patterns, axis=0, return_inverse=True)
    pairs = np.array([np.flatnonzero(inverse == each)[:2] for each in np.flatnonzero(np.bincount(inverse) > 1)])
    assert len(pairs) > 10
    middle = x[pairs].mean(axis=1)
    np.testing.assert_array_equal(activation_patterns(model, middle), patterns[pairs[:, 0]])
    np.testing.assert_allclose(numpy(model(middle)), numpy(model(x))[pairs].mean(axis=1), atol=1e-4)


def test_counts_regions():
    hidden = keras.layers.Dense(3, "relu")
    model = sequential(hidden, keras.layers.Dense(1), shape=(1,))
    hidden.set_weights([np.ones((1, 3)), np.array([-1.0, -2.0, -4.0])])
    x = np.linspace(0.05, 4.95, 50)[:, None]
    assert count_regions(model, x) == 4
    assert count_regions(model, x[:15]) == 2
    assert count_regions(sequential(keras.layers.Dense(2)), np.ones((2, 3))) == 1


def two_inputs():
    a, b = keras.Input((3,)), keras.Input((3,))
    return keras.Model([a, b], keras.layers.Add()([a, b]))


def called_twice():
    x, relu = keras.Input((3,)), keras.layers.ReLU(name="again")
    return keras.Model(x, relu(keras.layers.Dense(3)(relu(x))))


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def subclassed():
    model = Subclassed()
    model(np.ones((2, 3)))
    return model


def activation_function():
    x = keras.Input((3,))
    return keras.Model(x, keras.layers.Dense(1)(keras.activations.relu(keras.layers.Dense(4)(x))))


def smooth_output_that_goes_on():
    x = keras.Input((3,))
    s = keras.layers.Dense(4, "sigmoid", name="inside")(x)
    return keras.Model(x, [s, keras.layers.Dense(2, "relu")(s)])


NOT_READ = {
    "subclassed": (subclassed, "must be a Functional"),
    "not built": (lambda: keras.Sequential([keras.layers.Dense(1)]), "built Sequential"),
    "two inputs": (two_inputs, "one input"),
    "nested": (lambda: sequential(sequential(keras.layers.Dense(1)), keras.layers.Dense(1)), "no layers in layers"),
    "wrapped": (
        lambda: sequential(keras.layers.TimeDistributed(keras.layers.Dense(1, "relu")), shape=(2, 3)),
        "no layers in layers.*TimeDistributed",
    ),
    "smooth": (lambda: sequential(keras.layers.Dense(2, "gelu", name="inside"), keras.layers.Dense(1)), "'inside'"),
    "smooth layer": (lambda: sequential(layers.CRReLU(name="inside"), keras.layers.Dense(1)), "'inside'.*CRReLU"),
    "unknown": (
        lambda: sequential(keras.layers.Dense(2, lambda x: x, name="inside"), keras.layers.Dense(1)),
        "'inside'",
    ),
    "built into another layer": (
        lambda: sequential(keras.layers.DepthwiseConv1D(2, activation="relu"), shape=(4, 3)),
        "layers of their own.*DepthwiseConv1D",
    ),
    "a function": (activation_function, r"no other operations than.*\(ReLU|Relu\)"),
    "lambda": (lambda: sequential(keras.layers.Lambda(lambda x: x), keras.layers.Dense(1)), r"\(Lambda\)"),
    "an output that goes on": (smooth_output_that_goes_on, "'inside'"),
    "called twice": (called_twice, "once.*'again'.*2 times"),
}


@pytest.mark.parametrize("kind", NOT_READ)
def test_unsupported_models_raise(kind):
    make, message = NOT_READ[kind]
    with pytest.raises(ValueError, match=message):
        preactivations(make(), np.ones((2, 3)))


def test_checks_its_arguments():
    model = sequential(keras.layers.Dense(1, "relu"))
    with pytest.raises(TypeError, match="`model` must be a Keras model"):
        preactivations(model.layers[0], np.ones((2, 3)))
    for x in (np.ones((2, 4)), np.ones(3), np.ones((2, 3, 1))):
        with pytest.raises(ValueError, match=r"`x` must have the shape of the model's input, \(3,\)"):
            count_regions(model, x)
    with pytest.raises(ValueError, match="at least one point"):
        activation_patterns(model, np.ones((0, 3)))
    with pytest.raises(ValueError, match="`every` must be positive"):
        RegionTracker(np.ones((2, 3)), every=0)


def training_model():
    keras.utils.set_random_seed(1)
    hidden = [keras.layers.Dense(6), keras.layers.BatchNormalization(), keras.layers.ReLU(), keras.layers.Dropout(0.3)]
    model = sequential(*hidden, layers.GmPDense(4, layers.TMAF(1)), keras.layers.Dense(1))
    model.compile(keras.optimizers.Adam(0.1), "mse")
    return model


X, Y = RNG.normal(size=(12, 3)).astype("float32"), RNG.normal(size=12).astype("float32")


class Snapshots(keras.callbacks.Callback):
    """Keeps the weights before the first step and after every step."""

    def on_epoch_begin(self, epoch, logs=None):
        if not epoch:
            self.weights = [self.model.get_weights()]

    def on_train_batch_end(self, batch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        self.weights.append(self.model.get_weights())


def test_the_tracker_equals_snapshots_and_does_not_change_training():
    model, tracker, snapshots = training_model(), RegionTracker(X, every=2), Snapshots()
    model.fit(X, Y, batch_size=4, epochs=4, verbose=0, callbacks=[tracker, snapshots])
    alone = training_model()
    alone.fit(X, Y, batch_size=4, epochs=4, verbose=0)
    for with_tracker, without in zip(model.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_array_equal(with_tracker, without)

    assert tracker.steps.tolist() == [0, 2, 4, 6, 8, 10, 12]
    patterns = []
    for weights in snapshots.weights[::2]:
        alone.set_weights(weights)
        patterns.append(activation_patterns(alone, X))
    patterns = np.array(patterns)
    changed = patterns[1:] != patterns[:-1]
    assert tracker.regions.tolist() == [len(np.unique(each, axis=0)) for each in patterns]
    np.testing.assert_allclose(tracker.points_changed, [0, *changed.any(axis=2).mean(axis=1)])
    np.testing.assert_allclose(tracker.units_changed, [0, *changed.mean(axis=(1, 2))])
    assert 0 < tracker.units_changed.max() < tracker.points_changed.max() <= 1


def test_the_tracker_continues_and_restarts_on_another_model():
    model, tracker = training_model(), RegionTracker(X)
    for _ in range(2):
        model.fit(X, Y, batch_size=6, epochs=1, verbose=0, callbacks=[tracker])
    assert tracker.steps.tolist() == [0, 1, 2, 3, 4]
    other = sequential(keras.layers.Dense(2, "relu"), keras.layers.Dense(1))
    other.compile("sgd", "mse")
    other.fit(X, Y, batch_size=6, epochs=1, verbose=0, callbacks=[tracker])
    assert tracker.steps.tolist() == [0, 1, 2]
    assert tracker.points_changed[0] == 0


@pytest.mark.parametrize("fault", ["shape", "linear"])
def test_the_tracker_finds_faults_before_training(fault):
    model = training_model() if fault == "shape" else sequential(keras.layers.Dense(1))
    model.compile("sgd", "mse")
    before = model.get_weights()
    tracker = RegionTracker(X[:, :2] if fault == "shape" else X)
    with pytest.raises(ValueError, match="`x` must have the shape" if fault == "shape" else "activation that bends"):
        model.fit(X, Y, verbose=0, callbacks=[tracker])
    for weights, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, now)
