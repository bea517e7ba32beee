"""Saves the models of `MODELS` as this version writes them: `python -m tests.saved.save 0.2`.

`tests/test_saved_files.py` loads the files of every version, so that a model that somebody saved with an older one
stays of use. Before the release of 0.2 say, save its files: they stay as they are from then on, and a file that exists
is not written again. A new class goes into a new model here, as `test_saved_files.py` tells.
"""

import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

import keras_actlab
from keras_actlab import layers
from keras_actlab.advice.compilation import Scaled
from keras_actlab.constraints import CanonicalAngles, Increasing, NonDecreasing
from keras_actlab.conversion import to_weight_normalization
from keras_actlab.initializers import UniformSphereAngles
from keras_actlab.models import HardDistillation, tnt
from tests.backends import numpy

L1, L2, Constant = keras.regularizers.L1, keras.regularizers.L2, keras.initializers.Constant


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


def activations():
    x = inputs = keras.Input((4, 6))
    x = layers.CRReLU(
        axis=-1, epsilon_initializer=0.2, epsilon_regularizer=L2(0.3), epsilon_constraint=NonDecreasing(), name="crrelu"
    )(x)
    x = layers.EntropyActivation(
        "gelu",
        num_knots=9,
        lower=-2.0,
        upper=3.0,
        monotone=True,
        sample_size=16,
        values_regularizer=L1(0.1),
        name="entropy",
    )(x)
    x = layers.TMAF(
        bandwidth=0, thresholds=(-0.5, 0.5), shared=True, levels_initializer=Constant(0.7), name="diagonal"
    )(x)
    x = layers.TMAF(
        bandwidth=2,
        axis=1,
        train_thresholds=True,
        levels_regularizer=L2(0.1),
        levels_constraint=keras.constraints.MaxNorm(1.5, axis=0),
        name="five_diagonals",
    )(x)
    x = layers.TMAF(bandwidth="full", thresholds=(0.0,), name="full")(x)
    x = keras.layers.Dense(3, activation=keras_actlab.ops.crrelu, name="with_function")(x)
    return keras.Model(inputs, x), normal(3, 4, 6)


def geometric():
    x = inputs = keras.Input((4, 8, 8, 4))
    x = layers.GmPConv3D(
        4,
        (1, 2, 2),
        strides=(1, 2, 2),
        use_bias=False,
        angles_initializer=UniformSphereAngles(seed=3),
        scale_initializer=Constant(0.8),
        name="conv3d",
    )(x)
    x = keras.layers.Reshape((8, 8, 4))(x)
    x = layers.GmPConv2D(
        6,
        3,
        padding="same",
        dilation_rate=2,
        groups=2,
        activation=layers.TMAF(bandwidth=1, name="inner"),
        scale_inside=True,
        kernel_initializer="he_normal",
        angles_regularizer=L2(0.01),
        angles_constraint=CanonicalAngles(),
        radius_initializer=Constant(0.1),
        radius_regularizer=L1(0.1),
        radius_constraint=Increasing(),
        scale_regularizer=L2(0.02),
        scale_constraint=keras.constraints.NonNeg(),
        name="conv2d",
    )(x)
    x = layers.GmPConv2D(3, 2, data_format="channels_last", activation="gelu", trainable=False, name="frozen")(x)
    x = keras.layers.Reshape((49, 3))(x)
    x = layers.GmPConv1D(5, 3, strides=2, padding="causal", activation="relu", name="conv1d")(x)
    x = layers.GmPDense(1, activation=layers.CRReLU(name="corrected"), name="dense")(x)
    x = layers.GmPDense(2, activation="tanh", name="fan_in_1")(x)
    return keras.Model(inputs, x), normal(3, 4, 8, 8, 4)


def normalized():
    x = inputs = keras.Input((6, 6, 3))
    x = layers.InputMeanNormalization(momentum=0.8, synchronized=True, name="imn")(x)
    convolution = keras.layers.Conv2D(4, 3, padding="same", kernel_regularizer=L2(0.1), name="conv")
    x = layers.WeightNormalization(convolution, name="normalized_conv")(x)
    x = layers.MeanOnlyBatchNormalization(
        axis=1,
        momentum=0.7,
        beta_initializer=Constant(0.2),
        beta_regularizer=L2(0.3),
        beta_constraint=keras.constraints.NonNeg(),
        name="mean_only",
    )(x)
    x = layers.MeanOnlyBatchNormalization(center=False, name="no_beta")(x)
    separable = keras.layers.SeparableConv2D(3, 2, activation=layers.CRReLU(axis=-1, name="inner"), name="separable")
    x = layers.WeightNormalization(separable, name="normalized_separable")(x)
    einsum = keras.layers.EinsumDense("abcd,cde->abe", (5, 2), bias_axes="e", name="einsum")
    x = layers.WeightNormalization(einsum, name="normalized_einsum")(x)
    return keras.Model(inputs, x), normal(3, 6, 6, 3)


def kernels():
    x = inputs = keras.Input((6, 6, 4))
    x = layers.GmPDepthwiseConv2D(2, depth_multiplier=2, radius_initializer=Constant(0.1), name="depthwise")(x)
    x = layers.GmPSeparableConv2D(3, 2, activation="relu", scale_regularizer=L2(0.1), name="separable")(x)
    x = layers.GmPConv2DTranspose(2, 3, strides=2, activation="gelu", scale_inside=True, name="transpose")(x)
    x = layers.GmPEinsumDense("abcd,cde->abe", (None, 6), activation="relu", bias_axes="e", name="einsum")(x)
    x = layers.GmPEinsumDense("abc,bcd->abd", (9, 4), bias_axes="d", scale_inside=True, name="groups")(x)
    x = layers.GmPDepthwiseConv1D(2, name="depthwise1d")(x)
    x = layers.GmPSeparableConv1D(3, 2, name="separable1d")(x)
    x = layers.GmPConv1DTranspose(2, 2, name="transpose1d")(x)
    x = keras.layers.Reshape((2, 2, 2, 2))(x)
    return keras.Model(inputs, layers.GmPConv3DTranspose(2, 2, name="transpose3d")(x)), normal(3, 6, 6, 4)


def distillation():
    inputs = keras.Input((5,))
    hidden = layers.GmPDense(4, activation="relu", name="hidden")(inputs)
    logits = [keras.layers.Dense(3, name=name)(hidden) for name in ("class_head", "distillation_head")]
    student = keras.Model(inputs, keras.layers.Average(name="logits")(logits), name="student")
    teacher = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, name="guess")], name="teacher")
    return HardDistillation(student, teacher, name="distillation"), normal(3, 5)


def converted_attention():
    """Multi-head attention makes its dense layers itself; see `keras_actlab.conversion.modified`."""
    inputs = keras.Input((4, 6))
    x = tnt.LearnedPositions(class_token=True, name="positions")(inputs)
    x = keras.layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    return to_weight_normalization(keras.Model(inputs, x)), normal(3, 4, 6)


def converted_gpt2():
    from keras_hub.models import GPT2Backbone

    tokens = keras.Input((5,), dtype="int32")
    gpt2 = GPT2Backbone(
        vocabulary_size=7, num_layers=1, num_heads=2, hidden_dim=4, intermediate_dim=8, max_sequence_length=5
    )
    gpt2 = keras_actlab.to_gmp(keras_actlab.swap_activations(gpt2, "tmaf"))
    outputs = gpt2({"token_ids": tokens, "padding_mask": keras.ops.ones_like(tokens)})
    return keras.Model(tokens, outputs), np.arange(15).reshape(3, 5) % 7


def scaled_schedule():
    """`advise` tunes a schedule of learning rates as a whole."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(Scaled(keras.optimizers.schedules.CosineDecay(0.1, 10), 0.5)), "mse")
    return model, normal(4, 3)


def augmentation():
    """Random in training, so that only what it does in inference can be compared."""
    augment = layers.RandAugment(2, 5.0, erase=0.5, seed=1, name="augment")
    return keras.Sequential([keras.Input((6, 6, 3)), augment, keras.layers.Flatten()]), np.full((2, 6, 6, 3), 7.0)


# Each returns a model and an input.
MODELS: tuple[Callable, ...] = (
    activations, geometric, kernels, normalized, distillation, converted_attention, converted_gpt2,
    scaled_schedule, augmentation,
)  # fmt: skip
WITH_WEIGHTS = (geometric, converted_attention)  # files of weights are large for what they tell


def move(model: keras.Model) -> None:
    """Moves every variable, save those of a set form, as a step of training would: constraints hold afterwards."""
    rng = np.random.default_rng(2)
    for variable in model.variables:
        if variable.name not in ("knots", "sampled", "sign"):
            moved = numpy(variable) + rng.uniform(-0.3, 0.3, variable.shape).astype("float32")
            variable.assign(moved if variable.constraint is None else variable.constraint(moved))


def behaviour(model: keras.Model, x: np.ndarray) -> dict[str, np.ndarray]:
    """Output and penalty of `model`, and its output after a call in training mode and `move`."""
    results = {"output": numpy(model(x)), "penalty": sum(map(numpy, model.losses), np.zeros(()))}
    model(x, training=True)
    move(model)
    return results | {"output after a move": numpy(model(x))}


def save(make: Callable, folder: Path) -> None:
    model, x = make()
    model(x)  # builds what is a subclass
    move(model)
    path = folder / make.__name__
    model.save(path.with_suffix(".keras"))
    compress(path.with_suffix(".keras"))
    if make in WITH_WEIGHTS:
        model.save_weights(path.with_suffix(".weights.h5"))
    np.savez_compressed(path.with_suffix(".npz"), x=x, **behaviour(model, x))


def compress(path: Path) -> None:
    """Makes the archive that Keras wrote several times smaller; it reads both."""
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, entry in entries.items():
            file.writestr(name, entry)


def main(version: str) -> None:
    folder = Path(__file__).parent / version
    folder.mkdir(exist_ok=True)
    for make in MODELS:
        if not (folder / f"{make.__name__}.keras").exists():
            keras.utils.set_random_seed(0)
            save(make, folder)


if __name__ == "__main__":
    main(sys.argv[1])
