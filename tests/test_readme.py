import re
from pathlib import Path

import keras
import numpy as np

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")

EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_example_runs():
    code = EXAMPLES[0]
    names = {}
    exec(code, names)
    model = names["model"]
    x = np.random.default_rng(0).standard_normal((4, 28, 28, 1)).astype("float32")
    assert np.isfinite(model.train_on_batch(x, np.arange(4)))
    assert tuple(keras.ops.shape(model(x))) == (4, 10)


def test_the_conversion_runs(capsys):
    code = EXAMPLES[1]
    small = "ResNet50(weights=None, input_shape=(32, 32, 3), classes=3)"
    names = {}
    exec(code.replace("ResNet50(weights=None)", small), names)
    assert "conv5_block3_2_relu" in capsys.readouterr().out
    x = np.zeros((1, 32, 32, 3))
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(names["folded"](x)), keras.ops.convert_to_numpy(names["converted"](x)), atol=1e-5
    )


def test_the_comparison_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(EXAMPLES[2], names)
    assert "p, corrected" in capsys.readouterr().out
    table = names["results"].table()
    assert table["n"].tolist() == [5, 5]
    assert table["mean"].between(0, 0.1).all()  # the networks did learn
    assert (tmp_path / "results" / "comparison.png").exists()


def test_the_boundaries_are_tracked_and_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(EXAMPLES[3], names)
    assert "largest turn of a boundary in one step: " in capsys.readouterr().out
    assert names["track"].locations.shape == (201, 10, 2)
    assert (tmp_path / "boundaries.png").exists()
    assert (tmp_path / "trajectories.png").exists()


def test_the_entropy_is_measured_and_lowered(capsys):
    names = {}
    exec(EXAMPLES[4], names)
    assert "EntropyActivation" in capsys.readouterr().out
    log = names["refinement"].log
    assert log["step"].tolist() == [25, 50, 75, 100, 125]
    assert (log["entropy after"] < log["entropy before"]).all()
    knots, values = (keras.ops.convert_to_numpy(v) for v in (names["curve"].knots, names["curve"].values))
    np.testing.assert_allclose(values, names["improved"](knots), atol=1e-6)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
