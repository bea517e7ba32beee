"""The way that every conversion takes: choose layers, copy the model, change them, see that the changes are saved."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TypeAlias

import keras

from keras_actlab._private.object_graph import duplicate
from keras_actlab.conversion import surgery
from keras_actlab.conversion.modified import Origin, Steps, amend, origin, record, set_origin, steps_from
from keras_actlab.conversion.report import Report, Row, remember

Criterion: TypeAlias = str | type | Callable[[keras.layers.Layer], bool]
Where: TypeAlias = Criterion | Sequence[Criterion] | None


class Stays(Exception):  # noqa: N818  # not an error, but a reason
    """Raised by a change, before it changes anything, with the reason why a layer stays as it is."""


@dataclass(frozen=True)
class Place:
    """A layer within a model: the names and steps on the way to it, what holds it, and what in `where` selects it."""

    path: str
    steps: Steps
    layer: keras.layers.Layer
    holder: keras.layers.Layer
    selected_by: tuple[Criterion, ...] = ()

    @property
    def named(self) -> bool:
        """Whether `where` gives the very name: then the layer is meant, even where a conversion would rather not."""
        return any(criterion in self.names for criterion in self.selected_by)

    @property
    def names(self) -> tuple[str, str]:
        """What a name in `where` may be: the path, or its last part, the layer's own name."""
        return self.path, self.path.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.path} ({type(self.layer).__name__})"


def places(model: keras.Model) -> list[Place]:
    """All layers within `model`, at any depth, each once."""
    found: dict[int, Place] = {}

    def visit(holder: keras.layers.Layer, path: str, steps: Steps) -> None:
        for step, child in steps_from(holder):
            if id(child) not in found:
                found[id(child)] = Place(path + child.name, (*steps, step), child, holder)
                visit(child, f"{path}{child.name}/", (*steps, step))

    visit(model, "", ())
    return list(found.values())


def rewrite(
    model: keras.Model,
    where: Where,
    candidate: Callable[[Place], bool],
    change: Callable[[Place], str],
    prepare: Callable[[keras.Model, list[Place]], list[Place]],
) -> keras.Model:
    """Returns a copy of `model` in which `change` was applied to the layers that `where` selects.

    Args:
        model: The model, which stays as it is.
        where: What the user asked for; None for each candidate.
        candidate: Whether a layer is meant where the user does not say which.
        change: Changes a layer in place and returns a note for the report, or raises `Stays`.
        prepare: Given the copy and its selected places, before anything is changed; returns the places to change.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model is not built or cannot be copied, or an entry of `where` selects nothing, or nothing
            that can be changed.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: model={model!r} (of type {type(model).__name__})")
    if not model.built:
        raise ValueError(
            "`model` must be built, so that it has its weights: give it an Input, or call it on data. "
            f"Received: model={model.name!r}, which is not built"
        )
    own = places(model)
    selections = _select(own, where, candidate)
    result, copies = duplicate(model)
    chosen = [
        replace(place, layer=copies[id(place.layer)], holder=copies[id(place.holder)], selected_by=selection)
        for place, selection in zip(own, selections, strict=True)
        if selection
    ]
    chosen = prepare(result, chosen)
    rows = []
    for place in chosen:
        description, parameters = describe(place.layer), _parameters(place.layer)
        original = origin(place.layer) or Origin(record(place.layer))
        is_frozen = not place.layer.trainable
        try:
            if not place.layer.built:
                raise Stays("it is not built")
            note = change(place)
        except Stays as reason:
            rows.append(Row(place.path, description, None, parameters, parameters, str(reason)))
        else:
            if is_frozen:
                place.layer.trainable = False
            set_origin(place.layer, original)
            after = describe(place.layer), _parameters(place.layer)
            rows.append(Row(place.path, description, after[0], parameters, after[1], note))
    if where is not None:
        _check_effect(where, chosen, rows)
    amend(result)
    surgery.track_parameters(result)
    remember(result, Report(tuple(rows), _parameters(model), _parameters(result)))
    return result


def describe(layer: keras.layers.Layer) -> str:
    """The class of `layer`, and in brackets its activation, if it has one."""
    activation = getattr(layer, "activation", None)
    if activation is None or activation is keras.activations.linear:
        return type(layer).__name__
    return f"{type(layer).__name__} ({getattr(activation, '__name__', type(activation).__name__)})"


def _select(places: list[Place], where: Where, candidate: Callable[[Place], bool]) -> list[tuple[Criterion, ...]]:
    """The entries of `where` that select each place; where there are none, `candidate` stands for them."""
    if where is None:
        return [(candidate,) if candidate(place) else () for place in places]
    criteria = _criteria(where)
    selections = [tuple(criterion for criterion in criteria if _matches(criterion, place)) for place in places]
    for criterion in criteria:
        if not any(criterion in selection for selection in selections):
            raise ValueError(
                f"`where` must match a layer of the model. Received: where={where!r}, of which {criterion!r} matches "
                f"none of: {', '.join(map(str, places))}"
            )
    return selections


def _parameters(layer: keras.layers.Layer) -> int:
    return sum(math.prod(weight.shape) for weight in layer.weights)


def _criteria(where: Where) -> tuple[Criterion, ...]:
    criteria = tuple(where) if isinstance(where, list | tuple | set | frozenset) else (where,)
    for criterion in criteria:
        is_other_class = isinstance(criterion, type) and not issubclass(criterion, keras.layers.Layer)
        if is_other_class or not (isinstance(criterion, str) or callable(criterion)):
            raise TypeError(
                "`where` must be a name, a pattern such as 'block1_*', a class of layers, a function of a layer that "
                f"returns True or False, or a list of these. Received: where={where!r}"
            )
    if not criteria:
        raise ValueError(f"`where` must not be empty. Received: where={where!r}")
    return criteria


def _matches(criterion: Criterion, place: Place) -> bool:
    if isinstance(criterion, str):
        return any(fnmatchcase(name, criterion) for name in place.names)
    if isinstance(criterion, type):
        return isinstance(place.layer, criterion)
    return bool(criterion(place.layer))


def _check_effect(where: Where, chosen: list[Place], rows: list[Row]) -> None:
    """Raises a ValueError unless each entry of `where` selects a layer that could be changed."""
    for criterion in _criteria(where):
        found = [row for place, row in zip(chosen, rows, strict=True) if criterion in place.selected_by]
        if all(row.after is None for row in found):
            reasons = "; ".join(f"{row.layer} ({row.before}): {row.note}" for row in found)
            raise ValueError(
                f"`where` must select layers that can be converted. Received: where={where!r}, of which {criterion!r} "
                f"selects only layers that stay as they are: {reasons}"
            )
