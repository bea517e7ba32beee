"""Loads every model of a directory in this process and writes what it computes: `python -m tests.replay DIRECTORY`.

The contract test runs it in a new process on another backend and compares the results with its own.
"""

import sys
from pathlib import Path

import keras
import numpy as np

import keras_actlab  # noqa: F401  # all that a saved model needs
from tests.backends import layer_gradients, numpy


def compute(model: keras.Model, x: np.ndarray, cotangent: np.ndarray) -> dict[str, np.ndarray]:
    """The variables of `model`, its output for `x`, and the gradients of `sum(output * cotangent)`."""
    names = ["x", *[variable.path for variable in model.trainable_variables]]
    return {
        "output": numpy(model(x)),
        **{f"variable {variable.path}": numpy(variable) for variable in model.variables},
        **{f"gradient {n}": g for n, g in zip(names, layer_gradients(model, x, cotangent), strict=True)},
    }


def main(directory: Path) -> None:
    for folder in directory.iterdir():
        model = keras.saving.load_model(folder / "model.keras")
        with np.load(folder / "data.npz") as data:
            results = compute(model, data["x"], data["cotangent"])
        fresh = keras.Model.from_config(model.get_config())
        fresh.load_weights(folder / "model.weights.h5")
        for loaded, variable in zip(fresh.variables, model.variables, strict=True):
            results[f"weights file {variable.path}"] = numpy(loaded)
        np.savez(folder / f"{keras.backend.backend()}.npz", **results)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
