"""CIFAR-10 with ResNet-18: trainable matrix activations beside ReLU and similar activations.

Liu et al. (2024) compare TMAF with ReLU on CIFAR-10. Their networks are not available, so this comparison is our own,
and there are no published numbers to compare with: ResNet-18 with a stem for small images (a convolution of 3 x 3
without strides, no pooling), batches of 128, SGD with momentum 0.9, 30 epochs, a learning rate that starts at 0.1 and
is divided by ten after a third, two thirds and eight ninths of them, and random flips. TMAF has the thresholds -1, 0, 1
and starts as ReLU. PReLU has a slope for each channel, which starts at 0.25.

Data: `--data-dir` names a folder with the files of CIFAR-10 for Python, `data_batch_1` to `_5` and `test_batch`.
Without it Keras downloads them.
"""

import keras

from keras_actlab import models
from keras_actlab.conversion import To
from keras_actlab.layers import TMAF, CRReLU
from recipes.common.augmentation import random_resized_crop
from recipes.common.image_classification import FLIP, Method, Protocol, command, step_schedule


def method(activation: To) -> Method:
    """Returns ResNet-18 with an activation."""
    return Method(
        lambda shape, classes: models.resnet18(shape, classes, activation=activation, stem="small"),
        step_schedule(0.1),
    )


METHODS = {
    "ReLU": method("relu"),
    "leaky ReLU": method(keras.layers.LeakyReLU(0.01)),
    "PReLU": method(lambda layer: keras.layers.PReLU(keras.initializers.Constant(0.25), shared_axes=[1, 2])),
    "GELU": method("gelu"),
    "CRReLU": method(CRReLU),
    "TMAF diagonal": method(TMAF(bandwidth=0)),
    "TMAF tri-diagonal": method(TMAF(bandwidth=1)),
}
app = command(
    "cifar_tmaf",
    "Repeats the CIFAR-10 experiment of Liu et al. (2024), with ResNet-18 and settings of our own.",
    {"ours": Protocol({"ResNet-18": METHODS}, epochs=30)},
    ["cifar10"],
    [128],
    crop=random_resized_crop,
    augmentations=FLIP,
)

if __name__ == "__main__":
    app()
