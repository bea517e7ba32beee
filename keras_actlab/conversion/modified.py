"""Layers and models that hold other layers than their constructor makes.

A Functional or Sequential model lists its layers in its config, so a layer that took another's place there is saved
and loaded without further ado. Other objects that hold layers, such as the models of keras-hub, list the arguments of
their constructor, which know nothing of the change. `amend` makes such an object remember: it becomes an instance of a
subclass of its own class, whose config holds, beside the original one, the layers that took others' places.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import keras

from keras_actlab.conversion.surgery import become, scope_of, set_class
from keras_actlab.graph import children

# The way from a layer to one within: on each level the class of the next one, as the constructor made it, and its
# number among those of that class. Names will not do, for Keras numbers layers without a name anew in each process.
Steps: TypeAlias = tuple[tuple[str, int], ...]

# What a config shows of classes, by their names and those of the objects.
Entries: TypeAlias = dict[tuple[str | None, str | None], list[dict[str, Any]]]

# Ends of the keys, in configs, of what decides how a layer starts or trains, but not what it computes.
NOT_COMPUTED_WITH = ("_initializer", "_regularizer", "_constraint", "compile_config", "shared_object_id")


@dataclass(frozen=True)
class Change:
    """A layer that took the place of one that the constructor made, and what `record` says of that one."""

    steps: Steps
    original: dict[str, Any]
    layer: keras.layers.Layer


@keras.saving.register_keras_serializable(package="keras_actlab")
class Modified(keras.layers.Layer):
    """Mixed into the class of an object in which layers were changed; see `amend`."""

    changes: tuple[Change, ...]

    def get_config(self) -> dict[str, Any]:
        cls = _own_class(self)
        return {
            "original": {
                "module": cls.__module__,
                "class_name": cls.__name__,
                "registered_name": keras.saving.get_registered_name(cls),
                "config": super().get_config(),
                "build_config": self.get_build_config(),
            },
            "changes": [
                {"steps": change.steps, "layer": keras.saving.serialize_keras_object(change.layer)}
                for change in self.changes
            ],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> keras.layers.Layer:
        del cls  # the config names the class to return
        layer = keras.saving.deserialize_keras_object(config["original"], custom_objects=custom_objects)
        within = dict(_within(layer))
        changes = []
        for entry in config["changes"]:
            steps = tuple((class_name, index) for class_name, index in entry["steps"])
            if steps not in within:
                raise ValueError(
                    f"{type(layer).__name__} {layer.name!r} was saved with a change of a layer that it does not have: "
                    f"{steps}. Was it saved with another version of the package that defines it?"
                )
            changed = within[steps]
            original = record(changed)
            with scope_of(changed):
                become(changed, keras.saving.deserialize_keras_object(entry["layer"], custom_objects=custom_objects))
            changes.append(Change(steps, original, changed))
        _remember(layer, changes)
        return layer


def record(layer: keras.layers.Layer) -> dict[str, Any]:
    """What is saved of `layer`; its class alone, if it cannot be saved but by what holds it."""
    try:
        return keras.saving.serialize_keras_object(layer)
    except Exception:  # whatever goes wrong in a get_config that nobody was meant to call
        return {"class_name": type(layer).__name__}


def amend(layer: keras.layers.Layer, originals: dict[int, dict[str, Any]]) -> None:
    """Makes what is saved of `layer` tell of layers within that were changed in place.

    `originals` holds, by the id of each layer that was changed, the `record` of it from before. An object in which all
    layers are again what its constructor made is again an instance of its own class, and needs nothing of this package
    to be loaded.
    """
    if isinstance(layer, Modified):
        originals = originals | {id(change.layer): change.original for change in layer.changes}
    # What the config shows saves its own changes; what shows them, and what not, is clear once these are amended.
    in_config = _entries(layer)
    for _, inner in _within(layer, originals, lambda inner: _is_among(inner, in_config)):
        if _is_among(inner, in_config):
            amend(inner, originals)
    in_config = _entries(layer)
    _remember(
        layer,
        [
            Change(steps, originals[id(inner)], inner)
            for steps, inner in _within(
                layer, originals, lambda inner: id(inner) in originals or _is_among(inner, in_config)
            )
            if id(inner) in originals
            and not _is_among(inner, in_config)
            and not _compute_the_same(record(inner), originals[id(inner)])
        ],
    )


def steps_from(
    holder: keras.layers.Layer, originals: Mapping[int, dict[str, Any]] = MappingProxyType({})
) -> Iterator[tuple[tuple[str, int], keras.layers.Layer]]:
    """What `holder` holds, each with the step to it; `originals` tells what was something else when it was made."""
    counts: Counter[str] = Counter()
    for child in children(holder):
        class_name = originals[id(child)]["class_name"] if id(child) in originals else type(child).__name__
        yield (class_name, counts[class_name]), child
        counts[class_name] += 1


def _within(
    holder: keras.layers.Layer,
    originals: Mapping[int, dict[str, Any]] = MappingProxyType({}),
    is_end: Callable[[keras.layers.Layer], bool] = lambda layer: False,
) -> Iterator[tuple[Steps, keras.layers.Layer]]:
    """All layers within `holder`, each with the way to it, but not those within an `is_end`."""
    for step, child in steps_from(holder, originals):
        yield (step,), child
        if not is_end(child):
            for steps, inner in _within(child, originals, is_end):
                yield (step, *steps), inner


def _remember(layer: keras.layers.Layer, changes: list[Change]) -> None:
    cls = _own_class(layer)
    if changes:
        modified = type(cls.__name__, (Modified, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})
        # Every such class is saved under the one name of Modified, whose `from_config` serves all of them.
        keras.saving.register_keras_serializable("keras_actlab", "Modified")(modified)
        keras.saving.register_keras_serializable("keras_actlab")(Modified)
        set_class(layer, modified)
        # Past Keras, which would take the layers in it for new ones.
        object.__setattr__(layer, "changes", tuple(changes))
    elif isinstance(layer, Modified):
        set_class(layer, cls)
        object.__delattr__(layer, "changes")


def _own_class(layer: Any) -> Any:
    return type(layer).__mro__[2] if isinstance(layer, Modified) else type(layer)


def _compute_the_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two records differ in nothing but names, which Keras may have made up, and in how a layer starts."""
    one, other = ({**record, "config": {**record.get("config", {}), "name": None}} for record in (one, other))
    return _essence(one) == _essence(other)


def _essence(config: Any) -> Any:
    """`config` without what does not change the output."""
    if isinstance(config, dict):
        return {key: _essence(value) for key, value in config.items() if not key.endswith(NOT_COMPUTED_WITH)}
    if isinstance(config, list | tuple):
        return [_essence(value) for value in config]
    return config


def _entries(layer: keras.layers.Layer) -> Entries:
    """The dictionaries of classes, at any depth, in the config of `layer` without the changes that it remembers."""
    entries: Entries = defaultdict(list)

    def collect(config: Any) -> None:
        if isinstance(config, dict):
            if isinstance(config.get("config"), dict):
                entries[config.get("class_name"), config["config"].get("name")].append(config)
            config = list(config.values())
        if isinstance(config, list | tuple):
            for value in config:
                collect(value)

    with suppress(
        Exception
    ):  # whatever a get_config raises that nobody was meant to call
        collect(_own_class(layer).get_config(layer))
    return entries


def _is_among(layer: keras.layers.Layer, entries: Entries) -> bool:
    """Whether one of the configs in `entries` is that of `layer`."""
    # Only those of its name are compared, as serializing each of many layers takes seconds; some configs have no name.
    class_name = type(layer).__name__
    candidates = entries.get((class_name, layer.name), []) + entries.get((class_name, None), [])
    if not candidates:
        return False
    own = record(layer)
    return len(own) > 1 and any(all(entry.get(key) == value for key, value in own.items()) for entry in candidates)
