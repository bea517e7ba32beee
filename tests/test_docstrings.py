import doctest
import inspect

import keras
import numpy as np
import pytest

import keras_actlab
import keras_actlab.advice
import keras_actlab.cab.plots
import keras_actlab.eafo
import keras_actlab.experiments
import keras_actlab.search
import keras_actlab.trackers
from keras_actlab.experiments._arrays import as_arrays
from keras_actlab.experiments._description import describe
from keras_actlab.experiments._journal import Journal
from keras_actlab.files import atomic_write

pytestmark = pytest.mark.one_backend

PUBLIC = {
    f"{module.__name__}.{name}": value
    for module in (
        keras_actlab.advice,
        keras_actlab.ops,
        keras_actlab.layers,
        keras_actlab.initializers,
        keras_actlab.constraints,
        keras_actlab.conversion,
        keras_actlab.distribution,
        keras_actlab.cab,
        keras_actlab.cab.plots,
        keras_actlab.eafo,
        keras_actlab.experiments,
        keras_actlab.models,
        keras_actlab.search,
        keras_actlab.trackers,
    )
    for name, value in vars(module).items()
    if (inspect.isclass(value) or inspect.isroutine(value))  # no names of types
    and not name.startswith("_")
    and (getattr(value, "__module__", "").startswith(module.__name__) or name in getattr(module, "__all__", ()))
}
# Others with an example.
INNER = {f"{each.__module__}.{each.__name__}": each for each in (Journal, as_arrays, atomic_write, describe)}

OF_KERAS_HUB = ("HardDistillation", "deit_tiny", "gpt2", "vit_tiny")


@pytest.mark.parametrize("name", PUBLIC | INNER)
def test_the_example_runs(name):
    if name.rpartition(".")[2] in OF_KERAS_HUB:
        pytest.importorskip("keras_hub")
    names = {"np": np, "keras": keras, "keras_actlab": keras_actlab}
    (test,) = doctest.DocTestFinder(recurse=False).find((PUBLIC | INNER)[name], name, globs=names)
    assert test.examples, f"{name} has no example"
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
    assert result.failed == 0
