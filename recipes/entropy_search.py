"""Entropy and accuracy on digits and MNIST: the correlation between an activation's entropy and test accuracy.

Sun et al. (2024) search activation functions by the entropy of their outputs. For a density of inputs, a gradient step
that lowers the entropy gives a new activation; from ReLU and N(0, 1) it leads to CRReLU. They train vision transformers
and GPT-2. Here the networks are small and the images are digits, so there are no published numbers to compare with. The
recipe tests whether the entropy is correlated with accuracy.

Data: scikit-learn's 1,797 digits of 8 x 8 pixels (1,149 for training, 288 for validation and 360 for the test, in ten
random splits), and MNIST (10,000 for training and 5,000 for validation of the official training part, in five random
splits; all have the official test part). Pixels are scaled to [0, 1].

Networks: two dense hidden layers of 64 (digits) or 128 units; or two 3 x 3 convolutions of stride 2 with 8 and 16
channels and a dense hidden layer of 64 units.

Methods differ in the activation of every hidden layer: ReLU, leaky ReLU (slope 0.01), GELU, PReLU (a slope for each
channel, which starts at 0.25), SiLU, CRReLU with epsilon started at 0.01 (the paper's choice, which raises the entropy
for N(0, 1)), -0.1 and -0.5 (which lower it), and three splines (32 knots):

- one EAFO step: ReLU after one step for the density N(0, 1), not trained;
- refined: starts as ReLU and is trained by gradients; after every 25 steps it makes a small EAFO step for the current
  density of the layer's inputs;
- gradient: the same without EAFO steps, as a control.

Training: Adam, with batches of 64 (digits) or 100 images. In each split, the validation part chooses, for every method
alike, the learning rate among three and the number of epochs: 10, 20 or 30 (digits), at most five (MNIST). The chosen
settings are trained again on training and validation examples together, and tested once.

Epsilon: two further comparisons for the dense networks, of ReLU and of CRReLU with epsilon started at ten values from
-1 to 1, by the same procedure.

Entropies are computed for each final fit, before and after each activation, on 1,000 of its training examples. The
standardized entropy is that of the values divided by their standard deviation; it does not depend on their scale.
Correlations are Spearman's, within each task, of the test accuracy and the mean entropy after all activations: over the
means of the methods, and over the fits after the mean of their split is subtracted from both. The latter p-value is
too small, because fits of one method are similar.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats
from sklearn.datasets import load_digits

from keras_actlab import eafo, experiments
from keras_actlab.colours import COLOURS
from keras_actlab.layers import CRReLU, EntropyActivation
from recipes.common import cli, files, mnist, tracking
from recipes.common.digit_networks import Activation, digit_network

KINDS = ("dense", "convolutional")
EXAMINED = 1000  # training examples whose entropies are estimated
ACCURACY = "accuracy, %"
PLAIN, STANDARDIZED = "entropy after", "standardized after"


@dataclasses.dataclass(frozen=True)
class Images:
    """A data set and its training settings.

    Args:
        shape: Shape of an image.
        width: Units of each hidden layer of the dense network.
        splits: Number of splits.
        rates: Learning rates from which validation chooses.
        epochs: Maximum number of epochs.
        validate_every: Number of epochs between two evaluations on the validation part.
        batch_size: Number of examples in a batch.
    """

    shape: tuple[int, int, int]
    width: int
    splits: int
    rates: tuple[float, ...]
    epochs: int
    validate_every: int
    batch_size: int


IMAGES = {
    "digits": Images((8, 8, 1), 64, 10, (0.003, 0.01, 0.03), epochs=30, validate_every=10, batch_size=64),
    "MNIST": Images((28, 28, 1), 128, 5, (0.001, 0.003, 0.01), epochs=5, validate_every=1, batch_size=100),
}


def crrelu(start: float) -> Activation:
    """Returns the function that makes CRReLU with an initial epsilon."""
    return lambda space: CRReLU(epsilon_initializer=start)


METHODS: dict[str, Activation] = {
    "ReLU": lambda space: keras.layers.ReLU(),
    "leaky ReLU": lambda space: keras.layers.LeakyReLU(0.01),
    "GELU": lambda space: keras.layers.Activation("gelu"),
    "PReLU": lambda space: keras.layers.PReLU(keras.initializers.Constant(0.25), shared_axes=space),
    "SiLU": lambda space: keras.layers.Activation("silu"),
    "CRReLU from 0.01": crrelu(0.01),
    "CRReLU from -0.1": crrelu(-0.1),
    "CRReLU from -0.5": crrelu(-0.5),
    "spline, one EAFO step": lambda space: EntropyActivation("relu", trainable=False),
    "spline, refined": lambda space: EntropyActivation("relu", sample_size=2048),
    "spline, gradient": lambda space: EntropyActivation("relu"),
}
SMOKE_METHODS = ("ReLU", "spline, refined")
STARTS = (-1.0, -0.5, -0.2, -0.1, -0.01, 0.01, 0.1, 0.2, 0.5, 1.0)
EPSILONS = {"ReLU": METHODS["ReLU"], **{f"{start:g}": crrelu(start) for start in STARTS}}


def one_step() -> Callable[[np.ndarray], np.ndarray]:
    """Returns ReLU after one step of the search for inputs with the distribution N(0, 1)."""
    return eafo.improve("relu", eafo.Gaussian())


def draw_digits(split: int) -> experiments.Split:
    """Splits scikit-learn's digits at random: 1,149 for training, 288 for validation, 360 for the test."""
    digits = load_digits()
    images, labels = digits.images[..., None].astype("float32") / 16, digits.target.astype("int32")
    parts = np.split(np.random.default_rng(split).permutation(len(labels)), [1149, 1437])
    train, validation, test = ((images[rows], labels[rows]) for rows in parts)
    return experiments.Split(train, validation, test)


def network(kind: str, images: Images, method: str, activation: Activation, every: int) -> experiments.Method:
    """Returns the function that builds a network with a method's activation and a learning rate.

    Args:
        kind: "dense" or "convolutional".
        images: The data set.
        method: Name of the method.
        activation: Activation of the method.
        every: Number of steps between two refinements.
    """

    def build(learning_rate: float) -> keras.Model | tuple[keras.Model, list[keras.callbacks.Callback]]:
        model = digit_network(kind, images.shape, images.width, activation, learning_rate)
        if method == "spline, one EAFO step":
            for layer in model.layers:
                if isinstance(layer, EntropyActivation):
                    layer.set_curve(one_step())
        if method == "spline, refined":
            return model, [eafo.EntropyRefinement(every=every)]
        return model

    return build


def watch(folder: Path, data: Callable[[int], experiments.Split]) -> tracking.Callbacks:
    """Returns the `callbacks` of a `Comparison`: they write the entropies of each final fit's network.

    Args:
        folder: Folder for the tables, one for each fit. Each comparison needs its own folder.
        data: Function that returns a split.
    """

    def callbacks(model: keras.Model, method: str, split: int, seed: int) -> list[keras.callbacks.Callback]:
        def write(logs: dict[str, float]) -> None:
            table = eafo.layer_entropies(model, data(split).train[0][:EXAMINED]).drop(columns="activation")
            table["layer"] = range(1, len(table) + 1)  # Keras numbers names over the life of a process
            epsilons = [layer.epsilon for layer in model.layers if isinstance(layer, CRReLU)]
            table["epsilon"] = [keras.ops.convert_to_numpy(epsilon).item() for epsilon in epsilons] or np.nan
            files.write_table(table, folder / f"{method}-{split}.csv")

        return [keras.callbacks.LambdaCallback(on_train_end=write)]

    return callbacks


def comparisons(folder: Path, data_dir: Path | None = None, smoke: bool = False) -> list[experiments.Comparison]:
    """Describes the comparisons: of all methods on each data set in each network, and of initial values of epsilon.

    Args:
        folder: Folder for the entropies of the final fits.
        data_dir: Folder with the MNIST file.
        smoke: Whether to make all sizes very small.
    """
    examples = 200 if smoke else 10_000
    data = {"digits": draw_digits, "MNIST": lambda split: mnist.draw(split, examples, data_dir)}
    main = {name: METHODS[name] for name in SMOKE_METHODS} if smoke else METHODS
    tasks = [(f"{name}, {kind}", name, kind, main) for name in IMAGES for kind in (KINDS[:1] if smoke else KINDS)]
    if not smoke:
        tasks += [(f"epsilon, {name}", name, "dense", EPSILONS) for name in IMAGES]
    described = []
    for task, name, kind, activations in tasks:
        images = IMAGES[name]
        if smoke:
            images = dataclasses.replace(images, splits=2, rates=images.rates[:1], epochs=1, validate_every=1)
        methods = {
            method: network(kind, images, method, activation, 10 if smoke else 25)
            for method, activation in activations.items()
        }
        described.append(
            experiments.Comparison(
                name=task,
                methods=methods,
                data=data[name],
                metrics={ACCURACY: mnist.accuracy},
                mode="max",
                grid={"learning_rate": images.rates},
                splits=images.splits,
                epochs=images.epochs,
                batch_size=images.batch_size,
                validate_every=images.validate_every,
                # On CPUs, convolutions are slow if each fit has its own kernel.
                vectorize=images.splits if kind == "dense" else 1,
                callbacks=watch(folder / task, data[name]),
            )
        )
    return described


def summarize(final: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Returns the entropies for each activation of each final fit, with the fit's choices and accuracy."""
    parts = []
    for fit in final.to_dict("records"):
        table = pd.read_csv(folder / fit["task"] / f"{fit['method']}-{fit['split']}.csv")
        fixed = {name: fit[name] for name in ("task", "method", "split", "learning_rate", "epochs", ACCURACY)}
        parts.append(pd.DataFrame(fixed, index=table.index).join(table))
    return pd.concat(parts, ignore_index=True)


def fits(entropies: pd.DataFrame) -> pd.DataFrame:
    """Returns for each fit of the main tasks its accuracy and the mean of its layers' entropies."""
    main = entropies[~entropies["task"].str.startswith("epsilon")]
    return main.groupby(["task", "method", "split"], sort=False)[[ACCURACY, PLAIN, STANDARDIZED]].mean()


def correlations(entropies: pd.DataFrame) -> pd.DataFrame:
    """Returns Spearman's correlation of accuracy and mean entropy in each task, over methods and over fits."""
    rows = []
    for task, values in fits(entropies).groupby("task", sort=False):
        over = {
            "methods": values.groupby("method").mean(),
            "fits, less their split's mean": values - values.groupby("split").transform("mean"),
        }
        for name, points in over.items():
            for entropy in (PLAIN, STANDARDIZED):
                # A correlation needs at least three points, and different values in both.
                known = len(points) > 2 and points[[entropy, ACCURACY]].nunique().min() > 1
                found = stats.spearmanr(points[entropy], points[ACCURACY]) if known else (np.nan, np.nan)
                row = {"task": task, "entropy": entropy, "over": name, "n": len(points)}
                rows.append(row | {"correlation": found[0], "p": found[1]})
    return pd.DataFrame(rows)


def figure(entropies: pd.DataFrame) -> Figure:
    """Draws accuracy over entropy for each task, and accuracy and trained epsilon over the initial epsilon."""
    found = fits(entropies)
    tasks = list(found.index.unique("task"))
    starts = [task for task in entropies["task"].unique() if task not in tasks]
    rows, columns = 1 + bool(starts), max(len(tasks), 2 * len(starts))
    size = (3.6 * columns, 1 + 4 * rows)
    panels, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    plt.close(panels)
    axes[0, 0].set_ylabel(f"test {ACCURACY}")
    shown: dict[str, Any] = {}
    for ax, task in zip(axes[0], tasks, strict=False):
        draw_methods(ax, found.loc[task])
        ax.set_title(task)
        handles, labels = ax.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    panels.legend([*shown.values()], [*shown], loc="outside upper center", ncols=6, fontsize="small")
    for k, task in enumerate(starts):
        draw_starts(axes[1, 2 * k], axes[1, 2 * k + 1], entropies[entropies["task"] == task])
    for ax in axes.flat:
        if not ax.has_data():
            ax.set_axis_off()
    return panels


def draw_methods(ax: Axes, found: pd.DataFrame) -> None:
    """Draws the mean and standard error of accuracy and standardized entropy for a task's methods."""
    groups = found.groupby("method", sort=False)
    mean, error = groups.mean(), groups.sem()
    for method in mean.index:
        index = list(METHODS).index(method)
        ax.errorbar(
            x=mean.loc[method, STANDARDIZED],
            y=mean.loc[method, ACCURACY],
            xerr=error.loc[method, STANDARDIZED],
            yerr=error.loc[method, ACCURACY],
            fmt="o^"[index // len(COLOURS)],
            color=COLOURS[index % len(COLOURS)],
            label=method,
        )
    ax.set_xlabel("standardized entropy after, nats")


def draw_starts(left: Axes, right: Axes, own: pd.DataFrame) -> None:
    """Draws accuracy and each layer's trained epsilon over the initial epsilon, with ReLU's accuracy as a line."""
    accuracy = own[own["layer"] == 1].groupby("method", sort=False)[ACCURACY].agg(["mean", "sem"])
    for mean, error in accuracy[accuracy.index == "ReLU"].to_numpy():
        left.axhline(mean, color="0.5", linestyle="--", linewidth=1, label="ReLU")
        left.axhspan(mean - error, mean + error, color="0.9")
    accuracy = accuracy[accuracy.index != "ReLU"]
    starts = accuracy.index.astype(float)
    left.errorbar(starts, accuracy["mean"], accuracy["sem"], fmt="o-", color=COLOURS[0], label="CRReLU")
    left.set(ylabel=f"test {ACCURACY}")
    right.plot(starts, starts, color="0.7", linestyle="--", linewidth=1, label="as it started")
    trained = own[own["method"] != "ReLU"].groupby(["layer", "method"], sort=False)["epsilon"].agg(["mean", "sem"])
    for layer, colour in zip(trained.index.unique("layer"), COLOURS, strict=False):
        mean, error = trained.loc[layer, "mean"], trained.loc[layer, "sem"]
        right.errorbar(mean.index.astype(float), mean, error, fmt="o-", color=colour, label=f"layer {layer}")
    right.set(ylabel="trained epsilon")
    right.set_yscale("symlog", linthresh=0.01)
    for ax in (left, right):
        ax.set(title=own["task"].iloc[0], xlabel="start of epsilon")
        ax.set_xscale("symlog", linthresh=0.01)
        ax.legend(fontsize="small")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    data_dir: cli.DataDir = None, out: cli.Out = Path("results"), jobs: cli.Jobs = 1, smoke: cli.Smoke = False
) -> None:
    """Tests the entropy search of Sun et al. (2024) on data of our own choice, digits and MNIST.

    Compares activations by entropy and accuracy. Prints tables; writes rows, tables and a figure.
    """
    folder = out / "entropy_search-fits"
    results = experiments.run(comparisons(folder, data_dir, smoke), out / "entropy_search.jsonl", jobs)
    done = results.final[results.final["failure"].isna()]
    drawn = None
    if len(done):
        entropies = files.write_table(summarize(done, folder), out / "entropy_search-entropies.csv")
        found = files.write_table(correlations(entropies), out / "entropy_search-correlation.csv")
        means = entropies.groupby(["task", "method", "layer"], sort=False).mean(numeric_only=True)
        shown = means.drop(columns=["split", "learning_rate", "epochs", ACCURACY])
        print(shown.to_string(float_format="{:.3g}".format, na_rep=""))
        print(f"\n{found.to_string(index=False, float_format='{:.3g}'.format, na_rep='')}")
        drawn = figure(entropies)
    cli.finish(results, out, "entropy_search", drawn)


if __name__ == "__main__":
    app()
