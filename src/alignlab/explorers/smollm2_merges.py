"""SmolLM2's vocabulary for a page: its special tokens, bytes and merges, in a file that ships with the package.

`python -m alignlab.explorers.smollm2_merges` writes the file anew from the model's tokenizer. The merges are those of
SmolLM2 (Allal et al., 2025; Apache License 2.0), written as GPT-2's merges.txt writes them.
"""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("smollm2_merges.txt.gz")


def lines(file: Path = FILE) -> list[str]:
    """The special tokens in a line, the single bytes in a line, then a merge a line: all in the order of their ids."""
    return gzip.decompress(file.read_bytes()).decode().splitlines()


def tokenizer(file: Path = FILE) -> Any:
    """SmolLM2's `bpe.Tokenizer`: the file's merges, on text cut at every digit and then by GPT-2's pattern."""
    from alignlab import bpe

    special, single, *merges = lines(file)
    first = len(special.split())
    tokens = [bpe.bytes_of(letter) for letter in single.split()]
    pairs = [(bpe.bytes_of(left), bpe.bytes_of(right)) for left, right in (merge.split() for merge in merges)]
    vocabulary = {token: first + i for i, token in enumerate([*tokens, *(left + right for left, right in pairs)])}
    marks = {text: i for i, text in enumerate(special.split())}
    return bpe.Tokenizer(vocabulary, pairs, marks, patterns=(bpe.DIGITS, bpe.GPT2))


def data(tokenizer: Any, texts: Mapping[str, str]) -> dict[str, Any]:
    """What tokenizer.js needs to show these texts, by title: special tokens, bytes, every merge that could be made.

    tokenizer: a `bpe.Tokenizer` whose ids are those of the file.
    """
    from alignlab import bpe

    marks = "|".join(map(re.escape, tokenizer.special))
    known: dict[int, bpe.Pair] = {}
    pieces = {piece for text in texts.values() for part in re.split(marks, text) for piece in tokenizer.pieces(part)}
    for piece in pieces:
        letters = piece.encode()
        symbols = [letters[i : i + 1] for i in range(len(letters))]
        while ranks := {tokenizer.rank[pair]: pair for pair in pairwise(symbols) if pair in tokenizer.rank}:
            known |= ranks
            left, right = ranks[min(ranks)]
            at = next(i for i, pair in enumerate(pairwise(symbols)) if pair == (left, right))
            symbols[at : at + 2] = [left + right]
    first = len(tokenizer.special)
    return {
        "model": "SmolLM2",
        "digits": bpe.DIGITS in tokenizer.patterns,
        "special": sorted(tokenizer.special, key=tokenizer.special.__getitem__),
        "bytes": [bpe.written(tokenizer.tokens[i]) for i in range(first, len(tokenizer) - len(tokenizer.merges))],
        "merges": len(tokenizer.merges),
        "known": [[rank, " ".join(map(bpe.written, known[rank]))] for rank in sorted(known)],
        "texts": [{"title": title, "text": text} for title, text in texts.items()],
    }


def write(tokenizer: Any, file: Path = FILE) -> None:
    """The file, from a `bpe.Tokenizer` whose ids are special tokens, bytes and merges in this order, else ValueError.

    The same tokenizer gives the same bytes.
    """
    from alignlab import bpe

    single = sorted((i, token) for token, i in tokenizer.vocabulary.items() if len(token) == 1)
    in_order = [
        *sorted(tokenizer.special, key=tokenizer.special.__getitem__),
        *(token for _, token in single),
        *(left + right for left, right in tokenizer.merges),
    ]
    ids = [tokenizer.special[token] if isinstance(token, str) else tokenizer.vocabulary[token] for token in in_order]
    if ids != list(range(len(tokenizer))) or any(" " in token for token in tokenizer.special):
        raise ValueError("the ids are not those of special tokens, bytes and merges one after the other")
    written = [
        " ".join(sorted(tokenizer.special, key=tokenizer.special.__getitem__)),
        " ".join(bpe.written(token) for _, token in single),
        *(f"{bpe.written(left)} {bpe.written(right)}" for left, right in tokenizer.merges),
    ]
    file.write_bytes(gzip.compress(("\n".join(written) + "\n").encode(), compresslevel=9, mtime=0))


@cache
def packed() -> str:
    """The file as JSON can hold it; tokenizer.js takes it apart."""
    return base64.b64encode(FILE.read_bytes()).decode()


def main() -> None:
    """Write the file from the tokenizer of `small`."""
    from alignlab import bpe, models

    write(bpe.Tokenizer.of(models.load("small", "cpu")[1]))


if __name__ == "__main__":
    main()
