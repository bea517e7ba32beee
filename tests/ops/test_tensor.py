import keras
import numpy as np
import pytest

from keras_actlab.ops.tensor import concrete, floating


def test_concrete_values():
    np.testing.assert_array_equal(concrete(keras.ops.convert_to_tensor([1.0, 2.0])), [1.0, 2.0])
    assert concrete(keras.KerasTensor((2,))) is None


def test_nothing_is_concrete_while_it_is_traced():
    seen = []
    model = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: seen.append(concrete(x)) or x)])
    model.compile(jit_compile=keras.backend.backend() != "torch")
    model.predict(np.ones((2, 3)), verbose=0)
    if keras.backend.backend() == "torch":
        assert seen[-1] is not None  # eager
    else:
        assert all(values is None for values in seen)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the meta device is PyTorch's")
def test_the_meta_device_has_no_values():
    import torch

    assert concrete(torch.empty((2, 3), device="meta")) is None


@pytest.mark.parametrize(("given", "found"), [("int32", "float32"), ("float16", "float16"), ("bfloat16", "bfloat16")])
def test_floating(given, found):
    x = keras.ops.ones((2,), dtype=given)
    assert keras.backend.standardize_dtype(floating(x).dtype) == found
    assert keras.backend.standardize_dtype(floating(x, at_least="float32").dtype) == "float32"
