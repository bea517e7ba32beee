import doctest
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from keras_actlab import layers, ops
from tests import test_contract as contract
from tests.backends import numpy
from tests.test_docstrings import PUBLIC

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def blocks(page):
    """The Python code of a page, save what asks for several devices, a TPU or a cluster."""
    found = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [code for code in found if not re.search(r"list_devices\(|TPUClusterResolver|Client\(|ray\.init\(", code)]


@pytest.fixture(autouse=True)
def _no_new_classes():
    """Forgets the classes that pages register."""
    registry = keras.saving.get_custom_objects()
    before = dict(registry)
    yield
    registry.clear()
    registry.update(before)


def test_the_reference_lists_the_public_names():
    pages = [page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md") if page.stem != "types"]
    listed = re.findall(r"^::: (\S+)$", "\n".join(pages), re.MULTILINE)
    daily = {"swap_activations", "to_gmp", "fold", "quantize"}  # stand at the top of the package, too
    public = {name.replace("conversion.", "") if name.split(".")[-1] in daily else name for name in PUBLIC}
    assert public - set(listed) == set()
    assert set(listed) - public == set()
    assert len(listed) == len(public)


def test_every_page_is_in_the_navigation():
    navigation = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    notebooks = [
        path.with_suffix(".md").relative_to(DOCS.parent) for path in (DOCS.parent / "notebooks").glob("*.ipynb")
    ]
    assert notebooks
    for page in [*(page.relative_to(DOCS) for page in PAGES), *notebooks]:
        assert f" {page.as_posix()}\n" in navigation


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        assert (page.parent / target).exists(), target


@pytest.mark.one_backend
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_the_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in blocks(page):
        exec(code, names)


def test_the_install_page_states_the_lowest_versions_and_all_extras():
    page = (DOCS / "install.md").read_text(encoding="utf-8")
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = [f"python{project['requires-python']}", *project["dependencies"], *extras["lab"]]
    lowest = dict(requirement.split(">=") for requirement in needed if ">=" in requirement)
    stated = re.findall(r"^\| ([\w-]+)(?: \(`lab`\))? \| ([\d.]+) \|$", page, re.MULTILINE)
    assert {name.lower(): version for name, version in stated} == lowest
    for extra in extras:
        assert re.search(rf"^\|[^|]*`{extra}`", page, re.MULTILINE), extra


def test_the_check_of_the_installation(capsys):
    (code,) = re.findall(r'^python -c "(.*)"$', (DOCS / "install.md").read_text(encoding="utf-8"), re.MULTILINE)
    exec(code, {})
    assert [float(number) for number in re.findall(r"-?\d\.\d+", capsys.readouterr().out)] == pytest.approx(
        [-0.0061, 2.0027], abs=1e-4
    )


def test_infinite_inputs():
    x = np.array([-np.inf, -1e30, 1e30], "float32")
    np.testing.assert_array_equal(numpy(ops.crrelu(x, epsilon=0.5)), np.float32([0, 0, 1e30]))
    np.testing.assert_array_equal(numpy(layers.TMAF(bandwidth=0)(x[:, None]))[:, 0], np.float32([np.nan, 0, 1e30]))
    np.testing.assert_array_equal(numpy(keras.ops.gelu(x, approximate=False)), np.float32([np.nan, 0, 1e30]))


@pytest.fixture
def snake(monkeypatch):
    """The layer of the page on extending, under contract by its row there."""
    page = DOCS / "extending.md"
    names = {}
    exec(blocks(page)[0], names)
    (row,) = re.findall(r"^ +```python\n(.*?)^ +```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    names_of_the_test = vars(contract) | {"layers": SimpleNamespace(Snake=names["Snake"])}
    for name, case in eval("{" + row + "}", names_of_the_test).items():
        monkeypatch.setitem(contract.CASES, name, case)
    return names["Snake"]


def test_the_new_layer_keeps_the_contract(snake):
    contract.test_config_round_trip("Snake")
    contract.test_shapes("Snake")
    for policy in ("float32", "mixed_bfloat16", "mixed_float16"):
        contract.test_dtypes("Snake", policy)
    contract.test_channels_first("Snake")
    contract.test_masks_pass_through("Snake")
    contract.test_training_lowers_the_loss("Snake", jit_compile=keras.backend.backend() != "torch")
    contract.test_models_that_are_built_by_fit("Snake", "subclassed")
    contract.test_integer_input_gives_the_compute_dtype("Snake")
    contract.test_another_number_of_channels("Snake")
    contract.test_unknown_arguments("Snake")
    contract.test_unknown_dtype("Snake")


def test_the_new_layer_is_the_formula(snake):
    x = np.linspace(-5, 5, 101, dtype="float32")[:, None]
    expected = x + np.sin(3 * x) ** 2 / 3
    np.testing.assert_allclose(numpy(snake(frequency=3.0)(x)), expected, atol=1e-6)
    names = {"np": np, "keras": keras, "Snake": snake}
    (test,) = doctest.DocTestFinder(recurse=False).find(snake, "Snake", module=False, globs=names)
    assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test).failed == 0
