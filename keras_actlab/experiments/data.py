"""The data of a comparison: training, validation and test parts, given as arrays or as datasets."""

import dataclasses
import hashlib
import inspect
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import keras
import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from keras_actlab.arguments import boolean, check_number, integer
from keras_actlab.experiments._arrays import as_array, as_arrays

# Inputs, targets and, where there are any, sample weights: arrays, or nested structures of arrays.
Examples: TypeAlias = tuple[Any, ...]

PARTS = ("train", "validation", "test")
# The classes that `keras.Model.fit` takes besides `keras.utils.PyDataset`, by package, so that none is imported.
DATASETS = {("tensorflow", "DatasetV2"), ("torch", "DataLoader"), ("grain", "MapDataset"), ("grain", "IterDataset")}


def check_call(argument: str, function: Any, given: str, *arguments: Any, **named: Any) -> None:
    """Raises unless a function can be called with these arguments. The function is not called."""
    if not callable(function):
        raise TypeError(f"`{argument}` must be a function of {given}. Received: {argument}={function!r:.200}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions that are written in C have no signature
        return
    try:
        signature.bind(*arguments, **named)
    except TypeError as error:
        raise TypeError(
            f"`{argument}` must be a function of {given}. Received: {argument}={function!r:.200} with parameters "
            f"{signature}: {error}"
        ) from error


def _classes(value: Any) -> set[tuple[str, str]]:
    """The classes of a value, each as a pair of its package and its name."""
    return {(each.__module__.partition(".")[0], each.__name__) for each in type(value).__mro__}


def packages(value: Any) -> set[str]:
    """The packages whose classes a value belongs to."""
    return {package for package, _ in _classes(value)}


def is_dataset(value: Any) -> bool:
    """Whether `keras.Model.fit` takes the value as a source of batches that it can read again in each epoch."""
    classes = _classes(value)
    return isinstance(value, keras.utils.PyDataset) or not DATASETS.isdisjoint(classes)


def number_of_batches(dataset: Any) -> float | None:
    """The number of batches of a dataset: infinity if it has no end, None if it is unknown."""
    if isinstance(dataset, keras.utils.PyDataset):
        return math.inf if dataset.num_batches is None else dataset.num_batches
    try:
        batches = len(dataset)
    except TypeError:  # TensorFlow raises it for infinite datasets, too
        cardinality = getattr(dataset, "cardinality", lambda: -2)
        return math.inf if int(cardinality()) == -1 else None
    return math.inf if batches == sys.maxsize else batches  # Grain's length of a dataset that is repeated for ever


def batches(dataset: Any) -> Iterator[Any]:
    """Yields the batches of one epoch."""
    if isinstance(dataset, keras.utils.PyDataset):
        indices = itertools.count() if dataset.num_batches is None else range(dataset.num_batches)
        return (dataset[index] for index in indices)
    return iter(dataset)


def _unchanged(values: np.ndarray) -> np.ndarray:
    return values


@dataclasses.dataclass(frozen=True)
class Split:
    """One division of the data into a training, a validation and a test part.

    Each part is a pair of inputs and targets, a triple of inputs, targets and sample weights, or each is a dataset.

    Inputs and targets are arrays, or nested structures of arrays (dict, tuple, list). An array is anything that NumPy
    reads as one: a tensor of any backend, a pandas Series or DataFrame, a list of numbers. Rows are matched by
    position; labels of rows in pandas are ignored.

    Sample weights are an array of shape `(examples,)`. They weight the loss in training, and in evaluation the loss and
    the `weighted_metrics` that models are compiled with. Metrics that are functions do not get them. If one part has
    weights, the weights of a part without them are 1.

    A dataset yields batches `(inputs, targets)` or `(inputs, targets, sample weights)`: `tf.data.Dataset`,
    `torch.utils.data.DataLoader`, `keras.utils.PyDataset`, `grain.MapDataset` or `grain.IterDataset`. It has to be
    batched, and is shuffled only if it shuffles itself. Datasets are not merged: the final fit trains on `train` alone.

    Args:
        train: What every fit trains on. For datasets, it may be a function of a seed that returns the dataset, so that
            each seed has its own order of batches.
        validation: What chooses the hyper-parameters and the number of epochs, or None if nothing is chosen.
        test: What the final fits are evaluated on.
        to_units: Function that takes targets and predictions back to the units in which the metrics are stated.
            Without it they are left unchanged.

    Attributes:
        train, validation, test: The same examples as NumPy arrays; datasets are left unchanged.

    Raises:
        TypeError: If a part is neither a pair or triple of arrays nor a dataset, if arrays and datasets are mixed, or
            `to_units` cannot be called.
        ValueError: If a part is empty, its arrays differ in length, hold categories or dates, or lack values, sample
            weights are negative, not finite or not one for each example, the parts differ in structure or in the shape
            of one example, or an evaluation dataset has no end.

    Example:

    >>> from keras_actlab import experiments
    >>> x, y = np.zeros((10, 3)), np.zeros(10)
    >>> split = experiments.Split(train=(x[:6], y[:6]), validation=(x[6:8], y[6:8]), test=(x[8:], y[8:]))
    >>> split.sizes
    {'train': 6, 'validation': 2, 'test': 2}
    >>> import grain
    >>> parts = {part: grain.MapDataset.source([(x, y)]) for part in ("train", "validation", "test")}
    >>> experiments.Split(**parts).is_dataset
    True
    """

    train: Any
    validation: Any
    test: Any
    to_units: Callable[[np.ndarray], np.ndarray] = _unchanged

    def __post_init__(self) -> None:
        if self.is_dataset:
            self._check_datasets()
        else:
            self._read_arrays()

    @property
    def is_dataset(self) -> bool:
        """Whether the parts are datasets."""
        return callable(self.train) or any(map(is_dataset, self._parts.values()))

    @property
    def has_weights(self) -> bool:
        """Whether the parts are arrays with sample weights."""
        return not self.is_dataset and len(self.train) == 3

    @property
    def is_endless(self) -> bool:
        """Whether the training part is a dataset without an end."""
        return self.is_dataset and number_of_batches(self.of_stage("final", 0)[0]) == math.inf

    @property
    def _parts(self) -> dict[str, Any]:
        """The parts that there are, by name."""
        parts = {part: getattr(self, part) for part in PARTS}
        return {part: value for part, value in parts.items() if value is not None or part != "validation"}

    def _check_datasets(self) -> None:
        for part, value in self._parts.items():
            if part == "train" and callable(value):
                check_call("train", value, "a seed, or a dataset", 0)
            elif not is_dataset(value):
                raise TypeError(
                    f"`{part}` must be a dataset, as other parts are; a generator can be read only once. "
                    f"Received: {part}={value!r:.200}"
                )
            elif part != "train" and number_of_batches(value) == math.inf:
                raise ValueError(f"`{part}` must have an end. Received: an infinite dataset, {value!r:.200}")
        check_call("to_units", self.to_units, "an array", None)

    def _read_arrays(self) -> None:
        for part, pair in self._parts.items():
            if not isinstance(pair, tuple | list) or len(pair) not in (2, 3):
                raise TypeError(
                    f"`{part}` must be a pair of inputs and targets, a triple with sample weights, or a dataset. "
                    f"Received: {part}={pair!r:.200}"
                )
            arrays = tuple(as_arrays(f"{part}[{index}]", values) for index, values in enumerate(pair[:2]))
            arrays += tuple(_as_weights(f"{part}[2]", values) for values in pair[2:])
            object.__setattr__(self, part, arrays)
            lengths = [len(array) for array in keras.tree.flatten(arrays)]
            if len(set(lengths)) != 1 or lengths[0] == 0:
                raise ValueError(
                    f"`{part}` must hold as many inputs as targets and sample weights, at least one. "
                    f"Received: {part} with arrays of lengths {lengths}"
                )
        if any(len(examples) == 3 for examples in self._parts.values()):
            for part, (x, y, *weights) in self._parts.items():
                object.__setattr__(self, part, (x, y, *(weights or [np.ones(count((x, y)), "float32")])))
        check_call("to_units", self.to_units, "an array", self.train[1])
        _check_alike({part: _example_shapes(examples) for part, examples in self._parts.items()})

    @property
    def sizes(self) -> dict[str, int | None]:
        """The number of examples in each part; None for datasets, whose examples are not counted."""
        parts = self._parts
        return {part: None if self.is_dataset else count(parts[part]) if part in parts else 0 for part in PARTS}

    @property
    def development(self) -> Any:
        """What the final fit trains on: training and validation examples together; of datasets, the training part."""
        if self.is_dataset or self.validation is None:
            return self.train
        return keras.tree.map_structure(lambda *parts: np.concatenate(parts), self.train, self.validation)

    def of_stage(self, stage: str, seed: int) -> tuple[Any, Any]:
        """What a fit of the stage "tune" or "final" trains on, and what it is evaluated on."""
        train, evaluation = (self.train, self.validation) if stage == "tune" else (self.development, self.test)
        if not callable(train):
            return train, evaluation
        made = train(seed)
        if not is_dataset(made):
            raise TypeError(f"`train` must return a dataset. Received: {made!r:.200}, for seed {seed}")
        return made, evaluation

    def fingerprint(self) -> str:
        """Returns a digest of the data.

        It covers all values of arrays. Of a dataset, it covers the structure, the number of batches and, if the first
        batch is the same each time that it is read, the values of that batch. If batches have indices, it also covers
        the values of the middle and the last batch.

        Raises:
            TypeError: If a batch is no pair or triple of arrays.
            ValueError: If a dataset is empty, or the parts differ in structure or in the number of axes.
        """
        digest = hashlib.sha256()
        if not self.is_dataset:
            for array in keras.tree.flatten(tuple(self._parts.values())):
                _update(digest, array)
            return digest.hexdigest()[:16]
        axes = {}
        for part in self._parts:
            dataset, evaluation = self.of_stage("tune" if part == "validation" else "final", seed=0)
            dataset = dataset if part == "train" else evaluation
            length = number_of_batches(dataset)
            first, again = _first_batch(part, dataset), _first_batch(part, dataset)
            # Lengths may differ from batch to batch, as of texts that are padded.
            axes[part] = keras.tree.map_structure(lambda array: f"{array.ndim} axes", first)
            digest.update(f"{part} {length} {axes[part]}".encode())
            arrays, others = keras.tree.flatten(first), keras.tree.flatten(again)
            if all(np.array_equal(*pair) for pair in zip(arrays, others, strict=True)):
                middle_and_last: list[Any] = []
                if hasattr(dataset, "__getitem__") and length not in (None, math.inf):
                    middle_and_last = [dataset[int(length) // 2], dataset[int(length) - 1]]
                for array in [*arrays, *keras.tree.flatten(middle_and_last)]:
                    _update(digest, np.asarray(array))
        _check_alike(axes)
        return digest.hexdigest()[:16]


def _as_weights(name: str, values: Any) -> np.ndarray:
    weights = as_array(name, values)
    numeric = weights.dtype.kind in "biuf"
    if weights.ndim != 1 or not numeric or not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(
            f"`{name}` must be sample weights, finite and not negative, of shape (examples,). "
            f"Received: {name}={values!r:.200}"
        )
    return weights.astype("float32")


def count(examples: Examples) -> int:
    """The number of examples."""
    return len(keras.tree.flatten(examples)[0])


def _example_shapes(examples: Examples) -> Any:
    return keras.tree.map_structure(lambda array: str(array.shape[1:]), examples)


def _check_alike(shapes: dict[str, Any]) -> None:
    if any(shape != shapes["train"] for shape in shapes.values()):
        raise ValueError(
            "`train`, `validation` and `test` must hold examples of the same structure and shape. "
            f"Received: {', '.join(f'{part}={shape}' for part, shape in shapes.items())}"
        )


def _first_batch(part: str, dataset: Any) -> Examples:
    """Returns inputs and targets of the first batch as arrays."""
    batch = next(batches(dataset), None)
    if batch is None:
        raise ValueError(f"`{part}` must yield a batch. Received: an empty dataset, {dataset!r:.200}")
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        raise TypeError(
            f"`{part}` must yield batches (inputs, targets) or (inputs, targets, sample weights). "
            f"Received: a batch that is {batch!r:.200}"
        )
    return as_arrays(f"{part}[0]", batch[0]), as_arrays(f"{part}[1]", batch[1])


def _update(digest: Any, array: np.ndarray) -> None:
    digest.update(f"{array.dtype} {array.shape}".encode())
    # The bytes of an array of objects are their places in memory.
    digest.update(repr(array.tolist()).encode() if array.dtype == object else array.tobytes())


def holdout(
    x: Any,
    y: Any,
    seed: int,
    validation: float = 0.2,
    test: float = 0.2,
    standardize_targets: bool = False,
    standardize_inputs: bool = True,
    sample_weight: Any = None,
) -> Split:
    """Divides examples at random and, by default, standardizes the columns of a table.

    Mean and standard deviation are those of the training part, so neither validation nor test examples leak into
    what the model sees. A constant column is centred only.

    Args:
        x: Inputs, shape `(examples, features)`: an array, a pandas DataFrame, or whatever else NumPy reads as one.
            With `standardize_inputs=False` they have any shape `(examples, ...)` and dtype, or are a nested structure
            of arrays (dict, tuple, list).
        y: Targets, shape `(examples,)`, matched with the inputs by position. With `standardize_inputs=False` they have
            any shape `(examples, ...)`, or are a nested structure.
        seed: Seed of the division.
        validation: Fraction of the examples that are not test examples.
        test: Fraction of all examples.
        standardize_targets: Whether targets are standardized too; metrics are still stated in their own units. For
            regression, with targets of shape `(examples,)`.
        standardize_inputs: Whether inputs are a table whose columns are standardized. Otherwise they are left unchanged
            and not checked for NaN; use it for images, tokens and several inputs.
        sample_weight: Sample weights, shape `(examples,)`, see `Split`.

    Returns:
        A `Split`, of float32 inputs if they are standardized.

    Raises:
        TypeError: If inputs or targets are not arrays of numbers, or an option has another type.
        ValueError: If inputs, targets and sample weights have different lengths or shapes of another rank, targets or
            the inputs of a table hold NaN or infinity, or a fraction leaves a part empty.

    Example:

    >>> from keras_actlab import experiments
    >>> rng = np.random.default_rng(0)
    >>> split = experiments.holdout(rng.normal(size=(100, 3)), rng.normal(size=100), seed=0)
    >>> split.sizes
    {'train': 64, 'validation': 16, 'test': 20}
    >>> images, labels = np.zeros((100, 8, 8, 1), "uint8"), rng.integers(10, size=100)
    >>> experiments.holdout(images, labels, seed=0, standardize_inputs=False).train[0].shape
    (64, 8, 8, 1)
    """
    boolean("standardize_targets", standardize_targets)
    boolean("standardize_inputs", standardize_inputs)
    if integer("seed", seed) < 0:
        raise ValueError(f"`seed` must not be negative. Received: seed={seed}")
    for name, fraction in (("validation", validation), ("test", test)):
        check_number(name, fraction, positive=True)
        if fraction >= 1:
            raise ValueError(f"`{name}` must be a fraction below 1. Received: {name}={fraction}")
    read = as_array if standardize_inputs else as_arrays  # a list of rows is a table, or several inputs
    x, y = read("x", x), read("y", y)
    weights = () if sample_weight is None else (_as_weights("sample_weight", sample_weight),)
    _check_examples(x, y, weights, table=standardize_inputs, column=standardize_inputs or standardize_targets)
    rest, last = train_test_split(np.arange(count((x, y))), test_size=test, random_state=seed)
    first, middle = train_test_split(rest, test_size=validation, random_state=seed)
    if standardize_inputs:
        x = _standardized(x, first)
    to_units = _unchanged
    if standardize_targets:
        scaler = StandardScaler().fit(y[first][:, None])
        y = scaler.transform(y[:, None])[:, 0].astype("float32")
        to_units = _Affine(float(scaler.scale_[0]), float(scaler.mean_[0]))
    train, validate, evaluate = (
        keras.tree.map_structure(lambda array, rows=rows: array[rows], (x, y, *weights))
        for rows in (first, middle, last)
    )
    return Split(train, validate, evaluate, to_units)


def _check_examples(x: Any, y: Any, weights: Examples, table: bool, column: bool) -> None:
    """Raises unless arrays are those that `holdout` divides: inputs that are a table, targets that are a column."""
    shapes = {"x": _shapes(x), "y": _shapes(y)} | ({"sample_weight": _shapes(weights[0])} if weights else {})
    received = f"Received: {', '.join(f'{name}.shape={shape}' for name, shape in shapes.items())}"
    unless = ", unless `standardize_inputs` is False" if table else " where `standardize_targets` is True"
    if (table and x.ndim != 2) or (column and (keras.tree.is_nested(y) or y.ndim != 1)):
        raise ValueError(
            f"{'`x` must have shape (examples, features) and ' if table else ''}`y` must have shape (examples,)"
            f"{unless}. {received}"
        )
    if len({len(array) for array in keras.tree.flatten((x, y, *weights))}) > 1:
        raise ValueError(f"{', '.join(f'`{name}`' for name in shapes)} must have shapes of equal length. {received}")
    for name, array in [("x", x)] * table + [("y", each) for each in keras.tree.flatten(y)]:
        if not np.issubdtype(array.dtype, np.number) and array.dtype != bool:
            raise ValueError(f"`{name}` must hold numbers. Received: an array of {array.dtype}")
        if not np.isfinite(array).all():
            raise ValueError(f"`{name}` must be finite. Received: {(~np.isfinite(array)).sum()} entries that are not")


def _shapes(arrays: Any) -> Any:
    return keras.tree.map_structure(lambda array: array.shape, arrays)


def _standardized(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Returns a table whose columns have mean 0 and standard deviation 1 over the given rows."""
    with np.errstate(over="ignore", invalid="ignore"):
        inputs = StandardScaler().fit(x[train]).transform(x).astype("float32")
    if not np.isfinite(inputs).all():
        raise ValueError(f"`x` must hold numbers that can be standardized. Received: entries up to {abs(x).max():g}")
    return inputs


@dataclasses.dataclass(frozen=True)
class _Affine:
    scale: float
    offset: float

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(values, "float64") * self.scale + self.offset
