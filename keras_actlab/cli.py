"""The command `keras-actlab`."""

import functools
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

try:
    import pandas as pd
    import typer
except ImportError as error:
    raise ImportError(
        f"The command keras-actlab needs {error.name}. Install the extra [lab]: pip install 'keras-actlab[lab]'"
    ) from error

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


class Start(StrEnum):
    """What a fit starts from."""

    scratch = "scratch"
    trained = "trained"


class Mode(StrEnum):
    """Which values of a metric are better."""

    min = "min"
    max = "max"


@app.callback()
def keras_actlab() -> None:
    """Trainable activations and geometric weights for Keras models. KERAS_BACKEND chooses the backend."""


@app.command()
def advise(
    model: Annotated[Path, typer.Argument(help="A compiled model, as `model.save` writes it (.keras).")],
    data: Annotated[Path, typer.Argument(help="Examples: a .npz, .csv or .parquet file.")],
    target: Annotated[str, typer.Option(help="Array or column with the targets; all others are inputs.")],
    validation: Annotated[
        Path | None, typer.Option(help="File with the examples that choose. Drawn from DATA if missing.")
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="File with the examples that judge. Drawn from DATA if missing.")
    ] = None,
    variants: Annotated[str, typer.Option(help="Names of alternatives, separated by commas.")] = "gelu,crrelu,tmaf,gmp",
    metric: Annotated[
        str | None, typer.Option(help="Metric that chooses and judges. The first one of `compile`.")
    ] = None,
    mode: Annotated[
        Mode | None, typer.Option(help="Which values of the metric are better, if Keras does not know it.")
    ] = None,
    start: Annotated[Start, typer.Option(help="New weights for each fit, or the weights in the file.")] = Start.scratch,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of a fit. Chosen on validation data if missing.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of examples in a batch.")] = 32,
    standardize: Annotated[
        bool, typer.Option("--standardize", help="Standardize inputs, and real-valued targets, by the training part.")
    ] = False,
    budget: Annotated[str, typer.Option(help="Time for training, as 15min or 2h, or '10 pairs'.")] = "15min",
    smallest_effect: Annotated[
        float | None, typer.Option(help="Smallest difference of the metric that matters.")
    ] = None,
    path: Annotated[Path, typer.Option(help="Folder for results, report.html and advice.json.")] = Path("advice"),
    jobs: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 1,
) -> None:
    """Says whether other activations or geometric weights are better than MODEL on DATA, with error bars."""
    import keras

    from keras_actlab.advice import advise

    names = [name.strip() for name in variants.split(",") if name.strip()]
    if not model.is_file():
        raise ValueError(f"`MODEL` must be a file that `model.save` wrote. Received: {str(model)!r}")
    x, y = read(data, target)
    examples: Any = (x, y)
    if standardize:
        if validation or test:
            raise ValueError("`--standardize` divides DATA at random: it excludes `--validation` and `--test`")
        examples = standardized(x, y)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")  # fits have new ones
        loaded = keras.saving.load_model(model)
    advice = advise(
        loaded,
        examples,
        validation and read(validation, target),
        test and read(test, target),
        variants=names,
        metric=metric,
        mode=mode and mode.value,
        start=start.value,
        epochs=epochs,
        batch_size=batch_size,
        budget=budget,
        smallest_effect=smallest_effect,
        path=path,
        jobs=jobs,
    )
    typer.echo(advice)
    typer.echo(f"\nReport: {path / 'report.html'}")


def standardized(x: Any, y: Any) -> Any:
    """Returns the function of a split's index that standardizes inputs, and targets that are not integers."""
    from keras_actlab.experiments import holdout

    return functools.partial(holdout, x, y, standardize_targets=y.dtype.kind == "f")


def read(file: Path, target: str) -> tuple[Any, Any]:
    """Returns inputs and targets from a file.

    Columns of a table become one array of inputs. Arrays of a .npz file become a dictionary of inputs by name, unless
    there is one only.

    Raises:
        ValueError: If the file is missing, of another format, or does not have the target and an input.
    """
    import numpy as np

    from keras_actlab.experiments._arrays import as_array

    if not file.is_file():
        raise ValueError(f"`DATA` must be a file. Received: {str(file)!r}")
    readers = {".npz": np.load, ".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if file.suffix not in readers:
        raise ValueError(f"`DATA` must be a .npz, .csv or .parquet file. Received: {str(file)!r}")
    try:
        with file.open("rb") as stream:  # NumPy leaves a damaged file open
            table = readers[file.suffix](stream)
            columns = {str(name): table[name] for name in table}
    except Exception as error:  # each library raises its own type
        raise ValueError(
            f"`DATA` must be an intact {file.suffix} file. Received: {str(file)!r}, for which reading raises "
            f"{type(error).__name__}: {error}"
        ) from error
    if target not in columns or len(columns) < 2:
        raise ValueError(f"`--target` must name one of several columns, {list(columns)}. Received: {target!r}")
    y = columns.pop(target)
    if file.suffix == ".npz":
        return (columns if len(columns) > 1 else next(iter(columns.values()))), y
    others = [name for name, column in columns.items() if not pd.api.types.is_numeric_dtype(column)]
    if others or not pd.api.types.is_numeric_dtype(y):
        raise ValueError(
            f"`DATA` must have columns of numbers; encode categories first. Received: others in {others or [target]}"
        )
    return as_array("DATA", pd.DataFrame(columns)).astype("float32"), as_array(f"DATA[{target!r}]", y)


def main() -> None:
    """Runs the command. An error is printed as one line, without a traceback; the exit code is then 1."""
    try:
        app()
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        typer.echo(f"{type(error).__name__}: {' '.join(str(error).split())}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
