"""ResNet-18, the network that Chen and Ge (2024) train on ImageNet."""

from collections.abc import Callable, Sequence
from functools import partial

import keras

from keras_actlab.arguments import check_choice
from keras_actlab.conversion import swap_activations
from keras_actlab.conversion.target import To
from keras_actlab.models import _convolution
from keras_actlab.models.arguments import check_activation, check_images
from keras_actlab.ops.tensor import Tensor


def resnet18(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    classes: int = 1000,
    activation: To = "relu",
    parameterization: str = "standard",
    normalization: str = "batch",
    stem: str = "large",
) -> keras.Model:
    """Returns ResNet-18: a convolution of 7 x 7, eight residual blocks of two convolutions each, and one dense layer.

    With plain weights and batch normalization, its output equals that of keras-hub's ResNet-18 with the same weights.
    The activation of the second convolution of a block follows the sum with the shortcut. With geometric weights, that
    convolution therefore computes `scale * (direction . x + radius)`. The dense layer has plain weights.

    Args:
        input_shape: Height, width and channels of an image, in this order for every global setting of Keras.
        classes: Number of classes.
        activation: The activation of the convolutions and blocks: any that `keras_actlab.swap_activations` accepts.
        parameterization: "standard", "weight_norm" or "gmp", as in `keras_actlab.models.vgg6`.
        normalization: "none", "batch", "mean_only" or "input_mean", as in `keras_actlab.models.vgg6`.
        stem: "large" for a convolution of 7 x 7 with strides of 2 and max pooling, as for ImageNet; "small" for a
            convolution of 3 x 3 without strides and no pooling, as for CIFAR (section 4.2 of He et al.).

    Returns:
        A functional model from images to logits, not compiled.

    Raises:
        ValueError: If an argument is out of range, or the combination would have a parameter without effect.
        TypeError: If an argument has the wrong type.

    Example:

    >>> model = keras_actlab.models.resnet18()
    >>> model.count_params()
    11699112

    Reference:

    - [He et al., 2015](https://arxiv.org/abs/1512.03385), "Deep Residual Learning for Image Recognition".
    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), "Neural Characteristic Activation Analysis and Geometric
      Parameterization for ReLU Networks".
    """
    return network(
        input_shape,
        classes,
        activation,
        parameterization,
        normalization,
        filters=(64, 128, 256, 512),
        blocks=2,
        stem=stem,
    )


def network(
    input_shape: tuple[int, int, int],
    classes: int,
    activation: To,
    parameterization: str,
    normalization: str,
    filters: Sequence[int],
    blocks: int,
    stem: str = "large",
) -> keras.Model:
    """Returns a network like `resnet18` with other numbers of filters and of blocks per stage."""
    check_images(input_shape, classes)
    check_activation(activation)
    _convolution.check(parameterization, normalization)
    check_choice("stem", stem, ("large", "small"))
    convolve = partial(_convolution.convolution, parameterization=parameterization, normalization=normalization)
    images = keras.Input(input_shape, name="images")
    if stem == "small":
        x = convolve(images, filters[0], 3, 1, name="stem")
    else:
        x = convolve(images, filters[0], 7, 2, name="stem")
        x = keras.layers.ZeroPadding2D(1, data_format="channels_last", name="stem_pool_pad")(x)
        x = keras.layers.MaxPooling2D(3, strides=2, data_format="channels_last", name="stem_pool")(x)
    for stage, width in enumerate(filters, start=1):
        for block in range(1, blocks + 1):
            strides = 2 if block == 1 and stage > 1 else 1
            x = basic_block(x, width, strides, convolve, name=f"stage{stage}_block{block}")
    x = keras.layers.GlobalAveragePooling2D(data_format="channels_last", name="pool")(x)
    logits = keras.layers.Dense(classes, name="logits")(x)
    model = keras.Model(images, logits, name="resnet18")
    return model if activation == "relu" else swap_activations(model, activation)


def basic_block(x: Tensor, filters: int, strides: int, convolve: Callable[..., Tensor], name: str) -> Tensor:
    """Returns a residual block of `x`: two convolutions, plus `x` (projected if the strides exceed 1), activated."""
    shortcut = x
    if strides > 1:
        shortcut = convolve(x, filters, 1, strides, name=f"{name}_shortcut", activation=None)
    x = convolve(x, filters, 3, strides, name=f"{name}_1")
    x = convolve(x, filters, 3, 1, name=f"{name}_2", activation=None)
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.Activation("relu", name=f"{name}_activation")(x)
