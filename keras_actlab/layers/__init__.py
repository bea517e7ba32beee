"""Keras layers: trainable activations, geometric weights, input mean normalization."""

from keras_actlab.layers.crrelu import CRReLU
from keras_actlab.layers.gmp_conv import GmPConv1D, GmPConv2D, GmPConv3D
from keras_actlab.layers.gmp_dense import GmPDense
from keras_actlab.layers.input_mean_normalization import InputMeanNormalization
from keras_actlab.layers.tmaf import TMAF

__all__ = ["TMAF", "CRReLU", "GmPConv1D", "GmPConv2D", "GmPConv3D", "GmPDense", "InputMeanNormalization"]
