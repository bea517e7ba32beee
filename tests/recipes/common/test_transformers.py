import keras
import numpy as np

from keras_actlab.models import vit
from recipes.common.transformers import start


def test_start():
    model = vit.network((8, 8, 3), 4, 4, "relu", blocks=1, heads=2, dim=64)
    start(model)
    values = {variable.path: keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables}
    biases = [value for path, value in values.items() if path.endswith("bias")]
    assert biases
    assert not any(value.any() for value in biases)
    kernels = [value for path, value in values.items() if path.endswith("kernel")]
    (patches,) = (value for value in kernels if value.ndim == 4)
    bound = 1 / np.sqrt(np.prod(patches.shape[:3]))
    assert 0.9 * bound < np.abs(patches).max() <= bound
    dense = np.concatenate([value.ravel() for value in kernels if value.ndim == 2])
    assert np.abs(dense).max() <= 0.04 + 1e-6
    # Truncation at two standard deviations leaves 0.880 of the standard deviation.
    np.testing.assert_allclose(dense.std(), 0.880 * 0.02, rtol=0.03)
