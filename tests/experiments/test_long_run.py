import json
import signal
import subprocess
import sys

import grain
import keras
import numpy as np
import pandas as pd
import pytest

from keras_actlab import distribution, experiments
from tests.backends import numpy
from tests.experiments.interrupted import EPOCHS, STEPS, run


def state(model):
    variables = [*model.weights, *model.optimizer.variables]
    return [numpy(variable) for variable in variables]


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


def small(tmp_path, units=2, rate=0.1, epochs=2):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units), keras.layers.Dropout(0.5)])
    model.compile(keras.optimizers.SGD(rate), "mse")
    x, y = np.ones((4, 3), "float32"), np.zeros((4, units), "float32")
    log = experiments.long_run(
        model,
        grain.MapDataset.source([(x, y)]).repeat(),
        tmp_path / "run",
        steps_per_epoch=2,
        epochs=epochs,
        seed=0,
        settings={"rate": rate},
        verbose=0,
    )
    return model, log


def test_a_finished_run_is_not_trained_again(tmp_path):
    model, log = small(tmp_path)
    again, same = small(tmp_path)
    pd.testing.assert_frame_equal(log, same)
    assert log["step"].tolist() == [2, 4]
    assert int(again.optimizer.iterations) == 4
    np.testing.assert_array_equal(numpy(model.weights[0]), numpy(again.weights[0]))
    names = ["log.csv", "previous-step-000000002.weights.h5", "settings.json", "step-000000004.weights.h5"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == names


def test_another_process_than_the_first_writes_nothing_and_waits_for_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(distribution, "data_shard", lambda: (1, 2))
    _, log = small(tmp_path)
    assert log["step"].tolist() == [2, 4]
    assert not list(tmp_path.rglob("*.*"))


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
