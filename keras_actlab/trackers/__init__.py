"""Experiment trackers: what callbacks of this package record, in TensorBoard, Weights & Biases or MLflow.

The tools are imported when a writer is made, so that none of them is needed for the others.
"""

from keras_actlab.trackers.callback import TrackerCallback
from keras_actlab.trackers.writers import MLflowWriter, TensorBoardWriter, WandbWriter, Writer

__all__ = ["MLflowWriter", "TensorBoardWriter", "TrackerCallback", "WandbWriter", "Writer"]
