"""The time that a training step waits for its batch. It needs Grain, so it is imported only with it."""

import time
from typing import Any

import grain


class TimedBatches(grain.IterDataset):
    """Batches of another dataset. `seconds` is the time that their reader has waited for them."""

    def __init__(self, parent: grain.IterDataset) -> None:
        super().__init__(parent)
        self.seconds = 0.0

    def __iter__(self) -> "_TimedIterator":
        return _TimedIterator(iter(self._parent), self)


class _TimedIterator(grain.DatasetIterator):
    def __init__(self, parent: grain.DatasetIterator, batches: TimedBatches) -> None:
        super().__init__(parent)
        self.batches = batches

    def __next__(self) -> Any:
        start = time.perf_counter()
        try:
            return next(self._parent)
        finally:
            self.batches.seconds += time.perf_counter() - start

    def get_state(self) -> dict[str, Any]:
        return self._parent.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._parent.set_state(state)
