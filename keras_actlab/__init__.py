"""Trainable activations and geometric weights for Keras 3, on TensorFlow, JAX and PyTorch."""

import importlib
from typing import TYPE_CHECKING, Any

from keras_actlab import cab, constraints, conversion, distribution, initializers, layers, models, ops
from keras_actlab.conversion import fold, quantize, swap_activations, to_gmp

if TYPE_CHECKING:
    from keras_actlab import advice as advice
    from keras_actlab import eafo as eafo
    from keras_actlab import experiments as experiments
    from keras_actlab import search as search
    from keras_actlab import trackers as trackers
    from keras_actlab.advice import advise as advise
else:

    def __getattr__(name: str) -> Any:
        """Imports packages that most models do not need at their first use, so that the import is fast."""
        if name == "advise":
            return importlib.import_module("keras_actlab.advice").advise
        if name in ("advice", "eafo", "experiments", "search", "trackers"):
            return importlib.import_module(f"keras_actlab.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__version__ = "0.1.0"

__all__ = [
    "__version__",
    "cab",
    "constraints",
    "conversion",
    "distribution",
    "fold",
    "initializers",
    "layers",
    "models",
    "ops",
    "quantize",
    "swap_activations",
    "to_gmp",
]


def __dir__() -> list[str]:
    return sorted([*globals(), "advice", "advise", "eafo", "experiments", "search", "trackers"])
