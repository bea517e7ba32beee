"""Checks of arguments that the networks share."""

from typing import Any

import keras

from keras_actlab.conversion.target import LAYERS
from keras_actlab.layers.activations import FUNCTIONS
from keras_actlab.layers.arguments import positive_integer


def check_images(input_shape: Any, classes: Any) -> None:
    """Raises unless `input_shape` is (height, width, channels) and `classes` is positive."""
    is_shape = isinstance(input_shape, tuple | list) and len(input_shape) == 3
    if not is_shape or not all(isinstance(length, int) and length > 0 for length in input_shape):
        raise ValueError(
            "`input_shape` must be three positive integers, (height, width, channels). "
            f"Received: input_shape={input_shape!r}"
        )
    positive_integer("classes", classes)


def check_patches(input_shape: tuple[int, int, int], patch_size: Any, pixel_size: int = 1) -> None:
    """Raises unless the images divide into square patches, and the patches into square pixels."""
    patch_size = positive_integer("patch_size", patch_size)
    if any(side % patch_size for side in input_shape[:2]):
        raise ValueError(
            "`patch_size` must divide the height and the width of the images. "
            f"Received: patch_size={patch_size}, input_shape={tuple(input_shape)}"
        )
    if patch_size % pixel_size:
        raise ValueError(f"`patch_size` must be a multiple of {pixel_size}. Received: patch_size={patch_size}")


def check_activation(activation: Any) -> None:
    """Raises unless `keras_actlab.swap_activations` accepts `activation`."""
    if isinstance(activation, str):
        if activation.lower() not in FUNCTIONS | LAYERS:
            raise ValueError(
                "`activation` must be the name of an activation. "
                f"Received: activation={activation!r}. Known names: {', '.join(sorted(FUNCTIONS | LAYERS))}"
            )
    elif not callable(activation) or (isinstance(activation, type) and not issubclass(activation, keras.layers.Layer)):
        raise TypeError(
            "`activation` must be the name of an activation, a function of keras.activations, a class of layers or a "
            f"layer, or a function of a layer that returns one of these. Received: activation={activation!r}"
        )
