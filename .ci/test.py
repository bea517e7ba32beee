"""Installs the package, checks style and types, runs the tests, and prints how long each stage took: see `make test`.

`make` calls it with the Python of a virtual environment, into which it installs.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

BACKENDS = ("jax", "tensorflow", "torch")
ROOT = Path(__file__).parent.parent
PYTHON = sys.executable


@dataclass
class Stage:
    """A command with the variables that it needs, and the advice for when it fails."""

    name: str
    command: list[str]
    advice: str
    environment: dict[str, str]
    beside_next: bool = False  # keeps one core busy, and the next stage the others


def stages(backend: str | None, slow: bool, keras: str, jobs: int) -> Iterator[Stage]:
    """All stages, or, where `backend` is given, those that need this backend alone."""
    extras = f"{backend},test-one-backend" if backend else "test"
    if slow:
        extras += ",kernels,search,ship,trackers-all"  # heavy; without them, the tests that need them are skipped
    # Without --no-compile, pip compiles each module of each package on one core; most of them are never imported.
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--no-compile", "--constraint", ".ci/constraints.txt"]
    yield Stage(
        "installing",
        [*pip, "--editable", f".[{extras}]", keras],
        "pip's message is above. Without a network, set PIP_PROXY, PIP_INDEX_URL or PIP_FIND_LINKS so that pip finds "
        "the packages. Then start the same command again; installed packages are kept.",
        {},
    )
    ruff = str(Path(PYTHON).parent / "ruff")
    yield Stage("lint", [ruff, "check", "."], f"Run: {ruff} check --fix .", {})
    yield Stage("format", [ruff, "format", "--check", "."], f"Run: {ruff} format .", {})
    if not backend:  # mypy checks the code for every backend
        yield Stage("types", [PYTHON, "-m", "mypy"], "mypy's lines above need types that agree.", {}, beside_next=True)
    for name in [backend] if backend else BACKENDS:
        # On JAX the tests mostly compile many small programs. JAX_DISABLE_MOST_OPTIMIZATIONS skips the code generator's
        # passes that make a program fast, which saves a third of the time.
        environment = {"KERAS_BACKEND": name, "OMP_NUM_THREADS": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        # worksteal gives each process a contiguous part of the tests, so that most fixtures are made only once, and
        # moves tests to a process that has finished its part.
        # On PyTorch alone, many tests wait for processes that they start.
        processes = jobs + (name == "torch")
        command = [PYTHON, "-m", "pytest", "--quiet", f"--numprocesses={processes}", "--dist=worksteal"]
        selected = [] if slow else ["not slow"]
        if not backend and name != "torch":
            selected.append("not one_backend")
        command += ["-m", " and ".join(selected)]
        if slow and not backend and name == "torch":  # the backend on which all tests run
            command += ["--cov=keras_actlab", "--cov-fail-under=95"]
        again = f"KERAS_BACKEND={name} {PYTHON} -m pytest --last-failed"
        yield Stage(f"tests on {name}", command, f"To run only what failed: {again}", environment)


def run(stage: Stage) -> tuple[bool, float, float]:
    """Runs a stage. Returns whether it succeeded, its minutes, and the memory of its largest process in GiB."""
    # Containers often tell Python to store no compiled modules. The tests start dozens of processes, and each would
    # compile thousands of modules again: half a minute for Keras and PyTorch.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": ""} | stage.environment
    heading = f"\n== {stage.name}: {' '.join(stage.command)}\n"
    start = time.monotonic()
    with tempfile.TemporaryFile() if stage.beside_next else nullcontext() as output:
        if not output:
            print(heading, end="", flush=True)
        process = subprocess.Popen(stage.command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)  # the usage of the process and of all that it started
        minutes = (time.monotonic() - start) / 60
        if output:  # all at once, because the next stage prints, too
            output.seek(0)
            print(heading + output.read().decode(errors="replace"), end="", flush=True)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode == 0, minutes, usage.ru_maxrss / 2**20


def full_disks() -> list[str]:
    """The folders that a stage writes to and that have less than 1 GiB left."""
    free = {folder: shutil.disk_usage(folder).free / 2**30 for folder in (sys.prefix, str(ROOT), tempfile.gettempdir())}
    return [f"{folder} ({gib:.1f} GiB free)" for folder, gib in free.items() if gib < 1]


def main() -> None:
    """Runs the stages up to the first that fails, and prints what each of them took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=BACKENDS, help="install and test this one alone")
    parser.add_argument("--slow", action="store_true", help="run the tests that are marked slow, too")
    parser.add_argument("--keras", default="keras", help="what pip installs as Keras")
    parser.add_argument("--jobs", type=int, default=2, help="number of parallel test processes, one more on PyTorch")
    options = parser.parse_args()

    table = [f"{'stage':22}{'minutes':>9}{'GiB of the largest process':>29}"]
    start, failed, running = time.monotonic(), [], []
    with ThreadPoolExecutor() as threads:
        for stage in stages(options.backend, options.slow, options.keras, options.jobs):
            running.append((stage, threads.submit(run, stage)))
            if stage.beside_next:
                continue
            for finished, result in running:
                succeeded, minutes, memory = result.result()
                note = "" if succeeded else "  failed"
                note += "  beside the next" * finished.beside_next
                table.append(f"{finished.name:22}{minutes:9.1f}{memory:29.1f}{note}")
                failed += [] if succeeded else [finished]
            running.clear()
            if failed:
                break
    total = (time.monotonic() - start) / 60
    print("\n" + "\n".join([*table, f"{'total':22}{total:9.1f}"]), flush=True)
    if failed:
        disks = full_disks()
        advice = [f"Free some disk space first: {', '.join(disks)}."] if disks else [stage.advice for stage in failed]
        names = " and ".join(f'"{stage.name}"' for stage in failed)
        sys.exit(f"\nFailed: {names}. {' '.join(advice)}")


if __name__ == "__main__":
    main()
