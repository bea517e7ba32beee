import json
import signal
import subprocess
import sys
from types import SimpleNamespace
from unittest import mock

import grain
import keras
import numpy as np
import pandas as pd
import pytest

from keras_actlab import distribution, experiments
from keras_actlab.experiments import _waiting
from keras_actlab.experiments.resumable import _Checkpoints
from tests.backends import numpy, on_one_backend
from tests.experiments.interrupted import EPOCHS, STEPS, run
from tests.experiments.power_cut import Disk, restore


def state(model):
    variables = [*model.weights, *model.optimizer.variables]
    return [numpy(variable) for variable in variables]


@pytest.mark.one_backend
@pytest.mark.parametrize("fatal", [14], ids=["in the middle of an epoch"])
def test_a_killed_run_goes_on_and_ends_with_the_same_weights(tmp_path, fatal):
    killed = subprocess.run([sys.executable, "-m", "tests.experiments.interrupted", tmp_path / "killed", str(fatal)])
    assert killed.returncode == -signal.SIGKILL
    (checkpoint,) = (tmp_path / "killed").glob("step-*.weights.h5")
    step = int(checkpoint.name[5:14])
    assert STEPS < step < fatal
    assert len(pd.read_csv(tmp_path / "killed" / "log.csv")) == 1

    continued, read = run(tmp_path / "killed")
    compared = {0, STEPS * EPOCHS // 2, STEPS * EPOCHS - 1}  # with the data of the run that was killed
    assert min(index for index, _ in read if index not in compared) == step  # no other batch is read twice
    whole, read_by_whole = run(tmp_path / "whole")
    assert dict(read).items() <= dict(read_by_whole).items()
    for one, other in zip(state(continued), state(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    logs = [pd.read_csv(tmp_path / name / "log.csv") for name in ("killed", "whole")]
    assert logs[0]["epoch"].tolist() == logs[1]["epoch"].tolist() == list(range(EPOCHS))
    assert logs[0]["val_loss"].tolist() == logs[1]["val_loss"].tolist()


class KilledError(BaseException):
    pass


X = np.random.default_rng(0).normal(size=(12, 4, 3)).astype("float32")
BATCHES = grain.MapDataset.source([(x, x[:, :2]) for x in X])
RATE = 0.1


def network(optimizer=None, units=2, **arguments):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units), keras.layers.Dropout(0.5)])
    model.compile(optimizer or keras.optimizers.SGD(RATE), "mse", **arguments)
    return model


def train(model, folder, kill=None, batches=BATCHES, epochs=3, **arguments):
    """Returns the log, or None if the run was killed at a step."""
    end = _Checkpoints.on_train_batch_end

    def kill_after(self, batch, logs=None):
        end(self, batch, logs)
        if self.step == kill:
            raise KilledError

    arguments = {"steps_per_epoch": 4, "save_every": 2, "verbose": 0, "workers": 1} | arguments
    with mock.patch.object(_Checkpoints, "on_train_batch_end", kill_after):
        try:
            return experiments.fit_resumable(model, batches, folder, epochs=epochs, **arguments)
        except KilledError:
            return None


def small(tmp_path, units=2, rate=RATE, epochs=2, **arguments):
    model = network(keras.optimizers.SGD(rate), units)
    batches = BATCHES.map(lambda batch: (batch[0], batch[0][:, :units]))
    log = train(
        model, tmp_path / "run", batches=batches, epochs=epochs, steps_per_epoch=2, settings={"rate": rate}, **arguments
    )
    return model, log


def optimizers(kind):
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 5, warmup_target=0.2, warmup_steps=2)
    match kind:
        case "averages":
            return keras.optimizers.Adam(schedule, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=5)
        case "accumulates":
            return keras.optimizers.AdamW(schedule, gradient_accumulation_steps=3, use_ema=True, global_clipnorm=1.0)
        case "skips steps":  # as at the first scales gradients are infinite
            inner = keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True)
            return keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**126, dynamic_growth_steps=3)


@pytest.mark.parametrize("kind", ["averages", *on_one_backend("accumulates", "skips steps")])
def test_what_the_optimizer_remembers_is_restored(tmp_path, kind):
    at_once = 2 if kind == "accumulates" and keras.backend.backend() != "torch" else 1
    models = [network(optimizers(kind), steps_per_execution=at_once) for _ in range(4)]
    whole, killed, continued, finished = models
    train(whole, tmp_path / "whole")
    assert train(killed, tmp_path / "killed", kill=6) is None
    log = train(continued, tmp_path / "killed")
    train(finished, tmp_path / "killed")
    assert log["step"].tolist() == [4, 8, 12]
    for expected, *others in zip(*map(state, (whole, continued, finished)), strict=True):
        for other in others:
            np.testing.assert_array_equal(other, expected)


@pytest.mark.one_backend
def test_the_log_tells_the_time_of_training_and_of_waiting(tmp_path):
    _, log = small(tmp_path)
    assert log["waiting_seconds"].gt(0).all()
    if keras.backend.backend() != "tensorflow":  # whose threads prepare batches meanwhile
        assert log["training_seconds"].gt(log["waiting_seconds"]).all()
    assert log["seconds"].ge(log["training_seconds"]).all()


@pytest.mark.one_backend
def test_the_time_of_waiting_is_that_of_reading_batches(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(_waiting, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def slow(row):
        clock.now += 3.0
        return row

    batches = _waiting.TimedBatches(grain.MapDataset.range(4).to_iter_dataset().map(slow))
    for count, _ in enumerate(batches):
        clock.now += 10.0  # a training step
        assert batches.seconds == 3 * (count + 1)
    iterator = iter(batches)
    next(iterator)
    state = iterator.get_state()
    assert next(iterator) == 1
    iterator.set_state(state)
    assert next(iterator) == 1


@pytest.mark.one_backend
def test_a_finished_run_is_not_trained_again(tmp_path):
    model, log = small(tmp_path)
    again, same = small(tmp_path)
    pd.testing.assert_frame_equal(log, same)
    assert log["step"].tolist() == [2, 4]
    assert int(again.optimizer.iterations) == 4
    np.testing.assert_array_equal(numpy(model.weights[0]), numpy(again.weights[0]))
    names = ["log.csv", "previous-step-000000002.weights.h5", "settings.json", "step-000000004.weights.h5"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == names


@pytest.mark.one_backend
def test_another_process_than_the_first_writes_nothing_and_waits_for_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(distribution, "data_shard", lambda: (1, 2))
    _, log = small(tmp_path)
    assert log["step"].tolist() == [2, 4]
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch's trainer has no such option")
def test_steps_are_batches_where_several_are_executed_at_once(tmp_path):
    model = network(steps_per_execution=4)
    validation = BATCHES[:6]
    log = train(model, tmp_path, epochs=1, steps_per_epoch=12, save_every=3, validation=validation)
    assert log["step"].tolist() == [12]
    assert int(model.optimizer.iterations) == 12
    assert [path.name for path in tmp_path.glob("previous*")] == ["previous-step-000000008.weights.h5"]
    losses = [float(numpy(model.test_on_batch(*validation[index]))) for index in range(6)]
    np.testing.assert_allclose(log["val_loss"], np.mean(losses), rtol=1e-5)
    with pytest.raises(ValueError, match=r"`steps_per_epoch` must be a multiple.* steps_per_epoch=6, steps_per_e"):
        train(model, tmp_path / "other", steps_per_epoch=6, epochs=1)


def damage(path):
    path.write_bytes(path.read_bytes()[:900])


@pytest.mark.one_backend
def test_a_run_goes_on_from_the_checkpoint_before_the_damaged_one(tmp_path):
    whole, model = network(), network()
    train(whole, tmp_path / "whole")
    train(network(), tmp_path / "run", kill=7)
    newest = tmp_path / "run" / "step-000000006.weights.h5"
    damage(newest)
    with pytest.warns(UserWarning, match=rf"{newest} cannot be read.* continues from .*previous-step-000000004"):
        log = train(model, tmp_path / "run")
    assert log["step"].tolist() == [4, 8, 12]
    for one, other in zip(state(model), state(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not newest.exists()


@pytest.mark.one_backend
def test_a_run_without_a_checkpoint_that_can_be_read_is_not_begun_anew(tmp_path):
    train(network(), tmp_path, kill=7)
    paths = sorted(tmp_path.glob("*step*"))
    for path in paths:
        damage(path)
    with pytest.raises(ValueError, match=r"`folder` must hold a checkpoint.*000006.* cannot be read.*previous-step"):
        train(network(), tmp_path)
    assert sorted(tmp_path.glob("*step*")) == paths


@pytest.mark.one_backend
@pytest.mark.parametrize("content", [b"", bytes(300), b"[1", b"[" * 100_000])
def test_damaged_settings_and_logs_are_written_again(tmp_path, content):
    small(tmp_path)
    names = ["settings.json", "log.csv"]
    before = [(tmp_path / "run" / name).read_bytes() for name in names]
    for name in names:
        (tmp_path / "run" / name).write_bytes(content)
    with pytest.warns(UserWarning, match=r"settings.json cannot be read"):
        _, log = small(tmp_path)
    assert log["step"].tolist() == [2, 4]
    assert [(tmp_path / "run" / name).read_bytes() for name in names] == before
    (tmp_path / "run" / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"rate=0.2, there 0.1"):  # as the checkpoint says
        small(tmp_path, rate=0.2)


@pytest.mark.one_backend
def test_a_power_failure_costs_no_finished_checkpoint(tmp_path, monkeypatch):
    run, graveyard, left = (tmp_path / name for name in ("run", "graveyard", "left"))
    graveyard.mkdir()
    disk = Disk(run, graveyard, monkeypatch)
    save = _Checkpoints._save

    def noting(self):
        save(self)
        disk.saved = self.step

    monkeypatch.setattr(_Checkpoints, "_save", noting)
    whole = network()
    train(whole, run)
    monkeypatch.undo()
    assert disk.saved == 12
    assert len(disk.cuts) > 30
    key = json.loads((run / "settings.json").read_text())
    for files, saved in disk.cuts:
        restore(files, left)
        assert _Checkpoints(left, key).restore(network()) >= saved
    for files, _ in disk.cuts[:: len(disk.cuts) // 2]:
        restore(files, left)
        continued = network()
        train(continued, left)
        for one, other in zip(state(continued), state(whole), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_saved(tmp_path, value):
    bad = BATCHES.map_with_index(lambda index, batch: (batch[0], batch[1] * (value if index == 6 else 1)))
    with pytest.raises(FloatingPointError, match=r"The loss is (nan|inf) at step 8.* checkpoint, .*step-000000006"):
        train(network(), tmp_path, batches=bad)
    model = network()
    model.load_weights(tmp_path / "step-000000006.weights.h5")
    assert all(np.isfinite(values).all() for values in state(model))


def test_weights_that_are_not_finite_end_the_run_before_they_are_saved(tmp_path):
    model = network(keras.optimizers.SGD(3e38))  # the loss is that of before the step
    large = BATCHES.map(lambda batch: (1000 * batch[0], batch[1]))
    with pytest.raises(FloatingPointError, match=r"kernel is not finite at step 1.*there is no checkpoint yet"):
        train(model, tmp_path, save_every=1, batches=large)
    assert not list(tmp_path.glob("*.h5"))


def test_a_step_that_loss_scaling_skips_does_not_end_the_run(tmp_path):
    bad = BATCHES.map_with_index(lambda index, batch: (batch[0], batch[1] * (np.nan if index == 6 else 1)))
    model = network(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)))
    log = train(model, tmp_path, batches=bad)
    assert log["step"].tolist() == [4, 8, 12]
    assert int(model.optimizer.iterations) == 11


@pytest.mark.one_backend
def test_settings_may_hold_nan(tmp_path):
    settings = {"rate": float("nan"), "range": (0, float("inf"))}
    train(network(), tmp_path, settings=settings, epochs=1)
    train(network(), tmp_path, settings=settings, epochs=1)
    with pytest.raises(ValueError, match=r"settings.rate=0.1, there 'nan'"):
        train(network(), tmp_path, settings=settings | {"rate": 0.1}, epochs=1)


def test_an_optimizer_that_would_not_be_restored_is_refused(tmp_path):
    model = network()
    model.other = keras.optimizers.Adam()
    with pytest.raises(ValueError, match=r"must have no optimizer that is not built.*Received: model\.other"):
        train(model, tmp_path)
    model.other.build(model.trainable_variables)
    train(model, tmp_path, epochs=1)


@pytest.mark.one_backend
def test_batches_that_end_too_early_are_an_error(tmp_path):
    filtered = BATCHES.map_with_index(lambda index, batch: (index, *batch)).filter(lambda batch: batch[0] != 5)
    with pytest.raises(ValueError, match=r"`batches` must have a batch at each index.*none after step 11"):
        train(network(), tmp_path, batches=filtered.map(lambda batch: batch[1:]))


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"rate": 0.2}, "settings.rate=0.2, there 0.1; optimizer.config.learning_rate=0.20"),
        ({"units": 3}, r"model.config.layers\[1\].config.units=3, there 2"),
        ({"epochs": 3}, "epochs=3, there 2"),
    ],
)
def test_a_folder_of_another_run_is_refused(tmp_path, other, words):
    small(tmp_path)
    with pytest.raises(
        ValueError, match=rf"`folder` must be new, or that of a run with the same settings, model and data.*{words}"
    ):
        small(tmp_path, **other)
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["settings"] == {"rate": 0.1}


@pytest.mark.one_backend
def test_the_old_name_works_with_a_warning():
    with pytest.warns(DeprecationWarning, match="`long_run` is deprecated: use `fit_resumable`"):
        assert experiments.long_run is experiments.fit_resumable


@pytest.mark.one_backend
def test_fits_of_a_comparison_continue_from_their_checkpoints(tmp_path, monkeypatch):
    """A run that is interrupted in the middle of a fit ends with the rows of one that was not."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 4, 3)).astype("float32")
    batches = grain.MapDataset.source([(part, part[:, :1]) for part in x])

    def dense(learning_rate):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1), keras.layers.Dropout(0.2)])
        model.compile(keras.optimizers.Adam(learning_rate), "mse", metrics=["mae"])
        return model

    def comparison(folder):
        return experiments.Comparison(
            name="plane",
            methods={"dense": dense},
            data=experiments.Split(lambda seed: batches.seed(seed).shuffle(), batches[:2], batches[2:4]),
            metrics=["mae", "loss"],
            grid={"learning_rate": [0.01, 0.1]},
            epochs=4,
            validate_every=2,
            fit=experiments.Resumable(folder / "fits", steps_per_epoch=3, verbose=0),
        )

    def run(folder):
        return experiments.run(comparison(folder), folder / "rows.jsonl", history=True, progress=False)

    whole = run(tmp_path / "whole")
    assert whole.tuning["epochs"].isin([2, 4]).all()
    assert all(row["history"]["epoch"] == list(range(1, row["epochs"] + 1)) for row in whole.rows[2:])
    logs = [pd.read_csv(path) for path in sorted((tmp_path / "whole" / "fits").glob("*, final, */log.csv"))]
    assert whole.final["mae"].item() == pytest.approx(logs[0]["val_mae"].iloc[-1])
    assert whole.final["loss"].item() == pytest.approx(logs[0]["val_loss"].iloc[-1])

    save, saved = _Checkpoints._save, []

    def interrupt(self):
        save(self)
        saved.append(self.step)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(_Checkpoints, "_save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "interrupted")
    monkeypatch.undo()
    assert saved == [3, 6]  # of 12
    again = run(tmp_path / "interrupted")
    columns = ["learning_rate", "stage", "epochs", "mae", "loss"]
    pd.testing.assert_frame_equal(again.frame[columns], whole.frame[columns])


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [({"folder": 3}, TypeError, "`folder`"), ({"save_every": 0}, ValueError, "`save_every` must be positive")],
)
def test_options_of_resumable_fits_are_checked(changes, error, words):
    with pytest.raises(error, match=words):
        experiments.Resumable(**{"folder": "runs", "steps_per_epoch": 1} | changes)
