"""Layers of any class whose kernels `to_gmp` computes from angles and scale."""

import copy
import pickle
import zipfile

import keras
import numpy as np
import pytest

import keras_actlab
from keras_actlab._private.geometric_kernel import GeometricKernel
from keras_actlab.conversion import report, to_weight_normalization
from tests.backends import numpy

pytestmark = [
    # Keras says so of each block without a `build` that it loads.
    pytest.mark.filterwarnings("ignore:`build\\(\\)` was called on layer"),
    pytest.mark.filterwarnings("ignore:.*The structure of `inputs` doesn't match"),
]


class Experts(keras.layers.Layer):
    """Two stacks of matrices without a config, as layers of experts in keras-hub hold them."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.activation = keras.activations.relu
        self.l1, self.l2 = keras.regularizers.L1(0.1), keras.regularizers.L2(0.1)

    def build(self, input_shape):
        size = input_shape[-1]
        self._up = self.add_weight(name="up", shape=(2, size, 5), regularizer=self.l2)
        self.shift = self.add_weight(name="shift", shape=(2, 5), initializer="ones")
        self.down = self.add_weight(name="down", shape=(2, 5, size), regularizer=self.l1, constraint="unit_norm")

    def call(self, x):
        hidden = self.activation(keras.ops.einsum("bti,eio->bteo", x, self._up) + self.shift)
        return keras.ops.einsum("bteo,eoi->bti", hidden, self.down)


@keras.saving.register_keras_serializable(package="tests.parametrized")
class Block(keras.layers.Layer):
    """Makes its experts itself, and has no `build`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.experts = Experts(name="experts", dtype=self.dtype_policy)

    def call(self, x):
        return x + self.experts(x)


EVERYTHING = [Experts, keras.layers.LSTM, keras.layers.Embedding]
X = np.random.default_rng(0).integers(0, 7, (3, 5))


def plain(dtype="float32"):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(7, 4, dtype=dtype, embeddings_regularizer="l2", name="embedding")(inputs)
    x = Block(dtype=dtype, name="second")(Block(dtype=dtype, name="first")(x))
    # PyTorch draws no orthogonal kernels of half precision.
    return keras.Model(inputs, keras.layers.LSTM(3, dtype=dtype, recurrent_initializer="glorot_normal", name="lstm")(x))


@pytest.fixture(scope="module")
def model():
    return plain()


@pytest.fixture(scope="module")
def converted(model):
    return keras_actlab.to_gmp(model, EVERYTHING, check=False)


def described(variables):
    # Keras numbers seed generators anew for each model.
    own = [variable for variable in variables if "seed_generator" not in variable.path]
    return [(variable.path, tuple(variable.shape), variable.dtype) for variable in own]


def check(found, expected):
    np.testing.assert_allclose(numpy(found(X)), numpy(expected(X)), rtol=0, atol=1e-6)
    assert described(found.variables) == described(expected.variables)
    assert [type(layer).__name__ for layer in found._flatten_layers()] == [
        type(layer).__name__ for layer in expected._flatten_layers()
    ]


def from_coordinates(angles, scale):
    """The columns that angles and scale stand for, one entry after another."""
    columns = np.ones((len(angles) + 1, len(scale)))
    for row, angle in enumerate(angles):
        columns[row] *= np.cos(angle)
        columns[row + 1 :] *= np.sin(angle)
    return scale * columns


def test_outputs_and_variables(model, converted):
    np.testing.assert_allclose(numpy(converted(X)), numpy(model(X)), rtol=0, atol=1e-6)
    assert converted.count_params() == model.count_params()
    assert described(converted.layers[2].variables) == [
        ("first/experts/up_angles", (3, 10), "float32"),
        ("first/experts/up_scale", (10,), "float32"),
        ("first/experts/shift", (2, 5), "float32"),
        ("first/experts/down_angles", (4, 8), "float32"),
        ("first/experts/down_scale", (8,), "float32"),
    ]
    assert [variable.path for variable in converted.layers[4].trainable_variables] == [
        "lstm/lstm_cell/kernel_angles",
        "lstm/lstm_cell/kernel_scale",
        "lstm/lstm_cell/recurrent_kernel_angles",
        "lstm/lstm_cell/recurrent_kernel_scale",
        "lstm/lstm_cell/bias",
    ]
    assert described(converted.layers[1].variables) == [
        ("embedding/embeddings_angles", (3, 7), "float32"),
        ("embedding/embeddings_scale", (7,), "float32"),
    ]


@pytest.mark.one_backend
def test_units(model, converted):
    plain_up, experts = numpy(model.layers[2].experts._up), converted.layers[2].experts
    up = from_coordinates(*map(numpy, experts.variables[:2])).reshape(4, 2, 5)
    np.testing.assert_allclose(up.transpose(1, 0, 2), plain_up, atol=1e-6)
    cell = converted.layers[4].cell
    np.testing.assert_allclose(
        from_coordinates(*map(numpy, cell.variables[:2])), numpy(model.layers[4].cell.kernel), atol=1e-6
    )
    embedding = converted.layers[1]
    np.testing.assert_allclose(
        from_coordinates(*map(numpy, embedding.variables)).T, numpy(model.layers[1].embeddings), atol=1e-6
    )


@pytest.mark.one_backend
def test_regularizers(model, converted):
    """L2 of a kernel is L2 of its scale; the report names what is lost."""
    for index in (1, 2):
        kept, *_ = model.layers[index].losses  # that of the block's other kernel is L1
        np.testing.assert_allclose(list(map(numpy, converted.layers[index].losses)), [numpy(kept)], rtol=1e-5)
    notes = {row.layer: row.note for row in report(converted).changed}
    assert notes == {
        "embedding": "angles and scale for embeddings (fan-in axes 1)",
        "first/experts": (
            "angles and scale for up (fan-in axes 1), down (fan-in axes 1); without down_regularizer, down_constraint"
        ),
        "second/experts": (
            "angles and scale for up (fan-in axes 1), down (fan-in axes 1); without down_regularizer, down_constraint"
        ),
        "lstm/lstm_cell": "angles and scale for kernel (fan-in axes 0), recurrent_kernel (fan-in axes 0)",
    }


def test_the_file(converted, tmp_path):
    converted.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", custom_objects={"Experts": Experts})
    check(loaded, converted)
    assert report(loaded).rows == report(converted).rows
    if keras.backend.backend() == "torch":
        for one in (*converted._flatten_layers(), loaded, loaded.get_layer("lstm")):
            seen = {id(parameter) for parameter in one.parameters() if parameter.requires_grad}
            assert seen == {id(variable.value) for variable in one.trainable_variables}
        for one in (converted, loaded):
            assert len(one.state_dict()) == len(one.variables)
    # A second generation, and weights alone.
    loaded.save_weights(tmp_path / "model.weights.h5")
    fresh = keras.models.clone_model(loaded)
    fresh.load_weights(tmp_path / "model.weights.h5")
    check(fresh, converted)


@pytest.mark.one_backend
def test_parts(converted, tmp_path):
    features = keras.Model(converted.inputs, converted.layers[2].output)
    inputs = keras.Input((5,), dtype="int32")
    whole = keras.Model(inputs, keras.layers.Dense(2)(converted(inputs)))
    for one in (features, whole):
        one.save(tmp_path / "model.keras")
        check(keras.saving.load_model(tmp_path / "model.keras"), one)
        check(copy.deepcopy(one), one)
        check(pickle.loads(pickle.dumps(one)), one)


@pytest.mark.one_backend
def test_fold(model, converted, tmp_path):
    folded = keras_actlab.fold(converted, check=False)
    check(folded, model)
    assert [type(layer) for layer in folded._flatten_layers()] == [type(layer) for layer in model._flatten_layers()]
    for one, other in zip(folded.variables, model.variables, strict=True):
        np.testing.assert_allclose(numpy(one), numpy(other), atol=1e-6)
        assert type(one) is type(other)
        for name in ("regularizer", "constraint"):
            assert type(getattr(one, name)) is type(getattr(other, name))
    for one, other in zip(folded._flatten_layers(), model._flatten_layers(), strict=True):
        assert set(vars(one)) - set(vars(other)) <= {"_torch_params"}
    folded.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        assert b"keras_actlab" not in file.read("config.json")


def test_training(converted):
    copied = copy.deepcopy(converted)
    # XLA takes a minute for the LSTM on TensorFlow.
    copied.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=keras.backend.backend() == "jax")
    before = [numpy(variable).copy() for variable in copied.trainable_variables]
    targets = np.random.default_rng(1).normal(size=(3, 3)).astype("float32")
    losses = [float(copied.train_on_batch(X, targets)) for _ in range(3)]
    assert losses[-1] < losses[0]
    for variable, old in zip(copied.trainable_variables, before, strict=True):
        assert not np.array_equal(numpy(variable), old), variable.path
    assert len(keras.tree.flatten(copied.get_state_tree()["trainable_variables"])) == len(before)


@pytest.mark.one_backend
def test_what_is_left_alone(model, converted):
    default = keras_actlab.to_gmp(model, check=False)
    assert [row.layer for row in report(default).changed] == ["first/experts", "second/experts"]
    assert [(row.layer, row.note) for row in report(default).skipped] == [
        ("lstm/lstm_cell", "LSTMCell is converted only if `where` selects it")
    ]
    with pytest.warns(UserWarning, match="Nothing was changed"):
        twice = keras_actlab.to_gmp(converted, check=False)
    check(twice, converted)
    with pytest.raises(ValueError, match="its kernels are computed from angles and scale"):
        to_weight_normalization(converted, "lstm")
    normalized = to_weight_normalization(model, "lstm")
    with pytest.raises(ValueError, match="WeightNormalization owns its kernel"):
        keras_actlab.to_gmp(normalized, keras.layers.LSTMCell)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: keras.layers.ReversibleEmbedding(4, 3), "it is also used in reverse"),
        (lambda: keras.layers.Embedding(4, 1), "its units have one weight each"),
        (lambda: keras.layers.Embedding(4, 3, lora_rank=2), "it has LoRA weights"),
    ],
)
def test_embeddings_that_stay(make, reason):
    model = keras.Sequential([keras.Input((2,), dtype="int32"), make()])
    with pytest.raises(ValueError, match=reason):
        keras_actlab.to_gmp(model, keras.layers.Embedding)


@pytest.mark.one_backend
def test_tables_stay():
    """An entry of PReLU's alpha, or of a table, is no weight of a product."""

    class Table(keras.layers.Layer):
        def build(self, input_shape):
            self.table = self.add_weight(name="relative_position_table", shape=(2, 3, 4))

        def call(self, x):
            return x + self.table

    model = keras.Sequential([keras.Input((2, 3, 4)), keras.layers.PReLU(), Table(), keras.layers.Dense(2)])
    assert [row.before for row in report(keras_actlab.to_gmp(model, check=False)).rows] == ["Dense"]


@pytest.mark.one_backend
def test_refusals(converted):
    embedding = converted.layers[1]
    with pytest.raises(ValueError, match="Fold the model first"):
        embedding.enable_lora(2)
    with pytest.raises(ValueError, match="Fold the model first"):
        embedding.quantize("int8")
    with pytest.raises(NotImplementedError, match="cannot be assigned"):
        embedding.embeddings.assign(np.zeros((7, 4)))
    folded = keras_actlab.fold(converted, check=False).layers[1]
    folded.quantize("int8")
    assert folded.quantization_mode == "int8"


@pytest.mark.one_backend
def test_frozen_layers():
    model = plain()
    model.layers[2].trainable = False
    converted = keras_actlab.to_gmp(model, EVERYTHING, check=False)
    assert not converted.layers[2].trainable_variables
    assert len(converted.layers[3].trainable_variables) == 5
    folded = keras_actlab.fold(converted, check=False)
    assert described(folded.trainable_variables) == described(model.trainable_variables)
    folded.layers[2].trainable = True
    assert len(folded.layers[2].trainable_variables) == 3


@pytest.mark.parametrize("policy", ["bfloat16", "mixed_bfloat16"])
def test_half_precision(policy):
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, Block(dtype=policy)(inputs))
    experts = model.layers[1].experts
    converted = keras_actlab.to_gmp(model, Experts, check=False).layers[1].experts
    assert {variable.dtype for variable in converted.variables if variable.name != "shift"} == {"float32"}
    np.testing.assert_allclose(
        numpy(keras.ops.cast(converted._up, "float32")), numpy(keras.ops.cast(experts._up, "float32")), atol=2e-3
    )
    assert keras.backend.standardize_dtype(converted._up.value.dtype) == experts.variable_dtype
    outputs = converted(np.ones((1, 2, 4), "float32"))
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"


@pytest.mark.one_backend
def test_units_without_weights():
    """Gemma 4 starts its experts as zeros, which have no direction."""
    model = plain()
    experts = model.layers[2].experts
    experts._up.assign(np.zeros((2, 4, 5)))
    converted = keras_actlab.to_gmp(model, Experts, check=False)
    np.testing.assert_array_equal(numpy(converted.layers[2].experts._up), 0.0)
    np.testing.assert_allclose(numpy(converted(X)), numpy(model(X)), atol=1e-6)


@pytest.mark.one_backend
@pytest.mark.parametrize("swap_first", [True, False])
def test_with_other_activations(swap_first, tmp_path):
    model = plain()
    if swap_first:
        expected = keras_actlab.swap_activations(model, "crrelu", Experts)
        both = keras_actlab.to_gmp(expected, Experts, check=False)
    else:
        both = keras_actlab.swap_activations(keras_actlab.to_gmp(model, Experts, check=False), "crrelu", Experts)
        expected = keras_actlab.swap_activations(model, "crrelu", Experts)
    experts = both.layers[2].experts
    assert isinstance(experts.activation, keras_actlab.layers.CRReLU)
    assert isinstance(experts._up, GeometricKernel)
    np.testing.assert_allclose(numpy(both(X)), numpy(expected(X)), rtol=0, atol=1e-6)
    both.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.layers[2].experts.activation, keras_actlab.layers.CRReLU)
    assert [variable.name for variable in loaded.variables] == [variable.name for variable in both.variables]
    for one in (loaded, keras_actlab.fold(loaded, check=False)):
        np.testing.assert_allclose(numpy(one(X)), numpy(expected(X)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.layers.SimpleRNN(3, recurrent_dropout=0.1),
        lambda: keras.layers.GRU(3, kernel_regularizer="l2"),
        lambda: keras.layers.RNN([keras.layers.GRUCell(3), keras.layers.LSTMCell(2)]),
        lambda: keras.layers.Bidirectional(keras.layers.LSTM(3)),
        lambda: keras.layers.ConvLSTM1D(2, 3),
    ],
    ids=["SimpleRNN", "GRU", "RNN", "Bidirectional", "ConvLSTM1D"],
)
@pytest.mark.one_backend
def test_recurrent_layers(make, tmp_path):
    layer = make()
    shape = (4, 6, 3) if isinstance(layer, keras.layers.ConvLSTM1D) else (4, 3)
    model = keras.Sequential([keras.Input(shape), layer])
    x = np.random.default_rng(2).normal(size=(2, *shape)).astype("float32")
    converted = keras_actlab.to_gmp(model, keras.layers.RNN, check=False)
    assert all("angles" in row.note for row in report(converted).rows)
    assert not [variable.path for variable in converted.trainable_variables if variable.path.endswith("kernel")]
    converted.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for one in (converted, loaded, keras_actlab.fold(loaded, check=False)):
        np.testing.assert_allclose(numpy(one(x)), numpy(model(x)), rtol=0, atol=1e-6)


@pytest.mark.one_backend
def test_experts_of_keras_hub(tmp_path):
    models = pytest.importorskip("keras_hub").models
    keras.utils.set_random_seed(0)
    model = models.MixtralBackbone(
        vocabulary_size=10, num_layers=1, num_query_heads=2, hidden_dim=8, intermediate_dim=4, num_experts=2,
        num_key_value_heads=1,
    )  # fmt: skip
    x = {"token_ids": np.arange(8).reshape(2, 4) % 7, "padding_mask": np.ones((2, 4), "int32")}
    converted = keras_actlab.to_gmp(model, check=False)
    (row,) = (row for row in report(converted).changed if row.layer.endswith("/experts"))
    assert (row.parameters_before, row.parameters_after) == (192, 192)
    converted.save_to_preset(str(tmp_path))
    loaded = models.Backbone.from_preset(str(tmp_path))
    assert [variable.name for variable in loaded.variables] == [variable.name for variable in converted.variables]
    folded = keras_actlab.fold(loaded, check=False)
    assert [type(layer) for layer in folded._flatten_layers()] == [type(layer) for layer in model._flatten_layers()]
    for one in (converted, loaded, folded):
        np.testing.assert_allclose(numpy(one(x)), numpy(model(x)), rtol=0, atol=1e-5)
