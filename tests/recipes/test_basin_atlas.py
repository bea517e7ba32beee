import keras
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from recipes import basin_atlas as recipe

pytestmark = pytest.mark.one_backend


def outputs(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


def test_plain_weight_normalized_and_geometric_networks_start_as_the_same_function():
    data = recipe.load("diabetes")
    for size in (0.25, 4.0):
        plain, *others = (outputs(recipe.network(m, data, size, 3), data.x[:9]) for m in ("SP", "WN", "GmP", "GmP+IMN"))
        for other in others:
            np.testing.assert_allclose(other, plain, rtol=1e-3, atol=1e-4 * np.abs(plain).max())
    usual = outputs(recipe.network("SP", data, 1.0, 3), data.x[:9])
    np.testing.assert_allclose(plain, 4**recipe.LAYERS * usual, rtol=1e-4)  # ReLU without biases


def test_the_scale_leaves_the_angles_and_the_output_layer_alone():
    data = recipe.load("diabetes")
    one, four = (recipe.network("GmP", data, size, 0).layers for size in (1.0, 4.0))
    np.testing.assert_array_equal(one[0].angles, four[0].angles)
    np.testing.assert_array_equal(one[-1].kernel, four[-1].kernel)
    np.testing.assert_allclose(4 * np.asarray(one[0].scale), four[0].scale, rtol=1e-6)


@pytest.mark.parametrize("name", recipe.SETS)
def test_the_best_constant_prediction_has_the_loss_1(name):
    data = recipe.load(name)
    constant = data.y.mean(axis=0) if data.outputs == 1 else np.log(np.bincount(data.y[:, 0]) / len(data.y))
    predictions = np.broadcast_to(constant, (2, len(data.y), data.outputs))
    np.testing.assert_allclose(data.loss(predictions), [1, 1], rtol=1e-6)


def made_up(losses):
    """Rows of two methods in planes of two scales and two rates, the same for both seeds but for the second method."""
    rows = []
    for method, planes in losses.items():
        for seed, plane in enumerate(planes):
            cells = [(scale, rate) for scale in (0.25, 1.0) for rate in (0.1, 1.0)]
            rows += [
                {"set": "digits", "method": method, "seed": seed, "scale": scale, "learning rate": rate, "loss": loss}
                for (scale, rate), loss in zip(cells, plane, strict=True)
            ]
    return pd.DataFrame(rows)


def test_shares_and_ratios():
    planes = {
        "SP": [[0.2, np.nan, 0.9, 0.3], [0.2, 0.9, 0.9, 0.9]],
        "GmP": [[0.1, 0.1, 0.1, 0.1], [0.9, 0.1, 0.1, 0.9]],
    }
    table = recipe.summarize(made_up(planes))
    assert table["method"].tolist() == ["SP", "SP", "GmP", "GmP"]
    assert table["share"].tolist() == [0.25, 0.25, 1.0, 0.5]
    assert table["scales"].tolist() == [0.5, 0.5, 1.0, 0.5]
    assert table["largest rate"].tolist() == [0.0, 0.0, 1.0, 0.1]
    pooled, digits = recipe.ratios(table).to_dict("records")
    assert digits["ratio"] == pooled["ratio"] == pytest.approx(np.sqrt(4 * 2))
    error = np.log(2) / 2  # the standard error of two logarithms whose difference is log(2)
    assert np.log(digits["to"] / digits["ratio"]) == pytest.approx(stats.t.isf(0.025, 1) * error)
    assert pooled["p, corrected"] == pytest.approx(digits["p"])
    nowhere = recipe.ratios(recipe.summarize(made_up(planes), share=0.15))  # SP trains nowhere
    assert nowhere["ratio"].isna().all()


@pytest.mark.slow
def test_smoke(tmp_path):
    for _ in range(2):  # the second call finds all rows
        result = CliRunner().invoke(recipe.app, ["--smoke", "--out", str(tmp_path)], catch_exceptions=False)
        assert result.exit_code == 0
    rows = pd.read_csv(tmp_path / "basin_atlas.csv")
    assert len(rows) == len(recipe.CONFIRMED_METHODS) * 2 * len(recipe.SCALES) * len(recipe.RATES)
    losses = rows[(rows["scale"] == 1) & (rows["learning rate"] == 0.01)].groupby("method")["loss"].mean()
    assert losses.max() < 0.6
    again = pd.read_csv(tmp_path / "basin_atlas-confirmation.csv")
    assert sorted(again["seed"].unique()) == [2, 3]
    assert not np.isin(again["loss"], rows["loss"]).any()
    assert (tmp_path / "basin_atlas.png").stat().st_size > 10_000
