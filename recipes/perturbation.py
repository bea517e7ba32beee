"""Changes of one unit's boundary by a small step of the parameters, under four parameterizations.

Figure 1 of Chen and Ge (2024), with numbers for its propositions 2.3 to 2.5 and its theorem 3.7. Nothing is trained.

A unit has two inputs. Its weights w and bias b are drawn from a normal distribution with a standard deviation of 0.001,
as in the paper, or 1. The same boundary is then expressed in four ways: standard weights (SP: w, b), weight
normalization (WN: v = w, scale = norm(w), b), batch normalization (BN: w, gamma = 1, beta = b / norm(w), statistics of
inputs with mean 0 and covariance 1, which follow w), and geometric weights (GmP: angle of w, radius = b / norm(w)). A
step of fixed length and random direction is added to the parameters that the boundary depends on. Each of ten seeds
draws 1,000 units and 1,000 steps.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import typer
from keras.layers import BatchNormalization, Dense
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from keras_actlab import cab
from keras_actlab.colours import COLOURS
from keras_actlab.layers import GmPDense, WeightNormalization
from keras_actlab.ops import direction_to_angles
from recipes.common import cli, files

SIZES = (1e-4, 1e-3, 1e-2, 1e-1)
DEVIATIONS = (0.001, 1.0)
SHOWN, DRAWS, SEED = 1e-3, 12, 1  # in the upper panels: a unit whose boundary passes near the origin
Layers = tuple[keras.layers.Layer, ...]


def sp(weights: np.ndarray, bias: np.ndarray) -> Layers:
    """Standard weights."""
    layer = Dense(len(bias))
    layer.build((None, 2))
    layer.set_weights([weights, bias])
    return (layer,)


def wn(weights: np.ndarray, bias: np.ndarray) -> Layers:
    """Weight normalization. Its scale starts as the norm of the weights."""
    layer = WeightNormalization(sp(weights, bias)[0])
    layer.build((None, 2))
    return (layer,)


def bn(weights: np.ndarray, bias: np.ndarray) -> Layers:
    """Batch normalization of inputs with mean 0 and covariance 1."""
    norm = np.linalg.norm(weights, axis=0)
    layer, after = Dense(len(bias), use_bias=False), BatchNormalization(epsilon=0.0)
    layer.build((None, 2))
    after.build((None, len(bias)))
    layer.set_weights([weights])
    after.set_weights([np.ones_like(norm), bias / norm, np.zeros_like(norm), norm**2])
    return (layer, after)


def gmp(weights: np.ndarray, bias: np.ndarray) -> Layers:
    """Geometric weights."""
    layer = GmPDense(len(bias))
    layer.build((None, 2))
    layer.angles.assign(direction_to_angles(weights))
    layer.radius.assign(bias / np.linalg.norm(weights, axis=0))
    return (layer,)


# For each method the function that makes the layers of a unit, and the parameters that a step changes.
METHODS: dict[str, tuple[Callable[[np.ndarray, np.ndarray], Layers], tuple[str, ...]]] = {
    "SP": (sp, ("kernel", "bias")),
    "WN": (wn, ("kernel", "scale", "bias")),
    "BN": (bn, ("kernel", "gamma", "beta")),
    "GmP": (gmp, ("angles", "radius")),
}


def changes(
    method: str, size: float, seed: int, units: int, deviation: float = DEVIATIONS[0], alike: bool = False
) -> pd.DataFrame:
    """Returns for each unit its boundary before and after a step, the angle of its turn and the length of its move.

    With `alike`, all units are equal, and the steps differ.
    """
    rng = np.random.default_rng(seed)
    drawn = deviation * rng.normal(size=(3, 1 if alike else units))
    weights, bias = np.split(np.broadcast_to(drawn, (3, units)), [2])
    bias = bias[0]
    write, names = METHODS[method]
    layers = write(weights, bias)
    own = {name: next(v for layer in layers for v in layer.variables if v.name == name) for name in names}
    rows = [1 if len(variable.shape) == 1 else variable.shape[0] for variable in own.values()]
    step = rng.normal(size=(sum(rows), units))
    step *= size / np.linalg.norm(step, axis=0)
    parts = np.split(step, np.cumsum(rows)[:-1])
    steps = {name: part.reshape(v.shape) for (name, v), part in zip(own.items(), parts, strict=True)}
    if method == "BN":  # its statistics follow the weights
        kernel, variance = (np.asarray(v, "float64") for v in (layers[0].get_weights()[0], layers[1].get_weights()[3]))
        steps["moving_variance"] = np.sum((kernel + steps["kernel"]) ** 2, axis=0) - variance
    before, after = cab.boundaries(layers), cab.perturb(layers, steps)
    found = {
        "deviation": deviation,
        "method": method,
        "size": size,
        "seed": seed,
        "turn": np.degrees(cab.angular_change(before.normals, after.normals)),
        "move": np.linalg.norm(after.locations - before.locations, axis=1),
    }
    for moment, boundaries in {"before": before, "after": after}.items():
        columns = (*boundaries.normals.T, boundaries.offsets)
        found |= {f"{name} {moment}": column for name, column in zip(("u1", "u2", "offset"), columns, strict=True)}
    return pd.DataFrame(found)


def summarize(found: pd.DataFrame) -> pd.DataFrame:
    """Returns quantiles over units of turns (degrees) and moves (in x), for each deviation, method, size and seed."""
    groups = found.groupby(["deviation", "method", "size", "seed"], sort=False)
    table = groups[["turn", "move"]].quantile([0.05, 0.5, 0.95]).unstack()
    table.columns = [f"{name}, {100 * quantile:.0f} %" for name, quantile in table.columns]
    return table.join(groups["turn"].max().rename("turn, largest")).reset_index()


def figure(table: pd.DataFrame, shown: pd.DataFrame) -> Figure:
    """Draws a unit's boundary before and after some steps, and turns and moves over the length of the step."""
    panels = plt.figure(figsize=(11, 7), layout="constrained")
    plt.close(panels)
    upper, lower = panels.subfigures(2, 1)
    upper.suptitle(f"one boundary (black), and after each of {DRAWS} steps of length {SHOWN:g}")
    for ax, method, colour in zip(upper.subplots(1, len(METHODS), sharey=True), METHODS, COLOURS, strict=False):
        lines = shown[shown["method"] == method]
        for moment, style in {
            "before": {"color": "k", "linewidth": 3},
            "after": {"color": colour, "linewidth": 0.8},
        }.items():
            normals = lines[[f"u1 {moment}", f"u2 {moment}"]].to_numpy()
            feet = -normals * lines[[f"offset {moment}"]].to_numpy()
            for foot, (u1, u2) in zip(feet, normals, strict=True):
                ax.axline(foot, foot + np.array([-u2, u1]), **style)
        ax.set(title=method, xlabel="x1", xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
    upper.axes[0].set_ylabel("x2")
    for ax, deviation in zip(lower.subplots(1, 2, sharey=True), DEVIATIONS, strict=True):
        for method, colour in zip(METHODS, COLOURS, strict=False):
            chosen = table[(table["method"] == method) & (table["deviation"] == deviation)]
            own = chosen.groupby("size").mean(numeric_only=True)
            ax.plot(own.index, own["turn, 50 %"], "o-", color=colour, label=method)
            ax.fill_between(own.index, own["turn, 5 %"], own["turn, 95 %"], color=colour, alpha=0.15, linewidth=0)
        ax.set(title=f"weights of deviation {deviation:g}", xlabel="length of the step", xscale="log", yscale="log")
    lower.axes[0].set_ylabel("turn, degrees")
    band = Line2D([], [], color="0.8", linewidth=8, label="5 % to 95 %")
    lower.legend(handles=[*lower.axes[0].get_lines(), band], title="median of units", loc="outside right center")
    return panels


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(out: cli.Out = Path("results"), smoke: cli.Smoke = False) -> None:
    """Repeats figure 1 of Chen and Ge (2024): perturbs one unit under four parameterizations.

    Prints a table; writes tables and a figure.
    """
    seeds, units = (2, 20) if smoke else (10, 1000)
    found = pd.concat(
        changes(method, size, seed, units, deviation)
        for deviation, method, size, seed in itertools.product(DEVIATIONS, METHODS, SIZES, range(seeds))
    )
    table = files.write_table(summarize(found), out / "perturbation.csv")
    shown = pd.concat(changes(method, SHOWN, SEED, DRAWS, alike=True) for method in METHODS)
    shown = files.write_table(shown, out / "perturbation-figure.csv")
    files.write_figure(figure(table, shown), out / "perturbation.png")
    means = table.groupby(["deviation", "size", "method"], sort=False).agg(["mean", "sem"]).drop(columns="seed")
    print(means.to_string(float_format="{:.3g}".format))


if __name__ == "__main__":
    app()
