import keras
import numpy as np
import pytest

from keras_actlab import eafo
from keras_actlab.eafo.refinement import refine
from keras_actlab.layers import EntropyActivation
from tests.backends import numpy

BACKEND = keras.backend.backend()


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def filled(sample, **arguments):
    """Returns a layer whose sample holds given pre-activations."""
    layer = EntropyActivation(sample_size=len(sample), **arguments)
    layer.build((None, 1))
    layer.sample.assign(sample.astype("float32"))
    layer.sampled.assign(len(sample))
    return layer


def network(**arguments):
    curve = EntropyActivation(sample_size=256, name="curve", **arguments)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8), curve, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model, curve


def fit(model, callbacks, epochs=1, **arguments):
    x = normal(64, 3)
    model.fit(x, x[:, :1], batch_size=8, epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks, **arguments)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("start", ["relu", "tanh", "gelu"])
def test_a_refinement_lowers_the_entropy_at_any_scale(start, scale):
    def scaled(z):
        return scale * keras.activations.get(start)(z / scale)

    arguments = {"activation": scaled, "lower": -4 * scale, "upper": 3.75 * scale}
    layer = filled(scale * normal(4096), **arguments)
    sample, knots = numpy(layer.sample).copy(), numpy(layer.knots).copy()
    fresh = numpy(layer(sample))
    before, after, standardized_before, standardized_after = refine(layer, 0.02)
    assert after < before
    assert standardized_after < standardized_before
    np.testing.assert_array_equal(numpy(layer.knots), knots)
    # An independent estimate: the entropy of a histogram of the outputs.
    outputs = numpy(layer(sample))
    bins = np.linspace(fresh.min(), fresh.max(), 30)
    counted = []
    for values in (fresh, outputs):
        shares = np.histogram(values[values != 0.0], bins)[0] / len(values)
        shares = shares[shares > 0]
        counted.append(-np.sum(shares * np.log(shares)))
    assert counted[1] < counted[0]


def test_the_flat_side_of_relu_does_not_change():
    layer = filled(normal(4096))
    refine(layer, 0.02)
    knots, values = numpy(layer.knots), numpy(layer.values)
    np.testing.assert_array_equal(values[knots <= 0], 0.0)
    assert (values[(knots > 0) & (knots < 3.75)] < knots[(knots > 0) & (knots < 3.75)]).all()
    assert values[-1] == 3.75


def test_a_monotone_layer_stays_monotone():
    layer = filled(normal(4096), activation="tanh", monotone=True)
    for _ in range(50):
        refine(layer, 0.1)  # so large that the knots move by their largest allowed distance
    assert np.all(np.diff(numpy(layer.values)) >= 0)


@pytest.mark.parametrize(("std", "factor"), [(1.0, 1.0), (2.0, 2.0), (40.0, 32.0), (0.2, 0.5)])
def test_knots_follow_the_sample_by_powers_of_two(std, factor):
    sample = std * normal(4096)
    layer = filled(sample, activation="tanh")
    before = numpy(layer(numpy(layer.knots) * factor))
    refine(layer, 1e-9)  # a negligible move
    knots = numpy(layer.knots)
    np.testing.assert_array_equal(knots[[0, -1]], [-4.0 * factor, 3.75 * factor])
    assert 0.0 in knots
    np.testing.assert_allclose(numpy(layer(knots)), before, atol=1e-5)


@pytest.mark.parametrize(
    ("sample", "start"),
    [
        (np.zeros(64), "relu"),
        (np.full(64, np.nan), "relu"),
        (np.arange(10.0), "relu"),
        (normal(64), lambda z: -z),
        (-10 - np.abs(normal(64)), "relu"),
        (3.1 + 1e-4 * normal(64), "relu"),
        (1e38 * normal(64), "relu"),
    ],
    ids=["one value", "nan", "too few", "falling", "dead", "between two knots", "beyond float32"],
)
def test_layers_that_cannot_be_refined_do_not_change(sample, start):
    layer = filled(sample, activation=start)
    values = numpy(layer.values).copy()
    assert refine(layer, 0.02) is None
    np.testing.assert_array_equal(numpy(layer.values), values)


@pytest.mark.parametrize("trainable", [True, False])
def test_the_log_has_a_row_for_each_refinement(trainable):
    model, curve = network(trainable=trainable)
    refinement = eafo.EntropyRefinement(every=3)
    fit(model, [refinement], epochs=2)
    assert refinement.log["step"].tolist() == [3, 6, 9, 12, 15]
    assert set(refinement.log["layer"]) == {curve.path}
    assert (refinement.log["entropy after"] < refinement.log["entropy before"]).all()
    start = np.maximum(numpy(curve.knots), 0.0)
    assert not np.allclose(numpy(curve.values), start)
    fit(model, [refinement])  # continues, one step after the fifth
    assert refinement.log["step"].tolist()[5:] == [18, 21, 24]


def test_refinement_changes_a_layer_that_is_not_trainable():
    (refined, curve), (plain, other) = network(trainable=False), network(trainable=False)
    plain.set_weights(refined.get_weights())
    fit(refined, [eafo.EntropyRefinement(every=8)])
    fit(plain, [])
    np.testing.assert_array_equal(numpy(curve.sample), numpy(other.sample))
    assert refine(other, 0.02) is not None  # the last refinement was at step 8
    np.testing.assert_array_equal(numpy(curve.values), numpy(other.values))


@pytest.mark.skipif(BACKEND == "torch", reason="Keras knows no steps_per_execution on PyTorch")
def test_steps_per_execution_count_as_steps():
    model, _ = network()
    model.compile(keras.optimizers.SGD(0.01), "mse", steps_per_execution=4)
    refinement = eafo.EntropyRefinement(every=3)
    fit(model, [refinement], epochs=2)
    assert refinement.log["step"].tolist() == [4, 8, 12, 16]


class Counted(keras.layers.Layer):
    """Counts its Python calls, which happen when a training step is traced."""

    calls = 0

    def call(self, x):
        Counted.calls += 1
        return x


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch compiles nothing here")
def test_no_retracing():
    curve = EntropyActivation(sample_size=256)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8), curve, Counted(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=True)
    fit(model, [])
    traced, values = Counted.calls, numpy(curve.values).copy()
    fit(model, [eafo.EntropyRefinement(every=2)], epochs=2)
    assert Counted.calls == traced
    assert not np.allclose(numpy(curve.values), values)


def test_a_model_that_was_refined_is_saved_with_its_curve(tmp_path):
    model, curve = network()
    fit(model, [eafo.EntropyRefinement(every=4)])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded.get_layer("curve").values), numpy(curve.values))
    x = normal(5, 3)
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))


def test_layers_are_chosen_by_name_or_themselves():
    model, curve = network()
    for layers in ([curve], ["curve"], [curve.path], None):
        refinement = eafo.EntropyRefinement(layers, every=4)
        fit(model, [refinement])
        assert refinement.log["layer"].tolist() == [curve.path, curve.path]


def test_a_layer_that_is_named_twice_is_refined_once():
    model, curve = network()
    refinement = eafo.EntropyRefinement(["curve", curve], every=4)
    fit(model, [refinement])
    assert refinement.log["step"].tolist() == [4, 8]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"every": 0}, ValueError, "`every` must be positive"),
        ({"every": 1.5}, TypeError, "`every` must be an integer"),
        ({"fraction": 0}, ValueError, "`fraction` must be finite and positive. Received: fraction=0"),
        ({"fraction": "much"}, TypeError, "`fraction` must be a number"),
        ({"layers": []}, TypeError, "`layers` must be a list of EntropyActivation layers or their names, or None"),
        ({"layers": "curve"}, TypeError, "`layers` must be a list of EntropyActivation layers or their names"),
        ({"layers": [keras.layers.ReLU()]}, TypeError, "`layers` must be a list of EntropyActivation"),
    ],
)
def test_bad_arguments_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        eafo.EntropyRefinement(**arguments)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (["other"], "`layers` must be EntropyActivation layers of the model.*Received: 'other', while .*curve'"),
        ([EntropyActivation(name="elsewhere")], "Received: 'elsewhere', while"),
        (["bare"], "`layers` must keep a sample: give them a `sample_size`. Received: '.*bare'"),
    ],
    ids=["unknown name", "another model's", "no sample"],
)
def test_layers_that_cannot_be_refined_are_refused_before_training(layers, words):
    model = keras.Sequential(
        [keras.Input((3,)), EntropyActivation(sample_size=32, name="curve"), EntropyActivation(name="bare")]
    )
    model.compile("sgd", "mse")
    weights = [numpy(weight).copy() for weight in model.weights]
    with pytest.raises(ValueError, match=words):
        model.fit(normal(8, 3), normal(8, 3), verbose=0, callbacks=[eafo.EntropyRefinement(layers)])
    for weight, old in zip(model.weights, weights, strict=True):
        np.testing.assert_array_equal(numpy(weight), old)


def test_a_model_without_splines_is_refused():
    model = keras.Sequential([keras.Input((3,)), EntropyActivation(), keras.layers.ReLU()])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"must have an EntropyActivation with a `sample_size`.* 1 EntropyActivation"):
        model.fit(normal(8, 3), normal(8, 3), verbose=0, callbacks=[eafo.EntropyRefinement()])
