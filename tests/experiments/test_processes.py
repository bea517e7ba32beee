import os
import signal
import subprocess
import sys
import time

import pytest

from keras_actlab.experiments import _processes as processes
from tests.experiments.tasks import prepare, work

pytestmark = pytest.mark.one_backend


def test_the_end_of_a_process_is_the_end_of_one_task():
    tasks = ["first", "killed", "second", "left", "third", "hangs"]
    with processes.Processes(2, prepare, ("ready",)) as pool:
        found = {task: rest for task, *rest in pool.map(work, tasks, lambda task: 1 if task == "hangs" else 300)}
        for task in ("first", "second", "third"):
            assert found[task] == [(task, "ready"), None]
        assert "SIGKILL" in found["killed"][1]
        assert "EXIT(0)" in found["left"][1]
        assert found["hangs"] == [None, "TimeoutError: it took longer than 1 s"]
        with pytest.raises(LookupError, match="its own"):
            list(pool.map(work, ["raises"], lambda task: 300))


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# The parent reads one file of the package, as importing all of it takes seconds.
PARENT = """
import runpy, sys
from tests.experiments import tasks
file, start, task = sys.argv[1:]
with runpy.run_path(file)["Processes"](1, getattr(tasks, start), ("",)) as processes:
    list(processes.map(getattr(tasks, task), [""], lambda task: 1000))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("how", "start", "task"),
    [
        pytest.param(signal.SIGKILL, "prepare", "waits", id="at work"),
        pytest.param(signal.SIGTERM, "computes", "work", id="while it starts", marks=pytest.mark.slow),
    ],
)
def test_processes_end_with_the_one_that_started_them(how, start, task):
    command = [sys.executable, "-c", PARENT, processes.__file__, start, task]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ, text=True) as parent:
        worker = int(parent.stdout.readline())
        try:
            assert is_running(worker)
            parent.send_signal(how)
            assert parent.wait() == -how
            deadline = time.monotonic() + 30  # it takes half a second, where the machine has nothing else to do
            while is_running(worker):
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            if is_running(worker):
                os.kill(worker, signal.SIGKILL)
