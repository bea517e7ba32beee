"""What is compared: methods on data, with the choices that validation data make."""

import dataclasses
import hashlib
import inspect
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from keras_actlab.arguments import boolean, check_choice, check_number, integer
from keras_actlab.experiments.arrays import as_array, as_arrays
from keras_actlab.experiments.description import describe

Examples = tuple[Any, Any]
Method = Callable[..., keras.Model | tuple[keras.Model, Sequence[keras.callbacks.Callback]]]
# What a row of results holds besides hyper-parameters and metrics.
COLUMNS = (
    *("task", "method", "stage", "split", "seed", "hyperparameters", "epochs", "metrics", "history", "failure"),
    *("parameters", "seconds", "seconds_per_epoch", "vectorized", "backend", "device", "versions"),
)


PARTS = ("train", "validation", "test")


def count(examples: Examples) -> int:
    """The number of examples."""
    return len(keras.tree.flatten(examples)[0])


def check_call(argument: str, function: Any, given: str, *arguments: Any, **named: Any) -> None:
    """Raises unless a function can be called with these arguments; what it does with them is not tried."""
    if not callable(function):
        raise TypeError(f"`{argument}` must be a function of {given}. Received: {argument}={function!r:.200}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions of C do not tell
        return
    try:
        signature.bind(*arguments, **named)
    except TypeError as error:
        raise TypeError(
            f"`{argument}` must be a function of {given}. Received: {argument}={function!r:.200} with parameters "
            f"{signature}: {error}"
        ) from error


def _unchanged(values: np.ndarray) -> np.ndarray:
    return values


def _example_shapes(examples: Examples) -> Any:
    return keras.tree.map_structure(lambda array: str(array.shape[1:]), examples)


@dataclasses.dataclass(frozen=True)
class Split:
    """One division of the data into training, validation and test examples.

    Args:
        train: Inputs and targets that every fit learns from. Each is an array, or a nested structure of arrays (dict,
            tuple, list). An array is anything that NumPy reads as one: a tensor of any backend, a pandas Series or
            DataFrame, a list of numbers. Rows are taken by position, whatever their labels in pandas.
        validation: Inputs and targets that choose the hyper-parameters and the number of epochs.
        test: Inputs and targets that are read once, by the final fit.
        to_units: Function that takes targets and predictions back to the units in which the metrics are stated.
            Without it they are taken as they are.

    Attributes:
        train, validation, test: The same examples as NumPy arrays.

    Raises:
        TypeError: If a part is no pair of inputs and targets, one of these is no array, or `to_units` cannot be called.
        ValueError: If a part is empty, its arrays differ in length, hold categories or dates, or lack values, or the
            parts differ in structure or in the shape of one example.

    Example:

    >>> from keras_actlab import experiments
    >>> x, y = np.zeros((10, 3)), np.zeros(10)
    >>> split = experiments.Split(train=(x[:6], y[:6]), validation=(x[6:8], y[6:8]), test=(x[8:], y[8:]))
    >>> split.sizes
    {'train': 6, 'validation': 2, 'test': 2}
    """

    train: Examples
    validation: Examples
    test: Examples
    to_units: Callable[[np.ndarray], np.ndarray] = _unchanged

    def __post_init__(self) -> None:
        for part in PARTS:
            pair = getattr(self, part)
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise TypeError(f"`{part}` must be a pair of inputs and targets. Received: {part}={pair!r:.200}")
            arrays = tuple(as_arrays(f"{part}[{index}]", values) for index, values in enumerate(pair))
            object.__setattr__(self, part, arrays)
            lengths = [len(array) for array in keras.tree.flatten(arrays)]
            if len(set(lengths)) != 1 or lengths[0] == 0:
                raise ValueError(
                    f"`{part}` must hold as many inputs as targets, at least one. "
                    f"Received: {part} with arrays of lengths {lengths}"
                )
        shapes = {part: _example_shapes(getattr(self, part)) for part in PARTS}
        if any(shape != shapes["train"] for shape in shapes.values()):
            raise ValueError(
                "`train`, `validation` and `test` must hold examples of the same structure and shape. "
                f"Received: {', '.join(f'{part}={shape}' for part, shape in shapes.items())}"
            )
        check_call("to_units", self.to_units, "an array", self.train[1])

    @property
    def sizes(self) -> dict[str, int]:
        """The number of examples in each part."""
        return {part: count(getattr(self, part)) for part in PARTS}

    @property
    def development(self) -> Examples:
        """Training and validation examples together: what the final fit learns from."""
        return keras.tree.map_structure(lambda *parts: np.concatenate(parts), self.train, self.validation)


def holdout(
    x: Any,
    y: Any,
    seed: int,
    validation: float = 0.2,
    test: float = 0.2,
    standardize_targets: bool = False,
) -> Split:
    """Divides a table at random and standardizes its columns.

    Mean and standard deviation are those of the training part, so neither validation nor test examples leak into
    what the model sees. A column that is constant there is centred and otherwise left alone.

    Args:
        x: Inputs, shape `(examples, features)`: an array, a pandas DataFrame, or whatever else NumPy reads as one.
        y: Targets, shape `(examples,)`, matched with the inputs by position.
        seed: Decides the division.
        validation: Fraction of the examples that are not test examples.
        test: Fraction of all examples.
        standardize_targets: Whether targets are standardized too; metrics are still stated in their own units. For
            regression.

    Returns:
        A `Split` of float32 inputs.

    Raises:
        TypeError: If inputs or targets are no arrays of numbers, or an option is of another type.
        ValueError: If inputs and targets have different lengths or shapes of another rank, or hold NaN or infinity, or
            a fraction leaves a part empty.

    Example:

    >>> from keras_actlab import experiments
    >>> rng = np.random.default_rng(0)
    >>> split = experiments.holdout(rng.normal(size=(100, 3)), rng.normal(size=100), seed=0)
    >>> split.sizes
    {'train': 64, 'validation': 16, 'test': 20}
    """
    boolean("standardize_targets", standardize_targets)
    if integer("seed", seed) < 0:
        raise ValueError(f"`seed` must not be negative. Received: seed={seed}")
    for name, fraction in (("validation", validation), ("test", test)):
        check_number(name, fraction, positive=True)
        if fraction >= 1:
            raise ValueError(f"`{name}` must be a fraction below 1. Received: {name}={fraction}")
    x, y = as_array("x", x), as_array("y", y)
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(
            "`x` must have shape (examples, features) and `y` shape (examples,). "
            f"Received: x.shape={x.shape}, y.shape={y.shape}"
        )
    for name, array in (("x", x), ("y", y)):
        if not np.issubdtype(array.dtype, np.number) and array.dtype != bool:
            raise ValueError(f"`{name}` must hold numbers. Received: an array of {array.dtype}")
        if not np.isfinite(array).all():
            raise ValueError(f"`{name}` must be finite. Received: {(~np.isfinite(array)).sum()} entries that are not")
    rest, last = train_test_split(np.arange(len(x)), test_size=test, random_state=seed)
    first, middle = train_test_split(rest, test_size=validation, random_state=seed)
    with np.errstate(over="ignore", invalid="ignore"):
        inputs = StandardScaler().fit(x[first]).transform(x).astype("float32")
    if not np.isfinite(inputs).all():
        raise ValueError(f"`x` must hold numbers that can be standardized. Received: entries up to {abs(x).max():g}")
    to_units = _unchanged
    if standardize_targets:
        scaler = StandardScaler().fit(y[first][:, None])
        y = scaler.transform(y[:, None])[:, 0].astype("float32")
        to_units = _Affine(float(scaler.scale_[0]), float(scaler.mean_[0]))
    parts = ((inputs[rows], y[rows]) for rows in (first, middle, last))
    return Split(*parts, to_units=to_units)


@dataclasses.dataclass(frozen=True)
class _Affine:
    scale: float
    offset: float

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(values, "float64") * self.scale + self.offset


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Methods, data, and what is tuned: everything that decides the numbers of a table.

    For every method, split and seed, each point of the grid is trained on the training part and judged on the
    validation part. The best point, and the best epoch if `validate_every` is given, are then trained once more, on
    the training and validation parts together, and judged once on the test part. Every method gets the same grid.
    If there is nothing to choose, the first stage is left out.

    Args:
        name: Name of the task, unique within a results file.
        methods: For each method's name a function that builds and compiles a new model. It is called with all of the
            grid's hyper-parameters by name. It returns the model or, where callbacks are part of how the method trains,
            a pair of the model and a list of them. Such callbacks act in both stages, each fit is trained alone by
            `model.fit`, whatever `vectorize` is, and each call of it, one for `validate_every` epochs, gets the same
            objects; it holds all their steps in a single epoch. The first method is the baseline of the tables.
        data: A `Split`, or a function that returns the split of a given index, 0 to `splits` - 1.
        metrics: For each metric's name a function of targets and predictions (NumPy arrays in the split's units)
            that returns a number, such as those of `sklearn.metrics`. A column, shape (examples, 1), beside an array
            of another shape is given as shape (examples,), so that `targets - predictions` does not broadcast. A metric
            that indexes the column, as in `predictions[:, 0]`, receives both arrays in their own shapes.
        epochs: Number of epochs of a fit.
        grid: For each hyper-parameter's name the values to try.
        splits: Number of splits.
        independent_splits: Whether the splits share no examples, being drawn afresh from a process that makes them.
            Otherwise they are taken to divide one table, which makes their results depend on each other.
        seeds: Number of seeds for each split. A seed decides the start of the weights and the order of the batches,
            for all methods alike.
        batch_size: Examples a step; a last incomplete batch is left out of its epoch. Without it every step takes all
            examples, so that an epoch is one step.
        monitor: Name of the metric that chooses. The first one if not given.
        mode: "min" or "max": whether low or high values of `monitor` are better.
        validate_every: Number of epochs between two looks at the validation part. Without it the last epoch is the
            only look, and epochs are not chosen.
        vectorize: Number of fits of one method that are trained as one program (see `Ensemble`), where that works;
            otherwise, and for 1, each is trained by `model.fit`. Small networks train many times faster so. It moves
            results by rounding alone, save for layers that draw random numbers.
        callbacks: Function of a final fit's model, method, split and seed that returns callbacks, such as a
            `keras_actlab.cab.BoundaryTracker` with a path of its own, to watch it. They come after the method's own.
            Final fits are then trained one by one, each by one call of `model.fit` with a single epoch that holds all
            steps, so that what acts at the end of epochs (early stopping, schedules) has nothing to do. A fit that
            was killed starts again from its beginning.

    Raises:
        TypeError: If a method, a metric, the data or `callbacks` is not what is asked for above.
        ValueError: If a number is not positive, a grid is empty, a name is taken by a column of the results, or
            `monitor` or `mode` is unknown.

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
    metrics: Mapping[str, Callable[[np.ndarray, np.ndarray], float]]
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

    def __post_init__(self) -> None:
        for argument in ("methods", "metrics"):
            functions = getattr(self, argument)
            named = isinstance(functions, Mapping) and all(isinstance(name, str) for name in functions)
            if not named or not functions or not all(map(callable, functions.values())):
                raise TypeError(f"`{argument}` must map names to functions. Received: {argument}={functions}")
        if not isinstance(self.name, str):
            raise TypeError(f"`name` must be a string. Received: name={self.name!r}")
        if not isinstance(self.data, Split):
            check_call("data", self.data, "a split's index, or a Split", 0)
        if self.callbacks is not None:
            check_call("callbacks", self.callbacks, "a model, its method, split and seed, or None", None, "", 0, 0)
        boolean("independent_splits", self.independent_splits)
        if isinstance(self.data, Split) and self.splits != 1:
            raise ValueError(f"`splits` must be 1 where `data` is one Split. Received: splits={self.splits}")
        for argument in ("epochs", "splits", "seeds", "batch_size", "validate_every", "vectorize"):
            value = getattr(self, argument)
            optional = argument in ("batch_size", "validate_every")
            if not (optional and value is None) and (type(value) is not int or value < 1):
                raise ValueError(f"`{argument}` must be a positive integer. Received: {argument}={value!r}")
        object.__setattr__(self, "grid", _checked_grid(self.grid))
        for name, method in self.methods.items():
            if isinstance(method, keras.layers.Layer):
                raise TypeError(
                    "`methods` must map names to functions that return a new model at each call. "
                    f"Received: {name}={method}, a model"
                )
        for name, metric in self.metrics.items():
            if isinstance(metric, keras.metrics.Metric):
                raise TypeError(
                    "`metrics` must map names to functions. "
                    f"Received: {name}={metric}, which averages over all its calls"
                )
            check_call(f"metrics[{name!r}]", metric, "targets and predictions", None, None)
        taken = (set(COLUMNS) & {*self.grid, *self.metrics}) | (set(self.grid) & set(self.metrics))
        if taken:
            raise ValueError(f"`grid` and `metrics` must not use the names of other columns. Received: {sorted(taken)}")
        if self.monitor is None:
            object.__setattr__(self, "monitor", next(iter(self.metrics)))
        check_choice("monitor", self.monitor, self.metrics)
        check_choice("mode", self.mode, ("min", "max"))

    @property
    def candidates(self) -> list[dict[str, Any]]:
        """Every point of the grid."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]

    @property
    def replicates(self) -> list[tuple[int, int]]:
        """Every pair of split and seed."""
        return list(itertools.product(range(self.splits), range(self.seeds)))

    def split(self, index: int) -> Split:
        """Returns the data of one split."""
        try:
            split = self.data if isinstance(self.data, Split) else self.data(index)
        except (SystemExit, GeneratorExit) as error:  # which would end the run without a word
            raise RuntimeError(f"`data` raised {type(error).__name__}: {error}, for split {index}") from error
        if not isinstance(split, Split):
            raise TypeError(f"`data` must return a Split. Received: {split!r:.200}")
        return split

    def configuration(self) -> dict[str, Any]:
        """Returns what must not change between the beginning and the end of a results file, as JSON can hold it.

        Methods, splits and seeds may be added, so the number of splits and seeds is not part of it. Methods are
        compared by the models that they build at each point of the grid, data by the first split, and functions
        (metrics, `to_units`, callbacks, the bodies of custom layers) not at all.

        Raises:
            TypeError: If a method does not take the grid's hyper-parameters, or `data` returns no `Split`.
            ValueError: If `data` returns another split at a second call.
        """
        for name, method in self.methods.items():
            parameters = f"the grid's hyper-parameters, by their names {list(self.grid)}"
            check_call(f"methods[{name!r}]", method, parameters, **self.candidates[0])
        split = self.split(0)
        data = _fingerprint_of_arrays(split)
        if _fingerprint_of_arrays(self.split(0)) != data:
            raise ValueError("`data` must return the same split at each call. Received: two different ones of index 0")
        return {
            "backend": keras.backend.backend(),
            "data": data,
            "sizes": split.sizes,
            "metrics": list(self.metrics),
            "monitor": self.monitor,
            "mode": self.mode,
            "grid": {name: list(values) for name, values in self.grid.items()},
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "validate_every": self.validate_every,
            "independent_splits": self.independent_splits,
            "methods": {
                name: [_fingerprint(_description(build, point)) for point in self.candidates]
                for name, build in self.methods.items()
            },
        }


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


def _fingerprint_of_arrays(split: Split) -> str:
    digest = hashlib.sha256()
    for array in keras.tree.flatten((split.train, split.validation, split.test)):
        digest.update(f"{array.dtype} {array.shape}".encode())
        # The bytes of an array of objects are their places in memory.
        digest.update(repr(array.tolist()).encode() if array.dtype == object else array.tobytes())
    return digest.hexdigest()[:16]


def _description(build: Method, hyperparameters: dict[str, Any]) -> str | None:
    try:
        made = build(**hyperparameters)
        return describe(made[0] if isinstance(made, tuple) else made)
    except KeyboardInterrupt:
        raise
    except BaseException:  # whatever it is, also sys.exit: the fits will say so, one by one
        return None
