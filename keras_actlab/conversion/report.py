"""What a conversion did to a model, as a table."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import keras
from rich import box
from rich.console import Console
from rich.table import Table

from keras_actlab.conversion.layer_refs import count, describe, layer_refs
from keras_actlab.conversion.modified import origin


@dataclass(frozen=True)
class Row:
    """One layer that was changed, or that was left unchanged for the reason in `note`, with `after` None."""

    layer: str
    before: str
    after: str | None
    parameters_before: int
    parameters_after: int
    note: str = ""


@dataclass(frozen=True)
class Report:
    """What a conversion did, layer by layer; printed, a table.

    Attributes:
        rows: One for each layer that was changed, or was selected and skipped: `layer` (its path), `before` and `after`
            (class and activation; `after` is None if it was skipped), `parameters_before`, `parameters_after`, and
            `note`.
        parameters_before: Number of parameters of the whole model before.
        parameters_after: Number of parameters of the whole model after.
        notes: What the result does not have, such as the state of an optimizer, and what could not be checked, and why.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="gelu", name="hidden")])
    >>> report = keras_actlab.conversion.report(keras_actlab.swap_activations(model, "crrelu"))
    >>> (report.changed[0].before, report.changed[0].after, report.parameters_after - report.parameters_before)
    ('Dense (gelu)', 'Dense (CRReLU)', 1)
    """

    rows: tuple[Row, ...]
    parameters_before: int
    parameters_after: int
    notes: tuple[str, ...] = ()

    @property
    def changed(self) -> tuple[Row, ...]:
        """The rows of the layers that were changed."""
        return tuple(row for row in self.rows if row.after is not None)

    @property
    def skipped(self) -> tuple[Row, ...]:
        """The rows of the layers that were selected and left unchanged."""
        return tuple(row for row in self.rows if row.after is None)

    def __str__(self) -> str:
        table = Table(box=box.SIMPLE_HEAD)
        for header in ("layer", "from", "to", "parameters", "note"):
            table.add_column(header, justify="right" if header == "parameters" else "left", overflow="fold")
        for row in self.rows:
            parameters = f"{row.parameters_before:,}"
            if row.after is not None:
                parameters += f" -> {row.parameters_after:,}"
            table.add_row(row.layer, row.before, row.after or "unchanged", parameters, row.note)
        table.add_row("model", "", "", f"{self.parameters_before:,} -> {self.parameters_after:,}", "")
        text = io.StringIO()
        # As plain text, also in a notebook, where rich would show the table itself and write nothing.
        console = Console(
            file=text, width=120, markup=False, force_jupyter=False, force_terminal=False, color_system=None
        )
        console.print(table)
        lines = [line.rstrip() for line in text.getvalue().splitlines() if line.strip()]
        return "\n".join([*lines, *self.notes])


_REPORTS: WeakKeyDictionary[keras.Model, Report] = WeakKeyDictionary()


def store_report(model: keras.Model, report: Report) -> None:
    """Stores `report` for as long as `model` exists."""
    _REPORTS[model] = report


def report(model: keras.Model) -> Report:
    """Returns the report of the conversion that made `model`: which layers it changed, which it skipped, and why.

    Args:
        model: What `to_gmp`, `to_weight_normalization`, `swap_activations` or `fold` returned, or what was saved and
            loaded, or built, from it. In the latter case the report is about all conversions together. It then has the
            changed layers that are, or hold, layers of this package (or derive from
            `keras_actlab.conversion.Replacement`), or are within an object whose config does not list its layers.

    Returns:
        A `Report`, with `rows`, of which some are `changed` and the others `skipped`. Printed, it is a table of layer,
        from, to, parameters before and after, and note.

    Raises:
        ValueError: If `model` is not such a result, or none of its layers has a record of a change.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="relu", name="hidden")])
    >>> print(keras_actlab.conversion.report(keras_actlab.to_gmp(model)))
      layer    from           to                parameters   note
     ─────────────────────────────────────────────────────────────
      hidden   Dense (relu)   GmPDense (relu)     16 -> 16
      model                                       16 -> 16
    """
    if model in _REPORTS:
        return _REPORTS[model]
    rows = tuple(_recalled(model))
    if not rows:
        raise ValueError(
            "`model` must be what a conversion returned, or hold layers that one changed. Received: "
            f"model={getattr(model, 'name', model)!r} (of type {type(model).__name__})"
        )
    added = sum(row.parameters_after - row.parameters_before for row in rows)
    return Report(rows, count(model) - added, count(model))


def _recalled(model: keras.Model) -> Iterator[Row]:
    """The rows that the layers of a model have a record of."""
    done: list[str] = []
    for ref in layer_refs(model):
        if ref.path.startswith(tuple(f"{path}/" for path in done)):
            continue  # within a layer that was replaced as a whole
        original = origin(ref.layer)
        owner, path = ref.layer, ref.path
        said = original.description if original is not None else getattr(ref.layer, "replaced", None)
        if said is None:
            continue
        if original is None and said["is_activation"]:
            owner, path = ref.holder, path.rpartition("/")[0]
        done.append(path)
        yield Row(path, said["before"], describe(owner), said["parameters_before"], count(owner), said["note"])
