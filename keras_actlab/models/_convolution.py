"""Convolution, normalization and activation in the parameterizations that Chen and Ge (2024) compare."""

from typing import Any

import keras

from keras_actlab.layers import GmPConv2D, InputMeanNormalization, MeanOnlyBatchNormalization, WeightNormalization
from keras_actlab.ops.tensor import Tensor

PARAMETERIZATIONS = ("standard", "weight_norm", "gmp")
NORMALIZATIONS = ("none", "batch", "mean_only", "input_mean")


def check(parameterization: Any, normalization: Any) -> None:
    """Raises unless the names are known, and each parameter has an effect in the combination."""
    for name, value, known in (
        ("parameterization", parameterization, PARAMETERIZATIONS),
        ("normalization", normalization, NORMALIZATIONS),
    ):
        if value not in known:
            raise ValueError(f"`{name}` must be one of {known}. Received: {name}={value!r}")
    if normalization == "batch" and parameterization != "standard":
        raise ValueError(
            '`normalization` must not be "batch" for weights with a scale: batch normalization divides by the standard '
            "deviation, so that the scale would have no effect. "
            f"Received: normalization={normalization!r}, parameterization={parameterization!r}"
        )


def convolution(
    x: Tensor,
    filters: int,
    kernel_size: int,
    strides: int,
    parameterization: str,
    normalization: str,
    name: str,
    activation: str | None = "relu",
) -> Tensor:
    """Returns a convolution of `x` with normalization and activation.

    Zero padding keeps the height and width of `x`, or divides them by the strides. With geometric weights, the scale
    multiplies the output of the activation, or its input if a normalization is between convolution and activation.
    """
    if normalization == "input_mean":
        x = InputMeanNormalization(name=f"{name}_input_mean")(x)
    padding = "same"
    if strides > 1 and kernel_size > 1:  # "same" would pad asymmetrically
        x = keras.layers.ZeroPadding2D(kernel_size // 2, data_format="channels_last", name=f"{name}_pad")(x)
        padding = "valid"
    # A normalization between convolution and activation cancels a bias and has its own.
    is_between = normalization in ("batch", "mean_only")
    settings: dict[str, Any] = {
        **{"filters": filters, "kernel_size": kernel_size, "strides": strides, "padding": padding},
        **{"data_format": "channels_last", "use_bias": not is_between, "name": f"{name}_conv"},
    }
    match parameterization:
        case "standard":
            x = keras.layers.Conv2D(**settings)(x)
        case "weight_norm":
            x = WeightNormalization(keras.layers.Conv2D(**settings), name=f"{name}_conv")(x)
        case "gmp":
            x = GmPConv2D(**settings, activation=None if is_between else activation)(x)
    match normalization:
        case "batch":
            x = keras.layers.BatchNormalization(epsilon=1e-5, name=f"{name}_norm")(x)  # keras-hub's epsilon
        case "mean_only":
            x = MeanOnlyBatchNormalization(name=f"{name}_norm")(x)
    if activation is None or (parameterization == "gmp" and not is_between):
        return x
    return keras.layers.Activation(activation, name=f"{name}_activation")(x)
