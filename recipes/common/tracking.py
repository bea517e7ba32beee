"""Tracks of activation boundaries in the final fits of a comparison, and their summaries."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from keras_actlab import cab
from keras_actlab.colours import COLOURS
from keras_actlab.experiments import Results

Callbacks = Callable[[keras.Model, str, int, int], list[keras.callbacks.Callback]]


def callbacks(folder: Path, grid: np.ndarray, megabytes: float) -> Callbacks:
    """Returns the `callbacks` of a `Comparison`: they write a track and predictions for each final fit.

    Args:
        folder: Folder for the tracks and the predictions on the grid. Each comparison needs its own folder.
        grid: Inputs of the predictions.
        megabytes: Maximum size of a track.
    """

    def watch(model: keras.Model, method: str, split: int, seed: int) -> list[keras.callbacks.Callback]:
        def keep_predictions(logs: dict[str, float]) -> None:
            np.save(folder / f"{method}-{split}.npy", model.predict(grid, verbose=0)[:, 0])

        track = folder / f"{method}-{split}.npz"
        track.unlink(missing_ok=True)  # of a fit that was killed and starts again
        hidden = tuple(model.layers[:-1])
        return [
            # The layers before the output: normalization, affine layer, activation.
            cab.BoundaryTracker(hidden, megabytes=megabytes, path=track),
            keras.callbacks.LambdaCallback(on_train_end=keep_predictions),
        ]

    return watch


def shown_split(table: pd.DataFrame) -> int | None:
    """Returns the first split in which no method failed, or None, given the table of `summarize`."""
    methods = table.groupby("split")["method"].nunique()
    whole = methods[methods == table["method"].nunique()]
    return None if whole.empty else int(whole.index.min())


def load_track(folder: Path, method: str, split: int) -> cab.Track:
    """Returns the track of a final fit."""
    (track,) = cab.load_tracks(folder / f"{method}-{split}.npz").values()
    return track


def load_predictions(folder: Path, method: str, split: int) -> np.ndarray:
    """Returns the predictions of a trained model on the grid."""
    return np.load(folder / f"{method}-{split}.npy")


def summarize(results: Results, folder: Path) -> pd.DataFrame:
    """Returns for each final fit its choices, its test metric, and the largest step and turn of its boundaries."""
    rows = []
    metrics = [configuration["monitor"] for configuration in results.configurations.values()]
    columns = ["task", "method", "split", "learning_rate", "epochs", *metrics]
    for fit in results.final[results.final["failure"].isna()].to_dict("records"):
        track = load_track(folder, fit["method"], fit["split"])
        row = {name: fit[name] for name in columns}
        rows.append(row | {"largest step": track.moves.max(), "largest turn": np.degrees(track.turns.max())})
    return pd.DataFrame(rows, columns=[*columns, "largest step", "largest turn"])


def largest_changes(track: cab.Track, quantity: str, records: int = 400) -> pd.DataFrame:
    """Returns the largest change of all boundaries in each part of the training, for at most `records` parts."""
    largest = pd.DataFrame({"step": track.steps, "value": getattr(track, quantity).max(axis=1)}).iloc[1:]
    part = (np.arange(len(largest)) * records) // max(len(largest), records)
    return largest.groupby(part).agg({"step": "last", "value": "max"})


def draw_largest(left: Axes, right: Axes, points: pd.DataFrame, table: pd.DataFrame, column: str, label: str) -> None:
    """Draws the largest changes of boundaries over the steps of one split, and in all splits.

    Args:
        left: Axes for one split.
        right: Axes for all splits.
        points: Rows of kind "largest" have a method, a training step as x and a change as y.
        table: The table of `summarize`.
        column: Its column of changes.
        label: Label of the changes' axes, with the unit.
    """
    methods = list(table["method"].unique())
    for height, (method, colour) in enumerate(zip(methods, COLOURS, strict=False)):
        curve = points[(points["method"] == method) & (points["kind"] == "largest") & (points["y"] > 0)]
        left.plot(curve["x"], curve["y"], color=colour, linewidth=0.8, label=method)
        values = table.loc[table["method"] == method, column]
        right.scatter(values, np.full(len(values), height), s=16, color=colour)
    left.set(title="the split above", xlabel="training step", ylabel=f"largest {label}", yscale="log")
    left.legend(fontsize="small", ncols=2)
    right.set(title="all splits", xlabel=f"largest {label}, of the whole training", xscale="log")
    right.set(yticks=range(len(methods)), yticklabels=methods, ylim=(len(methods) - 0.5, -0.5))
