"""Private parts of Keras' training, and hooks that it does not have.

Read in Keras 3.15.1 (`keras/src/backend/torch/trainer.py`, `keras/src/optimizers/base_optimizer.py`,
`keras/src/backend/common/masking.py`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.backend.common.masking import get_keras_mask

from keras_actlab._private.replacing import replaced


@contextmanager
def training_hooks(
    on_start: Callable[[keras.Model], None],
    metrics_values: Callable[[keras.Model], list[tuple[keras.Variable, Any]]],
) -> Iterator[None]:
    """Within, the training of every model calls these functions.

    Args:
        on_start: Called before a model makes a train function.
        metrics_values: Returns values that the variables of the model's metrics have while a result is computed.
    """
    make_train_function, get_metrics_result = keras.Model.make_train_function, keras.Model.get_metrics_result

    def make(model: keras.Model, force: bool = False) -> None:
        if model.train_function is None or force:
            on_start(model)
        make_train_function(model, force)

    def get_result(model: keras.Model) -> dict[str, Any]:
        with keras.StatelessScope(metrics_values(model)):
            return get_metrics_result(model)

    with replaced(keras.Model, "make_train_function", make), replaced(keras.Model, "get_metrics_result", get_result):
        yield


def has_mask(tensor: Any) -> bool:
    """Returns whether a layer attached a mask to `tensor`."""
    return get_keras_mask(tensor) is not None


def excludes_from_weight_decay(optimizer: keras.optimizers.Optimizer) -> bool:
    """Returns whether some variables or names of variables are excluded from the weight decay of `optimizer`."""
    return hasattr(optimizer, "_exclude_from_weight_decay_cache")
