"""Comparisons of image classifiers that are trained from checkpoints, and the command line of their recipes."""

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import grain
import keras
import typer

from keras_actlab import distribution, experiments
from recipes.common import cli, images
from recipes.common.augmentation import RandAugment

Network = Callable[[tuple[int, int, int], int], keras.Model]  # of the shape of an image and the number of classes

Optimizer = Callable[[int, int, int], keras.Optimizer]

# Red, green and blue of ImageNet, from 0 to 255.
MEAN, STANDARD_DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Setting:
    """How all methods of a comparison are trained.

    Args:
        batch_size: Number of images in a batch.
        epochs: Number of epochs.
        side: Side of the network's square input, in pixels.
        resize: Range of the length, in pixels, to which an image's shorter side is resized before the square is cut
            out, for training; for the test it is `side` times 256 / 224. CIFAR and ImageNet32 are not resized.
        rand_augment: Whether RandAugment is applied to training images.
        accumulate: Number of batches whose gradients are accumulated for an update.
        data_parallel: Whether each batch is divided among all devices.
        workers: Number of threads that read images.
        save_every: Number of steps between two checkpoints.
    """

    batch_size: int
    epochs: int
    side: int
    resize: tuple[int, int]
    rand_augment: bool = False
    accumulate: int = 1
    data_parallel: bool = False
    workers: int = 2
    save_every: int = 1000


@dataclass(frozen=True)
class Method:
    """A method of a comparison.

    Args:
        network: Returns a network with logits as outputs.
        optimizer: Returns an optimizer, given the batch size, the number of steps per epoch and the number of epochs.
        augmentation: Returns layers in front of the network, which are active in training only.
    """

    network: Network
    optimizer: Optimizer
    augmentation: Callable[[], list[keras.Layer]] = list


def comparison(
    task: str,
    methods: dict[str, Method],
    setting: Setting,
    train: images.Images,
    test: images.Images,
    seeds: int,
    folder: Path,
) -> experiments.Comparison:
    """Describes a comparison in which nothing is chosen: settings are given, and the last epoch counts.

    The test part is evaluated after each epoch, for the curves.

    Args:
        task: Name of the comparison.
        methods: The methods by name.
        setting: How they are trained.
        train: Images for training.
        test: Images for the test.
        seeds: Number of runs of each method.
        folder: Folder for checkpoints.

    Raises:
        ValueError: If a batch is larger than the training part, or cannot be divided evenly among the devices.
    """
    steps = len(train) // setting.batch_size

    def batches(seed: int) -> grain.MapDataset:
        found = images.training_batches(train, setting.batch_size, seed, setting.side, setting.resize)
        found = found.map_with_index(RandAugment(seed)) if setting.rand_augment else found
        return found[: steps * setting.epochs]

    size = images.even_batch_size(len(test), setting.batch_size) if setting.data_parallel else setting.batch_size
    evaluation = images.evaluation_batches(test, size, setting.side, round(setting.side * 256 / 224))
    return experiments.Comparison(
        name=task,
        methods={name: partial(_model, method, setting, train.classes, steps) for name, method in methods.items()},
        data=experiments.Split(train=batches, validation=None, test=evaluation),
        metrics=["accuracy", "top5", "loss"],
        mode="max",
        epochs=setting.epochs,
        seeds=seeds,
        fit=experiments.Resumable(folder, max(1, steps), setting.save_every, setting.workers),
    )


def _model(method: Method, setting: Setting, classes: int, steps: int) -> keras.Model:
    """Returns a compiled network with augmentation and normalization in front of it."""
    shape = (setting.side, setting.side, 3)
    model = keras.Sequential(
        [
            keras.Input(shape),
            *method.augmentation(),
            keras.layers.Normalization(mean=MEAN, variance=[deviation**2 for deviation in STANDARD_DEVIATION]),
            method.network(shape, classes),
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
            keras.metrics.SparseTopKCategoricalAccuracy(min(5, classes), name="top5"),
        ],
    )
    return model


def step_schedule(learning_rate: float, momentum: float = 0.9) -> Optimizer:
    """Returns SGD whose learning rate is divided by ten at 30, 60 and 80 of 90 epochs, or at the same fractions."""

    def optimizer(batch_size: int, steps: int, epochs: int) -> keras.Optimizer:
        boundaries = [max(1, round(epochs * steps * part / 90)) for part in (30, 60, 80)]
        rates = [learning_rate / 10**drops for drops in range(4)]
        return keras.optimizers.SGD(keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates), momentum)

    return optimizer


def cosine_schedule(batch_size: int, steps: int, epochs: int) -> keras.Optimizer:
    """Returns AdamW with the settings of Sun et al. (2024) for 100 epochs; a fifth of the epochs is warm-up."""
    learning_rate = 2.5e-4 * batch_size / 256
    warm_up = max(1, round(steps * epochs * 20 / 100))
    decay = max(1, steps * epochs - warm_up)
    schedule = keras.optimizers.schedules.CosineDecay(
        1e-6, decay, alpha=1e-5 / learning_rate, warmup_target=learning_rate, warmup_steps=warm_up
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
    """Returns a command line that compares the methods of each network on each data set, with each batch size.

    Args:
        name: Name of the recipe and of its files.
        experiment: First sentence of `--help`: the experiment and its paper.
        networks: Methods by network.
        data: Default of `--data`: names in `images.SETS`.
        batch_sizes: Default of `--batch-size`.
        epochs: Default of `--epochs`.
        resize: As in `Setting`, for images in files with `--side 224`; scaled in proportion to other sides.
        rand_augment: Whether RandAugment is applied to training images.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    usual = {"epochs": epochs, "side": 224, "limit": None, "precision": "float32", "accumulate": 1}
    names = list(networks)
    every = list(dict.fromkeys(method for methods in networks.values() for method in methods))

    @app.command(
        help=f"{experiment}\n\nTrains and tests every method. Prints tables; writes rows, tables and curves. "
        "A run that was killed continues from its last checkpoint."
    )
    def main(
        data: Annotated[list[str], typer.Option(help=f"{', '.join(images.SETS)}; may be given several times.")] = data,
        data_dir: cli.DataDir = None,
        network: Annotated[list[str], typer.Option(help="May be given several times.")] = names,
        method: Annotated[list[str], typer.Option(help="May be given several times.")] = every,
        batch_size: Annotated[list[int], typer.Option(min=1, help="Images in a batch, on all devices together.")] = (
            batch_sizes
        ),
        epochs: Annotated[int, typer.Option(min=1, help="Number of epochs.")] = epochs,
        seeds: Annotated[int, typer.Option(min=1, help="Number of runs of each method.")] = 3,
        side: Annotated[int, typer.Option(min=8, help="Side of the square input in pixels, for image files.")] = 224,
        limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of images in each part.")] = None,
        precision: Annotated[str, typer.Option(help="Keras' dtype policy, such as mixed_bfloat16.")] = "float32",
        accumulate: Annotated[int, typer.Option(min=1, help="Number of batches for an update of the weights.")] = 1,
        data_parallel: Annotated[bool, typer.Option(help="Divide batches among all devices or processes.")] = False,
        workers: Annotated[int, typer.Option(min=1, help="Number of threads that prepare batches.")] = 2,
        save_every: Annotated[int, typer.Option(min=1, help="Number of steps between two checkpoints.")] = 1000,
        out: cli.Out = Path("results"),
        smoke: cli.Smoke = False,
    ) -> None:
        cli.check_choices("--data", data, images.SETS)
        cli.check_choices("--network", network, networks)
        cli.check_choices("--method", method, every)
        if smoke:
            epochs, seeds, limit, batch_size = 2, 1, 8, [4]
        keras.config.set_dtype_policy(precision)
        options = {"epochs": epochs, "side": side, "limit": limit, "precision": precision, "accumulate": accumulate}
        unusual = [f"{option} {value}" for option, value in options.items() if value != usual[option]]
        with distribution.data_parallel() if data_parallel else contextlib.nullcontext():
            comparisons = []
            for of_data in data:
                train, test = (images.first(part, limit) for part in images.SETS[of_data](data_dir))
                pixels = side if isinstance(train, images.Files) else train.pixels.shape[1]
                for of_network, size in itertools.product(network, batch_size):
                    setting = Setting(
                        batch_size=size,
                        epochs=epochs,
                        side=pixels,
                        resize=tuple(round(length * pixels / 224) for length in resize),
                        rand_augment=rand_augment,
                        accumulate=accumulate,
                        data_parallel=data_parallel,
                        workers=workers,
                        save_every=save_every,
                    )
                    methods = {name: networks[of_network][name] for name in method if name in networks[of_network]}
                    task = ", ".join([of_data, of_network, f"batch {size}", *unusual])
                    comparisons.append(comparison(task, methods, setting, train, test, seeds, out / name))
            results = experiments.run(comparisons, out / f"{name}.jsonl", history=True)
            if distribution.is_first_process():
                cli.finish(results, out, name, experiments.curves(results))

    return app
