from dataclasses import replace

import pandas as pd
import pytest

from recipes import input_speed
from recipes.common.image_classification import Method, step_schedule
from tests.recipes.common.test_image_classification import invoke, tiny
from tests.recipes.common.test_images import save_folders

pytestmark = pytest.mark.one_backend


@pytest.mark.slow  # for the imports of worker processes
def test_smoke(tmp_path, monkeypatch):
    recipe, augmentations = "imagenet_transformers", ["pillow", "layer"]
    small = replace(input_speed.RECIPES[recipe], method=Method(tiny, step_schedule(0.1)))
    monkeypatch.setitem(input_speed.RECIPES, recipe, small)
    save_folders(tmp_path, sizes=((9, 8),) * 3)
    arguments = ["--recipe", recipe, "--data-dir", tmp_path, "--side", 8, "--out", tmp_path, "--smoke"]
    finished = invoke(input_speed.app, *arguments)
    assert finished.exit_code == 0
    for name in augmentations:
        assert f"Bottleneck of {recipe} with {name}, 1 processes: " in finished.output
    rows = pd.read_csv(tmp_path / "input_speed.csv")
    assert rows["what"].tolist() == 2 * ["pipeline", "training step"]
    assert rows["augmentation"].tolist() == [name for name in augmentations for _ in range(2)]
    assert (rows["images_per_second"] > 0).all()
