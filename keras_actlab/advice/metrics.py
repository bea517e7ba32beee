"""Metrics of a compiled model as functions of targets and predictions.

An ensemble of models that trains as one program has no compiled metrics of its own. A function also gets targets and
predictions in the units of the data, where a split changes them.
"""

from typing import Any

import keras
import numpy as np

from keras_actlab.advice.compilation import compile_alike, learning_rate
from keras_actlab.advice.data import as_tensors
from keras_actlab.advice.starts import Start


class CompiledMetric:
    """A metric, or the loss, that a model is compiled with.

    Args:
        start: Where models come from.
        name: "loss", or the name of the metric in `model.evaluate`.
    """

    keeps_columns = True  # Keras tells a column from class numbers by its shape

    def __init__(self, start: Start, name: str):
        self.start, self.name = start, name
        self._model: keras.Model | None = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_model": None}  # another process compiles its own

    def __call__(self, targets: np.ndarray, predictions: np.ndarray) -> float:
        if self._model is None:
            self._model = compiled(self.start)
        y, y_pred = as_tensors((targets, predictions))
        if self.name == "loss":
            return float(self._model.compute_loss(None, y, y_pred))
        self._model.reset_metrics()
        return float(self._model.compute_metrics(None, y, y_pred)[self.name])


def compiled(start: Start) -> keras.Model:
    """Returns a new model that is compiled as the original."""
    original = start.original
    model = start.model()
    name, value = learning_rate(original)
    compile_alike(model, original, {name: value})
    return model
