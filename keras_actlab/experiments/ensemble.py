"""Trains several models of one architecture as one program.

The step of a small network takes as long as launching its operations. Here, models that differ only in weights and data
become one model, whose variables have an additional first axis with one entry for each member. Each operation computes
all members, and a block of training steps runs in one call.

Backends are imported here because Keras has no common name for compiling a loop of training steps.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_actlab._private.keras_trainer import excludes_from_weight_decay, has_mask
from keras_actlab.experiments._description import describe

# Their update of an entry depends on that entry only, so stacked variables train as separate ones do.
ELEMENTWISE_OPTIMIZERS = (
    keras.optimizers.SGD,
    keras.optimizers.Adam,
    keras.optimizers.AdamW,
    keras.optimizers.Adamax,
    keras.optimizers.Nadam,
    keras.optimizers.RMSprop,
    keras.optimizers.Adagrad,
    keras.optimizers.Adadelta,
    keras.optimizers.Lion,
    keras.optimizers.Ftrl,
)


def can_be_members(models: Sequence[keras.Model]) -> bool:
    """Whether an `Ensemble` takes these models."""
    try:
        _check(models)
    except ValueError:
        return False
    return True


def _check(members: Sequence[keras.Model]) -> None:
    models = isinstance(members, list | tuple) and all(isinstance(member, keras.Model) for member in members)
    if not models or not members:
        raise (ValueError if models else TypeError)(f"`members` must be models, at least one. Received: {members=}")
    shapes = [[(tuple(v.shape), v.dtype) for v in member.variables] for member in members]
    if any(shape != shapes[0] for shape in shapes) or len({describe(member) for member in members}) > 1:
        raise ValueError(f"`members` must be built and compiled alike. Received: members={members}")
    first = members[0]
    for method in ("train_step", "compute_loss"):
        if getattr(type(first), method) is not getattr(keras.Model, method):
            raise ValueError(f"`members` must train by Keras' own `{method}`. Received: members={members}")
    if not (isinstance(first.loss, str) or callable(first.loss)) or first.get_compile_config()["loss_weights"]:
        raise ValueError(f"`members` must have one loss, without weights. Received: loss={first.loss}")
    _check_optimizer(first.optimizer)


def _check_optimizer(optimizer: keras.optimizers.Optimizer) -> None:
    depends = optimizer.clipnorm or optimizer.global_clipnorm or optimizer.use_ema
    # Variables are excluded by identity or name, which a copy of the optimizer does not have.
    excluded = excludes_from_weight_decay(optimizer) and optimizer.weight_decay
    if not isinstance(optimizer, ELEMENTWISE_OPTIMIZERS) or depends or excluded:
        allowed = ", ".join(each.__name__ for each in ELEMENTWISE_OPTIMIZERS)
        raise ValueError(
            "`members` must have an optimizer that updates each entry by itself, that is, without `clipnorm`, "
            f"`global_clipnorm`, `use_ema` and exclusions from weight decay, one of {allowed}. "
            f"Received: optimizer={optimizer.get_config()}"
        )


class Ensemble(keras.Model):
    """Models of one architecture that are trained and evaluated as one program, each on its own data.

    The loss is the sum of the members' losses, so each member has the same gradient as in separate training.

    Args:
        members: Compiled models whose variables have the same shapes and whose optimizers have the same
            configuration. The ensemble starts from copies of their weights.

    Call arguments:
        inputs: Tensor of shape `(members, batch, ...)`, or a nested structure of them.
        training: As for the members.

    Output shape:
        `(members, batch, ...)`, or a nested structure.

    Raises:
        ValueError: If there are no members, if they differ, have a training step of their own or an optimizer whose
            update of one entry depends on others, or (when called) if their outputs carry a mask.

    Example:

    >>> from keras_actlab.experiments import Ensemble
    >>> def build(seed):
    ...     keras.utils.set_random_seed(seed)
    ...     model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    ...     model.compile("sgd", "mse")
    ...     return model
    >>> ensemble = Ensemble([build(seed) for seed in range(5)])
    >>> x, y = keras.ops.ones((5, 20, 3)), keras.ops.ones((5, 20, 1))
    >>> ensemble.train_block(x, y, rows=np.zeros((100, 5, 0), "int32"))  # 100 steps on all examples
    >>> bool(np.abs(ensemble.predictions(x) - 1).max() < 0.01)
    True
    """

    def __init__(self, members: Sequence[keras.Model]):
        super().__init__(dtype="float32", autocast=False)
        _check(members)
        # A bound method, because Keras would count the variables of a model that is an attribute.
        self._call_member = members[0].stateless_call
        self._loss_model = keras.Model()  # has the loss, but no regularizers of members, which `call` adds
        self._loss_model.compile(loss=members[0].loss)
        self._trained = [self._stacked(each, len(members)) for each in members[0].trainable_variables]
        self._fixed = [self._stacked(each, len(members)) for each in members[0].non_trainable_variables]
        self.build()
        self.compile(keras.optimizers.deserialize(keras.optimizers.serialize(members[0].optimizer)))
        self.optimizer.build(self.trainable_variables)
        self._optimizer_start = [ops.convert_to_numpy(variable.value) for variable in self.optimizer.variables]
        self._loop, self._forward = _compiled(self)
        self.restart(members)

    def build(self) -> None:
        """Creates nothing; Keras registers the variables."""

    def _stacked(self, variable: keras.Variable, members: int) -> keras.Variable:
        constraint = variable.constraint
        return self.add_weight(
            shape=(members, *variable.shape),
            initializer="zeros",
            dtype=variable.dtype,
            trainable=variable.trainable,
            autocast=False,
            constraint=constraint and (lambda stack: ops.vectorized_map(constraint, ops.convert_to_tensor(stack))),
            name=f"{variable.name}_{len(self.variables)}",  # PyTorch identifies variables by their paths
        )

    def restart(self, members: Sequence[keras.Model]) -> None:
        """Replaces the members by new models of the same architecture, and restarts training without compiling again.

        Args:
            members: As many models as at the beginning, built and compiled alike, except for the learning rate.
        """
        for stack, attribute in ((self._trained, "trainable_variables"), (self._fixed, "non_trainable_variables")):
            for variable, *values in zip(stack, *(getattr(member, attribute) for member in members), strict=True):
                variable.assign(np.stack([ops.convert_to_numpy(value.value) for value in values]))
        for variable, start in zip(self.optimizer.variables, self._optimizer_start, strict=True):
            variable.assign(start)
        if not isinstance(self.optimizer.get_config()["learning_rate"], dict):  # a schedule has no value to set
            self.optimizer.learning_rate = float(members[0].optimizer.learning_rate)

    def call(self, inputs: Any, training: bool = False) -> Any:
        def member(arguments: Any) -> Any:
            trained, fixed, x = arguments
            results = self._call_member(trained, fixed, x, training=training, return_losses=True)
            if any(has_mask(output) for output in keras.tree.flatten(results[0])):
                raise ValueError("`members` must not pass on a mask to their loss, which would not see it")
            return results

        # Copies, because PyTorch assigns in place below, and the backward pass may need the values of before.
        fixed = [ops.copy(variable.value) if training else variable.value for variable in self._fixed]
        values = [variable.value for variable in self._trained], fixed
        outputs, fixed, losses = ops.vectorized_map(member, (*values, inputs))
        if training:
            for variable, value in zip(self._fixed, fixed, strict=True):
                variable.assign(value)
            for loss in losses:
                self.add_loss(ops.sum(loss))
        return outputs

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        losses = ops.vectorized_map(lambda pair: self._loss_model.compute_loss(y=pair[0], y_pred=pair[1]), (y, y_pred))
        return ops.sum(losses) + sum(self.losses)

    def train_block(self, x: Any, y: Any, rows: np.ndarray, factors: np.ndarray | None = None) -> None:
        """Runs a block of training steps in one call.

        Args:
            x: Inputs, shape `(members, examples, ...)`, or a nested structure.
            y: Targets, in the same form.
            rows: Integers, shape `(steps, members, batch)`: the examples of each member's batch at each step. A batch
                of size 0 stands for all examples in their order.
            factors: Shape `(steps, members)`. The change of a member's weights is multiplied by its factor. For Adam
                without weight decay, that is a factor of the member's learning rate. Without it, all factors are 1.
        """
        self._loop(
            x, y, ops.convert_to_tensor(rows), None if factors is None else ops.convert_to_tensor(factors, "float32")
        )

    def predictions(self, x: Any) -> Any:
        """Returns the outputs for inputs of shape `(members, examples, ...)` as NumPy arrays."""
        return keras.tree.map_structure(ops.convert_to_numpy, self._forward(x))


def _batch(data: Any, rows: Any) -> Any:
    """Picks rows of shape `(members, batch)` from each array of shape `(members, examples, ...)`."""
    if rows.shape[1] == 0:
        return data

    def pick(array: Any) -> Any:
        return ops.vectorized_map(lambda pair: ops.take(pair[0], pair[1], axis=0), (array, rows))

    return keras.tree.map_structure(pick, data)


def _moved(before: Any, after: Any, factors: Any) -> Any:
    """Multiplies the change of each member's values by its factor."""
    factors = ops.reshape(factors, (-1, *[1] * (len(before.shape) - 1)))
    return before + ops.cast(factors, before.dtype) * (after - before)


def _step(model: Ensemble, batch: Any, factors: Any) -> None:
    """Does one training step, where variables are changed in place."""
    before = [] if factors is None else [ops.copy(variable.value) for variable in model.trainable_variables]
    model.train_step(batch)
    for variable, values in zip(model.trainable_variables, before, strict=factors is not None):
        variable.assign(_moved(values, variable.value, factors))


def _compiled(model: Ensemble) -> tuple[Callable[[Any, Any, Any, Any], None], Callable[[Any], Any]]:
    """Returns the loop over training steps and the forward pass, compiled where the backend does that."""
    match keras.backend.backend():
        case "jax":
            import jax

            groups = (
                model.trainable_variables,
                model.non_trainable_variables,
                model.optimizer.variables,
                model.metrics_variables,
            )

            @jax.jit
            def steps(state: Any, data: Any, rows: Any, factors: Any) -> Any:
                def step(i: Any, state: Any) -> Any:
                    trained, *others = model.train_step(state, _batch(data, rows[i]))[1]
                    if factors is not None:
                        trained = [_moved(*pair, factors[i]) for pair in zip(state[0], trained, strict=True)]
                    return trained, *others

                return jax.lax.fori_loop(0, len(rows), step, state)

            @jax.jit
            def call(trained: Any, fixed: Any, x: Any) -> Any:
                return model.stateless_call(trained, fixed, x, training=False)[0]

            def loop(x: Any, y: Any, rows: Any, factors: Any) -> None:
                state = tuple([variable.value for variable in group] for group in groups)
                state = jax.block_until_ready(steps(state, (x, y), rows, factors))
                for group, values in zip(groups, state, strict=True):
                    for variable, value in zip(group, values, strict=True):
                        variable.assign(value)

            def forward(x: Any) -> Any:
                return call(*([variable.value for variable in group] for group in groups[:2]), x)

        case "tensorflow":
            import tensorflow as tf

            @tf.function  # without jit_compile, which was seven times slower here, on two CPU cores
            def loop(x: Any, y: Any, rows: Any, factors: Any) -> None:
                for i in tf.range(tf.shape(rows)[0]):
                    _step(model, _batch((x, y), rows[i]), None if factors is None else factors[i])

            @tf.function
            def forward(x: Any) -> Any:
                return model(x, training=False)

        case "torch":
            import torch

            def loop(x: Any, y: Any, rows: Any, factors: Any) -> None:
                for i in range(len(rows)):
                    _step(model, _batch((x, y), rows[i]), None if factors is None else factors[i])

            def forward(x: Any) -> Any:
                with torch.no_grad():
                    return model(x, training=False)

    return loop, forward
