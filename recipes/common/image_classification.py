"""Comparisons of image classifiers that are trained from checkpoints, and the command line of their recipes."""

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import grain
import keras
import pandas as pd
import typer

from keras_actlab import distribution, experiments, models
from recipes.common import cli, images
from recipes.common.augmentation import MEAN, STANDARD_DEVIATION, Change

Network = Callable[[tuple[int, int, int], int], keras.Model]  # of the shape of an image and the number of classes

Optimizer = Callable[[int, int, int], keras.Optimizer]


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images.

    Args:
        changes: Changes by Pillow, in the input pipeline. Image files are cropped before.
        layers: Returns layers in front of the network, which are active in training only.
    """

    changes: tuple[Change, ...] = ()
    layers: Callable[[], list[keras.Layer]] = list


FLIP = {"flip": Augmentation(layers=lambda: [keras.layers.RandomFlip("horizontal")])}  # for `command`


@dataclass(frozen=True)
class Setting:
    """How all methods of a comparison are trained.

    Args:
        batch_size: Number of images in a batch.
        epochs: Number of epochs.
        side: Side of the network's square input, in pixels.
        augmentation: Random changes of training images; those of image files begin with a crop to `side`.
        plateau: Whether the learning rate is divided by ten when the top-5 accuracy on the test part has not risen for
            5 epochs, and training stops when it has not for 10, with the weights of the best epoch.
        accumulate: Number of batches whose gradients are accumulated for an update.
        data_parallel: Whether each batch is divided among all devices.
        workers: Number of threads that read images.
        processes: Number of processes that prepare training batches; 0 for threads only.
        save_every: Number of steps between two checkpoints.
        jit_compile: As in `keras.Model.compile`.
    """

    batch_size: int
    epochs: int
    side: int
    augmentation: Augmentation = field(default_factory=Augmentation)
    plateau: bool = False
    accumulate: int = 1
    data_parallel: bool = False
    workers: int = 2
    processes: int = 0
    save_every: int = 1000
    jit_compile: bool | str = "auto"


def standardization() -> keras.layers.Layer:
    """Returns a layer that subtracts the mean of ImageNet's pixels, and divides by their standard deviation."""
    return keras.layers.Normalization(mean=MEAN, variance=[deviation**2 for deviation in STANDARD_DEVIATION])


@dataclass(frozen=True)
class Method:
    """A method of a comparison.

    Args:
        network: Returns a network with logits as outputs.
        optimizer: Returns an optimizer, given the batch size, the number of steps per epoch and the number of epochs.
        inputs: Returns the layer that scales pixels from 0 to 255 for the network.
        distils: Whether the network has a head that learns from a teacher, see `keras_actlab.models.HardDistillation`.
    """

    network: Network
    optimizer: Optimizer
    inputs: Callable[[], keras.layers.Layer] = standardization
    distils: bool = False


def comparison(
    task: str,
    methods: dict[str, Method],
    setting: Setting,
    train: images.Images,
    test: images.Images,
    seeds: int,
    folder: Path,
    teacher: keras.Model | None = None,
) -> experiments.Comparison:
    """Describes a comparison in which nothing is chosen: settings are given, and the last epoch counts.

    The test part is evaluated after each epoch, for the curves. With `plateau` it decides the epoch, too.

    Args:
        task: Name of the comparison.
        methods: The methods by name.
        setting: How they are trained.
        train: Images for training.
        test: Images for the test.
        seeds: Number of runs of each method.
        folder: Folder for checkpoints.
        teacher: Teacher of the methods that have one.

    Raises:
        ValueError: If a batch is larger than the training part, or cannot be divided evenly among the devices.
    """
    steps = len(train) // setting.batch_size
    size = images.even_batch_size(len(test), setting.batch_size) if setting.data_parallel else setting.batch_size
    evaluation = images.evaluation_batches(test, size, setting.side, round(setting.side * 256 / 224))
    fit = experiments.Resumable(folder, max(1, steps), setting.save_every, setting.workers, setting.processes)
    return experiments.Comparison(
        name=task,
        methods={
            name: partial(_model, method, setting, train.classes, steps, teacher) for name, method in methods.items()
        },
        data=experiments.Split(train=partial(_batches, train, setting), validation=None, test=evaluation),
        metrics=["accuracy", "top5", "loss"],
        mode="max",
        epochs=setting.epochs,
        seeds=seeds,
        fit=partial(_fit_on_plateau, steps=steps) if setting.plateau else partial(fit_and_report, fit, setting),
    )


def trained_teacher(setting: Setting, train: images.Images, folder: Path) -> keras.Model:
    """Returns ResNet-18, trained on the same images for as many epochs, from its last checkpoint in a folder.

    It has batch normalization, a stem for small images up to 64 pixels, and SGD with a learning rate from 0.1 that is
    divided by ten at 30, 60 and 80 of 90 epochs.
    """
    stem = "small" if setting.side <= 64 else "large"
    method = Method(lambda shape, classes: models.resnet18(shape, classes, stem=stem), step_schedule(0.1))
    steps = len(train) // setting.batch_size
    keras.utils.set_random_seed(0)
    model = _model(method, setting, train.classes, steps, None)
    experiments.fit_resumable(
        model,
        _batches(train, setting, 0),
        folder,
        steps_per_epoch=steps,
        epochs=setting.epochs,
        save_every=setting.save_every,
        workers=setting.workers,
        processes=setting.processes,
    )
    return model


def _batches(train: images.Images, setting: Setting, seed: int) -> grain.MapDataset:
    steps = len(train) // setting.batch_size
    batches = images.training_batches(train, setting.batch_size, seed, setting.augmentation.changes)
    return batches[: steps * setting.epochs]


def _model(method: Method, setting: Setting, classes: int, steps: int, teacher: keras.Model | None) -> keras.Model:
    """Returns a compiled network with augmentation and normalization in front of it."""
    shape = (setting.side, setting.side, 3)
    model = keras.Sequential(
        [keras.Input(shape), *setting.augmentation.layers(), method.inputs(), method.network(shape, classes)]
    )
    if method.distils and teacher is not None:
        model = _with_teacher(model, teacher)
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
        jit_compile=setting.jit_compile,
    )
    return model


def _with_teacher(model: keras.Sequential, teacher: keras.Model) -> keras.Model:
    """Returns a model that learns from a teacher, given layers and a network with two heads behind them."""
    names = ("class_head", "distillation_head")
    *before, network = model.layers
    both = keras.Model(network.input, [network.get_layer(name).output for name in names], name="network")
    x = pixels = keras.Input(model.input_shape[1:])
    for layer in before:
        x = layer(x)
    heads = [keras.layers.Identity(name=name)(logits) for name, logits in zip(names, both(x), strict=True)]
    distillation = models.HardDistillation(keras.Model(pixels, keras.layers.Average()(heads)), teacher)
    distillation(pixels)  # builds it
    return distillation


def fit_and_report(
    resumable: experiments.Resumable,
    setting: Setting,
    model: keras.Model,
    fit: experiments.Fit,
    train: grain.MapDataset,
    test: grain.MapDataset,
) -> dict[int, dict[str, Any]]:
    """Trains a model from checkpoints, and prints the images per second and the share of time spent waiting for input.

    The first epoch, which compiles, is left out if there are others.
    """
    found = resumable(model, fit, train, test)
    log = pd.read_csv(Path(resumable.folder) / fit.label / "log.csv")
    if distribution.is_first_process() and "waiting_seconds" in log:  # which logs of version 0.1 lack
        rows = log.assign(steps=log["step"].diff().fillna(log["step"])).tail(max(1, len(log) - 1))
        steps, seconds, waiting = rows[["steps", "training_seconds", "waiting_seconds"]].sum()
        print(
            f"{fit.label}: {steps * setting.batch_size / seconds:,.0f} images per second, "
            f"{waiting / seconds:.0%} of the time waiting for input"
        )
    return found


def _fit_on_plateau(
    model: keras.Model, fit: experiments.Fit, train: grain.MapDataset, test: grain.MapDataset, steps: int
) -> dict[int, dict[str, Any]]:
    """Trains a model until its top-5 accuracy on the test part stops rising, and returns the metrics of the best epoch.

    This is the protocol of Chen and Ge's code. A run that was killed starts again.
    """
    best: dict[str, Any] = {"monitor": "val_top5", "mode": "max"}
    model.fit(
        train.to_iter_dataset(),
        epochs=fit.epochs,
        steps_per_epoch=steps,
        validation_data=test.to_iter_dataset(),
        validation_steps=len(test),
        shuffle=False,
        callbacks=[
            keras.callbacks.ReduceLROnPlateau(factor=0.1, patience=5, **best),
            keras.callbacks.EarlyStopping(patience=10, restore_best_weights=True, **best),
        ],
    )
    return {fit.epochs: model.evaluate(test.to_iter_dataset(), steps=len(test), verbose=0, return_dict=True)}


def step_schedule(learning_rate: float, momentum: float = 0.9) -> Optimizer:
    """Returns SGD whose learning rate is divided by ten at 30, 60 and 80 of 90 epochs, or at the same fractions."""

    def optimizer(batch_size: int, steps: int, epochs: int) -> keras.Optimizer:
        boundaries = [max(1, round(epochs * steps * part / 90)) for part in (30, 60, 80)]
        rates = [learning_rate / 10**drops for drops in range(4)]
        return keras.optimizers.SGD(keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates), momentum)

    return optimizer


def constant_rate(learning_rate: float, momentum: float = 0.9) -> Optimizer:
    """Returns SGD whose learning rate only a callback changes."""
    return lambda batch_size, steps, epochs: keras.optimizers.SGD(learning_rate, momentum)


def cosine_schedule(batch_size: int, steps: int, epochs: int) -> keras.Optimizer:
    """Returns AdamW with the settings of Sun et al. (2024) for 100 epochs; a fifth of the epochs is warm-up."""
    learning_rate = 2.5e-4 * batch_size / 256
    warm_up = max(1, round(steps * epochs * 20 / 100))
    decay = max(1, steps * epochs - warm_up)
    schedule = keras.optimizers.schedules.CosineDecay(
        1e-6, decay, alpha=1e-5 / learning_rate, warmup_target=learning_rate, warmup_steps=warm_up
    )
    return keras.optimizers.AdamW(schedule, weight_decay=0.05, global_clipnorm=1.0)


@dataclass(frozen=True)
class Protocol:
    """Networks and how they are trained.

    Args:
        networks: Methods by network.
        epochs: Default of `--epochs`.
        plateau: As in `Setting`.
    """

    networks: dict[str, dict[str, Method]]
    epochs: int
    plateau: bool = False


def command(
    name: str,
    experiment: str,
    protocols: dict[str, Protocol],
    data: list[str],
    batch_sizes: list[int],
    crop: Callable[..., Any],
    augmentations: dict[str, Augmentation],
) -> typer.Typer:
    """Returns a command line that compares the methods of each network on each data set, with each batch size.

    Args:
        name: Name of the recipe and of its files.
        experiment: First sentence of `--help`: the experiment and its paper.
        protocols: Choices of `--protocol`; the first is the default. All have the same networks and methods.
        data: Default of `--data`: names in `images.SETS`.
        batch_sizes: Default of `--batch-size`.
        crop: Random crop of an image file to a `side`, a function in `recipes.common.augmentation`.
        augmentations: Choices of `--augmentation`; the first is the default.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    usual = {"protocol": next(iter(protocols)), "side": 224, "limit": None, "precision": "float32", "accumulate": 1}
    usual |= {"augmentation": next(iter(augmentations)), "teacher": "trained", "compile": False}
    networks = protocols[usual["protocol"]].networks
    names = list(networks)
    every = list(dict.fromkeys(method for methods in networks.values() for method in methods))

    @app.command(
        help=f"{experiment}\n\nTrains and tests every method. Prints tables; writes rows, tables and curves. "
        "A run that was killed continues from its last checkpoint."
    )
    def main(
        data: Annotated[list[str], typer.Option(help=f"{', '.join(images.SETS)}; may be given several times.")] = data,
        data_dir: cli.DataDir = None,
        protocol: Annotated[str, typer.Option(help=f"{', '.join(protocols)}.")] = usual["protocol"],
        network: Annotated[list[str], typer.Option(help="May be given several times.")] = names,
        method: Annotated[list[str], typer.Option(help="May be given several times.")] = every,
        augmentation: Annotated[str, typer.Option(help=f"{', '.join(augmentations)}.")] = usual["augmentation"],
        teacher: Annotated[
            str, typer.Option(help="Of DeiT: a .keras file, none, or trained, for a ResNet-18 that is trained first.")
        ] = "trained",
        batch_size: Annotated[list[int], typer.Option(min=1, help="Images in a batch, on all devices together.")] = (
            batch_sizes
        ),
        epochs: Annotated[int | None, typer.Option(min=1, help="Number of epochs; the protocol's by default.")] = None,
        seeds: Annotated[int, typer.Option(min=1, help="Number of runs of each method.")] = 3,
        side: Annotated[int, typer.Option(min=8, help="Side of the square input in pixels, for image files.")] = 224,
        limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of images in each part.")] = None,
        precision: Annotated[str, typer.Option(help="Keras' dtype policy, such as mixed_bfloat16.")] = "float32",
        compile_: Annotated[
            bool, typer.Option("--compile", help="Compile on PyTorch, too; the other backends always do.")
        ] = False,
        accumulate: Annotated[int, typer.Option(min=1, help="Number of batches for an update of the weights.")] = 1,
        data_parallel: Annotated[bool, typer.Option(help="Divide batches among all devices or processes.")] = False,
        workers: Annotated[int, typer.Option(min=1, help="Number of threads that prepare batches.")] = 2,
        processes: Annotated[int, typer.Option(min=0, help="Number of processes that prepare training batches.")] = 0,
        save_every: Annotated[int, typer.Option(min=1, help="Number of steps between two checkpoints.")] = 1000,
        out: cli.Out = Path("results"),
        smoke: cli.Smoke = False,
    ) -> None:
        cli.check_choices("--data", data, images.SETS)
        cli.check_choices("--protocol", [protocol], protocols)
        cli.check_choices("--network", network, names)
        cli.check_choices("--method", method, every)
        cli.check_choices("--augmentation", [augmentation], augmentations)
        if smoke:
            epochs, seeds, limit, batch_size = 2, 1, 8, [4]
        keras.config.set_dtype_policy(precision)
        chosen = protocols[protocol]
        epochs = epochs or chosen.epochs
        options = {"protocol": protocol, "epochs": epochs, "side": side, "limit": limit, "precision": precision}
        options |= {"accumulate": accumulate, "augmentation": augmentation, "teacher": teacher, "compile": compile_}
        default = usual | {"epochs": chosen.epochs}
        unusual = [f"{option} {value}" for option, value in options.items() if value != default[option]]
        with distribution.data_parallel() if data_parallel else contextlib.nullcontext():
            comparisons = []
            for of_data in data:
                train, test = (images.first(part, limit) for part in images.SETS[of_data](data_dir))
                pixels = side if isinstance(train, images.Files) else train.pixels.shape[1]
                changed = augmentations[augmentation]
                if isinstance(train, images.Files):
                    changed = replace(changed, changes=(partial(crop, side=pixels), *changed.changes))
                for of_network, size in itertools.product(network, batch_size):
                    setting = Setting(
                        batch_size=size,
                        epochs=epochs,
                        side=pixels,
                        augmentation=changed,
                        plateau=chosen.plateau,
                        accumulate=accumulate,
                        data_parallel=data_parallel,
                        workers=workers,
                        processes=processes,
                        save_every=save_every,
                        jit_compile=compile_ or "auto",
                    )
                    found = chosen.networks[of_network]
                    methods = {name: found[name] for name in method if name in found}
                    task = ", ".join([of_data, of_network, f"batch {size}", *unusual])
                    guide = None
                    if teacher != "none" and any(one.distils for one in methods.values()):
                        guide = _teacher(teacher, setting, train, out / name / f"teacher, {task}")
                    comparisons.append(comparison(task, methods, setting, train, test, seeds, out / name, guide))
            results = experiments.run(comparisons, out / f"{name}.jsonl", history=True)
            if distribution.is_first_process():
                cli.finish(results, out, name, experiments.curves(results))

    return app


def _teacher(teacher: str, setting: Setting, train: images.Images, folder: Path) -> keras.Model:
    """Returns the teacher in a file, or one that is trained first."""
    if teacher == "trained":
        return trained_teacher(setting, train, folder)
    if not teacher.endswith(".keras") or not Path(teacher).is_file():
        raise typer.BadParameter(f"--teacher must be a .keras file, none or trained. Received: {teacher}")
    return keras.models.load_model(teacher)
