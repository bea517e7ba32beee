"""TNT-Small, a network that Sun et al. (2024) train on CIFAR."""

from typing import Any

import keras
from keras import ops

from keras_actlab.conversion import To, swap_activations
from keras_actlab.models.arguments import check_activation, check_images, check_patches
from keras_actlab.ops.tensor import Tensor

PIXEL = 4  # image pixels along one side of an inner transformer's pixel: the stride of the first convolution


def tnt_small(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    classes: int = 10,
    patch_size: int = 4,
    activation: To = "gelu",
) -> keras.Model:
    """Returns TNT-Small, a transformer over patches with a transformer over the pixels of each patch.

    A 7 x 7 convolution with strides of 4 computes the pixels, with 24 channels each. A block has three steps: attention
    among the pixels of a patch (4 heads), addition of a projection of these pixels to their patch (384 channels), and
    attention among patches and class token (6 heads). After 12 blocks, a dense layer maps the class token to the
    logits.

    A patch of 4 x 4 has a single pixel, so that queries and keys of the inner transformers have no effect. A patch of
    16 x 16 has 16 pixels.

    Args:
        input_shape: Height, width and channels of an image, in this order for every global setting of Keras.
        classes: Number of classes.
        patch_size: Side of a patch, a multiple of 4 that divides height and width.
        activation: The activation of all hidden layers of both transformers: any that `keras_actlab.swap_activations`
            accepts.

    Returns:
        A functional model from images to logits, not compiled.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument has the wrong type.

    Example:

    >>> model = keras_actlab.models.tnt_small()
    >>> model.count_params()
    21525298

    Reference:

    - [Han et al., 2021](https://arxiv.org/abs/2103.00112), "Transformer in Transformer".
    - [Sun et al., 2024](https://arxiv.org/abs/2405.12954), "A Method on Searching Better Activation Functions".
    """
    return network(
        input_shape, classes, patch_size, activation, blocks=12, heads=6, dim=384, inner_heads=4, inner_dim=24
    )


def network(
    input_shape: tuple[int, int, int],
    classes: int,
    patch_size: int,
    activation: To,
    blocks: int,
    heads: int,
    dim: int,
    inner_heads: int,
    inner_dim: int,
) -> keras.Model:
    """Returns a network like `tnt_small` in any size."""
    check_images(input_shape, classes)
    check_patches(input_shape, patch_size, pixel_size=PIXEL)
    check_activation(activation)
    rows, columns = input_shape[0] // patch_size, input_shape[1] // patch_size
    side = patch_size // PIXEL
    of_patch = (-1, rows * columns, side**2 * inner_dim)

    images = keras.Input(input_shape, name="images")
    x = keras.layers.ZeroPadding2D(3, data_format="channels_last", name="pad")(images)
    x = keras.layers.Conv2D(inner_dim, 7, strides=PIXEL, data_format="channels_last", name="pixel_embedding")(x)
    x = ops.transpose(ops.reshape(x, (-1, rows, side, columns, side, inner_dim)), (0, 1, 3, 2, 4, 5))
    inner = ops.reshape(x, (-1, side**2, inner_dim))  # (batch x patches, pixels, inner_dim)
    inner = LearnedPositions(name="pixel_positions")(inner)
    x = normalize(ops.reshape(inner, of_patch), "pixels_norm")
    x = normalize(dense(x, dim, "patch_embedding"), "patches_norm")
    outer = LearnedPositions(class_token=True, name="patch_positions")(x)  # (batch, 1 + patches, dim)
    for block in range(1, blocks + 1):
        name = f"block{block}"
        inner = transformer(inner, inner_heads, f"{name}_inner")
        x = ops.reshape(normalize(inner, f"{name}_pixels_norm"), of_patch)
        x = dense(x, dim, f"{name}_projection")
        # Zeros for the class token.
        outer = outer + keras.layers.ZeroPadding1D((1, 0), data_format="channels_last", name=f"{name}_pad")(x)
        outer = transformer(outer, heads, f"{name}_outer")
    class_token = normalize(outer, "norm")[:, 0]
    model = keras.Model(images, dense(class_token, classes, "logits"), name="tnt_small")
    return model if activation == "gelu" else swap_activations(model, activation)


def transformer(x: Tensor, heads: int, name: str) -> Tensor:
    """Returns the output of a transformer block with pre-normalization for tokens, (batch, tokens, dim)."""
    x = x + attention(normalize(x, f"{name}_attention_norm"), heads, f"{name}_attention")
    dim = x.shape[-1]
    hidden = dense(normalize(x, f"{name}_mlp_norm"), 4 * dim, f"{name}_mlp_hidden", activation="gelu")
    return x + dense(hidden, dim, f"{name}_mlp_output")


def attention(x: Tensor, heads: int, name: str) -> Tensor:
    """Returns self-attention, without biases for queries, keys and values, and with one for the output."""
    _, tokens, dim = x.shape

    def project(part: str) -> Tensor:
        return keras.layers.Reshape((tokens, heads, dim // heads))(dense(x, dim, f"{name}_{part}", use_bias=False))

    mixed = ops.dot_product_attention(project("query"), project("key"), project("value"))
    return dense(keras.layers.Reshape((tokens, dim))(mixed), dim, f"{name}_output")


def dense(x: Tensor, units: int, name: str, **options: Any) -> Tensor:
    """Returns a dense layer of `x`, with the authors' initializer."""
    start = keras.initializers.TruncatedNormal(stddev=0.02)
    return keras.layers.Dense(units, kernel_initializer=start, name=name, **options)(x)


def normalize(x: Tensor, name: str) -> Tensor:
    """Returns layer normalization of `x`, with the authors' epsilon."""
    return keras.layers.LayerNormalization(epsilon=1e-5, name=name)(x)


@keras.saving.register_keras_serializable(package="keras_actlab")
class LearnedPositions(keras.layers.Layer):
    """Adds a learned vector to each token, and optionally prepends a learned class token.

    Args:
        class_token: Whether to prepend a class token.
        **kwargs: Base layer arguments, such as `name` and `dtype`.
    """

    def __init__(self, class_token: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.class_token = class_token

    def build(self, input_shape: tuple[int | None, int, int]) -> None:
        _, tokens, dim = self.compute_output_shape(input_shape)
        if self.class_token:
            start = keras.initializers.TruncatedNormal(stddev=0.02)
            self.token = self.add_weight(name="token", shape=(1, 1, dim), initializer=start)
        start = keras.initializers.TruncatedNormal(stddev=0.02)
        self.positions = self.add_weight(name="positions", shape=(1, tokens, dim), initializer=start)

    def call(self, inputs: Tensor) -> Tensor:
        if self.class_token:
            token = ops.broadcast_to(self.token, (ops.shape(inputs)[0], 1, inputs.shape[-1]))
            inputs = ops.concatenate([token, inputs], axis=1)
        return inputs + self.positions

    def compute_output_shape(self, input_shape: tuple[int | None, int, int]) -> tuple[int | None, int, int]:
        batch, tokens, dim = input_shape
        return batch, tokens + self.class_token, dim

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"class_token": self.class_token}
