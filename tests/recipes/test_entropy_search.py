import dataclasses

import keras
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from keras_actlab import eafo
from keras_actlab.layers import CRReLU, EntropyActivation
from recipes import entropy_search as recipe
from recipes.common import files
from tests.recipes.choices import assert_test_labels_decide_nothing
from tests.recipes.made_up import save

pytestmark = pytest.mark.one_backend

TASKS = ("digits, dense", "MNIST, dense")


def start(folder):
    arguments = ["--smoke", "--data-dir", str(folder), "--out", str(folder / "results")]
    result = CliRunner().invoke(recipe.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("entropy")
    save(folder)
    return folder / "results", start(folder)


def read(folder, name):
    return pd.read_csv(folder / f"entropy_search{name}.csv")


def made_up(methods, splits=5, task="digits, dense"):
    """Entropies of two layers and accuracies, where a higher standardized entropy goes with a lower accuracy."""
    rng = np.random.default_rng(0)
    rows = []
    for split in range(splits):
        level = rng.normal()  # of all methods
        for rank, method in enumerate(methods):
            entropy = rank + 0.1 * rng.normal()
            fit = {"task": task, "method": method, "split": split, recipe.ACCURACY: 90 - entropy + level}
            for layer in (1, 2):
                entropies = {recipe.PLAIN: rng.normal(), recipe.STANDARDIZED: entropy + level + (layer - 1.5)}
                rows.append(fit | {"layer": layer, "epsilon": 0.1 * layer + rank} | entropies)
    return pd.DataFrame(rows)


def test_smoke(finished):
    folder, output = finished
    rows = read(folder, "")
    assert len(rows) == len(TASKS) * len(recipe.SMOKE_METHODS) * 2 * (1 + 1)  # splits, the rate and the final fit
    assert rows[recipe.ACCURACY].between(0, 100).all()
    assert rows["failure"].isna().all()
    assert (rows.loc[rows["method"] == "spline, refined", "vectorized"] == 1).all()
    for words in ("standardized after", "correlation", "MNIST, dense"):
        assert words in output


def test_every_final_fit_has_its_entropies(finished):
    folder, _ = finished
    entropies, rows = read(folder, "-entropies"), read(folder, "")
    assert entropies.columns.tolist() == [
        *("task", "method", "split", "learning_rate", "epochs", "accuracy, %", "layer"),
        *("entropy before", "entropy after", "standardized before", "standardized after", "point masses", "epsilon"),
    ]
    places = ["task", "method", "split"]
    assert entropies.groupby(places)["layer"].apply(list).tolist() == [[1, 2]] * 8
    accuracy = entropies.groupby(places)[recipe.ACCURACY].first()
    expected = rows[rows["stage"] == "final"].set_index(places)[recipe.ACCURACY].sort_index()
    np.testing.assert_allclose(accuracy, expected, rtol=1e-5)
    assert np.isfinite(entropies.drop(columns=["task", "method", "epsilon"])).all(axis=None)
    assert entropies["epsilon"].isna().all()
    assert len(read(folder, "-correlation")) == len(TASKS) * 2 * 2


def test_the_figure_comes_from_its_file(finished):
    folder, _ = finished
    files.write_figure(recipe.figure(read(folder, "-entropies")), folder / "again.png")
    assert (folder / "again.png").read_bytes() == (folder / "entropy_search.png").read_bytes()


def test_a_killed_run_goes_on_to_the_same_entropies(finished):
    folder, _ = finished
    file, fit = folder / "entropy_search.jsonl", folder / "entropy_search-fits" / "MNIST, dense"
    before, table = read(folder, "-entropies"), (fit / "spline, refined-1.csv").read_bytes()
    lines = file.read_text().splitlines(keepends=True)
    assert '"final"' in lines[-1]
    file.write_text("".join(lines[:-1]))  # the last fits were killed
    (fit / "spline, refined-1.csv").write_text("of the killed")
    start(folder.parent)
    pd.testing.assert_frame_equal(read(folder, "-entropies"), before)
    assert (fit / "spline, refined-1.csv").read_bytes() == table
    assert not list(folder.rglob("*.part"))


def test_help_explains_every_option():
    text = CliRunner().invoke(recipe.app, ["--help"], env={"COLUMNS": "200"}).output
    for words in ("--data-dir", "Folder with the data", "--out", "Folder for", "--jobs", "--smoke", "very small"):
        assert words in text


def test_digits_are_divided():
    split, again, other = (recipe.draw_digits(index) for index in (0, 0, 1))
    assert split.sizes == {"train": 1149, "validation": 288, "test": 360}
    images = np.concatenate([split.development[0], split.test[0]])
    assert images.shape == (1797, 8, 8, 1)
    assert (images.min(), images.max()) == (0, 1)
    np.testing.assert_array_equal(split.train[0], again.train[0])
    assert not np.array_equal(split.test[1], other.test[1])
    pixels = recipe.load_digits()
    place = np.flatnonzero((pixels.images == split.test[0][0, ..., 0] * 16).all(axis=(1, 2)))
    assert split.test[1][0] in pixels.target[place]


def test_networks_differ_by_the_activations_parameters(tmp_path):
    save(tmp_path)
    comparisons = {each.name: each for each in recipe.comparisons(tmp_path, tmp_path)}
    assert list(comparisons) == [
        *("digits, dense", "digits, convolutional", "MNIST, dense", "MNIST, convolutional"),
        *("epsilon, digits", "epsilon, MNIST"),
    ]
    for task, channels in (("digits, dense", [64, 64]), ("MNIST, convolutional", [8, 16, 64])):
        methods = comparisons[task].methods
        made = {method: build(0.01) for method, build in methods.items()}
        models = {method: pair[0] if isinstance(pair, tuple) else pair for method, pair in made.items()}
        counts = {
            method: sum(np.prod(variable.shape) for variable in model.trainable_variables)
            for method, model in models.items()
        }
        added = {"PReLU": sum(channels), "spline, refined": 32 * len(channels), "spline, gradient": 32 * len(channels)}
        added |= {method: len(channels) for method in methods if method.startswith("CRReLU")}
        for method in methods:
            assert counts[method] - counts["ReLU"] == added.get(method, 0), method
        assert [method for method, pair in made.items() if isinstance(pair, tuple)] == ["spline, refined"]
        assert isinstance(made["spline, refined"][1][0], eafo.EntropyRefinement)
    assert comparisons["digits, dense"].methods["ReLU"](0.01).count_params() == 65 * 64 + 65 * 64 + 65 * 10


def test_epsilon_starts_where_it_says():
    for name, activation in recipe.EPSILONS.items():
        layer = activation(None)
        layer.build((None, 3))
        assert isinstance(layer, CRReLU) == (name != "ReLU")
        if name != "ReLU":
            assert keras.ops.convert_to_numpy(layer.epsilon) == pytest.approx(float(name))
    assert len(recipe.EPSILONS) == 11


def test_splines_start_as_relu_save_for_the_one_step():
    x = np.linspace(-3, 3, 25).astype("float32")
    for method in ("spline, one EAFO step", "spline, refined", "spline, gradient"):
        made = recipe.network("dense", recipe.IMAGES["digits"], method, recipe.METHODS[method], every=100)(0.01)
        model = made[0] if isinstance(made, tuple) else made
        for layer in model.layers:
            if isinstance(layer, EntropyActivation):
                found = keras.ops.convert_to_numpy(layer(x))
                expected = recipe.one_step()(x.astype("float64")) if "one" in method else np.maximum(x, 0)
                np.testing.assert_allclose(found, expected, atol=1e-6)
                assert layer.trainable == ("one" not in method)


def test_the_step_lowers_the_entropy():
    assert recipe.one_step().entropy_after < recipe.one_step().entropy_before


def test_correlations_are_over_methods_and_within_splits():
    found = recipe.correlations(made_up(["ReLU", "GELU", "SiLU", "PReLU"])).set_index(["entropy", "over"])
    assert found["n"].tolist() == [4, 4, 20, 20]
    assert found.loc[(recipe.STANDARDIZED, "methods"), "correlation"] == pytest.approx(-1)
    # The level of a split, which moves both the same way, is gone.
    assert found.loc[(recipe.STANDARDIZED, "fits, less their split's mean"), "correlation"] < -0.99
    own = made_up(["ReLU", "GELU", "SiLU", "PReLU"]).groupby("method")[[recipe.PLAIN, recipe.ACCURACY]].mean()
    expected = stats.spearmanr(own[recipe.PLAIN], own[recipe.ACCURACY])
    assert found.loc[(recipe.PLAIN, "methods"), ["correlation", "p"]].tolist() == pytest.approx(list(expected))


def test_two_points_have_no_correlation():
    found = recipe.correlations(made_up(["ReLU", "GELU"], splits=1))
    assert found["correlation"].isna().all()


def test_the_figure_shows_both_curves_of_epsilon():
    tables = [made_up(list(recipe.METHODS)), made_up(list(recipe.EPSILONS), task="epsilon, digits")]
    figure = recipe.figure(pd.concat(tables, ignore_index=True))
    methods, accuracy, trained = (figure.axes[k] for k in (0, 2, 3))
    assert len(methods.containers) == len(recipe.METHODS)
    (curve,) = accuracy.containers
    own = tables[1][tables[1]["method"] != "ReLU"].groupby("method", sort=False)
    np.testing.assert_allclose(curve.lines[0].get_xdata().astype(float), recipe.STARTS)
    np.testing.assert_allclose(curve.lines[0].get_ydata().astype(float), own[recipe.ACCURACY].mean())
    for layer, drawn in enumerate(trained.containers, 1):
        np.testing.assert_allclose(drawn.lines[0].get_ydata().astype(float), 0.1 * layer + np.arange(1, 11))


def test_test_labels_decide_nothing(tmp_path):
    save(tmp_path)
    digits, _ = recipe.comparisons(tmp_path, tmp_path, smoke=True)
    method, images = "spline, refined", dataclasses.replace(recipe.IMAGES["digits"], width=8)
    build = recipe.network("dense", images, method, recipe.METHODS[method], every=10)
    comparison = dataclasses.replace(
        digits, methods={method: build}, grid={"learning_rate": images.rates[:2]}, splits=1, epochs=2, callbacks=None
    )
    assert_test_labels_decide_nothing(comparison, tmp_path)
