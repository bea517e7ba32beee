"""Options and output that the recipes' command lines share."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer
from matplotlib.figure import Figure

from keras_actlab.experiments import Results

Out = Annotated[
    Path, typer.Option(help="Folder for rows, tables and figures. A run that was killed continues from there.")
]
Jobs = Annotated[int, typer.Option(min=1, help="Number of processes.")]
Smoke = Annotated[bool, typer.Option(help="Run everything at a very small size, as a check that it works.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder with the data files. By default they are downloaded.")]

PROTOCOLS = "ours, in which validation data choose; authors, as published, see the beginning of the file"
Protocol = Annotated[Literal["ours", "authors"], typer.Option(help=f"{PROTOCOLS}.")]


def finish(results: Results, out: Path, name: str, figure: Figure | None = None) -> None:
    """Prints and writes the tables and a figure (of all replicates, by default); exits with code 1 if a fit failed."""
    for overview in results.overviews:
        print(f"\n{overview.to_markdown()}")
    print(f"\n{results}\n")
    print("Written:", ", ".join(str(path) for path in results.save(out, name, figure)))
    if len(results.failures):
        print(f"\n{len(results.failures)} fits failed. The same command retries them:")
        print(results.failures[["task", "method", "stage", "split", "seed", "failure"]].to_string(index=False))
        raise typer.Exit(1)


def check_choices(option: str, values: Iterable[str], allowed: Iterable[str]) -> None:
    """Raises unless every value is allowed."""
    unknown = sorted(set(values) - set(allowed))
    if unknown:
        raise typer.BadParameter(f"{option} must be among {', '.join(allowed)}. Received: {', '.join(unknown)}")
