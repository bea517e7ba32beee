"""Small members of the model families that conversions promise to work on, each with an input."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import applications

models = pytest.importorskip("keras_hub").models
ResNetV2Backbone = pytest.importorskip("keras_cv").models.ResNetV2Backbone

IMAGE = (16, 16, 3)


def images(size: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, size, size, 3), "float32")


def application(make: Callable, size: int) -> tuple[keras.Model, Any]:
    return make(weights=None, input_shape=(size, size, 3), include_top=False, pooling="avg"), images(size)


def gpt2_backbone(vocabulary_size: int = 50) -> keras.Model:
    return models.GPT2Backbone(
        vocabulary_size=vocabulary_size,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=16,
    )


def tokens() -> dict[str, np.ndarray]:
    return {"token_ids": np.arange(24).reshape(2, 12) % 7, "padding_mask": np.ones((2, 12), bool)}


WORDS = ["<|endoftext|>", "a", "b", "c", "Ġ", "Ġa", "Ġb", "Ġc", "ab", "Ġab"]


def gpt2_causal_lm() -> keras.Model:
    tokenizer = models.GPT2Tokenizer(
        vocabulary={word: index for index, word in enumerate(WORDS)}, merges=["a b", "Ġ a", "Ġ b", "Ġ c", "Ġa b"]
    )
    preprocessor = models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=12)
    return models.GPT2CausalLM(gpt2_backbone(len(WORDS)), preprocessor)


def vit_backbone() -> keras.Model:
    return models.ViTBackbone(image_shape=IMAGE, patch_size=4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)


FAMILIES: dict[str, Callable[[], tuple[keras.Model, Any]]] = {
    "ResNet50": lambda: application(applications.ResNet50, 32),
    "MobileNetV2": lambda: application(applications.MobileNetV2, 32),
    "EfficientNetB0": lambda: application(applications.EfficientNetB0, 32),
    "VGG16": lambda: application(applications.VGG16, 32),
    "GPT2Backbone": lambda: (gpt2_backbone(), tokens()),
    "GPT2CausalLM": lambda: (gpt2_causal_lm(), np.array(["ab a b", "c"])),
    "ViTBackbone": lambda: (vit_backbone(), images(16)),
    "ViTImageClassifier": lambda: (
        models.ViTImageClassifier(vit_backbone(), num_classes=3, intermediate_dim=7, preprocessor=None),
        images(16),
    ),
    "DeiTBackbone": lambda: (
        models.DeiTBackbone(
            image_shape=IMAGE, patch_size=4, num_layers=2, num_heads=2, hidden_dim=16, intermediate_dim=32
        ),
        images(16),
    ),
    "ResNetBackbone": lambda: (
        models.ResNetBackbone(
            input_conv_filters=[64],
            input_conv_kernel_sizes=[3],
            stackwise_num_filters=[64, 64],
            stackwise_num_blocks=[1, 1],
            stackwise_num_strides=[1, 2],
            block_type="basic_block",
            image_shape=IMAGE,
        ),
        images(16),
    ),
    "VGGBackbone": lambda: (
        models.VGGBackbone(stackwise_num_repeats=[1, 1], stackwise_num_filters=[4, 8], image_shape=IMAGE),
        images(16),
    ),
    "ResNetV2Backbone": lambda: (
        ResNetV2Backbone(
            stackwise_filters=[8, 16],
            stackwise_blocks=[2, 2],
            stackwise_strides=[1, 2],
            include_rescaling=False,
            input_shape=(32, 32, 3),
        ),
        images(32),
    ),
}


def randomized(model: keras.Model) -> keras.Model:
    """`model` with weights none of which is special, as after training."""
    rng = np.random.default_rng(2)
    for weight in model.weights:
        noise = 0.1 * rng.standard_normal(weight.shape)
        weight.assign_add(
            abs(noise) if "variance" in weight.path else noise / max(1, np.sqrt(np.prod(weight.shape[:-1])))
        )
    return model
