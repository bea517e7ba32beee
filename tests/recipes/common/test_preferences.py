import gzip
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from recipes.common.preferences import Pair, Tokens, batches, gpt2_tokenizer, once_a_prompt, pad, read, tokenize
from tests.recipes.dialogues import MERGES, dialogue, save, vocabulary

pytestmark = pytest.mark.one_backend

HH = {"chosen": dialogue("Hi", "Yes."), "rejected": dialogue("Hi", "No.")}
SHP = {"history": "Why?", "human_ref_A": "So.", "human_ref_B": "No.", "labels": 1, "score_A": 8, "score_B": 4}
PROMPT = "\n\nHuman: Hi\n\nAssistant:"


@pytest.fixture(scope="module")
def tokenizer():
    return gpt2_tokenizer(vocabulary(), MERGES)


# Reading.


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz"])
def test_pairs_of_both_formats_are_read(tmp_path, name):
    path = save(tmp_path / name, [HH, SHP, SHP | {"labels": 0}])
    question = "\n\nHuman: Why?\n\nAssistant:"
    assert read(str(path), "train") == [
        Pair(PROMPT, " Yes.", " No."),
        Pair(question, " So.", " No.", score=8, keeps_start=True),
        Pair(question, " No.", " So.", score=4, keeps_start=True),
    ]


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "responses"),
    [
        (["a", "b", "c", "d"], ["a", "b", "c", "e"], ["a", "b", "c"], (" d", " e")),
        # An earlier turn is another one: the rest belongs to the responses.
        (
            ["a", "b", "c", "d"],
            ["a", "b", "x", "d"],
            ["a"],
            (" b\n\nHuman: c\n\nAssistant: d", " b\n\nHuman: x\n\nAssistant: d"),
        ),
        # One dialogue goes on where the other ends.
        (["a", "b"], ["a", "b", "c", "d"], ["a"], (" b", " b\n\nHuman: c\n\nAssistant: d")),
        # Saying nothing is a response, which HH has.
        (["a", ""], ["a", "b"], ["a"], (" ", " b")),
    ],
)
def test_the_prompt_is_what_both_dialogues_have_in_common(tmp_path, chosen, rejected, prompt, responses):
    path = save(tmp_path / "pairs.jsonl", [{"chosen": dialogue(*chosen), "rejected": dialogue(*rejected)}])
    assert read(str(path), "train") == [Pair(f"{dialogue(*prompt)}\n\nAssistant:", *responses)]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"chosen": "Hello", "rejected": "Hi"}, "begin with the same prompt.*Received: chosen='Hello'"),
        ({"chosen": dialogue("a", "b"), "rejected": dialogue("c", "b")}, "begin with the same prompt"),
        (SHP | {"labels": 2}, "labels, 0 or 1.*Received"),
        ({name: value for name, value in SHP.items() if name != "score_A"}, "integers score_A and score_B"),
        ({"chosen": dialogue("a", "b")}, "a row must have texts chosen and rejected"),
        ({"chosen": 1, "rejected": 2}, "a row must have texts"),
        ([1, 2], r"a row must have texts.*Received: \[1, 2\]"),
    ],
)
def test_a_row_that_is_no_pair_is_named(tmp_path, row, words):
    path = save(tmp_path / "pairs.jsonl", [HH, SHP, row])
    with pytest.raises(ValueError, match=rf"pairs\.jsonl, row 3: .*{words}"):
        read(str(path), "train")


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": PROMPT, "rejected": f"{PROMPT} No."},
        {"chosen": f"{PROMPT} No.", "rejected": f"{PROMPT} No."},
        SHP | {"human_ref_A": ""},
        SHP | {"score_B": 5},  # not twice as many
        SHP | {"human_ref_B": ""},
        SHP | {"human_ref_B": "So."},
        SHP | {"human_ref_B": "No\ud800."},
        SHP | {"history": "\udfff"},
    ],
)
def test_a_pair_that_nothing_can_be_learned_from_is_skipped_and_counted(tmp_path, capsys, row):
    path = save(tmp_path / "pairs.jsonl", [HH, row, SHP])
    assert [pair.chosen for pair in read(str(path), "train")] == [" Yes.", " So."]
    assert "pairs.jsonl: 1 of 3 pairs are skipped" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"pairs of different responses. Received: 2 rows, none of which is one"):
        read(str(save(tmp_path / "pairs.jsonl", [row, row])), "train")


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_files_of_other_editors(tmp_path, capsys, name, end):
    # A mark of the byte order, lines that end as on Windows, and blank ones.
    text = "\ufeff" + end.join([json.dumps(HH), "", json.dumps(SHP), "  ", ""])
    write = gzip.compress if name.endswith(".gz") else bytes
    (tmp_path / name).write_bytes(write(text.encode()))
    assert [pair.chosen for pair in read(str(tmp_path / name), "train")] == [" Yes.", " So."]
    assert not capsys.readouterr().out


def test_a_row_that_is_nested_too_deeply_is_named(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(HH) + "\n" + "[" * 200_000)
    with pytest.raises(ValueError, match=r"pairs\.jsonl, row 2: "):
        read(str(path), "train")


def test_a_line_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{json.dumps(HH)}\n" * 2 + json.dumps(HH)[:40])
    with pytest.raises(ValueError, match=r"pairs\.jsonl, row 3: Unterminated string"):
        read(str(path), "train")


# A compressed file holds the time at which it was made, so that names of these tests must not be made of it.
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("pairs.jsonl", b"", "must hold pairs of different responses. Received: no rows"),
        ("pairs.jsonl", b"\xff\xfe", "must be a whole file of lines of JSON.*codec"),
        ("pairs.jsonl.gz", b"{}", "must be a whole file of lines of JSON.*gzip"),
        ("pairs.jsonl.gz", gzip.compress(json.dumps(HH).encode() * 9)[:-12], "must be a whole file of lines of JSON"),
        (
            "pairs.jsonl.gz",
            gzip.compress(b"{}")[:10] + b"\xff" * 9,
            "must be a whole file of lines of JSON.*decompressing",
        ),
        ("elsewhere/pairs.jsonl", None, "must be a whole file of lines of JSON.*No such file"),
    ],
    ids=["empty", "no text", "not compressed", "cut off", "no stream", "missing"],
)
def test_a_damaged_file_says_what_is_wrong(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read(str(tmp_path / name), "train")


def test_a_name_is_a_data_set(monkeypatch):
    def load_dataset(name, split):
        return {("Anthropic/hh-rlhf", "test"): [HH]}[name, split]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert read("Anthropic/hh-rlhf", "test") == [Pair(PROMPT, " Yes.", " No.")]
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install datasets. Received: 'stanfordnlp/SHP'"):
        read("stanfordnlp/SHP", "train")


# Tokens.


def test_text_is_split_as_gpt2_does_it(tokenizer):
    # A line feed before a word stays alone, a number is one word, and a bracket is none of the word that follows.
    expected = ["Ċ", "Ċ", "Human", "Ġ", "1234", "Ġthe", "(", "a", ")", "ĊĊ"]
    assert tokenizer.encode("\n\nHuman 1234 the(a)\n\n").tokens == expected


@pytest.mark.parametrize(
    ("vocabulary", "merges", "words"),
    [
        ({"a": 0}, [], r"must have the token <\|endoftext\|>. Received: 1 tokens"),
        ({"a": 0, "<|endoftext|>": 1}, ["a b"], "must be pairs of tokens of `vocabulary`. Received"),
        ({"a": 0, "<|endoftext|>": 1}, ["ab"], "must be pairs of tokens of `vocabulary`. Received"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(vocabulary, merges, words):
    with pytest.raises(ValueError, match=words):
        gpt2_tokenizer(vocabulary, merges)


def letters(tokenizer, tokens):
    return ["".join(tokenizer.id_to_token(int(token)) for token in part) for part in tokens[:3]]


@pytest.mark.parametrize(
    ("pair", "expected", "truncated"),
    [
        # Nothing is cut while the prompt and the longer response fit, end of text included.
        (Pair("abcdef", "u", "u"), ["abcdef", "u.", "u."], False),
        (Pair("abc", "uvwx", "u"), ["abc", "uvwx.", "u."], False),
        # The prompt keeps 4 tokens: its end, or its start.
        (Pair("abcdef", "uv", "u"), ["cdef", "uv.", "u."], True),
        (Pair("abcdef", "uv", "u", keeps_start=True), ["abcd", "uv.", "u."], True),
        # Responses keep 4 tokens, though the prompt is shorter.
        (Pair("ab", "uvwxyz", "uvwx"), ["ab", "uvwx", "uvwx"], True),
        (Pair("abcdef", "uvwxyz", "uv"), ["cdef", "uvwx", "uv."], True),
    ],
)
def test_only_what_exceeds_the_limit_is_cut(tokenizer, pair, expected, truncated):
    (tokens,) = tokenize([pair], tokenizer, length=8)
    assert [text.replace("<|endoftext|>", ".") for text in letters(tokenizer, tokens)] == expected
    assert tokens.truncated is truncated


def test_fine_tuning_has_one_response_to_each_prompt():
    pairs = [Pair("a", "1", "2"), Pair("b", "3", "4", 5), Pair("a", "6", "7"), Pair("b", "8", "9", 4)]
    assert once_a_prompt(pairs) == [Pair("a", "6", "7"), Pair("b", "3", "4", 5)]


def test_the_end_of_a_text_is_no_token_of_a_text(tokenizer):
    (tokens,) = tokenize([Pair("a", "<|endoftext|>", "b")], tokenizer)
    end = tokenizer.token_to_id("<|endoftext|>")
    assert [int((part == end).sum()) for part in tokens[:3]] == [0, 1, 1]


def test_many_pairs_keep_their_order(tokenizer):
    pairs = [Pair(f"{k}", f"{k}+", f"{k}-") for k in range(1500)]
    found = tokenize(pairs, tokenizer)
    assert [letters(tokenizer, tokens)[0] for tokens in found] == [pair.prompt for pair in pairs]
    assert [letters(tokenizer, tokens)[2] for tokens in found] == [f"{pair.rejected}<|endoftext|>" for pair in pairs]


def test_no_room_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"`length` must be at least 2.*Received: length=1"):
        tokenize([Pair("a", "b", "c")], tokenizer, length=1)


# Batches.

TOKENS = Tokens(np.array([1, 2]), np.array([3, 4, 9]), np.array([5, 9]), False)


def test_masks_tell_text_and_response():
    arrays = pad(TOKENS, length=6)
    np.testing.assert_array_equal(arrays["token_ids"], [[1, 2, 3, 4, 9, 0], [1, 2, 5, 9, 0, 0]])
    np.testing.assert_array_equal(arrays["padding_mask"], [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]])
    np.testing.assert_array_equal(arrays["response_mask"], [[0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 0, 0]])
    (chosen,) = pad(TOKENS, length=6, responses=["chosen"])["token_ids"]
    np.testing.assert_array_equal(chosen, arrays["token_ids"][0])


def numbered(count):
    return [Tokens(np.array([k]), np.array([k, k]), np.array([k]), False) for k in range(count)]


def test_one_pass_has_all_pairs_in_order():
    targets = np.arange(10.0).reshape(5, 2)
    data = batches(numbered(5), length=3, batch_size=2, targets=targets)
    assert len(data) == 3
    inputs, found = zip(*data, strict=True)
    assert [len(rows) for rows in found] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(found), targets)
    assert inputs[0]["token_ids"].shape == (2, 2, 3)
    np.testing.assert_array_equal(np.concatenate([x["token_ids"][:, 0, 0] for x in inputs]), range(5))
    np.testing.assert_array_equal(batches(numbered(2), length=3, batch_size=2)[0][1], [[2, 1], [2, 1]])


def order(seed, steps):
    data = batches(numbered(6), length=3, batch_size=3, responses=["chosen"], seed=seed)
    found = [data[step][0]["token_ids"][:, 0, 0].tolist() for step in range(steps)]
    return [found[k] + found[k + 1] for k in range(0, steps, 2)]


def test_each_pass_has_all_pairs_in_another_order():
    first, second, third = order(seed=1, steps=6)
    assert sorted(first) == sorted(second) == sorted(third) == list(range(6))
    assert first != second != third
    assert order(seed=1, steps=6) == [first, second, third]
    assert order(seed=2, steps=6) != [first, second, third]
