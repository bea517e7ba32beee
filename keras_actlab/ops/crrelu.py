"""The Correction Regularized Rectified Linear Unit."""

import keras
from keras import ops

from keras_actlab.ops.remat import remat
from keras_actlab.ops.tensor import Tensor, at_least_float32, floating, tensor


def crrelu(x: Tensor, epsilon: Tensor = 0.01) -> Tensor:
    """Applies the Correction Regularized Rectified Linear Unit, elementwise.

    `crrelu(x) = max(0, x) + epsilon * x * exp(-x**2 / 2)`

    The second term is the entropy correction of ReLU (equation 7 of the paper) for pre-activations that are distributed
    as N(0, 1). With `epsilon = 0` the function is ReLU. The slope is `epsilon` just left of 0 and `1 + epsilon` just
    right of it; the function increases on x > 0 for -1 <= epsilon <= 2.24.

    Large inputs use a memory-saving backward pass; see `keras_actlab.ops.remat`.

    Args:
        x: Tensor of any shape. Integers are converted to `keras.config.floatx()`.
        epsilon: Size of the correction: a number, or a tensor that broadcasts against `x`.

    Returns:
        A tensor with the shape and dtype of `x`, computed in float32 or wider. Finite input gives finite output and
        gradients in every dtype.

    Example:

    >>> y = keras_actlab.ops.crrelu([-1.0, 0.0, 1.0], epsilon=0.5)
    >>> keras.ops.convert_to_numpy(y).round(3)
    array([-0.303,  0.   ,  1.303], dtype=float32)

    Reference:

    - [Sun et al., 2024](https://arxiv.org/abs/2405.12954), "A Method on Searching Better Activation Functions".
    """
    x = floating(x)
    # Cast before the broadcast, so that the gradient of epsilon is summed in float32.
    epsilon = ops.cast(tensor("epsilon", epsilon), at_least_float32(x).dtype)
    same_for_all_rows = len(epsilon.shape) < len(x.shape) or epsilon.shape[:1] == (1,)
    return (_crrelu_of_rows if same_for_all_rows else _crrelu)(x, epsilon)


def _crrelu(x: Tensor, epsilon: Tensor) -> Tensor:
    dtype = x.dtype
    x = at_least_float32(x)  # at no cost: elementwise arithmetic in half precision is no faster
    # exp(-40**2 / 2) is 0 in every dtype, so the clip changes no value. Without it, a large x times an upstream
    # gradient above 1 overflows in the gradient of exp, and inf * 0 = NaN.
    bounded = ops.clip(x, -40.0, 40.0)
    # epsilon is the right operand because a JAX array as the left operand rejects a KerasTensor.
    y = ops.relu(x) + bounded * ops.exp(-0.5 * bounded * bounded) * epsilon
    return ops.cast(y, dtype)


_crrelu_of_rows = remat(_crrelu)

# Not a decorator, because mypy does not know the type that it returns.
keras.saving.register_keras_serializable(package="keras_actlab")(crrelu)
