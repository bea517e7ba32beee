"""How much of each model family conversions reach: `python -m tests.conversion.coverage [FAMILY ...]`.

Writes a row a family into `coverage.csv`: of `keras.applications`, and of the backbones of keras-hub as small as their
configs in `backbones.json` make them. A family that does not build, or that no batch can be made up for, says so.

- `kernel_numbers`, `converted`, `share`: entries of kernels, and those that `to_gmp` converts; what is left is in
  `not_converted`.
- `activation_calls`, `swapped`: calls of activation functions other than softmax while the model runs, as the recorder
  counts them, and those that `swap_activations` replaces; what is left is in `not_swapped`.
- `difference_gmp`, `difference_fold`: largest difference of outputs, relative to the largest output.
- `classes_after_fold`: whether the layers have the classes again that they had at first.
- `difference_loaded`: the same difference of the converted, the swapped and the folded model between this process and
  one that loads their files.
- `generate`: for a backbone with a `CausalLM`, whether the converted and the folded one generate the same tokens.
"""

import csv
import json
import math
import pickle
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_actlab
from keras_actlab.conversion.hidden import SOFTMAXES
from keras_actlab.conversion.probe import SIZES, _batch, outputs
from keras_actlab.conversion.recorder import recorded
from keras_actlab.layers.activations import activation_name, is_activation

FOLDER = Path(__file__).parent
COLUMNS = (
    "family", "parameters", "kernel_numbers", "converted", "share", "not_converted", "activation_calls", "swapped",
    "not_swapped", "difference_gmp", "difference_fold", "classes_after_fold", "difference_loaded", "generate", "note",
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
    "r_k",  # of RWKV-7, which multiplies entry by entry
)
# What `to_gmp` makes of a kernel.
GEOMETRIC = ("angles", "sign")


def application(name: str) -> keras.Model:
    size = APPLICATIONS[name]
    return getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), include_top=False, pooling="avg"
    )


def configs() -> dict[str, Any]:
    """The configs of small backbones of keras-hub, by their families."""
    return json.loads((FOLDER / "backbones.json").read_text())


def families() -> dict[str, Callable[[], keras.Model]]:
    found: dict[str, Callable[[], keras.Model]] = {name: lambda name=name: application(name) for name in APPLICATIONS}
    found |= {
        name: lambda config=config: keras.saving.deserialize_keras_object(config) for name, config in configs().items()
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
    batch = batch_for(model)
    return batch if isinstance(batch, str) else compare(outputs(model, batch), outputs(other, batch))


def batch_for(model: keras.Model) -> Any:
    """A batch that `model` can be called on, or the reason why there is none."""
    reason = ""
    for size in (*SIZES, 4):
        try:
            batch = _batch(model, size)
            outputs(model, batch)
        except Exception as error:  # a model may raise anything on inputs that it is not made for
            reason = reason or f"no batch: {error}"
            continue
        return batch
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", reason).split())[:80]  # Keras writes in bold


def compare(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    pairs = zip(one, other, strict=True)
    return max(float(np.max(np.abs(x - y)) / max(np.max(np.abs(x)), 1e-6)) for x, y in pairs if x.size)


def activation_calls(model: keras.Model, batch: Any) -> Counter[str]:
    """How often each activation function is called, but softmax."""
    with recorded(model._flatten_layers()) as calls:
        outputs(model, batch)
    # A layer that is an activation counts once, not also for the functions that it calls.
    own = [call for call in calls if not (call.line and is_activation(call.layer))]
    # A layer Activation counts under the name of its function.
    names = [(activation_name(call.layer) if call.name == "Activation" else None) or call.name for call in own]
    return Counter(name for name in names if name.lower() not in (*SOFTMAXES, "linear"))


def save(models: Sequence[keras.Model], batch: Any, folder: Path) -> None:
    """Saves models, a batch, and what they compute for it."""
    folder.mkdir()
    (folder / "batch.pickle").write_bytes(pickle.dumps(keras.tree.map_structure(np.asarray, batch)))
    for number, model in enumerate(models):
        model.save(folder / f"{number}.keras")
        (folder / f"{number}.saved").write_bytes(pickle.dumps(outputs(model, batch)))


def loaded_differences(folder: Path) -> dict[str, float | str]:
    """The largest difference in outputs, by family, once another process has loaded what was saved in `folder`."""
    subprocess.run([sys.executable, "-W", "ignore", "-m", "tests.conversion.coverage", "--load", folder], check=True)
    return pickle.loads((folder / "differences.pickle").read_bytes())


def load(folder: Path) -> None:
    """Compares what each model in the folders in `folder` computes with what it did when it was saved."""
    found: dict[str, float | str] = {}
    for family in (path for path in folder.iterdir() if path.is_dir()):
        batch = pickle.loads((family / "batch.pickle").read_bytes())
        try:
            found[family.name] = max(
                compare(
                    outputs(keras.saving.load_model(path), batch), pickle.loads(path.with_suffix(".saved").read_bytes())
                )
                for path in family.glob("*.keras")
            )
        except Exception as error:
            found[family.name] = _shortened(error, 120)
    (folder / "differences.pickle").write_bytes(pickle.dumps(found))


def generated(backbone: keras.Model) -> str:
    """Whether a causal language model generates the same tokens once it is converted, and once it is folded.

    Empty for other backbones, and for those that need more than tokens to generate.
    """
    import keras_hub

    kinds = [
        kind for kind in vars(keras_hub.models).values()
        if isinstance(kind, type) and issubclass(kind, keras_hub.models.CausalLM)
        and not issubclass(kind, keras_hub.models.Seq2SeqLM) and kind.backbone_cls is type(backbone)
    ]  # fmt: skip
    if not kinds:
        return ""
    try:
        model = kinds[0](backbone=backbone, preprocessor=None)
    except AttributeError:  # PARSeq asks its preprocessor
        return ""
    prompt = {"token_ids": np.array([[1, 2, 0, 0, 0]]), "padding_mask": np.arange(5)[None] < 2}

    def tokens(model: keras.Model) -> np.ndarray:
        model.compile(sampler="greedy")
        return np.asarray(model.generate(prompt, stop_token_ids=None)["token_ids"])

    try:
        expected = tokens(model)
    except Exception:  # a model that needs more than tokens may raise anything
        return ""
    converted = keras_actlab.to_gmp(model, check=False)
    others = [tokens(converted), tokens(keras_actlab.fold(converted, check=False))]
    return "equal" if all(np.array_equal(expected, other) for other in others) else "others"


def row(name: str, make: Callable[[], keras.Model], folder: Path | None = None) -> dict[str, object]:
    """The row of a family, but for what is loaded; without `folder`, where models are saved, that of kernels alone."""
    try:
        keras.utils.set_random_seed(0)
        model = randomized(make())
    except Exception as error:
        return {"family": name, "note": f"does not build: {_shortened(error, 120)}"}
    before = dict(kernels(model))
    found: dict[str, object] = {
        "family": name, "parameters": model.count_params(), "kernel_numbers": sum(before.values()),
    }  # fmt: skip
    try:
        batch = batch_for(model)
        converted = keras_actlab.to_gmp(model, check=False)
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
        if isinstance(batch, str) or folder is None:
            return found
        calls = activation_calls(model, batch)
        models = [converted, folded]
        if calls:
            swapped = keras_actlab.swap_activations(model, keras_actlab.layers.CRReLU, check=False)
            models.append(swapped)
            stayed = activation_calls(swapped, batch)
            del stayed["CRReLU"]
            found |= {
                "activation_calls": calls.total(),
                "swapped": calls.total() - stayed.total(),
                "not_swapped": "; ".join(f"{name} {count}" for name, count in sorted(stayed.items())),
            }
        save(models, batch, folder / name)
        found["generate"] = generated(model) if name in configs() else ""
    except Exception as error:
        found["note"] = _shortened(error, 200)
    return found


def _shortened(error: Exception, length: int) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:length]}"


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.1e}"


def main(*names: str) -> None:
    path = FOLDER / "coverage.csv"
    rows = {}
    if path.exists():
        with path.open() as file:
            rows = {one["family"]: one for one in csv.DictReader(file)}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in families().items():
            if not names or name in names:
                start = time.perf_counter()
                rows[name] = row(name, make, Path(folder))
                print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)
        for name, found in loaded_differences(Path(folder)).items():
            rows[name]["difference_loaded"] = _short(found)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows[key] for key in sorted(rows, key=str.lower))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--load"]:
        load(Path(sys.argv[2]))
    else:
        main(*sys.argv[1:])
