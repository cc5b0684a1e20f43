"""Finding passages: chunks, sentence embeddings, BM25, fusion of rankings, late interaction, and how to measure it all.

Knows texts and vectors; nothing about what is done with a passage once it is found. What stores millions of vectors (a
vector database) is not here: the lab uses a real one.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from alignlab import retrieval_corpus

Key = TypeVar("Key", bound=Hashable)
Counted = Callable[[str], int]

MAX_LENGTH = 256
"""Tokens that all-MiniLM-L6-v2 reads, its two border tokens included; what is longer is cut."""


class Chunk(NamedTuple):
    """A piece of a page, as it is embedded and shown to a model."""

    text: str
    section: str  # id of the section it begins in
    title: str  # of that section


class Question(NamedTuple):
    """A question about this book, and the words of the book that answer it."""

    question: str
    kind: str  # "plain", "paraphrase" (hardly a word in common), "term" (to be looked up), "none" (no answer here)
    evidence: tuple[str, ...]  # a passage that holds one of these answers the question; empty for "none"


# ---- chunking
def questions() -> list[Question]:
    """112 questions about the snapshot of this book, 28 of each kind, written by hand before any search was run.

    What the searches then put first was read once more, and evidence that had been overlooked was added.
    """
    rows = json.loads(Path(__file__).with_name("retrieval_questions.json").read_text(encoding="utf-8"))
    return [Question(row["question"], row["kind"], tuple(row["evidence"])) for row in rows]


def relevant(chunks: Sequence[Chunk], question: Question) -> set[int]:
    """The chunks that answer the question: those that hold a piece of its evidence whole, in whatever chunking."""
    wanted = [" ".join(evidence.split()) for evidence in question.evidence]
    texts = (" ".join(chunk.text.split()) for chunk in chunks)
    return {index for index, text in enumerate(texts) if any(evidence in text for evidence in wanted)}


def book() -> list[retrieval_corpus.Section]:
    """The sections of this book that ship with the package; see `retrieval_corpus`."""
    return retrieval_corpus.read()


def pieces(text: str, size: int, overlap: int = 0, count: Counted | None = None) -> list[str]:
    """Cut a text into runs of whole words of at most `size`, each beginning `overlap` before the end of the last.

    size, overlap: in words, or in whatever `count` says a word has (tokens, for an encoder with a limit).
    A word longer than `size` stands alone. ValueError unless 0 <= overlap < size.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"size is {size} and overlap {overlap}; size must be positive and overlap smaller than it")
    words = text.split()
    lengths = [count(word) if count else 1 for word in words]
    found: list[str] = []
    start = 0
    while start < len(words):
        end, used = start, 0
        while end < len(words) and (end == start or used + lengths[end] <= size):
            used += lengths[end]
            end += 1
        found.append(" ".join(words[start:end]))
        if end == len(words):
            break
        first, back, start = start, 0, end
        while start - 1 > first and back + lengths[start - 1] <= overlap:  # always at least a word further
            start -= 1
            back += lengths[start]
    return found


def fixed_chunks(
    sections: Sequence[retrieval_corpus.Section], size: int, overlap: int = 0, count: Counted | None = None
) -> list[Chunk]:
    """Every page as one text, cut into pieces of one size, whatever heading they run across."""
    chunks: list[Chunk] = []
    for page in dict.fromkeys(section.page for section in sections):
        words: list[str] = []
        owners: list[retrieval_corpus.Section] = []
        for section in sections:
            if section.page == page:
                own = f"{section.title}. {section.text}".split()
                words += own
                owners += [section] * len(own)
        at = 0
        for piece in pieces(" ".join(words), size, overlap, count):
            own = piece.split()
            while words[at : at + len(own)] != own:
                at += 1
            chunks.append(Chunk(piece, owners[at].id, owners[at].title))
            at += 1
    return chunks


def heading_chunks(
    sections: Sequence[retrieval_corpus.Section], size: int, overlap: int = 0, count: Counted | None = None
) -> list[Chunk]:
    """Every section cut by itself into pieces of like size, its title in front of each.

    No piece runs across a heading, and none is a scrap: the last piece is about as long as the others.
    """
    chunks: list[Chunk] = []
    for section in sections:
        front = "" if section.page == "glossary" else f"{section.title}. "
        room = max(size - (count or (lambda text: len(text.split())))(front), overlap + 1)
        cut = pieces(section.text, room, overlap, count)
        low, high = overlap + 1, room  # the smallest size that gives as few pieces, by bisection
        while low < high:
            middle = (low + high) // 2
            trial = pieces(section.text, middle, overlap, count)
            if len(trial) <= len(cut):
                high, cut = middle, trial
            else:
                low = middle + 1
        chunks += [Chunk(front + piece, section.id, section.title) for piece in cut]
    return chunks


# ---- dense vectors
@torch.inference_mode()
def token_vectors(
    encoder: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], batch: int = 32
) -> list[Tensor]:
    """The encoder's last hidden states of each text, (T_i, d), border tokens included; d = 384 for MiniLM.

    Texts are read in order of length, so that little is padding. ValueError for an empty text.
    """
    for index, text in enumerate(texts):
        if not text.strip():
            raise ValueError(f"text {index} is empty; there is nothing to embed")
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    device = next(encoder.parameters()).device
    found: dict[int, Tensor] = {}
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        read = tokenizer(
            [texts[row] for row in rows], padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        ).to(device)
        hidden = encoder(**read).last_hidden_state  # (B, T, d)
        for row, states, mask in zip(rows, hidden, read["attention_mask"], strict=True):
            found[row] = states[mask.bool()]
    return [found[row] for row in range(len(texts))]


def mean_pool(states: Tensor) -> Tensor:
    """One vector for a text: the mean of its token vectors (T, d), scaled to length 1. (d,)

    Reimers and Gurevych (2019), section 3, the MEAN strategy; the scaling makes the inner product the cosine.
    """
    return F.normalize(states.mean(0), dim=-1)


def embed(encoder: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], batch: int = 32) -> Tensor:
    """Sentence embeddings of unit length, (N, d)."""
    if not texts:
        raise ValueError("there are no texts to embed; give at least one")
    return torch.stack([mean_pool(states) for states in token_vectors(encoder, tokenizer, texts, batch)])


def maxsim(query: Tensor, passage: Tensor) -> Tensor:
    """Late interaction, Khattab and Zaharia (2020), eq. 3: each query vector finds its best match, and these add up.

    query: (Q, d), passage: (P, d), rows of unit length. Returns one number, at most Q.
    """
    return (query @ passage.T).amax(-1).sum()


# ---- words
def words(text: str) -> list[str]:
    """Lower-case words, numbers and identifiers: `dpo_loss` stays whole, `17 + 25` is two words."""
    return re.findall(r"[a-z0-9]+(?:[._'-][a-z0-9]+)*", text.lower())


class BM25:
    """Okapi BM25 with Lucene's idf: each word of the query that a document holds adds a saturating score.

    Robertson and Zaragoza (2009), section 3.4; idf = log(1 + (N - df + 0.5) / (df + 0.5)), which is never negative.
    k1: how soon repetitions stop counting, >= 0. b: how much of a document's length is held against it, 0 to 1.
    """

    def __init__(self, documents: Iterable[Sequence[str]], k1: float = 1.5, b: float = 0.75) -> None:
        if k1 < 0 or not 0 <= b <= 1:
            raise ValueError(f"k1 is {k1} and b is {b}; k1 must not be negative, b must be between 0 and 1")
        counts = [Counter(document) for document in documents]
        if not counts:
            raise ValueError("there are no documents to index; give at least one")
        self.size = len(counts)
        lengths = torch.tensor([float(sum(count.values())) for count in counts], dtype=torch.float64)
        self._penalty = k1 * (1 - b + b * lengths / lengths.mean().clamp(min=1e-12))  # (N,)
        self._k1 = k1
        self._postings: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # which documents hold a word, what it adds
        rows: dict[str, list[int]] = {}
        for index, count in enumerate(counts):
            for word in count:
                rows.setdefault(word, []).append(index)
        for word, held in rows.items():
            tf = torch.tensor([float(counts[index][word]) for index in held], dtype=torch.float64)
            idf = math.log(1 + (self.size - len(held) + 0.5) / (len(held) + 0.5))
            self._postings[word] = np.array(held), (idf * tf / (tf + self._penalty[held])).numpy()

    def scores(self, query: Sequence[str]) -> Tensor:
        """The score of every document, (N,). A word that stands twice in the query counts twice."""
        total = np.zeros(self.size)
        for word in query:
            if word in self._postings:
                where, score = self._postings[word]
                total[where] += score
        return torch.from_numpy(total)


# ---- rankings
def ranking(scores: Tensor, k: int | None = None) -> list[int]:
    """Indices by falling score, the k best; equal scores keep their order."""
    return torch.argsort(scores, descending=True, stable=True)[:k].tolist()


def reciprocal_rank_fusion(rankings: Sequence[Sequence[Key]], k: float = 60.0) -> list[tuple[Key, float]]:
    """One ranking of several, Cormack et al. (2009): score(d) = sum over rankings of 1 / (k + rank of d), from 1.

    A document that a ranking does not hold gets nothing from it. k: how little the first ranks stand out, >= 0.
    Returns (document, score), best first; equal scores stand in the order in which they were first met.
    """
    if k < 0:
        raise ValueError(f"k is {k}; it must not be negative")
    scores: dict[Key, float] = {}
    for one in rankings:
        if len(set(one)) != len(one):
            raise ValueError("a ranking holds a document twice; each must stand once")
        for rank, document in enumerate(one, start=1):
            scores[document] = scores.get(document, 0.0) + 1 / (k + rank)
    return sorted(scores.items(), key=lambda item: -item[1])


# ---- measures
def first_rank(ranked: Sequence[Key], relevant: Iterable[Key]) -> int | None:
    """The rank, from 1, of the first relevant document; None if there is none."""
    wanted = set(relevant)
    return next((rank for rank, document in enumerate(ranked, start=1) if document in wanted), None)


def recall_at(ranks: Sequence[int | None], k: int) -> float:
    """Share of questions whose first relevant document is among the first k (success or hit rate; one is enough)."""
    if not ranks or k < 1:
        raise ValueError(f"there are {len(ranks)} ranks and k is {k}; both must be at least 1")
    return sum(rank is not None and rank <= k for rank in ranks) / len(ranks)


def mean_reciprocal_rank(ranks: Sequence[int | None], cutoff: int | None = None) -> float:
    """Mean of 1 / rank over questions, 0 where nothing relevant is found (or only after the cutoff)."""
    if not ranks:
        raise ValueError("there are no ranks; give at least one")
    return sum(1 / rank for rank in ranks if rank is not None and (cutoff is None or rank <= cutoff)) / len(ranks)


def area_under_roc(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Probability that a random positive has the higher score than a random negative, ties counting half."""
    if not len(positives) or not len(negatives):
        raise ValueError("give at least one positive and one negative score")
    above, below = torch.tensor(positives).double()[:, None], torch.tensor(negatives).double()[None]
    return ((above > below).double() + 0.5 * (above == below).double()).mean().item()


def best_threshold(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """The score t for which "accept from t on" has the greatest share of right positives plus right negatives.

    That is Youden's J plus 1. Of several, the middle of the widest gap between neighbouring scores.
    """
    values = sorted(set(positives) | set(negatives))
    if not len(positives) or not len(negatives):
        raise ValueError("give at least one positive and one negative score")
    cuts = [(low + high) / 2 for low, high in pairwise(values)] or [values[0]]
    gaps = [high - low for low, high in pairwise(values)] or [0.0]

    def worth(cut: float) -> float:
        accepted = sum(score >= cut for score in positives) / len(positives)
        return accepted + sum(score < cut for score in negatives) / len(negatives)

    return max(zip(cuts, gaps, strict=True), key=lambda pair: (round(worth(pair[0]), 12), pair[1]))[0]


# ---- a map
def neighbour_map(vectors: Tensor, perplexity: float = 20.0, steps: int = 400, seed: int = 0) -> Tensor:
    """t-SNE, van der Maaten and Hinton (2008): places in the plane whose neighbours are the vectors' neighbours. (N, 2)

    vectors: (N, d) of unit length. perplexity: how many neighbours a point reckons with, in effect. Near stays near;
    a distance across the map means nothing.
    """
    number = len(vectors)
    if not 1 < perplexity < number / 3:
        raise ValueError(
            f"perplexity is {perplexity} for {number} vectors; it must be above 1 and below a third of them"
        )
    distances = (2 - 2 * vectors.double() @ vectors.double().T).clamp(min=0)
    distances.fill_diagonal_(torch.inf)
    near = _conditional(distances, perplexity)
    joint = ((near + near.T) / (2 * number)).clamp(min=1e-12)
    generator = torch.Generator().manual_seed(seed)
    places = 1e-4 * torch.randn(number, 2, generator=generator, dtype=torch.float64)
    velocity, gain = torch.zeros_like(places), torch.ones_like(places)
    for step in range(steps):
        pull = joint * (12.0 if step < steps // 4 else 1.0)  # early exaggeration: clusters form before they spread
        kernel = 1 / (1 + torch.cdist(places, places).square())
        kernel.fill_diagonal_(0)
        force = (pull - kernel / kernel.sum()) * kernel
        gradient = 4 * (force.sum(1, keepdim=True) * places - force @ places)  # eq. 5
        gain = torch.where(gradient.sign() == velocity.sign(), gain * 0.8, gain + 0.2).clamp(min=0.01)
        velocity = (0.5 if step < steps // 4 else 0.8) * velocity - (number / 6) * gain * gradient
        places = places + velocity
        places = places - places.mean(0)
    return (places / places.abs().max()).float()


def _conditional(distances: Tensor, perplexity: float) -> Tensor:
    """p(j | i), each row's width chosen by bisection so that its perplexity is the one asked for. (N, N)"""
    low, high = torch.zeros(len(distances), 1), torch.full((len(distances), 1), torch.inf)
    low, high = low.double(), high.double()
    precision = torch.ones_like(low)
    for _ in range(60):
        probs = (-distances * precision).softmax(-1)
        entropy = -torch.xlogy(probs, probs).sum(-1, keepdim=True)
        flat = entropy > math.log(perplexity)
        low, high = torch.where(flat, precision, low), torch.where(flat, high, precision)
        precision = torch.where(high.isinf(), precision * 2, (low + high) / 2)
    return (-distances * precision).softmax(-1)
