"""The papers' networks, each a function that returns a `keras.Model` whose outputs are logits."""

from keras_actlab.models.deit import deit_tiny
from keras_actlab.models.distillation import HardDistillation
from keras_actlab.models.gpt2 import gpt2
from keras_actlab.models.resnet import resnet18
from keras_actlab.models.tnt import tnt_small
from keras_actlab.models.vgg import vgg6
from keras_actlab.models.vit import vit_tiny

__all__ = ["HardDistillation", "deit_tiny", "gpt2", "resnet18", "tnt_small", "vgg6", "vit_tiny"]
