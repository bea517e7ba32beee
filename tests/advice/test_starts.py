import random

import keras
import numpy as np
import pytest

from keras_actlab.advice import starts
from keras_actlab.advice.question import Method
from keras_actlab.advice.starts import Start
from keras_actlab.advice.variants import resolve
from tests.backends import numpy, on_one_backend

X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
Y = np.ones((16, 2), "float32")


def network() -> keras.Model:
    frozen = keras.layers.Dense(4, trainable=False, name="frozen")
    normalization = keras.layers.Normalization(name="normalization")
    normalization.adapt(3 * X + 5)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            normalization,
            frozen,
            keras.layers.Dense(5, "relu", name="hidden"),
            keras.layers.BatchNormalization(name="statistics"),
            keras.layers.Dropout(0.5, name="dropout"),
            keras.layers.Dense(2, name="head"),
        ]
    )
    model.compile("adam", "mse", metrics=["mae"])
    return model


def values(layer) -> list[np.ndarray]:
    return [numpy(variable) for variable in layer.variables]


def assert_equal(one, other, equal=True):
    pairs = list(zip(one, other, strict=True))
    assert pairs
    assert all(np.array_equal(*pair) for pair in pairs) == equal


def made(start: Start, seed: int, variant: str = "as is") -> keras.Model:
    keras.utils.set_random_seed(seed)
    return resolve({"new": variant}, "own" if start.is_drawn else "same")["new"](start.model())


def masks(start: Start, *seeds: int, variant: str = "as is") -> list[np.ndarray]:
    """Masks of dropout in fits."""
    found = []
    for seed in seeds:
        keras.utils.set_random_seed(seed)
        variants = resolve({"new": variant}, "own")
        model = Method(start, "new", variants["new"])(learning_rate=0.1)
        found.append(numpy(model.get_layer("dropout")(np.ones((1, 40)), training=True)))
    return found


@pytest.fixture(scope="module")
def trained() -> keras.Model:
    keras.utils.set_random_seed(1)
    model = network()
    model.fit(X, Y, epochs=2, verbose=0)
    return model


def test_a_seed_draws_all_weights_anew(trained):
    start = Start(trained, is_drawn=True)
    one, again, other = (made(start, seed) for seed in (0, 0, 1))
    assert_equal(values(one), values(again))
    for name in ("hidden", "head"):
        assert_equal(values(one.get_layer(name))[:1], values(other.get_layer(name))[:1], equal=False)
        assert_equal(values(one.get_layer(name))[:1], values(trained.get_layer(name))[:1], equal=False)
    for model in (one, other):
        assert_equal(values(model.get_layer("frozen")), values(trained.get_layer("frozen")))
        assert_equal(values(model.get_layer("normalization")), values(trained.get_layer("normalization")))
        gamma, beta, mean, variance = values(model.get_layer("statistics"))
        assert_equal([gamma, beta, mean, variance], [np.ones(5), np.zeros(5), np.zeros(5), np.ones(5)])
    assert not one.get_layer("frozen").trainable


def test_a_seed_decides_the_masks_of_dropout(trained):
    for is_drawn in (True, False):
        start = Start(trained, is_drawn)
        one, again, other = masks(start, 0, 0, 1)
        assert_equal([one], [again])
        assert_equal([one], [other], equal=False)
        assert_equal([one], masks(start, 0, variant="gelu"))
        assert_equal([one], masks(start, 0, variant="gmp"))


@pytest.mark.parametrize("variant", ["gelu", "crrelu", "tmaf"])
def test_variants_share_the_draw(trained, variant):
    start = Start(trained, is_drawn=True)
    plain, swapped = made(start, 3), made(start, 3, variant)
    for name in ("frozen", "hidden", "head", "statistics"):
        expected = values(plain.get_layer(name))
        assert_equal(expected, values(swapped.get_layer(name))[: len(expected)])


@pytest.mark.parametrize("variant", ["gmp", *on_one_backend("weight norm")])
def test_converted_weights_compute_the_same(trained, variant):
    start = Start(trained, is_drawn=True)
    plain, converted = made(start, 3), made(start, 3, variant)
    assert type(converted.get_layer("hidden")) is not keras.layers.Dense
    np.testing.assert_allclose(numpy(converted(X)), numpy(plain(X)), atol=2e-5)


@pytest.mark.parametrize("variant", ["crrelu", "gmp", *on_one_backend("entropy", "tmaf")])
def test_trained_weights_are_kept_and_so_are_outputs(trained, variant):
    start = Start(trained, is_drawn=False)
    plain = made(start, 3)
    assert_equal(plain.get_weights(), trained.get_weights())
    difference = np.abs(numpy(made(start, 3, variant)(X)) - numpy(trained(X))).max()
    assert difference < (0.15 if variant == "entropy" else 0.01) * np.abs(numpy(trained(X))).max()


@pytest.mark.one_backend
def test_the_callers_model_is_left_unchanged():
    model = network()
    model.fit(X, Y, epochs=1, batch_size=8, verbose=0)
    before, iterations = model.get_weights(), int(model.optimizer.iterations)
    slots = [numpy(variable) for variable in model.optimizer.variables]
    for is_drawn in (True, False):
        copied = made(Start(model, is_drawn), 0, "crrelu")
        assert not copied.compiled
        copied.compile("sgd", "mse")
        copied.fit(X, Y, epochs=1, verbose=0)
    assert_equal(before, model.get_weights())
    assert int(model.optimizer.iterations) == iterations == 2
    assert_equal(slots, [numpy(variable) for variable in model.optimizer.variables])
    model.fit(X, Y, epochs=1, batch_size=8, verbose=0)
    assert int(model.optimizer.iterations) == 4


@keras.saving.register_keras_serializable("tests_of_starts")
class WithConfig(keras.Model):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.hidden, self.head = keras.layers.Dense(units, "relu"), keras.layers.Dense(2)

    def build(self, input_shape):
        self.hidden.build(input_shape)
        self.head.build((None, self.units))
        self.built = True

    def call(self, x):
        return self.head(self.hidden(x))

    def get_config(self):
        return super().get_config() | {"units": self.units}


class WithoutConfig(keras.Model):
    def __init__(self, head):
        super().__init__()
        self.head = head

    def call(self, x):
        return self.head(x)


@pytest.mark.one_backend
def test_a_subclass_with_a_configuration_is_drawn():
    model = WithConfig(3)
    model(X)
    start = Start(model, is_drawn=True)
    one, other = made(start, 0), made(start, 1)
    assert type(one) is WithConfig
    assert_equal([values(one)[0]], [values(other)[0]], equal=False)
    np.testing.assert_allclose(numpy(made(start, 0, "gmp")(X)), numpy(one(X)), atol=1e-5)


def test_a_subclass_without_configuration_needs_a_function():
    def build():
        model = WithoutConfig(keras.layers.Dense(2))
        model(X)
        return model

    model = build()
    with pytest.raises(ValueError, match=r"`model` must be a model that Keras can save and load.*or a function"):
        Start(model, is_drawn=True).model()
    np.testing.assert_array_equal(numpy(Start(model, is_drawn=False).model()(X)), numpy(model(X)))
    start = Start(build, is_drawn=True)
    one, again, other = (made(start, seed) for seed in (0, 0, 1))
    assert_equal(values(one), values(again))
    assert_equal(values(one)[:1], values(other)[:1], equal=False)


def test_a_function_may_return_the_same_model_each_time(trained):
    one = made(Start(lambda: trained, is_drawn=False), 0)
    assert one is not trained
    assert_equal(one.get_weights(), trained.get_weights())
    assert trained.compiled


def test_shared_and_nested_layers_stay_shared():
    shared = keras.layers.Dense(4, "relu", name="shared")
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "relu", name="within")], name="inner")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inner(shared(shared(inputs)))))
    start = Start(model, is_drawn=True)
    plain = made(start, 5)
    assert len(plain.variables) == len(model.variables) == 6
    assert_equal(values(plain.get_layer("inner"))[:1], values(inner)[:1], equal=False)
    np.testing.assert_allclose(numpy(made(start, 5, "gmp")(X)), numpy(plain(X)), atol=1e-5)
    assert_equal(values(made(start, 5, "crrelu").get_layer("shared"))[:2], values(plain.get_layer("shared")))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_is_kept(policy):
    keras.config.set_dtype_policy(policy)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "relu"), keras.layers.Dense(2)])
    keras.config.set_dtype_policy("float32")
    one = made(Start(model, is_drawn=True), 0)
    assert [layer.dtype_policy.name for layer in one.layers] == [policy] * 2
    assert {variable.dtype for variable in one.variables} == {"float32"}


@pytest.mark.one_backend
def test_weights_that_every_fit_shares(trained):
    fixed = Start(trained, is_drawn=True).fixed()
    expected = [*trained.get_layer("normalization").variables, *trained.get_layer("frozen").variables]
    assert {id(variable) for variable in fixed} == {id(variable) for variable in expected}
    assert len(Start(trained, is_drawn=False).fixed()) == len(trained.weights)
    assert Start(lambda: trained, is_drawn=False).fixed() == []


@pytest.mark.slow
def test_a_task_of_keras_hub():
    hub = pytest.importorskip("keras_hub")
    backbone = hub.models.BertBackbone(20, 1, 2, 8, 16, max_sequence_length=6)
    model = hub.models.BertTextClassifier(backbone, num_classes=2, preprocessor=None)
    x = {
        "token_ids": np.arange(12).reshape(2, 6),
        "padding_mask": np.ones((2, 6), "int32"),
        "segment_ids": np.zeros((2, 6), "int32"),
    }
    start = Start(model, is_drawn=True)
    one, other = made(start, 0), made(start, 1)
    assert type(one) is type(model)
    assert np.abs(numpy(one(x)) - numpy(other(x))).max() > 0
    np.testing.assert_allclose(numpy(made(start, 0, "gmp")(x)), numpy(one(x)), atol=1e-4)


@pytest.mark.one_backend
def test_a_draw_that_was_kept_is_the_draw_that_was_made(trained, monkeypatch):
    start, forgetful = Start(trained, is_drawn=True), Start(trained, is_drawn=True)
    numbers = []
    for each in (start, start, forgetful):
        if each is forgetful:
            monkeypatch.setattr(starts, "KEPT", 0)
        model = made(each, 3)
        numbers.append([*map(numpy, model.variables), numpy(keras.random.normal((2,))), random.random()])
    assert len(start._draws) == 1
    assert not forgetful._draws
    assert_equal(numbers[0], numbers[1])
    assert_equal(numbers[0], numbers[2])
