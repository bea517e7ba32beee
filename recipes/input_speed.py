"""Throughput of the input pipeline and of a training step, in images per second on this machine.

For a recipe and each of its choices of augmentation, the pipeline reads, decodes, crops, changes and batches images in
1, 2 and 4 worker processes. The training step is that of one of the recipe's methods, with those changes that are
layers. The last lines name the bottleneck with the fastest number of processes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import keras
import pandas as pd
import typer

from keras_actlab.experiments.resumable import read_ahead
from recipes import cifar_tmaf, imagenet32_vgg, imagenet_resnet
from recipes.common import augmentation, cli, files, images, transformers
from recipes.common.image_classification import FLIP, Augmentation, Method


@dataclass(frozen=True)
class Recipe:
    """What is measured of a recipe.

    Args:
        data: Its data set, a name in `images.SETS`.
        method: The method whose training step is measured.
        crop: Its random crop of an image file.
        augmentations: Its choices of augmentation.
    """

    data: str
    method: Method
    crop: Callable
    augmentations: dict[str, Augmentation]


VIT = transformers.methods("ViT-Tiny")["ReLU"]
RECIPES = {
    "cifar_tmaf": Recipe("cifar10", cifar_tmaf.METHODS["TMAF diagonal"], augmentation.random_resized_crop, FLIP),
    "cifar_transformers": Recipe("cifar10", VIT, augmentation.random_resized_crop, transformers.AUGMENTATIONS),
    "imagenet32_vgg": Recipe(
        "imagenet32", imagenet32_vgg.paper(*imagenet32_vgg.METHODS["GmP+IMN"]), augmentation.resize_and_crop, FLIP
    ),
    "imagenet_resnet": Recipe(
        "folders", imagenet_resnet.METHODS["GmP+IMN"], augmentation.resize_and_crop, imagenet_resnet.AUGMENTATIONS
    ),
    "imagenet_transformers": Recipe("folders", VIT, augmentation.random_resized_crop, transformers.AUGMENTATIONS),
}


def images_per_second(function: Callable[[], object], count: int, rounds: int, untimed: int) -> float:
    """Returns the number of images per second over all rounds of `count`, after some rounds that are not timed."""
    for _ in range(untimed):
        function()
    start = time.perf_counter()
    for _ in range(rounds):
        function()
    return count * rounds / (time.perf_counter() - start)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    recipe: Annotated[str, typer.Option(help=f"{', '.join(RECIPES)}.")] = "cifar_transformers",
    data: Annotated[str | None, typer.Option(help=f"{', '.join(images.SETS)}; the recipe's by default.")] = None,
    data_dir: cli.DataDir = None,
    side: Annotated[int, typer.Option(min=8, help="Side of the square input in pixels, for image files.")] = 224,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of images in a batch.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Number of batches that are timed.")] = 40,
    out: cli.Out = Path("results"),
    smoke: cli.Smoke = False,
) -> None:
    """Measures the throughput of a recipe's input pipeline and training step, which is in none of the papers.

    Prints a table and the bottlenecks, and appends rows to a file.
    """
    cli.check_choices("--recipe", [recipe], RECIPES)
    chosen = RECIPES[recipe]
    data = data or chosen.data
    cli.check_choices("--data", [data], images.SETS)
    if smoke:
        batch_size, rounds = 4, 2
    train, _ = images.SETS[data](data_dir)
    is_files = isinstance(train, images.Files)
    side = side if is_files else train.pixels.shape[1]
    crop = [partial(chosen.crop, side=side)] if is_files else []
    shape = (side, side, 3)
    rows, bottlenecks = [], []
    for name, change in chosen.augmentations.items():
        common = {"backend": keras.backend.backend(), "recipe": recipe, "data": data, "side": side}
        common |= {"batch_size": batch_size, "augmentation": name}
        batches = images.training_batches(train, batch_size, 0, [*crop, *change.changes])
        speeds = {}
        for workers in (1,) if smoke else (1, 2, 4):
            iterator = iter(read_ahead(batches, threads=1, processes=workers))
            # Batches that were prefetched before the clock starts are few among many.
            speed = images_per_second(lambda iterator=iterator: next(iterator), batch_size, rounds, rounds // 2)
            speeds[workers] = speed
            rows.append(common | {"what": "pipeline", "processes": workers, "images_per_second": speed})
            iterator.close()
        layers = [*change.layers(), chosen.method.inputs(), chosen.method.network(shape, train.classes)]
        model = keras.Sequential([keras.Input(shape), *layers])
        optimizer = chosen.method.optimizer(batch_size, 1000, 1)
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        step = partial(model.train_on_batch, *images.training_batches(train, batch_size, 0, crop)[0])
        needed = images_per_second(step, batch_size, 1 if smoke else 3, 1)
        rows.append(common | {"what": "training step", "images_per_second": needed})
        fastest = max(speeds, key=speeds.get)
        bottleneck = "pipeline" if speeds[fastest] < needed else "training step"
        bottlenecks.append(f"Bottleneck of {recipe} with {name}, {fastest} processes: {bottleneck}")
    files.append_rows(rows, out / "input_speed.csv")
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".0f"))
    print(*bottlenecks, sep="\n")


if __name__ == "__main__":
    app()
