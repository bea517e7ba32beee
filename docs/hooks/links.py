"""Links that hold in the repository as well as on the site.

The pages of results and what they show are made part of the site. Links to notebooks lead to their pages, links to
other files of the repository become plain text, and names in code font that the reference describes become links to it.
"""

import re
import tomllib
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

RESULTS = "recipes/results"
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")
NAME = re.compile(r"<code>(keras_actlab\.[\w.]+)</code>")


def on_config(config: MkDocsConfig) -> None:
    """Takes the addresses of the site and of the repository from pyproject.toml."""
    urls = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    config.site_url = urls["Documentation"] + "/"
    # Not `repo_url`, for which the theme asks GitHub's servers about stars on every visit.
    config.extra["social"] = [{"icon": "fontawesome/brands/github", "link": urls["Repository"], "name": "Repository"}]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds the pages, tables and figures of results, under their paths in the repository."""
    for path in sorted(Path(RESULTS).glob("*.*")):
        files.append(File.generated(config, path.as_posix(), abs_src_path=str(path.resolve())))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Makes links from one path of the repository to another such ones of the site; wrong ones stay as they are."""
    here = page.file.src_uri
    in_repository = here if here.startswith((RESULTS, "notebooks/")) else f"docs/{here}"

    def link(found: re.Match[str]) -> str:
        image, label, target, anchor = found.groups()
        path = normpath(join(dirname(in_repository), target))
        on_site = re.sub(r"\.ipynb$", ".md", path.removeprefix("docs/"))
        if files.get_file_from_path(on_site):
            return f"{image}[{label}]({relpath(on_site, dirname(here) or '.')}{anchor or ''})"
        return label if Path(path).exists() else found[0]

    return LINK.sub(link, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Leads from names in code font to the reference."""
    return NAME.sub(r'<autoref identifier="\1" optional>\g<0></autoref>', html)
