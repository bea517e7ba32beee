"""DeiT-Tiny, a network that Sun et al. (2024) train on CIFAR and ImageNet."""

import keras

from keras_actlab.conversion import To, swap_activations
from keras_actlab.models import _hub
from keras_actlab.models.arguments import check_activation, check_images, check_patches

# The layers whose logits are averaged, for the class token and the distillation token.
HEADS = ("class_head", "distillation_head")


def deit_tiny(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    classes: int = 10,
    patch_size: int = 4,
    activation: To = "gelu",
) -> keras.Model:
    """Returns DeiT-Tiny: keras-hub's data-efficient image transformer with 12 blocks, 3 heads and 192 channels.

    It has a class token and a distillation token, each with its own dense layer. The logits are the mean of both.
    `keras_actlab.models.HardDistillation` trains it with a teacher.

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

    >>> model = keras_actlab.models.deit_tiny()
    >>> model.count_params()
    5365076

    Reference:

    - [Touvron et al., 2020](https://arxiv.org/abs/2012.12877), "Training data-efficient image transformers &
      distillation through attention".
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
    """Returns a network like `deit_tiny` in any size."""
    check_images(input_shape, classes)
    check_patches(input_shape, patch_size)
    check_activation(activation)
    _hub.check_data_format()
    backbone = _hub.load().DeiTBackbone(
        image_shape=tuple(input_shape),
        patch_size=patch_size,
        num_layers=blocks,
        num_heads=heads,
        hidden_dim=dim,
        intermediate_dim=4 * dim,
        name="backbone",
    )
    images = keras.Input(input_shape, name="images")
    tokens = backbone(images)
    logits = [keras.layers.Dense(classes, name=name)(tokens[:, k]) for k, name in enumerate(HEADS)]
    model = keras.Model(images, keras.layers.Average(name="logits")(logits), name="deit_tiny")
    return model if activation == "gelu" else swap_activations(model, activation)
