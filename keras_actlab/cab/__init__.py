"""Characteristic activation boundaries: where units switch, how that moves in training, and pictures of it.

Pictures are in `keras_actlab.cab.plots`, which needs the extra `[lab]`.
"""

from keras_actlab.cab.geometry import Boundaries, angular_change, boundaries, metric_tensor, perturb

__all__ = ["Boundaries", "angular_change", "boundaries", "metric_tensor", "perturb"]
