"""Throughput of the input pipeline and of a training step, in images per second on this machine.

The pipeline is that of the image recipes: it reads, decodes, crops and batches images in 1, 2 and 4 threads, with and
without RandAugment. The training step is that of ViT-Tiny with ReLU.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import grain
import keras
import pandas as pd
import typer

from keras_actlab import models
from recipes.common import cli, files, images
from recipes.common.augmentation import RandAugment


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
    resize = (round(side * 256 / 224), round(side * 480 / 224))
    batches = images.training_batches(train, batch_size, 0, side, resize)
    common = {"backend": keras.backend.backend(), "data": data, "side": side, "batch size": batch_size}
    rows = []
    for name, pipeline in {"pipeline": batches, "with RandAugment": batches.map_with_index(RandAugment(0))}.items():
        for workers in (1, 2, 4):
            options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=2 * workers)
            iterator = iter(pipeline.to_iter_dataset(options))
            # Batches that were prefetched before the clock starts are few among many.
            speed = pictures_a_second(lambda iterator=iterator: next(iterator), batch_size, rounds, untimed=rounds // 2)
            rows.append(common | {"what": name, "threads": workers, "pictures a second": speed})
            iterator.close()
    patch_size = max(4, side // 14)
    model = models.vit_tiny((side, side, 3), train.classes, patch_size, activation="relu")
    model.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = batches[0]
    x = x.astype("float32") / 255
    speed = pictures_a_second(lambda: model.train_on_batch(x, y), batch_size, 1 if smoke else 3, untimed=1)
    rows.append(common | {"what": "step of ViT-Tiny", "pictures a second": speed})
    path = out / "input_speed.csv"
    files.append_rows(rows, path)
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".0f"))


if __name__ == "__main__":
    app()
