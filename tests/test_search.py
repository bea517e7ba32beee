import multiprocessing
import os

import keras
import numpy as np
import pytest

from keras_actlab import experiments, search
from keras_actlab.conversion import report
from keras_actlab.layers import CRReLU, GmPDense

pytestmark = pytest.mark.one_backend

X = np.random.default_rng(0).normal(size=(90, 3)).astype("float32")


def network():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01, momentum=0.5), "mse", metrics=["mae"])
    return model


def data():
    return experiments.holdout(X, np.abs(X[:, 0]), seed=0)


def space(folder, **options):
    return search.Search(**{"model": network(), "data": data(), "path": folder / "rows.jsonl", "epochs": 2} | options)


def test_a_trial(tmp_path):
    one = space(tmp_path, metric="mae", seeds=2)
    value = one.evaluate("crrelu", "gmp", 0.05)
    (row_0, row_1) = one.results.rows
    assert value == pytest.approx(np.mean([row["metrics"]["mae"] for row in (row_0, row_1)]))
    assert row_0["hyperparameters"] == {"learning_rate": 0.05}
    # Trained on the training part alone, and evaluated on the validation part.
    keras.utils.set_random_seed(row_0["seed"])
    assert one.evaluate("crrelu", "gmp", 0.05) == value
    assert len(one.results.rows) == 2
    model = one.build("crrelu", "gmp", 0.05)
    assert isinstance(model.layers[0], GmPDense)
    assert isinstance(model.layers[0].activation, CRReLU)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)
    assert float(model.optimizer.momentum) == 0.5
    assert len(report(model).changed) == 2
    base = {"activation": "as is", "parameterization": "as is", "learning_rate": 0.01}
    paired = one.paired({"activation": "crrelu", "parameterization": "gmp", "learning_rate": 0.05}, base)
    assert paired.differences.mean() == pytest.approx(value - one.evaluate(**base))


def test_the_test_part_is_not_read(tmp_path):
    parts = data()
    other = experiments.Split(parts.train, parts.validation, (parts.test[0], parts.test[1] + 100))
    values = [
        space(folder, data=one).evaluate("as is", "as is", 0.01)
        for folder, one in ((tmp_path / "a", parts), (tmp_path / "b", other))
    ]
    assert values[0] == values[1]


class Killed(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        os._exit(9)


def part_of_a_study(folder, kill_at):
    """Runs a study in this process, which dies in a fit of the trial `kill_at`."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(storage=f"sqlite:///{folder}/study.db", study_name="one", load_if_exists=True)
    one = space(folder, epochs=1)
    done = len([trial for trial in study.trials if trial.value is not None])

    class Dying(search.Search):
        def evaluate(self, **parameters):
            if len([trial for trial in study.trials if trial.value is not None]) == kill_at:
                os._exit(9)
            return super().evaluate(**parameters)

    assert done <= kill_at
    search.optimize(Dying(**vars(one)), study, trials=6)


def test_a_killed_study_ends_with_the_same_best_trial(tmp_path):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    (tmp_path / "killed").mkdir()
    process = multiprocessing.get_context("spawn").Process(target=part_of_a_study, args=(tmp_path / "killed", 3))
    process.start()
    process.join()
    assert process.exitcode == 9
    studies = []
    for name in ("killed", "whole"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        study = optuna.create_study(storage=f"sqlite:///{folder}/study.db", study_name="one", load_if_exists=True)
        assert len(study.trials) == {"killed": 4, "whole": 0}[name]  # one of them was running
        search.optimize(space(folder, epochs=1), study, trials=6)
        studies.append([(trial.params, trial.value) for trial in study.trials if trial.value is not None])
        assert len(studies[-1]) == 6
        assert study.best_value == min(value for _, value in studies[-1])
    assert studies[0] == studies[1]


def test_a_trial_that_diverges_is_pruned(tmp_path):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    search.optimize(space(tmp_path, epochs=30, learning_rates=(1e30, 1e31)), study, trials=1)
    assert study.trials[0].state.name == "PRUNED"


def test_the_direction_of_a_study(tmp_path):
    optuna = pytest.importorskip("optuna")
    with pytest.raises(ValueError, match=r"`study` must have the direction 'minimize'.*Received: .*'maximize'"):
        search.optimize(space(tmp_path), optuna.create_study(direction="maximize"), trials=1)


@pytest.mark.filterwarnings("ignore:(currentThread|getName).. is deprecated")  # KerasTuner's own
def test_keras_tuner(tmp_path):
    keras_tuner = pytest.importorskip("keras_tuner")
    one = space(tmp_path, epochs=1)
    tuners = []
    for _ in range(2):  # the second reads the trials of the first
        tuner = keras_tuner.RandomSearch(
            search.hypermodel(one),
            keras_tuner.Objective("loss", "min"),
            max_trials=3,
            seed=0,
            directory=tmp_path,
            overwrite=False,
        )
        tuner.search(verbose=0)
        tuners.append(tuner.get_best_hyperparameters()[0].values)
    assert tuners[0] == tuners[1]
    values = [row["metrics"]["loss"] for row in one.results.rows]
    assert len(values) == 3
    assert one.evaluate(**tuners[0]) == min(values)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data": (X, X)}, TypeError, "`data` must be a keras_actlab.experiments.Split"),
        ({"model": keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])}, ValueError, "`model` must be a comp"),
        ({"activations": ["gmp"]}, ValueError, "`activations` must be names of activations"),
        ({"activations": ["gleu"]}, ValueError, "gleu"),
        ({"parameterizations": ["gpm"]}, ValueError, "`parameterizations` must be out of"),
        ({"learning_rates": (0.1, 0.01)}, ValueError, "`learning_rates` must be the lowest and the highest"),
        ({"epochs": 0}, ValueError, "`epochs` must be positive"),
    ],
)
def test_arguments(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        space(tmp_path, **options)
