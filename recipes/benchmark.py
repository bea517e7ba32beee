"""Time and memory of the layers: ratios to a baseline in the same process, on one backend at a time.

All items of a group are compiled first. Then every item runs once in each round, in a rotating order, so that other
load on the machine affects all of them. A ratio is the time of an item divided by that of its baseline in the same
round. The median and the quartiles over rounds are reported. A ratio below 1 is faster than the baseline.

- activations: a forward pass, and one with the backward pass, of 4096 x 4096 numbers; and the bytes that the backward
  pass needs from the forward pass, compiled separately, for each byte of the input.
- direction map: unit vectors from angles, forward and backward, beside a direct implementation of the formula.
- layers: training steps of one layer in several parameterizations.
- VGG-6: training steps of the network of Chen and Ge (2024) in several parameterizations.
- folding: inference of VGG-6 in plain layers, geometric ones, and geometric ones that are folded back.
- bandwidth: reading and writing as many numbers as the activations do, a lower bound of their time.
- models (on request): training steps of ResNet-18 and ViT-Tiny of keras-hub, with other activations.
- scaling (on request): forward and backward passes for several numbers of elements, intervals, diagonals and inputs.

`--device gpu` raises an error unless the backend has a GPU. It also measures a dense layer of 4096 units, larger
batches, and, on JAX and PyTorch, the direction map and geometric layers with the fused kernel. It begins no section
after six minutes, so that a run fits into eight, and prints which sections it left out. For PyTorch, add `--compiled`.

- `peak_bytes` is the high-water mark of the GPU's memory: of the item with all that the group holds on PyTorch, and of
  the process so far on JAX, which cannot reset it.
- `gigabytes_per_second` is the bandwidth that an elementwise item or the direction map achieves, if it reads and writes
  each number once: input and output in a forward pass; with the backward pass also input, cotangent and gradient.

Each run appends its rows to one file, so that backends and versions can be compared.
"""

import gc
import importlib
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import joblib
import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import typer
from keras.layers import BatchNormalization, Conv2D, Dense, GlobalAveragePooling1D, GlobalAveragePooling2D, MaxPooling2D
from matplotlib.figure import Figure

import keras_actlab
from keras_actlab.colours import COLOURS
from keras_actlab.layers import (
    TMAF,
    CRReLU,
    EntropyActivation,
    GmPConv2D,
    GmPDense,
    InputMeanNormalization,
    WeightNormalization,
)
from keras_actlab.ops import angles_to_direction, enable_fused_direction, remat
from recipes.common import cli, files

BACKEND = keras.backend.backend()
COLUMNS = [
    *("run", "backend", "mode", "device", "versions", "threads"),
    *("section", "item", "baseline", "dtype", "size", "what"),
    *("seconds", "low", "high", "ratio", "ratio_low", "ratio_high", "first_call", "bytes_per_input_byte"),
    *("peak_bytes", "gigabytes_per_second"),
]
Tensor = Any
Function = Callable[[Tensor, list[Tensor]], Tensor]  # of an input and parameters
Row = dict[str, Any]


# Functions for which Keras has no common name.


def compiled(function: Callable, mode: str) -> Callable:
    """Returns a function that the backend compiles at its first call, or the function itself."""
    match BACKEND:
        case "jax":
            import jax

            return jax.jit(function)
        case "tensorflow":
            import tensorflow as tf

            return tf.function(function, jit_compile=True)
    if mode == "eager":
        return function
    import torch

    # PyTorch stops compiling a line of Keras after 8 different calls by default, and all layers share these lines.
    torch._dynamo.config.recompile_limit = 1000
    return torch.compile(function, dynamic=False)  # a program for each shape, as on the other backends


def gradient(function: Function, mode: str) -> Callable[[Tensor, list[Tensor], Tensor], tuple[Tensor, Any]]:
    """Returns a function of x, parameters and a cotangent: the output, and gradients to x and every parameter."""
    match BACKEND:
        case "jax":
            import jax

            def both(x: Tensor, parameters: list[Tensor], cotangent: Tensor) -> tuple[Tensor, Any]:
                y, backward = jax.vjp(function, x, parameters)
                return y, backward(cotangent)

            return compiled(both, mode)
        case "tensorflow":
            import tensorflow as tf

            def both(x: Tensor, parameters: list[Tensor], cotangent: Tensor) -> tuple[Tensor, Any]:
                with tf.GradientTape() as tape:
                    tape.watch([x, *parameters])
                    y = function(x, parameters)
                return y, tape.gradient(y, [x, *parameters], cotangent, unconnected_gradients="zero")

            return compiled(both, mode)
    import torch

    forward = compiled(function, mode)  # PyTorch compiles the backward pass with it

    def both(x: Tensor, parameters: list[Tensor], cotangent: Tensor) -> tuple[Tensor, Any]:
        leaves = [tensor.detach().requires_grad_() for tensor in (x, *parameters)]
        y = forward(leaves[0], leaves[1:])
        return y, torch.autograd.grad(y, leaves, cotangent, allow_unused=True)

    return both


def wait(result: Any) -> None:
    """Waits until the result is computed."""
    match BACKEND:
        case "jax":
            import jax

            jax.block_until_ready(result)
        case "tensorflow":
            import tensorflow as tf

            tf.test.experimental.sync_devices()
        case "torch":
            import torch

            if torch.cuda.is_available():
                torch.cuda.synchronize()


def bytes_kept(function: Function, x: Tensor, parameters: list[Tensor], mode: str) -> float:
    """Returns the bytes that a separately compiled forward pass keeps for the backward pass, for each byte of `x`."""
    match BACKEND:
        case "jax":
            import jax

            _, backward = compiled(lambda x, parameters: jax.vjp(function, x, parameters), mode)(x, parameters)
            kept = {leaf.unsafe_buffer_pointer(): leaf.nbytes for leaf in jax.tree.leaves(backward)}
            return sum(kept.values()) / x.nbytes
        case "tensorflow":
            return _bytes_kept_on_tensorflow(function, x, parameters)
    import torch

    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    forward = compiled(function, mode)
    leaves = [tensor.detach().requires_grad_() for tensor in (x, *parameters)]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = forward(leaves[0], leaves[1:])
    del y  # not earlier, so that no address is used twice
    return sum(kept.values()) / x.untyped_storage().nbytes()


def _bytes_kept_on_tensorflow(function: Function, x: Tensor, parameters: list[Tensor]) -> float:
    """Returns the bytes of all tensors that Python finds while a tape is held, but for those before it and the output.

    Of a function in a graph, not one compiled by XLA, which would copy what it hands on.
    """
    import tensorflow as tf

    def address(tensor: Tensor) -> int:
        return np.asarray(memoryview(tensor)).ctypes.data

    def alive() -> dict[int, Tensor]:
        gc.collect()
        # By `type`, since `isinstance` asks objects for their class, at which some of them warn.
        found = (thing for thing in gc.get_objects() if issubclass(type(thing), tf.Tensor))
        return {id(tensor): tensor for tensor in found if hasattr(tensor, "numpy")}

    forward = tf.function(function)
    forward(x, parameters)
    before = set(alive())
    with tf.GradientTape() as tape:
        tape.watch([x, *parameters])
        y = forward(x, parameters)
    found = [tensor for name, tensor in alive().items() if name not in before]
    kept = {address(tensor): tensor.shape.num_elements() * tensor.dtype.size for tensor in found}
    kept.pop(address(y), None)
    del tape, found
    return sum(kept.values()) / (x.shape.num_elements() * x.dtype.size)


def device() -> str:
    """Returns the names of the platform and of the GPU, or of the processor if there is no GPU."""
    name = ""
    match BACKEND:
        case "jax":
            import jax

            if jax.default_backend() != "cpu":
                name = jax.devices()[0].device_kind
        case "tensorflow":
            import tensorflow as tf

            for found in tf.config.list_physical_devices("GPU")[:1]:
                name = tf.config.experimental.get_device_details(found)["device_name"]
        case "torch":
            import torch

            if torch.cuda.is_available():
                name = torch.cuda.get_device_name()
    processors = Path("/proc/cpuinfo")  # on Linux, where Python knows the architecture only
    if not name and processors.exists():
        lines = (line.split(":", 1) for line in processors.read_text().splitlines() if line.startswith("model name"))
        name = next((value.strip() for _, value in lines), "")
    return f"{platform.system()}, {name or platform.processor()}"


def check_gpu(found: str) -> None:
    """Raises unless the name of a platform that a backend computes on is that of a GPU."""
    if found not in ("cuda", "gpu", "rocm", "mps"):
        raise typer.BadParameter(
            f"--device gpu needs a GPU that the backend computes on. Received: {BACKEND} computes on {found}"
        )


def platform_of_backend() -> str:
    """Returns the name of the platform that the backend computes on."""
    x = keras.ops.convert_to_tensor(0.0)
    match BACKEND:
        case "jax":
            return next(iter(x.devices())).platform
        case "tensorflow":
            return x.device.rpartition("device:")[2].partition(":")[0].lower()
    return x.device.type


def high_water_mark(function: Callable[[], None]) -> int | None:
    """Calls a function, and returns the high-water mark of the GPU's memory in bytes, which JAX does not reset."""
    if BACKEND == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            function()
            return torch.cuda.max_memory_allocated()
    function()
    if BACKEND == "jax":
        import jax

        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return None


# Numbers that are read or written for each number of the input, if each is read and written once.
TRAFFIC = {"forward": 2, "forward+backward": 5}
ELEMENTWISE = ("activations", "direction map", "bandwidth")  # sections


def with_bandwidth(section: str, row: Row) -> Row:
    """Returns a row with the achieved bandwidth, if its section measures it."""
    if section not in ELEMENTWISE or row["what"] not in TRAFFIC:
        return row
    numbers = math.prod(int(length) for length in row["size"].split(" x "))
    moved = TRAFFIC[row["what"]] * numbers * {"float32": 4, "bfloat16": 2}[row["dtype"]]
    return row | {"gigabytes_per_second": moved / row["seconds"] / 1e9}


def threads() -> int:
    """Returns the number of threads that compute."""
    if BACKEND != "torch":
        return joblib.cpu_count()
    import torch

    return torch.get_num_threads()


# Timing.


def side_by_side(
    functions: dict[str, Callable[[], None]], repetitions: int
) -> tuple[pd.DataFrame, dict[str, int | None]]:
    """Returns the seconds of each function (columns) in each round (rows), and the high-water mark of memory of each.

    Round 0 is the first call of all, which compiles. Between it and round 1, each function runs once more, untimed, for
    the high-water marks.
    """

    def seconds(function: Callable[[], None]) -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    rounds = [{name: seconds(function) for name, function in functions.items()}]
    marks = {name: high_water_mark(function) for name, function in functions.items()}
    names = list(functions)
    for _ in range(repetitions):
        rounds.append({name: seconds(functions[name]) for name in names})
        names = names[1:] + names[:1]
    return pd.DataFrame(rounds, columns=list(functions)), marks


@dataclass(frozen=True)
class Bench:
    """How the items of a run are measured: compiled or not, the number of rounds, and the size, larger for a GPU."""

    mode: str
    repetitions: int
    smoke: bool
    gpu: bool = False

    @property
    def jit_compile(self) -> bool:
        """Whether Keras compiles the models."""
        return self.mode != "eager"

    @property
    def kernel(self) -> bool:
        """Whether to measure the fused kernel of the direction map."""
        return self.gpu and not self.smoke and BACKEND != "tensorflow"

    def compare(
        self,
        functions: dict[str, Callable[[], None]],
        pairs: list[tuple[str, str]],
        size: str,
        what: str,
        dtype: str = "float32",
    ) -> Iterator[Row]:
        """Yields a row for each pair of an item and its baseline, which all run in the same rounds."""
        found, marks = side_by_side(functions, self.repetitions)
        seconds = found.iloc[1:]
        for item, baseline in pairs:
            low, median, high = seconds[item].quantile([0.25, 0.5, 0.75])
            ratio_low, ratio, ratio_high = (seconds[item] / seconds[baseline]).quantile([0.25, 0.5, 0.75])
            yield {
                "item": item,
                "baseline": baseline,
                "dtype": dtype,
                "size": size,
                "what": what,
                "seconds": median,
                "low": low,
                "high": high,
                "ratio": ratio,
                "ratio_low": ratio_low,
                "ratio_high": ratio_high,
                "first_call": found.loc[0, item],
                "peak_bytes": marks.get(item),
            }

    def forward(self, function: Function, x: Tensor, parameters: list[Tensor]) -> Callable[[], None]:
        """Returns a function that runs a forward pass."""
        run = compiled(function, self.mode)
        return lambda: wait(run(x, parameters))

    def forward_backward(
        self, function: Function, x: Tensor, parameters: list[Tensor], cotangent: Tensor
    ) -> Callable[[], None]:
        """Returns a function that runs a forward and a backward pass."""
        run = gradient(function, self.mode)
        return lambda: wait(run(x, parameters, cotangent))

    def training_step(self, model: keras.Model, x: Tensor, y: Tensor, **settings: Any) -> Callable[[], None]:
        """Compiles a model, and returns a function that runs a training step of it."""
        model.compile(**settings, jit_compile=self.jit_compile)
        return lambda: wait(model.train_on_batch(x, y))


def against(baseline: str, items: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns the pairs of all items with one baseline."""
    return [(item, baseline) for item in items]


def normal(*shape: int, dtype: str = "float32") -> Tensor:
    """Returns standard normal numbers with a fixed seed."""
    return keras.ops.cast(np.random.default_rng(0).standard_normal(shape, "float32"), dtype)


def by(*shape: int) -> str:
    """Returns a shape in words."""
    return " x ".join(map(str, shape))


# Activations.


def thresholds(intervals: int) -> tuple[float, ...]:
    """Returns evenly spaced thresholds, one at 0, that make so many intervals, an even number, about [-4, 4]."""
    return tuple(8 * (k - intervals // 2 + 1) / intervals for k in range(intervals - 1))


def gelu(approximate: bool, **options: Any) -> keras.Layer:
    """Returns a layer that applies GELU."""
    return keras.layers.Activation(lambda x: keras.activations.gelu(x, approximate=approximate), **options)


EXACT, DIAGONAL, FINE = "GELU (exact)", "TMAF diagonal, 4 intervals", "TMAF diagonal, 64 intervals"
TRIDIAGONAL = "TMAF tri-diagonal, 4 intervals"
ACTIVATIONS: dict[str, Callable[..., keras.Layer]] = {
    "ReLU": keras.layers.ReLU,
    EXACT: lambda **options: gelu(False, **options),
    "GELU (tanh)": lambda **options: gelu(True, **options),
    "SiLU": lambda **options: keras.layers.Activation("silu", **options),
    "Mish": lambda **options: keras.layers.Activation("mish", **options),
    "PReLU": keras.layers.PReLU,
    "CRReLU": CRReLU,
    DIAGONAL: lambda **options: TMAF(bandwidth=0, **options),
    TRIDIAGONAL: TMAF,
    FINE: lambda **options: TMAF(bandwidth=0, thresholds=thresholds(64), **options),
    "EntropyActivation": EntropyActivation,
    "EntropyActivation, fixed": lambda **options: EntropyActivation(trainable=False, **options),
}
ACTIVATION_PAIRS = [
    *against(EXACT, ACTIVATIONS),
    *((item, "PReLU") for item in (DIAGONAL, TRIDIAGONAL, FINE)),
    (FINE, DIAGONAL),
]


def stateless(layer: keras.Layer, shape: tuple[int, ...]) -> tuple[Function, list[Tensor]]:
    """Returns a layer as a function of its input and its trainable parameters, and these."""
    layer.build(shape)

    def function(x: Tensor, parameters: list[Tensor]) -> Tensor:
        # Not `stateless_call`, which leaves out the cast of the parameters to the compute dtype.
        with keras.StatelessScope(zip(layer.trainable_variables, parameters, strict=True)):
            return layer(x)

    return function, [keras.ops.stop_gradient(variable.value) for variable in layer.trainable_variables]


def activations(bench: Bench) -> Iterator[Row]:
    """Measures passes of activations, and what the forward pass keeps."""
    shape = (64, 32) if bench.smoke else (4096, 4096)
    for dtype, policy in {"float32": "float32", "bfloat16": "mixed_bfloat16"}.items():
        x = normal(*shape, dtype=dtype)
        cotangent = keras.ops.ones_like(x)
        items = {name: stateless(make(dtype=policy), shape) for name, make in ACTIVATIONS.items()}
        passes = {
            "forward": {name: bench.forward(f, x, parameters) for name, (f, parameters) in items.items()},
            "forward+backward": {
                name: bench.forward_backward(f, x, parameters, cotangent) for name, (f, parameters) in items.items()
            },
        }
        for what, functions in passes.items():
            yield from bench.compare(functions, ACTIVATION_PAIRS, by(*shape), what, dtype)
        if BACKEND == "tensorflow" and dtype != "float32":
            continue  # NumPy, which is used to find the address of a tensor, cannot read it
        for name, (f, parameters) in items.items():
            row = {"item": name, "dtype": dtype, "size": by(*shape), "what": "bytes kept"}
            yield row | {"bytes_per_input_byte": bytes_kept(f, x, parameters, bench.mode)}


# Directions.


def cumulative_product(angles: Tensor) -> Tensor:
    """Returns unit vectors from angles by the formula as it stands: products of sines, times a cosine."""
    sines, cosines = keras.ops.sin(angles), keras.ops.cos(angles)
    one = keras.ops.ones_like(angles[:1])
    products = keras.ops.concatenate([one, keras.ops.cumprod(sines, axis=0)], axis=0)
    return products * keras.ops.concatenate([cosines, one], axis=0)


def direction_pass(bench: Bench, function: Callable[[Tensor], Tensor], rows: int, units: int) -> Callable[[], None]:
    """Returns a function that runs a forward and a backward pass of a map from angles to directions."""
    angles = np.random.default_rng(0).uniform(1.2, 1.9, (rows, units)).astype("float32")
    x, cotangent = keras.ops.convert_to_tensor(angles), normal(rows + 1, units)
    return bench.forward_backward(lambda x, _: function(x), x, [], cotangent)


def with_kernel(function: Callable[[], None]) -> Callable[[], None]:
    """Returns a function that runs with the fused kernel of the direction map."""

    def run() -> None:
        enable_fused_direction()
        try:
            function()
        finally:
            enable_fused_direction(False)

    return run


def direction_map(bench: Bench) -> Iterator[Row]:
    """Measures two ways from angles to directions."""
    maps = {"cumulative product": cumulative_product, "angles_to_direction": angles_to_direction}
    if bench.kernel:
        maps["fused kernel"] = angles_to_direction
    for rows, units in [(16, 4)] if bench.smoke else [(576, 64), (2304, 512), (4608, 512), (768, 3072)]:
        functions = {name: direction_pass(bench, function, rows, units) for name, function in maps.items()}
        functions = {name: with_kernel(f) if name == "fused kernel" else f for name, f in functions.items()}
        yield from bench.compare(functions, against("cumulative product", maps), by(rows, units), "forward+backward")


# Layers and models.


def parameterized(item: str, plain: Callable[..., keras.Layer], geometric: Callable[..., keras.Layer]) -> list:
    """Returns the layers of a parameterization, given functions that make a plain layer and a geometric one."""
    match item:
        case "GmP" | "GmP fused":
            return [geometric()]
        case "GmP+IMN":
            return [InputMeanNormalization(), geometric()]
        case "WN":
            return [WeightNormalization(plain())]
        case "BN":
            return [plain(use_bias=False), BatchNormalization()]
    return [plain()]


def dense(item: str, units: int) -> list[keras.Layer]:
    """Returns a dense layer in a parameterization."""
    return parameterized(item, lambda **options: Dense(units, **options), lambda: GmPDense(units))


def convolution(item: str, filters: int) -> list[keras.Layer]:
    """Returns a 3 x 3 convolution in a parameterization."""
    settings = {"filters": filters, "kernel_size": 3, "padding": "same", "data_format": "channels_last"}
    return parameterized(item, lambda **options: Conv2D(**settings, **options), lambda: GmPConv2D(**settings))


def layers(bench: Bench) -> Iterator[Row]:
    """Measures training steps of single layers."""
    widths, filters, side = ((8,), 4, 6) if bench.smoke else ((1024, 4096) if bench.gpu else (1024,), 64, 32)
    batches, of_images = ((2,), (2,)) if bench.smoke else ((32, 256), (4, 64, 256) if bench.gpu else (4, 64))
    groups = [(f"Dense {units}", dense, (units,), batches) for units in widths]
    groups.append((f"Conv2D {filters}, {side} x {side}", convolution, (side, side, filters), of_images))
    for name, make, shape, batches in groups:
        for batch in batches:
            x, y = normal(batch, *shape), keras.ops.zeros((batch, *shape))
            steps = {}
            for item in ("plain", "GmP", *["GmP fused"] * bench.kernel, "WN", "BN"):
                model = keras.Sequential([keras.Input(shape), *make(item, shape[-1])])
                step = bench.training_step(model, x, y, optimizer=keras.optimizers.SGD(0.01), loss="mse")
                steps[item] = with_kernel(step) if item == "GmP fused" else step
            yield from bench.compare(steps, against("plain", steps), f"{name}, batch {batch}", "training step")


def vgg6(item: str, smoke: bool) -> keras.Sequential:
    """Returns the VGG-6 of Chen and Ge (2024) in a parameterization; the output layer is a plain Dense layer."""
    hidden = []
    for filters in (4,) if smoke else (128, 256, 512):
        for _ in range(2):
            hidden += [*convolution(item, filters), keras.layers.ReLU()]
        hidden.append(MaxPooling2D(data_format="channels_last"))
    side, classes = (8, 10) if smoke else (32, 1000)
    pooling = GlobalAveragePooling2D(data_format="channels_last")
    return keras.Sequential([keras.Input((side, side, 3)), *hidden, pooling, Dense(classes)])


def resnet18(smoke: bool) -> keras.Model:
    """Returns ResNet-18 with ReLU, for small images."""
    import keras_hub

    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64] if smoke else [64, 128, 256, 512],
        stackwise_num_blocks=[1] if smoke else [2, 2, 2, 2],
        stackwise_num_strides=[1] if smoke else [1, 2, 2, 2],
        block_type="basic_block",
        image_shape=(8, 8, 3) if smoke else (32, 32, 3),
        data_format="channels_last",
    )
    pooling = GlobalAveragePooling2D(data_format="channels_last")
    return keras.Sequential([keras.Input(backbone.input_shape[1:]), backbone, pooling, Dense(10 if smoke else 1000)])


def vit_tiny(smoke: bool) -> keras.Model:
    """Returns ViT-Tiny with GELU, for small images in patches of 4 x 4."""
    import keras_hub

    backbone = keras_hub.models.ViTBackbone(
        image_shape=(8, 8, 3) if smoke else (32, 32, 3),
        patch_size=4,
        num_layers=1 if smoke else 12,
        num_heads=3,
        hidden_dim=12 if smoke else 192,
        mlp_dim=24 if smoke else 768,
        data_format="channels_last",
    )
    head = [GlobalAveragePooling1D(data_format="channels_last"), Dense(10 if smoke else 1000)]
    return keras.Sequential([keras.Input(backbone.input_shape[1:]), backbone, *head])


def steps_of(bench: Bench, name: str, baseline: str, batch: int, networks: dict[str, keras.Model]) -> Iterator[Row]:
    """Measures training steps of whole networks, in three rounds at most."""
    bench = replace(bench, repetitions=min(bench.repetitions, 3))
    batch = 2 if bench.smoke else batch
    steps = {}
    for item, model in networks.items():
        steps[item] = bench.training_step(
            model,
            normal(batch, *model.input_shape[1:]),
            keras.ops.arange(batch, dtype="int32") % model.output_shape[-1],
            optimizer=keras.optimizers.SGD(0.01, momentum=0.9),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
    yield from bench.compare(steps, against(baseline, steps), f"{name}, batch {batch}", "training step")


def parameterizations(bench: Bench) -> Iterator[Row]:
    """Measures training steps of VGG-6 in four parameterizations."""
    networks = {item: vgg6(item, bench.smoke) for item in ("plain", "BN", "GmP+IMN", "WN")}
    yield from steps_of(bench, "VGG-6", "BN", 256 if bench.gpu else 64, networks)


def models(bench: Bench) -> Iterator[Row]:
    """Measures training steps of models of keras-hub with their own activation and with others."""
    swap = keras_actlab.swap_activations
    resnet, vit = resnet18(bench.smoke), vit_tiny(bench.smoke)
    resnets = {"ReLU": resnet, "CRReLU": swap(resnet, CRReLU), "TMAF diagonal": swap(resnet, TMAF(bandwidth=0))}
    vits = {"GELU": vit, "CRReLU": swap(vit, CRReLU), "EntropyActivation": swap(vit, EntropyActivation)}
    batch = 256 if bench.gpu else 16
    yield from steps_of(bench, "ResNet-18", "ReLU", batch, resnets)
    yield from steps_of(bench, "ViT-Tiny", "GELU", batch, vits)


def folding(bench: Bench) -> Iterator[Row]:
    """Measures inference in plain layers, geometric ones, and geometric ones that are folded."""
    plain = vgg6("plain", bench.smoke)
    geometric = keras_actlab.to_gmp(plain)
    networks = {"plain": plain, "folded": keras_actlab.fold(geometric), "geometric": geometric}
    batch = 2 if bench.smoke else 64
    x = normal(batch, *plain.input_shape[1:])

    def inference(model: keras.Model) -> Callable[[], None]:
        model.compile(jit_compile=bench.jit_compile)
        return lambda: wait(model.predict_on_batch(x))

    functions = {item: inference(model) for item, model in networks.items()}
    yield from bench.compare(functions, against("plain", networks), f"VGG-6, batch {batch}", "inference")


# Limits.


def bandwidth(bench: Bench) -> Iterator[Row]:
    """Measures the time to read and to write as many numbers as an activation does."""
    shape = (64, 32) if bench.smoke else (4096, 4096)
    functions = {"x + 1": bench.forward(lambda x, _: x + 1, normal(*shape), [])}
    yield from bench.compare(functions, against("x + 1", functions), by(*shape), "forward")


def scaling(bench: Bench) -> Iterator[Row]:
    """Measures forward and backward passes for growing sizes."""

    def activation_pass(layer: keras.Layer, shape: tuple[int, int]) -> Callable[[], None]:
        function, parameters = stateless(layer, shape)
        x = normal(*shape)
        return bench.forward_backward(function, x, parameters, keras.ops.ones_like(x))

    square = (64, 32) if bench.smoke else (1024, 1024)
    units = 4 if bench.smoke else 512
    sizes = {
        "elements": (10**power for power in range(4, 6 if bench.smoke else 9)),
        "intervals": (2**power for power in range(1, 3 if bench.smoke else 9)),
        "bandwidth": (0, 1) if bench.smoke else (0, 1, 2, 4, 8, 16),
        "fan-in": (2 ** (2 * power + 1) for power in range(2 if bench.smoke else 7)),
    }
    for what, numbers in sizes.items():
        for number in numbers:
            match what:
                case "elements":
                    makers = {name: ACTIVATIONS[name] for name in (EXACT, "CRReLU")}
                    functions = {name: activation_pass(make(), (number // 100, 100)) for name, make in makers.items()}
                case "intervals":
                    layer = TMAF(bandwidth=0, thresholds=thresholds(number))
                    functions = {"TMAF diagonal": activation_pass(layer, square)}
                case "bandwidth":
                    functions = {"TMAF": activation_pass(TMAF(bandwidth=number), square)}
                case "fan-in":
                    functions = {"angles_to_direction": direction_pass(bench, angles_to_direction, number - 1, units)}
            yield from bench.compare(functions, against(next(iter(functions)), functions), str(number), what)


def plot_scaling(frame: pd.DataFrame) -> Figure:
    """Draws seconds over sizes from the rows of the section on scaling: medians and quartiles over runs."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    plt.close(figure)  # only the caller shows it
    labels = {
        "elements": "number of elements",
        "intervals": "number of intervals of TMAF",
        "bandwidth": "number of diagonals of TMAF, 2 x bandwidth + 1",
        "fan-in": "number of inputs of a unit",
    }
    for ax, (what, label) in zip(axes.flat, labels.items(), strict=True):
        chosen = frame[frame["what"] == what]
        sizes = chosen["size"].astype("int64")
        chosen = chosen.assign(size=2 * sizes + 1 if what == "bandwidth" else sizes)  # 0 has no logarithm
        for index, (names, rows) in enumerate(chosen.groupby(["device", "backend", "mode", "item"])):
            low, median, high = (rows.groupby("size")["seconds"].quantile(q) for q in (0.25, 0.5, 0.75))
            ax.errorbar(
                median.index,
                median,
                [median - low, high - median],
                fmt="o-",
                markersize=3,
                color=COLOURS[index % len(COLOURS)],
                label=", ".join(names[1:]) + f"\n({names[0]})",
            )
        ax.set(xlabel=label, ylabel="forward and backward, seconds", xscale="log", yscale="log")
        limits = ax.get_ylim()
        start, first = chosen["size"].min(), chosen["seconds"].min()
        ax.axline((start, first), (10 * start, 10 * first), color="0.6", linestyle=":", label="slope 1")
        ax.set_ylim(limits)
        ax.legend(fontsize="x-small")
    return figure


SECTIONS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "activations": activations,
    "direction map": direction_map,
    "layers": layers,
    "VGG-6": parameterizations,
    "models": models,
    "folding": folding,
    "bandwidth": bandwidth,
    "scaling": scaling,
}
Section = StrEnum("Section", {name: name for name in SECTIONS})
GPU_SECONDS = 360  # No section begins later. One that begins before has two minutes.
DEFAULT = [section for section in Section if section not in ("models", "scaling")]


def describe(mode: str, path: Path) -> Row:
    """Returns the values that all rows of a run have in common. Its number follows the last one in the file."""
    versions = {"keras": keras.__version__, BACKEND: importlib.import_module(BACKEND).__version__}
    versions["python"] = platform.python_version()
    return {
        "run": 1 + (pd.read_csv(path)["run"].max() if path.exists() else 0),
        "backend": BACKEND,
        "mode": mode,
        "device": device(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "threads": threads(),
    }


def show(name: str, rows: list[Row]) -> None:
    """Prints the table of a section."""
    table = pd.DataFrame(rows).drop(columns=["section", "low", "high"]).dropna(axis="columns", how="all")
    print(f"\n## {name}\n\n{table.to_markdown(index=False, floatfmt='.3g')}", flush=True)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    section: Annotated[
        list[Section], typer.Option(help="Sections to measure. The default is all except models and scaling.")
    ] = DEFAULT,
    compiled: Annotated[
        bool, typer.Option("--compiled/--eager", help="Whether PyTorch compiles. The other backends always do.")
    ] = False,
    repetitions: Annotated[int, typer.Option(min=1, help="Number of rounds; every item runs once in each.")] = 5,
    device: Annotated[
        Literal["default", "gpu"], typer.Option(help="gpu: measures on a GPU, with sizes for one, within 8 minutes.")
    ] = "default",
    out: Annotated[Path, typer.Option(help="Folder, or a .csv file, for the rows; the figure is beside them.")] = Path(
        "results"
    ),
    smoke: cli.Smoke = False,
) -> None:
    """Measures time and memory of the layers beside a baseline, which is in none of the papers.

    Prints tables; appends rows to a file; draws time over size.
    """
    remat.COMPILE_AFTER = 0  # PyTorch compiles activations in their first call, which is not timed
    start, gpu = time.perf_counter(), device == "gpu"
    if gpu:
        check_gpu(platform_of_backend())
    mode = "jit" if BACKEND != "torch" else "compiled" if compiled else "eager"
    bench = Bench(mode, 2 if smoke else repetitions, smoke, gpu)
    path = out if out.suffix == ".csv" else out / "benchmark.csv"
    run = describe(mode, path)
    for index, name in enumerate(section):
        if gpu and time.perf_counter() - start > GPU_SECONDS:
            print(f"\nLeft out after {GPU_SECONDS} seconds: {', '.join(section[index:])}")
            break
        found = [with_bandwidth(name, row) | {"section": str(name)} for row in SECTIONS[name](bench)]
        show(name, found)
        # After each section, so that a kill loses no finished one.
        everything = files.append_rows([run | row for row in found], path, COLUMNS)
    if "scaling" in section:
        files.write_figure(plot_scaling(everything[everything["section"] == "scaling"]), path.with_suffix(".png"))


if __name__ == "__main__":
    app()
