"""ReLU and CRReLU in place of SiLU in a trained network, then folded, quantized and timed: an experiment of our own.

A convolutional network with SiLU is trained on the digits of scikit-learn, 8 x 8 pixels. Its activations are swapped
for those of a method, and the network is fine-tuned for a few epochs; the baseline keeps SiLU and is fine-tuned for as
long. The result is folded, exported, and evaluated on test images in each runtime: LiteRT with float weights and with
int8 weights (dynamic range), OpenVINO, and Keras itself after `keras_actlab.quantize` to int8 and int4. Times are CPU
seconds of one thread for a batch of 64 images, relative to those of SiLU in the same runtime; the methods take turns.

The second table is of a language model of keras-hub, a small GPT-2 with CRReLU and geometric weights, which is trained
on a text that counts, folded and quantized: the size of the weights, the share of next tokens that are right, and
whether greedy generation gives the same tokens. Needs TensorFlow, and the extras [hub] and [ship].
"""

import tempfile
import time
from collections.abc import Callable
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

METHODS = ("silu", "relu", "crrelu")
BATCH = 64
WORDS = [*"0123456789", "00", "<|endoftext|>"]
# The sum of the first two digits mod 10 is the next one, so that a text follows from its start.
STARTS = ["12", "57", "90", "33"]

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
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(learning_rate), loss)
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)


def litert(model: keras.Model, folder: Path, **options: Any) -> tuple[Predict, int]:
    """Exports a model, and returns a function of a batch that runs the file in LiteRT, and the bytes of the file."""
    from ai_edge_litert.interpreter import Interpreter

    path = folder / "model.tflite"
    signature = [keras.InputSpec(shape=(BATCH, *model.input_shape[1:]), dtype="float32")]
    model.export(path, format="litert", verbose=False, input_signature=signature, **options)
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    entry, leave = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def predict(batch: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(entry, batch)
        interpreter.invoke()
        return interpreter.get_tensor(leave)

    return predict, path.stat().st_size


def openvino(model: keras.Model, folder: Path) -> tuple[Predict, int]:
    """The same for OpenVINO."""
    import openvino as ov

    path = folder / "model.xml"
    model.export(path, format="openvino", verbose=False)
    compiled = ov.Core().compile_model(str(path), "CPU", {"INFERENCE_NUM_THREADS": 1})
    return lambda batch: next(iter(compiled(batch).values())), path.with_suffix(".bin").stat().st_size


def quantized(model: keras.Model, mode: str) -> tuple[Predict, int]:
    """The same for a model that Keras quantizes, in Keras."""
    keras_actlab.quantize(model, mode)
    return lambda batch: keras.ops.convert_to_numpy(model(batch)), weight_bytes(model)


def weight_bytes(model: keras.Model) -> int:
    """Returns the memory of all weights."""
    return sum(int(keras.ops.convert_to_numpy(weight).nbytes) for weight in model.weights)


def accuracy(predict: Predict, x: np.ndarray, y: np.ndarray) -> float:
    """Returns the share of whole batches of test images that are classified correctly."""
    starts = range(0, len(x) - BATCH + 1, BATCH)
    return float(np.mean([predict(x[i : i + BATCH]).argmax(-1) == y[i : i + BATCH] for i in starts]))


def times(runners: dict[Any, Predict], batch: np.ndarray, repeats: int) -> dict[Any, float]:
    """Returns the median CPU seconds of a batch for each runner; they take turns."""
    seconds: dict[Any, list[float]] = {key: [] for key in runners}
    for repeat in range(repeats + 3):
        for key, predict in runners.items():
            began = time.process_time()
            for _ in range(10):
                predict(batch)
            if repeat >= 3:
                seconds[key].append((time.process_time() - began) / 10)
    return {key: float(np.median(values)) for key, values in seconds.items()}


def digits(seeds: int, epochs: int, width: int, repeats: int) -> pd.DataFrame:
    """Trains, swaps, fine-tunes, folds, exports and quantizes. Returns a row for each seed, method and runtime."""
    import tensorflow as tf

    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8, 1) / 16).astype("float32")
    rows = []
    for seed in range(seeds):
        train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=0.3, random_state=seed, stratify=y)
        keras.utils.set_random_seed(seed)
        trained = network("silu", width)
        train(trained, train_x, train_y, 1e-3, epochs)
        runners: dict[tuple[str, str], Predict] = {}
        with tempfile.TemporaryDirectory() as name:
            for method in METHODS:
                swapped = trained if method == "silu" else keras_actlab.swap_activations(trained, method)
                tuned = keras_actlab.to_gmp(swapped)  # a copy, in geometric form
                train(tuned, train_x, train_y, 3e-4, epochs // 3 or 1)
                folder = Path(name) / method
                folder.mkdir()
                folded = keras_actlab.fold(tuned)
                made = {
                    "LiteRT": litert(folded, folder),
                    "LiteRT, int8 weights": litert(folded, folder, optimizations=[tf.lite.Optimize.DEFAULT]),
                    "OpenVINO": openvino(folded, folder),
                    "Keras, int8": quantized(keras_actlab.fold(tuned), "int8"),
                    "Keras, int4": quantized(keras_actlab.fold(tuned), "int4"),
                }
                for runtime, (predict, size) in made.items():
                    found = accuracy(predict, test_x, test_y)
                    rows.append(
                        {"seed": seed, "method": method, "runtime": runtime, "accuracy": found, "kilobytes": size / 1e3}
                    )
                    if not runtime.startswith("Keras"):
                        runners[method, runtime] = predict
            seconds = times(runners, test_x[:BATCH], repeats)
        for row in rows[-len(METHODS) * 5 :]:
            own, base = (seconds.get((method, row["runtime"])) for method in (row["method"], "silu"))
            row["relative time"] = own / base if own and base else np.nan
    return pd.DataFrame(rows)


def counting(count: int, length: int, seed: int) -> list[str]:
    """Returns texts of digits in which each digit is the sum of the two before it, mod 10."""
    texts = []
    for first, second in np.random.default_rng(seed).integers(0, 10, (count, 2)):
        digits = [int(first), int(second)]
        while len(digits) < length:
            digits.append(sum(digits[-2:]) % 10)
        texts.append("".join(map(str, digits)))
    return texts


def text(epochs: int) -> pd.DataFrame:
    """Trains, folds and quantizes a language model. Returns a row for each mode."""
    keras.utils.set_random_seed(0)
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    size = {"num_layers": 2, "num_heads": 4, "hidden_dim": 64, "intermediate_dim": 256, "max_sequence_length": 24}
    model = keras_actlab.models.gpt2(activation="crrelu", vocabulary=vocabulary, merges=["0 0"], dropout=0.0, **size)
    model = keras_actlab.to_gmp(model)
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        sampler="greedy",
    )
    model.fit(counting(1024, 20, seed=0), batch_size=32, epochs=epochs, shuffle=False, verbose=0)
    test, rows, before = counting(128, 20, seed=1), [], None
    for mode in ("float32", "int8", "int4", "float8"):
        folded = keras_actlab.fold(model)
        if mode != "float32":
            keras_actlab.quantize(folded, mode)
        folded.compile(
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
            sampler="greedy",
        )
        tokens = folded.generate(STARTS, max_length=20)
        before = before or tokens
        found = folded.evaluate(test, batch_size=32, verbose=0, return_dict=True)
        rows.append(
            {
                "weights": mode,
                "kilobytes": weight_bytes(folded) / 1e3,
                "accuracy": found["accuracy"],
                "equal greedy texts": f"{sum(map(str.__eq__, tokens, before))} of {len(STARTS)}",
            }
        )
    return pd.DataFrame(rows)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__)
def main(
    out: cli.Out = Path("results"),
    seeds: int = typer.Option(5, min=1, help="Number of splits of the digits, each with its own start."),
    epochs: int = typer.Option(30, min=1, help="Epochs of the first training; fine-tuning takes a third of them."),
    smoke: cli.Smoke = False,
) -> None:
    """Runs both experiments and writes their tables."""
    if keras.backend.backend() != "tensorflow":
        raise typer.BadParameter("Keras exports to LiteRT from TensorFlow: set KERAS_BACKEND=tensorflow.")
    seeds, epochs, width, repeats = (1, 1, 4, 1) if smoke else (seeds, epochs, 32, 30)
    table = files.write_table(digits(seeds, epochs, width, repeats), out / "relu_for_int8.csv")
    means = table.groupby(["runtime", "method"], sort=False)[["accuracy", "kilobytes", "relative time"]]
    print(f"\n{means.mean().round(4).to_markdown()}\n")
    errors = table.pivot(index=["runtime", "seed"], columns="method", values="accuracy")
    for method in METHODS[1:]:
        differences = (errors[method] - errors["silu"]).unstack("seed")
        error = differences.std(axis=1, ddof=1) / np.sqrt(seeds)
        print(f"accuracy of {method} minus silu, mean and standard error over splits:")
        print(pd.DataFrame({"mean": differences.mean(axis=1), "s.e.": error}).round(4).to_markdown(), "\n")
    language = files.write_table(text(1 if smoke else 8), out / "relu_for_int8-text.csv")
    print(language.to_markdown(index=False))


if __name__ == "__main__":
    app()
