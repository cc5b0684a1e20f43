"""Beam search against exhaustive search, against transformers' `generate`, and against its definition written twice."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from alignlab import decoding, text
from alignlab.decoding import Beams, Hypothesis, Sampling, beam, beam_search, contrastive, contrastive_search
from alignlab.decoding.beam import Candidate
from alignlab.transformer import KVCache

STOP = 9
NEW = 10
PROMPTS = [[1, 2, 3, 5], [5], [6, 7]]


def small_llama(vocabulary: int, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.25, eos_token_id=None,
        bos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def peer() -> LlamaForCausalLM:
    return small_llama(13, 3)


@pytest.fixture(scope="module")
def four_tokens() -> LlamaForCausalLM:
    """A vocabulary so small that all 4^5 texts can be scored."""
    return small_llama(4, 5)


@torch.no_grad()
def logprob_of(model: LlamaForCausalLM, prompt: list[int], ids: list[int]) -> float:
    """Sum of log-probabilities of ids after the prompt, in one pass without a cache."""
    logprobs = model(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
    return sum(logprobs[len(prompt) + at - 1, token].item() for at, token in enumerate(ids))


@torch.no_grad()
def every_text(model: LlamaForCausalLM, prompt: list[int], new: int, stop: int) -> dict[tuple[int, ...], float]:
    """The log-probability of every text of at most `new` tokens, the stop token last or absent."""
    vocabulary = model.config.vocab_size
    texts = list(product(range(vocabulary), repeat=new))
    logits = model(torch.tensor([[*prompt, *text] for text in texts])).logits[:, len(prompt) - 1 : -1]
    own = logits.log_softmax(-1).gather(-1, torch.tensor(texts)[..., None])[..., 0]  # (texts, new)
    found: dict[tuple[int, ...], float] = {}
    for one, row in zip(texts, own, strict=True):
        length = one.index(stop) + 1 if stop in one else new
        found[one[:length]] = row[:length].sum().item()
    return found


Setting = tuple[int, float, bool | str]
SETTINGS: list[Setting] = [
    (width, length_penalty, early)
    for width, length_penalty in ((1, 1.0), (2, 0.0), (3, 1.0), (4, 2.0), (3, -0.5), (2, 3.0))
    for early in (False, True, "never")
]


@pytest.fixture(scope="module")
def by_transformers(peer: LlamaForCausalLM) -> dict[tuple[int, Setting], list[tuple[list[int], float]]]:
    """Tokens (the stop token included) and scores of all hypotheses that transformers returns."""
    found = {}
    for setting in SETTINGS:
        width, length_penalty, early = setting
        for which, prompt in enumerate(PROMPTS):
            out: Any = peer.generate(
                torch.tensor([prompt]), num_beams=max(width, 2) if width > 1 else 1, num_return_sequences=width,
                do_sample=False, max_new_tokens=NEW, eos_token_id=STOP, pad_token_id=0, length_penalty=length_penalty,
                early_stopping=early, return_dict_in_generate=True, output_scores=True,
            )  # fmt: skip
            if width == 1:
                continue  # transformers runs greedy search there
            texts = [row[len(prompt) :] for row in out.sequences.tolist()]
            cut = [text[: text.index(STOP) + 1] if STOP in text else text for text in texts]
            found[which, setting] = list(zip(cut, out.sequences_scores.tolist(), strict=True))
    return found


def with_stop(hypothesis: Hypothesis) -> list[int]:
    return [*hypothesis.ids, STOP] if hypothesis.ended else hypothesis.ids


def check_against_transformers(
    peer: LlamaForCausalLM, expected: dict[tuple[int, Setting], list[tuple[list[int], float]]]
) -> None:
    """All prompts in one batch of ours, tokens and scores of every hypothesis; and scores true by definition."""
    for setting in SETTINGS:
        width, length_penalty, early = setting
        ours = beam_search(
            peer, PROMPTS, NEW, width, length_penalty=length_penalty, early_stopping=early, stop_id=STOP  # type: ignore[arg-type]
        )  # fmt: skip
        for which, (prompt, hypotheses) in enumerate(zip(PROMPTS, ours, strict=True)):
            for hypothesis in hypotheses:
                ids = with_stop(hypothesis)
                assert STOP not in hypothesis.ids
                assert hypothesis.logprob == pytest.approx(logprob_of(peer, prompt, ids), abs=1e-4)
                assert hypothesis.score == pytest.approx(hypothesis.logprob / len(ids) ** length_penalty, abs=1e-6)
            if width == 1:
                continue
            theirs = expected[which, setting]
            assert [with_stop(hypothesis) for hypothesis in hypotheses] == [ids for ids, _ in theirs], setting
            scores = [hypothesis.score for hypothesis in hypotheses]
            assert scores == pytest.approx([score for _, score in theirs], abs=1e-4), setting


def check_against_exhaustive_search(model: LlamaForCausalLM) -> None:
    """A beam wide enough finds the best of all texts; a narrow one never a better one, and sometimes a worse one."""
    missed = 0
    for prompt in ([1, 2], [3], [2, 2, 1]):
        truth = every_text(model, prompt, 5, stop=0)
        for length_penalty in (0.0, 1.0, 2.0):
            best = max(logprob / len(text) ** length_penalty for text, logprob in truth.items())
            for width in (1, 2, 4**5):
                [found] = beam_search(
                    model, [prompt], 5, width, length_penalty=length_penalty, early_stopping="never", stop_id=0
                )
                assert found[0].score <= best + 1e-5
                missed += found[0].score < best - 1e-4
                text = (*found[0].ids, 0) if found[0].ended else tuple(found[0].ids)
                assert found[0].logprob == pytest.approx(truth[text], abs=1e-4)
                if width == 4**5:
                    assert found[0].score == pytest.approx(best, abs=1e-4)
                    assert len({tuple(hypothesis.ids) for hypothesis in found}) == len(found)
    assert missed  # so that the comparison above says something


def test_every_hypothesis_and_score_equal_those_of_transformers(peer: LlamaForCausalLM, by_transformers: Any) -> None:
    check_against_transformers(peer, by_transformers)


def test_a_wide_beam_finds_the_best_of_all_texts(four_tokens: LlamaForCausalLM) -> None:
    check_against_exhaustive_search(four_tokens)


def _finish_by(norm: Callable[[tuple[int, ...], Beams], float]) -> Callable[..., None]:
    def finish(self: Beams, ids: tuple[int, ...], candidate: Candidate) -> None:
        ended = candidate.token == self.stop_id
        score = candidate.score / norm(ids, self)
        self.finished.append(Hypothesis(list(ids[:-1] if ended else ids), score, candidate.logprob, ended))
        self.finished.sort(key=lambda hypothesis: -hypothesis.score)
        del self.finished[self.width :]
        self._finished_scores = [hypothesis.score for hypothesis in self.finished]

    return finish


def _finished_keep_growing(self: Beams, candidates: list[Candidate]) -> None:
    stop, self.stop_id = self.stop_id, None
    RIGHT_ADVANCE(self, candidates)
    self.stop_id = stop


def _all_may_finish(self: Beams, candidates: list[Candidate]) -> None:
    length = len(self.running[0].ids) + 1
    for candidate in candidates[self.width :]:
        if candidate.token == self.stop_id and length < self.max_new_tokens:
            self._finish((*self.running[candidate.parent].ids, candidate.token), candidate)
    RIGHT_ADVANCE(self, candidates)


def _no_spare(searches: list[Beams], *arguments: Any) -> list[list[Candidate]]:
    return [candidates[: searches[0].width] for candidates in RIGHT_CANDIDATES(searches, *arguments)]


def _only_the_last_token(searches: list[Beams], *arguments: Any) -> list[list[Candidate]]:
    found = []
    for beams, candidates in zip(searches, RIGHT_CANDIDATES(searches, *arguments), strict=True):
        bare = [one._replace(score=one.score - beams.running[one.parent].score) for one in candidates]
        found.append(sorted(bare, key=lambda candidate: -candidate.score))
    return found


def _by_child(cache: KVCache, parents: Tensor, start: int) -> None:
    RIGHT_REORDER(cache, parents.argsort(stable=True), start)


def _one_late(cache: KVCache, parents: Tensor, start: int) -> None:
    RIGHT_REORDER(cache, parents, min(start + 1, cache.length))


RIGHT_ADVANCE, RIGHT_CANDIDATES, RIGHT_REORDER = Beams.advance, beam._candidates, beam.reorder
WRONG: dict[str, tuple[Any, str, Any]] = {
    "scores are not divided by length": (Beams, "_finish", _finish_by(lambda ids, beams: 1.0)),
    "the stop token does not count as length": (
        Beams,
        "_finish",
        _finish_by(lambda ids, beams: max(len(ids) - 1, 1) ** beams.length_penalty),
    ),
    "scores are multiplied by length": (
        Beams,
        "_finish",
        _finish_by(lambda ids, beams: len(ids) ** -beams.length_penalty),
    ),
    "finished beams are kept growing": (Beams, "advance", _finished_keep_growing),
    "the search ends with the first finished beam": (Beams, "_settled", lambda self, length: bool(self.finished)),
    "the search never ends early": (Beams, "_settled", lambda self, length: False),
    "spare candidates finish, too": (Beams, "advance", _all_may_finish),
    "no spare candidates": (beam, "_candidates", _no_spare),
    "beams compare their last token only": (beam, "_candidates", _only_the_last_token),
    "the cache is not reordered": (beam, "reorder", lambda cache, parents, start: None),
    "the cache is reordered the other way round": (beam, "reorder", _by_child),
    "the cache is reordered from one position too late": (beam, "reorder", _one_late),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_beam_search_is_rejected(
    name: str, peer: LlamaForCausalLM, by_transformers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*WRONG[name])
    with pytest.raises(AssertionError):
        check_against_transformers(peer, by_transformers)


def test_width_one_is_greedy_search(peer: LlamaForCausalLM) -> None:
    greedy = decoding.generate(peer, PROMPTS, NEW, stop_id=STOP)
    beams = beam_search(peer, PROMPTS, NEW, 1, stop_id=STOP)
    assert [hypotheses[0].ids for hypotheses in beams] == [completion.ids for completion in greedy]


@pytest.mark.parametrize("options", [{"repetition_penalty": 1.4}, {"no_repeat_ngram": 2}])
def test_penalties_act_as_in_transformers(peer: LlamaForCausalLM, options: dict[str, Any]) -> None:
    ours = beam_search(peer, PROMPTS, NEW, 3, penalties=Sampling(temperature=0, **options))
    theirs_name = {"no_repeat_ngram": "no_repeat_ngram_size"}
    theirs = {theirs_name.get(name, name): value for name, value in options.items()}
    for prompt, hypotheses in zip(PROMPTS, ours, strict=True):
        out: Any = peer.generate(
            torch.tensor([prompt]), num_beams=3, max_new_tokens=NEW, do_sample=False,
            return_dict_in_generate=True, output_scores=True, **theirs,
        )  # fmt: skip
        assert hypotheses[0].ids == out.sequences[0, len(prompt) :].tolist()
        assert hypotheses[0].score == pytest.approx(out.sequences_scores[0].item(), abs=1e-4)


def test_a_processor_keeps_every_beam_within_what_it_allows(peer: LlamaForCausalLM) -> None:
    def rising(logprobs: Tensor, new_ids: list[list[int]]) -> Tensor:
        last = torch.tensor([[ids[-1] if ids else -1] for ids in new_ids])
        return logprobs.masked_fill(torch.arange(logprobs.shape[1]) <= last, -torch.inf)

    [found] = beam_search(peer, [[1, 2]], 4, 3, processor=rising)
    assert all(sorted(set(hypothesis.ids)) == hypothesis.ids for hypothesis in found)
    with pytest.raises(ValueError, match="no token is left to choose for prompt 0"):
        beam_search(peer, [[1, 2]], 14, 3, processor=rising)


# ---- diverse groups


@torch.no_grad()
def diverse_by_definition(
    model: LlamaForCausalLM, prompt: list[int], new: int, width: int, groups: int, diversity: float
) -> list[set[tuple[int, ...]]]:
    """Vijayakumar et al. (2016), algorithm 1, with Hamming diversity; every candidate scored anew, nothing cached."""
    beams: list[list[tuple[tuple[int, ...], float]]] = [[((), 0.0)] for _ in range(groups)]
    for _ in range(new):
        taken: list[int] = []
        for group in range(groups):
            candidates = []
            for ids, score in beams[group]:
                logprobs = model(torch.tensor([[*prompt, *ids]])).logits[0, -1].log_softmax(-1)
                for token, logprob in enumerate(logprobs.tolist()):
                    candidates.append(((*ids, token), score + logprob - diversity * taken.count(token)))
            beams[group] = sorted(candidates, key=lambda pair: -pair[1])[: width // groups]
            taken += [ids[-1] for ids, _ in beams[group]]
    return [{ids for ids, _ in group} for group in beams]


@pytest.mark.parametrize("diversity", [0.0, 0.5, 3.0])
def test_diverse_groups_equal_their_definition(peer: LlamaForCausalLM, diversity: float) -> None:
    ours = beam_search(peer, PROMPTS, 6, 6, groups=3, diversity=diversity)
    for prompt, hypotheses in zip(PROMPTS, ours, strict=True):
        groups = diverse_by_definition(peer, prompt, 6, 6, 3, diversity)
        assert sorted(tuple(hypothesis.ids) for hypothesis in hypotheses) == sorted(ids for g in groups for ids in g)
        for hypothesis in hypotheses:  # scores are the model's, without the penalties
            assert hypothesis.logprob == pytest.approx(logprob_of(peer, prompt, hypothesis.ids), abs=1e-4)


def test_without_a_penalty_all_groups_are_one_plain_search_and_with_it_they_differ(peer: LlamaForCausalLM) -> None:
    plain = [tuple(hypothesis.ids) for hypothesis in beam_search(peer, PROMPTS[:1], NEW, 2, stop_id=STOP)[0]]
    same = [tuple(hypothesis.ids) for hypothesis in beam_search(peer, PROMPTS[:1], NEW, 6, groups=3, stop_id=STOP)[0]]
    assert sorted(same) == sorted(plain * 3)
    [diverse] = beam_search(peer, PROMPTS[:1], NEW, 6, groups=3, diversity=2.0, stop_id=STOP)
    assert set(plain) < {tuple(hypothesis.ids) for hypothesis in diverse}  # the first group pays nothing


# ---- phrases


def contains(ids: list[int], phrase: list[int]) -> bool:
    return any(ids[at : at + len(phrase)] == phrase for at in range(len(ids)))


@pytest.mark.parametrize("phrases", [[[2]], [[1, 1]], [[3, 2], [1]], [[2, 1], [1, 2]]])
def test_a_wide_constrained_beam_finds_the_best_text_with_the_phrases(
    four_tokens: LlamaForCausalLM, phrases: list[list[int]]
) -> None:
    truth = every_text(four_tokens, [1, 2], 5, stop=0)
    allowed = {text: score for text, score in truth.items() if all(contains(list(text), p) for p in phrases)}
    best = max(logprob / len(text) for text, logprob in allowed.items())
    [wide] = beam_search(four_tokens, [[1, 2]], 5, 4**5, phrases=phrases, early_stopping="never", stop_id=0)
    assert wide[0].score == pytest.approx(best, abs=1e-4)
    for width in (1, 2, 3):
        [narrow] = beam_search(four_tokens, [[1, 2]], 5, width, phrases=phrases, stop_id=0)
        for hypothesis in narrow:
            assert all(contains(hypothesis.ids, phrase) for phrase in phrases)
            assert hypothesis.score <= best + 1e-5
    [free] = beam_search(four_tokens, [[1, 2]], 5, 3, stop_id=0)
    assert not all(contains(hypothesis.ids, phrase) for hypothesis in free for phrase in phrases)  # so it has to act


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_constrained_beam_holds_its_phrases_however_unlikely(peer: LlamaForCausalLM, width: int) -> None:
    phrases = [[12, 11, 12], [4]]
    for hypotheses in beam_search(peer, PROMPTS, 8, width, phrases=phrases, stop_id=STOP):
        assert hypotheses
        assert all(contains(hypothesis.ids, phrase) for hypothesis in hypotheses for phrase in phrases)


def test_progress_counts_whole_phrases_and_the_longest_beginning() -> None:
    assert beam.progress((), [(1, 2)]) == (0, {1})
    assert beam.progress((5, 1), [(1, 2)]) == (1, {2})
    assert beam.progress((1, 5), [(1, 2)]) == (0, {1})  # a broken phrase begins anew
    assert beam.progress((1, 1), [(1, 1, 2)]) == (2, {2})
    assert beam.progress((1, 1, 1), [(1, 1, 2)]) == (2, {2})  # and may overlap what broke it
    assert beam.progress((1, 2, 7), [(1, 2), (3,)]) == (2, {3})


# ---- contrastive search


@torch.no_grad()
def contrastive_by_definition(
    model: LlamaForCausalLM, prompt: list[int], new: int, k: int, alpha: float, stop: int | None
) -> list[int]:
    """Su et al. (2022), eq. 5, with a whole pass over the text for each candidate."""
    ids = list(prompt)
    for _ in range(new):
        probs = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
        scores = {}
        for token in probs.topk(k).indices.tolist():
            hidden = model(torch.tensor([[*ids, token]]), output_hidden_states=True).hidden_states[-1][0]
            penalty = max(torch.cosine_similarity(hidden[-1], state, dim=0).item() for state in hidden[:-1])
            scores[token] = (1 - alpha) * probs[token].item() - alpha * penalty
        ids.append(max(scores, key=lambda token: scores[token]))
        if ids[-1] == stop:
            return ids[len(prompt) : -1]
    return ids[len(prompt) :]


def check_contrastive(peer: LlamaForCausalLM) -> None:
    for k, alpha in ((4, 0.6), (3, 0.9), (5, 0.3), (2, 1.0)):
        for stop in (None, STOP):
            ours = [completion.ids for completion in contrastive_search(peer, PROMPTS, NEW, k, alpha, stop_id=stop)]
            assert ours == [contrastive_by_definition(peer, prompt, NEW, k, alpha, stop) for prompt in PROMPTS]


def test_contrastive_search_equals_its_definition(peer: LlamaForCausalLM) -> None:
    check_contrastive(peer)
    for k, alpha in ((1, 0.6), (4, 0.0)):
        assert contrastive_search(peer, PROMPTS, NEW, k, alpha) == decoding.generate(peer, PROMPTS, NEW)


def _score(similarity: Callable[[Tensor], Tensor], sign: float = 1.0) -> Callable[..., Tensor]:
    def score(probs: Tensor, states: Tensor, past: Tensor, alpha: float) -> Tensor:
        cosines = torch.nn.functional.normalize(states, dim=-1) @ past.transpose(1, 2)
        cosines = cosines.masked_fill((past == 0).all(-1)[:, None], torch.nan)
        return (1 - alpha) * probs - sign * alpha * similarity(cosines)

    return score


WRONG_CONTRASTIVE: dict[str, Callable[..., Tensor]] = {
    "the mean for the most similar state": _score(lambda cosines: cosines.nanmean(-1)),
    "similarity is rewarded": _score(lambda cosines: cosines.nan_to_num(-9).amax(-1), -1.0),
    "the last state only": _score(lambda cosines: cosines[..., -1]),
    "padding counts as text": _score(lambda cosines: cosines.nan_to_num(1.0).amax(-1)),
    "inner products instead of cosines": lambda probs, states, past, alpha: (
        (1 - alpha) * probs - alpha * (states @ past.transpose(1, 2)).amax(-1)
    ),
    "alpha on the wrong side": lambda probs, states, past, alpha: contrastive_score(probs, states, past, 1 - alpha),
}
contrastive_score = contrastive.contrastive_score


@pytest.mark.parametrize("name", WRONG_CONTRASTIVE)
def test_a_wrong_contrastive_score_is_rejected(
    name: str, peer: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contrastive, "contrastive_score", WRONG_CONTRASTIVE[name])
    with pytest.raises(AssertionError):
        check_contrastive(peer)


# ---- bad input


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"width": 0}, "width is 0"),
        ({"width": 2.5}, "width is 2.5"),
        ({"width": 4, "groups": 3}, "cannot be split into 3 groups"),
        ({"groups": 0}, "groups is 0"),
        ({"diversity": -1.0}, "diversity is -1.0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 70}, "exceed the model's context of 64"),
        ({"early_stopping": "always"}, "early_stopping is 'always'"),
        ({"prompts": [[1], []]}, "prompt 1 is empty"),
        ({"prompts": []}, "no prompts"),
        ({"phrases": [[]]}, "phrase to be contained is empty"),
        ({"phrases": [[1, 2, 3], [4, 5, 6]]}, "the phrases have 6 tokens together"),
        ({"phrases": [[1]], "stop_id": 1}, "holds the stop token 1"),
        ({"penalties": Sampling()}, "penalties sample"),
    ],
)
def test_bad_input_is_told_before_the_search(peer: LlamaForCausalLM, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        beam_search(peer, **{"prompts": PROMPTS, "max_new_tokens": 5, **arguments})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [({"k": 0}, "k is 0"), ({"alpha": 1.5}, "alpha is 1.5"), ({"prompts": [[]]}, "prompt 0 is empty")],
)
def test_bad_input_to_contrastive_search_is_told(peer: LlamaForCausalLM, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        contrastive_search(peer, **{"prompts": PROMPTS, "max_new_tokens": 5, **arguments})


def test_smollm2_finds_the_beams_of_transformers(small: Any) -> None:
    model, tokenizer = small
    prompt = text.encode_prompt(tokenizer, "Who are you?")
    theirs: Any = model.generate(
        torch.tensor([prompt]), max_new_tokens=8, num_beams=3, do_sample=False, return_dict_in_generate=True,
        output_scores=True,
    )  # fmt: skip
    [ours] = beam_search(model, [prompt], 8, 3, stop_id=tokenizer.eos_token_id)
    assert ours[0].ids == theirs.sequences[0, len(prompt) :].tolist()
    assert ours[0].score == pytest.approx(theirs.sequences_scores[0].item(), abs=1e-4)
