"""MNIST with trainable matrix activations: accuracy and cost beside ReLU and similar activations.

Liu et al. (2024) compare TMAF with ReLU on MNIST. Their networks are not available, so these are our own, and there are
no published numbers to compare with:

- dense: 784 pixels, two hidden layers of 128 units, 10 outputs;
- convolutional: two 3 x 3 convolutions of stride 2 with 8 and 16 channels, a hidden layer of 64 units, 10 outputs.

The methods differ in the activation of every hidden layer: ReLU, leaky ReLU (slope 0.01), PReLU (a slope for each
channel, which starts at 0.25), GELU, CRReLU (one epsilon for each layer), and diagonal and tri-diagonal TMAF with
thresholds -1, 0, 1, which both start as ReLU.

Each split draws its training examples from the official 60,000, and half as many for validation. All splits have the
official test part. Adam trains on batches of 100, with pixels scaled to [0, 1]. In each split, the validation examples
choose, for every method alike, the learning rate among three and the number of epochs, at most five. The chosen
settings are trained again on training and validation examples together, and tested once.

Data: `--data-dir` names a folder with `mnist.npz`, the file of `keras.datasets.mnist`. Without it Keras downloads it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import keras
import pandas as pd
import typer

from keras_actlab import experiments
from keras_actlab.files import write
from keras_actlab.layers import TMAF, CRReLU
from recipes.common import cli, mnist
from recipes.common.digit_networks import Activation, digit_network

RATES = (0.001, 0.003, 0.01)
SPLITS = 5
# Number of fits that are trained as one program. On two cores with JAX, five took two thirds of the time for the dense
# network, and seven times as long for the convolutional one: on CPUs, convolutions are slow if each fit has its kernel.
VECTORIZE = {"dense": 5, "convolutional": 1}

METHODS: dict[str, Activation] = {
    "ReLU": lambda space: keras.layers.ReLU(),
    "leaky ReLU": lambda space: keras.layers.LeakyReLU(0.01),
    "PReLU": lambda space: keras.layers.PReLU(keras.initializers.Constant(0.25), shared_axes=space),
    "GELU": lambda space: keras.layers.Activation("gelu"),
    "CRReLU": lambda space: CRReLU(),
    "TMAF diagonal": lambda space: TMAF(bandwidth=0),
    "TMAF tri-diagonal": lambda space: TMAF(bandwidth=1),
}
SMOKE_METHODS = ("ReLU", "TMAF tri-diagonal")


def network(task: str, method: str) -> Callable[[float], keras.Model]:
    """Returns the function that builds a task's network with a method's activation and a learning rate."""

    def build(learning_rate: float) -> keras.Model:
        return digit_network(task, (28, 28, 1), 128, METHODS[method], learning_rate)

    return build


def comparisons(
    data_dir: Path | None = None, examples: int = 10_000, smoke: bool = False
) -> list[experiments.Comparison]:
    """Describes the comparison of both networks.

    Raises:
        ValueError: If the data are not those of MNIST, or have fewer than three halves of `examples` for training.
    """
    examples = min(examples, 200) if smoke else examples
    most = len(mnist.load(data_dir)["y_train"]) * 2 // 3
    if not 2 <= examples <= most:
        raise ValueError(
            f"`examples` must be from 2 to {most}, as half as many validate. Received: examples={examples}"
        )
    return [
        experiments.Comparison(
            name=task,
            methods={method: network(task, method) for method in (SMOKE_METHODS if smoke else METHODS)},
            data=lambda split: mnist.draw(split, examples, data_dir),
            metrics={"accuracy, %": mnist.accuracy},
            mode="max",
            grid={"learning_rate": RATES[:2] if smoke else RATES},
            splits=2 if smoke else SPLITS,
            epochs=1 if smoke else 5,
            batch_size=100,
            validate_every=1,
            vectorize=vectorize,
        )
        for task, vectorize in VECTORIZE.items()
    ]


def cost(results: experiments.Results) -> pd.DataFrame:
    """Returns test accuracy, parameters, and seconds per epoch, also as a ratio to the first method's.

    The seconds are those of the fastest fit on the training part, because other load on the machine only slows fits
    down. All fits on that part have equal numbers of examples and full groups.
    """
    places = ["task", "method"]
    final, tuning = (
        frame[frame["failure"].isna()].groupby(places, sort=False) for frame in (results.final, results.tuning)
    )
    table = pd.DataFrame(
        {
            "accuracy, %": final["accuracy, %"].mean(),
            "parameters": final["parameters"].first().astype("int64"),
            "seconds per epoch": tuning["seconds_per_epoch"].min(),
        }
    )
    seconds = table["seconds per epoch"]
    table["to ReLU's"] = seconds / seconds.xs("ReLU", level="method").reindex(table.index, level="task")
    return table


def save_cost(results: experiments.Results, out: Path) -> None:
    """Prints the table of costs and writes it."""
    table = cost(results)
    text = table.reset_index().to_markdown(index=False, floatfmt=("", "", ".2f", ",.0f", ".3f", ".2f"))
    for ending, content in (("csv", table.to_csv()), ("md", f"{text}\n")):
        write(out / f"mnist_classification-cost.{ending}", content)
    print(f"\n{text}")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    examples: Annotated[int, typer.Option(min=2, help="Number of training examples; half as many validate.")] = 10_000,
    data_dir: cli.DataDir = None,
    out: cli.Out = Path("results"),
    jobs: cli.Jobs = 1,
    smoke: cli.Smoke = False,
) -> None:
    """Repeats the MNIST experiment of Liu et al. (2024), with two small networks of our own and seven activations.

    Prints tables; writes rows, tables and a figure.
    """
    described = comparisons(data_dir, examples, smoke)
    results = experiments.run(described, out / "mnist_classification.jsonl", jobs)
    save_cost(results, out)
    cli.finish(results, out, "mnist_classification")


if __name__ == "__main__":
    app()
