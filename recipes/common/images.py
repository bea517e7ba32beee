"""Images with labels, from batch files of CIFAR and ImageNet32 or from folders of classes, and batches of them.

Files are not trusted: no code in the batch files, which are pickles, is run, and images are read in four formats only.
"""

import contextlib
import pickle
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial, reduce
from pathlib import Path
from typing import Any

import grain
import keras
import numpy as np
from PIL import Image, ImageOps

from keras_actlab import distribution
from recipes.common.augmentation import Change, resize_shorter

Batch = tuple[np.ndarray, np.ndarray]
ImageChange = Callable[[Image.Image], Image.Image]
SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}
FORMATS = ("BMP", "JPEG", "PNG", "WEBP")  # regardless of the suffix: other formats, such as PostScript, run programs
ORIENTATION = 0x0112  # tag of EXIF
MAX_PIXELS, MAX_ASPECT_RATIO = 2**26, 64  # a longer side would be too large after resizing


def unchanged(image: Image.Image) -> Image.Image:
    """Returns an image."""
    return image


@dataclass(frozen=True)
class Arrays:
    """Images in memory: pixels, (n, height, width, 3), bytes, and labels, (n,), from 0."""

    pixels: np.ndarray
    labels: np.ndarray
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, rows: np.ndarray, changes: Sequence[ImageChange]) -> Batch:
        """Returns images, each with a change of its own that keeps the size, and their labels."""
        height, width, _ = self.pixels.shape[1:]
        # One below the other in one image, as each conversion of an array takes as long as two changes.
        column = Image.fromarray(self.pixels[rows].reshape(-1, width, 3))
        for place, change in enumerate(changes):
            box = (0, place * height, width, (place + 1) * height)
            column.paste(change(column.crop(box)), box)
        return np.array(column).reshape(-1, height, width, 3), self.labels[rows]


@dataclass(frozen=True)
class Files:
    """Images in files. Up to `max_corrupt` files that cannot be read are each replaced by the next one in the list.

    Each worker process counts the files that it cannot read.
    """

    paths: list[Path]
    labels: np.ndarray
    classes: int
    max_corrupt: int = 10
    corrupt: set[Path] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return len(self.paths)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "lock"}  # which no process can share

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, lock=threading.Lock())

    def read(self, row: int, change: ImageChange = unchanged) -> tuple[Image.Image, int]:
        """Returns a changed image and its label. The change may reduce a JPEG by `draft`, as it is not decoded before.

        Raises:
            ValueError: If no file can be read, or more than `max_corrupt` files cannot.
        """
        for candidate in [*range(row, len(self)), *range(row)]:
            try:
                return _read_image(self.paths[candidate], change), int(self.labels[candidate])
            except Exception as error:  # damaged files make Pillow raise errors of nearly any type
                self._count(self.paths[candidate], error)
        raise ValueError(
            f"`data_dir` must hold images that can be read. Received: {', '.join(map(str, sorted(self.corrupt)))}"
        )

    def _count(self, path: Path, error: Exception) -> None:
        with self.lock:
            if path not in self.corrupt:
                self.corrupt.add(path)
                print(f"Cannot be read, {len(self.corrupt)} of at most {self.max_corrupt}: {path} ({error})")
            if len(self.corrupt) > self.max_corrupt:
                raise ValueError(
                    f"`data_dir` must not hold more than {self.max_corrupt} images that cannot be read. "
                    f"Received: {', '.join(map(str, sorted(self.corrupt)))}"
                ) from error


def _read_image(path: Path, change: ImageChange) -> Image.Image:
    """Returns a changed image, in RGB, upright and without its alpha channel."""
    with Image.open(path, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_ASPECT_RATIO * min(image.size):
            raise ValueError(
                f"an image must have at most {MAX_PIXELS} pixels, and a side at most {MAX_ASPECT_RATIO} times the "
                f"other. Received: {image.width} x {image.height} pixels"
            )
        if image.format == "JPEG" and image.mode == "RGB" and image.getexif().get(ORIENTATION, 1) == 1:
            changed = change(image)
            changed.load()  # before the file is closed
            return changed
        return change(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    """Returns an image in RGB, upright and without its alpha channel."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits per pixel; a conversion would clip them
        return Image.fromarray((np.asarray(image) >> 8).astype("uint8")).convert("RGB")
    if image.mode == "P":
        image = image.convert("RGBA")  # a palette may hold transparent colours, which RGB cannot take
    return image.convert("RGB")


Images = Arrays | Files


def cifar(classes: int, folder: Path | None) -> tuple[Arrays, Arrays]:
    """Returns the training and the test part of CIFAR-10 or CIFAR-100.

    Args:
        classes: 10 or 100.
        folder: Folder with the published files for Python (`data_batch_1` to `data_batch_5` and `test_batch`, or
            `train` and `test`). If it is None, Keras downloads them.
    """
    if folder is None:
        module = keras.datasets.cifar10 if classes == 10 else keras.datasets.cifar100
        parts = module.load_data()
        return tuple(Arrays(np.ascontiguousarray(x), y[:, 0].astype("int32"), classes) for x, y in parts)
    train = [f"data_batch_{number}" for number in range(1, 6)] if classes == 10 else ["train"]
    test = ["test_batch"] if classes == 10 else ["test"]
    key = "labels" if classes == 10 else "fine_labels"
    return tuple(_batch_files([folder / name for name in names], key, 0, classes) for names in (train, test))


def imagenet32(folder: Path | None) -> tuple[Arrays, Arrays]:
    """Returns the training and the validation part of ImageNet32, from its ten batch files and one."""
    folder = _needed(folder)
    train = [folder / f"train_data_batch_{number}" for number in range(1, 11)]
    return tuple(_batch_files(paths, "labels", 1, 1000) for paths in (train, [folder / "val_data"]))


def class_folders(folder: Path | None) -> tuple[Files, Files]:
    """Returns the images below `folder/train` and `folder/val`, a folder for each class in both.

    Raises:
        ValueError: If a part is missing, its classes are not the same, or a class has no images.
    """
    folder = _needed(folder)
    parts, names = [], {}
    for part in ("train", "val"):
        if not (folder / part).is_dir():
            raise ValueError(f"`data_dir` must hold the folder {part}. Received: data_dir={str(folder)!r}")
        names[part] = sorted(path.name for path in (folder / part).iterdir() if path.is_dir())
        if not names[part] or names[part] != names["train"]:
            other = sorted(set(names[part]) ^ set(names["train"]))[:5]
            raise ValueError(
                f"{part} in `data_dir` must hold a folder for each class, the same ones as train. "
                f"Received: data_dir={str(folder)!r}, {len(names[part])} classes, in one of the two only: {other}"
            )
        paths, labels = [], []
        for label, name in enumerate(names[part]):
            found = sorted(path for path in (folder / part / name).rglob("*") if path.suffix.lower() in SUFFIXES)
            if not found:
                raise ValueError(f"Each class must have images. Received: none in {folder / part / name}")
            paths += found
            labels += [label] * len(found)
        parts.append(Files(paths, np.array(labels, "int32"), len(names[part])))
    return tuple(parts)


# For each data set a function of the folder, or None, that returns the training and the test part.
SETS: dict[str, Callable[[Path | None], tuple[Images, Images]]] = {
    "cifar10": lambda folder: cifar(10, folder),
    "cifar100": lambda folder: cifar(100, folder),
    "imagenet32": imagenet32,
    "folders": class_folders,
}


def first(images: Images, count: int | None) -> Images:
    """Returns `count` images, chosen at random with a fixed seed; all if `count` is None."""
    if count is None or count >= len(images):
        return images
    rows = np.random.default_rng(0).permutation(len(images))[:count]
    if isinstance(images, Arrays):
        return Arrays(images.pixels[rows], images.labels[rows], images.classes)
    return Files([images.paths[row] for row in rows], images.labels[rows], images.classes, images.max_corrupt)


def training_batches(images: Images, batch_size: int, seed: int, changes: Sequence[Change] = ()) -> grain.MapDataset:
    """Returns an endless dataset of batches, in a new order in each epoch. An incomplete last batch is skipped.

    Args:
        images: The images.
        batch_size: Batch size of all processes together, each of which gets its share.
        seed: Seed of the order and of the changes. The random numbers for an image depend on this seed, the epoch and
            the place in the order only.
        changes: Random changes of an image, in their order. Image files need one that crops, as all images of a batch
            must have the same size.
    """
    if not 1 <= batch_size <= len(images):
        raise ValueError(
            f"`batch_size` must be from 1 to the number of images, {len(images)}. Received: batch_size={batch_size}"
        )
    distribution.local_batch_size(batch_size)  # raises if the devices cannot share a batch
    process, processes = distribution.data_shard()
    steps = len(images) // batch_size  # of an epoch

    def read(step: int, _: int) -> Batch:
        epoch, step = divmod(step, steps)
        places = np.arange(step * batch_size + process, (step + 1) * batch_size, processes)
        rows = _order(len(images), seed, epoch)[places]
        if isinstance(images, Arrays) and not changes:
            return _take(images, rows)
        bits = np.random.Philox(seed)
        rng, start = np.random.Generator(bits), bits.state

        def change(place: int, image: Image.Image) -> Image.Image:
            # Sets the counter, so that the numbers for an image depend on neither the batch nor the number of
            # processes. One generator for each image would take four times as long.
            start["state"]["counter"][2:] = epoch, place
            bits.state = start
            return reduce(lambda image, change: change(image, rng), changes, image)

        each = [partial(change, place) for place in places.tolist()]
        if isinstance(images, Arrays):
            return images.read(rows, each)
        read = [images.read(row, change) for row, change in zip(rows.tolist(), each, strict=True)]
        return np.stack([image for image, _ in read]), np.array([label for _, label in read], "int32")

    return grain.MapDataset.range(steps).map_with_index(read).repeat()


@lru_cache(maxsize=2)  # one thread may read the end of an epoch while another reads the start of the next
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


def evaluation_batches(images: Images, batch_size: int, side: int, resize: int) -> grain.MapDataset:
    """Returns one epoch of all images in order. Image files are resized by their shorter side, and centre-cropped."""
    process, processes = distribution.data_shard()
    rows = grain.MapDataset.range(len(images))[process::processes]
    share = distribution.local_batch_size(batch_size)
    if isinstance(images, Arrays):
        return rows.batch(share).map(lambda rows: _take(images, rows))

    def cut(row: int) -> Batch:
        image, label = images.read(row, lambda image: resize_shorter(image, resize, resize))
        left, top = ((length - side) // 2 for length in image.size)
        return np.asarray(image.crop((left, top, left + side, top + side))), np.int32(label)

    return rows.map(cut).batch(share)


def _needed(folder: Path | None) -> Path:
    if folder is None:
        raise ValueError("`data_dir` must name a folder, since these images cannot be downloaded. Received: None")
    return folder


def even_batch_size(images: int, most: int) -> int:
    """Returns the largest batch size, up to `most`, that divides images and devices evenly.

    Raises:
        ValueError: If there is none.
    """
    for size in range(min(images, most), 0, -1):
        if images % size == 0:
            with contextlib.suppress(ValueError):  # if it cannot be divided among the devices
                distribution.local_batch_size(size)
                return size
    raise ValueError(
        "The number of images in the test part must be a multiple of the number of devices, as no batch may be "
        f"incomplete there; see `--limit`. Received: {images} images"
    )


def _take(images: Arrays, rows: np.ndarray) -> Batch:
    return images.pixels[rows], images.labels[rows]


def _batch_files(paths: list[Path], key: str, first_label: int, classes: int) -> Arrays:
    """Reads pickled dictionaries of pixels, (n, 3072), channels first, and a list of labels."""
    pixels, labels = [], []
    for path in paths:
        try:
            with path.open("rb") as file:
                content = _Unpickler(file, encoding="latin1").load()
            part = content["data"].array.reshape(-1, 3, 32, 32)
            numbers = content[key]
            if isinstance(numbers, _Array):
                numbers = numbers.array.tolist()
            if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
                raise TypeError(f"{key} must be a list of integers")
        except FileNotFoundError:
            raise ValueError(f"`data_dir` must hold {path.name}. Received: data_dir={str(path.parent)!r}") from None
        except Exception as error:  # a damaged or forged pickle makes the unpickler raise errors of any type
            raise ValueError(
                f"{path.name} in `data_dir` must be a pickled dictionary of data and {key}. "
                f"Received: {path}: {type(error).__name__}: {error}"
            ) from error
        if part.dtype != np.uint8 or len(part) != len(numbers) or not len(part):
            raise ValueError(
                f"{path.name} must hold as many labels as images of 3 x 32 x 32 bytes. "
                f"Received: {len(numbers)} labels, data of shape {part.shape}, {part.dtype}"
            )
        lowest, highest = min(numbers), max(numbers)
        if lowest < first_label or highest >= classes + first_label:
            raise ValueError(
                f"Labels in {path.name} must be from {first_label} to {classes - 1 + first_label}. "
                f"Received: labels from {lowest} to {highest}"
            )
        pixels.append(part.transpose(0, 2, 3, 1))
        labels += numbers
    return Arrays(np.ascontiguousarray(np.concatenate(pixels)), np.array(labels, "int32") - first_label, classes)


NUMBERS = {"i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"}


class _DType:
    """Replaces `numpy.dtype` in a pickle: a type of numbers."""

    def __init__(self, code: str, *_: Any) -> None:
        if code not in NUMBERS:
            raise pickle.UnpicklingError(f"it holds an array of {code}")
        self.name = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.name = state[1] + self.name


class _Array:
    """Replaces `numpy.ndarray` and the function that makes one in a pickle: an array of numbers."""

    def __init__(self, *_: Any) -> None:
        self.array = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, by_columns, content = state
        content = content.encode("latin1") if isinstance(content, str) else content  # of Python 2
        self.array = np.frombuffer(content, dtype.name).reshape(shape, order="F" if by_columns else "C")


# Other classes and functions in a pickle are refused, because they could run any code.
STAND_INS = {
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in STAND_INS:
            return STAND_INS[module, name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
