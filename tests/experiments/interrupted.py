"""A training run that kills its own process: `python -m tests.experiments.interrupted FOLDER BATCH`."""

import os
import signal
import sys
from pathlib import Path

import grain
import keras
import numpy as np

from keras_actlab import experiments
from keras_actlab.layers import GmPDense, InputMeanNormalization

STEPS, EPOCHS = 8, 2


def run(folder: Path, fatal: int | None = None) -> tuple[keras.Model, list]:
    """Trains a network with drop-out; the process is killed when batch number `fatal` is read."""
    keras.utils.set_random_seed(3)
    layers = [
        InputMeanNormalization(),
        GmPDense(8, "relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3),
        keras.layers.Dense(3),
    ]
    model = keras.Sequential([keras.Input((4,)), *layers])
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 8)
    optimizer = keras.optimizers.Adam(schedule, gradient_accumulation_steps=2, use_ema=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    at_once = 1 if keras.backend.backend() == "torch" else 2  # PyTorch's trainer has no such option
    model.compile(optimizer, loss, metrics=["accuracy"], steps_per_execution=at_once)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((70, 4)).astype("float32"), rng.integers(0, 3, 70)
    read = []

    def take(index, rows):
        if index == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        read.append((index, rows.tolist()))
        return x[rows], y[rows]

    rows = grain.MapDataset.range(len(x)).seed(0).shuffle().batch(8, drop_remainder=True)
    experiments.fit_resumable(
        model,
        rows.repeat().map_with_index(take),
        folder,
        steps_per_epoch=STEPS,
        epochs=EPOCHS,
        seed=1,
        settings={"rate": 0.01},
        validation=grain.MapDataset.source([(x[:10], y[:10]), (x[10:13], y[10:13])]),
        save_every=3,
        workers=1,
        verbose=0,
    )
    return model, read


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
