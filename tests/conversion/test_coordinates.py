import numpy as np
import pytest

from keras_actlab.conversion import coordinates

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize("block", [1, 12, 1000])  # fewer units at a time than there are, with and without a rest
def test_angles_are_those_of_the_columns_whatever_the_block(block, monkeypatch):
    monkeypatch.setattr(coordinates, "BLOCK", block)
    columns = np.random.default_rng(0).standard_normal((5, 7)).astype("float32")
    columns[:, 3] = 0.0
    angles = coordinates.precise_angles(columns).astype("float64")
    one = np.ones((1, 7))
    direction = np.cumprod(np.concatenate([one, np.sin(angles)]), axis=0) * np.concatenate([np.cos(angles), one])
    columns[:, 3] = 1.0  # as the docstring says of a column that vanishes
    np.testing.assert_allclose(direction, columns / np.linalg.norm(columns, axis=0), atol=1e-6)
