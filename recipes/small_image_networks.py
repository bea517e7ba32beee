"""A part of CIFAR-10 with small networks: the three papers' comparisons of image classifiers, at tuned learning rates.

The networks are small, so that all methods get several learning rates and seeds. With `--size small`, one processor
core trains each of them in about a minute:

- ViT: activations of a vision transformer (Sun et al., 2024), 4 blocks of 64 channels on 16 patches of 8 x 8 pixels,
  AdamW with weight decay 0.05, gradients clipped to norm 1, and the initial weights of `recipes.common.transformers`;
- VGG: parameterizations of VGG-6 (Chen and Ge, 2024) with 32, 64 and 128 filters, in batches of 64 and of 512, SGD with
  momentum 0.9;
- ResNet: trainable matrix activations (Liu et al., 2024) in a residual network of three blocks with 16, 32 and 64
  filters, a stem for small images and batch normalization, SGD with momentum 0.9.

A network is trained on 3,000 images and their mirror images for five epochs, in batches of 64 unless stated otherwise.
The images of a batch are moved alike, at random, by at most 4 pixels. VGG and ResNet see images at half of the
resolution.

`--size large` is for a GPU. The transformer has 6 blocks of 96 channels on 64 patches of 4 x 4 pixels, and is trained
on 10,000 images, each seen 40 times, in batches of 128. VGG and ResNet see 5,000 images at full resolution, 30 times
each; ResNet has four stages of two blocks, with 16 to 128 filters. Each image is moved by itself. A mirror image counts
as one of the times.

The learning rate rises for a tenth of the steps and then follows a cosine to 0. Moving averages have a momentum of 0.9,
because there are few steps. The learning rate of each method is the best of three, or more where the best one is the
lowest or the highest, after the last epoch, on validation images, half as many as there are for training. It is chosen
once, with a split of its own. Then each of five splits draws other training images and initial weights, the same for
all methods, and is tested once on the official test images. `--examples`, `--epochs` and `--splits` change the size;
`--method` leaves the other methods out.

Data: `--data-dir` names a folder with the files of CIFAR-10 for Python, `data_batch_1` to `_5` and `test_batch`.
Without it Keras downloads them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

import keras
import numpy as np
import typer
from sklearn.metrics import accuracy_score

from keras_actlab import experiments
from keras_actlab.conversion import To
from keras_actlab.files import write
from keras_actlab.layers import TMAF, CRReLU
from keras_actlab.models import resnet, vgg, vit
from recipes.common import cli, images
from recipes.common.image_classification import standardization
from recipes.common.transformers import start

NAME = "small_image_networks"
CLASSES = 10
SIDE = 32
SHIFT = 4  # pixels
PRELU = keras.initializers.Constant(0.25)
# The first method of each is the baseline of its table.
VIT: dict[str, To] = {
    "ReLU": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
    "PReLU": lambda layer: keras.layers.PReLU(PRELU, shared_axes=[1, 2]),
    "CRReLU": CRReLU,
}
VGG = {
    "BN": ("standard", "batch"),
    "SP": ("standard", "none"),
    "WN": ("weight_norm", "none"),
    "WN+MBN": ("weight_norm", "mean_only"),
    "GmP": ("gmp", "none"),
    "GmP+IMN": ("gmp", "input_mean"),
}
RESNET: dict[str, To] = {
    "ReLU": "relu",
    "PReLU": lambda layer: keras.layers.PReLU(PRELU, shared_axes=[1, 2]),
    "TMAF diagonal": TMAF(bandwidth=0),
    "TMAF tri-diagonal": TMAF(bandwidth=1),
}


def vit_network(method: str, patch: int, blocks: int, heads: int, dim: int) -> keras.Model:
    """Returns a vision transformer with a method's activation."""
    model = vit.network((SIDE, SIDE, 3), CLASSES, patch, VIT[method], blocks, heads, dim)
    start(model)
    return model


def vgg_network(method: str, side: int) -> keras.Model:
    """Returns VGG-6 with a method's parameterization and normalization."""
    return vgg.network((side, side, 3), CLASSES, "relu", *VGG[method], filters=(32, 64, 128))


def resnet_network(method: str, side: int, filters: Sequence[int], blocks: int) -> keras.Model:
    """Returns a residual network with a method's activation."""
    return resnet.network((side, side, 3), CLASSES, RESNET[method], "standard", "batch", filters, blocks, stem="small")


def sgd(rate: Any) -> keras.Optimizer:
    """Returns the optimizer of the convolutional networks."""
    return keras.optimizers.SGD(rate, momentum=0.9)


def adamw(rate: Any) -> keras.Optimizer:
    """Returns the optimizer of the transformer."""
    return keras.optimizers.AdamW(rate, weight_decay=0.05, global_clipnorm=1.0)


class RandomShift(keras.Layer):
    """Moves images, in training, by a random number of pixels. Pixels from outside are 0.

    Keras' `RandomTranslation` is no substitute: it prevents the compilation of the training step.

    Args:
        most: Largest number of pixels.
        alike: Whether all images of a batch are moved alike, which costs less.
    """

    def __init__(self, most: int, alike: bool):
        super().__init__()
        self.most, self.alike = most, alike
        self.generator = keras.random.SeedGenerator()

    def call(self, images: Any, training: bool = False) -> Any:
        """Returns the images, moved if `training`."""
        if not training:
            return images
        batch, height, width, _ = keras.ops.shape(images)
        drawn = keras.random.randint((2, 1 if self.alike else batch), 0, 2 * self.most + 1, seed=self.generator)
        padded = keras.ops.pad(images, [(0, 0), (self.most, self.most), (self.most, self.most), (0, 0)])
        if self.alike:
            return keras.ops.slice(padded, (0, drawn[0, 0], drawn[1, 0], 0), keras.ops.shape(images))
        rows = drawn[0][:, None] + keras.ops.arange(height)
        columns = drawn[1][:, None] + keras.ops.arange(width)
        moved = keras.ops.take_along_axis(padded, rows[:, :, None, None], axis=1)
        return keras.ops.take_along_axis(moved, columns[:, None, :, None], axis=2)


@dataclass(frozen=True)
class Task:
    """Networks that are compared, how they are trained, and the learning rates that are tried first.

    An epoch sees each image and its mirror image once.
    """

    methods: Iterable[str]
    network: Callable[[str], keras.Model]
    rates: tuple[float, ...]
    optimizer: Callable[[Any], keras.Optimizer] = sgd
    batch_size: int = 64
    examples: int = 3000
    epochs: int = 5
    alike: bool = True  # whether the images of a batch are moved alike


def vgg_tasks(side: int, **options: Any) -> dict[str, Task]:
    """Returns the two comparisons of parameterizations."""
    network = partial(vgg_network, side=side)
    return {
        "VGG, batch 64": Task(VGG, network, (0.01, 0.03, 0.1), **options),
        "VGG, batch 512": Task(VGG, network, (0.03, 0.1, 0.3), batch_size=512, **options),
    }


small_vit = partial(vit_network, patch=8, blocks=4, heads=2, dim=64)
large_vit = partial(vit_network, patch=4, blocks=6, heads=3, dim=96)
small_resnet = partial(resnet_network, side=SIDE // 2, filters=(16, 32, 64), blocks=1)
large_resnet = partial(resnet_network, side=SIDE, filters=(16, 32, 64, 128), blocks=2)
VIT_RATES, RESNET_RATES = (0.0003, 0.001, 0.003), (0.03, 0.1, 0.3)
LARGE_CONVOLUTIONAL: dict[str, Any] = {"alike": False, "examples": 5000, "epochs": 15}
SIZES = {
    "small": {
        "ViT": Task(VIT, small_vit, VIT_RATES, adamw),
        **vgg_tasks(SIDE // 2),
        "ResNet": Task(RESNET, small_resnet, RESNET_RATES),
    },
    "large": {
        "ViT": Task(VIT, large_vit, VIT_RATES, adamw, batch_size=128, examples=10_000, epochs=20, alike=False),
        **vgg_tasks(SIDE, **LARGE_CONVOLUTIONAL),
        "ResNet": Task(RESNET, large_resnet, RESNET_RATES, **LARGE_CONVOLUTIONAL),
    },
}
TASKS = list(SIZES["small"])


def model(task: Task, method: str, steps: int, learning_rate: float) -> keras.Model:
    """Returns a compiled network of a method, behind the standardization and the shift of images."""
    network = task.network(method)
    for layer in network.layers:
        if hasattr(layer, "momentum"):
            layer.momentum = 0.9
    factor = SIDE // network.input_shape[1]
    pooled = [keras.layers.AveragePooling2D(factor)] if factor > 1 else []
    whole = keras.Sequential(
        [keras.Input((SIDE, SIDE, 3)), standardization(), RandomShift(SHIFT, task.alike), *pooled, network]
    )
    warm_up = max(1, steps // 10)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warm_up), warmup_target=learning_rate, warmup_steps=warm_up
    )
    whole.compile(task.optimizer(schedule), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return whole


def accuracy(labels: np.ndarray, logits: np.ndarray) -> float:
    """Returns the share of images, in %, whose largest logit is that of their class."""
    return 100 * accuracy_score(labels, logits.argmax(axis=-1))


@cache
def cifar(folder: Path | None) -> tuple[images.Arrays, images.Arrays]:
    """Returns the training and the test part of CIFAR-10."""
    return images.cifar(CLASSES, folder)


def draw(split: int, examples: int, folder: Path | None, validate: bool) -> experiments.Split:
    """Draws the training images of a split, with their mirror images, and half as many for validation."""
    train, test = cifar(folder)
    rows = np.random.default_rng(split).permutation(len(train))
    chosen, held = rows[:examples], rows[examples : examples + examples // 2]
    pixels = train.pixels[chosen]
    mirrored = np.concatenate([pixels, pixels[:, :, ::-1]])
    return experiments.Split(
        (mirrored, np.tile(train.labels[chosen], 2)),
        (train.pixels[held], train.labels[held]) if validate else None,
        (test.pixels, test.labels),
    )


def comparison(
    name: str, methods: Mapping[str, Callable[..., keras.Model]], epochs: int, batch_size: int, **options: Any
) -> experiments.Comparison:
    """Describes a comparison by the accuracy after the last epoch."""
    return experiments.Comparison(
        name, methods, metrics={"accuracy, %": accuracy}, mode="max", epochs=epochs, batch_size=batch_size, **options
    )


def run(
    name: str, task: Task, only: list[str], folder: Path | None, splits: int, path: Path, jobs: int
) -> tuple[experiments.Results, experiments.Results]:
    """Chooses the learning rate of each method of a task, or of some only, and trains and tests with these.

    Returns:
        The results in the file, and those of the choice in the file beside it.
    """
    steps = 2 * task.examples // task.batch_size * task.epochs
    networks = {method: partial(model, task, method, steps) for method in only or task.methods}
    choice = comparison(
        f"{name}, learning rates",
        networks,
        task.epochs,
        task.batch_size,
        data=lambda split: draw(split, task.examples, folder, validate=True),
        grid={"learning_rate": task.rates},
        extend="learning_rate",
    )
    choices = path.with_stem(f"{path.stem}-rates")
    rates = experiments.run(choice, choices, jobs).final.set_index("method")["learning_rate"]
    print(f"Learning rates, {name}: {', '.join(f'{method} {rate:g}' for method, rate in rates.items())}")
    final = comparison(
        name,
        {method: partial(network, learning_rate=rates[method]) for method, network in networks.items()},
        task.epochs,
        task.batch_size,
        data=lambda split: draw(1 + split, task.examples, folder, validate=False),
        splits=splits,
        independent_splits=task.examples <= 10_000,  # two of them share a fifth of the images at the most
    )
    experiments.run(final, path, jobs)
    return experiments.load(path), experiments.load(choices)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    task: Annotated[
        list[str] | None, typer.Option(help=f"Any of: {'; '.join(TASKS)}. Several times for several; all by default.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="A method of one task. Several times for several; all by default.")
    ] = None,
    size: Annotated[
        Literal["small", "large"], typer.Option(help="Size of networks and training; large is for a GPU.")
    ] = "small",
    data_dir: cli.DataDir = None,
    examples: Annotated[
        int | None, typer.Option(min=1, max=30_000, help="Number of training images in a split; the task's by default.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Number of epochs; the task's by default.")] = None,
    splits: Annotated[int, typer.Option(min=2, help="Number of splits.")] = 5,
    out: cli.Out = Path("results"),
    jobs: cli.Jobs = 1,
    smoke: cli.Smoke = False,
) -> None:
    """Compares activations and parameterizations in small image networks, an experiment of our own.

    Chooses learning rates, trains and tests every method. Prints tables; writes rows, tables and a figure.
    """
    cli.check_choices("--task", task or (), TASKS)
    if method:
        if len(task or ()) != 1:
            raise typer.BadParameter(f"--method needs one --task. Received: --task {task}")
        cli.check_choices("--method", method, SIZES[size][task[0]].methods)
    if smoke:
        examples, epochs, splits = 256, 1, 2  # one batch of 512 images and mirror images
    stem = NAME if size == "small" else f"{NAME}-{size}"
    for name in task or TASKS:
        chosen = SIZES[size][name]
        chosen = replace(chosen, examples=examples or chosen.examples, epochs=epochs or chosen.epochs)
        found, choices = run(name, chosen, method or [], data_dir, splits, out / f"{stem}.jsonl", jobs)
    write(out / f"{stem}-rates.csv", choices.frame.to_csv(index=False))
    cli.finish(found, out, stem)


if __name__ == "__main__":
    app()
