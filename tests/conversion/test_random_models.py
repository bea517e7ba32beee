"""Convert, fold, save and load small random models: the outputs stay."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_actlab
from keras_actlab import layers
from tests.backends import numpy

# A model may be geometric already.
pytestmark = [pytest.mark.one_backend, pytest.mark.filterwarnings("ignore:Nothing was changed")]

# JAX compiles each operation for each new shape, a second for every model.
EXAMPLES, MANY_EXAMPLES = (15, 50) if keras.backend.backend() == "jax" else (50, 200)

activations = st.sampled_from(["linear", "relu", "leaky_relu", "gelu", "tanh", "PReLU", "CRReLU", "TMAF"])


def activation(name):
    if name == "PReLU":
        return keras.layers.PReLU(shared_axes=[1, 2], alpha_initializer="uniform")
    return {"CRReLU": layers.CRReLU, "TMAF": lambda: layers.TMAF(bandwidth=0)}.get(name, lambda: name)()


@st.composite
def convolutions(draw):
    strides = draw(st.integers(1, 2))
    groups = draw(st.sampled_from([1, 1, 2]))
    kind = draw(st.sampled_from([keras.layers.Conv2D, keras.layers.Conv2D, layers.GmPConv2D]))
    return kind, {
        "filters": 2 * draw(st.integers(1, 3)),
        "kernel_size": (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        "padding": draw(st.sampled_from(["same", "valid"])),
        "strides": strides,
        "dilation_rate": 1 if strides > 1 else draw(st.integers(1, 2)),
        "groups": groups,
        "use_bias": draw(st.booleans()),
        "activation": draw(activations),
    }


dense = st.tuples(
    st.sampled_from([keras.layers.Dense, layers.GmPDense]),
    st.fixed_dictionaries(
        {
            "units": st.integers(1, 4),
            "use_bias": st.booleans(),
            "activation": activations.filter(lambda name: name != "PReLU"),
        }
    ),
)


def build(convolutions, dense, shifts, weight_normalization):
    """A convolutional network with a dense head, some of it geometric, normalized or joined by shortcuts already."""
    x = inputs = keras.Input((12, 12, 2))
    shifts = iter(shifts)
    for kind, arguments in convolutions:
        if next(shifts):
            x = layers.InputMeanNormalization()(x)
        layer = kind(**arguments | {"activation": activation(arguments["activation"])})
        if weight_normalization and kind is keras.layers.Conv2D:
            layer = layers.WeightNormalization(layer)
        y = layer(x)
        x = keras.layers.Add()([x, y]) if x.shape == y.shape else y
    x = keras.layers.GlobalAveragePooling2D()(x)
    for kind, arguments in dense:
        if next(shifts):
            x = layers.MeanOnlyBatchNormalization()(x)
        x = kind(**arguments | {"activation": activation(arguments["activation"])})(x)
    return keras.Model(inputs, x)


ARGUMENTS = {
    "convolutions": st.lists(convolutions(), max_size=2),
    "dense": st.lists(dense, min_size=1, max_size=2),
    "shifts": st.lists(st.booleans(), min_size=4, max_size=4),
    "weight_normalization": st.booleans(),
    "seed": st.integers(0, 2**16),
}


def check(tmp_path_factory, convolutions, dense, shifts, weight_normalization, seed):
    model = build(convolutions, dense, shifts, weight_normalization)
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.standard_normal(weight.shape) / np.sqrt(max(1, np.prod(weight.shape[:-1]))))
    x = rng.standard_normal((2, 12, 12, 2)).astype("float32")
    before = numpy(model(x))
    tolerance = 1e-5 * max(1.0, np.abs(before).max())
    path = tmp_path_factory.mktemp("models") / "model.keras"

    converted = keras_actlab.to_gmp(model)
    np.testing.assert_allclose(numpy(converted(x)), before, rtol=0, atol=tolerance)
    folded = keras_actlab.fold(converted)
    folded.save(path)
    np.testing.assert_allclose(numpy(keras.saving.load_model(path)(x)), before, rtol=0, atol=tolerance)
    left = {
        type(layer).__name__ for layer in folded._flatten_layers() if type(layer).__module__.startswith("keras_actlab")
    }
    assert left <= {"CRReLU", "TMAF"}


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
@given(**ARGUMENTS)
def test_the_outputs_stay(tmp_path_factory, **arguments):
    check(tmp_path_factory, **arguments)


@pytest.mark.slow
@settings(max_examples=MANY_EXAMPLES, deadline=None, derandomize=True, database=None)
@given(**ARGUMENTS)
def test_the_outputs_of_many_models_stay(tmp_path_factory, **arguments):
    check(tmp_path_factory, **arguments)
