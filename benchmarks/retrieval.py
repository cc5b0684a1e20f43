"""Retrieval latency: nearest vectors beside LanceDB, BM25 beside bm25s, one question at a time, the same results."""

import tempfile

import bm25s
import lancedb
import torch
import torch.nn.functional as F
from measure import Comparison, alternate

from alignlab import retrieval

QUESTIONS = 20
"""Questions that one turn asks, one after another."""


def nearest(name: str, vectors: int, turns: int, target: float, width: int = 384, k: int = 10) -> Comparison:
    """The k nearest of so many unit vectors: a matrix product, and LanceDB's exact search. ValueError if unequal."""
    generator = torch.Generator().manual_seed(0)
    stored = F.normalize(torch.randn(vectors, width, generator=generator), dim=-1)
    asked = F.normalize(torch.randn(QUESTIONS, width, generator=generator), dim=-1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"id": n, "vector": vector} for n, vector in enumerate(stored.tolist())]
        table = lancedb.connect(folder).create_table("vectors", rows)

        def ours() -> list[list[int]]:
            return [(stored @ one).topk(k).indices.tolist() for one in asked]

        def theirs() -> list[list[int]]:
            search = (table.search(one.tolist()).distance_type("cosine").limit(k) for one in asked)
            return [[row["id"] for row in one.select(["id", "_distance"]).to_list()] for one in search]

        _same(name, ours(), theirs())
        times = alternate(ours, theirs, turns)
    return Comparison(
        f"{name}, {vectors:,} vectors, {QUESTIONS} questions", *times, target, f"the same {k} in the same order"
    )


def words(name: str, copies: int, turns: int, target: float, k: int = 10) -> Comparison:
    """BM25 scores of this book's chunks (so many copies of them) and the k best: ours, and bm25s.

    ValueError where the scores differ.
    """
    chunks = retrieval.fixed_chunks(retrieval.book(), 100)
    corpus = [retrieval.words(chunk.text) for chunk in chunks] * copies
    index = retrieval.BM25(corpus)
    peer = bm25s.BM25(method="lucene", k1=1.5, b=0.75, dtype="float64")
    peer.index(corpus, show_progress=False)
    known = {word for document in corpus for word in document}
    asked = [[word for word in retrieval.words(one.question) if word in known] for one in retrieval.questions()]
    asked = [query for query in asked if query][:QUESTIONS]

    def ours() -> list[list[float]]:
        return [index.scores(query).topk(k).values.tolist() for query in asked]

    def theirs() -> list[list[float]]:
        return [torch.from_numpy(peer.get_scores(query)).topk(k).values.tolist() for query in asked]

    gap = (torch.tensor(ours()) - torch.tensor(theirs())).abs().max().item()
    if gap > 1e-5:
        raise ValueError(f"{name}: scores differ from bm25s' by {gap:.1e}; the times would not compare")
    return Comparison(
        f"{name}, {len(corpus):,} chunks, {QUESTIONS} questions",
        *alternate(ours, theirs, turns),
        target,
        f"scores within {max(gap, 1e-16):.0e}",
    )


def _same(name: str, a: list[list[int]], b: list[list[int]]) -> None:
    if a != b:
        different = sum(x != y for x, y in zip(a, b, strict=True))
        raise ValueError(f"{name}: {different} of {len(a)} results differ; the times would not compare")
