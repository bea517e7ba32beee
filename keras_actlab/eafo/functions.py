"""Activations as functions of NumPy arrays, in float64 if their formula is known."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from scipy import special

from keras_actlab import layers
from keras_actlab.ops.crrelu import crrelu as crrelu_of_tensors
from keras_actlab.ops.float64 import linear_spline

Function = Callable[[np.ndarray], np.ndarray]

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def crrelu(epsilon: float) -> Function:
    """Returns CRReLU with a fixed `epsilon`."""
    return lambda z: np.maximum(z, 0.0) + epsilon * z * np.exp(-0.5 * np.clip(z, -40.0, 40.0) ** 2)


def _negative(z: np.ndarray) -> np.ndarray:
    return np.minimum(z, 0.0)  # so that exp(z) does not overflow for positive z


def _tanh_shrink(z: np.ndarray) -> np.ndarray:
    # Near 0 the series is used, because z - tanh(z) cancels.
    small = np.clip(z, -0.03, 0.03)
    series = small**3 / 3 - 2 * small**5 / 15 + 17 * small**7 / 315
    return np.where(small == z, series, z - np.tanh(z))


# The formulas by the names of `keras.activations`, with Keras' default arguments.
FORMULAS: dict[str, Function] = {
    "celu": lambda z: np.where(z > 0, z, np.expm1(_negative(z))),
    "crrelu": crrelu(0.01),
    "elu": lambda z: np.where(z > 0, z, np.expm1(_negative(z))),
    "gelu": lambda z: z * special.ndtr(z),
    "hard_sigmoid": lambda z: np.clip(z / 6.0 + 0.5, 0.0, 1.0),
    "hard_silu": lambda z: z * np.clip(z / 6.0 + 0.5, 0.0, 1.0),
    "hard_tanh": lambda z: np.clip(z, -1.0, 1.0),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.2 * z),
    "linear": lambda z: z,
    "log_sigmoid": lambda z: special.log_expit(z),
    "mish": lambda z: z * np.tanh(np.logaddexp(0.0, z)),
    "relu": lambda z: np.maximum(z, 0.0),
    "relu6": lambda z: np.clip(z, 0.0, 6.0),
    "selu": lambda z: SELU_SCALE * np.where(z > 0, z, SELU_ALPHA * np.expm1(_negative(z))),
    "sigmoid": lambda z: special.expit(z),
    "silu": lambda z: z * special.expit(z),
    "softplus": lambda z: np.logaddexp(0.0, z),
    "softsign": lambda z: z / (1.0 + np.abs(z)),
    "sparse_plus": lambda z: np.where(z <= -1, 0.0, np.where(z < 1, (z + 1.0) ** 2 / 4.0, z)),
    "squareplus": lambda z: np.where(z > 0, z + np.hypot(z, 2.0), 4.0 / (np.hypot(z, 2.0) - _negative(z))) / 2.0,
    "tanh": np.tanh,
    "tanh_shrink": _tanh_shrink,
}


def as_function(activation: Any) -> tuple[Function, float]:
    """Returns an activation as a function of float64 arrays, and the relative rounding error of its values.

    Args:
        activation: A name, a layer or a function of tensors or NumPy arrays.

    Raises:
        TypeError: If it is none of these, or does not return an array of numbers of the same shape.
        ValueError: If its name is unknown, or it is not elementwise: it depends on the channel or on several numbers.
    """
    if isinstance(activation, str) and activation not in FORMULAS:
        try:
            activation = keras.activations.get(activation)
        except ValueError:
            raise ValueError(
                f"`activation` must be the name of an activation. Received: activation={activation!r}"
            ) from None
    exact = _formula(activation)
    if exact is not None:
        return exact, float(np.finfo("float64").eps)
    if not callable(activation) or isinstance(activation, type):
        raise TypeError(
            "`activation` must be a name, a layer, or a function of tensors or NumPy arrays. "
            f"Received: activation={activation!r}"
        )
    if hasattr(activation, "rounding"):  # a result of `improve`, as accurate as its argument
        return activation, activation.rounding
    _check_elementwise(activation)
    precision = _values(activation, np.linspace(-1.0, 1.0, 5)).dtype
    return lambda z: _values(activation, z).astype("float64"), float(np.finfo(precision).eps)


def activation_name(activation: Any) -> str:
    """Returns the name of an activation for a table."""
    if isinstance(activation, str):
        return activation
    if isinstance(activation, keras.layers.Activation):
        return activation_name(activation.activation)
    return getattr(activation, "__name__", type(activation).__name__)


def _formula(activation: Any) -> Function | None:
    """Returns the activation in float64 if its formula is known; None otherwise."""
    match activation:
        case str():
            return FORMULAS.get(activation)
        case keras.layers.Activation():
            return _formula(activation.activation)
        case layers.EntropyActivation() if activation.built:
            knots, values = (
                keras.ops.convert_to_numpy(variable).astype("float64")
                for variable in (activation.knots, activation.values)
            )
            return lambda z: linear_spline(z, knots, values)
        case keras.layers.LeakyReLU():
            slope = activation.negative_slope
            return lambda z: np.where(z > 0, z, slope * z)
        case layers.CRReLU() if activation.built and activation.axis is None:
            return crrelu(float(keras.ops.convert_to_numpy(activation.epsilon)))
    if activation is crrelu_of_tensors:
        return FORMULAS["crrelu"]
    name = getattr(activation, "__name__", None)
    if name is not None and getattr(keras.activations, name, None) is activation:
        return FORMULAS.get(name)
    return None


def _values(activation: Any, z: np.ndarray) -> np.ndarray:
    """Returns the values of an activation at a vector, in the precision that the activation computes in."""
    if isinstance(activation, keras.layers.Layer):
        z = z.astype("float32")
    try:
        found = activation(z)
    except TypeError:  # a function of the backend, which accepts its tensors only
        found = activation(keras.ops.convert_to_tensor(z))
    if not isinstance(found, np.ndarray):
        found = keras.ops.convert_to_numpy(found)
    if found.shape != z.shape or found.dtype not in ("float32", "float64"):
        raise TypeError(
            "`activation` must return as many numbers as it receives, in float32 or float64. Received: "
            f"activation={activation!r}, which returned shape {found.shape} and dtype {found.dtype} for shape {z.shape}"
        )
    finite = np.isfinite(found)
    if not finite.all():
        raise ValueError(
            "`activation` must be finite wherever the density is not 0. Received: "
            f"activation={activation!r}, which is {found[np.argmin(finite)]} at {z[np.argmin(finite)]:.6g}"
        )
    return found


def _check_elementwise(activation: Any) -> None:
    if isinstance(activation, keras.layers.Layer) and (activation.weights or not activation.built):
        raise ValueError(
            "`activation` must be one function for all channels, and its layer built. Of layers with weights, "
            "EntropyActivation and CRReLU with one epsilon are known to be; write others as a function of arrays. "
            f"Received: activation={activation!r}"
        )
    z = np.array([-1.0, -0.6, -0.2, 1.2, 1.6, 2.0])
    together = _values(activation, z)
    # Pairs, because softmax warns about a single number.
    apart = np.concatenate([_values(activation, pair) for pair in np.split(z, 3)])
    if not np.allclose(together, apart, rtol=1e-4):
        raise ValueError(
            "`activation` must be a function of one number, not of several together. "
            f"Received: activation={activation!r}"
        )
