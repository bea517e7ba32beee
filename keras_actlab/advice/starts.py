"""The models that fits start from: the given weights, or weights drawn afresh by the model's own initializers."""

import copy
import dataclasses
import functools
import random
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_actlab._private.keras_layers import nested_layers
from keras_actlab._private.object_graph import duplicate

# Size of the drawn weights that are kept, in bytes. All variants and learning rates of a pair start from one draw, and
# building a small model takes as long as some of its epochs.
KEPT = 2**26


@dataclasses.dataclass(frozen=True)
class Start:
    """Makes the compiled model from which a fit starts.

    Args:
        source: A compiled model, or a function that returns one.
        is_drawn: Whether the weights of a given model are drawn afresh. Layers that are frozen, and layers that were
            adapted to data, such as `Normalization`, keep theirs. A function decides by itself what it returns.
    """

    source: keras.Model | Callable[[], keras.Model]
    is_drawn: bool

    @property
    def original(self) -> keras.Model:
        """A compiled model whose `compile` arguments all variants get."""
        return self.source if isinstance(self.source, keras.Model) else self.source()

    def model(self) -> keras.Model:
        """Returns a new model that is not compiled. The global random seed decides its weights, if they are drawn."""
        if not isinstance(self.source, keras.Model):
            return _copy(self.source())
        copied = _copy(self.source)
        if self.is_drawn:
            self._redraw(copied)
        return copied

    def fixed(self) -> list[keras.Variable]:
        """Returns the variables of a given model from which every fit starts, whatever its seed."""
        if not isinstance(self.source, keras.Model):
            return []
        layers = _kept_layers(self.source) if self.is_drawn else [self.source]
        return [variable for layer in layers for variable in layer.variables if not _is_seed(variable)]

    @functools.cached_property
    def _config(self) -> Any:
        config = keras.saving.serialize_keras_object(_copy(self.source))
        config.pop("compile_config", None)  # a task of keras-hub has one, and warns that it cannot be compiled by it
        return config

    def drawn(self, model: keras.Model) -> Any:
        """Returns a model of the configuration of `model`, a copy of the given one, with weights of its initializers.

        Raises:
            ValueError: If the configuration does not give the model back.
        """
        try:
            made = keras.saving.deserialize_keras_object(copy.deepcopy(self._config))  # `from_config` may change it
            shapes = [[(tuple(v.shape), v.dtype) for v in each.variables] for each in (model, made)]
        except Exception as error:  # whatever a user's `get_config` or `__init__` raises
            raise ValueError(
                "`model` must be a model that Keras can save and load, so that new weights can be drawn, or a function "
                f"that returns a compiled model. Received: model={model.name!r}, for which Keras raises "
                f"{type(error).__name__}: {error}"
            ) from error
        if shapes[0] != shapes[1]:
            raise ValueError(
                "`model` must be built from its configuration alike, or be a function that returns a compiled model. "
                f"Received: model={model.name!r} with variables {shapes[0]}, which becomes one with {shapes[1]}"
            )
        return made

    @functools.cached_property
    def _draws(self) -> dict[int, list[np.ndarray]]:
        """The values of all variables, by the seed of the draw."""
        return {}

    def _redraw(self, model: keras.Model) -> None:
        seed = random.randint(1, 10**9)
        values = self._draws.get(seed)
        if values is None:
            keras.utils.set_random_seed(seed)
            values = [keras.ops.convert_to_numpy(variable) for variable in self.drawn(model).variables]
            if (len(self._draws) + 1) * sum(value.nbytes for value in values) <= KEPT:
                self._draws[seed] = values
        keras.utils.set_random_seed(seed + 1)  # as after a draw, whether it was kept or not
        kept = {id(variable) for layer in _kept_layers(model) for variable in layer.variables}
        for variable, value in zip(model.variables, values, strict=True):
            if id(variable) not in kept:
                variable.assign(value)


def reseed(model: keras.Model, seed: int) -> None:
    """Gives random layers, such as dropout, seeds that follow from one number."""
    for index, variable in enumerate(filter(_is_seed, model.variables)):
        variable.assign([seed + index, 0])


def _is_seed(variable: keras.Variable) -> bool:
    """Whether a variable is the state of a `SeedGenerator`, as dropout has it."""
    return variable.name == "seed_generator_state"


def _copy(model: keras.Model) -> keras.Model:
    copied: keras.Model = duplicate(model)[0]
    return copied


def _kept_layers(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in nested_layers(model) if not layer.trainable or hasattr(layer, "adapt")]
