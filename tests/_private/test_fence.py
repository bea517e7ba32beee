"""Private parts of Keras and its backends are touched in `keras_actlab/_private` alone."""

import ast
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_backend

PACKAGE = Path(__file__).parents[2] / "keras_actlab"
PRIVATE_MODULES = (
    "keras.src",
    "keras._",
    "torch._",
    "tf.python",
    "tensorflow.python",
    "jax._src",
    "joblib._",
    "joblib.externals.loky.backend",
    "unittest",
)
# Names that start with an underscore, but are documented: `os._exit`, and those of named tuples.
DOCUMENTED = {"_exit", "_asdict", "_fields", "_make", "_replace"}


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED


def is_own(value):
    """Whether `value` is `self`, `cls`, `super()` or the class of one of these."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in ("super", "type"):
        return not value.args or all(map(is_own, value.args))
    return isinstance(value, ast.Name) and value.id in ("self", "cls")


def faults(code):
    """What the code does that only `_private` may, as (line, what)."""
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Import():
                modules = [alias.name for alias in node.names]
            case ast.ImportFrom(module=str()):
                modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            case ast.Attribute():
                modules = [ast.unparse(node)]
                if is_private(node.attr) and not is_own(node.value):
                    yield node.lineno, ast.unparse(node)
            case ast.Call(func=ast.Name(id="getattr" | "hasattr" | "setattr" | "delattr"), args=[value, name, *_]):
                modules = []
                if isinstance(name, ast.Constant) and is_private(str(name.value)) and not is_own(value):
                    yield node.lineno, ast.unparse(node)
            case ast.Subscript(value=ast.Call(func=ast.Name(id="vars"), args=[value]), slice=ast.Constant()):
                modules = []
                name = str(node.slice.value)
                # The package marks layers under names of its own.
                if is_private(name) and not name.startswith("_keras_actlab") and not is_own(value):
                    yield node.lineno, ast.unparse(node)
            case _:
                modules = []
        for module in modules:
            if module.startswith(PRIVATE_MODULES):
                yield node.lineno, module


@pytest.mark.parametrize(
    "code",
    [
        "from keras.src import backend",
        "import keras.src.backend as backend",
        "from keras import src\nsrc.backend",
        "keras.src.backend.nn",
        "import torch._dynamo",
        "from torch import _dynamo",
        "torch._C._functorch",
        "from tensorflow.python.eager import context",
        "from jax._src import core",
        "from joblib._parallel_backends import LokyBackend",
        "from unittest import mock",
        "layer._tracker.unlock()",
        "self.layer._tracker",
        "getattr(layer, '_functional', layer)",
        "setattr(variable, '_autocast', False)",
        "vars(layer)['_path'] = 3",
    ],
)
def test_private_parts_are_found(code):
    assert list(faults(code))


@pytest.mark.parametrize(
    "code",
    [
        "self._plain = cls._new(super()._add_bias)",
        "type(self)._names",
        "os._exit(1)",
        "history._replace(index=0)",
        "object.__setattr__(layer, '__class__', cls)",
        "getattr(layer, 'path', None)",
        "vars(layer)['_keras_actlab_origin']",
        "from keras_actlab._private import keras_layers",
    ],
)
def test_own_and_documented_names_are_not(code):
    assert not list(faults(code))


def test_nothing_outside_touches_private_parts():
    modules = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    found = {
        name: found
        for name, path in modules.items()
        if not name.startswith("_private/") and (found := list(faults(path.read_text(encoding="utf-8"))))
    }
    assert found == {}
