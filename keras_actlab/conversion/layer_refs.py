"""The layers within a model, each with its place."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import keras

from keras_actlab.conversion.modified import Steps, steps_from

Criterion: TypeAlias = str | type | keras.layers.Layer | Callable[..., object]


@dataclass(frozen=True)
class LayerRef:
    """A layer within a model: the names and steps on the way to it, what holds it, and what in `where` selects it."""

    path: str
    steps: Steps
    layer: keras.layers.Layer
    holder: keras.layers.Layer
    selected_by: tuple[Criterion, ...] = ()

    @property
    def named(self) -> bool:
        """Whether `where` gives the very name: then the layer is meant, even where a conversion would rather not."""
        return any(
            criterion in self.names or isinstance(criterion, keras.layers.Layer) for criterion in self.selected_by
        )

    @property
    def names(self) -> tuple[str, str]:
        """What a name in `where` may be: the path, or its last part, the layer's own name."""
        return self.path, self.path.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.path} ({type(self.layer).__name__})"


def layer_refs(model: keras.Model) -> list[LayerRef]:
    """All layers within `model`, at any depth, each once."""
    found: dict[int, LayerRef] = {}

    def visit(holder: keras.layers.Layer, path: str, steps: Steps) -> None:
        for step, child in steps_from(holder):
            if id(child) not in found:
                found[id(child)] = LayerRef(path + child.name, (*steps, step), child, holder)
                visit(child, f"{path}{child.name}/", (*steps, step))

    visit(model, "", ())
    return list(found.values())


def describe(layer: keras.layers.Layer) -> str:
    """The class of `layer`, and in brackets its activation, if it has one."""
    activation = getattr(layer, "activation", None)
    if activation is None or activation is keras.activations.linear:
        return type(layer).__name__
    return f"{type(layer).__name__} ({getattr(activation, '__name__', type(activation).__name__)})"


def count(layer: keras.layers.Layer) -> int:
    """The number of parameters of `layer`."""
    return sum(math.prod(weight.shape) for weight in getattr(layer, "weights", []))
