import re
from importlib.util import find_spec
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import nbclient
import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from tests.backends import INSTALLED

FOLDER = Path(__file__).parent.parent / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))

each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def _cells(path, kind):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def _with_shorter_trainings(source):
    """The same code with a fiftieth of the epochs and steps, two splits, and budgets of two pairs."""

    def shorter(found):
        name, between, number = found.groups()
        fewest = {"validate_every": 1, "splits": 2}
        return f"{name}{between}{fewest.get(name, max(1, int(number) // 50))}"

    source = re.sub(r'"\d+ pairs"', '"2 pairs"', source)
    return re.sub(r'\b(epochs|steps|validate_every|splits)("?[=:] ?)(\d+)\b', shorter, source)


def _skip_without_its_packages(path):
    """Skips a notebook whose first cells would install packages."""
    source = "\n".join(cell.source for cell in _cells(path, "code"))
    checked = " ".join(re.findall(r"find_spec\(name\) for name in \((.*?)\)", source))
    if missing := [name for name in re.findall(r'"(\w+)"', checked) if not find_spec(name)]:
        pytest.skip(f"needs {', '.join(missing)}")


@pytest.mark.one_backend
@pytest.mark.filterwarnings("ignore")  # a notebook would show them, of which test_is_stored_with_its_outputs tells
@each_notebook
def test_every_cell_runs(path, monkeypatch):
    """In this process, because a new one imports Keras for ten seconds. Cells that start processes are skipped.

    Other tests cover what those show: exports to ONNX and training on several devices.
    """
    _skip_without_its_packages(path)
    monkeypatch.chdir(FOLDER)
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    with plt.rc_context():
        for cell in _cells(path, "code"):
            if "subprocess.run(" not in cell.source:
                shell.run_cell(_with_shorter_trainings(cell.source)).raise_error()
    plt.close("all")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's process management, not of the notebooks
@pytest.mark.skipif(
    keras.backend.backend() != INSTALLED[0], reason="PyTorch trains three times as long as JAX, which comes first"
)
@each_notebook
def test_every_cell_runs_as_it_is(path):
    _skip_without_its_packages(path)
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(FOLDER)}}).execute()


@pytest.mark.one_backend
@each_notebook
def test_is_stored_with_its_outputs(path):
    code = _cells(path, "code")
    outputs = [output for cell in code for output in cell.outputs]
    assert all(cell.execution_count for cell in code)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)


@pytest.mark.one_backend
def test_all_are_set_up_alike():
    assert len({_cells(path, "code")[0].source for path in PATHS}) == 1


@pytest.mark.one_backend
@each_notebook
def test_no_cell_is_a_wall(path):
    assert max(len(cell.source.splitlines()) for cell in _cells(path, "code")) <= 25


@pytest.mark.one_backend
@each_notebook
def test_links_lead_to_files(path):
    texts = [cell.source for cell in _cells(path, "markdown")]
    links = [link for text in texts for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert links
    assert all((FOLDER / link).exists() for link in links)
    assert "](" in texts[-1]  # where to go next
