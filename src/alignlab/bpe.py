"""Byte-level BPE: from text to token ids and back, and the training that finds the merges.

Knows bytes, patterns and merges; nothing about models. Written to be read; its results are those of the `tokenizers`
library, which does the same in Rust (`make bench` says how far apart the two are).
"""

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import regex

Pair = tuple[bytes, bytes]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The pattern of GPT-2, Radford et al. (2019), that cuts a text into pieces. No token crosses a cut."""

DIGITS = r"\p{N}"
"""Each digit a piece of its own."""

_PLAIN = [*range(33, 127), *range(161, 173), *range(174, 256)]
_HIDDEN = [byte for byte in range(256) if byte not in _PLAIN]
ALPHABET: dict[int, str] = {byte: chr(byte) for byte in _PLAIN} | {byte: chr(256 + i) for i, byte in enumerate(_HIDDEN)}
"""The printable character by which a tokenizer's file writes each byte: a space is `Ġ`, a line break `Ċ`.

In the order of these characters, which is the order of the bytes' ids after training.
"""
BYTE = {character: byte for byte, character in ALPHABET.items()}
"""The byte that each of these characters stands for."""
CACHE = 100_000
"""Pieces whose ids are remembered: words come again and again."""


class Tokenizer:
    """A vocabulary of byte strings and the merges that make them.

    vocabulary: id of each token. merges: pairs of tokens, the first learned first; its place is a merge's rank.
    special: id of each special token by its text. patterns: applied one after the other, each cutting what the one
    before it left. ValueError where a merge makes a token that the vocabulary lacks, or two tokens share an id.
    """

    def __init__(
        self,
        vocabulary: Mapping[bytes, int],
        merges: Sequence[Pair],
        special: Mapping[str, int] | None = None,
        patterns: Sequence[str] = (GPT2,),
    ) -> None:
        self.vocabulary, self.merges, self.special = dict(vocabulary), list(merges), dict(special or {})
        self.patterns = list(patterns)
        self.rank = {pair: rank for rank, pair in enumerate(self.merges)}
        self.tokens: dict[int, bytes] = {i: token for token, i in self.vocabulary.items()}
        self.tokens |= {i: text.encode() for text, i in self.special.items()}
        if len(self.tokens) != len(self.vocabulary) + len(self.special):
            raise ValueError("two tokens have the same id; give each its own")
        for rank, (left, right) in enumerate(self.merges):
            if not self.vocabulary.keys() >= {left, right, left + right}:
                raise ValueError(f"merge {rank}, {left!r} + {right!r}, has a part or a result that is no token")
        self._patterns = [regex.compile(pattern) for pattern in self.patterns]
        # The longest first: where one special token begins another, the longer one counts.
        longest_first = sorted(self.special, key=len, reverse=True)
        self._marks = regex.compile("|".join(map(regex.escape, longest_first))) if longest_first else None
        self._missing = frozenset(byte for byte in range(256) if bytes([byte]) not in self.vocabulary)
        self._known: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    # -- text to ids

    def encode(self, text: str | bytes, missing: Literal["error", "drop"] = "error") -> list[int]:
        """Token ids of a text; special tokens written in it count as such.

        text: a string, or its bytes in UTF-8. missing: what to do about a byte for which the vocabulary has no token;
        "drop" leaves it out, as the `tokenizers` library does without a word.
        ValueError, with the place, for bytes that are not UTF-8, for half a surrogate pair, and for a missing byte.
        """
        text = _text(text)
        ids: list[int] = []
        at = 0
        for part, is_special in _cut(self._marks, text) if self._marks else [(text, False)]:
            if is_special:
                ids.append(self.special[part])
            else:
                ids += self._encode_plain(part, missing, at)
            at += len(part)
        return ids

    def pieces(self, text: str) -> list[str]:
        """A text cut by the patterns, nothing lost; each piece is merged by itself."""
        pieces = [text] if text else []
        for pattern in self._patterns:
            pieces = [cut for piece in pieces for cut, _ in _cut(pattern, piece)]
        return pieces

    def merge(self, piece: bytes) -> list[bytes]:
        """A piece's tokens, Sennrich et al. (2015), algorithm 1: the pair of the lowest rank first, until none is left.

        The same as looking through all pairs after each merge, but in n log n steps for n bytes: a heap holds the
        pairs, and each symbol knows its neighbours.
        """
        symbols: list[bytes | None] = [piece[i : i + 1] for i in range(len(piece))]
        before, after = list(range(-1, len(piece) - 1)), list(range(1, len(piece) + 1))
        heap: list[tuple[int, int, bytes, bytes]] = []

        def offer(i: int, j: int) -> None:
            if i >= 0 and j < len(symbols):
                left, right = symbols[i], symbols[j]
                assert left is not None and right is not None
                if (left, right) in self.rank:
                    heapq.heappush(heap, (self.rank[left, right], i, left, right))

        for i in range(len(piece) - 1):
            offer(i, i + 1)
        while heap:
            _, i, left, right = heapq.heappop(heap)
            j = after[i]
            if symbols[i] != left or j >= len(symbols) or symbols[j] != right:
                continue  # one of the two went into another merge meanwhile
            symbols[i], symbols[j] = left + right, None
            after[i] = after[j]
            if after[j] < len(symbols):
                before[after[j]] = i
            offer(before[i], i)
            offer(i, after[i])
        return [symbol for symbol in symbols if symbol is not None]

    def _encode_plain(self, text: str, missing: str, start: int) -> list[int]:
        ids: list[int] = []
        for piece in self.pieces(text):
            known = self._known.get(piece)
            if known is None:
                data = piece.encode()
                lost = self._missing.intersection(data)
                if lost and missing == "error":
                    where = next(i for i, character in enumerate(text) if lost.intersection(character.encode()))
                    byte = min(lost.intersection(text[where].encode()))
                    raise ValueError(
                        f"the vocabulary has no token for the byte 0x{byte:02x}, which {text[where]!r} at character "
                        f'{start + where} needs; take it out, or pass missing="drop" to lose it'
                    )
                known = [self.vocabulary[token] for token in self.merge(bytes(b for b in data if b not in lost))]
                if not lost and len(self._known) < CACHE:
                    self._known[piece] = known
            ids += known
        return ids

    # -- ids to text

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that token ids write. A token may end inside a character. ValueError for an id that is none."""
        parts = []
        for place, i in enumerate(ids):
            if i not in self.tokens:
                raise ValueError(f"id {i} at place {place} is no token; ids go up to {max(self.tokens)}")
            parts.append(self.tokens[i])
        return b"".join(parts)

    def decode(self, ids: Iterable[int]) -> str:
        """The text that token ids write; bytes that make no character become U+FFFD."""
        return self.decode_bytes(ids).decode(errors="replace")

    # -- files

    @classmethod
    def of(cls, source: Any) -> Self:
        """From the path of a tokenizer.json, or from a fast tokenizer of transformers.

        ValueError, naming the part, for a tokenizer that does something that this one does not.
        """
        if isinstance(source, str | Path):
            return cls.from_json(json.loads(Path(source).read_text(encoding="utf-8")))
        return cls.from_json(json.loads(source.backend_tokenizer.to_str()))

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> Self:
        """From the contents of a tokenizer.json; see `of`."""
        model, patterns = described["model"], _patterns(described.get("pre_tokenizer"))
        special = {token["content"]: token["id"] for token in described.get("added_tokens", ())}
        strange = {
            "model.type": model.get("type") != "BPE",
            "normalizer": described.get("normalizer") is not None,
            "pre_tokenizer": patterns is None,
            "dropout": model.get("dropout"),
            "byte_fallback": model.get("byte_fallback"),
            "ignore_merges": model.get("ignore_merges"),
            "continuing_subword_prefix": model.get("continuing_subword_prefix"),
            "end_of_word_suffix": model.get("end_of_word_suffix"),
            "unk_token": model.get("unk_token"),
            "added_tokens": any(
                token.get(flag)
                for token in described.get("added_tokens", ())
                for flag in ("lstrip", "rstrip", "single_word")
            ),
        }
        if any(strange.values()):
            names = ", ".join(name for name, is_strange in strange.items() if is_strange)
            raise ValueError(f"this tokenizer does not cover the file's {names}; use the tokenizers library itself")
        merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
        return cls(
            {bytes_of(name): i for name, i in model["vocab"].items() if name not in special},
            [(bytes_of(left), bytes_of(right)) for left, right in merges],
            special,
            patterns or (),
        )

    def to_json(self) -> dict[str, Any]:
        """The contents of a tokenizer.json, for the tokenizers library and for transformers."""
        splits = [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
            for pattern in self.patterns
        ]
        in_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": i, "content": text, **flags, "special": True} for text, i in self.special.items()],
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, in_bytes]},
            "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": self.special | {written(token): i for token, i in self.vocabulary.items()},
                "merges": [[written(left), written(right)] for left, right in self.merges],
            },
        }


def train(
    texts: Iterable[str], vocabulary: int, special: Sequence[str] = (), patterns: Sequence[str] = (GPT2,)
) -> Tokenizer:
    """Learn merges, Sennrich et al. (2015), algorithm 1, on bytes: join the commonest pair, again and again.

    vocabulary: how many tokens there are to be, the special ones and the 256 bytes included; fewer where no pair is
    left. Pairs are counted within pieces only. Of pairs that are equally common, the one with the smaller ids wins.
    Ids: special tokens, bytes in the order of ALPHABET, then each merge's token: as `tokenizers` deals them.
    ValueError where `vocabulary` has no room for the bytes.
    """
    if vocabulary < 256 + len(special):
        raise ValueError(f"a vocabulary of {vocabulary} has no room for 256 bytes and {len(special)} special tokens")
    learner = Tokenizer({bytes([byte]): i for i, byte in enumerate(ALPHABET)}, (), {}, patterns)
    counts = Counter(piece for text in texts for piece in learner.pieces(_text(text)))
    first = len(special)
    tokens = [text.encode() for text in special] + [bytes([byte]) for byte in ALPHABET]
    id_of = {token: i for i, token in enumerate(tokens) if i >= first}
    words = [[id_of[bytes([byte])] for byte in piece.encode()] for piece in counts]
    times = list(counts.values())

    pairs: Counter[tuple[int, int]] = Counter()
    where: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    for w, word in enumerate(words):
        for pair in pairwise(word):
            pairs[pair] += times[w]
            where[pair].add(w)
    heap = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while len(tokens) < vocabulary and heap:
        count, pair = heapq.heappop(heap)
        if -count != pairs[pair]:
            continue  # counted before other merges changed it; the true count stands elsewhere in the heap
        left, right = tokens[pair[0]], tokens[pair[1]]
        merges.append((left, right))
        new = id_of.setdefault(left + right, len(tokens))
        if new == len(tokens):
            tokens.append(left + right)
        changed: Counter[tuple[int, int]] = Counter()
        for w in where.pop(pair):
            for old in pairwise(words[w]):
                changed[old] -= times[w]
            words[w] = _joined(words[w], pair, new)
            for formed in pairwise(words[w]):
                changed[formed] += times[w]
                where[formed].add(w)
        for other, change in changed.items():
            if change:
                pairs[other] += change
                if pairs[other] > 0:
                    heapq.heappush(heap, (-pairs[other], other))
    return Tokenizer(id_of, merges, {text: i for i, text in enumerate(special)}, patterns)


def written(token: bytes) -> str:
    """A token as a tokenizer's file writes it: each byte as a printable character."""
    return "".join(ALPHABET[byte] for byte in token)


def bytes_of(name: str) -> bytes:
    """The inverse of `written`. ValueError for a name with a character that stands for no byte."""
    if not BYTE.keys() >= set(name):
        raise ValueError(f"the token {name!r} is not written in the byte-level alphabet of GPT-2's tokenizer")
    return bytes(BYTE[character] for character in name)


def _joined(word: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """The word with each occurrence of the pair replaced, from left to right."""
    joined: list[int] = []
    i = 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            joined.append(new)
            i += 2
        else:
            joined.append(word[i])
            i += 1
    return joined


def _cut(pattern: Any, text: str) -> Iterator[tuple[str, bool]]:
    """The matches of a pattern and what lies between them, in order, and whether each is a match."""
    at = 0
    for match in pattern.finditer(text):
        if match.start() > at:
            yield text[at : match.start()], False
        if match.end() > match.start():
            yield match.group(), True
        at = match.end()
    if at < len(text):
        yield text[at:], False


def _text(text: str | bytes) -> str:
    """The text, known to be one. ValueError with the place of what is not."""
    if isinstance(text, bytes):
        try:
            return text.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"byte 0x{text[error.start]:02x} at offset {error.start} is not UTF-8 ({error.reason}); decode the "
                "text with the encoding that it is written in"
            ) from error
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{text[error.start]!r} at character {error.start} is half a surrogate pair and no character; the text was "
            "decoded wrongly"
        ) from error
    return text


def _patterns(described: Mapping[str, Any] | None) -> list[str] | None:
    """The patterns of a file's pre-tokenizer, which must end in bytes; None where it does something else."""
    if described is None:
        return None
    parts = described["pretokenizers"] if described["type"] == "Sequence" else [described]
    found = [_pattern(part) for part in parts]
    if parts[-1]["type"] != "ByteLevel" or None in found:
        return None
    return [pattern for pattern in found if pattern]


def _pattern(described: Mapping[str, Any]) -> str | None:
    """The pattern of one part of a pre-tokenizer; empty where it cuts nothing, None where it does something else."""
    kind = described["type"]
    if kind == "ByteLevel" and not described["add_prefix_space"]:
        return GPT2 if described.get("use_regex", True) else ""
    if kind == "Digits" and described["individual_digits"]:
        return DIGITS
    if kind == "Split" and described["behavior"] == "Isolated" and not described.get("invert"):
        found: Mapping[str, str] = described["pattern"]
        return found.get("Regex") or str(regex.escape(found["String"]))
    return None
