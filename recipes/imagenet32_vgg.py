"""ImageNet32 with VGG-6: a comparison of parameterizations for batches of 256, 512 and 1,024.

Table 2 and figure 4 of Chen and Ge (2024), who report, in % for the three sizes of batches,

| | top-1 | top-5 |
|---|---|---|
| SP | 38.31, 36.99, 35.02 | 62.48, 60.71, 58.14 |
| WN | 39.13, 37.92, 36.17 | 63.28, 61.93, 60.16 |
| WN+MBN | 42.22, 40.96, 39.33 | 66.04, 65.08, 63.32 |
| BN | 42.79, 41.90, 41.39 | 67.17, 66.50, 65.89 |
| GmP | 40.76, 41.65, 41.29 | 65.08, 65.76, 65.49 |
| GmP+IMN | 43.14, 43.62, 42.70 | 67.36, 67.76, 66.98 |

The settings are those of the paper: SGD with momentum 0.9, 90 epochs, a learning rate that starts at 0.1 for GmP and at
0.01 for the others and is divided by ten after 30, 60 and 80 epochs (or the same fractions of another number of
epochs), and random horizontal flips. All activations are ReLU. Differences to the paper: means and standard errors over
seeds, where the paper has one run; a bias in WN+MBN that has an effect, unlike that in the authors' code.

Data: `--data-dir` names a folder with the public batch files of ImageNet32, `train_data_batch_1` to `_10` and
`val_data`. `--data cifar10` uses CIFAR-10 instead, which a laptop can train.
"""

import keras

from keras_actlab import models
from recipes.common.image_classification import Method, command, step_schedule


def method(parameterization: str, normalization: str, rate: float) -> Method:
    """Returns VGG-6 in a parameterization."""
    return Method(
        lambda shape, classes: models.vgg6(
            shape, classes, parameterization=parameterization, normalization=normalization
        ),
        step_schedule(rate),
        lambda: [keras.layers.RandomFlip("horizontal")],
    )


METHODS = {
    "SP": method("standard", "none", 0.01),
    "WN": method("weight_norm", "none", 0.01),
    "WN+MBN": method("weight_norm", "mean_only", 0.01),
    "BN": method("standard", "batch", 0.01),
    "GmP": method("gmp", "none", 0.1),
    "GmP+IMN": method("gmp", "input_mean", 0.1),
}
app = command(
    "imagenet32_vgg",
    "Repeats table 2 and figure 4 of Chen and Ge (2024): parameterizations of VGG-6 on ImageNet32.",
    {"VGG-6": METHODS},
    ["imagenet32"],
    [256, 512, 1024],
    epochs=90,
    resize=(256, 480),
)

if __name__ == "__main__":
    app()
