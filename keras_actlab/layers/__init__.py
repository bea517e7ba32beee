"""Keras layers: trainable activations, geometric and normalized weights, mean normalization."""

from keras_actlab.layers.crrelu import CRReLU
from keras_actlab.layers.entropy_activation import EntropyActivation
from keras_actlab.layers.gmp_conv import GmPConv1D, GmPConv2D, GmPConv3D
from keras_actlab.layers.gmp_dense import GmPDense
from keras_actlab.layers.input_mean_normalization import InputMeanNormalization
from keras_actlab.layers.mean_only_batch_normalization import MeanOnlyBatchNormalization
from keras_actlab.layers.tmaf import TMAF
from keras_actlab.layers.weight_normalization import WeightNormalization

__all__ = [
    "TMAF",
    "CRReLU",
    "EntropyActivation",
    "GmPConv1D",
    "GmPConv2D",
    "GmPConv3D",
    "GmPDense",
    "InputMeanNormalization",
    "MeanOnlyBatchNormalization",
    "WeightNormalization",
]
