import re
from pathlib import Path

import keras
import nbclient
import nbformat
import pytest

from tests.backends import INSTALLED

FOLDER = Path(__file__).parent.parent / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))

each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def _cells(path, kind):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's process management, not of the notebooks
@each_notebook
@pytest.mark.skipif(
    keras.backend.backend() != INSTALLED[0],
    reason="notebooks run on one backend; PyTorch takes three times as long as JAX, which comes first",
)
def test_every_cell_runs(path):
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(FOLDER)}}).execute()


@each_notebook
def test_is_stored_with_its_outputs(path):
    code = _cells(path, "code")
    outputs = [output for cell in code for output in cell.outputs]
    assert all(cell.execution_count for cell in code)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)


def test_all_are_set_up_alike():
    assert len({_cells(path, "code")[0].source for path in PATHS}) == 1


@each_notebook
def test_no_cell_is_a_wall(path):
    assert max(len(cell.source.splitlines()) for cell in _cells(path, "code")) <= 25


@each_notebook
def test_links_lead_to_files(path):
    texts = [cell.source for cell in _cells(path, "markdown")]
    links = [link for text in texts for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert links
    assert all((FOLDER / link).exists() for link in links)
    assert "](" in texts[-1]  # where to go next
