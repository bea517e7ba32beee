"""CIFAR-10 and CIFAR-100 with vision transformers: a comparison of activations.

Sun et al. (2024) report, in % after 100 epochs, one run each:

| | GELU | ELU | PReLU | CELU | SiLU | Mish | CRReLU |
|---|---|---|---|---|---|---|---|
| CIFAR-10 ViT-Tiny | 70.6 | 66.9 | 78.6 | 66.9 | 68.3 | 68.7 | 80.2 |
| CIFAR-10 DeiT-Tiny | 71.6 | 67.1 | 75.3 | 67.1 | 69.4 | 69.5 | 76.8 |
| CIFAR-10 TNT-Small | 74.3 | 68.9 | 76.1 | 68.9 | 71.9 | 72.5 | 77.5 |
| CIFAR-100 ViT-Tiny | 32.2 | 28.7 | 42.1 | 28.7 | 30.6 | 29.7 | 45.9 |
| CIFAR-100 DeiT-Tiny | 46.0 | 40.0 | 49.3 | 40.0 | 42.9 | 42.9 | 50.8 |
| CIFAR-100 TNT-Small | 48.4 | 43.5 | 49.8 | 43.5 | 45.9 | 46.4 | 50.8 |

The logs of the authors also have ReLU (80.8) and leaky ReLU (80.5) for CIFAR-10 and ViT-Tiny, both above CRReLU. Both
are therefore compared here.

The settings are those of the paper: patches of 4 x 4 pixels, AdamW with weight decay 0.05 on all parameters (epsilon,
too), a learning rate of 2.5e-4 for batches of 256 with a warm-up from 1e-6 over 20 epochs and cosine decay to 1e-5,
gradients clipped to norm 1, 100 epochs, no drop-out, RandAugment and random erasing of a quarter of the images. What
the paper does not state follows the library timm: flips; RandAugment of magnitude 9 with a standard deviation of 0.5,
two changes, each applied with probability one half (`recipes.common.augmentation`); and the initial weights, normal
with a standard deviation of 0.02, truncated at twice that. `--augmentation layer` makes the same changes within the
training step (`keras_actlab.layers.RandAugment`) instead of by Pillow.

Differences to the paper: means and standard errors over seeds; a learning rate in proportion to the batch size; PReLU
with one slope for each layer, which starts at 0.25, to match the published numbers of parameters. The paper does not
say whether DeiT has a teacher. Here it learns from a ResNet-18, which is trained first on the same data for as many
epochs, or from a model in a file (`--teacher FILE.keras`, from pixels from 0 to 255 to logits). The teacher sees the
images after the changes by Pillow; those of a layer are the student's only. Its weights are in the column of
parameters. `--teacher none` trains the mean of DeiT's two heads on the labels.

Differences to timm: interpolation is bilinear; posterization keeps at least one bit; noise in erased rectangles is
clipped to the range of pixels.

Data: `--data-dir` names a folder with the files of CIFAR for Python, `data_batch_1` to `_5` and `test_batch`, or
`train` and `test`. Without it Keras downloads them.
"""

from recipes.common.augmentation import random_resized_crop
from recipes.common.image_classification import Protocol, command
from recipes.common.transformers import AUGMENTATIONS, NETWORKS, methods

app = command(
    "cifar_transformers",
    "Repeats the experiments of Sun et al. (2024) on CIFAR: activations of vision transformers.",
    {"ours": Protocol({name: methods(name) for name in NETWORKS}, epochs=100)},
    ["cifar10", "cifar100"],
    [256],
    crop=random_resized_crop,
    augmentations=AUGMENTATIONS,
)

if __name__ == "__main__":
    app()
