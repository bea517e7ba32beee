"""GPT-2 and human preferences: does another activation help supervised fine-tuning and DPO, and at what beta?

Sun et al. (2024) fine-tune GPT-2 on the chosen responses of preference pairs, and then train it by direct preference
optimization (DPO), with its own activation, GELU, and with CRReLU. ReLU is compared, too, as in all comparisons here.
Each replicate starts each method from the same weights. The settings are theirs: RMSprop, a rate of 5e-7 that grows
for 150 steps, batches of 32 pairs, gradients clipped to norm 10, at most 512 tokens, of which the last half of that
many are for the prompt, beta of 0.1, 1, 2 and 5; SHP and HH are the data. So is what they report of the test pairs:
the reward margin, its accuracy, and the loss.

What they do not say follows the code of DPO's authors, who have the same settings: one pass over the training pairs
for each phase, no drop-out, the sum of log-probabilities as the loss of fine-tuning, and PyTorch's RMSprop.

With `--preset gpt2_base_en`, keras-hub downloads GPT-2. Without, a small network of random weights is trained, with
the tokens in the files `--vocabulary` (`encoder.json` or `vocab.json`) and `--merges` (`vocab.bpe` or `merges.txt`).
"""

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import grain
import keras
import pandas as pd
import tokenizers
import typer

from keras_actlab import experiments, models
from recipes import cli, dpo, preferences, tracking

METHODS: dict[str, str | None] = {"GELU": None, "ReLU": "relu", "CRReLU": "crrelu"}
Method = StrEnum("Method", {name: name for name in METHODS})
RATE, WARM_UP = 5e-7, 150
DEFAULT = list(Method)
BETAS = [0.1, 1.0, 2.0, 5.0]
FIGURES = ["margin", "accuracy", "loss"]


def load_tokenizer(vocabulary: Path | None, merges: Path | None, preset: str | None) -> tokenizers.Tokenizer:
    """Returns the tokenizer of a preset of keras-hub, or of two files.

    Raises:
        ValueError: If both or neither are given, or a file is not what it should be.
    """
    received = f"Received: vocabulary={str(vocabulary)!r}, merges={str(merges)!r}, preset={preset!r}"
    if (preset is None) == (vocabulary is None) or (vocabulary is None) != (merges is None):
        raise ValueError(f"Give either `preset`, or both `vocabulary` and `merges`. {received}")
    if preset is not None:
        import keras_hub

        named = keras_hub.models.GPT2Tokenizer.from_preset(preset)
        return preferences.gpt2_tokenizer(named.vocabulary, named.merges)
    try:
        tokens, rules = json.loads(vocabulary.read_text("utf-8")), merges.read_text("utf-8").split("\n")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"`vocabulary` must be a JSON file and `merges` a text file. {received}: {error}") from error
    if not isinstance(tokens, dict) or not all(type(number) is int for number in tokens.values()):
        raise ValueError(f"`vocabulary` must hold the number of each token. {received}")
    return preferences.gpt2_tokenizer(tokens, rules)


def optimizer() -> keras.optimizers.Optimizer:
    """Returns RMSprop as in PyTorch, with the paper's rates and clipping."""
    rate = keras.optimizers.schedules.PolynomialDecay(RATE / (WARM_UP + 1), WARM_UP, RATE)
    # PyTorch adds 1e-8 to the root of the mean square, Keras its epsilon to what is under the root.
    return keras.optimizers.RMSprop(rate, rho=0.99, epsilon=1e-16, global_clipnorm=10.0)


def fit(network: keras.Model, data: grain.MapDataset, folder: Path, steps: int) -> None:
    """Trains a compiled network on so many batches, from where a training in this folder was interrupted."""
    experiments.fit_resumable(network, data, folder, steps_per_epoch=steps, epochs=1)


@dataclass(frozen=True)
class Study:
    """What all fits of a run share.

    Args:
        name: Tells the data and settings from others.
        train: Training pairs.
        test: Test pairs.
        length: Length to fill them up to.
        batch_size: Number of pairs in a batch.
        steps_sft: Number of batches of fine-tuning.
        steps_dpo: Number of batches of DPO.
        build: Returns GPT-2 with an `activation`.
        folder: Where checkpoints go, and log-probabilities under the reference.
    """

    name: str
    train: list[preferences.Tokens]
    test: list[preferences.Tokens]
    length: int
    batch_size: int
    steps_sft: int
    steps_dpo: int
    build: Callable[..., keras.Model]
    folder: Path


def replicate(study: Study, method: str, seed: int, betas: list[float]) -> Iterator[dict[str, Any]]:
    """Fine-tunes a network, from there trains it by DPO with each beta, and yields a row of figures for each."""
    keras.utils.set_random_seed(seed)
    network = dpo.ResponseLogProbability(study.build(activation=METHODS[method]))
    folder = study.folder / study.name / f"{method}-{seed}"
    batches = partial(preferences.batches, length=study.length, batch_size=study.batch_size)

    dpo.compile_fine_tuning(network, optimizer())
    fit(network, batches(study.train, responses=("chosen",), seed=seed), folder / "fine-tuning", study.steps_sft)
    weights = network.get_weights()
    reference = {
        part: dpo.reference_log_probabilities(
            network, batches(pairs), folder / f"reference-{part}.npz", f"{study.name} {method} {part}"
        )
        for part, pairs in (("train", study.train), ("test", study.test))
    }
    learn = batches(study.train, targets=reference["train"], seed=seed)
    judge = batches(study.test, targets=reference["test"])
    for beta in betas:
        began = time.perf_counter()
        network.set_weights(weights)
        dpo.compile_dpo(network, optimizer(), beta)
        fit(network, learn, folder / f"beta-{beta:g}", study.steps_dpo)
        figures = network.evaluate(judge, steps=len(judge), verbose=0, return_dict=True)
        yield {
            "run": study.name,
            "method": method,
            "beta": beta,
            "seed": seed,
            **{name: figures[name] for name in FIGURES},
            "fine-tuned nats per token": -reference["test"][:, 0].sum() / sum(len(pair.chosen) for pair in study.test),
            "parameters": network.count_params(),
            "seconds": round(time.perf_counter() - began, 2),
        }
        for checkpoint in (folder / f"beta-{beta:g}").glob("*.weights.h5"):
            checkpoint.unlink()  # the row is written, and these are large


def finished(path: Path, run: str) -> pd.DataFrame:
    """Returns the rows of a run in a file."""
    rows = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["run", "method", "beta", "seed"])
    return rows[rows["run"] == run]


def append(row: dict[str, Any], path: Path) -> None:
    """Appends a row to a file."""
    before = pd.read_csv(path).to_dict("records") if path.exists() else []
    tracking.write(pd.DataFrame([*before, row]), path)


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns for each beta and method the mean and the standard error over seeds."""
    groups = rows.groupby(["beta", "method"])[FIGURES]
    both = groups.mean().join(groups.sem().add_suffix(" ±"))
    return both[[f"{name}{end}" for name in FIGURES for end in ("", " ±")]]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    train: Annotated[str, typer.Option(help="Training pairs: a .jsonl or .jsonl.gz file, or a data set's name.")],
    test: Annotated[str, typer.Option(help="Test pairs.")],
    vocabulary: Annotated[Path | None, typer.Option(help="File of GPT-2's tokens, if there is no preset.")] = None,
    merges: Annotated[Path | None, typer.Option(help="File of GPT-2's merges, if there is no preset.")] = None,
    preset: Annotated[str | None, typer.Option(help="Trained network of keras-hub, such as gpt2_base_en.")] = None,
    layers: Annotated[int, typer.Option(min=1, help="Blocks of a network of random weights.")] = 2,
    heads: Annotated[int, typer.Option(min=1, help="Its attention heads.")] = 2,
    width: Annotated[int, typer.Option(min=1, help="Its channels.")] = 64,
    length: Annotated[int, typer.Option(min=2, max=1024, help="Most tokens; the prompt gets half of them.")] = 512,
    beta: Annotated[list[float], typer.Option(help="What a departure from the reference costs.")] = BETAS,
    methods: Annotated[list[Method], typer.Option(help="Activations.")] = DEFAULT,
    steps_sft: Annotated[int | None, typer.Option(min=1, help="Batches of fine-tuning; one pass by default.")] = None,
    steps_dpo: Annotated[int | None, typer.Option(min=1, help="Batches of DPO; one pass by default.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs in a batch.")] = 32,
    seeds: Annotated[int, typer.Option(min=1, help="Number of replicates.")] = 3,
    out: cli.Out = Path("results"),
    smoke: cli.Smoke = False,
) -> None:
    """Repeats the fine-tuning and DPO of GPT-2 of Sun et al. (2024), with three activations.

    Prints a table and writes rows.
    """
    betas = [dpo.DPOLoss(value).beta for value in dict.fromkeys(beta)]
    if smoke:
        layers, heads, width, length, batch_size, steps_sft, steps_dpo, seeds = 1, 2, 8, 32, 4, 2, 2, 1
        betas, methods = betas[:1], [Method.ReLU, Method.CRReLU]
    tokenizer = load_tokenizer(vocabulary, merges, preset)
    parts = {}
    for part, source in {"train": train, "test": test}.items():
        pairs = preferences.read(source, part)[: 8 if smoke else None]
        parts[part] = preferences.tokenize(pairs, tokenizer, length)
        print(f"{part}: {len(pairs)} pairs, {sum(pair.truncated for pair in parts[part])} of them truncated")

    one_pass = math.ceil(len(parts["train"]) / batch_size)
    steps_sft, steps_dpo = steps_sft or one_pass, steps_dpo or one_pass
    sizes = {"num_layers": layers, "num_heads": heads, "hidden_dim": width, "intermediate_dim": 4 * width}
    sizes = {} if preset else sizes | {"max_sequence_length": length}
    settings = json.dumps([preset, sizes, length, batch_size, steps_sft, steps_dpo])
    texts = [array for pairs in parts.values() for pair in pairs for array in (pair.prompt, pair.chosen, pair.rejected)]
    run = f"run-{dpo.fingerprint(settings, *texts)[:12]}"
    build = partial(models.gpt2, preset, vocabulary=vocabulary, merges=merges, **sizes)
    study = Study(run, parts["train"], parts["test"], length, batch_size, steps_sft, steps_dpo, build, out / "gpt2_dpo")
    path = out / "gpt2_dpo.csv"
    for seed, method in itertools.product(range(seeds), methods):
        rows = finished(path, run)
        done = {f"{value:g}" for value in rows.loc[(rows["method"] == method) & (rows["seed"] == seed), "beta"]}
        missing = [value for value in betas if f"{value:g}" not in done]
        for row in replicate(study, method, seed, missing) if missing else ():
            append(row, path)
    table = summarize(finished(path, run)).reset_index()
    print(f"\n{table.to_markdown(index=False, floatfmt='.4g')}")


if __name__ == "__main__":
    app()
