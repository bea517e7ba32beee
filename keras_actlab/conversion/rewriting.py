"""The way that every conversion takes: choose layers, copy the model, change them, see that the changes are saved."""

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import keras

from keras_actlab._private.gradients import without_gradients
from keras_actlab._private.keras_graph import track_layers
from keras_actlab._private.object_graph import duplicate
from keras_actlab.conversion import surgery
from keras_actlab.conversion.attributes import originals
from keras_actlab.conversion.modified import Origin, amend, describe_in_place, origin, record, set_origin
from keras_actlab.conversion.parametrized import kernels
from keras_actlab.conversion.places import Criterion, Place, count, describe, places
from keras_actlab.conversion.probe import Comparison, NoProbeError, rounding
from keras_actlab.conversion.report import Report, Row, remember, report
from keras_actlab.conversion.target import is_function_of_tensors
from keras_actlab.layers.activations import applied_activation, as_layer, computes
from keras_actlab.layers.replacement import Replacement, SkipLayer

Where: TypeAlias = Criterion | Sequence[Criterion] | None


@without_gradients()
def rewrite(
    model: keras.Model,
    where: Where,
    candidate: Callable[[Place], bool],
    change: Callable[[Place], str],
    prepare: Callable[[keras.Model, list[Place]], list[Place]],
    check: bool = True,
    equal: bool = True,
    only: Callable[[Place], bool] = lambda place: True,
) -> keras.Model:
    """Returns a copy of `model` in which `change` was applied to the layers that `where` selects.

    Args:
        model: The model, which stays as it is.
        where: What the user asked for; None for each candidate.
        candidate: Whether a layer is meant where the user does not say which.
        change: Changes a layer in place and returns a note for the report, or raises `SkipLayer`.
        prepare: Given the copy and its selected places, before anything is changed; returns the places to change.
        check: Whether to compare the copy, and the result, with `model` on a small batch.
        equal: Whether the result is to have the outputs of `model`.
        only: Which layers `where` may select at all.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model is not built, an entry of `where` selects nothing, or nothing that can be changed, or
            outputs differ that are to be equal.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: model={model!r} (of type {type(model).__name__})")
    if not model.built:
        raise ValueError(
            "`model` must be built, so that it has its weights: give it an Input, or call it on data. "
            f"Received: model={model.name!r}, which is not built"
        )
    own = places(model)
    among = [place for place in own if only(place)]
    selections = _select(among, where, candidate)
    result, copies = duplicate(model)
    comparison, notes = _compare(model, result, own, copies) if check else (None, [])
    if model.compiled:
        notes.append("What `compile` set, and the state of the optimizer, are not kept: compile the result.")
    chosen = [
        replace(place, layer=copies[id(place.layer)], holder=copies[id(place.holder)], selected_by=selection)
        for place, selection in zip(among, selections, strict=True)
        if selection
    ]
    del copies  # and with it the weights of layers that will be replaced
    chosen = prepare(result, chosen)
    surgery.forget_parameters(result)
    rows = [_changed(place, change) for place in chosen]
    if where is not None:
        _check_effect(where, chosen, rows)
    track_layers(result)
    surgery.settle_activations([place.layer for place in chosen])
    amend(result)
    surgery.track_parameters(result)
    if comparison is not None and equal:
        comparison.check(result, rounding(result))
    remember(result, Report(tuple(rows), count(model), count(result), tuple(notes)))
    return result


def _changed(place: Place, change: Callable[[Place], str]) -> Row:
    """Applies `change` to a layer, and returns what the report says of it."""
    description, parameters = describe(place.layer), count(place.layer)
    original = origin(place.layer) or Origin(record(place.layer))
    is_frozen = not getattr(place.layer, "trainable", True)
    held = kernels(place.layer)
    try:
        if not getattr(place.layer, "built", True):  # an operation is not built
            raise SkipLayer("it is not built")
        note = change(place)
    except NotImplementedError:
        reason = "it has no config"  # of which a change would have to be made
        return Row(place.path, description, None, parameters, parameters, reason)
    except SkipLayer as reason:
        return Row(place.path, description, None, parameters, parameters, str(reason))
    if is_frozen:
        surgery.freeze(place.layer)
    said = original.description or {"before": description, "parameters_before": parameters, "note": note}
    has_other_kernels = kernels(place.layer) != held
    if origin(place.layer) is not None or not (originals(place.layer) or has_other_kernels):
        set_origin(place.layer, Origin(original.record, said))  # it was replaced as a whole
    if has_other_kernels and kernels(place.layer):
        describe_in_place(place.layer, said | {"is_activation": False})
    else:
        _describe_replacement(place.layer, said)
    return Row(place.path, description, describe(place.layer), parameters, count(place.layer), note)


def warned(result: keras.Model) -> keras.Model:
    """Returns `result`, what a conversion returns to the user, with a warning if nothing was changed in it."""
    done = report(result)
    if not done.changed:
        warnings.warn(f"Nothing was changed in {result.name!r}:\n{done}", UserWarning, stacklevel=3)
    return result


def _describe_replacement(layer: keras.layers.Layer, said: dict[str, Any]) -> None:
    """Keeps what a report says in the config of `layer`, or of its activation, if that is one of this package."""
    for one in (layer, *(getattr(layer, name, None) for name in ("activation", *originals(layer)))):
        if isinstance(one, Replacement):
            # Past Keras, which would track the dictionary.
            object.__setattr__(one, "replaced", said | {"is_activation": one is not layer})
            return


def _compare(
    model: keras.Model, copied: keras.Model, own: list[Place], copies: dict[int, Any]
) -> tuple[Comparison | None, list[str]]:
    """Compares a copy with its original: variables one by one, and outputs. Returns notes on what was not compared."""
    for variable in model.variables:
        if not _equal(variable, copies[id(variable)]):
            raise ValueError(
                f"The copy of model={model.name!r} must have its weights, and has others in {variable.path}"
            )
    layers = [place for place in own if isinstance(place.layer, keras.layers.Layer)]
    pairs = [(str(place), place.layer, copies[id(place.layer)]) for place in layers]
    try:
        return Comparison(model, copied, pairs), []
    except NoProbeError as reason:
        return None, [f"Outputs were not compared with those of the original model: {reason}."]


def _equal(one: keras.Variable, other: keras.Variable) -> bool:
    """Whether two variables have the same values, NaN where the other has NaN."""
    x, y = one.value, other.value
    # Most have no NaN, for which the second comparison would take up memory.
    return bool(keras.ops.all(x == y)) or bool(keras.ops.all((x == y) | ((x != x) & (y != y))))


def _select(places: list[Place], where: Where, candidate: Callable[[Place], bool]) -> list[tuple[Criterion, ...]]:
    """The entries of `where` that select each place; where there are none, `candidate` stands for them."""
    if where is None:
        return [(candidate,) if candidate(place) else () for place in places]
    criteria = _criteria(where)
    # A name with characters that patterns treat specially stands for itself.
    names = {name for place in places for name in place.names}
    selections = [tuple(criterion for criterion in criteria if _matches(criterion, place, names)) for place in places]
    for criterion in criteria:
        if not any(criterion in selection for selection in selections):
            raise ValueError(
                f"`where` must match a layer of the model. Received: where={where!r}, of which {criterion!r} matches "
                f"none of: {', '.join(map(str, places))}"
            )
    return selections


def _criteria(where: Where) -> tuple[Criterion, ...]:
    criteria = tuple(where) if isinstance(where, list | tuple | set | frozenset) else (where,)
    for criterion in criteria:
        is_other_class = isinstance(criterion, type) and not issubclass(criterion, keras.layers.Layer)
        if is_other_class or not (isinstance(criterion, str) or callable(criterion)):
            raise TypeError(
                "`where` must be a layer, a name, a pattern such as 'block1_*', a class of layers, an activation, a "
                f"function of a layer that returns True or False, or a list of these. Received: where={where!r}"
            )
    if not criteria:
        raise ValueError(f"`where` must not be empty. Received: where={where!r}")
    return criteria


def _matches(criterion: Criterion, place: Place, names: Collection[str]) -> bool:
    if isinstance(criterion, str):
        if criterion in names:
            return criterion in place.names
        return any(fnmatchcase(name, criterion) for name in place.names)
    if _is_layer(criterion):
        return place.layer is criterion
    if isinstance(criterion, type):
        return isinstance(place.layer, criterion)
    if is_function_of_tensors(criterion):
        return computes(applied_activation(place.layer), criterion)
    try:
        return bool(criterion(as_layer(place.layer)))
    except Exception as error:
        raise ValueError(
            f"`where` must return True or False for each layer, if it is a function. Received: where={criterion!r}, "
            f"which fails on {place}: {error}"
        ) from error


def _is_layer(criterion: Criterion) -> bool:
    return isinstance(criterion, keras.layers.Layer)


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
