"""Time and memory of conversions of models of about 100 million parameters: `python -m tests.conversion.cost`.

Appends rows of the backend in use to `cost.csv`. Each conversion runs in a process of its own, on weights that are
drawn at random, after that of a small model, at which Keras imports TensorFlow on every backend. `memory` is the peak
of the resident memory above that before the conversion, with the result in it, as a multiple of the size of the model's
weights.
"""

import csv
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras

import keras_actlab
from keras_actlab.conversion import to_weight_normalization

FILE = Path(__file__).parent / "cost.csv"
COLUMNS = ("backend", "model", "parameters", "conversion", "seconds", "cpu_seconds", "memory")
SIZES = {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "intermediate_dim": 3072}


def bert() -> keras.Model:
    import keras_hub

    return keras_hub.models.BertBackbone(vocabulary_size=30522, **SIZES)


def gpt2() -> keras.Model:
    import keras_hub

    return keras_hub.models.GPT2Backbone(vocabulary_size=50257, **SIZES)


MODELS: dict[str, Callable[[], keras.Model]] = {"BERT base": bert, "GPT-2 base": gpt2}
CONVERSIONS: dict[str, Callable[[keras.Model], keras.Model]] = {
    "swap_activations": lambda model: keras_actlab.swap_activations(model, "crrelu"),
    "to_gmp": keras_actlab.to_gmp,
    "to_weight_normalization": to_weight_normalization,
    "fold": keras_actlab.fold,
}


def resident() -> int:
    """Bytes of memory that this process has now."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def peak() -> int:
    """The most bytes that this process had since `reset_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def cost(model_name: str, name: str) -> dict[str, object]:
    keras.utils.set_random_seed(0)
    model = MODELS[model_name]()
    if name == "fold":
        model = keras_actlab.to_gmp(model, check=False)
    size = 4 * model.count_params()
    CONVERSIONS[name](keras_actlab.to_gmp(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])))  # imports
    before = resident()
    reset_peak()
    start, cpu = time.perf_counter(), time.process_time()
    CONVERSIONS[name](model)
    return {
        "backend": keras.backend.backend(),
        "model": model_name,
        "parameters": model.count_params(),
        "conversion": name,
        "seconds": f"{time.perf_counter() - start:.1f}",
        "cpu_seconds": f"{time.process_time() - cpu:.1f}",
        "memory": f"{(peak() - before) / size:.2f}",
    }


def main() -> None:
    new = not FILE.exists()
    with FILE.open("a", newline="") as file, multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for model in MODELS:
            for name in CONVERSIONS:
                row = pool.apply(cost, (model, name))
                print(*row.values(), file=sys.stderr, flush=True)
                writer.writerow(row)
                file.flush()


if __name__ == "__main__":
    main()
