import pandas as pd
import pytest
from typer.testing import CliRunner

pytest.importorskip("tokenizers")
from recipes import quantization


@pytest.mark.slow
@pytest.mark.one_backend
@pytest.mark.filterwarnings("ignore:(Invalid quantization mode|The use of `x.T`)")  # Keras' own
def test_a_small_run(tmp_path):
    pytest.importorskip("keras_hub")
    result = CliRunner().invoke(quantization.app, ["--smoke", "--seeds", "1", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "quantization.csv").set_index(["model", "weights"])
    assert table.loc["digits"].index.tolist() == ["float32", "int8", "int4", "float8"]
    assert table.loc["text"].index.tolist() == ["float32", "int8", "int4", "float8", "gptq", "awq"]
    assert table["accuracy"].between(0, 1).all()
    for name in ("digits", "text"):
        sizes = table.loc[name, "kilobytes"]
        assert sizes["float32"] > 3 * sizes["int8"] > 3 * sizes["int4"]
    assert table.loc[("text", "float32"), ["equal tokens", "equal texts"]].tolist() == [1, 1]


@pytest.mark.one_backend
def test_summary():
    rows = [
        ["text", seed, weights, size, accuracy, equal, equal]
        for seed, gain in enumerate([0.01, 0.03])
        for weights, size, accuracy, equal in [("float32", 8, 0.5, 1), ("int8", 2, 0.5 - gain, 0.75)]
    ]
    columns = ["model", "seed", "weights", "kilobytes", "accuracy", "equal tokens", "equal texts"]
    found = quantization.summary(pd.DataFrame(rows, columns=columns)).set_index("weights")
    assert found.loc["int8", "size ratio"] == 4
    assert found.loc["int8", "change (points)"] == "-2.00 ± 1.00"
    assert found.loc["int8", "accuracy (%)"] == 48
