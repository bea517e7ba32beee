"""Keras layers: trainable activations, geometric and normalized weights, mean normalization.

The activations have names, which every layer of Keras understands once this package is imported: "crrelu", "entropy"
and "tmaf", as in `keras.layers.Dense(8, activation="crrelu")`. Each use gets a layer of its own, with the defaults. The
weights of TMAF have as many channels as its input, so that in layers of Keras they exist from the first call on: call
such a model once before `load_weights`.
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
    "WeightNormalization",
]

# The activations that have a name.
ACTIVATIONS = {"crrelu": CRReLU, "entropy": EntropyActivation, "tmaf": TMAF}


def _new(name: str) -> keras.layers.Layer:
    layer = ACTIVATIONS[name]()
    # Keras builds layers within a layer at the first call, too late for `load_weights` before it. These two have the
    # same weights whatever their input is.
    if name in ("crrelu", "entropy"):
        layer.build((None,))
    return layer


# `activation="crrelu"` in any layer.
register({name: partial(_new, name) for name in ACTIVATIONS})
