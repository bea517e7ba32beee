"""What `advise` is asked: a model, its variants and data, as an `experiments.Comparison`."""

import dataclasses
import hashlib
import itertools
import math
import random
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_actlab._private.keras_compile import compile_arguments, metric_modes
from keras_actlab._private.keras_layers import nested_layers
from keras_actlab.advice.compilation import check_optimizer, compile_alike, learning_rate
from keras_actlab.advice.data import Data, as_tensors, first_batch
from keras_actlab.advice.metrics import CompiledMetric, compiled
from keras_actlab.advice.starts import Start, reseed
from keras_actlab.advice.variants import AS_IS, Variant, apply, is_activation
from keras_actlab.arguments import received
from keras_actlab.conversion import report
from keras_actlab.experiments import Comparison
from keras_actlab.experiments._arrays import as_arrays
from keras_actlab.experiments._description import describe
from keras_actlab.experiments.data import batches, count, number_of_batches
from keras_actlab.experiments.ensemble import can_be_members

NAME = "advice"
# Learning rates that are tried, as factors of the model's own; the engine extends the range where an end is best.
FACTORS = (1 / math.sqrt(10), 1, math.sqrt(10))
# Where `epochs` is not given: the largest number, and the step in which the best one is chosen.
LONGEST, STEP = 50, 5
# Small models train several times faster as one program: the number of fits in one, and the largest number of
# parameters. Above it, operations take longer than their launch.
TOGETHER, SMALL = 5, 100_000
# Steps that are timed to estimate a fit, after the first: at least three, and more of them for a second. The fastest
# one counts, because other programs may share the processor.
FEWEST, MOST, ENOUGH = 3, 50, 1.0


@dataclasses.dataclass(frozen=True)
class Method:
    """Builds a variant of the model with a learning rate; the global random seed decides its weights."""

    start: Start
    name: str
    variant: Variant

    def __call__(self, **rate: float) -> keras.Model:
        original = self.start.original
        start = self.start.model()
        seed = random.randint(1, 10**9)  # before the conversion, so that all variants get the same one
        model = apply(self.name, self.variant, start)
        reseed(model, seed)
        compile_alike(model, original, rate)
        return model


@dataclasses.dataclass(frozen=True)
class Question:
    """A model, its variants, data, and how a fit is done.

    Attributes:
        start: Where models come from.
        variants: The function of each variant that is trained, by name; the first is "as is".
        unchanged: The variants that change nothing in this model, each with the reason.
        data: The data.
        metric: The name of the metric that chooses and judges.
        mode: "min" or "max".
        epochs: Number of epochs of a fit; None if validation data choose it.
        batch_size: Number of examples in a batch of arrays.
        steps_per_epoch: Number of batches in an epoch of a dataset, if that is not its length.
        class_weight: Weight of each class in the loss.
    """

    start: Start
    variants: dict[str, Variant]
    unchanged: dict[str, str]
    data: Data
    metric: str
    mode: str
    epochs: int | None
    batch_size: int
    steps_per_epoch: int | None
    class_weight: Mapping[int, float] | None

    @property
    def name(self) -> str:
        """The name of the model."""
        return str(self.start.original.name)

    @property
    def identity(self) -> dict[str, Any]:
        """What the rows depend on, beside the configuration of the comparison. All of it in values for JSON."""
        weights = hashlib.sha256()
        for variable in self.start.fixed():
            weights.update(keras.ops.convert_to_numpy(variable).tobytes())
        return {
            "variants": sorted([*self.variants, *self.unchanged]),
            "start": "scratch" if self.start.is_drawn else "trained",
            "weights": weights.hexdigest()[:16],
        }

    def comparison(self, pairs: int) -> Comparison:
        """Returns the comparison of all variants over a number of pairs."""
        original = self.start.original
        name, value = learning_rate(original)
        is_array = not self.data.first.is_dataset
        return Comparison(
            name=NAME,
            methods={name: Method(self.start, name, variant) for name, variant in self.variants.items()},
            data=self.data.source,
            metrics=self._metrics(),
            epochs=self.epochs or LONGEST,
            grid={name: [float(f"{factor * value:.3g}") for factor in FACTORS]},
            splits=pairs if self.data.unit == "split" else 1,
            seeds=pairs if self.data.unit == "seed" else 1,
            batch_size=self.batch_size if is_array else None,
            extend=name,
            monitor=self.metric,
            mode=self.mode,
            validate_every=None if self.epochs else STEP,
            vectorize=TOGETHER if self._trains_together() else 1,
            steps_per_epoch=self.steps_per_epoch,
            class_weight=self.class_weight,
        )

    def _metrics(self) -> Any:
        if self._has_functions():
            return {self.metric: CompiledMetric(self.start, self.metric)}
        return [self.metric]

    def _has_functions(self) -> bool:
        """Whether the metric is a function of targets and predictions alone."""
        split, original = self.data.first, self.start.original
        arguments = compile_arguments(original)
        is_plain = (
            not split.is_dataset and not split.has_weights and len(getattr(original, "outputs", None) or [0]) == 1
        )
        own_steps = any(
            getattr(type(original), name) is not getattr(keras.Model, name)
            for name in ("train_step", "test_step", "compute_loss", "compute_metrics")
        )
        has_one_loss = isinstance(arguments["loss"], str) or callable(arguments["loss"])
        return is_plain and has_one_loss and not own_steps and not (self.metric == "loss" and original.losses)

    def _trains_together(self) -> bool:
        original = self.start.original
        is_small = original.count_params() <= SMALL and self.class_weight is None
        # PyTorch cannot vectorize convolutions over their kernels in the layout that Keras gives them (2.13).
        is_possible = keras.backend.backend() != "torch" or not any(map(_is_convolution, nested_layers(original)))
        return is_small and is_possible and self._has_functions() and can_be_members([compiled(self.start)])

    def seconds(self) -> tuple[float, float]:
        """Measures a few training steps, and estimates the seconds of one fit of the model and of one pair of fits.

        A pair holds for each variant a fit for each learning rate and the final one.
        """
        model = compiled(self.start)
        split = self.data.first
        train, _ = split.of_stage("final", 0)
        if split.is_dataset:
            first = itertools.islice(batches(train), FEWEST + 1)
            few: list[Any] = [as_arrays("train", tuple(batch)) for batch in first]
            length = self.steps_per_epoch or number_of_batches(train) or sum(1 for _ in batches(train))
        else:
            rows = np.arange(self.batch_size)
            few = [keras.tree.map_structure(lambda array: array[rows], train)]
            length = count(train) // self.batch_size
        seconds: list[float] = []
        for batch in itertools.islice(itertools.cycle(few), MOST + 1):
            began = time.perf_counter()
            model.train_on_batch(*as_tensors(batch))
            seconds.append(time.perf_counter() - began)
            if len(seconds) > FEWEST and sum(seconds[1:]) > ENOUGH:
                break
        compiling = seconds[0]
        training = min(seconds) * length * (self.epochs or LONGEST)
        fits = len(self.variants) * (len(FACTORS) + 1)
        each = 0.0 if self._trains_together() else compiling
        return compiling + training, fits * (each + training)

    @property
    def rates(self) -> int:
        """The number of learning rates that are tried at first."""
        return len(FACTORS)


def _is_convolution(layer: keras.layers.Layer) -> bool:
    return hasattr(layer, "kernel_size")


def ask(
    model: Any,
    variants: dict[str, Variant],
    data: Data,
    metric: str | None,
    mode: str | None,
    is_drawn: bool,
    epochs: int | None,
    batch_size: int,
    steps_per_epoch: int | None,
    class_weight: Mapping[int, float] | None,
) -> Question:
    """Checks a model against its data and variants, and returns the question.

    Raises:
        TypeError: If `model` is neither a model nor a function that returns one.
        ValueError: If the model is not compiled or cannot be rebuilt, the metric is unknown, or data do not fit it.
    """
    start = _start(model, is_drawn)
    split = data.first
    if not split.is_dataset and count(split.train) < batch_size:
        raise ValueError(
            f"`batch_size` must be at most the number of training examples, {count(split.train)}. "
            f"Received: batch_size={batch_size}"
        )
    metric, mode = _metric(start, data, batch_size, metric, mode)
    changed, unchanged = _changes(start, data, variants)
    if len(changed) == 1:
        raise ValueError(f"`variants` must change something in this model. Received: {unchanged}")
    question = Question(
        start, changed, unchanged, data, metric, mode, epochs, batch_size, steps_per_epoch, class_weight
    )
    question.comparison(pairs=2).split(0)  # raises for options that exclude each other, before a step is timed
    return question


def _start(model: Any, is_drawn: bool) -> Start:
    if not isinstance(model, keras.Model) and not callable(model):
        raise TypeError(
            f"`model` must be a compiled keras.Model, or a function that returns one. {received('model', model)}"
        )
    start = Start(model, is_drawn)
    original = start.original
    if not isinstance(original, keras.Model):
        raise TypeError(f"`model` must return a keras.Model. Received: {original!r:.200}")
    if not original.compiled or (compile_arguments(original)["loss"] is None and not _has_own_step(original)):
        raise ValueError(
            "`model` must be compiled with its optimizer, loss and metrics, as fits use them. "
            f"Received: model={original.name!r}, which is not compiled{' with a loss' * original.compiled}"
        )
    if not original.built:
        raise ValueError(
            "`model` must be built: give it an Input, or call it on data. "
            f"Received: model={original.name!r}, which is not built"
        )
    check_optimizer(original.optimizer)
    start.model()  # raises for a model that cannot be rebuilt
    return start


def _has_own_step(model: keras.Model) -> bool:
    names = ("train_step", "compute_loss")
    return any(getattr(type(model), name) is not getattr(keras.Model, name) for name in names)


def _metric(start: Start, data: Data, batch_size: int, metric: str | None, mode: str | None) -> tuple[str, str]:
    """Returns the metric and its mode, after the model has evaluated one batch."""
    model = compiled(start)
    batch = first_batch(data, batch_size)
    try:
        found = model.test_on_batch(*as_tensors(batch), return_dict=True)
    except Exception as error:  # each backend raises its own
        raise ValueError(
            f"`model` must take the data. Received: model={start.original.name!r}, which raises "
            f"{type(error).__name__} for a batch of `test`: {error}"
        ) from error
    modes = _modes(model, list(found))
    if metric is None:
        losses = {"loss", *(f"{output}_loss" for output in getattr(model, "output_names", None) or [])}
        metric = next((name for name in modes if name not in losses), "loss")
    if metric not in found:
        raise ValueError(
            f"`metric` must be one that `model` is compiled with, {list(found)}. {received('metric', metric)}"
        )
    mode = mode or modes.get(metric)
    if mode is None:
        raise ValueError(
            f"`mode` must be given, as Keras does not say whether low or high values of {metric!r} are better: "
            '"min" or "max". Received: mode=None'
        )
    return metric, mode


def _modes(model: keras.Model, found: list[str]) -> dict[str, str | None]:
    """The mode of each metric that was found, in the order of `compile`.

    In a model of several outputs, the name of an output precedes that of its metric.
    """
    outputs = getattr(model, "output_names", None) or []
    modes: dict[str, str | None] = {}
    for known, mode in metric_modes(model).items():
        for name in (known, *(f"{output}_{known}" for output in outputs if len(outputs) > 1)):
            if name in found:
                modes[name] = modes.get(name) or mode
    return modes


def _changes(start: Start, data: Data, variants: dict[str, Variant]) -> tuple[dict[str, Variant], dict[str, str]]:
    """Returns the variants that change the model, and a reason for each that does not."""
    changed, unchanged = {AS_IS: variants[AS_IS]}, {}
    for name, variant in variants.items():
        if name == AS_IS:
            continue
        keras.utils.set_random_seed(0)
        plain = start.model()
        keras.utils.set_random_seed(0)
        try:
            made = apply(name, variant, start.model())
        except Exception as error:  # a variant that always fails is an error before training
            raise ValueError(
                f"`variants` must work on `model`. Received: {name!r}, which raises {type(error).__name__}: {error}"
            ) from error
        is_alike = is_activation(variant) or describe(plain) == describe(made) is not None
        if is_alike and _compute_the_same(plain, made, data):
            unchanged[name] = _reason(made)
        else:
            changed[name] = variant
    return changed, unchanged


def _compute_the_same(one: keras.Model, other: keras.Model, data: Data) -> bool:
    """Whether two models have the same variables and outputs, as with a `ReLU` in place of an `Activation("relu")`."""
    if not _have_equal_variables(one, other):
        return False
    inputs = first_batch(data, 8)[0]
    outputs = [keras.tree.flatten(model.predict_on_batch(inputs)) for model in (one, other)]
    return all(np.array_equal(*pair) for pair in zip(*outputs, strict=True))


def _have_equal_variables(one: keras.Model, other: keras.Model) -> bool:
    pairs = list(zip(one.variables, other.variables, strict=False))
    if len(one.variables) != len(other.variables) or any(a.shape != b.shape for a, b in pairs):
        return False
    return all(np.array_equal(*map(keras.ops.convert_to_numpy, pair)) for pair in pairs)


def _reason(model: keras.Model) -> str:
    try:
        rows = report(model).skipped
    except ValueError:  # no conversion made it
        rows = ()
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    return "; ".join(notes[:3]) or "the model has it already"
