import math

import pytest

from keras_actlab.advice.budget import in_words, parse

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize(
    ("value", "seconds"), [("15min", 900), ("15m", 900), ("2h", 7200), ("90 s", 90), (90, 90), (0.5, 0.5)]
)
def test_times(value, seconds):
    budget = parse(value)
    assert budget.seconds == seconds
    assert budget.is_time
    assert math.isinf(budget.pairs)
    assert parse(str(budget)) == budget


@pytest.mark.parametrize("value", ["10 pairs", "10pairs", " 10  pairs "])
def test_pairs(value):
    budget = parse(value)
    assert budget.pairs == 10
    assert not budget.is_time
    assert parse(str(budget)) == budget


@pytest.mark.parametrize("value", ["1 pair", "0 pairs", "soon", "", "-5min", "NaT", 0, -1, math.inf, math.nan])
def test_bad_values(value):
    with pytest.raises(ValueError, match="`budget` must be"):
        parse(value)


@pytest.mark.parametrize("value", [None, True, [15], {"pairs": 2}])
def test_bad_types(value):
    with pytest.raises(TypeError, match="`budget` must be a text"):
        parse(value)


@pytest.mark.parametrize(("seconds", "text"), [(0.25, "0.25s"), (90, "90s"), (900, "15min"), (9000, "2.5h")])
def test_words(seconds, text):
    assert in_words(seconds) == text
    assert parse(text).seconds == seconds
