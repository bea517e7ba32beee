"""Small models with a config of their own, which does not list what they hold."""

import keras


@keras.saving.register_keras_serializable(package="tests.parts")
class Block(keras.layers.Layer):
    """Two layers that the block makes itself."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first = keras.layers.Dense(units, activation="relu", name="first")
        self.out = keras.layers.Dense(units, name="out")

    def build(self, input_shape):
        self.first.build(input_shape)
        self.out.build((*input_shape[:-1], self.units))

    def call(self, inputs):
        return self.out(self.first(inputs))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return super().get_config() | {"units": self.units}


@keras.saving.register_keras_serializable(package="tests.parts")
class Backbone(keras.Model):
    """A graph of blocks, of which the config says nothing."""

    def __init__(self, **kwargs):
        inputs = keras.Input((4,))
        x = Block(5, name="block1")(inputs)
        x = Block(3, name="block2")(x)
        super().__init__(inputs, keras.layers.Dense(6, "tanh", name="top")(x), **kwargs)

    def get_config(self):
        return {"name": self.name, "trainable": self.trainable}


@keras.saving.register_keras_serializable(package="tests.parts")
class Extractor(keras.Model):
    """A head on a model that its constructor cuts out of another one."""

    def __init__(self, base, **kwargs):
        super().__init__(**kwargs)
        self.base = base
        self.features = keras.Model(base.input, base.get_layer("block1").output)
        self.head = keras.layers.Dense(2, name="head")

    def call(self, inputs):
        return self.head(self.features(inputs))

    def get_config(self):
        return {"name": self.name, "base": keras.saving.serialize_keras_object(self.base)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["base"]), name=config["name"])
