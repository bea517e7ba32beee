import keras
import numpy as np
import pytest

from keras_actlab.models import resnet
from tests.backends import numpy

pytestmark = [pytest.mark.one_backend, pytest.mark.usefixtures("even_starts")]


@pytest.mark.parametrize("training", [False, True])
def test_the_output_equals_that_of_keras_hub(training):
    keras_hub = pytest.importorskip("keras_hub")
    model = resnet.network((17, 24, 3), 5, "relu", "standard", "batch", filters=(64, 8), blocks=2)
    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 8],
        stackwise_num_blocks=[2, 2],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(17, 24, 3),
    )
    rng = np.random.default_rng(1)
    for weight in backbone.weights:
        value = rng.normal(size=weight.shape)
        weight.assign(abs(value) if "variance" in weight.path else value)
    model.set_weights(backbone.get_weights() + model.get_weights()[-2:])
    x = rng.normal(size=(3, 17, 24, 3)).astype("float32")
    features = keras.Model(model.input, model.get_layer("pool").input)(x, training=training)
    expected = numpy(backbone(x, training=training))
    assert expected.shape == (3, 3, 3, 8)
    np.testing.assert_allclose(numpy(features), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    logits = expected.mean(axis=(1, 2)) @ numpy(model.get_layer("logits").kernel)
    if not training:
        np.testing.assert_allclose(numpy(model(x)), logits, rtol=1e-4, atol=1e-5 * np.abs(logits).max())


def test_geometric_blocks_have_no_activation_in_front_of_the_sum():
    model = resnet.network((16, 16, 3), 5, "relu", "gmp", "input_mean", filters=(3, 4), blocks=1)
    linear = [
        layer.name
        for layer in model.layers
        if layer.name.endswith("_conv") and layer.activation is keras.activations.linear
    ]
    assert linear == ["stage1_block1_2_conv", "stage2_block1_shortcut_conv", "stage2_block1_2_conv"]


def test_the_stem_for_small_images_keeps_their_size():
    model = resnet.network((8, 8, 3), 5, "relu", "standard", "batch", filters=(4, 6), blocks=1, stem="small")
    stem = model.get_layer("stem_conv")
    assert (stem.kernel_size, stem.strides) == ((3, 3), (1, 1))
    assert model.get_layer("stage1_block1_1_conv").input.shape == (None, 8, 8, 4)
    assert model.get_layer("pool").input.shape == (None, 4, 4, 6)
    with pytest.raises(ValueError, match="`stem` must be one of"):
        resnet.network((8, 8, 3), 5, "relu", "standard", "batch", filters=(4,), blocks=1, stem="tiny")
