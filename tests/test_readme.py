import re
from pathlib import Path

import keras
import numpy as np

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_example_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(code, names)
    model = names["model"]
    x = np.random.default_rng(0).standard_normal((4, 28, 28, 1)).astype("float32")
    assert np.isfinite(model.train_on_batch(x, np.arange(4)))
    assert tuple(keras.ops.shape(model(x))) == (4, 10)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
