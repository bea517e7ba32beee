"""Prints, as JSON, how a small network learns on several simulated devices: `python -m tests.data_parallel_run FOLDER`.

The folder gets a file of boundaries, and one of each process with the curve that it has after refinement.

On JAX XLA_FLAGS says how many, on TensorFlow there are four, and on PyTorch it is run by `torchrun`.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np

from keras_actlab import cab, distribution, eafo
from keras_actlab.layers import (
    EntropyActivation,
    GmPConv2D,
    GmPDense,
    InputMeanNormalization,
    MeanOnlyBatchNormalization,
)
from tests.backends import numpy

STEPS, BATCH_SIZE = 20, 16


def train(steps: int = STEPS) -> dict[str, list[float]]:
    """Returns the loss of each step, the metrics of an evaluation, and the moving means."""
    rng = np.random.default_rng(0)
    x = rng.normal(1.0, 1.0, (steps * BATCH_SIZE, 6, 3)).astype("float32")
    x[rng.random(x.shape[:2]) < 0.3] = 0.0  # masked, so that replicas have different numbers of samples
    y = rng.integers(3, size=len(x))
    index, count = distribution.data_shard()
    keras.utils.set_random_seed(index)
    model = keras.Sequential(
        [
            keras.Input((6, 3)),
            keras.layers.Masking(),
            InputMeanNormalization(synchronized=True, momentum=0.9),
            GmPDense(16, activation="relu"),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Reshape((4, 4, 1)),
            GmPConv2D(4, 3, activation="relu"),
            MeanOnlyBatchNormalization(synchronized=True, momentum=0.9),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, metrics=["accuracy"])
    means = []  # of the losses so far
    record = keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: means.append(float(logs["loss"])))
    x, y, batch_size = x[index::count], y[index::count], distribution.local_batch_size(BATCH_SIZE)
    model.fit(x, y, batch_size=batch_size, shuffle=False, verbose=0, callbacks=[record])
    return {
        "losses": np.diff(np.array(means) * np.arange(1, steps + 1), prepend=0.0).tolist(),
        "evaluation": model.evaluate(x, y, batch_size=batch_size, verbose=0),
        "moving means": np.concatenate([numpy(variable) for variable in model.non_trainable_variables]).tolist(),
    }


def watch(folder: Path) -> None:
    """Trains with callbacks that write a file and assign weights."""
    index, count = distribution.data_shard()
    layers = [keras.layers.Dense(8, name="hidden"), EntropyActivation(sample_size=64, name="curve")]
    model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.random.default_rng(1).normal(size=(64, 3)).astype("float32")[index::count]
    refinement = eafo.EntropyRefinement(every=2)
    callbacks = [cab.BoundaryTracker("hidden", path=folder / "tracks.npz"), refinement]
    batch_size = distribution.local_batch_size(BATCH_SIZE)
    model.fit(x, x[:, 0], batch_size=batch_size, epochs=3, verbose=0, callbacks=callbacks)
    found = {"values": numpy(layers[1].values).tolist(), "steps": refinement.log["step"].tolist()}
    (folder / f"process-{index}.json").write_text(json.dumps(found))


def main(folder: Path) -> None:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
    with distribution.data_parallel():
        index, _ = distribution.data_shard()
        try:
            distribution.local_batch_size(7)
        except ValueError as error:
            message = str(error)
        train(steps=2)
    with distribution.data_parallel():  # once more, as where several networks are trained
        results = train() | {"error": message}
        watch(folder)
    if index == 0:
        print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
