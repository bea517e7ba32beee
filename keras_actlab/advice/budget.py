"""How long a question may take: seconds of training, or a number of pairs."""

import dataclasses
import math
import re
from numbers import Real
from typing import Any

import pandas as pd

from keras_actlab.arguments import received


@dataclasses.dataclass(frozen=True)
class Budget:
    """A budget. One of both numbers is infinite.

    Attributes:
        seconds: Seconds of training, over all calls for the same `path`.
        pairs: Number of pairs.
    """

    seconds: float
    pairs: float

    @property
    def is_time(self) -> bool:
        """Whether time is limited."""
        return math.isfinite(self.seconds)

    def __str__(self) -> str:
        return in_words(self.seconds) if self.is_time else f"{int(self.pairs)} pairs"


def parse(value: Any) -> Budget:
    """Reads "15min", "2h", a number of seconds, or "10 pairs".

    Raises:
        TypeError: If the value is neither a text nor a number.
        ValueError: If it is not understood, not positive, or fewer than 2 pairs.

    Example:

    >>> from keras_actlab.advice.budget import parse
    >>> parse("15min").seconds, parse(90).seconds, parse("10 pairs").pairs
    (900.0, 90.0, 10)
    """
    if isinstance(value, bool) or not isinstance(value, str | Real):
        raise TypeError(
            f"`budget` must be a text such as '15min' or '10 pairs', or seconds. {received('budget', value)}"
        )
    if isinstance(value, str) and (found := re.fullmatch(r"\s*(\d+)\s*pairs?\s*", value)):
        if int(found[1]) < 2:
            raise ValueError(f"`budget` must be at least 2 pairs, as one has no error bar. {received('budget', value)}")
        return Budget(math.inf, int(found[1]))
    try:
        seconds = pd.Timedelta(value).total_seconds() if isinstance(value, str) else float(value)
    except ValueError as error:
        raise ValueError(
            f"`budget` must be a text such as '15min', '2h' or '10 pairs', or seconds. {received('budget', value)}"
        ) from error
    if not 0 < seconds < math.inf:
        raise ValueError(f"`budget` must be positive and finite. {received('budget', value)}")
    return Budget(seconds, math.inf)


def in_words(seconds: float) -> str:
    """Returns a duration that `parse` reads, such as "90s", "15min" or "2.5h"."""
    if seconds < 120:
        return f"{seconds:.3g}s"
    return f"{seconds / 60:.3g}min" if seconds < 7200 else f"{seconds / 3600:.3g}h"
