"""Loads each model of a directory and writes what it computes: `python -m tests.conversion.reload DIRECTORY`.

`test_saving.py` runs it in a new process on another backend and compares the results with its own.
"""

import sys
from pathlib import Path

import keras
import numpy as np

import keras_actlab  # noqa: F401  # all that a converted model needs; Keras imports keras-hub by the module of a class
import tests.conversion.parts  # noqa: F401  # registers its classes
from tests.backends import numpy


def main(directory: Path) -> None:
    for folder in directory.iterdir():
        with np.load(folder / "x.npz", allow_pickle=False) as file:
            x = dict(file)
        model = keras.saving.load_model(folder / "model.keras", compile=False)
        fresh = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
        fresh.load_weights(folder / "model.weights.h5")
        inputs = x.get("x", x)
        np.savez(
            folder / f"{keras.backend.backend()}.npz",
            output=numpy(model(inputs)),
            from_weights=numpy(fresh(inputs)),
            classes=[type(layer).__name__ for layer in model._flatten_layers()],
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
