"""Base class of callbacks that record a model during training."""

from typing import Any

import keras

from keras_actlab.callbacks import PeriodicCallback


class BaseTracker(PeriodicCallback):
    """Records a model before the first training step, then every `every` steps, and at the end."""

    def __init__(self, every: int = 1):
        super().__init__(every)
        self._begun = False

    def begin(self, step: int) -> int:
        """Called before the first step of each `fit`, after other callbacks have restored their state.

        Args:
            step: Number of training steps that the optimizer has counted. Steps that loss scaling skipped are not
                included.

        Returns:
            The number of training steps to continue from: `step`, or that of an earlier `fit` which this one continues.
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
