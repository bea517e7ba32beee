"""GPT-2 and human preferences: activations in supervised fine-tuning and DPO, for four values of beta.

Sun et al. (2024) fine-tune GPT-2 on the chosen responses of preference pairs, and then train it by direct preference
optimization (DPO), with its own activation, GELU, and with CRReLU. ReLU is compared, too.
Each seed starts each method from the same weights. The settings are those of the paper: RMSprop, a learning rate of
5e-7 with a warm-up of 150 steps, batches of 32 pairs, gradients clipped to norm 10, at most 512 tokens, of which a long
prompt keeps 256, beta of 0.1, 1, 2 and 5; SHP and HH are the data (`--train` and `--test` may be given several times).
So are the metrics on the test pairs: the reward margin, its accuracy, and the loss.

What the paper does not state follows the code of DPO's authors, which has the same settings: one pass over the training
pairs by DPO, and before over the prompts by fine-tuning, each with one response; pairs of SHP only where one score is
twice the other; prompts that are cut only where prompt and response exceed the limit, at the start for HH and at the
end for SHP; no drop-out; the sum of log-probabilities as the loss of fine-tuning; and PyTorch's RMSprop.

With `--preset gpt2_base_en`, keras-hub downloads GPT-2. Without, a small network of random weights is trained, with
the tokens in the files `--vocabulary` (`encoder.json` or `vocab.json`) and `--merges` (`vocab.bpe` or `merges.txt`).
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import grain
import keras
import tokenizers
import typer

from keras_actlab import experiments, models
from recipes.common import cli, dpo, preferences

METHODS: dict[str, str | None] = {"GELU": None, "ReLU": "relu", "CRReLU": "crrelu"}
Method = StrEnum("Method", {name: name for name in METHODS})
RATE, WARM_UP = 5e-7, 150
DEFAULT = list(Method)
BETAS = [0.1, 1.0, 2.0, 5.0]
METRICS, NATS = ["margin", "accuracy", "loss"], "fine-tuned nats per token"


def load_tokenizer(vocabulary: Path | None, merges: Path | None, preset: str | None) -> tokenizers.Tokenizer:
    """Returns the tokenizer of a preset of keras-hub, or of two files.

    Raises:
        ValueError: If both or neither are given, or a file cannot be read.
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
    """Returns RMSprop as in PyTorch, with the paper's learning rates and clipping."""
    rate = keras.optimizers.schedules.PolynomialDecay(RATE / (WARM_UP + 1), WARM_UP, RATE)
    # PyTorch adds 1e-8 to the square root of the mean square, Keras its epsilon to the mean square.
    return keras.optimizers.RMSprop(rate, rho=0.99, epsilon=1e-16, global_clipnorm=10.0)


@dataclass(frozen=True)
class Study:
    """What all fits of a run share.

    Args:
        name: Tells the data and settings from others.
        tuning: One pair for each training prompt, whose chosen responses are for fine-tuning.
        train: Training pairs.
        test: Test pairs.
        length: Length to which sequences are padded.
        batch_size: Number of pairs in a batch.
        steps_sft: Number of batches of fine-tuning.
        steps_dpo: Number of batches of DPO.
        build: Returns GPT-2 with an `activation`.
        folder: Folder for checkpoints, and for log-probabilities under the reference.
    """

    name: str
    tuning: list[preferences.Tokens]
    train: list[preferences.Tokens]
    test: list[preferences.Tokens]
    length: int
    batch_size: int
    steps_sft: int
    steps_dpo: int
    build: Callable[..., keras.Model]
    folder: Path

    def batches(self, pairs: list[preferences.Tokens], **options: Any) -> grain.MapDataset:
        """Returns batches of pairs."""
        return preferences.batches(pairs, self.length, self.batch_size, **options)

    def fine_tuning_batches(self, seed: int) -> grain.MapDataset:
        """Returns the batches of supervised fine-tuning."""
        return self.batches(self.tuning, responses=("chosen",), seed=seed)[: self.steps_sft]


def network(study: Study, method: str, beta: float) -> dpo.ResponseLogProbability:
    """Returns GPT-2 with an activation, compiled for DPO."""
    model = dpo.ResponseLogProbability(study.build(activation=METHODS[method]))
    dpo.compile_dpo(model, optimizer(), beta)
    return model


def fine_tune_and_align(
    model: dpo.ResponseLogProbability,
    fit: experiments.Fit,
    train: grain.MapDataset,
    test: grain.MapDataset,
    study: Study,
    beta: float,
) -> dict[int, dict[str, float]]:
    """Fine-tunes a network, trains it by DPO, and returns the metrics of the test pairs.

    Fits that differ in beta only share the checkpoint of fine-tuning and the log-probabilities under the reference.
    """
    folder = study.folder / study.name / f"{fit.method}-{fit.seed}"
    dpo.compile_fine_tuning(model, optimizer())
    experiments.fit_resumable(model, train, folder / "fine-tuning", steps_per_epoch=study.steps_sft, epochs=1)
    reference = {
        part: dpo.reference_log_probabilities(
            model, study.batches(pairs), folder / f"reference-{part}.npz", f"{study.name} {fit.method} {part}"
        )
        for part, pairs in (("train", study.train), ("test", study.test))
    }
    dpo.compile_dpo(model, optimizer(), beta)
    batches = study.batches(study.train, targets=reference["train"], seed=fit.seed)
    checkpoints = folder / f"beta-{beta:g}"
    experiments.fit_resumable(model, batches, checkpoints, steps_per_epoch=study.steps_dpo, epochs=1)
    pairs = study.batches(study.test, targets=reference["test"])
    metrics = model.evaluate(pairs, steps=len(pairs), verbose=0, return_dict=True)
    for checkpoint in checkpoints.glob("*.weights.h5"):
        checkpoint.unlink()  # they are large, and the fit is done
    tokens = sum(len(pair.chosen) for pair in study.test)
    return {1: metrics | {NATS: -reference["test"][:, 0].sum() / tokens}}


def comparison(study: Study, methods: list[str], beta: float, seeds: int) -> experiments.Comparison:
    """Describes the comparison of activations at one beta."""
    return experiments.Comparison(
        name=f"beta {beta:g}, run {study.name}",
        methods={method: partial(network, study, method, beta) for method in methods},
        data=experiments.Split(train=study.fine_tuning_batches, validation=None, test=study.batches(study.test)),
        metrics=[*METRICS, NATS],
        mode="max",
        epochs=1,
        seeds=seeds,
        fit=partial(fine_tune_and_align, study=study, beta=beta),
    )


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    train: Annotated[list[str], typer.Option(help="Training pairs: .jsonl or .jsonl.gz files, or names of data sets.")],
    test: Annotated[list[str], typer.Option(help="Test pairs.")],
    vocabulary: Annotated[Path | None, typer.Option(help="File of GPT-2's tokens, if there is no preset.")] = None,
    merges: Annotated[Path | None, typer.Option(help="File of GPT-2's merges, if there is no preset.")] = None,
    preset: Annotated[str | None, typer.Option(help="Trained network of keras-hub, such as gpt2_base_en.")] = None,
    layers: Annotated[int, typer.Option(min=1, help="Number of blocks, without a preset.")] = 2,
    heads: Annotated[int, typer.Option(min=1, help="Number of attention heads, without a preset.")] = 2,
    width: Annotated[int, typer.Option(min=1, help="Number of channels, without a preset.")] = 64,
    length: Annotated[
        int, typer.Option(min=2, max=1024, help="Maximum number of tokens; a long prompt keeps half.")
    ] = 512,
    beta: Annotated[list[float], typer.Option(help="Penalty for departing from the reference.")] = BETAS,
    methods: Annotated[list[Method], typer.Option(help="Activations.")] = DEFAULT,
    steps_sft: Annotated[int | None, typer.Option(min=1, help="Batches of fine-tuning; one pass by default.")] = None,
    steps_dpo: Annotated[int | None, typer.Option(min=1, help="Batches of DPO; one pass by default.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs in a batch.")] = 32,
    seeds: Annotated[int, typer.Option(min=1, help="Number of runs of each method.")] = 3,
    out: cli.Out = Path("results"),
    smoke: cli.Smoke = False,
) -> None:
    """Repeats the fine-tuning and DPO of GPT-2 of Sun et al. (2024), with three activations.

    Prints tables; writes rows, tables and a figure.
    """
    betas = [dpo.DPOLoss(value).beta for value in dict.fromkeys(beta)]
    if smoke:
        layers, heads, width, length, batch_size, steps_sft, steps_dpo, seeds = 1, 2, 8, 32, 4, 2, 2, 1
        betas, methods = betas[:1], [Method.ReLU, Method.CRReLU]
    tokenizer = load_tokenizer(vocabulary, merges, preset)
    pairs, parts = {}, {}
    for part, sources in {"train": train, "test": test}.items():
        pairs[part] = [pair for source in sources for pair in preferences.read(source, part)[: 8 if smoke else None]]
        parts[part] = preferences.tokenize(pairs[part], tokenizer, length)
        print(f"{part}: {len(parts[part])} pairs, {sum(pair.truncated for pair in parts[part])} of them truncated")
    tuning = preferences.tokenize(preferences.once_a_prompt(pairs["train"]), tokenizer, length)
    print(f"fine-tuning: {len(tuning)} prompts")

    steps_sft = steps_sft or math.ceil(len(tuning) / batch_size)
    steps_dpo = steps_dpo or math.ceil(len(parts["train"]) / batch_size)
    sizes = {"num_layers": layers, "num_heads": heads, "hidden_dim": width, "intermediate_dim": 4 * width}
    sizes = {} if preset else sizes | {"max_sequence_length": length}
    settings = json.dumps([preset, sizes, length, batch_size, steps_sft, steps_dpo])
    texts = [array for pairs in parts.values() for pair in pairs for array in (pair.prompt, pair.chosen, pair.rejected)]
    run = dpo.fingerprint(settings, *texts)[:8]
    build = partial(models.gpt2, preset, vocabulary=vocabulary, merges=merges, **sizes)
    sizes = length, batch_size, steps_sft, steps_dpo
    study = Study(run, tuning, parts["train"], parts["test"], *sizes, build, out / "gpt2_dpo")
    results = experiments.run(
        [comparison(study, [method.value for method in methods], beta, seeds) for beta in betas], out / "gpt2_dpo.jsonl"
    )
    cli.finish(results, out, "gpt2_dpo")


if __name__ == "__main__":
    app()
