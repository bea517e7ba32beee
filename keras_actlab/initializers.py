"""Initializers of geometric parameters."""

from typing import Any

import keras

from keras_actlab.ops import direction_to_angles
from keras_actlab.ops.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_actlab")
class UniformSphereAngles(keras.initializers.Initializer):
    """Draws spherical angles whose directions are uniform on the unit sphere.

    `angles = direction_to_angles(w)`, where the entries of `w`, (n, units), are independent draws from N(0, 1) (remark
    3.5 of the paper). The distribution does not depend on the size of the layer. (Directions of uniformly distributed
    angles would be concentrated around the poles.)

    Args:
        seed: An integer, a `keras.random.SeedGenerator`, or None for a seed drawn from the global random state. As
            with Keras' own initializers, an instance with an integer seed, or None, gives the same values each time.

    Call arguments:
        shape: (n - 1, units), n >= 2.
        dtype: Floating-point dtype; `keras.config.floatx()` by default.

    Example:

    >>> initializer = keras_actlab.initializers.UniformSphereAngles(seed=1)
    >>> tuple(initializer((63, 10)).shape)
    (63, 10)

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), remark 3.5.
    """

    def __init__(self, seed: int | keras.random.SeedGenerator | None = None) -> None:
        if isinstance(seed, bool):
            raise TypeError(f"`seed` must be an integer, a SeedGenerator or None. Received: seed={seed}")
        self._normal = keras.initializers.RandomNormal(stddev=1.0, seed=seed)

    def __call__(self, shape: tuple[int, int], dtype: str | None = None) -> Tensor:
        if len(shape) != 2 or shape[0] < 1:
            raise ValueError(f"`shape` must be (n - 1, units) with n >= 2. Received: shape={tuple(shape)}")
        rows, units = shape
        angles = direction_to_angles(self._normal((rows + 1, units), dtype="float32"))
        return keras.ops.cast(angles, dtype or keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        return {"seed": self._normal.get_config()["seed"]}
