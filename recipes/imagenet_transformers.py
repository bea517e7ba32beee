"""ImageNet with vision transformers: a comparison of activations.

Sun et al. (2024) report, in % after 100 epochs, one run each:

| | GELU | ELU | PReLU | CELU | SiLU | Mish | CRReLU |
|---|---|---|---|---|---|---|---|
| ViT-Tiny | 54.2 | 38.4 | 57.2 | 38.4 | 46.9 | 47.9 | 57.9 |
| DeiT-Tiny | 61.9 | 49.7 | 61.2 | 49.7 | 58.4 | 59.2 | 61.5 |

The settings are those of `recipes.cifar_transformers`, with patches of 16 x 16 pixels in images of 224 x 224; so are
the differences to the paper. Training images are random crops after the shorter side is resized to a random length from
224 to 320 pixels; the paper does not state its crops.

Data: `--data-dir` names a folder with the folders `train` and `val`, each with a folder of images for every class.
"""

from recipes.common.image_classification import command
from recipes.common.transformers import methods

app = command(
    "imagenet_transformers",
    "Repeats the experiments of Sun et al. (2024) on ImageNet: activations of vision transformers.",
    {name: methods(name) for name in ("ViT-Tiny", "DeiT-Tiny")},
    ["folders"],
    [256],
    epochs=100,
    resize=(224, 320),
    rand_augment=True,
)

if __name__ == "__main__":
    app()
