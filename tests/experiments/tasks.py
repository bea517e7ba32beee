"""What processes do in the tests of them. They import this file, so it imports nothing that takes long."""

import os
import signal
import time


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


def waits(argument):
    tell_process()
    time.sleep(1000)


def computes(argument):
    """Keeps all other threads of its process waiting, as some imports do."""
    tell_process()
    sum(range(10**12))


def tell_process():
    os.write(1, f"{os.getpid()}\n".encode())
