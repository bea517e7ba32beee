"""Layers in the graphs of Functional models, which Keras lists once, when it makes the model (read in Keras 3.15.1)."""

import keras

from keras_actlab.graph import children


def track_layers(layer: keras.layers.Layer) -> None:
    """Makes `layer`, and the models within, hold each layer of their graphs, also one that was an operation before.

    The weights of a model are listed in the order of its layers. A layer that Keras finds in the graph when it loads
    the model stands at its place there; so does one that is added here.
    """
    for inner in (layer, *layer._flatten_layers(include_self=False)):
        in_graph = children(inner) if hasattr(inner, "_nodes_by_depth") else []
        missing = [one for one in in_graph if not any(one is held for held in inner._layers)]
        if missing:
            for one in missing:
                inner._tracker.track(one)
            order = {id(one): index for index, one in enumerate(in_graph)}
            inner._layers.sort(key=lambda one: order.get(id(one), len(order)))
