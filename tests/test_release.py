import re
import tomllib
from pathlib import Path

import pytest

from keras_actlab import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = ROOT / ".github" / "workflows"

pytestmark = pytest.mark.one_backend


def test_one_version_everywhere():
    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    (newest, state), (older, _), *_ = re.findall(
        r"^## (\S+)(.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    # The section of the next version is there before the version itself.
    assert citation[1] == __version__
    assert __version__ in ((newest, older) if "unreleased" in state else (newest,))


def test_the_citation_names_the_authors_and_the_licence_of_the_package():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    authors = citation.partition("\nauthors:\n")[2].partition("\nversion:")[0]
    assert re.findall(r"- name: (.+)", authors) == [author["name"] for author in PROJECT["authors"]]
    assert f"\nlicense: {PROJECT['license']}\n" in citation


def test_one_address_everywhere():
    urls = PROJECT["urls"]
    repository = urls["Repository"]
    owner, name = repository.removeprefix("https://github.com/").split("/")
    assert urls["Documentation"] == f"https://{owner}.github.io/{name}"
    assert all(urls[label].startswith(f"{repository}/") for label in ("Changelog", "Issues"))
    assert f"git clone {repository} && cd {name}\n" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_open_on_colab_from_that_address(path):
    text = path.read_text(encoding="utf-8")
    repository = PROJECT["urls"]["Repository"]
    on_colab = repository.replace("https://github.com", "https://colab.research.google.com/github")
    assert re.findall(r"\]\((https://colab[^)]*/github/[^)]*)\)", text) == [
        f"{on_colab}/blob/main/notebooks/{path.name}"
    ]
    assert re.findall(r"git\+(https?://[^\s\\\"]+)", text) == [repository]


def test_the_lowest_keras_is_tested():
    (lowest,) = [needed.partition(">=")[2] for needed in PROJECT["dependencies"] if needed.startswith("keras>=")]
    workflow = (WORKFLOWS / "tests.yml").read_text(encoding="utf-8")
    assert f"keras: [keras=={lowest}, keras]" in workflow
    assert set(re.findall(r"keras==([\d.]+)", workflow)) == {lowest}
    (oldest,) = re.findall(rf'- keras: keras=={lowest}\n +python: "([\d.]+)"', workflow)
    assert PROJECT["requires-python"] == f">={oldest}"


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.yml")), ids=lambda path: path.stem)
def test_workflows_run_make_targets_that_exist(path):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"run: make ([a-z-]+)", path.read_text(encoding="utf-8"))) <= set(targets)
