"""Bad arguments of all public functions and classes: the error names the argument, what was received, and the value."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grain
import keras
import numpy as np
import pytest
from scipy import stats

import keras_actlab
from keras_actlab import cab, conversion, eafo, experiments, initializers, layers, models, ops
from keras_actlab.cab import plots

pytestmark = pytest.mark.one_backend

NAN = float("nan")
OBJECT = type("Strange", (), {"__repr__": lambda self: "<strange>"})()

# Invalid values of each kind of argument.
BOOLEAN = ["no", 1, 0.5, None, [], OBJECT]
COUNT = [0, -1, 1.5, "2", True, NAN, None, [], OBJECT]
OPTIONAL_COUNT = [value for value in COUNT if value is not None]
INDEX = [1.5, "2", True, None, [], OBJECT]
NUMBER = ["1", None, NAN, float("inf"), [], True, OBJECT]
POSITIVE = [*NUMBER, 0, -1.0]
OPTIONAL_POSITIVE = [value for value in POSITIVE if value is not None]
FRACTION = [*POSITIVE, 1.5]
BOUND = ["1", NAN, [], OBJECT]
ARRAY = ["text", None, OBJECT]
MODEL = [None, 3, "model", [], OBJECT, keras.Model]
LAYER = [None, 3, "layer", OBJECT, keras.layers.Dense]
STRING = [None, 3, [], OBJECT]
CHOICE = [3, "unheard of", [], True, OBJECT]
FUNCTION = [None, 3, "text", [], OBJECT]
PATH = [None, 3, [], OBJECT, "a\0b"]
MAPPING = [None, 3, "text", [1], OBJECT]
OTHER = [3, "text", OBJECT]


@functools.cache
def dense() -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "relu"), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def half(x: Any) -> Any:
    return x / 2


@functools.cache
def layouts() -> keras.distribution.LayoutMap:
    return keras.distribution.LayoutMap(keras.distribution.DeviceMesh((1,), ("model",), ["cpu:0"]))


def results() -> experiments.Results:
    from tests.experiments.examples import results

    return results({"a": [1.0, 2.0], "b": [1.5, 2.5]})


def split() -> dict[str, Any]:
    part = np.zeros((4, 2)), np.zeros(4)
    return {"train": part, "validation": part, "test": part}


def track() -> cab.Track:
    places = np.zeros((3, 2, 2))
    return cab.Track(np.arange(3), places, places, places[..., 0], places[..., 0], np.arange(2))


def spatial() -> cab.Boundaries:
    layer = keras.layers.Dense(2, "relu")
    layer.build((None, 3))
    return cab.boundaries(layer)


CONV = {
    "filters": COUNT, "kernel_size": COUNT, "strides": COUNT, "padding": CHOICE, "data_format": CHOICE,
    "dilation_rate": COUNT, "groups": COUNT, "activation": CHOICE, "use_bias": BOOLEAN, "scale_inside": BOOLEAN,
    "kernel_initializer": CHOICE, "angles_initializer": CHOICE, "angles_regularizer": CHOICE,
    "angles_constraint": CHOICE,
}  # fmt: skip
NETWORK = {"input_shape": [*OTHER, (0, 32, 3), (32, 32), None], "classes": COUNT, "activation": [3, "unheard of", []]}
PATCHES = {**NETWORK, "patch_size": COUNT}
DENSITY = [None, 3, "normal", OBJECT]
ACTIVATION = [None, 3, "unheard of", OBJECT]

# For each public name: valid arguments, and invalid values of each argument.
TRANSPOSED = {name: values for name, values in CONV.items() if name != "groups"}
DEPTHWISE = {name: values for name, values in TRANSPOSED.items() if name != "filters"} | {"depth_multiplier": COUNT}

TABLE: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, list[Any]]]] = {
    "layers.TMAF": (
        layers.TMAF, {},
        {"bandwidth": [-1, 1.5, "wide", True, NAN, None, OBJECT],
         "thresholds": [(), (1.0, 0.0), (NAN,), 3, "text", None], "axis": INDEX, "shared": BOOLEAN,
         "train_thresholds": BOOLEAN, "levels_initializer": CHOICE,
         "levels_regularizer": CHOICE, "levels_constraint": CHOICE},
    ),
    "layers.CRReLU": (
        layers.CRReLU, {},
        {"axis": [1.5, "2", True, [], OBJECT], "epsilon_initializer": ["unheard of", [], True, NAN, OBJECT],
         "epsilon_regularizer": CHOICE, "epsilon_constraint": CHOICE},
    ),
    "layers.EntropyActivation": (
        layers.EntropyActivation, {},
        {"activation": CHOICE, "num_knots": [*COUNT, 1], "lower": NUMBER, "upper": [*NUMBER, -5.0], "monotone": BOOLEAN,
         "sample_size": [-1, 1.5, "2", True, NAN, None], "values_regularizer": CHOICE},
    ),
    "layers.GmPDense": (
        layers.GmPDense, {"units": 3},
        {"units": COUNT, "activation": CHOICE, "use_bias": BOOLEAN, "scale_inside": BOOLEAN,
         "kernel_initializer": CHOICE, "angles_initializer": CHOICE, "angles_regularizer": CHOICE,
         "angles_constraint": CHOICE},
    ),
    "layers.GmPConv1D": (layers.GmPConv1D, {"filters": 3, "kernel_size": 3}, CONV),
    "layers.GmPConv2D": (layers.GmPConv2D, {"filters": 3, "kernel_size": 3}, CONV),
    "layers.GmPConv3D": (layers.GmPConv3D, {"filters": 3, "kernel_size": 3}, CONV),
    **{
        f"layers.{cls.__name__}": (cls, {"filters": 3, "kernel_size": 3}, TRANSPOSED)
        for cls in (layers.GmPConv1DTranspose, layers.GmPConv2DTranspose, layers.GmPConv3DTranspose)
    },
    **{
        f"layers.{cls.__name__}": (cls, {"kernel_size": 3}, DEPTHWISE)
        for cls in (layers.GmPDepthwiseConv1D, layers.GmPDepthwiseConv2D)
    },
    **{
        f"layers.{cls.__name__}": (cls, {"filters": 3, "kernel_size": 3}, DEPTHWISE | {"filters": COUNT})
        for cls in (layers.GmPSeparableConv1D, layers.GmPSeparableConv2D)
    },
    "layers.GmPEinsumDense": (
        layers.GmPEinsumDense, {"equation": "ab,bc->ac", "output_shape": 3},
        {"equation": [*OTHER, "ab"], "output_shape": ["3", 1.5, -1, None, OBJECT], "activation": CHOICE,
         "bias_axes": ["x", 3]},
    ),
    "layers.RandAugment": (
        layers.RandAugment, {},
        {"count": COUNT, "magnitude": [*NUMBER, -1.0, 10.5], "spread": [*NUMBER, -1.0],
         **{name: [*NUMBER, -0.1, 1.5] for name in ("probability", "flip", "erase")},
         "value_range": [*OTHER, (0,), (1, 1), (NAN, 1)], "fill_value": [*OTHER, None, (0, 1), 2.0, NAN],
         "data_format": CHOICE, "seed": [1.5, "2", True, [], OBJECT]},
    ),
    "layers.InputMeanNormalization": (
        layers.InputMeanNormalization, {}, {"axis": INDEX, "momentum": [*NUMBER, 1.5, -0.1], "synchronized": BOOLEAN},
    ),
    "layers.MeanOnlyBatchNormalization": (
        layers.MeanOnlyBatchNormalization, {},
        {"axis": INDEX, "momentum": [*NUMBER, 1.5, -0.1], "center": BOOLEAN, "synchronized": BOOLEAN,
         "beta_initializer": CHOICE, "beta_regularizer": CHOICE, "beta_constraint": CHOICE},
    ),
    "layers.WeightNormalization": (layers.WeightNormalization, {"layer": keras.layers.Dense(2)}, {"layer": LAYER}),
    "initializers.UniformSphereAngles": (
        initializers.UniformSphereAngles, {}, {"seed": [1.5, "2", True, [], OBJECT]}
    ),
    "ops.angles_to_direction": (ops.angles_to_direction, {"angles": np.zeros((2, 3))}, {"angles": [*ARRAY, 3.0]}),
    "ops.direction_to_angles": (ops.direction_to_angles, {"kernel": np.ones((2, 3))}, {"kernel": [*ARRAY, 3.0]}),
    "ops.crrelu": (ops.crrelu, {"x": np.ones(3)}, {"x": ARRAY, "epsilon": ARRAY}),
    "ops.linear_spline": (
        ops.linear_spline, {"x": np.ones(3), "knots": [0.0, 1.0], "values": [0.0, 1.0]},
        {"x": ARRAY, "knots": [*ARRAY, 3.0], "values": [*ARRAY, 3.0, [1.0]]},
    ),
    "ops.matrix_activation": (
        ops.matrix_activation, {"x": np.ones((2, 3)), "levels": np.ones((1, 3, 3)), "thresholds": [0.0, 1.0]},
        {"x": ARRAY, "levels": [*ARRAY, 3.0], "thresholds": ARRAY, "axis": INDEX,
         "surrogate_width": OPTIONAL_POSITIVE},
    ),
    "ops.unit_vectors": (
        ops.unit_vectors, {"x": np.ones((2, 3)), "axis": 0}, {"x": ARRAY, "axis": [1.5, "2", True, None, OBJECT, 5]}
    ),
    "conversion.fold": (conversion.fold, {"model": dense}, {"model": MODEL}),
    "conversion.report": (conversion.report, {"model": dense}, {"model": MODEL}),
    "conversion.swap_activations": (
        conversion.swap_activations, {"model": dense, "to": "crrelu"},
        {"model": MODEL, "to": [None, 3, "unheard of", [], OBJECT], "where": OTHER, "was": [3, "unheard of", OBJECT]},
    ),
    "conversion.to_gmp": (conversion.to_gmp, {"model": dense}, {"model": MODEL, "where": OTHER}),
    "conversion.to_weight_normalization": (
        conversion.to_weight_normalization, {"model": dense}, {"model": MODEL, "where": OTHER}
    ),
    "conversion.quantize": (
        conversion.quantize, {"model": dense, "mode": "int8"}, {"model": MODEL, "mode": [3, "unheard of", OBJECT, None]}
    ),
    "cab.DeadUnitTracker": (
        cab.DeadUnitTracker, {"data": np.zeros((3, 2))},
        {"data": [3, np.zeros((0, 2))], "layers": OTHER, "every": COUNT, "tolerance": POSITIVE},
    ),
    "cab.BoundaryTracker": (
        cab.BoundaryTracker, {"layers": lambda: dense().layers[0]},
        {"layers": [None, 3, [], OBJECT, [3]], "every": COUNT, "megabytes": POSITIVE, "path": [3, [], OBJECT]},
    ),
    "cab.Plane": (
        cab.Plane, {"origin": np.zeros(2), "first": np.array([1.0, 0]), "second": np.array([0, 1.0])},
        {"origin": ARRAY, "first": ARRAY, "second": ARRAY, "limits": [None, 3, "text", ((1, 0), (0, 1)), ((0, 1),)]},
    ),
    "cab.RegionTracker": (cab.RegionTracker, {"x": np.zeros((3, 2))}, {"x": ARRAY, "every": COUNT}),
    "cab.activation_patterns": (
        cab.activation_patterns, {"model": dense, "x": np.zeros((3, 2))}, {"model": MODEL, "x": ARRAY}
    ),
    "cab.count_regions": (cab.count_regions, {"model": dense, "x": np.zeros((3, 2))}, {"model": MODEL, "x": ARRAY}),
    "cab.preactivations": (cab.preactivations, {"model": dense, "x": np.zeros((3, 2))}, {"model": MODEL, "x": ARRAY}),
    "cab.angular_change": (
        cab.angular_change, {"before": np.ones((2, 3)), "after": np.ones((2, 3))}, {"before": ARRAY, "after": ARRAY}
    ),
    "cab.boundaries": (cab.boundaries, {"units": lambda: dense().layers[0]}, {"units": LAYER}),
    "cab.metric_tensor": (cab.metric_tensor, {"angles": np.zeros(3)}, {"angles": ARRAY}),
    "cab.perturb": (
        cab.perturb, {"units": lambda: dense().layers[0], "steps": {"kernel": np.zeros((2, 3))}},
        {"units": LAYER, "steps": MAPPING},
    ),
    "cab.load_tracks": (cab.load_tracks, {"path": "missing.npz"}, {"path": PATH}),
    "cab.save_tracks": (cab.save_tracks, {"tracks": {}, "path": "x.npz"}, {"tracks": MAPPING, "path": PATH}),
    "cab.slice_regions": (
        cab.slice_regions,
        {"model": dense, "plane": cab.Plane(np.zeros(2), np.array([1.0, 0]), np.array([0, 1.0]))},
        {"model": MODEL, "plane": [None, *OTHER]},
    ),
    "cab.plots.trajectories": (plots.trajectories, {"track": track}, {"track": [None, *OTHER], "ax": OTHER}),
    "cab.plots.largest_changes": (
        plots.largest_changes, {"tracks": lambda: {"a": track()}}, {"tracks": MAPPING, "quantity": CHOICE, "ax": OTHER}
    ),
    "cab.plots.boundaries_2d": (
        plots.boundaries_2d, {"boundaries": lambda: cab.boundaries(dense().layers[0])},
        {"boundaries": [None, *OTHER], "decision": OTHER, "limits": ["text", 3, OBJECT], "ax": OTHER},
    ),
    "cab.plots.planes_3d": (
        plots.planes_3d, {"boundaries": spatial},
        {"boundaries": [None, *OTHER], "limits": ["text", OBJECT]},
    ),
    "cab.plots.slice_2d": (
        plots.slice_2d,
        {"sliced": lambda: cab.slice_regions(dense(), cab.Plane(np.zeros(2), np.array([1.0, 0]), np.array([0, 1.0])))},
        {"sliced": [None, *OTHER], "ax": OTHER},
    ),
    "cab.plots.activation": (
        plots.activation, {"layer": lambda: keras.layers.ReLU(), "inputs": np.linspace(-1, 1, 5)[:, None]},
        {"layer": [None, 3, "text", OBJECT], "inputs": ARRAY, "channels": [3, OBJECT, [NAN], ["text"]], "ax": OTHER},
    ),
    "eafo.Gaussian": (eafo.Gaussian, {}, {"mean": NUMBER, "std": POSITIVE}),
    "eafo.Laplace": (eafo.Laplace, {}, {"mean": NUMBER, "scale": POSITIVE}),
    "eafo.Uniform": (eafo.Uniform, {}, {"lower": NUMBER, "upper": [*NUMBER, -1.0, 0.0]}),
    "eafo.Empirical": (
        eafo.Empirical, {"samples": np.arange(32.0)},
        {"samples": [*ARRAY, [], [NAN, 1.0]], "bandwidth": OPTIONAL_POSITIVE},
    ),
    "eafo.Density": (eafo.Density, {"distribution": stats.norm()}, {"distribution": DENSITY}),
    "eafo.EntropyRefinement": (
        eafo.EntropyRefinement, {}, {"layers": [3, OBJECT, [3]], "every": COUNT, "fraction": POSITIVE}
    ),
    "eafo.correction": (
        eafo.correction, {"activation": "relu", "density": eafo.Gaussian()},
        {"activation": ACTIVATION, "density": DENSITY, "lower": BOUND, "upper": BOUND},
    ),
    "eafo.entropy": (
        eafo.entropy, {"activation": "gelu", "density": eafo.Gaussian()}, {"activation": ACTIVATION, "density": DENSITY}
    ),
    "eafo.push_forward": (
        eafo.push_forward,
        {"activation": "gelu", "density": eafo.Gaussian()},
        {"activation": ACTIVATION, "density": DENSITY},
    ),
    "eafo.standardized_entropy": (
        eafo.standardized_entropy, {"activation": "gelu", "density": eafo.Gaussian()},
        {"activation": ACTIVATION, "density": DENSITY},
    ),
    "eafo.improve": (
        eafo.improve, {"activation": "gelu", "density": eafo.Gaussian()},
        {"activation": ACTIVATION, "density": DENSITY, "step": NUMBER, "lower": BOUND,
         "upper": BOUND, "smoothing": [*NUMBER, -1.0]},
    ),
    "eafo.layer_entropies": (
        eafo.layer_entropies, {"model": dense, "data": np.zeros((3, 2))}, {"model": MODEL, "data": [3, OBJECT]}
    ),
    "eafo.rank": (
        eafo.rank, {"activations": ["relu"], "density": eafo.Gaussian()},
        {"activations": [3, OBJECT], "density": DENSITY},
    ),
    "eafo.worst_activation": (
        eafo.worst_activation, {"density": eafo.Gaussian()},
        {"density": DENSITY, "lower": NUMBER, "upper": [*NUMBER, -1.0]},
    ),
    "models.HardDistillation": (
        models.HardDistillation, {"model": dense, "teacher": dense}, {"model": MODEL, "teacher": MODEL}
    ),
    "models.deit_tiny": (models.deit_tiny, {}, PATCHES),
    "models.tnt_small": (models.tnt_small, {}, PATCHES),
    "models.vit_tiny": (models.vit_tiny, {}, PATCHES),
    "models.resnet18": (
        models.resnet18, {}, {**NETWORK, "parameterization": CHOICE, "normalization": CHOICE, "stem": CHOICE}
    ),
    "models.vgg6": (models.vgg6, {}, {**NETWORK, "parameterization": CHOICE, "normalization": CHOICE}),
    "models.gpt2": (
        models.gpt2, {"vocabulary": {"a": 0}, "merges": ["a b"]},
        {"preset": [3, OBJECT], "activation": [3, "unheard of", []], "vocabulary": [3, OBJECT], "merges": [3, OBJECT]},
    ),
    "distribution.local_batch_size": (
        keras_actlab.distribution.local_batch_size, {"batch_size": 8}, {"batch_size": COUNT}
    ),
    "experiments.Comparison": (
        experiments.Comparison,
        {"name": "plane", "methods": {"a": dense}, "data": lambda: experiments.Split(**split()),
         "metrics": {"mse": lambda targets, predictions: 0}, "epochs": 1},
        {"name": STRING, "methods": [*MAPPING, {}, {"a": 3}, {1: half}], "data": [None, *OTHER],
         "metrics": [*MAPPING, {}, {"a": 3}], "epochs": COUNT, "grid": [None, 3, "text", {"a": []}, {"a": 3}],
         "splits": COUNT, "seeds": COUNT, "independent_splits": BOOLEAN, "batch_size": OPTIONAL_COUNT,
         "monitor": [3, "unheard of", []], "mode": [*CHOICE, None], "validate_every": OPTIONAL_COUNT,
         "vectorize": COUNT, "callbacks": OTHER, "steps_per_epoch": OPTIONAL_COUNT, "fit": OTHER},
    ),
    "experiments.Ensemble": (
        experiments.Ensemble, {"members": lambda: [dense()]}, {"members": [None, 3, "text", [], [3], OBJECT]}
    ),
    "experiments.Results": (
        experiments.Results, {"records": []}, {"records": [None, 3, "text", [3], [{}], OBJECT]}
    ),
    "experiments.Split": (
        experiments.Split, split(),
        {part: [3, "text", [], (np.zeros((4, 2)), np.zeros(3)), (np.zeros((4, 2)), None)] for part in split()}
        | {"to_units": FUNCTION},
    ),
    "experiments.holdout": (
        experiments.holdout, {"x": np.zeros((20, 2)), "y": np.zeros(20), "seed": 0},
        {"x": [*ARRAY, 3.0, np.zeros(20)], "y": [*ARRAY, 3.0, np.zeros((20, 2))], "seed": [*INDEX, -1],
         "validation": FRACTION, "test": FRACTION, "standardize_targets": BOOLEAN},
    ),
    "experiments.Paired": (
        experiments.Paired, {"differences": lambda: [0.1, 0.2]},
        {"differences": [None, *OTHER, [], [NAN], [[1.0]]], "overlap": [*NUMBER, -1.0]},
    ),
    "experiments.load": (experiments.load, {"path": "missing.jsonl"}, {"path": PATH}),
    "experiments.run": (
        experiments.run,
        {"comparisons": lambda: [], "path": "rows.jsonl"},
        {"comparisons": [None, 3, "text", [3], OBJECT], "path": PATH, "jobs": COUNT, "history": BOOLEAN,
         "progress": BOOLEAN, "time_limit": OPTIONAL_POSITIVE},
    ),
    "experiments.dots": (experiments.dots, {"results": results}, {"results": [None, *OTHER], "metric": CHOICE}),
    "experiments.curves": (
        experiments.curves, {"results": results}, {"results": [None, *OTHER], "metric": CHOICE, "task": CHOICE}
    ),
    "experiments.Resumable": (
        experiments.Resumable, {"folder": "runs", "steps_per_epoch": 1},
        {"folder": PATH, "steps_per_epoch": COUNT, "save_every": COUNT, "workers": [-1, 1.5, "2", True]},
    ),
    "experiments.fit_resumable": (
        experiments.fit_resumable,
        {"model": dense, "batches": lambda: grain.MapDataset.range(8), "folder": "run",
         "steps_per_epoch": 1, "epochs": 1},
        {"model": MODEL, "batches": [None, *OTHER], "folder": PATH, "steps_per_epoch": COUNT, "epochs": COUNT,
         "seed": INDEX, "settings": OTHER, "validation": OTHER, "save_every": COUNT, "workers": [-1, 1.5, "2", True],
         "processes": [-1, 1.5, "2", True], "verbose": ["2", 1.5, OBJECT]},
    ),
    "distribution.layout_map": (
        keras_actlab.distribution.layout_map, {"model": dense, "plain": layouts},
        {"model": MODEL, "plain": [None, *OTHER]},
    ),
    "ops.enable_fused_direction": (ops.enable_fused_direction, {"enabled": False}, {"enabled": BOOLEAN}),
}  # fmt: skip
# Names that hold results of the package's functions, or have no arguments.
WITHOUT = {
    *("conversion.Replacement", "conversion.Report", "conversion.SkipLayer"),
    *("cab.Boundaries", "cab.Slice", "cab.Track", "cab.plots.features"),
    *("eafo.Correction", "eafo.PushForward", "eafo.Improvement"),
    *("constraints.CanonicalAngles", "constraints.Increasing", "constraints.NonDecreasing"),
    "experiments.Fit",
    *("distribution.data_parallel", "distribution.data_shard"),
    *("distribution.is_first_process", "distribution.of_first_process"),
}


def public_names() -> set[str]:
    modules = (keras_actlab.initializers, keras_actlab.constraints, keras_actlab.distribution, layers, ops, conversion)
    names = set()
    for module in (*modules, cab, plots, eafo, models, experiments):
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        for name in getattr(module, "__all__", [name for name in own if not name.startswith("_")]):
            if inspect.isroutine(getattr(module, name)) or inspect.isclass(getattr(module, name)):
                names.add(f"{module.__name__.removeprefix('keras_actlab.')}.{name}")
    return names


def test_the_table_holds_every_public_name():
    assert set(TABLE) | WITHOUT == public_names()


def shown(value: Any) -> list[str]:
    """Returns the allowed forms of a value in an error: itself, its name, its shape, or the invalid entry."""
    if isinstance(value, dict):
        return [repr(value), *map(repr, value.values())]
    if isinstance(value, list | tuple):
        lengths = [str(len(item)) for item in value if hasattr(item, "__len__")]
        return [repr(value), str(tuple(value)), *map(repr, value), ", ".join(lengths)]
    return [repr(value), str(value), getattr(value, "__name__", repr(value)), f"shape={np.shape(value)}"]


def fault(name: str, argument: str, value: Any) -> str | None:
    """Returns the fault of the error for an invalid argument; None if there is none."""
    function, valid, _ = TABLE[name]
    made = {key: given() if inspect.isfunction(given) or hasattr(given, "cache_clear") else given
            for key, given in valid.items()}  # fmt: skip
    try:
        function(**made | {argument: value})
    except (TypeError, ValueError) as error:
        text = str(error)
    except Exception as error:
        return f"raises {type(error).__name__}: {str(error)[:100]}"
    else:
        return "is accepted"
    if argument not in text or "Received" not in text or not any(each in text for each in shown(value)):
        return f"raises: {text[:160]}"
    return None


@pytest.mark.parametrize("name", TABLE)
def test_bad_arguments_are_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for valid paths
    found = [
        f"{argument}={value!r} {problem}"
        for argument, values in TABLE[name][2].items()
        for value in values
        if (problem := fault(name, argument, value))
    ]
    assert not found, "\n".join(found)
    assert list(Path().iterdir()) == []
