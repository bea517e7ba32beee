"""Layers that a conversion puts in the place of others, and the reason for which it leaves one unchanged."""

from typing import Any, Self

import keras


class SkipLayer(Exception):  # noqa: N818  # not an error, but a reason
    """Raised, with the reason, by a layer's `fold` or `counterpart` where a conversion has to leave it unchanged.

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
    """A layer whose config says which layer it replaces, if a conversion put it there.

    The activations and geometric layers of this package derive from it, so that `keras_actlab.conversion.report` lists
    them in a model that was saved and loaded. An activation of your own can derive from it, in place of
    `keras.layers.Layer`, for the same purpose.

    `replaced` is None, or a description for `keras_actlab.conversion.report`: a dictionary of `before`, the class and
    activation that there were, `parameters_before`, `note`, and `is_activation`: whether what is described is not the
    layer itself, but the layer of which it is the activation.

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
            # Past Keras, which would track the dictionary.
            object.__setattr__(layer, "replaced", dict(replaced))
        return layer
