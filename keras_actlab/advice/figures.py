"""Figures of an answer: paired differences, and the validation metric over learning rates."""

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from keras_actlab.advice.variants import AS_IS
from keras_actlab.colours import COLOURS

if TYPE_CHECKING:  # answers call these functions
    from keras_actlab.advice.result import Advice


def differences(advice: "Advice") -> Figure:
    """Draws the difference of each pair as a dot, and for each variant its interval.

    The band shows differences that are smaller than the smallest one that matters.
    """
    verdicts = [each for each in advice.verdicts if each.pairs]
    figure, ax = plt.subplots(figsize=(7, 1.4 + 0.55 * len(verdicts)), layout="constrained")
    plt.close(figure)
    ax.axvline(0, color="0.5", linewidth=1)
    noise = np.random.default_rng(0)
    for height, each in enumerate(verdicts):
        values = (advice.values[each.variant] - advice.values[AS_IS]).dropna()
        places = height + 0.3 + noise.uniform(-0.06, 0.06, len(values))
        ax.scatter(values, places, s=12, alpha=0.6, color=COLOURS[5], linewidths=0, label="one pair")
        ax.plot(
            [-each.smallest_effect, each.smallest_effect],
            [height] * 2,
            color="0.85",
            linewidth=9,
            solid_capstyle="butt",
            label="too small to matter",
            zorder=0,
        )
        ax.plot([each.low, each.high], [height] * 2, color=COLOURS[1], label="mean and interval")
        ax.plot(each.difference, height, "o", color=COLOURS[1])
    better = "right" if advice.question.mode == "max" else "left"
    ax.set(
        xlabel=f"difference of test {advice.question.metric} to the model as it is ({better} is better)",
        yticks=range(len(verdicts)),
        yticklabels=[f"{each.variant}\n{each.verdict}" for each in verdicts],
        ylim=(len(verdicts) - 0.4, -0.5),
    )
    handles, labels = ax.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside upper right", ncols=3, fontsize="small")
    return figure


def rates(advice: "Advice") -> Figure:
    """Draws the validation metric over learning rates: the mean over pairs in which a rate was tried."""
    metric = advice.question.metric
    name = next(iter(advice.results.configurations.values()))["grid"]
    (name,) = name
    tuning = advice.results.tuning
    figure, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
    plt.close(figure)
    for index, variant in enumerate(advice.question.variants):
        means = tuning[tuning["method"] == variant].groupby(name)[metric].mean()
        ax.plot(means.index, means, "o-", color=COLOURS[index % len(COLOURS)], markersize=4, label=variant)
    ax.set(xscale="log", xlabel=name.replace("_", " "), ylabel=f"validation {metric}")
    ax.legend(fontsize="small")
    return figure
