"""Training with a teacher."""

from typing import Any, Self

import keras
from keras import ops

from keras_actlab.models.deit import HEADS
from keras_actlab.ops.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_actlab")
class HardDistillation(keras.Model):
    """Trains `keras_actlab.models.deit_tiny` to learn from labels and from what a teacher takes for the labels.

    `loss = (loss(labels, class head) + loss(argmax(teacher), distillation head)) / 2`

    with the loss that it is compiled with, and regularizers added once. It is a model to `fit`: all else is that of the
    `model` within, whose weights are trained. `predict` gives the mean logits, `evaluate` their plain loss, and metrics
    are those of the mean logits.

    Args:
        model: What `keras_actlab.models.deit_tiny` returns, or another functional model with the layers "class_head"
            and "distillation_head", called once each, which give logits.
        teacher: A model from the same images to logits or probabilities of the same classes. It is frozen, with
            `teacher.trainable = False`, and always runs in inference mode.
        **kwargs: Base model arguments, such as `name`.

    Call arguments:
        inputs: Images.
        training: Whether the logits of both heads are returned, in a list, or their mean.

    Input shape:
        That of `model`.

    Output shape:
        That of `model`.

    Raises:
        TypeError: If `model` or `teacher` is not a Keras model.
        ValueError: If `model` lacks the two heads, or the teacher has another number of classes.

    Example:

    >>> teacher = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(10)])
    >>> distillation = keras_actlab.models.HardDistillation(keras_actlab.models.deit_tiny(), teacher)
    >>> distillation.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> teacher.trainable_variables  # then fit, to images and integer labels
    []

    Reference:

    - [Touvron et al., 2020](https://arxiv.org/abs/2012.12877), section 4, "Training data-efficient image transformers &
      distillation through attention".
    """

    def __init__(self, model: keras.Model, teacher: keras.Model, **kwargs: Any) -> None:
        for name, value in (("model", model), ("teacher", teacher)):
            if not isinstance(value, keras.Model):
                raise TypeError(f"`{name}` must be a keras.Model. Received: {name}={value!r}")
        found = {layer.name: layer for layer in model.layers}
        if not found.keys() >= set(HEADS):
            raise ValueError(f"`model` must have the layers {HEADS}. Received: model with the layers {list(found)}")
        classes, taught = model.output_shape[-1], teacher.compute_output_shape(model.input_shape)[-1]
        if classes != taught:
            raise ValueError(
                "`teacher` must have as many classes as `model`. "
                f"Received: teacher with {taught} classes, model with {classes}"
            )
        super().__init__(**kwargs)
        self.model = model
        self.heads = keras.Model(model.input, [found[name].output for name in HEADS])
        self.teacher = teacher
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
            return super().compute_loss(x, y, y_pred, sample_weight)
        taught = ops.argmax(self.teacher(x, training=False), axis=-1)
        class_logits, distillation_logits = y_pred
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
