"""Retrieval against independent truth: bm25s and LanceDB as peers, definitions by hand, published vectors.

The snapshot of the book, src/alignlab/retrieval_corpus.jsonl.gz, was made by `python -m alignlab.retrieval_corpus` from
the pages of the checkout. It is a snapshot: pages may move on, and nothing here compares the two word by word.
"""

import inspect
import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alignlab import models, retrieval, retrieval_corpus
from alignlab.retrieval import BM25, Chunk

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    "the cat sat on the mat",
    "the dog chased the cat and the other cat",
    "a loss of one line",
    "beta is the price of a nat",
    "cat cat cat",
    "the",
]


# ---- the snapshot
def test_the_snapshot_of_the_book_parses_is_small_and_names_sections_of_the_outline() -> None:
    sections = retrieval.book()
    assert retrieval_corpus.FILE.stat().st_size < 400_000
    assert len(sections) > 250 and len({section.id for section in sections}) == len(sections)
    outline = (ROOT / "book" / "outline.yml").read_text(encoding="utf-8")
    for section in sections:
        assert section.text.strip() and section.title.strip()
        assert not re.search(r"\{(result|cite|cite:t|term|sec|eq|code)\}`", section.text), section.id
        if section.number:
            assert f'id: "{section.number}"' in outline or f"id: {section.number}," in outline, section.id


def test_the_snapshot_can_be_made_again_and_the_same_sections_give_the_same_bytes(tmp_path: Path) -> None:
    made = retrieval_corpus.collect(ROOT)
    retrieval_corpus.write(made, tmp_path / "a.gz")
    retrieval_corpus.write(made, tmp_path / "b.gz")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert retrieval_corpus.read(tmp_path / "a.gz") == made
    kept = {section.id for section in retrieval.book()}
    assert len(kept & {section.id for section in made}) > 0.8 * len(kept)


def test_quizzes_stay_out_of_the_snapshot_and_roles_become_what_they_print(tmp_path: Path) -> None:
    words = retrieval_corpus._Words({"lab.loss": "0.69"}, {"a2020": "A et al. (2020)"}, {"ipo": '"IPO"'})
    source = (
        "It is {result}`lab.loss`, see {sec}`ipo` and {term}`nats <nat>` {cite}`a2020`.\n\n````{quiz} q\n"
        "question: Is the moon made of cheese?\nanswers:\n- {text: Yes.}\n````\n\n| a | $|x|$ |\n|---|---|\n| 1 | 2 |\n"
    )
    plain = words.plain(source)
    assert 'It is 0.69, see section "IPO" and nats (A et al. (2020)).' in plain
    assert "cheese" not in plain and "a; $|x|$." in plain and "1; 2." in plain and "---" not in plain


def test_a_file_that_is_no_snapshot_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_text("hello")
    with pytest.raises(ValueError, match="no snapshot of the book"):
        retrieval_corpus.read(tmp_path / "x.gz")


def test_every_question_with_an_answer_has_its_evidence_in_the_snapshot_and_the_others_have_none() -> None:
    asked = retrieval.questions()
    whole = [Chunk(f"{s.title}. {s.text}", s.id, s.title) for s in retrieval.book()]
    kinds = [question.kind for question in asked]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"plain": 28, "paraphrase": 28, "term": 28, "none": 28}
    assert len({question.question for question in asked}) == len(asked)
    for question in asked:
        assert bool(retrieval.relevant(whole, question)) == (question.kind != "none"), question.question


# ---- chunks
def check_pieces(pieces: Callable[..., list[str]]) -> None:
    """No word lost, none out of order, no piece too long, neighbours share what was asked for, and it always ends."""
    text = " ".join(f"w{n}" for n in range(47))
    for size, overlap in itertools.product((1, 2, 5, 10, 47, 100), (0, 1, 3)):
        if overlap >= size:
            continue
        found = [piece.split() for piece in pieces(text, size, overlap)]
        assert all(0 < len(piece) <= size for piece in found)
        assert found[0][0] == "w0" and found[-1][-1] == "w46"
        for left, right in itertools.pairwise(found):
            assert left[len(left) - overlap :] == right[:overlap]
            assert right[overlap] == f"w{int(left[-1][1:]) + 1}"
        assert all(len(piece) == size for piece in found[:-1])
    assert pieces("aa bbbbbbbb c", 3, 0, len) == ["aa", "bbbbbbbb", "c"]
    assert pieces("aa b cc d", 3, 1, len) == ["aa b", "b cc", "d"] or pieces("aa b cc d", 3, 1, len)[0] == "aa b"


def test_pieces_cover_the_text_and_overlap_as_asked() -> None:
    check_pieces(retrieval.pieces)


def _pieces(step: Callable[[int, int], int], cut: int = 0) -> Callable[..., list[str]]:
    def wrong(text: str, size: int, overlap: int = 0, count: Any = None) -> list[str]:
        words = text.split()
        return [" ".join(words[i : i + size - cut]) for i in range(0, len(words), max(1, step(size, overlap)))]

    return wrong


@pytest.mark.parametrize(
    "wrong",
    [
        _pieces(lambda size, overlap: size),
        _pieces(lambda size, overlap: size - overlap, 1),
        _pieces(lambda s, o: s + o),
    ],
    ids=["no overlap", "drops a word", "gap in place of an overlap"],
)
def test_wrong_pieces_are_rejected(wrong: Callable[..., list[str]]) -> None:
    with pytest.raises(AssertionError):
        check_pieces(wrong)


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (5, 5), (5, -1), (-3, 0)])
def test_sizes_that_would_never_end_are_refused(size: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap"):
        retrieval.pieces("a b c", size, overlap)


def test_chunks_by_heading_stay_in_their_section_and_fixed_ones_run_across() -> None:
    sections = [
        retrieval_corpus.Section("p#a", "1", "p", "First", "one two three four"),
        retrieval_corpus.Section("p#b", "1", "p", "Second", "six seven"),
    ]
    by_heading = retrieval.heading_chunks(sections, 4)
    assert [chunk.text for chunk in by_heading] == ["First. one two", "First. three four", "Second. six seven"]
    assert [chunk.section for chunk in by_heading] == ["p#a", "p#a", "p#b"]
    fixed = retrieval.fixed_chunks(sections, 4)
    assert [chunk.text for chunk in fixed] == ["First. one two three", "four Second. six seven"]
    assert [chunk.section for chunk in fixed] == ["p#a", "p#a"]
    question = retrieval.Question("?", "plain", ("four Second.",))
    assert retrieval.relevant(by_heading, question) == set() and retrieval.relevant(fixed, question) == {1}


# ---- BM25
def check_bm25(index: Callable[..., Any]) -> None:
    """Equal to bm25s (Lucene's variant) on every document, and to the definition by hand on one."""
    corpus = [document.split() for document in DOCUMENTS]
    queries = ["the cat", "price of a nat", "cat cat dog", "line", "unknown words", "unknown cat"]
    for k1, b in ((1.5, 0.75), (0.9, 0.4), (2.0, 1.0), (1.2, 0.0)):
        peer = bm25s.BM25(method="lucene", k1=k1, b=b, dtype="float64")
        peer.index(corpus, show_progress=False)
        ours = index(corpus, k1, b)
        for query in queries:
            known = [word for word in query.split() if any(word in document for document in corpus)]
            want = peer.get_scores(known) if known else np.zeros(len(corpus))
            assert torch.allclose(ours.scores(query.split()), torch.tensor(want).double(), atol=1e-6), query
    lengths = [len(document) for document in corpus]
    idf = math.log(1 + (6 - 3 + 0.5) / (3 + 0.5))  # "cat" stands in 3 of 6 documents
    by_hand = idf * 3 / (3 + 1.5 * (1 - 0.75 + 0.75 * 3 / (sum(lengths) / 6)))
    assert index(corpus, 1.5, 0.75).scores(["cat"])[4].item() == pytest.approx(by_hand)


def test_bm25_equals_bm25s_and_its_definition() -> None:
    check_bm25(BM25)


def _bm25(idf: Callable[[int, int], float], b_of: str = "mean", twice: bool = True, saturate: bool = True) -> Any:
    class Wrong:
        def __init__(self, documents: Any, k1: float = 1.5, b: float = 0.75) -> None:
            self.documents, self.k1, self.b = documents, k1, b

        def scores(self, query: Any) -> Tensor:
            lengths = [len(document) for document in self.documents]
            usual = sum(lengths) / len(lengths) if b_of == "mean" else max(lengths)
            out = []
            for document in self.documents:
                score = 0.0
                for word in query if twice else set(query):
                    tf, df = document.count(word), sum(word in other for other in self.documents)
                    if df:
                        norm = self.k1 * (1 - self.b + self.b * len(document) / usual)
                        score += idf(len(self.documents), df) * (tf / (tf + norm) if saturate else tf)
                out.append(score)
            return torch.tensor(out, dtype=torch.float64)

    return Wrong


def _lucene(n: int, df: int) -> float:
    return math.log(1 + (n - df + 0.5) / (df + 0.5))


WRONG_BM25 = {
    "idf that goes negative": _bm25(lambda n, df: math.log((n - df + 0.5) / (df + 0.5))),
    "plain idf": _bm25(lambda n, df: math.log(n / df)),
    "no idf": _bm25(lambda n, df: 1.0),
    "longest in place of the mean length": _bm25(_lucene, b_of="max"),
    "each word of the query once": _bm25(_lucene, twice=False),
    "no saturation": _bm25(_lucene, saturate=False),
}


@pytest.mark.parametrize("name", WRONG_BM25)
def test_a_wrong_bm25_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_bm25(WRONG_BM25[name])


def test_bm25_refuses_nothing_to_index_and_parameters_out_of_range() -> None:
    with pytest.raises(ValueError, match="no documents"):
        BM25([])
    for k1, b in ((-1.0, 0.5), (1.0, 1.5), (1.0, -0.1)):
        with pytest.raises(ValueError, match="k1"):
            BM25([["a"]], k1, b)
    assert BM25([[], ["a"]]).scores(["a"]).tolist()[0] == 0


def test_words_keep_identifiers_and_numbers_whole() -> None:
    assert retrieval.words("Call `losses.dpo_loss` at 305,280: 17 + 25!") == [
        "call", "losses.dpo_loss", "at", "305", "280", "17", "25",
    ]  # fmt: skip


# ---- fusion
def check_fusion(fuse: Callable[..., list[tuple[Any, float]]]) -> None:
    """Against the sum written out, and LanceDB's own fusion."""
    a, b = ["x", "y", "z"], ["y", "w", "x", "v"]
    for k in (0.0, 1.0, 60.0):
        want = {
            document: sum(1 / (k + one.index(document) + 1) for one in (a, b) if document in one)
            for document in {*a, *b}
        }
        got = fuse([a, b], k)
        assert dict(got) == pytest.approx(want)
        scores = [score for _, score in got]
        assert scores == sorted(scores, reverse=True)
    assert [document for document, _ in fuse([["p", "q"], ["q", "p"]], 60.0)] in (["p", "q"], ["q", "p"])


def test_reciprocal_rank_fusion_is_the_sum_it_says() -> None:
    check_fusion(retrieval.reciprocal_rank_fusion)


def _fused(term: Callable[[int, int, float], float]) -> Callable[..., list[tuple[Any, float]]]:
    def wrong(rankings: Any, k: float = 60.0) -> list[tuple[Any, float]]:
        scores: dict[Any, float] = {}
        for one in rankings:
            for rank, document in enumerate(one):
                scores[document] = scores.get(document, 0.0) + term(rank, len(one), k)
        return sorted(scores.items(), key=lambda item: -item[1])

    return wrong


WRONG_FUSION = {
    "ranks from 0": _fused(lambda rank, n, k: 1 / (k + rank + 1e-9)),
    "k left out": _fused(lambda rank, n, k: 1 / (rank + 1)),
    "Borda count": _fused(lambda rank, n, k: float(n - rank)),
    "worst first": lambda rankings, k=60.0: retrieval.reciprocal_rank_fusion(rankings, k)[::-1],
    "the best of the ranks": lambda rankings, k=60.0: retrieval.reciprocal_rank_fusion(rankings[:1], k),
}


@pytest.mark.parametrize("name", WRONG_FUSION)
def test_a_wrong_fusion_is_rejected(name: str) -> None:
    with pytest.raises((AssertionError, ZeroDivisionError)):
        check_fusion(WRONG_FUSION[name])


def test_fusion_equals_lancedbs() -> None:
    pa = pytest.importorskip("pyarrow")
    from lancedb.rerankers import RRFReranker

    a, b = [3, 1, 2, 7], [2, 9, 3]
    tables = [pa.table({"_rowid": pa.array(ids, pa.uint64()), "text": [str(i) for i in ids]}) for ids in (a, b)]
    fused = RRFReranker(K=60).rerank_hybrid("q", *tables).to_pydict()
    want = dict(zip(fused["_rowid"], fused["_relevance_score"], strict=True))
    assert dict(retrieval.reciprocal_rank_fusion([a, b])) == pytest.approx(want, rel=1e-5)


def test_fusion_refuses_a_negative_k_and_a_document_that_stands_twice() -> None:
    with pytest.raises(ValueError, match="k is"):
        retrieval.reciprocal_rank_fusion([["a"]], -1)
    with pytest.raises(ValueError, match="twice"):
        retrieval.reciprocal_rank_fusion([["a", "a"]])


# ---- measures
def test_recall_and_mrr_are_what_counting_gives() -> None:
    ranks = [1, 3, None, 2, 11]
    assert retrieval.recall_at(ranks, 1) == pytest.approx(0.2)
    assert retrieval.recall_at(ranks, 3) == pytest.approx(0.6)
    assert retrieval.recall_at(ranks, 50) == pytest.approx(0.8)
    assert retrieval.mean_reciprocal_rank(ranks) == pytest.approx((1 + 1 / 3 + 0 + 1 / 2 + 1 / 11) / 5)
    assert retrieval.mean_reciprocal_rank(ranks, 10) == pytest.approx((1 + 1 / 3 + 1 / 2) / 5)
    assert retrieval.first_rank(["a", "b", "c"], {"c", "b"}) == 2
    assert retrieval.first_rank(["a"], {"z"}) is None
    assert retrieval.ranking(torch.tensor([0.1, 0.5, 0.5, 0.2]), 3) == [1, 2, 3]
    with pytest.raises(ValueError):
        retrieval.recall_at([], 5)
    with pytest.raises(ValueError):
        retrieval.mean_reciprocal_rank([])


def test_the_area_under_the_curve_counts_pairs_and_the_threshold_beats_every_other() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        good = (torch.randn(15, generator=generator) + 1).round(decimals=1).tolist()
        bad = torch.randn(10, generator=generator).round(decimals=1).tolist()
        pairs = [1.0 if g > b else 0.5 if g == b else 0.0 for g in good for b in bad]
        assert retrieval.area_under_roc(good, bad) == pytest.approx(sum(pairs) / len(pairs))
        chosen = retrieval.best_threshold(good, bad)

        def worth(cut: float, good: list[float] = good, bad: list[float] = bad) -> float:
            return sum(x >= cut for x in good) / len(good) + sum(x < cut for x in bad) / len(bad)

        assert worth(chosen) >= max(worth(cut) for cut in torch.linspace(-4, 5, 181).tolist()) - 1e-9
    assert retrieval.best_threshold([0.9, 0.8], [0.1, 0.2]) == pytest.approx(0.5)
    for positives, negatives in (([], [1.0]), ([1.0], [])):
        with pytest.raises(ValueError):
            retrieval.area_under_roc(positives, negatives)
        with pytest.raises(ValueError):
            retrieval.best_threshold(positives, negatives)


# ---- late interaction
def check_maxsim(maxsim: Callable[[Tensor, Tensor], Tensor]) -> None:
    query = F.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    passage = F.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(2)), dim=-1)
    want = sum(max(float(q @ p) for p in passage) for q in query)
    assert maxsim(query, passage).item() == pytest.approx(want, abs=1e-5)
    assert maxsim(query, query).item() == pytest.approx(4.0, abs=1e-5)
    assert maxsim(query, torch.cat([passage, passage])).item() == pytest.approx(want, abs=1e-5)


def test_maxsim_is_the_sum_over_the_query_of_the_best_match() -> None:
    check_maxsim(retrieval.maxsim)


WRONG_MAXSIM: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "maximum over the query": lambda q, p: (q @ p.T).amax(0).sum(),
    "mean in place of the maximum": lambda q, p: (q @ p.T).mean(-1).sum(),
    "mean over the query": lambda q, p: (q @ p.T).amax(-1).mean(),
    "sum over all pairs": lambda q, p: (q @ p.T).sum(),
}


@pytest.mark.parametrize("name", WRONG_MAXSIM)
def test_a_wrong_maxsim_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_maxsim(WRONG_MAXSIM[name])


# ---- the encoder
TEXTS = ["This is an example sentence", "Each sentence is converted", "Who are you?", "What is 17 + 25? " * 30]


@pytest.fixture(scope="module")
def minilm() -> Any:
    return models.sentence_encoder("cpu")


def check_embedding(embed: Callable[..., Tensor], minilm: Any) -> None:
    """Equal to the pooling of the model card written out on transformers' BertModel, whatever stands beside a text."""
    encoder, tokenizer = minilm
    got = embed(encoder, tokenizer, TEXTS)
    assert got.shape == (4, 384) and torch.allclose(got.norm(dim=-1), torch.ones(4), atol=1e-5)
    for index, one in enumerate(TEXTS):
        read = tokenizer(one, truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            states = encoder(**read)[0]
        mask = read["attention_mask"].unsqueeze(-1).float()
        want = F.normalize((states * mask).sum(1) / mask.sum(1).clamp(min=1e-9), p=2, dim=1)[0]
        assert torch.allclose(got[index], want, atol=1e-5), one
    # The first numbers that the model's card prints for its two example sentences.
    assert got[0, :3].tolist() == pytest.approx([0.0676569, 0.0634959, 0.0487131], abs=2e-4)


@pytest.mark.slow
def test_embeddings_equal_the_model_cards(minilm: Any) -> None:
    check_embedding(retrieval.embed, minilm)


def _pooled(pool: Callable[[Tensor, Tensor], Tensor], unit: bool = True) -> Callable[..., Tensor]:
    def wrong(encoder: Any, tokenizer: Any, texts: list[str]) -> Tensor:
        read = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            states = encoder(**read).last_hidden_state
        vectors = pool(states, read["attention_mask"].unsqueeze(-1).float())
        return F.normalize(vectors, dim=-1) if unit else vectors

    return wrong


WRONG_POOLING = {
    "padding pooled": _pooled(lambda states, mask: states.mean(1)),
    "first token": _pooled(lambda states, mask: states[:, 0]),
    "maximum": _pooled(lambda states, mask: states.masked_fill(mask == 0, -1e9).amax(1)),
    "length not 1": _pooled(lambda states, mask: (states * mask).sum(1) / mask.sum(1), unit=False),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG_POOLING)
def test_a_wrong_pooling_is_rejected(name: str, minilm: Any) -> None:
    with pytest.raises(AssertionError):
        check_embedding(WRONG_POOLING[name], minilm)


@pytest.mark.slow
def test_the_encoder_puts_what_means_the_same_together_and_refuses_an_empty_text(minilm: Any) -> None:
    vectors = retrieval.embed(*minilm, ["A dog barks.", "A hound is barking.", "The stock market fell."])
    assert vectors[0] @ vectors[1] > 0.6 > 0.3 > vectors[0] @ vectors[2]
    assert [len(states) for states in retrieval.token_vectors(*minilm, ["a b c", "a " * 400])] == [5, 256]
    with pytest.raises(ValueError, match="text 1 is empty"):
        retrieval.embed(*minilm, ["a", " "])
    with pytest.raises(ValueError, match="no texts"):
        retrieval.embed(*minilm, [])


def test_the_encoder_is_fetched_by_checksum_like_the_other_model() -> None:
    source = inspect.getsource(models.sentence_encoder)
    assert "download.fetch(download.MINILM" in source and "use_safetensors=True" in source


# ---- the map
def test_the_maps_neighbours_are_the_vectors_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(4, 32, generator=generator), dim=-1)
    group = torch.arange(4).repeat_interleave(15)
    vectors = F.normalize(centres[group] + 0.08 * torch.randn(60, 32, generator=generator), dim=-1)
    places = retrieval.neighbour_map(vectors, perplexity=8.0, steps=250)
    assert places.shape == (60, 2) and places.abs().max() == pytest.approx(1.0)
    distances = torch.cdist(places, places)
    distances.fill_diagonal_(torch.inf)
    assert (group[distances.topk(5, largest=False).indices] == group[:, None]).float().mean() > 0.98
    assert torch.equal(places, retrieval.neighbour_map(vectors, perplexity=8.0, steps=250))
    probs = retrieval._conditional((torch.cdist(vectors, vectors) ** 2).double().fill_diagonal_(torch.inf), 8.0)
    assert torch.allclose((-torch.xlogy(probs, probs).sum(-1)).exp(), torch.full((60,), 8.0).double(), atol=1e-6)
    for perplexity in (1.0, 20.0):
        with pytest.raises(ValueError, match="perplexity"):
            retrieval.neighbour_map(vectors, perplexity)


# ---- a real database
@pytest.mark.slow
def test_lancedb_finds_exactly_what_a_look_at_every_vector_finds(tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb")
    vectors = F.normalize(torch.randn(300, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    rows = [{"id": i, "vector": v.tolist(), "page": "even" if i % 2 == 0 else "odd"} for i, v in enumerate(vectors)]
    table = lancedb.connect(tmp_path).create_table("chunks", rows)
    for query in vectors[:5]:
        found = table.search(query.tolist()).distance_type("cosine").limit(10).to_list()
        assert [row["id"] for row in found] == retrieval.ranking(vectors @ query, 10)
        kept = (
            table.search(query.tolist())
            .distance_type("cosine")
            .where("page = 'odd'", prefilter=True)
            .limit(5)
            .to_list()
        )
        odd = [i for i in retrieval.ranking(vectors @ query) if i % 2][:5]
        assert [row["id"] for row in kept] == odd


def test_the_committed_questions_are_plain_json_one_a_line() -> None:
    text = Path(retrieval.__file__).with_name("retrieval_questions.json").read_text(encoding="utf-8")
    assert len(json.loads(text)) == len(text.strip().splitlines()) - 2
