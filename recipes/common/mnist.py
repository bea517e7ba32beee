"""MNIST: its file, which is checked, and random splits of its training part.

Without a folder with `mnist.npz`, the file of `keras.datasets.mnist`, Keras downloads it.
"""

from pathlib import Path

import keras
import numpy as np
from sklearn.metrics import accuracy_score

from keras_actlab import experiments

CLASSES = 10
SHAPES = {"x_train": (None, 28, 28), "y_train": (None,), "x_test": (None, 28, 28), "y_test": (None,)}


def load(folder: Path | None) -> dict[str, np.ndarray]:
    """Returns images and labels of the official training and test parts, and checks them."""
    if folder is None:
        (x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
        return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    received = f"Received: data_dir={str(folder)!r}"
    try:
        with (folder / "mnist.npz").open("rb") as file, np.load(file) as archive:
            arrays = {name: archive[name] for name in SHAPES}
    except FileNotFoundError:
        raise ValueError(f"`data_dir` must hold mnist.npz. {received}") from None
    except Exception as error:  # a damaged archive makes zipfile, zlib and NumPy raise errors of many types
        raise ValueError(
            f"mnist.npz in `data_dir` must be a NumPy archive of {', '.join(SHAPES)}. {received}: {error}"
        ) from error
    for name, array in arrays.items():
        examples = len(arrays[f"x_{name[2:]}"]) if arrays[f"x_{name[2:]}"].ndim else 0
        shape = (examples, *SHAPES[name][1:])
        if array.shape != shape or not examples:
            raise ValueError(f"{name} in mnist.npz must have shape {('n', *shape[1:])}. Received: shape={array.shape}")
        top = 255 if name.startswith("x") else CLASSES - 1
        if not np.issubdtype(array.dtype, np.integer) or array.min() < 0 or array.max() > top:
            raise ValueError(
                f"{name} in mnist.npz must hold integers from 0 to {top}. "
                f"Received: dtype={array.dtype}, first entries {array.ravel()[:3]}"
            )
    return arrays


def draw(split: int, examples: int, folder: Path | None) -> experiments.Split:
    """Draws training and validation examples of one split from the official training part."""
    # Read in each call, which takes a third of a second, so that little is sent to other processes.
    data = load(folder)
    rows = np.random.default_rng(split).permutation(len(data["y_train"]))
    train, validation = rows[:examples], rows[examples : examples + examples // 2]

    def part(name: str, rows: np.ndarray | slice) -> experiments.Examples:
        images, labels = data[f"x_{name}"][rows], data[f"y_{name}"][rows]
        return images[..., None].astype("float32") / 255, labels.astype("int32")

    return experiments.Split(part("train", train), part("train", validation), part("test", slice(None)))


def accuracy(labels: np.ndarray, logits: np.ndarray) -> float:
    """Returns the percentage of images that are classified correctly."""
    return 100 * accuracy_score(labels, logits.argmax(axis=1))
