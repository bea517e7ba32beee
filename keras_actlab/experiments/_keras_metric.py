"""Metrics of Keras as functions of all targets and predictions."""

from typing import Any

import keras
import numpy as np


class KerasMetric:
    """A metric of Keras, or the name of one, as a function. Each call is independent of the others.

    Args:
        metric: As in the list `metrics` of `keras.Model.compile`: a name, or a `keras.metrics.Metric`, which is copied.

    Raises:
        ValueError: If Keras does not know the name, or the metric has no config.

    Example: "accuracy" depends on the shapes, as in `compile`.

    >>> from keras_actlab.experiments._keras_metric import KerasMetric
    >>> KerasMetric("accuracy")(np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]]))
    0.5
    """

    keeps_columns = True  # Keras tells a column from class numbers by its shape

    def __init__(self, metric: str | keras.metrics.Metric):
        # The saved form, because a metric has state, and is sent to other processes.
        self.saved = metric if isinstance(metric, str) else keras.saving.serialize_keras_object(metric)
        self._new()

    def _new(self) -> Any:
        if isinstance(self.saved, dict):
            return keras.saving.deserialize_keras_object(self.saved)
        if self.saved not in ("accuracy", "acc"):  # which depend on the shapes
            keras.metrics.get(self.saved)
        return self.saved

    def __call__(self, targets: np.ndarray, predictions: np.ndarray) -> float:
        model = keras.Sequential()
        model.compile(metrics=[self._new()])
        targets, predictions = (keras.tree.map_structure(_tensor, values) for values in (targets, predictions))
        found = model.compute_metrics(None, targets, predictions)
        (value,) = (value for name, value in found.items() if name != "loss")
        return float(value)


def _tensor(array: np.ndarray) -> Any:
    # JAX would warn that it has no float64.
    return keras.ops.convert_to_tensor(array, "float32" if array.dtype.kind == "f" else None)
