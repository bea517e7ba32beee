import math

import keras
import numpy as np
import pytest

from keras_actlab.models import tnt
from tests.backends import numpy

pytestmark = pytest.mark.one_backend


class Reference:
    """Transformer in Transformer in NumPy, patch by patch."""

    def __init__(self, model):
        self.weights = {variable.path: numpy(variable).astype("float64") for variable in model.variables}

    def dense(self, x, name):
        return x @ self.weights[f"{name}/kernel"] + self.weights.get(f"{name}/bias", 0.0)

    def norm(self, x, name):
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5)
        return x * self.weights[f"{name}/gamma"] + self.weights[f"{name}/beta"]

    def attention(self, x, heads, name):
        """Returns attention for one sequence of tokens, head by head."""
        query, key, value = (
            np.split(self.dense(x, f"{name}_{part}"), heads, axis=-1) for part in ("query", "key", "value")
        )
        mixed = []
        for q, k, v in zip(query, key, value, strict=True):
            scores = np.exp(q @ k.T / np.sqrt(q.shape[-1]))
            mixed.append(scores / scores.sum(axis=-1, keepdims=True) @ v)
        return self.dense(np.concatenate(mixed, axis=-1), f"{name}_output")

    def transformer(self, x, heads, name):
        x = x + self.attention(self.norm(x, f"{name}_attention_norm"), heads, f"{name}_attention")
        hidden = self.dense(self.norm(x, f"{name}_mlp_norm"), f"{name}_mlp_hidden")
        hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
        return x + self.dense(hidden, f"{name}_mlp_output")

    def pixels(self, image, patch_size):
        """The pixels of each patch, each a weighted sum of 7 x 7 around its 4 x 4."""
        kernel, bias = (self.weights[f"pixel_embedding/{name}"] for name in ("kernel", "bias"))
        padded = np.pad(image, ((3, 3), (3, 3), (0, 0)))
        for top in range(0, image.shape[0], patch_size):
            for left in range(0, image.shape[1], patch_size):
                yield np.array(
                    [
                        np.einsum("ijc,ijco->o", padded[row : row + 7, column : column + 7], kernel) + bias
                        for row in range(top, top + patch_size, 4)
                        for column in range(left, left + patch_size, 4)
                    ]
                )

    def logits(self, image, patch_size, blocks, heads, inner_heads):
        inner = [one + self.weights["pixel_positions/positions"][0] for one in self.pixels(image, patch_size)]
        outer = self.norm(np.array([one.ravel() for one in inner]), "pixels_norm")
        outer = self.norm(self.dense(outer, "patch_embedding"), "patches_norm")
        outer = np.concatenate([self.weights["patch_positions/token"][0], outer])
        outer = outer + self.weights["patch_positions/positions"][0]
        for block in range(1, blocks + 1):
            inner = [self.transformer(one, inner_heads, f"block{block}_inner") for one in inner]
            for patch, one in enumerate(inner, start=1):
                one = self.norm(one, f"block{block}_pixels_norm")
                outer[patch] += self.dense(one.ravel(), f"block{block}_projection")
            outer = self.transformer(outer, heads, f"block{block}_outer")
        return self.dense(self.norm(outer, "norm")[0], "logits")


@pytest.mark.usefixtures("even_starts")
def test_the_output_equals_the_formula():
    size = {"blocks": 2, "heads": 3, "inner_heads": 2}
    model = tnt.network((16, 24, 3), 5, 8, "gelu", **size, dim=12, inner_dim=6)
    rng = np.random.default_rng(1)
    for variable in model.variables:
        variable.assign(0.5 * rng.normal(size=variable.shape))
    x = rng.normal(size=(2, 16, 24, 3)).astype("float32")
    reference = Reference(model)
    expected = [reference.logits(image, 8, **size) for image in x]
    np.testing.assert_allclose(model.predict_on_batch(x), expected, rtol=1e-4, atol=1e-4)


def test_positions_and_tokens_each_start_differently():
    layer = tnt.LearnedPositions(class_token=True)
    layer.build((None, 4, 50))
    assert tuple(layer.token.shape) == (1, 1, 50)
    starts = np.concatenate([numpy(layer.token), numpy(layer.positions)], axis=1)
    assert len(np.unique(starts)) == starts.size == 6 * 50
    assert 0.015 < starts.std() < 0.02  # truncated at two standard deviations


def test_a_loaded_layer_of_positions_has_its_token(tmp_path):
    model = keras.Sequential([keras.Input((3, 2)), tnt.LearnedPositions(class_token=True, name="positions")])
    path = tmp_path / "model.keras"
    model.save(path)
    x = np.ones((2, 3, 2))
    found = numpy(keras.saving.load_model(path)(x))
    layer = model.layers[0]
    expected = np.concatenate([np.repeat(numpy(layer.token), 2, axis=0), x], axis=1) + numpy(layer.positions)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert model.output_shape == (None, 4, 2)


def test_dense_layers_start_as_the_authors_do():
    layer = tnt.dense(keras.Input((50,)), 40, "dense")._keras_history.operation
    assert 0.015 < numpy(layer.kernel).std() < 0.02
    np.testing.assert_array_equal(numpy(layer.bias), 0.0)
