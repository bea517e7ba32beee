"""Computing without gradients, for which Keras has no function."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras


@contextmanager
def without_gradients() -> Iterator[None]:
    """Within, PyTorch keeps no intermediate results for gradients. The other backends keep them only when asked to."""
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    with torch.no_grad():
        yield
