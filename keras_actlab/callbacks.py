"""Base class of callbacks that act once every fixed number of training steps."""

from typing import Any

import keras

from keras_actlab._private.jax_trainer import sync_variables
from keras_actlab.arguments import positive_integer


class PeriodicCallback(keras.callbacks.Callback):
    """Calls `run` once every `every` training steps.

    Args:
        every: Number of training steps between runs. With `steps_per_execution`, `run` is called at the end of an
            execution.
    """

    def __init__(self, every: int = 1):
        super().__init__()
        self.every = positive_integer("every", every)
        self.step = 0  # training steps taken
        self.last_run = 0
        self._epoch_start = 0

    def run(self) -> None:
        """Called when a run is due. The variables hold the values after the last step, and may be assigned."""
        raise NotImplementedError

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch_start = self.step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        batches = batch + 1
        if self.params.get("steps"):  # the last execution of an epoch may have fewer steps
            batches = min(batches, self.params["steps"])
        self.step = self._epoch_start + batches
        if self.step - self.last_run >= self.every:
            sync_variables(self.model)
            self.run_pending()

    def run_pending(self) -> None:
        """Calls `run` if a training step was taken since the last run."""
        if self.step > self.last_run:
            self.last_run = self.step
            self.run()
