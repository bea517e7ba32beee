"""Three vision transformers, each with nine activations."""

from collections.abc import Callable

import keras

from keras_actlab import models
from keras_actlab.conversion import To
from keras_actlab.layers import CRReLU, RandAugment
from recipes.common import augmentation
from recipes.common.image_classification import Augmentation, Method, Network, cosine_schedule

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


# Changes of training images as in timm: by Pillow before the training step, or by a layer within it.
AUGMENTATIONS = {
    "pillow": Augmentation(changes=(augmentation.flip, augmentation.rand_augment, augmentation.erase)),
    "layer": Augmentation(layers=lambda: [RandAugment(erase=augmentation.ERASED)]),
}


def network(name: str, activation: To) -> Network:
    """Returns a network with patches of 16 pixels for images of 224, and of 4 for images of up to 64."""

    def build(shape: tuple[int, int, int], classes: int) -> keras.Model:
        model = NETWORKS[name](shape, classes, patch_size=max(4, shape[0] // 14), activation=activation)
        start(model)
        return model

    return build


def start(model: keras.Model) -> None:
    """Sets the initial weights of a vision transformer as in timm.

    Kernels of dense layers, positions and tokens are normal with standard deviation 0.02, truncated at twice that.
    Those of the convolution that embeds patches are uniform within one by the square root of their fan-in, as in
    PyTorch. Biases are 0.
    """
    small = keras.initializers.TruncatedNormal(stddev=0.02)
    as_pytorch = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
    for variable in model.trainable_variables:
        if variable.name == "bias":
            variable.assign(keras.ops.zeros(variable.shape, variable.dtype))
        elif variable.name == "kernel":
            variable.assign((as_pytorch if len(variable.shape) == 4 else small)(variable.shape, variable.dtype))
        elif any(word in variable.path for word in ("position", "token")):
            variable.assign(small(variable.shape, variable.dtype))


def methods(name: str) -> dict[str, Method]:
    """Returns a network with each of the activations."""
    return {
        activation: Method(network(name, to), cosine_schedule, distils=name == "DeiT-Tiny")
        for activation, to in ACTIVATIONS.items()
    }
