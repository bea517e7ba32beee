"""Which layers, and which activations that are functions of a graph, hold which within a model."""

from collections import Counter, defaultdict

import keras

from keras_actlab._private.keras_graph import children
from keras_actlab.layers.activations import is_activation_operation


def parts(layer: keras.Operation) -> list[keras.Operation]:
    """Returns the `children` of `layer` and the operations of its graph that are activations, in graph order."""
    held = children(layer)
    known = set(held)
    in_graph = [one for one in getattr(layer, "operations", []) if one in known or is_activation_operation(one)]
    return list(dict.fromkeys([*in_graph, *held]))


def holders(model: keras.Model) -> dict[int, list[keras.layers.Layer]]:
    """Returns the layers that hold each of the `parts` within `model`, by its id."""
    found: dict[int, list[keras.layers.Layer]] = defaultdict(list)

    def visit(holder: keras.layers.Layer) -> None:
        for part in parts(holder):
            found[id(part)].append(holder)
            if len(found[id(part)]) == 1:
                visit(part)

    visit(model)
    return found


def holder_counts(model: keras.Model) -> Counter[int]:
    """Returns the number of layers that hold each layer within `model`, by its id."""
    return Counter({part: len(found) for part, found in holders(model).items()})
