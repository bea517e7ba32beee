"""The data of a question: which part trains, which chooses, and which judges."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import numpy as np
from sklearn.model_selection import train_test_split

from keras_actlab.arguments import received
from keras_actlab.experiments._arrays import as_arrays
from keras_actlab.experiments.data import Split, batches, check_call, count, holdout, is_dataset

# A split, or a function of a split's index.
Source: TypeAlias = Split | Callable[[int], Split]
FRACTION = 0.2  # of the examples that a part gets which is not given, as in `holdout`


@dataclasses.dataclass(frozen=True)
class Data:
    """The data of a question.

    Attributes:
        source: A split, or a function of a split's index.
        unit: What makes a pair: "split", a random division of one table, or "seed", on one division.
        note: A sentence for the report on what the verdicts speak of.
    """

    source: Source
    unit: str
    note: str

    @functools.cached_property
    def first(self) -> Split:
        """The first split."""
        return self.source if isinstance(self.source, Split) else self.source(0)


@dataclasses.dataclass(frozen=True)
class RandomSplits:
    """Random divisions of one table, by their index."""

    examples: tuple[Any, ...]

    def __call__(self, split: int) -> Split:
        x, y, *weight = self.examples
        return holdout(x, y, split, standardize_inputs=False, sample_weight=weight[0] if weight else None)


def prepare(train: Any, validation: Any, test: Any) -> Data:
    """Returns the data that the parts given by the user stand for.

    Raises:
        TypeError: If a part is no data.
        ValueError: If a part is missing that cannot be drawn from another, or values are not finite.
    """
    if callable(train) and not is_dataset(train):
        check_call("train", train, "a seed or an index, if it is a function", 0)
        made = train(0)
        if isinstance(made, Split):
            _check_missing(validation, test, "`train` returns splits, which have all parts")
            _check(made)
            return Data(train, "split", "A pair is one split that `train` returns, with its own initial weights.")
        if not is_dataset(made):
            raise TypeError(
                "`train` must return an experiments.Split for each index, or a dataset for each seed, if it is a "
                f"function. Received: {made!r:.200}"
            )
        return _datasets(train, validation, test)
    if isinstance(train, Split):
        _check_missing(validation, test, "`train` is a split, which has all parts")
        return _fixed(train)
    if is_dataset(train):
        return _datasets(train, validation, test)
    examples = _examples("train", train)
    if validation is None and test is None:
        source = RandomSplits(examples)
        _check(source(0))
        return Data(
            source,
            "split",
            "A pair is one random division of the examples (64 % train, 16 % choose, 20 % judge) with its own initial "
            "weights. Divisions share examples; the intervals allow for that (Nadeau and Bengio).",
        )
    return _fixed(_split(examples, validation, test))


def _split(examples: tuple[Any, ...], validation: Any, test: Any) -> Split:
    """Draws the part that is missing, if any, from the training part."""
    rest, drawn = examples, None
    if validation is None or test is None:
        rows = train_test_split(np.arange(count(examples)), test_size=FRACTION, random_state=0)
        rest, drawn = (keras.tree.map_structure(lambda array, k=k: array[k], examples) for k in rows)
    return Split(rest, drawn if validation is None else validation, drawn if test is None else test)


def _fixed(split: Split) -> Data:
    _check(split)
    return Data(
        split,
        "seed",
        "A pair is one random seed (initial weights, order of batches) on this division of the data. The verdicts "
        "speak of this division: another one may give other verdicts.",
    )


def _datasets(train: Any, validation: Any, test: Any) -> Data:
    for name, part in (("validation", validation), ("test", test)):
        if part is None:
            raise ValueError(
                f"`{name}` must be given where `train` is a dataset: `validation` chooses learning rates, and `test` "
                f"judges. Received: {name}=None"
            )
    return _fixed(Split(train, validation, test))


def _examples(name: str, part: Any) -> tuple[Any, ...]:
    if not isinstance(part, tuple | list) or len(part) not in (2, 3):
        raise TypeError(
            f"`{name}` must be (inputs, targets), (inputs, targets, sample weights), a dataset, a Split, or a function "
            f"that returns one of the last two. {received(name, part)}"
        )
    examples = tuple(as_arrays(f"{name}[{index}]", values) for index, values in enumerate(part))
    lengths = [len(array) for array in keras.tree.flatten(examples)]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"`{name}` must hold as many inputs as targets and sample weights. Received: {name} with arrays of lengths "
            f"{lengths}"
        )
    return examples


def first_batch(data: Data, batch_size: int) -> Any:
    """Returns the first examples of the test part, or the first batch of a dataset."""
    _, evaluation = data.first.of_stage("final", 0)
    if data.first.is_dataset:
        return as_arrays("test", tuple(next(iter(batches(evaluation)))))
    return keras.tree.map_structure(lambda array: array[:batch_size], evaluation)


def as_tensors(arrays: Any) -> Any:
    """Returns tensors as `model.fit` makes them of arrays: real numbers in the dtype `keras.config.floatx()`."""
    return keras.tree.map_structure(_as_tensor, arrays)


def _as_tensor(array: np.ndarray) -> Any:
    if array.dtype.kind not in "biuf":
        return array  # text
    return keras.ops.convert_to_tensor(array, keras.config.floatx() if array.dtype.kind == "f" else None)


def _check_missing(validation: Any, test: Any, reason: str) -> None:
    for name, part in (("validation", validation), ("test", test)):
        if part is not None:
            raise ValueError(f"`{name}` must be None where {reason}. {received(name, part)}")


def _check(split: Split) -> None:
    """Raises a ValueError if a part is missing, or arrays or the first batch of a dataset hold NaN or infinity."""
    if split.validation is None:
        raise ValueError("`validation` must be given, as the learning rate is chosen. Received: a split without it")
    split.fingerprint()  # raises for batches that are no pairs or triples of arrays
    parts = {"train": split.of_stage("tune", 0)[0], "validation": split.validation, "test": split.test}
    for part, examples in parts.items():
        if split.is_dataset:
            examples = as_arrays(part, tuple(next(iter(batches(examples)))))
        for index, name in enumerate(("inputs", "targets")):
            for array in keras.tree.flatten(examples[index]):
                if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                    raise ValueError(
                        f"`{part}` must hold finite numbers. Received: {part} with "
                        f"{np.count_nonzero(~np.isfinite(array))} NaN or infinite values in its {name}"
                    )
