"""Entropy of activations: measuring, ranking and lowering it, also during the training of a network.

Entropies are in nats. All functions work on float64 NumPy arrays. `keras_actlab.layers.EntropyActivation` is the layer
that takes the resulting activations.
"""

try:
    import pandas as _pandas  # noqa: F401
    import scipy as _scipy  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"keras_actlab.eafo needs {error.name}. Install the extra [lab]: pip install 'keras-actlab[lab]'"
    ) from error

from keras_actlab.eafo.densities import Density, Empirical, Gaussian, Laplace, Uniform
from keras_actlab.eafo.network import layer_entropies
from keras_actlab.eafo.push_forward import PushForward, entropy, push_forward, standardized_entropy
from keras_actlab.eafo.ranking import rank
from keras_actlab.eafo.refinement import EntropyRefinement
from keras_actlab.eafo.search import Correction, Improvement, correction, improve, worst_activation

__all__ = [
    "Correction",
    "Density",
    "Empirical",
    "EntropyRefinement",
    "Gaussian",
    "Improvement",
    "Laplace",
    "PushForward",
    "Uniform",
    "correction",
    "entropy",
    "improve",
    "layer_entropies",
    "push_forward",
    "rank",
    "standardized_entropy",
    "worst_activation",
]
