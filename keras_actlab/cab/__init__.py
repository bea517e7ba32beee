"""Characteristic activation boundaries: where units switch, how the boundaries move in training, and plots of them.

The plots are in `keras_actlab.cab.plots`, which needs the extra `[lab]`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from keras_actlab.cab.dead_units import DeadUnitTracker
from keras_actlab.cab.geometry import Boundaries, angular_change, boundaries, metric_tensor, perturb
from keras_actlab.cab.regions import RegionTracker, activation_patterns, count_regions, preactivations
from keras_actlab.cab.slices import Plane, Slice, slice_regions
from keras_actlab.cab.track import Track, load_tracks, save_tracks
from keras_actlab.cab.tracker import BoundaryTracker

if TYPE_CHECKING:
    from keras_actlab.cab import plots as plots
else:

    def __getattr__(name: str) -> Any:
        """Imports the plots at their first use, because importing Matplotlib is slow."""
        if name == "plots":
            return importlib.import_module("keras_actlab.cab.plots")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Boundaries",
    "BoundaryTracker",
    "DeadUnitTracker",
    "Plane",
    "RegionTracker",
    "Slice",
    "Track",
    "activation_patterns",
    "angular_change",
    "boundaries",
    "count_regions",
    "load_tracks",
    "metric_tensor",
    "perturb",
    "preactivations",
    "save_tracks",
    "slice_regions",
]


def __dir__() -> list[str]:
    return sorted([*globals(), "plots"])
