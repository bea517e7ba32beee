"""What exports from which backend to which format, verified by running the file with the format's own runtime."""

import keras
import numpy as np
import pytest

import keras_actlab
from keras_actlab import layers
from keras_actlab.conversion import to_weight_normalization
from tests.backends import numpy
from tests.conversion.families import vit_backbone
from tests.conversion.test_quantization import MODELS as DENSE
from tests.conversion.test_quantization import X

BACKEND = keras.backend.backend()
# Keras' own limits: a SavedModel needs TensorFlow's tracing, a .pt2 file PyTorch's. From PyTorch, LiteRT needs
# litert-torch, which brings a second PyTorch. OpenVINO converts no file from JAX (XlaCallModule).
FORMATS = {
    "jax": ["onnx", "tf_saved_model"],
    "tensorflow": ["onnx", "tf_saved_model", "litert", "openvino"],
    "torch": ["onnx", "torch", "openvino"],
}
SUFFIXES = {"onnx": ".onnx", "tf_saved_model": "", "torch": ".pt2", "litert": ".tflite", "openvino": ".xml"}
REQUIRES = {
    "onnx": {"jax": "jax2onnx", "tensorflow": "tf2onnx", "torch": "onnxscript"}[BACKEND],
    "litert": "ai_edge_litert",
    "openvino": "openvino",
}
# Their runtimes are in the extra [ship], which only `make test-all` installs.
SLOW_FORMATS = ("litert", "openvino")

# What fails in the same way for the plain model. Without a number, we found no report.
UPSTREAM = {
    ("tensorflow", "ViT with CRReLU", "onnx"): "tf2onnx makes a constant of keras-hub's position embedding an input",
    ("tensorflow", "ViT with GmP, folded", "onnx"): "tf2onnx does not convert Erfc: onnx/tensorflow-onnx#2463",
    ("jax", "ViT with CRReLU", "onnx"): "jax2onnx does not trace keras-hub's embedding of patches",
    ("jax", "ViT with GmP, folded", "onnx"): "jax2onnx does not trace keras-hub's embedding of patches",
}

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporters' own


def network():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(6, 3, activation="relu")(inputs)
    x = layers.InputMeanNormalization()(x)
    x = keras.layers.Conv2D(6, 3, activation="silu", padding="same")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def with_negative_scales(model):
    for layer in model.layers:
        if isinstance(layer, layers.GmPConv2D | layers.GmPDense):
            layer.scale.assign(numpy(layer.scale) * np.where(np.arange(layer.units) % 2, 1, -1))
    return model


def with_a_spline():
    activation = layers.EntropyActivation("silu", sample_size=16)
    return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(6, 3), activation, keras.layers.Flatten()])


MODELS = {
    "CRReLU": lambda: keras_actlab.swap_activations(network(), "crrelu"),
    "EntropyActivation": with_a_spline,
    "TMAF": lambda: keras_actlab.swap_activations(network(), "tmaf"),
    "TMAF with many intervals": lambda: keras_actlab.swap_activations(network(), layers.TMAF(1, range(-5, 6))),
    "GmP": lambda: keras_actlab.to_gmp(network()),
    "GmP folded": lambda: keras_actlab.fold(with_negative_scales(keras_actlab.to_gmp(network()))),
    "WeightNormalization": lambda: to_weight_normalization(network()),
    "ViT with CRReLU": lambda: keras_actlab.swap_activations(vit_backbone(), "crrelu"),
    "ViT with GmP, folded": lambda: keras_actlab.fold(keras_actlab.to_gmp(vit_backbone())),
}
VITS = ("ViT with CRReLU", "ViT with GmP, folded")
# What differs between backends is in the others.
LIKE_OTHERS = ("EntropyActivation", "TMAF with many intervals", "GmP folded", "WeightNormalization", *VITS)


def run(path, export_format, x):
    match export_format:
        case "onnx":
            import onnxruntime

            session = onnxruntime.InferenceSession(path)
            return session.run(None, {session.get_inputs()[0].name: x})[0]
        case "tf_saved_model":
            import tensorflow as tf

            artifact = tf.saved_model.load(str(path))
            return artifact.serve(x).numpy()
        case "torch":
            import torch

            return torch.export.load(path).module()(torch.from_numpy(x)).detach().numpy()
        case "litert":
            from ai_edge_litert.interpreter import Interpreter

            interpreter = Interpreter(str(path))
            entry, leave = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
            interpreter.resize_tensor_input(entry, x.shape)
            interpreter.allocate_tensors()
            interpreter.set_tensor(entry, x)
            interpreter.invoke()
            return interpreter.get_tensor(leave)
        case "openvino":
            import openvino

            # Without it, some processors compute in bfloat16.
            model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            return next(iter(model(x).values()))


def export(model, folder, export_format, **options):
    """Exports a model, and returns the path of the file."""
    if export_format in REQUIRES:
        pytest.importorskip(REQUIRES[export_format])
    path = folder / f"model{SUFFIXES[export_format]}"
    model.export(str(path), format=export_format, verbose=False, **options)
    return path


# PyTorch's exporter to ONNX begins with the same tracing, so that only what makes a file of it remains to be tested.
TRACED = ("CRReLU", "TMAF", "GmP folded", "WeightNormalization", "EntropyActivation", *VITS)
# In ONNX files from PyTorch, these layers are also in `FOR_ANY_BATCH`.
ALSO_FOR_ANY_BATCH = ("GmP folded", "WeightNormalization", "ViT with CRReLU")


def cases():
    for name in MODELS:
        for export_format in FORMATS[BACKEND]:
            in_slow_lane = (
                export_format in SLOW_FORMATS
                or (export_format == "torch" and name in TRACED)
                or (BACKEND == "torch" and export_format == "onnx" and name in ALSO_FOR_ANY_BATCH)
            )
            marks = [pytest.mark.slow] if in_slow_lane else [pytest.mark.one_backend] if name in LIKE_OTHERS else []
            yield pytest.param(name, export_format, marks=marks)


@pytest.mark.parametrize(("name", "export_format"), list(cases()))
def test_the_file_computes_the_same(tmp_path, name, export_format):
    if (BACKEND, name, export_format) in UPSTREAM:
        pytest.skip(UPSTREAM[BACKEND, name, export_format])
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    x = np.random.default_rng(0).standard_normal((1, *model.input_shape[1:])).astype("float32")
    expected = numpy(model(x))
    # A batch of known size, because PyTorch has a second, older way for others, which does not carry a ViT.
    path = export(model, tmp_path, export_format, input_signature=[keras.InputSpec(shape=x.shape, dtype="float32")])
    np.testing.assert_allclose(run(path, export_format, x), expected, atol=1e-5 * max(1, np.abs(expected).max()))


IMAGE = (6, 6, 2)
# PyTorch's exporter once divided by 0 for some of these, in C++, which ends the process.
FAN_INS = (1, 2, 3, 4, 5, 8, 16) if BACKEND == "torch" else (1, 4)
FOR_ANY_BATCH = {f"GmPDense of {fan_in} inputs": ((fan_in,), lambda: layers.GmPDense(4, "relu")) for fan_in in FAN_INS}
FOR_ANY_BATCH |= {
    "GmPConv2D": (IMAGE, lambda: layers.GmPConv2D(3, 3, padding="same")),
    "WeightNormalization": ((5,), lambda: layers.WeightNormalization(keras.layers.Dense(3))),
    "CRReLU": ((5,), layers.CRReLU),
    "TMAF": ((5,), lambda: layers.TMAF(bandwidth=1)),
    "EntropyActivation": ((5,), lambda: layers.EntropyActivation("silu", sample_size=16)),
    # Plain Keras, from a model that was not called since.
    "GmPDense, folded": ((5,), lambda: layers.GmPDense(4, "relu")),
    "GmPDense with CRReLU, folded": ((5,), lambda: layers.GmPDense(4, layers.CRReLU())),
    "GmPConv2D, folded": (IMAGE, lambda: layers.GmPConv2D(3, 3, activation="tanh")),
    "WeightNormalization, folded": ((5,), lambda: layers.WeightNormalization(keras.layers.Dense(3))),
}


MORE_IN_SLOW_LANE = (
    "EntropyActivation",
    "GmPDense with CRReLU, folded",
    "GmPConv2D, folded",
    "WeightNormalization, folded",
)


def cases_for_any_batch():
    for name in FOR_ANY_BATCH:
        for export_format in FORMATS[BACKEND]:
            if export_format in ("torch", "tf_saved_model"):
                continue  # Keras exports the former with a fixed batch; the latter is TensorFlow's own tracing
            is_fast = export_format == "onnx" and BACKEND == "torch" and name not in MORE_IN_SLOW_LANE
            yield pytest.param(name, export_format, marks=[pytest.mark.one_backend] if is_fast else [pytest.mark.slow])


@pytest.mark.parametrize(("name", "export_format"), list(cases_for_any_batch()))
def test_a_batch_of_any_size(tmp_path, name, export_format):
    shape, make = FOR_ANY_BATCH[name]
    model = keras.Sequential([keras.Input(shape), make()])
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype("float32")
    expected = numpy(model(x))
    path = export(keras_actlab.fold(model) if "folded" in name else model, tmp_path, export_format)
    for batch in (3, 1):
        np.testing.assert_allclose(run(path, export_format, x[:batch]), expected[:batch], atol=1e-5)


def test_a_converted_model_is_exported_without_a_call(tmp_path):
    """Keras exports to ONNX what was called; without a probe, a conversion calls nothing."""
    model = keras.Sequential([keras.Input((5,)), layers.GmPDense(4, "relu"), keras.layers.Dense(2, "silu")])
    x = np.random.default_rng(0).standard_normal((3, 5)).astype("float32")
    for convert in (
        keras_actlab.fold,
        keras_actlab.to_gmp,
        lambda m, **kw: keras_actlab.swap_activations(m, "crrelu", **kw),
    ):
        converted = convert(model, check=False)
        path = export(converted, tmp_path, "onnx")
        np.testing.assert_allclose(run(path, "onnx", x), numpy(converted(x)), atol=1e-5)


# What fails in the same way for a plain model that Keras quantizes. Without a number, we found no report.
QUANTIZED_UPSTREAM = {
    ("tensorflow", "openvino", "int8"): "the product of int8 matrices overflows int8: openvinotoolkit/openvino#34256",
    ("tensorflow", "litert", "int8"): "TensorFlow converts no product of int8 matrices to LiteRT",
    ("torch", "onnx", "int4"): "PyTorch subtracts an int8 from a float in ONNX, like pytorch/pytorch#194381",
    ("torch", "openvino", "int8"): "PyTorch's check of the trace fails: pytorch/pytorch#48869",
    ("torch", "openvino", "int4"): "PyTorch's check of the trace fails: pytorch/pytorch#48869",
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize("export_format", FORMATS[BACKEND])
@pytest.mark.parametrize("name", ["CRReLU", "GmP with CRReLU, folded"])
def test_the_file_of_a_quantized_model(tmp_path, name, export_format, mode):
    if (BACKEND, export_format, mode) in QUANTIZED_UPSTREAM:
        pytest.skip(QUANTIZED_UPSTREAM[BACKEND, export_format, mode])
    keras.utils.set_random_seed(0)
    model = DENSE[name]()
    keras_actlab.quantize(model, mode)
    expected = numpy(model(X))
    # From PyTorch, Keras exports quantized models with a fixed batch only.
    options = {"input_signature": [keras.InputSpec(shape=X.shape, dtype="float32")]} if BACKEND == "torch" else {}
    path = export(model, tmp_path, export_format, **options)
    for batch in (64,) if BACKEND == "torch" else (64, 3):
        found = run(path, export_format, X[:batch])
        assert np.abs(found - expected[:batch]).max() < 1e-2 * np.abs(expected).max()
