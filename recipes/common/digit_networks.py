"""Two small networks for digits, with any activation: a dense and a convolutional one."""

from collections.abc import Callable

import keras

# Called with the axes that a channel's weights are shared over.
Activation = Callable[[list[int] | None], keras.Layer]


def digit_network(
    kind: str, shape: tuple[int, int, int], width: int, activation: Activation, learning_rate: float
) -> keras.Model:
    """Returns a network with ten outputs, compiled with Adam.

    Args:
        kind: "dense": two hidden layers; or "convolutional": two 3 x 3 convolutions of stride 2 with 8 and 16 channels,
            and a hidden layer of 64 units.
        shape: Shape of an image.
        width: Units of each hidden layer of the dense network.
        activation: Activation of every hidden layer.
        learning_rate: Learning rate of Adam.
    """
    if kind == "dense":
        hidden = [keras.layers.Flatten()]
        widths = (width, width)
    else:
        hidden = []
        for channels in (8, 16):
            hidden += [keras.layers.Conv2D(channels, 3, strides=2, padding="same"), activation([1, 2])]
        hidden += [keras.layers.Flatten()]
        widths = (64,)
    for units in widths:
        hidden += [keras.layers.Dense(units), activation(None)]
    model = keras.Sequential([keras.Input(shape), *hidden, keras.layers.Dense(10)])
    model.compile(keras.optimizers.Adam(learning_rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model
