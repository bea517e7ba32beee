import keras
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from keras_actlab.eafo.refinement import refine
from keras_actlab.experiments import Ensemble
from recipes import plasticity as recipe
from tests.recipes.made_up import save

pytestmark = pytest.mark.one_backend


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    images = {f"x_{part}": rng.normal(size=(1500, 196)).astype("float32") for part in ("train", "test")}
    return images | {f"y_{part}": rng.integers(0, 10, 1500, dtype="int32") for part in ("train", "test")}


def test_images_are_means_of_pixels(tmp_path):
    arrays = save(tmp_path)
    x = recipe.load(tmp_path)["x_train"]
    assert x.shape == (300, 196)
    assert x.mean() == pytest.approx(0, abs=1e-5)
    first = arrays["x_train"][7].astype(float)
    corner, other = first[:2, :2].mean(), first[:2, 2:4].mean()
    deviation = arrays["x_train"].reshape(-1, 14, 2, 14, 2).mean((2, 4)).std()
    assert x[7, 1] - x[7, 0] == pytest.approx((other - corner) / deviation, abs=1e-5)


def test_permuted_tasks_share_the_order_of_pixels_with_their_test(data):
    x, y, test_x, test_y, rows = recipe.draw(data, "permuted pixels", 0, 3)
    order = np.array([np.flatnonzero(data["x_test"][0] == value).item() for value in test_x[0]])
    assert sorted(order) == list(range(196))
    place = np.flatnonzero((data["x_train"][:, order] == x[5]).all(axis=1)).item()
    assert y[5] == data["y_train"][place]
    np.testing.assert_array_equal(test_y, data["y_test"][:1000])
    assert rows.shape == (recipe.STEPS, recipe.BATCH)
    assert np.bincount(rows.ravel()).tolist() == [recipe.STEPS * recipe.BATCH // 1000] * 1000


def test_random_labels_change_and_images_stay(data):
    (x, y, *test, _), (again, other, *_) = (recipe.draw(data, "random labels", 0, task) for task in (0, 1))
    np.testing.assert_array_equal(x, again)
    assert 0.7 < np.mean(y != other) < 1
    assert test[0] is x
    assert not np.array_equal(x, recipe.draw(data, "random labels", 1, 0)[0])


def test_shrink_and_perturb():
    ensemble = Ensemble([recipe.network("shrink and perturb", 0.2, seed) for seed in (0, 1)])
    before = [keras.ops.convert_to_numpy(each).copy() for each in ensemble.trainable_variables]
    recipe.shrink_and_perturb(ensemble, 0.25, [0, 1], task=1)
    kernel = keras.ops.convert_to_numpy(ensemble.trainable_variables[0])
    drawn = (kernel - 0.75 * before[0]) / 0.25
    limit = np.sqrt(6 / (196 + recipe.UNITS))
    assert np.abs(drawn).max() == pytest.approx(limit, rel=1e-3)
    assert drawn.var() == pytest.approx(limit**2 / 3, rel=0.05)
    assert not np.allclose(drawn[0], drawn[1])


def test_refinement_of_a_member_is_that_of_the_model_alone():
    models = [recipe.network("refinement", 0.0, seed) for seed in (0, 1)]
    x = np.random.default_rng(0).normal(size=(2, 400, 196)).astype("float32")
    y = np.zeros((2, 400, 1), "int32")
    ensemble = Ensemble(models)
    rows, factors = np.zeros((20, 2, 0), "int32"), np.full((20, 2), 0.001)
    ensemble.train_block(keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(y), rows, factors)
    before = [keras.ops.convert_to_numpy(each).copy() for each in ensemble.trainable_variables]
    recipe.refine(ensemble, models[0])
    alone = recipe.network("refinement", 0.0, 1)
    curves = [layer for layer in alone.layers if hasattr(layer, "knots")]
    places = [k for k, each in enumerate(alone.trainable_variables) if each.name == "values"]
    refined = [keras.ops.convert_to_numpy(ensemble.trainable_variables[k]) for k in places]
    for k, values in zip(places, refined, strict=True):
        assert not np.allclose(values, before[k])
        assert not np.allclose(values[0], values[1])
    for own, stack in zip(alone.non_trainable_variables, ensemble.non_trainable_variables, strict=True):
        own.assign(keras.ops.convert_to_numpy(stack)[1])
    for layer, k, values in zip(curves, places, refined, strict=True):
        layer.values.assign(before[k][1])
        refine(layer, 0.02)
        np.testing.assert_allclose(keras.ops.convert_to_numpy(layer.values), values[1], rtol=1e-5)


def test_l2_penalizes_every_kernel():
    model = recipe.network("L2", 0.01, 0)
    kernels = [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]
    expected = 0.01 * sum(np.square(keras.ops.convert_to_numpy(kernel)).sum() for kernel in kernels)
    assert keras.ops.convert_to_numpy(sum(model.losses)) == pytest.approx(expected, rel=1e-5)
    assert len(kernels) == 3


def rows_of(accuracies):
    """Rows with ten tasks; accuracies of the last two for each method, stage and seed."""
    rows = []
    for (method, stage, rate), lasts in accuracies.items():
        for seed, last in enumerate(lasts):
            tasks = {f"task {task}": 50.0 if task < 9 else last for task in range(1, 11)}
            place = {"stream": "random labels", "method": method, "stage": stage, "seed": seed}
            rows.append(place | {"learning rate": rate, "strength": 0.0} | tasks)
    return pd.DataFrame(rows)


def test_planned_comparisons():
    rows = rows_of(
        {
            ("ReLU", "tune", 0.1): [60.0, 70.0],
            ("ReLU", "tune", 0.2): [66.0, 66.0],
            ("LayerNorm", "tune", 0.1): [70.0, 70.0],
            ("GmP", "tune", 0.1): [80.0, 80.0],
            ("ReLU", "final", 0.2): [60.0, 62.0],
            ("LayerNorm", "final", 0.1): [59.0, 64.0],
            ("GmP", "final", 0.1): [70.0, 73.0],
        }
    )
    best = recipe.tuned(rows).loc[("random labels", "ReLU")]
    assert (best["learning rate"], best["last"]) == (0.2, 66.0)
    table = recipe.compare(rows).set_index(["family", "method"])
    assert table.index.tolist() == [("1", "LayerNorm"), ("1", "GmP"), ("2", "GmP")]
    assert table["minus"].tolist() == ["ReLU", "ReLU", "LayerNorm"]  # the rival with the best tuning runs
    assert table["difference"].tolist() == pytest.approx([0.5, 10.5, 10.0])
    summary = recipe.summarize(rows).set_index("method")
    assert summary.loc["GmP", "change mean"] == pytest.approx(21.5)


@pytest.mark.slow
def test_smoke(tmp_path):
    save(tmp_path)
    arguments = ["--smoke", "--data-dir", str(tmp_path), "--out", str(tmp_path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "IMAGES", {"permuted pixels": 200, "random labels": 100})
        for _ in range(2):  # the second call finds all rows
            result = CliRunner().invoke(recipe.app, arguments, catch_exceptions=False)
            assert result.exit_code == 0
    rows = pd.read_csv(tmp_path / "plasticity.csv")
    assert rows.groupby("stage").size().to_dict() == {"final": 2 * 3 * 2, "tune": 2 * 4}
    assert rows.filter(like="task ").notna().all(axis=None)
