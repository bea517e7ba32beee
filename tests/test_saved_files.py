"""Files that released versions saved, of which `tests/saved/save.py` tells."""

import json
import re
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_actlab
from tests.saved.save import MODELS, behaviour

FOLDER = Path(__file__).parent / "saved"
FILES, WEIGHTS = sorted(FOLDER.glob("*/*.keras")), sorted(FOLDER.glob("*/*.weights.h5"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name} {path.stem}")


def load(path: Path) -> keras.Model:
    if "keras_hub" in config(path):
        pytest.importorskip("keras_hub")  # registers its classes
    return keras.saving.load_model(path)


def config(path: Path) -> str:
    with zipfile.ZipFile(path) as file:
        return file.read("config.json").decode()


def check(model: keras.Model, path: Path) -> None:
    with np.load(path.with_suffix(".npz")) as arrays:
        expected = dict(arrays)
    for name, found in behaviour(model, expected.pop("x")).items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


@each_file
def test_models_do_as_in_the_version_that_saved_them(path):
    check(load(path), path)


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda path: f"{path.parent.name} {path.name.split('.')[0]}")
def test_files_of_weights(weights):
    path = weights.parent / weights.name.replace(".weights.h5", ".keras")
    model = keras.saving.deserialize_keras_object(json.loads(config(path)))
    model.load_weights(weights)
    check(model, path)


@pytest.mark.one_backend
def test_every_registered_class_is_in_a_file():
    """Or in a model that the next version saves."""
    registered = {name for name in keras.saving.get_custom_objects() if name.startswith(f"{keras_actlab.__name__}>")}
    unsaved = [make for make in MODELS if make.__name__ not in {path.stem for path in FILES}]
    configs = [config(path) for path in FILES]
    configs += [json.dumps(keras.saving.serialize_keras_object(make()[0])) for make in unsaved]
    saved = {name for text in configs for name in re.findall(r"keras_actlab>\w+", text)}
    assert registered == saved
