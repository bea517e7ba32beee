import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's start-up log
os.environ.setdefault("MPLBACKEND", "Agg")

import keras
import pytest


@pytest.fixture(autouse=True)
def _same_start():
    """Gives every test the same random state and leaves Keras' global settings as they were."""
    policy, data_format = keras.config.dtype_policy(), keras.config.image_data_format()
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy(policy)
    keras.config.set_image_data_format(data_format)


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
    # The longest tests first, so that no process of several is left alone with them at the end.
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")


def pytest_report_header():
    return f"keras {keras.__version__}, backend {keras.backend.backend()}"
