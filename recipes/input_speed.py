"""Throughput of the input pipeline and of a training step, in images per second on this machine.

The pipeline is that of the image recipes: it reads, decodes, crops and batches images in 1, 2 and 4 worker processes,
with and without RandAugment by Pillow (flip and random erasing included). The training step is that of ViT-Tiny with
ReLU, with and without RandAugment as a layer. The last line names the bottleneck: the pipeline, if even 4 processes
deliver fewer images than the step takes, and otherwise the step.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import keras
import pandas as pd
import typer

from keras_actlab import models
from keras_actlab.experiments.resumable import read_ahead
from recipes.common import augmentation, cli, files, images
from recipes.common.transformers import AUGMENTATIONS


def pictures_a_second(function: Callable[[], object], pictures: int, rounds: int, untimed: int) -> float:
    """Returns the number of images per second over all rounds, after some rounds that are not timed."""
    for _ in range(untimed):
        function()
    start = time.perf_counter()
    for _ in range(rounds):
        function()
    return pictures * rounds / (time.perf_counter() - start)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    data: Annotated[str, typer.Option(help=f"{', '.join(images.SETS)}.")] = "cifar10",
    data_dir: cli.DataDir = None,
    side: Annotated[int, typer.Option(min=8, help="Side of the square input in pixels, for image files.")] = 224,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of images in a batch.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Number of batches that are timed.")] = 40,
    out: cli.Out = Path("results"),
    smoke: cli.Smoke = False,
) -> None:
    """Measures the throughput of the input pipeline and of a training step, which is in none of the papers.

    Prints a table and appends its rows to a file.
    """
    cli.check_choices("--data", [data], images.SETS)
    if smoke:
        batch_size, rounds = 4, 2
    train, _ = images.SETS[data](data_dir)
    side = side if isinstance(train, images.Files) else train.pixels.shape[1]
    crop = [partial(augmentation.random_resized_crop, side=side)] if isinstance(train, images.Files) else []
    common = {"backend": keras.backend.backend(), "data": data, "side": side, "batch size": batch_size}
    rows = []
    for name, changes in {"pipeline": (), "with RandAugment": AUGMENTATIONS["pillow"].changes}.items():
        batches = images.training_batches(train, batch_size, 0, [*crop, *changes])
        for workers in (1,) if smoke else (1, 2, 4):
            iterator = iter(read_ahead(batches, threads=1, processes=workers))
            # Batches that were prefetched before the clock starts are few among many.
            speed = pictures_a_second(lambda iterator=iterator: next(iterator), batch_size, rounds, untimed=rounds // 2)
            rows.append(common | {"what": name, "processes": workers, "pictures a second": speed})
            iterator.close()
    x, y = images.training_batches(train, batch_size, 0, crop)[0]
    for name, layers in {"step of ViT-Tiny": [], "with a layer": AUGMENTATIONS["layer"].layers()}.items():
        network = models.vit_tiny((side, side, 3), train.classes, max(4, side // 14), activation="relu")
        model = keras.Sequential([keras.Input((side, side, 3)), *layers, keras.layers.Rescaling(1 / 255), network])
        model.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        step = partial(model.train_on_batch, x, y)
        rows.append(
            common | {"what": name, "pictures a second": pictures_a_second(step, batch_size, 1 if smoke else 3, 1)}
        )
    path = out / "input_speed.csv"
    files.append_rows(rows, path)
    table = pd.DataFrame(rows)
    print(table.to_markdown(index=False, floatfmt=".0f"))
    speeds = table.groupby("what")["pictures a second"].max()
    print("Bottleneck:", "pipeline" if speeds["with RandAugment"] < speeds["step of ViT-Tiny"] else "training step")


if __name__ == "__main__":
    app()
