"""A comparison small enough for tests, and results made up by hand."""

import multiprocessing
import os
import signal

import keras
import numpy as np
from sklearn.metrics import root_mean_squared_error

from keras_actlab import experiments


def linear(learning_rate: float) -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(learning_rate), "mse")
    return model


def deep(learning_rate: float) -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(learning_rate), "mse")
    return model


def killed(learning_rate: float) -> keras.Model:
    """Kills the process in which it is called, unless that is the one that started others."""
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return linear(learning_rate)


def data(split: int) -> experiments.Split:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(60, 3))
    return experiments.holdout(x, x @ [1.0, -2.0, 0.5] + rng.normal(size=60), seed=split, standardize_targets=True)


def comparison(**changes) -> experiments.Comparison:
    arguments = {
        "name": "plane",
        "methods": {"linear": linear, "deep": deep},
        "data": data,
        "metrics": {"RMSE": root_mean_squared_error},
        "grid": {"learning_rate": [0.003, 0.1]},
        "splits": 3,
        "epochs": 4,
        "validate_every": 2,
        "batch_size": 16,
        "vectorize": 3,
    }
    return experiments.Comparison(**arguments | changes)


def results(errors: dict[str, list[float]], unit: str = "split", **configuration) -> experiments.Results:
    """Final rows with the given test errors, one a split or a seed."""
    description = {
        "methods": dict.fromkeys(errors),
        "metrics": ["RMSE"],
        "monitor": "RMSE",
        "mode": "min",
        "grid": {},
        "sizes": {"train": 60, "validation": 20, "test": 20},
    }
    rows = [
        {
            **{"task": "plane", "method": method, "stage": "final", "split": 0, "seed": 0},
            **{unit: index, "hyperparameters": {}, "epochs": 2, "metrics": {"RMSE": value}, "failure": None},
        }
        for method, values in errors.items()
        for index, value in enumerate(values)
    ]
    return experiments.Results([{"task": "plane", "configuration": description | configuration}, {"rows": rows}])
