import keras
import pandas as pd
import pytest

from keras_actlab import models
from recipes import input_speed
from tests.recipes.common.test_image_classification import invoke
from tests.recipes.common.test_images import save_folders

pytestmark = pytest.mark.one_backend


@pytest.mark.slow  # for the imports of worker processes
def test_smoke(tmp_path, monkeypatch):
    def tiny(shape, classes, patch_size, activation):
        return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(classes)])

    monkeypatch.setattr(models, "vit_tiny", tiny)
    save_folders(tmp_path, sizes=((9, 8),) * 3)
    arguments = ["--data", "folders", "--data-dir", tmp_path, "--side", 8, "--out", tmp_path, "--smoke"]
    for _ in range(2):
        finished = invoke(input_speed.app, *arguments)
        assert finished.exit_code == 0
        assert "Bottleneck: " in finished.output
    rows = pd.read_csv(tmp_path / "input_speed.csv")
    assert rows["what"].tolist() == 2 * ["pipeline", "with RandAugment", "step of ViT-Tiny", "with a layer"]
    assert (rows["pictures a second"] > 0).all()
