"""Loss of plasticity: which networks still learn new tasks at the end of a long stream of them?

Two streams of tasks on MNIST, with images of 14 x 14 pixels (means of 2 x 2 pixels), standardized:

- permuted pixels: each task has 1,000 images drawn afresh and its own order of the pixels. The accuracy is that on
  1,000 images of the test part, in the same order of the pixels, after the last step of the task.
- random labels: each task has the same 200 images with new labels, drawn uniformly. The accuracy is that on these
  images, after the last step of the task: how much was memorized.

The network has two hidden layers of 64 units and is trained by Adam in batches of 50, for 100 steps a task, without any
reset between tasks. There are 60 tasks.

Methods: ReLU; leaky ReLU (slope 0.1); CReLU, ReLU of z and of -z, so that the next layer has twice as many inputs;
layer normalization before ReLU; CRReLU; diagonal TMAF; a spline, `EntropyActivation`, that starts as ReLU and is
trained by gradients; the same with one step of `EntropyRefinement` after each task ("refinement"); geometric weights
(GmP) with the paper's start; weight normalization (WN); ReLU with an L2 penalty on all kernels; ReLU with shrink and
perturb: at the beginning of each task, the weights become (1 - a) times themselves plus a times a fresh start. A
reference shows what a new network learns in a task: shrink and perturb with a = 1. It is not compared, because it
forgets everything.

Tuning: every method is trained with the same six learning rates on two seeds that are not used again. A method whose
best learning rate is the highest one tried also gets 0.1, and if that is its best, 0.3. L2 and shrink and
perturb have two strengths each, thus twice as many settings, to their advantage. The best setting is the one with the
highest mean of the primary measure. The limits of the grid and the strengths were set after a look at ReLU, L2, shrink
and perturb, layer normalization, GmP and refinement on two further seeds. The final runs have ten other seeds. A seed
decides the images, orders, labels, the start and the batches, for all methods alike.

Analysis, written before the final seeds were run. The primary measure is the mean accuracy of the last fifth of the
tasks, in %. Differences are paired by seed; intervals are Student's t at 95 %. Three families of planned comparisons,
each over both streams, are corrected by the false discovery rate (Benjamini and Hochberg):

1. each of the eleven methods minus ReLU (22 comparisons);
2. CRReLU, TMAF, spline, refinement and GmP minus the rival with the best tuning runs in this stream (10 comparisons).
   Rivals are the seven other methods;
3. refinement minus spline (2 comparisons).

A difference is one whose corrected p-value is below 0.05. All else is not told apart, with the smallest difference that
the test finds with a probability of 80 %. Loss of plasticity itself is described, not tested: the accuracy of the last
fifth minus that of the first fifth.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import typer
from keras.layers import Dense, LayerNormalization, LeakyReLU, ReLU
from matplotlib.figure import Figure
from scipy import stats

from keras_actlab.colours import COLOURS
from keras_actlab.eafo import EntropyRefinement
from keras_actlab.experiments import Ensemble, Paired
from keras_actlab.layers import TMAF, CRReLU, EntropyActivation, GmPDense, WeightNormalization
from recipes.common import cli, files, mnist

UNITS, BATCH, STEPS, TASKS = 64, 50, 100, 60
SIDE = 14
IMAGES = {"permuted pixels": 1000, "random labels": 200}
TESTED = 1000
RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)
FURTHER_RATES = (0.1, 0.3)
TUNING_SEEDS, FINAL_SEEDS = (100, 101), tuple(range(10))
REFERENCE = "new network"
SETTING = ["strength", "learning rate", "seed"]


class ConcatenatedReLU(keras.layers.Layer):
    """ReLU of z and of -z, side by side (CReLU)."""

    def call(self, inputs: Any) -> Any:
        """Returns twice as many channels as `inputs`."""
        return keras.ops.relu(keras.ops.concatenate([inputs, -inputs], axis=-1))


def before(activation: Callable[[], keras.Layer]) -> Callable[[], list[keras.Layer]]:
    """Returns the function that makes a plain layer and its activation."""
    return lambda: [Dense(UNITS), activation()]


# For each method a function that returns a hidden layer.
HIDDEN: dict[str, Callable[[], list[keras.Layer]]] = {
    "ReLU": before(ReLU),
    "leaky ReLU": before(lambda: LeakyReLU(0.1)),
    "CReLU": before(ConcatenatedReLU),
    "LayerNorm": lambda: [Dense(UNITS), LayerNormalization(), ReLU()],
    "WN": lambda: [WeightNormalization(Dense(UNITS, "relu"))],
    "L2": before(ReLU),
    "shrink and perturb": before(ReLU),
    "CRReLU": before(CRReLU),
    "TMAF": before(TMAF),
    "spline": before(EntropyActivation),
    "refinement": before(lambda: EntropyActivation(sample_size=1024)),
    "GmP": lambda: [GmPDense(UNITS, "relu")],
    REFERENCE: before(ReLU),
}
OURS = ("CRReLU", "TMAF", "spline", "refinement", "GmP")
RIVALS = tuple(method for method in HIDDEN if method not in (*OURS, REFERENCE))
STRENGTHS = {"L2": (0.001, 0.01), "shrink and perturb": (0.2, 0.5), REFERENCE: (1.0,)}  # 0 for the others
SMOKE_METHODS = ("ReLU", "shrink and perturb", "refinement")


def network(method: str, strength: float, seed: int) -> keras.Model:
    """Returns a network of a method; `Ensemble` multiplies its learning rate of 1."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((SIDE**2,)), *HIDDEN[method](), *HIDDEN[method](), Dense(mnist.CLASSES)])
    if method == "L2":
        for layer in model.layers:
            if isinstance(layer, Dense):
                layer.kernel.regularizer = keras.regularizers.L2(strength)
    model.compile(keras.optimizers.Adam(1.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def load(folder: Path | None) -> dict[str, np.ndarray]:
    """Returns images, shape (examples, pixels), and labels of both parts of MNIST."""
    data = mnist.load(folder)
    small = {part: data[f"x_{part}"].reshape(-1, SIDE, 2, SIDE, 2).mean((2, 4)) for part in ("train", "test")}
    mean, deviation = small["train"].mean(), small["train"].std()
    images = {f"x_{part}": ((x - mean) / deviation).reshape(len(x), -1).astype("float32") for part, x in small.items()}
    return images | {f"y_{part}": data[f"y_{part}"].astype("int32") for part in small}


def draw(data: dict[str, np.ndarray], stream: str, seed: int, task: int) -> tuple[np.ndarray, ...]:
    """Returns inputs and labels of a task, inputs and labels on which it is evaluated, and the rows of its batches."""
    rng = np.random.default_rng([seed, task])
    size = IMAGES[stream]
    if stream == "permuted pixels":
        rows, order = rng.choice(len(data["x_train"]), size, replace=False), rng.permutation(SIDE**2)
        x, y = data["x_train"][rows][:, order], data["y_train"][rows]
        test = data["x_test"][:TESTED, order], data["y_test"][:TESTED]
    else:
        x = data["x_train"][np.random.default_rng(seed).choice(len(data["x_train"]), size, replace=False)]
        y = rng.integers(mnist.CLASSES, size=size, dtype="int32")
        test = x, y
    passes = [rng.permutation(size) for _ in range(-(-STEPS * BATCH // size))]
    return x, y, *test, np.concatenate(passes)[: STEPS * BATCH].reshape(STEPS, BATCH).astype("int32")


def shrink_and_perturb(ensemble: Ensemble, strength: float, seeds: Sequence[int], task: int) -> None:
    """Moves all weights of plain layers towards a fresh start, a Glorot uniform kernel and a bias of 0."""
    rngs = [np.random.default_rng([seed, task, 1]) for seed in seeds]
    for variable in ensemble.trainable_variables:
        values = (1 - strength) * keras.ops.convert_to_numpy(variable)
        if values.ndim == 3:  # (members, inputs, units)
            limit = np.sqrt(6 / sum(values.shape[1:]))
            values += strength * np.stack([rng.uniform(-limit, limit, values.shape[1:]) for rng in rngs])
        variable.assign(values)


def refine(ensemble: Ensemble, member: keras.Model) -> None:
    """Refines the curves of each member in turn, in `member`, a model of the same kind."""
    refinement = EntropyRefinement()
    refinement.set_model(member)
    refinement.on_train_begin()
    pairs = [
        (own, stack, keras.ops.convert_to_numpy(stack).copy())
        for group in ("trainable_variables", "non_trainable_variables")
        for own, stack in zip(getattr(member, group), getattr(ensemble, group), strict=True)
        if group == "non_trainable_variables" or own.name == "values"
    ]
    for k in range(len(pairs[0][2])):
        for own, _, values in pairs:
            own.assign(values[k])
        refinement.run()
        for own, _, values in pairs:
            values[k] = keras.ops.convert_to_numpy(own)
    for _, stack, values in pairs:
        stack.assign(values)


def train(data: dict[str, np.ndarray], stream: str, method: str, settings: pd.DataFrame, tasks: int) -> pd.DataFrame:
    """Trains the networks of a method with the same strength as one program, and returns a row for each.

    Args:
        data: Images and labels.
        stream: The stream.
        method: The method.
        settings: Columns "learning rate", "strength" and "seed".
        tasks: Number of tasks.

    Returns:
        The settings with the accuracy after each task, in %.
    """
    strength, seeds = settings["strength"].iloc[0], list(settings["seed"])
    models = {seed: network(method, strength, seed) for seed in set(seeds)}
    ensemble = Ensemble([models[seed] for seed in seeds])
    factors = np.tile(settings["learning rate"], (STEPS, 1))
    accuracies = []
    for task in range(tasks):
        drawn = {seed: draw(data, stream, seed, task) for seed in models}
        x, y, test_x, test_y, rows = map(np.stack, zip(*(drawn[seed] for seed in seeds), strict=True))
        if task and method in ("shrink and perturb", REFERENCE):
            shrink_and_perturb(ensemble, strength, seeds, task)
        ensemble.train_block(*map(keras.ops.convert_to_tensor, (x, y[..., None])), rows.swapaxes(0, 1), factors)
        if method == "refinement":
            refine(ensemble, models[seeds[0]])
        predicted = ensemble.predictions(keras.ops.convert_to_tensor(test_x)).argmax(-1)
        accuracies.append(100 * (predicted == test_y).mean(axis=1))
    names = [f"task {task}" for task in range(1, tasks + 1)]
    return pd.concat([settings, pd.DataFrame(np.transpose(accuracies), index=settings.index, columns=names)], axis=1)


def fifths(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows with the mean accuracy of the last and the first fifth of the tasks in place of all."""
    tasks = rows.filter(like="task ")
    share = tasks.shape[1] // 5
    return rows.drop(columns=tasks.columns).assign(
        last=tasks.iloc[:, -share:].mean(axis=1), first=tasks.iloc[:, :share].mean(axis=1)
    )


def tuned(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the best setting of each stream and method, with the mean of its tuning runs."""
    tuning = fifths(rows[rows["stage"] == "tune"])
    means = tuning.groupby(["stream", "method", "learning rate", "strength"], sort=False)["last"].mean().reset_index()
    return means.loc[means.groupby(["stream", "method"], sort=False)["last"].idxmax()].set_index(["stream", "method"])


def compare(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the planned comparisons."""
    final, best = fifths(rows[rows["stage"] == "final"]), tuned(rows)
    found = []
    for stream, own in final.groupby("stream", sort=False):
        last = own.pivot_table(index="seed", columns="method", values="last")
        rivals = best.loc[stream].loc[[rival for rival in RIVALS if rival in last]]
        pairs = [("1", method, "ReLU") for method in HIDDEN if method in last and method not in ("ReLU", REFERENCE)]
        pairs += [("2", method, rivals["last"].idxmax()) for method in OURS if method in last]
        pairs += [("3", "refinement", "spline")] if {"refinement", "spline"} <= set(last) else []
        for family, method, other in pairs:
            paired = Paired(last[method] - last[other])
            low, high = paired.interval()
            found.append(
                (family, stream, method, other, paired.mean, low, high, paired.detectable(0.05), paired.p_value)
            )
    columns = ["family", "stream", "method", "minus", "difference", "95 % from", "to", "smallest detectable", "p"]
    table = pd.DataFrame(found, columns=columns)
    table["p, corrected"] = table.groupby("family")["p"].transform(stats.false_discovery_control)
    return table


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns for each stream and method the chosen setting, and means and standard errors over the final seeds."""
    final = fifths(rows[rows["stage"] == "final"]).assign(change=lambda each: each["last"] - each["first"])
    grouped = final.groupby(["stream", "method"], sort=False)
    settings = grouped[["learning rate", "strength"]].first()
    measures = grouped[["last", "change"]].agg(["mean", "sem"])
    measures.columns = [" ".join(names) for names in measures.columns]
    return settings.join(measures).join(tuned(rows)["last"].rename("last mean, tuning")).reset_index()


def figure(rows: pd.DataFrame) -> Figure:
    """Draws the accuracy over the tasks, and that of the last fifth with its 95 % interval."""
    final = rows[rows["stage"] == "final"]
    streams = list(final["stream"].unique())
    drawn, panels = plt.subplots(
        len(streams), 2, figsize=(11, 4.2 * len(streams)), squeeze=False, layout="constrained", width_ratios=(2, 1)
    )
    plt.close(drawn)
    looks = dict(zip(HIDDEN, itertools.product(("-", "--"), COLOURS), strict=False))
    for (left, right), stream in zip(panels, streams, strict=True):
        own = final[final["stream"] == stream]
        methods = [method for method in HIDDEN if method in set(own["method"])]
        for place, method in enumerate(methods):
            style, colour = looks[method]
            fits = own[own["method"] == method]
            curve = fits.filter(like="task ").mean()
            smooth = curve.rolling(5, min_periods=1).mean()
            left.plot(range(1, len(smooth) + 1), smooth, style, color=colour, linewidth=1.2, label=method)
            last = Paired(fifths(fits)["last"])
            right.plot(last.interval(), [place, place], color=colour)
            right.plot(last.mean, place, "o", color=colour)
        left.set(title=stream, xlabel="task (mean of five)", ylabel="accuracy, %")
        right.set(title="last fifth of the tasks", xlabel="accuracy, %", yticks=range(len(methods)))
        right.set_yticklabels(methods)
        right.invert_yaxis()
    drawn.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=6, fontsize="small")
    return drawn


def grid(method: str, seeds: Sequence[int], rates: Sequence[float] = RATES) -> pd.DataFrame:
    """Returns the settings of a method that are tried, on each seed."""
    cells = itertools.product(STRENGTHS.get(method, (0.0,)), rates, seeds)
    return pd.DataFrame(cells, columns=SETTING)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(data_dir: cli.DataDir = None, out: cli.Out = Path("results"), smoke: cli.Smoke = False) -> None:
    """Compares the plasticity of thirteen networks on streams of MNIST tasks, an experiment in none of the papers.

    Prints tables; writes rows, tables and a figure. A run that was killed continues with the next group of networks.
    """
    data = load(data_dir)
    file = out / "plasticity.csv"
    rows = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["stream", "method", "stage", *SETTING])
    methods, tasks = (SMOKE_METHODS, 5) if smoke else (tuple(HIDDEN), TASKS)
    tuning_seeds, final_seeds = (TUNING_SEEDS[:1], FINAL_SEEDS[:2]) if smoke else (TUNING_SEEDS, FINAL_SEEDS)

    def run(stage: str, stream: str, method: str, settings: pd.DataFrame) -> None:
        nonlocal rows
        own = rows[(rows["stage"] == stage) & (rows["stream"] == stream) & (rows["method"] == method)]
        settings = settings[~pd.MultiIndex.from_frame(settings[SETTING]).isin(pd.MultiIndex.from_frame(own[SETTING]))]
        if settings.empty:
            return
        groups = [train(data, stream, method, group, tasks) for _, group in settings.groupby("strength")]
        new = pd.concat(groups).assign(stream=stream, method=method, stage=stage)
        first = ["stream", "method", "stage"]
        rows = files.append_rows(new[[*first, *new.columns.drop(first)]].to_dict("records"), file)
        print(f"{stream}, {method}, {stage}: done", flush=True)

    for stream, method in itertools.product(IMAGES, methods):
        rates = RATES[3:4] if smoke else RATES
        run("tune", stream, method, grid(method, tuning_seeds, rates))
        for further in () if smoke else FURTHER_RATES:
            if tuned(rows).loc[(stream, method), "learning rate"] == rates[-1]:
                rates = (*rates, further)
                run("tune", stream, method, grid(method, tuning_seeds, rates))
    for stream, method in itertools.product(IMAGES, methods):
        best = tuned(rows).loc[(stream, method)]
        chosen = {"strength": best["strength"], "learning rate": best["learning rate"]}
        run("final", stream, method, pd.DataFrame({"seed": final_seeds}).assign(**chosen))
    print(files.write_table(summarize(rows), out / "plasticity-summary.csv").to_string(index=False))
    print(files.write_table(compare(rows), out / "plasticity-comparisons.csv").to_string(index=False))
    files.write_figure(figure(rows), out / "plasticity.png")


if __name__ == "__main__":
    app()
