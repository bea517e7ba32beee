import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

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
