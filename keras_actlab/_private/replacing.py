"""Replacing an attribute of a module or class for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within, the attribute `name` of a module or class is `value`."""
    is_own = name in vars(owner)  # or else inherited
    previous = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if is_own:
            setattr(owner, name, previous)
        else:
            delattr(owner, name)
