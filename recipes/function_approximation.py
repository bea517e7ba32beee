"""Approximation of functions by networks with trainable matrix activations, for targets of several frequencies.

Liu et al. (2024) report that these activations help most where the target oscillates fastest. Their networks, functions
and settings are not available; those below are our own, so there are no published numbers to compare with.

Targets, all without noise, on inputs in [-1, 1]:

- smooth: exp(sin(pi x)).
- jumps: a sine wave that jumps at -0.5 and at 0.3.
- sine k: sin(pi k x), which has k periods, for k = 2, 4, 8, 16.
- 4-D: sin(pi (x1 + x2 + x3 + x4)).

Data: each of five splits draws its own training and validation inputs, uniformly and independently: 256 and 128 in
one dimension, 512 and 256 in four. The test part is an even grid of 512 points in one dimension, and 512 further random
points in four.

Networks: two hidden layers and a linear output. Weights start as He uniform. Hidden biases start uniformly in [-1, 1],
which spreads the first kinks over the interval and gives pre-activations a standard deviation of about 1. TMAF
therefore has its default thresholds -1, 0, 1; in a pilot with sine 8, on other points, nine thresholds from -2 to 2 had
a larger error. The sine network is a reference: it is designed for such targets. Its inputs are multiplied by 12 in one
dimension, so that its first layer starts with frequencies of up to 30 as in SIREN, and by 1 in four.

Each target is a task at two sizes. At equal width, every hidden layer has 32 units. At equal parameters, the widths
give all methods about as many parameters as the last one, TMAF with five diagonals, has with 32 units.

Training: Adam on the mean squared error, at most 2,000 steps (`--steps`) on full batches. In each split, the validation
points choose, for every method alike, the learning rate and the number of steps among 20 multiples of a twentieth of
them. Three learning rates are tried, and more where the best one is the lowest or the highest. The chosen settings are
trained again on training and validation points together, and tested once. Errors are relative: the root mean squared
error divided by the standard deviation of the target.

The splits share no examples, and the tables' intervals and p-values treat them as independent. Each has its own points
of a target that is the same in all of them, so the results hold for new points of these targets, not for other targets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

import keras
import matplotlib.pyplot as plt
import numpy as np
import typer
from matplotlib.figure import Figure
from sklearn.metrics import root_mean_squared_error

from keras_actlab import experiments
from keras_actlab.colours import COLOURS
from keras_actlab.layers import TMAF
from recipes.common import cli, files

WIDTH = 32
RATES = (0.003, 0.01, 0.03)
STEPS = 2000
FREQUENCIES = (2, 4, 8, 16)
THRESHOLDS = (-1.0, 0.0, 1.0)


@dataclass(frozen=True)
class Target:
    """A function of inputs with shape `(points, dimensions)`, and the number of points in each part."""

    function: Callable[[np.ndarray], np.ndarray]
    dimensions: int = 1
    train: int = 256
    validation: int = 128
    test: int = 512

    def data(self, split: int) -> experiments.Split:
        """Draws the points of a split."""
        rng = np.random.default_rng(split)
        parts = {
            part: rng.uniform(-1.0, 1.0, (getattr(self, part), self.dimensions))
            for part in ("train", "validation", "test")
        }
        if self.dimensions == 1:
            parts["test"] = np.linspace(-1.0, 1.0, self.test)[:, None]
        return experiments.Split(
            **{part: (x.astype("float32"), self.function(x).astype("float32")) for part, x in parts.items()}
        )


def sine(frequency: int) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the sine with `frequency` periods between -1 and 1."""
    return lambda x: np.sin(np.pi * frequency * x[:, 0])


def jumps(x: np.ndarray) -> np.ndarray:
    """A sine wave between two jumps."""
    return np.sin(2 * np.pi * x[:, 0]) + np.select([x[:, 0] < -0.5, x[:, 0] < 0.3], [0.0, 1.5], -1.0)


TARGETS = {
    "smooth": Target(lambda x: np.exp(np.sin(np.pi * x[:, 0]))),
    "jumps": Target(jumps),
    **{f"sine {frequency}": Target(sine(frequency)) for frequency in FREQUENCIES},
    "4-D": Target(lambda x: np.sin(np.pi * x.sum(axis=1)), dimensions=4, train=512, validation=256),
}

ACTIVATIONS: dict[str, Callable[[], keras.Layer]] = {
    "ReLU": lambda: keras.layers.ReLU(),
    "leaky ReLU": lambda: keras.layers.LeakyReLU(0.1),
    "PReLU": lambda: keras.layers.PReLU(),
    "GELU": lambda: keras.layers.Activation("gelu"),
    "sine": lambda: keras.layers.Activation(keras.ops.sin),
    "TMAF diagonal": lambda: TMAF(0, THRESHOLDS),
    "TMAF tri-diagonal": lambda: TMAF(1, THRESHOLDS),
    "TMAF 5 diagonals": lambda: TMAF(2, THRESHOLDS),
}


@cache
def activation_parameters(method: str) -> int:
    """Returns the number of parameters of a method's activation for each unit."""
    activation = ACTIVATIONS[method]()
    activation.build((None, WIDTH))
    return activation.count_params() // WIDTH


def parameters(method: str, width: int, dimensions: int) -> int:
    """Returns the number of parameters of a method's network."""
    dense = (dimensions + 1) * width + (width + 1) * width + (width + 1)
    return dense + 2 * width * activation_parameters(method)


def equal_width(method: str, dimensions: int) -> int:
    """Returns the width of all methods."""
    return WIDTH


def equal_parameters(method: str, dimensions: int) -> int:
    """Returns the width at which a method's number of parameters is closest to that of the last one at `WIDTH`."""
    wanted = parameters(list(ACTIVATIONS)[-1], WIDTH, dimensions)
    return min(range(WIDTH, 4 * WIDTH), key=lambda width: abs(parameters(method, width, dimensions) - wanted))


SIZINGS = {"equal width": equal_width, "equal parameters": equal_parameters}


def network(method: str, width: int, dimensions: int) -> Callable[[float], keras.Model]:
    """Returns the function that builds a method's network with a learning rate."""

    def build(learning_rate: float) -> keras.Model:
        model = keras.Sequential([keras.Input((dimensions,))])
        if method == "sine" and dimensions == 1:
            model.add(keras.layers.Rescaling(12.0))
        for _ in range(2):
            bias = keras.initializers.RandomUniform(-1.0, 1.0)
            model.add(keras.layers.Dense(width, kernel_initializer="he_uniform", bias_initializer=bias))
            model.add(ACTIVATIONS[method]())
        model.add(keras.layers.Dense(1, kernel_initializer="he_uniform"))
        model.compile(keras.optimizers.Adam(learning_rate), "mse")
        return model

    return build


def relative_error(targets: np.ndarray, predictions: np.ndarray) -> float:
    """Root mean squared error divided by the targets' standard deviation. Predicting their mean gives 1."""
    return root_mean_squared_error(targets, predictions) / float(np.std(targets))


def comparison(target: str, sizing: str, smoke: bool = False, steps: int = STEPS) -> experiments.Comparison:
    """Describes the comparison on one target at one sizing."""
    dimensions = TARGETS[target].dimensions
    methods = ("ReLU", "sine", "TMAF diagonal") if smoke else ACTIVATIONS
    return experiments.Comparison(
        name=f"{target}, {sizing}" + (f", {steps:,} steps" if steps != STEPS else ""),
        methods={method: network(method, SIZINGS[sizing](method, dimensions), dimensions) for method in methods},
        data=TARGETS[target].data,
        metrics={"relative error": relative_error},
        grid={"learning_rate": RATES[-2:] if smoke else RATES},
        extend=None if smoke else "learning_rate",
        splits=2 if smoke else 5,
        independent_splits=True,
        epochs=4 if smoke else steps,
        validate_every=2 if smoke else steps // 20,
        vectorize=2 if smoke else 5,
    )


def comparisons(
    smoke: bool = False,
    targets: Sequence[str] | None = None,
    sizings: Sequence[str] | None = None,
    steps: int = STEPS,
) -> list[experiments.Comparison]:
    """Describes all comparisons, or those on some targets at some sizings."""
    targets = targets or (["sine 2"] if smoke else list(TARGETS))
    return [comparison(target, sizing, smoke, steps) for target in targets for sizing in sizings or SIZINGS]


def figure(results: experiments.Results) -> Figure:
    """Draws the error over the frequency of the sine, one line for each method, one panel for each sizing."""
    table = results.table()
    colours = [COLOURS[index] for index in (6, 7, 5, 3, 4, 2, 1, 0)]  # black for the baseline, strong ones for TMAF
    panels, axes = plt.subplots(1, len(SIZINGS), figsize=(10, 4.5), sharey=True, layout="constrained")
    plt.close(panels)
    for sizing, ax in zip(SIZINGS, axes, strict=True):
        for method, colour in zip(ACTIVATIONS, colours, strict=True):
            places = {k: (f"sine {k}, {sizing}", method) for k in FREQUENCIES}
            points = [(k, *table.loc[place, ["mean", "s.e."]]) for k, place in places.items() if place in table.index]
            if points:
                frequency, mean, error = np.transpose(points)
                style = "o-" if method.startswith("TMAF") else "s--"
                ax.errorbar(frequency, mean, error, fmt=style, color=colour, label=method, markersize=4, capsize=2)
        ax.set(title=sizing, xlabel="frequency k of sin(πkx)", xscale="log", yscale="log")
        ax.set_xticks(FREQUENCIES, labels=FREQUENCIES, minor=False)
        ax.minorticks_off()
    axes[0].set_ylabel("relative test error, mean ± standard error")
    panels.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize="small")
    return panels


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    targets: Annotated[
        list[str] | None, typer.Argument(help=f"Functions: any of {', '.join(TARGETS)}. The default is all.")
    ] = None,
    sizing: Annotated[
        list[str] | None, typer.Option(help=f"Any of: {'; '.join(SIZINGS)}. Twice for both, which is the default.")
    ] = None,
    steps: Annotated[int, typer.Option(min=20, help="Largest number of steps.")] = STEPS,
    out: cli.Out = Path("results"),
    jobs: cli.Jobs = 1,
    smoke: cli.Smoke = False,
) -> None:
    """Repeats the function approximation of Liu et al. (2024), with networks and functions of our own.

    Compares eight activations. Prints tables; writes rows, tables and figures.
    """
    cli.check_choices("TARGETS", targets or (), TARGETS)
    cli.check_choices("--sizing", sizing or (), SIZINGS)
    results = experiments.run(comparisons(smoke, targets, sizing, steps), out / "function_approximation.jsonl", jobs)
    if steps == STEPS:
        files.write_figure(figure(results), out / "function_approximation_frequency.png")
    cli.finish(results, out, "function_approximation")


if __name__ == "__main__":
    app()
