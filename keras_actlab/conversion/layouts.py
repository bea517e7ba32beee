"""Layouts of converted models for model parallelism."""

import math
from collections.abc import Iterator
from typing import TypeAlias

import keras

from keras_actlab._private.keras_layers import nested_layers
from keras_actlab.arguments import check_model, check_type
from keras_actlab.conversion.parametrized import kernels
from keras_actlab.layers.gmp import GmP
from keras_actlab.layers.gmp_separable_conv import GmPSeparableConv

UnitAxes: TypeAlias = tuple[int, ...]
Axes: TypeAlias = tuple[str | None, ...]  # of the device mesh, one for each axis of a variable


def layout_map(model: keras.Model, plain: keras.distribution.LayoutMap) -> keras.distribution.LayoutMap:
    """Returns the layouts of a converted model, given those of the plain model, for `keras.distribution.ModelParallel`.

    Angles, radius, scale and sign of a geometric layer are split along the units. The mesh axis is the one that splits
    the plain kernel along its first unit axis. If there is none, it is another mesh axis that splits the kernel and
    divides the number of units. Angles are never split along the fan-in, because the direction is a product over it,
    which each device then computes for its own units. Parameters of activations
    are replicated, as all variables without a layout: they are a few per channel.

    Args:
        model: A model that `keras_actlab.to_gmp` and `keras_actlab.swap_activations` returned, or a part of it.
        plain: Layouts of the plain model's variables. Conversions keep the paths of layers.

    Returns:
        A copy of `plain` with a layout for each variable above, under its path. Variables get their layouts when they
        are created, so build and convert the plain model again within the scope of `ModelParallel`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model is not built, or a layout has another rank than its kernel.

    Example: two columns of four devices; each column has the whole kernel, divided along the units.

    >>> mesh = keras.distribution.DeviceMesh((2, 4), ("batch", "model"), devices=[f"cpu:{i}" for i in range(8)])
    >>> plain = keras.distribution.LayoutMap(mesh)
    >>> plain[".*hidden/kernel"] = (None, "model")
    >>> dense = keras.layers.Dense(16, activation="relu", name="hidden")
    >>> model = keras.Sequential([keras.Input((5,)), dense], name="network")
    >>> layouts = keras_actlab.distribution.layout_map(keras_actlab.to_gmp(model), plain)
    >>> for path, layout in layouts.items():
    ...     print(path, layout.axes)
    .*hidden/kernel (None, 'model')
    network/hidden/angles (None, 'model')
    network/hidden/radius ('model',)
    network/hidden/scale ('model',)
    """
    check_model("model", model)
    check_type("plain", plain, keras.distribution.LayoutMap, "a keras.distribution.LayoutMap")
    if not model.built:
        raise ValueError(f"`model` must be built, because the paths of its variables are needed. Received: {model}")
    mesh = plain.device_mesh
    layouts = dict(plain)
    for path, shape, unit_axes, variables in _kernels(model):
        layout = plain[path]
        if layout is None:
            continue
        if len(layout.axes) != len(shape):
            raise ValueError(
                f"The layout of a kernel must have one entry for each of its axes. Received: {layout.axes} for "
                f"{path!r} with the shape {shape}"
            )
        split = _split(layout.axes, shape, unit_axes, mesh)
        for variable in variables if split else []:
            axes = (*(None,) * (len(variable.shape) - 1), split)
            layouts[variable.path] = keras.distribution.TensorLayout(axes, mesh)
    result = keras.distribution.LayoutMap(mesh)
    result.update(layouts)
    return result


def _kernels(model: keras.Model) -> Iterator[tuple[str, tuple[int, ...], UnitAxes, list[keras.Variable]]]:
    """Returns path, shape and unit axes of each plain kernel, and the variables in its place, with units last."""
    paths: dict[int, str] = {}
    for layer in nested_layers(model):
        if isinstance(layer, GmPSeparableConv):
            paths |= {id(layer.depthwise): "depthwise_kernel", id(layer.pointwise): "pointwise_kernel"}
        if isinstance(layer, GmP):
            folder = layer.scale.path.rpartition("/")[0]
            if id(layer) in paths:
                folder = folder.rpartition("/")[0]
            found = [layer.angles, layer.sign, layer.radius, layer.scale]
            present = [variable for variable in found if variable is not None]
            shape = layer.kernel_shape(layer.get_build_config()["input_shape"])
            yield f"{folder}/{paths.get(id(layer), 'kernel')}", shape, layer.unit_axes, present
        for name in kernels(layer):
            kernel = vars(layer)[name]
            yield kernel.path, kernel.shape, kernel.unit_axes, [kernel.angles, kernel.scale]


def _split(axes: Axes, shape: tuple[int, ...], unit_axes: UnitAxes, mesh: keras.distribution.DeviceMesh) -> str | None:
    """Returns the mesh axis along which units are split, given the layout and the shape of a plain kernel."""
    units = math.prod(shape[axis] for axis in unit_axes)
    sizes = dict(zip(mesh.axis_names, mesh.shape, strict=True))
    # Units are in the order of their axes, so blocks of the first of them are blocks of units.
    for name in (axes[unit_axes[0]], *axes):
        if name is not None and units % sizes[name] == 0:
            return name
    return None
