import re
from pathlib import Path

from tests.test_docstrings import PUBLIC

DOCS = Path(__file__).parent.parent / "docs"


def test_the_reference_lists_the_public_names():
    pages = [page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md")]
    listed = re.findall(r"^::: (\S+)$", "\n".join(pages), re.MULTILINE)
    daily = {"swap_activations", "to_gmp", "fold"}  # stand at the top of the package, too
    expected = [name.replace("conversion.", "") if name.split(".")[-1] in daily else name for name in PUBLIC]
    assert sorted(listed) == sorted(expected)
