"""The kernels of the direction map, run by the interpreters of Triton and Pallas, or by a GPU if there is one."""

import functools
import math
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_actlab import layers, ops
from keras_actlab.ops import float64, fused
from tests.backends import finite_differences, gradients, numpy

BACKEND = keras.backend.backend()
ON_GPU = fused._platform(BACKEND) in ("gpu", "cuda")
on_jax = pytest.mark.skipif(BACKEND != "jax", reason="tests the kernel for JAX")
on_torch = pytest.mark.skipif(BACKEND != "torch", reason="tests the kernel for PyTorch")


@pytest.fixture(scope="module")
def interpreted():
    """Returns the function that maps angles to directions with the backend's kernel, in tiles of a given size."""
    if ON_GPU:
        pytest.skip("the interpreters take arrays in the memory of the CPU")
    match BACKEND:
        case "tensorflow":
            pytest.skip("no kernel for TensorFlow")
        case "jax":
            from keras_actlab.ops import _direction_pallas

            def on_jax(size=_direction_pallas.SIZE):
                return functools.partial(_direction_pallas.direction, size=size, interpret=True)

            yield on_jax
        case "torch":
            pytest.importorskip("triton", reason="Triton is not installed")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("TRITON_INTERPRET", "1")  # read when the kernels are defined
                from keras_actlab.ops import _direction_triton
            with pytest.MonkeyPatch.context() as patch:

                def on_torch(size=_direction_triton.SIZE):
                    patch.setattr(_direction_triton, "SIZE", size)
                    return _direction_triton.direction

                yield on_torch


@pytest.fixture
def enabled(interpreted, monkeypatch):
    """Enables the interpreted kernel, as if the tensors were on a GPU."""
    kernel = interpreted((8, 4))
    calls = []
    monkeypatch.setattr(fused, "_kernel", lambda angles: calls.append(angles.shape) or kernel(angles))
    monkeypatch.setattr(fused, "_on_gpu", lambda angles: True)
    return calls


def angles_of(n, units):
    """Returns angles whose sines have a product of about 1, one of them 0, a column's thousands of turns away."""
    rng = np.random.default_rng(n + units)
    angles = rng.normal(math.pi / 2, 1 / math.sqrt(n), (n - 1, units))
    angles[:, 0] += 2 * math.pi * rng.integers(-5000, 5000, n - 1)
    angles[3 * n // 4 - 1, -1] = 0.0
    return angles.astype("float32")


def gradient_of(angles, cotangent):
    """Returns the gradient of `sum(direction * cotangent)`: with all coordinates below row i as one, `rest`."""
    gradient = np.empty_like(angles)
    rest = cotangent[-1]
    before = float64.sine_products(angles)
    for i in reversed(range(len(angles))):
        gradient[i] = before[i] * (np.cos(angles[i]) * rest - np.sin(angles[i]) * cotangent[i])
        rest = np.cos(angles[i]) * cotangent[i] + np.sin(angles[i]) * rest
    return gradient


@pytest.mark.one_backend
def test_the_reference_is_the_gradient():
    angles = angles_of(7, 3).astype("float64")
    cotangent = np.random.default_rng(0).standard_normal((7, 3))
    (expected,) = finite_differences(lambda angles: np.sum(float64.angles_to_direction(angles) * cotangent), angles)
    np.testing.assert_allclose(gradient_of(angles, cotangent), expected, atol=1e-6)


def check_against_float64(direction, n, units):
    angles = angles_of(n, units)
    cotangent = np.random.default_rng(0).standard_normal((n, units)).astype("float32")
    wide = angles.astype("float64")
    # The errors of n sines just below 1 add up. The plain form has them, too: 8,192 of them change the norm by 1e-5.
    tolerance = 2e-6 + 3e-9 * n
    found = numpy(direction(keras.ops.convert_to_tensor(angles)))
    np.testing.assert_allclose(found, float64.angles_to_direction(wide), rtol=0, atol=tolerance)
    (found,) = gradients(direction, angles, cotangent=cotangent)
    expected = gradient_of(wide, cotangent.astype("float64"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("n", "units", "size"),
    [
        (2, 1, None),
        (21, 9, (8, 4)),
        slow(3, 5, (2, 2)),
        slow(16, 8, (8, 4)),  # multiples of a block
        slow(17, 9, (8, 4)),
        slow(31, 7, (8, 4)),
        slow(2, 4096, (512, 1024)),
        slow(513, 3, None),
        slow(1024, 2, None),
        slow(8192, 1, None),
    ],
)
def test_against_float64(interpreted, n, units, size):
    check_against_float64(interpreted(size) if size else interpreted(), n, units)


@pytest.mark.skipif(not ON_GPU, reason="there is no GPU")
@pytest.mark.parametrize(("n", "units"), [(2, 1), (3, 5), (64, 7), (577, 64), (1025, 1024), (8192, 1), (8192, 4096)])
def test_a_gpu_agrees_with_float64(n, units):
    check_against_float64(fused.direction_kernel(), n, units)


def test_layers_use_the_kernel_in_half_precision(enabled):
    layer = layers.GmPDense(3, activation="relu", dtype="mixed_bfloat16")
    x = keras.random.normal((5, 6))
    outputs = layer(x)
    assert enabled == [(5, 3)]
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"
    direction = float64.angles_to_direction(numpy(layer.angles).astype("float64"))
    expected = np.maximum(numpy(x) @ direction, 0)
    np.testing.assert_allclose(numpy(keras.ops.cast(outputs, "float32")), expected, atol=0.03)


def test_half_precision_angles_are_widened(enabled):
    angles = keras.ops.cast(np.full((9, 3), 1.5), "bfloat16")
    direction = ops.angles_to_direction(angles)
    assert enabled == [(9, 3)]
    assert keras.backend.standardize_dtype(direction.dtype) == "float32"
    wide = numpy(keras.ops.cast(angles, "float32")).astype("float64")
    np.testing.assert_allclose(numpy(direction), float64.angles_to_direction(wide), atol=1e-6)


def test_nan_in_nan_out(enabled):
    angles = np.full((9, 3), 1.5, "float32")
    angles[4, 1] = np.nan
    expected = np.zeros((10, 3), bool)
    expected[4:, 1] = True
    np.testing.assert_array_equal(np.isnan(numpy(ops.angles_to_direction(angles))), expected)


def test_no_units(enabled):
    assert tuple(ops.angles_to_direction(np.zeros((3, 0), "float32")).shape) == (4, 0)
    assert not enabled


def test_training_is_that_of_the_plain_form(enabled, monkeypatch):
    x, y = np.random.default_rng(0).standard_normal((2, 8, 9)).astype("float32")

    def losses():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((9,)), layers.GmPDense(9)])
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=BACKEND == "jax")
        return model.fit(x, y, epochs=3, batch_size=8, verbose=0).history["loss"]

    found = losses()
    assert enabled
    monkeypatch.setattr(fused, "_kernel", None)
    np.testing.assert_allclose(found, losses(), rtol=1e-5)
    assert found[-1] < found[0]


def second_derivative(function, angles, tangent):
    """Returns the gradient of `sum(gradient(sum(function ** 3)) * tangent)`."""
    if BACKEND == "jax":
        import jax

        def first(angles):
            return jax.grad(lambda angles: (function(angles) ** 3).sum())(angles)

        return numpy(jax.grad(lambda angles: (first(angles) * tangent).sum())(keras.ops.convert_to_tensor(angles)))
    import torch

    angles = torch.tensor(angles, requires_grad=True)
    (first,) = torch.autograd.grad((function(angles) ** 3).sum(), angles, create_graph=True)
    return numpy(torch.autograd.grad((first * torch.tensor(tangent)).sum(), angles)[0])


def test_second_derivatives(interpreted):
    angles, tangent = np.random.default_rng(0).uniform(-2, 2, (2, 5, 3)).astype("float32")

    def first(angles):
        return gradient_of(angles, 3 * float64.angles_to_direction(angles) ** 2)

    (expected,) = finite_differences(lambda angles: np.sum(first(angles) * tangent), angles)
    found = second_derivative(interpreted((4, 2)), angles, tangent)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@on_jax
def test_in_a_vectorized_program(interpreted):
    import jax

    angles = np.random.default_rng(0).uniform(-2, 2, (2, 5, 3)).astype("float32")
    found = jax.vmap(jax.grad(lambda angles: (interpreted((4, 2))(angles) ** 3).sum()))(angles)
    for one, gradient in zip(angles.astype("float64"), found, strict=True):
        expected = gradient_of(one, 3 * float64.angles_to_direction(one) ** 2)
        np.testing.assert_allclose(gradient, expected, atol=1e-6)


@on_jax
def test_the_compiler_for_gpus_takes_the_kernels():
    import jax

    from keras_actlab.ops._direction_pallas import direction

    shapes = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((99, 33), (100, 33))]
    program = jax.jit(lambda angles, cotangent: jax.vjp(direction, angles)[1](cotangent)).trace(*shapes)
    assert program.lower(lowering_platforms=("cuda",)).as_text().count("xla.gpu.triton") == 2


COMPILE = """
import warnings
warnings.simplefilter("ignore")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from keras_actlab.ops import _direction_triton as module

for kernel, tensors in (module._forward, 3), (module._backward, 4):
    names = kernel.arg_names
    types = dict.fromkeys(names[:tensors], "*fp32") | dict.fromkeys(names[tensors:-2], "i32")
    types |= dict.fromkeys(names[-2:], "constexpr")
    source = ASTSource(fn=kernel, signature=types, constexprs=dict(zip(names[-2:], (64, 8))))
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    print(compiled.asm["ptx"].count(".entry"), compiled.asm["ptx"].count("sin.approx"))
"""


@on_torch
@pytest.mark.slow
def test_the_compiler_for_gpus_takes_the_kernels_of_triton(tmp_path):
    pytest.importorskip("triton", reason="Triton is not installed")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert finished.stdout.split() == ["1", "0"] * 2  # no approximate sine, whose error grows with the angle


@on_torch
def test_compiled_and_traced_programs(enabled):
    import torch

    angles = torch.tensor(angles_of(9, 3), requires_grad=True)
    expected = gradient_of(angles.detach().double().numpy(), np.ones((9, 3)))
    compiled = torch.compile(ops.angles_to_direction, backend="aot_eager", fullgraph=True)
    (found,) = torch.autograd.grad(compiled(angles).sum(), angles)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert enabled == [(8, 3)]

    torch.library.opcheck(torch.ops.keras_actlab.direction, (angles,))

    # Others see the operations of the plain form.
    enabled.clear()
    found = torch.func.vmap(torch.func.grad(lambda angles: ops.angles_to_direction(angles).sum()))(angles[None])
    np.testing.assert_allclose(found[0].detach(), expected, atol=1e-5)
    layer = layers.GmPDense(3)
    layer.build((None, 9))
    enabled.clear()
    exported = torch.export.export(layer, (torch.ones(2, 9),))
    assert not enabled
    assert "keras_actlab" not in str(exported.graph)


def test_a_gpu_is_asked_for_where_there_is_none():
    platform = {"jax": "cpu", "tensorflow": "any device", "torch": "cpu"}[BACKEND]
    if fused._platform(BACKEND) not in (None, "cpu"):
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeError, match=f"needs JAX or PyTorch on a GPU. Received: {BACKEND} on {platform}"):
        ops.enable_fused_direction()
    assert fused._kernel is None


def test_enabling_and_disabling(monkeypatch):
    monkeypatch.setattr(fused, "_kernel", None)
    monkeypatch.setattr(fused, "direction_kernel", lambda: len)
    ops.enable_fused_direction()
    assert fused._kernel is len
    ops.enable_fused_direction(False)
    assert fused._kernel is None
    with pytest.raises(TypeError, match=r"`enabled` must be .*Received: enabled='yes'"):
        ops.enable_fused_direction("yes")


@on_torch
def test_triton_is_asked_for(monkeypatch):
    import keras_actlab.ops

    monkeypatch.setattr(fused, "_platform", lambda backend: "cuda")
    monkeypatch.delattr(keras_actlab.ops, "_direction_triton", raising=False)
    monkeypatch.setitem(sys.modules, "keras_actlab.ops._direction_triton", None)
    with pytest.raises(ImportError, match=r"needs Triton. Install the extra \[kernels\]"):
        ops.enable_fused_direction()
