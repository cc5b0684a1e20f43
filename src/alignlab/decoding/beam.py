"""Beam search: the most likely beginnings go on together, batched over prompts, with a KV cache that follows them.

`Beams` is the search alone: it compares scores and knows no model. `beam_search` feeds it from one.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from alignlab.decoding.sampling import GREEDY, Processor, Sampling, _require, pad_left
from alignlab.transformer import KVCache, Transformer

EarlyStopping = bool | Literal["never"]


class Hypothesis(NamedTuple):
    """A finished beam: token ids without the stop token, logprob (nats) / length**length_penalty, logprob, and
    whether it stopped by itself. The length counts the stop token."""

    ids: list[int]
    score: float
    logprob: float
    ended: bool


class Running(NamedTuple):
    """A beginning that goes on: its new ids, their logprob (nats), what selection compares (the logprob, less
    diversity penalties), and its place among the beams of the step before."""

    ids: tuple[int, ...]
    logprob: float
    score: float
    parent: int


class Candidate(NamedTuple):
    """The running beam at place `parent`, made longer by one token; logprob and score are those of the whole."""

    parent: int
    token: int
    logprob: float
    score: float


def _require_width(width: int) -> None:
    _require(width >= 1 and width == int(width), f"the beam's width is {width}; it must be a whole number, at least 1")


class Beams:
    """The search for one prompt (or one group of its beams): running hypotheses and finished ones, best first.

    width: beams that run, and hypotheses kept. early_stopping, once `width` hypotheses are finished: True stops;
    False stops when the best running beam, divided by its present length**length_penalty, is no better than the
    worst of them; "never" takes the most favourable length instead. phrases: token ids that each result must hold.
    """

    def __init__(
        self,
        width: int,
        max_new_tokens: int,
        *,
        length_penalty: float = 1.0,
        early_stopping: EarlyStopping = False,
        stop_id: int | None = None,
        phrases: Sequence[Sequence[int]] = (),
    ) -> None:
        _require_width(width)
        _require(max_new_tokens >= 1, f"max_new_tokens is {max_new_tokens}; beam search needs at least 1")
        _require(early_stopping in (True, False, "never"), f"early_stopping is {early_stopping!r}; see `Beams`")
        needed = sum(map(len, phrases))
        _require(all(map(len, phrases)), "a phrase to be contained is empty; leave it out")
        _require(all(stop_id not in phrase for phrase in phrases), f"a phrase holds the stop token {stop_id}")
        _require(
            needed <= max_new_tokens,
            f"the phrases have {needed} tokens together and max_new_tokens is {max_new_tokens}; allow more",
        )
        self.width, self.max_new_tokens, self.stop_id = width, max_new_tokens, stop_id
        self.length_penalty, self.early_stopping = length_penalty, early_stopping
        self.phrases = [tuple(phrase) for phrase in phrases]
        self.running = [Running((), 0.0, 0.0, 0)]
        self.finished: list[Hypothesis] = []
        self.done = False
        self.taken: list[int] = []
        """The tokens that the last step took."""
        self._finished_scores: list[float] = []  # with the diversity penalties that a Hypothesis leaves out

    def advance(self, candidates: Sequence[Candidate]) -> None:
        """One step. candidates: best first, twice the width of them, so that `width` can go on if the others end.

        Only a candidate among the first `width` may finish; the rest are there to go on.
        """
        length = len(self.running[0].ids) + 1
        last = length == self.max_new_tokens
        going: list[Running] = []
        ending: list[int] = []
        for place, candidate in enumerate(self._by_bank(candidates, last) if self.phrases else candidates):
            ids = (*self.running[candidate.parent].ids, candidate.token)
            if last or candidate.token == self.stop_id:
                if place < self.width:
                    self._finish(ids, candidate)
                    ending.append(candidate.token)
            elif len(going) < self.width:
                going.append(Running(ids, candidate.logprob, candidate.score, candidate.parent))
        self.running = going
        self.taken = ending if last else [beam.ids[-1] for beam in going]
        self.done = last or not going or self._settled(length)

    def _finish(self, ids: tuple[int, ...], candidate: Candidate) -> None:
        ended = candidate.token == self.stop_id
        norm = len(ids) ** self.length_penalty
        score = candidate.score / norm
        place = sum(other >= score for other in self._finished_scores)
        found = Hypothesis(list(ids[:-1] if ended else ids), candidate.logprob / norm, candidate.logprob, ended)
        self.finished.insert(place, found)
        self._finished_scores.insert(place, score)
        del self.finished[self.width :], self._finished_scores[self.width :]

    def _settled(self, length: int) -> bool:
        if len(self.finished) < self.width:
            return False
        if self.early_stopping is True:
            return True
        longest = self.early_stopping == "never" and self.length_penalty > 0
        best = max(beam.score for beam in self.running)
        reachable = best / (self.max_new_tokens if longest else length) ** self.length_penalty
        return reachable <= self._finished_scores[-1]

    def _by_bank(self, candidates: Sequence[Candidate], last: bool) -> list[Candidate]:
        """Dynamic beam allocation, after Post and Vilar (2018): in turn the best of each bank, the fullest bank first.

        A bank holds the candidates with as many tokens of the phrases in place. One that ends without them is out.
        """
        needed = sum(map(len, self.phrases))
        banks: dict[int, list[Candidate]] = {}
        for candidate in candidates:
            placed, _ = progress((*self.running[candidate.parent].ids, candidate.token), self.phrases)
            if placed == needed or not (last or candidate.token == self.stop_id):
                banks.setdefault(placed, []).append(candidate)
        order = sorted(banks, reverse=True)
        turns = max(map(len, banks.values()), default=0)
        return [banks[bank][turn] for turn in range(turns) for bank in order if turn < len(banks[bank])]


def progress(ids: tuple[int, ...], phrases: Sequence[tuple[int, ...]]) -> tuple[int, set[int]]:
    """How many tokens of the phrases are in place in ids, and the tokens that would put one more there.

    A phrase that ids contain counts whole; of the others, the longest beginning with which ids end.
    """
    placed, begun, wanted = 0, 0, set()
    for phrase in phrases:
        size = len(phrase)
        if any(ids[at : at + size] == phrase for at in range(len(ids) - size + 1)):
            placed += size
            continue
        ending = next(n for n in range(min(size - 1, len(ids)), -1, -1) if ids[len(ids) - n :] == phrase[:n])
        begun = max(begun, ending)
        wanted.add(phrase[ending])
    return placed + begun, wanted


def reorder(cache: KVCache, parents: Tensor, start: int) -> None:
    """Row r of the cache becomes row parents[r], from position `start` on; before it the rows are alike.

    The beams of one prompt share the prompt's keys and values, so only those of new tokens move.
    """
    moved = (parents != torch.arange(len(parents), device=parents.device)).nonzero().flatten()
    sources = parents[moved]
    for stored in (cache.keys, cache.values):
        new = stored[:, :, :, start : cache.length]
        new.index_copy_(1, moved, new.index_select(1, sources))


@torch.inference_mode()
def beam_search(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    width: int = 4,
    *,
    length_penalty: float = 1.0,
    early_stopping: EarlyStopping = False,
    groups: int = 1,
    diversity: float = 0.0,
    phrases: Sequence[Sequence[int]] = (),
    stop_id: int | None = None,
    penalties: Sampling = GREEDY,
    processor: Processor | None = None,
) -> list[list[Hypothesis]]:
    """The best continuations that beam search finds for each prompt, up to `width` of them, best score first.

    model, prompts, stop_id: as for `generate`. length_penalty, early_stopping, phrases: see `Beams`.
    groups, diversity: diverse beam search, Vijayakumar et al. (2016), algorithm 1: the beams are split into groups of
    equal width, and in each step a group pays `diversity` nats for each beam of an earlier group that took the same
    token. penalties, processor: change the log-probabilities (rows, V) before selection, as transformers does; the
    first is a greedy `Sampling`. A prompt is read once, whatever the width, and leaves the batch when its search ends.
    ValueError for a bad prompt, width, group or phrase, and where nothing is left to choose.
    """
    decoder = Transformer.view(model)
    device = decoder.norm.weight.device
    _require_width(width)
    _require(groups >= 1, f"groups is {groups}; it must be at least 1")
    _require(width % groups == 0, f"{width} beams cannot be split into {groups} groups of equal width")
    _require(diversity >= 0, f"diversity is {diversity}; it must not be negative")
    _require(penalties.temperature == 0, "penalties sample; give them temperature 0, for beam search draws nothing")
    searches = [
        [
            Beams(
                width // groups,
                max_new_tokens,
                length_penalty=length_penalty,
                early_stopping=early_stopping,
                stop_id=stop_id,
                phrases=phrases,
            )
            for _ in range(groups)
        ]
        for _ in prompts
    ]
    tokens, present, padded = pad_left(prompts, max_new_tokens, decoder.config.max_position_embeddings, device)
    longest = tokens.shape[1] - max_new_tokens
    seen = tokens[:, :longest].masked_fill(present[:, :longest] == 0, -1)
    cache = decoder.cache(len(prompts), longest + max_new_tokens)
    new_ids = tokens[:, :longest]
    owners = list(range(len(prompts)))  # which prompt each row belongs to
    first = {(prompt, group): prompt for prompt in owners for group in range(groups)}  # the first row of each search
    for step in range(max_new_tokens):
        mask = present[owners, : longest + step] if padded else None
        logprobs = decoder.lm_head(decoder.hidden(new_ids, mask, cache)[:, -1]).float().log_softmax(-1)
        if processor is not None:
            logprobs = processor(logprobs, seen[:, longest:].tolist())
        logprobs = penalties.apply(logprobs, seen, seen[:, longest:])
        going: list[tuple[int, int]] = []
        together: dict[int, list[Candidate]] = {}
        live = list(dict.fromkeys(owners))
        if groups == 1 and len({len(searches[prompt][0].running) for prompt in live}) == 1:
            together = dict(zip(live, _candidates([searches[prompt][0] for prompt in live], logprobs), strict=True))
        for prompt in live:
            taken: Counter[int] = Counter()  # tokens that earlier groups took in this step
            for group, beams in enumerate(searches[prompt]):
                if beams.done:
                    continue
                start = first[prompt, group]
                rows_of = slice(start, start + len(beams.running))
                beams.advance(together.get(prompt) or _candidates([beams], logprobs[rows_of], diversity, taken)[0])
                _require(
                    not beams.done or bool(beams.finished),
                    f"no token is left to choose for prompt {prompt} after {step} new tokens: the processor, the "
                    "penalties or the phrases forbid them all",
                )
                taken.update(beams.taken)
                if not beams.done:
                    going.append((prompt, group))
        if not going:
            break
        parents = [first[key] + beam.parent for key in going for beam in searches[key[0]][key[1]].running]
        followers = [key[0] for key in going for _ in searches[key[0]][key[1]].running]
        rows = torch.tensor(parents, device=device)
        if followers != owners:
            cache.select(rows)
        elif parents != list(range(len(parents))):
            reorder(cache, rows, longest)
        owners, first, row = followers, {}, 0
        for key in going:
            first[key] = row
            row += len(searches[key[0]][key[1]].running)
        last_ids = [beam.ids[-1] for key in going for beam in searches[key[0]][key[1]].running]
        new_ids = torch.tensor(last_ids, device=device)[:, None]
        seen = torch.cat([seen[rows], new_ids], dim=1)
    found = [[hypothesis for beams in groups_ for hypothesis in beams.finished] for groups_ in searches]
    return [sorted(hypotheses, key=lambda hypothesis: -hypothesis.score) for hypotheses in found]


def _candidates(
    searches: Sequence[Beams], logprobs: Tensor, diversity: float = 0.0, taken: Counter[int] | None = None
) -> list[list[Candidate]]:
    """For each search the best 2 * width ways to make a running beam one token longer, and those that phrases ask for.

    searches: all with as many running beams as the first. logprobs: (running beams of all, V), search by search.
    taken: tokens of earlier groups, each costing `diversity` nats every time it was taken.
    """
    adjusted = logprobs
    if taken and diversity:
        cost = logprobs.new_zeros(logprobs.shape[1])
        cost[list(taken)] = diversity * torch.tensor(list(taken.values()), dtype=cost.dtype, device=cost.device)
        adjusted = logprobs - cost
    count = 2 * searches[0].width
    best, ids = adjusted.topk(min(count, logprobs.shape[1]), dim=-1)  # the best of all are among each row's best
    own = best if adjusted is logprobs else logprobs.gather(-1, ids)
    running = [beam for beams in searches for beam in beams.running]
    before = torch.tensor([[beam.score, beam.logprob] for beam in running], dtype=torch.float64)
    scores = (best.double().cpu() + before[:, :1]).view(len(searches), -1)  # (searches, running * count)
    totals = (own.double().cpu() + before[:, 1:]).view(len(searches), -1)
    # With phrases all of them: a full bank may score far below the others.
    top = scores.topk(scores.shape[1] if searches[0].phrases else min(count, scores.shape[1]))
    tokens = ids.cpu().view(len(searches), -1).gather(1, top.indices).tolist()
    columns = (top.indices.tolist(), tokens, totals.gather(1, top.indices).tolist(), top.values.tolist())
    found = [
        [
            Candidate(place // ids.shape[1], token, total, score)
            for place, token, total, score in zip(*row, strict=True)
            if score > -torch.inf
        ]
        for row in zip(*columns, strict=True)
    ]
    if searches[0].phrases:
        rows = logprobs.view(len(searches), -1, logprobs.shape[1])
        changed = adjusted.view_as(rows)
        for beams, candidates, own_row, row in zip(searches, found, rows, changed, strict=True):
            known = {(candidate.parent, candidate.token) for candidate in candidates}
            for place, beam in enumerate(beams.running):
                for token in progress(beam.ids, beams.phrases)[1]:
                    logprob, value = own_row[place, token].item(), row[place, token].item()
                    if (place, token) not in known and value > -torch.inf:
                        candidates.append(Candidate(place, token, beam.logprob + logprob, beam.score + value))
            candidates.sort(key=lambda candidate: -candidate.score)
    return found
