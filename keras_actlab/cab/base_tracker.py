"""Looking at a model between the steps of its training."""

from typing import Any

import keras

from keras_actlab.callbacks import PeriodicCallback


class BaseTracker(PeriodicCallback):
    """Looks at a model before the first training step, then after every so many, and at the end."""

    def __init__(self, every: int = 1):
        super().__init__(every)
        self._begun = False

    def begin(self, step: int) -> int:
        """Called before the first step of each `fit`, when every callback has restored what it restores.

        Args:
            step: Number of training steps that the model has taken, as far as its optimizer knows: steps that a loss
                scale made it skip are not among them.

        Returns:
            The same, or what an earlier `fit` came to, if this one continues it.
        """
        raise NotImplementedError

    def on_train_begin(self, logs: Any = None) -> None:
        self._begun = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if not self._begun:
            optimizer = self.model.optimizer
            updates = int(keras.ops.convert_to_numpy(optimizer.iterations))
            steps = updates * (getattr(optimizer, "gradient_accumulation_steps", None) or 1)
            self.step = self.last_run = self.begin(steps)
            self._begun = True
        super().on_epoch_begin(epoch, logs)

    def on_train_end(self, logs: Any = None) -> None:
        self.run_pending()
