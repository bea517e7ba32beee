"""Made-up preference pairs, and a small vocabulary in GPT-2's files."""

import gzip
import json

import tokenizers

MERGES = ["H u", "Hu m", "Hum a", "Huma n", "Ċ Ċ", "1 2", "12 3", "123 4", "( a", "Ġ t", "Ġt h", "Ġth e"]


def vocabulary() -> dict[str, int]:
    """All bytes, what the merges make, and the end of a text, which has the last number as in GPT-2."""
    merged = [merge.replace(" ", "") for merge in MERGES]
    tokens = [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), *merged, "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}


def save_vocabulary(folder):
    """Writes both files and returns the options that name them."""
    paths = {"--vocabulary": folder / "encoder.json", "--merges": folder / "vocab.bpe"}
    paths["--vocabulary"].write_text(json.dumps(vocabulary()), "utf-8")
    paths["--merges"].write_text("\n".join(["#version: 0.2", *MERGES, ""]), "utf-8")
    return [word for option, path in paths.items() for word in (option, str(path))]


def dialogue(*turns: str) -> str:
    """A dialogue as in HH, of which Human speaks first."""
    speakers = ("Human", "Assistant")
    return "".join(f"\n\n{speakers[k % 2]}: {turn}" for k, turn in enumerate(turns))


def rows(count: int) -> list[dict[str, str]]:
    """Pairs of which the chosen response is polite."""
    prompts = [f"What is {k} and {k}?" for k in range(count)]
    return [
        {"chosen": dialogue(prompt, f"the {2 * k}"), "rejected": dialogue(prompt, f"{1234 + k}!!")}
        for k, prompt in enumerate(prompts)
    ]


def save(path, found):
    """Writes rows, compressed or not as the name of the file says."""
    text = "".join(f"{json.dumps(row)}\n" for row in found)
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return path
