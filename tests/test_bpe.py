"""Byte-level BPE: equal to its plain definition, equal to the tokenizers library, clear about what it cannot read."""

import json
import random
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import regex
from tokenizers import Regex, decoders, pre_tokenizers, trainers
from tokenizers import Tokenizer as Peer
from tokenizers import models as peer_models

from alignlab import bpe
from alignlab.bpe import ALPHABET, DIGITS, GPT2, Tokenizer, train
from alignlab.explorers import smollm2_merges

TINY = Path(bpe.__file__).parent / "tiny" / "tokenizer.json"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
POEM = (
    "Who are you? I'm nobody! Who are you? Are you nobody, too? Then there's a pair of us: don't tell! They'd banish "
    "us, you know.\n\n  17 + 25 = 42; aaaa aaaaa banana bananas\n你是谁? 你是我。 café 😀😀 \t tabs\r\n"
)


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Strings of letters of all scripts, spaces of many widths, control characters and emoji.

    Code points that Python's edition of Unicode does not know are left out: of those that came later, regex and the
    library may know different ones.
    """
    rng = random.Random(seed)
    draws: list[Callable[[], str]] = [
        lambda: rng.choice("abc etaoin  \n\t.,'s'll 0123456789()-_ĠĊ"),
        lambda: chr(rng.randint(0, 0x7F)),
        lambda: chr(rng.randint(0x80, 0x52F)),
        lambda: chr(rng.choice([rng.randint(0x900, 0xD7A3), rng.randint(0xE000, 0xFFFD)])),
        lambda: chr(rng.randint(0x1F300, 0x1FAD0)),
        lambda: rng.choice(
            ["the", " and", "\r\n", "  ", "\u3000", "\u200d", "\ufeff", "\x85", "\x1c", "'re", "²", "½"]
        ),
    ]
    texts = ["".join(rng.choice(draws)() for _ in range(rng.randint(0, 30))) for _ in range(count)]
    return ["".join(c for c in text if unicodedata.category(c) != "Cn") for text in texts]


def peer_of(tokenizer: Tokenizer) -> Peer:
    return Peer.from_str(json.dumps(tokenizer.to_json()))


def published_peer(tokenizer: Tokenizer) -> Peer:
    """The library with SmolLM2's own pre-tokenizer, as its published file has it: digits alone, then GPT-2's."""
    peer = peer_of(tokenizer)
    parts: list[Any] = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    peer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    return peer


def peer_ids(peer: Peer, text: str) -> list[int]:
    ids: list[int] = peer.encode(text, add_special_tokens=False).ids
    return ids


@pytest.fixture(scope="module")
def smollm2() -> Tokenizer:
    """SmolLM2's tokenizer from the merges that ship with the package."""
    tokenizer: Tokenizer = smollm2_merges.tokenizer()
    return tokenizer


# ---- learning


Train = Callable[..., Tokenizer]


def plain_train(texts: Sequence[str], vocabulary: int, special: Sequence[str] = ()) -> list[bpe.Pair]:
    """The definition, with nothing kept up to date: count every pair, join the commonest, begin anew."""
    ids = {bytes([byte]): len(special) + i for i, byte in enumerate(ALPHABET)}
    words = [[bytes([byte]) for byte in piece.encode()] for text in texts for piece in regex.findall(GPT2, text)]
    merges: list[bpe.Pair] = []
    while len(ids) + len(special) < vocabulary:
        counts = Counter(pair for word in words for pair in pairwise(word))
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], ids[pair[0]], ids[pair[1]]))
        merges.append(best)
        ids.setdefault(best[0] + best[1], len(special) + len(ids))
        for word in words:
            for i in range(len(word) - 1):
                if tuple(word[i : i + 2]) == best:
                    word[i : i + 2] = [best[0] + best[1]]
    return merges


def check_train(learn: Train) -> None:
    """Everything that makes BPE training right."""
    for texts, size, special in (
        ([POEM], 340, []),
        ([POEM, POEM[50:], "aaaa", "aaa aa a"], 330, ["<|end|>", "<|x|>"]),
        (random_texts(60), 300, []),
        (["ab"], 400, []),  # no pair is left long before
    ):
        tokenizer = learn(texts, size, special)
        merges = plain_train(texts, size, special)
        assert tokenizer.merges == merges
        assert tokenizer.special == {text: i for i, text in enumerate(special)}
        assert sorted(tokenizer.tokens) == list(range(len(tokenizer)))
        assert [tokenizer.vocabulary[bytes([byte])] for byte in ALPHABET] == [*range(len(special), len(special) + 256)]


def test_training_equals_counting_anew_after_each_merge() -> None:
    check_train(train)


def without_counts(texts: Sequence[str], vocabulary: int, special: Sequence[str] = ()) -> Tokenizer:
    """Each different piece counts once."""
    pieces = {piece for text in texts for piece in regex.findall(GPT2, text)}
    return train(sorted(pieces), vocabulary, special)


def across_pieces(texts: Sequence[str], vocabulary: int, special: Sequence[str] = ()) -> Tokenizer:
    """Nothing keeps a merge within a word."""
    return train(texts, vocabulary, special, patterns=(r"(?s).+",))


def ties_by_text(texts: Sequence[str], vocabulary: int, special: Sequence[str] = ()) -> Tokenizer:
    """Of equally common pairs the one that is met first, not the one of the smaller ids."""
    words = [[bytes([byte]) for byte in piece.encode()] for text in texts for piece in regex.findall(GPT2, text)]
    ids = {bytes([byte]): len(special) + i for i, byte in enumerate(ALPHABET)}
    merges: list[bpe.Pair] = []
    while len(ids) + len(special) < vocabulary:
        counts = Counter(pair for word in words for pair in pairwise(word))
        if not counts:
            break
        best = max(counts, key=counts.__getitem__)
        merges.append(best)
        ids.setdefault(best[0] + best[1], len(special) + len(ids))
        words = [bpe_join(word, best) for word in words]
    return Tokenizer(ids, merges, {text: i for i, text in enumerate(special)})


def bpe_join(word: list[bytes], pair: bpe.Pair) -> list[bytes]:
    joined: list[bytes] = []
    for symbol in word:
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return joined


def special_last(texts: Sequence[str], vocabulary: int, special: Sequence[str] = ()) -> Tokenizer:
    """Special tokens get the last ids, so that every other id moves."""
    inner = train(texts, vocabulary - len(special))
    return Tokenizer(inner.vocabulary, inner.merges, {text: len(inner) + i for i, text in enumerate(special)})


def one_too_few(texts: Sequence[str], vocabulary: int, special: Sequence[str] = ()) -> Tokenizer:
    return train(texts, max(vocabulary - 1, 256 + len(special)), special)


WRONG_TRAIN: dict[str, Train] = {
    "pieces counted once": without_counts,
    "merges across pieces": across_pieces,
    "ties by first occurrence": ties_by_text,
    "special tokens last": special_last,
    "one merge too few": one_too_few,
}


@pytest.mark.parametrize("name", WRONG_TRAIN)
def test_a_wrong_training_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_train(WRONG_TRAIN[name])


@pytest.mark.parametrize(("size", "special"), [(700, []), (1500, ["<|end|>", "<|im_start|>"])])
def test_training_gives_the_merges_and_ids_of_the_tokenizers_library(size: int, special: list[str]) -> None:
    from alignlab import retrieval_corpus

    texts = [section.text for section in retrieval_corpus.read()][:120] + random_texts(200, seed=3)
    peer = Peer(peer_models.BPE())
    peer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    peer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    peer.train_from_iterator(texts, trainer)
    theirs, ours = Tokenizer.from_json(json.loads(peer.to_str())), train(texts, size, special)
    assert ours.merges == theirs.merges
    assert (ours.vocabulary, ours.special) == (theirs.vocabulary, theirs.special)
    assert all(ours.encode(text) == peer_ids(peer, text) for text in texts)


def test_a_vocabulary_without_room_for_all_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="257 has no room for 256 bytes and 2 special tokens"):
        train([POEM], 257, ["<a>", "<b>"])


# ---- encoding


def plain_merge(piece: bytes, ranks: dict[bpe.Pair, int]) -> list[bytes]:
    """The definition: look through all pairs, join the one of the lowest rank, look again."""
    symbols = [piece[i : i + 1] for i in range(len(piece))]
    while True:
        known = [(ranks[pair], i) for i, pair in enumerate(pairwise(symbols)) if pair in ranks]
        if not known:
            return symbols
        _, i = min(known)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]


Merge = Callable[[bytes, Tokenizer], list[bytes]]


def check_merge(merge: Merge, tokenizer: Tokenizer) -> None:
    """A merge of pieces: on words, on long runs, and where pairs overlap."""
    pieces = [piece for text in [POEM, *random_texts(300, seed=5)] for piece in tokenizer.pieces(text)]
    for piece in [*pieces, " " * 77, "a" * 50, "ab" * 20, " counterrevolutionaries", "", "x"]:
        assert merge(piece.encode(), tokenizer) == plain_merge(piece.encode(), tokenizer.rank), piece


def test_the_heap_merges_as_the_definition_does(smollm2: Tokenizer) -> None:
    check_merge(lambda piece, tokenizer: tokenizer.merge(piece), smollm2)


def longest_first(piece: bytes, tokenizer: Tokenizer) -> list[bytes]:
    tokens = []
    while piece:
        end = next(end for end in range(len(piece), 0, -1) if end == 1 or piece[:end] in tokenizer.vocabulary)
        tokens.append(piece[:end])
        piece = piece[end:]
    return tokens


def leftmost_first(piece: bytes, tokenizer: Tokenizer) -> list[bytes]:
    symbols = [piece[i : i + 1] for i in range(len(piece))]
    while True:
        known = [i for i, pair in enumerate(pairwise(symbols)) if pair in tokenizer.rank]
        if not known:
            return symbols
        symbols[known[0] : known[0] + 2] = [symbols[known[0]] + symbols[known[0] + 1]]


def by_result(piece: bytes, tokenizer: Tokenizer) -> list[bytes]:
    """tiktoken's rule, rank by the token that results: the same ids here, so it must pass."""
    ranks = {left + right: rank for rank, (left, right) in enumerate(tokenizer.merges)}
    symbols = [piece[i : i + 1] for i in range(len(piece))]
    while True:
        known = [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(symbols)) if a + b in ranks]
        if not known:
            return symbols
        _, i = min(known)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]


def rightmost_of_equals(piece: bytes, tokenizer: Tokenizer) -> list[bytes]:
    symbols = [piece[i : i + 1] for i in range(len(piece))]
    while True:
        known = [(tokenizer.rank[pair], -i) for i, pair in enumerate(pairwise(symbols)) if pair in tokenizer.rank]
        if not known:
            return symbols
        i = -min(known)[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]


def one_pass(piece: bytes, tokenizer: Tokenizer) -> list[bytes]:
    """Each merge is tried once, in the order of the pairs that stand at the beginning."""
    symbols = [piece[i : i + 1] for i in range(len(piece))]
    for pair in sorted({pair for pair in pairwise(symbols) if pair in tokenizer.rank}, key=tokenizer.rank.__getitem__):
        symbols = bpe_join(symbols, pair)
    return symbols


WRONG_MERGE: dict[str, Merge] = {
    "longest token first": longest_first,
    "leftmost pair first": leftmost_first,
    "rightmost of equal pairs": rightmost_of_equals,
    "new pairs not looked at": one_pass,
}


@pytest.mark.parametrize("name", WRONG_MERGE)
def test_a_wrong_merge_is_rejected(name: str, smollm2: Tokenizer) -> None:
    with pytest.raises(AssertionError):
        check_merge(WRONG_MERGE[name], smollm2)


def test_a_long_piece_takes_no_quadratic_time(smollm2: Tokenizer) -> None:
    piece = ("abcdefghij" * 4000).encode()
    began = time.process_time()
    assert b"".join(smollm2.merge(piece)) == piece
    assert time.process_time() - began < 5  # looking through 40,000 pairs after each merge takes minutes


def test_ids_and_texts_equal_those_of_the_tokenizers_library_on_unusual_text(smollm2: Tokenizer) -> None:
    peer = published_peer(smollm2)
    marks = ["<|im_start|>", "<|im_end|>", "<repo_name>", "<|im_start|><|im_end|>"]
    texts = random_texts(1500)
    texts += [f"{a}{mark}{b}" for a, b, mark in zip(texts, texts[1:], marks * 100, strict=False)]
    texts += [POEM, "", " ", "\n\n1. a  2", "<|im_start", "x" * 3000, "中" * 300]
    for text in texts:
        ids = peer_ids(peer, text)
        assert smollm2.encode(text, missing="drop") == ids, text
        for end in {len(ids), len(ids) // 2}:  # a cut may fall inside a character
            assert smollm2.decode(ids[:end]) == peer.decode(ids[:end], skip_special_tokens=False), text


def test_smollm2s_own_tokenizer_file_gives_the_merges_that_ship_with_the_package(small: Any) -> None:
    ours, shipped = Tokenizer.of(small[1]), smollm2_merges.tokenizer()
    assert (ours.merges, ours.vocabulary, ours.special) == (shipped.merges, shipped.vocabulary, shipped.special)
    assert ours.patterns == shipped.patterns == [DIGITS, GPT2]
    for text in [*AWKWARD, *random_texts(300, seed=9)]:
        assert ours.encode(text, missing="drop") == peer_ids(small[1].backend_tokenizer, text)


AWKWARD = ("Tips:\n\n1. Sleep.\n\n2. Eat.", "  42", "a  7", "\t\t3", "x = 1\n    2", "add ½ cup")
"""Where a tokenizer that cuts no digits off gives other ids."""


def test_without_its_rule_for_digits_smollm2s_ids_are_others(smollm2: Tokenizer) -> None:
    plain = Tokenizer(smollm2.vocabulary, smollm2.merges, smollm2.special, patterns=(GPT2,))
    peer, wrong = published_peer(smollm2), peer_of(plain)
    for text in AWKWARD:
        assert smollm2.encode(text) == peer_ids(peer, text)
        assert plain.encode(text) == peer_ids(wrong, text) != peer_ids(peer, text)
    for text in ("What is 17 + 25?", "1. One\n2. Two", "x1y2"):
        assert plain.encode(text) == smollm2.encode(text) == peer_ids(peer, text)


def test_the_file_of_merges_is_written_the_same_again(smollm2: Tokenizer, tmp_path: Path) -> None:
    smollm2_merges.write(smollm2, tmp_path / "again.gz")
    assert smollm2_merges.lines(tmp_path / "again.gz") == smollm2_merges.lines()
    shuffled = Tokenizer({t: len(smollm2) - i for t, i in smollm2.vocabulary.items()}, smollm2.merges)
    with pytest.raises(ValueError, match="one after the other"):
        smollm2_merges.write(shuffled, tmp_path / "wrong.gz")


@pytest.mark.parametrize("patterns", [(GPT2,), (DIGITS, GPT2), (LLAMA3,), (r" [-+=] ?|\d",)])
def test_pieces_are_those_of_the_library_and_lose_nothing(patterns: tuple[str, ...]) -> None:
    ours = Tokenizer({bytes([byte]): i for i, byte in enumerate(ALPHABET)}, [], patterns=patterns)
    parts: list[Any] = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns]
    theirs = pre_tokenizers.Sequence(parts)
    for text in [POEM, *random_texts(400, seed=2)]:
        pieces = ours.pieces(text)
        assert "".join(pieces) == text
        assert pieces == [text[a:b] for _, (a, b) in theirs.pre_tokenize_str(text)], text


def test_the_tokenizer_of_tiny_is_read_from_its_file() -> None:
    ours, peer = Tokenizer.of(TINY), Peer.from_file(str(TINY))
    for text in ("What is 17 + 25?", "The old bear sleeps.\n", "<|im_start|>user\nWho are you?<|im_end|>", POEM):
        assert ours.encode(text) == peer_ids(peer, text)


def test_what_is_written_to_a_file_is_read_back_by_both() -> None:
    tokenizer = train([POEM], 320, ["<|end|>"], patterns=(DIGITS, GPT2))
    again, peer = Tokenizer.from_json(json.loads(json.dumps(tokenizer.to_json()))), peer_of(tokenizer)
    assert (again.merges, again.vocabulary, again.special) == (
        tokenizer.merges,
        tokenizer.vocabulary,
        tokenizer.special,
    )
    assert again.patterns == [DIGITS, GPT2]
    for text in [POEM, "17<|end|>25", *random_texts(100)]:
        assert again.encode(text) == tokenizer.encode(text) == peer_ids(peer, text)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_text_survives_where_all_bytes_have_a_token() -> None:
    tokenizer = train([POEM], 300)
    for text in [POEM, *random_texts(500, seed=7), "\x00\x04", "".join(map(chr, range(256)))]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.encode(text.encode()) == tokenizer.encode(text)


# ---- bad input


def test_bytes_that_are_not_utf_8_are_named_with_their_offset(smollm2: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"byte 0xdf at offset 4 is not UTF-8.*decode the text with the encoding"):
        smollm2.encode("Straße".encode("latin-1"))
    with pytest.raises(ValueError, match=r"byte 0xe4 at offset 3 is not UTF-8 \(unexpected end of data\)"):
        smollm2.encode("abc你".encode()[:-1])


def test_half_a_surrogate_pair_is_named_with_its_place(smollm2: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"'\\ud83d' at character 2 is half a surrogate pair"):
        smollm2.encode("ab\ud83d")


def test_a_byte_without_a_token_is_named_with_its_place_or_dropped_when_asked(smollm2: Tokenizer) -> None:
    text = "<|im_start|>one\x04two"
    with pytest.raises(ValueError, match=r"no token for the byte 0x04, which '\\x04' at character 15 needs"):
        smollm2.encode(text)
    assert smollm2.decode(smollm2.encode(text, missing="drop")) == "<|im_start|>onetwo"
    assert smollm2.encode("one\x04two", missing="drop") == peer_ids(peer_of(smollm2), "one\x04two")
    with pytest.raises(ValueError, match="no token for the byte 0x04"):  # what was dropped once is not remembered
        smollm2.encode("one\x04two")


def test_an_id_that_is_no_token_is_named_with_its_place(smollm2: Tokenizer) -> None:
    with pytest.raises(ValueError, match="id 49152 at place 1 is no token; ids go up to 49151"):
        smollm2.decode([5, 49_152])


def test_a_tokenizer_file_with_parts_that_are_not_covered_is_refused_by_name() -> None:
    described = train([POEM], 280).to_json()
    changes: dict[str, Callable[[dict[str, Any]], Any]] = {
        "normalizer": lambda d: d.update(normalizer={"type": "NFC"}),
        "model.type": lambda d: d["model"].update(type="Unigram"),
        "byte_fallback": lambda d: d["model"].update(byte_fallback=True),
        "ignore_merges": lambda d: d["model"].update(ignore_merges=True),
        "pre_tokenizer": lambda d: d.update(pre_tokenizer={"type": "Whitespace"}),
        "added_tokens": lambda d: d.update(added_tokens=[{"content": "<m>", "id": 280, "lstrip": True}]),
    }
    for name, change in changes.items():
        copy = json.loads(json.dumps(described))
        change(copy)
        with pytest.raises(ValueError, match=f"does not cover the file's {name}; use the tokenizers library"):
            Tokenizer.from_json(copy)
    only_split = {"type": "Split", "pattern": {"Regex": GPT2}, "behavior": "Isolated", "invert": False}
    with pytest.raises(ValueError, match="pre_tokenizer"):  # it never turns pieces into bytes
        Tokenizer.from_json({**described, "pre_tokenizer": only_split})


def test_a_vocabulary_that_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="two tokens have the same id"):
        Tokenizer({b"a": 0, b"b": 0}, [])
    with pytest.raises(ValueError, match="merge 0, b'a' \\+ b'b', has a part or a result that is no token"):
        Tokenizer({b"a": 0, b"b": 1}, [(b"a", b"b")])
    described = train([POEM], 280).to_json()
    described["model"]["vocab"]["你"] = 280
    with pytest.raises(ValueError, match="'你' is not written in the byte-level alphabet"):
        Tokenizer.from_json(described)


def test_the_alphabet_is_the_librarys_and_the_one_that_structured_generation_reads() -> None:
    assert sorted(ALPHABET.values()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert list(ALPHABET.values()) == sorted(ALPHABET.values())
    assert (ALPHABET[ord(" ")], ALPHABET[ord("\n")], ALPHABET[ord("A")]) == ("Ġ", "Ċ", "A")
