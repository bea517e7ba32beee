"""Compiled programs that the fits of a run share."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

VARIABLE = "JAX_COMPILATION_CACHE_DIR"


@contextmanager
def compiled_once() -> Iterator[None]:
    """Lets fits with the same program share what JAX compiles, in this process and those that start meanwhile.

    Each fit has a model of its own, for which JAX compiles a program that differs from that of other fits in nothing.
    For a small vision transformer this takes longer than its training. A cache that the user has chosen is kept.
    """
    if keras.backend.backend() != "jax":
        yield
        return
    import jax
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    config: Any = jax.config
    if config.jax_compilation_cache_dir:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        config.update("jax_compilation_cache_dir", folder)
        os.environ[VARIABLE] = folder
        reset_cache()
        try:
            yield
        finally:
            config.update("jax_compilation_cache_dir", None)
            os.environ.pop(VARIABLE, None)
            reset_cache()
