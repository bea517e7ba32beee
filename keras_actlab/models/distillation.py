"""Distillation: training with a teacher."""

from typing import Any, Self

import keras
from keras import ops

from keras_actlab.arguments import check_model
from keras_actlab.models.deit import HEADS
from keras_actlab.ops.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_actlab")
class HardDistillation(keras.Model):
    """Trains `keras_actlab.models.deit_tiny` on the labels and on the predictions of a teacher.

    `loss = (loss(labels, class head) + loss(argmax(teacher), distillation head)) / 2`

    `loss` is the loss of `compile`; regularization losses are added once. Training with `fit` changes the weights of
    `model`. `predict` returns the mean logits of both heads, `evaluate` returns their loss without the teacher, and
    metrics are computed from the mean logits.

    Labels are integers, `(batch,)` or `(batch, 1)`, with a sparse loss, or distributions, `(batch, classes)`, one-hot,
    smoothed or mixed, with a loss such as `CategoricalCrossentropy`. With distributions, the teacher's labels are
    one-hot. Label smoothing of the loss applies to both.

    Args:
        model: The result of `keras_actlab.models.deit_tiny`, or another functional model with the layers "class_head"
            and "distillation_head", which return logits and are called once each.
        teacher: A model from the same images to logits or probabilities of the same classes. It is frozen
            (`teacher.trainable = False`), stays frozen if `trainable` of this model changes, and always runs in
            inference mode.
        **kwargs: Base model arguments, such as `name`.

    Call arguments:
        inputs: Images.
        training: True for a list of the logits of both heads; otherwise their mean is returned.

    Input shape:
        That of `model`.

    Output shape:
        That of `model`.

    Raises:
        TypeError: If `model` or `teacher` is not a Keras model.
        ValueError: If `model` lacks the two heads, there is a single class, the teacher has another number of classes,
            labels have another shape, or labels without a class axis do not have an integer dtype.

    Example:

    >>> teacher = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(10)])
    >>> distillation = keras_actlab.models.HardDistillation(keras_actlab.models.deit_tiny(), teacher)
    >>> distillation.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> teacher.trainable_variables  # `fit` takes images and integer labels
    []

    Reference:

    - [Touvron et al., 2020](https://arxiv.org/abs/2012.12877), section 4, "Training data-efficient image transformers &
      distillation through attention".
    """

    def __init__(self, model: keras.Model, teacher: keras.Model, **kwargs: Any) -> None:
        for name, value in (("model", model), ("teacher", teacher)):
            check_model(name, value)
        found = {layer.name: layer for layer in model.layers}
        if not found.keys() >= set(HEADS):
            raise ValueError(f"`model` must have the layers {HEADS}. Received: model with the layers {list(found)}")
        classes, taught = model.output_shape[-1], teacher.compute_output_shape(model.input_shape)[-1]
        if classes != taught:
            raise ValueError(
                "`teacher` must have as many classes as `model`. "
                f"Received: teacher with {taught} classes, model with {classes}"
            )
        if classes == 1:
            raise ValueError("`model` must give a logit for each of two classes or more. Received: model with 1 logit")
        super().__init__(**kwargs)
        self.model = model
        self.heads = keras.Model(model.input, [found[name].output for name in HEADS])
        self.teacher = teacher
        self.teacher.trainable = False

    @property
    def trainable(self) -> bool:
        return super().trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.Model.trainable.fset(self, value)  # sets it for all layers, including the teacher
        self.teacher.trainable = False

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor | list[Tensor]:
        if training:
            return self.heads(inputs, training=True)
        return self.model(inputs, training=False)

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        if not training:
            if y is not None:
                _are_distributions(y, y_pred)
            return super().compute_loss(x, y, y_pred, sample_weight)
        class_logits, distillation_logits = y_pred
        one_hot = _are_distributions(y, class_logits)
        taught = ops.argmax(self.teacher(x, training=False), axis=-1)
        if one_hot:
            taught = ops.one_hot(taught, class_logits.shape[-1], dtype=class_logits.dtype)
        loss = super().compute_loss(x, y, class_logits, sample_weight)
        return (loss + super().compute_loss(x, taught, distillation_logits, sample_weight)) / 2

    def compute_metrics(self, x: Tensor, y: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> dict[str, Any]:
        if isinstance(y_pred, list | tuple):
            y_pred = (y_pred[0] + y_pred[1]) / 2
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return self.model.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "model": keras.saving.serialize_keras_object(self.model),
            "teacher": keras.saving.serialize_keras_object(self.teacher),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        models = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in ("model", "teacher")
        }
        return cls(**config | models)


def _are_distributions(labels: Tensor, logits: Tensor) -> bool:
    """Whether labels have an entry for each class. Raises unless they have, or are integers."""
    shape, classes = getattr(labels, "shape", None), logits.shape[-1]
    if shape is not None and tuple(shape[1:]) == (classes,):
        return True
    if shape is None or tuple(shape[1:]) not in ((), (1,)):
        received = f"of type {type(labels).__name__}" if shape is None else f"of shape {tuple(shape)}"
        raise ValueError(
            f"Labels must have the shape (batch,) or (batch, {classes}), one for each class. Received: y {received}"
        )
    if "int" not in keras.backend.standardize_dtype(labels.dtype):
        raise ValueError(
            f"Labels of shape (batch,) must be integers, and others have the shape (batch, {classes}). "
            f"Received: y of shape {tuple(shape)} and dtype {labels.dtype}"
        )
    return False
