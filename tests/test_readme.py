import re
from pathlib import Path

import keras
import numpy as np
import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")

EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.one_backend
def test_the_example_runs():
    code = EXAMPLES[0]
    names = {}
    exec(code, names)
    model = names["model"]
    x = np.random.default_rng(0).standard_normal((4, 28, 28, 1)).astype("float32")
    assert np.isfinite(model.train_on_batch(x, np.arange(4)))
    assert tuple(keras.ops.shape(model(x))) == (4, 10)


@pytest.mark.one_backend
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


@pytest.mark.one_backend
def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http|#)([^)]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
