r"""Preference pairs: a prompt with a chosen and a rejected response, read from files, as batches of tokens.

Files are `.jsonl` or `.jsonl.gz`, with a pair on each line. There are two formats, which differ in their keys:

- HH (Bai et al., 2022): `chosen` and `rejected` are two dialogues, "\n\nHuman: ...\n\nAssistant: ...". The prompt is
  their common beginning, up to the last "\n\nAssistant:" in it.
- SHP (Ethayarajh et al., 2022): `human_ref_A` and `human_ref_B` are two answers to `history`, with the scores `score_A`
  and `score_B`. A is the better one if `labels` is 1. They become dialogues like those of HH.

Blank lines are skipped. Pairs are skipped and counted if a response is empty, both are equal, a text is not valid
Unicode, or, as the authors of SHP advise, one of two scores is not at least twice the other.

Selection, truncation and one response to each prompt for supervised tuning are those of the code of DPO's authors.

The library `datasets` reads "Anthropic/hh-rlhf" and "stanfordnlp/SHP" if such a name is given instead of a file.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np
import tokenizers

ANSWER = "\n\nAssistant:"
END = "<|endoftext|>"
RESPONSES = ("chosen", "rejected")
FILES = (".jsonl", ".gz")


class Pair(NamedTuple):
    """A prompt and two responses to it.

    `score` is that of the chosen response, and `keeps_start` tells which part of a long prompt is kept; both are for
    pairs of SHP.
    """

    prompt: str
    chosen: str
    rejected: str
    score: int = 0
    keeps_start: bool = False


class Tokens(NamedTuple):
    """The tokens of a pair, and whether any of its three texts was truncated."""

    prompt: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    truncated: bool


def read(source: str, split: str) -> list[Pair]:
    """Reads pairs.

    Args:
        source: A `.jsonl` or `.jsonl.gz` file, or the name of a data set.
        split: Name of the part, for a data set that is given by its name.

    Returns:
        The pairs that are not skipped, in their order.

    Raises:
        ValueError: If a file is missing or damaged, a row is not a pair of responses, or no pair can be used.
        ImportError: If a data set is named and the library `datasets` is missing.
    """
    found, skipped = [], []
    rows = _rows_of_file(Path(source)) if source.endswith(FILES) else _rows_of_data_set(source, split)
    for number, row in enumerate(rows, 1):
        if isinstance(row, str) and not row.strip():
            continue
        try:
            pair = _pair(json.loads(row) if isinstance(row, str) else row)
        except (ValueError, RecursionError) as error:  # the latter for JSON that is nested too deeply
            raise ValueError(f"{source}, row {number}: {error}") from error
        if pair is not None and _is_usable(pair):
            found.append(pair)
        else:
            skipped.append(number)
    if skipped:
        print(
            f"{source}: {len(skipped)} of {len(skipped) + len(found)} pairs are skipped, since a response is empty, "
            f"both are the same, a text is not valid Unicode, or the scores are too close: "
            f"rows {', '.join(map(str, skipped[:10]))}" + (", ..." if len(skipped) > 10 else "")
        )
    if not found:
        raise ValueError(
            f"{source} must hold pairs of different responses. Received: {len(skipped) or 'no'} rows"
            + (", none of which is one" if skipped else "")
        )
    return found


def _rows_of_file(path: Path) -> Iterator[str]:
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as file:
            yield from file
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be a whole file of lines of JSON: {error}") from error


def _rows_of_data_set(name: str, split: str) -> Iterable[dict[str, Any]]:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"Data that are no {' or '.join(FILES)} file are read by the library datasets: pip install datasets. "
            f"Received: {name!r}"
        ) from error
    return datasets.load_dataset(name, split=split)


def _pair(row: Any) -> Pair | None:
    """Returns the pair in a row of either format; None if its scores are too close. Raises a ValueError for others."""
    match row:
        case {"chosen": str(chosen), "rejected": str(rejected)}:
            beginnings = [chosen[: mark.end()] for mark in re.finditer(ANSWER, chosen)]
            prompt = max((text for text in beginnings if rejected.startswith(text)), key=len, default="")
            if not prompt:
                raise ValueError(
                    f"chosen and rejected must begin with the same prompt, which ends with {ANSWER!r}. "
                    f"Received: chosen={chosen[:60]!r}, rejected={rejected[:60]!r}"
                )
            return Pair(prompt, chosen.removeprefix(prompt), rejected.removeprefix(prompt))
        case {
            "history": str(history),
            "human_ref_A": str(first),
            "human_ref_B": str(second),
            "labels": 0 | 1 as label,
            "score_A": int(score_a),
            "score_B": int(score_b),
        }:
            low, high = sorted((score_a, score_b))
            if high < 2 * low:
                return None
            responses = (text and f" {text}" for text in ((first, second) if label else (second, first)))
            score = score_a if label else score_b
            return Pair(f"\n\nHuman: {history}{ANSWER}", *responses, score, keeps_start=True)
    raise ValueError(
        "a row must have texts chosen and rejected, or history, human_ref_A, human_ref_B, integers score_A and "
        f"score_B, and labels, 0 or 1. Received: {str(row)[:200]}"
    )


def _is_usable(pair: Pair) -> bool:
    try:
        "".join(pair[:3]).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold
        return False
    return bool(pair.chosen and pair.rejected) and pair.chosen != pair.rejected


def once_a_prompt(pairs: Iterable[Pair]) -> list[Pair]:
    """Returns a pair for each prompt, for supervised tuning: that whose chosen response scores highest; or the last."""
    best: dict[str, Pair] = {}
    for pair in pairs:
        if pair.prompt not in best or pair.score >= best[pair.prompt].score:
            best[pair.prompt] = pair
    return list(best.values())


def gpt2_tokenizer(vocabulary: dict[str, int], merges: Iterable[str]) -> tokenizers.Tokenizer:
    r"""Returns the tokenizer of GPT-2.

    The tokenizer of keras-hub 0.32 splits texts differently, with and without TensorFlow: a blank line before "Human"
    or "Assistant" becomes one token, whereas GPT-2 was trained with two.

    Args:
        vocabulary: The number of each token.
        merges: Pairs of tokens with a space between, in order of priority.

    Raises:
        ValueError: If a merge is not a pair of tokens, or the vocabulary lacks the end-of-text token.
    """
    if END not in vocabulary:
        raise ValueError(f"`vocabulary` must have the token {END}. Received: {len(vocabulary)} tokens without it")
    rules = [tuple(merge.split(" ")) for merge in merges if merge and not merge.startswith("#version")]
    try:
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, rules))
    except Exception as error:  # the library raises no more specific type
        raise ValueError(f"`merges` must be pairs of tokens of `vocabulary`. Received: {error}") from error
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def tokenize(pairs: Sequence[Pair], tokenizer: tokenizers.Tokenizer, length: int = 512) -> list[Tokens]:
    """Tokenizes texts, and adds an end-of-text token to each response.

    Where the prompt and the longer response have more than `length` tokens, the prompt is truncated to `length // 2`:
    its end is kept, or its start where `keeps_start` says so. Where they still have more, both responses are truncated
    to `length - length // 2`.

    Raises:
        ValueError: If `length` is below 2.
    """
    if length < 2:
        raise ValueError(f"`length` must be at least 2, for a prompt and a response. Received: length={length}")
    end = tokenizer.token_to_id(END)
    found = []
    for start in range(0, len(pairs), 1000):  # the library's results take far more memory than the tokens
        part = pairs[start : start + 1000]
        columns = list(zip(*part, strict=True))[:3]
        encodings = [tokenizer.encode_batch(list(texts)) for texts in columns]
        for pair, prompt, *responses in zip(part, *encodings, strict=True):
            whole = [prompt.ids, *([*response.ids, end] for response in responses)]
            kept, longer = list(whole), max(map(len, whole[1:]))
            if len(kept[0]) + longer > length:
                kept[0] = kept[0][: length // 2] if pair.keeps_start else kept[0][-(length // 2) :]
            if len(kept[0]) + longer > length:
                kept[1:] = [tokens[: length - length // 2] for tokens in whole[1:]]
            truncated = any(len(tokens) < len(all_tokens) for tokens, all_tokens in zip(kept, whole, strict=True))
            found.append(Tokens(*(np.array(tokens, "int32") for tokens in kept), truncated))
    return found


def pad(tokens: Tokens, length: int, responses: Sequence[str] = RESPONSES) -> dict[str, np.ndarray]:
    """Returns tokens of the prompt with each response, padded to `length`, and masks of the text and the response."""
    shape = (len(responses), length)
    arrays = {name: np.zeros(shape, "int32") for name in ("token_ids", "padding_mask", "response_mask")}
    start = len(tokens.prompt)
    for row, name in enumerate(responses):
        response = getattr(tokens, name)
        end = start + len(response)
        arrays["token_ids"][row, :end] = np.concatenate([tokens.prompt, response])
        arrays["padding_mask"][row, :end] = 1
        arrays["response_mask"][row, start:end] = 1
    return arrays


def batches(
    pairs: Sequence[Tokens],
    length: int,
    batch_size: int,
    responses: Sequence[str] = RESPONSES,
    targets: np.ndarray | None = None,
    seed: int | None = None,
) -> grain.MapDataset:
    """Returns batches of inputs and targets, with random access.

    Args:
        pairs: The tokens.
        length: Length to which sequences are padded.
        batch_size: Number of pairs in a batch.
        responses: Names of the responses.
        targets: A row of targets for each pair, or None for the number of tokens of each response.
        seed: Seed of the order, which differs in each epoch, for an endless dataset; None for one epoch in the given
            order.

    Returns:
        Batches of inputs (see `pad`) and targets, with a first axis for the pairs.
    """

    def example(index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        inputs = pad(pairs[index], length, responses)
        counts = inputs["response_mask"].sum(axis=1)
        return inputs, (counts if targets is None else targets[index]).astype("float32")

    indices = grain.MapDataset.range(len(pairs))
    if seed is not None:
        indices = indices.seed(seed).shuffle().repeat()
    return indices.map(example).batch(batch_size)
