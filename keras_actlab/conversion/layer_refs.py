"""References to the layers within a model."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import keras

from keras_actlab.conversion.modified import Steps, steps_from

Criterion: TypeAlias = str | type | keras.layers.Layer | Callable[..., object]


@dataclass(frozen=True)
class LayerRef:
    """A layer within a model: its path by names and by steps, its holder, and the entries of `where` that select it."""

    path: str
    steps: Steps
    layer: keras.layers.Layer
    holder: keras.layers.Layer
    selected_by: tuple[Criterion, ...] = ()

    @property
    def named(self) -> bool:
        """Whether `where` names the layer, so that it is converted even if it would be skipped otherwise."""
        return any(
            criterion in self.names or isinstance(criterion, keras.layers.Layer) for criterion in self.selected_by
        )

    @property
    def names(self) -> tuple[str, str]:
        """The names by which `where` can select the layer: its path, and its own name."""
        return self.path, self.path.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.path} ({type(self.layer).__name__})"


def layer_refs(model: keras.Model) -> list[LayerRef]:
    """Returns references to all layers within `model`, at any depth, each once."""
    found: dict[int, LayerRef] = {}

    def visit(holder: keras.layers.Layer, path: str, steps: Steps) -> None:
        for step, child in steps_from(holder):
            if id(child) not in found:
                found[id(child)] = LayerRef(path + child.name, (*steps, step), child, holder)
                visit(child, f"{path}{child.name}/", (*steps, step))

    visit(model, "", ())
    return list(found.values())


def describe(layer: keras.layers.Layer) -> str:
    """Returns the class of `layer`, and in brackets its activation, if it has one."""
    activation = getattr(layer, "activation", None)
    if activation is None or activation is keras.activations.linear:
        return type(layer).__name__
    return f"{type(layer).__name__} ({getattr(activation, '__name__', type(activation).__name__)})"


def count(layer: keras.layers.Layer) -> int:
    """Returns the number of parameters of `layer`."""
    return sum(math.prod(weight.shape) for weight in getattr(layer, "weights", []))
