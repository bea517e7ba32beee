"""Exports models for a batch of any size: `python -m tests.conversion.dynamic_batch FOLDER`.

Exits with the names of the models whose ONNX file does not compute what the model does for another batch size.
"""

import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import onnxruntime

import keras_actlab
from keras_actlab import layers

IMAGE = (6, 6, 2)
# PyTorch's exporter once divided by 0 for some of these.
FAN_INS = (1, 2, 3, 4, 5, 8, 16) if keras.backend.backend() == "torch" else (1, 4)
MODELS = {f"GmPDense of {fan_in} inputs": ((fan_in,), layers.GmPDense(4, "relu")) for fan_in in FAN_INS}
MODELS |= {
    "GmPConv2D": (IMAGE, layers.GmPConv2D(3, 3, padding="same")),
    "WeightNormalization": ((5,), layers.WeightNormalization(keras.layers.Dense(3))),
    "CRReLU": ((5,), layers.CRReLU()),
    "TMAF": ((5,), layers.TMAF(bandwidth=1)),
    # Plain Keras, from a model that was not called since.
    "GmPDense, folded": ((5,), layers.GmPDense(4, "relu")),
}


def main(folder: Path) -> None:
    failed = []
    for name, (shape, layer) in MODELS.items():
        model = keras.Sequential([keras.Input(shape), layer])
        x = np.random.default_rng(0).standard_normal((3, *shape)).astype("float32")
        expected = keras.ops.convert_to_numpy(model(x))
        exported = keras_actlab.fold(model) if "folded" in name else model
        path = folder / "model.onnx"
        exported.export(path, format="onnx", verbose=False)
        session = onnxruntime.InferenceSession(path)
        found = session.run(None, {session.get_inputs()[0].name: x})[0]
        if found.shape != expected.shape or np.abs(found - expected).max() > 1e-5:
            failed.append(name)
    sys.exit(", ".join(failed) or 0)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # the exporters' own
    main(Path(sys.argv[1]))
