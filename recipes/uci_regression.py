"""UCI regression with one hidden layer: standard weights, weight and batch normalization, and geometric weights.

The UCI table of Chen and Ge (2024), with all settings chosen on validation data. A network of one hidden layer with 100
ReLU units is trained by Adam on full batches, for at most 2,000 epochs. The learning rate follows a cosine to 0. Each
of ten random splits has 20 % of the examples in the test part and a fifth of the others in the validation part. In each
split, the validation part chooses, for every method alike, the learning rate and the number of epochs among 50, 100,
..., 2,000. The paper's six learning rates are tried, and more where the best one is the lowest or the highest. The
chosen settings are trained again on training and validation data together, and tested once. Inputs and targets are
standardized; errors are in the target's units.

`--protocol authors` trains as the authors' code does: absolute error, raw targets, learning rates 0.1 for geometric
weights and 0.01 for the others, at most 5,000 epochs in batches of 1,024, and a weight-normalized output layer for WN.
The error of the *test* data drops the learning rate, ends the training and chooses the epoch, see
`recipes.common.authors`. Its errors are too low; they explain the published ones. In addition, it has plain weights at
0.1. `--protocol steps` leads from there to ours in steps, with twenty splits.

The methods: standard weights (SP), weight normalization (WN), batch normalization (BN), geometric weights with the
paper's initialization (directions uniform on the sphere, scale 1), and with that of its authors' code (angles and norm
of Glorot uniform weights). The output layer is a plain Dense layer in all of them.

Data: `--data-dir` names a folder with `boston.csv`, `concrete.csv`, `energy.csv`, `naval.csv`, `power.csv`,
`wine-red.csv` and `yacht.csv`, each also as `.csv.gz`: a header, numbers, the target last. Without it, five of the sets
come from OpenML.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import typer
from keras.optimizers.schedules import CosineDecay
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from sklearn.datasets import fetch_openml
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from keras_actlab import experiments
from keras_actlab.colours import COLOURS
from recipes.common import authors, cli, files
from recipes.common.parameterizations import HIDDEN

UNITS = 100
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
METHODS = ("SP", "WN", "BN", "GmP", "GmP, code's start")
EPOCHS = 2000
# From the authors' protocol to ours, each step on top of those before it: the loss, whether targets are standardized,
# whether the learning rate follows a cosine, and the batch size. Test data choose the best epoch in all of them.
STEPS = {
    "authors": ("mae", False, False, 1024),
    "squared error": ("mse", False, False, 1024),
    "standardized targets": ("mse", True, False, 1024),
    "cosine": ("mse", True, True, 1024),
    "full batches": ("mse", True, True, None),
}
# The step after these. Test data choose nothing in it, nor in the last one, our protocol, where validation data choose
# the learning rate, too.
CHOSEN_EPOCH = "validation chooses the epoch"


@dataclass(frozen=True)
class Source:
    """Where a data set is, and its expected columns and rows."""

    file: str
    rows: int
    features: int
    target: str
    openml: int | None  # ID of the OpenML data set, which fixes its version
    openml_target: str = ""
    left_out: tuple[str, ...] = ()  # a second target
    page: str = "https://archive.ics.uci.edu"


SOURCES = {
    "boston": Source("boston", 506, 13, "MEDV", 531, "MEDV"),
    "concrete": Source("concrete", 1030, 8, "compressive_strength", 44959, "strength"),
    "energy": Source("energy", 768, 8, "Y1_heating_load", 44960, "heating_load", ("cooling_load",)),
    "naval": Source(
        "naval",
        11934,
        16,
        "kMc",
        44969,
        "gt_compressor_decay_state_coefficient",
        ("gt_turbine_decay_state_coefficient",),
    ),
    "power": Source("power", 9568, 4, "PE", None, page="https://archive.ics.uci.edu/dataset/294"),
    "wine": Source("wine-red", 1599, 11, "quality", 44972, "quality"),
    "yacht": Source("yacht", 308, 6, "residuary_resistance", None, page="https://archive.ics.uci.edu/dataset/243"),
}


def load(name: str, folder: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns inputs and targets of a data set, checked."""
    source = SOURCES[name]
    if folder is not None:
        table = _read(source, folder)
    elif source.openml is not None:
        frame = fetch_openml(data_id=source.openml, as_frame=True, parser="auto").frame
        targets = frame.pop(source.openml_target)
        table = frame.drop(columns=list(source.left_out), errors="ignore").assign(**{source.target: targets})
    else:
        raise ValueError(
            f"`data_dir` must name a folder with {source.file}.csv, because no OpenML ID of this data set is "
            f"known; the data are on {source.page}. Received: data_dir=None"
        )
    if table.shape[1] != source.features + 1 or table.columns[-1] != source.target:
        raise ValueError(
            f"{name} must have {source.features} columns of features and then {source.target!r}. "
            f"Received: columns={list(table.columns)}"
        )
    values = table.apply(pd.to_numeric, errors="coerce").to_numpy("float64")
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(
            f"{name} must hold finite numbers only. Received: {table.iloc[row, column]} in row {row + 1} of column "
            f"{table.columns[column]!r}"
        )
    return values[:, :-1], values[:, -1]


def _read(source: Source, folder: Path) -> pd.DataFrame:
    names = [f"{source.file}{ending}" for ending in (".csv", ".csv.gz")]
    for name in names:
        if (folder / name).exists():
            return files.read_table(folder / name, source.rows)
    raise ValueError(f"`data_dir` must hold {' or '.join(names)}. Received: data_dir={str(folder)!r}")


def network(method: str, features: int, epochs: int) -> Callable[[float], keras.Model]:
    """Returns the function that builds a method's network with a learning rate, which follows a cosine to 0."""

    def build(learning_rate: float) -> keras.Model:
        model = keras.Sequential([keras.Input((features,)), *HIDDEN[method](UNITS), keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(CosineDecay(learning_rate, epochs)), "mse")
        return model

    return build


def comparison(name: str, folder: Path | None = None, smoke: bool = False) -> experiments.Comparison:
    """Describes the comparison on one data set by our protocol."""
    x, y = load(name, folder)
    epochs = 4 if smoke else EPOCHS
    return experiments.Comparison(
        name=name,
        methods={method: network(method, x.shape[1], epochs) for method in METHODS},
        data=lambda split: experiments.holdout(x, y, seed=split, standardize_targets=True),
        metrics={"RMSE": root_mean_squared_error},
        grid={"learning_rate": RATES[2:4] if smoke else RATES},
        extend=None if smoke else "learning_rate",
        splits=2 if smoke else 10,
        epochs=epochs,
        validate_every=2 if smoke else 50,
        vectorize=2 if len(x) > 5000 else 10,  # more of that size do not fit into a processor's cache
    )


def authors_comparison(
    name: str,
    folder: Path | None = None,
    smoke: bool = False,
    step: str = "authors",
    methods: Iterable[str] = authors.RATES,
) -> experiments.Comparison:
    """Describes the comparison on one data set by the authors' protocol, or by a step from it to ours."""
    x, y = load(name, folder)
    loss, standardize, cosine, batch_size = STEPS[step]

    def data(split: int) -> experiments.Split:
        train, test = train_test_split(np.arange(len(y)), test_size=0.2, random_state=split)
        inputs = StandardScaler().fit(x[train]).transform(x).astype("float32")
        return experiments.Split((inputs[train], y[train]), None, (inputs[test], y[test]))

    return experiments.Comparison(
        name=f"{name}, {step}",
        methods={method: authors.network(method, UNITS, x.shape[1], loss) for method in methods},
        data=data,
        metrics=["RMSE", authors.EPOCH],
        splits=2 if smoke else 20,
        epochs=4 if smoke else EPOCHS if cosine else 5000,
        vectorize=20,
        fit=authors.Authors(
            "RMSE",
            authors.root_mean_squared,
            authors.mean_squared,
            batch_size=batch_size or len(y),
            standardize=standardize,
            cosine=cosine,
        ),
    )


def steps(name: str, folder: Path | None = None, smoke: bool = False) -> list[experiments.Comparison]:
    """Describes the comparisons that lead from the authors' protocol to ours."""
    compared = ["SP", f"SP{authors.EQUAL}", "GmP, code's start"]
    by_test = [authors_comparison(name, folder, smoke, step, compared) for step in STEPS if step != "authors"]
    last = replace(comparison(name, folder, smoke), splits=by_test[0].splits)
    networks = {method: last.methods[method.removesuffix(authors.EQUAL)] for method in compared}
    fixed = {method: partial(build, authors.RATES[method]) for method, build in networks.items()}
    del networks[f"SP{authors.EQUAL}"]
    return [
        authors_comparison(name, folder, smoke),
        *by_test,
        replace(last, name=f"{name}, {CHOSEN_EPOCH}", methods=fixed, grid={}, extend=None),
        replace(last, methods=networks),
    ]


def steps_figure(results: experiments.Results) -> Figure:
    """Draws the ratio of the errors of geometric and plain weights at each step, with its 95 % interval."""
    names = [task for task in results.configurations if ", " not in task]
    labels = [*STEPS, CHOSEN_EPOCH, "and the learning rate"]
    figure, panels = plt.subplots(
        1, len(names), figsize=(1 + 2.2 * len(names), 4.5), squeeze=False, layout="constrained"
    )
    plt.close(figure)
    others = [ax for ax, name in zip(panels[0], names, strict=True) if name != "naval"]
    for ax in others[1:]:  # Naval's ratios exceed 10; with one axis for all, those of the other sets would be one line
        ax.sharey(others[0])
    for ax, name in zip(panels[0], names, strict=True):
        tasks = [*(f"{name}, {step}" for step in (*STEPS, CHOSEN_EPOCH)), name]
        for shift, (baseline, colour) in enumerate(zip(("SP", f"SP{authors.EQUAL}"), COLOURS, strict=False)):
            for place, task in enumerate(tasks):
                errors = results.replicates(task, "RMSE")
                if baseline in errors:
                    logs = np.log(errors["GmP, code's start"] / errors[baseline]).dropna()
                    ratios = experiments.Paired(logs, results.overlap(task))
                    low, high = np.exp(ratios.interval())
                    x = place + 0.25 * shift
                    ax.plot([x, x], [low, high], color=colour)
                    ax.plot(x, np.exp(ratios.mean), "o", color=colour, label=baseline if place == 0 else None)
        ax.axhline(1, color="0.7", linewidth=1, zorder=0)
        ax.set(title=name.capitalize(), yscale="log", xticks=range(len(labels)))
        ax.set_xticklabels(labels, rotation=90)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
    panels[0, 0].set_ylabel("error of GmP / error of plain weights")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2, title="plain weights")
    return figure


PROTOCOLS = {
    "ours": lambda *arguments: [comparison(*arguments)],
    "authors": lambda *arguments: [authors_comparison(*arguments)],
    "steps": steps,
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    sets: Annotated[
        list[str] | None, typer.Argument(help=f"Data sets: any of {', '.join(SOURCES)}. The default is all.")
    ] = None,
    protocol: Annotated[
        Literal["ours", "authors", "steps"], typer.Option(help=f"{cli.PROTOCOLS}; steps, from theirs to ours.")
    ] = "ours",
    data_dir: cli.DataDir = None,
    out: cli.Out = Path("results"),
    jobs: cli.Jobs = 1,
    smoke: cli.Smoke = False,
) -> None:
    """Repeats the UCI regression table of Chen and Ge (2024), with five parameterizations.

    Prints tables; writes rows, tables and a figure.
    """
    unknown = set(sets or ()) - set(SOURCES)
    if unknown:
        raise typer.BadParameter(f"must be any of {', '.join(SOURCES)}. Received: {', '.join(sorted(unknown))}")
    missing = [] if sets or data_dir else [name for name, source in SOURCES.items() if source.openml is None]
    if missing:
        print(f"Skipped, as they cannot be downloaded: {', '.join(missing)}. --data-dir can name their folder.")
    names = sets or [name for name in SOURCES if name not in missing]
    comparisons = [each for name in names for each in PROTOCOLS[protocol](name, data_dir, smoke)]
    results = experiments.run(comparisons, out / "uci_regression.jsonl", jobs)
    drawn = steps_figure(results) if protocol == "steps" else None
    cli.finish(results, out, "uci_regression" if protocol == "ours" else f"uci_regression-{protocol}", drawn)


if __name__ == "__main__":
    app()
