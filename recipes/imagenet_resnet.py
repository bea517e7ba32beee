"""ImageNet with ResNet-18: weight normalization, batch normalization and geometric weights.

Table 3 of Chen and Ge (2024), who report, top-1 and top-5 in %: WN+MBN 66.57 and 86.69, BN 66.85 and 86.92, GmP+IMN
67.24 and 87.19.

The settings are those of the paper: batches of 256, SGD with momentum 0.9, 90 epochs, a learning rate that starts at
0.1 and is divided by ten after 30, 60 and 80 epochs, random horizontal flips, the shorter side resized to a random
length from 256 to 480 pixels, a random crop of 224 pixels, random changes of colour. For the latter, the paper does not
say more; here they are those of He et al. (2015), whose augmentation has the same words: one random multiple of the
principal components of ImageNet's colours is added to all pixels of an image (Krizhevsky et al., 2012). Differences to
the paper: means and standard errors over seeds; and for the test, a centre crop after the shorter side is resized to
256 pixels.

Data: `--data-dir` names a folder with the folders `train` and `val`, each with a folder of images for every class.
"""

from keras_actlab import models
from recipes.common import augmentation
from recipes.common.image_classification import Augmentation, Method, Protocol, command, step_schedule


def method(parameterization: str, normalization: str) -> Method:
    """Returns ResNet-18 in a parameterization."""
    return Method(
        lambda shape, classes: models.resnet18(
            shape, classes, parameterization=parameterization, normalization=normalization
        ),
        step_schedule(0.1),
    )


METHODS = {
    "WN+MBN": method("weight_norm", "mean_only"),
    "BN": method("standard", "batch"),
    "GmP+IMN": method("gmp", "input_mean"),
}
AUGMENTATIONS = {"flip and colours": Augmentation(changes=(augmentation.flip, augmentation.shift_colours))}
app = command(
    "imagenet_resnet",
    "Repeats table 3 of Chen and Ge (2024): parameterizations of ResNet-18 on ImageNet.",
    {"ours": Protocol({"ResNet-18": METHODS}, epochs=90)},
    ["folders"],
    [256],
    crop=augmentation.resize_and_crop,
    augmentations=AUGMENTATIONS,
)

if __name__ == "__main__":
    app()
