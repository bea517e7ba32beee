import keras
import numpy as np
import pytest

from keras_actlab import models
from recipes.common import dpo, preferences
from tests.backends import finite_differences, gradients, numpy

BETA = 0.7
SIZE = 7


def bigram(table):
    """A policy that sees one token only: row k of the table has the logits of what follows token k."""
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in ("token_ids", "padding_mask")}
    embedding = keras.layers.Embedding(*table.shape)
    seen = keras.ops.cast(inputs["padding_mask"], embedding.compute_dtype)[..., None]
    logits = keras.layers.Dropout(0.5)(embedding(inputs["token_ids"]) * seen)  # which is to be off
    policy = keras.Model(inputs, logits)
    embedding.set_weights([table])
    return policy


def made_up(pairs=3, size=SIZE, length=10):
    """Tokens of pairs, which end before the end of the array."""
    rng = np.random.default_rng(0)
    parts = [[rng.integers(0, size, rng.integers(1, 4)) for _ in range(3)] for _ in range(pairs)]
    return [preferences.Tokens(*part, False) for part in parts]


def stacked(pairs, length=10, responses=preferences.RESPONSES):
    found = [preferences.pad(tokens, length, responses) for tokens in pairs]
    return {name: np.stack([arrays[name] for arrays in found]) for name in found[0]}


def expected_log_probabilities(table, pairs):
    """One token after the other, in float64."""
    found = np.zeros((len(pairs), 2))
    for k, (prompt, *responses, _) in enumerate(pairs):
        for j, response in enumerate(responses):
            before = prompt[-1]
            for token in response:
                found[k, j] += table[before, token] - np.log(np.exp(table[before].astype("float64")).sum())
                before = token
    return found


def expected_loss(table, pairs, reference, beta=BETA):
    (chosen, rejected) = (expected_log_probabilities(table, pairs) - reference).T
    return np.log1p(np.exp(-beta * (chosen - rejected))).mean()


def random_table(seed=0):
    return np.random.default_rng(seed).normal(0, 1, (SIZE, SIZE)).astype("float32")


# Log-probabilities.


def test_log_probabilities_add_up_token_by_token():
    table, pairs = random_table(), made_up()
    found = numpy(dpo.ResponseLogProbability(bigram(table))(stacked(pairs), training=True))
    np.testing.assert_allclose(found, expected_log_probabilities(table, pairs), rtol=1e-5)


def test_batches_may_differ_in_length():
    # On TensorFlow a function that is compiled anew for another length gets a length of None (keras-core#835).
    table, pairs = random_table(), made_up()
    network = dpo.ResponseLogProbability(bigram(table))
    for length in (10, 11, 14):
        found = network.predict_on_batch(stacked(pairs, length))
        np.testing.assert_allclose(found, expected_log_probabilities(table, pairs), rtol=1e-5)


def tiny(activation=None):
    tokens = {"vocabulary": {"<|endoftext|>": 0, "a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "ab": 6}, "merges": ["a b"]}
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16, "max_sequence_length": 10}
    return models.gpt2(activation=activation, **tokens, **sizes)


@pytest.mark.one_backend
def test_log_probabilities_of_gpt2_are_those_of_its_logits():
    policy = tiny()
    policy.preprocessor = None  # which would want texts
    texts = np.random.default_rng(0).integers(0, SIZE, (4, 7))
    pairs = [preferences.Tokens(one[:3], one[3:], one[3:], False) for one in texts]
    found = dpo.ResponseLogProbability(policy).predict_on_batch(stacked(pairs, responses=["chosen"]))
    logits = policy.predict_on_batch({"token_ids": texts, "padding_mask": np.ones_like(texts)}).astype("float64")
    terms = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = [[sum(row[k - 1, one[k]] for k in range(3, 7))] for row, one in zip(terms, texts, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.one_backend
def test_only_tokens_of_responses_count():
    pairs = [tokens._replace(prompt=np.array([1, 2, 3])) for tokens in made_up()]
    arrays = stacked(pairs)
    network = dpo.ResponseLogProbability(bigram(random_table()))
    before = numpy(network(arrays))
    prompt = arrays | {"token_ids": arrays["token_ids"].copy()}
    prompt["token_ids"][..., :2] = 5  # all but the token before the response, which is what the policy sees
    np.testing.assert_array_equal(numpy(network(prompt)), before)

    network = dpo.ResponseLogProbability(tiny())
    before = network.predict_on_batch(arrays)
    padding = arrays | {"token_ids": np.where(arrays["padding_mask"], arrays["token_ids"], 5)}
    np.testing.assert_allclose(network.predict_on_batch(padding), before, rtol=1e-6)
    assert not np.allclose(network.predict_on_batch(prompt), before)  # it sees the whole prompt


def test_mixed_precision_ends_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    table, pairs = random_table(), made_up()
    policy = bigram(table)
    assert keras.backend.standardize_dtype(policy.output.dtype) == "bfloat16"
    found = dpo.ResponseLogProbability(policy)(stacked(pairs))
    rounded = numpy(keras.ops.cast(keras.ops.cast(table, "bfloat16"), "float32"))
    np.testing.assert_allclose(numpy(found), expected_log_probabilities(rounded, pairs), rtol=1e-5)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    assert keras.backend.standardize_dtype(dpo.DPOLoss(BETA)(np.zeros((3, 2)), found).dtype) == "float32"


# Loss and metrics.


def test_without_a_difference_the_loss_is_log_2():
    rows = np.random.default_rng(0).normal(-30, 5, (4, 2)).astype("float32")
    assert float(dpo.DPOLoss(BETA)(rows, rows)) == pytest.approx(np.log(2))
    np.testing.assert_array_equal(numpy(dpo.margin(rows, rows, BETA)), 0)
    np.testing.assert_array_equal(numpy(dpo.accuracy(rows, rows)), 0)


def test_by_hand():
    reference = np.array([[-10.0, -12.0], [-5.0, -5.0]], "float32")
    policy = np.array([[-8.0, -13.0], [-6.0, -5.5]], "float32")  # d = 2 + 1 and -1 + 0.5
    np.testing.assert_allclose(numpy(dpo.margin(reference, policy, 2.0)), [6, -1])
    np.testing.assert_array_equal(numpy(dpo.accuracy(reference, policy)), [1, 0])
    expected = (np.log1p(np.exp(-6)) + np.log1p(np.exp(1))) / 2
    assert float(dpo.DPOLoss(2.0)(reference, policy)) == pytest.approx(expected)
    far = np.array([[0.0, 1000.0]], "float32")
    assert float(dpo.DPOLoss(1.0)(np.zeros_like(far), far)) == pytest.approx(1000)


def test_the_gradient_is_that_of_the_formula():
    table, pairs, arrays = random_table(), made_up(), stacked(made_up())
    reference = expected_log_probabilities(random_table(1), pairs)
    network = dpo.ResponseLogProbability(bigram(table))
    fixed = [variable.value for variable in network.non_trainable_variables]

    def loss(weights):
        return dpo.DPOLoss(BETA)(reference, network.stateless_call([weights], fixed, arrays)[0])

    (found,) = gradients(loss, table)
    (expected,) = finite_differences(lambda weights: expected_loss(weights, pairs, reference), table)
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("beta", [0, -1, float("nan"), float("inf")])
def test_beta_must_be_positive(beta):
    with pytest.raises(ValueError, match=r"`beta` must be positive and finite\. Received: beta="):
        dpo.DPOLoss(beta)


# Training.


def test_a_step_of_training_and_an_evaluation():
    table, pairs = random_table(), made_up(5)
    reference = expected_log_probabilities(random_table(1), pairs)
    network = dpo.ResponseLogProbability(bigram(table))
    dpo.compile_dpo(network, keras.optimizers.SGD(0.5), BETA)
    data = preferences.batches(pairs, 10, 2, targets=reference)
    found = network.evaluate(data, steps=3, verbose=0, return_dict=True)

    preferred = np.subtract(*(expected_log_probabilities(table, pairs) - reference).T)
    expected = {
        "loss": expected_loss(table, pairs, reference),
        "margin": BETA * preferred.mean(),
        "accuracy": (preferred > 0).mean(),
    }
    assert found == pytest.approx(expected, rel=1e-5)

    network.fit(data, steps_per_epoch=1, shuffle=False, verbose=0)
    (gradient,) = finite_differences(lambda weights: expected_loss(weights, pairs[:2], reference[:2]), table)
    np.testing.assert_allclose(network.get_weights()[0], table - 0.5 * gradient, atol=2e-6)


def test_fine_tuning_maximizes_the_likelihood():
    table, pairs = random_table(), made_up(4)
    network = dpo.ResponseLogProbability(bigram(table))
    dpo.compile_fine_tuning(network, keras.optimizers.SGD(0.5))
    data = preferences.batches(pairs, 10, 4, ["chosen"])
    history = network.fit(data, steps_per_epoch=1, shuffle=False, verbose=0).history

    def loss(weights):
        return -expected_log_probabilities(weights, pairs)[:, 0].mean()

    counts = np.array([len(tokens.chosen) for tokens in pairs])
    assert history["loss"] == pytest.approx([loss(table)], rel=1e-5)
    surprise = -(expected_log_probabilities(table, pairs)[:, 0] / counts).mean()
    assert history["nats_per_token"] == pytest.approx([surprise], rel=1e-5)
    (gradient,) = finite_differences(loss, table)
    np.testing.assert_allclose(network.get_weights()[0], table - 0.5 * gradient, atol=2e-6)


@pytest.mark.one_backend
def test_the_network_is_saved_with_its_loss(tmp_path):
    network = dpo.ResponseLogProbability(tiny("crrelu"))
    arrays, reference = stacked(made_up()), np.zeros((3, 2), "float32")
    dpo.compile_dpo(network, "sgd", BETA)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_allclose(numpy(loaded(arrays)), numpy(network(arrays)), rtol=1e-6)
    assert loaded.loss.beta == BETA
    assert loaded.evaluate(arrays, reference, verbose=0, return_dict=True).keys() == {"loss", "margin", "accuracy"}


# The reference.


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Returns log-probabilities, and whether they were computed."""
    network = dpo.ResponseLogProbability(bigram(random_table()))
    pairs = made_up(4)
    data = preferences.batches(pairs, 10, 2)
    path = tmp_path / "reference.npz"

    def get(identity="data"):
        calls = []
        predict = network.predict
        with monkeypatch.context() as patch:
            patch.setattr(network, "predict", lambda *args, **options: calls.append(1) or predict(*args, **options))
            found = dpo.reference_log_probabilities(network, data, path, identity)
        expected = expected_log_probabilities(network.get_weights()[0], pairs)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        return bool(calls)

    get.network, get.path = network, path
    return get


def test_the_reference_is_computed_once(cached):
    assert cached()
    assert not cached()
    assert [path.name for path in cached.path.parent.iterdir()] == ["reference.npz"]


def test_another_reference_is_computed_anew(cached):
    assert cached()
    cached.network.set_weights([random_table(2)])
    assert cached()
    assert not cached()
    assert cached("other data")
    assert not cached("other data")


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-30], lambda content: b"text"])
def test_a_damaged_file_is_computed_anew(cached, damage):
    cached()
    cached.path.write_bytes(damage(cached.path.read_bytes()))
    assert cached()
    assert not cached()


def test_fingerprints_differ():
    parts = [("a",), ("b",), ("a", "b"), ("ab",), (np.zeros(2),), (np.zeros((2, 1)),), (np.zeros(2, "float32"),), ()]
    parts += [(np.zeros(1, dtype),) for dtype in ("int32", "float32")]  # of the same bytes
    assert len({dpo.fingerprint(*part) for part in parts}) == len(parts)
    assert dpo.fingerprint("a", np.arange(3)) == dpo.fingerprint("a", np.arange(6)[:3])
