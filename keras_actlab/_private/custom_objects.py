"""Names of registered classes that are looked up on demand.

`keras_hub.models.GPT2Backbone.from_preset` looks up the class that a preset names among the registered ones, and raises
unless it is a subclass of GPT2Backbone (`check_config_class` and `Backbone.from_preset` in keras-hub 0.32; see
keras-team/keras-hub#1900 and #2276). The class of a converted backbone is made in the process that converts it, so
another process, which has only imported this package, does not have that class yet.

Read in Keras 3.15: `get_registered_object` looks in the dictionary `GLOBAL_CUSTOM_OBJECTS`.
"""

from collections.abc import Callable
from typing import Any

from keras.src.saving import object_registration


class _LookedUp(dict[str, Any]):
    """Registered objects, and those that `find` returns for names that start with `prefix`."""

    def __init__(self, registered: dict[str, Any], prefix: str, find: Callable[[str], Any]) -> None:
        super().__init__(registered)
        self.prefix = prefix
        self.find = find

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and self._found(name) is not None)

    def __missing__(self, name: str) -> Any:
        found = self._found(name)
        if found is None:
            raise KeyError(name)
        return found

    def _found(self, name: str) -> Any:
        return self.find(name.removeprefix(self.prefix)) if name.startswith(self.prefix) else None


def look_up(prefix: str, find: Callable[[str], Any]) -> None:
    """Makes `find(rest)` the registered object of each name `prefix + rest`; None means that there is none."""
    object_registration.GLOBAL_CUSTOM_OBJECTS = _LookedUp(object_registration.GLOBAL_CUSTOM_OBJECTS, prefix, find)


def set_registered_name(cls: type, name: str) -> None:
    """Makes `name` the registered name of `cls`, without registering `cls` under it."""
    object_registration.GLOBAL_CUSTOM_NAMES[cls] = name
