"""Grids whose range is extended where the best value lies at an end, with losses that are a function of the value."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest

from keras_actlab import experiments
from keras_actlab.experiments import running
from keras_actlab.experiments.running import _continued

pytestmark = pytest.mark.one_backend

PART = np.zeros((4, 1), "float32"), np.zeros((4, 1), "float32")


class Losses:
    """In place of training: the loss of a fit is a function of its method, its seed and its hyper-parameters."""

    def __init__(self, function):
        self.function, self.fits = function, []

    def __call__(self, model, fit, train, evaluation):
        self.fits.append(fit)
        return {fit.epochs: {"loss": self.function(fit.method, fit.seed, **fit.hyperparameters)}}

    @property
    def tried(self):
        """The values of the tuned fits in the order in which they were tried."""
        return [fit.hyperparameters["rate"] for fit in self.fits if fit.stage == "tune"]


def distance(optimum):
    return lambda method, seed, rate: abs(math.log(rate / optimum))


def network(**hyperparameters):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def comparison(losses, **changes):
    arguments = {
        "name": "c",
        "methods": {"m": network},
        "data": experiments.Split(PART, PART, PART),
        "metrics": ["loss"],
        "epochs": 2,
        "grid": {"rate": [0.01, 0.1]},
        "extend": "rate",
        "fit": losses,
    }
    return experiments.Comparison(**arguments | changes)


def run(path, losses, **changes):
    return experiments.run(comparison(losses, **changes), path / "results.jsonl", progress=False)


@pytest.mark.parametrize(
    ("optimum", "tried", "chosen"),
    [
        (0.1, [0.01, 0.1, 1.0], 0.1),
        (9.0, [0.01, 0.1, 1.0, 10.0, 100.0], 10.0),
        (1e9, [0.01, 0.1, 1.0, 10.0, 100.0, 1000.0], 1000.0),
        (0.0011, [0.01, 0.1, 0.001, 0.0001], 0.001),
        (1e-9, [0.01, 0.1, 0.001, 0.0001, 1e-05, 1e-06], 1e-06),
    ],
)
def test_values_are_added_until_the_best_one_lies_inside(optimum, tried, chosen, tmp_path):
    losses = Losses(distance(optimum))
    results = run(tmp_path, losses)
    assert losses.tried == tried
    assert results.tuning["rate"].tolist() == sorted(tried)  # exactly, as they are keys
    assert results.tuning.set_index("rate")["chosen"].idxmax() == chosen
    assert results.tuning["chosen"].sum() == 1
    assert results.final["rate"].tolist() == [chosen]


def test_a_grid_that_holds_its_best_value_inside_is_not_extended(tmp_path):
    losses = Losses(distance(0.1))
    run(tmp_path, losses, grid={"rate": [1.0, 0.01, 0.1]})
    assert losses.tried == [1.0, 0.01, 0.1]


def test_without_the_option_nothing_is_added(tmp_path):
    losses = Losses(distance(9.0))
    assert run(tmp_path, losses, extend=None).final["rate"].tolist() == [0.1]
    assert losses.tried == [0.01, 0.1]


@pytest.mark.parametrize(
    ("before", "last", "values"),
    [
        (0.001, 0.003, [0.009, 0.027, 0.081, 0.243]),
        (0.1, 0.031622776601683794, [0.01, 0.00316228, 0.001, 0.000316228]),
        (32, 64, [128, 256, 512, 1024]),
        (4, 2, [1]),
        (2, 3, [4, 6, 9, 14]),
        (1e100, 1e300, []),
        (1.0, 1.0000001, []),
    ],
)
def test_a_sequence_goes_on_with_the_ratio_of_its_last_values(before, last, values):
    assert json.dumps(_continued(before, last)) == json.dumps(values)  # which also compares types


def test_every_method_and_seed_has_its_own_range_and_equal_fits_are_one_group(tmp_path, monkeypatch):
    optima = {("a", 0): 3.0, ("a", 1): 4.0, ("b", 0): 0.02, ("b", 1): 3.0}
    groups = []

    def train(description, fits, *arguments):
        groups.append({(fit.method, fit.stage, fit.seed, fit.hyperparameters["rate"]) for fit in fits})
        losses = [distance(optima[fit.method, fit.seed])(fit.method, fit.seed, **fit.hyperparameters) for fit in fits]
        pairs = zip(fits, losses, strict=True)
        return [{**dataclasses.asdict(fit), "metrics": {"loss": loss}, "failure": None} for fit, loss in pairs]

    monkeypatch.setattr(running, "train", train)
    metrics = {"loss": lambda targets, predictions: 0.0}
    results = run(tmp_path, None, metrics=metrics, methods=dict.fromkeys("ab", network), seeds=2, vectorize=2)
    assert groups[4:-4] == [
        {("a", "tune", 0, 1.0), ("a", "tune", 1, 1.0)},
        {("b", "tune", 0, 0.001)},
        {("b", "tune", 1, 1.0)},
        {("a", "tune", 0, 10.0), ("a", "tune", 1, 10.0)},
        {("b", "tune", 1, 10.0)},
        {("a", "tune", 1, 100.0)},
    ]
    assert results.final["rate"].tolist() == [1.0, 10.0, 0.01, 1.0]


def test_other_hyper_parameters_are_those_of_the_best_candidate(tmp_path):
    losses = Losses(lambda method, seed, rate, width: distance(1.0)(method, seed, rate) + abs(width - 16))
    results = run(tmp_path, losses, grid={"width": [8, 16, 32], "rate": [0.01, 0.1]})
    added = [fit.hyperparameters for fit in losses.fits if fit.stage == "tune"][6:]
    assert added == [{"width": 16, "rate": 1.0}, {"width": 16, "rate": 10.0}]
    places = results.tuning[["width", "rate"]].to_numpy().tolist()
    assert places == [[8, 0.01], [8, 0.1], [16, 0.01], [16, 0.1], [16, 1.0], [16, 10.0], [32, 0.01], [32, 0.1]]


def test_high_values_may_be_better(tmp_path):
    losses = Losses(lambda *arguments, **point: -distance(1.0)(*arguments, **point))
    assert run(tmp_path, losses, mode="max").final["rate"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("loss", "tried", "chosen"),
    [
        (lambda rate: 1.0, [0.01, 0.1, 0.001], 0.01),
        (lambda rate: float(rate < 0.05), [0.01, 0.1, 1.0], 0.1),
        (lambda rate: float(rate > 0.002), [0.01, 0.1, 0.001, 0.0001], 0.001),
    ],
)
def test_equally_good_values_do_not_extend_the_range(loss, tried, chosen, tmp_path):
    losses = Losses(lambda method, seed, rate: loss(rate))
    assert run(tmp_path, losses).final["rate"].tolist() == [chosen]
    assert losses.tried == tried


@pytest.mark.parametrize("failure", [math.nan, math.inf, "raises"])
def test_a_value_that_fails_ends_the_extension(failure, tmp_path):
    def loss(method, seed, rate):
        if rate > 1:
            if failure == "raises":
                raise RuntimeError("diverged")
            return failure
        return distance(100.0)(method, seed, rate)

    losses = Losses(loss)
    results = run(tmp_path, losses)
    assert losses.tried == [0.01, 0.1, 1.0, 10.0]
    assert results.final["rate"].tolist() == [1.0]
    assert len(results.failures) == (failure == "raises")


def test_an_end_of_the_grid_that_fails_is_not_passed(tmp_path):
    losses = Losses(lambda method, seed, rate: math.nan if rate > 0.5 else -rate)
    assert run(tmp_path, losses, grid={"rate": [0.01, 0.1, 1.0]}).final["rate"].tolist() == [0.1]
    assert losses.tried == [0.01, 0.1, 1.0]


def test_a_failed_value_is_retried_and_the_final_fit_follows_the_new_choice(tmp_path):
    fails = [True]

    def loss(method, seed, rate):
        if fails[0] and rate == 1.0:
            raise RuntimeError("no luck")
        return distance(10.0)(method, seed, rate)

    losses = Losses(loss)
    assert run(tmp_path, losses).final["rate"].tolist() == [0.1]
    fails[0] = False
    losses.fits.clear()
    results = run(tmp_path, losses)
    assert [(fit.stage, fit.hyperparameters["rate"]) for fit in losses.fits] == [
        *[("tune", rate) for rate in (1.0, 10.0, 100.0)],
        ("final", 10.0),
    ]
    assert results.final["rate"].tolist() == [10.0]
    assert not len(results.failures)


def test_a_run_that_was_killed_repeats_no_fit_and_ends_with_the_same_rows(tmp_path):
    losses = Losses(distance(9.0))
    whole = run(tmp_path, losses).frame.drop(columns=["seconds", "seconds_per_epoch"])
    count = len(losses.fits)
    lines = (tmp_path / "results.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + count
    for kept in range(1, len(lines) + 1):
        (tmp_path / "results.jsonl").write_bytes(b"".join(lines[:kept]))
        losses.fits.clear()
        again = run(tmp_path, losses).frame.drop(columns=["seconds", "seconds_per_epoch"])
        assert len(losses.fits) == len(lines) - kept
        assert again.equals(whole)


def test_progress_includes_the_values_that_are_added(tmp_path):
    losses, plans, rows = Losses(distance(1.0)), [], []

    def go():
        running.complete(
            comparison(losses, seeds=2),
            tmp_path / "results.jsonl",
            on_rows=rows.extend,
            on_plan=lambda *plan: plans.append(plan),
        )

    go()
    assert plans == [(6, 0), (8, 4), (10, 6)]
    assert len(rows) == 10
    go()
    assert plans[3:] == [(10, 10)]


def test_a_file_without_the_option_goes_on_and_another_option_is_refused(tmp_path):
    path, losses = tmp_path / "results.jsonl", Losses(distance(9.0))
    run(tmp_path, losses, extend=None)
    record, *rows = (json.loads(line) for line in path.read_text().splitlines())
    del record["configuration"]["extend"]  # as in files of earlier versions
    for line in (record, *rows):
        del line["checksum"]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in (record, *rows)))
    losses.fits.clear()
    assert run(tmp_path, losses, extend=None).final["rate"].tolist() == [0.1]
    assert losses.fits == []
    with pytest.raises(ValueError, match="extend: None there, rate here"):
        run(tmp_path, losses)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"extend": "width"}, ValueError),
        ({"extend": 1}, ValueError),
        ({"grid": {"rate": [0.1]}}, ValueError),
        ({"grid": {"rate": [0.0, 0.1]}}, ValueError),
        ({"grid": {"rate": [-1, 1]}}, ValueError),
        ({"grid": {"rate": ["slow", "fast"]}}, TypeError),
        ({"grid": {"rate": [False, True]}}, TypeError),
    ],
)
def test_only_positive_numbers_can_be_extended(changes, error):
    with pytest.raises(error, match="`extend` must"):
        comparison(Losses(distance(1.0)), **changes)
