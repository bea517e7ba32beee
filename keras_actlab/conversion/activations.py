"""Swapping the activations of a model."""

from dataclasses import replace
from typing import Any

import keras

from keras_actlab._private import keras_graph as graph
from keras_actlab._private.keras_layers import replace_in_place, set_attribute
from keras_actlab.conversion import recorder, structure, surgery
from keras_actlab.conversion.attributes import originals, set_activations
from keras_actlab.conversion.hidden import check_hidden
from keras_actlab.conversion.imitation import imitate
from keras_actlab.conversion.layer_refs import LayerRef, layer_refs
from keras_actlab.conversion.report import report, store_report
from keras_actlab.conversion.rewriting import Where, rewrite, warn_if_unchanged
from keras_actlab.conversion.target import Target, To, Was, chooser, make, old_activations, resolve
from keras_actlab.layers.activations import applied_activation, as_layer, is_activation
from keras_actlab.layers.arguments import Shape
from keras_actlab.layers.replacement import SkipLayer


def swap_activations(
    model: keras.Model,
    to: To,
    where: Where = None,
    *,
    was: Was | None = None,
    start: str = "own",
    check: bool = True,
) -> keras.Model:
    """Returns a copy of `model` with other activations.

    It finds, at any depth, the activations of layers, as in `Dense(8, activation="relu")`, activations that are layers,
    such as `Activation`, `ReLU` or `CRReLU`, and, in Functional models, activations that are functions of the graph, as
    in `x = keras.activations.relu(x)`. Each of them gets parameters of its own, also each of several calls
    of one activation layer in a Functional model. All other weights are those of `model`.

    These activations are left unchanged, unless `where` names the layer: those of linear layers; softmax; a sigmoid or
    hard sigmoid that is an output, a gate in front of a multiplication, or in a layer whose graph cannot be seen; a
    tanh, softplus or another function with a range of its own that is an output; and a ReLU6 of x + 3, the hard
    sigmoid of MobileNetV3. The activations of recurrent cells are left unchanged in any case.

    A swap that changes nothing warns, and shows the table of `keras_actlab.conversion.report`.

    Args:
        model: A model that is built. It is left unchanged. Composite layers and models within, such as those of
            keras-hub, are searched, too.
        to: The new activation: the name of an activation ("crrelu", "tmaf", "entropy", "prelu" with one slope for
            each channel, or any of `keras.activations`), a function of `keras.activations` or `keras.ops`, or one that
            is registered, such as `keras_actlab.ops.crrelu`, a class of layers, a layer as a template, or your own
            function of the layer in question (that of the copy), which returns one of these, or None to leave that
            layer unchanged. Wrap another function of tensors as `keras.layers.Activation(function)`. In a model with
            the channels first, names and classes get `axis=1` where they have a channel axis.
        where: Which layers: a layer of `model`, a name or path, a pattern such as `"block1_*"` or `"*/mlp/*"`, a class
            of layers, the old activation, such as `keras.activations.relu`, a function of a layer that returns True or
            False, or a list of these. None for all.
        was: The old activation, as a name, a function or a class of layers, or a list of these; others are left
            unchanged. None for any.
        start: What new activations start as: "own" for what their class says, or "same" for the old activation, as
            close as their form allows on [-4, 4]. The note of each row of the report has the largest error.
            TMAF, EntropyActivation and CRReLU can be fitted, and any layer with a method `set_curve` like theirs.
        check: Whether to compare the copy, before anything is changed, with `model` on a small random batch. A
            difference raises a ValueError; where no such batch can be made, the report says so.

    Returns:
        A model of the same class, not compiled. Save and load it like the original, with `import keras_actlab`.
        `keras_actlab.conversion.report` lists what was changed and what was skipped, and why.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model is not built, the copy differs from it, the name of an activation is not known, no
            activation of the model is what `was` says, the new activation does not fit a shape or, with
            `start="same"`, cannot be fitted, a function in `to` or `where` fails on a layer, or an entry of `where`
            matches no layer, or none that can be changed.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1, "sigmoid")])
    >>> swapped = keras_actlab.swap_activations(model, "tmaf")
    >>> [keras_actlab.conversion.report(swapped).changed[0].after, swapped.layers[1].activation.__name__]
    ['Dense (TMAF)', 'sigmoid']
    """
    if start not in ("own", "same"):
        raise ValueError(f'`start` must be "own" or "same". Received: start={start!r}')
    choose = chooser(to)
    holders: dict[int, list[keras.layers.Layer]] = {}
    used = recorder.uses(model) if isinstance(model, keras.Model) and model.built else {}
    # The keys are the steps from the model to a layer, which are the same in the copy.
    uses = {ref.steps: used[id(ref.layer)] for ref in layer_refs(model) if id(ref.layer) in used} if used else {}
    old = None if was is None else old_activations(was)

    def matches_was(ref: LayerRef) -> bool:
        attributes = uses[ref.steps].attributes if ref.steps in uses else ()
        applied = [applied_activation(ref.layer), *(getattr(ref.layer, name) for name in attributes)]
        return old is None or any(map(old, applied))

    if old is not None and isinstance(model, keras.Model) and not any(map(matches_was, layer_refs(model))):
        raise ValueError(f"`was` must be an activation of `model`. Received: was={was!r}, which none of its layers has")

    def is_candidate(ref: LayerRef) -> bool:
        return _has_activation(ref) or ref.steps in uses

    def prepare(copied: keras.Model, refs: list[LayerRef]) -> list[LayerRef]:
        holders.update(structure.holders(copied))
        return _one_place_per_call(refs, holders)

    def change(ref: LayerRef) -> str:
        chosen = choose(as_layer(ref.layer))
        if chosen is None:
            raise SkipLayer("`to` returns None for it")
        # A layer that `split_calls` made is not among `holders`.
        held_by = holders.get(id(ref.layer), [ref.holder])
        use = uses.get(ref.steps)
        target = Target(resolve(chosen), start == "same")
        if _is_activation_itself(ref):
            check_hidden(ref, applied_activation(ref.layer), held_by)
            return _swap_layer(ref, target, held_by, use)
        if use is not None:
            return _swap_uses(ref, target, use)
        check_hidden(ref, applied_activation(ref.layer), held_by)
        return _swap_attribute(ref, target)

    result = rewrite(model, where, is_candidate, change, prepare, check=check, equal=False, only=matches_was)
    if used is None:
        _note(result, "Activations that layers call as functions were not searched: the model cannot be traced.")
    elif id(model) in used:
        _note(result, f"Functions in the `call` of the model itself are left unchanged: {_lines(used[id(model)])}.")
    return warn_if_unchanged(result)


def _note(model: keras.Model, text: str) -> None:
    done = report(model)
    store_report(model, replace(done, notes=(*done.notes, text)))


def _lines(use: recorder.Use) -> str:
    return ", ".join(use.functions)


def _has_activation(ref: LayerRef) -> bool:
    layer = ref.layer
    return _is_activation_itself(ref) or (_owns_activation(layer) and layer.activation is not keras.activations.linear)


def _is_activation_itself(ref: LayerRef) -> bool:
    """Whether the layer or operation is an activation and nothing else."""
    return applied_activation(ref.layer) is ref.layer


def _owns_activation(layer: keras.layers.Layer) -> bool:
    """Whether `layer` itself applies its activation, and does not pass it to layers within."""
    activation = getattr(layer, "activation", None)
    # After an attribute was exchanged, the activation is one of the layers within.
    return callable(activation) and not originals(layer) and all(child is activation for child in graph.children(layer))


def _one_place_per_call(refs: list[LayerRef], holders: dict[int, list[keras.layers.Layer]]) -> list[LayerRef]:
    owners = tuple(
        f"{ref.path}/"
        for ref in refs
        if _owns_activation(ref.layer) or (_is_activation_itself(ref) and graph.children(ref.layer))
    )
    found = []
    for ref in refs:
        layer, holder = ref.layer, ref.holder
        if ref.path.startswith(owners):
            continue  # a part of an activation that will be swapped as a whole
        found.append(ref)
        is_shared = is_activation(layer) and len(graph.calls(layer, holder)) > 1
        if is_shared and graph.is_functional(holder) and len(holders[id(layer)]) == 1:
            for twin in graph.split_calls(layer, holder):
                found.append(replace(ref, path="".join(ref.path.rpartition("/")[:2]) + twin.name, layer=twin))
    return found


def _swap_layer(ref: LayerRef, target: Target, holders: list[keras.layers.Layer], use: recorder.Use | None) -> str:
    layer = ref.layer
    policy = _policy(layer)
    if target.is_function:
        replace_in_place(layer, keras.layers.Activation(target.to, name=layer.name, dtype=policy))
        return ""
    channels_first = any(map(_has_channels_first, graph.children(ref.holder)))
    with surgery.scopes("" if graph.is_functional(ref.holder) else ref.holder.path or ""):
        new, note = _make_activation(
            ref, target, layer, layer.name, policy, _shape(layer, holders, use), channels_first
        )
    replace_in_place(layer, new)
    return note


def _shape(layer: keras.Operation, holders: list[keras.layers.Layer], use: recorder.Use | None) -> Shape:
    """The shape of the one input of `layer`. Raises `SkipLayer` if there are several, or the shape is not known."""
    # Two models on one graph, such as an encoder and its autoencoder, hold the same layers and the same calls.
    nodes = {id(node): node for holder in holders for node in graph.calls(layer, holder)}
    if len(nodes) == 1 and all(graph.calls(layer, holder) for holder in holders):
        (node,) = nodes.values()
        return node.input_tensors[0].shape
    if use is not None:
        shapes = use.inputs
    elif len(holders) > 1:
        raise SkipLayer("several layers hold it")
    else:
        shapes = surgery.input_shapes(layer, holders[0])
    if len(shapes) != 1:
        raise SkipLayer(f"{len(shapes)} calls share it" if shapes else "the shape of its input is not known")
    return shapes[0]


def _policy(layer: keras.Operation) -> str:
    """The name of the dtype policy of `layer`; an operation has that of the layer that it follows."""
    if isinstance(layer, keras.layers.Layer):
        return layer.dtype_policy.name
    dtype = layer.output.dtype
    producer: Any = layer
    while not isinstance(producer, keras.layers.Layer) and (inputs := keras.tree.flatten(producer.input)):
        producer = graph.producer(inputs[0])
    policy: Any = getattr(producer, "dtype_policy", None)
    return policy.name if getattr(policy, "compute_dtype", None) == dtype else dtype


def _swap_uses(ref: LayerRef, target: Target, use: recorder.Use) -> str:
    """Swaps the activations that the `call` of a layer applies and that are attributes. Returns a note."""
    layer = ref.layer
    attributes = {}
    notes = []
    for name, shapes in use.attributes.items():
        try:
            check_hidden(ref, getattr(layer, name), [])
            attributes[name], note = _new_attribute(ref, target, name, shapes)
        except SkipLayer as reason:
            note = str(reason)
        shown = "" if name == "activation" else f"its attribute {name}"
        notes.append(": ".join(filter(None, (shown, note))))
    if use.functions:
        notes.append(f"functions in its `call` are left unchanged: {_lines(use)}")
    note = "; ".join(filter(None, notes))
    if not attributes:
        raise SkipLayer(note)
    set_activations(layer, attributes)
    return note


def _new_attribute(ref: LayerRef, target: Target, name: str, shapes: list[Shape]) -> tuple[Any, str]:
    layer = ref.layer
    if layer.quantization_mode is not None:
        raise SkipLayer("the layer is quantized")
    if target.is_function:
        return target.to, ""
    if len({len(shape) for shape in shapes}) > 1:
        raise SkipLayer("it is called on inputs of several ranks")
    shape = tuple(sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*shapes, strict=True))
    new_name = surgery.activation_name(layer, ref.holder) if name == "activation" else f"{layer.name}_{name}"
    with surgery.scope_of(layer):
        return _make_activation(
            ref, target, getattr(layer, name), new_name, layer.dtype_policy.name, shape, _has_channels_first(layer)
        )


def _swap_attribute(ref: LayerRef, target: Target) -> str:
    layer = ref.layer
    if not _owns_activation(layer):
        raise SkipLayer("it applies no activation itself")
    if hasattr(layer, "state_size"):
        raise SkipLayer("it is a recurrent cell")
    build_config = layer.get_build_config()
    if "activation" not in _config(layer) or set(build_config or {}) != {"input_shape"}:
        raise SkipLayer("it applies its activation in a way of its own")
    if target.is_function:
        set_attribute(layer, "activation", target.to)
        return ""
    if layer.quantization_mode is not None:
        raise SkipLayer("it is quantized")
    shape = layer.compute_output_shape(build_config["input_shape"])
    name = surgery.activation_name(layer, ref.holder)
    with surgery.scope_of(layer):
        new, note = _make_activation(
            ref, target, layer.activation, name, layer.dtype_policy.name, shape, _has_channels_first(layer)
        )
    set_attribute(layer, "activation", new)
    return note


def _config(layer: keras.layers.Layer) -> dict[str, Any]:
    try:
        return layer.get_config()
    except NotImplementedError as error:
        raise SkipLayer("its class has no get_config, so a change of it would not be saved") from error


def _has_channels_first(layer: keras.layers.Layer) -> bool:
    return getattr(layer, "data_format", None) == "channels_first"


def _make_activation(
    ref: LayerRef, target: Target, old: Any, name: str, policy: str, shape: Shape, channels_first: bool
) -> tuple[keras.layers.Layer, str]:
    """Returns the new activation, built for inputs of `shape`, and a note on how far it is from the `old` one."""
    new = make(target.to, name, policy, shape, channels_first)
    try:
        new.build(shape)
        inputs = keras.KerasTensor(shape, dtype=new.compute_dtype)
        output_shape = tuple(new.compute_output_spec(inputs).shape)
        if output_shape != tuple(shape):
            raise ValueError(f"its output has the shape {output_shape}")
        note = imitate(new, old, shape) if target.start_same else ""
    except ValueError as error:
        if None in shape[1:]:
            raise SkipLayer(f"{type(new).__name__} does not take an input of shape {tuple(shape)}") from error
        raise ValueError(
            f"`to` must fit every layer that it is for. Received: to={new!r}, which does not fit {ref} with "
            f"input_shape={tuple(shape)}: {error}"
        ) from error
    return new, note
