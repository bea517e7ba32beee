import keras
import numpy as np
import pytest

from keras_actlab.models import HardDistillation, deit
from tests.backends import numpy

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def student(classes: int = 3) -> keras.Model:
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(5, activation="tanh", kernel_regularizer="l2", name="hidden")(inputs)
    logits = [keras.layers.Dense(classes, name=name)(hidden) for name in deit.HEADS]
    return keras.Model(inputs, keras.layers.Average()(logits))


def teacher() -> keras.Model:
    """Returns a teacher whose output differs in training: batch normalization and dropout."""
    batch = keras.layers.BatchNormalization(beta_initializer="random_normal")
    return keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8), batch, keras.layers.Dropout(0.5), keras.layers.Dense(3)]
    )


def data():
    rng = np.random.default_rng(1)
    return rng.normal(size=(12, 6)).astype("float32"), rng.integers(3, size=12)


def dense(layer, x):
    return x @ numpy(layer.kernel) + numpy(layer.bias)


def cross_entropy(labels, logits):
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]


def heads(model, x):
    hidden = np.tanh(dense(model.get_layer("hidden"), x))
    return [dense(model.get_layer(name), hidden) for name in deit.HEADS]


def regularizer(model):
    return 0.01 * (numpy(model.get_layer("hidden").kernel) ** 2).sum()


def test_loss_and_metrics():
    model, (x, y) = student(), data()
    guide = teacher()
    taught = numpy(guide(x)).argmax(axis=1)
    assert (taught != y).any()
    class_logits, distillation_logits = heads(model, x)
    weights = np.random.default_rng(2).uniform(size=len(x))
    half = (cross_entropy(y, class_logits) + cross_entropy(taught, distillation_logits)) / 2
    mean_logits = (class_logits + distillation_logits) / 2
    plain = cross_entropy(y, mean_logits)
    penalty = regularizer(model)
    nats = keras.metrics.SparseCategoricalCrossentropy(name="nats", from_logits=True)

    distillation = HardDistillation(model, guide)
    distillation.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY, metrics=[nats])
    np.testing.assert_allclose(distillation.predict(x, verbose=0), mean_logits, rtol=1e-4, atol=1e-5)
    found = distillation.test_on_batch(x, y, sample_weight=weights, return_dict=True)
    np.testing.assert_allclose(found["loss"], (weights * plain).mean() + penalty, rtol=1e-4)
    found = distillation.train_on_batch(x, y, sample_weight=weights, return_dict=True)
    np.testing.assert_allclose(found["loss"], (weights * half).mean() + penalty, rtol=1e-4)
    np.testing.assert_allclose(found["nats"], plain.mean(), rtol=1e-4)


def test_fit_trains_both_heads_and_not_the_teacher():
    model, (x, y) = student(), data()
    guide = teacher()
    before = guide.get_weights()
    started = model.get_weights()
    distillation = HardDistillation(model, guide)
    distillation.compile(keras.optimizers.AdamW(0.03, weight_decay=0.1), CROSS_ENTROPY)
    history = distillation.fit(x, y, validation_data=(x, y), epochs=30, batch_size=6, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert history["val_loss"][-1] < history["val_loss"][0]
    for one, other in zip(guide.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(model.get_weights(), started, strict=True):
        assert (one != other).all()
    # Each head has learned from its own labels.
    taught = numpy(guide(x)).argmax(axis=1)
    class_logits, distillation_logits = heads(model, x)
    assert (class_logits.argmax(axis=1) == y).mean() > (distillation_logits.argmax(axis=1) == y).mean()
    assert (distillation_logits.argmax(axis=1) == taught).mean() > (class_logits.argmax(axis=1) == taught).mean()


def test_the_teacher_stays_frozen():
    guide, (x, y) = teacher(), data()
    distillation = HardDistillation(student(), guide)
    outer = keras.Sequential([distillation])
    for model in (distillation, outer):
        model.trainable = False
        assert not distillation.trainable_variables
        model.trainable = True
        assert len(distillation.trainable_variables) == 6
        assert not guide.trainable
        assert not guide.trainable_variables
    before = guide.get_weights()
    distillation.compile(keras.optimizers.AdamW(0.1, weight_decay=0.5), CROSS_ENTROPY)
    distillation.train_on_batch(x, y)
    for one, other in zip(guide.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_labels_that_are_distributions():
    model, (x, _) = student(), data()
    guide = teacher()
    taught = numpy(guide(x)).argmax(axis=1)
    mixed = np.random.default_rng(3).dirichlet(np.ones(3), len(x))
    class_logits, distillation_logits = heads(model, x)
    of_labels = sum(mixed[:, k] * cross_entropy(np.full(len(x), k), class_logits) for k in range(3))
    half = (of_labels + cross_entropy(taught, distillation_logits)) / 2
    penalty = regularizer(model)
    distillation = HardDistillation(model, guide)
    distillation.compile(keras.optimizers.SGD(0.1), keras.losses.CategoricalCrossentropy(from_logits=True))
    found = distillation.train_on_batch(x, mixed, return_dict=True)
    np.testing.assert_allclose(found["loss"], half.mean() + penalty, rtol=1e-4)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: 0.7 * y + 0.3 * y[::-1], r"must be integers, and others .* \(batch, 3\). Received: y .*float"),
        (lambda y: np.zeros((len(y), 2), "int32"), r"shape \(batch,\) or \(batch, 3\).* Received: y of shape"),
        (lambda y: np.zeros((len(y), 3, 1), "int32"), r"shape \(batch,\) or \(batch, 3\).* Received: y of shape"),
        (lambda y: {"class_head": y}, r"shape \(batch,\) or \(batch, 3\).* Received: y of type dict"),
    ],
)
@pytest.mark.parametrize("call", ["train_on_batch", "test_on_batch"])
def test_other_labels_are_refused(call, change, words):
    x, y = data()
    distillation = HardDistillation(student(), teacher())
    distillation.compile("sgd", CROSS_ENTROPY)
    with pytest.raises(ValueError, match=words):
        getattr(distillation, call)(x, change(y))


def test_saved_and_loaded(tmp_path):
    model, (x, _) = student(), data()
    distillation = HardDistillation(model, teacher())
    distillation(x)
    path = tmp_path / "model.keras"
    distillation.save(path)
    loaded = keras.saving.load_model(path)
    np.testing.assert_allclose(numpy(loaded(x)), numpy(model(x)), rtol=1e-5, atol=1e-6)
    assert len(loaded.trainable_variables) == 6
    for one, other in zip(loaded.teacher.get_weights(), distillation.teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.one_backend
@pytest.mark.usefixtures("even_starts")
def test_deit_is_distilled():
    model = deit.network((8, 8, 3), 3, 4, "relu", blocks=1, heads=2, dim=8)
    guide = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
    distillation = HardDistillation(model, guide)
    assert [layer.name for layer in distillation.heads.layers[-2:]] == ["class_head", "distillation_head"]
    assert distillation.heads.output_shape == [(None, 3), (None, 3)]
    assert {id(variable) for variable in distillation.trainable_variables} == {
        id(variable) for variable in model.trainable_variables
    }


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (lambda: (student(), "resnet"), TypeError, r"`teacher` must be a Keras model. Received: teacher='resnet'"),
        (lambda: (None, teacher()), TypeError, r"`model` must be a Keras model. Received: model=None"),
        (
            lambda: (teacher(), teacher()),
            ValueError,
            r"`model` must have the layers \('class_head', 'distill.*Received",
        ),
        (lambda: (student(4), teacher()), ValueError, r"Received: teacher with 3 classes, model with 4"),
        (lambda: (student(1), student(1)), ValueError, r"two classes or more. Received: model with 1 logit"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        HardDistillation(*arguments())
