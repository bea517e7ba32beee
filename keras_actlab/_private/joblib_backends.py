"""The parallel backends of joblib that run tasks in this process or on this machine, and joblib's pickles.

Read in joblib 1.5 and 1.6 (`joblib/_parallel_backends.py`, `joblib/externals/loky`). joblib has no public name for the
classes of its own backends.
"""

from typing import Any

from joblib._parallel_backends import LokyBackend, MultiprocessingBackend, SequentialBackend
from joblib.externals.loky.backend.reduction import dumps


def is_local(backend: Any) -> bool:
    """Whether a backend is joblib's own choice, which a user need not have chosen: processes here, or none."""
    return isinstance(backend, LokyBackend | SequentialBackend)


def copies_this_process(backend: Any) -> bool:
    """Whether a backend's workers are forks of this process."""
    return type(backend) is MultiprocessingBackend


def pickled(value: Any) -> bytes:
    """Pickles a value as joblib does, functions and classes of the main module by value."""
    return bytes(dumps(value))
