"""ImageNet with ResNet-18: weight normalization, batch normalization and geometric weights.

Table 3 of Chen and Ge (2024), who report, top-1 and top-5 in %: WN+MBN 66.57 and 86.69, BN 66.85 and 86.92, GmP+IMN
67.24 and 87.19.

The settings are those of the paper: batches of 256, SGD with momentum 0.9, 90 epochs, a learning rate that starts at
0.1 and is divided by ten after 30, 60 and 80 epochs, random horizontal flips, the shorter side resized to a random
length from 256 to 480 pixels, a random crop of 224 pixels, random changes of colour. Differences to the paper: means
and standard errors over seeds; the strength of the changes of colour (brightness, contrast and saturation by up to
40 %), which the paper does not state; and for the test, a centre crop after the shorter side is resized to 256 pixels.

Data: `--data-dir` names a folder with the folders `train` and `val`, each with a folder of images for every class.
"""

import keras

from keras_actlab import models
from recipes.common.image_classification import Method, command, step_schedule


def method(parameterization: str, normalization: str) -> Method:
    """Returns ResNet-18 in a parameterization."""
    return Method(
        lambda shape, classes: models.resnet18(
            shape, classes, parameterization=parameterization, normalization=normalization
        ),
        step_schedule(0.1),
        lambda: [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomColorJitter(
                brightness_factor=0.4, contrast_factor=0.4, saturation_factor=(0.3, 0.7), value_range=(0, 255)
            ),
        ],
    )


METHODS = {
    "WN+MBN": method("weight_norm", "mean_only"),
    "BN": method("standard", "batch"),
    "GmP+IMN": method("gmp", "input_mean"),
}
app = command(
    "imagenet_resnet",
    "Repeats table 3 of Chen and Ge (2024): parameterizations of ResNet-18 on ImageNet.",
    {"ResNet-18": METHODS},
    ["folders"],
    [256],
    epochs=90,
    resize=(256, 480),
)

if __name__ == "__main__":
    app()
