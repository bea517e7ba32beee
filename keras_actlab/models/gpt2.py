"""GPT-2, the language model that Sun et al. (2024) fine-tune with direct preference optimization."""

from os import PathLike
from typing import Any

import keras

from keras_actlab.arguments import check_type
from keras_actlab.conversion import To, swap_activations
from keras_actlab.layers.arguments import positive_integer
from keras_actlab.models import _hub
from keras_actlab.models.arguments import check_activation

BASE = {
    "num_layers": 12,
    "num_heads": 12,
    "hidden_dim": 768,
    "intermediate_dim": 3072,
    "max_sequence_length": 1024,
    "dropout": 0.1,
}


def gpt2(
    preset: str | None = None,
    activation: To | None = None,
    *,
    vocabulary: str | PathLike[str] | dict[str, int] | None = None,
    merges: str | PathLike[str] | list[str] | None = None,
    **size: Any,
) -> keras.Model:
    """Returns keras-hub's GPT-2 with another activation, either pretrained or as a new network of any size.

    Args:
        preset: A preset of `keras_hub.models.GPT2CausalLM.from_preset`: a name such as "gpt2_base_en", whose weights
            and vocabulary are downloaded, or a folder that holds them. None for a new network.
        activation: The activation of the hidden layers: any that `keras_actlab.swap_activations` accepts. None for that
            of GPT-2, the tanh approximation of GELU.
        vocabulary: The integer of each token of a new network, or a JSON file that holds them. keras-hub pads texts
            with 0. If that is "<|endoftext|>", `generate` takes every text for finished.
        merges: The byte-pair merge rules of a new network, or a text file that holds them.
        **size: `num_layers` (12 by default), `num_heads` (12), `hidden_dim` (768), `intermediate_dim` (3072),
            `max_sequence_length` (1024) and `dropout` (0.1) of a new network.

    Returns:
        A `keras_hub.models.GPT2CausalLM`, from texts to logits of the next token, with its preprocessor.

    Raises:
        ValueError: If not exactly one of a preset, and vocabulary with merges, is given, or a size is out of range.
        TypeError: If an argument has the wrong type, or the name of a size is unknown.
        ImportError: If keras-hub is not installed.

    Example:

    >>> tokens = {"vocabulary": {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}, "merges": ["a b"]}
    >>> model = keras_actlab.models.gpt2(
    ...     activation="crrelu", **tokens, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=32
    ... )
    >>> model.count_params()  # 872 of the block, 1 more for epsilon
    9113

    Reference:

    - [Radford et al., 2019](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf),
      "Language Models are Unsupervised Multitask Learners".
    - [Sun et al., 2024](https://arxiv.org/abs/2405.12954), "A Method on Searching Better Activation Functions".
    """
    if activation is not None:
        check_activation(activation)
    is_new = vocabulary is not None and merges is not None
    if is_new == (preset is not None) or (preset is not None and (vocabulary or merges or size)):
        raise ValueError(
            "Either `preset` or both `vocabulary` and `merges` must be given, and sizes only with the latter. "
            f"Received: preset={preset!r}, vocabulary of type {type(vocabulary).__name__}, "
            f"merges of type {type(merges).__name__}, size={size}"
        )
    for name, value, kinds in (("vocabulary", vocabulary, (dict,)), ("merges", merges, (list, tuple))):
        check_type(name, value, (str, PathLike, type(None), *kinds), "a file, or what it holds")
    model = _new(vocabulary, merges, size) if preset is None else _hub.load().GPT2CausalLM.from_preset(preset)
    return model if activation is None else swap_activations(model, activation)


def _new(vocabulary: Any, merges: Any, size: dict[str, Any]) -> keras.Model:
    """Returns a network with initial weights."""
    unknown = sorted(size.keys() - BASE.keys())
    if unknown:
        raise TypeError(f"`size` must hold some of {', '.join(BASE)}. Received: {', '.join(unknown)}")
    size = BASE | size
    for name in BASE.keys() - {"dropout"}:
        positive_integer(name, size[name])
    if size["hidden_dim"] % size["num_heads"]:
        raise ValueError(
            "`num_heads` must divide `hidden_dim`. "
            f"Received: num_heads={size['num_heads']}, hidden_dim={size['hidden_dim']}"
        )
    models = _hub.load()
    vocabulary, merges = (str(one) if isinstance(one, PathLike) else one for one in (vocabulary, merges))
    tokenizer = models.GPT2Tokenizer(vocabulary, merges)
    backbone = models.GPT2Backbone(vocabulary_size=tokenizer.vocabulary_size(), **size)
    preprocessor = models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=size["max_sequence_length"])
    return models.GPT2CausalLM(backbone, preprocessor)
