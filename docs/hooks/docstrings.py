"""Keras' docstring sections in the forms that griffe, which reads the docstrings for the site, knows."""

import re
import runpy
from pathlib import Path
from typing import Any

import griffe

# A header, and the lines below it that are indented or blank.
SHAPE = re.compile(r"^(Input shape|Output shape):\n((?: .*\n?|\n)+)", re.MULTILINE)
LABEL = re.compile(r"^(Example|Reference):(?= |$)", re.MULTILINE)
# The templates of the geometric convolutions' docstrings, which the package fills in when it is imported.
TEMPLATES = Path(__file__).parents[2] / "keras_actlab" / "layers" / "_docstrings.py"
PLACEHOLDER = re.compile(r"^\{\w+\[\d\]\}$", re.MULTILINE)
DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class KerasSections(griffe.Extension):
    """Rewrites docstrings before they are parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Is called with each function, class and module."""
        if obj.docstring and PLACEHOLDER.search(obj.docstring.value):
            obj.docstring.value = runpy.run_path(str(TEMPLATES))["filled"](obj.docstring.value)
        if obj.docstring:
            obj.docstring.value = _rewritten(obj.docstring.value)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Makes functions known that have the name of a module beside them, of which griffe keeps the module only."""
        for module in pkg.modules.values():
            for name in map(str, module.exports or []):
                submodule = module.modules.get(name)
                if submodule and name in submodule.members:
                    module.members[name] = griffe.Alias(name, submodule.members[name], parent=module)


def _rewritten(text: str) -> str:
    text = re.sub(r"^Call arguments:$", "Other parameters: Call arguments:", text, flags=re.MULTILINE)
    text = SHAPE.sub(lambda found: f"**{found[1]}:** {re.sub(r'^ +', '', found[2], flags=re.MULTILINE)}", text)
    text = LABEL.sub(r"**\1:**", text)
    return DOCTEST.sub(lambda found: f"```pycon\n{found[0]}\n```", text)
