"""Search of activation, parameterization and learning rate of a model by Optuna or KerasTuner.

Every trial is trained by `keras_actlab.experiments.run`, so that finished fits are in a results file, and a search that
was killed does none of them again.
"""

import functools
import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from keras_actlab.advice.compilation import check_optimizer, compile_alike, learning_rate
from keras_actlab.advice.starts import Start
from keras_actlab.advice.variants import AS_IS, WEIGHTS, apply, resolve
from keras_actlab.arguments import check_type, positive_integer
from keras_actlab.experiments import Comparison, Paired, Results, Split, load, run

# The range of the learning rate, relative to the model's own.
LOWEST, HIGHEST = 1 / 30, 30.0


@dataclass(frozen=True)
class Search:
    """What is searched: activations, parameterizations and learning rates of a model.

    Args:
        model: A compiled model, whose initializers draw the weights of each trial, or a function that returns one.
            Optimizer, loss and metrics are those of `compile`.
        data: A `keras_actlab.experiments.Split`. Trials are trained on its training part and evaluated on its
            validation part. The test part is not used: evaluate the best trial on it once.
        path: Results file (.jsonl), to which each fit is appended, and from which finished ones are read.
        epochs: Number of epochs of a fit.
        metric: "loss" or the name of a metric of `compile`.
        mode: "min" or "max": whether low or high values of the metric are better.
        activations: Names of activations, see `keras_actlab.advice.names`; "as is" leaves the model's own.
        parameterizations: Names out of "as is", "gmp", "gmp+imn" and "weight norm".
        learning_rates: Lowest and highest learning rate; None for a thirtieth to thirty times the model's own. If the
            model has a schedule, the lowest and highest factor of it.
        seeds: Number of fits of a trial, from different weights. Its value is their mean.
        batch_size: Number of examples in a batch; None for datasets, which have batches of their own.

    Raises:
        TypeError: If `model` or `data` is of another type.
        ValueError: If the model is not compiled, a name is unknown, a number is not positive, the rates are not in
            order, or the split has no validation part.

    Example:

    >>> import pathlib, tempfile
    >>> from keras_actlab import experiments, search
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1)])
    >>> model.compile("adam", "mse")
    >>> x = np.random.default_rng(0).normal(size=(60, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     space = search.Search(model, experiments.holdout(x, abs(x[:, 0]), seed=0), folder + "/rows.jsonl", epochs=2)
    ...     value = space.evaluate("crrelu", "gmp", 0.01)
    ...     again = space.evaluate("crrelu", "gmp", 0.01)  # read from the file
    >>> value == again
    True
    """

    model: keras.Model | Callable[[], keras.Model]
    data: Split
    path: str | Path
    epochs: int
    metric: str = "loss"
    mode: str = "min"
    activations: Sequence[str] = (AS_IS, "crrelu", "tmaf")
    parameterizations: Sequence[str] = (AS_IS, "gmp", "weight norm")
    learning_rates: tuple[float, float] | None = None
    seeds: int = 1
    batch_size: int | None = 32

    def __post_init__(self) -> None:
        check_type("data", self.data, Split, "a keras_actlab.experiments.Split")
        if self.data.validation is None:
            raise ValueError("`data` must have a validation part. Received: a Split without one")
        original = self._start.original
        if not isinstance(original, keras.Model) or not original.compiled:
            raise ValueError(
                "`model` must be a compiled keras.Model, or a function that returns one. "
                f"Received: model={self.model!r:.200}"
            )
        check_optimizer(original.optimizer)
        unknown = set(self.parameterizations) - {AS_IS, *WEIGHTS}
        if unknown or not self.parameterizations:
            raise ValueError(
                f"`parameterizations` must be out of {[AS_IS, *WEIGHTS]}. "
                f"Received: parameterizations={self.parameterizations!r}"
            )
        activations = set(self.activations)
        if not activations or activations & set(WEIGHTS):
            raise ValueError(f"`activations` must be names of activations. Received: activations={self.activations!r}")
        if activations != {AS_IS}:
            resolve(list(self.activations), "own")
        low, high = self.rates
        if not 0 < low < high:
            raise ValueError(
                "`learning_rates` must be the lowest and the highest one, both positive. "
                f"Received: learning_rates={self.learning_rates!r}"
            )
        positive_integer("epochs", self.epochs)
        positive_integer("seeds", self.seeds)

    @property
    def _start(self) -> Start:
        return Start(self.model, is_drawn=True)

    @property
    def rates(self) -> tuple[float, float]:
        """The lowest and the highest learning rate."""
        if self.learning_rates is not None:
            return self.learning_rates
        value = learning_rate(self._start.original)[1]
        return LOWEST * value, HIGHEST * value

    def build(self, activation: str, parameterization: str, learning_rate: float) -> keras.Model:
        """Returns a new compiled model."""
        return _build(self._start, activation, parameterization, **{self._rate: learning_rate})

    @property
    def _rate(self) -> str:
        return learning_rate(self._start.original)[0]

    def evaluate(self, activation: str, parameterization: str, learning_rate: float) -> float:
        """Returns the metric on the validation part, as the mean over seeds. Finished fits are not repeated.

        Raises:
            RuntimeError: If all fits fail, for example because the training diverges.
        """
        results = self._run(activation, parameterization, learning_rate)
        return float(results.final[self.metric].mean())

    def _run(self, activation: str, parameterization: str, learning_rate: float) -> Results:
        label = f"{activation}, {parameterization}, {learning_rate!r}"
        build = functools.partial(_build, self._start, activation, parameterization)
        comparison = Comparison(
            name=label,
            methods={label: build},
            data=Split(self.data.train, None, self.data.validation, self.data.to_units),
            metrics=[self.metric],
            epochs=self.epochs,
            grid={self._rate: [learning_rate]},
            seeds=self.seeds,
            batch_size=self.batch_size,
            mode=self.mode,
        )
        return run(comparison, self.path, progress=False)

    @property
    def results(self) -> Results:
        """All fits so far. Each trial is a task of its own."""
        return load(self.path)

    def paired(self, parameters: dict[str, Any], baseline: dict[str, Any]) -> Paired:
        """Returns the statistics of the differences between two trials, one for each seed.

        They are optimistic for the best trial of a search, which was chosen by the same validation part.

        Args:
            parameters: Arguments of `evaluate`, such as `study.best_params`.
            baseline: The same of the trial to compare with.
        """
        values, base = (self._run(**one).final.sort_values("seed")[self.metric] for one in (parameters, baseline))
        return Paired(values.to_numpy() - base.to_numpy())

    def objective(self, trial: Any) -> float:
        """The objective of an Optuna study, for `study.optimize`. A trial whose fits all fail is pruned."""
        parameters = {
            "activation": trial.suggest_categorical("activation", list(self.activations)),
            "parameterization": trial.suggest_categorical("parameterization", list(self.parameterizations)),
            "learning_rate": trial.suggest_float("learning_rate", *self.rates, log=True),
        }
        try:
            return self.evaluate(**parameters)
        except RuntimeError as error:
            raise _imported("optuna").TrialPruned(str(error)) from error


def _build(start: Start, activation: str, parameterization: str, **rate: float) -> keras.Model:
    model = start.model()
    if activation != AS_IS:
        model = apply(activation, resolve([activation], "own")[activation], model)
    if parameterization != AS_IS:
        model = apply(parameterization, WEIGHTS[parameterization], model)
    compile_alike(model, start.original, rate)
    return model


def optimize(
    space: Search, study: Any, trials: int, seed: int = 0, sampler: Callable[[int], Any] | None = None
) -> None:
    """Runs trials of an Optuna study until it has a number of finished ones.

    A study in a storage that was killed continues: call this again after `optuna.load_study`. It ends with the same
    trials, and so the same best one, as an uninterrupted study, because each trial has a sampler of its own seed, and
    fits that were finished are read from the results file. A trial that was running when the process was killed is
    marked as failed, and its place is taken by a new one with the same parameters.

    Args:
        space: What is searched.
        study: The study. Its direction must be that of `space.mode`.
        trials: Number of finished trials, earlier ones included. Pruned trials count.
        seed: Seed of the sampler. The trial after n finished ones has the seed `seed + n`.
        sampler: Function of a seed that returns a sampler; None for `optuna.samplers.TPESampler`.

    Raises:
        ImportError: If Optuna is not installed.
        TypeError: If `space` is not a `Search`.
        ValueError: If `trials` is not positive, or the direction of the study is the other one.

    Example:

    >>> from keras_actlab import experiments, search
    >>> def tuned(model, x, y):
    ...     import optuna
    ...     study = optuna.create_study(storage="sqlite:///study.db", study_name="digits", load_if_exists=True)
    ...     space = search.Search(model, experiments.holdout(x, y, seed=0), "digits.jsonl", epochs=10)
    ...     search.optimize(space, study, trials=50)
    ...     return space.build(**study.best_params)
    """
    optuna = _imported("optuna")
    check_type("space", space, Search, "a keras_actlab.search.Search")
    trials = positive_integer("trials", trials)
    direction = {"min": "MINIMIZE", "max": "MAXIMIZE"}[space.mode]
    if study.direction.name != direction:
        raise ValueError(
            f"`study` must have the direction {direction.lower()!r}, as `space.mode` is {space.mode!r}. "
            f"Received: study.direction={study.direction.name.lower()!r}"
        )
    states = optuna.trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        study.tell(trial.number, state=states.FAIL)
    finished = (states.COMPLETE, states.PRUNED)
    while (done := len(study.get_trials(deepcopy=False, states=finished))) < trials:
        study.sampler = sampler(seed + done) if sampler else optuna.samplers.TPESampler(seed=seed + done)
        study.optimize(space.objective, n_trials=1)


def hypermodel(space: Search) -> Any:
    """Returns a `keras_tuner.HyperModel` for any tuner of KerasTuner.

    The tuner proposes activation, parameterization and learning rate. The fits are done and recorded by `space`, so the
    arguments of `tuner.search` have no effect, and the tuner stores no weights: build the best model again.

    Args:
        space: What is searched.

    Returns:
        The hypermodel. Its fits return the metric by name: give the tuner
        `objective=keras_tuner.Objective(space.metric, space.mode)`.

    Raises:
        ImportError: If KerasTuner is not installed.
        TypeError: If `space` is not a `Search`.

    Example:

    >>> import tempfile
    >>> from keras_actlab import experiments, search
    >>> def tuned(model, x, y, folder):
    ...     import keras_tuner
    ...     data = experiments.holdout(x, y, seed=0)
    ...     space = search.Search(model, data, folder + "/rows.jsonl", epochs=10)
    ...     objective = keras_tuner.Objective(space.metric, space.mode)
    ...     tuner = keras_tuner.RandomSearch(search.hypermodel(space), objective, max_trials=20, directory=folder)
    ...     tuner.search()
    ...     return space.build(**tuner.get_best_hyperparameters()[0].values)
    """
    check_type("space", space, Search, "a keras_actlab.search.Search")
    keras_tuner = _imported("keras_tuner")
    base: Any = keras_tuner.HyperModel

    class Variants(base):
        def build(self, hp: Any) -> keras.Model:
            return space.build(**_parameters(hp))

        def fit(self, hp: Any, model: keras.Model, *args: Any, **kwargs: Any) -> dict[str, float]:
            try:
                return {space.metric: space.evaluate(**_parameters(hp))}
            except RuntimeError as error:
                raise keras_tuner.errors.FailedTrialError(str(error)) from error

    def _parameters(hp: Any) -> dict[str, Any]:
        low, high = space.rates
        return {
            "activation": hp.Choice("activation", list(space.activations)),
            "parameterization": hp.Choice("parameterization", list(space.parameterizations)),
            "learning_rate": hp.Float("learning_rate", low, high, sampling="log"),
        }

    return Variants()


def _imported(name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tool's own imports
            return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"keras_actlab.search needs {name}. Install the extra [search]: pip install 'keras-actlab[search]'"
        ) from error
