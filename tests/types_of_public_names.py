"""Mistakes that mypy has to see, as it would not if a public name were Any to it. This is checked, and never run."""

from typing import assert_type

import keras_actlab
from keras_actlab import cab, conversion, eafo, experiments, layers, models, ops
from keras_actlab.constraints import Increasing
from keras_actlab.initializers import UniformSphereAngles

assert_type(layers.CRReLU(axis=-1), layers.CRReLU)
assert_type(layers.GmPConv2D(8, 3), layers.GmPConv2D)
assert_type(layers.EntropyActivation().num_knots, int)
layers.TMAF(thresholds=0.0)  # type: ignore[arg-type]
layers.GmPDense("3")  # type: ignore[arg-type]
layers.InputMeanNormalization(synchronized=1.0)  # type: ignore[arg-type]
assert_type(UniformSphereAngles(seed=3), UniformSphereAngles)
assert_type(Increasing(), Increasing)

ops.crrelu()  # type: ignore[call-arg]
ops.matrix_activation()  # type: ignore[call-arg]
keras_actlab.to_gmp()  # type: ignore[call-arg]
keras_actlab.swap_activations()  # type: ignore[call-arg]
keras_actlab.quantize()  # type: ignore[call-arg]
keras_actlab.fold()  # type: ignore[call-arg]
models.vgg6(classes="10")  # type: ignore[arg-type]

assert_type(conversion.report(None), conversion.Report)
assert_type(cab.boundaries(None), cab.Boundaries)
assert_type(experiments.load("rows.jsonl"), experiments.Results)
assert_type(experiments.Paired([1.0]).interval(), tuple[float, float])
experiments.Paired([1.0], overlap="0.1")  # type: ignore[arg-type]
eafo.entropy()  # type: ignore[call-arg]
