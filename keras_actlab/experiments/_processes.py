"""Processes that work on one task each, so that a process that ends fails one task only."""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from math import inf
from typing import Any

from joblib.externals.loky import BrokenProcessPool, ProcessPoolExecutor, cpu_count

from keras_actlab._private.joblib_backends import pickled

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass
class _Worker:
    """A process and its task."""

    executor: ProcessPoolExecutor | None = None
    task: Any = None
    started: bool = False
    deadline: float = inf  # on the clock of `time.monotonic`


class Processes:
    """Several processes, each with one task at a time. A process that dies or takes too long is replaced.

    An executor with several processes fails as a whole when one of them is killed, and does not report the task. So
    each process has its own executor. A process ends within seconds after the one that started it, even if that one was
    killed.

    Args:
        count: Number of processes. Each starts with its first task.
        prepare: Function that each process calls when it starts.
        arguments: Arguments of `prepare`, which are sent to each process once.
    """

    def __init__(self, count: int, prepare: Callable[..., None], arguments: tuple[Any, ...]):
        # The processes share the cores, unless the user has set a number of threads.
        threads = {name: os.environ.get(name, str(max(1, cpu_count() // count))) for name in THREADS}
        work = pickled((prepare, arguments))
        self._options = {"env": threads, "initializer": _beginning(), "initargs": (os.getpid(), work)}
        self._workers = [_Worker() for _ in range(count)]

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            _end(worker)

    def map(
        self, function: Callable[[Any], Any], tasks: Iterable[Any], limit: Callable[[Any], float]
    ) -> Iterator[tuple[Any, Any, str | None]]:
        """Yields each task, its result, and the failure of its process or None, in the order in which tasks finish.

        Args:
            function: Function that a process calls. Its exceptions are raised here.
            tasks: Arguments of the calls.
            limit: Function of a task that returns its time limit in seconds, or infinity.
        """
        remaining = iter(tasks)
        busy: dict[Future[Any], _Worker] = {}

        def assign(worker: _Worker) -> None:
            worker.task = next(remaining, None)
            if worker.task is None:
                return
            worker.started, worker.deadline = worker.executor is not None, inf
            if worker.started:
                begin(worker)
            else:  # the limit does not include imports, which take seconds
                worker.executor = ProcessPoolExecutor(1, **self._options)
                busy[worker.executor.submit(bool)] = worker  # done once the process has started

        def begin(worker: _Worker) -> None:
            worker.started, worker.deadline = True, time.monotonic() + limit(worker.task)
            assert worker.executor is not None
            busy[worker.executor.submit(function, worker.task)] = worker

        for worker in self._workers:
            assign(worker)
        while busy:
            next_deadline = min(worker.deadline for worker in busy.values())
            patience = None if next_deadline == inf else max(0.0, next_deadline - time.monotonic())
            finished, _ = wait(busy, patience, FIRST_COMPLETED)
            late = {future for future, worker in busy.items() if worker.deadline <= time.monotonic()} - finished
            for future in finished | late:
                worker = busy.pop(future)
                task, result, failure = worker.task, None, None
                if future in late:
                    failure = f"TimeoutError: it took longer than {limit(task):g} s"
                elif isinstance(error := future.exception(), BrokenProcessPool):
                    failure = f"its process ended, as by a crash or lack of memory: {_exit_codes(error)}"
                elif error is not None:
                    raise error
                elif not worker.started:
                    begin(worker)
                    continue
                else:
                    result = future.result()
                if failure:
                    _end(worker)
                assign(worker)
                yield task, result, failure


def _exit_codes(error: BrokenProcessPool) -> str:
    """Returns the exit codes in a long message."""
    found = re.search(r"exit codes of the workers are {(.*?)}", str(error))
    return found[1] if found else " ".join(str(error).split())


def _end(worker: _Worker) -> None:
    if worker.executor is not None:
        worker.executor.shutdown(kill_workers=True)
        worker.executor = None


def _beginning() -> Callable[[int, bytes], None]:
    """Returns the first function that a new process calls. It is sent by value, because importing it takes seconds."""

    def begin(parent: int, work: bytes) -> None:
        import ctypes
        import os
        import pickle
        import signal
        import sys
        import threading
        import time

        if sys.platform == "linux":
            # The kernel ends this process when the thread that started it ends, even while an import blocks all
            # threads. That thread is the one of `map`, or one of the executor, which ends later.
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

        def end_with_parent() -> None:
            while os.getppid() == parent:  # an orphan gets another parent; on Windows the number stays
                time.sleep(0.5)
            os._exit(1)  # the main thread may hang in a library

        threading.Thread(target=end_with_parent, daemon=True).start()
        prepare, arguments = pickle.loads(work)  # imports the backend
        prepare(*arguments)

    return begin
