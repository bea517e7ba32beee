from pathlib import Path

import keras
import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
EVERYWHERE = ("01_first_model", "02_matrix_activations")  # the others take minutes, so that they run on JAX only


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's process management, not of the notebooks
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_cell_runs(path):
    if keras.backend.backend() != "jax" and path.stem not in EVERYWHERE:
        pytest.skip("runs on JAX only")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_is_stored_with_its_outputs(path):
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
