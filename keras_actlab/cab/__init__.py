"""Characteristic activation boundaries: where units switch, how that moves in training, and pictures of it.

Pictures are in `keras_actlab.cab.plots`, which needs the extra `[lab]`.
"""

from keras_actlab.cab.geometry import Boundaries, angular_change, boundaries, metric_tensor, perturb
from keras_actlab.cab.track import Track, load_tracks, save_tracks
from keras_actlab.cab.tracker import BoundaryTracker

__all__ = [
    "Boundaries",
    "BoundaryTracker",
    "Track",
    "angular_change",
    "boundaries",
    "load_tracks",
    "metric_tensor",
    "perturb",
    "save_tracks",
]
