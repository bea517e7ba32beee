"""Accuracy and size of folded models before and after quantization by Keras: an experiment of our own.

Two networks with CRReLU and geometric weights are trained, folded, and quantized in each mode of Keras: a perceptron on
the digits of scikit-learn, and a small GPT-2 of keras-hub on the reference manual of Python, which comes with Python.
Of digits, the accuracy is the share of test images that are classified correctly; of text, the share of next tokens
that are predicted correctly in parts of the manual that were not trained on. GPTQ and AWQ have 4 bits and groups of 32
inputs, and see training text; Keras applies them to language models only. Needs the extra [hub].
"""

import json
import pydoc_data.topics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tokenizers
import typer
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_actlab
from recipes.common import cli, files

CHARACTERS = 160  # of each text: about 64 tokens
TOKENS = 64

Row = dict[str, Any]


def kilobytes(model: keras.Model) -> float:
    """Returns the memory of all weights."""
    return sum(keras.ops.convert_to_numpy(weight).nbytes for weight in model.weights) / 1000


def compile_for(model: keras.Model, **options: Any) -> None:
    """Compiles a model of classes or tokens."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    model.compile(keras.optimizers.Adam(2e-3), loss, weighted_metrics=[accuracy], **options)


def quantized(model: keras.Model, configs: dict[str, Any], measure: Callable[[keras.Model], Row]) -> list[Row]:
    """Folds a model, quantizes it in each mode, and returns a row for each."""
    rows = []
    for mode in ("float32", "int8", "int4", "float8", *configs):
        folded = keras_actlab.fold(model)
        if mode != "float32":
            keras_actlab.quantize(folded, mode, config=configs.get(mode))
        rows.append({"weights": mode, "kilobytes": kilobytes(folded), **measure(folded)})
    return rows


def digits(seed: int, epochs: int) -> list[Row]:
    """Trains a perceptron on digits. Returns a row for each mode."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=0.3, random_state=seed, stratify=y)
    hidden = [keras.layers.Dense(256, "silu") for _ in range(2)]
    model = keras.Sequential([keras.Input((64,)), *hidden, keras.layers.Dense(10)])
    model = keras_actlab.to_gmp(keras_actlab.swap_activations(model, "crrelu"))
    compile_for(model)
    model.fit(train_x, train_y, batch_size=32, epochs=epochs, verbose=0)
    return quantized(model, {}, lambda one: {"accuracy": np.mean(one.predict(test_x, verbose=0).argmax(-1) == test_y)})


def text(seed: int, epochs: int, count: int | None) -> list[Row]:
    """Trains a language model on `count` parts of the manual. Returns a row for each mode."""
    manual = "".join(pydoc_data.topics.topics.values())
    parts = [manual[start : start + CHARACTERS] for start in range(0, len(manual), CHARACTERS)][:count]
    train, test = train_test_split(parts, test_size=0.1, random_state=seed)
    byte_pairs = tokenizers.ByteLevelBPETokenizer()
    byte_pairs.train_from_iterator(train, vocab_size=511)
    learned = json.loads(byte_pairs.to_str())["model"]
    # keras-hub pads with token 0. Were it the end of a text, `generate` would take each text for finished.
    vocabulary = learned["vocab"] | {"<|endoftext|>": len(learned["vocab"])}
    model = keras_actlab.models.gpt2(
        activation="crrelu",
        vocabulary=vocabulary,
        merges=[" ".join(pair) for pair in learned["merges"]],
        dropout=0.0,
        num_layers=2,
        num_heads=4,
        hidden_dim=64,
        intermediate_dim=256,
        max_sequence_length=TOKENS,
    )
    model = keras_actlab.to_gmp(model)
    compile_for(model, sampler="greedy")
    # keras-hub makes a dataset of the texts, which `fit` does not shuffle.
    model.fit(train, batch_size=32, epochs=epochs, shuffle=False, verbose=0)
    samples = {"num_samples": 32, "sequence_length": TOKENS, "group_size": 32}
    configs = {
        "gptq": keras.quantizers.GPTQConfig(train[:128], model.preprocessor.tokenizer, **samples),
        "awq": keras.quantizers.AWQConfig(train[:128], model.preprocessor.tokenizer, **samples),
    }
    starts = [part[:30] for part in test[:16]]
    before: list[list[int]] = []

    def measure(one: keras.Model) -> Row:
        compile_for(one, sampler="greedy")
        found = one.generate(starts, max_length=TOKENS)
        generated = [byte_pairs.encode(text[len(start) :]).ids for start, text in zip(starts, found, strict=True)]
        before.extend(generated if not before else [])
        pairs = list(zip(generated, before, strict=True))
        equal = sum(a == b for pair in pairs for a, b in zip(*pair, strict=False))
        accuracy = one.evaluate(test, batch_size=32, verbose=0, return_dict=True)["accuracy"]
        tokens = sum(map(len, before))
        return {
            "accuracy": accuracy,
            "equal tokens": equal / tokens,
            "equal texts": np.mean([a == b for a, b in pairs]),
        }

    return quantized(model, configs, measure)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Returns means, and standard errors of the change of the accuracy, over the seeds."""
    keys = ["model", "seed"]
    in_float = table[table["weights"] == "float32"].drop(columns="weights")
    both = table.merge(in_float, on=keys, suffixes=("", " before"))
    both["size ratio"] = both["kilobytes before"] / both["kilobytes"]
    both["change (points)"] = 100 * (both["accuracy"] - both["accuracy before"])
    both["accuracy (%)"] = 100 * both["accuracy"]
    groups = both.groupby(["model", "weights"], sort=False)
    columns = ["kilobytes", "size ratio", "accuracy (%)", "change (points)", "equal tokens", "equal texts"]
    means = groups[columns].mean().round(2)
    changes = zip(means["change (points)"], groups["change (points)"].sem(), strict=True)
    means["change (points)"] = [f"{mean:.2f} ± {error:.2f}" for mean, error in changes]
    return means.reset_index()


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__)
def main(
    out: cli.Out = Path("results"),
    seeds: int = typer.Option(3, min=1, help="Number of splits and starts. Those in the table are not run again."),
    smoke: cli.Smoke = False,
) -> None:
    """Runs the experiment and writes its table."""
    path = out / "quantization.csv"
    done = set(pd.read_csv(path)["seed"]) if path.exists() else set()
    for seed in sorted(set(range(seeds)) - done):
        keras.utils.set_random_seed(seed)
        made = {
            "digits": digits(seed, 1 if smoke else 30),
            "text": text(seed, 1, 200) if smoke else text(seed, 6, None),
        }
        rows = [{"model": name, "seed": seed, **row} for name, found in made.items() for row in found]
        files.append_rows(rows, path, ["model", "seed", *made["text"][0]])
    print(f"\n{summary(pd.read_csv(path)).to_markdown(index=False)}")


if __name__ == "__main__":
    app()
