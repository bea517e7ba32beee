"""What Keras has no common name for: installed backends, and gradients."""

import importlib.util
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

INSTALLED = [name for name in ("jax", "tensorflow", "torch") if importlib.util.find_spec(name)]
# The backends on which files of this one are loaded.
OTHERS = [name for name in INSTALLED if name != keras.backend.backend()] or INSTALLED


def on_one_backend(*values: Any) -> list[Any]:
    """Values for `pytest.mark.parametrize` that test the same code as the others on every backend but one."""
    return [pytest.param(value, marks=pytest.mark.one_backend) for value in values]


def numpy(x) -> np.ndarray:
    return keras.ops.convert_to_numpy(x)


def gradients(function: Callable, *arrays, cotangent=1.0) -> list[np.ndarray]:
    """Derivatives of `sum(function(*arrays) * cotangent)` with respect to each array."""
    tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
    cotangent = keras.ops.cast(cotangent, "float32")

    def total(*tensors):
        return keras.ops.sum(keras.ops.cast(function(*tensors), "float32") * cotangent)

    match keras.backend.backend():
        case "jax":
            import jax

            found = jax.jit(jax.grad(total, argnums=tuple(range(len(tensors)))))(*tensors)
        case "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                tape.watch(tensors)
                result = total(*tensors)
            found = tape.gradient(result, tensors, unconnected_gradients="zero")
        case "torch":
            import torch

            tensors = [tensor.detach().requires_grad_() for tensor in tensors]
            found = torch.autograd.grad(total(*tensors), tensors, allow_unused=True, materialize_grads=True)
    return [numpy(keras.ops.cast(gradient, "float32")) for gradient in found]


def layer_gradients(layer: keras.Layer, x: np.ndarray, cotangent: np.ndarray, **call) -> list[np.ndarray]:
    """Derivatives of `sum(layer(x) * cotangent)` with respect to x and each trainable weight."""
    weights = [variable.value for variable in layer.trainable_variables]
    fixed = [variable.value for variable in layer.non_trainable_variables]

    def outputs(x, *weights):
        return layer.stateless_call(weights, fixed, x, **call)[0]

    return gradients(outputs, x, *weights, cotangent=cotangent)


def finite_differences(function: Callable, *arrays: np.ndarray, step: float = 1e-6) -> list[np.ndarray]:
    """Central differences of a NumPy function in float64, as a reference for `gradients`."""
    arrays = [np.array(array, "float64") for array in arrays]
    found = []
    for array in arrays:
        gradient = np.empty_like(array)
        for index in np.ndindex(array.shape):
            centre = array[index]
            array[index] = centre + step
            above = function(*arrays)
            array[index] = centre - step
            gradient[index] = (above - function(*arrays)) / (2 * step)
            array[index] = centre
        found.append(gradient)
    return found
