"""The parameters that Keras' layers show as PyTorch modules, read in Keras 3.15.1 (`keras/src/backend/torch/layer.py`).

On other backends, these functions do nothing.
"""

import keras

from keras_actlab._private.keras_layers import nested_layers


def update_parameters(layer: keras.layers.Layer) -> None:
    """Updates the parameters that `layer` and the layers within it show as torch modules."""
    for module in _modules(layer):
        if module.built:
            module._track_variables()


def drop_parameters(layer: keras.layers.Layer) -> None:
    """Removes the parameters of `layer` and the layers within it, so that replaced ones are freed."""
    for module in _modules(layer):
        module._modules.pop("_torch_params", None)


def _modules(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    if keras.backend.backend() != "torch":
        return []
    # A Sequential model has a module that is none of its layers, and lists hold layers that are no modules.
    found = dict.fromkeys([*layer.modules(), *nested_layers(layer, include_self=True)])
    return [module for module in found if isinstance(module, keras.layers.Layer)]
