"""Figures of results: every replicate as a dot, and metrics over epochs."""

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_actlab.arguments import check_choice, received
from keras_actlab.colours import COLOURS

if TYPE_CHECKING:  # results call `dots`
    from keras_actlab.experiments.results import Results


def dots(results: "Results", metric: str | None = None) -> Figure:
    """Draws the test metric of every replicate, with means, standard errors and the baseline's mean as a line.

    Args:
        results: The results.
        metric: Name of the metric. Without it, each task's monitored one.

    Returns:
        A figure with one panel a task.

    Example:

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from keras_actlab import experiments
    >>> configuration = {
    ...     "methods": {"ReLU": None}, "metrics": ["RMSE"], "monitor": "RMSE", "mode": "min", "grid": {},
    ...     "sizes": {"train": 64, "validation": 16, "test": 20},
    ... }
    >>> rows = [
    ...     {"task": "noise", "method": "ReLU", "stage": "final", "split": split, "seed": 0, "hyperparameters": {},
    ...      "epochs": 5, "metrics": {"RMSE": 0.5 + 0.1 * split}, "failure": None} for split in range(3)
    ... ]
    >>> results = experiments.Results([{"task": "noise", "configuration": configuration}, {"rows": rows}])
    >>> figure = experiments.dots(results)
    >>> figure.axes[0].get_title()
    'noise'
    """
    _check(results)
    table = results.table(metric)
    tasks = list(results.configurations)
    methods = list(dict.fromkeys(method for _, method in table.index))
    columns = min(len(tasks), 4)
    rows = -(-len(tasks) // columns)
    size = (2 + 3 * columns, rows * (1.2 + 0.3 * len(methods)))
    figure, axes = plt.subplots(rows, columns, figsize=size, sharey=True, layout="constrained", squeeze=False)
    for ax in axes.flat[len(tasks) :]:
        ax.set_axis_off()
    for task, ax in zip(tasks, axes.flat, strict=False):
        name = metric or results.configurations[task]["monitor"]
        values = results.replicates(task, name)
        ax.axvline(values.iloc[:, 0].mean(), color="0.7", linestyle="--", linewidth=1)
        for height, method in enumerate(methods):
            if method in values:
                ax.scatter(values[method], np.full(len(values), height), s=14, color=COLOURS[5], label="one replicate")
                mean, error = table.loc[(task, method), ["mean", "s.e."]]
                ax.errorbar(mean, height, xerr=error, fmt="o", color=COLOURS[1], label="mean ± standard error")
        ax.set(title=task, xlabel=f"test {name}", yticks=range(len(methods)), yticklabels=methods)
    axes[0, 0].set_ylim(len(methods) - 0.5, -0.5)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower right", ncols=2, fontsize="small")
    plt.close(figure)  # it belongs to the caller alone
    return figure


def curves(results: "Results", metric: str | None = None, task: str | None = None) -> Figure:
    """Draws the validation metric over epochs, at each replicate's chosen hyper-parameters.

    If nothing was chosen, and the final fits were evaluated after several epochs (see `Resumable`), it is the test
    metric of these.

    Args:
        results: Results of a run with `history=True`.
        metric: Name of the metric. Without it, each task's monitored one.
        task: Name of the task. Without it, all tasks, one panel each.

    Returns:
        A figure with one line for each method, the mean over replicates, in a band of one standard error.

    Raises:
        ValueError: If `task` or `metric` is unknown, or the rows hold no history.

    Example:

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from keras_actlab import experiments
    >>> configuration = {
    ...     "methods": {"ReLU": None}, "metrics": ["RMSE"], "monitor": "RMSE", "mode": "min", "grid": {},
    ...     "sizes": {"train": 64, "validation": 16, "test": 20},
    ... }
    >>> rows = [
    ...     {"task": "noise", "method": "ReLU", "stage": "tune", "split": split, "seed": 0, "hyperparameters": {},
    ...      "epochs": 2, "metrics": {"RMSE": 0.5}, "failure": None, "history": {"epoch": [1, 2], "RMSE": [0.7, 0.5]}}
    ...     for split in range(3)
    ... ]
    >>> results = experiments.Results([{"task": "noise", "configuration": configuration}, {"rows": rows}])
    >>> experiments.curves(results).axes[0].get_ylabel()
    'validation RMSE'
    """
    _check(results)
    if task is not None:
        check_choice("task", task, results.configurations)
    tasks = [task] if task is not None else list(results.configurations)
    for each in tasks if metric is not None else ():
        check_choice("metric", metric, results.configurations[each]["metrics"])
    figure, axes = plt.subplots(1, len(tasks), figsize=(6 * len(tasks), 4), squeeze=False, layout="constrained")
    plt.close(figure)
    for ax, each in zip(axes[0], tasks, strict=True):
        _draw_curves(ax, results, each, metric or str(results.configurations[each]["monitor"]))
    return figure


def _draw_curves(ax: Axes, results: "Results", task: str, metric: str) -> None:
    part = "validation"
    for index, method in enumerate(results.configurations[task]["methods"]):
        fits = [row for place, row in results.choices.items() if place[:2] == (task, method)]
        if not fits:  # nothing was chosen, or fits failed
            finals = [row for row in results.rows if (row["task"], row["method"]) == (task, method)]
            fits = [row for row in finals if row["stage"] == "final" and not row["failure"]]
            part = "test" if fits else part
        if not all("history" in row for row in fits):
            raise ValueError(
                "`results` must be of a run with history=True, from its beginning. Received: rows without a history"
            )
        if not fits:
            continue  # all failed
        epochs = fits[0]["history"]["epoch"]
        values = np.array([row["history"][metric] for row in fits], "float64")
        mean, error = values.mean(axis=0), values.std(axis=0, ddof=min(1, len(values) - 1)) / np.sqrt(len(values))
        colour, line = COLOURS[index % len(COLOURS)], ("-", "--", ":")[index // len(COLOURS) % 3]
        ax.plot(epochs, mean, line, color=colour, label=method)
        ax.fill_between(epochs, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
    ax.set(title=task, xlabel="epoch", ylabel=f"{part} {metric}")
    ax.legend(fontsize="small", title="mean ± standard error", title_fontsize="small")


def _check(results: Any) -> None:
    if not hasattr(results, "configurations"):
        raise TypeError(f"`results` must be what `run` or `load` returns. {received('results', results)}")
