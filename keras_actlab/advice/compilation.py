"""Compiles variants of a model as the model itself, with another learning rate."""

from typing import Any

import keras

from keras_actlab._private.keras_compile import compile_arguments
from keras_actlab._private.keras_trainer import excludes_from_weight_decay
from keras_actlab._private.object_graph import duplicate


@keras.saving.register_keras_serializable("keras_actlab")
class Scaled(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate schedule times a factor."""

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, factor: float):
        self.schedule, self.factor = schedule, factor

    def __call__(self, step: Any) -> Any:
        return self.factor * self.schedule(step)

    def get_config(self) -> dict[str, Any]:
        return {"schedule": keras.saving.serialize_keras_object(self.schedule), "factor": self.factor}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Scaled":
        return cls(keras.saving.deserialize_keras_object(config["schedule"]), config["factor"])


def learning_rate(model: keras.Model) -> tuple[str, float]:
    """Returns the name under which the learning rate is tuned, and its value in the model.

    A schedule is tuned as a whole: its name is "learning_rate_factor", and its value 1.
    """
    config = _inner(model.optimizer).get_config()
    if isinstance(config["learning_rate"], dict):
        return "learning_rate_factor", 1.0
    return "learning_rate", float(f"{config['learning_rate']:.6g}")  # without the rounding errors of float32


def compile_alike(model: keras.Model, original: keras.Model, rate: dict[str, float]) -> None:
    """Compiles `model` with the arguments of `original`, except for its learning rate.

    Args:
        model: The model to compile.
        original: A compiled model.
        rate: The learning rate by the name that `learning_rate` returns.
    """
    arguments = compile_arguments(original)
    # Metrics have state. Strings and functions become new metrics when Keras compiles the model.
    for name in ("metrics", "weighted_metrics"):
        arguments[name] = keras.tree.map_structure(_fresh, arguments[name]) if arguments[name] else arguments[name]
    model.compile(**arguments | {"optimizer": _with_rate(original.optimizer, rate)})


def _inner(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Returns the optimizer within a `LossScaleOptimizer`, which `compile` adds under mixed precision."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def check_optimizer(optimizer: keras.optimizers.Optimizer) -> None:
    """Raises a ValueError for settings that a new optimizer for another model, or a fit in blocks, cannot have."""
    if _inner(optimizer).use_ema:
        raise ValueError(
            "`model` must have an optimizer that does not average weights at the end of a fit, because a fit is "
            f"trained in several blocks. Received: {_inner(optimizer).name} with use_ema=True"
        )
    if excludes_from_weight_decay(_inner(optimizer)):
        raise ValueError(
            "`model` must have an optimizer that excludes no variables from weight decay, as variants have other "
            f"variables. Received: {optimizer.name}, for which `exclude_from_weight_decay` was called"
        )


def _with_rate(optimizer: keras.optimizers.Optimizer, rate: dict[str, float]) -> keras.optimizers.Optimizer:
    config = optimizer.get_config()
    if _inner(optimizer) is not optimizer:
        config["inner_optimizer"] = keras.saving.serialize_keras_object(_with_rate(_inner(optimizer), rate))
        return type(optimizer).from_config(config)
    if "learning_rate_factor" in rate:
        schedule = keras.saving.deserialize_keras_object(config["learning_rate"])
        config["learning_rate"] = Scaled(schedule, rate["learning_rate_factor"])
    else:
        config["learning_rate"] = rate["learning_rate"]
    return type(optimizer).from_config(config)


def _fresh(metric: Any) -> Any:
    if not isinstance(metric, keras.metrics.Metric):
        return metric
    copied = duplicate(metric)[0]  # unlike its configuration, it holds functions that are not registered
    copied.reset_state()
    return copied
