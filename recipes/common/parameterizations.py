"""The parameterizations of a hidden layer of ReLU units that the recipes on geometric weights compare."""

from collections.abc import Callable

import keras
from keras.layers import BatchNormalization, Dense, ReLU

from keras_actlab.layers import GmPDense, InputMeanNormalization, WeightNormalization

# For each name a function of the number of units that returns the layers: standard weights, weight and batch
# normalization, geometric weights with the paper's initialization (directions uniform on the sphere, scale 1), with the
# one of its authors' code (angles and norm of Glorot uniform weights), and with the paper's after input mean
# normalization.
HIDDEN: dict[str, Callable[[int], list[keras.Layer]]] = {
    "SP": lambda units: [Dense(units, activation="relu")],
    "WN": lambda units: [WeightNormalization(Dense(units, activation="relu"))],
    "BN": lambda units: [Dense(units, use_bias=False), BatchNormalization(), ReLU()],
    "GmP": lambda units: [GmPDense(units, activation="relu")],
    "GmP, code's start": lambda units: [GmPDense(units, activation="relu", kernel_initializer="glorot_uniform")],
    "GmP+IMN": lambda units: [InputMeanNormalization(), GmPDense(units, activation="relu")],
}
