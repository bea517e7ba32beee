import json

import numpy as np
import pytest

from keras_actlab import conversion, models
from tests.backends import numpy
from tests.conversion.families import WORDS

pytestmark = pytest.mark.one_backend

keras_hub = pytest.importorskip("keras_hub")

MERGES = ["a b", "Ġ a", "Ġ b", "Ġ c", "Ġa b"]
SIZE = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16, "max_sequence_length": 12}


@pytest.fixture
def files(tmp_path):
    vocabulary, merges = tmp_path / "vocabulary.json", tmp_path / "merges.txt"
    vocabulary.write_text(json.dumps({word: index for index, word in enumerate(WORDS)}), encoding="utf-8")
    merges.write_text("\n".join(MERGES), encoding="utf-8")
    return {"vocabulary": vocabulary, "merges": merges}


@pytest.mark.usefixtures("even_starts")
def test_a_new_network(files):
    model = models.gpt2(**files, **SIZE, dropout=0.0)
    assert isinstance(model, keras_hub.models.GPT2CausalLM)
    block = 4 * 8 * (8 + 1) + 2 * 2 * 8 + 16 * (8 + 1) + 8 * (16 + 1)
    assert model.count_params() == (len(WORDS) + 12) * 8 + 2 * block + 2 * 8
    tokens = model.preprocessor.generate_preprocess(["ab c"])
    assert numpy(tokens["token_ids"])[0, :4].tolist() == [0, 8, 7, 0]
    assert tokens["token_ids"].shape == (1, 12)
    assert model.backbone.dropout == 0.0


def test_a_preset_with_another_activation(files, tmp_path):
    vocabulary = json.loads(files["vocabulary"].read_text(encoding="utf-8"))
    model = models.gpt2(vocabulary=vocabulary, merges=MERGES, **SIZE)
    model.save_to_preset(tmp_path / "preset")
    swapped = models.gpt2(str(tmp_path / "preset"), "relu")
    assert len(conversion.report(swapped).changed) == SIZE["num_layers"]
    for one, other in zip(swapped.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, r"Either `preset` or both .*Received: preset=None"),
        ({"vocabulary": {}}, ValueError, r"Either `preset` or both .*merges of type NoneType"),
        ({"preset": "gpt2_base_en", "num_layers": 2}, ValueError, r"Either `preset` .*size=\{'num_layers': 2\}"),
        ({"preset": "gpt2_base_en", "merges": ["a b"]}, ValueError, r"Either `preset` .*merges of type list"),
        ({"vocabulary": {}, "merges": [], "depth": 2}, TypeError, r"`size` must hold some of num_layers.*depth"),
        ({"vocabulary": {}, "merges": [], "num_layers": 0}, ValueError, r"`num_layers` must be positive"),
        ({"vocabulary": {}, "merges": [], "num_heads": 5}, ValueError, r"Received: num_heads=5, hidden_dim=768"),
        ({"preset": "gpt2_base_en", "activation": "gleu"}, ValueError, r"Received: activation='gleu'"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        models.gpt2(**arguments)
