"""VGG-6, the network that Chen and Ge (2024) train on ImageNet32."""

from collections.abc import Sequence

import keras

from keras_actlab.conversion import swap_activations
from keras_actlab.conversion.target import To
from keras_actlab.models import _convolution
from keras_actlab.models.arguments import check_activation, check_images


def vgg6(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    classes: int = 1000,
    activation: To = "relu",
    parameterization: str = "standard",
    normalization: str = "none",
) -> keras.Model:
    """Returns VGG-6: convolutions with 128, 128, 256, 256, 512 and 512 filters of 3 x 3, and one dense layer.

    Max pooling follows every second convolution, and global average pooling the last one. The dense layer has plain
    weights. The pairs of `parameterization` and `normalization` that the paper compares are ("standard",
    "none"), ("standard", "batch"), ("weight_norm", "none"), ("weight_norm", "mean_only"), ("gmp", "none") and ("gmp",
    "input_mean").

    Args:
        input_shape: Height, width and channels of an image, in this order for every global setting of Keras.
        classes: Number of classes.
        activation: The activation of the convolutions: any that `keras_actlab.swap_activations` accepts.
        parameterization: "standard" for plain weights; "weight_norm" for `keras_actlab.layers.WeightNormalization`;
            "gmp" for `keras_actlab.layers.GmPConv2D`, with the scale after the activation (before it with "mean_only",
            which is between the two).
        normalization: "none"; "batch" for `keras.layers.BatchNormalization`; "mean_only" for
            `keras_actlab.layers.MeanOnlyBatchNormalization`; or "input_mean" for
            `keras_actlab.layers.InputMeanNormalization` of the inputs of the convolutions. "batch" is allowed with
            "standard" only, because the division by a standard deviation cancels the scale of the others.

    Returns:
        A functional model from images to logits, not compiled.

    Raises:
        ValueError: If an argument is out of range, or the combination would have a parameter without effect.
        TypeError: If an argument has the wrong type.

    Example:

    >>> model = keras_actlab.models.vgg6(classes=10, parameterization="gmp", normalization="input_mean")
    >>> model.count_params()
    4582797

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), "Neural Characteristic Activation Analysis and Geometric
      Parameterization for ReLU Networks".
    """
    return network(input_shape, classes, activation, parameterization, normalization, filters=(128, 256, 512))


def network(
    input_shape: tuple[int, int, int],
    classes: int,
    activation: To,
    parameterization: str,
    normalization: str,
    filters: Sequence[int],
) -> keras.Model:
    """Returns a network like `vgg6` with other numbers of filters."""
    check_images(input_shape, classes)
    if min(input_shape[:2]) < 2 ** len(filters):
        raise ValueError(
            f"`input_shape` must have a height and a width of at least {2 ** len(filters)}, which pooling halves "
            f"{len(filters)} times. Received: input_shape={tuple(input_shape)}"
        )
    check_activation(activation)
    _convolution.check(parameterization, normalization)
    images = keras.Input(input_shape, name="images")
    x = images
    for stage, width in enumerate(filters, start=1):
        for k in (1, 2):
            x = _convolution.convolution(x, width, 3, 1, parameterization, normalization, name=f"stage{stage}_{k}")
        x = keras.layers.MaxPooling2D(data_format="channels_last", name=f"stage{stage}_pool")(x)
    x = keras.layers.GlobalAveragePooling2D(data_format="channels_last", name="pool")(x)
    logits = keras.layers.Dense(classes, name="logits")(x)
    model = keras.Model(images, logits, name="vgg6")
    return model if activation == "relu" else swap_activations(model, activation)
