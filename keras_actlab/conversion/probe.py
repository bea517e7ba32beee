"""Comparing a model with its copy on a small random batch, made from the specification of its inputs."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

import keras
import numpy as np

from keras_actlab._private.keras_layers import nested_layers, replaced_call

# Lengths that are tried for axes of unknown length: some models need more than a few pixels or tokens.
SIZES = (8, 32, 64, 128, 224)
# A batch must not take more memory than a model; 2**24 numbers are 64 MB.
MAX_NUMBERS = 2**24

Batch = tuple[tuple[Any, ...], dict[str, Any]]


# Largest differences of outputs, relative to the largest output: of a copy, and of a converted model in float32 and in
# half precision.
EXACT, ROUNDED, ROUNDED_HALF = 1e-5, 1e-3, 0.1

Pairs = Sequence[tuple[str, keras.layers.Layer, keras.layers.Layer]]


class NoProbeError(Exception):
    """Raised, with the reason, if a model cannot be called on a random batch."""


class Comparison:
    """A batch for `model`, and its outputs, to which the outputs of its copy and of the result are compared.

    `pairs` are the name, the layer and the copy of each layer within.

    Raises:
        NoProbeError: With the reason, if outputs cannot be compared.
        ValueError: If those of the copy differ; the message names the first layer whose outputs do.
    """

    def __init__(self, model: keras.Model, copied: keras.Model, pairs: Pairs) -> None:
        self.model, self.pairs = model, pairs
        unbuilt = [name for name, _, twin in pairs if not twin.built]
        # The copy is called first, as a call that builds a layer would change the caller's model.
        self.batch, of_copy = _probe(copied)
        built = [name for name, _, twin in pairs if name in unbuilt and twin.variables]
        if built:
            raise NoProbeError(f"{built[0]} is not built")
        self.outputs = outputs(model, self.batch)
        if differ(of_copy, self.outputs, EXACT):
            if differ(outputs(model, self.batch), self.outputs, EXACT):
                raise NoProbeError("two calls of it on the same batch have different outputs")
            self._raise_difference(copied, EXACT, "The copy")

    def check(self, result: keras.Model, tolerance: float) -> None:
        """Raises a ValueError that names the first layer whose outputs differ, if those of `result` differ."""
        if differ(outputs(result, self.batch), self.outputs, tolerance):
            self._raise_difference(result, tolerance, "The conversion")

    def _raise_difference(self, other: keras.Model, tolerance: float, what: str) -> NoReturn:
        first = first_difference(self.model, other, self.batch, self.pairs, tolerance)
        where = f"The first layer whose outputs differ is {first}." if first else "No single layer's outputs differ."
        raise ValueError(
            f"{what} of model={self.model.name!r} must have its outputs, and has others on a small random batch. "
            f"{where} `check=False` skips this comparison"
        )


def rounding(model: keras.Model) -> float:
    """Returns the largest relative difference of outputs that rounding explains."""
    half = any(layer.compute_dtype in ("float16", "bfloat16") for layer in nested_layers(model, include_self=True))
    return ROUNDED_HALF if half else ROUNDED


def _probe(model: keras.Model) -> tuple[Batch, list[np.ndarray]]:
    reason = "no size fits its inputs"
    for size in SIZES:
        batch = _batch(model, size)
        try:
            return batch, outputs(model, batch)
        except Exception as error:  # a model may raise anything on inputs that it is not made for
            reason = f"it cannot be called on a random batch: {_shortened(error)}"
    raise NoProbeError(reason)


def outputs(model: keras.Model, batch: Batch) -> list[np.ndarray]:
    """Returns the outputs of `model` at inference, without a change of its state (seeds, moving means)."""
    arguments, keywords = batch
    if "training" in model.call_signature_parameters:
        keywords = keywords | {"training": False}
    with keras.StatelessScope(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the model may warn of random inputs
        return _arrays(model(*arguments, **keywords))


def differ(one: Sequence[np.ndarray], other: Sequence[np.ndarray], tolerance: float) -> bool:
    """Returns whether entries differ by more than `tolerance` times the largest."""
    if [array.shape for array in one] != [array.shape for array in other]:
        return True
    return any(
        _difference(x, y) > tolerance * (np.nanmax(np.abs(y), initial=0.0) + 1e-6)
        for x, y in zip(one, other, strict=True)
    )


def first_difference(
    model: keras.Model,
    other: keras.Model,
    batch: Batch,
    pairs: Pairs,
    tolerance: float,
) -> str | None:
    """Returns the name of the first layer whose outputs differ, of `pairs` of a name and a layer of each model."""
    records = []
    for one, layers in ((model, [pair[1] for pair in pairs]), (other, [pair[2] for pair in pairs])):
        with _recorded(layers) as record:
            outputs(one, batch)
        records.append(record)
    names = {id(layer): (name, id(twin)) for name, layer, twin in pairs}
    for key, found in records[0].items():
        name, twin = names[key]
        if twin in records[1] and differ(records[1][twin], found, tolerance):
            return name
    return None


@contextmanager
def _recorded(layers: Sequence[keras.layers.Layer]) -> Iterator[dict[int, list[np.ndarray]]]:
    """Within, the outputs of the first call of each of `layers` are recorded, in the order in which the calls end."""
    record: dict[int, list[np.ndarray]] = {}

    def spy(layer: keras.layers.Layer) -> Callable[..., Any]:
        call = layer.call

        def recording(*arguments: Any, **keywords: Any) -> Any:
            found = call(*arguments, **keywords)
            record.setdefault(id(layer), _arrays(found))
            return found

        return recording

    unique = {id(layer): layer for layer in layers if "call" not in vars(layer)}.values()
    with ExitStack() as stack:
        for layer in unique:
            stack.enter_context(replaced_call(layer, spy(layer)))
        yield record


def _batch(model: keras.Model, size: int) -> Batch:
    """Random inputs for `model`, in which axes of unknown length have the length `size`."""
    rng = np.random.default_rng(0)

    def array(tensor: keras.KerasTensor) -> Any:
        shape = (tensor.shape[0] or 2, *(length or size for length in tensor.shape[1:]))
        if math.prod(shape) > MAX_NUMBERS:
            raise NoProbeError(f"a batch of the shape {shape} is too large to compare outputs on")
        name = str(tensor.name)
        if tensor.dtype == "bool" or "mask" in name:
            return keras.ops.ones(shape, tensor.dtype)
        if "int" in tensor.dtype:
            return keras.ops.convert_to_tensor(rng.integers(0, 2, shape), dtype=tensor.dtype)
        if "float" in tensor.dtype:
            return keras.ops.convert_to_tensor(rng.standard_normal(shape), dtype=tensor.dtype)
        raise NoProbeError(f"its input {name!r} has the dtype {tensor.dtype}")

    if getattr(model, "inputs", None):
        # A Sequential model has no `input` of the right structure.
        structure = model.input if isinstance(model, keras.Function) else model.inputs[0]
        return (keras.tree.map_structure(array, structure),), {}
    shapes = model.get_build_config() or {}
    shapes = shapes.get("shapes_dict", shapes)
    if not shapes:
        raise NoProbeError("the shape of its input is not known")
    arrays = {
        name.removesuffix("_shape"): keras.tree.map_shape_structure(
            lambda shape: array(keras.KerasTensor(shape, dtype=model.input_dtype, name="input")), shape
        )
        for name, shape in shapes.items()
    }
    return ((next(iter(arrays.values())),), {}) if len(arrays) == 1 else ((), arrays)


def _arrays(outputs: Any) -> list[np.ndarray]:
    tensors = [one for one in keras.tree.flatten(outputs) if keras.ops.is_tensor(one)]
    return [np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(one, "float32"))) for one in tensors]


def _difference(x: np.ndarray, y: np.ndarray) -> float:
    if not np.array_equal(np.isfinite(x), np.isfinite(y)):
        return math.inf
    return float(np.max(np.abs(x - y), where=np.isfinite(x - y), initial=0.0))


def _shortened(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
