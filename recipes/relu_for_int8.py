"""ReLU and CRReLU in place of SiLU and GELU in a trained network, quantized to int8: an experiment of our own.

A convolutional network with SiLU or GELU is trained on the digits of scikit-learn, 8 x 8 pixels. Its activations are
swapped, and the network is fine-tuned in geometric form for a third of the epochs; the baseline keeps its activation
and is fine-tuned alike. Each network is folded and exported to LiteRT twice: in float32, and in int8, weights and
activations, whose ranges come from training images. LiteRT and OpenVINO run the same two files on the test images.

Times are CPU seconds of one thread for a batch of 64 images; all files take turns. Needs TensorFlow and the extra
[ship].
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import typer
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_actlab
from recipes.common import cli, files

TRAINED_WITH = ("silu", "gelu")
REPLACEMENTS = ("relu", "crrelu")
BATCH = 64

Predict = Callable[[np.ndarray], np.ndarray]


def network(activation: str, width: int) -> keras.Model:
    """Returns a network for digits, with the logits of ten classes."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(width, 3, padding="same", activation=activation),
            keras.layers.Conv2D(width, 3, padding="same", activation=activation),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(2 * width, 3, padding="same", activation=activation),
            keras.layers.Flatten(),
            keras.layers.Dense(4 * width, activation),
            keras.layers.Dense(10),
        ]
    )


def train(model: keras.Model, x: np.ndarray, y: np.ndarray, learning_rate: float, epochs: int) -> None:
    """Trains a network by Adam."""
    model.compile(keras.optimizers.Adam(learning_rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)


def batches(x: np.ndarray) -> Iterator[np.ndarray]:
    """The whole batches of `x`."""
    return (x[start : start + BATCH] for start in range(0, len(x) - BATCH + 1, BATCH))


def export(model: keras.Model, path: Path, calibration: np.ndarray | None) -> None:
    """Writes a file for LiteRT: of float32, or of int8 with the ranges of activations for the images `calibration`."""
    import tensorflow as tf

    options: dict[str, Any] = {}
    if calibration is not None:
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
        options["representative_dataset"] = lambda: ([batch] for batch in batches(calibration))
    signature = [keras.InputSpec(shape=(BATCH, *model.input_shape[1:]), dtype="float32")]
    model.export(path, format="litert", verbose=False, input_signature=signature, **options)


def litert(path: Path) -> Predict:
    """Returns a function of a batch that runs a file in LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    entry, leave = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def predict(batch: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(entry, batch)
        interpreter.invoke()
        return interpreter.get_tensor(leave)

    return predict


def openvino(path: Path) -> Predict:
    """Returns a function of a batch that runs a file in OpenVINO."""
    import openvino as ov

    compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"})
    return lambda batch: next(iter(compiled(batch).values()))


def microseconds(runners: dict[Any, Predict], batch: np.ndarray, repeats: int) -> dict[Any, float]:
    """Returns the median CPU time of an image for each runner; they take turns."""
    times: dict[Any, list[float]] = {key: [] for key in runners}
    for key, predict in itertools.chain.from_iterable(itertools.repeat(list(runners.items()), repeats)):
        began = time.process_time()
        for _ in range(10):
            predict(batch)
        times[key].append((time.process_time() - began) / 10 / len(batch) * 1e6)
    return {key: float(np.median(values)) for key, values in times.items()}


def one_seed(seed: int, epochs: int, width: int, repeats: int) -> list[dict[str, Any]]:
    """Trains, swaps, fine-tunes, folds and exports. Returns a row for each activation, runtime and kind of weights."""
    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8, 1) / 16).astype("float32")
    train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=0.3, random_state=seed, stratify=y)
    rows, runners = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for trained_with in TRAINED_WITH:
            keras.utils.set_random_seed(seed)
            trained = network(trained_with, width)
            train(trained, train_x, train_y, 1e-3, epochs)
            for activation in (trained_with, *REPLACEMENTS):
                swapped = trained if activation == trained_with else keras_actlab.swap_activations(trained, activation)
                tuned = keras_actlab.to_gmp(swapped)
                train(tuned, train_x, train_y, 3e-4, epochs // 3 or 1)
                folded = keras_actlab.fold(tuned)
                for weights, calibration in (("float32", None), ("int8", train_x)):
                    path = Path(folder) / f"{trained_with}-{activation}-{weights}.tflite"
                    export(folded, path, calibration)
                    for runtime, load in (("LiteRT", litert), ("OpenVINO", openvino)):
                        predict = load(path)
                        found = np.concatenate([predict(batch).argmax(-1) for batch in batches(test_x)])
                        key = {"trained with": trained_with, "activation": activation}
                        key |= {"runtime": runtime, "weights": weights}
                        runners[tuple(key.values())] = predict
                        accuracy = float(np.mean(found == test_y[: len(found)]))
                        kilobytes = path.stat().st_size / 1000
                        rows.append({"seed": seed, **key, "accuracy": accuracy, "kilobytes": kilobytes})
        times = microseconds(runners, test_x[:BATCH], repeats)
    return [row | {"microseconds": times[tuple(list(row.values())[1:5])]} for row in rows]


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Returns means and standard errors over the seeds, of differences from the network that keeps its activation.

    The accuracy is in percentage points, and the difference is from that network in float32, in the same runtime. Times
    are relative to those of that network in the same runtime, with the same weights and with float32.
    """
    keys = ["seed", "trained with", "runtime"]
    of_own = table[table["activation"] == table["trained with"]].drop(columns="activation")
    in_float = of_own[of_own["weights"] == "float32"].drop(columns="weights")
    alike = table.merge(of_own, on=[*keys, "weights"], suffixes=("", " of own"))
    alike = alike.merge(in_float, on=keys, suffixes=("", " float"))
    found = alike[["trained with", "activation", "runtime", "weights", "kilobytes"]].assign(
        **{
            "accuracy (%)": 100 * alike["accuracy"],
            "change (points)": 100 * (alike["accuracy"] - alike["accuracy float"]),
            "time / own, same weights": alike["microseconds"] / alike["microseconds of own"],
            "time / own, float32": alike["microseconds"] / alike["microseconds float"],
        }
    )
    groups = found.groupby(["trained with", "runtime", "weights", "activation"], sort=False)
    means, errors = groups.mean(), groups.sem()
    written = means[["kilobytes"]].round(0).astype(int)
    for column in found.columns[5:]:
        pairs = zip(means[column], errors[column], strict=True)
        written[column] = [f"{mean:.2f} ± {error:.2f}" for mean, error in pairs]
    return written.reset_index()


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__)
def main(
    out: cli.Out = Path("results"),
    seeds: int = typer.Option(5, min=1, help="Number of splits of the digits. Those in the table are not run again."),
    epochs: int = typer.Option(30, min=1, help="Epochs of the first training."),
    smoke: cli.Smoke = False,
) -> None:
    """Runs the experiment and writes its table."""
    if keras.backend.backend() != "tensorflow":
        raise typer.BadParameter("Keras exports to LiteRT from TensorFlow: set KERAS_BACKEND=tensorflow.")
    seeds, epochs, width, repeats = (2, 1, 4, 1) if smoke else (seeds, epochs, 32, 30)
    path = out / "relu_for_int8.csv"
    done = set(pd.read_csv(path)["seed"]) if path.exists() else set()
    for seed in sorted(set(range(seeds)) - done):
        files.append_rows(one_seed(seed, epochs, width, repeats), path)
    print(f"\n{summary(pd.read_csv(path)).to_markdown(index=False)}")


if __name__ == "__main__":
    app()
