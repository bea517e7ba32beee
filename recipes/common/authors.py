"""How the authors of the paper on geometric weights train and choose, read in their public code.

After each epoch, an error is watched: that of the *test* data (UCI regression, Banana) or of the training data (Levy).
The learning rate is divided by ten after `patience` / 2 epochs without an improvement of 1e-4, training stops after
`patience` epochs without any, and the best epoch counts. So test data choose the learning rates and the epoch, and the
errors are too low. Use this protocol to explain published figures, never to compare methods.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np

from keras_actlab.experiments import Ensemble, Fit
from keras_actlab.layers import WeightNormalization
from recipes.common.parameterizations import HIDDEN

EQUAL = " at 0.1"  # plain weights at the learning rate of geometric weights, which the authors do not have
# The authors' learning rates. Of the two starts of geometric weights, their code has the second one.
RATES = {"SP": 0.01, f"SP{EQUAL}": 0.1, "WN": 0.01, "BN": 0.01, "GmP": 0.1, "GmP, code's start": 0.1}
EPOCH = "best epoch"


def network(method: str, units: int, features: int, loss: Any) -> Callable[[], keras.Model]:
    """Returns the function that builds a method's network with the authors' learning rate and output layer."""

    def build() -> keras.Model:
        head: keras.Layer = keras.layers.Dense(1)
        if method == "WN":
            head = WeightNormalization(head)
        model = keras.Sequential([keras.Input((features,)), *HIDDEN[method.removesuffix(EQUAL)](units), head])
        model.compile(keras.optimizers.Adam(RATES[method]), loss)
        return model

    return build


def mean_squared(targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """The mean squared error of each row."""
    return np.square(targets - predictions).mean(axis=1)


def root_mean_squared(targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """The root mean squared error of each row."""
    return np.sqrt(mean_squared(targets, predictions))


class Plateau:
    """Keras' `ReduceLROnPlateau` and `EarlyStopping` for several trainings at once.

    Args:
        trainings: Number of trainings.
        patience: Number of epochs without improvement after which a training stops; half of it for the learning rate.

    Attributes:
        factors: Of each learning rate, 0 for a training that has stopped.
    """

    def __init__(self, trainings: int, patience: int):
        self.patience = patience
        self.factors = np.ones(trainings)
        self.best, self.clearly_best = np.full((2, trainings), np.inf)
        self.waited, self.waited_for_rate = np.zeros((2, trainings), int)

    def update(self, values: np.ndarray) -> np.ndarray:
        """Takes the watched errors of an epoch, and returns for which trainings it is the best so far."""
        running = self.factors > 0
        improved = running & (values < self.best)
        clearly = running & (values < self.clearly_best - 1e-4)  # the default of ReduceLROnPlateau
        self.best = np.where(improved, values, self.best)
        self.clearly_best = np.where(clearly, values, self.clearly_best)
        self.waited = np.where(improved, 0, self.waited + 1)
        self.waited_for_rate = np.where(clearly, 0, self.waited_for_rate + 1)
        lower = self.waited_for_rate >= self.patience // 2
        self.factors[lower] /= 10
        self.waited_for_rate[lower] = 0
        self.factors[self.waited >= self.patience] = 0
        return improved


@dataclass(frozen=True)
class Authors:
    """Trains a group of models as one program: `fit` of a comparison with `vectorize`.

    Args:
        name: Name of the metric.
        metric: Function of targets and predictions, shape `(fits, examples)`, that returns a number for each fit.
        error: Function of the same arguments: the watched error.
        watch: The data of the watched error.
        patience: See above.
        batch_size: Number of examples in a batch; the last one of an epoch may have fewer.
        standardize: Whether targets are standardized.
        cosine: Whether the learning rate follows a cosine over all epochs, instead of plateaus. The best epoch counts
            all the same.
    """

    name: str
    metric: Callable[[np.ndarray, np.ndarray], np.ndarray]
    error: Callable[[np.ndarray, np.ndarray], np.ndarray]
    watch: Literal["test", "training"] = "test"
    patience: int = 100
    batch_size: int = 1024
    standardize: bool = False
    cosine: bool = False

    def __call__(
        self, models: Sequence[keras.Model], fits: Sequence[Fit], train: Sequence[Any], test: Sequence[Any]
    ) -> list[dict[int, dict[str, float]]]:
        """Returns the metric of the best epoch, and its number, for each fit."""
        (x, y), (test_x, test_y) = (tuple(map(np.stack, zip(*part, strict=True))) for part in (train, test))
        mean, scale = 0.0, 1.0
        if self.standardize:
            mean, scale = y.mean(1, keepdims=True), y.std(1, keepdims=True)
        inputs = np.concatenate([x, test_x], axis=1) if self.watch == "training" else test_x
        data = [keras.ops.convert_to_tensor(part, "float32") for part in (x, (y - mean) / scale, inputs)]
        ensemble = Ensemble(models)
        plateau = Plateau(len(fits), fits[0].epochs + 1 if self.cosine else self.patience)
        rngs = [np.random.default_rng([fit.split, fit.seed]) for fit in fits]
        metrics, epochs = np.full(len(fits), np.nan), np.zeros(len(fits))
        for epoch in range(fits[0].epochs):
            factors = plateau.factors
            if self.cosine:
                factors = np.full(len(fits), (1 + np.cos(np.pi * epoch / fits[0].epochs)) / 2)
            for rows in self._batches(rngs, y.shape[1]):
                ensemble.train_block(*data[:2], rows, np.tile(factors, (len(rows), 1)))
            predictions = ensemble.predictions(data[2])[..., 0] * scale + mean
            tested = predictions[:, -test_y.shape[1] :]
            watched = (y, predictions[:, : y.shape[1]]) if self.watch == "training" else (test_y, tested)
            improved = plateau.update(self.error(*watched))
            metrics[improved] = self.metric(test_y, tested)[improved]
            epochs[improved] = epoch + 1
            if not self.cosine and not plateau.factors.any():
                break
        return [
            {fit.epochs: {self.name: value, EPOCH: best}}
            for fit, value, best in zip(fits, metrics, epochs, strict=True)
        ]

    def _batches(self, rngs: list[np.random.Generator], examples: int) -> list[np.ndarray]:
        """The rows of an epoch's batches, shape (steps, fits, batch): the full batches, then the incomplete one."""
        if examples <= self.batch_size:
            return [np.zeros((1, len(rngs), 0), "int32")]  # all examples in their order
        order = np.stack([rng.permutation(examples) for rng in rngs]).astype("int32")
        full = examples - examples % self.batch_size
        batches = order[:, :full].reshape(len(rngs), -1, self.batch_size).swapaxes(0, 1)
        return [batches, order[None, :, full:]] if full < examples else [batches]
