"""Ranking of activations by the entropy of their outputs."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from keras_actlab.eafo.densities import as_density
from keras_actlab.eafo.functions import FORMULAS, activation_name
from keras_actlab.eafo.push_forward import push_forward


def rank(activations: Mapping[str, Any] | Iterable[Any] | None, density: Any) -> pd.DataFrame:
    """Returns a table of activations, sorted by the entropy of their outputs, the lowest first.

    Entropies with and without point masses are not comparable, as `entropy` explains: CRReLU with a small epsilon ranks
    first because it has a narrow peak where ReLU has a point mass. Compare such activations on z > 0 only, with the
    density `scipy.stats.halfnorm()` for N(0, 1).

    Args:
        activations: Names, functions or layers, as in `entropy`; or a mapping of labels to these; or None for all
            elementwise activations of `keras.activations`, and CRReLU with epsilon 0.01.
        density: A density of this module, or a distribution of `scipy.stats`.

    Returns:
        A DataFrame with the columns "activation", "entropy", "standardized entropy" (both in nats, see `entropy` and
        `standardized_entropy`) and "point masses", their total probability.

    Raises:
        TypeError: If an activation or the density has the wrong type.
        ValueError: If there are no activations, a name is unknown, or as in `entropy`.

    Example:

    >>> from keras_actlab import eafo
    >>> eafo.rank(["linear", "tanh", "gelu"], eafo.Gaussian()).round(3)
      activation  entropy  standardized entropy  point masses
    0       gelu   -0.070                 0.462           0.0
    1       tanh    0.670                 1.135           0.0
    2     linear    1.419                 1.419           0.0
    """
    density = as_density(density)
    if activations is None:
        activations = FORMULAS
    if isinstance(activations, str) or not isinstance(activations, Iterable):
        raise TypeError(f"`activations` must be a sequence or a mapping. Received: activations={activations!r}")
    if isinstance(activations, Mapping):
        named = list(activations.items())
    else:
        named = [(activation_name(activation), activation) for activation in activations]
    if not named:
        raise ValueError(f"`activations` must hold at least one. Received: activations={activations!r}")
    rows = []
    for name, activation in named:
        outputs = push_forward(activation, density)
        rows.append((name, outputs.entropy, outputs.standardized_entropy, outputs.atoms[:, 1].sum()))
    table = pd.DataFrame(rows, columns=["activation", "entropy", "standardized entropy", "point masses"])
    return table.sort_values("entropy", ignore_index=True, kind="stable")
