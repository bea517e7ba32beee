r"""Preference pairs: a prompt with a chosen and a rejected response, read from files and made into batches of tokens.

Files are `.jsonl` or `.jsonl.gz`, with a pair on each line. Its keys tell the format:

- HH (Bai et al., 2022): `chosen` and `rejected` are two dialogues, "\n\nHuman: ...\n\nAssistant: ...". The prompt is
  what they have in common, up to the last "\n\nAssistant:" in it.
- SHP (Ethayarajh et al., 2022): `human_ref_A` and `human_ref_B` are two answers to `history`, of which A is the better
  one where `labels` is 1. They become dialogues like those of HH. All pairs are taken: take those whose scores differ
  by a factor of two from the file yourself, as its authors advise, if you want them only.

Blank lines are skipped; so are pairs that nothing can be learned from, as a response is empty or both are the same, or
a text is not valid Unicode. How many is printed.

Instead of a file there can be the name of a data set, "Anthropic/hh-rlhf" or "stanfordnlp/SHP", which the library
`datasets` reads.
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
    """A prompt and two responses to it."""

    prompt: str
    chosen: str
    rejected: str


class Tokens(NamedTuple):
    """The tokens of a pair, and whether any of its three texts is longer than they are."""

    prompt: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    truncated: bool


def read(source: str, split: str) -> list[Pair]:
    """Reads pairs.

    Args:
        source: A `.jsonl` or `.jsonl.gz` file, or the name of a data set.
        split: Which part of a data set that is given by its name.

    Returns:
        The pairs that can be used, in their order.

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
        except (ValueError, RecursionError) as error:  # the latter of JSON that is nested too deeply
            raise ValueError(f"{source}, row {number}: {error}") from error
        if _is_usable(pair):
            found.append(pair)
        else:
            skipped.append(number)
    if skipped:
        print(
            f"{source}: {len(skipped)} of {len(skipped) + len(found)} pairs are skipped, since a response is empty, "
            f"both are the same, or a text is not valid Unicode: rows {', '.join(map(str, skipped[:10]))}"
            + (", ..." if len(skipped) > 10 else "")
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


def _pair(row: Any) -> Pair:
    """Returns the pair in a row of either format."""
    match row:
        case {"chosen": str(chosen), "rejected": str(rejected)}:
            beginnings = [chosen[: mark.end()] for mark in re.finditer(ANSWER, chosen)]
            prompt = max((text for text in beginnings if rejected.startswith(text)), key=len, default="")
            if not prompt:
                raise ValueError(
                    f"chosen and rejected must begin with the same prompt, which ends with {ANSWER!r}. "
                    f"Received: chosen={chosen[:60]!r}, rejected={rejected[:60]!r}"
                )
            responses = chosen.removeprefix(prompt), rejected.removeprefix(prompt)
        case {"history": str(history), "human_ref_A": str(first), "human_ref_B": str(second), "labels": 0 | 1 as label}:
            prompt = f"\n\nHuman: {history}{ANSWER}"
            responses = tuple(text and f" {text}" for text in ((first, second) if label else (second, first)))
        case _:
            raise ValueError(
                "a row must have texts chosen and rejected, or history, human_ref_A, human_ref_B and labels, 0 or 1. "
                f"Received: {str(row)[:200]}"
            )
    return Pair(prompt, *responses)


def _is_usable(pair: Pair) -> bool:
    try:
        "".join(pair).encode()
    except UnicodeEncodeError:  # half of a pair of surrogates, which JSON can hold
        return False
    return bool(pair.chosen and pair.rejected) and pair.chosen != pair.rejected


def gpt2_tokenizer(vocabulary: dict[str, int], merges: Iterable[str]) -> tokenizers.Tokenizer:
    r"""Returns the tokenizer of GPT-2.

    That of keras-hub 0.32 splits texts in another way, with and without TensorFlow: a blank line before "Human" or
    "Assistant" becomes one token, of which GPT-2 saw two there.

    Args:
        vocabulary: The number of each token.
        merges: Pairs of tokens with a space between, the most important first.

    Raises:
        ValueError: If a merge is none of tokens, or the end of a text is no token.
    """
    if END not in vocabulary:
        raise ValueError(f"`vocabulary` must have the token {END}. Received: {len(vocabulary)} tokens without it")
    rules = [tuple(merge.split(" ")) for merge in merges if merge and not merge.startswith("#version")]
    try:
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, rules))
    except Exception as error:  # the library raises nothing more special
        raise ValueError(f"`merges` must be pairs of tokens of `vocabulary`. Received: {error}") from error
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def tokenize(pairs: Sequence[Pair], tokenizer: tokenizers.Tokenizer, length: int = 512) -> list[Tokens]:
    """Turns texts into tokens, with an end-of-text token after each response.

    Of a prompt the last `length // 2` tokens stay, and of a response the first ones up to `length` with the prompt.

    Raises:
        ValueError: If `length` leaves no room for a token of each.
    """
    if length < 2:
        raise ValueError(f"`length` must be at least 2, for a prompt and a response. Received: length={length}")
    end = tokenizer.token_to_id(END)
    found = []
    for start in range(0, len(pairs), 1000):  # what the library returns takes far more memory than the tokens
        columns = zip(*pairs[start : start + 1000], strict=True)
        encodings = [tokenizer.encode_batch(list(texts)) for texts in columns]
        for prompt, *responses in zip(*encodings, strict=True):
            whole = [prompt.ids, *([*response.ids, end] for response in responses)]
            kept = [whole[0][-(length // 2) :]]
            kept += [tokens[: length - len(kept[0])] for tokens in whole[1:]]
            truncated = any(len(tokens) < len(all_tokens) for tokens, all_tokens in zip(kept, whole, strict=True))
            found.append(Tokens(*(np.array(tokens, "int32") for tokens in kept), truncated))
    return found


def pad(tokens: Tokens, length: int, responses: Sequence[str] = RESPONSES) -> dict[str, np.ndarray]:
    """Returns the prompt with each of the responses, filled up to `length`, and where there is text and response."""
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
    """Returns batches of inputs and targets, each of which can be had by its index.

    Args:
        pairs: The tokens.
        length: Length to fill them up to.
        batch_size: Number of pairs in a batch.
        responses: Which responses.
        targets: One row of targets for each pair; None for the number of tokens of each response.
        seed: Decides the order, another one in each of endlessly many passes; None for one pass in the given order.

    Returns:
        Pairs of what `pad` returns and targets, with a first axis for the pairs of the batch.
    """

    def example(index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        inputs = pad(pairs[index], length, responses)
        counts = inputs["response_mask"].sum(axis=1)
        return inputs, (counts if targets is None else targets[index]).astype("float32")

    indices = grain.MapDataset.range(len(pairs))
    if seed is not None:
        indices = indices.seed(seed).shuffle().repeat()
    return indices.map(example).batch(batch_size)
