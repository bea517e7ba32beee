"""What the command line of each recipe says first, and where its results go."""

import importlib
from pathlib import Path

import pytest
import typer

import recipes

pytestmark = pytest.mark.one_backend

FOLDER = Path(recipes.__file__).parent
RECIPES = sorted(path.stem for path in FOLDER.glob("*.py") if "\napp = " in path.read_text(encoding="utf-8"))
PAPERS = ("Chen and Ge (2024)", "Liu et al. (2024)", "Sun et al. (2024)", "of our own.", "in none of the papers.")


def command(name):
    return typer.main.get_command(importlib.import_module(f"recipes.{name}").app)


def test_there_are_recipes():
    assert len(RECIPES) == 24


@pytest.mark.parametrize("name", RECIPES)
def test_the_first_sentence_names_the_experiment(name):
    first = command(name).help.split("\n\n")[0]
    assert any(paper in first for paper in PAPERS)
    assert first.endswith(".")


@pytest.mark.parametrize("name", RECIPES)
def test_results_go_to_a_folder_that_git_ignores(name):
    (out,) = (parameter for parameter in command(name).params if parameter.name == "out")
    assert out.default == Path("results")
    assert "results/" in (FOLDER.parent / ".gitignore").read_text(encoding="utf-8").split()
