"""Tables of known sets of data, read from files that are not trusted."""

from pathlib import Path

import pandas as pd


def read(path: Path, rows: int) -> pd.DataFrame:
    """Returns a table of comma-separated values, as it is or compressed.

    Args:
        path: The file.
        rows: Rows of the set, since a file that was cut off looks like a smaller table.

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
