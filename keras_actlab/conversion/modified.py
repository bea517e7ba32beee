"""Serialization of objects in which layers were replaced in place.

A Functional or Sequential model lists its layers in its config, so a layer that replaces another there is saved and
loaded as it is. Other objects that hold layers, such as the blocks and models of keras-hub, have the arguments of their
constructor in their config, which do not include the change. `record_changes` turns each such object, at every depth,
into an instance of a subclass of its own class. The config of that subclass holds the original config and the replaced
layers. So a block keeps its changes in any model that uses it.
"""

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

import keras

from keras_actlab._private.custom_objects import look_up, set_registered_name
from keras_actlab._private.keras_graph import children, track_layers
from keras_actlab._private.keras_layers import UNPICKLE, replace_in_place, set_class, set_path
from keras_actlab._private.torch_modules import update_parameters
from keras_actlab.conversion.attributes import originals, set_activations, with_originals
from keras_actlab.conversion.parametrized import UnitAxes, kernels, parametrize
from keras_actlab.conversion.structure import parts
from keras_actlab.conversion.surgery import after_build, scope_of

# The steps from a layer to one within: at each level the class of the next one, as the constructor made it, and its
# index among those of that class. Names do not identify it, as Keras numbers unnamed layers anew in each process.
Steps: TypeAlias = tuple[tuple[str, int], ...]

# Suffixes of the config keys that affect how a layer starts or trains, but not what it computes.
NOT_COMPUTED_WITH = ("_initializer", "_regularizer", "_constraint", "compile_config", "shared_object_id", "replaced")


@dataclass(frozen=True)
class Change:
    """A layer that replaced one that the constructor made, or that has other attributes than the constructor gave it.

    In the latter case, only the attributes are saved: `activations` are the names of the exchanged activations, and
    `kernels` the unit axes of the computed kernels.
    """

    steps: Steps
    layer: keras.layers.Layer
    activations: tuple[str, ...] = ()
    kernels: UnitAxes = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether the layer replaced another one."""
        return not (self.activations or self.kernels)

    @classmethod
    def of_attributes(cls, steps: Steps, layer: keras.layers.Layer) -> Self:
        return cls(steps, layer, tuple(originals(layer)), kernels(layer))


@dataclass(frozen=True)
class Origin:
    """What is known of a layer that was replaced.

    `record` holds its class and config, as files hold them. `description` is its row in reports, if there is one.
    """

    record: dict[str, Any]
    description: dict[str, Any] | None = None


def origin(layer: keras.layers.Layer) -> Origin | None:
    """Returns the layer that `layer` replaced; None if it is the one that its holder made."""
    found: Origin | None = vars(layer).get("_keras_actlab_origin")
    return found


def set_origin(layer: keras.layers.Layer, origin: Origin | None) -> None:
    """Marks `layer` as the replacement of another one, or, with None, as the one that its holder made."""
    vars(layer).pop("_keras_actlab_origin", None)
    if origin is not None:
        vars(layer)["_keras_actlab_origin"] = origin


def describe_in_place(layer: keras.layers.Layer, description: dict[str, Any] | None) -> None:
    """Stores the report's description of `layer` as `Replacement` does, in a layer of any class."""
    # Without Keras' `__setattr__`, which would track the dictionary.
    object.__setattr__(layer, "replaced", description)


@keras.saving.register_keras_serializable(package="keras_actlab")
class Modified(keras.layers.Layer):
    """Mixin for the class of an object in which layers were replaced; see `record_changes`."""

    changes: tuple[Change, ...]

    def get_config(self) -> dict[str, Any]:
        cls = _own_class(self)
        with with_originals(self):
            config = super().get_config()
        return {
            "original": {
                "module": cls.__module__,
                "class_name": cls.__name__,
                "registered_name": keras.saving.get_registered_name(cls),
                "config": config,
                "build_config": self.get_build_config(),
            },
            "changes": [
                {
                    "steps": change.steps,
                    "layer": keras.saving.serialize_keras_object(change.layer),
                    "replaced": found.description,
                }
                for change in self.changes
                if change.is_whole and (found := origin(change.layer)) is not None
            ]
            + [
                {
                    "steps": change.steps,
                    "activations": {
                        name: keras.activations.serialize(getattr(change.layer, name)) for name in change.activations
                    },
                    "kernels": {name: list(axes) for name, axes in change.kernels.items()},
                    "replaced": vars(change.layer).get("replaced"),
                }
                for change in self.changes
                if not change.is_whole
            ],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> keras.layers.Layer:
        del cls  # the config names the class to return
        # keras-hub adds arguments to the config of a preset.
        added = {key: value for key, value in config.items() if key not in ("original", "changes")}
        # It adds the dtype None if it finds none here, which would replace the dtypes of quantized layers.
        saved = config["original"]["config"].get("dtype")
        if added.get("dtype") is None and isinstance(saved, dict) and saved["class_name"] == "DTypePolicyMap":
            added.pop("dtype", None)
        own = {**config["original"], "config": config["original"]["config"] | added}
        layer = keras.saving.deserialize_keras_object(own, custom_objects=custom_objects)
        within = {(): layer, **dict(_within(layer))}
        done = set()
        for entry in config["changes"]:
            steps = tuple((class_name, index) for class_name, index in entry["steps"])
            if steps not in within:
                raise ValueError(
                    f"{type(layer).__name__} {layer.name!r} was saved with a change of a layer that it does not have: "
                    f"{steps}. Was it saved with another version of the package that defines it?"
                )
            changed = within[steps]
            if id(changed) in done:
                continue  # the layer is held twice
            if "activations" in entry:
                with keras.saving.custom_object_scope(custom_objects or {}):
                    _set_saved_activations(changed, entry["activations"])
                if entry.get("kernels"):
                    parametrize(changed, {name: tuple(axes) for name, axes in entry["kernels"].items()})
                    describe_in_place(changed, entry["replaced"])
                continue
            done.add(id(changed))
            original = Origin(record(changed), entry.get("replaced"))
            new = entry["layer"]
            if "dtype" in added:
                new = _replaced(new, new["config"].get("dtype"), changed.get_config().get("dtype"))
            if not getattr(changed, "built", True):  # an operation of a graph is not built
                # The layer that calls it builds it, under the path that it has there.
                new = {key: value for key, value in new.items() if key != "build_config"}
            with scope_of(changed):
                replace_in_place(changed, keras.saving.deserialize_keras_object(new, custom_objects=custom_objects))
            set_origin(changed, original)
        track_layers(layer)
        record_changes(layer)
        update_parameters(layer)
        return layer

    def __reduce__(self) -> Any:
        _, arguments = super().__reduce__()
        # By a class that pickle can find by its name.
        return UNPICKLE, arguments


def _set_saved_activations(layer: keras.layers.Layer, configs: dict[str, Any]) -> None:
    """Sets the activations of `layer` that `configs` hold, under paths beside that of `layer`."""
    if layer.built:
        with scope_of(layer):
            set_activations(layer, {name: keras.activations.get(config) for name, config in configs.items()})
        return
    # The layer gets its path from the one that calls it.
    unbuilt = {
        name: {key: value for key, value in config.items() if key != "build_config"}
        if isinstance(config, dict)
        else config
        for name, config in configs.items()
    }
    activations = {name: keras.activations.get(config) for name, config in unbuilt.items()}
    set_activations(layer, activations)
    for activation in activations.values():
        if isinstance(activation, keras.layers.Layer):
            after_build(activation, functools.partial(_move_beside_its_holder, activation))


def _move_beside_its_holder(activation: keras.layers.Layer) -> None:
    *outer, _, name = activation.path.split("/")
    set_path(activation, "/".join([*outer, name]))
    update_parameters(activation)


def _replaced(config: Any, old: Any, new: Any) -> Any:
    """Returns `config` with the dtype `old` replaced by `new`."""
    if isinstance(config, dict):
        return {
            key: new if key == "dtype" and value == old else _replaced(value, old, new) for key, value in config.items()
        }
    return [_replaced(value, old, new) for value in config] if isinstance(config, list | tuple) else config


def record(layer: keras.layers.Layer) -> dict[str, Any]:
    """Returns the saved form of `layer`; only its class, if it cannot be saved without its holder."""
    try:
        return keras.saving.serialize_keras_object(layer)
    except Exception:  # a get_config that was never meant to be called may raise anything
        return {"class_name": type(layer).__name__}


def record_changes(layer: keras.layers.Layer) -> None:
    """Records in-place layer replacements so that they are included when `layer`, or an object within, is serialized.

    The replaced layers are those that `set_origin` marked. An object in which all layers are again those of its
    constructor becomes an instance of its own class again, and loads without this package.
    """
    records: dict[int, dict[str, Any]] = {}
    for holder in _bottom_up(layer):
        original = origin(holder)
        if original is not None and _are_equivalent(record(holder), original.record):
            set_origin(holder, None)
        _set_changes(holder, _changes_within(holder, records))


def _bottom_up(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """`layer` and all layers within, each once, after those that it holds."""
    found: dict[int, keras.layers.Layer] = {}
    visited = set()

    def visit(holder: keras.layers.Layer) -> None:
        visited.add(id(holder))
        for child in children(holder):
            if id(child) not in visited:
                visit(child)
        found[id(holder)] = holder

    visit(layer)
    return list(found.values())


def _changes_within(holder: keras.layers.Layer, records: dict[int, dict[str, Any]]) -> list[Change]:
    """The layers within `holder` that are not what it would make from its config."""
    within = _bottom_up(holder)[:-1]
    if not any(map(origin, within)) and not any(map(_has_other_attributes, (holder, *within))):
        return []
    config = _config(holder)
    if config is None:
        return []  # the holder of this holder records the changes
    # Layers that the config contains save their own changes. Of equal layers, the holder's own come first.
    shown = _shown(config, list(dict.fromkeys([*children(holder), *within])), records)
    covered = {id(inner) for one in shown for inner in _bottom_up(one)}
    changes: dict[int, Change] = {}
    steps_and_layers = _within(
        holder,
        lambda inner: None if id(inner) in covered else origin(inner),
        lambda inner: id(inner) in covered or origin(inner) is not None,
    )
    if _has_other_attributes(holder):
        changes[id(holder)] = Change.of_attributes((), holder)
    for steps, inner in steps_and_layers:
        if id(inner) in covered:
            continue
        if origin(inner) is not None:
            changes.setdefault(id(inner), Change(steps, inner))
        elif _has_other_attributes(inner):
            changes.setdefault(id(inner), Change.of_attributes(steps, inner))
    return list(changes.values())


def _has_other_attributes(layer: keras.layers.Layer) -> bool:
    """Whether `layer` itself has other activations or kernels than its constructor made."""
    return bool(originals(layer) or kernels(layer))


def steps_from(
    holder: keras.layers.Layer, origin: Callable[[keras.layers.Layer], Origin | None] = lambda layer: None
) -> Iterator[tuple[tuple[str, int], keras.layers.Layer]]:
    """The layers that `holder` holds, each with the step to it; `origin` returns the layer that another replaced."""
    counts: Counter[str] = Counter()
    for child in parts(holder):
        original = origin(child)
        class_name = original.record["class_name"] if original is not None else type(child).__name__
        yield (class_name, counts[class_name]), child
        counts[class_name] += 1


def _within(
    holder: keras.layers.Layer,
    origin: Callable[[keras.layers.Layer], Origin | None] = lambda layer: None,
    stop_at: Callable[[keras.layers.Layer], bool] = lambda layer: False,
) -> Iterator[tuple[Steps, keras.layers.Layer]]:
    """All layers within `holder`, each with the steps to it, not below one with `stop_at`."""
    for step, child in steps_from(holder, origin):
        yield (step,), child
        if not stop_at(child):
            for steps, inner in _within(child, origin, stop_at):
                yield (step, *steps), inner


def _set_changes(layer: keras.layers.Layer, changes: list[Change]) -> None:
    cls = _own_class(layer)
    if changes:
        set_class(layer, _modified(cls))
        # Without Keras' `__setattr__`, which would track the layers in it.
        object.__setattr__(layer, "changes", tuple(changes))
    elif isinstance(layer, Modified):
        set_class(layer, cls)
        object.__delattr__(layer, "changes")


@functools.cache
def _modified(cls: type) -> type:
    """The class of the objects of the class `cls` that record changes."""
    modified = type(cls.__name__, (Modified, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})
    # All such classes are saved under the name of Modified, whose `from_config` loads all of them. Only presets need
    # the class of an object before it is made.
    name = keras.saving.get_registered_name(Modified)
    if hasattr(cls, "from_preset"):
        name = f"{name} {keras.saving.get_registered_name(cls)}"
    set_registered_name(modified, name)
    return modified


class ModifiedOf:
    """Represents, in a preset of keras-hub, the class of the modified objects of a class `cls`.

    keras-hub checks whether it is a subclass, for which Python reads `__bases__`, and whether it equals the class of
    the backbone of a task.
    """

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.__name__ = cls.__name__
        self.__bases__ = (cls,)

    def __eq__(self, other: object) -> bool:
        return self.cls is (other.cls if isinstance(other, ModifiedOf) else other)

    def __hash__(self) -> int:
        return hash(self.cls)

    def from_config(self, config: dict[str, Any]) -> keras.layers.Layer:
        return Modified.from_config(config)


def _modified_of(name: str) -> "ModifiedOf | type[Modified]":
    """The class that the name of a modified class means, given the name of its own class."""
    cls = keras.saving.get_registered_object(name)
    # Before the module of a class is imported, the class is not known by its name. Its config has the module, too.
    return ModifiedOf(cls) if isinstance(cls, type) else Modified


look_up(f"{keras.saving.get_registered_name(Modified)} ", _modified_of)


def _own_class(layer: Any) -> Any:
    return type(layer).__mro__[2] if isinstance(layer, Modified) else type(layer)


def _are_equivalent(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two records differ only in names, which Keras may have generated, and in how a layer starts."""
    one, other = ({**record, "config": {**record.get("config", {}), "name": None}} for record in (one, other))
    return _computing_part(one) == _computing_part(other)


def _computing_part(config: Any) -> Any:
    """`config` without the keys that do not affect the output."""
    if isinstance(config, dict):
        return {key: _computing_part(value) for key, value in config.items() if not key.endswith(NOT_COMPUTED_WITH)}
    if isinstance(config, list | tuple):
        return [_computing_part(value) for value in config]
    return config


def _config(layer: keras.layers.Layer) -> dict[str, Any] | None:
    """The config of `layer` without its recorded changes; None if it has no config."""
    with suppress(Exception):  # a get_config that was never meant to be called may raise anything
        return _own_class(layer).get_config(layer)
    return None


def _shown(
    config: Any, within: list[keras.layers.Layer], records: dict[int, dict[str, Any]]
) -> list[keras.layers.Layer]:
    """Those of the layers `within` that `config` contains, without the layers within these."""
    by_name: dict[tuple[str | None, str | None], list[keras.layers.Layer]] = defaultdict(list)
    for layer in within:
        for name in {getattr(layer, "name", None), None}:  # some configs have no name
            by_name[type(layer).__name__, name].append(layer)
    found: dict[int, keras.layers.Layer] = {}

    def visit(config: Any) -> None:
        if isinstance(config, dict):
            if isinstance(config.get("config"), dict):
                entry = _without_build_config(config)
                # Only those of its name are compared, as serializing each of many layers takes seconds.
                candidates = by_name.get((config.get("class_name"), config["config"].get("name")), [])
                same = [layer for layer in candidates if _is_recorded_as(layer, entry, records)]
                if same:
                    # Equal entries are matched with different layers as long as there are enough.
                    layer = next((one for one in same if id(one) not in found), same[0])
                    found[id(layer)] = layer
                    return
            config = list(config.values())
        if isinstance(config, list | tuple):
            for value in config:
                visit(value)

    visit(config)
    return list(found.values())


def _is_recorded_as(layer: keras.layers.Layer, entry: dict[str, Any], records: dict[int, dict[str, Any]]) -> bool:
    """Whether `entry` of a config contains all that is saved of `layer`."""
    if id(layer) not in records:
        records[id(layer)] = _without_build_config(record(layer))
    own = records[id(layer)]
    return len(own) > 1 and all(entry.get(key) == value for key, value in own.items())


def _without_build_config(config: Any) -> Any:
    """`config` without the build configs, which some wrappers omit."""
    if isinstance(config, dict):
        return {key: _without_build_config(value) for key, value in config.items() if key != "build_config"}
    if isinstance(config, list | tuple):
        return [_without_build_config(value) for value in config]
    return config
