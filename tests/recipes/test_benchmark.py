import sys
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from recipes import benchmark as recipe

pytestmark = pytest.mark.one_backend


@pytest.fixture(scope="module", autouse=True)
def _restored():
    """Undoes what a run changes for its process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe.remat, "COMPILE_AFTER", recipe.remat.COMPILE_AFTER)
        yield


# Elsewhere compiling keras-hub's models would take a minute.
MODELS = ["models"] * (keras.backend.backend() == "torch")
SECTIONS = [name for name in recipe.SECTIONS if name != "models"]
MODE = "eager" if keras.backend.backend() == "torch" else "jit"


def run(out, *sections, options=()):
    chosen = [word for name in sections for word in ("--section", name)]
    finished = CliRunner().invoke(recipe.app, ["--smoke", "--out", str(out), *options, *chosen], catch_exceptions=False)
    assert finished.exit_code == 0
    return finished.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("keras_hub")  # for ResNet-18 and ViT
    out = tmp_path_factory.mktemp("benchmark")
    with pytest.MonkeyPatch.context() as patch:
        for package in {"keras_hub", "keras_cv", "tensorflow"} - {keras.backend.backend()}:
            patch.setitem(sys.modules, package, None)  # its import raises an error
        patch.setattr(recipe, "platform_of_backend", lambda: "gpu")
        run(out, *SECTIONS, options=["--device", "gpu"])
    if MODELS:
        run(out, *MODELS)
    return out


def test_every_round_calls_each_function_once():
    called = []
    functions = {name: lambda name=name: called.append(name) for name in "abc"}
    seconds, marks = recipe.side_by_side(functions, repetitions=4)
    assert list(marks) == list("abc")
    assert "".join(called) == "abc" * 2 + "abc" + "bca" + "cab" + "abc"
    assert list(seconds) == list("abc")
    assert len(seconds) == 1 + 4
    assert (seconds > 0).all(axis=None)


def test_ratios_are_those_of_rounds(monkeypatch):
    seconds = pd.DataFrame({"a": [9.0, 1, 2, 4], "b": [9.0, 2, 8, 4]})
    monkeypatch.setattr(recipe, "side_by_side", lambda functions, repetitions: (seconds, {"b": 7}))
    (row,) = recipe.Bench(MODE, 3, smoke=True).compare({}, [("b", "a")], "3", "forward")
    assert (row["ratio_low"], row["ratio"], row["ratio_high"]) == (1.5, 2, 3)
    assert (row["low"], row["seconds"], row["high"]) == (3, 4, 6)
    assert row["first_call"] == 9
    assert row["peak_bytes"] == 7


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_a_gpu_is_asked_for_where_there_is_none(platform):
    backend = keras.backend.backend()
    with pytest.raises(typer.BadParameter, match=f"needs a GPU.* Received: {backend} computes on {platform}"):
        recipe.check_gpu(platform)


@pytest.mark.parametrize("platform", ["cuda", "gpu"])
def test_a_gpu_is_found(platform):
    recipe.check_gpu(platform)


@pytest.mark.skipif(recipe.platform_of_backend() != "cpu", reason="there is a GPU")
def test_no_work_is_done_without_the_gpu(tmp_path):
    finished = CliRunner().invoke(recipe.app, ["--device", "gpu", "--out", str(tmp_path / "rows.csv")])
    assert finished.exit_code == 2
    assert "computes on cpu" in finished.output
    assert not (tmp_path / "rows.csv").exists()


def test_a_run_on_a_gpu_ends_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "platform_of_backend", lambda: "gpu")
    seconds = iter([0, 100, 200, 300, 350, 361])
    monkeypatch.setattr(recipe, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    measured = []
    for name in recipe.DEFAULT:
        row = dict.fromkeys(recipe.COLUMNS) | {"what": "forward", "size": "2 x 3", "dtype": "float32", "seconds": 1.0}
        section = lambda bench, name=name, row=row: measured.append((name, bench.gpu)) or [row]  # noqa: E731
        monkeypatch.setitem(recipe.SECTIONS, name, section)
    path = tmp_path / "rows.csv"
    finished = CliRunner().invoke(recipe.app, ["--device", "gpu", "--out", str(path)], catch_exceptions=False)
    assert measured == [(name, True) for name in recipe.DEFAULT[:4]]
    assert "Left out after 360 seconds: folding, bandwidth" in finished.stdout
    assert pd.read_csv(path)["section"].tolist() == recipe.DEFAULT[:4]


def test_the_fused_items_alone_run_with_the_kernel(monkeypatch):
    state, states = [False], {}
    monkeypatch.setattr(recipe, "enable_fused_direction", lambda enabled=True: state.append(enabled))
    monkeypatch.setattr(recipe.Bench, "kernel", True)

    def compare(bench, functions, pairs, size, what):
        for name, function in functions.items():
            function()
            states[name] = state.copy()
            state[:] = state[-1:]
        return []

    monkeypatch.setattr(recipe.Bench, "compare", compare)
    bench = recipe.Bench(MODE, 2, smoke=True, gpu=True)
    assert not [*recipe.direction_map(bench), *recipe.layers(bench)]
    assert {name for name, found in states.items() if found == [False, True, False]} == {"fused kernel", "GmP fused"}
    assert {name for name, found in states.items() if found == [False]} >= {"angles_to_direction", "GmP", "plain"}


@pytest.mark.parametrize(
    ("what", "dtype", "expected"), [("forward", "float32", 2 * 4), ("forward+backward", "bfloat16", 5 * 2)]
)
def test_achieved_bandwidth(what, dtype, expected):
    row = {"what": what, "dtype": dtype, "size": "10 x 100", "seconds": 1e-6}
    assert recipe.with_bandwidth("activations", row)["gigabytes_per_second"] == pytest.approx(expected)
    assert recipe.with_bandwidth("layers", row) == row  # training steps do more than move numbers


@pytest.mark.parametrize(("function", "expected"), [(lambda x, _: x * x, 1), (lambda x, _: keras.ops.exp(x * x), 2)])
def test_bytes_kept(function, expected):
    # The factor, and what the exponential became, which is the output: TensorFlow does not count that.
    kept = recipe.bytes_kept(function, recipe.normal(64, 64), [], MODE)
    expected -= (expected == 2) * (keras.backend.backend() == "tensorflow")
    assert kept == expected


def test_gradients_are_those_of_input_and_parameters():
    x, slope = recipe.normal(3, 4), keras.ops.full((4,), 2.0)
    both = recipe.gradient(lambda x, parameters: x * parameters[0], MODE)
    found = both(x, [slope], keras.ops.ones_like(x))
    leaves = [keras.ops.convert_to_numpy(leaf) for leaf in keras.tree.flatten(found)]
    x = keras.ops.convert_to_numpy(x)
    for leaf, expected in zip(leaves, (2 * x, np.full((3, 4), 2.0), x.sum(axis=0)), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-5)


@pytest.mark.parametrize("intervals", [2, 4, 64])
def test_thresholds(intervals):
    found = recipe.thresholds(intervals)
    assert len(found) == intervals - 1
    assert 0 in found
    np.testing.assert_allclose(np.diff(found), 8 / intervals)


@pytest.mark.parametrize("function", [recipe.cumulative_product, recipe.angles_to_direction])
def test_maps_of_directions_agree(function):
    x = np.random.default_rng(0).uniform(1.2, 1.9, (5, 3)).astype("float32")
    found = keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(x)))
    expected = keras.ops.convert_to_numpy(recipe.cumulative_product(keras.ops.convert_to_tensor(x)))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), 1, rtol=1e-5)


def test_the_model_of_the_paper():
    model = recipe.vgg6("plain", smoke=False)
    filters = [layer.filters for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert filters == [128, 128, 256, 256, 512, 512]
    assert model.output_shape == (None, 1000)


def test_a_run_holds_every_section(folder):
    table = pd.read_csv(folder / "benchmark.csv")
    assert list(table) == recipe.COLUMNS
    np.testing.assert_array_equal(table["run"], 1 + (table["section"] == "models"))
    assert list(table["section"].unique()) == SECTIONS + MODELS
    timed = table[table["what"] != "bytes kept"]
    assert timed[["seconds", "low", "high", "ratio", "first_call"]].gt(0).all(axis=None)
    np.testing.assert_array_equal(timed.loc[timed["item"] == timed["baseline"], "ratio"], 1)
    sections = dict(list(table.groupby("section")))
    pairs, items = len(recipe.ACTIVATION_PAIRS), len(recipe.ACTIVATIONS)
    weighed = items if keras.backend.backend() == "tensorflow" else 2 * items  # there, of float32 only
    assert len(sections["activations"]) == 2 * 2 * pairs + weighed  # dtypes, passes, bytes
    assert set(sections["activations"]["dtype"]) == {"float32", "bfloat16"}
    assert sections["activations"]["bytes_per_input_byte"].notna().sum() == weighed
    assert len(sections["layers"]) == 2 * 4  # layers, parameterizations
    assert len(sections["VGG-6"]) == 4
    if MODELS:
        assert len(sections["models"]) == 2 * 3
    assert set(sections["folding"]["item"]) == {"plain", "folded", "geometric"}


def test_another_run_is_appended(folder, tmp_path):
    (tmp_path / "benchmark.csv").write_bytes((folder / "benchmark.csv").read_bytes())
    printed = run(tmp_path, "bandwidth")
    assert "gigabytes_per_second" in printed
    first = (folder / "benchmark.csv").read_text()
    both = (tmp_path / "benchmark.csv").read_text()
    assert both.startswith(first)
    added = pd.read_csv(tmp_path / "benchmark.csv").iloc[-1]
    assert (added["run"], added["item"]) == (2 + len(MODELS), "x + 1")


def test_scaling_is_drawn_on_logarithmic_axes(folder):
    assert (folder / "benchmark.png").stat().st_size > 0
    table = pd.read_csv(folder / "benchmark.csv")
    figure = recipe.plot_scaling(table[table["section"] == "scaling"])
    assert [(ax.get_xscale(), ax.get_yscale()) for ax in figure.axes] == [("log", "log")] * 4
