import itertools

import keras
import pandas as pd
import pytest
from typer.testing import CliRunner

from recipes import relu_for_int8

RUNTIMES = ["LiteRT", "LiteRT, int8 weights", "OpenVINO", "Keras, int8", "Keras, int4"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporters' own
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras exports to LiteRT from TensorFlow")
def test_a_small_run(tmp_path):
    for name in ("ai_edge_litert", "openvino", "keras_hub"):
        pytest.importorskip(name)
    result = CliRunner().invoke(relu_for_int8.app, ["--smoke", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "relu_for_int8.csv")
    assert table["runtime"].tolist() == RUNTIMES * 3
    assert table["accuracy"].between(0, 1).all()
    sizes = table.set_index(["method", "runtime"])["kilobytes"]
    assert (sizes[:, "LiteRT, int8 weights"] < sizes[:, "LiteRT"]).all()
    text = pd.read_csv(tmp_path / "relu_for_int8-text.csv")
    assert text["weights"].tolist() == ["float32", "int8", "int4", "float8"]
    assert text["equal greedy texts"][0] == "4 of 4"


@pytest.mark.one_backend
def test_the_texts_follow_from_their_first_two_digits():
    for text in relu_for_int8.counting(20, length=12, seed=0):
        digits = list(map(int, text))
        assert len(digits) == 12
        assert [sum(pair) % 10 for pair in itertools.pairwise(digits)][:-1] == digits[2:]
