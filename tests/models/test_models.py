"""Tests of all networks."""

import sys

import keras
import numpy as np
import pytest

from keras_actlab import conversion, layers, models
from keras_actlab.models import deit, resnet, tnt, vgg, vit
from tests.backends import layer_gradients, numpy
from tests.models.starts import even_starts

pytestmark = [pytest.mark.one_backend, pytest.mark.usefixtures("even_starts")]

# For each network the shape of an image, the classes and the size of a patch; and the parameters that Sun et al. (2024)
# count without and with a scalar for each activation.
PUBLISHED = [
    (models.vit_tiny, 32, 10, 4, 5_399_818, 5_399_830),
    pytest.param(models.vit_tiny, 32, 100, 4, 5_417_188, 5_417_200, marks=pytest.mark.slow),  # has another head only
    (models.vit_tiny, 224, 1000, 16, 5_754_472, 5_754_484),
    (models.deit_tiny, 32, 10, 4, 5_365_076, 5_365_088),
    pytest.param(models.deit_tiny, 32, 100, 4, 5_399_816, 5_399_828, marks=pytest.mark.slow),
    (models.deit_tiny, 224, 1000, 16, 5_910_800, 5_910_812),
    (models.tnt_small, 32, 10, 4, 21_525_298, 21_525_322),
    pytest.param(models.tnt_small, 32, 100, 4, 21_559_948, 21_559_972, marks=pytest.mark.slow),
]

# For each network a small one as a function of its activation, its own activation, and how many there are.
SMALL = {
    "VGG-6": (lambda to: vgg.network((8, 8, 3), 5, to, "gmp", "input_mean", filters=(3,)), "relu", 2),
    "ResNet-18": (lambda to: resnet.network((16, 16, 3), 5, to, "standard", "batch", (3, 4), blocks=1), "relu", 5),
    "ViT-Tiny": (lambda to: vit.network((8, 12, 3), 5, 4, to, blocks=1, heads=2, dim=8), "gelu", 1),
    "DeiT-Tiny": (lambda to: deit.network((8, 12, 3), 5, 4, to, blocks=1, heads=2, dim=8), "gelu", 1),
    "TNT-Small": (
        lambda to: tnt.network((8, 16, 3), 5, 8, to, blocks=1, heads=2, dim=8, inner_heads=2, inner_dim=4),
        "gelu",
        2,
    ),
}


def randomized(model: keras.Model) -> keras.Model:
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return model


def data(model: keras.Model, batch: int = 4) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(batch, *model.input_shape[1:])).astype("float32")


@pytest.fixture(scope="module", params=SMALL)
def small(request):
    """A small network with CRReLU, as after training."""
    make, _, activations = SMALL[request.param]
    with even_starts():
        model = randomized(make("crrelu"))
    done = conversion.report(model)
    assert len(done.changed) == done.parameters_after - done.parameters_before == activations
    return model


@pytest.mark.one_backend
@pytest.mark.parametrize(("make", "side", "classes", "patch_size", "without", "with_scalars"), PUBLISHED)
def test_parameters_are_as_many_as_published(make, side, classes, patch_size, without, with_scalars):
    model = make((side, side, 3), classes, patch_size)
    assert model.output_shape == (None, classes)
    assert model.count_params() == without
    hidden = [
        layer for layer in model._flatten_layers() if getattr(layer, "activation", None) is keras.activations.gelu
    ]
    assert len(hidden) == with_scalars - without


def test_every_parameter_learns(small):
    x = data(small)
    cotangent = np.random.default_rng(3).normal(size=(len(x), 5)).astype("float32")
    _, *gradients = layer_gradients(small, x, cotangent, training=True)
    for variable, gradient in zip(small.trainable_variables, gradients, strict=True):
        # The bias of the keys shifts all scores of a query, which does not change softmax.
        assert np.abs(gradient).max() > 1e-4 or variable.path.endswith("key/bias"), variable.path


def test_saved_and_loaded(small, tmp_path):
    path = tmp_path / "model.keras"
    small.save(path)
    with even_starts():
        loaded = keras.saving.load_model(path)
    x = data(small)
    np.testing.assert_allclose(loaded.predict_on_batch(x), small.predict_on_batch(x), rtol=1e-5, atol=1e-5)
    kinds, expected = ([type(layer).__name__ for layer in model._flatten_layers()] for model in (loaded, small))
    assert kinds == expected


@pytest.mark.parametrize("name", SMALL)
def test_variables_have_the_same_names_in_every_process(name):
    make, own, _ = SMALL[name]
    # Automatic names are numbered.
    paths, others = ([variable.path for variable in make(own).variables] for _ in range(2))
    assert paths == others
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("name", ["VGG-6", "ResNet-18", "TNT-Small"])
def test_channels_are_last_for_every_global_setting(name):
    make, own, _ = SMALL[name]
    shapes = [layer.output.shape for layer in make(own).layers]
    keras.config.set_image_data_format("channels_first")
    assert [layer.output.shape for layer in make(own).layers] == shapes


@pytest.mark.parametrize("make", [models.vit_tiny, models.deit_tiny])
def test_keras_hub_would_load_channels_first(make):
    keras.config.set_image_data_format("channels_first")
    with pytest.raises(ValueError, match=r"must be 'channels_last'.*Received: image_data_format='channels_first'"):
        make()


@pytest.mark.parametrize("activation", ["relu", keras.layers.LeakyReLU(0.1), keras.activations.silu])
def test_only_the_hidden_layers_are_swapped(activation):
    model = SMALL["ViT-Tiny"][0](activation)
    (row,) = conversion.report(model).changed
    assert row.layer == "backbone/vit_encoder/transformer_block_1/mlp/dense_1"
    assert model.get_layer("pre_logits").activation is keras.activations.tanh
    assert model.get_layer("logits").activation is keras.activations.linear


def test_an_activation_may_depend_on_the_layer():
    model = SMALL["VGG-6"][0](lambda layer: layers.TMAF(bandwidth=0) if layer.name == "stage1_1_conv" else None)
    kinds = {layer.name: type(layer.activation).__name__ for layer in model.layers if layer.name.endswith("_conv")}
    assert kinds == {"stage1_1_conv": "TMAF", "stage1_2_conv": "function"}


def test_deit_averages_its_two_heads():
    model = randomized(SMALL["DeiT-Tiny"][0]("gelu"))
    x = data(model)
    tokens = model.get_layer("backbone").predict_on_batch(x)
    heads = [model.get_layer(name) for name in deit.HEADS]
    logits = [tokens[:, k] @ numpy(head.kernel) + numpy(head.bias) for k, head in enumerate(heads)]
    np.testing.assert_allclose(model.predict_on_batch(x), (logits[0] + logits[1]) / 2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "arguments", "error", "message"),
    [
        (
            models.vgg6,
            {"input_shape": (32, 32)},
            ValueError,
            r"`input_shape` must be three.*Received: input_shape=\(32",
        ),
        (models.resnet18, {"input_shape": (None, 32, 3)}, ValueError, r"`input_shape` must be three positive integers"),
        (models.vgg6, {"input_shape": (8, 7, 3)}, ValueError, r"at least 8.*Received: input_shape=\(8, 7, 3\)"),
        (models.resnet18, {"classes": 0}, ValueError, r"`classes` must be positive. Received: classes=0"),
        (models.tnt_small, {"classes": 2.5}, TypeError, r"`classes` must be an integer. Received: classes=2.5"),
        (models.vit_tiny, {"patch_size": 5}, ValueError, r"`patch_size` must divide.*Received: patch_size=5"),
        (models.deit_tiny, {"patch_size": "4"}, TypeError, r"`patch_size` must be an integer. Received"),
        (models.tnt_small, {"patch_size": 2}, ValueError, r"a multiple of 4. Received: patch_size=2"),
        (
            models.vit_tiny,
            {"activation": "rleu"},
            ValueError,
            r"Received: activation='rleu'. Known names: celu, crrelu",
        ),
        (models.vgg6, {"activation": None}, TypeError, r"`activation` must be .*Received: activation=None"),
        (
            models.tnt_small,
            {"activation": int},
            TypeError,
            r"`activation` must be .*Received: activation=<class 'int'>",
        ),
        (models.vgg6, {"parameterization": "GmP"}, ValueError, r"Received: parameterization='GmP'"),
        (models.resnet18, {"parameterization": "gmp"}, ValueError, r"`normalization` must not be \"batch\" for"),
    ],
)
def test_bad_arguments(make, arguments, error, message):
    with pytest.raises(error, match=message):
        make(**arguments)


@pytest.mark.parametrize("make", [models.vit_tiny, models.deit_tiny, lambda: models.gpt2("gpt2_base_en")])
def test_keras_hub_is_optional(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ImportError, match=r"Install the extra \[hub\]"):
        make()
