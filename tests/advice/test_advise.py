import json
import os
import re
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pandas as pd
import pytest

import keras_actlab
from keras_actlab.advice import question, result
from keras_actlab.advice.budget import parse
from keras_actlab.advice.question import Method
from keras_actlab.experiments import load, running
from tests.backends import numpy

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 3)).astype("float32")
Y = np.abs(X[:, :1])
TIMES = ["seconds", "seconds_per_epoch"]
module = sys.modules["keras_actlab.advice.advise"]  # the package's attribute of this name is the function


def network(*hidden) -> keras.Model:
    hidden = hidden or [keras.layers.Dense(4, "relu")]
    model = keras.Sequential([keras.Input((3,)), *hidden, keras.layers.Dense(1)], name="small")
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    return model


def advise(path, model=None, data=(X, Y), report=False, **changes):
    """Asks a small question with few learning rates, and writes no report unless asked to."""
    options = {"variants": ["crrelu", "gmp", "relu"], "epochs": 1, "budget": "2 pairs", "progress": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(question, "FACTORS", (1, 3))
        patch.setattr(running, "MAX_EXTENSION", 0)
        if not report:
            patch.setattr(result, "html", lambda advice: "")
        return keras_actlab.advise(model or network(), data, path=path, **options | changes)


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    keras.utils.set_random_seed(0)
    return advise(tmp_path_factory.mktemp("answer") / "advice", report=True)


@pytest.fixture
def no_training(monkeypatch):
    def train(*arguments, **named):
        raise AssertionError("a model was trained")

    monkeypatch.setattr(keras.Model, "fit", train)
    monkeypatch.setattr("keras_actlab.experiments.ensemble.Ensemble.train_block", train)


def rows(path):
    return load(path / "results.jsonl").frame.drop(columns=TIMES).reset_index(drop=True)


def test_files_of_an_answer(answer):
    def refuse(text):
        raise AssertionError(text)

    read = json.loads((answer.path / "advice.json").read_text(), parse_constant=refuse)
    assert [(each["variant"], each["pairs"]) for each in read["verdicts"]] == [("crrelu", 2), ("gmp", 2), ("relu", 0)]
    assert answer["relu"].verdict == "changes nothing"
    assert read["looks"] == [6]
    assert read["failed_fits"] == 0
    assert read["settings"]["backend"] == keras.backend.backend()
    html = (answer.path / "report.html").read_text()
    assert "http" not in html
    text = re.sub(r"<[^>]+>", "", html)
    for each in answer:
        assert each.sentence.split(":")[0] in text
    assert set(answer.values) == {"as is", "crrelu", "gmp"}
    differences = answer.values["gmp"] - answer.values["as is"]
    assert answer["gmp"].difference == pytest.approx(differences.mean())


def test_a_variant_that_changes_nothing_is_not_trained(answer):
    assert set(answer.results.frame["method"]) == {"as is", "crrelu", "gmp"}


def test_a_second_call_trains_nothing(answer, no_training):
    again = advise(answer.path)
    assert again.looks == [6]
    assert [each.sentence for each in again] == [each.sentence for each in answer]


def test_fewer_pairs_than_there_are_train_nothing(answer, no_training):
    assert advise(answer.path, budget="2 pairs").looks == [6]


@pytest.mark.one_backend
def test_a_larger_budget_adds_pairs_and_a_look(answer, tmp_path):
    for name in ("results.jsonl", "advice.json", "question.json"):
        (tmp_path / name).write_bytes((answer.path / name).read_bytes())
    before = rows(tmp_path)
    more = advise(tmp_path, budget="4 pairs")
    assert more.looks == [6, 12]
    assert more["gmp"].pairs == 4
    assert more["gmp"].level == pytest.approx(1 - 0.05 / 6 / 2)
    after = rows(tmp_path)
    kept = after[after["split"] < 2].reset_index(drop=True)
    assert len(kept) == len(before)
    order = ["method", "stage", "split", "learning_rate", "epochs", "mae"]
    pd.testing.assert_frame_equal(
        kept[order].sort_values(order).reset_index(drop=True), before[order].sort_values(order).reset_index(drop=True)
    )
    assert advise(tmp_path, budget="2 pairs").looks == [6, 12]
    assert advise(tmp_path, budget="3 pairs")["gmp"].pairs == 4


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 2},
        {"batch_size": 16},
        {"metric": "loss"},
        {"start": "trained"},
        {"variants": ["crrelu", "gmp", "relu", "gelu"]},
        {"variants": ["gmp"]},
        {"data": (X + 1, Y)},
        {"data": ((X, Y), (X, Y))[0], "validation": (X, Y), "test": (X, Y)},
        {"model": network(keras.layers.Dense(5, "relu"))},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_question_needs_another_folder(answer, no_training, changes):
    before = (answer.path / "results.jsonl").read_bytes()
    with pytest.raises(ValueError, match="`path` must be"):
        advise(answer.path, **changes)
    assert (answer.path / "results.jsonl").read_bytes() == before


@pytest.mark.one_backend
def test_other_trained_weights_need_another_folder(tmp_path):
    model = network()
    advise(tmp_path, model, start="trained", variants=["crrelu"])
    advise(tmp_path, model, start="trained", variants=["crrelu"])
    with pytest.raises(ValueError, match=r"`path` must be the folder of the same question.*weights"):
        advise(tmp_path, network(), start="trained", variants=["crrelu"])


@pytest.mark.one_backend
def test_a_damaged_count_of_looks_is_an_error(tmp_path, no_training):
    (tmp_path / "advice.json").write_text("{}")
    with pytest.raises(ValueError, match=r"`path` must be a folder with an intact advice.json"):
        advise(tmp_path)


@pytest.mark.one_backend
@pytest.mark.parametrize("name", ["as is", "crrelu", "gmp"])
def test_a_variant_is_trained_and_folded(answer, name):
    model = answer.model(name)
    assert [type(layer).__name__ for layer in model.layers] == (
        ["Dense", "CRReLU", "Dense"] if name == "crrelu" and len(model.layers) == 3 else ["Dense", "Dense"]
    )
    assert model.predict(X, verbose=0).shape == (80, 1)
    if name == "gmp":
        assert type(model.layers[0]) is keras.layers.Dense


@pytest.mark.one_backend
@pytest.mark.slow
def test_the_trained_variant_is_the_final_fit_of_the_first_pair(tmp_path):
    # In one pair of a division, the choice of the first pair may be another than the most frequent one.
    optimizer = keras.optimizers.Adam(0.01, clipnorm=10.0)  # so that fits are not trained as one program
    model = network()
    model.compile(optimizer, "mse", metrics=["mae"])
    found = advise(tmp_path, model, variants=["crrelu"])
    rate, _ = found._choice("crrelu")
    final = found.results.final
    first = final[(final["method"] == "crrelu") & (final["split"] == 0)].iloc[0]
    if first["learning_rate"] != rate["learning_rate"]:
        pytest.skip("the first pair has another rate")
    x, y = found.question.data.first.test
    assert np.abs(found.model("crrelu").predict(x, verbose=0) - y).mean() == pytest.approx(first["mae"], rel=1e-4)


@pytest.mark.one_backend
def test_unknown_variants_have_no_model(answer):
    for name in ("gelu", "relu", None):
        with pytest.raises(ValueError, match="`variant` must be one of"):
            answer.model(name)
    with pytest.raises(ValueError, match="`variant` must be one of"):
        answer["gelu"]


@pytest.mark.one_backend
def test_the_callers_model_is_left_unchanged(tmp_path):
    model = network()
    model.fit(X, Y, verbose=0)
    weights, iterations = model.get_weights(), int(model.optimizer.iterations)
    advise(tmp_path, model, variants=["gmp"])
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert int(model.optimizer.iterations) == iterations
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
    model.fit(X, Y, verbose=0)


@pytest.mark.slow
def test_trained_weights_are_where_fits_start(tmp_path):
    model = network()
    model.fit(X, Y, epochs=30, verbose=0)
    found = advise(tmp_path, model, variants=["crrelu", "gmp"], start="trained")
    scratch = advise(tmp_path / "scratch", model, variants=["crrelu", "gmp"])
    assert (found.values.to_numpy() < scratch.values.to_numpy()).all()
    assert found.to_dict()["settings"]["epochs"] == 1


@pytest.mark.one_backend
def test_interrupted_calls_continue(answer, tmp_path, monkeypatch):
    class Stopped(BaseException):
        pass

    written = []

    def stop(*arguments, on_rows, **named):
        def show(rows):
            written.append(rows)
            if len(written) == 4:
                raise Stopped
            on_rows(rows)

        return complete(*arguments, on_rows=show, **named)

    complete = module.complete
    monkeypatch.setattr(module, "complete", stop)
    with pytest.raises(Stopped):
        advise(tmp_path)
    assert 0 < len(rows(tmp_path)) < len(rows(answer.path))
    resumed = advise(tmp_path)
    assert [each.sentence for each in resumed] == [each.sentence for each in answer]
    assert resumed.looks == [6]


@pytest.mark.one_backend
@pytest.mark.slow
def test_killed_calls_continue(answer, tmp_path):
    code = (
        "from tests.advice.test_advise import advise; from pathlib import Path; import sys; advise(Path(sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=os.environ)
    file = tmp_path / "results.jsonl"
    while process.poll() is None and (not file.exists() or file.read_bytes().count(b"\n") < 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "advice.json").exists()
    assert [each.sentence for each in advise(tmp_path)] == [each.sentence for each in answer]


@pytest.mark.one_backend
@pytest.mark.slow
def test_two_processes_find_the_same(answer, tmp_path):
    found = advise(tmp_path, jobs=2)
    pd.testing.assert_frame_equal(found.values, answer.values)


@pytest.mark.one_backend
def test_a_fit_that_fails_is_counted(tmp_path):
    def variant(model):
        if any(row["stage"] == "final" for row in written):
            raise LookupError("no more")
        return keras_actlab.swap_activations(model, "gelu", check=False)

    written = []
    model = network()
    model.compile(keras.optimizers.Adam(0.01, clipnorm=1.0), "mse", metrics=["mae"])  # one fit after the other
    complete = module.complete

    def watched(*arguments, on_rows, **named):
        def show(rows):
            written.extend(row for row in rows if row["method"] == "mine")
            on_rows(rows)

        return complete(*arguments, on_rows=show, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "complete", watched)
        found = advise(tmp_path, model, variants={"mine": variant, "tanh": "tanh"}, budget="3 pairs", report=True)
    mine = found["mine"]
    assert (mine.pairs, mine.failed) == (1, 2)
    assert mine.verdict == "cannot tell"
    assert "2 fits failed and are left out: LookupError: no more." in mine.sentence
    assert found["tanh"].pairs == 3
    html = (tmp_path / "report.html").read_text()
    assert "2 failed" in html
    assert "LookupError: no more" in html
    assert json.loads((tmp_path / "advice.json").read_text())["failed_fits"] == 2


@pytest.mark.one_backend
@pytest.mark.parametrize("failing", ["mine", "as is"])
def test_all_fits_of_one_method_fail(tmp_path, monkeypatch, failing):
    build = Method.__call__

    def broken(self, **rate):
        if self.name == failing:
            raise LookupError("never")
        return build(self, **rate)

    monkeypatch.setattr(Method, "__call__", broken)
    found = advise(tmp_path, variants={"mine": "gelu", "tanh": "tanh"}, report=True)
    if failing == "mine":
        assert found["mine"].verdict == "failed"
        assert found["mine"].sentence == "mine failed in all fits: LookupError: never."
        assert found["tanh"].pairs == 2
    else:
        assert {each.verdict for each in found} == {"cannot tell"}
        assert "nan" not in str(found["tanh"].sentence)
        assert found.model("tanh").predict(X, verbose=0).shape == (80, 1)
    assert "LookupError: never" in (tmp_path / "report.html").read_text()
    with pytest.raises(ValueError, match="`variant` must be one of"):
        found.model(failing)


@pytest.mark.one_backend
def test_no_fit_works(tmp_path, monkeypatch):
    monkeypatch.setattr(Method, "__call__", lambda self, **rate: 1 / 0)
    with pytest.raises(RuntimeError, match=r"no final fit.*ZeroDivisionError"):
        advise(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.one_backend
def test_a_budget_too_small_says_what_would_do(tmp_path):
    with pytest.raises(ValueError, match=r"`budget` must be enough for 2 pairs of fits. One fit takes about") as raised:
        advise(tmp_path, budget=0.001)
    text = str(raised.value)
    enough = parse(text.split("'")[1])
    assert enough.seconds >= 1
    assert "a pair of 3 models with 2 learning rates" in text
    assert not (tmp_path / "results.jsonl").exists()
    # Fewer variants in the same folder are no other question yet.
    with pytest.raises(ValueError, match="a pair of 2 models"):
        advise(tmp_path, budget=0.001, variants=["gmp"])


@pytest.mark.one_backend
def test_a_time_is_spent_and_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(question.Question, "seconds", lambda self: (0.01, 0.05))
    # The estimate is far too low, so that the first pairs use more than the budget.
    found = advise(tmp_path, budget=0.2, progress=True)
    assert found["gmp"].pairs == 2
    shown = capsys.readouterr().err
    assert "% of the budget" in shown
    assert "100%" in shown
    assert found.to_dict()["seconds"] > 0.2
    again = advise(tmp_path, budget=0.2, progress=True)
    assert again.looks == found.looks
    assert "100%" in capsys.readouterr().err


@pytest.mark.one_backend
def test_epochs_are_chosen_on_validation_data(tmp_path, monkeypatch):
    monkeypatch.setattr(question, "LONGEST", 4)
    monkeypatch.setattr(question, "STEP", 2)
    found = advise(tmp_path, variants=["gelu"], epochs=None, report=True)
    assert set(found.results.final["epochs"]) <= {2, 4}
    assert [name for name in found.chosen if name.startswith("epochs ")]
    html = (tmp_path / "report.html").read_text()
    assert html.count("data:image/svg+xml;base64,") == 3
    assert found.chosen.filter(like="epochs").sum(axis=1).to_list() == [2, 2]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"start": "warm"}, ValueError, "`start` must be one of"),
        ({"mode": "mean"}, ValueError, "`mode` must be one of"),
        ({"epochs": 0}, ValueError, "`epochs` must be positive"),
        ({"batch_size": 2.5}, TypeError, "`batch_size` must be an integer"),
        ({"steps_per_epoch": -1}, ValueError, "`steps_per_epoch` must be positive"),
        ({"jobs": 0}, ValueError, "`jobs` must be positive"),
        ({"progress": 1}, TypeError, "`progress` must be True or False"),
        ({"smallest_effect": 0}, ValueError, "`smallest_effect` must be finite and positive"),
        ({"smallest_effect": "large"}, TypeError, "`smallest_effect` must be a number"),
        ({"budget": "soon"}, ValueError, "`budget` must be"),
        ({"path": 3}, TypeError, "`path` must be a path"),
    ],
)
def test_bad_arguments(tmp_path, no_training, changes, error, message):
    with pytest.raises(error, match=message):
        advise(**{"path": tmp_path} | changes)
    assert not list(tmp_path.iterdir())


@pytest.mark.one_backend
def test_datasets_with_sample_weights(tmp_path):
    class Batches(keras.utils.PyDataset):
        def __init__(self, seed=0, length=None):
            super().__init__()
            self.order, self.length = np.random.default_rng(seed).permutation(80), length

        @property
        def num_batches(self):
            return self.length

        def __getitem__(self, index):
            chosen = self.order[np.arange(10 * index, 10 * index + 10) % 80]
            return X[chosen], Y[chosen], np.ones(10)

    evaluation = Batches(length=3)
    found = advise(tmp_path, data=Batches, validation=evaluation, test=evaluation, steps_per_epoch=4, variants=["gelu"])
    assert found["gelu"].pairs == 2
    assert "this division" in str(found)
    assert found.model("gelu").predict(X, verbose=0).shape == (80, 1)


@pytest.mark.one_backend
def test_class_weights_and_labels(tmp_path):
    labels = (X[:, 0] > 0).astype("int32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1, "sigmoid")])
    model.compile(keras.optimizers.Adam(0.05), "binary_crossentropy", metrics=["accuracy"])
    found = advise(tmp_path, model, (X, labels), variants=["gelu"], epochs=5, class_weight={0: 1.0, 1: 2.0})
    assert (found.question.metric, found.question.mode) == ("accuracy", "max")
    assert found.values.to_numpy().max() > 0.5


@pytest.mark.slow
def test_random_layers_and_augmentation(tmp_path):
    images = RNG.uniform(size=(40, 6, 6, 1)).astype("float32")
    layers = [
        keras.layers.RandomFlip("horizontal"),
        keras.layers.Conv2D(3, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(1),
    ]
    model = keras.Sequential([keras.Input((6, 6, 1)), *layers])
    model.compile("adam", "mse")
    found = advise(tmp_path, model, (images, images.mean(axis=(1, 2))), variants=["gmp"], batch_size=8)
    assert found["gmp"].pairs == 2
    assert found.question.metric == "loss"
    assert np.isfinite(numpy(found.model("gmp")(images))).all()
