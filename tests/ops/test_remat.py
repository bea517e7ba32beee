"""The memory-saving backward passes of operations on large inputs."""

import contextlib
import functools
import shutil

import keras
import numpy as np
import pytest

from keras_actlab import layers, ops
from keras_actlab.ops import remat
from keras_actlab.ops.crrelu import _crrelu
from keras_actlab.ops.matrix_activation import _compare, check_thresholds
from tests.backends import finite_differences, gradients, numpy, on_one_backend
from tests.ops.test_crrelu import EXTREMES, LARGEST
from tests.ops.test_crrelu import reference as crrelu_reference

BACKEND = keras.backend.backend()
MANY_THRESHOLDS = tuple((k - 8) / 8 for k in range(17))


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def matrix(bandwidth, thresholds, **options):
    def function(x, levels):
        return ops.matrix_activation(x, levels, thresholds, **options)

    return function, random(2 * bandwidth + 1, len(thresholds) + 1, 6)


# A function of x, (rows, 5, 6), and parameters, followed by the parameters.
FUNCTIONS = {
    "CRReLU": (ops.crrelu, np.float32(0.3)),
    "CRReLU by channel": (ops.crrelu, random(6)),
    "CRReLU by channel and column": (ops.crrelu, random(1, 5, 6)),
    "CRReLU, output wider than x": (lambda x, epsilon: ops.crrelu(x[:, :, :1], epsilon), random(6)),
    "CRReLU by column": (ops.crrelu, random(1, 5, 1)),
    "TMAF": matrix(0, (-1.0, 0.0, 1.0)),
    "TMAF, axis 1": (lambda x, levels: ops.matrix_activation(x, levels, (0.0, 0.5), axis=1), random(3, 3, 5)),
    "TMAF, tri-diagonal, shared": (lambda x, levels: ops.matrix_activation(x, levels, (0.0,)), random(3, 2, 1)),
    "TMAF, many intervals": matrix(0, MANY_THRESHOLDS),
    "TMAF, tri-diagonal, many intervals": matrix(1, MANY_THRESHOLDS),
    "TMAF, trained thresholds": (
        lambda x, levels, thresholds: ops.matrix_activation(x, levels, thresholds, surrogate_width=0.5),
        random(3, 4, 6),
        np.array([-1.0, 0.0, 1.0], "float32"),
    ),
    "EntropyActivation": (
        lambda x, values: ops.linear_spline(x, tuple(np.linspace(-2, 2, 9)), values),
        random(9),
    ),
}


# The others differ in broadcasting only, and are compiled by the same code.
ON_EACH_BACKEND = (
    "CRReLU", "CRReLU by channel", "TMAF", "TMAF, tri-diagonal, shared", "TMAF, many intervals",
    "TMAF, trained thresholds", "EntropyActivation",
)  # fmt: skip
COMPILED = ("CRReLU by channel", "TMAF, many intervals", "TMAF, trained thresholds", "EntropyActivation")


@pytest.fixture
def _fast(monkeypatch):
    """Inputs of any size are rematerialized in blocks of a few rows; PyTorch does not compile."""
    monkeypatch.setattr(remat, "MIN_SIZE", 1)
    monkeypatch.setattr(remat, "BLOCK", 100)
    with uncompiled():
        yield


def uncompiled():
    if BACKEND != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.compiler.set_stance("force_eager")


def plain(function):
    """Returns `function` without rematerialization, for every size."""

    @functools.wraps(function)
    def on_plain_path(*arguments):
        fast, remat.MIN_SIZE = remat.MIN_SIZE, np.inf
        try:
            return function(*arguments)
        finally:
            remat.MIN_SIZE = fast

    return on_plain_path


@pytest.mark.usefixtures("_fast")
# Rows of 30 entries: less than a block, whole blocks, and blocks with a remainder.
@pytest.mark.parametrize("rows", [10, *on_one_backend(1, 2, 9)])
@pytest.mark.parametrize(
    "name", [*ON_EACH_BACKEND, *on_one_backend(*(name for name in FUNCTIONS if name not in ON_EACH_BACKEND))]
)
def test_is_the_plain_path(name, rows):
    function, *parameters = FUNCTIONS[name]
    x, cotangent = random(rows, 5, 6), random(rows, 5, 6, seed=1)
    y, expected = numpy(function(x, *parameters)), numpy(plain(function)(x, *parameters))
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    found = gradients(function, x, *parameters, cotangent=cotangent)
    expected = gradients(plain(function), x, *parameters, cotangent=cotangent)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        # Sums of up to 300 numbers in another order.
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=3e-6 * max(1, np.abs(other).max()))


@pytest.mark.parametrize(
    ("shape", "small"),
    [((), True), ((1000, 1000), True), ((2000, 1000), False), ((None, 64), True), ((None, 32, 32, 64), False)],
)
def test_which_inputs_are_small(shape, small):
    assert remat._is_small(keras.KerasTensor(shape)) == small


@pytest.mark.usefixtures("_fast")
@pytest.mark.parametrize("dtype", ["bfloat16", *on_one_backend("float16")])
@pytest.mark.parametrize("name", ["CRReLU by channel", "TMAF", "TMAF, many intervals"])
def test_parameters_gradients_add_up_in_float32(name, dtype, monkeypatch):
    monkeypatch.setattr(remat, "BLOCK", 6000)
    # 2,000 rows, most of which a bfloat16 sum would lose: 256 + 1 is 256.
    function, *parameters = FUNCTIONS[name]
    x = keras.ops.cast(random(2000, 5, 6), dtype)
    _, found = gradients(function, x, *parameters)
    _, expected = gradients(function, keras.ops.cast(x, "float32"), *parameters)
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.02 * np.abs(expected).max())


@pytest.mark.usefixtures("_fast")
@pytest.mark.parametrize("dtype", LARGEST)
def test_finite_in_finite_out(dtype):
    magnitudes = [value for value in [*EXTREMES, LARGEST[dtype]] if value <= LARGEST[dtype]]
    row = np.array([sign * value for value in magnitudes for sign in (1, -1)], "float32")
    x = keras.ops.cast(np.stack([row, row]), dtype)
    channels = len(row)
    levels = np.ones((1, len(MANY_THRESHOLDS) + 1, channels), "float32") / 2
    for function, parameters in (
        (ops.crrelu, np.full(channels, 0.5, "float32")),
        (lambda x, levels: ops.matrix_activation(x, levels, MANY_THRESHOLDS), levels),
    ):
        y = function(x, parameters)
        assert keras.backend.standardize_dtype(y.dtype) == dtype
        # Two rows, so that the sum of the parameter gradients does not overflow.
        for result in (numpy(keras.ops.cast(y, "float32")), *gradients(function, x, parameters, cotangent=0.25)):
            assert np.all(np.isfinite(result))


@pytest.mark.usefixtures("_fast")
def test_gradients_match_finite_differences():
    x, epsilon, cotangent = random(10, 12), random(12), random(10, 12, seed=1)
    expected = finite_differences(lambda x, epsilon: np.sum(crrelu_reference(x, epsilon) * cotangent), x, epsilon)
    for one, other in zip(gradients(ops.crrelu, x, epsilon, cotangent=cotangent), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("_fast")
@pytest.mark.parametrize("name", ["CRReLU", "TMAF", "TMAF, many intervals"])
def test_gradients_of_gradients(name):
    function, *parameters = FUNCTIONS[name]
    x, cotangent = random(7, 5, 6), random(7, 5, 6, seed=1)

    def squared_gradient(function):
        def of_gradient(x, *parameters):
            def total(x):
                return keras.ops.sum(function(x, *parameters) * keras.ops.convert_to_tensor(cotangent))

            match BACKEND:
                case "jax":
                    import jax

                    gradient = jax.grad(total)(x)
                case "tensorflow":
                    import tensorflow as tf

                    with tf.GradientTape() as tape:
                        tape.watch(x)
                        y = total(x)
                    gradient = tape.gradient(y, x)
                case "torch":
                    import torch

                    (gradient,) = torch.autograd.grad(total(x), x, create_graph=True)
            return gradient**2

        return of_gradient

    found = gradients(squared_gradient(function), x, *parameters)
    expected = gradients(squared_gradient(plain(function)), x, *parameters)
    assert np.abs(expected[1]).max() > 0
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())


@pytest.mark.usefixtures("_fast")
def test_training_with_a_last_batch_of_another_size():
    x, y = random(22, 6), random(22, 6, seed=1)
    weights = []
    for wrap in (lambda fit: fit, plain):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((6,)), layers.TMAF(), layers.CRReLU(axis=-1), layers.EntropyActivation()])
        model.compile("sgd", "mse", jit_compile=BACKEND != "torch")
        wrap(functools.partial(model.fit, shuffle=False, batch_size=16, epochs=2, verbose=0))(x, y)
        weights.append([numpy(variable) for variable in model.trainable_variables])
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("channels", [3, *on_one_backend(1)])
@pytest.mark.parametrize("thresholds", [MANY_THRESHOLDS, tuple(np.linspace(-1e-3, 7.7, 40)), tuple(range(200))])
def test_the_lookup_equals_the_comparison(thresholds, channels):
    thresholds = check_thresholds(thresholds)
    rounded = np.array(thresholds, "float32")
    ends = [np.inf, -np.inf, 3e38, -3e38, 0.0]
    beside = np.concatenate([rounded, np.nextafter(rounded, np.float32(9e9)), np.nextafter(rounded, np.float32(-9e9))])
    x = np.concatenate([beside, ends, np.random.default_rng(0).uniform(-3, 210, 1000)]).astype("float32")
    x = np.repeat(x[:, None], channels, axis=1)
    levels = random(1, len(thresholds) + 1, channels)
    compared = _compare(*(keras.ops.convert_to_tensor(a) for a in (x, levels, rounded)), axis=1, surrogate_width=None)
    np.testing.assert_array_equal(numpy(ops.matrix_activation(x, levels, thresholds)), numpy(compared))


@pytest.mark.parametrize("thresholds", [(0.0, *range(1, 20), 19.5), tuple(1.1**k for k in range(20))])
def test_uneven_thresholds_are_compared_with(thresholds):
    levels = random(1, len(thresholds) + 1, 1)
    x = np.random.default_rng(0).uniform(-1, 21, (500, 1)).astype("float32")
    expected = levels[0, np.searchsorted(np.float32(thresholds), x[:, 0]), 0] * x[:, 0]
    np.testing.assert_allclose(numpy(ops.matrix_activation(x, levels, thresholds))[:, 0], expected)


@pytest.mark.usefixtures("_fast")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_only_the_arguments_are_kept(name):
    function, *parameters = (
        keras.ops.convert_to_tensor(a) if isinstance(a, np.ndarray) else a for a in FUNCTIONS[name]
    )
    x = keras.ops.convert_to_tensor(random(200, 5, 6))
    match BACKEND:
        case "jax":
            import jax

            _, backward = jax.jit(lambda *arguments: jax.vjp(function, *arguments))(x, *parameters)
            kept = sum(leaf.nbytes for leaf in jax.tree.leaves(backward))
        case "torch":
            import torch

            kept_tensors = {}

            def pack(tensor):
                kept_tensors[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                function(x.requires_grad_(), *(torch.as_tensor(a).requires_grad_() for a in parameters))
            kept = sum(kept_tensors.values())
        case "tensorflow":
            pytest.skip("TensorFlow does not tell what a tape holds.")
    assert 0 < kept <= 24000 + 2000  # x, and at most 500 parameters


@pytest.mark.usefixtures("_fast")
@pytest.mark.parametrize(("epsilon", "dtype"), [(2, "int32"), (2.0, "bfloat16")])
def test_epsilon_of_any_dtype(epsilon, dtype):
    x = random(1000, 6)
    epsilon = keras.ops.full((6,), epsilon, dtype=dtype)
    np.testing.assert_allclose(
        gradients(lambda x: ops.crrelu(x, epsilon), x)[0],
        gradients(plain(ops.crrelu), x, np.float32(2))[0],
        rtol=1e-4,
        atol=1e-5,
    )
    if dtype == "bfloat16":  # the sums of 60 blocks are added in float32 and rounded once
        _, found = gradients(ops.crrelu, np.ones_like(x), epsilon)
        np.testing.assert_allclose(found, 1000 * np.exp(-0.5), rtol=2**-8)


@pytest.mark.usefixtures("_fast")
@pytest.mark.skipif(BACKEND != "jax", reason="Forward mode is JAX's.")
def test_forward_mode_over_a_gradient():
    import jax

    def total(function):
        return lambda x: keras.ops.sum(function(x, np.float32(0.3)) ** 2)

    x, direction = random(10, 12), random(10, 12, seed=1)
    _, found = jax.jvp(jax.grad(total(ops.crrelu)), (x,), (direction,))
    _, expected = jax.jvp(jax.grad(total(plain(ops.crrelu))), (x,), (direction,))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(BACKEND != "torch", reason="Only PyTorch runs operations one by one.")
class TestTorch:
    @pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="Needs a C++ compiler.")
    # PyTorch compiles for seconds, so one of each kind is tested.
    @pytest.mark.parametrize(
        "name", [name if name in COMPILED else pytest.param(name, marks=pytest.mark.slow) for name in FUNCTIONS]
    )
    def test_large_inputs_are_compiled(self, name, monkeypatch):
        import torch

        monkeypatch.setattr(remat, "MIN_SIZE", 1)
        monkeypatch.setattr(remat, "COMPILE_AFTER", 0)
        function, *parameters = FUNCTIONS[name]
        for rows in (7, 9):
            x, cotangent = random(rows, 5, 6), random(rows, 5, 6, seed=1)
            # Warnings are errors here, including PyTorch's own during compilation.
            found = [numpy(function(x, *parameters)), *gradients(function, x, *parameters, cotangent=cotangent)]
            expected = [
                numpy(plain(function)(x, *parameters)),
                *gradients(plain(function), x, *parameters, cotangent=cotangent),
            ]
            for one, other in zip(found, expected, strict=True):
                # A GPU adds the parts of a sum in any order.
                scale = max(1, np.abs(other).max()) if torch.cuda.is_available() else 1
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6 * scale)

    def test_a_short_use_does_not_wait_for_the_compiler(self, monkeypatch):
        import torch

        compiled = []

        def compile_and_record(function, **options):
            def call(*arguments):
                compiled.append(arguments[0].shape)
                return function(*arguments)

            return call

        monkeypatch.setattr(torch, "compile", compile_and_record)
        monkeypatch.setattr(remat, "MIN_SIZE", 1)
        monkeypatch.setattr(remat, "COMPILE_AFTER", 50)
        function = remat.remat(_crrelu)
        epsilon = torch.tensor(0.3)
        calls = {}
        for rows in (5, 4, 3, 2, 1):  # of five elements
            x = torch.as_tensor(random(rows, 5)).requires_grad_()
            y = function(x, epsilon)
            calls[rows] = len(compiled)
            (gradient,) = torch.autograd.grad(y.sum(), x)
            calls[-rows] = len(compiled)
            np.testing.assert_allclose(numpy(y), crrelu_reference(numpy(x), 0.3), rtol=1e-5, atol=1e-6)
            (expected,) = torch.autograd.grad(_crrelu(x, epsilon).sum(), x)
            np.testing.assert_allclose(numpy(gradient), numpy(expected), rtol=1e-6)
        # 25 + 20 + 15 elements reach 50; forward and backward pass count and are compiled separately.
        assert list(calls.values()) == [0, 0, 0, 0, 0, 0, 1, 2, 3, 4]

    def test_without_a_compiler(self, monkeypatch):
        import torch

        def failing(function, **options):
            def call(*arguments):
                raise RuntimeError("no compiler\nhere\nand much more")

            return call

        monkeypatch.setattr(torch, "compile", failing)
        monkeypatch.setattr(remat, "MIN_SIZE", 1)
        monkeypatch.setattr(remat, "COMPILE_AFTER", 0)
        function = remat.remat(_crrelu)
        x, epsilon = torch.as_tensor(random(5, 4)), torch.tensor(0.3)
        with pytest.warns(
            UserWarning, match="torch.compile failed, so that an activation runs slowly: no compiler here$"
        ):
            y = function(x, epsilon)
        np.testing.assert_allclose(numpy(y), crrelu_reference(numpy(x), 0.3), rtol=1e-5)
        np.testing.assert_allclose(numpy(function(x, epsilon)), numpy(y))  # without a second warning

    @pytest.mark.usefixtures("_fast")
    def test_only_needed_gradients_are_computed(self):
        import torch

        x, epsilon = torch.as_tensor(random(9, 6)), torch.as_tensor(random(6)).requires_grad_()
        (found,) = torch.autograd.grad(ops.crrelu(x, epsilon).sum(), epsilon)
        (expected,) = torch.autograd.grad(plain(ops.crrelu)(x, epsilon).sum(), epsilon)
        np.testing.assert_allclose(numpy(found), numpy(expected), rtol=1e-5)

    @pytest.mark.usefixtures("_fast")
    def test_traces_contain_the_single_operations(self):
        import torch

        x, epsilon = torch.as_tensor(random(9, 6)), torch.tensor(0.3)
        expected = plain(ops.crrelu)(x, epsilon)
        np.testing.assert_allclose(numpy(torch.func.vmap(lambda row: ops.crrelu(row, epsilon))(x)), numpy(expected))

        class Module(torch.nn.Module):
            def forward(self, x):
                return ops.crrelu(x, epsilon)

        exported = torch.export.export(Module(), (x,))
        assert any("exp" in str(node.target) for node in exported.graph.nodes)
        np.testing.assert_allclose(numpy(exported.module()(x)), numpy(expected))
