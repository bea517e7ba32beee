import keras
import numpy as np
import pytest

import keras_actlab
from keras_actlab import models
from keras_actlab.models import vgg

pytestmark = pytest.mark.one_backend

FILTERS = (128, 128, 256, 256, 512, 512)


@pytest.mark.usefixtures("even_starts")
def test_the_filters_of_the_paper():
    model = models.vgg6((8, 8, 3), 7)
    kernels = sum(9 * before * after for before, after in zip((3, *FILTERS), FILTERS, strict=False))
    assert model.count_params() == kernels + sum(FILTERS) + 7 * (512 + 1)
    assert model.output_shape == (None, 7)
    maps = [layer.output.shape[1:] for layer in model.layers if layer.name.endswith("_conv")]
    assert maps == [(8, 8, 128)] * 2 + [(4, 4, 256)] * 2 + [(2, 2, 512)] * 2


@pytest.mark.parametrize(
    ("pair", "per_filter"),
    [
        (("standard", "none"), 1),
        (("standard", "batch"), 4),
        (("weight_norm", "mean_only"), 3),
        (("gmp", "none"), 1),
    ],
)
def test_parameters(pair, per_filter):
    """Returns the number of parameters besides kernels; geometric weights have one angle less and a scale."""
    model = vgg.network((8, 8, 3), 5, "relu", *pair, filters=(2,))
    assert model.count_params() == 9 * (3 * 2 + 2 * 2) + per_filter * (2 + 2) + 5 * (2 + 1)


def test_folded_it_is_a_plain_network():
    """Geometric weights with input means, which zero padding does not let merge into a bias."""
    model = vgg.network((8, 8, 3), 5, "relu", "gmp", "input_mean", filters=(3,))
    rng = np.random.default_rng(1)
    for variable in model.variables:
        variable.assign(rng.normal(size=variable.shape))
    folded = keras_actlab.fold(model)
    x = rng.normal(size=(4, 8, 8, 3))
    np.testing.assert_allclose(folded.predict_on_batch(x), model.predict_on_batch(x), rtol=1e-4, atol=1e-4)
    assert all(type(layer).__module__.startswith("keras.") for layer in folded.layers)


def test_every_activation_starts_from_the_same_weights():
    starts = []
    for activation in ("relu", "gelu"):
        keras.utils.set_random_seed(3)
        model = vgg.network((2, 2, 3), 2, activation, "standard", "none", filters=(2,))
        starts.append(model.get_weights())
    for one, other in zip(*starts, strict=True):
        np.testing.assert_array_equal(one, other)
