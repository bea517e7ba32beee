"""How much of each model family `to_gmp` converts: `python -m tests.conversion.coverage [FAMILY ...]`.

Writes a row a family into `coverage.csv`: of `keras.applications`, and of the backbones of keras-hub as small as their
configs in `backbones.json` make them. A family that does not build, or that no batch can be made up for, says so.
"""

import csv
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np

import keras_actlab
from keras_actlab.conversion.probe import SIZES, _batch, outputs

FOLDER = Path(__file__).parent
COLUMNS = (
    "family", "parameters", "kernel_numbers", "converted", "share", "not_converted", "difference_gmp",
    "difference_fold", "classes_after_fold", "note",
)  # fmt: skip
# The smallest of each family in keras.applications, with the size of its images.
APPLICATIONS = {
    "ConvNeXtTiny": 32, "DenseNet121": 32, "EfficientNetB0": 32, "EfficientNetV2B0": 32, "InceptionResNetV2": 75,
    "InceptionV3": 75, "MobileNet": 32, "MobileNetV2": 32, "MobileNetV3Small": 32, "NASNetMobile": 32, "ResNet50": 32,
    "ResNet50V2": 32, "VGG16": 32, "Xception": 71,
}  # fmt: skip
# Parts of the names of matrices that are no kernels: tables of which rows are looked up or added, and norms.
TABLES = (
    "embedding",
    "encoding",
    "position",
    "token",
    "query_tokens",
    "table",
    "bias",
    "pos_",
    "scale",
    "gamma",
    "beta",
    "lambda",
)
# What `to_gmp` makes of a kernel.
GEOMETRIC = ("angles", "sign")


def application(name: str) -> keras.Model:
    size = APPLICATIONS[name]
    return getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), include_top=False, pooling="avg"
    )


def families() -> dict[str, Callable[[], keras.Model]]:
    configs = json.loads((FOLDER / "backbones.json").read_text())
    found: dict[str, Callable[[], keras.Model]] = {name: lambda name=name: application(name) for name in APPLICATIONS}
    found |= {
        name: lambda config=config: keras.saving.deserialize_keras_object(config) for name, config in configs.items()
    }
    return found


def kernels(model: keras.Model) -> Iterator[tuple[str, int]]:
    """The path and the number of entries of each variable that a matrix product or a convolution is made with."""
    for variable in model.trainable_variables:
        names = variable.path.lower().split("/")
        matrix = sum(size > 1 for size in variable.shape) > 1 and not any(part in names[-1] for part in TABLES)
        if matrix and not names[-1].endswith(GEOMETRIC) and not any("embedding" in name for name in names[-2:]):
            yield variable.path, math.prod(variable.shape)


def randomized(model: keras.Model) -> keras.Model:
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if "norm" not in variable.path:
            noise = rng.standard_normal(variable.shape) / max(1.0, math.sqrt(math.prod(variable.shape[:-1])))
            variable.assign_add(0.1 * noise)
    return model


def difference(model: keras.Model, other: keras.Model) -> float | str:
    """The largest difference of outputs, relative to the largest output."""
    reason = ""
    for size in (*SIZES, 4):
        try:
            batch = _batch(model, size)
            pairs = list(zip(outputs(model, batch), outputs(other, batch), strict=True))
        except Exception as error:  # whatever a model raises on inputs that it is not made for
            reason = reason or f"no batch: {error}"
            continue
        return max(float(np.max(np.abs(x - y)) / max(np.max(np.abs(x)), 1e-6)) for x, y in pairs if x.size)
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", reason).split())[:80]  # Keras writes in bold


def row(name: str, make: Callable[[], keras.Model]) -> dict[str, object]:
    try:
        keras.utils.set_random_seed(0)
        model = randomized(make())
    except Exception as error:
        return {"family": name, "note": f"does not build: {type(error).__name__}: {' '.join(str(error).split())[:120]}"}
    before = dict(kernels(model))
    found: dict[str, object] = {
        "family": name, "parameters": model.count_params(), "kernel_numbers": sum(before.values()),
    }  # fmt: skip
    try:
        start = time.perf_counter()
        converted = keras_actlab.to_gmp(model, check=False)
        print(f"{name}: to_gmp {time.perf_counter() - start:.1f} s", flush=True)
        left = dict(kernels(converted))
        share = 1 - sum(left.values()) / max(1, found["kernel_numbers"])
        found |= {
            "converted": found["kernel_numbers"] - sum(left.values()),
            "share": f"{share:.4f}",
            "not_converted": "; ".join(sorted({"/".join(path.split("/")[-2:]) for path in left})[:5]),
            "difference_gmp": _short(difference(model, converted)),
        }
        folded = keras_actlab.fold(converted, check=False)
        classes = [[type(layer) for layer in one._flatten_layers()] for one in (model, folded)]
        found |= {
            "difference_fold": _short(difference(model, folded)),
            "classes_after_fold": "equal" if classes[0] == classes[1] else "others",
        }
    except Exception as error:
        found["note"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return found


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.1e}"


def main(*names: str) -> None:
    path = FOLDER / "coverage.csv"
    rows = {}
    if path.exists():
        with path.open() as file:
            rows = {one["family"]: one for one in csv.DictReader(file)}
    for name, make in families().items():
        if not names or name in names:
            rows[name] = row(name, make)
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows[key] for key in sorted(rows, key=str.lower))


if __name__ == "__main__":
    main(*sys.argv[1:])
