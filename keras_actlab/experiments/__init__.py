"""Comparisons of methods over seeds and splits, with error bars.

A `Comparison` names the methods, the data, the hyper-parameters to tune, and how a fit is done. `run` does the fits
that are missing in a file and appends their rows. `Results` makes tables and figures of the rows.
`fit_resumable` trains a single model for hours or days, and continues after a crash.
"""

import warnings
from typing import Any

try:
    import joblib as _joblib  # noqa: F401
    import matplotlib as _matplotlib  # noqa: F401
    import pandas as _pandas  # noqa: F401
    import scipy as _scipy  # noqa: F401
    import sklearn as _sklearn  # noqa: F401
    import tabulate as _tabulate  # noqa: F401
    import tqdm as _tqdm  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"keras_actlab.experiments needs {error.name}. Install the extra [lab]: pip install 'keras-actlab[lab]'"
    ) from error

from keras_actlab.experiments.comparison import Comparison, Fit, Fitting, Method, Metrics
from keras_actlab.experiments.data import Examples, Split, holdout
from keras_actlab.experiments.ensemble import Ensemble
from keras_actlab.experiments.figures import curves, dots
from keras_actlab.experiments.paired import Paired
from keras_actlab.experiments.results import Results, load
from keras_actlab.experiments.resumable import Resumable, fit_resumable
from keras_actlab.experiments.running import run

__all__ = [
    "Comparison",
    "Ensemble",
    "Examples",
    "Fit",
    "Fitting",
    "Method",
    "Metrics",
    "Paired",
    "Results",
    "Resumable",
    "Split",
    "curves",
    "dots",
    "fit_resumable",
    "holdout",
    "load",
    "run",
]


def __getattr__(name: str) -> Any:
    if name == "long_run":
        warnings.warn("`long_run` is deprecated: use `fit_resumable`", DeprecationWarning, stacklevel=2)
        return fit_resumable
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
