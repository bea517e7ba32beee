"""Looking at a model between the steps of its training."""

from typing import Any

import keras

from keras_actlab.layers.arguments import positive_integer


class Watcher(keras.callbacks.Callback):
    """Calls `look` before the first training step, then after every so many, and at the end.

    Args:
        every: Number of training steps from one look to the next. With `steps_per_execution`, looks are at the ends of
            executions.
    """

    def __init__(self, every: int = 1):
        super().__init__()
        self.every = positive_integer("every", every)
        self.step = 0  # training steps taken
        self._looked_at = 0
        self._epoch_start: int | None = None  # not known before the first epoch

    def begin(self, step: int) -> int:
        """Called before the first step of each `fit`, when every callback has restored what it restores.

        Args:
            step: Number of training steps that the model has taken, as far as its optimizer knows: steps that a loss
                scale made it skip are not among them.

        Returns:
            The same, or what an earlier `fit` came to, if this one continues it.
        """
        raise NotImplementedError

    def look(self) -> None:
        """Called when it is time to look; the variables hold what the last step made of them."""
        raise NotImplementedError

    def on_train_begin(self, logs: Any = None) -> None:
        self._epoch_start = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._epoch_start is None:
            optimizer = self.model.optimizer
            updates = int(keras.ops.convert_to_numpy(optimizer.iterations))
            steps = updates * (getattr(optimizer, "gradient_accumulation_steps", None) or 1)
            self.step = self._looked_at = self.begin(steps)
        self._epoch_start = self.step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        batches = batch + 1
        if self.params.get("steps"):  # the last execution of several steps may be a shorter one
            batches = min(batches, self.params["steps"])
        self.step = (self._epoch_start or 0) + batches
        if self.step - self._looked_at >= self.every:
            if keras.backend.backend() == "jax":
                self.model.jax_state_sync()  # within an epoch, variables are empty there
            self.catch_up()

    def on_train_end(self, logs: Any = None) -> None:
        self.catch_up()

    def catch_up(self) -> None:
        """Looks, if any step was taken since the last look."""
        if self.step > self._looked_at:
            self._looked_at = self.step
            self.look()
