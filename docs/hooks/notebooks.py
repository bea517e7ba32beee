"""Pages of the site made from the notebooks, with the outputs that are stored in them. Nothing is executed."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

# The site loads nothing from other servers, so the badge becomes a plain link.
BADGE = re.compile(r"\[!\[([^\]]+)\]\([^)]+\)\]")
# pandas' own look of tables, which the theme replaces.
STYLE = re.compile(r"<style scoped>.*?</style>\s*", re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds a page for each notebook, and its figures."""
    for path in sorted(Path("notebooks").glob("*.ipynb")):
        resources = {"unique_key": "figure", "output_files_dir": path.stem}
        text, resources = MarkdownExporter().from_filename(str(path), resources)
        text = STYLE.sub("", BADGE.sub(r"[\1]", text)).replace('<table border="1" class="dataframe">', "<table>")
        files.append(File.generated(config, path.with_suffix(".md").as_posix(), content=text))
        for name, figure in resources["outputs"].items():
            files.append(File.generated(config, f"{path.parent.as_posix()}/{name}", content=figure))
