import gc
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's start-up log
os.environ.setdefault("MPLBACKEND", "Agg")
# On a CPU, TensorFlow convolves channels-first input only with oneDNN, which is off by default on some processors.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# Parallel test processes, the processes that tests start, and later runs share the programs that JAX compiled, because
# compiling takes half of the JAX tests' time.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import pytest

# Keras is imported in functions only, because the process that hands out the tests to others starts first.

gc.disable()  # until the tests are collected: their imports make millions of objects, all of which stay


@pytest.fixture(autouse=True, scope="session")
def _fast_start():
    """Lets processes that tests start do without TensorFlow, unless it is their backend."""
    folder = str(Path(__file__).parent / "fast_start")
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(autouse=True)
def _same_start():
    """Gives every test the same random state and leaves Keras' global settings as they were."""
    import keras

    policy, data_format = keras.config.dtype_policy(), keras.config.image_data_format()
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy(policy)
    keras.config.set_image_data_format(data_format)


@pytest.fixture(autouse=True, scope="module")
def _bounded_memory():
    """Frees what a test file's models and compiled programs hold: several gigabytes over the whole suite."""
    import keras

    yield
    keras.utils.clear_session()
    if keras.backend.backend() == "jax":
        import jax

        jax.clear_caches()


@contextmanager
def _skip_without_the_extra() -> Iterator[None]:
    """Skips a test for which the package asks for an extra that is not installed."""
    try:
        yield
    except ImportError as error:
        if "Install the extra" in str(error) and not importlib.util.find_spec(error.__cause__.name):
            pytest.skip(str(error))
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    with _skip_without_the_extra():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    with _skip_without_the_extra():
        return (yield)


def pytest_collection_modifyitems(items):
    # The longest tests first, so that no process of several is left alone with them at the end, nor takes some of them
    # from another process and makes their expensive fixtures again.
    def place(item):
        return item.path.name != "test_notebooks.py", "saved" not in item.fixturenames

    items.sort(key=place)


def pytest_collection_finish():
    gc.freeze()  # so that no collection looks at the imported modules again
    gc.enable()


def pytest_report_header():
    import keras

    return f"keras {keras.__version__}, backend {keras.backend.backend()}"
