"""Would other activations or geometric weights help two small models? `keras_actlab.advise` answers on real data.

The data come with scikit-learn: handwritten digits (1,797 images of 8 x 8 pixels, a convolutional network, accuracy)
and diabetes progression (442 patients with ten measurements, a network of two hidden layers, mean absolute error in the
target's units). To use your own, replace `digits` or `diabetes` by a function that returns your model and your data.
"""

from pathlib import Path
from typing import Annotated, Any

import keras
import typer
from keras import layers
from sklearn.datasets import load_diabetes, load_digits

import keras_actlab
from keras_actlab import experiments
from recipes.common import cli

VARIANTS = ("gelu", "crrelu", "tmaf", "gmp")


def digits(examples: int | None = None) -> tuple[keras.Model, Any, int]:
    """Returns a network for images, inputs and targets, and the number of epochs."""
    images, labels = (array[:examples] for array in load_digits(return_X_y=True))
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ],
        name="digits",
    )
    model.compile(
        keras.optimizers.Adam(0.003), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    return model, (images.reshape(-1, 8, 8, 1).astype("float32") / 16, labels), 10


def diabetes(examples: int | None = None) -> tuple[keras.Model, Any, int]:
    """Returns a network for a table, the function that draws and standardizes a split, and the number of epochs."""
    x, y = (array[:examples] for array in load_diabetes(return_X_y=True))
    model = keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(64, activation="relu"),
            layers.Dense(64, activation="relu"),
            layers.Dense(1),
        ],
        name="diabetes",
    )
    model.compile("adam", "mse", metrics=["mae"])
    return model, lambda split: experiments.holdout(x, y, split, standardize_targets=True), 30


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    budget: Annotated[str, typer.Option(help="For each model: number of pairs, or time such as 5min.")] = "10 pairs",
    out: cli.Out = Path("results"),
    jobs: cli.Jobs = 1,
    smoke: cli.Smoke = False,
) -> None:
    """Compares activations and weights in two small models on real data, an experiment of our own.

    Prints the verdicts; writes a report for each model.
    """
    for question in (digits, diabetes):
        model, data, epochs = question(200 if smoke else None)
        path = out / question.__name__
        advice = keras_actlab.advise(
            model,
            data,
            variants=VARIANTS[1::2] if smoke else VARIANTS,
            epochs=1 if smoke else epochs,
            budget="2 pairs" if smoke else budget,
            path=path,
            jobs=jobs,
        )
        print(f"\n{model.name}\n\n{advice}\n\nReport: {path / 'report.html'}\n")


if __name__ == "__main__":
    app()
