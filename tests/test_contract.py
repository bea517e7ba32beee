"""The contract of every exported class."""

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import pytest

import keras_actlab
from keras_actlab import constraints, initializers, layers
from tests.backends import OTHERS, numpy, on_one_backend
from tests.replay import compute


@dataclass
class Case:
    """A layer that the contract applies to."""

    make: Callable[..., keras.Layer]  # accepts the base layer's arguments
    shape: tuple[int, ...]  # of the input, the batch included
    channels_first: Callable[..., keras.Layer] | None = None  # the same layer for channels on axis 1
    keeps_mask: bool = True
    learns: bool = True


def _case(cls, shape, channels_first=None, keeps_mask=True, learns=True, **arguments):
    def make(**kwargs):
        return cls(**arguments, **kwargs)

    def make_first(**kwargs):
        return cls(**arguments | channels_first, **kwargs)

    return Case(make, shape, make_first if channels_first else None, keeps_mask, learns)


AXIS = {"axis": 1}
FIRST = {"data_format": "channels_first"}
IMAGE = (4, 6, 7, 5)


def _normalized(cls, shape, channels_first=None, keeps_mask=False, **arguments):
    """Weight normalization of a Keras layer, which shares its dtype."""

    def layer(dtype=None, **base):
        return layers.WeightNormalization(cls(**arguments, dtype=dtype), dtype=dtype, **base)

    def layer_first(dtype=None, **base):
        return layers.WeightNormalization(cls(**arguments | channels_first, dtype=dtype), dtype=dtype, **base)

    return Case(layer, shape, layer_first if channels_first else None, keeps_mask)


CASES = {
    "CRReLU": _case(layers.CRReLU, (4, 5)),
    "CRReLU per channel": _case(layers.CRReLU, IMAGE, AXIS, axis=-1, epsilon_initializer=0.3),
    "EntropyActivation": _case(layers.EntropyActivation, (4, 5)),
    "EntropyActivation monotone with sample": _case(
        layers.EntropyActivation, IMAGE, {}, activation="gelu", num_knots=9, monotone=True, sample_size=20,
        values_regularizer="l2",
    ),
    "TMAF": _case(layers.TMAF, (4, 5), AXIS),
    "TMAF diagonal shared": _case(layers.TMAF, IMAGE, AXIS, bandwidth=0, shared=True),
    "TMAF full": _case(layers.TMAF, IMAGE, AXIS, bandwidth="full", thresholds=(0.0,)),
    "TMAF trained thresholds": _case(layers.TMAF, IMAGE, AXIS, bandwidth=2, train_thresholds=True),
    "GmPDense": _case(layers.GmPDense, (4, 5), units=3, activation="relu"),
    "GmPDense on steps": _case(layers.GmPDense, (4, 6, 5), units=3, use_bias=False, scale_inside=True),
    "GmPDense fan-in 1": _case(layers.GmPDense, (4, 1), units=3),
    "GmPDense with layer": Case(lambda **base: layers.GmPDense(3, layers.TMAF(name="inner"), **base), (4, 5)),
    "GmPConv1D": _case(
        layers.GmPConv1D, (4, 8, 5), FIRST, keeps_mask=False, filters=3, kernel_size=3, padding="causal"
    ),
    "GmPConv2D": _case(
        layers.GmPConv2D, IMAGE, FIRST, keeps_mask=False, filters=4, kernel_size=3, padding="same", activation="gelu"
    ),
    "GmPConv2D from kernel": _case(
        layers.GmPConv2D, (4, 6, 7, 4), FIRST, keeps_mask=False, filters=6, kernel_size=2, groups=2, strides=(2, 1),
        kernel_initializer="glorot_uniform", angles_regularizer="l2", scale_constraint="non_neg",
    ),
    "GmPConv2D with layer": Case(
        lambda **base: layers.GmPConv2D(3, 3, activation=layers.CRReLU(axis=-1), **base), IMAGE,
        lambda **base: layers.GmPConv2D(3, 3, activation=layers.CRReLU(axis=1), data_format="channels_first", **base),
        keeps_mask=False,
    ),
    "GmPConv3D": _case(layers.GmPConv3D, (4, 4, 5, 6, 2), FIRST, keeps_mask=False, filters=3, kernel_size=2),
    "GmPConv1DTranspose": _case(
        layers.GmPConv1DTranspose, (4, 8, 5), FIRST, keeps_mask=False, filters=3, kernel_size=3, strides=2
    ),
    "GmPConv2DTranspose": _case(
        layers.GmPConv2DTranspose, IMAGE, FIRST, keeps_mask=False, filters=4, kernel_size=2, strides=2,
        output_padding=1, activation="relu",
    ),
    "GmPConv3DTranspose": _case(
        layers.GmPConv3DTranspose, (4, 2, 3, 2, 2), FIRST, keeps_mask=False, filters=2, kernel_size=2
    ),
    "GmPDepthwiseConv1D": _case(
        layers.GmPDepthwiseConv1D, (4, 8, 5), FIRST, keeps_mask=False, kernel_size=3, use_bias=False
    ),
    "GmPDepthwiseConv2D": _case(
        layers.GmPDepthwiseConv2D, IMAGE, FIRST, keeps_mask=False, kernel_size=3, depth_multiplier=2, activation="gelu"
    ),
    "GmPEinsumDense": _case(
        layers.GmPEinsumDense, (4, 6, 5), keeps_mask=False, equation="abc,cde->abde", output_shape=(None, 2, 3),
        bias_axes="de", activation="relu",
    ),
    "GmPEinsumDense with a plain bias": _case(
        layers.GmPEinsumDense, (4, 6, 5), keeps_mask=False, equation="abc,bcd->abd", output_shape=(6, 3),
        bias_axes="d", scale_inside=True,
    ),
    "GmPSeparableConv1D": _case(
        layers.GmPSeparableConv1D, (4, 8, 5), FIRST, keeps_mask=False, filters=3, kernel_size=3
    ),
    "GmPSeparableConv2D": _case(
        layers.GmPSeparableConv2D, IMAGE, FIRST, keeps_mask=False, filters=4, kernel_size=3, depth_multiplier=2,
        padding="same", activation="relu",
    ),
    "InputMeanNormalization": _case(layers.InputMeanNormalization, IMAGE, AXIS, learns=False, momentum=0.9),
    "MeanOnlyBatchNormalization": _case(
        layers.MeanOnlyBatchNormalization, IMAGE, AXIS, momentum=0.9, beta_regularizer="l2"
    ),
    "WeightNormalization Dense": _normalized(keras.layers.Dense, (4, 6, 5), keeps_mask=True, units=3),
    "WeightNormalization Dense with layer": Case(
        lambda dtype=None, **base: layers.WeightNormalization(
            keras.layers.Dense(3, activation=layers.CRReLU(axis=-1), dtype=dtype), dtype=dtype, **base
        ),
        (4, 5),
    ),
    "WeightNormalization EinsumDense": _normalized(
        keras.layers.EinsumDense, (4, 6, 5), equation="abc,cde->abde", output_shape=(6, 2, 3), bias_axes="de"
    ),
    "WeightNormalization Conv2D": _normalized(
        keras.layers.Conv2D, IMAGE, FIRST, filters=4, kernel_size=3, activation="relu", kernel_regularizer="l2"
    ),
    "WeightNormalization Conv2DTranspose": _normalized(
        keras.layers.Conv2DTranspose, IMAGE, FIRST, filters=4, kernel_size=2, strides=2
    ),
    "WeightNormalization DepthwiseConv2D": _normalized(
        keras.layers.DepthwiseConv2D, IMAGE, FIRST, kernel_size=3, depth_multiplier=2
    ),
    "WeightNormalization SeparableConv2D": _normalized(
        keras.layers.SeparableConv2D, IMAGE, FIRST, filters=4, kernel_size=3, padding="same"
    ),
}  # fmt: skip
NO_LAYERS = {
    "UniformSphereAngles": initializers.UniformSphereAngles(seed=3),
    "CanonicalAngles": constraints.CanonicalAngles(),
    "Increasing": constraints.Increasing(),
    "NonDecreasing": constraints.NonDecreasing(),
}

# It has no weights, and its outputs are random: `tests/layers/test_rand_augment.py` has its contract.
RANDOM = {"RandAugment"}

# They share all code but the convolution with a case that every backend runs.
RELATIVES = (
    "GmPConv1D", "GmPConv1DTranspose", "GmPConv3DTranspose", "GmPDepthwiseConv1D", "GmPSeparableConv1D",
    "WeightNormalization Conv2D", "WeightNormalization Conv2DTranspose", "WeightNormalization DepthwiseConv2D",
    "WeightNormalization SeparableConv2D",
)  # fmt: skip
# Their differences from a case that every backend runs are compared with NumPy in other tests.
VARIANTS = (
    "CRReLU per channel", "TMAF diagonal shared", "TMAF full", "GmPDense on steps", "GmPDense fan-in 1",
    "GmPDense with layer", "GmPConv2D from kernel", "GmPConv2D with layer", "GmPConv3D",
    "GmPEinsumDense with a plain bias", "WeightNormalization Dense with layer", "WeightNormalization EinsumDense",
)  # fmt: skip
ON_EACH_BACKEND = [name for name in CASES if name not in RELATIVES + VARIANTS]
each_case = pytest.mark.parametrize("name", ON_EACH_BACKEND + on_one_backend(*RELATIVES, *VARIANTS))


def data(shape, seed=1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def randomized(model: keras.Model) -> keras.Model:
    """Changes every variable from its initial value, except for variables of a fixed form."""
    rng = np.random.default_rng(2)
    for variable in model.variables:
        if variable.name not in ("knots", "sampled", "sign"):
            variable.assign(numpy(variable) + rng.uniform(-0.3, 0.3, variable.shape).astype("float32"))
    return model


def functional(layer: keras.Layer, shape) -> keras.Model:
    inputs = keras.Input(shape[1:])
    return keras.Model(inputs, layer(inputs))


def test_the_table_names_every_exported_class():
    in_table = {type(case.make()).__name__ for case in CASES.values()} | set(NO_LAYERS) | RANDOM
    exported = {name for module in (layers, initializers, constraints) for name in vars(module) if name[0].isupper()}
    exported &= {
        name
        for module in (layers, initializers, constraints)
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__.startswith("keras_actlab")
    }
    assert in_table == exported


@each_case
def test_config_round_trip(name):
    layer = CASES[name].make(name="under_test", dtype="mixed_bfloat16")
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    restored = keras.saving.deserialize_keras_object(config)
    assert type(restored) is type(layer)
    # An argument that is missing in the config is missing in that of the restored layer, too.
    arguments = set(inspect.signature(type(layer)).parameters) - {"kwargs", "activity_regularizer"}
    assert arguments <= set(config["config"])
    assert json.loads(json.dumps(keras.saving.serialize_keras_object(restored))) == config
    assert restored.dtype_policy.name == "mixed_bfloat16"


@pytest.mark.parametrize("name", NO_LAYERS)
def test_config_round_trip_of_others(name):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(NO_LAYERS[name])))
    assert config["registered_name"] == f"keras_actlab>{name}"
    restored = keras.saving.deserialize_keras_object(config)
    assert restored.get_config() == NO_LAYERS[name].get_config()


@each_case
def test_shapes(name):
    case = CASES[name]
    layer = case.make()
    symbolic = layer(keras.Input(case.shape[1:]))
    eager = layer(data(case.shape))
    expected = tuple(eager.shape)
    assert symbolic.shape == (None, *expected[1:])
    assert tuple(layer.compute_output_shape(case.shape)) == expected
    assert tuple(layer.compute_output_shape((None, *case.shape[1:]))) == (None, *expected[1:])


@each_case
@pytest.mark.parametrize("policy", ["mixed_bfloat16", *on_one_backend("float32", "mixed_float16")])
def test_dtypes(name, policy):
    case = CASES[name]
    full = randomized(functional(case.make(), case.shape))
    mixed = functional(case.make(dtype=policy), case.shape)
    mixed.set_weights(full.get_weights())
    # Numbers that every dtype represents exactly, so that none crosses a threshold of TMAF by rounding.
    x = numpy(keras.ops.cast(keras.ops.cast(data(case.shape), "bfloat16"), "float32"))
    y = mixed(x)
    assert keras.backend.standardize_dtype(y.dtype) == mixed.layers[-1].compute_dtype
    assert {variable.dtype for variable in mixed.variables if variable.name != "sampled"} <= {"float32"}
    expected = numpy(full(x))
    tolerance = {"float32": 1e-6, "mixed_bfloat16": 3e-2, "mixed_float16": 4e-3}[policy]
    found = numpy(keras.ops.cast(y, "float32"))
    np.testing.assert_allclose(found, expected, atol=tolerance * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize(
    "name",
    [name for name in ON_EACH_BACKEND if CASES[name].channels_first]
    + on_one_backend(*(name for name in (*RELATIVES, *VARIANTS) if CASES[name].channels_first)),
)
def test_channels_first(name):
    case = CASES[name]
    x = data(case.shape)
    last = randomized(functional(case.make(), case.shape))
    moved = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    first = functional(case.channels_first(), moved.shape)
    first.set_weights(last.get_weights())
    for training in (False, True):
        found = np.moveaxis(numpy(first(moved, training=training)), 1, -1)
        np.testing.assert_allclose(found, numpy(last(x, training=training)), atol=1e-5)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.keeps_mask and len(case.shape) > 2])
def test_masks_pass_through(name):
    case = CASES[name]
    inputs = keras.Input(case.shape[1:])
    mask = keras.ops.any(keras.ops.not_equal(inputs, 0.0), axis=tuple(range(2, len(case.shape))))
    inputs._keras_mask = mask
    outputs = case.make()(inputs)
    assert outputs._keras_mask is mask


@each_case
@pytest.mark.parametrize("jit_compile", [True, *on_one_backend(False)])
def test_training_lowers_the_loss(name, jit_compile):
    if jit_compile and keras.backend.backend() == "torch":
        pytest.skip("a minute for each; test_torch_compiles_a_training_step compiles all layers as one model")
    case = CASES[name]
    x = data(case.shape)
    layer = case.make()
    model = keras.Sequential([keras.Input(case.shape[1:]), layer, keras.layers.Flatten(), keras.layers.Dense(1)])
    before = [numpy(weight).copy() for weight in layer.trainable_weights]
    model.compile(optimizer=keras.optimizers.SGD(1e-2), loss="mse", jit_compile=jit_compile)
    target = np.ones((len(x), 1), "float32")
    losses = [float(model.train_on_batch(x, target)) for _ in range(4)]
    assert losses[-1] < losses[0]
    assert case.learns == bool(before)
    for weight, old in zip(layer.trainable_weights, before, strict=True):
        assert not np.array_equal(numpy(weight), old), weight.path


@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="elsewhere jit_compile=True is cheap enough for each layer"
)
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PyTorch's compiler warns about its own code
def test_torch_compiles_a_training_step():
    """PyTorch takes half a minute for the smallest layer, most of it in Keras' training step, and minutes for these."""
    chain = [
        layers.InputMeanNormalization(),
        layers.GmPConv2D(4, 3, activation=layers.TMAF(train_thresholds=True)),
        keras.layers.Flatten(),
        layers.GmPDense(3),
        layers.CRReLU(),
        layers.EntropyActivation(monotone=True, sample_size=16),
        layers.WeightNormalization(keras.layers.Dense(3)),
        layers.MeanOnlyBatchNormalization(),
    ]
    shape = (8, 8, 2)
    model = keras.Sequential([keras.Input(shape), *chain, keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.SGD(1e-2), loss="mse", jit_compile=True)
    x, target = data((4, *shape)), np.ones((4, 1), "float32")
    losses = [float(model.train_on_batch(x, target)) for _ in range(4)]
    assert losses[-1] < losses[0]


class Subclassed(keras.Model):
    """A model that builds its layers at the first call."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.flatten = keras.layers.Flatten()
        self.head = keras.layers.Dense(1)

    def call(self, inputs):
        return self.head(self.flatten(self.layer(inputs)))


# A layer that makes its variables while a step is traced; the others make theirs in the same functions.
TRACED = ["TMAF", "EntropyActivation", "GmPDense with layer", "GmPConv2D", "WeightNormalization Dense with layer"]


@pytest.mark.parametrize("name", TRACED + on_one_backend(*(name for name in CASES if name not in TRACED)))
@pytest.mark.parametrize("kind", ["subclassed", *on_one_backend("sequential")])
def test_models_that_are_built_by_fit(name, kind):
    case = CASES[name]
    layer = case.make()
    if kind == "sequential":
        model = keras.Sequential([layer, keras.layers.Flatten(), keras.layers.Dense(1)])
    else:
        model = Subclassed(layer)
    model.compile(optimizer="sgd", loss="mse")
    model.fit(data(case.shape), np.ones((case.shape[0], 1)), verbose=0)
    for variable in model.variables:
        assert np.all(np.isfinite(numpy(variable))), variable.path
    if isinstance(layer, layers.GmPDense | layers.GmPConv2D):
        norms = np.linalg.norm(numpy(layer.direction).reshape(-1, layer.units), axis=0)
        np.testing.assert_allclose(norms, 1.0, rtol=1e-5)


@each_case
def test_integer_input_gives_the_compute_dtype(name):
    case = CASES[name]
    layer = case.make(dtype="mixed_bfloat16")
    assert keras.backend.standardize_dtype(layer(np.ones(case.shape, "int32")).dtype) == "bfloat16"


@pytest.mark.one_backend  # Keras compares shapes before a backend computes
@pytest.mark.parametrize("name", [name for name in CASES if "EinsumDense" not in name])  # it checks the rank only
def test_another_number_of_channels(name):
    case = CASES[name]
    layer = case.make()
    layer(data(case.shape))
    # One function for all channels.
    if name in ("CRReLU", "EntropyActivation", "EntropyActivation monotone with sample"):
        layer(data((4, 9)))
    else:
        with pytest.raises(ValueError, match=r"incompatible with the layer: expected axis"):
            layer(data((*case.shape[:-1], case.shape[-1] + 1)))


@each_case
def test_an_empty_batch(name):
    case = CASES[name]
    layer = case.make()
    layer(data(case.shape))
    empty = data(case.shape)[:0]
    trains = "training" in inspect.signature(layer.call).parameters
    for call in ({}, {"training": True}) if trains else ({},):
        assert tuple(layer(empty, **call).shape) == tuple(layer.compute_output_shape(empty.shape))
    for variable in layer.variables:
        assert np.all(np.isfinite(numpy(variable))), variable.path


@each_case
@pytest.mark.parametrize("policy", ["mixed_bfloat16", *on_one_backend("float16")])
def test_a_stateless_call_gives_the_compute_dtype(name, policy):
    case = CASES[name]
    layer = case.make(dtype=policy)
    layer.build(case.shape)
    state = [[variable.value for variable in of] for of in (layer.trainable_variables, layer.non_trainable_variables)]
    outputs, _ = layer.stateless_call(*state, data(case.shape))
    assert keras.backend.standardize_dtype(outputs.dtype) == layer.compute_dtype


@each_case
def test_unknown_arguments(name):
    with pytest.raises(ValueError, match="Unrecognized keyword arguments"):
        CASES[name].make(bandwith=3)


@each_case
def test_unknown_dtype(name):
    with pytest.raises(ValueError, match="float7"):
        CASES[name].make(dtype="float7")


SAVED = {name: CASES[name] for name in ON_EACH_BACKEND}


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Saves each case as a model, with its outputs on this backend."""
    directory = tmp_path_factory.mktemp("contract")
    keras.utils.set_random_seed(0)
    here = {}
    for name, case in SAVED.items():
        folder = directory / name.replace(" ", "_")
        folder.mkdir()
        model = randomized(functional(case.make(), case.shape))
        x, cotangent = data(case.shape), data(model.compute_output_shape(case.shape), seed=3)
        here[name] = folder, compute(model, x, cotangent)
        model.save(folder / "model.keras")
        model.save_weights(folder / "model.weights.h5")
        np.savez(folder / "data.npz", x=x, cotangent=cotangent)
    return directory, here


@pytest.fixture(scope="session", params=OTHERS)
def replayed(saved, request):
    """Returns the outputs of the saved models, loaded in a new process on another backend."""
    directory, here = saved
    environment = os.environ | {"KERAS_BACKEND": request.param}
    command = [sys.executable, "-m", "tests.replay", str(directory)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    results = {}
    for name, (folder, computed_here) in here.items():
        with np.load(folder / f"{request.param}.npz") as computed_there:
            results[name] = computed_here, dict(computed_there)
    return results


@pytest.mark.one_backend  # it compares with each of the other backends
@pytest.mark.parametrize("name", SAVED)
def test_files_hold_the_raw_variables(replayed, name):
    here, there = replayed[name]
    for key, value in here.items():
        if key.startswith("variable"):
            np.testing.assert_array_equal(there[key], value, err_msg=key)
            np.testing.assert_array_equal(there[key.replace("variable", "weights file")], value, err_msg=key)


@pytest.mark.one_backend
@pytest.mark.parametrize("name", SAVED)
def test_backends_agree(replayed, name):
    here, there = replayed[name]
    for key, value in here.items():
        tolerance = 1e-4 if key.startswith("gradient") else 1e-5
        scale = max(np.abs(value).max(initial=0.0), 1e-3)
        np.testing.assert_allclose(there[key], value, atol=tolerance * scale, rtol=0, err_msg=key)


@pytest.mark.one_backend
def test_what_needs_an_extra_is_imported_on_its_first_use():
    pytest.importorskip("matplotlib")
    code = """
import sys, keras
before = set(sys.modules)
import keras_actlab
heavy = {"matplotlib", "pandas", "scipy", "sklearn", "keras_hub", "keras_nlp", "keras_cv"}
assert not heavy & (set(sys.modules) - before)
assert {"eafo", "experiments"} <= set(dir(keras_actlab)) and "plots" in dir(keras_actlab.cab)
lazy = "eafo", "experiments", "cab.plots"
assert not {f"keras_actlab.{name}" for name in lazy} & set(sys.modules)
for module in (keras_actlab, keras_actlab.cab):
    try:
        module.plot
    except AttributeError as error:
        assert "has no attribute 'plot'" in str(error)
find = lambda: keras_actlab.eafo, lambda: keras_actlab.experiments, lambda: keras_actlab.cab.plots

# Without the packages of the extra.
extra = {name: sys.modules.pop(name) for name in set(sys.modules) if name.split(".")[0] in ("matplotlib", "pandas")}
sys.modules["pandas"] = sys.modules["matplotlib"] = None
for get in find:
    try:
        get()
    except ImportError as error:
        print(error)

del sys.modules["pandas"], sys.modules["matplotlib"]
sys.modules.update(extra)
assert [get().__name__ for get in find] == [f"keras_actlab.{name}" for name in lazy]
import keras_actlab.trackers
assert not {"tensorboardX", "wandb", "mlflow", "optuna", "keras_tuner"} & set(sys.modules)
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    for name in ("eafo", "experiments", "cab.plots"):
        assert f"keras_actlab.{name} needs" in finished.stdout, finished.stdout
    assert finished.stdout.count("pip install 'keras-actlab[lab]'") == 3


def test_public_names():
    for module in (keras_actlab, keras_actlab.layers, keras_actlab.ops):
        for name in module.__all__:
            assert hasattr(module, name)
