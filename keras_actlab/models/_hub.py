"""Import of keras-hub, and a check before its networks are built."""

from types import ModuleType

import keras


def load() -> ModuleType:
    """Returns `keras_hub.models`. It is imported here, because only some of the networks need it."""
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError(
            "vit_tiny, deit_tiny and gpt2 of keras_actlab.models need keras_hub. "
            "Install the extra [hub]: pip install 'keras-actlab[hub]'"
        ) from error
    return keras_hub.models


def check_data_format() -> None:
    """Raises unless Keras' global setting is "channels_last".

    The config of an image backbone lacks the data format, so that a copy uses the global setting (keras-hub#3118).
    """
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "keras.config.image_data_format() must be 'channels_last' where this network is built or loaded. "
            f"Received: image_data_format={keras.config.image_data_format()!r}"
        )
