import numpy as np
import pytest

from keras_actlab.advice.figures import differences, rates
from tests.advice.answers import BASE, BETTER, answer, example

pytestmark = pytest.mark.one_backend


def test_differences_are_drawn():
    advice = example()
    (ax,) = differences(advice).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["gelu\nbetter", "gmp\ncannot tell"]
    points = ax.collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 0], np.subtract(BETTER, BASE))
    interval = next(line for line in ax.lines if line.get_label() == "mean and interval")
    np.testing.assert_allclose(interval.get_xdata(), [advice["gelu"].low, advice["gelu"].high])
    assert "left is better" in ax.get_xlabel()


def test_a_figure_without_verdicts():
    advice = answer({"as is": BASE, "gelu": BETTER}, failures=[("gelu", seed) for seed in range(5)])
    (ax,) = differences(advice).axes
    assert not ax.collections


def test_rates_are_drawn():
    advice = example()
    (ax,) = rates(advice).axes
    assert [line.get_label() for line in ax.lines] == ["as is", "gelu", "gmp"]
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0.1, 1.0])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [np.mean(BASE) - 0.1, np.mean(BASE)])
    assert ax.get_xscale() == "log"
