"""The Levy function in one dimension: largest steps of activation boundaries during training.

Figure 2 of Chen and Ge (2024). The target is levy(x) = sin²(πw) + (w - 1)² (1 + sin²(2πw)) with w = 1 + (x - 1) / 4,
plus noise with a standard deviation of 0.1. A network of one hidden layer with 100 ReLU units is trained by Adam on
full batches, for at most 10,000 epochs, each of which is one step. The learning rate follows a cosine to 0.

Data: each of ten splits draws its own 50 points, uniformly on [-10, 10]. Ten of them are the validation part, which
chooses, for every method alike, the learning rate and the number of epochs among 100, 200, ..., 10,000. Six learning
rates are tried, and more where the best one is the lowest or the highest. The choice is trained again on all 50 points
and tested once, without noise, on a grid with a spacing of 0.1.

`--protocol authors` trains as the authors' notebook does, on twenty draws instead of its single one: absolute error,
learning rates 0.1 for geometric weights and 0.01 for the others. The error of the training points drops the learning
rate after 500 epochs, ends the training after 1,000, and chooses the epoch, see `recipes.common.authors`.

Methods: standard weights (SP), weight normalization (WN), batch normalization (BN), geometric weights with the paper's
initialization, with that of its authors' code, and with input mean normalization. The output layer is a plain Dense
layer in all of them.

Boundaries: in the final fits, a `BoundaryTracker` records after every step. A unit's boundary is the input at which its
activation changes between 0 and positive. The largest step is the longest distance that any of the 100 boundaries moves
within one step of training. With batch normalization, the boundary is that of the moving averages, as at inference.
"""

from collections.abc import Callable
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import typer
from keras.optimizers.schedules import CosineDecay
from matplotlib.figure import Figure
from sklearn.metrics import root_mean_squared_error

from keras_actlab import experiments
from keras_actlab.colours import COLOURS
from recipes.common import authors, cli, files, tracking
from recipes.common.parameterizations import HIDDEN

UNITS = 100
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
GRID = np.linspace(-10.0, 10.0, 201)[:, None].astype("float32")
SMOKE_METHODS = ("SP", "WN", "GmP")
MOMENTS = 12  # number of steps at which the figure shows the boundaries


def levy(x: np.ndarray) -> np.ndarray:
    """The Levy function of one variable, shape (points, 1) to (points,)."""
    w = 1 + (x[:, 0] - 1) / 4
    return np.sin(np.pi * w) ** 2 + (w - 1) ** 2 * (1 + np.sin(2 * np.pi * w) ** 2)


def data(split: int) -> experiments.Split:
    """Draws the points of a split: 40 for training and 10 for validation. The test part is the grid."""
    rng = np.random.default_rng(split)
    x = rng.uniform(-10.0, 10.0, (50, 1)).astype("float32")
    y = (levy(x) + rng.normal(0.0, 0.1, len(x))).astype("float32")
    return experiments.Split(train=(x[:40], y[:40]), validation=(x[40:], y[40:]), test=(GRID, levy(GRID)))


def network(method: str, epochs: int) -> Callable[[float], keras.Model]:
    """Returns the function that builds a method's network with a learning rate, which follows a cosine to 0."""

    def build(learning_rate: float) -> keras.Model:
        model = keras.Sequential([keras.Input((1,)), *HIDDEN[method](UNITS), keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(CosineDecay(learning_rate, epochs)), "mse")
        return model

    return build


def comparison(folder: Path, smoke: bool = False) -> experiments.Comparison:
    """Describes the comparison by our protocol; tracks of the final fits go to a folder."""
    epochs = 20 if smoke else 10_000
    return experiments.Comparison(
        name="Levy",
        methods={method: network(method, epochs) for method in (SMOKE_METHODS if smoke else HIDDEN)},
        data=data,
        metrics={"RMSE": root_mean_squared_error},
        grid={"learning_rate": RATES[2:4] if smoke else RATES},
        extend=None if smoke else "learning_rate",
        splits=2 if smoke else 10,
        independent_splits=True,
        epochs=epochs,
        validate_every=10 if smoke else 100,
        vectorize=10,
        callbacks=tracking.callbacks(folder, GRID, megabytes=6.5),  # 1,250 records
    )


def authors_comparison(smoke: bool = False) -> experiments.Comparison:
    """Describes the comparison by the authors' protocol, in which the error of the training data is watched."""

    def whole(split: int) -> experiments.Split:
        draw = data(split)
        return experiments.Split(draw.development, None, draw.test)

    def error(targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        return np.abs(targets - predictions).mean(axis=1)

    return experiments.Comparison(
        name="Levy, authors",
        methods={method: authors.network(method, UNITS, 1, "mae") for method in authors.RATES},
        data=whole,
        metrics=["RMSE", authors.EPOCH],
        splits=2 if smoke else 20,
        independent_splits=True,
        epochs=20 if smoke else 10_000,
        vectorize=20,
        fit=authors.Authors("RMSE", authors.root_mean_squared, error, watch="training", patience=1000),
    )


def picture(methods: list[str], folder: Path, split: int) -> pd.DataFrame:
    """Returns the points that the figure shows of one split, one in each row.

    The kinds: "data", and for each method "prediction", "boundary" (y counts the shown steps, from the first one to the
    last) and "largest" (the largest step of a boundary; x is the training step).
    """
    points, targets = data(split).development
    parts = [pd.DataFrame({"kind": "data", "x": points[:, 0], "y": targets})]
    for method in methods:
        track = tracking.load_track(folder, method, split)
        prediction = tracking.load_predictions(folder, method, split)
        steps = tracking.largest_changes(track, "moves")
        parts += [
            pd.DataFrame({"method": method, "kind": "prediction", "x": GRID[:, 0], "y": prediction}),
            pd.DataFrame({"method": method, "kind": "largest", "x": steps["step"], "y": steps["value"]}),
        ]
        for moment, step in enumerate(np.linspace(0, track.steps[-1], MOMENTS)):
            places = track.at(int(step)).locations[:, 0]
            shown = places[np.abs(places) <= 10]
            parts.append(pd.DataFrame({"method": method, "kind": "boundary", "x": shown, "y": moment}))
    return pd.concat(parts, ignore_index=True)


def figure(points: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Draws each method's function and boundaries in one split, and the largest steps over time and in all splits."""
    methods = list(table["method"].unique())
    panels = plt.figure(figsize=(2.4 * len(methods), 7.5), layout="constrained")
    plt.close(panels)
    upper, lower = panels.subfigures(2, 1, height_ratios=(1.2, 1))
    observed = points[points["kind"] == "data"]
    axes = upper.subplots(1, len(methods), sharey=True)
    for ax, method, colour in zip(axes, methods, COLOURS, strict=False):
        own = points[points["method"] == method]
        prediction, ticks = own[own["kind"] == "prediction"], own[own["kind"] == "boundary"]
        ax.plot(GRID[:, 0], levy(GRID), color="0.7", label="Levy function")
        ax.plot(observed["x"], observed["y"], "k.", markersize=3, label="observations")
        ax.plot(prediction["x"], prediction["y"], color=colour, label="network")
        heights = -11 + 8 * ticks["y"] / (MOMENTS - 1)  # below the function
        label = "boundaries, from the first step (bottom) to the last"
        ax.plot(ticks["x"], heights, "|", color=colour, markersize=4, markeredgewidth=0.6, label=label)
        ax.set(title=method, xlabel="x", ylim=(-12, 16), yticks=range(0, 16, 5))
    axes[0].set_ylabel("y")
    upper.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize="small")
    left, right = lower.subplots(1, 2)
    tracking.draw_largest(left, right, points, table, "largest step", "step of a boundary, in x")
    right.axvline(1, color="0.7", linestyle="--", linewidth=1)
    return panels


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    protocol: cli.Protocol = "ours", out: cli.Out = Path("results"), jobs: cli.Jobs = 1, smoke: cli.Smoke = False
) -> None:
    """Repeats figure 2 of Chen and Ge (2024), the Levy function, with six parameterizations.

    Prints tables; writes rows, tables and a figure.
    """
    if protocol == "authors":
        results = experiments.run(authors_comparison(smoke), out / "levy_regression.jsonl", jobs)
        cli.finish(results, out, "levy_regression-authors")
        return
    folder = out / "levy_regression-tracks"
    folder.mkdir(parents=True, exist_ok=True)
    results = experiments.run(comparison(folder, smoke), out / "levy_regression.jsonl", jobs)
    table = files.write_table(tracking.summarize(results, folder), out / "levy_regression-boundaries.csv")
    print(table.groupby("method", sort=False)["largest step"].describe().to_string(float_format="{:.3g}".format))
    drawn, split = None, tracking.shown_split(table)
    if split is not None:
        points = picture(list(table["method"].unique()), folder, split)
        drawn = figure(files.write_table(points, out / "levy_regression-figure.csv"), table)
    cli.finish(results, out, "levy_regression", drawn)


if __name__ == "__main__":
    app()
