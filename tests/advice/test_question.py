import keras
import numpy as np
import pytest

from keras_actlab.advice.data import prepare
from keras_actlab.advice.question import Question, ask
from keras_actlab.advice.variants import resolve
from keras_actlab.experiments import holdout

pytestmark = pytest.mark.one_backend
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(100, 3)).astype("float32"), RNG.normal(size=(100, 1)).astype("float32")


def network(*compiled, hidden=None, **options) -> keras.Model:
    hidden = [keras.layers.Dense(4, "relu")] if hidden is None else hidden
    model = keras.Sequential([keras.Input((3,)), *hidden, keras.layers.Dense(1)], name="small")
    if compiled or options:
        model.compile(*compiled, **options)
    return model


def question(model, data=((X, Y), None, None), variants=("gelu",), **changes) -> Question:
    options = {
        "metric": None,
        "mode": None,
        "is_drawn": True,
        "epochs": 1,
        "batch_size": 8,
        "steps_per_epoch": None,
        "class_weight": None,
    }
    return ask(model, resolve(variants, "own"), prepare(*data), **options | changes)


def odd(y, p):
    return keras.ops.mean(p)


class Batches(keras.utils.PyDataset):
    def __init__(self, length=3):
        super().__init__()
        self.length = length

    @property
    def num_batches(self):
        return self.length

    def __getitem__(self, index):
        return X[:10], Y[:10]


@pytest.mark.parametrize(
    ("metrics", "given", "expected"),
    [
        (["mse", "mae"], {}, ("mse", "min")),  # Keras reports them in the order of the alphabet
        (["r2_score", "mae"], {}, ("r2_score", "max")),
        (None, {}, ("loss", "min")),
        (["mae"], {"metric": "loss"}, ("loss", "min")),
        (["mae"], {"mode": "max"}, ("mae", "max")),
        ([odd, "mae"], {"mode": "min"}, ("odd", "min")),
        ([odd, "mae"], {"metric": "mae"}, ("mae", "min")),
    ],
)
def test_metric_that_chooses(metrics, given, expected):
    found = question(network("adam", "mse", metrics=metrics), **given)
    assert (found.metric, found.mode) == expected


def test_metrics_of_two_outputs():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, [keras.layers.Dense(1, name=name)(inputs) for name in ("a", "b")])
    model.compile("adam", ["mse", "mse"], metrics=[["r2_score"], ["mae"]])
    data = ((X, (Y, Y)), None, None)
    found = question(model, data, variants=["gmp"])
    assert (found.metric, found.mode) == ("a_r2_score", "max")
    assert question(model, data, variants=["gmp"], metric="b_mae").mode == "min"
    assert question(model, data, variants=["gmp"], metric="b_loss").mode == "min"
    model.compile("adam", ["mse", "mse"])
    assert question(model, data, variants=["gmp"]).metric == "loss"


@pytest.mark.parametrize(
    ("metrics", "given", "message"),
    [
        (
            ["mae"],
            {"metric": "accuracy"},
            r"`metric` must be one that `model` is compiled with, \['loss', 'mae'\].*accuracy",
        ),
        ([odd, "mae"], {}, "`mode` must be given, as Keras does not say.*'odd'"),
    ],
)
def test_metrics_that_cannot_choose(metrics, given, message):
    with pytest.raises(ValueError, match=message):
        question(network("adam", "mse", metrics=metrics), **given)


@pytest.mark.parametrize(
    ("hidden", "variant", "changes"),
    [
        (None, "relu", False),
        ([keras.layers.Dense(4), keras.layers.ReLU()], "relu", False),
        ([keras.layers.Dense(4), keras.layers.Activation("relu")], "relu", False),
        ([keras.layers.Dense(4), keras.layers.ReLU(max_value=0.1)], "relu", True),
        ([keras.layers.Dense(4, "gelu")], "relu", True),
        (None, "gelu", True),
        ([], "gelu", False),
        (None, "gmp", True),
        ([], "weight norm", True),
        (None, {"same": lambda model: model}, False),
        (None, {"clone": keras.models.clone_model}, True),  # other weights
    ],
)
def test_variants_that_change_nothing(hidden, variant, changes):
    variants = variant if isinstance(variant, dict) else {variant: variant}
    found = question(network("adam", "mse", hidden=hidden), variants=variants | {"deeper": deeper})
    (name,) = variants
    assert (name in found.variants) == changes
    assert (name in found.unchanged) != changes
    assert next(iter(found.variants)) == "as is"
    assert "deeper" in found.variants


def deeper(model):
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1)])


def in_place(model):
    model.layers[0].activation = keras.activations.tanh
    return model


def less_dropout(model):
    model.layers[1].rate = 0.1
    return model


def test_functions_of_the_user_change_the_model_in_place():
    hidden = [keras.layers.Dense(4, "relu"), keras.layers.Dropout(0.5)]
    model = network("adam", "mse", hidden=hidden)
    found = question(model, variants={"tanh": in_place, "dropout": less_dropout})
    assert list(found.variants) == ["as is", "tanh", "dropout"]
    assert model.layers[0].activation is keras.activations.relu
    assert model.layers[1].rate == 0.5


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ValueError, match=r"`variants` must change something in this model.*has it already"):
        question(network("adam", "mse"), variants=["relu"])


def test_a_variant_that_always_raises_is_an_error():
    def broken(model):
        raise LookupError("no such layer")

    with pytest.raises(
        ValueError, match=r"`variants` must work on `model`.*'broken', which raises LookupError: no such"
    ):
        question(network("adam", "mse"), variants={"broken": broken})


def not_built():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (lambda: network(), ValueError, "`model` must be compiled.*'small', which is not compiled$"),
        (lambda: network("adam"), ValueError, "`model` must be compiled.*not compiled with a loss"),
        (not_built, ValueError, "`model` must be built"),
        (lambda: 3, TypeError, "`model` must return a keras.Model. Received: 3"),
        (lambda: network(keras.optimizers.Adam(use_ema=True), "mse"), ValueError, "does not average weights"),
    ],
)
def test_bad_models(model, error, message):
    with pytest.raises(error, match=message):
        question(model)
    if error is ValueError:
        with pytest.raises(error, match=message):
            question(model())


def test_a_model_is_a_model():
    with pytest.raises(TypeError, match=r"`model` must be a compiled keras.Model, or a function"):
        question("model.keras")


@pytest.mark.parametrize(
    ("data", "given", "message"),
    [
        (((X, Y), None, None), {"batch_size": 65}, "`batch_size` must be at most the number of training examples, 64"),
        (((X[:, :2], Y), None, None), {}, "`model` must take the data.*'small', which raises"),
        (((X, Y), None, None), {"steps_per_epoch": 2}, "`steps_per_epoch` must be None for arrays"),
        ((Batches(None), Batches(), Batches()), {}, "`steps_per_epoch` must be given for an infinite dataset"),
        (((X, Y, X[:, 0] ** 2), None, None), {"class_weight": {0: 1.0}}, "`class_weight` None where .*sample weights"),
        (((X, Y), None, None), {"class_weight": {-1: 1.0}}, "`class_weight` must map class numbers"),
    ],
)
def test_data_that_do_not_fit(data, given, message):
    with pytest.raises(ValueError, match=message):
        question(network("adam", "mse"), data, **given)


def test_class_weights_of_a_loader():
    torch = pytest.importorskip("torch")
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*map(torch.tensor, (X, Y))), batch_size=10)
    with pytest.raises(ValueError, match="`class_weight` must be None unless"):
        question(network("adam", "mse"), (loader, loader, loader), class_weight={0: 1.0, 1: 2.0})


@pytest.mark.parametrize(
    ("optimizer", "data", "together"),
    [
        ("adam", ((X, Y), None, None), True),
        (keras.optimizers.Adam(clipnorm=1.0), ((X, Y), None, None), False),
        ("adam", (Batches(), Batches(), Batches()), False),
        ("adam", ((X, Y, np.ones(100)), None, None), False),
        ("adam", (lambda index: holdout(X, Y[:, 0], index, standardize_targets=True), None, None), True),
    ],
)
def test_fits_that_train_together(optimizer, data, together):
    comparison = question(network(optimizer, "mse", metrics=["mae"]), data).comparison(3)
    assert (comparison.vectorize > 1) == together
    assert (comparison.splits, comparison.seeds) == ((1, 3) if isinstance(data[0], Batches) else (3, 1))


def test_rates_are_tried_around_the_models_own():
    found = question(network(keras.optimizers.SGD(0.1), "mse")).comparison(2)
    assert found.grid["learning_rate"] == pytest.approx([0.0316, 0.1, 0.316])
    assert found.extend == "learning_rate"
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    found = question(network(keras.optimizers.SGD(schedule), "mse")).comparison(2)
    assert found.grid["learning_rate_factor"] == pytest.approx([0.316, 1, 3.16])


@pytest.mark.parametrize("steps", [None, 7])
def test_time_of_a_pair_is_measured(steps):
    data = (Batches(None if steps else 3), Batches(), Batches())
    fit, pair = question(network("sgd", "mse"), data, steps_per_epoch=steps).seconds()
    assert 0 < fit < pair < np.inf
    # 2 models with 3 learning rates and a final fit each.
    assert pair == pytest.approx(8 * fit, rel=1e-6)


def test_identity_holds_what_the_engine_does_not_compare():
    one, same = question(network("adam", "mse")), question(network("adam", "mse"))
    assert one.identity == same.identity  # new weights are drawn in any case
    model = network("adam", "mse")
    trained, again = (question(model, is_drawn=False).identity for _ in range(2))
    assert trained == again != one.identity
    assert question(network("adam", "mse"), is_drawn=False).identity != trained
