import random
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import joblib
import keras
import numpy as np
import pandas as pd
import pytest
from joblib.parallel import ParallelBackendBase

from keras_actlab import experiments
from keras_actlab.experiments import _cluster, running
from keras_actlab.experiments._cluster import Cluster
from tests.backends import OTHERS
from tests.experiments.examples import comparison, deep, linear

pytestmark = pytest.mark.one_backend


class Killed(BaseException):
    """Stands for the end of a worker."""


class Worker(ParallelBackendBase):
    """A backend of joblib with a thread for a worker. Like that of Dask, it does not call back for a lost worker."""

    supports_retrieve_callback = True
    executor = ThreadPoolExecutor(1)

    def effective_n_jobs(self, n_jobs):
        assert n_jobs == -1
        return 1

    def submit(self, func, callback=None):
        future = self.executor.submit(self.answer, func)
        future.add_done_callback(lambda done: done.exception() or callback(done.result()))
        return future

    def answer(self, func):
        try:
            return func()
        except Killed as error:
            raise ConnectionError("it was killed") from error

    def retrieve_result_callback(self, out):
        if isinstance(out, Exception):
            raise out
        return out


class WorkerWithoutGenerator(Worker):
    """Like the backend of Ray, it calls back in all cases, and returns all results of a call at once."""

    supports_return_generator = False

    def effective_n_jobs(self, n_jobs):
        return 2

    def submit(self, func, callback=None):
        done = self.executor.submit(self.answer, func)
        done.add_done_callback(lambda done: callback(done.exception() or done.result()))
        return object()  # no future


@pytest.fixture(params=[Worker, WorkerWithoutGenerator])
def worker(request, monkeypatch):
    """Chooses a backend of joblib, as a user does."""
    monkeypatch.setattr(_cluster, "_prepared", "")
    joblib.register_parallel_backend("one worker", request.param)
    with joblib.parallel_config("one worker"):
        yield


prepared = []


def prepare(word):
    prepared.append(word)


def work(task):
    if task.startswith("killed"):
        raise Killed
    if task == "raises":
        raise LookupError("its own")
    return task, *prepared, threading.current_thread() is threading.main_thread()


def test_the_end_of_a_worker_is_the_end_of_one_task(worker):
    prepared.clear()
    tasks = ["first", "killed", "second", "third", "killed too", "fourth", "fifth"]
    with Cluster(prepare, ("ready",)) as cluster:
        found = {task: rest for task, *rest in cluster.map(work, tasks)}
        assert found.keys() == {*tasks}
        for task in tasks:
            failure = "its worker was lost: ConnectionError: it was killed" if "killed" in task else None
            assert found[task] == [None if failure else (task, "ready", False), failure]
        assert list(cluster.map(work, ["first"])) == [("first", ("first", "ready", False), None)]
        with pytest.raises(RuntimeError, match="a worker of joblib's backend failed: LookupError: its own"):
            list(cluster.map(work, ["raises", *tasks]))
    with Cluster(prepare, ("again",)) as other:
        next(other.map(work, tasks[2:4]))
    assert prepared == ["ready", "again"]  # once for all tasks


@pytest.mark.parametrize("worker", [Worker], indirect=True)
def test_without_workers_there_is_an_error(worker, monkeypatch):
    def no_worker(self, n_jobs):
        raise TimeoutError("no worker")

    monkeypatch.setattr(Worker, "effective_n_jobs", no_worker)
    with Cluster(prepare, ("",)) as cluster, pytest.raises(RuntimeError, match="TimeoutError: no worker"):
        list(cluster.map(work, ["first"]))


def test_a_worker_with_another_backend_says_so():
    """It is called here, where Keras is loaded, and asked for another one."""
    backend, other = keras.backend.backend(), OTHERS[-1] if OTHERS[-1] != keras.backend.backend() else "other"
    index, result, error = _cluster._beginning()(other, "key", b"", 7, b"")
    assert (index, result) == (7, None)
    words = f"loaded Keras with the backend '{backend}', but this run needs '{other}'. Restart.*KERAS_BACKEND={other}"
    assert re.search(words, error)


def draws(task):
    """Draws random numbers, while another thread does so, too."""
    random.seed(7)
    found = []
    for _ in range(3):
        thread = threading.Thread(target=random.random)
        thread.start()
        thread.join()
        found.append((random.random(), random.randint(0, 10**6)))
    return found


def test_other_threads_of_a_worker_do_not_change_its_random_numbers(worker):
    with Cluster(prepare, ("",)) as cluster:
        ((_, found, _),) = cluster.map(draws, ["task"])
    random.seed(7)
    assert found == [(random.random(), random.randint(0, 10**6)) for _ in range(3)]
    assert found != draws("task")


def run(path, description, **options):
    return experiments.run(description, path / "results.jsonl", progress=False, **options)


@pytest.mark.parametrize("name", ["threading", "multiprocessing"])
def test_threads_and_copies_of_this_process_are_refused(name, tmp_path):
    with (
        joblib.parallel_config(name, n_jobs=2),
        pytest.raises(ValueError, match=r"`joblib.parallel_config` must choose .*use `jobs`. Received: \w+Backend"),
    ):
        run(tmp_path, comparison())
    assert list(tmp_path.iterdir()) == []


def test_a_time_limit_is_refused_where_it_cannot_be_kept(worker, tmp_path):
    with pytest.raises(ValueError, match=r"`time_limit` must be None where.*Received: time_limit=5"):
        run(tmp_path, comparison(), time_limit=5)


@pytest.mark.parametrize("name", ["loky", "sequential"])
def test_processes_of_this_machine_are_those_of_jobs(name):
    assert not _cluster.is_chosen()
    with joblib.parallel_config(name, n_jobs=2):
        assert not _cluster.is_chosen()
    # joblib's own choice within a task is no choice of the user.
    (chosen,) = joblib.Parallel(n_jobs=1)([joblib.delayed(_cluster.is_chosen)()])
    assert not chosen


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_table(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    keras.config.set_image_data_format("channels_first")

    def checked(learning_rate):
        assert keras.config.image_data_format() == "channels_first"
        return deep(learning_rate)

    def fails(learning_rate):
        raise RuntimeError("no luck")

    description = comparison(methods={"linear": linear, "checked": checked, "fails": fails}, splits=2, vectorize=2)
    with pytest.warns(UserWarning, match="no luck"):
        here = run(tmp_path / "here", description)
    monkeypatch.setattr(running, "train", None)  # nothing is trained in this process
    environment = {"KERAS_BACKEND": OTHERS[0]}
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0", env=environment
        ) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config("dask"),
    ):
        there = run(tmp_path / "there", description)
    changes = ["seconds", "seconds_per_epoch", "RMSE"]
    pd.testing.assert_frame_equal(there.frame.drop(columns=changes), here.frame.drop(columns=changes))
    np.testing.assert_allclose(there.frame["RMSE"], here.frame["RMSE"], rtol=1e-5)
    assert set(here.failures["method"]) == {"fails"}
