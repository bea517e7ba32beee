"""Conversions of whole models: other activations, geometric or normalized weights, and back to plain layers."""

from keras_actlab.conversion.activations import swap_activations
from keras_actlab.conversion.folding import fold
from keras_actlab.conversion.geometric import to_gmp, to_weight_normalization
from keras_actlab.conversion.quantization import quantize
from keras_actlab.conversion.report import Report, report
from keras_actlab.conversion.rewriting import Where
from keras_actlab.conversion.target import To
from keras_actlab.layers.replacement import Replacement, SkipLayer

__all__ = [
    "Replacement",
    "Report",
    "SkipLayer",
    "To",
    "Where",
    "fold",
    "quantize",
    "report",
    "swap_activations",
    "to_gmp",
    "to_weight_normalization",
]
