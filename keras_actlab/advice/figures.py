"""Figures of an answer: paired differences, and the validation metric over learning rates."""

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from keras_actlab.advice.variants import AS_IS
from keras_actlab.colours import COLOURS

if TYPE_CHECKING:  # answers call these functions
    from keras_actlab.advice.result import Advice


WIDTH = 4.5  # inches, so that text is readable on a phone
LINES = ("-", "--", ":")  # tell apart variants of the same colour


def differences(advice: "Advice") -> Figure:
    """Draws the difference of each pair as a dot, and for each variant its interval above.

    The band shows differences that are smaller than the smallest one that matters.
    """
    verdicts = [each for each in advice.verdicts if each.pairs]
    figure, ax = plt.subplots(figsize=(WIDTH, 1.2 + 0.6 * len(verdicts)), layout="constrained")
    plt.close(figure)
    ax.axvline(0, color="0.4", linewidth=1, zorder=1)
    noise = np.random.default_rng(0)
    for height, each in enumerate(verdicts):
        values = (advice.values[each.variant] - advice.values[AS_IS]).dropna()
        left, width = -each.smallest_effect, 2 * each.smallest_effect
        ax.barh(height, width, left=left, height=0.8, color="0.85", label="too small to matter", zorder=0)
        places = height + 0.15 + noise.uniform(-0.12, 0.12, len(values))
        ax.scatter(values, places, s=18, alpha=0.7, color=COLOURS[0], linewidths=0, label="one pair", zorder=2)
        ax.plot([each.low, each.high], [height - 0.2] * 2, "|-", color=COLOURS[1], label="mean and interval")
        ax.plot(each.difference, height - 0.2, "o", color=COLOURS[1])
    better = "right" if advice.question.mode == "max" else "left"
    ax.set(
        xlabel=f"difference of test {advice.question.metric}, {better} is better",
        yticks=range(len(verdicts)),
        yticklabels=[f"{each.variant}\n{each.verdict}" for each in verdicts],
        ylim=(max(len(verdicts), 1) - 0.5, -0.5),
    )
    ax.locator_params(axis="x", nbins=6)
    handles, labels = ax.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(
        unique.values(), unique.keys(), loc="outside upper center", ncols=3, fontsize="small", columnspacing=1
    )
    return figure


def rates(advice: "Advice") -> Figure:
    """Draws the validation metric over learning rates: the mean over pairs in which a rate was tried."""
    metric, variants = advice.question.metric, advice.question.variants
    (name,) = next(iter(advice.results.configurations.values()))["grid"]
    tuning = advice.results.tuning
    figure, ax = plt.subplots(figsize=(WIDTH, 3 + 0.2 * (len(variants) // 3)), layout="constrained")
    plt.close(figure)
    for index, variant in enumerate(variants):
        means = tuning[tuning["method"] == variant].groupby(name)[metric].mean()
        colour, line = COLOURS[index % len(COLOURS)], LINES[index // len(COLOURS) % len(LINES)]
        ax.plot(means.index, means, line, marker="o", markersize=4, color=colour, label=variant)
    ax.set(xscale="log", xlabel=name.replace("_", " "), ylabel=f"validation {metric}")
    figure.legend(loc="outside upper center", ncols=3, fontsize="small")
    return figure
