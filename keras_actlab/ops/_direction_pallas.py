"""The map from angles to directions as one Pallas kernel, and its gradient as another, for JAX on GPUs.

The formulas and the order of work are those of `_direction_triton`. Pallas has no scan of several arrays on GPUs, so
`_scan` makes one of operations on pairs of rows. Within a kernel, tiles are transposed: (columns, rows).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import numpy as jnp
from jax.experimental import pallas
from jax.experimental.pallas import triton

from keras_actlab.ops.spherical import plain_direction

# With tiles of 512 x 8, a thousand columns occupy all cores of a large GPU, which reads 8 numbers at once.
SIZE = (512, 8)
WARPS = 8

Arrays = tuple[jax.Array, ...]


def _scan(
    combine: Callable[[Arrays, Arrays], Arrays], first: Arrays, rows: Arrays, up: bool = False
) -> tuple[Arrays, Arrays]:
    """Returns the combination of all that comes before each row, (columns, rows), and that of everything.

    Args:
        combine: An associative function.
        first: What comes before the first row, (columns, 1).
        rows: The rows, (columns, rows). Their number is a power of 2.
        up: Whether the last row comes first.
    """
    columns, count = rows[0].shape
    if count == 1:
        return first, combine(first, rows)
    pairs = [jnp.unstack(array.reshape(columns, count // 2, 2), axis=-1) for array in rows]
    one, other = zip(*(pair[::-1] if up else pair for pair in pairs), strict=True)
    before, total = _scan(combine, first, combine(one, other), up)
    found = zip(before, combine(before, one), strict=True)
    stacked = (jnp.stack(pair[::-1] if up else pair, axis=-1) for pair in found)
    return tuple(array.reshape(columns, count) for array in stacked), total


def _product(before: Arrays, row: Arrays) -> Arrays:
    return (before[0] * row[0],)


def _composition(before: Arrays, row: Arrays) -> Arrays:
    # Slope and constant of linear functions of the `rest` from below.
    return before[0] * row[0], row[0] * before[1] + row[1]


def _place(ref: Any, corner: tuple[Any, Any], size: tuple[int, int]) -> tuple[Any, jax.Array]:
    """Returns the part of a matrix that starts in a row and a column, and a mask of what of it exists."""
    inside = [start + jnp.arange(length) < end for start, length, end in zip(corner, size, ref.shape, strict=True)]
    return ref.at[tuple(map(pallas.ds, corner, size))], inside[0][:, None] & inside[1][None, :]


def _load(ref: Any, corner: tuple[Any, Any], size: tuple[int, int]) -> jax.Array:
    place, exists = _place(ref, corner, size)
    return triton.load(place, mask=exists, other=0.0).T


def _store(ref: Any, corner: tuple[Any, Any], size: tuple[int, int], value: jax.Array) -> None:
    place, exists = _place(ref, corner, size)
    triton.store(place, value.T, mask=exists)


def _forward(angles: Any, direction: Any, before_tiles: Any, *, size: tuple[int, int]) -> None:
    height, width = size
    column = pallas.program_id(0) * width

    def step(tile: jax.Array, before: jax.Array) -> jax.Array:
        corner = (tile * height, column)
        _store(before_tiles, (tile, column), (1, width), before)
        angle = _load(angles, corner, size)
        (products,), (before,) = _scan(_product, (before,), (jnp.sin(angle),))
        _store(direction, corner, size, products * jnp.cos(angle))
        return before

    jax.lax.fori_loop(0, before_tiles.shape[0], step, jnp.ones((width, 1), angles.dtype))


def _backward(angles: Any, cotangent: Any, before_tiles: Any, gradient: Any, *, size: tuple[int, int]) -> None:
    height, width = size
    column = pallas.program_id(0) * width
    tiles = before_tiles.shape[0]

    def step(done: jax.Array, rest: jax.Array) -> jax.Array:
        tile = tiles - 1 - done
        corner = (tile * height, column)
        angle, g = (_load(ref, corner, size) for ref in (angles, cotangent))
        sine, cosine = jnp.sin(angle), jnp.cos(angle)
        before_tile = _load(before_tiles, (tile, column), (1, width))
        (before,), _ = _scan(_product, (before_tile,), (sine,))
        (_, rests), (_, rest) = _scan(_composition, (jnp.zeros_like(rest), rest), (sine, g * cosine), up=True)
        _store(gradient, corner, size, before * (cosine * rests - sine * g))
        return rest

    jax.lax.fori_loop(0, tiles, step, jnp.zeros((width, 1), angles.dtype))


def _run(
    kernel: Callable[..., None], inputs: Arrays, shapes: list[tuple[int, int]], size: tuple[int, int], interpret: bool
) -> Arrays:
    """Runs a kernel with one program for each block of columns. Returns its outputs, of the given shapes."""
    run = pallas.pallas_call(
        functools.partial(kernel, size=size),
        out_shape=[jax.ShapeDtypeStruct(shape, inputs[0].dtype) for shape in shapes],
        grid=(pallas.cdiv(shapes[0][1], size[1]),),
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=WARPS),
    )
    return tuple(run(*inputs))


# The kernels have no derivatives of their own. Second derivatives are those of the plain form.


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _direction(angles: jax.Array, size: tuple[int, int], interpret: bool) -> Arrays:
    rows, units = angles.shape[0] + 1, angles.shape[1]
    return _run(_forward, (angles,), [(rows, units), (pallas.cdiv(rows, size[0]), units)], size, interpret)


@_direction.defjvp
def _(size: tuple[int, int], interpret: bool, primals: Arrays, tangents: Arrays) -> tuple[Arrays, Arrays]:
    found, before_tiles = _direction(*primals, size, interpret)
    _, tangent = jax.jvp(plain_direction, primals, tangents)
    return (found, before_tiles), (tangent, jnp.zeros_like(before_tiles))


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _gradient(
    angles: jax.Array, cotangent: jax.Array, before_tiles: jax.Array, size: tuple[int, int], interpret: bool
) -> jax.Array:
    return _run(_backward, (angles, cotangent, before_tiles), [angles.shape], size, interpret)[0]


@_gradient.defjvp
def _(size: tuple[int, int], interpret: bool, primals: Arrays, tangents: Arrays) -> Arrays:
    def plain(angles: jax.Array, cotangent: jax.Array) -> jax.Array:
        return jax.vjp(plain_direction, angles)[1](cotangent)[0]

    return jax.jvp(plain, primals[:2], tangents[:2])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _differentiable(angles: jax.Array, size: tuple[int, int], interpret: bool) -> jax.Array:
    return _direction(angles, size, interpret)[0]


def _keep(angles: jax.Array, size: tuple[int, int], interpret: bool) -> tuple[jax.Array, Arrays]:
    found, before_tiles = _direction(angles, size, interpret)
    return found, (angles, before_tiles)


def _gradient_of_angles(size: tuple[int, int], interpret: bool, kept: Arrays, cotangent: jax.Array) -> Arrays:
    angles, before_tiles = kept
    return (_gradient(angles, cotangent, before_tiles, size, interpret),)


_differentiable.defvjp(_keep, _gradient_of_angles)


@functools.partial(jax.jit, static_argnames=("size", "interpret"))
def direction(angles: jax.Array, size: tuple[int, int] = SIZE, interpret: bool = False) -> jax.Array:
    """Returns the unit vectors with the given angles, as `keras_actlab.ops.angles_to_direction` does.

    Args:
        angles: Array, (n - 1, units).
        size: Number of rows and of columns that a program holds at once, powers of 2. They are not smaller for small
            `angles`, because XLA (JAX 0.11) crashed on a tile of 2 x 1.
        interpret: Whether Pallas interprets the kernels, which works without a GPU, but is slow.
    """
    return _differentiable(angles, size, interpret)
