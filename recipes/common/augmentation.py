"""Random changes of training pictures, as layers of Keras."""

import threading
from typing import Any

import keras
import numpy as np

from recipes.images import Batch

# Images in a group, which get the same two changes, each image with a strength of its own.
GROUP = 8


class RandAugment:
    """Changes batches of pictures at random: each group of eight by two of fourteen changes.

    The changes and their strengths are those of magnitude 9 of 10 as Sun et al. (2024) set it, but for this: strengths
    are uniform up to that magnitude, in both directions, instead of about it; solarization does not add; and eight
    pictures share their choice of changes. `keras.layers.RandAugment` changes all pictures of a batch in the same way,
    and its magnitude 9 turns pictures by up to 324 degrees instead of 27.

    Args:
        seed: With the number of a batch, decides everything.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.lock = threading.Lock()  # batches are made in several threads, and a random layer has one state
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
        """Returns the changed pictures of batch number `step`, and their labels."""
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
