import re

import keras
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from keras_actlab import experiments
from recipes import gpt2_dpo
from recipes.gpt2_dpo import Study, comparison
from tests.backends import numpy
from tests.recipes.common.test_dpo import bigram, made_up, random_table
from tests.recipes.dialogues import rows, save, save_vocabulary

pytestmark = pytest.mark.one_backend


@pytest.fixture
def arguments(tmp_path):
    train, test = save(tmp_path / "train.jsonl.gz", rows(9)), save(tmp_path / "test.jsonl", rows(8))
    options = ["--train", str(train), "--test", str(test), "--out", str(tmp_path / "out")]
    return ["--smoke", *options, *save_vocabulary(tmp_path)]


def invoke(arguments, **options):
    return CliRunner().invoke(gpt2_dpo.app, arguments, catch_exceptions=False, **options)


def test_smoke(arguments, tmp_path):
    pytest.importorskip("keras_hub")
    finished = invoke([*arguments, "--beta", "2", "--beta", "5"])
    assert finished.exit_code == 0
    assert "train: 8 pairs, 8 of them truncated" in finished.output
    assert "test: 8 pairs" in finished.output
    assert "fine-tuning: 8 prompts" in finished.output

    found = pd.read_csv(tmp_path / "out" / "gpt2_dpo.csv")
    assert found["method"].tolist() == ["ReLU", "CRReLU"]
    assert found["task"].str.startswith("beta 2, ").all()
    assert found["accuracy"].between(0, 1).all()
    assert np.isfinite(found[gpt2_dpo.METRICS]).all(axis=None)
    # Hardly trained: still the policy of the start, and the reference.
    np.testing.assert_allclose(found["loss"], np.log(2), atol=0.01)
    np.testing.assert_allclose(found["fine-tuned nats per token"], np.log(269), atol=0.1)
    assert found["parameters"].diff().iloc[1] == 1  # an epsilon for its one block
    assert [line.split("|")[1].strip() for line in finished.output.splitlines() if re.match(r"\| .* run ", line)] == [
        *gpt2_dpo.METRICS,
        "fine-tuned nats per token",
    ]
    (run,) = (tmp_path / "out" / "gpt2_dpo").iterdir()
    assert sorted(str(path.relative_to(run)) for path in run.glob("*/*.npz")) == [
        f"{method}-0/reference-{part}.npz" for method in ("CRReLU", "ReLU") for part in ("test", "train")
    ]
    assert not list(run.glob("*/beta-*/*.h5"))
    assert [path.parent.name for path in run.glob("*/*/*.h5")] == ["fine-tuning"] * 2


def test_both_data_sets_in_one_command(arguments, tmp_path, monkeypatch):
    pytest.importorskip("keras_hub")
    studies = []

    def fit(model, fit, train, test, study, beta):
        studies.append(study)
        return {1: {"margin": 0, "accuracy": 1, "loss": 2, gpt2_dpo.NATS: 3}}

    monkeypatch.setattr(gpt2_dpo, "fine_tune_and_align", fit)
    answers = {"human_ref_A": "So.", "human_ref_B": "No.", "score_A": 2}
    shp = [{"history": "Why?", "labels": 1, "score_B": 1}, {"history": "Why?", "labels": 0, "score_B": 4}]
    path = save(tmp_path / "shp.jsonl", [answers | row for row in shp])
    invoke([*arguments, "--train", str(path)])
    study = studies[0]
    assert (len(study.train), len(study.tuning), len(study.test)) == (10, 9, 8)


def test_what_is_missing_is_trained(arguments, tmp_path, monkeypatch):
    pytest.importorskip("keras_hub")
    asked = []

    def fit(model, fit, train, test, study, beta):
        if len(asked) == 2:
            asked.append("killed")
            raise KeyboardInterrupt
        asked.append((fit.method, fit.seed, beta))
        return {1: {"margin": fit.seed, "accuracy": 1, "loss": 2, gpt2_dpo.NATS: 3}}

    monkeypatch.setattr(gpt2_dpo, "fine_tune_and_align", fit)
    sizes = ["--layers", "1", "--heads", "2", "--width", "8", "--length", "32", "--batch-size", "4"]
    options = [*sizes, "--seeds", "2", "--methods", "GELU", "--beta", "0.1", "--beta", "1", "--steps-sft", "3"]
    invoke([*arguments[1:], *options])
    assert asked == [("GELU", 0, 0.1), ("GELU", 1, 0.1), "killed"]
    invoke([*arguments[1:], *options])
    assert asked[3:] == [("GELU", 0, 1), ("GELU", 1, 1)]
    invoke([*arguments[1:], *options])
    assert len(asked) == 5
    results = experiments.load(tmp_path / "out" / "gpt2_dpo.jsonl")
    np.testing.assert_allclose(results.table("margin")[["mean", "s.e."]], 0.5)

    options[-1] = "4"  # another run, of which nothing is there
    invoke([*arguments[1:], *options])
    assert asked[5:] == [("GELU", seed, beta) for beta in (0.1, 1) for seed in (0, 1)]


def test_each_beta_starts_from_the_fine_tuned_network(tmp_path, monkeypatch):
    monkeypatch.setattr(gpt2_dpo, "RATE", 0.01)
    monkeypatch.setattr(gpt2_dpo, "WARM_UP", 1)

    def train(folder, betas):
        settings = {"name": "run", "length": 10, "batch_size": 2, "steps_sft": 3, "steps_dpo": 5}
        build = lambda activation: bigram(random_table())  # noqa: E731
        study = Study(
            tuning=made_up(4), train=made_up(4), test=made_up(2), build=build, folder=tmp_path / folder, **settings
        )
        comparisons = [comparison(study, ["ReLU"], beta, 1) for beta in betas]
        results = experiments.run(comparisons, tmp_path / folder / f"{betas}.jsonl", progress=False)
        return results.final.set_index("task")[[*gpt2_dpo.METRICS, gpt2_dpo.NATS]]

    whole = train("whole", [2.0, 1.0])
    assert (whole["margin"] > 0.1).all()
    train("killed", [2.0])
    (checkpoint,) = (tmp_path / "killed").rglob("fine-tuning/step-*")
    written = checkpoint.stat().st_mtime_ns
    np.testing.assert_allclose(train("killed", [1.0]), whole.loc[["beta 1, run run"]], rtol=1e-5)
    assert checkpoint.stat().st_mtime_ns == written  # not trained again


def test_the_optimizer_is_that_of_the_paper():
    optimizer = gpt2_dpo.optimizer()
    rates = []
    for step in (0, 75, 150, 10_000):
        optimizer.iterations.assign(step)
        rates.append(float(numpy(optimizer.learning_rate)))
    np.testing.assert_allclose(rates, [5e-7 / 151, 5e-7 * 76 / 151, 5e-7, 5e-7], rtol=1e-4)


def test_steps_of_the_optimizer_are_those_of_pytorch():
    optimizer = gpt2_dpo.optimizer()
    variable = keras.Variable(np.zeros(2, "float32"))
    optimizer.build([variable])
    weights, square = np.zeros(2), np.zeros(2)
    for step, gradient in enumerate([(3e-7, 4.0), (1e-7, 40.0)]):
        gradient = np.array(gradient)
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")], [variable])
        gradient *= min(1, 10 / np.linalg.norm(gradient))
        square = 0.99 * square + 0.01 * gradient**2
        weights -= 5e-7 * (step + 1) / 151 * gradient / (np.sqrt(square) + 1e-8)
    # 1e-8 is added in another place: it is a third of this root at most.
    np.testing.assert_allclose(numpy(variable), weights, rtol=0.3)
    np.testing.assert_allclose(numpy(variable)[1], weights[1], rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--beta": "0"}, "`beta` must be positive"),
        ({"--train": "nowhere.jsonl"}, "nowhere.jsonl must be a whole file"),
        ({"--merges": None}, "Give either `preset`, or both"),
        ({"--preset": "gpt2_base_en"}, "Give either `preset`, or both"),
        ({"--vocabulary": "nowhere.json"}, "`vocabulary` must be a JSON file.*No such file"),
    ],
)
def test_bad_options_are_refused_at_the_start(arguments, changes, words):
    options = dict(zip(arguments[1::2], arguments[2::2], strict=True)) | changes
    arguments = [word for option, value in options.items() if value for word in (option, value)]
    with pytest.raises(ValueError, match=words):
        invoke(arguments)


def test_help_explains_every_option():
    text = invoke(["--help"], env={"COLUMNS": "200"}).output
    for words in ("--train", "--vocabulary", "--preset", "--beta", "departing from", "--steps-sft", "--smoke"):
        assert words in text
