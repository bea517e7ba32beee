"""The steps of every conversion: select layers, copy the model, change the layers, record the changes for saving."""

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import keras

from keras_actlab._private.gradients import without_gradients
from keras_actlab._private.keras_graph import track_layers
from keras_actlab._private.keras_layers import mark_called, nested_layers
from keras_actlab._private.object_graph import duplicate
from keras_actlab._private.torch_modules import drop_parameters, update_parameters
from keras_actlab.conversion import surgery
from keras_actlab.conversion.attributes import originals
from keras_actlab.conversion.layer_refs import Criterion, LayerRef, count, describe, layer_refs
from keras_actlab.conversion.modified import Origin, describe_in_place, origin, record, record_changes, set_origin
from keras_actlab.conversion.parametrized import kernels
from keras_actlab.conversion.probe import Comparison, NoProbeError, rounding
from keras_actlab.conversion.report import Report, Row, report, store_report
from keras_actlab.conversion.target import is_function_of_tensors
from keras_actlab.layers.activations import applied_activation, as_layer, computes
from keras_actlab.layers.quantization import refuse_quantization, refuses_quantization
from keras_actlab.layers.replacement import Replacement, SkipLayer

Where: TypeAlias = Criterion | Sequence[Criterion] | None


@without_gradients()
def rewrite(
    model: keras.Model,
    where: Where,
    candidate: Callable[[LayerRef], bool],
    change: Callable[[LayerRef], str],
    prepare: Callable[[keras.Model, list[LayerRef]], list[LayerRef]],
    check: bool = True,
    equal: bool = True,
    only: Callable[[LayerRef], bool] = lambda ref: True,
) -> keras.Model:
    """Returns a copy of `model` in which `change` was applied to the layers that `where` selects.

    Args:
        model: The model, which is left unchanged.
        where: The layers that the user selects; None for each candidate.
        candidate: Whether a layer is converted if `where` is None.
        change: Changes a layer in place and returns a note for the report, or raises `SkipLayer`.
        prepare: Given the copy and the selected layers in it, before anything is changed; returns the layers to change.
        check: Whether to compare the copy, and the result, with `model` on a small batch.
        equal: Whether the result is to have the outputs of `model`.
        only: Which layers `where` can select.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model is not built, an entry of `where` selects no layer, or none that can be changed, or
            outputs differ that must be equal.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: model={model!r} (of type {type(model).__name__})")
    if not model.built:
        raise ValueError(
            "`model` must be built, so that it has its weights: give it an Input, or call it on data. "
            f"Received: model={model.name!r}, which is not built"
        )
    own = layer_refs(model)
    among = [ref for ref in own if only(ref)]
    selections = _select(among, where, candidate)
    result, copies = duplicate(model)
    comparison, notes = _compare(model, result, own, copies) if check else (None, [])
    if model.compiled:
        notes.append("What `compile` set, and the state of the optimizer, are not kept: compile the result.")
    chosen = [
        replace(ref, layer=copies[id(ref.layer)], holder=copies[id(ref.holder)], selected_by=selection)
        for ref, selection in zip(among, selections, strict=True)
        if selection
    ]
    del copies  # to free the weights of replaced layers
    chosen = prepare(result, chosen)
    drop_parameters(result)
    done: list[tuple[LayerRef, Row]] = []
    removed: set[int] = set()
    for ref in chosen:
        if id(ref.layer) not in removed:  # with a layer that held it and was replaced
            within = _ids_within(ref.layer)
            done.append((ref, _apply(ref, change)))
            removed |= within - _ids_within(ref.layer)
    if where is not None:
        _check_effect(where, done)
    track_layers(result)
    surgery.set_activation_paths([ref.layer for ref, _ in done])
    for layer in reversed(nested_layers(result)):  # what a message names is the outermost layer
        if refuses_quantization(layer):  # it may have a new activation
            refuse_quantization(layer, layer)
    record_changes(result)
    mark_called(result)
    update_parameters(result)
    if comparison is not None and equal:
        comparison.check(result, rounding(result))
    store_report(result, Report(tuple(row for _, row in done), count(model), count(result), tuple(notes)))
    return result


def _ids_within(layer: keras.Operation) -> set[int]:
    return set(map(id, nested_layers(layer))) if isinstance(layer, keras.layers.Layer) else set()


def _apply(ref: LayerRef, change: Callable[[LayerRef], str]) -> Row:
    """Applies `change` to a layer, and returns its row of the report."""
    description, parameters = describe(ref.layer), count(ref.layer)
    original = origin(ref.layer) or Origin(record(ref.layer))
    is_frozen = not getattr(ref.layer, "trainable", True)
    held = kernels(ref.layer)
    try:
        if not getattr(ref.layer, "built", True):  # an operation is not built
            raise SkipLayer("it is not built")
        note = change(ref)
    except NotImplementedError:
        reason = "it has no config"  # from which a changed layer could be made
        return Row(ref.path, description, None, parameters, parameters, reason)
    except SkipLayer as reason:
        return Row(ref.path, description, None, parameters, parameters, str(reason))
    if is_frozen:
        surgery.freeze(ref.layer)
    said = original.description or {"before": description, "parameters_before": parameters, "note": note}
    has_other_kernels = kernels(ref.layer) != held
    if origin(ref.layer) is not None or not (originals(ref.layer) or has_other_kernels):
        set_origin(ref.layer, Origin(original.record, said))  # it was replaced as a whole
    if has_other_kernels and kernels(ref.layer):
        describe_in_place(ref.layer, said | {"is_activation": False})
    else:
        _describe_replacement(ref.layer, said)
    return Row(ref.path, description, describe(ref.layer), parameters, count(ref.layer), note)


def warn_if_unchanged(result: keras.Model) -> keras.Model:
    """Returns `result`, the converted model, and warns if no layer was changed."""
    done = report(result)
    if not done.changed:
        warnings.warn(f"Nothing was changed in {result.name!r}:\n{done}", UserWarning, stacklevel=3)
    return result


def _describe_replacement(layer: keras.layers.Layer, said: dict[str, Any]) -> None:
    """Stores the report's description in `layer`, or in its activation, if that is a `Replacement`."""
    for one in (layer, *(getattr(layer, name, None) for name in ("activation", *originals(layer)))):
        if isinstance(one, Replacement):
            # Without Keras' `__setattr__`, which would track the dictionary.
            object.__setattr__(one, "replaced", said | {"is_activation": one is not layer})
            return


def _compare(
    model: keras.Model, copied: keras.Model, own: list[LayerRef], copies: dict[int, Any]
) -> tuple[Comparison | None, list[str]]:
    """Compares the variables and the outputs of a copy with the original. Returns notes on what was not compared."""
    for variable in model.variables:
        if not _equal(variable, copies[id(variable)]):
            raise ValueError(
                f"The copy of model={model.name!r} must have its weights, and has others in {variable.path}"
            )
    layers = [ref for ref in own if isinstance(ref.layer, keras.layers.Layer)]
    pairs = [(str(ref), ref.layer, copies[id(ref.layer)]) for ref in layers]
    try:
        return Comparison(model, copied, pairs), []
    except NoProbeError as reason:
        return None, [f"Outputs were not compared with those of the original model: {reason}."]


def _equal(one: keras.Variable, other: keras.Variable) -> bool:
    """Whether two variables have the same values, NaN where the other has NaN."""
    x, y = one.value, other.value
    # Most variables have no NaN, and the second comparison takes more memory.
    return bool(keras.ops.all(x == y)) or bool(keras.ops.all((x == y) | ((x != x) & (y != y))))


def _select(refs: list[LayerRef], where: Where, candidate: Callable[[LayerRef], bool]) -> list[tuple[Criterion, ...]]:
    """The entries of `where` that select each layer; `candidate` replaces them if `where` is None."""
    if where is None:
        return [(candidate,) if candidate(ref) else () for ref in refs]
    criteria = _criteria(where)
    # A name is compared literally first, as it may contain characters that are special in patterns.
    names = {name for ref in refs for name in ref.names}
    selections = [tuple(criterion for criterion in criteria if _matches(criterion, ref, names)) for ref in refs]
    for criterion in criteria:
        if not any(criterion in selection for selection in selections):
            raise ValueError(
                f"`where` must match a layer of the model. Received: where={where!r}, of which {criterion!r} matches "
                f"none of: {', '.join(map(str, refs))}"
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


def _matches(criterion: Criterion, ref: LayerRef, names: Collection[str]) -> bool:
    if isinstance(criterion, str):
        if criterion in names:
            return criterion in ref.names
        return any(fnmatchcase(name, criterion) for name in ref.names)
    if _is_layer(criterion):
        return ref.layer is criterion
    if isinstance(criterion, type):
        return isinstance(ref.layer, criterion)
    if is_function_of_tensors(criterion):
        return computes(applied_activation(ref.layer), criterion)
    try:
        return bool(criterion(as_layer(ref.layer)))
    except Exception as error:
        raise ValueError(
            f"`where` must return True or False for each layer, if it is a function. Received: where={criterion!r}, "
            f"which fails on {ref}: {error}"
        ) from error


def _is_layer(criterion: Criterion) -> bool:
    return isinstance(criterion, keras.layers.Layer)


def _check_effect(where: Where, done: list[tuple[LayerRef, Row]]) -> None:
    """Raises a ValueError unless each entry of `where` selects a layer that could be changed."""
    for criterion in _criteria(where):
        found = [row for ref, row in done if criterion in ref.selected_by]
        if all(row.after is None for row in found):
            reasons = "; ".join(f"{row.layer} ({row.before}): {row.note}" for row in found)
            raise ValueError(
                f"`where` must select layers that can be converted. Received: where={where!r}, of which {criterion!r} "
                f"selects only layers that are skipped: {reasons}"
            )
