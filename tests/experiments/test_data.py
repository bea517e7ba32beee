import dataclasses
import threading

import grain
import keras
import numpy as np
import pandas as pd
import pytest
from keras import ops

from keras_actlab import experiments
from keras_actlab.experiments.data import number_of_batches
from tests.experiments.examples import comparison, data

pytestmark = pytest.mark.one_backend


def table(count=50):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 3)) * [1, 10, 0] + [5, 0, 2]  # the last column is constant
    return x, rng.normal(size=count) * 7 + 3


def test_parts_do_not_overlap_and_make_up_the_table():
    x, _ = table()
    split = experiments.holdout(x, np.arange(50), seed=3)
    parts = [split.train[1], split.validation[1], split.test[1]]
    assert split.sizes == {"train": 32, "validation": 8, "test": 10}
    assert sorted(np.concatenate(parts)) == list(range(50))
    again = experiments.holdout(x, np.arange(50), seed=3)
    np.testing.assert_array_equal(again.test[0], split.test[0])
    assert not np.array_equal(experiments.holdout(x, np.arange(50), seed=4).test[1], split.test[1])


def test_training_examples_alone_standardize():
    x, y = table()
    split = experiments.holdout(x, y, seed=0, standardize_targets=True)
    rows = experiments.holdout(x, np.arange(50), seed=0)
    train = rows.train[1]
    deviation = np.where(x[train].std(axis=0) > 0, x[train].std(axis=0), 1)
    for part in ("train", "validation", "test"):
        expected = (x[getattr(rows, part)[1]] - x[train].mean(axis=0)) / deviation
        np.testing.assert_allclose(getattr(split, part)[0], expected, atol=1e-5)
        np.testing.assert_allclose(split.to_units(getattr(split, part)[1]), y[getattr(rows, part)[1]], atol=1e-5)
    assert abs(split.train[1].mean()) < 1e-6
    assert np.all(split.train[0][:, 2] == 0)


def test_constant_targets_are_centred():
    split = experiments.holdout(table()[0], np.full(50, 0.1), seed=0, standardize_targets=True)
    np.testing.assert_allclose(split.train[1], 0, atol=1e-7)
    np.testing.assert_allclose(split.to_units(split.test[1]), 0.1)


def test_development_is_training_and_validation():
    split = data(0)
    x, y = split.development
    np.testing.assert_array_equal(x, np.concatenate([split.train[0], split.validation[0]]))
    np.testing.assert_array_equal(y, np.concatenate([split.train[1], split.validation[1]]))


def test_sample_weights_are_part_of_the_data():
    x, y = table(6)
    weights = np.arange(4.0)
    split = experiments.Split((x[:4], y[:4], weights), (x[4:5], y[4:5]), (x[5:], y[5:]))
    assert split.has_weights
    assert split.sizes == {"train": 4, "validation": 1, "test": 1}
    np.testing.assert_array_equal(split.development[2], [0, 1, 2, 3, 1])  # 1 where none was given
    np.testing.assert_array_equal(split.test[2], [1])
    other = dataclasses.replace(split, train=(x[:4], y[:4], weights[::-1]))
    assert other.fingerprint() != split.fingerprint()
    assert not data(0).has_weights


ROWS = np.arange(50)


def parts_of(split):
    return [getattr(split, part) for part in ("train", "validation", "test")]


@pytest.mark.parametrize(
    "x",
    [
        np.random.default_rng(0).integers(256, size=(50, 4, 4, 3)).astype("uint8"),
        {"tokens": np.arange(100).reshape(50, 2), "numbers": [ROWS / 7, np.full((50, 1), np.nan)]},
    ],
    ids=["images", "several inputs"],
)
def test_inputs_of_any_kind_are_divided_as_a_table_is(x):
    y = {"class": ROWS, "box": np.stack([ROWS, -ROWS], axis=1).astype("float32")}
    split = experiments.holdout(x, y, seed=3, standardize_inputs=False, sample_weight=ROWS / 50)
    for part, of_table in zip(parts_of(split), parts_of(experiments.holdout(table()[0], ROWS, seed=3)), strict=True):
        rows = of_table[1]
        for divided, whole in zip(keras.tree.flatten(part), keras.tree.flatten((x, y, ROWS / 50)), strict=True):
            np.testing.assert_array_equal(divided, whole[rows].astype(divided.dtype))
        assert part[1]["box"].dtype == "float32"
        assert keras.tree.flatten(part[0])[-1].dtype == keras.tree.flatten(x)[-1].dtype


def test_sample_weights_of_a_table_are_divided_with_it():
    x, _ = table()
    for _, targets, weights in parts_of(experiments.holdout(x, ROWS, seed=0, sample_weight=ROWS + 1)):
        np.testing.assert_array_equal(weights, targets + 1)


def test_targets_of_images_are_standardized():
    x, y = table()
    plain, images = (
        experiments.holdout(inputs, y, seed=0, standardize_targets=True, standardize_inputs=table)
        for inputs, table in ((x, True), (x[:, None], False))
    )
    np.testing.assert_array_equal(images.test[1], plain.test[1])
    np.testing.assert_array_equal(images.to_units(images.test[1]), plain.to_units(plain.test[1]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y": [np.zeros(5), np.full((5, 2), np.nan)]}, "`y` must be finite"),
        ({"y": np.array(["a"] * 5)}, "`y` must hold numbers"),
        ({"y": np.zeros(4)}, r"`x`, `y` must have shapes of equal length.*y.shape=\(4,\)"),
        ({"x": [np.zeros((5, 2)), np.zeros((4, 2))]}, "`x`, `y` must have shapes of equal length"),
        ({"y": np.zeros((5, 1)), "standardize_targets": True}, r"`y` must have shape \(examples,\) where"),
        ({"y": [np.zeros(5), np.ones(5)], "standardize_targets": True}, r"`y` must have shape \(examples,\) where"),
        (
            {"sample_weight": np.ones(4)},
            r"`sample_weight` must have shapes of equal.*sample_weight.shape=\(4,\)",
        ),
        ({"sample_weight": -np.ones(5)}, "`sample_weight` must be sample weights, finite and not negative"),
        ({"standardize_inputs": True}, r"`x` must have shape \(examples, features\).*unless `standardize_inputs`"),
    ],
)
def test_holdout_checks_inputs_of_any_kind(changes, words):
    arguments = {"x": np.zeros((5, 4, 4)), "y": np.zeros(5), "seed": 0, "standardize_inputs": False}
    with pytest.raises(ValueError, match=words):
        experiments.holdout(**arguments | changes)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.zeros(5), np.zeros(5), "shape"),
        (np.zeros((5, 2)), np.zeros(4), "shape"),
        (np.full((5, 2), np.nan), np.zeros(5), "`x` must be finite"),
        (np.zeros((5, 2)), np.full(5, np.inf), "`y` must be finite"),
        (np.full((5, 2), "a"), np.zeros(5), "`x` must hold numbers"),
        (np.zeros((5, 2)), np.full(5, None), "`y` must hold numbers"),
        (np.array([[-1e300, 0], [1e300, 1]] * 3), np.zeros(6), r"`x` must hold numbers that can be.*1e\+300"),
    ],
)
def test_holdout_checks_its_arrays(x, y, words):
    with pytest.raises(ValueError, match=words):
        experiments.holdout(x, y, seed=0)


def test_a_split_needs_as_many_inputs_as_targets():
    good = (np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(ValueError, match="`validation`"):
        experiments.Split(good, (np.zeros((2, 3)), np.zeros(3)), good)
    with pytest.raises(ValueError, match="`test`"):
        experiments.Split(good, good, (np.zeros((0, 3)), np.zeros(0)))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"train": np.zeros((2, 3))}, TypeError, "`train` must be a pair"),
        ({"train": (np.zeros((2, 3)), np.zeros(2), np.ones(2), np.ones(2))}, TypeError, "`train` must be a pair"),
        ({"test": (np.zeros((2, 3)), np.zeros(2), np.ones(3))}, ValueError, r"`test` must hold.*\[2, 2, 3\]"),
        ({"test": (np.zeros((2, 3)), np.zeros(2), np.ones((2, 1)))}, ValueError, r"`test\[2\]` must be sample weights"),
        ({"test": (np.zeros((2, 3)), np.zeros(2), [1, -1])}, ValueError, r"`test\[2\]`.*not negative"),
        ({"test": (np.zeros((2, 3)), np.zeros(2), [1, np.inf])}, ValueError, r"`test\[2\]`.*finite"),
        ({"test": (np.zeros((2, 3)), np.zeros(2), ["a", "b"])}, ValueError, r"`test\[2\]` must be sample weights"),
        ({"test": (np.zeros((2, 4)), np.zeros(2))}, ValueError, "same structure and shape"),
        ({"test": (np.zeros((2, 3)), np.zeros((2, 1)))}, ValueError, "same structure and shape"),
        ({"validation": ([np.zeros((2, 3))], np.zeros(2))}, ValueError, "same structure and shape"),
        ({"train": (np.zeros((2, 3)), pd.Series(["a", "b"], dtype="category"))}, ValueError, r"`train\[1\]`"),
        ({"to_units": "metres"}, TypeError, "`to_units`"),
        ({"to_units": lambda: 0}, TypeError, "`to_units`"),
    ],
)
def test_a_split_checks_its_parts(changes, error, words):
    good = (np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(error, match=words):
        experiments.Split(**{"train": good, "validation": good, "test": good} | changes)


def test_a_split_holds_arrays_whatever_it_was_given():
    x, y = table(6)
    index = [3, 1, 2, 0]
    frame = (pd.DataFrame(x[:4], index=index), pd.Series(y[:4], index=index))
    split = experiments.Split(frame, (x[4:5].tolist(), y[4:5].tolist()), (x[5:], ops.convert_to_tensor(y[5:])))
    np.testing.assert_array_equal(split.train[0], x[:4])
    np.testing.assert_array_equal(split.train[1], y[:4])
    np.testing.assert_array_equal(split.development[1], y[:5])
    nested = ({"a": x, "b": [y, y[:, None]]}, {"c": y, "d": y, "e": y})
    split = experiments.Split(nested, nested, nested)
    assert split.sizes == {"train": 6, "validation": 6, "test": 6}
    assert split.development[0]["b"][1].shape == (12, 1)


def test_holdout_reads_tables_of_pandas():
    x, y = table()
    shuffled = np.random.default_rng(0).permutation(50)
    frame = experiments.holdout(pd.DataFrame(x, index=shuffled), pd.Series(y, index=shuffled), seed=0)
    for part in ("train", "validation", "test"):
        for got, expected in zip(getattr(frame, part), getattr(experiments.holdout(x, y, seed=0), part), strict=True):
            np.testing.assert_array_equal(got, expected)


def test_options_are_true_or_false():
    for option in ("standardize_targets", "standardize_inputs"):
        with pytest.raises(TypeError, match=f"`{option}` must be True or False"):
            experiments.holdout(*table(), seed=0, **{option: "no"})


class Sequence(keras.utils.PyDataset):
    """Batches of ten rows, as a PyDataset."""

    def __init__(self, arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays[0]) // 10

    def __getitem__(self, index):
        return tuple(array[10 * index : 10 * index + 10] for array in self.arrays)


def as_grain(arrays):
    return grain.MapDataset.source(list(zip(*arrays, strict=True))).batch(10)


def as_tensorflow(arrays):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(arrays).batch(10)


def as_torch(arrays):
    torch = pytest.importorskip("torch")
    tensors = map(torch.as_tensor, arrays)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*tensors), batch_size=10)


KINDS = {"PyDataset": Sequence, "grain": as_grain, "tf.data": as_tensorflow, "DataLoader": as_torch}


def parts():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3)).astype("float32")
    y = (x @ [1.0, -2.0, 0.5]).astype("float32")[:, None]
    return [(x[:30], y[:30]), (x[30:40], y[30:40]), (x[40:], y[40:])]


def squared_error(targets, predictions):
    assert targets.shape == predictions.shape == (len(targets), 1)
    return np.mean((targets - predictions) ** 2)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Fits on arrays without shuffling, as the datasets have them."""
    (x, y), validation, test = parts()
    scores = {}
    for rate in (0.01, 0.1):
        for stage, part in {"tune": validation, "final": test}.items():
            model = built(rate)
            model.fit(x, y, batch_size=10, epochs=3, shuffle=False, verbose=0)
            scores[stage, rate] = model.evaluate(*part, verbose=0)
    return scores


def built(learning_rate, use_bias=True):
    layer = keras.layers.Dense(1, kernel_initializer="zeros", use_bias=use_bias)
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile(keras.optimizers.SGD(learning_rate), "mse")
    return model


@pytest.mark.parametrize("metrics", [["loss"], {"loss": squared_error}], ids=["by name", "by function"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:`.*` is set to a PyDataset")
def test_datasets_are_trained_on_as_their_arrays_would_be(kind, metrics, expected, tmp_path):
    split = experiments.Split(*map(KINDS[kind], parts()))
    assert split.is_dataset
    assert split.sizes == {"train": None, "validation": None, "test": None}
    described = comparison(
        methods={"linear": built}, data=split, metrics=metrics, grid={"learning_rate": [0.01, 0.1]}, epochs=3,
        splits=1, batch_size=None, vectorize=1, validate_every=None,
    )  # fmt: skip
    results = experiments.run(described, tmp_path / "results.jsonl", progress=False)
    found = results.tuning.set_index("learning_rate")["loss"]
    if kind != "PyDataset":  # whose batches `fit` shuffles
        assert found.to_dict() == pytest.approx({rate: expected["tune", rate] for rate in (0.01, 0.1)}, rel=1e-4)
        assert results.final["loss"].item() == pytest.approx(expected["final", found.idxmin()], rel=1e-4)
    assert results.final["loss"].item() < expected["final", 0.01]


@pytest.mark.parametrize("kind", ["PyDataset", "tf.data"])
@pytest.mark.filterwarnings("ignore:`.*` is set to a PyDataset")
def test_class_weights_weight_the_loss_of_datasets(kind, tmp_path):
    x = parts()[0][0][:10]  # one batch, in which order does not matter
    y = np.float32([0, 1] * 5)
    kernel = np.zeros(3)
    for _ in range(3):
        kernel -= 0.1 * 2 * np.where(y == 1, 5, 0.5) * (x @ kernel - y) @ x / 10
    described = comparison(
        methods={"linear": lambda: built(0.1, use_bias=False)}, grid={}, metrics=["loss"], epochs=3, splits=1,
        data=experiments.Split(KINDS[kind]((x, y)), None, KINDS[kind]((x, y))), batch_size=None, vectorize=1,
        validate_every=None, class_weight={0: 0.5, 1: 5},
    )  # fmt: skip
    loss = experiments.run(described, tmp_path / "results.jsonl", progress=False).final["loss"].item()
    assert loss == pytest.approx(np.mean((x @ kernel - y) ** 2), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_length_of_a_dataset_is_known(kind):
    assert number_of_batches(KINDS[kind](parts()[0])) == 3


def test_the_order_of_a_function_follows_the_seed(tmp_path):
    train, _, test = parts()
    asked = []

    def shuffled(seed):
        asked.append(seed)
        return grain.MapDataset.source(list(zip(*train, strict=True))).seed(seed).shuffle().batch(10)

    described = comparison(
        methods={"linear": lambda: built(0.1)}, data=experiments.Split(shuffled, None, as_grain(test)), grid={},
        metrics=["loss"], seeds=2, splits=1, batch_size=None, vectorize=1, validate_every=None, epochs=1,
    )  # fmt: skip
    losses = experiments.run(described, tmp_path / "results.jsonl", progress=False).final["loss"]
    assert {0, 1} <= set(asked)
    assert losses.nunique() == 2  # the initial weights are equal


def test_endless_datasets_have_epochs_of_a_given_length(tmp_path):
    train, _, test = parts()
    described = comparison(
        methods={"linear": lambda: built(0.1)}, grid={}, metrics=["loss"], steps_per_epoch=2, epochs=3, splits=1,
        data=experiments.Split(as_grain(train).repeat(), None, as_grain(test)), batch_size=None, vectorize=1,
        validate_every=None,
    )  # fmt: skip
    counted = []

    class Count(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            counted.append(batch)

    described = dataclasses.replace(described, callbacks=lambda *_: [Count()])
    assert not len(experiments.run(described, tmp_path / "results.jsonl", progress=False).failures)
    assert counted == [0, 1] * 3


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"validation": parts()[1]}, TypeError, "`validation` must be a dataset, as other parts are"),
        ({"test": iter([parts()[2]])}, TypeError, "`test` must be a dataset.*a generator can"),
        ({"train": lambda: None}, TypeError, "`train` must be a function of a seed, or a dataset"),
        ({"test": as_grain(parts()[2]).repeat()}, ValueError, "`test` must have an end"),
        ({"to_units": "metres"}, TypeError, "`to_units`"),
    ],
)
def test_datasets_are_checked(changes, error, words):
    good = dict(zip(("train", "validation", "test"), map(as_grain, parts()), strict=True))
    with pytest.raises(error, match=words):
        experiments.Split(**good | changes)


@pytest.mark.parametrize(
    ("train", "error", "words"),
    [
        (as_grain(parts()[0]).filter(lambda batch: False).to_iter_dataset(), ValueError, "`train` must yield a batch"),
        (as_grain(parts()[0]).map(lambda batch: batch[0]), TypeError, "`train` must yield batches"),
        (as_grain(parts()[0]).map(lambda batch: (batch[0][:, 0], batch[1])), ValueError, "same structure and shape"),
        (lambda seed: parts()[0], TypeError, "`train` must return a dataset"),
    ],
)
def test_batches_are_checked_before_training(train, error, words):
    split = experiments.Split(train, None, as_grain(parts()[2]))
    with pytest.raises(error, match=words):
        split.fingerprint()


def test_a_fingerprint_tells_datasets_apart():
    train, validation, test = parts()

    def fingerprint(train):
        return experiments.Split(as_grain(train), as_grain(validation), as_grain(test)).fingerprint()

    changed = [array.copy() for array in train]
    changed[1][-1] += 1  # in the last batch
    prints = [fingerprint(train), fingerprint(changed), fingerprint([array[:20] for array in train])]
    assert len(set(prints)) == 3
    assert fingerprint(train) == prints[0]


def test_datasets_for_other_processes_come_from_a_function(tmp_path):
    class Locked(Sequence):
        lock = threading.Lock()

        def __getstate__(self):
            return {"lock": self.lock}  # which cannot be pickled

    described = comparison(
        methods={"linear": lambda: built(0.1)}, data=experiments.Split(*map(Locked, parts())), grid={}, splits=1,
        metrics=["loss"], batch_size=None, vectorize=1, validate_every=None,
    )  # fmt: skip
    with pytest.raises(TypeError, match=r"`data` must be a function that makes them\. Received: .*pickle"):
        experiments.run(described, tmp_path / "results.jsonl", jobs=2, progress=False)
