"""Sends tasks to the workers of the parallel backend of joblib that the user has chosen, such as those of Dask."""

import hashlib
import itertools
import pickle
import random
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from typing import Any, TypeAlias

import keras
from joblib import Parallel, delayed, effective_n_jobs
from joblib.parallel import get_active_backend

from keras_actlab._private.joblib_backends import copies_this_process, is_local, pickled

# Index of a task, its result, and the error of the worker or None.
Answer: TypeAlias = tuple[int, Any, str | None]


def is_chosen() -> bool:
    """Returns whether `joblib.parallel_config` has chosen other workers than processes of this machine.

    Raises:
        ValueError: If they are threads or copies of this process.
    """
    backend, _ = get_active_backend()
    threads = getattr(backend, "uses_threads", False)
    if is_local(backend) or (threads and backend.nesting_level):
        return False  # the last one is joblib's own choice within a task
    if threads or copies_this_process(backend):
        raise ValueError(
            "`joblib.parallel_config` must choose a backend with processes of their own, such as 'dask' or 'ray', "
            "because fits set the random seeds of their process, and most backends of Keras do not work in copies of a "
            f"process. For processes on this machine, use `jobs`. Received: {type(backend).__name__}"
        )
    return True


class LostWorkerError(RuntimeError):
    """A worker ended, as by a crash or lack of memory, or there is none."""


class Cluster:
    """The workers of the chosen parallel backend, for the same work as `Processes`.

    Each worker gets this process' backend of Keras before it imports Keras.

    Args:
        prepare: Function that each worker calls before its first task.
        arguments: Arguments of `prepare`, which a worker unpickles once.
    """

    def __init__(self, prepare: Callable[..., None], arguments: tuple[Any, ...]):
        # Bytes go along with every task. joblib would store an array on one worker of Dask, and wait forever if all
        # workers were lost.
        self._work = pickled((prepare, arguments))
        self._key = hashlib.blake2b(self._work).hexdigest()
        self._backend, jobs = get_active_backend()
        self._jobs = jobs or -1

    def __enter__(self) -> "Cluster":
        self._pool = None
        if self._backend.supports_return_generator:
            self._methods = self._backend.submit, self._backend.effective_n_jobs
            self._backend.submit, self._backend.effective_n_jobs = self._submit, self._count
        else:
            # Ray gives all results of a call at once. It starts workers for each call of an object that is not entered.
            self._pool = Parallel(n_jobs=self._jobs, batch_size=1).__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._pool is not None:
            self._pool.__exit__(*exception)
        else:
            del self._backend.submit, self._backend.effective_n_jobs  # the methods appear again

    def _count(self, jobs: int) -> int:
        """Number of workers for joblib, which would work in this process if there was one. The task might end it."""
        return max(2, self._methods[1](jobs))

    def _submit(self, function: Callable[..., Any], callback: Callable[[Any], None]) -> Any:
        """Tells joblib of lost workers. joblib 1.6 waits forever for a task of Dask whose worker was killed."""
        job = self._methods[0](function, callback)

        def report(finished: Future[Any]) -> None:
            if error := finished.exception():
                callback(error)

        if isinstance(job, Future):
            job.add_done_callback(report)
        return job

    def map(
        self, function: Callable[[Any], Any], tasks: Iterable[Any], limit: object = None
    ) -> Iterator[tuple[Any, Any, str | None]]:
        """Yields each task, its result, and the failure of its worker or None, in the order in which tasks finish.

        When a worker is lost, joblib ends all tasks and does not say which one the worker had. The tasks that were sent
        are then sent again one by one.

        Args:
            function: Function that a worker calls.
            tasks: Arguments of the calls.
            limit: Not used, because a task of another machine cannot be ended from here.

        Raises:
            RuntimeError: If there is no worker, or one cannot begin, for example with another backend of Keras.
        """
        waiting = dict(enumerate(tasks))
        while waiting:
            sent: list[int] = []
            try:
                for index, result in self._results(function, list(waiting.items()), sent):
                    yield waiting.pop(index), result, None
            except LostWorkerError:
                if not sent:  # there is no worker
                    raise
                for index in [index for index in sent if index in waiting]:
                    task, result, failure = waiting.pop(index), None, None
                    again: list[int] = []
                    try:
                        ((_, result),) = self._results(function, [(index, task)], again)
                    except LostWorkerError as error:
                        if not again:
                            raise
                        failure = f"its worker was lost: {error}"
                    yield task, result, failure

    def _results(
        self, function: Callable[[Any], Any], tasks: list[tuple[int, Any]], sent: list[int]
    ) -> Iterator[tuple[int, Any]]:
        """Yields the index and the result of each task. Appends the index of each task that is sent to `sent`."""
        begin, backend = delayed(_beginning()), keras.backend.backend()

        def calls() -> Iterator[Any]:
            for index, task in tasks:
                sent.append(index)
                yield begin(backend, self._key, self._work, index, pickled((function, task)))

        with closing(self._answers(calls())) as answers:
            for index, result, error in answers:
                if error is not None:
                    raise RuntimeError(error)
                yield index, result

    def _answers(self, calls: Iterator[Any]) -> Generator[Answer, None, None]:
        try:
            if self._pool is not None:
                size = effective_n_jobs(self._jobs)
                while some := list(itertools.islice(calls, size)):
                    yield from self._pool(some)
                return
            # A new object, because tasks of a call that was ended may still call back to the former.
            answers = Parallel(n_jobs=self._jobs, return_as="generator_unordered", batch_size=1)(calls)
            try:
                for answer in answers:  # noqa: UP028  # `yield from` would close them first
                    yield answer
            finally:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # joblib warns that unfinished tasks are cancelled
                    answers.close()
        except Exception as error:  # each backend raises its own; those of tasks are in their answers
            raise LostWorkerError(f"{type(error).__name__}: {error}") from error


def _beginning() -> Callable[..., Answer]:
    """Returns the function that workers call. It is sent by value, because its module imports Keras."""

    def begin(backend: str, key: str, work: bytes, index: int, call: bytes) -> Answer:
        import os
        import sys

        if "keras" not in sys.modules:
            os.environ["KERAS_BACKEND"] = backend
        try:
            import keras

            if keras.backend.backend() != backend:
                raise RuntimeError(
                    f"it has loaded Keras with the backend {keras.backend.backend()!r}, but this run needs "
                    f"{backend!r}. Restart the workers, with KERAS_BACKEND={backend} in their environment"
                )
            from keras_actlab.experiments import _cluster

            return index, _cluster.do(key, work, call), None
        except Exception as error:  # of which this process may not have the class
            return index, None, f"a worker of joblib's backend failed: {type(error).__name__}: {error}"

    return begin


_lock = threading.Lock()  # a worker may have several threads, but fits set the random seeds of their process
_prepared = ""


def do(key: str, work: bytes, call: bytes) -> Any:
    """Does a task in a worker, after preparing the worker for tasks of this key."""
    global _prepared
    with _lock:
        if key != _prepared:
            prepare, arguments = pickle.loads(work)
            prepare(*arguments)
            _prepared = key
        function, task = pickle.loads(call)
        with _random_numbers_of_this_thread():
            return function(task)


@contextmanager
def _random_numbers_of_this_thread() -> Iterator[None]:
    """Gives other threads another generator in place of that of `random`, from which Keras draws seeds.

    The threads with which a worker of Dask communicates draw from it about twice a second (as the jitter of Tornado's
    callbacks), so that some models would begin with other weights than on one machine.
    """
    thread, others = threading.get_ident(), random.Random()
    methods = {name: f for name, f in vars(random).items() if isinstance(getattr(f, "__self__", None), random.Random)}

    def separated(name: str) -> Callable[..., Any]:
        def draw(*arguments: Any, **options: Any) -> Any:
            method = methods[name] if threading.get_ident() == thread else getattr(others, name)
            return method(*arguments, **options)

        return draw

    vars(random).update({name: separated(name) for name in methods})
    try:
        yield
    finally:
        vars(random).update(methods)
