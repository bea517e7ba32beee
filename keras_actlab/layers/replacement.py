"""Layers that a conversion puts in the place of others, and that say of which."""

from typing import Any, Self

import keras


class Replacement(keras.layers.Layer):
    """A layer whose config says what it took the place of, if a conversion put it there.

    `replaced` is None, or a description for `keras_actlab.conversion.report`: a dictionary of `before`, the class and
    activation that there were, `parameters_before`, `note`, and `is_activation`: whether what is described is not the
    layer itself, but the layer of which it is the activation.
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
            # Past Keras, which would track the dictionary.
            object.__setattr__(layer, "replaced", dict(replaced))
        return layer
