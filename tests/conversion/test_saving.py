"""Converted models, saved and loaded in a new process on another backend."""

import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import keras_actlab
from tests.backends import OTHERS, numpy
from tests.conversion import test_matrix as matrix
from tests.conversion.families import FAMILIES, gpt2_causal_lm, images, randomized, tokens, vit_backbone

pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.filterwarnings("ignore:`compile\\(\\)` was not called as part of model loading"),
    pytest.mark.filterwarnings("ignore:The structure of `inputs` doesn't match"),
]


def gmp_crrelu(model):
    return keras_actlab.to_gmp(keras_actlab.swap_activations(model, "crrelu"))


def inverted_residual():
    """A block of MobileNetV2, whose 52 convolutions would be made four times here."""
    inputs = x = keras.Input((8, 8, 3))
    for layer in (
        keras.layers.Conv2D(6, 1, use_bias=False),
        keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False),
        keras.layers.Conv2D(3, 1, use_bias=False),
    ):
        x = keras.layers.ReLU(6.0)(keras.layers.BatchNormalization()(layer(x)))
    return keras.Model(inputs, keras.layers.Add()([x, inputs]))


CONVERTED = {
    "inverted residual to_gmp": lambda: (keras_actlab.to_gmp(randomized(inverted_residual())), images(8)),
    "GPT2CausalLM to_gmp": lambda: (keras_actlab.to_gmp(randomized(gpt2_causal_lm())), tokens()),
    "GPT2CausalLM folded": lambda: (keras_actlab.fold(keras_actlab.to_gmp(randomized(gpt2_causal_lm()))), tokens()),
    "ViTBackbone both": lambda: (gmp_crrelu(randomized(vit_backbone())), images(16)),
    "DeiTBackbone tmaf": lambda: (
        keras_actlab.swap_activations(randomized(FAMILIES["DeiTBackbone"]()[0]), "tmaf"),
        images(16),
    ),
    "a converted backbone within": lambda: (
        keras.Sequential([gmp_crrelu(randomized(vit_backbone())), keras.layers.Flatten(), keras.layers.Dense(2)]),
        images(16),
    ),
}
CONVERTED |= {
    f"{case} {conversion}": lambda case=case, conversion=conversion: (
        matrix.converted(case, conversion),
        matrix.CASES[case][1],
    )
    for case in matrix.CASES
    for conversion in matrix.CONVERSIONS
    # The others of keras-hub's GPT-2 are above.
    if (case, conversion) == ("keras-hub", "to_weight_normalization") or case != "keras-hub"
}


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("converted")
    here = {}
    for name, make in CONVERTED.items():
        keras.utils.set_random_seed(0)
        model, x = make()
        folder = directory / name.replace(" ", "_")
        folder.mkdir()
        here[name] = folder, model, numpy(model(x))
        model.save(folder / "model.keras")
        model.save_weights(folder / "model.weights.h5")
        np.savez(folder / "x.npz", **(x if isinstance(x, dict) else {"x": x}))
    return directory, here


@pytest.fixture(scope="session", params=OTHERS[-1:])
def reloaded(saved, request):
    directory, here = saved
    finished = subprocess.run(
        [sys.executable, "-m", "tests.conversion.reload", str(directory)],
        env=os.environ | {"KERAS_BACKEND": request.param},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    results = {}
    for name, (folder, model, output) in here.items():
        with np.load(folder / f"{request.param}.npz") as file:
            results[name] = model, output, dict(file)
    return results


@pytest.mark.parametrize("name", CONVERTED)
def test_a_new_process_computes_the_same(reloaded, name):
    model, output, there = reloaded[name]
    scale = np.abs(output).max()
    np.testing.assert_allclose(there["output"], output, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(there["from_weights"], output, rtol=0, atol=1e-5 * scale)
    kinds = ("GmP", "CRReLU", "TMAF", "WeightNormalization", "Dense", "Conv2D")
    here = [type(layer).__name__ for layer in model._flatten_layers()]
    assert sorted(kind for kind in there["classes"] if kind.startswith(kinds)) == sorted(
        kind for kind in here if kind.startswith(kinds)
    )
    assert "fold" in name or any(kind.startswith(kinds[:4]) for kind in here)


def test_what_is_folded_needs_no_keras_actlab(saved):
    folder, _, _ = saved[1]["GPT2CausalLM folded"]
    with zipfile.ZipFile(folder / "model.keras") as file:
        assert b"keras_actlab" not in file.read("config.json")


def test_a_causal_lm_stays_one(saved):
    model = gpt2_causal_lm()
    converted = keras_actlab.to_gmp(randomized(model))
    assert type(converted) is type(model)
    model.compile(sampler="greedy")
    converted.compile(sampler="greedy")
    prompts = ["a", "ab c", "b b"]
    expected = model.generate(prompts, max_length=10)
    assert converted.generate(prompts, max_length=10) == expected

    # Again from the file, with its preprocessor.
    loaded = keras.saving.load_model(saved[1]["GPT2CausalLM to_gmp"][0] / "model.keras")
    loaded.compile(sampler="greedy")
    assert loaded.generate(prompts, max_length=10) == expected

    before = [weight.copy() for weight in converted.get_weights()]
    converted.compile(keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = converted.fit(np.array(["a b ab", "b b a", "c ab"]), batch_size=3, epochs=3, shuffle=False, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    changed = {
        variable.name
        for variable, old in zip(converted.weights, before, strict=True)
        if not np.array_equal(numpy(variable), old)
    }
    assert {"angles", "radius", "scale"} <= changed


def test_a_file_of_another_architecture():
    converted = keras_actlab.to_gmp(vit_backbone())
    config = keras.saving.serialize_keras_object(converted)
    config["config"]["original"]["config"]["num_layers"] = 1
    with pytest.raises(ValueError, match=r"ViTBackbone .* was saved with a change of a layer that it does not have"):
        keras.saving.deserialize_keras_object(config)
