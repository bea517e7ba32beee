"""Stands in for TensorFlow in processes that tests start on another backend.

Keras imports TensorFlow wherever it is installed, to know whether an object is one of its tensors. This takes a process
longer than everything else that it does in most tests.
"""

import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path

if os.environ.get("KERAS_BACKEND") != "tensorflow":
    raise ImportError("this process has another backend")

# The real one takes the place of this module.
places = [place for place in sys.path if Path(place) != Path(__file__).parent]
spec = importlib.machinery.PathFinder.find_spec(__name__, places)
assert spec is not None
assert spec.loader is not None
sys.modules[__name__] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[__name__])
