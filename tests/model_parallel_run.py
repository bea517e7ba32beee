"""Prints, as JSON, how a network learns on 8 simulated devices: `python -m tests.model_parallel_run FOLDER`.

The geometric network is trained on one device. Then it and the plain one are trained on 4 devices that divide the
units, and on 8 that divide the batches, too. At last, the geometric one is trained on 4 that divide angles along the
fan-in. XLA writes the programs into the folder.
"""

import contextlib
import json
import os
import sys
from typing import Any

import keras
import numpy as np
from keras.distribution import DeviceMesh, LayoutMap, ModelParallel, list_devices

import keras_actlab


def network(geometric: bool = True) -> keras.Model:
    """Returns a network. The last layer has no layout, but its input is divided along the fan-in."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Conv2D(9, 3, activation="relu", name="convolution"),
        keras.layers.Reshape((6, 9)),
        keras.layers.EinsumDense("abc,cde->abde", (None, 4, 5), bias_axes="de", name="query"),
        keras.layers.Reshape((120,)),
        keras.layers.Dense(12, activation="relu", name="hidden"),
        keras.layers.Dense(3, name="outputs"),
    ]
    plain = keras.Sequential([keras.Input((4, 5, 3)), *layers], name="network")
    model = keras_actlab.to_gmp(plain, check=False) if geometric else plain
    return keras_actlab.swap_activations(model, keras_actlab.layers.TMAF, where="hidden", check=False)


def train(layouts: LayoutMap | None = None, geometric: bool = True) -> dict[str, Any]:
    """Returns the loss of each step, and the shapes of the parts of the angles and their momentum on one device."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 4, 5, 3)).astype("float32"), rng.integers(3, size=24)
    with contextlib.nullcontext() if layouts is None else ModelParallel(layout_map=layouts).scope():
        model = network(geometric)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9, name="sgd"), loss)
        # Keras returns the mean of the losses so far.
        means = [float(model.train_on_batch(x[start : start + 8], y[start : start + 8])) for start in (0, 8, 16)]
        angles = [one for one in model.variables + model.optimizer.variables if "angles" in one.path]
        parts = {one.path: one.value.addressable_shards[0].data.shape for one in angles}
    return {"losses": means, "parts": parts}


def main() -> None:
    results = {"alone": train()}
    devices = list_devices()
    for replicas in (1, 2):
        plain = LayoutMap(DeviceMesh((replicas, 4), ("batch", "model"), devices[: replicas * 4]))
        plain[".*convolution/kernel"] = (None, None, None, None)
        plain[".*query/kernel"] = (None, "model", None)
        plain[".*hidden/kernel"] = (None, "model")
        results[f"geometric, {4 * replicas}"] = train(keras_actlab.distribution.layout_map(network(), plain))
        results[f"plain, {4 * replicas}"] = train(plain, geometric=False)
    along_fan_in = LayoutMap(DeviceMesh((1, 4), ("batch", "model"), devices[:4]))
    along_fan_in[".*hidden/angles"] = (None, "model")
    along_fan_in[".*query/angles"] = ("model", None)
    results["geometric, along the fan-in"] = train(along_fan_in)
    print(json.dumps(results))


if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = (
        "--xla_force_host_platform_device_count=8 --xla_dump_hlo_as_text --xla_dump_hlo_module_re=.*train_step "
        f"--xla_dump_to={sys.argv[1]}"
    )
    main()
