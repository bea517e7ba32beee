import keras
import numpy as np
import pytest
from keras.layers import BatchNormalization, Conv2D, Dense, PReLU, ReLU

from keras_actlab import cab, to_gmp
from keras_actlab.cab.affine import breakpoints
from keras_actlab.layers import (
    TMAF,
    CRReLU,
    GmPConv2D,
    GmPDense,
    InputMeanNormalization,
    MeanOnlyBatchNormalization,
    WeightNormalization,
)
from tests.backends import numpy

pytestmark = pytest.mark.one_backend

THRESHOLDS = (-0.5, 0.0, 1.0)


def chain(layers, shape=(None, 3), seed=0):
    """Builds consecutive layers and changes all weights from their initial values."""
    rng = np.random.default_rng(seed)
    for layer in layers:
        layer.build(shape)
        shape = layer.compute_output_shape(shape)
        for variable in layer.variables:
            draw = rng.uniform(0.5, 1.5, variable.shape)
            if variable.name == "sign":
                draw = np.sign(draw - 1)
            elif variable.name not in ("moving_variance", "levels"):
                draw *= rng.choice([-1, 1], variable.shape)
            variable.assign(draw)
    return tuple(layers)


# Units with and without the activation. On a boundary, the latter must equal a breakpoint.
CASES = {
    "Dense": (lambda: [Dense(5, activation="relu")], lambda: [Dense(5)], (0.0,)),
    "no bias": (lambda: [Dense(5, use_bias=False)], lambda: [Dense(5, use_bias=False)], (0.0,)),
    "two bends": (lambda: [Dense(5, activation="relu6")], lambda: [Dense(5)], (0.0, 6.0)),
    "an activation layer": (lambda: [Dense(5), TMAF(1, THRESHOLDS)], lambda: [Dense(5)], THRESHOLDS),
    "WN": (
        lambda: [WeightNormalization(Dense(5, activation="relu"))],
        lambda: [WeightNormalization(Dense(5))],
        (0.0,),
    ),
    "BN": (lambda: [Dense(5), BatchNormalization(), ReLU()], lambda: [Dense(5), BatchNormalization()], (0.0,)),
    "BN before and after": (
        lambda: [BatchNormalization(), Dense(5), BatchNormalization(scale=False), ReLU(max_value=2.0)],
        lambda: [BatchNormalization(), Dense(5), BatchNormalization(scale=False)],
        (0.0, 2.0),
    ),
    "IMN and BN before": (
        lambda: [InputMeanNormalization(), BatchNormalization(), Dense(5, activation="relu")],
        lambda: [InputMeanNormalization(), BatchNormalization(), Dense(5)],
        (0.0,),
    ),
    "MBN": (lambda: [Dense(5), MeanOnlyBatchNormalization()], lambda: [Dense(5), MeanOnlyBatchNormalization()], (0.0,)),
    "GmP": (lambda: [GmPDense(5, activation="relu")], lambda: [GmPDense(5)], (0.0,)),
    "GmP, no radius": (lambda: [GmPDense(5, use_bias=False)], lambda: [GmPDense(5, use_bias=False)], (0.0,)),
    "GmP, scale inside": (
        lambda: [GmPDense(5, activation=TMAF(0, THRESHOLDS), scale_inside=True)],
        lambda: [GmPDense(5, scale_inside=True)],
        THRESHOLDS,
    ),
    "GmP, BN": (
        lambda: [GmPDense(5), BatchNormalization(), ReLU(max_value=2.0)],
        lambda: [GmPDense(5), BatchNormalization()],
        (0.0, 2.0),
    ),
    "GmP, an activation layer": (lambda: [GmPDense(5), TMAF(0, THRESHOLDS)], lambda: [GmPDense(5)], THRESHOLDS),
    "GmP+IMN": (
        lambda: [InputMeanNormalization(), GmPDense(5, activation="relu")],
        lambda: [InputMeanNormalization(), GmPDense(5)],
        (0.0,),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_unit_bends_on_its_boundaries(name):
    whole, bare, bends = CASES[name]
    whole, bare = chain(whole()), chain(bare())
    found = cab.boundaries(whole)
    count = 5 * len(bends)
    assert found.normals.shape == found.locations.shape == (count, 3)
    assert found.offsets.shape == found.units.shape == (count,)
    np.testing.assert_array_equal(found.units, np.repeat(np.arange(5), len(bends)))
    np.testing.assert_allclose(np.linalg.norm(found.normals, axis=1), 1.0)
    np.testing.assert_allclose(found.locations, -found.offsets[:, None] * found.normals)
    # Points on each boundary: its location plus random moves within it.
    rng = np.random.default_rng(1)
    along = rng.normal(size=(count, 3))
    along -= np.sum(along * found.normals, axis=1, keepdims=True) * found.normals
    inputs = (found.locations + along).astype("float32")
    for layer in bare:
        inputs = layer(inputs, training=False)
    values = numpy(inputs)[np.arange(count), found.units]
    np.testing.assert_allclose(values, np.tile(bends, 5), atol=2e-5)


def test_the_normal_points_to_where_the_unit_is_active():
    units = chain([Dense(5), BatchNormalization(), ReLU()])
    found = cab.boundaries(units)
    for sign in (-1, 1):
        outputs = (found.locations + sign * 0.1 * found.normals).astype("float32")
        for layer in units:
            outputs = layer(outputs, training=False)
        active = numpy(outputs)[np.arange(5), np.arange(5)] > 0
        assert active.all() if sign > 0 else not active.any()


def test_conversion_does_not_move_boundaries():
    units = chain([Dense(5), BatchNormalization(), ReLU(max_value=2.0)])
    model = keras.Sequential([keras.Input((3,)), *units])
    converted = to_gmp(model)
    assert isinstance(converted.layers[0], GmPDense)
    for name in ("normals", "offsets"):
        expected = getattr(cab.boundaries(units), name)
        np.testing.assert_allclose(getattr(cab.boundaries(tuple(converted.layers)), name), expected, rtol=1e-5)


def test_one_input():
    layer = GmPDense(4, activation="relu")
    chain([layer], (None, 1))
    signs, radius = (numpy(variable) for variable in (layer.sign, layer.radius))
    np.testing.assert_allclose(cab.boundaries(layer).locations[:, 0], -signs * radius, rtol=1e-6)


@pytest.mark.parametrize("make", [Conv2D, GmPConv2D, lambda *args: WeightNormalization(Conv2D(*args))])
@pytest.mark.parametrize("normalized", [False, True])
def test_the_units_of_a_convolution_see_patches(make, normalized):
    before = [InputMeanNormalization()] if normalized else []
    units = chain([*before, make(4, 2)], (None, 2, 2, 3))
    found = cab.boundaries(units)
    assert found.normals.shape == (4, 12)
    outputs = found.locations.reshape(4, 2, 2, 3).astype("float32")
    for layer in units:
        outputs = layer(outputs, training=False)
    np.testing.assert_allclose(numpy(outputs)[np.arange(4), 0, 0, np.arange(4)], 0.0, atol=2e-5)


def test_trained_thresholds_are_read_as_they_are():
    activation = TMAF(0, THRESHOLDS, train_thresholds=True)
    layer = Dense(1, activation=activation, kernel_initializer="ones")
    layer.build((None, 1))
    activation.build((None, 1))
    activation.thresholds.assign([1.0, 2.0, 4.0])
    np.testing.assert_allclose(cab.boundaries(layer).locations[:, 0], [1.0, 2.0, 4.0])


def test_a_unit_without_weights_has_no_boundary():
    layer = Dense(2)
    layer.build((None, 3))
    layer.set_weights([np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]), np.array([2.0, 3.0])])
    found = cab.boundaries(layer)
    np.testing.assert_array_equal(found.locations, [[-2.0, 0.0, 0.0], [np.nan] * 3])
    np.testing.assert_array_equal(np.isnan(found.offsets), [False, True])


def test_a_training_that_diverged_has_no_boundary():
    layer = Dense(3)
    layer.build((None, 2))
    layer.set_weights([np.array([[1.0, np.inf, np.nan], [0.0, 0.0, 0.0]]), np.array([2.0, np.nan, 3.0])])
    np.testing.assert_array_equal(cab.boundaries(layer).locations, [[-2.0, 0.0], [np.nan] * 2, [np.nan] * 2])


def test_extreme_weights():
    layer = Dense(2)
    layer.build((None, 2))
    layer.set_weights([np.array([[1e-30, 3e37], [1e-30, 3e37]]), np.array([1e-30, 1.0])])
    found = cab.boundaries(layer)
    np.testing.assert_allclose(found.normals, np.full((2, 2), 2**-0.5))
    np.testing.assert_allclose(found.offsets, [2**-0.5, 1 / (3e37 * 2**0.5)])


def test_half_precision_weights_are_read():
    layer = Dense(2, dtype="bfloat16")
    layer.build((None, 2))
    layer.kernel.assign([[1.0, 0.0], [0.0, 2.0]])
    layer.bias.assign([0.5, 1.0])
    np.testing.assert_allclose(cab.boundaries(layer).offsets, [0.5, 0.5])


# Where the second difference of a piecewise linear function on a fine grid is not 0, it bends or jumps.
@pytest.mark.parametrize(
    "activation",
    ["relu", "leaky_relu", "relu6", "hard_sigmoid", "hard_tanh", "hard_shrink", "soft_shrink", "linear"],
)
def test_breakpoints(activation):
    grid = np.arange(-8, 8, 1 / 64) + 1 / 128  # no breakpoint on the grid itself
    values = numpy(keras.activations.get(activation)(keras.ops.convert_to_tensor(grid.astype("float32"))))
    second = np.abs(np.diff(values, n=2))
    places = grid[1:-1][second > 1e-4]
    seen = np.unique(np.round(places * 4) / 4)
    np.testing.assert_allclose(breakpoints(keras.activations.get(activation)), seen)
    np.testing.assert_allclose(breakpoints(keras.layers.Activation(activation)), seen)


def test_breakpoints_of_layers():
    assert breakpoints(PReLU()) == breakpoints(keras.layers.LeakyReLU()) == breakpoints(ReLU()) == (0.0,)
    assert breakpoints(ReLU(max_value=3.0, threshold=1.0)) == (1.0, 3.0)
    assert breakpoints(TMAF(0, THRESHOLDS)) == THRESHOLDS
    assert breakpoints(CRReLU()) is breakpoints(keras.activations.gelu) is None


def test_a_smooth_activation_turns_at_0():
    (layer,) = chain([Dense(3, activation="gelu")])
    (same,) = chain([Dense(3)])
    np.testing.assert_array_equal(cab.boundaries(layer).locations, cab.boundaries(same).locations)


@pytest.mark.parametrize(
    ("units", "words"),
    [
        (lambda: Dense(3, name="fresh"), r"must be built.*fresh \(Dense\)"),
        (lambda: chain([ReLU(name="bend")]), r"one affine layer.*bend \(ReLU\)"),
        (lambda: chain([Dense(3), Dense(2)]), "one affine layer"),
        (lambda: chain([keras.layers.EinsumDense("ab,bc->ac", 4)]), "one affine layer.*EinsumDense"),
        (lambda: chain([Dense(3, activation="relu"), BatchNormalization()]), "in this order.*relu"),
        (lambda: chain([ReLU(), Dense(3)]), "in this order"),
        (lambda: chain([Dense(3), keras.layers.Reshape((3,)), ReLU()]), "in this order.*Reshape"),
        (lambda: chain([Dense(3), keras.layers.LayerNormalization()]), "in this order.*LayerNormalization"),
        (lambda: chain([Dense(3), keras.layers.Dropout(0.5)]), "in this order.*Dropout"),
        (lambda: chain([Dense(3), BatchNormalization(axis=1)], (None, 3, 2)), r"3 channels, axis 2.*axis=1"),
        (lambda: (*chain([BatchNormalization()], (None, 4)), *chain([Dense(3)])), "3 channels.*which has 4"),
        (
            lambda: chain([BatchNormalization(), Conv2D(4, 1, groups=2)], (None, 2, 2, 4)),
            "grouped convolution.*groups=2",
        ),
    ],
)
def test_units_without_boundaries_raise(units, words):
    with pytest.raises(ValueError, match=words):
        cab.boundaries(units())


def test_non_layers_raise():
    for units in ("dense", (), (Dense(3), "relu")):
        with pytest.raises(TypeError, match="must be a Keras layer"):
            cab.boundaries(units)


def test_a_layer_with_lora_is_refused():
    layer = Dense(4)
    layer.build((None, 3))
    layer.enable_lora(2)
    with pytest.raises(ValueError, match="LoRA"):
        cab.boundaries(layer)


@pytest.mark.parametrize("angle", [1e-9, 1e-6, 1e-3, 1.0, 3.1, np.pi])
@pytest.mark.parametrize("length", [1e-200, 1.0, 1e200])
def test_angular_change_is_accurate(angle, length):
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(7, 2)))
    before, after = basis[:, 0], np.cos(angle) * basis[:, 0] + np.sin(angle) * basis[:, 1]
    np.testing.assert_allclose(cab.angular_change(length * before, 3 * after), angle, rtol=1e-6)


def test_angular_change_of_many():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4, 5, 3))
    expected = np.arccos(np.sum(a * b, -1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1))
    np.testing.assert_allclose(cab.angular_change(a, b), expected, rtol=1e-6)
    assert np.isnan(cab.angular_change([0.0, 0.0], [1.0, 0.0]))


@pytest.mark.parametrize(("before", "after"), [((3, 2), (2, 2)), ((), ())])
def test_angular_change_needs_equal_shapes(before, after):
    with pytest.raises(ValueError, match=r"same shape.*before\.shape="):
        cab.angular_change(np.ones(before), np.ones(after))


def direction(angles):
    """Spherical coordinates by their definition, for one unit."""
    sines = np.cumprod([1.0, *np.sin(angles)])
    return sines * np.array([*np.cos(angles), 1.0])


def test_the_metric_tensor_is_that_of_the_map():
    angles = np.random.default_rng(0).uniform(0, np.pi, 6)
    steps = 1e-6 * np.eye(6)
    jacobian = np.stack([(direction(angles + e) - direction(angles - e)) / 2e-6 for e in steps], axis=1)
    np.testing.assert_allclose(cab.metric_tensor(angles), jacobian.T @ jacobian, atol=1e-8)
    two = cab.metric_tensor(np.stack([angles, angles[::-1]], axis=1))
    np.testing.assert_allclose(two, [cab.metric_tensor(angles), cab.metric_tensor(angles[::-1])])


@pytest.mark.parametrize("shape", [(), (0,), (2, 2, 2)])
def test_the_metric_tensor_needs_angles(shape):
    with pytest.raises(ValueError, match=r"angles\.shape="):
        cab.metric_tensor(np.ones(shape))


@pytest.mark.parametrize("n", [2, 3, 17, 256])
def test_theorem_3_7(n):
    units = 200
    rng = np.random.default_rng(n)
    layer = GmPDense(units, angles_initializer="zeros")
    layer.build((None, n))
    w = rng.normal(size=(n, units))
    tails = np.sqrt(np.cumsum(w[::-1] ** 2, axis=0)[::-1])
    layer.angles.assign(np.arctan2(np.concatenate([tails[1:-1], w[-1:]]), w[:-1]))
    step = rng.normal(size=(n - 1, units))
    step *= 10 ** rng.uniform(-6, -4, units) / np.linalg.norm(step, axis=0)
    turn = cab.angular_change(cab.boundaries(layer).normals, cab.perturb(layer, {"angles": step}).normals)
    predicted = np.sqrt(np.einsum("iu,uij,ju->u", step, cab.metric_tensor(layer.angles), step))
    np.testing.assert_allclose(turn / predicted, 1.0, atol=1e-3)
    # Rounding of unit vectors, 1e-16, is 1e-10 of the smallest step.
    assert (turn <= np.linalg.norm(step, axis=0) * (1 + 1e-9)).all()


@pytest.mark.parametrize("excess", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("name", ["Dense", "WN", "BN"])
def test_propositions_2_3_to_2_5(name, excess):
    units = chain(CASES[name][0]())
    kernel = next(v for layer in units for v in layer.variables if v.name == "kernel")
    step = -(1 + excess) * numpy(kernel).astype("float64")
    turn = cab.angular_change(cab.boundaries(units).normals, cab.perturb(units, {"kernel": step}).normals)
    np.testing.assert_allclose(np.degrees(turn), 180.0)


def test_perturb_equals_a_step_and_does_not_change_the_layer():
    units = chain([Dense(5), BatchNormalization(), ReLU()])
    start = [numpy(v) for layer in units for v in layer.variables]
    rng = np.random.default_rng(3)
    steps = {"kernel": rng.normal(size=(3, 5)), "beta": rng.normal(size=5), "moving_variance": np.full(5, 0.5)}
    found = cab.perturb(units, steps)
    for value, variable in zip(start, (v for layer in units for v in layer.variables), strict=True):
        np.testing.assert_array_equal(numpy(variable), value)
    for name, step in steps.items():
        (variable,) = (v for layer in units for v in layer.variables if v.name == name)
        variable.assign_add(step)
    expected = cab.boundaries(units)
    np.testing.assert_allclose(found.locations, expected.locations, rtol=1e-4)
    np.testing.assert_allclose(found.normals, expected.normals, atol=1e-6)


def test_perturb_names_and_shapes():
    units = chain([BatchNormalization(), Dense(5), BatchNormalization()])
    with pytest.raises(ValueError, match=r"'gamma', which fits 2"):
        cab.perturb(units, {"gamma": np.ones(5)})
    with pytest.raises(ValueError, match=r"'angles', which fits 0"):
        cab.perturb(units, {"angles": np.ones(5)})
    with pytest.raises(ValueError, match=r"shape \(3,\) for \(3, 5\)"):
        cab.perturb(units, {"kernel": np.ones(3)})
    moved = cab.perturb(units, {units[2].gamma.path: np.ones(5)})
    assert np.isfinite(moved.offsets).all()
