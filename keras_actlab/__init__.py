"""Trainable activations and geometric weights for Keras 3, on TensorFlow, JAX and PyTorch."""

from keras_actlab import constraints, initializers, layers, ops

__version__ = "0.1.0"

__all__ = ["__version__", "constraints", "initializers", "layers", "ops"]
