"""The geometric counterpart of EinsumDense."""

import math
import re
from collections.abc import Sequence
from typing import Any, Unpack

import keras

from keras_actlab.arguments import check_type, positive_integer
from keras_actlab.layers.arguments import Activation, Shape
from keras_actlab.layers.gmp import GeometricArguments, GmP
from keras_actlab.ops.tensor import Tensor

EQUATION = re.compile(r"(\.\.\.)?([a-zA-Z]+)(\.\.\.)?,([a-zA-Z]+)->(\.\.\.)?([a-zA-Z]+)(\.\.\.)?")


@keras.saving.register_keras_serializable(package="keras_actlab")
class GmPEinsumDense(GmP):
    """An EinsumDense layer whose weights are given by angles, radius and scale (geometric parameterization).

    `z = scale * activation(einsum(equation, x, direction) + radius)`, as in `GmPDense`. A unit is an index into the
    axes that kernel and output have in common; the weights of a unit lie along the axes that are summed over. The query
    projection of attention, `"abc,cde->abde"`, has units `de`; its output projection, `"abcd,cde->abe"`, has units `e`.

    - `angles` (the paper's theta), (fan_in - 1, units), start with directions uniform on the sphere. With a fan-in of
      1 there are no angles, but a fixed `sign` drawn at random.
    - `radius` (lambda), (units,), starts at 0. The units are in the order of the kernel's axes.
    - `scale` (r), (units,), starts at 1.

    If `bias_axes` differ from the axes of the units, for example `"abc,bcd->abd"` with "d", the bias does not have one
    entry per unit. The layer then has a plain `bias` instead of a radius, and needs `scale_inside=True`:
    `z = activation(scale * einsum(equation, x, direction) + bias)`. `radius_initializer` initializes it.

    Args:
        equation: Einsum equation of input, kernel and output, as in `keras.layers.EinsumDense`.
        output_shape: Shape of the output without the batch axis and the axes of an ellipsis: an integer or a tuple.
            None in the tuple is a length that is taken from the input.
        activation: Name, function or layer; None for linear.
        bias_axes: Axes of the output along which the bias varies; None for no bias.
        scale_inside: As in `GmPDense`, and so are `kernel_initializer`, `angles_initializer`, `angles_regularizer`,
            `angles_constraint`, `radius_initializer`, `radius_regularizer`, `radius_constraint`, `scale_initializer`,
            `scale_regularizer` and `scale_constraint`.
        activity_regularizer: Regularizer of the layer's output.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor with the axes that the equation names.

    Input shape:
        The shape that `equation` gives the input.

    Output shape:
        The shape that `equation` and `output_shape` give the output.

    Raises:
        ValueError: If the equation is not an einsum of an input and a kernel, `bias_axes` names an axis that is not in
            the output, `bias_axes` differ from the axes of the units without `scale_inside=True`, or the shape of the
            input does not match the equation.

    Example: the projection to 2 heads of 3 features.

    >>> layer = keras_actlab.layers.GmPEinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de")
    >>> tuple(layer(np.ones((4, 7, 5))).shape)
    (4, 7, 2, 3)
    >>> tuple(layer.angles.shape), tuple(layer.radius.shape), tuple(layer.scale.shape)
    ((4, 6), (6,), (6,))

    Reference:

    - [Chen and Ge, 2024](https://arxiv.org/abs/2305.15912), "Neural Characteristic Activation Analysis and Geometric
      Parameterization for ReLU Networks".
    """

    plain = keras.layers.EinsumDense

    def __init__(
        self,
        equation: str,
        output_shape: int | Sequence[int | None],
        activation: Activation = None,
        bias_axes: str | None = None,
        **kwargs: Unpack[GeometricArguments],
    ) -> None:
        check_type("bias_axes", bias_axes, (str, type(None)), "a string or None")
        check_type("output_shape", output_shape, (int, list, tuple), "an integer, or a list or tuple of them")
        super().__init__(activation, bias_axes is not None, **kwargs)
        match = EQUATION.fullmatch(equation.replace(" ", "")) if isinstance(equation, str) else None
        if match is None:
            raise ValueError(
                "`equation` must be of the form '[X],[Y]->[Z]', '...[X],[Y]->...[Z]' or '[X]...,[Y]->[Z]...'. "
                f"Received: equation={equation!r}"
            )
        self.equation = equation
        self._inputs, self._letters, self._outputs = match[2], match[4], match[6]
        self._elided_left, self._is_elided = match[1] is not None, bool(match[1] or match[3])
        self.partial_output_shape = (output_shape,) if isinstance(output_shape, int) else tuple(output_shape)
        for size in self.partial_output_shape:
            if size is not None:
                positive_integer("output_shape", size)
        self.bias_axes = bias_axes
        self.unit_axes = tuple(axis for axis, letter in enumerate(self._letters) if letter in self._outputs)
        units = "".join(self._letters[axis] for axis in self.unit_axes)
        if not set(bias_axes or "") <= set(self._outputs):
            raise ValueError(
                f"`bias_axes` must name axes of the output. Received: bias_axes={bias_axes!r}, equation={equation!r}"
            )
        self._units = units
        self._has_radius = self.use_bias and set(bias_axes or "") == set(units)
        if self.use_bias and not self._has_radius and not self.scale_inside:
            raise ValueError(
                f"`bias_axes` must be those of the units, {units!r}, unless scale_inside=True. "
                f"Received: bias_axes={bias_axes!r}, equation={equation!r}, scale_inside=False"
            )
        if len(units) == 1:
            self.unit_axis = self._outputs.index(units) - (0 if match[3] else len(self._outputs))

    def kernel_shape(self, input_shape: Shape) -> tuple[int, ...]:
        sizes = self._sizes(input_shape)
        missing = [letter for letter in self._letters if sizes.get(letter) is None]
        if missing:
            raise ValueError(
                "The input and `output_shape` must give the lengths of all axes of the kernel. Received: "
                f"equation={self.equation!r}, input_shape={tuple(input_shape)}, output_shape="
                f"{self.partial_output_shape}, which give none for {missing}"
            )
        return tuple(sizes[letter] for letter in self._letters)

    def _sizes(self, input_shape: Shape) -> dict[str, Any]:
        """Returns the known lengths of the axes by their letters."""
        elided = len(input_shape) - len(self._inputs)
        if elided < 0 or (elided > 0 and not self._is_elided):
            raise ValueError(
                f"The input must have the axes that `equation` names. Received: equation={self.equation!r}, "
                f"input_shape={tuple(input_shape)}"
            )
        named = input_shape[elided:] if self._elided_left else input_shape[: len(self._inputs)]
        # Aligned at the last axis, because `output_shape` lacks the batch axis, which may be one of the letters.
        given = dict(zip(self._outputs[::-1], self.partial_output_shape[::-1], strict=False))
        known = dict(zip(self._inputs, named, strict=True))
        return given | {letter: size for letter, size in known.items() if size is not None}

    def build(self, input_shape: Shape) -> None:
        self._lengths = self._sizes(input_shape)
        super().build(input_shape)
        self.input_spec = keras.layers.InputSpec(ndim=len(input_shape))

    def _add_bias(self, units: int) -> None:
        if self._has_radius:
            super()._add_bias(units)
        elif self.use_bias:
            letters = self._bias_letters
            self.plain_bias = self.add_weight(
                name="bias",
                shape=(math.prod(self._lengths[letter] for letter in letters),),
                initializer=self.radius_initializer,
                regularizer=self.radius_regularizer,
                constraint=self.radius_constraint,
                autocast=False,
                dtype=self._geometric_dtype,
            )

    @property
    def _bias_letters(self) -> str:
        """The letters of the axes along which the bias varies, in the order of its entries."""
        return self._units if self._has_radius else "".join(x for x in self._outputs if x in (self.bias_axes or ""))

    def along_units(self, vector: Tensor, rank: int) -> Tensor:
        return self._along(vector, self._units, rank)

    def along_bias(self, vector: Tensor, rank: int) -> Tensor:
        return self._along(vector, self._bias_letters, rank)

    def _along(self, vector: Tensor, letters: str, rank: int) -> Tensor:
        in_order = sorted(letters, key=self._outputs.index)
        entries = keras.ops.reshape(vector, [self._lengths[letter] for letter in letters])
        entries = keras.ops.transpose(entries, [letters.index(letter) for letter in in_order])
        shape = tuple(self._lengths[letter] if letter in letters else 1 for letter in self._outputs)
        elided = (1,) * (rank - len(self._outputs))
        return keras.ops.reshape(entries, elided + shape if self._elided_left else shape + elided)

    def in_plain_shape(self, vector: Tensor) -> Tensor:
        # Keras' bias has the axes of the output from the first bias axis on, those of an ellipsis on the right
        # included.
        first = min(self._outputs.index(letter) for letter in self._bias_letters)
        elided = 0 if self._elided_left else self.input_spec.ndim - len(self._inputs)
        spread = self.along_bias(vector, len(self._outputs) + elided)
        return keras.ops.reshape(spread, spread.shape[first:])

    def _scaled_bias(self) -> Tensor:
        return super()._scaled_bias() if self.plain_bias is None else keras.ops.convert_to_tensor(self.plain_bias)

    def apply_kernel(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        return keras.ops.einsum(self.equation, inputs, kernel)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        sizes = self._sizes(input_shape)
        named = tuple(sizes.get(letter) for letter in self._outputs)
        elided = len(input_shape) - len(self._inputs)
        if not elided:
            return named
        if self._elided_left:
            return (*input_shape[:elided], *named)
        return (*named, *input_shape[len(self._inputs) :])

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["use_bias"]  # follows from `bias_axes`
        return config | {
            "equation": self.equation,
            "output_shape": self.partial_output_shape,
            "bias_axes": self.bias_axes,
        }
