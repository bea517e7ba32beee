"""The Banana data set: largest turns of activation boundaries during training on two classes in the plane.

Figure 3 of Chen and Ge (2024). Each of twenty splits draws 1,000 of the 5,300 points: 640 for training, 160 for
validation and 200 for the test. A network of one hidden layer with 10 ReLU units is trained by Adam in batches of 128
for at most 500 epochs. The learning rate follows a cosine to 0 over the 3,000 steps of a final fit. In each split, the
validation part chooses, for every method alike, the learning rate and the number of epochs among 5, 10, ..., 500. Six
learning rates are tried, and more where the best one is the lowest or the highest. The choice is trained again on
training and validation points together, and tested once. Inputs are standardized.

`--protocol authors` trains as the authors' notebook does, with 800 points for training: learning rates 0.1 for
geometric weights and 0.01 for the others. The accuracy on the *test* points drops the learning rate, ends the training
and chooses the epoch, see `recipes.common.authors`. Its accuracies are too high; they explain the published ones.

Methods: standard weights (SP), weight normalization (WN), batch normalization (BN), geometric weights with the paper's
initialization, with that of its authors' code, and with input mean normalization. The output layer is a plain Dense
layer in all of them.

Boundaries: in the final fits, a `BoundaryTracker` records after every step. A unit's boundary is a line in the plane.
The largest turn is the largest angle by which any of the ten lines turns within one step of training.

Data: `--data` names a CSV file with the columns At1, At2 and Class. By default the data come from OpenML. If OpenML
cannot be reached, two noisy crescents of scikit-learn replace them, and the results say so.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import typer
from keras.optimizers.schedules import CosineDecay
from matplotlib.figure import Figure
from scipy.interpolate import RegularGridInterpolator
from sklearn.datasets import fetch_openml, make_moons
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from keras_actlab import cab, experiments
from keras_actlab.cab import plots
from recipes.common import authors, cli, files, tracking
from recipes.common.parameterizations import HIDDEN

UNITS = 10
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
COLUMNS = ("At1", "At2", "Class")
OPENML = 1460  # ID of the OpenML data set, which fixes its version
ROWS, DRAWN, BATCH = 5300, 1000, 128
LOSS = keras.losses.BinaryCrossentropy(from_logits=True)
SMOKE_METHODS = ("SP", "BN", "GmP+IMN")
MOMENTS = 60  # number of steps at which the figure shows the boundaries
STAND_IN = "two crescents, NOT Banana"
LIMITS = (-3.0, 3.0)
LINE = np.linspace(*LIMITS, 41)
GRID = np.stack(np.meshgrid(LINE, LINE, indexing="ij"), axis=-1).reshape(-1, 2).astype("float32")


def load(file: Path | None) -> tuple[str, np.ndarray, np.ndarray]:
    """Returns the name of the data, points of shape (examples, 2), and labels 0 and 1."""
    if file is not None:
        if not file.exists():
            raise ValueError(
                f"`data` must name a CSV file with the columns {', '.join(COLUMNS)}: the Banana set of "
                f"https://sci2s.ugr.es/keel or https://www.openml.org/d/{OPENML}. Received: data={str(file)!r}"
            )
        table = files.read_table(file, ROWS)
    else:
        try:
            frame = fetch_openml(data_id=OPENML, as_frame=True, parser="auto").frame
        except OSError as error:
            print(f"\nThe Banana set cannot be downloaded ({error}).\nRESULTS ARE THOSE OF {STAND_IN.upper()}.\n")
            points, labels = make_moons(ROWS, noise=0.3, random_state=0)
            return STAND_IN, points, labels.astype("float32")
        table = frame.set_axis(list(COLUMNS), axis=1)
    if tuple(table.columns) != COLUMNS:
        raise ValueError(f"`data` must have the columns {', '.join(COLUMNS)}. Received: {', '.join(table.columns)}")
    values = table.apply(pd.to_numeric, errors="coerce").to_numpy("float64")
    classes = np.unique(values[:, 2])
    if not np.isfinite(values).all() or len(classes) != 2:
        raise ValueError(
            f"`data` must hold finite numbers, of two classes. Received: "
            f"{(~np.isfinite(values)).sum()} entries that are not finite numbers, classes {classes.tolist()}"
        )
    return "Banana", values[:, :2], (values[:, 2] == classes[1]).astype("float32")


def accuracy(labels: np.ndarray, logits: np.ndarray) -> float:
    """The percentage of labels that equal the sign of the logit."""
    return 100 * float(np.mean((logits[:, 0] > 0) == (labels > 0.5)))


def network(method: str, steps: int) -> Callable[[float], keras.Model]:
    """Returns the function that builds a method's network with a learning rate, which follows a cosine to 0."""

    def build(learning_rate: float) -> keras.Model:
        model = keras.Sequential([keras.Input((2,)), *HIDDEN[method](UNITS), keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(CosineDecay(learning_rate, steps)), LOSS)
        return model

    return build


def _tracks(out: Path, name: str) -> Path:
    """Makes and returns the folder of a comparison's tracks: those of the replacement data are kept apart."""
    folder = out / "banana_classification-tracks" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _drawn(points: int, split: int) -> np.ndarray:
    """The rows of a split."""
    return np.random.default_rng(split).permutation(points)[:DRAWN]


def comparison(file: Path | None, out: Path, smoke: bool = False) -> experiments.Comparison:
    """Describes the comparison by our protocol; tracks of the final fits go to a folder in `out`."""
    name, points, labels = load(file)
    epochs = 4 if smoke else 500
    steps = epochs * (DRAWN * 4 // 5 // BATCH)  # of a final fit; of fits on the training part alone, fewer are used

    def data(split: int) -> experiments.Split:
        rows = _drawn(len(points), split)
        return experiments.holdout(points[rows], labels[rows], seed=split)

    return experiments.Comparison(
        name=name,
        methods={method: network(method, steps) for method in (SMOKE_METHODS if smoke else HIDDEN)},
        data=data,
        metrics={"accuracy, %": accuracy},
        mode="max",
        grid={"learning_rate": RATES[2:4] if smoke else RATES},
        extend=None if smoke else "learning_rate",
        splits=2 if smoke else 20,
        batch_size=BATCH,
        epochs=epochs,
        validate_every=2 if smoke else 5,
        vectorize=20,
        callbacks=tracking.callbacks(_tracks(out, name), GRID, megabytes=10),  # all 3,000 steps
    )


def authors_comparison(file: Path | None, smoke: bool = False) -> experiments.Comparison:
    """Describes the comparison by the authors' protocol."""
    name, points, labels = load(file)

    def data(split: int) -> experiments.Split:
        train, test = train_test_split(_drawn(len(points), split), test_size=0.2, random_state=split)
        inputs = StandardScaler().fit(points[train]).transform(points).astype("float32")
        return experiments.Split((inputs[train], labels[train]), None, (inputs[test], labels[test]))

    def error(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
        return ((logits > 0) != (labels > 0.5)).mean(axis=1)

    def percent(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
        return 100 * (1 - error(labels, logits))

    return experiments.Comparison(
        name=f"{name}, authors",
        methods={method: authors.network(method, UNITS, 2, LOSS) for method in authors.RATES},
        data=data,
        metrics=["accuracy, %", authors.EPOCH],
        mode="max",
        splits=2 if smoke else 20,
        epochs=4 if smoke else 5000,
        vectorize=20,
        fit=authors.Authors("accuracy, %", percent, error, batch_size=BATCH),
    )


def picture(methods: list[str], data: experiments.Split, folder: Path, split: int) -> pd.DataFrame:
    """Returns the points that the figure shows of one split, one in each row.

    The kinds: "point" (value is the label), and for each method "logit" (value, on a grid), "boundary" (x and y are the
    normal, value the offset, of each unit and step) and "largest" (y is the largest turn, x the training step).
    """
    points, labels = data.development
    parts = [pd.DataFrame({"kind": "point", "x": points[:, 0], "y": points[:, 1], "value": labels})]
    for method in methods:
        track = tracking.load_track(folder, method, split)
        logits = tracking.load_predictions(folder, method, split)
        turns = tracking.largest_changes(track, "turns")
        parts += [
            pd.DataFrame({"method": method, "kind": "logit", "x": GRID[:, 0], "y": GRID[:, 1], "value": logits}),
            pd.DataFrame({"method": method, "kind": "largest", "x": turns["step"], "y": np.degrees(turns["value"])}),
        ]
        for step in np.unique(np.linspace(0, track.steps[-1], MOMENTS).round()).astype(int):
            now = track.at(step)
            columns = {"unit": now.units, "x": now.normals[:, 0], "y": now.normals[:, 1], "value": now.offsets}
            parts.append(pd.DataFrame({"method": method, "kind": "boundary", "step": step} | columns))
    return pd.concat(parts, ignore_index=True)


def as_track(rows: pd.DataFrame) -> cab.Track:
    """Returns the track whose boundaries are the rows. The changes between them are unknown, and 0 in the track."""
    steps = rows["step"].unique()
    normals = rows[["x", "y"]].to_numpy().reshape(len(steps), -1, 2)
    offsets = rows["value"].to_numpy().reshape(len(steps), -1)
    unknown, units = np.zeros_like(offsets), rows["unit"].to_numpy(int)[: offsets.shape[1]]
    return cab.Track(steps.astype(int), normals, -offsets[..., None] * normals, unknown, unknown, units)


def figure(points: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Draws each method's boundaries and their paths in one split, and the largest turns in all splits."""
    methods = list(table["method"].unique())
    panels = plt.figure(figsize=(2.5 * len(methods), 9), layout="constrained")
    plt.close(panels)
    upper, lower = panels.subfigures(2, 1, height_ratios=(1.7, 1))
    examples = points[points["kind"] == "point"].iloc[:300]  # more would hide the lines
    top, bottom = upper.subplots(2, len(methods), sharex=True, sharey=True)
    for method, above, below in zip(methods, top, bottom, strict=True):
        own = points[points["method"] == method]
        logits = own[own["kind"] == "logit"]["value"].to_numpy().reshape(len(LINE), len(LINE))
        track = as_track(own[own["kind"] == "boundary"])
        decision = RegularGridInterpolator((LINE, LINE), logits, bounds_error=False, fill_value=None)
        inputs, labels = examples[["x", "y"]].to_numpy(), examples["value"].astype(int).to_numpy()
        plots.boundaries_2d(track.at(track.steps[-1]), inputs, labels, decision, LIMITS, above)
        plots.trajectories(track, below)
        above.set(title=method)
        below.set(xlim=LIMITS, ylim=LIMITS)
        for ax in (above, below):
            ax.get_legend().remove()  # there is one for all, below
            ax.label_outer()
    for ax, place in ((top[0], "upper"), (bottom[0], "lower")):
        upper.legend(*ax.get_legend_handles_labels(), loc=f"outside {place} center", ncols=5, fontsize="small")
    left, right = lower.subplots(1, 2)
    tracking.draw_largest(left, right, points, table, "largest turn", "turn of a boundary, in degrees")
    return panels


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    data: Annotated[Path | None, typer.Option(help="CSV file with the columns At1, At2, Class.")] = None,
    protocol: cli.Protocol = "ours",
    out: cli.Out = Path("results"),
    jobs: cli.Jobs = 1,
    smoke: cli.Smoke = False,
) -> None:
    """Repeats figure 3 of Chen and Ge (2024), the Banana data set, with six parameterizations.

    Prints tables; writes rows, tables and a figure.
    """
    if protocol == "authors":
        results = experiments.run(authors_comparison(data, smoke), out / "banana_classification.jsonl", jobs)
        cli.finish(results, out, "banana_classification-authors")
        return
    compared = comparison(data, out, smoke)
    folder = _tracks(out, compared.name)
    results = experiments.run(compared, out / "banana_classification.jsonl", jobs)
    table = files.write_table(tracking.summarize(results, folder), out / "banana_classification-boundaries.csv")
    print(table.groupby("method", sort=False)["largest turn"].describe().to_string(float_format="{:.3g}".format))
    drawn, split = None, tracking.shown_split(table)
    if split is not None:
        points = picture(list(table["method"].unique()), compared.split(split), folder, split)
        drawn = figure(files.write_table(points, out / "banana_classification-figure.csv"), table)
    cli.finish(results, out, "banana_classification", drawn)


if __name__ == "__main__":
    app()
