import asyncio
import dataclasses
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
from keras import ops
from sklearn.metrics import root_mean_squared_error

from keras_actlab import experiments
from keras_actlab.experiments import running
from keras_actlab.experiments._training import _rows
from tests.experiments.examples import comparison, data, deep, killed, linear

TIMES = ["seconds", "seconds_per_epoch"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A whole run, its results and its file."""
    path = tmp_path_factory.mktemp("run") / "results.jsonl"
    return experiments.run(comparison(), path, history=True, progress=False), path


def run(comparisons, path, **options):
    return experiments.run(comparisons, path, progress=False, **options)


def failures_of(description, path):
    """Runs a comparison without one success, and returns its failures."""
    with pytest.raises(RuntimeError, match=r"no final fit of the comparison 'plane' has succeeded.*load"):
        run(description, path)
    return experiments.load(path).failures["failure"]


def count_training(monkeypatch):
    """Lists the fits that are trained from now on."""
    trained = []

    def train(description, fits, *arguments):
        trained.extend(fits)
        return original(description, fits, *arguments)

    original = running.train
    monkeypatch.setattr(running, "train", train)
    return trained


def test_every_candidate_is_tuned_and_the_best_one_tested(found):
    results, _ = found
    assert len(results.tuning) == 2 * 2 * 3
    assert len(results.final) == 2 * 3
    assert not len(results.failures)
    for (method, split), rows in results.tuning.groupby(["method", "split"]):
        best = rows.loc[rows["RMSE"].idxmin()]
        final = results.final[(results.final["method"] == method) & (results.final["split"] == split)].iloc[0]
        assert final["learning_rate"] == best["learning_rate"]
        assert final["epochs"] == best["epochs"]


@pytest.mark.one_backend
def test_a_row_tells_where_it_comes_from(found):
    row = found[0].frame.iloc[0]
    assert row["backend"] == keras.backend.backend()
    assert f"keras {keras.__version__}" in row["versions"]
    assert row["parameters"] == 4
    assert row["vectorized"] == 3
    assert row["seconds"] > 0
    assert "cores" in row["device"]


@pytest.mark.one_backend
def test_the_history_holds_every_look(found):
    for row in found[0].rows:
        if row["stage"] == "tune":
            assert row["history"]["epoch"] == [2, 4]
            assert min(row["history"]["RMSE"]) == row["metrics"]["RMSE"]
            assert row["history"]["epoch"][np.argmin(row["history"]["RMSE"])] == row["epochs"]


@pytest.mark.one_backend
def test_curves_show_the_mean_over_replicates(found):
    results, _ = found
    (ax,) = experiments.curves(results).axes
    chosen = [row["history"]["RMSE"] for place, row in results.choices.items() if place[1] == "linear"]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.mean(chosen, axis=0))


@pytest.mark.one_backend
def test_curves_need_a_history(tmp_path):
    results = run(comparison(methods={"linear": linear}, epochs=2), tmp_path / "results.jsonl")
    with pytest.raises(ValueError, match="history=True"):
        experiments.curves(results)


def test_metrics_are_those_of_the_trained_model(tmp_path):
    """One candidate, nothing to choose: the final fit is a plain Keras fit on all that is not test data."""
    only = comparison(
        methods={"linear": linear}, grid={"learning_rate": [0.1]}, validate_every=None, batch_size=None, splits=1
    )
    results = run(only, tmp_path / "results.jsonl")
    assert len(results.frame) == 1
    keras.utils.set_random_seed(int(np.random.SeedSequence([0, 0]).generate_state(1)[0]))
    model, split = linear(0.1), data(0)
    x, y = split.development
    model.fit(x, y, batch_size=len(x), epochs=4, verbose=0)
    errors = split.to_units(model.predict(split.test[0], verbose=0)[:, 0]) - split.to_units(split.test[1])
    assert results.final["RMSE"].item() == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-5)


def test_a_seed_decides_the_start_and_the_order_for_all_methods_alike(tmp_path):
    methods = dict.fromkeys(("one", "other"), lambda: linear(0.1))
    description = comparison(methods=methods, splits=1, seeds=2, vectorize=2, grid={})
    values = run(description, tmp_path / "results.jsonl").final.pivot(index="seed", columns="method", values="RMSE")
    np.testing.assert_allclose(values["one"], values["other"], rtol=1e-6)
    assert abs(values["one"][0] - values["one"][1]) > 1e-3


def test_together_or_one_by_one_is_the_same(found, tmp_path):
    alone = run(comparison(vectorize=1, methods={"linear": linear}), tmp_path / "results.jsonl").frame
    vectorized = found[0].frame
    vectorized = vectorized[vectorized["method"] == "linear"]
    np.testing.assert_allclose(alone["RMSE"], vectorized["RMSE"], rtol=1e-4)
    np.testing.assert_array_equal(alone["epochs"], vectorized["epochs"])
    assert (alone["vectorized"] == 1).all()


@pytest.mark.one_backend
def test_nothing_is_trained_twice(found, monkeypatch):
    results, path = found
    before = path.read_bytes()
    trained = count_training(monkeypatch)
    again = run(comparison(), path, history=True)
    assert trained == []
    assert path.read_bytes() == before
    pd.testing.assert_frame_equal(again.frame, results.frame)


@pytest.mark.one_backend
def test_progress_is_reported_when_rows_are_written(found, tmp_path, capsys):
    path, plans, seen = tmp_path / "results.jsonl", [], []

    def stop_after_two(rows):
        assert experiments.load(path).rows[-len(rows) :] == rows
        seen.append(len(rows))
        if len(seen) == 2:
            raise TimeoutError("enough")

    def go_on():
        return running.complete(
            comparison(), path, history=True, on_rows=stop_after_two, on_plan=lambda *plan: plans.append(plan)
        )

    with pytest.raises(TimeoutError, match="enough"):
        go_on()
    frame = go_on().frame
    assert plans == [(18, 0), (18, 6)]
    assert sum(seen) == 18
    pd.testing.assert_frame_equal(frame.drop(columns=TIMES), found[0].frame.drop(columns=TIMES))
    experiments.run(comparison(), path)
    assert "18/18" in capsys.readouterr().err


@pytest.mark.one_backend
def test_a_crash_after_any_line_resumes_to_the_same_rows(found, tmp_path, monkeypatch):
    results, path = found
    trained = count_training(monkeypatch)
    lines = path.read_bytes().splitlines(keepends=True)
    for kept in (1, 3, len(lines) - 1):
        resumed = tmp_path / f"{kept}.jsonl"
        resumed.write_bytes(b"".join(lines[:kept]) + lines[kept][:37])  # and the next one was being written
        trained.clear()
        again = run(comparison(), resumed, history=True)
        rows = [len(json.loads(line).get("rows", ())) for line in lines]
        assert len(trained) == sum(rows[kept:])
        pd.testing.assert_frame_equal(again.frame.drop(columns=TIMES), results.frame.drop(columns=TIMES))


@pytest.mark.one_backend
def test_splits_and_methods_may_be_added(found, tmp_path, monkeypatch):
    path = tmp_path / "results.jsonl"
    path.write_bytes(found[1].read_bytes())
    trained = count_training(monkeypatch)
    more = comparison(methods={"linear": linear, "deep": deep, "again": linear}, splits=4)
    results = run(more, path, history=True)
    assert {(fit.method, fit.split) for fit in trained} == {
        *(("again", split) for split in range(4)),
        ("linear", 3),
        ("deep", 3),
    }
    values = results.final.pivot(index="split", columns="method", values="RMSE")
    np.testing.assert_allclose(values["again"], values["linear"], rtol=1e-5)
    assert results.table()["n"].tolist() == [4, 4, 4]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 5}, "epochs: 4 there, 5 here"),
        ({"grid": {"learning_rate": [0.1]}}, "grid: "),
        ({"data": lambda split: data(split + 1)}, "data: "),
        ({"methods": {"linear": deep}}, "method 'linear'"),
    ],
)
def test_a_file_of_another_configuration_is_refused_and_kept(found, changes, words):
    _, path = found
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"'plane' differs in.*{words}"):
        run(comparison(**changes), path)
    assert path.read_bytes() == before


@pytest.mark.one_backend
def test_names_and_jobs_are_checked(tmp_path):
    with pytest.raises(ValueError, match="different names"):
        run([comparison(), comparison()], tmp_path / "results.jsonl")
    with pytest.raises(ValueError, match="`jobs` must be a positive integer"):
        run(comparison(), tmp_path / "results.jsonl", jobs=0)
    with pytest.raises(ValueError, match="`time_limit` must be finite and positive"):
        run(comparison(), tmp_path / "results.jsonl", time_limit=0)
    assert list(tmp_path.iterdir()) == []


class Broken:
    """A method that raises for some seeds, as long as it is told to."""

    raises = True

    def __call__(self, learning_rate):
        if self.raises and np.random.get_state()[1][0] % 2:  # noqa: NPY002  # the seed that the engine has set
            raise RuntimeError("no luck")
        return linear(learning_rate)


@pytest.mark.one_backend
def test_a_method_that_raises_in_one_replicate_stops_no_other(tmp_path, found):
    path = tmp_path / "results.jsonl"
    broken = Broken()
    description = comparison(methods={"linear": linear, "broken": broken}, vectorize=1)
    results = run(description, path)
    failed = results.failures
    assert 0 < len(failed) < 9
    assert set(failed["method"]) == {"broken"}
    assert failed["failure"].str.contains("no luck|no candidate").all()
    assert len(results.final[results.final["method"] == "linear"]) == 3
    # Failed rows are tried again, finished ones are not.
    broken.raises = False
    mended = run(description, path)
    assert not len(mended.failures)
    values = mended.final.pivot(index="split", columns="method", values="RMSE")
    np.testing.assert_allclose(values["broken"], values["linear"], rtol=1e-5)
    np.testing.assert_array_equal(
        mended.tuning.groupby("method")["RMSE"].count(), results.tuning.groupby("method")["RMSE"].size()
    )


@pytest.mark.one_backend
def test_failures_and_choices_are_printed(tmp_path):
    path, long = tmp_path / "results.jsonl", "a long text " * 20

    def fails(learning_rate):
        raise RuntimeError(long + "that ends here")

    results = run(comparison(methods={"linear": linear, "fails": fails}, splits=1, vectorize=1), path)
    assert f"RuntimeError: {long}that ends here" in str(results.failures)
    assert "4 fits failed" not in str(results)
    assert "3 fits failed; see `failures`" in str(results)
    header, *lines = str(results.tuning).splitlines()
    assert header.split() == ["task", "method", "split", "seed", "learning_rate", "RMSE", "epochs", "chosen"]
    best = min((line.split() for line in lines if "linear" in line), key=lambda words: float(words[5]))
    assert [line.split()[-1] for line in lines if "linear" in line].count("True") == 1
    assert best[-1] == "True"
    assert {"failure", "seconds"} <= set(results.tuning.columns)


@pytest.mark.one_backend
@pytest.mark.parametrize("ends", [SystemExit(0), StopIteration(), GeneratorExit(), asyncio.CancelledError()])
def test_what_would_end_the_run_is_a_failure(ends, tmp_path):
    def method():
        raise ends

    methods = {"ends": method, "linear": lambda: linear(0.1)}
    description = comparison(methods=methods, grid={}, splits=1, validate_every=None, vectorize=2)
    with pytest.warns(UserWarning, match=f"one by one.*{type(ends).__name__}"):
        results = run(description, tmp_path / "results.jsonl")
    assert results.failures["method"].tolist() == ["ends"]
    assert results.failures["failure"].item().startswith(type(ends).__name__)
    assert results.final["failure"].isna().tolist() == [False, True]


@pytest.mark.one_backend
def test_an_interruption_is_none(tmp_path):
    class Interrupted:
        calls = 0

        def __call__(self, learning_rate):
            self.calls += 1
            if self.calls > 2:  # those that compare configurations
                raise KeyboardInterrupt
            return linear(learning_rate)

    with pytest.raises(KeyboardInterrupt):
        run(comparison(methods={"linear": Interrupted()}), tmp_path / "results.jsonl")


def fixed(loss, **arguments):
    """A method whose model is not moved by its training."""

    def method():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(**arguments)])
        model.compile(keras.optimizers.SGD(0.0), loss)
        return model

    return method


def scores(method, y, metrics, path, **changes):
    """What metrics find for inputs that are the rows of a unit matrix."""
    split = experiments.Split(*[(np.eye(3), y)] * 3)
    plan = {"grid": {}, "splits": 1, "epochs": 1, "validate_every": None, "batch_size": None, **changes}
    final = run(comparison(methods={"m": method}, data=split, metrics=metrics, **plan), path).final
    return final[list(metrics)].iloc[-1].to_dict()


@pytest.mark.one_backend
@pytest.mark.parametrize(("shape", "vectorize"), [((3,), 1), ((3, 1), 1), ((3,), 2)])
def test_a_column_does_not_broadcast_in_metrics(shape, vectorize, tmp_path):
    weights = np.array([[1.0], [2.0], [5.0]])
    exact = fixed("mse", units=1, kernel_initializer=lambda shape, dtype: ops.convert_to_tensor(weights, dtype))
    metrics = {
        "difference": lambda targets, predictions: np.abs(targets - predictions).max(),
        "column": lambda targets, predictions: np.abs(np.ravel(targets) - predictions[:, 0]).max(),
        "sklearn": root_mean_squared_error,
    }
    found = scores(exact, weights.reshape(shape), metrics, tmp_path / "r.jsonl", vectorize=vectorize, seeds=vectorize)
    assert found == {"difference": 0, "column": 0, "sklearn": 0}


@pytest.mark.one_backend
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_class_numbers_do_not_broadcast_in_metrics(shape, tmp_path):
    right = fixed("sparse_categorical_crossentropy", units=3, kernel_initializer="identity", activation="softmax")
    metrics = {
        "accuracy": lambda targets, predictions: np.mean(targets == predictions.argmax(axis=1)),
        "own shape": lambda targets, predictions: np.take_along_axis(predictions, targets.reshape(-1, 1), 1).mean(),
    }
    found = scores(right, np.arange(3).reshape(shape), metrics, tmp_path / "r.jsonl", vectorize=1)
    assert found == {"accuracy": 1, "own shape": pytest.approx(np.e / (np.e + 2))}


@pytest.mark.one_backend
def test_shapes_that_broadcast_are_warned_of(tmp_path):
    metrics = {"difference": lambda targets, predictions: np.abs(targets - predictions).max()}
    with pytest.warns(UserWarning, match=r"targets of shape \(3, 2\) and predictions of shape \(3, 1\)"):
        scores(fixed("mse", units=1), np.ones((3, 2)), metrics, tmp_path / "r.jsonl", vectorize=1)


@pytest.mark.one_backend
def test_what_works_in_place_changes_neither_data_nor_the_next_metric(tmp_path):
    def clears(targets, predictions):
        targets *= 0
        predictions *= 0
        return 0.0

    def doubled(values):
        values *= 2
        return values

    y = np.array([1.0, 2.0, 4.0])
    split = experiments.Split(*[(np.eye(3), y)] * 3, to_units=doubled)
    metrics = {"clears": clears, "mean": lambda targets, predictions: targets.mean()}
    methods = {"m": fixed("mse", units=1)}
    plan = {"grid": {}, "splits": 1, "seeds": 2, "epochs": 1, "validate_every": None, "batch_size": None}
    results = run(comparison(methods=methods, data=split, metrics=metrics, **plan), tmp_path / "r.jsonl")
    assert results.final["mean"].tolist() == [pytest.approx(14 / 3)] * 2
    np.testing.assert_array_equal(split.test[1], [1.0, 2.0, 4.0])


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("metric", "to_units", "words"),
    [
        (
            lambda targets, predictions: None,
            lambda values: values,
            "`metrics` must return numbers.*score returned None",
        ),
        (lambda targets, predictions: targets, lambda values: values, "`metrics` must return numbers.*score returned"),
        (lambda targets, predictions: 0.0, lambda values: values[:1], r"`to_units` must return as many.*\(1,\)"),
        (lambda targets, predictions: 0.0, lambda values: None, "`to_units` must return as many"),
    ],
)
def test_functions_that_return_something_else_are_named(metric, to_units, words, tmp_path):
    split = experiments.Split(*[(np.eye(3), np.arange(3.0))] * 3, to_units=to_units)
    plan = {"grid": {}, "splits": 1, "epochs": 1, "validate_every": None, "batch_size": None, "vectorize": 1}
    description = comparison(methods={"m": fixed("mse", units=1)}, data=split, metrics={"score": metric}, **plan)
    failures = failures_of(description, tmp_path / "r.jsonl")
    assert re.search(words, failures.item())


@pytest.mark.one_backend
def test_a_changed_method_is_noticed_at_each_point_of_the_grid(found, tmp_path):
    def other(learning_rate):
        return linear(learning_rate) if learning_rate < 0.05 else deep(learning_rate)

    with pytest.raises(ValueError, match=r"method 'linear' at \{'learning_rate': 0.1\}"):
        run(comparison(methods={"linear": other}), found[1])


@pytest.mark.one_backend
def test_a_file_of_version_0_1_goes_on(found, tmp_path, monkeypatch):
    """It has no checksums, and one fingerprint a method, which are not compared."""
    path = tmp_path / "results.jsonl"
    records = [json.loads(line) for line in found[1].read_text().splitlines()]
    for record in records:
        del record["checksum"]
    records[0]["configuration"]["methods"] = {"linear": "0123456789abcdef", "deep": None}
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    trained = count_training(monkeypatch)
    again = run(comparison(), path, history=True)
    assert trained == []
    pd.testing.assert_frame_equal(again.frame, found[0].frame)
    with pytest.raises(ValueError, match="method 'linear'"):
        run(comparison(methods={"linear": deep}), path)


@pytest.mark.one_backend
def test_a_choice_that_changes_is_tested_anew(tmp_path):
    """The better rate fails at first; when it does not any more, the final fits of the worse one do not count."""
    path, fails = tmp_path / "results.jsonl", [True]

    def method(learning_rate):
        if fails[0] and learning_rate == 0.1:
            raise RuntimeError("not yet")
        return linear(learning_rate)

    description = comparison(methods={"method": method}, epochs=30)
    with pytest.warns(UserWarning, match="not yet"):
        assert run(description, path).final["learning_rate"].tolist() == [0.003] * 3
    fails[0] = False
    final = run(description, path).final
    assert final["learning_rate"].tolist() == [0.1] * 3
    assert final["failure"].isna().all()


def test_every_fit_has_its_own_order_of_rows():
    fits = [experiments.Fit("plane", "linear", "tune", split, seed, {}, 2) for split in range(2) for seed in range(2)]
    rows = _rows(50, 16, range(2), fits)
    assert rows.shape == (2 * 3, 4, 16)  # two epochs of three whole batches
    epochs = rows.swapaxes(0, 1).reshape(4 * 2, 48)
    assert all(len(set(epoch)) == 48 for epoch in epochs)  # no example twice
    assert len({tuple(epoch) for epoch in epochs}) == 8  # nor an order


def test_what_cannot_be_stacked_is_trained_one_by_one(tmp_path):
    def clipped(learning_rate):
        model = linear(learning_rate)
        model.compile(keras.optimizers.Adam(learning_rate, clipnorm=1.0), "mse")
        return model

    description = comparison(methods={"clipped": clipped}, grid={"learning_rate": [0.1]}, validate_every=None)
    with pytest.warns(UserWarning, match="trained one by one.*clipnorm"):
        results = run(description, tmp_path / "results.jsonl")
    assert results.frame["vectorized"].tolist() == [1, 1, 1]
    assert not len(results.failures)


@pytest.mark.one_backend
def test_callbacks_watch_every_final_fit_from_beginning_to_end(found, tmp_path):
    seen = []

    def watch(model, method, split, seed):
        steps = []
        seen.append(((method, split, seed), model, steps))
        return [keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(batch))]

    results = run(comparison(callbacks=watch), tmp_path / "results.jsonl")
    assert sorted(place for place, _, _ in seen) == [(m, split, 0) for m in ("deep", "linear") for split in range(3)]
    for (method, split, _), model, steps in seen:
        row = results.final[(results.final["method"] == method) & (results.final["split"] == split)].iloc[0]
        assert steps == list(range(row["epochs"] * 3))  # batches of 16 out of 48 examples, as one training
        x, y = data(split).test
        predictions = model.predict(x, verbose=0)[:, 0]
        to_units = data(split).to_units
        error = np.sqrt(np.mean((to_units(predictions) - to_units(y)) ** 2))
        assert row["RMSE"] == pytest.approx(error, rel=1e-5)
    np.testing.assert_allclose(results.frame["RMSE"], found[0].frame["RMSE"], rtol=1e-4)


class Counter(keras.callbacks.Callback):
    """Counts the batches and the calls of `fit` of one model."""

    def __init__(self):
        super().__init__()
        self.blocks = self.batches = 0

    def on_train_begin(self, logs=None):
        self.blocks += 1

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1


@pytest.fixture
def counted():
    """A method with callbacks, and what they counted, one a model."""
    counters = []

    def method(learning_rate):
        counters.append(Counter())
        return linear(learning_rate), [counters[-1]]

    return method, counters


@pytest.mark.one_backend
def test_a_methods_callbacks_act_in_both_stages_and_all_blocks(found, counted, tmp_path):
    method, counters = counted
    results = run(comparison(methods={"linear": method}), tmp_path / "results.jsonl")
    used = [counter for counter in counters if counter.blocks]
    tuned = [(counter.blocks, counter.batches) for counter in used[:6]]  # 2 rates x 3 splits
    assert tuned == [(2, 4 * 2)] * 6  # 4 epochs of 2 batches of 16 out of 38 examples, in two blocks
    final = sorted((counter.blocks, counter.batches) for counter in used[6:])
    assert final == sorted((epochs // 2, epochs * 3) for epochs in results.final["epochs"])
    assert (results.frame["vectorized"] == 1).all()
    expected = found[0].frame[found[0].frame["method"] == "linear"]
    np.testing.assert_allclose(results.frame["RMSE"], expected["RMSE"], rtol=1e-4)


@pytest.mark.one_backend
def test_fits_that_are_trained_alone_are_not_all_built_first(counted, tmp_path):
    method, counters = counted
    description = comparison(methods={"linear": method}, grid={"learning_rate": [0.1]}, validate_every=None)
    run(description, tmp_path / "results.jsonl")
    assert [counter.blocks for counter in counters] == [0, 0, 1, 1, 1]  # one is described, one tells that it is alone


@pytest.mark.one_backend
def test_a_methods_callbacks_come_before_those_that_watch(counted, tmp_path):
    method, counters = counted
    seen = []

    def watch(model, method, split, seed):
        see = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(counters[-1].batches))
        return [see]

    description = comparison(methods={"linear": method}, splits=1, callbacks=watch)
    results = run(description, tmp_path / "results.jsonl")
    assert seen == list(range(1, 1 + 3 * results.final["epochs"].item()))
    assert counters[-1].blocks == 1


@pytest.mark.one_backend
@pytest.mark.parametrize("second", [Counter(), ["early"], None, Counter])
def test_what_is_no_list_of_callbacks_is_a_failure(second, tmp_path):
    description = comparison(methods={"pair": lambda: (linear(0.1), second)}, grid={}, validate_every=None, vectorize=1)
    failures = failures_of(description, tmp_path / "results.jsonl")
    assert len(failures) == 3
    assert failures.str.contains("TypeError: `methods` must return compiled models, or pairs of one and a list").all()


@pytest.mark.one_backend
def test_a_methods_callbacks_are_no_part_of_the_configuration(counted):
    method, _ = counted
    pair, model = (comparison(methods={"linear": each}).configuration() for each in (method, linear))
    assert pair == model
    assert model["methods"]["linear"] is not None


def test_a_rate_that_diverges_is_not_chosen_and_no_failure(tmp_path):
    def linear_sgd(learning_rate):
        model = linear(learning_rate)
        model.compile(keras.optimizers.SGD(learning_rate), "mse")
        return model

    description = comparison(methods={"linear": linear_sgd}, grid={"learning_rate": [1e30, 0.1]})
    results = run(description, tmp_path / "results.jsonl")
    assert results.tuning["RMSE"].isna().sum() == 3
    assert results.final["learning_rate"].tolist() == [0.1] * 3
    assert not len(results.failures)
    hopeless = comparison(methods={"linear": linear_sgd}, grid={"learning_rate": [1e30, 2e30]})
    failures = failures_of(hopeless, tmp_path / "hopeless.jsonl")
    assert failures.tolist() == ["no candidate has a finite validation metric"] * 3


@pytest.mark.one_backend
def test_something_else_than_a_compiled_model_is_a_failure(tmp_path):
    def forgot(learning_rate):
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])

    failures = failures_of(comparison(methods={"forgot": forgot}, vectorize=1), tmp_path / "results.jsonl")
    assert len(failures) == 2 * 3 + 3
    assert failures.str.contains("`methods` must return compiled models|no candidate").all()


@pytest.mark.one_backend
def test_a_model_that_comes_twice_is_a_failure(tmp_path):
    model = linear(0.1)
    description = comparison(methods={"same": lambda: model}, grid={}, validate_every=None, vectorize=1)
    results = run(description, tmp_path / "results.jsonl")
    assert results.final["failure"].isna().tolist() == [True, False, False]
    assert results.failures["failure"].str.contains("new model at each call").all()


def test_programs_are_shared_only_by_models_that_are_alike(tmp_path):
    def penalized(learning_rate):
        penalty = keras.regularizers.L2(10 * learning_rate)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_regularizer=penalty)])
        model.compile(keras.optimizers.Adam(learning_rate), "mse")
        return model

    alone, vectorized = (
        run(comparison(methods={"penalized": penalized}, vectorize=count), tmp_path / f"{count}.jsonl").frame["RMSE"]
        for count in (1, 3)
    )
    np.testing.assert_allclose(vectorized, alone, rtol=1e-4)


@pytest.mark.one_backend
def test_fewer_splits_and_methods_give_only_theirs(found, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_bytes(found[1].read_bytes())
    fewer = run(comparison(methods={"deep": deep}, splits=2), path, history=True)
    assert set(fewer.frame["method"]) == {"deep"}
    assert fewer.table()["n"].tolist() == [2]
    assert len(experiments.load(path).frame) == len(found[0].frame)


@pytest.mark.one_backend
def test_higher_may_be_better(tmp_path, found):
    def negative(targets, predictions):
        return -np.sqrt(np.mean((targets - predictions[:, 0]) ** 2))

    path = tmp_path / "results.jsonl"
    flipped = run(comparison(metrics={"score": negative}, mode="max"), path)
    np.testing.assert_allclose(-flipped.frame["score"], found[0].frame["RMSE"], rtol=1e-5)
    assert flipped.final["learning_rate"].tolist() == found[0].final["learning_rate"].tolist()


@pytest.mark.one_backend
def test_test_labels_decide_nothing(tmp_path, found):
    def permuted(index):
        split = data(index)
        x, y = split.test
        return dataclasses.replace(split, test=(x, np.random.default_rng(0).permutation(y)))

    results = run(comparison(data=permuted), tmp_path / "results.jsonl")
    for place, row in found[0].choices.items():
        assert (results.choices[place]["hyperparameters"], results.choices[place]["epochs"]) == (
            row["hyperparameters"],
            row["epochs"],
        )
    assert not np.allclose(results.final["RMSE"], found[0].final["RMSE"])  # the labels are those of the test


class Doomed:
    """In place of `Processes`: works in this process, in another order, and says that one ended with a certain fit."""

    def __init__(self, count, prepare, arguments):
        prepare(*arguments)
        self.calls = set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # The last: what is left of a group that was too much for its process, without a program for groups.
        assert self.calls == {(3, 21, False), (2, 14, False), (1, 7, False), (1, 7, True)}

    def map(self, function, tasks, limit):
        for fits in reversed(list(tasks)):
            self.calls.add((len(fits), limit(fits), function.keywords["alone"]))
            is_lost = any((fit.method, fit.stage, fit.split) == ("deep", "tune", 1) for fit in fits)
            is_lost &= fits[0].hyperparameters == {"learning_rate": 0.1}
            yield (fits, None, "it ended") if is_lost else (fits, function(fits), None)


@pytest.mark.one_backend
def test_a_process_that_ends_is_a_failure_of_one_fit(found, tmp_path, monkeypatch):
    """The other fits of its group, of the method and of the comparison are trained."""
    monkeypatch.setattr(running, "Processes", Doomed)
    monkeypatch.setattr(running, "_work", None)  # is set anew, and put back afterwards
    results = run(comparison(), tmp_path / "results.jsonl", history=True, time_limit=7)
    lost = results.failures.iloc[0]
    assert (lost["method"], lost["stage"], lost["split"], lost["learning_rate"]) == ("deep", "tune", 1, 0.1)
    assert results.failures["failure"].tolist() == ["it ended"]
    final = results.final.set_index(["method", "split"])
    assert final["failure"].isna().all()
    assert final.loc[("deep", 1), "learning_rate"] == 0.003
    key = ["method", "stage", "split", "learning_rate"]
    both = results.frame.merge(found[0].frame, on=key)
    assert len(both) == len(results.frame) - 1  # all but the final fit at another learning rate
    pd.testing.assert_frame_equal(results.tuning[key], found[0].tuning[key])  # in the comparison's order
    trained = both[both["failure_x"].isna()]
    np.testing.assert_allclose(trained["RMSE_x"], trained["RMSE_y"], rtol=1e-4)


# Below, processes are started, each of which imports a backend.


@pytest.mark.one_backend
def test_another_process_ends_with_the_same_rows(found, tmp_path):
    """It is killed at the end, so that it does not need to be replaced."""
    one_fit = {"grid": {"learning_rate": [0.1]}, "validate_every": None, "splits": 1}
    other = comparison(name="other", methods={"linear": linear, "killed": killed}, **one_fit)
    results = run([comparison(), other], tmp_path / "results.jsonl", time_limit=600, history=True)
    plane = results.frame[results.frame["task"] == "plane"]
    changed = [*TIMES, "failure"]  # and numbers of a table that has empty places are no integers
    pd.testing.assert_frame_equal(plane.drop(columns=changed), found[0].frame.drop(columns=changed), check_dtype=False)
    assert plane["failure"].isna().all()
    assert results.failures[["task", "method"]].to_numpy().tolist() == [["other", "killed"]]
    assert "SIGKILL" in results.failures["failure"].item()


@pytest.mark.slow  # test_a_crash_after_any_line_resumes_to_the_same_rows has the same file without a new process
@pytest.mark.one_backend
def test_kill_9_loses_nothing(found, tmp_path):
    path = tmp_path / "results.jsonl"
    code = (
        "import sys; from keras_actlab import experiments; from tests.experiments.examples import comparison\n"
        "experiments.run(comparison(), sys.argv[1], history=True, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], env=os.environ)
    while process.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < len(experiments.load(path).rows) < len(found[0].rows)
    resumed = run(comparison(), path, history=True)
    pd.testing.assert_frame_equal(resumed.frame.drop(columns=TIMES), found[0].frame.drop(columns=TIMES))
