"""ImageNet with vision transformers: a comparison of activations.

Sun et al. (2024) report, in % after 100 epochs, one run each:

| | GELU | ELU | PReLU | CELU | SiLU | Mish | CRReLU |
|---|---|---|---|---|---|---|---|
| ViT-Tiny | 54.2 | 38.4 | 57.2 | 38.4 | 46.9 | 47.9 | 57.9 |
| DeiT-Tiny | 61.9 | 49.7 | 61.2 | 49.7 | 58.4 | 59.2 | 61.5 |

The settings are those of `recipes.cifar_transformers`, with patches of 16 x 16 pixels in images of 224 x 224; so are
the differences to the paper. The paper does not state its crops. They are those of timm: random crops of 8 to 100 % of
an image, with an aspect ratio from 3 / 4 to 4 / 3, which are resized to the square.

Data: `--data-dir` names a folder with the folders `train` and `val`, each with a folder of images for every class.
"""

from recipes.common.augmentation import random_resized_crop
from recipes.common.image_classification import Protocol, command
from recipes.common.transformers import AUGMENTATIONS, methods

app = command(
    "imagenet_transformers",
    "Repeats the experiments of Sun et al. (2024) on ImageNet: activations of vision transformers.",
    {"ours": Protocol({name: methods(name) for name in ("ViT-Tiny", "DeiT-Tiny")}, epochs=100)},
    ["folders"],
    [256],
    crop=random_resized_crop,
    augmentations=AUGMENTATIONS,
)

if __name__ == "__main__":
    app()
