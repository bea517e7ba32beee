"""Layers that a conversion creates, with a record of the layer that each of them replaces."""

from typing import Any, Self

import keras


class Replacement(keras.layers.Layer):
    """Base class of layers whose config records which layer they replaced, if a conversion created them.

    `replaced` is None or a dictionary for `keras_actlab.conversion.report`: `before`, the former class and activation;
    `parameters_before`; `note`; and `is_activation`, whether the dictionary describes not this layer but the layer
    whose activation it is.
    """

    replaced: dict[str, Any] | None = None

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return config if self.replaced is None else config | {"replaced": self.replaced}

    @classmethod
    def from_config(cls, config: dict[str, Any], *arguments: Any, **keywords: Any) -> Self:
        replaced = config.get("replaced")
        config = {key: value for key, value in config.items() if key != "replaced"}
        layer = super().from_config(config, *arguments, **keywords)
        if replaced is not None:
            # Bypasses Keras, which would track the dictionary.
            object.__setattr__(layer, "replaced", dict(replaced))
        return layer
