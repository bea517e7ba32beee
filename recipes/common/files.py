"""Tables that are read from files that are not trusted, and tables and figures that are written as whole files."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from keras_actlab.files import atomic_write


def read_table(path: Path, rows: int) -> pd.DataFrame:
    """Reads a table of comma-separated values, which may be compressed.

    Args:
        path: The file.
        rows: Number of rows of the data set. A truncated file would look like a smaller table.

    Raises:
        ValueError: If the file is damaged, or has another number of rows.
    """
    try:
        table = pd.read_csv(path, nrows=rows + 1)
    except Exception as error:  # pandas passes on the errors of each kind of compression
        raise ValueError(f"{path} must be a whole table of comma-separated values: {error}") from error
    if len(table) != rows:
        raise ValueError(f"{path} must have {rows} rows. Received: {'more' if len(table) > rows else len(table)}")
    return table


def write_table(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Writes a table to a file, which is replaced as a whole, and returns it as it will be read from there."""
    with atomic_write(path) as unfinished:
        table.to_csv(unfinished, index=False, float_format="%.6g")
    return pd.read_csv(path)


def append_rows(rows: list[dict[str, Any]], path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Appends rows to a table in a file, which is replaced as a whole, and returns the whole table."""
    before = pd.read_csv(path).to_dict("records") if path.exists() else []
    return write_table(pd.DataFrame([*before, *rows], columns=columns), path)


def write_figure(figure: Figure, path: Path) -> None:
    """Writes a figure to a file, which is replaced as a whole."""
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished, dpi=150, format="png")
