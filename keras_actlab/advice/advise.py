"""Answers whether variants of a model are better than the model, within a budget."""

import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
from joblib import effective_n_jobs
from tqdm import tqdm

from keras_actlab.advice import variants as known
from keras_actlab.advice.budget import Budget, in_words, parse
from keras_actlab.advice.data import prepare
from keras_actlab.advice.question import NAME, TOGETHER, Question, ask
from keras_actlab.advice.result import FILE, QUESTION, RESULTS, Advice, former_looks
from keras_actlab.advice.variants import Variants
from keras_actlab.arguments import as_path, boolean, check_choice, check_number, positive_integer
from keras_actlab.experiments._cluster import is_chosen
from keras_actlab.experiments.results import Results, load
from keras_actlab.experiments.running import Rows, complete
from keras_actlab.files import write

DEFAULT = ("gelu", "crrelu", "tmaf", "gmp")
FEWEST = 2  # pairs, as one has no error bar


def advise(
    model: keras.Model | Callable[[], keras.Model],
    train: Any,
    validation: Any = None,
    test: Any = None,
    *,
    variants: Variants = DEFAULT,
    metric: str | None = None,
    mode: str | None = None,
    start: str = "scratch",
    epochs: int | None = None,
    batch_size: int = 32,
    steps_per_epoch: int | None = None,
    class_weight: Mapping[int, float] | None = None,
    budget: str | float = "15min",
    smallest_effect: float | None = None,
    path: str | Path = "advice",
    jobs: int = 1,
    progress: bool = True,
) -> Advice:
    """Says whether variants of a model are better than the model on its data, with error bars.

    The model as it is and each variant are trained on the same pairs: random splits of the data, or random seeds. In
    each pair, the validation part chooses the learning rate of every variant by the same rule: three rates around the
    model's own, and further ones while the best is at an end of those tried. The chosen fit is then trained again, for
    arrays on the training and validation part together, and evaluated once on the test part. The paired differences to
    the model as it is give one of these verdicts:

    - "better" or "worse": a paired t-test rejects that both are equal;
    - "no difference": two one-sided t-tests reject differences larger than `smallest_effect`;
    - "cannot tell": neither. The verdict has the smallest difference that would have been found with 80 % probability,
      and the number of pairs that would find `smallest_effect`.

    Everything is written to `path`. A call that was killed continues when it is made again. A call with a larger budget
    adds pairs and looks at the data again. The level of a test at look k is `0.05 / (k (k + 1))`, divided by the number
    of variants. These levels sum to at most 0.05, so the probability of any false "better" or "worse" is at most 5 %,
    over all variants and all looks (union bound).

    Args:
        model: A compiled model, or a function that returns one. The optimizer, loss and metrics are those of `compile`.
            The model is left unchanged. A function serves for models that Keras cannot save.
        train: `(inputs, targets)` or `(inputs, targets, sample_weights)`, where each is an array or a nested structure
            of arrays; a dataset that `model.fit` takes (`tf.data.Dataset`, `torch.utils.data.DataLoader`,
            `keras.utils.PyDataset`, Grain datasets), or a function of a seed that returns one; an
            `experiments.Split`; or a function of an index that returns one.
        validation: The part that chooses, in the form of `train`. For arrays it may be missing: it is then drawn from
            `train`.
        test: The part that judges, likewise. If both are missing, each pair has a random split of its own.
        variants: Names, or a mapping from names to functions (or known names). A function takes a model that is not
            compiled and returns another, or changes it. Names are "crrelu", "tmaf", "tmaf diagonal", "entropy",
            "prelu", "gmp" (geometric weights), "gmp+imn" (and normalized means of inputs), "weight norm", and all of
            `keras.activations`. See `keras_actlab.advice.names`.
        metric: Name of the metric that chooses and judges, as `model.evaluate` reports it. The default is the first
            metric of `compile`, or "loss" if there is none.
        mode: "min" or "max", for a metric of which Keras does not know whether low or high values are better.
        start: "scratch" draws new weights for each pair by the model's own initializers, the same for all variants,
            which are converted from them. Frozen and adapted layers keep their weights. "trained" starts from the given
            weights, converted without a change of outputs where the variant can: the question of fine-tuning.
        epochs: Number of epochs of a fit. Without it, the validation part chooses among 5, 10, ... 50.
        batch_size: Number of examples in a batch of arrays. An incomplete last batch is left out of an epoch.
        steps_per_epoch: Number of batches in an epoch of a dataset. Without it, an epoch is the whole dataset.
        class_weight: As in `model.fit`.
        budget: Time for training, such as "15min" or seconds, in total for all calls with this `path`; or a number of
            pairs, such as "10 pairs", for the same numbers on any machine.
        smallest_effect: Smallest difference of the metric that matters. The default is half the standard deviation of
            the paired differences.
        path: Folder for the rows of all fits, `report.html` and `advice.json`.
        jobs: Number of processes. Within `joblib.parallel_config`, fits run on a cluster (see "Large training runs" in
            the documentation).
        progress: Whether to show a bar with the remaining budget.

    Returns:
        The verdicts, as a table, as sentences, and in `report.html`.

    Raises:
        TypeError: If an argument has another type than described.
        ValueError: If the model is not compiled or cannot be rebuilt, data or targets do not fit, are not finite or are
            fewer than a batch, a metric or variant is unknown, no variant changes the model, the budget is too small
            for two pairs, or `path` holds the answer to another question.
        RuntimeError: If all final fits failed.

    Example:

    >>> import tempfile
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1)])
    >>> model.compile("adam", "mse")
    >>> x = np.random.default_rng(0).normal(size=(120, 3))
    >>> folder = tempfile.TemporaryDirectory()
    >>> advice = keras_actlab.advise(
    ...     model, (x, abs(x[:, 0])), variants=["crrelu"], epochs=2, budget="2 pairs", path=folder.name, progress=False
    ... )
    >>> advice["crrelu"].verdict
    'cannot tell'
    >>> folder.cleanup()

    Reference:

    - [Nadeau and Bengio, 2003](https://doi.org/10.1023/A:1024068626366), the variance over random splits.
    - [Schuirmann, 1987](https://doi.org/10.1007/BF01068419), two one-sided tests.
    """
    check_choice("start", start, ("scratch", "trained"))
    if mode is not None:
        check_choice("mode", mode, ("min", "max"))
    for name, number in (("epochs", epochs), ("batch_size", batch_size), ("steps_per_epoch", steps_per_epoch)):
        if number is not None:
            positive_integer(name, number)
    positive_integer("jobs", jobs)
    boolean("progress", progress)
    if smallest_effect is not None:
        check_number("smallest_effect", smallest_effect, positive=True)
    limit = parse(budget)
    folder = as_path("path", path)
    question = ask(
        model,
        known.resolve(variants, "same" if start == "trained" else "own"),
        prepare(train, validation, test),
        metric,
        mode,
        start == "scratch",
        epochs,
        batch_size,
        steps_per_epoch,
        class_weight,
    )
    looks = former_looks(folder / FILE)
    _agree(folder / QUESTION, question)
    results = _train(question, limit, folder / RESULTS, jobs, progress)
    advice = Advice(question, results, folder, looks, smallest_effect, limit)
    advice.save()
    return advice


def _agree(file: Path, question: Question) -> None:
    """Raises a ValueError if the folder has rows of another question; otherwise writes down the question."""
    asked = question.identity
    has_rows = file.with_name(RESULTS).exists()
    former = json.loads(file.read_text(encoding="utf-8")) if has_rows and file.exists() else asked
    different = [
        f"{name}: {former.get(name)} there, {asked[name]} here" for name in asked if former.get(name) != asked[name]
    ]
    if different:
        raise ValueError(
            f"`path` must be the folder of the same question, or a new one. Received: path={str(file.parent)!r}, which "
            f"differs in {'; '.join(different)}"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, json.dumps(asked) + "\n")


def _train(question: Question, budget: Budget, path: Path, jobs: int, progress: bool) -> Results:
    """Does the fits of as many pairs as the budget allows; pairs that an earlier call began are finished first."""
    former, workers = _former_rows(path), effective_n_jobs(-1) if is_chosen() else jobs
    pairs = max((max(row["split"], row["seed"]) + 1 for row in former), default=0)
    if budget.is_time:
        pairs = max(pairs, FEWEST) if pairs else _first_pairs(question, budget, workers)
    else:
        pairs = max(pairs, int(budget.pairs))
    with _bar(budget, _seconds(former) / workers, progress) as bar, _quiet():

        def show(rows: Rows) -> None:
            bar.set_postfix_str(rows[0]["method"], refresh=False)
            if budget.is_time:
                bar.update(min(_seconds(rows) / workers, bar.total - bar.n))  # tqdm shows no more than the total
            else:
                bar.update(len(rows))

        def plan(total: int, done: int) -> None:
            if not budget.is_time:
                bar.total, bar.n = total, done
                bar.refresh()

        while True:
            comparison = question.comparison(pairs)
            results = complete(comparison, path, jobs=jobs, history=True, on_rows=show, on_plan=plan)
            spent = _seconds(results.rows) / workers
            more = (budget.seconds - spent) / (spent / pairs) if budget.is_time else 0
            if more < 1:
                return results
            pairs += int(more)


def _former_rows(path: Path) -> Rows:
    """The rows of former calls."""
    return [row for row in load(path).rows if row["task"] == NAME] if path.exists() else []


def _first_pairs(question: Question, budget: Budget, workers: int) -> int:
    """The number of pairs to begin with, before fits have shown what they cost."""
    fit, pair = question.seconds()
    pair /= workers
    if FEWEST * pair > budget.seconds:
        enough = in_words(math.ceil(FEWEST * pair * 1.5))
        raise ValueError(
            f"`budget` must be enough for {FEWEST} pairs of fits. One fit takes about {in_words(fit)}, and a pair of "
            f"{len(question.variants)} models with {question.rates} learning rates each about {in_words(pair)}, from "
            f"the time of a few steps. {enough!r} should do; or choose fewer variants or epochs. "
            f"Received: budget={str(budget)!r}"
        )
    return max(FEWEST, min(TOGETHER, int(budget.seconds / 2 / pair)))


def _bar(budget: Budget, used: float, progress: bool) -> Any:
    """A progress bar of the seconds of the budget that are used, or of fits."""
    if not budget.is_time:
        return tqdm(unit="fit", disable=not progress)
    shown = "{percentage:3.0f}% of the budget |{bar}| {n:.0f}/{total:.0f} s{postfix}"
    return tqdm(initial=min(used, budget.seconds), total=budget.seconds, bar_format=shown, disable=not progress)


def _seconds(rows: Rows) -> float:
    return sum(row.get("seconds", 0.0) for row in rows)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the engine's warning that fits are trained one by one; the report says which were not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fits are trained one by one")
        yield
