"""Section 4.4: its worked examples recomputed, its diagrams true to the library, its explorer's data small and true."""

import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from alignlab import explorers, retrieval

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
sys.path.insert(0, str(BOOK))

from diagrams import ch04_rag  # noqa: E402

PAGE = re.sub(r"\s+", " ", (BOOK / "ch04_training_free" / "retrieval.md").read_text(encoding="utf-8"))


def test_the_worked_example_of_fusion_is_the_librarys() -> None:
    ranked = retrieval.reciprocal_rank_fusion([ch04_rag.DENSE, ch04_rag.WORDS], ch04_rag.K)
    assert [name for name, _ in ranked] == [name for name, _ in ch04_rag.fused()] == ["P", "R", "Q", "S"]
    assert [score for _, score in ranked] == pytest.approx([score for _, score in ch04_rag.fused()])
    plain = dict(retrieval.reciprocal_rank_fusion([ch04_rag.DENSE, ch04_rag.WORDS], 0))
    assert plain["Q"] == 1 and round(plain["R"], 2) == 0.67  # the caption
    assert "With $k=0$ it would be the other way round: a first place would be worth 1, two third places 0.67." in PAGE


def test_the_figure_of_chunks_cuts_as_the_library_does_and_quotes_the_book() -> None:
    words = ch04_rag.TEXT.split()
    for _, size, overlap in ch04_rag.WAYS:
        cut = [" ".join(words[a:b]) for a, b in ch04_rag.cuts(size, overlap)]
        assert cut == retrieval.pieces(ch04_rag.TEXT, size, overlap)
    whole = [any(ch04_rag.EVIDENCE in p for p in retrieval.pieces(ch04_rag.TEXT, s, o)) for _, s, o in ch04_rag.WAYS]
    assert whole == [True, False, True]
    assert any(ch04_rag.TEXT.rstrip(".") in section.text for section in retrieval.book())
    assert f"Two sentences of this book as {['sixteen', 'seventeen'][len(words) - 16]} cells" in PAGE


def test_the_worked_example_of_pooling() -> None:
    states = torch.tensor([[3.0, 0.0], [1.0, 4.0]])
    e = retrieval.mean_pool(states)
    question = torch.tensor([0.6, 0.8])
    assert [round(x, 2) for x in e.tolist()] == [0.71, 0.71] and round((e @ question).item(), 2) == 0.99
    careless = F.normalize(torch.cat([states, torch.tensor([[8.0, 0.0]])]).mean(0), dim=-1)
    assert [round(x, 2) for x in careless.tolist()] == [0.95, 0.32] and round((careless @ question).item(), 2) == 0.82
    assert "$(4,1.33)$, $e=(0.95,0.32)$, and the cosine 0.82" in PAGE


def test_the_worked_example_of_bm25() -> None:
    idf = {n: math.log(1 + (100 - n + 0.5) / (n + 0.5)) for n in (50, 2)}
    assert [round(x, 2) for x in idf.values()] == [0.69, 3.70]
    long, usual = (1 / (1 + 1.5 * (0.25 + 0.75 * ratio)) for ratio in (2, 1))
    assert round(long, 3) == 0.276 and usual == pytest.approx(0.4)
    assert [round(idf[n] * part, 2) for part in (long, usual) for n in (2, 50)] == [1.02, 0.19, 1.48, 0.28]
    # The same by the library: 100 documents of mean length 4, the word in 50 or in 2 of them.
    documents = [["loss"] * (n < 50) + ["squeezing"] * (n < 2) for n in range(100)]
    documents = [words + ["x"] * (4 - len(words)) for words in documents]
    index = retrieval.BM25(documents)
    assert index.scores(["squeezing"])[0].item() == pytest.approx(idf[2] * 0.4)
    assert index.scores(["loss"])[0].item() == pytest.approx(idf[50] * 0.4)
    assert '"squeezing" adds 1.02 and "loss" 0.19' in PAGE and "1.48 and 0.28" in PAGE


def test_every_answer_of_the_figure_is_of_the_kind_it_says() -> None:
    numbers = set(re.findall(r"\d+", ch04_rag.LETTER))
    kinds = {kind: answer for _, answer, kind, _ in ch04_rag.CLAIMS}
    assert set(re.findall(r"\d+", kinds["supported"])) <= numbers
    assert "Finished" in kinds["intrinsic"] and not set(re.findall(r"\d+", kinds["intrinsic"])) & numbers
    assert "windows" in kinds["extrinsic"] and "windows" not in ch04_rag.LETTER
    assert not re.findall(r"\d+", kinds["abstention"])


def test_the_explorers_data_are_small_and_true_to_the_chunks() -> None:
    file = ROOT / "labs" / "explorers" / "retrieval_space.json"
    if not file.is_file():
        pytest.skip("the lab has not been run in full here")
    data = json.loads(file.read_text(encoding="utf-8"))["data"]
    body = json.dumps(explorers.packed(data), ensure_ascii=False, separators=(",", ":"))
    assert len(body.encode()) < 40_000
    asked = {question.question: question for question in retrieval.questions()}
    snippets = {one["chunk"]: one for one in data["snippets"]}
    whole = " ".join(" ".join(section.text.split()) for section in retrieval.book())
    assert all(one["text"].removesuffix(" …")[-60:] in whole for one in snippets.values())
    for query in data["queries"]:
        assert query["kind"] == asked[query["text"]].kind
        assert not (query["answers"] and query["kind"] == "none")
        for ranking in (query["dense"], query["bm25"]):
            scores = [score for _, score in ranking]
            assert scores == sorted(scores, reverse=True) and len({chunk for chunk, _ in ranking}) == len(ranking)
            assert all(chunk in snippets for chunk, _ in ranking[:5])
    cut = [query for query in data["queries"] if query["kind"] != "none" and not query["answers"]]
    assert len(cut) <= 1  # the cutting into chunks may go through an answer, and the figure says so
    assert max(abs(point[axis]) for point in data["points"] for axis in ("x", "y")) == pytest.approx(1, abs=0.05)
