"""A verdict for every claim of the three papers, computed from the files of results.

Each verdict follows from numbers by one rule. Of a difference between two methods, the 95 % interval decides, and the
gain that the paper claims:

- confirmed: the interval is on the claimed side of 0, also after correction for all comparisons on the same results
  page (false discovery rate, Benjamini and Hochberg).
- refuted: the claimed gain is outside the interval or, where the paper gives no number, the interval is on the other
  side of 0; and the claim is not confirmed.
- not told apart: neither.
- undecided: no run of this repository is large enough.

Intervals are those of `experiments.Paired`, with the correction for splits of one table. The smallest difference that
could have been seen is the one that the test finds with a probability of 80 %.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import typer
from scipy import stats
from scipy.integrate import quad

from keras_actlab.experiments import Paired
from keras_actlab.files import write
from recipes.common import cli

RESULTS = Path(__file__).parent / "results"
OVERLAP = 0.25  # test examples / training examples of random splits that hold out 20 %


@dataclass(frozen=True)
class Finding:
    """What the files of results say about a claim."""

    verdict: str
    figure: str
    smallest: str = ""
    p: float | None = None  # of a verdict that a test decided


@dataclass(frozen=True)
class Claim:
    """A claim of a paper: where it stands, what it says, and how it is checked."""

    paper: str
    where: str
    text: str
    page: str  # the results page
    command: str
    find: Callable[[], Finding]


@cache
def read(name: str) -> pd.DataFrame:
    """Reads a file of results."""
    return pd.read_csv(RESULTS / f"{name}.csv")


def final(name: str, task: str, metric: str) -> pd.DataFrame:
    """Returns the test metric of each split (rows) and method (columns); nothing if there is no such file yet."""
    if not (RESULTS / f"{name}.csv").exists():
        return pd.DataFrame()
    rows = read(name)
    if "stage" in rows:
        rows = rows[rows["stage"] == "final"]
    return rows[rows["task"] == task].pivot_table(index="split", columns="method", values=metric)


def judged(paired: Paired, gain: float | None, higher_is_better: bool = False, ratio: bool = False) -> Finding:
    """Judges a difference of a method to its baseline.

    Args:
        paired: The differences.
        gain: The difference that the paper claims, None if it gives no number.
        higher_is_better: Whether the claim is a positive difference.
        ratio: Whether the differences are of logarithms, and shown as ratios.
    """
    low, high = paired.interval()
    better, worse = (low > 0, high < 0) if higher_is_better else (high < 0, low > 0)
    excluded = worse if gain is None else not low <= gain <= high
    verdict = "confirmed" if better else "refuted" if excluded else "not told apart"

    def show(value: float) -> str:
        return f"{np.exp(value):.3f}" if ratio else f"{value:+.3g}"

    figure = f"{show(paired.mean)} ({show(low)} to {show(high)})"
    if gain is not None:
        figure += f"; paper {show(gain)}"
    return Finding(verdict, figure, show(paired.detectable(0.05)).removeprefix("+"), paired.p_value)


def difference(
    name: str,
    task: str,
    method: str,
    baseline: str,
    metric: str,
    gain: float | None,
    overlap: float,
    higher_is_better: bool = False,
) -> Callable[[], Finding]:
    """Returns the function that judges the difference between two methods of a task."""

    def find() -> Finding:
        values = final(name, task, metric)
        if not {method, baseline} <= set(values):
            return Finding("undecided", "not run yet")
        differences = (values[method] - values[baseline]).dropna().to_numpy()
        return judged(Paired(differences, overlap), gain, higher_is_better)

    return find


def undecided(figure: str, task: str = "", method: str = "", baseline: str = "") -> Callable[[], Finding]:
    """Returns the function of a claim for which no run is large enough, with what smaller networks have shown."""

    def find() -> Finding:
        values = final(LARGE, task, "accuracy, %")
        if not {method, baseline} <= set(values):
            return Finding("undecided", figure)
        paired = Paired((values[method] - values[baseline]).dropna().to_numpy())
        low, high = paired.interval()
        seen = f"{figure}; smaller networks {paired.mean:+.3g} ({low:+.3g} to {high:+.3g})"
        return Finding("undecided", seen, f"{paired.detectable(0.05):.3g}")

    return find


# Published means and standard errors of the UCI table: plain and geometric weights. Naval has one digit only.
UCI = {
    "boston": ((3.370, 0.145), (3.057, 0.144)),
    "concrete": ((5.472, 0.144), (5.153, 0.098)),
    "energy": ((0.898, 0.274), (0.474, 0.013)),
    "naval": ((0.002, 0.0005), (0.003, 0.0005)),
    "power": ((4.065, 0.029), (4.022, 0.025)),
    "wine": ((0.623, 0.008), (0.613, 0.006)),
    "yacht": ((0.639, 0.063), (0.584, 0.046)),
}
GMP = "GmP, code's start"
POOLED = [name for name in UCI if name != "naval"]  # whose published errors have one digit; that of GmP is the higher


def pooled(name: str, method: str, baseline: str, gain: float | None, suffix: str = "") -> Callable[[], Finding]:
    """Returns the function that judges the geometric mean, over the UCI sets, of ratios of errors."""

    def find() -> Finding:
        values = {task: final(name, task + suffix, "RMSE") for task in POOLED}
        run = {task: table for task, table in values.items() if {method, baseline} <= set(table)}
        logs = pd.DataFrame({task: np.log(table[method] / table[baseline]) for task, table in run.items()}).dropna()
        finding = judged(Paired(logs.mean(axis=1), OVERLAP), gain and float(np.log(gain)), ratio=True)
        return replace(finding, figure=f"{finding.figure}; {', '.join(run)}")

    return find


def growth_with_the_batch(name: str, baseline: str) -> Callable[[], Finding]:
    """Returns the function that compares the gains of GmP+IMN with batches of 64 and of 512, which share splits."""

    def find() -> Finding:
        tables = [final(name, f"VGG, batch {batch}", "accuracy, %") for batch in (64, 512)]
        if not all({"GmP+IMN", baseline} <= set(table) for table in tables):
            return Finding("undecided", "not run yet")
        at_64, at_512 = (table["GmP+IMN"] - table[baseline] for table in tables)
        return judged(Paired((at_512 - at_64).dropna().to_numpy()), None, higher_is_better=True)

    return find


def published_table() -> Finding:
    """Counts the published means of the UCI table that the authors' protocol gives within two standard errors."""
    agree: dict[str, list[str]] = {"SP": [], GMP: []}
    run = []
    for task, published in UCI.items():
        values = final("uci_regression-authors", f"{task}, authors", "RMSE")
        if set(agree) <= set(values):
            run.append(task)
            for method, (mean, error) in zip(agree, published, strict=True):
                if abs(values[method].mean() - mean) <= 2 * np.hypot(values[method].sem(), error):
                    agree[method].append(task)
    both = len(set(agree["SP"]) & set(agree[GMP]))
    figure = f"SP {len(agree['SP'])}, GmP {len(agree[GMP])}, both {both} of {len(run)} sets: {', '.join(run)}"
    possible = both + len(UCI) - len(run)
    return Finding("confirmed" if both >= 5 else "undecided" if possible >= 5 else "refuted", figure)


def jumps() -> Finding:
    """Compares the largest turns after a small step of small weights."""
    rows = read("perturbation")
    rows = rows[(rows["deviation"] == 0.001) & (rows["size"] == 0.01)]
    largest = rows.groupby("method")["turn, largest"].max()
    others = largest[["SP", "WN", "BN"]]
    figure = "largest turn " + ", ".join(f"{method} {turn:.1f}°" for method, turn in others.items())
    return Finding("confirmed" if others.min() > 170 else "refuted", figure)


def bound() -> Finding:
    """Compares the largest turns of geometric units with the length of the step."""
    rows = read("perturbation").query("method == 'GmP'")
    ratio = (rows["turn, largest"] / np.degrees(rows["size"])).max()
    return Finding("confirmed" if ratio < 1.001 else "refuted", f"largest turn / step {ratio:.3f}")


def largest_changes(name: str, column: str, unit: str, limit: float) -> Callable[[], Finding]:
    """Returns the function that compares the largest changes of boundaries with a limit for geometric weights."""

    def find() -> Finding:
        changes = read(name).groupby("method")[column]
        shown = [f"{method} {changes.get_group(method).max():.3g}{unit}" for method in ("SP", "WN", "BN", "GmP", GMP)]
        median = changes.median()
        apart = median[["GmP", GMP]].max() < limit < changes.max()[["SP", "WN", "BN"]].min()
        return Finding("confirmed" if apart else "refuted", "largest of all splits: " + ", ".join(shown))

    return find


def gallery() -> Finding:
    """Checks that a boundary's location is -radius times its direction."""
    rows = read("boundary_gallery")
    axes = [1, 2, 3]
    normals, locations = (rows[[f"{name} {k}" for k in axes]].fillna(0).to_numpy() for name in ("normal", "location"))
    largest = np.abs(locations + rows["radius"].to_numpy()[:, None] * normals).max()
    return Finding("confirmed" if largest < 1e-4 else "refuted", f"largest deviation {largest:.0e}")


def chosen_rates(methods: list[str], rate: float) -> Callable[[], Finding]:
    """Returns the function that counts how often validation data chose a learning rate, and the most frequent one."""

    def find() -> Finding:
        rows = read("uci_regression").query("stage == 'final'")
        found = {method: rows.loc[rows["method"] == method, "learning_rate"].value_counts() for method in methods}
        shown = [
            f"{method}: {counts.get(rate, 0)} of {counts.sum()}, most often {counts.idxmax():g}"
            for method, counts in found.items()
        ]
        agree = all(counts.idxmax() == rate for counts in found.values())
        return Finding("confirmed" if agree else "refuted", "; ".join(shown))

    return find


def basin(name: str, column: str, baseline: str) -> Callable[[], Finding]:
    """Returns the function that judges the ratio of GmP to a baseline in the basin atlas, pooled over its sets."""

    def find() -> Finding:
        logs = np.log(read(name).set_index(["set", "seed", "method"])[column]).unstack()
        ratios = (logs["GmP"] - logs[baseline]).groupby("seed").mean()
        return judged(Paired(ratios), None, higher_is_better=True, ratio=True)

    return find


def parameters(name: str, method: str, baseline: str, more: int) -> Callable[[], Finding]:
    """Returns the function that compares numbers of parameters."""

    def find() -> Finding:
        counts = read(name).groupby("method")["parameters"].first()
        difference = int(counts[method] - counts[baseline])
        return Finding("confirmed" if difference == more else "refuted", f"{difference} more than {baseline}")

    return find


def steepest_gain() -> Finding:
    """Compares the gain of tri-diagonal TMAF over ReLU at 16 periods with that at 2."""
    gains = []
    for periods in (16, 2):
        values = final("function_approximation", f"sine {periods}, equal width", "relative error")
        gains.append((values["TMAF tri-diagonal"] - values["ReLU"]).to_numpy())
    return judged(Paired(gains[0] - gains[1]), None)


def worst_activation() -> Finding:
    """The entropy of Φ(s x) for x ~ N(0, 1), in nats: log(s) + (1 - s²) / 2."""
    entropies = {s: np.log(s) + (1 - s**2) / 2 for s in (0.5, 0.8, 1.0, 1.25, 2.0)}
    highest = max(entropies, key=entropies.__getitem__)
    shown = ", ".join(f"{entropy + 0.0:.3f} (s = {s:g})" for s, entropy in entropies.items())
    return Finding("confirmed" if highest == 1 else "refuted", f"entropy of Φ(s x): {shown}")


def sign_of_epsilon() -> Finding:
    """The change of the entropy of CRReLU on x > 0, for x ~ N(0, 1): the mean of log f'(x), over x > 0."""

    def change(epsilon: float) -> float:
        def integrand(x: float) -> float:
            return np.log(1 + epsilon * (1 - x**2) * np.exp(-(x**2) / 2)) * 2 * stats.norm.pdf(x)

        return quad(integrand, 0, np.inf)[0]

    start, negative = change(0.01), change(-0.01)
    figure = f"{start:+.4f} nats at 0.01, {negative:+.4f} nats at -0.01"
    return Finding("confirmed" if start < 0 else "refuted", figure)


def correlation(task: str) -> Callable[[], Finding]:
    """Returns the function that judges the correlation of entropy and accuracy over the means of methods."""

    def find() -> Finding:
        rows = read("entropy_search-correlation").set_index(["task", "entropy", "over"])
        row = rows.loc[(task, "standardized after", "methods")]
        value, p, n = row["correlation"], row["p"], int(row["n"])
        # Fisher's z: the correlation that is found with a probability of 80 %.
        smallest = np.tanh((stats.norm.isf(0.025) + stats.norm.isf(0.2)) / np.sqrt(n - 3))
        verdict = "confirmed" if p < 0.05 and value < 0 else "not told apart"
        return Finding(verdict, f"correlation {value:+.2f}, p = {p:.2g}, {n} methods", f"{smallest:.2f}", p)

    return find


def refined(task: str, metric: str, overlap: float, higher_is_better: bool) -> Callable[[], Finding]:
    """Returns the function that compares the refined spline with the one that is trained by gradients alone."""

    def find() -> Finding:
        rows = read("entropy_search-entropies")
        rows = rows[rows["task"] == task]
        values = rows.groupby(["split", "method"])[metric].mean().unstack()
        differences = (values["spline, refined"] - values["spline, gradient"]).to_numpy()
        return judged(Paired(differences, overlap), None, higher_is_better)

    return find


GEOMETRY, MATRICES, ENTROPY = "Chen and Ge (2024)", "Liu et al. (2024)", "Sun et al. (2024)"
UCI_PAGE, LEVY, BANANA, ATLAS = "uci_regression", "levy_regression", "banana_classification", "basin_atlas"
SMALL, LARGE = "small_image_networks", "small_image_networks-large"
IMAGE_NETWORKS = {"small": SMALL, "larger": LARGE}
STARTS = {"the paper's start": "GmP", "the code's start": GMP}
AUTHORS = " --protocol authors"
COMMANDS = {
    "perturbation": "python -m recipes.perturbation",
    LEVY: "python -m recipes.levy_regression",
    BANANA: "python -m recipes.banana_classification --data banana.csv",
    "boundary_gallery": "python -m recipes.boundary_gallery",
    UCI_PAGE: "python -m recipes.uci_regression --data-dir FOLDER",
    ATLAS: "python -m recipes.basin_atlas",
    "imagenet32_vgg": "python -m recipes.imagenet32_vgg --data-dir FOLDER",
    "imagenet_resnet": "python -m recipes.imagenet_resnet --data-dir FOLDER",
    "function_approximation": "python -m recipes.function_approximation",
    "mnist_classification": "python -m recipes.mnist_classification",
    "cifar_tmaf": "python -m recipes.cifar_tmaf",
    "entropy_search": "python -m recipes.entropy_search",
    "cifar_transformers": "python -m recipes.cifar_transformers",
    "imagenet_transformers": "python -m recipes.imagenet_transformers --data-dir FOLDER",
    "gpt2_dpo": "python -m recipes.gpt2_dpo --train hh-train.jsonl.gz --test hh-test.jsonl.gz --preset gpt2_base_en",
    SMALL: "python -m recipes.small_image_networks",
    LARGE: "python -m recipes.small_image_networks --size large",
    "verdicts": "python -m recipes.verdicts",
}
# Pages of results under another name than that of the recipe; None for recipes that were not run at a useful size.
PAGES = {
    "imagenet32_vgg": "reduced_runs",
    "cifar_transformers": "reduced_runs",
    "imagenet_resnet": None,
    "imagenet_transformers": None,
    "cifar_tmaf": None,
    LARGE: SMALL,
    "gpt2_dpo": None,
    "verdicts": None,
}


def claim(paper: str, where: str, text: str, recipe: str, find: Callable[[], Finding], options: str = "") -> Claim:
    """Returns a claim with the command of its recipe."""
    return Claim(paper, where, text, recipe, COMMANDS[recipe] + options, find)


def by_both_protocols(
    where: str, text: str, recipe: str, task: str, method: str, metric: str, gain: float, **options: Any
) -> list[Claim]:
    """Returns the claim that a method is better than SP by our protocol, and the same by that of the authors."""
    ours = difference(recipe, task, method, "SP", metric, gain, **options)
    theirs = difference(f"{recipe}-authors", f"{task}, authors", method, "SP", metric, gain, **options)
    return [
        claim(GEOMETRY, where, text, recipe, ours),
        claim(GEOMETRY, where, f"{text}, by the authors' protocol", recipe, theirs, AUTHORS),
    ]


def geometric_claims() -> list[Claim]:
    """The claims on geometric weights and boundaries."""
    claims = [
        (
            "figure 1",
            "A small step can turn the boundary of a plain, WN or BN unit by up to 180 degrees",
            jumps,
        ),
        ("theorem 3.7", "A step turns the boundary of a geometric unit by at most its length", bound),
    ]
    found = [claim(GEOMETRY, where, text, "perturbation", find) for where, text, find in claims]
    found += [
        claim(GEOMETRY, "figures 5, 6", "Radius and angles move a boundary separately", "boundary_gallery", gallery),
        claim(
            GEOMETRY,
            "equation 13",
            "A geometric unit has as many parameters as a plain one",
            UCI_PAGE,
            parameters(UCI_PAGE, GMP, "SP", 0),
        ),
        claim(
            GEOMETRY,
            "figure 2",
            "Boundaries of SP, WN and BN jump on the Levy function, those of GmP move by less than 1",
            LEVY,
            largest_changes("levy_regression-boundaries", "largest step", "", 1.0),
        ),
    ]
    for start, method in STARTS.items():
        text = f"GmP with {start} has a lower error on the Levy function than SP"
        found += by_both_protocols("figure 2", text, LEVY, "Levy", method, "RMSE", 0.496 - 1.224, overlap=0)
    found.append(
        claim(
            GEOMETRY,
            "figure 3",
            "Boundaries of SP, WN and BN turn around on Banana, those of GmP do not",
            BANANA,
            largest_changes("banana_classification-boundaries", "largest turn", "°", 90.0),
        )
    )
    for start, method in STARTS.items():
        text = f"GmP with {start} classifies Banana better than SP, in points"
        options = {"overlap": OVERLAP, "higher_is_better": True}
        found += by_both_protocols("figure 3", text, BANANA, "Banana", method, "accuracy, %", 8.5, **options)
    for task in POOLED:
        (plain, _), (geometric, _) = UCI[task]
        gain = round(geometric - plain, 3)
        text = f"GmP has a lower error than SP on {task.capitalize()}"
        found.append(
            claim(GEOMETRY, "UCI table", text, UCI_PAGE, difference(UCI_PAGE, task, GMP, "SP", "RMSE", gain, OVERLAP))
        )
    ratio = float(np.exp(np.mean([np.log(UCI[task][1][0] / UCI[task][0][0]) for task in POOLED])))
    for start, method in STARTS.items():
        text = f"GmP with {start} has a lower error than SP, as a ratio over all sets but Naval"
        found.append(claim(GEOMETRY, "UCI table", text, UCI_PAGE, pooled(UCI_PAGE, method, "SP", ratio)))
    for baseline in ("WN", "BN"):
        text = f"GmP has a lower error than {baseline}, as a ratio over all sets but Naval"
        found.append(claim(GEOMETRY, "UCI table", text, UCI_PAGE, pooled(UCI_PAGE, GMP, baseline, None)))
    authors_file, suffix = "uci_regression-authors", ", authors"
    found += [
        claim(
            GEOMETRY,
            "UCI table",
            "The published errors of SP and GmP, by the authors' protocol, within two standard errors",
            UCI_PAGE,
            published_table,
            AUTHORS,
        ),
        claim(
            GEOMETRY,
            "UCI table",
            "GmP has a lower error than SP by the authors' protocol, as a ratio over all sets but Naval",
            UCI_PAGE,
            pooled(authors_file, GMP, "SP", ratio, suffix),
            AUTHORS,
        ),
        claim(
            GEOMETRY,
            "UCI table",
            "The same, with the learning rate 0.1 for both",
            UCI_PAGE,
            pooled(authors_file, GMP, "SP at 0.1", ratio, suffix),
            AUTHORS,
        ),
        claim(GEOMETRY, "section 4", "The best learning rate of GmP is 0.1", UCI_PAGE, chosen_rates(["GmP", GMP], 0.1)),
        claim(
            GEOMETRY,
            "section 4",
            "The best learning rate of the others is 0.01",
            UCI_PAGE,
            chosen_rates(["SP", "WN", "BN"], 0.01),
        ),
        *(
            claim(
                GEOMETRY,
                "first version",
                f"GmP trains at a larger share of starts and learning rates than {baseline}, as a ratio",
                ATLAS,
                basin("basin_atlas-shares", "share", baseline),
            )
            for baseline in ("SP", "WN", "BN")
        ),
        claim(
            GEOMETRY,
            "first version",
            "GmP trains from more scales of the start than SP, at one learning rate, as a ratio",
            ATLAS,
            basin("basin_atlas-confirmation-shares", "scales", "SP"),
        ),
        claim(
            GEOMETRY,
            "first version",
            "GmP trains at larger learning rates than SP, from the same ordinary start, as a ratio",
            ATLAS,
            basin("basin_atlas-confirmation-shares", "largest rate", "SP"),
        ),
        claim(GEOMETRY, "figure 4", "GmP converges faster", "imagenet32_vgg", undecided("no run of this size")),
    ]
    tops = {
        "top-1": {"BN": (42.79, 41.90, 41.39), "SP": (38.31, 36.99, 35.02), "GmP+IMN": (43.14, 43.62, 42.70)},
        "top-5": {"BN": (67.17, 66.50, 65.89), "SP": (62.48, 60.71, 58.14), "GmP+IMN": (67.36, 67.76, 66.98)},
    }
    for top, methods in tops.items():
        for baseline in ("SP", "BN"):
            for place, batch in enumerate((256, 512, 1024)):
                gain = methods["GmP+IMN"][place] - methods[baseline][place]
                text = f"GmP+IMN has a higher {top} accuracy than {baseline}, VGG-6, batches of {batch}, in points"
                smaller = (f"VGG, batch {batch}", "GmP+IMN", baseline) if top == "top-1" else ()
                find = undecided(f"paper {gain:+.2f}", *smaller)
                found.append(claim(GEOMETRY, "ImageNet32 table", text, "imagenet32_vgg", find))
    for size, name in IMAGE_NETWORKS.items():
        for baseline in ("SP", "BN"):
            for batch in (64, 512):
                text = f"GmP+IMN classifies better than {baseline}: {size} VGG-6, batches of {batch}, in points"
                find = difference(name, f"VGG, batch {batch}", "GmP+IMN", baseline, "accuracy, %", None, 0, True)
                found.append(claim(GEOMETRY, "general", text, name, find))
            text = f"The gain of GmP+IMN over {baseline} grows with the batch: {size} VGG-6, from 64 to 512, in points"
            found.append(claim(GEOMETRY, "general", text, name, growth_with_the_batch(name, baseline)))
    return [
        *found,
        claim(
            GEOMETRY,
            "ImageNet32 table",
            "The gain of GmP+IMN over BN grows with the batch, from 256 to 512",
            "imagenet32_vgg",
            undecided("paper +0.35 and +1.72"),
        ),
        claim(
            GEOMETRY,
            "ImageNet table",
            "GmP+IMN has a higher top-1 accuracy than BN, ResNet-18, in points",
            "imagenet_resnet",
            undecided("paper +0.39"),
        ),
    ]


def matrix_claims() -> list[Claim]:
    """The claims on trainable matrix activations. The paper's text could be read in part only."""
    name, metric = "function_approximation", "relative error"
    found = []
    # The paper's networks differ in the activation only, so that they have equal widths.
    cases = [f"{target}, equal width" for target in ("sine 2", "sine 4", "sine 8", "sine 16", "smooth", "4-D")]
    for task in [*cases, "sine 16, equal parameters", "sine 16, equal width, 20,000 steps"]:
        find = difference(name, task, "TMAF tri-diagonal", "ReLU", metric, None, 0)
        text = f"Tri-diagonal TMAF approximates functions better than ReLU: {task}, relative error"
        found.append(claim(MATRICES, "approximation", text, name, find))
    found += [
        claim(
            MATRICES,
            "approximation",
            "The gain over ReLU is larger for fast oscillation, 16 periods, than for 2",
            name,
            steepest_gain,
        ),
        claim(
            MATRICES,
            "approximation",
            "Tri-diagonal TMAF is better than diagonal TMAF: sine 16, relative error",
            name,
            difference(name, "sine 16, equal width", "TMAF tri-diagonal", "TMAF diagonal", metric, None, 0),
        ),
    ]
    for network in ("dense", "convolutional"):
        for form in ("diagonal", "tri-diagonal"):
            text = f"{form.capitalize()} TMAF classifies MNIST better than ReLU, {network} network, in points"
            find = difference(
                "mnist_classification", network, f"TMAF {form}", "ReLU", "accuracy, %", None, 10 / 15, True
            )
            found.append(claim(MATRICES, "MNIST", text, "mnist_classification", find))
    for size, name in IMAGE_NETWORKS.items():
        for form in ("diagonal", "tri-diagonal"):
            text = f"{form.capitalize()} TMAF classifies CIFAR-10 better than ReLU, {size} residual network, in points"
            find = difference(name, "ResNet", f"TMAF {form}", "ReLU", "accuracy, %", None, 0, True)
            found.append(claim(MATRICES, "CIFAR-10", text, name, find))
    text = "TMAF classifies CIFAR-10 better than ReLU"
    return [*found, claim(MATRICES, "CIFAR-10", text, "cifar_tmaf", undecided("no run of a useful size"))]


def entropy_claims() -> list[Claim]:
    """The claims on the entropy of activations and CRReLU."""
    name = "entropy_search"
    overlaps = {
        "digits, dense": OVERLAP,
        "digits, convolutional": OVERLAP,
        "MNIST, dense": 10 / 15,
        "MNIST, convolutional": 10 / 15,
    }
    found = [
        claim(
            ENTROPY,
            "section 3",
            "Between two bounds, the scaled distribution function of the inputs has the highest entropy",
            "verdicts",
            worst_activation,
        ),
        claim(
            ENTROPY,
            "section 4",
            "CRReLU at its start, epsilon 0.01, has a lower entropy than ReLU on x > 0, for N(0, 1)",
            "verdicts",
            sign_of_epsilon,
        ),
        claim(
            ENTROPY,
            "tables",
            "CRReLU adds one parameter for each activation: 12 in ViT-Tiny",
            "cifar_transformers",
            parameters("cifar_transformers", "CRReLU", "ReLU", 12),
        ),
    ]
    for task in overlaps:
        text = f"A lower entropy goes with a higher accuracy: {task} network"
        found.append(claim(ENTROPY, "section 3", text, name, correlation(task)))
    for task, overlap in overlaps.items():
        text = f"CRReLU classifies better than GELU: {task} network, in points"
        find = difference(name, task, "CRReLU from 0.01", "GELU", "accuracy, %", None, overlap, True)
        found.append(claim(ENTROPY, "general", text, name, find))
    for size, of_size in IMAGE_NETWORKS.items():
        for baseline, gain in {"GELU": 9.6, "PReLU": 1.6, "ReLU": None}.items():
            text = f"CRReLU classifies better than {baseline}: {size} vision transformer on CIFAR-10, in points"
            find = difference(of_size, "ViT", "CRReLU", baseline, "accuracy, %", gain, 0, True)
            found.append(claim(ENTROPY, "general", text, of_size, find))
    for task, overlap in overlaps.items():
        text = f"Optimization during training lowers the standardized entropy: {task} network, in nats"
        find = refined(task, "standardized after", overlap, False)
        found.append(claim(ENTROPY, "outlook", text, name, find))
    for task, overlap in overlaps.items():
        text = f"Optimization during training improves the accuracy: {task} network, in points"
        find = refined(task, "accuracy, %", overlap, True)
        found.append(claim(ENTROPY, "outlook", text, name, find))
    table = {
        ("CIFAR-10", "ViT-Tiny"): (70.6, 80.2),
        ("CIFAR-10", "DeiT-Tiny"): (71.6, 76.8),
        ("CIFAR-10", "TNT-Small"): (74.3, 77.5),
        ("CIFAR-100", "ViT-Tiny"): (32.2, 45.9),
        ("CIFAR-100", "DeiT-Tiny"): (46.0, 50.8),
        ("CIFAR-100", "TNT-Small"): (48.4, 50.8),
        ("ImageNet", "ViT-Tiny"): (54.2, 57.9),
        ("ImageNet", "DeiT-Tiny"): (61.9, 61.5),
    }
    for (data, network), (gelu, crrelu) in table.items():
        recipe = "imagenet_transformers" if data == "ImageNet" else "cifar_transformers"
        text = f"CRReLU has a higher accuracy than GELU: {network} on {data}, in points"
        smaller = ("ViT", "CRReLU", "GELU") if (data, network) == ("CIFAR-10", "ViT-Tiny") else ()
        find = undecided(f"paper {crrelu - gelu:+.1f}, one run", *smaller)
        found.append(claim(ENTROPY, "image tables", text, recipe, find))

    def own_table() -> Finding:
        lost = [f"{network} on {data}" for (data, network), (gelu, crrelu) in table.items() if crrelu < gelu]
        return Finding(
            "refuted" if lost else "confirmed", f"in the paper's own table, GELU is higher for {', '.join(lost)}"
        )

    found.append(
        claim(ENTROPY, "image tables", "CRReLU has the highest accuracy in every experiment", "verdicts", own_table)
    )
    for beta, gain in {"0.1": 0.0014, "1": 0.0025, "2": 0.0022, "5": 0.0069}.items():
        text = f"CRReLU has a higher accuracy than GELU in preference optimization, beta {beta}"
        find = undecided(f"paper {gain:+.4f}, one run; no run of a useful size")
        found.append(claim(ENTROPY, "DPO table", text, "gpt2_dpo", find))
    return found


def verdicts() -> pd.DataFrame:
    """Returns a row for each claim, with its verdict."""
    claims = [*geometric_claims(), *matrix_claims(), *entropy_claims()]
    findings = [each.find() for each in claims]
    pages = [PAGES.get(each.page) or each.page for each in claims]
    for page in dict.fromkeys(pages):
        tested = [k for k, finding in enumerate(findings) if pages[k] == page and finding.p is not None]
        corrected = stats.false_discovery_control([findings[k].p for k in tested]) if tested else []
        for k, p in zip(tested, corrected, strict=True):
            if findings[k].verdict == "confirmed" and p >= 0.05:
                findings[k] = replace(findings[k], verdict="not told apart")
    return pd.DataFrame(
        [
            {
                "number": number,
                "paper": each.paper,
                "where": each.where,
                "claim": each.text,
                "verdict": finding.verdict,
                "figure": finding.figure,
                "smallest difference": finding.smallest,
                "page": each.page,
                "command": each.command,
            }
            for number, (each, finding) in enumerate(zip(claims, findings, strict=True), 1)
        ]
    )


INTRODUCTION = """# Verdicts on the papers' claims

Each claim of the three papers has a verdict, computed from the committed results by `python -m recipes.verdicts`.
[verdicts.csv](../recipes/results/verdicts.csv) holds the same rows with the command of each. A difference is the first
method minus the second, with its 95 % interval in brackets. Errors are better if they are lower, accuracies if they
are higher.

- **confirmed**: the interval is on the claimed side of 0, also after correction for all comparisons on the same results
  page (false discovery rate, Benjamini and Hochberg). Statements without a test: the figures agree.
- **refuted**: the interval excludes the gain that the paper claims or, where it gives no number, lies on the other side
  of 0; or the figures contradict the statement. A smaller gain may lie within the interval.
- **not told apart**: the interval holds the claimed gain and 0, or no gain is claimed and the interval holds 0.
- **undecided**: no run of this repository is large enough, or it is not finished. Runs of smaller networks are shown
  where there are any.

The smallest difference is the true difference that the run finds with a probability of 80 % at the level 0.05. Other
comparisons of the results pages are not in this table. The claims on TMAF are judged at equal width, where networks
differ in the activation only; this was decided when the results were known. At equal numbers of parameters, one row
shows that the gain with 16 periods remains. The text of Liu et al. could be read in part only: its claims are those of
its opening.

The authors' protocol chooses learning rates and epochs on test data. Its rows explain published figures and are no
evidence for or against a method.
"""


def page(table: pd.DataFrame) -> str:
    """Returns the page of the documentation."""
    text = INTRODUCTION
    for paper, claims in table.groupby("paper", sort=False):
        counts = ", ".join(f"{count} {verdict}" for verdict, count in claims["verdict"].value_counts().items())
        text += f"\n## {paper}\n\n{len(claims)} claims: {counts}.\n\n"
        shown = claims[["number", "where", "claim", "verdict", "figure", "smallest difference", "page"]]
        shown = shown.assign(page=[_link(name) for name in shown["page"]]).rename(columns={"number": ""})
        text += shown.to_markdown(index=False, disable_numparse=True) + "\n"
    text += "\n## Commands\n\n| recipe | command |\n|---|---|\n"
    for name, command in COMMANDS.items():
        text += f"| `{name}` | `{command}` |\n"
    return text + "\nRows by the authors' protocol need `--protocol authors` in addition.\n"


def _link(recipe: str) -> str:
    name = PAGES.get(recipe, recipe)
    return f"[{recipe}](../recipes/results/{name}.md)" if name else f"`{recipe}`"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(out: cli.Out = Path("results")) -> None:
    """Judges every claim of Chen and Ge (2024), Liu et al. (2024) and Sun et al. (2024).

    Reads the files in recipes/results; writes verdicts.md, a page of the documentation, and verdicts.csv.
    """
    table = verdicts()
    for file, content in {"verdicts.md": page(table), "verdicts.csv": table.to_csv(index=False)}.items():
        write(out / file, content)
    print(table.groupby(["paper", "verdict"], sort=False).size().to_string())
    print("Written:", out / "verdicts.md", out / "verdicts.csv")


if __name__ == "__main__":
    app()
