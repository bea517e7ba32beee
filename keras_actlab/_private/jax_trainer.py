"""The variables of a model that trains on JAX, read in Keras 3.15.1 (`keras/src/backend/jax/trainer.py`)."""

import keras


def sync_variables(model: keras.Model) -> None:
    """Writes the state of the training loop into the variables of `model`, so that a callback can read them.

    On JAX, `fit` keeps the state in its own arrays between the steps of an epoch, and the variables are empty until
    the epoch ends. Keras' own callbacks call the same undocumented method. The other backends need nothing.
    """
    if keras.backend.backend() == "jax":
        model.jax_state_sync()
