"""The key of a training run: the values, as plain JSON, that must not change while it is resumed."""

import hashlib
import json
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_actlab import distribution
from keras_actlab._private.keras_layers import nested_layers

if TYPE_CHECKING:
    import grain

# Keys that are removed from configurations: the run has its own seed, the weights have shapes, and Keras numbers shared
# objects by their addresses.
IGNORED = {"seed", "build_config", "build_input_shape", "shared_object_id"}
# Arguments of `compile` that are removed: the optimizer has its own entry, and the others change no result.
NOT_COMPILED = {"optimizer", "jit_compile", "run_eagerly"}
# Keys of a model's configuration under which layers are referred to by name.
REFERENCES = {"name", "keras_history", "input_layers", "output_layers"}
# Number of differences that an error shows.
SHOWN = 5


def fit_key(
    model: keras.Model,
    batches: "grain.MapDataset",
    validation: "grain.MapDataset | None",
    settings: Mapping[str, Any],
    **numbers: int,
) -> dict[str, Any]:
    """Returns the values that must not change while a run is resumed.

    These are: settings and numbers; configurations of the model, its optimizer, losses and metrics, with schedules and
    dtype policies; shapes of the weights; digests of the first, the middle and the last batch of this process. Layer
    names are kept as references only, because Keras numbers layers over the life of a process. The code of custom
    layers and functions is not included.

    Raises:
        TypeError: If `settings` holds something that JSON cannot, or a batch something else than arrays.
        ValueError: If a batch is missing, or differs when it is read again.
    """
    names = {name for layer in nested_layers(model, include_self=True) for name in _names(layer)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")
        whole, optimizer, compiled = _config(model), _config(model.optimizer), _compile_config(model)
    _, processes = distribution.data_shard()
    return {
        "settings": _plain_settings(settings),
        **numbers,
        "processes": processes,
        "backend": keras.backend.backend(),
        "model": _without_names(_plain(whole), names.__contains__, {}),
        "optimizer": _without_names(_plain(optimizer), lambda name: True, {}),
        "compiled": _without_names(_plain(compiled), lambda name: re.search(r"_\d+$", name) is not None, {}),
        "weights": [[variable.name, variable.dtype, *variable.shape] for variable in model.weights],
        "batches": _digests(batches, numbers["steps_per_epoch"] * numbers["epochs"], "batches"),
        "validation": None if validation is None else _digests(validation, len(validation), "validation"),
    }


def differences(new: Any, old: Any, path: str = "") -> list[str]:
    """Returns a text for each place at which two plain values differ; None and a missing entry are the same."""
    if isinstance(new, dict) and isinstance(old, dict):
        pairs = [(f"{path}.{key}" if path else key, new.get(key), old.get(key)) for key in {**new, **old}]
    elif isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        pairs = [(f"{path}[{index}]", *pair) for index, pair in enumerate(zip(new, old, strict=True))]
    else:
        return [] if new == old else [f"{path}={_short(new)}, there {_short(old)}"]
    return [text for place, one, other in pairs for text in differences(one, other, place)]


def shown(texts: list[str]) -> str:
    """Returns the first few differences as one text."""
    more = [f"and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
    return "; ".join([*texts[:SHOWN], *more])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _names(layer: keras.Layer) -> Iterator[str]:
    yield layer.name
    operations = getattr(layer, "operations", ())
    yield from (operation.name for operation in operations if isinstance(operation, keras.Operation))


def _config(part: Any) -> Any:
    """Returns the configuration of a layer, or of the layers that it holds where it has none."""
    try:
        config = keras.saving.serialize_keras_object(part)
    except Exception:  # a user's get_config may raise any type
        config = {"class_name": type(part).__name__}
        if isinstance(part, keras.Layer):
            config["layers"] = [_config(layer) for layer in nested_layers(part, recursive=False)]
    if isinstance(config, dict):
        config.pop("compile_config", None)
    return config


def _compile_config(model: keras.Model) -> dict[str, Any]:
    try:
        config = model.get_compile_config()
    except Exception:  # as above
        return {}
    return {name: value for name, value in config.items() if name not in NOT_COMPILED}


def _plain_settings(settings: Mapping[str, Any]) -> Any:
    for name, value in settings.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"`settings` must hold what JSON can. Received: {name}={value!r} ({error})") from error
    return _plain(json.loads(json.dumps(dict(settings))), ignored=set())


def _plain(value: Any, ignored: set[str] = IGNORED) -> Any:
    """Returns a value as JSON stores it, with texts for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "__lambda__":  # Keras serializes its code in no fixed form
            return "lambda"
        return {str(key): _plain(inner, ignored) for key, inner in value.items() if key not in ignored}
    if isinstance(value, (list, tuple)):
        return [_plain(inner, ignored) for inner in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return _plain(value.item(), ignored) if isinstance(value, np.generic) else repr(type(value))


def _without_names(value: Any, is_counted: Callable[[str], bool], known: dict[str, str], refers: bool = False) -> Any:
    """Replaces names that Keras numbers over the life of a process by their order in the configuration."""
    if isinstance(value, dict):
        return {
            key: _without_names(inner, is_counted, known, refers or key in REFERENCES) for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_without_names(inner, is_counted, known, refers) for inner in value]
    if refers and isinstance(value, str) and is_counted(value):
        return known.setdefault(value, f"name {len(known)}")
    return value


def _digests(batches: "grain.MapDataset", count: int, argument: str) -> dict[str, Any]:
    first = _digest(batches, 0, argument)
    again = _digest(batches, 0, argument)
    if first != again:
        raise ValueError(
            f"`{argument}` must give the same batch each time that it is read: draw random numbers in `random_map`. "
            f"Received: batch 0 with the digests {first[-1]} and {again[-1]}"
        )
    others = {"middle": count // 2, "last": count - 1}
    return {"first": first, **{place: _digest(batches, index, argument) for place, index in others.items()}}


def _digest(batches: "grain.MapDataset", index: int, argument: str) -> list[str]:
    """Returns dtype and shape of each array of a batch, and a digest of all their values."""
    batch = batches[index]
    if batch is None:
        raise ValueError(f"`{argument}` must have a batch at each index: do not filter it. Received: none at {index}")
    digest, texts = hashlib.blake2b(digest_size=8), []
    for part in keras.tree.flatten(batch):
        if not hasattr(part, "dtype") or not np.ndim(part):
            raise TypeError(
                f"`{argument}` must hold arrays whose first axis counts examples. Received: at {index} a "
                f"{type(part).__name__}, {part!r:.200}"
            )
        array = np.asarray(part)
        texts.append(f"{array.dtype} {list(array.shape)}")
        digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).data)
    return [*texts, digest.hexdigest()]
