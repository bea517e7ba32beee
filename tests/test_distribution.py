import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_actlab
from keras_actlab import cab, distribution
from tests.data_parallel_run import train

BACKEND = keras.backend.backend()
PAGE = Path(__file__).parent.parent / "docs" / "scale_out.md"


@pytest.fixture(scope="module")
def alone():
    """What the network learns without any distribution."""
    return train()


def assert_same(found, expected, tolerance=1e-4):
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=tolerance, err_msg=name)


def test_several_devices_learn_what_one_does(alone, tmp_path):
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"] if BACKEND == "torch" else []
    finished = subprocess.run(
        [sys.executable, "-m", *launcher, "tests.data_parallel_run", tmp_path],
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    results = json.loads(finished.stdout.splitlines()[-1])
    assert len(results["losses"]) == 20
    assert_same(results, alone)
    replicas = 2 if BACKEND == "torch" else 4
    assert results["error"] == (
        f"`batch_size` must be a positive multiple of the number of replicas, which is {replicas}. "
        "Received: batch_size=7"
    )
    # Callbacks write once, and assign the same weights everywhere.
    processes = [json.loads(path.read_text()) for path in tmp_path.glob("process-*.json")]
    assert len(processes) == (2 if BACKEND == "torch" else 1)
    assert all(process == processes[0] for process in processes)
    assert processes[0]["steps"] == [4, 6, 8, 10, 12]  # at step 2 the sample is too small
    assert cab.load_tracks(tmp_path / "tracks.npz")["hidden"].steps.tolist() == list(range(13))
    assert not list(tmp_path.glob("part-*"))


def test_one_device_learns_the_same_inside(alone, monkeypatch):
    # PyTorch's group of one process; the other backends do not look.
    for name, value in {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    before = keras.Model.make_train_function, keras.Model.get_metrics_result
    with distribution.data_parallel():
        found = train()
    assert_same(found, alone, tolerance=1e-6)
    assert (keras.Model.make_train_function, keras.Model.get_metrics_result) == before
    if BACKEND == "jax":
        assert keras.distribution.distribution() is None
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        assert not tf.distribute.has_strategy()
    else:
        import torch

        assert not torch.distributed.is_initialized()


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's processes")
def test_a_group_that_is_not_described(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="environment variable RANK expected"), distribution.data_parallel():
        pass


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute is TensorFlow's")
def test_the_strategy_of_the_scope_around():
    import tensorflow as tf

    with tf.distribute.OneDeviceStrategy("/cpu:0").scope(), distribution.data_parallel():
        assert isinstance(tf.distribute.get_strategy(), tf.distribute.OneDeviceStrategy)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute is TensorFlow's")
def test_a_process_has_one_strategy():
    """Collective operations of a second one would meet those of the first."""
    import tensorflow as tf

    strategies = []
    for _ in range(2):
        with distribution.data_parallel():
            strategies.append(tf.distribute.get_strategy())
    assert strategies[0] is strategies[1]


def test_without_data_parallelism():
    assert distribution.data_shard() == (0, 1)
    assert distribution.is_first_process()
    assert distribution.of_first_process(lambda: [1]) == [1]
    assert distribution.local_batch_size(7) == 7


@pytest.mark.parametrize("batch_size", [0, -4])
def test_no_samples_in_a_batch(batch_size):
    with pytest.raises(
        ValueError, match=rf"`batch_size` must be a positive multiple.* Received: batch_size={batch_size}"
    ):
        distribution.local_batch_size(batch_size)


def test_batch_size_of_the_wrong_type():
    with pytest.raises(TypeError, match="`batch_size` must be an integer"):
        distribution.local_batch_size(8.0)


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(# recipe.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names = {}
    exec(code, names)
    assert np.isfinite(names["history"].history["loss"]).all()
    assert (tmp_path / "model.keras").exists()


def plain_layouts(**layouts):
    devices = [f"cpu:{index}" for index in range(8)]
    mesh = keras.distribution.DeviceMesh((2, 4), ("batch", "model"), devices)
    found = keras.distribution.LayoutMap(mesh)
    found.update({f".*{path}": axes for path, axes in layouts.items()})
    return found


def geometric(*layers, shape):
    return keras_actlab.to_gmp(keras.Sequential([keras.Input(shape), *layers], name="network"), ["*"], check=False)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("layer", "shape", "kernel", "units"),
    [
        (keras.layers.Dense(8), (3,), {"one/kernel": (None, "model")}, "model"),
        (keras.layers.Dense(8), (3,), {"one/kernel": (None, None)}, None),
        (keras.layers.Dense(8), (3,), {"other/kernel": (None, "model")}, None),
        # Along the fan-in only: along the units instead, if they can be divided.
        (keras.layers.Dense(8), (4,), {"one/kernel": ("model", None)}, "model"),
        (keras.layers.Dense(6), (4,), {"one/kernel": ("model", None)}, None),
        (keras.layers.Dense(8), (4,), {"one/kernel": ("batch", "model")}, "model"),
        (keras.layers.Conv2DTranspose(8, 2), (4, 4, 3), {"one/kernel": (None, None, "model", None)}, "model"),
        (keras.layers.EinsumDense("abc,cde->abde", (3, 4, 5)), (3, 2), {"one/kernel": (None, "model", None)}, "model"),
    ],
)
def test_angles_are_split_along_units(layer, shape, kernel, units):
    layer.name = "one"
    plain = plain_layouts(**kernel)
    model = geometric(layer, shape=shape)
    layouts = {path: layout.axes for path, layout in distribution.layout_map(model, plain).items()}
    expected = {f".*{path}": axes for path, axes in kernel.items()}
    for variable in model.variables if units else []:
        expected[variable.path] = (None, units) if variable.name == "angles" else (units,)
    assert layouts == expected


@pytest.mark.one_backend
def test_layouts_of_layers_with_several_kernels():
    layers = [keras.layers.SeparableConv1D(8, 2, name="both"), keras.layers.LSTM(4, name="recurrent")]
    plain = plain_layouts(**{"both/pointwise_kernel": (None, None, "model"), "recurrent.*kernel": (None, "model")})
    layouts = distribution.layout_map(geometric(*layers, shape=(5, 3)), plain)
    added = {path: layout.axes for path, layout in layouts.items() if path not in set(plain)}
    cell = "network/recurrent/lstm_cell/"
    assert added == {
        "network/both/pointwise/angles": (None, "model"),
        "network/both/pointwise/radius": ("model",),
        "network/both/pointwise/scale": ("model",),
        f"{cell}kernel_angles": (None, "model"),
        f"{cell}kernel_scale": ("model",),
        f"{cell}recurrent_kernel_angles": (None, "model"),
        f"{cell}recurrent_kernel_scale": ("model",),
    }


@pytest.mark.one_backend
def test_layouts_that_do_not_fit():
    model = geometric(keras.layers.Dense(8, name="one"), shape=(3,))
    with pytest.raises(ValueError, match=r"one entry for each .* Received: \('model',\) for 'network/one/kernel'"):
        distribution.layout_map(model, plain_layouts(**{"one/kernel": ("model",)}))
    with pytest.raises(TypeError, match=r"`plain` must be a keras\.distribution\.LayoutMap"):
        distribution.layout_map(model, {})
    with pytest.raises(ValueError, match="`model` must be built"):
        distribution.layout_map(keras.Sequential([keras.layers.Dense(8)]), plain_layouts())


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "jax", reason="Keras has model parallelism on JAX only")
def test_model_parallelism_learns_what_one_device_does_without_exchanging_angles(tmp_path):
    finished = subprocess.run(
        [sys.executable, "-m", "tests.model_parallel_run", tmp_path], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    results = json.loads(finished.stdout.splitlines()[-1])
    alone = results.pop("alone")
    for devices in (4, 8):
        np.testing.assert_allclose(results[f"geometric, {devices}"]["losses"], alone["losses"], rtol=0, atol=1e-5)
        parts = results[f"geometric, {devices}"]["parts"]
        for layer, shape in {"query": [8, 20 // 4], "hidden": [119, 12 // 4], "outputs": [11, 3]}.items():
            assert parts[f"network/{layer}/angles"] == parts[f"sgd/network_{layer}_angles_momentum"] == shape

    # The programs that are divided, in the order of `results`.
    texts = [path.read_text() for path in sorted(tmp_path.glob("*after_optimizations.txt"))]
    programs = [text for text in texts if "num_partitions" in text.splitlines()[0]]
    exchanges = dict(zip(results, map(exchanged, programs), strict=True))
    for devices in (4, 8):
        assert not exchanges[f"geometric, {devices}"] - exchanges[f"plain, {devices}"]
    assert exchanges["geometric, along the fan-in"] - exchanges["geometric, 4"]


def exchanged(program):
    """Counts what devices exchange within a program of XLA, except sums, by kind and shapes."""
    found = re.findall(r"= (.*?) (all-gather|all-to-all|collective-permute)(?:-start)?\(", program)
    return Counter((kind, *re.findall(r"\[[\d,]*\]", shapes)) for shapes, kind in found)
