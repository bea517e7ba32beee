import keras
import numpy as np
import pandas as pd
import pytest

from keras_actlab.advice.data import first_batch, prepare
from keras_actlab.experiments import Split, holdout
from tests.backends import INSTALLED

pytestmark = pytest.mark.one_backend
RNG = np.random.default_rng(0)
X, Y, W = RNG.normal(size=(50, 3)), RNG.normal(size=50), RNG.uniform(size=50)
PART = X[:20], Y[:20]


class Batches(keras.utils.PyDataset):
    def __init__(self, x=X, y=Y, length=5):
        super().__init__()
        self.x, self.y, self.length = x, y, length

    @property
    def num_batches(self):
        return self.length

    def __getitem__(self, index):
        rows = slice(10 * (index % 5), 10 * (index % 5) + 10)
        return self.x[rows], self.y[rows]


def test_one_table_is_divided_at_random():
    data = prepare((X, Y), None, None)
    assert data.unit == "split"
    for index in (0, 1):
        split, expected = data.source(index), holdout(X, Y, index, standardize_inputs=False)
        assert split.fingerprint() == expected.fingerprint()
    assert data.first.sizes == {"train": 32, "validation": 8, "test": 10}
    assert data.source(0).fingerprint() != data.source(1).fingerprint()


def test_sample_weights_go_with_their_rows():
    split = prepare((X, Y, W), None, None).source(3)
    weight_of = dict(zip(Y, W, strict=True))
    for _, y, w in (split.train, split.validation, split.test):
        np.testing.assert_allclose(w, [weight_of[target] for target in y], rtol=1e-6)


def test_given_parts_are_kept():
    data = prepare((X, Y), PART, (X[5:], Y[5:]))
    assert data.unit == "seed"
    assert data.first.sizes == {"train": 50, "validation": 20, "test": 45}
    assert "this division" in data.note


@pytest.mark.parametrize("missing", ["validation", "test"])
def test_a_missing_part_is_drawn_from_the_training_part(missing):
    parts = {"validation": PART, "test": PART} | {missing: None}
    split = prepare((X, Y), **parts).first
    assert split.sizes == {"train": 40, "validation": 20, "test": 20} | {missing: 10}
    drawn = getattr(split, missing)[1]
    assert set(split.train[1]) | set(drawn) == set(Y)
    assert not set(split.train[1]) & set(drawn)


def test_frames_series_and_dictionaries():
    frame = pd.DataFrame(X, columns=list("abc"), index=range(100, 150))
    split = prepare((frame, pd.Series(Y, index=frame.index[::-1])), None, None).first
    assert split.fingerprint() == prepare((X, Y), None, None).first.fingerprint()
    inputs = {"table": frame, "text": np.array(["a"] * 50)}
    split = prepare((inputs, Y), None, None).first
    assert split.train[0]["table"].shape == (32, 3)


def tf_data(x, y):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(10)


def loader(x, y):
    torch = pytest.importorskip("torch")
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*map(torch.tensor, (x, y))), batch_size=10)


def of_grain(x, y):
    import grain

    rows = grain.MapDataset.range(len(x))
    return rows.map(lambda row: (x[row], y[row])).batch(10)


KINDS = [Batches, of_grain, *([tf_data] * ("tensorflow" in INSTALLED)), *([loader] * ("torch" in INSTALLED))]


@pytest.mark.parametrize("kind", KINDS)
def test_datasets(kind):
    data = prepare(kind(X, Y), kind(X, Y), kind(X, Y))
    assert data.unit == "seed"
    assert data.first.is_dataset
    x, y = first_batch(data, 4)
    np.testing.assert_allclose(x, X[:10], rtol=1e-6)
    np.testing.assert_allclose(y, Y[:10], rtol=1e-6)
    bad = np.where(np.arange(50) == 3, np.nan, Y)
    with pytest.raises(ValueError, match=r"`validation` must hold finite.*1 NaN or infinite values in its targets"):
        prepare(kind(X, Y), kind(X, bad), kind(X, Y))


def test_a_function_of_a_seed_returns_datasets():
    data = prepare(lambda seed: Batches(X + seed), Batches(), Batches())
    assert data.unit == "seed"
    train, _ = data.first.of_stage("tune", 2)
    np.testing.assert_array_equal(train[0][0], X[:10] + 2)
    with pytest.raises(ValueError, match="`train` must hold finite numbers"):
        prepare(lambda seed: Batches(X * np.nan), Batches(), Batches())


def test_a_dataset_without_an_end():
    data = prepare(Batches(length=None), Batches(), Batches())
    assert data.first.is_endless


def test_splits():
    split = holdout(X, Y, 0, standardize_targets=True)
    assert prepare(split, None, None).unit == "seed"
    assert prepare(split, None, None).first is split
    data = prepare(lambda index: holdout(X, Y, index), None, None)
    assert data.unit == "split"
    assert data.source(2).fingerprint() == holdout(X, Y, 2).fingerprint()


def no_parameter():
    return Batches()


BAD = np.where(np.arange(50) == 3, np.nan, Y)
INFINITE = np.where(np.eye(50, 3) > 0, np.inf, X)


@pytest.mark.parametrize(
    ("train", "validation", "test", "message"),
    [
        ((X, BAD), None, None, "must hold finite numbers.*1 NaN or infinite values in its targets|must be finite"),
        ((INFINITE, Y), PART, PART, "`train` must hold finite numbers.*3 NaN or infinite values in its inputs"),
        ((X, Y), (X, BAD), PART, "`validation` must hold finite numbers"),
        ((X, Y), PART, (X, BAD), "`test` must hold finite numbers"),
        ((X, Y[:20]), PART, None, r"`train` must hold as many inputs as targets.*lengths \[50, 20\]"),
        ((X, Y[:20]), None, None, r"`train` must hold as many inputs as targets.*lengths \[50, 20\]"),
        ((X, Y), PART, (X[:4], Y[:3]), "`test` must hold as many inputs as targets"),
        ((X, Y), PART, (X[:, :2], Y), "must hold examples of the same structure and shape"),
        ((X, Y), PART, (X[:0], Y[:0]), "`test` must hold .*at least one"),
        (Batches(), None, Batches(), "`validation` must be given where `train` is a dataset"),
        (Batches(), Batches(), None, "`test` must be given where `train` is a dataset"),
        (lambda seed: Batches(), Batches(), None, "`test` must be given where `train` is a dataset"),
        (Batches(), Batches(length=0), Batches(), "`validation` must yield a batch"),
        (Batches(), Batches(length=None), Batches(), "`validation` must have an end"),
        (Split(PART, None, PART), None, None, "`validation` must be given"),
        (lambda index: Split(PART, None, PART), None, None, "`validation` must be given"),
        (Split(PART, PART, PART), PART, None, "`validation` must be None where `train` is a split"),
        (lambda index: Split(PART, PART, PART), None, PART, "`test` must be None where `train` returns splits"),
    ],
)
def test_bad_values(train, validation, test, message):
    with pytest.raises(ValueError, match=message):
        prepare(train, validation, test)


@pytest.mark.parametrize(
    ("train", "validation", "test", "message"),
    [
        (None, None, None, "`train` must be"),
        (X, None, None, "`train` must be"),
        (pd.DataFrame(X), None, None, "`train` must be"),
        ((X,), None, None, "`train` must be"),
        (iter([(X, Y)]), Batches(), Batches(), "`train` must be"),
        ((X, Y), PART, 3, "`test` must be"),
        ((X, Y), PART, Batches(), "`train` must be a dataset"),
        (Batches(), PART, Batches(), "`validation` must be a dataset"),
        (no_parameter, Batches(), Batches(), "`train` must be a function of a seed or an index"),
        (lambda seed: 3, Batches(), Batches(), "`train` must return"),
        ((X, 3.0), None, None, r"`train\[1\]` must be an array"),
    ],
)
def test_bad_types(train, validation, test, message):
    with pytest.raises(TypeError, match=message):
        prepare(train, validation, test)
