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

`--protocol authors` follows the code of Chen and Ge instead. Input mean normalization is after each activation, so that
it acts before pooling and before the head, and not on the images. WN has a weight-normalized head. Weights start
uniform as in Glorot and Bengio (2010), with the fan-out of one place of the kernel; geometric weights are the angles
and norms of these. Pixels are divided by 255, and the mean of ImageNet32 is subtracted. The learning rate is divided by
ten if the top-5 accuracy on the *test* part has not risen for 5 epochs; training stops after 10 such epochs, or 500 in
all, with the weights of the best epoch. So the test part decides, which favours every method; use this protocol to
compare with the table above only. MBN has no bias there, since it cancels in the authors' code. One fault of the code
is not repeated: its initial directions cover half of the sphere.

Data: `--data-dir` names a folder with the public batch files of ImageNet32, `train_data_batch_1` to `_10` and
`val_data`. `--data cifar10` uses CIFAR-10 instead, which a laptop can train.
"""

from functools import partial

import keras
from keras.layers import BatchNormalization, Conv2D, Dense, GlobalAveragePooling2D, MaxPooling2D, ReLU

from keras_actlab import models
from keras_actlab.layers import GmPConv2D, InputMeanNormalization, MeanOnlyBatchNormalization, WeightNormalization
from recipes.common.augmentation import resize_and_crop
from recipes.common.image_classification import (
    FLIP,
    Method,
    Protocol,
    command,
    constant_rate,
    step_schedule,
)

# For each method the arguments of `models.vgg6` and the initial learning rate.
METHODS = {
    "SP": ("standard", "none", 0.01),
    "WN": ("weight_norm", "none", 0.01),
    "WN+MBN": ("weight_norm", "mean_only", 0.01),
    "BN": ("standard", "batch", 0.01),
    "GmP": ("gmp", "none", 0.1),
    "GmP+IMN": ("gmp", "input_mean", 0.1),
}
MEAN = (0.481098, 0.45747134, 0.40785483)  # of ImageNet32, from the authors' code


def paper(parameterization: str, normalization: str, rate: float) -> Method:
    """Returns VGG-6 and its training as in the paper."""
    return Method(
        lambda shape, classes: models.vgg6(
            shape, classes, parameterization=parameterization, normalization=normalization
        ),
        step_schedule(rate),
    )


def authors(parameterization: str, normalization: str, rate: float) -> Method:
    """Returns VGG-6 and its training as in the authors' code."""
    return Method(
        partial(authors_network, parameterization=parameterization, normalization=normalization),
        constant_rate(rate),
        lambda: keras.layers.Rescaling(1 / 255, [-mean for mean in MEAN]),
    )


def authors_network(
    shape: tuple[int, int, int],
    classes: int,
    parameterization: str,
    normalization: str,
    filters: tuple[int, ...] = (128, 256, 512),
) -> keras.Model:
    """Returns VGG-6 as in the authors' code."""
    uniform = parameterization != "standard"
    x = images = keras.Input(shape)
    for width in filters:
        for _ in range(2):
            limit = (6 / (9 * x.shape[-1] + width)) ** 0.5
            start = keras.initializers.RandomUniform(-limit, limit) if uniform else "glorot_uniform"
            settings = {"filters": width, "kernel_size": 3, "padding": "same", "kernel_initializer": start}
            if parameterization == "gmp":
                x = GmPConv2D(**settings, activation="relu")(x)
            else:
                plain = Conv2D(**settings)
                x = (WeightNormalization(plain) if parameterization == "weight_norm" else plain)(x)
                if normalization == "batch":
                    x = BatchNormalization()(x)
                if normalization == "mean_only":
                    x = MeanOnlyBatchNormalization(center=False)(x)
                x = ReLU()(x)
            if normalization == "input_mean":
                x = InputMeanNormalization()(x)
        x = MaxPooling2D()(x)
    head = Dense(classes)
    head = WeightNormalization(head) if parameterization == "weight_norm" else head
    return keras.Model(images, head(GlobalAveragePooling2D()(x)), name="vgg6")


app = command(
    "imagenet32_vgg",
    "Repeats table 2 and figure 4 of Chen and Ge (2024): parameterizations of VGG-6 on ImageNet32.",
    {
        "ours": Protocol({"VGG-6": {name: paper(*options) for name, options in METHODS.items()}}, epochs=90),
        "authors": Protocol(
            {"VGG-6": {name: authors(*options) for name, options in METHODS.items()}}, epochs=500, plateau=True
        ),
    },
    ["imagenet32"],
    [256, 512, 1024],
    crop=resize_and_crop,
    augmentations=FLIP,
)

if __name__ == "__main__":
    app()
