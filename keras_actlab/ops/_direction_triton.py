"""The map from angles to directions as one Triton kernel, and its gradient as another, for PyTorch on GPUs.

A program takes a few columns down the fan-in, tile by tile, and carries one number per column from tile to tile. So it
reads and writes each number once. Nothing is divided by a sine, so the gradient is exact where a sine is 0.

- Forward: `u[i] = before[i] * cos[i]`, where `before[i]` is the product of the sines above row i.
- Gradient, from the last row up: `before[i] * (cos[i] * rest[i + 1] - sin[i] * g[i])`, where g is the cotangent and
  `rest[i] = g[i] * cos[i] + sin[i] * rest[i + 1]`. The forward pass stores `before` of the first row of each tile.

The last of the n rows has no angle. It counts as the angle 0, with sine 0 and cosine 1, as do rows beyond it.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from keras_actlab.ops.spherical import plain_direction

# With tiles of 512 x 8, a thousand columns occupy all cores of a large GPU, which reads 8 numbers at once. Compiled for
# compute capability 9.0, the tiles fit into the registers of 8 warps.
SIZE = (512, 8)
WARPS = 8


@triton.jit
def _add(x, y):
    return x + y


@triton.jit
def _row(x, chosen):
    """The chosen row of a tile."""
    return tl.reduce(tl.where(chosen, x, 0.0), 0, _add, keep_dims=True)


@triton.jit
def _going_down(product, output, product_below, output_below):
    return product * product_below, product * output_below


@triton.jit
def _going_up(slope, rest, gradient_slope, gradient, slope_above, rest_above, gradient_slope_above, gradient_above):
    # `rest` and the gradient of a row are linear functions of the `rest` from below.
    return (
        slope_above * slope,
        rest_above + slope_above * rest,
        gradient_slope_above * slope,
        gradient_above + gradient_slope_above * rest,
    )


@triton.jit
def _forward(angles, direction, before_tiles, rows, units, tiles, height: tl.constexpr, width: tl.constexpr):
    column = (tl.program_id(0) * width + tl.arange(0, width))[None, :]
    in_tile = tl.arange(0, height)[:, None]
    before = tl.full((1, width), 1.0, angles.dtype.element_ty)
    for tile in range(0, tiles):
        row = tile * height + in_tile
        place = row.to(tl.int64) * units + column
        angle = tl.load(angles + place, mask=(row < rows - 1) & (column < units), other=0.0)
        tl.store(before_tiles + tile * units + column, before, mask=column < units)
        products, outputs = tl.associative_scan((tl.sin(angle), tl.cos(angle)), 0, _going_down)
        tl.store(direction + place, before * outputs, mask=(row < rows) & (column < units))
        before *= _row(products, in_tile == height - 1)


@triton.jit
def _backward(angles, cotangent, before_tiles, gradient, rows, units, tiles, height: tl.constexpr, width: tl.constexpr):
    column = (tl.program_id(0) * width + tl.arange(0, width))[None, :]
    in_tile = tl.arange(0, height)[:, None]
    rest_below = tl.full((1, width), 0.0, angles.dtype.element_ty)
    for done in range(0, tiles):
        tile = tiles - 1 - done
        row = tile * height + in_tile
        place = row.to(tl.int64) * units + column
        has_angle = (row < rows - 1) & (column < units)
        angle = tl.load(angles + place, mask=has_angle, other=0.0)
        g = tl.load(cotangent + place, mask=(row < rows) & (column < units), other=0.0)
        sine, cosine = tl.sin(angle), tl.cos(angle)
        _, before = tl.associative_scan((sine, tl.full(sine.shape, 1.0, sine.dtype)), 0, _going_down)
        before *= tl.load(before_tiles + tile * units + column, mask=column < units, other=0.0)
        slopes, rests, gradient_slopes, gradients = tl.associative_scan(
            (sine, g * cosine, cosine, -sine * g), 0, _going_up, reverse=True
        )
        tl.store(gradient + place, before * (gradients + gradient_slopes * rest_below), mask=has_angle)
        rest_below = _row(rests + slopes * rest_below, in_tile == 0)


def _launch(kernel: Any, *tensors: torch.Tensor, rows: int, units: int) -> None:
    """Runs a kernel with one program for each block of columns."""
    height, width = (min(most, triton.next_power_of_2(n)) for most, n in zip(SIZE, (rows, units), strict=True))
    with torch.cuda.device_of(tensors[0]):
        kernel[(triton.cdiv(units, width),)](
            *tensors, rows, units, triton.cdiv(rows, height), height, width, num_warps=WARPS
        )


@torch.library.custom_op("keras_actlab::direction", mutates_args=())
def _direction(angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    direction, before_tiles = _outputs(angles)
    rows, units = direction.shape
    _launch(_forward, angles, direction, before_tiles, rows=rows, units=units)
    return direction, before_tiles


@_direction.register_fake
def _outputs(angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows, units = angles.shape[0] + 1, angles.shape[1]
    return angles.new_empty(rows, units), angles.new_empty(-(-rows // SIZE[0]), units)


@torch.library.custom_op("keras_actlab::direction_gradient", mutates_args=())
def _gradient(angles: torch.Tensor, cotangent: torch.Tensor, before_tiles: torch.Tensor) -> torch.Tensor:
    gradient = torch.empty_like(angles)
    rows, units = cotangent.shape
    _launch(_backward, angles, cotangent, before_tiles, gradient, rows=rows, units=units)
    return gradient


@_gradient.register_fake
def _(angles: torch.Tensor, cotangent: torch.Tensor, before_tiles: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(angles)


def _keep(ctx: Any, inputs: tuple[torch.Tensor], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])


def _gradient_of_angles(ctx: Any, cotangent: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    angles, before_tiles = ctx.saved_tensors
    if torch.is_grad_enabled():  # for second derivatives
        return torch.autograd.grad(plain_direction(angles), angles, cotangent, create_graph=True)[0]
    return _gradient(angles, cotangent.contiguous(), before_tiles)


_direction.register_autograd(_gradient_of_angles, setup_context=_keep)


def direction(angles: torch.Tensor) -> torch.Tensor:
    """Returns the unit vectors with the given angles, as `keras_actlab.ops.angles_to_direction` does."""
    return _direction(angles.contiguous())[0]
