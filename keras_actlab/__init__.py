"""Trainable activations and geometric weights for Keras 3, on TensorFlow, JAX and PyTorch."""

from keras_actlab import cab, constraints, conversion, distribution, initializers, layers, models, ops
from keras_actlab.conversion import fold, swap_activations, to_gmp

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "cab",
    "constraints",
    "conversion",
    "distribution",
    "fold",
    "initializers",
    "layers",
    "models",
    "ops",
    "swap_activations",
    "to_gmp",
]
