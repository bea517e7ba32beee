import os
from pathlib import Path

import keras
import numpy as np
import pytest
from sklearn.metrics import root_mean_squared_error

from keras_actlab import experiments
from keras_actlab.experiments._compilation import VARIABLE, compiled_once

JAX = keras.backend.backend() == "jax"


@pytest.fixture
def no_cache(monkeypatch):
    """JAX as users have it; the tests share a cache."""
    from jax import config
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    monkeypatch.delenv(VARIABLE, raising=False)
    former = config.jax_compilation_cache_dir
    config.update("jax_compilation_cache_dir", None)
    reset_cache()
    yield config
    config.update("jax_compilation_cache_dir", former)
    reset_cache()


@pytest.mark.skipif(not JAX, reason="other backends compile nothing that takes long")
def test_programs_are_kept_while_fits_run(no_cache):
    import jax

    with compiled_once():
        folder = Path(os.environ[VARIABLE])  # which new processes read
        assert no_cache.jax_compilation_cache_dir == str(folder)
        jax.jit(lambda x: x * 1.25 + 3)(keras.ops.ones(7))
        assert list(folder.iterdir())
    assert not folder.exists()
    assert no_cache.jax_compilation_cache_dir is None
    assert VARIABLE not in os.environ
    jax.jit(lambda x: x * 1.5 + 3)(keras.ops.ones(7))  # compiles without the folder


@pytest.mark.skipif(not JAX, reason="other backends compile nothing that takes long")
def test_the_cache_of_the_user_is_kept(no_cache, tmp_path):
    no_cache.update("jax_compilation_cache_dir", str(tmp_path))
    with compiled_once():
        assert no_cache.jax_compilation_cache_dir == str(tmp_path)
        assert VARIABLE not in os.environ


@pytest.mark.skipif(JAX, reason="JAX has a cache")
@pytest.mark.one_backend
def test_other_backends_are_left_alone(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with compiled_once():
        assert VARIABLE not in os.environ


@pytest.mark.skipif(not JAX, reason="TensorFlow compiles in part, PyTorch does not compile by itself")
def test_a_training_step_that_is_not_compiled_is_named(tmp_path):
    def network():
        layers = [keras.layers.RandomRotation(0.1, name="turned"), keras.layers.Flatten(), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((4, 4, 1)), *layers])
        model.compile("sgd", "mse")
        return model

    x, y = np.ones((6, 4, 4, 1), "float32"), np.ones((6, 1), "float32")
    description = experiments.Comparison(
        "turned", {"SP": network}, experiments.Split((x, y), None, (x, y)), {"RMSE": root_mean_squared_error}, epochs=1
    )
    with pytest.warns(UserWarning, match="SP: JAX does not compile the training step.* compiled: turned$"):
        experiments.run(description, tmp_path / "results.jsonl", progress=False)
