"""A language model of keras-hub, converted, folded, quantized, and saved as a preset."""

import keras
import numpy as np
import pytest

import keras_actlab
from keras_actlab import models
from tests.backends import numpy

pytestmark = pytest.mark.one_backend

WORDS = [*"0123456789", "00", "<|endoftext|>"]
TEXTS = ["0123456789"] * 8
SIZE = {"num_layers": 2, "num_heads": 4, "hidden_dim": 64, "intermediate_dim": 256, "max_sequence_length": 12}


@pytest.fixture(scope="module")
def task():
    """A causal language model with CRReLU and geometric weights that has learned to count."""
    pytest.importorskip("keras_hub")
    keras.utils.set_random_seed(0)
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    model = models.gpt2(activation="crrelu", vocabulary=vocabulary, merges=["0 0"], dropout=0.0, **SIZE)
    model = keras_actlab.to_gmp(model, check=False)
    model.compile(
        keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True), sampler="greedy"
    )
    model.fit(TEXTS, batch_size=4, epochs=25, shuffle=False, verbose=0)
    return model


def folded(task):
    return keras_actlab.fold(task, check=False)


def generated(task):
    task.compile(sampler="greedy")
    return task.generate(["01", "0123"], max_length=10)


def logits(task):
    return numpy(task({"token_ids": np.arange(10)[None], "padding_mask": np.ones((1, 10), "int32")}))


def kernel_bytes(task):
    """The memory of the kernels of dense layers and embeddings."""
    names = ("kernel", "embeddings", "quantized_kernel")
    return sum(numpy(weight).nbytes for weight in task.backbone.weights if weight.name in names)


@pytest.mark.filterwarnings("ignore:The use of `x.T`")  # of int8 embeddings in Keras 3.15
@pytest.mark.parametrize(
    ("mode", "smaller", "tolerance"), [("int8", 4, 0.1), pytest.param("int4", 6, 0.5, marks=pytest.mark.slow)]
)
def test_a_folded_language_model_generates_the_same_when_quantized(task, mode, smaller, tolerance):
    model = folded(task)
    before, size, texts = logits(model), kernel_bytes(model), generated(model)
    assert texts == ["012345678"] * 2  # with the start token, ten tokens
    keras_actlab.quantize(model, mode)
    assert size / kernel_bytes(model) > smaller * 0.95
    assert np.abs(logits(model) - before).max() < tolerance * np.abs(before).max()
    assert generated(model) == texts


def calibration(model, mode, group_size):
    config = {"awq": keras.quantizers.AWQConfig, "gptq": keras.quantizers.GPTQConfig}[mode]
    tokenizer = model.preprocessor.tokenizer
    return config(TEXTS * 4, tokenizer, num_samples=4, sequence_length=10, group_size=group_size)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Invalid quantization mode")  # of embeddings, which Keras skips
@pytest.mark.parametrize(("mode", "group_size"), [("awq", -1), ("awq", 32), ("gptq", 32)])
def test_calibrated_weights(task, mode, group_size):
    model = folded(task)
    before, texts = logits(model), generated(model)
    keras_actlab.quantize(model, mode, config=calibration(model, mode, group_size))
    blocks = model.backbone.transformer_layers
    assert {block._feedforward_intermediate_dense.quantization_mode for block in blocks} == {mode}
    assert np.abs(logits(model) - before).max() < 0.5 * np.abs(before).max()
    assert generated(model) == texts


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:(Invalid quantization mode|Layer .* does not have a `quantize`)")
def test_keras_still_fails_with_groups_that_quantize_refuses():
    """For a plain model; if it no longer fails, `quantize` need not refuse these group sizes."""
    plain = models.gpt2(vocabulary={word: index for index, word in enumerate(WORDS)}, merges=["0 0"], **SIZE)
    with pytest.raises(ValueError, match=r"variable.shape=\(64, 1\), Received: value.shape=.*64, 2"):
        plain.quantize("gptq", config=calibration(plain, "gptq", -1))


def test_an_unfolded_task_is_refused(task):
    with pytest.raises(ValueError, match="fold it first"):
        keras_actlab.quantize(task, "int8")
    backbone = keras_actlab.to_gmp(folded(task), check=False).backbone  # keras-hub freezes all layers first
    with pytest.raises(ValueError, match="Fold the model first"):
        backbone.enable_lora(2)


@pytest.mark.filterwarnings("ignore:The use of `x.T`")  # of int8 embeddings in Keras 3.15
@pytest.mark.parametrize("form", ["converted", "folded", "int8"])
def test_presets(task, form, tmp_path):
    import keras_hub

    model = task if form == "converted" else folded(task)
    if form == "int8":
        keras_actlab.quantize(model, "int8")
    model.save_to_preset(str(tmp_path))
    loaded = keras_hub.models.GPT2CausalLM.from_preset(str(tmp_path))
    np.testing.assert_allclose(logits(loaded), logits(model), atol=1e-4)
    assert generated(loaded) == generated(model)
    backbone = keras_hub.models.Backbone.from_preset(str(tmp_path))
    inputs = {"token_ids": np.arange(10)[None], "padding_mask": np.ones((1, 10), "int32")}
    np.testing.assert_allclose(numpy(backbone(inputs)), numpy(model.backbone(inputs)), atol=1e-4)
