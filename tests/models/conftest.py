import pytest

from tests.models.starts import even_starts


@pytest.fixture(name="even_starts")
def _even_starts():
    with even_starts():
        yield
