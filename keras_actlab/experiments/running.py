"""Runs comparisons: finds the fits that are missing in a file, and does them in order, in one or several processes."""

import functools
import itertools
import json
import math
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

import keras
from tqdm import tqdm

from keras_actlab.arguments import as_path, boolean, check_number
from keras_actlab.distribution import is_first_process
from keras_actlab.experiments import _cluster
from keras_actlab.experiments._compilation import compiled_once
from keras_actlab.experiments._journal import Journal
from keras_actlab.experiments._processes import Processes
from keras_actlab.experiments._training import Programs, failed, train
from keras_actlab.experiments.comparison import Comparison, Fit
from keras_actlab.experiments.results import Results, results_of, row_key

Rows: TypeAlias = list[dict[str, Any]]

MAX_EXTENSION = 4  # number of values added to a grid on each side


def run(
    comparisons: Comparison | Sequence[Comparison],
    path: str | Path,
    jobs: int = 1,
    history: bool = False,
    progress: bool = True,
    time_limit: float | None = None,
) -> Results:
    """Does the fits that are missing in a results file, and returns the results.

    Each row is appended to the file when its fit ends. A run that was killed continues when it is started again, and
    ends with the same table as an uninterrupted one. Finished fits are skipped; failed fits are retried. A fit that
    fails does not stop the others: its row holds the error, and `Results.failures` lists it. A failure is any exception
    of the fit, `sys.exit` included. In separate processes (`jobs` above 1, or with `time_limit`), it is also a process
    that is killed, for example because memory runs out, and a fit that takes too long. On a cluster, it is also a
    worker that the cluster reports as lost; Dask does so when a fit has ended four workers. Without separate processes,
    a fit that ends its process ends the run. Every fit sets the global random seeds.

    Args:
        comparisons: One comparison or several with different names.
        path: The file. It may hold rows of an earlier run of the same comparisons. Methods, splits and seeds may be
            added between runs.
        jobs: Number of processes. Each loads the backend. They end within seconds if this process is killed (not on
            Windows). With 1, fits are done in this process. Not used within `joblib.parallel_config("dask")` or another
            backend of joblib for several machines: fits are then done by its workers (see the page on scale-out).
        history: Whether rows hold the metrics of each evaluation on the validation part, for `curves`. Existing rows
            are left unchanged.
        progress: Whether to show a bar with the remaining time.
        time_limit: Maximum number of seconds for a fit, including compilation. Fits that are trained as one program
            have the sum of their limits, and are trained one by one if they exceed it. A time limit needs a separate
            process, even with one job, because a process that hangs can only be ended from outside. On a cluster, it
            must be None.

    Returns:
        The rows of these comparisons, with tables and figures. `load` returns all rows of the file.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If the file holds another configuration of a comparison of the same name (other data, metrics,
            grid, epochs, models, backend), is damaged, or is no results file, or joblib's chosen backend has threads.
            It is raised before any training or writing.
        RuntimeError: If no final fit of a comparison succeeded (after all other fits are finished and written),
            another process writes to the file, or a worker of a cluster cannot do fits, for example because it has
            loaded another backend of Keras.

    Example:

    >>> import pathlib, tempfile
    >>> from sklearn.metrics import root_mean_squared_error
    >>> from keras_actlab import experiments
    >>> def network(activation):
    ...     def build(learning_rate):
    ...         layers = [keras.Input((3,)), keras.layers.Dense(4), activation(), keras.layers.Dense(1)]
    ...         model = keras.Sequential(layers)
    ...         model.compile(keras.optimizers.Adam(learning_rate), "mse")
    ...         return model
    ...     return build
    >>> x = np.random.default_rng(0).normal(size=(60, 3))
    >>> comparison = experiments.Comparison(
    ...     name="absolute value",
    ...     methods={"ReLU": network(keras.layers.ReLU), "CRReLU": network(keras_actlab.layers.CRReLU)},
    ...     data=lambda split: experiments.holdout(x, abs(x[:, 0]), seed=split),
    ...     metrics={"RMSE": root_mean_squared_error},
    ...     grid={"learning_rate": [0.01, 0.1]},
    ...     splits=3,
    ...     epochs=5,
    ...     vectorize=3,
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     results = experiments.run(comparison, pathlib.Path(folder) / "results.jsonl", progress=False)
    >>> len(results.tuning), len(results.final)  # 2 methods x 3 splits, at 2 rates and then at the better one
    (12, 6)
    """
    boolean("progress", progress)
    with ExitStack() as stack:
        bar: tqdm | None = None

        def show_plan(total: int, done: int) -> None:
            nonlocal bar
            if bar is None:
                bar = stack.enter_context(tqdm(total=total, initial=done, unit="fit", disable=not progress))
            else:
                bar.total = total

        def show_rows(rows: Rows) -> None:
            assert bar is not None
            bar.set_postfix_str(f"{rows[0]['task']}, {rows[0]['method']}", refresh=False)
            bar.update(len(rows))

        return complete(
            comparisons,
            path,
            jobs=jobs,
            history=history,
            time_limit=time_limit,
            on_rows=show_rows,
            on_plan=show_plan,
        )


def complete(
    comparisons: Comparison | Sequence[Comparison],
    path: str | Path,
    *,
    jobs: int = 1,
    history: bool = False,
    time_limit: float | None = None,
    on_rows: Callable[[Rows], None],
    on_plan: Callable[[int, int], None] | None = None,
) -> Results:
    """Does what `run` does, and reports its progress to functions. For use within the package.

    Args:
        comparisons: As for `run`.
        path: As for `run`.
        jobs: As for `run`.
        history: As for `run`.
        time_limit: As for `run`.
        on_rows: Function that receives the rows of each group of fits just after they are written to the file. An
            exception that it raises ends the run, which continues from the file when it is started again.
        on_plan: Function that receives the number of fits of the whole run and the number of finished ones. It is
            called before the first fit, and again when the run grows.

    Returns:
        As `run`.

    Raises:
        TypeError: As `run`.
        ValueError: As `run`.
        RuntimeError: As `run`.
    """
    by_name = _by_name(comparisons)
    comparisons = list(by_name.values())
    if type(jobs) is not int or jobs < 1:
        raise ValueError(f"`jobs` must be a positive integer. Received: jobs={jobs!r}")
    if time_limit is not None:
        check_number("time_limit", time_limit, positive=True)
    on_cluster = _cluster.is_chosen()
    if on_cluster and time_limit is not None:
        raise ValueError(
            "`time_limit` must be None where `joblib.parallel_config` has chosen a cluster, because fits on other "
            f"machines cannot be ended from here. Received: time_limit={time_limit}"
        )
    boolean("history", history)
    journal = Journal(as_path("path", path))
    _agree(journal, comparisons)

    tuning = [group for comparison in comparisons for group in _tuning(comparison)]
    finished = {row_key(row) for row in _results(journal, comparisons).rows if row["failure"] is None}
    finals = {row_key(asdict(fit)) for comparison in comparisons for fit in _unchosen(comparison)}
    planned = finished | finals | _keys(tuning)
    if on_plan:
        on_plan(len(planned), len(finished))
    programs = Programs()
    elsewhere = on_cluster or jobs > 1 or time_limit is not None
    workers = _start_workers(jobs, by_name, history, on_cluster) if elsewhere else None

    def do(groups: Iterable[list[Fit]]) -> None:
        missing = _missing(groups, by_name, journal)
        trained = (
            _train_elsewhere(workers, missing, time_limit or math.inf)
            if workers
            else (train(by_name[fits[0].task], fits, programs, history) for fits in missing)
        )
        with closing(trained):
            for rows in trained:
                journal.append({"rows": rows})
                finished.update(map(row_key, rows))
                on_rows(rows)

    with compiled_once(), workers or nullcontext():
        do(tuning)
        while groups := [
            group
            for comparison in comparisons
            if comparison.extend
            for group in _beyond_the_grid(comparison, Results(journal.records), planned)
        ]:
            planned |= _keys(groups)
            if on_plan:
                on_plan(len(planned), len(finished))
            do(groups)
        # The fits above choose the hyper-parameters of the final fits.
        results = Results(journal.records)
        unchosen = [row for comparison in comparisons for row in _without_choice(comparison, results)]
        if unchosen:
            journal.append({"rows": unchosen})
            on_rows(unchosen)
        do([group for comparison in comparisons for group in _final(comparison, results)])
    results = _results(journal, comparisons)
    _check_that_something_worked(results, journal.path)
    return results


def _results(journal: Journal, comparisons: Sequence[Comparison]) -> Results:
    """The rows of comparisons, without those of other methods, splits and seeds in the file."""
    return Results(journal.records).filter({c.name: (list(c.methods), c.replicates) for c in comparisons})


def _by_name(comparisons: Comparison | Sequence[Comparison]) -> dict[str, Comparison]:
    if isinstance(comparisons, Comparison):
        comparisons = [comparisons]
    several = isinstance(comparisons, list | tuple)
    if not several or not all(isinstance(comparison, Comparison) for comparison in comparisons):
        raise TypeError(f"`comparisons` must be a Comparison or a list of them. Received: comparisons={comparisons!r}")
    by_name = {comparison.name: comparison for comparison in comparisons}
    if len(by_name) < len(comparisons):
        raise ValueError(f"`comparisons` must have different names. Received: {[c.name for c in comparisons]}")
    return by_name


def _start_workers(
    jobs: int, by_name: dict[str, Comparison], history: bool, on_cluster: bool
) -> Processes | _cluster.Cluster:
    os.environ["KERAS_BACKEND"] = keras.backend.backend()  # read by new processes
    settings = keras.config.floatx(), keras.config.dtype_policy().name, keras.config.image_data_format()
    work = settings, by_name, history
    try:
        return _cluster.Cluster(_prepare, work) if on_cluster else Processes(jobs, _prepare, work)
    except Exception as error:  # each library raises its own
        raise TypeError(
            "`comparisons` must hold what can be sent to other processes. Datasets cannot: `data` must be a "
            f"function that makes them. Received: {type(error).__name__}: {error}"
        ) from error


def _check_that_something_worked(results: Results, path: Path) -> None:
    for task in results.configurations:
        rows = [row for row in results.rows if row["task"] == task]
        if not any(row["stage"] == "final" and row["failure"] is None for row in rows):
            failures = [row["failure"] for row in rows if row["failure"] is not None]
            raise RuntimeError(
                f"no final fit of the comparison {task!r} has succeeded; {len(failures)} fits failed, the first with "
                f"{failures[0]!r}. `keras_actlab.experiments.load({str(path)!r}).failures` lists them"
            )


def _agree(journal: Journal, comparisons: Sequence[Comparison]) -> None:
    """Compares the configurations with those in the file, then adds what is new."""
    kept = results_of(journal).configurations
    new = {}
    for comparison in comparisons:
        now = json.loads(json.dumps(comparison.configuration()))
        before = kept.get(comparison.name, now)
        if not is_first_process():  # its share of the data differs
            now["data"] = before["data"]
        methods, different = {}, []
        for method, fingerprints in now["methods"].items():
            kept_ones = before["methods"].get(method)
            if not isinstance(kept_ones, list):  # a new method, or one of version 0.1, whose models are not compared
                kept_ones = [None] * len(fingerprints)
            pairs = list(zip(fingerprints, kept_ones, strict=False))  # of other lengths if the grid is another one
            methods[method] = [here or there for here, there in pairs]  # None stands for what could not be built
            different += [
                f"method {method!r} at {point}"
                for point, (here, there) in zip(comparison.candidates, pairs, strict=False)
                if None not in (here, there) and here != there
            ]
        different += [
            f"{k}: {before.get(k)} there, {now[k]} here" for k in now if k != "methods" and now[k] != before.get(k)
        ]
        if different:
            raise ValueError(
                f"`path` must be a file of the same configuration, or a new one. Received: path={str(journal.path)!r}, "
                f"where {comparison.name!r} differs in {'; '.join(different)}"
            )
        methods |= {m: known for m, known in before["methods"].items() if m not in methods}
        if comparison.name not in kept or list(methods.items()) != list(before["methods"].items()):
            new[comparison.name] = {**before, "methods": methods}
    for name, configuration in new.items():
        journal.append({"task": name, "configuration": configuration})


def _tuning(comparison: Comparison) -> Iterator[list[Fit]]:
    if comparison.chooses:
        for method, point in itertools.product(comparison.methods, comparison.candidates):
            yield [
                Fit(comparison.name, method, "tune", split, seed, point, comparison.epochs)
                for split, seed in comparison.replicates
            ]


def _unchosen(comparison: Comparison) -> Iterator[Fit]:
    """The final fits before their hyper-parameters are chosen."""
    for method, (split, seed) in itertools.product(comparison.methods, comparison.replicates):
        yield Fit(comparison.name, method, "final", split, seed, {}, 0)


def _keys(groups: Iterable[list[Fit]]) -> set[tuple[Any, ...]]:
    return {row_key(asdict(fit)) for group in groups for fit in group}


def _beyond_the_grid(comparison: Comparison, results: Results, planned: set[tuple[Any, ...]]) -> list[list[Fit]]:
    """The fits at the next value, where the best one is the lowest or highest that is planned.

    Fits of a method with equal hyper-parameters are in one group.
    """
    name = str(comparison.extend)
    grid = sorted(comparison.grid[name])
    values = sorted([*grid, *_continued(grid[1], grid[0]), *_continued(grid[-2], grid[-1])])
    groups: dict[str, list[Fit]] = {}
    for final in _unchosen(comparison):
        best = results.choices.get((comparison.name, final.method, final.split, final.seed))
        if best is None:
            continue
        value = best["hyperparameters"][name]
        for neighbour in [v for v in values if v < value][-1:] + [v for v in values if v > value][:1]:
            point = {**best["hyperparameters"], name: neighbour}
            fit = replace(final, stage="tune", hyperparameters=point, epochs=comparison.epochs)
            if row_key(asdict(fit)) not in planned:
                groups.setdefault(json.dumps([final.method, point], sort_keys=True), []).append(fit)
    return list(groups.values())


def _continued(before: float, last: float) -> list[float]:
    """The values that continue a geometric sequence, rounded, because they are keys of rows."""
    values = [last]
    while len(values) <= MAX_EXTENSION:
        value = values[-1] * (last / before)
        value = round(value) if type(before) is type(last) is int else float(f"{value:.6g}")
        if not 0 < value < math.inf or (value > values[-1]) != (last > before) or value == values[-1]:
            break  # beyond the range of numbers, or rounded to the one before
        values.append(value)
    return values[1:]


def _without_choice(comparison: Comparison, results: Results) -> Iterator[dict[str, Any]]:
    """Yields new rows for the final fits that cannot be done, because no candidate has a finite metric."""
    if not comparison.chooses:
        return
    there = {row_key(row): row["failure"] for row in results.rows}
    failure = "no candidate has a finite validation metric"
    for fit in _unchosen(comparison):
        row = asdict(fit) | {"failure": failure}
        place = comparison.name, fit.method, fit.split, fit.seed
        if place not in results.choices and there.get(row_key(row)) != failure:
            yield row


def _final(comparison: Comparison, results: Results) -> Iterator[list[Fit]]:
    """The final fits, those of the same hyper-parameters in one group."""
    for method in comparison.methods:
        groups: dict[str, list[Fit]] = {}
        for split, seed in comparison.replicates:
            point, epochs = comparison.candidates[0], comparison.epochs
            if comparison.chooses:
                row = results.choices.get((comparison.name, method, split, seed))
                if row is None:
                    continue
                point, epochs = row["hyperparameters"], row["epochs"]
            fit = Fit(comparison.name, method, "final", split, seed, point, epochs)
            groups.setdefault(json.dumps(point, sort_keys=True), []).append(fit)
        yield from groups.values()


def _missing(groups: Iterable[list[Fit]], comparisons: dict[str, Comparison], journal: Journal) -> Iterator[list[Fit]]:
    """Yields the fits of each group that are not in the file, in chunks that are trained as one program."""
    done = {row_key(row): row for row in Results(journal.records).rows if row["failure"] is None}
    for group in groups:
        missing = [fit for fit in group if not _is(fit, done.get(row_key(asdict(fit))))]
        size = comparisons[group[0].task].vectorize
        for start in range(0, len(missing), size):
            yield missing[start : start + size]


def _is(fit: Fit, row: dict[str, Any] | None) -> bool:
    if row is None or row["hyperparameters"] != fit.hyperparameters:
        return False
    return fit.stage == "tune" or row["epochs"] == fit.epochs


def _train_elsewhere(
    workers: Processes | _cluster.Cluster, groups: Iterable[list[Fit]], time_limit: float, alone: bool = False
) -> Generator[Rows, None, None]:
    """Trains groups in other processes. If a process ends, the fits of its group are retried one by one."""
    again = []
    work = functools.partial(_train_here, alone=alone)
    with warnings.catch_warnings():
        # A process whose compiled programs have filled its memory is replaced by a fresh one; no fit is lost.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given to the executor")
        for fits, rows, failure in workers.map(work, groups, lambda fits: time_limit * len(fits)):
            if failure is None:
                yield rows
            elif len(fits) == 1:
                yield [failed(fits[0], failure)]
            else:
                again += [[fit] for fit in fits]
    if again:
        yield from _train_elsewhere(workers, again, time_limit, alone=True)


# What a process or worker trains: comparisons by their names, and further arguments of `train`.
_work: tuple[dict[str, Comparison], Programs, bool] = ({}, Programs(), False)


def _prepare(settings: tuple[str, str, str], comparisons: dict[str, Comparison], history: bool) -> None:
    """Gives another process the settings of the one that started it."""
    global _work  # a process has one run, a worker one at a time
    floatx, policy, data_format = settings
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)
    keras.config.set_image_data_format(data_format)
    # Keras imports TensorFlow, where that is installed, before it serializes its first object, as fits do. It has to
    # happen here, because loky takes the growth of memory in a task for a leak, and replaces the process.
    keras.saving.serialize_keras_object(keras.Sequential())
    _work = comparisons, Programs(), history


def _train_here(fits: list[Fit], alone: bool) -> Rows:
    comparisons, programs, history = _work
    comparison = comparisons[fits[0].task]
    alone = alone and comparison.fit is None  # which takes lists, also of one fit, if `vectorize` is above 1
    return train(replace(comparison, vectorize=1) if alone else comparison, fits, programs, history)
