"""What the recipes share that train image classifiers: one run of each method and seed, resumed, tested, compared."""

import contextlib
import hashlib
import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import typer
from cycler import cycler
from matplotlib.figure import Figure

from keras_actlab import distribution, experiments
from keras_actlab.colours import COLOURS
from keras_actlab.files import atomic_write
from recipes import cli, images, tracking
from recipes.augmentation import RandAugment

Network = Callable[[tuple[int, int, int], int], keras.Model]  # of the shape of a picture and the number of classes

Optimizer = Callable[[int, int, int], keras.Optimizer]

# Of ImageNet's pixels, from 0 to 255, for red, green and blue.
MEAN, STANDARD_DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Setting:
    """How all methods of a comparison are trained.

    Args:
        batch_size: Pictures in a step.
        epochs: Passes over the training part.
        side: Pixels, of the square that the network sees.
        resize: Range of the length of a picture's shorter side before the square is cut out of it, for training; for
            the test it is `side` times 256 / 224. Pictures of CIFAR and ImageNet32 are taken as they are.
        rand_augment: Whether RandAugment changes training pictures.
        precision: Keras' policy, such as "mixed_bfloat16".
        accumulate: Batches whose gradients are added up before a step of the optimizer.
        data_parallel: Whether each batch is shared among all devices.
        workers: Threads that read pictures.
        save_every: Steps between two checkpoints.
    """

    batch_size: int
    epochs: int
    side: int
    resize: tuple[int, int]
    rand_augment: bool = False
    precision: str = "float32"
    accumulate: int = 1
    data_parallel: bool = False
    workers: int = 2
    save_every: int = 1000


@dataclass(frozen=True)
class Method:
    """What is compared.

    Args:
        network: Makes it, with logits as outputs.
        optimizer: Of the size of a batch, the number of steps in an epoch, and that of epochs.
        augmentation: Layers in front of the network, at work in training only.
    """

    network: Network
    optimizer: Optimizer
    augmentation: Callable[[], list[keras.Layer]] = list


def compare(
    name: str,
    methods: dict[str, Method],
    setting: Setting,
    train: images.Images,
    test: images.Images,
    seeds: int,
    out: Path,
    task: str,
) -> pd.DataFrame:
    """Trains and tests every method with every seed, unless a row of the same run is in `out/name.csv` already.

    The test part decides nothing: settings are given, and the network is that of the last epoch. It is looked at after
    each epoch, for the curves.

    Args:
        name: Of the recipe; the runs' folders are in `out/name`.
        methods: What is compared, by name.
        setting: How.
        train: Pictures for training.
        test: Pictures for the test.
        seeds: Number of runs of each method.
        out: Folder for results.
        task: Of several comparisons in one file, the name of this one.

    Returns:
        All rows of the file: task, method, seed, settings, numbers of images and a digest of the data, accuracies in %,
        seconds for each step, and the run, which is the name of its folder. A run with another setting or other data,
        as with `--limit`, is another one.

    Raises:
        ValueError: If a batch has more pictures than there are, or cannot be shared evenly among the devices; if the
            file was written by an earlier version.
    """
    path = out / f"{name}.csv"
    rows = pd.read_csv(path) if path.exists() else pd.DataFrame()
    if len(rows) and "run" not in rows:
        raise ValueError(f"`out` must hold results of this version, or none. Received: {path}, without a column `run`")
    data = {
        "training images": len(train),
        "test images": len(test),
        "data": f"{fingerprint(train)} {fingerprint(test)}",
    }
    for seed in range(seeds):
        for method, of_method in methods.items():
            this = {"task": task, "method": method, "seed": seed, **_plain(setting), **data}
            run = this["run"] = _run_name(this)
            if len(rows) and (rows["run"] == run).any():
                continue
            print(f"\n{task}, {method}, seed {seed}", flush=True)
            found = _run(of_method, setting, train, test, seed, out / name / run, {"method": method, "task": task})
            rows = pd.concat([rows, pd.DataFrame([this | found])], ignore_index=True)
            if distribution.is_first_process():
                tracking.write(rows, path)
    return rows


def fingerprint(images: images.Images) -> str:
    """Returns a digest of all pixels and labels in memory; of files, of their names, sizes and labels."""
    digest = hashlib.blake2b(np.ascontiguousarray(images.labels).tobytes(), digest_size=8)
    if hasattr(images, "pixels"):
        digest.update(np.ascontiguousarray(images.pixels).data)
    else:
        for path in images.paths:
            digest.update(f"{path.parent.name}/{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()


def _plain(setting: Setting) -> dict[str, Any]:
    """Returns what of a setting changes results."""
    values = asdict(setting) | {"resize": str(setting.resize)}
    return {name: value for name, value in values.items() if name != "workers"}


def _run_name(this: dict[str, Any]) -> str:
    """Returns the name of a run's folder, which tells runs with other settings or data apart."""
    digest = hashlib.blake2b(repr(sorted(this.items())).encode(), digest_size=4)
    return f"{this['task']}, {this['method']}, seed {this['seed']}, {digest.hexdigest()}"


def _run(
    method: Method,
    setting: Setting,
    train: images.Images,
    test: images.Images,
    seed: int,
    folder: Path,
    names: dict[str, str],
) -> dict[str, float]:
    """Trains a method once, and returns what its test gave."""
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(setting.precision)
    steps = len(train) // setting.batch_size
    model = keras.Sequential(
        [
            keras.Input((setting.side, setting.side, 3)),
            *method.augmentation(),
            keras.layers.Normalization(mean=MEAN, variance=[deviation**2 for deviation in STANDARD_DEVIATION]),
            method.network((setting.side, setting.side, 3), train.classes),
        ]
    )
    optimizer = method.optimizer(setting.batch_size * setting.accumulate, steps // setting.accumulate, setting.epochs)
    if setting.accumulate > 1:
        config = optimizer.get_config() | {"gradient_accumulation_steps": setting.accumulate}
        optimizer = type(optimizer).from_config(config)
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            keras.metrics.SparseTopKCategoricalAccuracy(min(5, train.classes), name="top5"),
        ],
    )
    batches = images.training_batches(train, setting.batch_size, seed, setting.side, setting.resize)
    if setting.rand_augment:
        batches = batches.map_with_index(RandAugment(seed))
    log = experiments.fit_resumable(
        model,
        batches,
        folder,
        steps_per_epoch=steps,
        epochs=setting.epochs,
        seed=seed,
        settings=names | _plain(setting),
        validation=images.evaluation_batches(
            test,
            images.even_batch_size(len(test), setting.batch_size) if setting.data_parallel else setting.batch_size,
            setting.side,
            round(setting.side * 256 / 224),
        ),
        save_every=setting.save_every,
        workers=setting.workers,
    )
    last = log.iloc[-1]
    return {
        "parameters": model.count_params(),
        "test accuracy, %": 100 * last["val_accuracy"],
        "test top-5, %": 100 * last["val_top5"],
        "test loss": last["val_loss"],
        "training loss": last["loss"],
        "seconds per step": log["seconds"].median() / steps,
    }


def _compared(rows: pd.DataFrame) -> list[str]:
    """Returns the columns by which runs are told apart: task, method, and what differs between runs of a task."""
    names = [*(each.name for each in fields(Setting)), "training images", "test images", "data"]
    differ = [name for name in names if name in rows and rows.groupby("task")[name].nunique().gt(1).any()]
    return ["task", "method", *differ]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns mean and standard error over seeds of what was tested, for each task and method.

    If runs of a task differ in a setting or in the data, there is a row for each, and a column that tells them apart.
    """
    columns = ["test accuracy, %", "test top-5, %", "training loss"]
    groups = rows.groupby(_compared(rows), sort=False)
    mean, error, count = groups[columns].mean(), groups[columns].sem(), groups.size()
    text = {
        column: [
            f"{m:.2f}" if pd.isna(e) else f"{m:.2f} ± {e:.2f}" for m, e in zip(mean[column], error[column], strict=True)
        ]
        for column in columns
    }
    return pd.DataFrame({"parameters": groups["parameters"].first(), "seeds": count, **text}, index=mean.index)


def logs(name: str, rows: pd.DataFrame, out: Path) -> pd.DataFrame:
    """Returns what was measured after each epoch of each run."""
    columns = [*_compared(rows), "seed"]
    runs = rows[["run", *columns]].to_dict("records")
    return pd.concat([pd.read_csv(out / name / run.pop("run") / "log.csv").assign(**run) for run in runs])


def curves(logs: pd.DataFrame) -> Figure:
    """Draws test accuracies over epochs: means over seeds, and the range of the seeds."""
    tasks, compared = list(logs["task"].unique()), _compared(logs)
    figure, axes = plt.subplots(1, len(tasks), figsize=(6 * len(tasks), 4.5), squeeze=False, layout="constrained")
    plt.close(figure)  # it belongs to the caller alone
    for ax, task in zip(axes[0], tasks, strict=True):
        ax.set_prop_cycle(cycler(linestyle=["-", "--"]) * cycler(color=COLOURS))
        for (_, method, *others), runs in logs[logs["task"] == task].groupby(compared, sort=False):
            accuracy = 100 * runs.groupby("epoch")["val_accuracy"].agg(["mean", "min", "max"])
            label = ", ".join([method, *(f"{name} {value}" for name, value in zip(compared[2:], others, strict=True))])
            (line,) = ax.plot(accuracy.index + 1, accuracy["mean"], label=label)
            band = accuracy["min"], accuracy["max"]
            ax.fill_between(accuracy.index + 1, *band, color=line.get_color(), alpha=0.2, linewidth=0)
        ax.set(title=task, xlabel="epoch", ylabel="test accuracy, %")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(fontsize="small")
    return figure


def finish(name: str, rows: pd.DataFrame, out: Path) -> None:
    """Prints the table, and writes it, the curves and their figure."""
    text = table(rows).reset_index().to_markdown(index=False)
    print(f"\n{text}")
    if distribution.is_first_process():
        with atomic_write(out / f"{name}.md") as unfinished:
            unfinished.write_text(f"{text}\n")
        points = tracking.write(logs(name, rows, out), out / f"{name}-curves.csv")
        tracking.write_figure(curves(points), out / f"{name}.png")


def step_schedule(rate: float, momentum: float = 0.9) -> Optimizer:
    """Returns SGD whose rate falls by ten after 30, 60 and 80 of 90 epochs, or the same parts of another number."""

    def optimizer(batch_size: int, steps: int, epochs: int) -> keras.Optimizer:
        boundaries = [max(1, round(epochs * steps * part / 90)) for part in (30, 60, 80)]
        rates = [rate / 10**drops for drops in range(4)]
        return keras.optimizers.SGD(keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates), momentum)

    return optimizer


def cosine_schedule(batch_size: int, steps: int, epochs: int) -> keras.Optimizer:
    """Returns AdamW as Sun et al. (2024) set it for 100 epochs; of another number, the same part warms up."""
    rate = 2.5e-4 * batch_size / 256
    warm_up = max(1, round(steps * epochs * 20 / 100))
    decay = max(1, steps * epochs - warm_up)
    schedule = keras.optimizers.schedules.CosineDecay(
        1e-6, decay, alpha=1e-5 / rate, warmup_target=rate, warmup_steps=warm_up
    )
    return keras.optimizers.AdamW(schedule, weight_decay=0.05, global_clipnorm=1.0)


def command(
    name: str,
    experiment: str,
    networks: dict[str, dict[str, Method]],
    data: list[str],
    batch_sizes: list[int],
    epochs: int,
    resize: tuple[int, int],
    rand_augment: bool = False,
) -> typer.Typer:
    """Returns a command line that compares the methods of each network on each set of data, in batches of each size.

    Args:
        name: Of the recipe; its files are named so.
        experiment: What `--help` says of it first: the experiment, and the paper that has it.
        networks: Methods by network.
        data: Sets of pictures, of `images.SETS`, that are taken if nothing else is asked for.
        batch_sizes: Those that are taken if nothing else is asked for.
        epochs: The same.
        resize: As in `Setting`, for pictures in files; in proportion where `--side` is not 224.
        rand_augment: Whether RandAugment changes training pictures.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    names = list(networks)
    every = list(dict.fromkeys(method for methods in networks.values() for method in methods))

    @app.command(
        help=f"{experiment}\n\nTrains and tests every method; prints a table, writes rows, a table and curves. "
        "A run that was killed goes on from there."
    )
    def main(
        data: Annotated[list[str], typer.Option(help=f"{', '.join(images.SETS)}; may be given several times.")] = data,
        data_dir: cli.DataDir = None,
        network: Annotated[list[str], typer.Option(help="May be given several times.")] = names,
        method: Annotated[list[str], typer.Option(help="May be given several times.")] = every,
        batch_size: Annotated[list[int], typer.Option(min=1, help="Pictures in a step, on all devices together.")] = (
            batch_sizes
        ),
        epochs: Annotated[int, typer.Option(min=1, help="Passes over the training part.")] = epochs,
        seeds: Annotated[int, typer.Option(min=1, help="Runs of each method.")] = 3,
        side: Annotated[int, typer.Option(min=8, help="Pixels of what is cut out of pictures in files.")] = 224,
        limit: Annotated[int | None, typer.Option(min=1, help="At most so many pictures in each part.")] = None,
        precision: Annotated[str, typer.Option(help="Keras' dtype policy, mixed_bfloat16 say.")] = "float32",
        accumulate: Annotated[int, typer.Option(min=1, help="Batches that add up to one step.")] = 1,
        data_parallel: Annotated[bool, typer.Option(help="Share batches among all devices or processes.")] = False,
        workers: Annotated[int, typer.Option(min=1, help="Threads that prepare batches.")] = 2,
        save_every: Annotated[int, typer.Option(min=1, help="Steps between two checkpoints.")] = 1000,
        out: cli.Out = Path("results"),
        smoke: cli.Smoke = False,
    ) -> None:
        cli.check_choices("--data", data, images.SETS)
        cli.check_choices("--network", network, networks)
        cli.check_choices("--method", method, every)
        if smoke:
            epochs, seeds, limit, batch_size = 2, 1, 8, [4]
        with distribution.data_parallel() if data_parallel else contextlib.nullcontext():
            for of_data in data:
                parts = images.SETS[of_data](data_dir)
                train, test = (images.first(part, limit) for part in parts)
                pixels = side if isinstance(train, images.Files) else train.pixels.shape[1]
                for of_network, size in itertools.product(network, batch_size):
                    setting = Setting(
                        batch_size=size,
                        epochs=epochs,
                        side=pixels,
                        resize=tuple(round(length * pixels / 224) for length in resize),
                        rand_augment=rand_augment,
                        precision=precision,
                        accumulate=accumulate,
                        data_parallel=data_parallel,
                        workers=workers,
                        save_every=save_every,
                    )
                    methods = {name: networks[of_network][name] for name in method if name in networks[of_network]}
                    rows = compare(
                        name, methods, setting, train, test, seeds, out, f"{of_data}, {of_network}, batch {size}"
                    )
                finish(name, rows, out)

    return app
