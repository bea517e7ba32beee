"""ViT-Tiny, a network that Sun et al. (2024) train on CIFAR and ImageNet."""

import keras

from keras_actlab.conversion import swap_activations
from keras_actlab.conversion.target import To
from keras_actlab.models import _hub
from keras_actlab.models.arguments import check_activation, check_images, check_patches


def vit_tiny(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    classes: int = 10,
    patch_size: int = 4,
    activation: To = "gelu",
) -> keras.Model:
    """Returns ViT-Tiny: keras-hub's vision transformer with 12 blocks, 3 heads and 192 channels.

    After the blocks, the class token passes a dense layer of 192 units with tanh, for every `activation`, and a dense
    layer for the logits.

    Args:
        input_shape: Height, width and channels of an image, in this order.
        classes: Number of classes.
        patch_size: Side of a patch, which divides height and width.
        activation: The activation of the blocks' hidden layers: any that `keras_actlab.swap_activations` accepts.

    Returns:
        A functional model from images to logits, not compiled.

    Raises:
        ValueError: If an argument is out of range, or Keras' global setting is "channels_first", because a copied or
            loaded model of keras-hub would use it.
        TypeError: If an argument has the wrong type.
        ImportError: If keras-hub is not installed.

    Example:

    >>> model = keras_actlab.models.vit_tiny()
    >>> model.count_params()
    5399818

    Reference:

    - [Dosovitskiy et al., 2020](https://arxiv.org/abs/2010.11929), "An Image is Worth 16x16 Words: Transformers for
      Image Recognition at Scale".
    - [Sun et al., 2024](https://arxiv.org/abs/2405.12954), "A Method on Searching Better Activation Functions".
    """
    return network(input_shape, classes, patch_size, activation, blocks=12, heads=3, dim=192)


def network(
    input_shape: tuple[int, int, int],
    classes: int,
    patch_size: int,
    activation: To,
    blocks: int,
    heads: int,
    dim: int,
) -> keras.Model:
    """Returns a network like `vit_tiny` in any size."""
    check_images(input_shape, classes)
    check_patches(input_shape, patch_size)
    check_activation(activation)
    _hub.check_data_format()
    backbone = _hub.load().ViTBackbone(
        image_shape=tuple(input_shape),
        patch_size=patch_size,
        num_layers=blocks,
        num_heads=heads,
        hidden_dim=dim,
        mlp_dim=4 * dim,
        name="backbone",
    )
    images = keras.Input(input_shape, name="images")
    class_token = backbone(images)[:, 0]
    x = keras.layers.Dense(dim, activation="tanh", name="pre_logits")(class_token)
    logits = keras.layers.Dense(classes, name="logits")(x)
    model = keras.Model(images, logits, name="vit_tiny")
    return model if activation == "gelu" else swap_activations(model, activation, where="backbone/*/mlp/dense_1")
