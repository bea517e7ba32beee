"""Do trainable activations or geometric weights help a small network? Two real data sets, nine methods, paired seeds.

Every method is the same network of two hidden layers with 64 units: six activations on plain weights (the standard
parameterization, SP), and ReLU on three others: batch normalization (BN), geometric weights (GmP), and geometric
weights behind input mean normalization (GmP+IMN). A seed decides the split into 60 % training, 20 % validation and
20 % test data and the order of the batches, for every method alike, and seeds the start of the weights. Every method
tries the same learning rates; in each seed its validation error chooses one, and its test data only report.

The data come with scikit-learn: handwritten digits (1,797 images of 8 x 8 pixels, error in %) and diabetes progression
(442 patients, root mean squared error in the target's units). Lower is better for both.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import typer
from scipy import stats
from sklearn.datasets import load_diabetes, load_digits
from sklearn.metrics import root_mean_squared_error, zero_one_loss
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from keras_actlab.layers import TMAF, CRReLU, GmPDense, InputMeanNormalization

RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)
WIDTH = 64
BASELINE = "ReLU, SP"
# Each gives the layers that make up one hidden layer of the network.
METHODS: dict[str, Callable[[], list[keras.Layer]]] = {
    BASELINE: lambda: [keras.layers.Dense(WIDTH), keras.layers.ReLU()],
    "GELU": lambda: [keras.layers.Dense(WIDTH), keras.layers.Activation("gelu")],
    "PReLU": lambda: [keras.layers.Dense(WIDTH), keras.layers.PReLU()],
    "CRReLU": lambda: [keras.layers.Dense(WIDTH), CRReLU()],
    "TMAF diagonal": lambda: [keras.layers.Dense(WIDTH), TMAF(bandwidth=0)],
    "TMAF tri-diagonal": lambda: [keras.layers.Dense(WIDTH), TMAF(bandwidth=1)],
    "BN": lambda: [keras.layers.Dense(WIDTH), keras.layers.BatchNormalization(), keras.layers.ReLU()],
    "GmP": lambda: [GmPDense(WIDTH, activation="relu")],
    "GmP+IMN": lambda: [InputMeanNormalization(), GmPDense(WIDTH, activation="relu")],
}


@dataclass(frozen=True)
class Task:
    """A data set, and the error that judges it."""

    load: Callable[..., tuple[np.ndarray, np.ndarray]]
    classes: int  # 0 for regression
    epochs: int
    error: str  # what it measures, with its unit

    def split(self, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Returns the three parts as (inputs, targets), inputs scaled by the training part's mean and deviation."""
        x, y = self.load(return_X_y=True)
        rest, test = train_test_split(np.arange(len(x)), test_size=0.2, random_state=seed)
        train, validation = train_test_split(rest, test_size=0.25, random_state=seed)
        scaler = StandardScaler().fit(x[train])
        parts = {"train": train, "validation": validation, "test": test}
        return {part: (scaler.transform(x[rows]).astype("float32"), y[rows]) for part, rows in parts.items()}

    def network(self, method: str) -> keras.Model:
        """Returns the compiled network of a method."""
        features = self.load(return_X_y=True)[0].shape[1]
        hidden = [layer for _ in range(2) for layer in METHODS[method]()]
        model = keras.Sequential([keras.Input((features,)), *hidden, keras.layers.Dense(self.classes or 1)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True) if self.classes else "mse"
        model.compile(optimizer="adam", loss=loss)
        return model

    def fit(self, model: keras.Model, data: dict[str, tuple[np.ndarray, np.ndarray]], epochs: int) -> dict[str, float]:
        """Trains the model and returns its error on the validation and the test data."""
        x, y = data["train"]
        # A regression's target is scaled too, and its predictions are scaled back.
        centre, deviation = (0.0, 1.0) if self.classes else (y.mean(), y.std())
        model.fit(x, (y - centre) / deviation, batch_size=64, epochs=epochs, verbose=0)
        errors = {}
        for part in ("validation", "test"):
            x, y = data[part]
            outputs = model.predict(x, batch_size=len(x), verbose=0)
            if self.classes:
                errors[part] = 100 * zero_one_loss(y, outputs.argmax(axis=1))
            else:
                errors[part] = root_mean_squared_error(y, outputs[:, 0] * deviation + centre)
        return errors


TASKS = {
    "digits": Task(load_digits, classes=10, epochs=30, error="error, %"),
    "diabetes": Task(load_diabetes, classes=0, epochs=60, error="RMSE"),
}


def runs(task: str, method: str, seeds: int, rates: Sequence[float], epochs: int) -> Iterator[dict[str, Any]]:
    """Trains every seed at every rate; yields a row each. One compiled model serves all, as only values differ."""
    model = TASKS[task].network(method)
    model.optimizer.build(model.trainable_variables)
    for seed in range(seeds):
        data = TASKS[task].split(seed)
        keras.utils.set_random_seed(seed)
        start = TASKS[task].network(method).get_weights()
        for rate in rates:
            began = time.perf_counter()
            keras.utils.set_random_seed(seed)
            model.set_weights(start)
            for variable in model.optimizer.variables:  # all of Adam's start at 0
                variable.assign(np.zeros(variable.shape))
            model.optimizer.learning_rate = rate
            errors = TASKS[task].fit(model, data, epochs)
            seconds = round(time.perf_counter() - began, 3)
            yield {"task": task, "method": method, "seed": seed, "rate": rate, **errors, "seconds": seconds}


def chosen(results: pd.DataFrame) -> pd.DataFrame:
    """Keeps, for each task, method and seed, the row of the rate with the least validation error."""
    return results.loc[results.groupby(["task", "method", "seed"], sort=False)["validation"].idxmin()]


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """One row a task and method: the test error's mean and standard error, and its difference to the baseline's."""
    rows = []
    errors = chosen(results).pivot(index=["task", "seed"], columns="method", values="test")
    rates = chosen(results).groupby(["task", "method"])["rate"].median()
    for task in results["task"].unique():
        for method in results["method"].unique():
            test = errors.loc[task, method]
            row = {
                "task": task,
                "method": method,
                "median rate": rates[task, method],
                "mean": test.mean(),
                "s.e.": test.sem(),
            }
            if method != BASELINE:
                difference = test - errors.loc[task, BASELINE]
                mean, half_width = difference.mean(), stats.t.ppf(0.975, len(difference) - 1) * difference.sem()
                row |= {"difference": mean, "95 % from": mean - half_width, "to": mean + half_width}
            rows.append(row)
    return pd.DataFrame(rows).set_index(["task", "method"])


def figure(results: pd.DataFrame) -> plt.Figure:
    """All seeds as dots, their mean with its standard error, and the baseline's mean as a line."""
    table, seeds = summary(results), chosen(results)
    tasks, methods = results["task"].unique(), list(results["method"].unique())
    fig, axes = plt.subplots(1, len(tasks), figsize=(5 * len(tasks), 4), sharey=True, layout="constrained")
    for ax, task in zip(np.atleast_1d(axes), tasks, strict=True):
        rows = seeds[seeds["task"] == task]
        ax.axvline(table.loc[(task, BASELINE), "mean"], color="0.7", linestyle="--", linewidth=1)
        ax.scatter(rows["test"], [methods.index(m) for m in rows["method"]], s=14, color="#56B4E9", label="one seed")
        mean, error = (table.loc[[(task, m) for m in methods], column] for column in ("mean", "s.e."))
        ax.errorbar(mean, range(len(methods)), xerr=error, fmt="o", color="#D55E00", label="mean ± standard error")
        ax.set(title=task, xlabel=f"test {TASKS[task].error}", yticks=range(len(methods)), yticklabels=methods)
    np.atleast_1d(axes)[0].invert_yaxis()
    np.atleast_1d(axes)[-1].legend(loc="best", fontsize="small")
    return fig


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    seeds: Annotated[int, typer.Option(min=2, help="Paired repetitions: splits and starts.")] = 5,
    out: Annotated[Path, typer.Option(help="Folder for quickstart.csv and quickstart.png.")] = Path("results"),
    smoke: Annotated[
        bool, typer.Option(help="Two seeds, two rates, one epoch, only to see that everything runs.")
    ] = False,
) -> None:
    """Compares activations and parameterizations on two small data sets; prints a table, writes CSV and PNG."""
    seeds, rates = (2, RATES[:2]) if smoke else (seeds, RATES)
    rows = []
    with tqdm(total=len(TASKS) * len(METHODS) * seeds * len(rates), unit="fit") as progress:
        for task in TASKS:
            epochs = 1 if smoke else TASKS[task].epochs
            for method in METHODS:
                progress.set_description(f"{task}, {method}")
                for row in runs(task, method, seeds, rates, epochs):
                    rows.append(row)
                    progress.update()
    results = pd.DataFrame(rows)

    out.mkdir(parents=True, exist_ok=True)
    unfinished = out / "quickstart.csv.part"
    results.to_csv(unfinished, index=False)
    unfinished.replace(out / "quickstart.csv")  # at once, so that no half of a file takes the place of an older one
    figure(results).savefig(out / "quickstart.png", dpi=150)
    units = ", ".join(f"{name}: {task.error}" for name, task in TASKS.items())
    print(f"\nTest error ({units}), {seeds} seeds, {keras.backend.backend()}.")
    print(f"Differences to {BASELINE} are paired by seed; their intervals allow for one comparison, not for many.")
    print(
        summary(results).to_string(float_format="{:.3f}".format, formatters={"median rate": "{:g}".format}, na_rep="")
    )
    print(f"\nWritten: {out / 'quickstart.csv'}, {out / 'quickstart.png'}")


if __name__ == "__main__":
    app()
