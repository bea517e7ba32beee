"""A text that tells compiled models apart."""

import re

import keras


def describe(model: keras.Model, learning_rate: bool = True) -> str | None:
    """Returns a text that is equal for models that are built and compiled alike.

    It holds what Keras saves of a model and the shapes of its variables, but neither their values nor the bodies of
    custom layers and functions.

    Args:
        model: A compiled model.
        learning_rate: Whether models that differ in a learning rate that is a number have different texts.

    Returns:
        The text, or None for a model that Keras cannot describe.

    Example:

    >>> from keras_actlab.experiments.description import describe
    >>> def build(learning_rate):
    ...     model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    ...     model.compile(keras.optimizers.SGD(learning_rate), "mse")
    ...     return model
    >>> describe(build(0.1)) == describe(build(0.1)), describe(build(0.1)) == describe(build(0.2))
    (True, False)
    >>> describe(build(0.1), learning_rate=False) == describe(build(0.2), learning_rate=False)
    True
    """
    try:
        text = model.to_json()
    except Exception:  # whatever a layer's get_config raises
        return None
    if not learning_rate:
        text = re.sub(r'"learning_rate": [-+.\de]+', "", text)
    text += str([(tuple(variable.shape), variable.dtype) for variable in model.variables])
    return re.sub(r"_\d+(?=[\"/\\])", "", text)  # Keras counts layers of one name, over the life of a process
