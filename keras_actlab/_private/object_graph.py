"""Copying a Keras object in memory, with everything that it holds.

`copy.deepcopy` copies a Keras object through a file, which loses state that Keras does not save, and a config does not
describe how an object was changed after its construction. Here, instances are copied attribute by attribute.

Read in Keras 3.15 (TensorFlow 2.21, JAX 0.10, PyTorch 2.13), which has no public function for this. The backends are
imported because only they can copy their tensors and modules.
"""

import functools
import sys
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import is_dataclass
from enum import Enum
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import keras
import numpy as np
from keras.src.models.model import Trainer
from keras.src.ops.function import Function, make_node_key
from keras.src.ops.node import KerasHistory, Node
from keras.src.ops.symbolic_arguments import SymbolicArguments
from keras.src.utils.tracking import Tracker

ATOMS = (bool, int, float, complex, str, bytes, type(None), type)
# An object of these types, or from which one can be reached, belongs to one model.
STATE = (
    keras.KerasTensor,
    keras.Operation,
    keras.Variable,
    keras.random.SeedGenerator,
    Node,
    SymbolicArguments,
    Tracker,
)
# Packages whose instances are plain Python, and packages whose instances are not copied by attribute: they hold
# resources and locks, or are immutable.
TRANSPARENT = {"keras", "keras_actlab", "keras_cv", "keras_hub", "keras_nlp"}
OPAQUE = sys.stdlib_module_names | {"jax", "jaxlib", "ml_dtypes", "numpy", "tensorflow", "tensorflow_text", "torch"}
SHARED_MODULES = ("keras.src.backend", "keras.src.distribution")
# Attributes in which a copy of an operation starts empty: its calls are selected at the end.
EMPTIED = {"_inbound_nodes", "_outbound_nodes", "_losses", "_loss_ids", "_losses_override"}
# Attributes that `compile`, `fit` and `generate` set on a model.
COMPILE_STATE = {
    "_compile_config",
    "_compile_loss",
    "_compile_metrics",
    "_compiled_trainable_state",
    "_eval_epoch_iterator",
    "_jax_state",
    "_loss_tracker",
    "generate_function",
    "history",
    "loss",
    "optimizer",
    "predict_function",
    "stop_evaluating",
    "stop_predicting",
    "stop_training",
    "test_function",
    "train_function",
}


def duplicate(layer: keras.layers.Layer) -> tuple[keras.layers.Layer, dict[int, Any]]:
    """Returns a copy of `layer`, and all copied objects by the ids of the originals.

    Copied are layers, variables, graphs, seed generators and containers at any depth, objects and functions that hold
    any of these, and arrays. Shared are other functions, classes, modules, and resources such as lookup tables. Models
    are copied without the state of `compile` and `fit`. Of the graph in which a layer is called, only the part that
    leads to copied tensors is copied, not other models that call the layer.
    """
    duplication = _Duplication()
    copied = duplication.of(layer)
    duplication.finish()
    return copied, duplication.copies


def rebind(layer: keras.layers.Layer, owner: keras.layers.Layer) -> None:
    """Makes the functions on the instance `layer` that act on `owner` act on `layer`.

    Keras stores wrappers of `build` and `quantize` on each layer (`Layer.__new__`), which act on it through their
    closure.
    """
    duplication = _Duplication({id(owner): layer}, shared=True)
    for name, value in list(vars(layer).items()):
        if isinstance(value, FunctionType | MethodType):
            vars(layer)[name] = duplication.of(value)
    duplication.finish()


class _Duplication:
    """One run of `duplicate`, with a work list: recursion would be too deep for graphs of hundreds of layers."""

    def __init__(self, copies: dict[int, Any] | None = None, shared: bool = False) -> None:
        self.copies: dict[int, Any] = copies or {}
        self.shared = shared  # whether everything but functions and the objects in `copies` is shared
        self.originals: list[Any] = []  # kept alive, so that no id is reused
        self.work: deque[Callable[[], None]] = deque()
        # Steps that need the ids of all copies, and steps that need the lists of calls that those make.
        self.last: list[Callable[[], None]] = []
        self.very_last: list[Callable[[], None]] = []
        self.stateless: set[int] = set()  # ids of objects from which no state can be reached

    def finish(self) -> None:
        while self.work:
            self.work.popleft()()
        for step in self.last + self.very_last:
            step()
        # They refer to all copies, in a reference cycle with this object.
        self.last.clear()
        self.very_last.clear()

    def of(self, x: Any) -> Any:
        """Returns the copy of `x`, whose contents may be filled in later."""
        if type(x) in ATOMS:
            return x
        if id(x) in self.copies:
            return self.copies[id(x)]
        self.originals.append(x)
        copied = self.copies[id(x)] = self._shell(x)
        return copied

    def _shell(self, x: Any) -> Any:
        kind = type(x)
        if issubclass(kind, type | ModuleType | Enum):
            return x
        if issubclass(kind, FunctionType):
            return self._function(x) if self._holds_state(x) else x
        if issubclass(kind, MethodType):
            owner = self.of(x.__self__)
            return x if owner is x.__self__ else MethodType(self.of(x.__func__), owner)
        if issubclass(kind, CellType):
            return self._cell(x)
        if self.shared:
            return x
        if issubclass(kind, functools.partial):
            if not self._holds_state(x):
                return x
            return kind(self.of(x.func), *map(self.of, x.args), **{key: self.of(x.keywords[key]) for key in x.keywords})
        if issubclass(kind, weakref.ref):
            target = x()
            return x if target is None or self.of(target) is target else weakref.ref(self.of(target))
        if issubclass(kind, tuple | frozenset):
            return self._immutable(x)
        if issubclass(kind, list | dict | set | deque):
            return self._container(x)
        if issubclass(kind, np.ndarray):
            return x.copy()
        copied = _copy_of_backend(x, self)
        return self._instance(x) if copied is None else copied

    def _function(self, function: FunctionType) -> FunctionType:
        cells = function.__closure__
        copied = FunctionType(
            function.__code__, function.__globals__, function.__name__, None, cells and tuple(map(self.of, cells))
        )

        def fill() -> None:
            copied.__qualname__, copied.__doc__ = function.__qualname__, function.__doc__
            copied.__module__ = function.__module__
            copied.__defaults__ = function.__defaults__ and tuple(map(self.of, function.__defaults__))
            copied.__kwdefaults__ = function.__kwdefaults__ and {
                key: self.of(value) for key, value in function.__kwdefaults__.items()
            }
            vars(copied).update({key: self.of(value) for key, value in vars(function).items()})

        self.work.append(fill)
        return copied

    def _cell(self, cell: CellType) -> CellType:
        copied = CellType()

        def fill() -> None:
            try:
                contents = cell.cell_contents
            except ValueError:
                return  # an empty cell
            copied.cell_contents = self.of(contents)

        self.work.append(fill)
        return copied

    def _immutable(self, x: Any) -> Any:
        elements = [self.of(element) for element in x]
        if all(new is old for new, old in zip(elements, x, strict=True)):
            return x
        return type(x)._make(elements) if hasattr(x, "_make") else type(x)(elements)

    def _container(self, x: Any) -> Any:
        kind: Any = type(x)
        copied = kind.__new__(kind)
        # Without the methods of Keras' containers, which would track the elements.
        if isinstance(x, defaultdict):
            copied.default_factory = x.default_factory

        def fill() -> None:
            if hasattr(x, "__dict__"):
                self._fill_attributes(copied, x)
            if isinstance(x, dict):
                put = OrderedDict.__setitem__ if isinstance(x, OrderedDict) else dict.__setitem__
                for key, value in x.items():
                    put(copied, self.of(key), self.of(value))
            elif isinstance(x, list):
                list.extend(copied, map(self.of, x))
            elif isinstance(x, deque):
                copied.__init__(map(self.of, x), x.maxlen)
            elif x and all(type(element) is int for element in x):
                # They may be the ids of copied objects.
                self.last.append(lambda: set.update(copied, (self._new_id(element) for element in x)))
            else:
                set.update(copied, map(self.of, x))

        self.work.append(fill)
        return copied

    def _empty(self, x: Any) -> Any:
        """Returns an empty container of the type of `x`, with its tracker."""
        kind: Any = type(x)
        copied = kind.__new__(kind)
        if hasattr(x, "__dict__"):
            self._fill_attributes(copied, x)
        return copied

    def _new_id(self, old: int) -> int:
        return id(self.copies[old]) if old in self.copies else old

    def _instance(self, x: Any) -> Any:
        if not self._is_copied(x):
            return x
        if isinstance(x, keras.optimizers.Optimizer):
            return type(x).from_config(x.get_config())  # without its slots, which belong to the old variables
        try:
            copied = object.__new__(type(x))
        except TypeError:
            return x  # an instance of a class that is not written in Python
        self.work.append(lambda: self._fill(copied, x))
        return copied

    def _fill(self, copied: Any, x: Any) -> None:
        if isinstance(x, keras.KerasTensor) and hasattr(x, "_keras_history"):
            self._fill_attributes(copied, x, ("_keras_history",))
            self._history(copied, x._keras_history)
        elif isinstance(x, keras.Operation):
            dropped = COMPILE_STATE if isinstance(x, keras.Model) else set()
            self._fill_attributes(copied, x, EMPTIED | dropped)
            for name in EMPTIED & set(vars(x)):
                vars(copied)[name] = self._empty(vars(x)[name])
            self.last.append(lambda: self._nodes(copied, x))
            if isinstance(x, Function):
                self.very_last.append(lambda: _index_nodes(copied))
            if isinstance(x, keras.Model):
                self.very_last.append(lambda: _uncompile(copied, x.compiled))
        else:
            self._fill_attributes(copied, x)

    def _fill_attributes(self, copied: Any, x: Any, skipped: Iterable[str] = ()) -> None:
        for cls in type(x).__mro__:
            for name in _slots(cls):
                if hasattr(x, name):
                    object.__setattr__(copied, name, self.of(getattr(x, name)))
        for name, value in getattr(x, "__dict__", {}).items():
            if name not in skipped:
                vars(copied)[name] = self.of(value)

    def _history(self, tensor: keras.KerasTensor, history: KerasHistory) -> None:
        """Copies the call that made a tensor, and the calls that this one needs."""
        operation = self.of(history.operation)
        nodes = history.operation._inbound_nodes if history.operation is not None else []
        node = nodes[history.node_index] if history.node_index < len(nodes) else None
        copied = self.of(node)

        def number() -> None:
            index = 0 if copied is None else operation._inbound_nodes.index(copied)
            tensor._keras_history = KerasHistory(operation, index, history.tensor_index)

        self.very_last.append(number)

    def _nodes(self, copied: keras.Operation, operation: keras.Operation) -> None:
        """Gives the copy of an operation the calls that were copied."""
        for name in ("_inbound_nodes", "_outbound_nodes"):
            nodes = (self.copies[id(node)] for node in vars(operation)[name] if id(node) in self.copies)
            list.extend(vars(copied)[name], nodes)

    def _is_copied(self, x: Any) -> bool:
        if isinstance(x, STATE):
            return True
        if not hasattr(x, "__dict__") and not any(map(_slots, type(x).__mro__)):
            return False
        module = type(x).__module__
        if module.split(".")[0] in TRANSPARENT:
            return not module.startswith(SHARED_MODULES)
        return is_dataclass(x) or self._holds_state(x)

    def _holds_state(self, x: Any) -> bool:
        """Whether a layer, variable or the like can be reached from `x`."""
        seen: dict[int, Any] = {}
        stack = [x]
        while stack:
            one = stack.pop()
            if isinstance(one, STATE) or _is_backend_state(one) or (self.shared and id(one) in self.copies):
                return True
            if type(one) not in ATOMS and id(one) not in seen and id(one) not in self.stateless:
                seen[id(one)] = one
                stack.extend(_contents(one))
        self.originals.extend(seen.values())
        self.stateless.update(seen)
        return False


def _contents(x: Any) -> Iterable[Any]:
    """What can be reached from `x` in one step, as far as a copy of `x` would hold it."""
    match x:
        case FunctionType():
            cells = x.__closure__ or ()
            yield from (x.__defaults__ or ())
            yield from (x.__kwdefaults__ or {}).values()
            yield from vars(x).values()
            for cell in cells:
                try:
                    yield cell.cell_contents
                except ValueError:
                    continue  # an empty cell
        case MethodType():
            yield x.__self__
        case functools.partial():
            yield from (x.func, *x.args, *x.keywords.values())
        case list() | tuple() | set() | frozenset() | deque():
            yield from x
        case dict():
            yield from x.keys()
            yield from x.values()
        case _ if type(x).__module__.split(".")[0] not in OPAQUE:
            yield from getattr(x, "__dict__", {}).values()
            for cls in type(x).__mro__:
                yield from (getattr(x, name) for name in _slots(cls) if hasattr(x, name))


def _slots(cls: type) -> tuple[str, ...]:
    slots = vars(cls).get("__slots__", ())
    slots = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(
        f"_{cls.__name__.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name
        for name in slots
        if name not in ("__dict__", "__weakref__")
    )


def _index_nodes(function: Function) -> None:
    """A Function names its calls by the ids of the operations and the numbers of the calls."""
    nodes = [node for nodes in function._nodes_by_depth.values() for node in nodes]
    object.__setattr__(
        function,
        "_nodes",
        {make_node_key(node.operation, node.operation._inbound_nodes.index(node)) for node in nodes},
    )


def _uncompile(model: keras.Model, was_compiled: bool) -> None:
    """Gives a copied model the attributes of one that was just constructed."""
    attributes = vars(model)
    for name in ("_self_unconditional_checkpoint_dependencies", "_self_unconditional_dependency_names"):
        tracked = attributes.get(name)  # TensorFlow's own book-keeping of attributes
        if isinstance(tracked, dict):
            attributes[name] = {key: value for key, value in tracked.items() if key not in COMPILE_STATE}
        elif tracked:
            attributes[name] = [entry for entry in tracked if entry.name not in COMPILE_STATE]
    Trainer.__init__(model)  # which sets nothing but this state
    if hasattr(type(model), "make_generate_function"):
        attributes["generate_function"] = None
    if was_compiled and any(base.__module__ == "keras_hub.src.models.task" for base in type(model).__mro__):
        model.compile()  # as the constructors of tasks do, in keras-hub 0.32


def _is_backend_state(x: Any) -> bool:
    match keras.backend.backend():
        case "torch":
            import torch

            return isinstance(x, torch.nn.Module | torch.nn.Parameter)
        case "tensorflow":
            import tensorflow as tf

            return isinstance(x, tf.Variable)
    return False


def _copy_of_backend(x: Any, duplication: _Duplication) -> Any:
    """Returns a copy of a tensor, module or compiled function of the backend; None for anything else."""
    match keras.backend.backend():
        case "torch":
            return _copy_of_torch(x, duplication)
        case "tensorflow":
            return _copy_of_tensorflow(x, duplication)
        case "jax":
            return _copy_of_jax(x, duplication)
    return None


def _copy_of_torch(x: Any, duplication: _Duplication) -> Any:
    import torch

    if isinstance(x, torch.Tensor):
        values = x.detach().clone()
        if isinstance(x, torch.nn.Parameter):
            values = torch.nn.Parameter(values, requires_grad=x.requires_grad)
        return values
    if isinstance(x, torch.nn.Module) and not isinstance(x, keras.layers.Layer):
        copied = object.__new__(type(x))
        duplication.work.append(lambda: duplication._fill_attributes(copied, x))
        return copied
    return None


def _copy_of_tensorflow(x: Any, duplication: _Duplication) -> Any:
    import tensorflow as tf

    if isinstance(x, tf.Variable):
        with tf.init_scope():
            return tf.Variable(
                x.read_value(),
                trainable=x.trainable,
                name=x.name.split(":")[0].rpartition("/")[2],
                dtype=x.dtype,
                synchronization=x.synchronization,
                aggregation=x.aggregation,
                shape=x.shape,
            )
    if type(x).__name__ in ("_DictWrapper", "_TupleWrapper"):  # of wrapt, which look like a dict and a tuple
        return duplication.of(x.__wrapped__)
    if hasattr(x, "python_function") and hasattr(x, "_clone") and duplication._holds_state(x.python_function):
        return x._clone(duplication.of(x.python_function))
    return None


def _copy_of_jax(x: Any, duplication: _Duplication) -> Any:
    import jax

    if isinstance(x, jax.Array):
        # Training donates the buffers of variables, so the copy needs its own.
        is_key = jax.numpy.issubdtype(x.dtype, jax.dtypes.extended)  # of random numbers, which NumPy cannot hold
        if not is_key and x.is_fully_addressable and all(device.platform == "cpu" for device in x.devices()):
            # XLA's own threads allocate what `jax.numpy.copy` returns, and its memory is rarely reused once it is free:
            # a conversion of BERT took .5 times the model's size more.
            return jax.device_put(np.array(x), x.sharding)
        return jax.numpy.copy(x)
    if type(x).__name__ == "PjitFunction" and duplication._holds_state(x.__wrapped__):
        return jax.jit(duplication.of(x.__wrapped__))
    return None
