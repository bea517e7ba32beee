"""Looking at a model after every so many training steps."""

from typing import Any

import keras

from keras_actlab._private.jax_trainer import sync_variables
from keras_actlab.arguments import positive_integer


class PeriodicCallback(keras.callbacks.Callback):
    """Calls `look` after every so many training steps.

    Args:
        every: Number of training steps from one look to the next. With `steps_per_execution`, looks are at the ends of
            executions.
    """

    def __init__(self, every: int = 1):
        super().__init__()
        self.every = positive_integer("every", every)
        self.step = 0  # training steps taken
        self.last_run = 0
        self._epoch_start = 0

    def run(self) -> None:
        """Called when it is time; the variables hold what the last step made of them, and may be assigned."""
        raise NotImplementedError

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch_start = self.step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        batches = batch + 1
        if self.params.get("steps"):  # the last execution of several steps may be a shorter one
            batches = min(batches, self.params["steps"])
        self.step = self._epoch_start + batches
        if self.step - self.last_run >= self.every:
            sync_variables(self.model)
            self.run_pending()

    def run_pending(self) -> None:
        """Looks, if any step was taken since the last look."""
        if self.step > self.last_run:
            self.last_run = self.step
            self.run()
