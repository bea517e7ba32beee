"""A kernel that is computed from angles and scale, and that a layer reads as if it were its own variable.

A layer of another package may read its kernels in an einsum, cast them to another dtype, or pass them to a fused
recurrent kernel. An attribute that is a `keras.Variable` with a computed value works in all of these cases.

Read in Keras 3.15.1: every read of a variable goes through `value` (`keras/src/backend/common/variables.py` and
`keras/src/backend/*/core.py`).
"""

from typing import Any, NoReturn

import keras

from keras_actlab.layers.kernels import direction_of, from_columns
from keras_actlab.ops.tensor import Tensor


class GeometricKernel(keras.Variable):
    """A variable whose value is `scale * direction`, computed in the dtype of `angles`.

    Args:
        variable: The variable that it replaces, from which it gets name, path, shape, dtype, regularizer and
            constraint. The latter two have no effect here; `fold` restores them.
        angles: Variable, (fan_in - 1, units).
        scale: Variable, (units,).
        unit_axes: The axes of the kernel that index units. The other axes are the fan-in.
    """

    def __init__(
        self, variable: keras.Variable, angles: keras.Variable, scale: keras.Variable, unit_axes: tuple[int, ...]
    ) -> None:
        # Without Keras' constructor, which would allocate a value.
        self.__dict__.update(vars(variable))
        self._value = None
        self.angles = angles
        self.scale = scale
        self.unit_axes = unit_axes

    @property
    def value(self) -> Tensor:
        """The kernel, in the dtype of the variable, or in that of an autocast scope, as Keras reads variables."""
        columns = direction_of(self.angles) * keras.ops.convert_to_tensor(self.scale)
        kernel = keras.ops.cast(from_columns(columns, self._shape, self.unit_axes), self._dtype)
        return self._maybe_autocast(kernel)

    def assign(self, value: Any) -> NoReturn:
        """Raises NotImplementedError."""
        raise NotImplementedError(
            f"The kernel {self.path!r} is computed from `angles` and `scale`, so it cannot be assigned. Assign those, "
            "or turn the layer into a plain one with `keras_actlab.fold(model)` first."
        )
