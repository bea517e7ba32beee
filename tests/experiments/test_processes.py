import os
import signal
import subprocess
import sys
import time

import keras
import pytest

from keras_actlab.experiments.processes import Processes

# Each process imports a backend, which takes seconds. One backend is enough to see that.
pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="processes are the same on every backend")


def prepare(word):
    os.environ["WORD"] = word


def work(task):
    if task == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "left":
        os._exit(0)
    if task == "hangs":
        time.sleep(1000)
    if task == "raises":
        raise LookupError("its own")
    return task, os.environ["WORD"]


def test_the_end_of_a_process_is_the_end_of_one_task():
    with Processes(2, prepare, ("ready",)) as processes:
        tasks = ["first", "killed", "second", "left", "third", "hangs"]
        found = {task: rest for task, *rest in processes.map(work, tasks, lambda task: 5 if task == "hangs" else 300)}
        for task in ("first", "second", "third"):
            assert found[task] == [(task, "ready"), None]
        assert "SIGKILL" in found["killed"][1]
        assert "EXIT(0)" in found["left"][1]
        assert found["hangs"] == [None, "TimeoutError: it took longer than 5 s"]
        with pytest.raises(LookupError, match="its own"):
            list(processes.map(work, ["raises"], lambda task: 300))


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_the_one_that_started_them(how):
    code = (
        "import os, time\n"
        "from keras_actlab.experiments.processes import Processes\n"
        "def work(task):\n"
        "    os.write(1, f'{os.getpid()}\\n'.encode())\n"
        "    time.sleep(1000)\n"
        "with Processes(1, print, ()) as processes:\n"
        "    list(processes.map(work, [1], lambda task: 1000))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ, text=True)
    worker = int(next(line for line in parent.stdout if line.strip()))
    assert is_running(worker)
    parent.send_signal(how)
    assert parent.wait() == -how
    parent.stdout.close()
    deadline = time.monotonic() + 60  # it takes half a second, where the machine has nothing else to do
    while is_running(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)
