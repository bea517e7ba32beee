"""Layers of any class whose kernels are computed from angles and scale.

The layer keeps its class, its name and its `call`. An attribute that holds a kernel, such as `kernel`, then holds a
`GeometricKernel`, which reads as that kernel, and the layer has the variables `kernel_angles` and `kernel_scale`
instead.
"""

import math
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_actlab._private import keras_layers
from keras_actlab._private.geometric_kernel import GeometricKernel
from keras_actlab.conversion.coordinates import closest_scale, columns_of, precise_angles, vanish
from keras_actlab.conversion.surgery import after_build
from keras_actlab.layers.kernels import to_float32
from keras_actlab.layers.quantization import allow_quantization, refuse_quantization
from keras_actlab.ops import angles_to_direction
from keras_actlab.ops.tensor import Tensor

# The unit axes of each kernel, by the name of its attribute.
UnitAxes: TypeAlias = Mapping[str, tuple[int, ...]]

PENDING = "_keras_actlab_kernels"


def kernels(layer: keras.Operation) -> UnitAxes:
    """Returns which attributes of `layer` are computed kernels, or will be once it is built."""
    computed = {name: value.unit_axes for name, value in vars(layer).items() if isinstance(value, GeometricKernel)}
    return vars(layer).get(PENDING, computed)


def attributes(layer: keras.layers.Layer) -> dict[str, keras.Variable]:
    """Returns the trainable variables of `layer` itself, by the names of the attributes that hold them."""
    own = {id(variable) for variable in keras_layers.own_variables(layer)}
    return {name: value for name, value in vars(layer).items() if id(value) in own}


def parametrize(layer: keras.layers.Layer, unit_axes: UnitAxes) -> None:
    """Computes kernels of `layer`, by name, from angles and scale, which start as these kernels.

    The L2 regularizer of a kernel, which is that of its norm, becomes that of the scale. A layer that is not built is
    changed at the end of its `build`.
    """
    if not layer.built:
        vars(layer)[PENDING] = unit_axes
        after_build(layer, lambda: parametrize(layer, vars(layer).pop(PENDING)))
        return
    for name, axes in unit_axes.items():
        if name not in kernels(layer):
            _compute(layer, name, axes)
    refuse_quantization(layer, layer)
    # Embedding has methods of its own, which would save and load the computed kernel.
    for method in (keras.layers.Layer.save_own_variables, keras.layers.Layer.load_own_variables):
        vars(layer)[method.__name__] = MethodType(method, layer)


def unparametrize(layer: keras.layers.Layer) -> None:
    """Replaces the kernels of `layer` that are computed from angles and scale by variables with the same values."""
    for name in kernels(layer):
        kernel = vars(layer)[name]
        values = to_float32(kernel)
        with keras_layers.unlocked(layer):
            variable = layer.add_weight(
                name=kernel.name,
                shape=values.shape,
                dtype=keras_layers.stored_dtype(kernel),
                initializer=lambda shape, dtype, values=values: keras.ops.convert_to_tensor(values, dtype),
                autocast=keras_layers.autocast(kernel),
                regularizer=kernel.regularizer,
                constraint=kernel.constraint,
            )
            variable.trainable = kernel.scale.trainable
            keras_layers.replace_variables(layer, [variable], [kernel.angles, kernel.scale])
            del vars(layer)[name]
            setattr(layer, name, variable)
    allow_quantization(layer)
    for name in ("replaced", "save_own_variables", "load_own_variables"):
        vars(layer).pop(name, None)


def _compute(layer: keras.layers.Layer, name: str, unit_axes: tuple[int, ...]) -> None:
    variable = vars(layer)[name]
    units = math.prod(variable.shape[axis] for axis in unit_axes)
    fan_in = math.prod(variable.shape) // units

    def add(kind: str, shape: tuple[int, ...], start: Callable[[], np.ndarray], regularizer: Any) -> keras.Variable:
        def initializer(shape: tuple[int, ...], dtype: str) -> Tensor:
            # While a backend traces `build`, no variable has a value. Keras calls this again when `variable` has one.
            has_value = keras_layers.has_value(variable)
            return keras.ops.cast(start(), dtype) if has_value else keras.ops.zeros(shape, dtype)

        added = layer.add_weight(
            name=f"{name.lstrip('_')}_{kind}",
            shape=shape,
            dtype=keras.backend.result_type(keras_layers.stored_dtype(variable), "float32"),
            initializer=initializer,
            autocast=False,  # the kernel is cast once it is computed
            regularizer=regularizer,
        )
        added.trainable = variable.trainable
        return added

    def starting_scale() -> np.ndarray:
        columns = columns_of(variable, unit_axes)
        scale = closest_scale(columns, to_float32(angles_to_direction(angles)))
        return np.where(vanish(columns), 0.0, scale)

    on_norm = variable.regularizer if type(variable.regularizer) is keras.regularizers.L2 else None
    with keras_layers.unlocked(layer):
        angles = add("angles", (fan_in - 1, units), lambda: precise_angles(columns_of(variable, unit_axes)), None)
        scale = add("scale", (units,), starting_scale, on_norm)
        keras_layers.replace_variables(layer, [angles, scale], [variable])
    keras_layers.set_untracked(layer, name, GeometricKernel(variable, angles, scale, unit_axes))
