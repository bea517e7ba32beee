"""Basin atlas: from which starts and at which learning rates a network trains, with six kinds of hidden layers.

The first version of Chen and Ge (2024) claims that geometric weights need a less careful initialization and admit
larger learning rates. Here, each combination of a scale of the initial weights and a learning rate is a cell of a
plane. The result is the share of the cells in which a network trains.

A network trains if its loss on all training data, after the last step, is below `SHARE` of the loss of the best
constant prediction. The loss is that of inference, with moving averages where a layer has any. It is the mean squared
error for diabetes, and the cross-entropy for breast cancer and digits, the data sets of scikit-learn. There are no test
data, because the claim is about training.

The network has three hidden layers of 32 ReLU units. It is trained for 600 steps by Adam with a constant learning rate,
in batches of 64 examples that are drawn with replacement. Inputs, and the targets of diabetes, are standardized.

The start: each hidden layer has a plain kernel s W, where W is He normal, and s is the scale. Biases are 0. The output
layer is a plain Dense layer with its ordinary start, at every scale. The seed decides W, the output layer and the
batches, which are the same in every method and every cell. How s acts:

- SP, plain weights: the kernel is s W.
- WN, weight normalization: v = s W and g = ||s W||, column by column, so the function is that of SP. Since v has the
  length of the kernel, s also decides how fast steps turn it, as in SP.
- GmP, geometric weights: the angles of s W, which do not depend on s, and the scale r = ||s W||. The function is that
  of SP, but s does not decide how fast steps turn a direction. At s = 1, columns have a length of about 1.4; the paper
  starts with r = 1 at every width.
- GmP+IMN: the same after the subtraction of the input mean.
- BN, LayerNorm: normalization after a plain layer with the kernel s W. The function hardly depends on s; how fast steps
  turn the weights does. The numbers added to variances are those of Keras, 0.001.

Moving averages have the momentum 0.9, because a run is short.

Analysis. For each seed, the share of the plane in which GmP trains is divided by that of another method. The mean over
seeds of the logarithm, averaged over the three sets, has a 95 % interval (Student's t, paired by seed). The planned
comparisons are these pooled ratios of GmP to the five other methods, with a correction for five (false discovery rate,
Benjamini and Hochberg). A share depends on the limits of the plane and on `SHARE`; ratios for other values of it are in
the table of the page. Two further numbers split the claim: the largest share of scales that train at one learning rate,
and the largest learning rate that trains at s = 1.

Confirmation. With five seeds, these two numbers were larger for GmP than for SP. Their intervals excluded 1, but no
longer after correction. They are therefore compared once more, on ten new seeds, which alone decide: the ratio of each
number of GmP to that of SP, pooled as above. This paragraph was written before the new seeds were run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import typer
from keras.layers import BatchNormalization, Dense, LayerNormalization, ReLU
from matplotlib.figure import Figure
from scipy import stats
from scipy.special import log_softmax
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.preprocessing import StandardScaler, scale

from keras_actlab.experiments import Ensemble, Paired
from keras_actlab.layers import GmPDense, InputMeanNormalization, WeightNormalization
from recipes.common import cli, files

SHARE = 0.25
OTHER_SHARES = (0.1, 0.5)
SCALES = (1 / 64, 1 / 16, 1 / 4, 1.0, 4.0, 16.0)
RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
SEEDS, NEW_SEEDS = range(5), range(5, 15)
CONFIRMED_METHODS = ("SP", "GmP")
LAYERS, UNITS, BATCH, STEPS = 3, 32, 64, 600
MOMENTUM = 0.9

# For each method a function that returns a hidden layer.
METHODS: dict[str, Callable[[], list[keras.Layer]]] = {
    "SP": lambda: [Dense(UNITS, "relu", kernel_initializer="he_normal")],
    "WN": lambda: [WeightNormalization(Dense(UNITS, "relu", kernel_initializer="he_normal"))],
    "BN": lambda: [
        Dense(UNITS, use_bias=False, kernel_initializer="he_normal"),
        BatchNormalization(momentum=MOMENTUM),
        ReLU(),
    ],
    "LayerNorm": lambda: [
        Dense(UNITS, use_bias=False, kernel_initializer="he_normal"),
        LayerNormalization(),
        ReLU(),
    ],
    "GmP": lambda: [GmPDense(UNITS, "relu", kernel_initializer="he_normal")],
    "GmP+IMN": lambda: [
        InputMeanNormalization(momentum=MOMENTUM),
        GmPDense(UNITS, "relu", kernel_initializer="he_normal"),
    ],
}
# Variables that are proportional to the plain kernel: the kernel of SP, WN, BN and LayerNorm, the scale of WN and GmP.
SCALED = ("kernel", "scale")
SETS = {"diabetes": load_diabetes, "breast cancer": load_breast_cancer, "digits": load_digits}


@dataclass(frozen=True)
class Data:
    """A data set with standardized inputs; the number of outputs of its network, 1 for regression."""

    x: np.ndarray
    y: np.ndarray
    outputs: int

    def loss(self, predictions: np.ndarray) -> np.ndarray:
        """Returns the loss of predictions, shape (..., examples, outputs), relative to the best constant prediction."""
        predictions = predictions.astype("float64")
        if self.outputs == 1:
            return np.square(predictions - self.y).mean((-2, -1)) / self.y.var()
        shares = np.bincount(self.y[:, 0]) / len(self.y)
        chosen = np.broadcast_to(self.y, (*predictions.shape[:-1], 1))
        logs = np.take_along_axis(log_softmax(predictions, axis=-1), chosen, axis=-1)
        return -logs.mean((-2, -1)) / stats.entropy(shares)


def load(name: str) -> Data:
    """Loads a data set."""
    x, y = SETS[name](return_X_y=True)
    x = StandardScaler().fit_transform(x).astype("float32")
    if name == "diabetes":
        return Data(x, scale(y)[:, None].astype("float32"), 1)
    return Data(x, y[:, None].astype("int32"), int(y.max()) + 1)


def network(method: str, data: Data, size: float, seed: int) -> keras.Model:
    """Returns a network whose initial hidden weights have a scale; `Ensemble` multiplies its learning rate of 1."""
    keras.utils.set_random_seed(seed)
    hidden = [layer for _ in range(LAYERS) for layer in METHODS[method]()]
    model = keras.Sequential([keras.Input(data.x.shape[1:]), *hidden, Dense(data.outputs)])
    for variable in model.trainable_variables[:-2]:  # all but the output layer's
        if variable.name in SCALED:
            variable.assign(size * variable)
    loss = "mse" if data.outputs == 1 else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1.0), loss)
    return model


def plane(name: str, method: str, seeds: Sequence[int] = SEEDS, steps: int = STEPS) -> pd.DataFrame:
    """Trains the networks of all cells and seeds as one program, and returns a row for each."""
    data = load(name)
    starts = {(size, seed): network(method, data, size, seed) for size in SCALES for seed in seeds}
    cells = [(size, rate, seed) for size in SCALES for rate in RATES for seed in seeds]
    table = pd.DataFrame(cells, columns=["scale", "learning rate", "seed"])
    ensemble = Ensemble([starts[size, seed] for size, _, seed in cells])
    x, y = (keras.ops.convert_to_tensor(np.broadcast_to(part, (len(cells), *part.shape))) for part in (data.x, data.y))
    batches = {seed: np.random.default_rng(seed).integers(len(data.x), size=(steps, BATCH)) for seed in seeds}
    rows = np.stack([batches[seed] for seed in table["seed"]], axis=1).astype("int32")
    ensemble.train_block(x, y, rows, np.tile(table["learning rate"], (steps, 1)))
    return table.assign(set=name, method=method, loss=data.loss(ensemble.predictions(x)))


def summarize(rows: pd.DataFrame, share: float = SHARE) -> pd.DataFrame:
    """Returns for each set, method and seed in which part of the plane the network trains.

    Columns: the share of the plane; the largest share of scales that train at one learning rate; the largest learning
    rate that trains at scale 1, 0 if there is none.
    """
    rows = rows.assign(trains=rows["loss"] < share)  # False for NaN, a training that diverged
    places = ["set", "method", "seed"]
    scales = rows.groupby([*places, "learning rate"], sort=False)["trains"].mean()
    usual = rows[rows["scale"] == 1]
    rates = (usual["learning rate"] * usual["trains"]).groupby([usual[place] for place in places], sort=False).max()
    return pd.DataFrame(
        {
            "share": rows.groupby(places, sort=False)["trains"].mean(),
            "scales": scales.groupby(places, sort=False).max(),
            "largest rate": rates,
        }
    ).reset_index()


def ratios(table: pd.DataFrame, column: str = "share") -> pd.DataFrame:
    """Returns the ratio of a column of GmP and each other method, for each set and pooled, with intervals."""
    values = table.pivot_table(index=["set", "seed"], columns="method", values=column, sort=False)
    logs = np.log(values.where(values > 0))
    found = []
    for other in logs.columns.drop("GmP"):
        by_set = (logs["GmP"] - logs[other]).unstack("set")
        for name, values in {"pooled": by_set.mean(axis=1), **by_set}.items():
            if values.notna().all():
                paired = Paired(values)
                low, high = np.exp(paired.interval())
                found.append(
                    (name, other, np.exp(paired.mean), low, high, np.exp(paired.detectable(0.05)), paired.p_value)
                )
            else:  # a network that trains nowhere
                found.append((name, other, *[np.nan] * 5))
    columns = ["set", "other", "ratio", "95 % from", "to", "smallest detectable ratio", "p"]
    result = pd.DataFrame(found, columns=columns)
    planned = (result["set"] == "pooled") & result["p"].notna()
    if planned.any():
        result.loc[planned, "p, corrected"] = stats.false_discovery_control(result.loc[planned, "p"])
    return result


def figure(rows: pd.DataFrame) -> Figure:
    """Draws for each set and method in which share of the seeds each cell trains."""
    trains = rows.assign(trains=rows["loss"] < SHARE)
    sets, methods = (list(rows[name].unique()) for name in ("set", "method"))
    drawn, panels = plt.subplots(
        len(sets),
        len(methods),
        figsize=(1.9 * len(methods), 1.9 * len(sets) + 0.5),
        squeeze=False,
        layout="constrained",
    )
    plt.close(drawn)
    for line, name in zip(panels, sets, strict=True):
        for ax, method in zip(line, methods, strict=True):
            own = trains[(trains["set"] == name) & (trains["method"] == method)]
            cells = own.pivot_table(index="scale", columns="learning rate", values="trains")
            image = ax.imshow(cells, origin="lower", vmin=0, vmax=1, cmap="cividis", aspect="auto")
            ax.set_title(f"{method}: {own['trains'].mean():.0%}", fontsize="small")
            ax.set_xticks(range(len(cells.columns)), [f"{rate:g}" for rate in cells.columns], rotation=90)
            ax.set_yticks(range(len(cells)), [f"{size:.2g}" for size in cells.index])
            ax.tick_params(labelsize="x-small")
        line[0].set_ylabel(f"{name}\nscale of the start", fontsize="small")
    drawn.supxlabel("learning rate", fontsize="small")
    drawn.colorbar(image, ax=panels, label="share of seeds that train", shrink=0.6)
    return drawn


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(out: cli.Out = Path("results"), smoke: cli.Smoke = False) -> None:
    """Draws starts and learning rates from which networks train, a claim of the first version of Chen and Ge (2024).

    Prints tables; writes rows, tables and a figure. A run that was killed continues with the next method.
    """

    def planes(methods: Sequence[str], seeds: Sequence[int], file: Path) -> pd.DataFrame:
        rows = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["set", "method"])
        done = set(zip(rows["set"], rows["method"], strict=True))
        for name in list(SETS)[: 1 if smoke else None]:
            for method in methods:
                if (name, method) not in done:
                    new = plane(name, method, seeds, 100 if smoke else STEPS)
                    rows = files.append_rows(new.to_dict("records"), file)
                    print(f"{name}, {method}: done", flush=True)
        return rows

    seeds, new_seeds = (range(2), range(2, 4)) if smoke else (SEEDS, NEW_SEEDS)
    rows = planes(CONFIRMED_METHODS if smoke else tuple(METHODS), seeds, out / "basin_atlas.csv")
    table = files.write_table(summarize(rows), out / "basin_atlas-shares.csv")
    print(table.groupby(["set", "method"], sort=False).mean(numeric_only=True).drop(columns="seed").to_string())
    compared = [ratios(summarize(rows, share)).assign(below=share) for share in (SHARE, *OTHER_SHARES)]
    compared = files.write_table(pd.concat(compared), out / "basin_atlas-ratios.csv")
    print(compared.to_string(index=False, float_format="{:.3g}".format))
    files.write_figure(figure(rows), out / "basin_atlas.png")
    rows = planes(CONFIRMED_METHODS, new_seeds, out / "basin_atlas-confirmation.csv")
    table = files.write_table(summarize(rows), out / "basin_atlas-confirmation-shares.csv")
    for column in ("scales", "largest rate"):
        print(f"\n{column}\n{ratios(table, column).to_string(index=False, float_format='{:.3g}'.format)}")


if __name__ == "__main__":
    app()
