"""Exercises of the lab ch01_tokens_and_embeddings: pairs, merges, streaming, bits per byte, row gradients."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from alignlab.exercises import Exercise, Wrong, require, same

Words = Mapping[tuple[str, ...], int]
Ranks = Mapping[tuple[str, str], int]

# In WORDS ("t", "e") occurs 11 times; where each word counts once, ("a", "n") wins.
WORDS: Words = {
    ("w", "a", "t", "e", "r"): 7,
    ("t", "e", "n"): 4,
    ("b", "a", "n", "a", "n", "a"): 2,
    ("c", "a", "n"): 1,
    ("r", "a", "n"): 1,
}
APART: Words = {("x", "z", "y"): 4, ("x", "w", "y"): 4, ("a", "b"): 5}  # x and y are no neighbours
TWICE: Words = {("a", "n", "a", "n"): 3, ("x", "y"): 5}  # a pair that stands twice in a word
RANKS: Ranks = {
    ("h", "e"): 0,
    ("e", "r"): 1,
    ("t", "h"): 2,
    ("r", "e"): 3,
    ("t", "he"): 4,
    ("the", "re"): 5,
    ("a", "a"): 6,
    ("a", "t"): 7,
}
MERGE_CASES: Sequence[tuple[str, list[str]]] = (
    ("there", ["there"]),
    ("here", ["he", "re"]),
    ("aaaaa", ["aa", "aa", "a"]),
    ("erthe", ["er", "the"]),
    ("ath", ["a", "th"]),
    ("q", ["q"]),
)
STREAM = [b"Caf", b"\xc3", b"\xa9 ", b"\xf0\x9f\x98", b"\x80", b"!", b"\xe5\xa5", b"\xbd"]
STREAMED = ["Caf", "", "é ", "", "😀", "!", "", "好"]
LOSSES = ((2.0, 250, 1000), (3.5, 4000, 17_300), (math.log(2), 8, 8))
IDS = torch.tensor([3, 0, 3, 4, 3])
UPSTREAM = torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 0.0], [2.0, 2.0], [-1.0, 4.0]], dtype=torch.float64)
VOCABULARY = 6


# ---- solutions
def commonest_pair(words: Words) -> tuple[str, str]:
    """Each occurrence in each word counts as often as the word occurs."""
    counts: Counter[tuple[str, str]] = Counter()
    for symbols, times in words.items():
        for pair in pairwise(symbols):
            counts[pair] += times
    return max(counts, key=counts.__getitem__)


def merge(word: str, ranks: Ranks) -> list[str]:
    """Join the pair of the lowest rank, the leftmost of equals, until no pair has a rank."""
    symbols = list(word)
    while True:
        known = [(ranks[pair], i) for i, pair in enumerate(pairwise(symbols)) if pair in ranks]
        if not known:
            return symbols
        _, i = min(known)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]


def stream(tokens: Sequence[bytes]) -> list[str]:
    """What may be shown after each token: bytes of an unfinished character wait for the rest of it."""
    shown, waiting = [], b""
    for token in tokens:
        waiting += token
        for end in range(len(waiting), -1, -1):
            try:
                text = waiting[:end].decode()
            except UnicodeDecodeError:
                continue
            shown.append(text)
            waiting = waiting[end:]
            break
    return shown


def bits_per_byte(nats_per_token: float, tokens: int, bytes_: int) -> float:
    """All nats of the text, in bits, over its bytes."""
    return nats_per_token * tokens / math.log(2) / bytes_


def embedding_gradient(ids: Tensor, upstream: Tensor, vocabulary: int) -> Tensor:
    """Each token adds its gradient to its own row; a token that stands twice adds twice."""
    gradient = torch.zeros(vocabulary, upstream.shape[-1], dtype=upstream.dtype)
    gradient.index_add_(0, ids, upstream)
    return gradient


# ---- wrong answers
def pair_of_word_types(words: Words) -> tuple[str, str]:
    return commonest_pair(dict.fromkeys(words, 1))


def pair_once_a_word(words: Words) -> tuple[str, str]:
    counts: Counter[tuple[str, str]] = Counter()
    for symbols, times in words.items():
        for pair in set(pairwise(symbols)):
            counts[pair] += times
    return max(counts, key=lambda pair: (counts[pair], pair))


def pair_of_neighbours_or_not(words: Words) -> tuple[str, str]:
    counts: Counter[tuple[str, str]] = Counter()
    for symbols, times in words.items():
        for i, left in enumerate(symbols):
            for right in symbols[i + 1 :]:
                counts[left, right] += times
    return max(counts, key=counts.__getitem__)


def merge_leftmost(word: str, ranks: Ranks) -> list[str]:
    symbols = list(word)
    while True:
        known = [i for i, pair in enumerate(pairwise(symbols)) if pair in ranks]
        if not known:
            return symbols
        symbols[known[0] : known[0] + 2] = ["".join(symbols[known[0] : known[0] + 2])]


def merge_longest(word: str, ranks: Ranks) -> list[str]:
    tokens = {left + right for left, right in ranks} | set(word)
    symbols = []
    while word:
        end = next(end for end in range(len(word), 0, -1) if word[:end] in tokens)
        symbols.append(word[:end])
        word = word[end:]
    return symbols


def merge_one_round(word: str, ranks: Ranks) -> list[str]:
    symbols = list(word)
    known = [(ranks[pair], i) for i, pair in enumerate(pairwise(symbols)) if pair in ranks]
    if known:
        _, i = min(known)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    return symbols


def stream_each_alone(tokens: Sequence[bytes]) -> list[str]:
    return [token.decode(errors="replace") for token in tokens]


def stream_ignoring(tokens: Sequence[bytes]) -> list[str]:
    return [token.decode(errors="ignore") for token in tokens]


def stream_all_or_nothing(tokens: Sequence[bytes]) -> list[str]:
    shown, waiting = [], b""
    for token in tokens:
        waiting += token
        try:
            shown.append(waiting.decode())
        except UnicodeDecodeError:
            shown.append("")
    return shown


def bits_in_nats(nats_per_token: float, tokens: int, bytes_: int) -> float:
    return nats_per_token * tokens / bytes_


def bits_per_token(nats_per_token: float, tokens: int, bytes_: int) -> float:
    return nats_per_token / math.log(2)


def bits_upside_down(nats_per_token: float, tokens: int, bytes_: int) -> float:
    return nats_per_token / math.log(2) * bytes_ / tokens


def gradient_overwritten(ids: Tensor, upstream: Tensor, vocabulary: int) -> Tensor:
    gradient = torch.zeros(vocabulary, upstream.shape[-1], dtype=upstream.dtype)
    for i, row in zip(ids.tolist(), upstream, strict=True):
        gradient[i] = row
    return gradient


def gradient_averaged(ids: Tensor, upstream: Tensor, vocabulary: int) -> Tensor:
    times = torch.bincount(ids, minlength=vocabulary).clamp(min=1)
    return embedding_gradient(ids, upstream, vocabulary) / times[:, None]


def gradient_everywhere(ids: Tensor, upstream: Tensor, vocabulary: int) -> Tensor:
    return upstream.sum(0).expand(vocabulary, -1)


# ---- graders
def _grade_pair(answer: Callable[..., Any]) -> None:
    for words in (WORDS, APART, TWICE):
        got, want = answer(dict(words)), commonest_pair(words)
        require(isinstance(got, tuple) and len(got) == 2, f"Return the pair as a tuple of two symbols, not {got!r}.")
        if got == want:
            continue
        require(
            got != pair_of_neighbours_or_not(words), f"{got} are not neighbours everywhere: a pair stands side by side."
        )
        require(
            got != pair_of_word_types(words), f"{got} wins if each word counts once: weigh it by how often it occurs."
        )
        require(
            got != pair_once_a_word(words), f"{got}: a word may hold a pair several times, and each of them counts."
        )
        require(False, f"The commonest pair of {dict(words)} is {want}, not {got}.")


def _grade_merge(answer: Callable[..., Any]) -> None:
    for word, want in MERGE_CASES:
        got = answer(word, dict(RANKS))
        if got == want:
            continue
        require(isinstance(got, list), f"Return a list of symbols, not {got!r}.")
        require("".join(got) == word, f"{got} does not spell {word!r} any more.")
        require(
            got != merge_one_round(word, RANKS),
            f"{word!r} became {got}: after a merge new pairs stand side by side. Go on until none has a rank.",
        )
        require(
            got != merge_longest(word, RANKS),
            f"{word!r} became {got}: that is the longest token first. The ranks decide, not the length.",
        )
        require(
            got != merge_leftmost(word, RANKS),
            f"{word!r} became {got}: that is the leftmost pair first. The lowest rank goes first, wherever it stands.",
        )
        require(False, f"{word!r} should become {want}, not {got}.")


def _grade_stream(answer: Callable[..., Any]) -> None:
    got = answer(list(STREAM))
    require(isinstance(got, list) and len(got) == len(STREAM), "Return a list with one string for each token.")
    require("�" not in "".join(got), "A replacement character was shown: part of a character must wait for its rest.")
    require("".join(got) != "Caf !", "Characters got lost: bytes that are no character yet may become one.")
    require(got != stream_all_or_nothing(STREAM), "What was shown once is shown again: start anew after each output.")
    require(got == STREAMED, f"{STREAM} should be shown as {STREAMED}, not as {got}.")


def _grade_bits(answer: Callable[..., Any]) -> None:
    for case in LOSSES:
        same(
            answer(*case),
            bits_per_byte(*case),
            "bits per byte",
            mistakes={
                "These are nats per byte: divide by ln 2.": bits_in_nats(*case),
                "These are bits per token: the text has another number of bytes.": bits_per_token(*case),
                "Tokens and bytes stand the wrong way round.": bits_upside_down(*case),
            },
        )


def _grade_gradient(answer: Callable[..., Any]) -> None:
    case = (IDS, UPSTREAM, VOCABULARY)
    same(
        answer(*(part.clone() if isinstance(part, Tensor) else part for part in case)),
        embedding_gradient(*case),
        "the gradient",
        mistakes={
            "Token 3 stands three times, and only its last gradient is left: add them up.": gradient_overwritten(*case),
            "Token 3's gradients are averaged: a sum over positions gives a sum.": gradient_averaged(*case),
            "Rows of tokens that do not occur have a gradient: they were not looked up.": gradient_everywhere(*case),
        },
    )


EXERCISES = [
    Exercise(
        name="tokens_and_embeddings.commonest_pair",
        task="Words are given as `{symbols: times}`. Return the pair of neighbouring symbols that occurs most often.",
        difficulty=1,
        minutes=5,
        grade=_grade_pair,
        solution=commonest_pair,
        wrong=[
            Wrong(pair_of_word_types, "weigh it by how often it occurs"),
            Wrong(pair_once_a_word, "a word may hold a pair several times"),
            Wrong(pair_of_neighbours_or_not, "are not neighbours everywhere"),
        ],
        hint="`itertools.pairwise` gives the neighbours; add `times` for each of them to a Counter.",
    ),
    Exercise(
        name="tokens_and_embeddings.merge",
        task="Encode a word: split it into characters, then join pairs by `ranks`, the lowest rank first, "
        "the leftmost where a pair stands twice. Return the symbols.",
        difficulty=2,
        minutes=10,
        grade=_grade_merge,
        solution=merge,
        wrong=[
            Wrong(merge_leftmost, "that is the leftmost pair first"),
            Wrong(merge_longest, "that is the longest token first"),
            Wrong(merge_one_round, "Go on until none has a rank"),
        ],
        hint="In a loop: list `(rank, place)` of all neighbouring pairs with a rank; join at the place of the `min`.",
    ),
    Exercise(
        name="tokens_and_embeddings.stream",
        task="A server sends tokens (bytes) one by one. After each, return the text that can be shown: whole "
        "characters at once, bytes of an unfinished one with the token that finishes it.",
        difficulty=2,
        minutes=10,
        grade=_grade_stream,
        solution=stream,
        wrong=[
            Wrong(stream_each_alone, "A replacement character was shown"),
            Wrong(stream_ignoring, "Characters got lost"),
            Wrong(stream_all_or_nothing, "shown again"),
        ],
        hint="Keep what is waiting. Try to decode all of it, then all but its last byte, and so on; keep the rest.",
    ),
    Exercise(
        name="tokens_and_embeddings.bits_per_byte",
        task="Two models with different tokenizers read a text of `bytes_` bytes. Turn a loss in nats per token over "
        "`tokens` tokens into bits per byte, which can be compared.",
        difficulty=1,
        minutes=4,
        grade=_grade_bits,
        solution=bits_per_byte,
        wrong=[
            Wrong(bits_in_nats, "nats per byte"),
            Wrong(bits_per_token, "bits per token"),
            Wrong(bits_upside_down, "stand the wrong way round"),
        ],
        hint="How many nats does the whole text cost? How many bits is that? Share them among the bytes.",
    ),
    Exercise(
        name="tokens_and_embeddings.embedding_gradient",
        task="Given token ids (T,) and the loss's gradient by each position's embedding (T, d), return its gradient by "
        "the embedding matrix (V, d).",
        difficulty=2,
        minutes=6,
        grade=_grade_gradient,
        solution=embedding_gradient,
        wrong=[
            Wrong(gradient_overwritten, "only its last gradient is left"),
            Wrong(gradient_averaged, "are averaged"),
            Wrong(gradient_everywhere, "they were not looked up"),
        ],
        hint="The forward pass copies row `ids[t]` to position t. What does a copy do in the backward pass?",
    ),
]
