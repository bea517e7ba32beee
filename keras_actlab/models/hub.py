"""What the networks of keras-hub need before they are built."""

from types import ModuleType

import keras


def load() -> ModuleType:
    """Returns `keras_hub.models`, which only some of the networks need."""
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError(
            "vit_tiny, deit_tiny and gpt2 of keras_actlab.models need keras_hub. "
            "Install the extra [hub]: pip install 'keras-actlab[hub]'"
        ) from error
    return keras_hub.models


def check_data_format() -> None:
    """Raises unless a copy of a backbone for images would take the channels where the original does.

    Its config leaves the data format out, so that a copy follows Keras' global setting (keras-hub#3118).
    """
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "keras.config.image_data_format() must be 'channels_last' where this network is built or loaded. "
            f"Received: image_data_format={keras.config.image_data_format()!r}"
        )
