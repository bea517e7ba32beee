"""Boundaries of geometric units for several angles and radii, in two and in three dimensions.

Figures 5 and 6 of Chen and Ge (2024), with angles and radii of our own. Nothing is trained. Each panel is one
`GmPDense` layer whose units differ in the radius lambda or in one angle. `cab.boundaries` returns the boundaries of its
units. The figure is drawn from the table that was written.
"""

from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_actlab import cab
from keras_actlab.cab import plots
from keras_actlab.colours import COLOURS
from keras_actlab.layers import GmPDense
from recipes.common import cli, files

LIMITS = (-1.0, 1.0)
COLUMNS = ["figure", "panel", "dimension", "angle 1", "angle 2", "radius", "offset"]
COLUMNS += [f"{vector} {index}" for vector in ("normal", "location") for index in (1, 2, 3)]


@dataclass(frozen=True)
class Panel:
    """Units that differ in one parameter: their angles in degrees, one tuple for each unit, and their radii."""

    figure: int
    title: str
    varied: str  # a column of the table
    label: str
    angles: tuple[tuple[float, ...], ...]
    radii: tuple[float, ...]


PANELS = {
    "2-D radius": Panel(5, "radius λ, at θ = 30°", "radius", "λ = {:g}", ((30.0,),) * 5, (-0.7, -0.35, 0.0, 0.35, 0.7)),
    "2-D angle": Panel(
        5, "angle θ, at λ = 0.5", "angle 1", "θ = {:g}°", tuple((60.0 * k,) for k in range(6)), (0.5,) * 6
    ),
    "3-D radius": Panel(
        6, "radius λ, at θ₁ = 60°, θ₂ = 30°", "radius", "λ = {:g}", ((60.0, 30.0),) * 3, (-0.6, 0.0, 0.6)
    ),
    "3-D first angle": Panel(
        6,
        "angle θ₁, at θ₂ = 30°, λ = 0.4",
        "angle 1",
        "θ₁ = {:g}°",
        ((20.0, 30.0), (60.0, 30.0), (100.0, 30.0)),
        (0.4,) * 3,
    ),
    "3-D second angle": Panel(
        6,
        "angle θ₂, at θ₁ = 60°, λ = 0.4",
        "angle 2",
        "θ₂ = {:g}°",
        ((60.0, 0.0), (60.0, 120.0), (60.0, 240.0)),
        (0.4,) * 3,
    ),
}


def boundaries(panel: Panel) -> cab.Boundaries:
    """Builds the layer of a panel and returns its boundaries."""
    angles = np.radians(panel.angles).T  # (n - 1, units)
    layer = GmPDense(len(panel.radii), activation="relu")
    layer.build((None, len(angles) + 1))
    layer.angles.assign(angles)
    layer.radius.assign(panel.radii)
    return cab.boundaries(layer)


def gallery() -> pd.DataFrame:
    """Returns a row for each boundary, with six decimals, the precision of float32 parameters."""
    rows = []
    for name, panel in PANELS.items():
        found = boundaries(panel)
        for unit, angles in enumerate(panel.angles):
            row = {"figure": panel.figure, "panel": name, "dimension": len(angles) + 1, "radius": panel.radii[unit]}
            row["offset"] = found.offsets[unit].round(6)
            vectors = {"angle": angles, "normal": found.normals[unit], "location": found.locations[unit]}
            for vector, values in vectors.items():
                row |= {f"{vector} {index}": np.round(value, 6) + 0.0 for index, value in enumerate(values, 1)}
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def figure(table: pd.DataFrame) -> Figure:
    """Draws all panels from the table: lines in the upper row, planes in the lower row."""
    picture = plt.figure(figsize=(13, 9), layout="constrained")
    plt.close(picture)
    for place, (name, rows) in enumerate(table.groupby("panel", sort=False)):
        panel, inputs = PANELS[name], rows["dimension"].iloc[0]
        normals, locations = (
            rows[[f"{vector} {index}" for index in range(1, inputs + 1)]].to_numpy()
            for vector in ("normal", "location")
        )
        found = cab.Boundaries(normals, rows["offset"].to_numpy(), locations, np.arange(len(rows)))
        labels = [panel.label.format(value) for value in rows[panel.varied]]
        if inputs == 2:
            ax = picture.add_subplot(2, 3, place + 1)
            draw_lines(found, labels, ax)
        else:
            ax = picture.add_subplot(2, 3, place + 2, projection="3d")
            draw_planes(found, labels, ax)
        ax.set_title(panel.title)
    picture.legend(*picture.axes[0].get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(0.7, 0.96))
    return picture


def draw_lines(found: cab.Boundaries, labels: list[str], ax: Axes) -> None:
    """Draws boundaries in the plane, each with its normal, and its label along the line."""
    plots.boundaries_2d(found, limits=LIMITS, ax=ax)
    ax.get_legend().remove()
    ax.locator_params(nbins=5)
    ax.plot(0, 0, "+", color="black", markersize=12, label="origin")
    ax.plot([], [], color=COLOURS[1], label="normal u")
    arrow = {"arrowstyle": "->", "color": COLOURS[1], "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0}
    for label, location, normal in zip(labels, found.locations, found.normals, strict=True):
        ax.annotate("", location + 0.2 * normal, location, arrowprops=arrow)
        slope = np.degrees(np.arctan2(normal[0], -normal[1]))  # of the line
        upright = (slope + 90) % 180 - 90
        ax.text(*(location - 0.075 * normal), label, rotation=upright, ha="center", va="center", fontsize="small")


def draw_planes(found: cab.Boundaries, labels: list[str], ax: Axes) -> None:
    """Draws boundaries in space, with a legend below."""
    plots.planes_3d(found, limits=LIMITS, ax=ax)
    handles, _ = ax.get_legend_handles_labels()
    ax.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.05), ncols=len(labels))


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(out: cli.Out = Path("results")) -> None:
    """Repeats figures 5 and 6 of Chen and Ge (2024): boundaries of geometric units for several angles and radii.

    Writes a table and a figure.
    """
    table = files.write_table(gallery(), out / "boundary_gallery.csv")
    files.write_figure(figure(table), out / "boundary_gallery.png")
    print(f"Written: {out / 'boundary_gallery.csv'}, {out / 'boundary_gallery.png'}")


if __name__ == "__main__":
    app()
