"""RandAugment for batches of training images, made of Keras layers."""

import threading
from typing import Any

import keras
import numpy as np

from recipes.common.images import Batch

# Number of images in a group: they get the same two operations, each image with its own magnitude.
GROUP = 8


class RandAugment:
    """Applies two of fourteen random operations to each group of eight images.

    Operations and magnitudes are those of Sun et al. (2024), magnitude 9 of 10, with three differences: magnitudes are
    uniform up to that value, in both directions, instead of normal around it; solarization does not add; and eight
    images share their operations. `keras.layers.RandAugment` applies the same operations to all images of a batch, and
    its magnitude 9 rotates images by up to 324 degrees instead of 27.

    Args:
        seed: Seed of the random operations. They depend on the seed and the number of the batch only.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.lock = threading.Lock()  # batches are made in several threads, and each random layer has one state
        layers = keras.layers
        pixels: dict[str, Any] = {"value_range": (0, 255)}
        grey: dict[str, Any] = {"fill_mode": "constant", "fill_value": 128.0}
        self.changes = [
            layers.AutoContrast(**pixels),
            layers.Equalization(**pixels),
            layers.RandomInvert(1.0, **pixels),
            layers.RandomRotation(27 / 360, **grey),
            layers.RandomPosterization(4, **pixels),
            layers.Solarization(threshold_factor=0.9, **pixels),
            layers.RandomColorDegeneration(0.81, **pixels),
            layers.RandomContrast(0.81, **pixels),
            layers.RandomBrightness(0.81, **pixels),
            layers.RandomSharpness(0.81, **pixels),
            layers.RandomShear(x_factor=0.27, **grey),
            layers.RandomShear(y_factor=0.27, **grey),
            layers.RandomTranslation(0.0, 0.4, **grey),
            layers.RandomTranslation(0.4, 0.0, **grey),
        ]

    def __call__(self, step: int, batch: Batch) -> Batch:
        """Returns the augmented images of batch number `step`, and their labels."""
        pixels, labels = batch
        rng = np.random.default_rng([self.seed, step])
        changed = pixels.astype("float32")
        with self.lock:
            for start in range(0, len(pixels), GROUP):
                group = changed[start : start + GROUP]
                for change in rng.choice(self.changes, 2):
                    if hasattr(change, "generator"):
                        change.generator.state.assign(rng.integers(0, 2**31, 2))
                    group[:] = keras.ops.convert_to_numpy(change(group, training=True))
        return np.clip(changed, 0, 255).astype("uint8"), labels
