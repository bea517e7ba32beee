"""Three vision transformers, each with nine activations."""

from collections.abc import Callable

import keras

from keras_actlab import models
from keras_actlab.conversion import To
from keras_actlab.layers import CRReLU
from recipes.common.image_classification import Method, Network, cosine_schedule

ACTIVATIONS: dict[str, To] = {
    "ReLU": "relu",
    "GELU": "gelu",
    "ELU": "elu",
    "PReLU": lambda layer: keras.layers.PReLU(keras.initializers.Constant(0.25), shared_axes=[1, 2]),
    "CELU": "celu",
    "SiLU": "silu",
    "Mish": "mish",
    "leaky ReLU": keras.layers.LeakyReLU(0.01),
    "CRReLU": CRReLU,
}
NETWORKS: dict[str, Callable[..., keras.Model]] = {
    "ViT-Tiny": models.vit_tiny,
    "DeiT-Tiny": models.deit_tiny,
    "TNT-Small": models.tnt_small,
}


def network(name: str, activation: To) -> Network:
    """Returns a network with patches of 16 pixels for images of 224, and of 4 for images of up to 64."""
    return lambda shape, classes: NETWORKS[name](
        shape, classes, patch_size=max(4, shape[0] // 14), activation=activation
    )


def methods(name: str) -> dict[str, Method]:
    """Returns a network with each of the activations."""
    return {
        activation: Method(
            network(name, to),
            cosine_schedule,
            lambda: [keras.layers.RandomErasing(0.25, value_range=(0, 255))],
        )
        for activation, to in ACTIVATIONS.items()
    }
