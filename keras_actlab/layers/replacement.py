"""Layers by which a conversion replaces others, and the reason for which it skips one."""

from typing import Any, Self

import keras


class SkipLayer(Exception):  # noqa: N818  # not an error, but a reason
    """Raised, with the reason, by the `fold` or `counterpart` of a layer that a conversion must leave unchanged.

    It is raised before anything is changed. `keras_actlab.conversion.report` shows the reason.

    Example:

    >>> class Noisy(keras_actlab.layers.GmPDense):
    ...     def fold(self):
    ...         raise keras_actlab.conversion.SkipLayer("its noise is needed")
    >>> model = keras.Sequential([keras.Input((3,)), Noisy(2, name="noisy")])
    >>> [(row.layer, row.note) for row in keras_actlab.conversion.report(keras_actlab.fold(model)).skipped]
    [('noisy', 'its noise is needed')]
    """


class Replacement(keras.layers.Layer):
    """A layer whose config describes the layer that it replaced, so that reports survive saving.

    Derive an activation of your own from it, in place of `keras.layers.Layer`, so that
    `keras_actlab.conversion.report` lists it in a model that was saved and loaded.

    Attributes:
        replaced: None, or a dictionary that a conversion sets: `before` (the class and activation of the replaced
            layer), `parameters_before`, `note`, and `is_activation` (whether these describe the layer of which this
            one is the activation).

    Example:

    >>> class Square(keras_actlab.conversion.Replacement):
    ...     is_activation = True
    ...
    ...     def call(self, inputs):
    ...         return inputs**2
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.ReLU(name="hidden")])
    >>> config = keras_actlab.swap_activations(model, Square).get_config()
    >>> loaded = keras.Sequential.from_config(config, custom_objects={"Square": Square})
    >>> keras_actlab.conversion.report(loaded).changed[0].after
    'Square'
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
            # Without Keras' `__setattr__`, which would track the dictionary.
            object.__setattr__(layer, "replaced", dict(replaced))
        return layer
