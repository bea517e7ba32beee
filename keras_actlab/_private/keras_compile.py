"""What `keras.Model.compile` was given, what prevents compilation, and the direction of metrics.

Read in Keras 3.15.1 (`keras/src/trainers/trainer.py`, `keras/src/callbacks/monitor_callback.py`). Keras returns the
arguments of `compile` in serialized form only, which custom losses and metrics do not have unless they are registered.
"""

from typing import Any

import keras


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """Returns the arguments of `model.compile` as they were given, by name."""
    return dict(model._compile_config.config)


def layers_without_jit(model: keras.Model) -> list[str]:
    """Returns the names of the layers, or of the model itself, for which Keras compiles no training step by itself."""
    return [layer.name for layer in model._flatten_layers() if not layer.supports_jit]


def metric_modes(model: keras.Model) -> dict[str, str | None]:
    """Returns, for each metric of a compiled model that has seen data, whether low values ("min") or high ones are
    better, or None if Keras does not state it. Keras' `EarlyStopping(mode="auto")` reads the same attribute.
    """
    metrics = [part for metric in model.metrics for part in getattr(metric, "metrics", [metric])]
    modes = {"up": "max", "down": "min"}
    return {metric.name: modes.get(getattr(metric, "_direction", "")) for metric in metrics} | {"loss": "min"}
