import io
import math

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from recipes import boundary_gallery as recipe

pytestmark = pytest.mark.one_backend


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    finished = CliRunner().invoke(recipe.app, ["--out", str(folder)], catch_exceptions=False)
    assert finished.exit_code == 0
    return folder


@pytest.fixture(scope="module")
def table(written):
    return pd.read_csv(written / "boundary_gallery.csv")


def png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=150, format="png")
    return buffer.getvalue()


def test_rows_follow_the_papers_formulas(table):
    assert list(table.columns) == recipe.COLUMNS
    assert table.groupby(["figure", "dimension"]).size().to_dict() == {(5, 2): 11, (6, 3): 9}
    for row in table.to_dict("records"):
        first, second = (math.radians(row[f"angle {index}"]) for index in (1, 2))
        if row["dimension"] == 2:
            normal = [math.cos(first), math.sin(first)]
        else:
            normal = [math.cos(first), math.sin(first) * math.cos(second), math.sin(first) * math.sin(second)]
        for index, value in enumerate(normal, 1):
            assert row[f"normal {index}"] == pytest.approx(value, abs=2e-6)
            assert row[f"location {index}"] == pytest.approx(-row["radius"] * value, abs=2e-6)
        assert row["offset"] == pytest.approx(row["radius"], abs=2e-6)


def test_in_each_panel_one_parameter_varies(table):
    for name, rows in table.groupby("panel"):
        varied = [column for column in ("angle 1", "angle 2", "radius") if rows[column].nunique() > 1]
        assert varied == [recipe.PANELS[name].varied]
        assert rows[varied[0]].is_unique
    assert set(table["panel"]) == set(recipe.PANELS)


def test_the_table_alone_gives_the_same_picture(written, table):
    picture = (written / "boundary_gallery.png").read_bytes()
    assert png(recipe.figure(table)) == picture
    assert png(recipe.figure(table.assign(offset=table["offset"] + 0.1))) != picture


def test_panels(table):
    figure = recipe.figure(table)
    assert [ax.get_title() for ax in figure.axes] == [panel.title for panel in recipe.PANELS.values()]
    assert [ax.name for ax in figure.axes] == ["rectilinear"] * 2 + ["3d"] * 3
    assert [text.get_text() for text in figure.axes[0].texts if text.get_text()] == [
        "λ = -0.7", "λ = -0.35", "λ = 0", "λ = 0.35", "λ = 0.7"
    ]  # fmt: skip
    assert [text.get_text() for text in figure.axes[4].get_legend().get_texts()] == [
        "θ₂ = 0°", "θ₂ = 120°", "θ₂ = 240°"
    ]  # fmt: skip
    (lines,) = figure.axes[0].collections
    for ends, radius in zip(lines.get_segments(), (-0.7, -0.35, 0.0, 0.35, 0.7), strict=True):
        np.testing.assert_allclose(ends @ [3**0.5 / 2, 0.5] + radius, 0.0, atol=1e-5)


def test_nothing_unfinished_is_left(written):
    assert sorted(path.name for path in written.iterdir()) == ["boundary_gallery.csv", "boundary_gallery.png"]


def test_help_explains_the_option():
    text = CliRunner().invoke(recipe.app, ["--help"], env={"COLUMNS": "200"}).output
    assert "--out" in text
    assert "Folder for rows" in text
