"""Trainable activations and geometric weights in a small network: two real data sets, nine methods, paired splits.

Every method is the same network of two hidden layers with 64 units: six activations on plain weights (the standard
parameterization, SP), and ReLU on three others: batch normalization (BN), geometric weights (GmP), and geometric
weights behind input mean normalization (GmP+IMN). Each of five random splits has 20 % of the examples in the test part
and 16 % in the validation part. The split also seeds the initial weights and the order of the batches. In each split,
the validation part chooses every method's learning rate and number of epochs from the same grid. The network is then
trained again on training and validation data together, and tested once.

The data come with scikit-learn: handwritten digits (1,797 images of 8 x 8 pixels, error in %) and diabetes progression
(442 patients, root mean squared error in the target's units). Lower is better for both.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import keras
import typer
from sklearn.datasets import load_diabetes, load_digits
from sklearn.metrics import root_mean_squared_error, zero_one_loss

from keras_actlab import experiments
from keras_actlab.layers import TMAF, CRReLU, GmPDense, InputMeanNormalization
from recipes.common import cli

RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)
WIDTH = 64
# For each method the layers of one hidden layer of the network.
HIDDEN: dict[str, Callable[[], list[keras.Layer]]] = {
    "ReLU, SP": lambda: [keras.layers.Dense(WIDTH), keras.layers.ReLU()],
    "GELU": lambda: [keras.layers.Dense(WIDTH), keras.layers.Activation("gelu")],
    "PReLU": lambda: [keras.layers.Dense(WIDTH), keras.layers.PReLU()],
    "CRReLU": lambda: [keras.layers.Dense(WIDTH), CRReLU()],
    "TMAF diagonal": lambda: [keras.layers.Dense(WIDTH), TMAF(bandwidth=0)],
    "TMAF tri-diagonal": lambda: [keras.layers.Dense(WIDTH), TMAF(bandwidth=1)],
    "BN": lambda: [keras.layers.Dense(WIDTH, use_bias=False), keras.layers.BatchNormalization(), keras.layers.ReLU()],
    "GmP": lambda: [GmPDense(WIDTH, activation="relu")],
    "GmP+IMN": lambda: [InputMeanNormalization(), GmPDense(WIDTH, activation="relu")],
}


def network(method: str, features: int, outputs: int, loss: str | keras.Loss) -> Callable[[float], keras.Model]:
    """Returns the function that builds a method's network with a learning rate."""

    def build(learning_rate: float) -> keras.Model:
        hidden = [layer for _ in range(2) for layer in HIDDEN[method]()]
        model = keras.Sequential([keras.Input((features,)), *hidden, keras.layers.Dense(outputs)])
        model.compile(keras.optimizers.Adam(learning_rate), loss)
        return model

    return build


def comparisons(splits: int = 5, smoke: bool = False) -> list[experiments.Comparison]:
    """Describes the two comparisons."""
    methods = list(HIDDEN)[::4] if smoke else list(HIDDEN)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return [
        experiments.Comparison(
            name="digits",
            methods={m: network(m, 64, 10, cross_entropy) for m in methods},
            data=lambda split: experiments.holdout(*load_digits(return_X_y=True), seed=split),
            metrics={"error, %": lambda labels, logits: 100 * zero_one_loss(labels, logits.argmax(axis=1))},
            epochs=2 if smoke else 30,
            validate_every=1 if smoke else 10,
            batch_size=64,
            grid={"learning_rate": RATES[:2] if smoke else RATES},
            splits=splits,
            vectorize=splits,
        ),
        experiments.Comparison(
            name="diabetes",
            methods={m: network(m, 10, 1, "mse") for m in methods},
            data=lambda split: experiments.holdout(
                *load_diabetes(return_X_y=True), seed=split, standardize_targets=True
            ),
            metrics={"RMSE": root_mean_squared_error},
            epochs=2 if smoke else 60,
            validate_every=1 if smoke else 10,
            batch_size=64,
            grid={"learning_rate": RATES[:2] if smoke else RATES},
            splits=splits,
            vectorize=splits,
        ),
    ]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    splits: Annotated[int, typer.Option(min=2, help="Number of random splits, each with its own initial weights.")] = 5,
    out: cli.Out = Path("results"),
    jobs: cli.Jobs = 1,
    smoke: cli.Smoke = False,
) -> None:
    """Compares the methods of the three papers on two small data sets, an experiment of our own.

    Prints tables; writes rows, tables and a figure.
    """
    results = experiments.run(comparisons(2 if smoke else splits, smoke), out / "quickstart.jsonl", jobs)
    cli.finish(results, out, "quickstart")


if __name__ == "__main__":
    app()
