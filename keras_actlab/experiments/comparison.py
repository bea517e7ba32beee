"""What is compared: methods on data, with the choices that validation data make."""

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_actlab.arguments import boolean, check_choice, check_mapping, check_number, integer
from keras_actlab.experiments._description import describe
from keras_actlab.experiments._keras_metric import KerasMetric
from keras_actlab.experiments.data import Split, check_call, packages

# Builds a compiled model, with callbacks if they are part of the method.
Method: TypeAlias = Callable[..., keras.Model | tuple[keras.Model, Sequence[keras.callbacks.Callback]]]
# A metric is a function of targets and predictions, one of Keras or its name; or the name of one that the model is
# compiled with.
Metrics: TypeAlias = Mapping[str, Callable[[Any, Any], float] | str | keras.metrics.Metric] | Sequence[str]
# Trains a model, or a list of them, on one dataset and evaluates it on another. Returns metrics for each epoch, counted
# from 1.
Fitting: TypeAlias = Callable[[Any, Any, Any, Any], Any]
# The columns of results beside hyper-parameters and metrics.
COLUMNS = (
    *("task", "method", "stage", "split", "seed", "hyperparameters", "epochs", "metrics", "history", "failure"),
    *("parameters", "seconds", "seconds_per_epoch", "vectorized", "backend", "device", "versions"),
)


@dataclasses.dataclass(frozen=True)
class Fit:
    """One model to train: which method, on which data, from which start.

    Args:
        task: Name of the comparison.
        method: Name of the method.
        stage: "tune", trained on the training part and evaluated on the validation part, or "final", trained on both
            and evaluated on the test part.
        split: Index of the split.
        seed: Decides the initial weights and the order of the batches.
        hyperparameters: Arguments of the method's function.
        epochs: Number of epochs to train.

    Example:

    >>> from keras_actlab import experiments
    >>> experiments.Fit("digits", "ReLU", "final", 0, 1, {}, 20).label
    'digits, ReLU, final, split 0, seed 1, 5b2250f2'
    """

    task: str
    method: str
    stage: str
    split: int
    seed: int
    hyperparameters: dict[str, Any]
    epochs: int

    @property
    def label(self) -> str:
        """A name for the files of this fit. Fits that differ in any attribute have different labels."""
        text = f"{self.task}, {self.method}, {self.stage}, split {self.split}, seed {self.seed}"
        values = json.dumps(dataclasses.asdict(self), sort_keys=True)
        digest = hashlib.blake2b(values.encode(), digest_size=4).hexdigest()
        return f"{re.sub(r'[^A-Za-z0-9 ,.+=()-]', '_', text)[:150]}, {digest}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Methods, data, and what is tuned: everything that decides the numbers of a table.

    For every method, split and seed, each point of the grid is trained on the training part and evaluated on the
    validation part. The best point, and the best epoch if `validate_every` is given, are then trained once more, on
    the training and validation parts together, and evaluated once on the test part. Every method gets the same grid.
    If nothing is chosen, the first stage is skipped.

    A fit is done in one of three ways: by `model.fit` (the default); with several fits of a method as one program
    (`vectorize`); or by a function of your own (`fit`), such as a `Resumable`, which continues after a crash.

    Args:
        name: Name of the task, unique within a results file.
        methods: For each method's name a function that builds and compiles a new model. It is called with all of the
            grid's hyper-parameters by name. It returns the model or, where callbacks are part of how the method trains,
            a pair of the model and a list of them. Such callbacks act in both stages. Each fit of such a method is
            trained by `model.fit`, whatever `vectorize` is. Each call of `model.fit` covers `validate_every` epochs and
            gets the same callbacks; for arrays, it holds all their steps in a single epoch. The first method is the
            baseline of the tables.
        data: A `Split`, or a function that returns the split of a given index, 0 to `splits` - 1. Datasets for several
            processes (`jobs`) must come from a function, as they cannot be sent to a process.
        metrics: For each metric's name a function of targets and predictions (NumPy arrays in the split's units)
            that returns a number, such as those of `sklearn.metrics`. A column, shape (examples, 1), beside an array
            of another shape is given as shape (examples,), so that `targets - predictions` does not broadcast. A metric
            that indexes the column, as in `predictions[:, 0]`, receives both arrays in their own shapes. In place of a
            function, a metric of Keras or its name, such as `"accuracy"`, is computed over all examples at once. Or a
            list of names: "loss" and the names of metrics that the models are compiled with, as `model.evaluate`
            reports them.
        epochs: Number of epochs of a fit.
        grid: For each hyper-parameter's name the values to try.
        extend: Name of a hyper-parameter of the grid whose range may be too narrow, such as a learning rate. If the
            best value of a method, split and seed is the lowest or highest one tried, the next value beyond it is
            tried as well, until the best value lies inside, a fit there fails, or four values were added on that side.
            Each value has the ratio of the two outermost values of the grid to the one before it, rounded to six
            digits (to an integer if these two are integers). Other hyper-parameters are those of the best candidate.
            Among equally good values, the one closest to the grid's range is chosen.
        splits: Number of splits.
        independent_splits: Whether the splits share no examples, being drawn afresh from a process that makes them.
            Otherwise they are taken to divide one table, which makes their results depend on each other.
        seeds: Number of seeds for each split. A seed decides the initial weights and the order of the batches, for all
            methods alike.
        batch_size: Number of examples in a batch; a last incomplete batch is left out of its epoch. Without it, a batch
            holds all examples, so that an epoch is one step. Datasets have batches of their own.
        monitor: Name of the metric that chooses. The first one if not given.
        mode: "min" or "max": whether low or high values of `monitor` are better.
        validate_every: Number of epochs between two evaluations on the validation part. Without it, only the last epoch
            is evaluated, and epochs are not chosen.
        vectorize: Number of fits of one method that are trained as one program (see `Ensemble`), where that works;
            otherwise, and for 1, each is trained by `model.fit`. Small networks train many times faster so. Results
            change by rounding only, except for layers that draw random numbers.
        callbacks: Function of a final fit's model, method, split and seed that returns callbacks, such as a
            `keras_actlab.cab.BoundaryTracker` with a path of its own, to watch it. They come after the method's own.
            Final fits are then trained one by one, each by one call of `model.fit`. For arrays, that call has a single
            epoch that holds all steps, so callbacks that act on epoch end (early stopping, schedules) have no effect. A
            fit that was killed starts again from its beginning.
        steps_per_epoch: Number of batches in an epoch of a dataset. Without it, an epoch is the whole dataset.
        class_weight: For each class number its weight in the training loss, as for `model.fit`. A class without one has
            the weight 1; for a `tf.data.Dataset`, give all of them. Targets must be one array, of class numbers or
            one-hot, without sample weights. Evaluation is not weighted. Not for `vectorize` above 1, nor for PyTorch's
            `DataLoader` and Grain, for which Keras has no class weights.
        fit: Function that does a fit in place of `model.fit`. Its arguments are a compiled model, the `Fit`, and the
            data to train and to evaluate on, in the form of the parts of a `Split`. It returns the `metrics` by name
            for each evaluated epoch, counted from 1; a further entry "seconds" is the duration of the epoch. Of the
            epochs, the last one counts, and in the first stage also each that is a multiple of `validate_every`. With
            `vectorize` above 1, it does a group of fits of one method: each of its arguments is a list with an entry
            for each fit, and it returns such a list.

    Raises:
        TypeError: If a method, a metric, the data, `callbacks` or `fit` is not as described above, or `extend` names
            values that are no numbers.
        ValueError: If a number is not positive, a grid is empty, a name is taken by a column of the results,
            `monitor`, `mode` or `extend` is unknown, `extend` names fewer than two values, or options exclude each
            other.

    Example:

    >>> from sklearn.metrics import root_mean_squared_error
    >>> from keras_actlab import experiments
    >>> def linear(learning_rate):
    ...     model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    ...     model.compile(keras.optimizers.SGD(learning_rate), "mse")
    ...     return model
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(50, 3)), rng.normal(size=50)
    >>> comparison = experiments.Comparison(
    ...     name="noise",
    ...     methods={"linear": linear},
    ...     data=lambda split: experiments.holdout(x, y, seed=split),
    ...     metrics={"RMSE": root_mean_squared_error},
    ...     grid={"learning_rate": [0.01, 0.1]},
    ...     splits=3,
    ...     epochs=2,
    ... )
    >>> comparison.candidates
    [{'learning_rate': 0.01}, {'learning_rate': 0.1}]
    """

    name: str
    methods: Mapping[str, Method]
    data: Split | Callable[[int], Split]
    metrics: Metrics
    epochs: int
    grid: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    splits: int = 1
    seeds: int = 1
    independent_splits: bool = False
    batch_size: int | None = None
    monitor: str | None = None
    mode: str = "min"
    validate_every: int | None = None
    vectorize: int = 1
    callbacks: Callable[[keras.Model, str, int, int], Sequence[keras.callbacks.Callback]] | None = None
    steps_per_epoch: int | None = None
    class_weight: Mapping[int, float] | None = None
    fit: Fitting | None = None
    extend: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"`name` must be a string. Received: name={self.name!r}")
        self._check_numbers()
        self._check_methods()
        self._check_metrics()
        self._check_data()
        self._check_class_weight()
        object.__setattr__(self, "grid", _checked_grid(self.grid))
        taken = (set(COLUMNS) & {*self.grid, *self.metrics}) | (set(self.grid) & set(self.metrics))
        if taken:
            raise ValueError(f"`grid` and `metrics` must not use the names of other columns. Received: {sorted(taken)}")
        if self.extend is not None:
            self._check_extend()
        if self.fit is not None:
            self._check_fit(self.fit)
        if self.monitor is None:
            object.__setattr__(self, "monitor", next(iter(self.metrics)))
        check_choice("monitor", self.monitor, self.metrics)
        check_choice("mode", self.mode, ("min", "max"))

    def _check_methods(self) -> None:
        _check_functions("methods", self.methods, "map names to functions")
        for name, method in self.methods.items():
            if isinstance(method, keras.layers.Layer):
                raise TypeError(
                    "`methods` must map names to functions that return a new model at each call. "
                    f"Received: {name}={method}, a model"
                )
        if self.callbacks is not None:
            check_call("callbacks", self.callbacks, "a model, its method, split and seed, or None", None, "", 0, 0)

    def _check_metrics(self) -> None:
        if isinstance(self.metrics, list | tuple) and self.metrics and all(isinstance(m, str) for m in self.metrics):
            if self.vectorize > 1 and self.fit is None:
                raise ValueError(
                    "`metrics` must map names to functions where `vectorize` is above 1. "
                    f"Received: metrics={self.metrics}, vectorize={self.vectorize}"
                )
            object.__setattr__(self, "metrics", list(dict.fromkeys(self.metrics)))
            return
        if isinstance(self.metrics, Mapping):
            functions = {name: _as_function(name, metric) for name, metric in self.metrics.items()}
            object.__setattr__(self, "metrics", functions)
        _check_functions("metrics", self.metrics, "map names to functions, or be a list of names")
        for name, metric in self.metrics.items() if isinstance(self.metrics, Mapping) else ():
            check_call(f"metrics[{name!r}]", metric, "targets and predictions", None, None)

    def _check_data(self) -> None:
        if not isinstance(self.data, Split):
            check_call("data", self.data, "a split's index, or a Split", 0)
        elif self.splits != 1:
            raise ValueError(f"`splits` must be 1 where `data` is one Split. Received: splits={self.splits}")
        boolean("independent_splits", self.independent_splits)

    def _check_class_weight(self) -> None:
        if self.class_weight is None:
            return
        check_mapping("class_weight", self.class_weight, "a mapping of class numbers to weights, or None")
        for key, weight in self.class_weight.items():
            check_number(f"class_weight[{key!r}]", weight)
            if integer("a key of class_weight", key) < 0 or weight < 0:
                raise ValueError(
                    "`class_weight` must map class numbers to weights, neither of which is negative. "
                    f"Received: class_weight={self.class_weight}"
                )
        if not self.class_weight:
            raise ValueError("`class_weight` must name a class, or be None. Received: class_weight={}")
        if self.vectorize > 1:
            raise ValueError(
                f"`vectorize` must be 1 where `class_weight` is given. Received: vectorize={self.vectorize}"
            )
        weights = {int(key): float(weight) for key, weight in sorted(self.class_weight.items())}
        object.__setattr__(self, "class_weight", weights)

    def _check_numbers(self) -> None:
        optionals = ("batch_size", "validate_every", "steps_per_epoch")
        for argument in ("epochs", "splits", "seeds", "vectorize", *optionals):
            value = getattr(self, argument)
            optional = argument in optionals
            if not (optional and value is None) and (type(value) is not int or value < 1):
                raise ValueError(f"`{argument}` must be a positive integer. Received: {argument}={value!r}")

    def _check_extend(self) -> None:
        check_choice("extend", self.extend, self.grid)
        values = self.grid[str(self.extend)]
        expected = "`extend` must name a hyper-parameter with at least two positive numbers in the grid. "
        if not all(type(value) in (int, float) for value in values):
            raise TypeError(f"{expected}Received: {self.extend}={values}")
        if len(values) < 2 or min(values) <= 0:
            raise ValueError(f"{expected}Received: {self.extend}={values}")

    def _check_fit(self, fit: Fitting) -> None:
        check_call("fit", fit, "a model, a Fit, training and evaluation data, or None", *[None] * 4)
        others = ("batch_size", "steps_per_epoch", "callbacks", "class_weight")
        given = {name: getattr(self, name) for name in others if getattr(self, name) is not None}
        if given or isinstance(self.metrics, Mapping):
            raise ValueError(
                "`fit` decides how models are trained and evaluated: `metrics` must be a list of the names that it "
                f"returns, and {', '.join(f'`{name}`' for name in others)} must not be given. "
                f"Received: metrics={self.metrics}, {given}"
            )

    @property
    def candidates(self) -> list[dict[str, Any]]:
        """Every point of the grid."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]

    @property
    def chooses(self) -> bool:
        """Whether validation data choose anything: hyper-parameters or the number of epochs."""
        return len(self.candidates) > 1 or self.validate_every is not None

    @property
    def replicates(self) -> list[tuple[int, int]]:
        """Every pair of split and seed."""
        return list(itertools.product(range(self.splits), range(self.seeds)))

    def split(self, index: int) -> Split:
        """Returns the data of one split."""
        try:
            split = self.data if isinstance(self.data, Split) else self.data(index)
        except (SystemExit, GeneratorExit) as error:  # these would end the run without a message
            raise RuntimeError(f"`data` raised {type(error).__name__}: {error}, for split {index}") from error
        if not isinstance(split, Split):
            raise TypeError(f"`data` must return a Split. Received: {split!r:.200}")
        self._check_split(split)
        return split

    def _check_split(self, split: Split) -> None:
        if self.chooses and split.validation is None:
            raise ValueError(
                "`data` must have a validation part, as hyper-parameters or epochs are chosen. "
                f"Received: validation=None, grid={self.grid}, validate_every={self.validate_every}"
            )
        self._check_weights(split)
        if not split.is_dataset:
            if self.steps_per_epoch is not None:
                raise ValueError(
                    "`steps_per_epoch` must be None for arrays; see `batch_size`. "
                    f"Received: steps_per_epoch={self.steps_per_epoch}"
                )
        elif self.batch_size is not None or self.vectorize > 1:
            raise ValueError(
                "`batch_size` must be None and `vectorize` 1 for datasets, which have batches of their own. "
                f"Received: batch_size={self.batch_size}, vectorize={self.vectorize}"
            )
        elif self.splits > 1 and not self.independent_splits:
            raise ValueError(
                "`splits` must be 1 for datasets, unless `independent_splits` is True: errors of overlapping splits "
                f"depend on numbers of examples, which datasets do not have. Received: splits={self.splits}"
            )
        elif self.fit is None and self.steps_per_epoch is None and split.is_endless:
            raise ValueError("`steps_per_epoch` must be given for an infinite dataset. Received: None")

    def _check_weights(self, split: Split) -> None:
        if split.has_weights and (self.vectorize > 1 or self.class_weight is not None):
            raise ValueError(
                "`vectorize` must be 1 and `class_weight` None where `data` has sample weights. "
                f"Received: vectorize={self.vectorize}, class_weight={self.class_weight}"
            )
        if self.class_weight is None:
            return
        if split.is_dataset:
            train = split.of_stage("final", seed=0)[0]
            possible = not {"torch", "grain"} & packages(train)
        else:
            train = split.train[1]
            possible = isinstance(train, np.ndarray) and train.ndim <= 2
        if not possible:
            raise ValueError(
                "`class_weight` must be None unless targets are one array of shape (examples,) or (examples, classes), "
                "or a `tf.data.Dataset` or `keras.utils.PyDataset` of such batches. "
                f"Received: class_weight={self.class_weight} for {train!r:.200}"
            )

    def configuration(self) -> dict[str, Any]:
        """Returns, as values for JSON, what must not change while fits are added to a results file.

        Methods, splits and seeds may be added, so the numbers of splits and seeds are not included. Methods are
        compared by the models that they build at each point of the grid, data by the first split (see
        `Split.fingerprint`). Functions (metrics, `to_units`, callbacks, `fit`, the bodies of custom layers) are not
        compared.

        Raises:
            TypeError: If a method does not take the grid's hyper-parameters, or `data` returns no `Split`.
            ValueError: If `data` returns another split at a second call.
        """
        for name, method in self.methods.items():
            parameters = f"the grid's hyper-parameters, by their names {list(self.grid)}"
            check_call(f"methods[{name!r}]", method, parameters, **self.candidates[0])
        split = self.split(0)
        data = split.fingerprint()
        if self.split(0).fingerprint() != data:
            raise ValueError("`data` must return the same split at each call. Received: two different ones of index 0")
        return {
            "backend": keras.backend.backend(),
            "data": data,
            "sizes": split.sizes,
            "metrics": list(self.metrics),
            "monitor": self.monitor,
            "mode": self.mode,
            "grid": {name: list(values) for name, values in self.grid.items()},
            "extend": self.extend,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "steps_per_epoch": self.steps_per_epoch,
            "validate_every": self.validate_every,
            "class_weight": self.class_weight and {str(key): weight for key, weight in self.class_weight.items()},
            "independent_splits": self.independent_splits,
            "methods": {
                name: [_fingerprint(_description(build, point)) for point in self.candidates]
                for name, build in self.methods.items()
            },
        }


def _as_function(name: Any, metric: Any) -> Any:
    if not isinstance(metric, str | keras.metrics.Metric):
        return metric
    try:
        return KerasMetric(metric)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            "`metrics` must map names to functions, to metrics that Keras can save and load, or to names of metrics. "
            f"Received: {name}={metric!r}. {error}"
        ) from error


def _check_functions(argument: str, functions: Any, expected: str) -> None:
    named = isinstance(functions, Mapping) and all(isinstance(name, str) for name in functions)
    if not named or not functions or not all(map(callable, functions.values())):
        raise TypeError(f"`{argument}` must {expected}. Received: {argument}={functions}")


def _checked_grid(grid: Any) -> dict[str, list[Any]]:
    """Returns the grid as it comes back from JSON, so that a resumed run sees the same values."""
    if not isinstance(grid, Mapping):
        raise TypeError(f"`grid` must map names to sequences of values. Received: grid={grid!r}")
    checked = {}
    for name, values in grid.items():
        if not isinstance(name, str):
            raise TypeError(f"`grid` must map names to sequences of values. Received: grid={grid!r}")
        if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray) or not len(values):
            raise ValueError(f"`grid` must map names to sequences of values. Received: {name}={values!r}")
        try:
            text = json.dumps(list(values), default=lambda scalar: scalar.item(), allow_nan=False)
            checked[name] = json.loads(text)
        except (TypeError, AttributeError) as error:
            raise TypeError(f"`grid` must hold numbers, strings or lists. Received: {name}={values!r}") from error
        except ValueError as error:
            raise ValueError(f"`grid` must hold finite numbers. Received: {name}={values!r}") from error
        if any(value in checked[name][:index] for index, value in enumerate(checked[name])):
            raise ValueError(f"`grid` must not hold a value twice. Received: {name}={values!r}")
    return checked


def _fingerprint(text: str | None) -> str | None:
    return text and hashlib.sha256(text.encode()).hexdigest()[:16]


def _description(build: Method, hyperparameters: dict[str, Any]) -> str | None:
    try:
        made = build(**hyperparameters)
        return describe(made[0] if isinstance(made, tuple) else made)
    except KeyboardInterrupt:
        raise
    except BaseException:  # also sys.exit; each fit that fails reports its own error
        return None
