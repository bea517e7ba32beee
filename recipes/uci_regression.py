"""UCI regression with one hidden layer: standard weights, weight and batch normalization, and geometric weights.

The UCI table of Chen and Ge (2024), with all settings chosen on validation data. A network of one hidden layer with 100
ReLU units is trained by Adam on full batches, for at most 2,000 epochs. Each of ten random splits has 20 % of the
examples in the test part and a fifth of the others in the validation part. In each split, the validation part chooses,
for every method alike, the learning rate among the paper's six and the number of epochs among 50, 100, ..., 2,000. The
chosen settings are trained again on training and validation data together, and tested once. Inputs and targets are
standardized; errors are in the target's units.

The methods: standard weights (SP), weight normalization (WN), batch normalization (BN), geometric weights with the
paper's initialization (directions uniform on the sphere, scale 1), and with that of its authors' code (angles and norm
of Glorot uniform weights). The output layer is a plain Dense layer in all of them.

Data: `--data-dir` names a folder with `boston.csv`, `concrete.csv`, `energy.csv`, `naval.csv`, `power.csv`,
`wine-red.csv` and `yacht.csv`, each also as `.csv.gz`: a header, numbers, the target last. Without it, five of the sets
come from OpenML.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import pandas as pd
import typer
from sklearn.datasets import fetch_openml
from sklearn.metrics import root_mean_squared_error

from keras_actlab import experiments
from recipes.common import cli, files
from recipes.common.parameterizations import HIDDEN

UNITS = 100
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
METHODS = ("SP", "WN", "BN", "GmP", "GmP, code's start")


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


def network(method: str, features: int) -> Callable[[float], keras.Model]:
    """Returns the function that builds a method's network with a learning rate."""

    def build(learning_rate: float) -> keras.Model:
        model = keras.Sequential([keras.Input((features,)), *HIDDEN[method](UNITS), keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(learning_rate), "mse")
        return model

    return build


def comparison(name: str, folder: Path | None = None, smoke: bool = False) -> experiments.Comparison:
    """Describes the comparison on one data set."""
    x, y = load(name, folder)
    return experiments.Comparison(
        name=name,
        methods={method: network(method, x.shape[1]) for method in METHODS},
        data=lambda split: experiments.holdout(x, y, seed=split, standardize_targets=True),
        metrics={"RMSE": root_mean_squared_error},
        grid={"learning_rate": RATES[2:4] if smoke else RATES},
        splits=2 if smoke else 10,
        epochs=4 if smoke else 2000,
        validate_every=2 if smoke else 50,
        vectorize=2 if len(x) > 5000 else 10,  # more of that size do not fit into a processor's cache
    )


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    sets: Annotated[
        list[str] | None, typer.Argument(help=f"Data sets: any of {', '.join(SOURCES)}. The default is all.")
    ] = None,
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
    comparisons = [comparison(name, data_dir, smoke) for name in names]
    cli.finish(experiments.run(comparisons, out / "uci_regression.jsonl", jobs), out, "uci_regression")


if __name__ == "__main__":
    app()
