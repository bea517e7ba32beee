import grain
import keras
import numpy as np
import pandas as pd
import pytest

from keras_actlab.experiments._fit_key import differences, fit_key, shown

X = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")


def network(activation="relu", units=4, dropout=0.5, policy="float32"):
    layers = [keras.layers.Dense(units, activation), keras.layers.Dropout(dropout), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    for layer in layers:
        layer.dtype_policy = keras.DTypePolicy(policy)
    return model


def compiled(model=None, optimizer=None, loss="mse", **arguments):
    model = model or network()
    model.compile(optimizer or keras.optimizers.Adam(0.1), loss, **arguments)
    model.optimizer.build(model.trainable_variables)
    return model


def data(x=X):
    return grain.MapDataset.source([(part, part[:, :1]) for part in np.split(x, 3)]).repeat()


def found(model=None, batches=None, settings=None, validation=None, **numbers):
    numbers = {"steps_per_epoch": 3, "epochs": 2, "seed": 0, "save_every": 9} | numbers
    return fit_key(model or compiled(), batches or data(), validation, settings or {}, **numbers)


@pytest.fixture(scope="module")
def plain():
    return found()


def cosine(steps):
    return keras.optimizers.schedules.CosineDecay(0.1, steps)


ADAM, SGD = keras.optimizers.Adam, keras.optimizers.SGD
OTHERS = {
    "activation": (lambda: compiled(network("gelu")), "layers[1].config.activation='gelu', there 'relu'"),
    "units": (lambda: compiled(network(units=5)), "layers[1].config.units=5, there 4"),
    "dropout": (lambda: compiled(network(dropout=0.2)), "layers[2].config.rate=0.2, there 0.5"),
    "dtype policy": (lambda: compiled(network(policy="mixed_bfloat16")), "'mixed_bfloat16', there 'float32'"),
    "optimizer": (lambda: compiled(optimizer=SGD(0.1)), "optimizer.class_name='SGD', there 'Adam'"),
    "learning rate": (lambda: compiled(optimizer=ADAM(0.2)), "optimizer.config.learning_rate=0.2"),
    "schedule": (lambda: compiled(optimizer=ADAM(cosine(9))), "optimizer.config.learning_rate={'module'"),
    "accumulation": (
        lambda: compiled(optimizer=ADAM(0.1, gradient_accumulation_steps=2)),
        "optimizer.config.gradient_accumulation_steps=2, there None",
    ),
    "loss": (lambda: compiled(loss="mae"), "compiled.loss='mae', there 'mse'"),
    "metrics": (lambda: compiled(metrics=["mae"]), "compiled.metrics=['mae'], there None"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_difference_is_named(plain, kind):
    make, words = OTHERS[kind]
    text = "; ".join(differences(found(make()), plain))
    assert words in text


def test_schedules_differ_by_their_numbers():
    one, other = (found(compiled(optimizer=ADAM(cosine(steps)))) for steps in (9, 8))
    (text,) = differences(one, other)
    assert text == "optimizer.config.learning_rate.config.decay_steps=9, there 8"


def test_data_settings_and_numbers_are_compared(plain):
    changed = X.copy()
    changed[0, 0] += 1
    assert differences(found(batches=data(changed)), plain)[0].startswith("batches.first[2]=")
    assert differences(found(settings={"rate": 0.1}), plain) == ["settings.rate=0.1, there None"]
    assert differences(found(epochs=3), plain)[0] == "epochs=3, there 2"
    assert any("validation" in text for text in differences(found(validation=data()[:2]), plain))


def test_the_same_model_built_again_is_the_same(plain):
    again = found(compiled())  # its layers have other numbers in their names
    assert again == plain
    assert "dense_" not in str(again["model"])


def test_which_layer_is_called_counts_and_its_name_does_not():
    def graph(shared, prefix):
        first, second = (keras.layers.Activation(name, name=f"{prefix}{name}") for name in ("relu", "tanh"))
        x = keras.Input((3,))
        return compiled(
            keras.Model(x, keras.layers.Dense(1)(keras.layers.Add()([first(x), (second, first)[shared](x)])))
        )

    assert not differences(found(graph(False, "a")), found(graph(False, "b")))
    assert differences(found(graph(True, "a")), found(graph(False, "a")))


class WithoutConfig(keras.layers.Layer):
    def __init__(self, units, act):
        super().__init__()
        self.dense = keras.layers.Dense(units, act)

    def call(self, inputs):
        return self.dense(inputs)

    def get_config(self):
        raise NotImplementedError


def test_of_a_model_without_a_configuration_that_of_its_layers_counts():
    def make(act):
        return found(compiled(keras.Sequential([keras.Input((3,)), WithoutConfig(1, act)])))

    assert make("relu")["model"]["class_name"] == "Sequential"
    assert not differences(make("relu"), make("relu"))
    (text,) = differences(make("relu"), make("tanh"))
    assert text.endswith("activation='relu', there 'tanh'")


def test_functions_are_known_by_their_names():
    def one(y, prediction):
        return keras.ops.mean(keras.ops.abs(y - prediction))

    unnamed = [found(compiled(loss=lambda y, prediction: keras.ops.mean(y - prediction))) for _ in range(2)]
    assert not differences(*unnamed)
    assert differences(found(compiled(loss=one)), unnamed[0])


def test_settings_may_hold_what_json_cannot_write_and_nothing_that_it_cannot_hold():
    text = found(settings={"rate": float("nan"), "range": (1, float("inf")), "seed": 3})
    assert text["settings"] == {"rate": "nan", "range": [1, "inf"], "seed": 3}
    with pytest.raises(TypeError, match=r"`settings` must hold what JSON can. Received: rate=<object"):
        found(settings={"rate": object()})


@pytest.mark.parametrize(
    ("part", "name"), [(pd.DataFrame(X), "DataFrame"), (3.0, "float"), ([1.0, 2.0], "float"), (X[0, 0], "float32")]
)
def test_batches_hold_arrays(part, name):
    with pytest.raises(TypeError, match=f"`batches` must hold arrays.*at 0 a {name}"):
        found(batches=grain.MapDataset.source([(part, X)]).repeat())


def test_batches_must_be_the_same_each_time():
    rng = np.random.default_rng(0)
    noisy = data().map(lambda batch: (batch[0] + rng.normal(), batch[1]))
    with pytest.raises(ValueError, match="`batches` must give the same batch each time that it is read"):
        found(batches=noisy)
    with pytest.raises(ValueError, match="`batches` must have a batch at each index: do not filter it"):
        found(batches=data().filter(lambda batch: False))


def test_few_of_many_differences_are_shown():
    texts = [f"a[{number}]=1, there 2" for number in range(9)]
    assert shown(texts).endswith("a[4]=1, there 2; and 4 more")
    assert shown(texts[:2]) == "a[0]=1, there 2; a[1]=1, there 2"
    assert differences([1, 2], [1]) == ["=[1, 2], there [1]"]
