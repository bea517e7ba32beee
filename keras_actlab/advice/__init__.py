"""The answer to "would it help my model?": a verdict for each alternative, with its power.

`keras_actlab.advise` trains a model and its variants on pairs of splits or seeds, and returns an `Advice`.
"""

from keras_actlab import experiments as _experiments  # noqa: F401  # raises an ImportError that names the extra
from keras_actlab.advice.advise import advise
from keras_actlab.advice.result import Advice
from keras_actlab.advice.variants import names
from keras_actlab.advice.verdicts import Verdict

__all__ = ["Advice", "Verdict", "advise", "names"]
