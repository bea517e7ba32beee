import keras
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from recipes import relu_for_int8


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporters' own
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras exports to LiteRT from TensorFlow")
def test_a_small_run(tmp_path):
    for name in ("ai_edge_litert", "openvino"):
        pytest.importorskip(name)
    result = CliRunner().invoke(relu_for_int8.app, ["--smoke", "--seeds", "1", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "relu_for_int8.csv")
    keys = ["seed", "trained with", "activation", "runtime", "weights"]
    assert len(table) == len(table[keys].drop_duplicates()) == 2 * 2 * 3 * 2 * 2
    by_runtime = table.pivot(index=["seed", "trained with", "activation", "weights"], columns="runtime")
    accuracies = by_runtime["accuracy"].xs("float32", level="weights")
    np.testing.assert_allclose(accuracies["LiteRT"], accuracies["OpenVINO"], atol=0.01)
    sizes = table.pivot_table(index=["trained with", "activation"], columns="weights", values="kilobytes")
    assert (sizes["int8"] < sizes["float32"]).all()


@pytest.mark.one_backend
def test_summary():
    """Differences and ratios from the network that keeps its activation, and their standard errors over two seeds."""
    rows = []
    for seed, gain in enumerate([0.01, 0.03]):
        for activation, weights, accuracy, time in [
            ("silu", "float32", 0.9, 4.0),
            ("silu", "int8", 0.8, 2.0),
            ("relu", "float32", 0.9 + gain, 3.0),
            ("relu", "int8", 0.9 - gain, 1.0),
        ]:
            row = [seed, "silu", activation, "LiteRT", weights, accuracy, 10.0, time]
            rows.append(row)
    columns = ["seed", "trained with", "activation", "runtime", "weights", "accuracy", "kilobytes", "microseconds"]
    found = relu_for_int8.summary(pd.DataFrame(rows, columns=columns)).set_index(["activation", "weights"])
    assert found.loc[("relu", "float32"), "change (points)"] == "2.00 ± 1.00"
    assert found.loc[("relu", "int8"), "change (points)"] == "-2.00 ± 1.00"
    assert found.loc[("silu", "int8"), "change (points)"] == "-10.00 ± 0.00"
    assert found.loc[("relu", "int8"), "time / own, same weights"] == "0.50 ± 0.00"
    assert found.loc[("relu", "int8"), "time / own, float32"] == "0.25 ± 0.00"


@pytest.mark.one_backend
def test_runners_take_turns():
    calls = []
    runners = {name: lambda batch, name=name: calls.append(name) for name in "ab"}
    times = relu_for_int8.microseconds(runners, np.zeros((4, 1)), repeats=2)
    assert "".join(calls) == ("a" * 10 + "b" * 10) * 2
    assert all(0 <= time < 1e6 for time in times.values())
