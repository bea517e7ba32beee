"""Pictures of results: every replicate as a dot, and metrics over epochs."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from keras_actlab.arguments import check_choice, check_type
from keras_actlab.colours import COLOURS
from keras_actlab.experiments.results import Results


def dots(results: Results, metric: str | None = None) -> Figure:
    """Draws the test metric of every replicate, with means, standard errors and the baseline's mean as a line.

    Args:
        results: What was found.
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
    check_type("results", results, Results, "what `run` or `load` returns")
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


def curves(results: Results, metric: str | None = None, task: str | None = None) -> Figure:
    """Draws the validation metric over epochs, at each replicate's chosen hyper-parameters.

    Args:
        results: What was found by a run with `history=True`.
        metric: Name of the metric. Without it, the monitored one.
        task: Name of the task. Without it, the first one.

    Returns:
        A figure with one line a method, the mean over replicates, within a band of one standard error.

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
    check_type("results", results, Results, "what `run` or `load` returns")
    if task is None:
        task = next(iter(results.configurations))
    check_choice("task", task, results.configurations)
    configuration = results.configurations[task]
    if metric is None:
        metric = str(configuration["monitor"])
    check_choice("metric", metric, configuration["metrics"])
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    plt.close(figure)
    for index, method in enumerate(configuration["methods"]):
        chosen = [row for place, row in results.choices.items() if place[:2] == (task, method)]
        if not all("history" in row for row in chosen):
            raise ValueError(
                "`results` must be of a run with history=True, from its beginning. Received: rows without a history"
            )
        if not chosen:
            continue  # its fits failed
        epochs = chosen[0]["history"]["epoch"]
        values = np.array([row["history"][metric] for row in chosen], "float64")
        mean, error = values.mean(axis=0), values.std(axis=0, ddof=min(1, len(values) - 1)) / np.sqrt(len(values))
        colour, line = COLOURS[index % len(COLOURS)], ("-", "--", ":")[index // len(COLOURS) % 3]
        ax.plot(epochs, mean, line, color=colour, label=method)
        ax.fill_between(epochs, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
    ax.set(title=task, xlabel="epoch", ylabel=f"validation {metric}")
    ax.legend(fontsize="small", title="mean ± standard error", title_fontsize="small")
    return figure
