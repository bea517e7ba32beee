import keras
import pytest
from keras import layers

from keras_actlab import swap_activations, to_gmp
from keras_actlab.experiments._description import describe


def act_1(x):
    return x


def act_2(x):
    return x + 4


def compiled(model, loss="mse"):
    model.compile(keras.optimizers.SGD(0.1), loss)
    return model


def sequential(*more, **arguments):
    return compiled(keras.Sequential([keras.Input((3,)), *more]), **arguments)


def functional(units=2, swap=False):
    inputs = {name: keras.Input((3,), name=name) for name in "ab"}
    branches = [layers.Dense(units)(branch) for branch in inputs.values()]
    hidden = layers.Subtract()(branches[::-1] if swap else branches) + 1
    return compiled(keras.Model(inputs, [hidden, layers.ReLU()(hidden)]), loss=["mse", "mae"])


class Holder(layers.Layer):
    def __init__(self, units=2):
        super().__init__()
        self.inner = layers.Dense(units)

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)


@pytest.mark.parametrize(
    "build",
    [
        lambda: sequential(layers.Dense(2), layers.Softmax(), layers.Activation("softmax")),
        lambda: sequential(keras.Sequential([layers.Dense(2)]), Holder(), loss=keras.losses.Huber()),
        lambda: sequential(layers.Reshape((3, 1)), layers.Bidirectional(layers.SimpleRNN(2)), layers.Dense(1)),
        lambda: compiled(swap_activations(sequential(layers.Dense(4, "relu"), layers.Dense(1)), "crrelu")),
        lambda: compiled(to_gmp(sequential(layers.Dense(4, "relu"), layers.Dense(1)))),
        functional,
    ],
    ids=["names of types", "nested", "wrapped", "swapped", "GmP", "graph"],
)
def test_models_that_are_built_alike_are_described_alike(build):
    first = build()
    layers.Dense(1), layers.Softmax(), layers.ReLU()  # Keras counts on
    assert describe(first) is not None
    assert describe(build()) == describe(first)


def test_nested_models_may_share_names():
    """Keras counts names over the process, so a second build gives the same two layers different names."""

    def built(inner_name, outer_name):
        inputs = keras.Input((3,), name="x")
        inner = keras.Model(inputs, layers.Dense(3, name=inner_name)(inputs))
        return compiled(keras.Model(inputs, layers.Dense(3, name=outer_name)(inner(inputs))))

    assert describe(built("dense", "dense")) == describe(built("dense_1", "dense_2"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: sequential(layers.Activation(act_1)), lambda: sequential(layers.Activation(act_2))),
        (lambda: sequential(layers.Dense(2, act_1)), lambda: sequential(layers.Dense(2, act_2))),
        (functional, lambda: functional(3)),
        (functional, lambda: functional(swap=True)),
        (lambda: sequential(Holder()), lambda: sequential(Holder(3))),
        (lambda: sequential(layers.Dense(1)), lambda: sequential(layers.Dense(1), loss="mae")),
        (lambda: sequential(layers.Dense(1)), lambda: sequential(layers.Dense(1, dtype="mixed_bfloat16"))),
    ],
    ids=["functions", "activations", "sizes", "connections", "inner layers", "losses", "dtypes"],
)
def test_models_that_differ_are_described_otherwise(one, other):
    assert describe(one()) != describe(other())


def test_numbers_of_objects_that_are_no_layers_do_not_count():
    """The preprocessor of a keras-hub task is no layer of it, and is numbered by Keras all the same."""

    class Holder(keras.layers.Layer):
        def get_config(self):
            config = {"name": next(names), "trainable": True}
            held = {"module": "hub", "class_name": "GPT2Preprocessor", "config": config, "registered_name": None}
            return super().get_config() | {"held": held}

    def built():
        return keras.Sequential([keras.Input((3,)), Holder()])

    names = iter(["gpt2_preprocessor", "gpt2_preprocessor_7", "chosen_7", "chosen_8"])
    texts = [describe(built()) for _ in range(4)]
    assert texts[0] == texts[1]
    assert len({*texts}) == 3
