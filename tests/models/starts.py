"""Fast construction of networks whose initial weights do not matter: no random numbers are drawn."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import pytest


@contextmanager
def even_starts() -> Iterator[None]:
    """Within, random initializers return ones."""

    def ones(initializer, shape, dtype=None):
        return keras.ops.ones(shape, dtype)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("GlorotUniform", "RandomNormal", "TruncatedNormal"):
            patch.setattr(getattr(keras.initializers, name), "__call__", ones)
        yield
