"""Keras layers: trainable activations, geometric and normalized weights, mean normalization.

Every Keras layer accepts the activations by name once this package is imported: "crrelu", "entropy" and "tmaf", as in
`keras.layers.Dense(8, activation="crrelu")`. Each use creates a new layer with default arguments. The number of weights
of TMAF depends on its input, so within Keras layers they are created at the first call: call such a model once before
`load_weights`.
"""

from functools import partial

import keras

from keras_actlab._private.activation_names import register
from keras_actlab.layers.crrelu import CRReLU
from keras_actlab.layers.entropy_activation import EntropyActivation
from keras_actlab.layers.gmp_conv import GmPConv1D, GmPConv2D, GmPConv3D
from keras_actlab.layers.gmp_conv_transpose import GmPConv1DTranspose, GmPConv2DTranspose, GmPConv3DTranspose
from keras_actlab.layers.gmp_dense import GmPDense
from keras_actlab.layers.gmp_depthwise_conv import GmPDepthwiseConv1D, GmPDepthwiseConv2D
from keras_actlab.layers.gmp_einsum_dense import GmPEinsumDense
from keras_actlab.layers.gmp_separable_conv import GmPSeparableConv1D, GmPSeparableConv2D
from keras_actlab.layers.input_mean_normalization import InputMeanNormalization
from keras_actlab.layers.mean_only_batch_normalization import MeanOnlyBatchNormalization
from keras_actlab.layers.rand_augment import RandAugment
from keras_actlab.layers.tmaf import TMAF
from keras_actlab.layers.weight_normalization import WeightNormalization

__all__ = [
    "TMAF",
    "CRReLU",
    "EntropyActivation",
    "GmPConv1D",
    "GmPConv1DTranspose",
    "GmPConv2D",
    "GmPConv2DTranspose",
    "GmPConv3D",
    "GmPConv3DTranspose",
    "GmPDense",
    "GmPDepthwiseConv1D",
    "GmPDepthwiseConv2D",
    "GmPEinsumDense",
    "GmPSeparableConv1D",
    "GmPSeparableConv2D",
    "InputMeanNormalization",
    "MeanOnlyBatchNormalization",
    "RandAugment",
    "WeightNormalization",
]

# The activations that have a name.
ACTIVATIONS = {"crrelu": CRReLU, "entropy": EntropyActivation, "tmaf": TMAF}


def _new(name: str) -> keras.layers.Layer:
    layer = ACTIVATIONS[name]()
    # Keras builds an activation layer at the first call, too late for `load_weights`. The weights of these two do not
    # depend on the input, so they are built here.
    if name in ("crrelu", "entropy"):
        layer.build((None,))
    return layer


# `activation="crrelu"` in any layer.
register({name: partial(_new, name) for name in ACTIVATIONS})
