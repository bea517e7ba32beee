"""ResNet-18, the network that Chen and Ge (2024) train on ImageNet."""

from collections.abc import Callable, Sequence
from functools import partial

import keras

from keras_actlab.conversion import swap_activations
from keras_actlab.conversion.target import To
from keras_actlab.models import convolution
from keras_actlab.models.arguments import check_activation, check_images
from keras_actlab.ops.tensor import Tensor


def resnet18(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    classes: int = 1000,
    activation: To = "relu",
    parameterization: str = "standard",
    normalization: str = "batch",
) -> keras.Model:
    """Returns ResNet-18: a convolution of 7 x 7, eight residual blocks of two convolutions each, and one dense layer.

    With plain weights and batch normalization it computes what keras-hub's ResNet-18 does with the same weights. The
    second convolution of a block has its activation behind the sum with the shortcut; so with geometric weights,
    `scale * (direction . x + radius)` goes into the sum. The dense layer is a plain one.

    Args:
        input_shape: Height, width and channels of an image, in this order whatever Keras' global setting.
        classes: Number of classes.
        activation: That of the convolutions and blocks: whatever `keras_actlab.swap_activations` takes.
        parameterization: "standard", "weight_norm" or "gmp", as in `keras_actlab.models.vgg6`.
        normalization: "none", "batch", "mean_only" or "input_mean", as in `keras_actlab.models.vgg6`.

    Returns:
        A functional model from images to logits, not compiled.

    Raises:
        ValueError: If an argument is out of its range, or the pair is one in which a parameter has no effect.
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
        input_shape, classes, activation, parameterization, normalization, filters=(64, 128, 256, 512), blocks=2
    )


def network(
    input_shape: tuple[int, int, int],
    classes: int,
    activation: To,
    parameterization: str,
    normalization: str,
    filters: Sequence[int],
    blocks: int,
) -> keras.Model:
    """Returns `resnet18` with other numbers of filters, and of blocks with as many."""
    check_images(input_shape, classes)
    check_activation(activation)
    convolution.check(parameterization, normalization)
    convolve = partial(convolution.convolution, parameterization=parameterization, normalization=normalization)
    images = keras.Input(input_shape, name="images")
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
    """Returns the activation of `x` plus two convolutions of it, where `x` is projected if the strides exceed 1."""
    shortcut = x
    if strides > 1:
        shortcut = convolve(x, filters, 1, strides, name=f"{name}_shortcut", activation=None)
    x = convolve(x, filters, 3, strides, name=f"{name}_1")
    x = convolve(x, filters, 3, 1, name=f"{name}_2", activation=None)
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.Activation("relu", name=f"{name}_activation")(x)
