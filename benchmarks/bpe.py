"""Byte-level BPE: ours in readable Python beside `tokenizers` in Rust, both on one thread, the same merges and ids.

A target of 0 asks for nothing: the ratio says what readable code costs.
"""

import json
import os
import random

from measure import Comparison, alternate
from tokenizers import Tokenizer as Peer
from tokenizers import decoders, models, pre_tokenizers, trainers

from alignlab import bpe
from alignlab.explorers import smollm2_merges


def manual() -> list[str]:
    """The manual of the Python language, which lies beside every Python: half a megabyte of English and code."""
    from pydoc_data.topics import topics

    return list(topics.values())


def mixed(texts: list[str], seed: int = 0) -> list[str]:
    """The same texts with a number at the end of each word, which makes them longer and worse to remember."""
    rng = random.Random(seed)
    return [" ".join(f"{word}{rng.randrange(10**6)}" for word in text.split()) for text in texts]


def peer_train(texts: list[str], vocabulary: int) -> Peer:
    """The library's training, with the bytes as its alphabet."""
    peer = Peer(models.BPE())
    peer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    peer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    peer.train_from_iterator(texts, trainer)
    return peer


def training(name: str, texts: list[str], vocabulary: int, turns: int, target: float) -> Comparison:
    """Learn a vocabulary. ValueError where one merge or id differs."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    ours = bpe.train(texts, vocabulary)
    theirs = bpe.Tokenizer.from_json(json.loads(peer_train(texts, vocabulary).to_str()))
    if (ours.merges, ours.vocabulary) != (theirs.merges, theirs.vocabulary):
        raise ValueError(f"{name}: the merges differ; the times would not compare")
    times = alternate(lambda: bpe.train(texts, vocabulary), lambda: peer_train(texts, vocabulary), turns)
    size = sum(len(text.encode()) for text in texts)
    same = f"{len(ours.merges):,} merges identical"
    return Comparison(f"{name}, {size:,} bytes, V = {vocabulary:,}; tokenizers", *times, target, same)


def encoding(name: str, texts: list[str], turns: int, target: float) -> Comparison:
    """Encode with SmolLM2's merges, each turn with nothing remembered. ValueError where one id differs."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = smollm2_merges.tokenizer()
    described = json.dumps(tokenizer.to_json())
    peer = Peer.from_str(described)

    def ours() -> list[list[int]]:
        tokenizer._known.clear()
        return [tokenizer.encode(text, missing="drop") for text in texts]

    def theirs() -> list[list[int]]:
        peer.model._clear_cache()  # it remembers pieces, too
        return [peer.encode(text, add_special_tokens=False).ids for text in texts]

    a, b = ours(), theirs()
    if a != b:
        raise ValueError(f"{name}: the ids differ; the times would not compare")
    size = sum(len(text.encode()) for text in texts)
    same = f"{sum(map(len, a)):,} ids identical"
    return Comparison(f"{name}, {size:,} bytes; tokenizers", *alternate(ours, theirs, turns), target, same)


def compare(smoke: bool) -> list[Comparison]:
    """Training and encoding; on toy texts for a smoke run."""
    texts = manual()
    if smoke:
        few = [texts[0][:2000]]
        return [training("BPE training, toy", few, 300, 2, 0.0), encoding("BPE encoding, toy", few, 2, 0.0)]
    return [
        training("BPE training", texts, 4096, 5, 0.0),
        encoding("BPE encoding, prose", texts, 5, 0.0),
        encoding("BPE encoding, words with numbers", mixed(texts), 3, 0.0),
    ]
