"""Several tokens for one pass of the model: drafts that it checks all at once, and what keeps the result exact.

Knows drafts by a smaller model, by skipped layers, by lookup in the text and by Jacobi iteration, and lookahead
decoding. One sequence at a time: with a large batch the arithmetic, not the memory, is the limit.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from alignlab.decoding.sampling import GREEDY, Sampling
from alignlab.transformer import KVCache, Transformer

# -- the rule ---------------------------------------------------------------------------------------------------


def acceptance_rate(target: Tensor, draft: Tensor) -> Tensor:
    """How often a token drawn from the draft stays: the sum of min(p, q), Leviathan et al. (2023), theorem 3.5.

    target, draft: probabilities (..., V). Returns (...), between 0 and 1: one minus the total variation distance.
    """
    return torch.minimum(target, draft).sum(-1)


def residual(target: Tensor, draft: Tensor) -> Tensor:
    """What a rejected token is replaced from: max(p - q, 0), normalized, Leviathan et al. (2023), section 2.3.

    target, draft: probabilities (..., V). Where they are equal nothing is ever rejected; the target is returned.
    """
    more = (target - draft).clamp(min=0)
    total = more.sum(-1, keepdim=True)
    return torch.where(total > 0, more / total.clamp(min=torch.finfo(more.dtype).tiny), target)


def expected_tokens(rate: float, length: int) -> float:
    """Tokens from one pass: (1 - a^(g+1)) / (1 - a), Leviathan et al. (2023), eq. 1.

    rate: chance a that a drafted token stays, 0 to 1, the same and independent for each. length: drafted tokens g.
    """
    if not 0 <= rate <= 1 or length < 0:
        raise ValueError(f"rate is {rate}, length is {length}; give a rate from 0 to 1 and a length of at least 0")
    return float(sum(rate**k for k in range(length + 1)))


def expected_speedup(rate: float, length: int, cost: float) -> float:
    """Plain decoding's time over speculative decoding's, Leviathan et al. (2023), theorem 3.8.

    cost: time of one draft step in passes of the target, at least 0. A pass over length + 1 tokens counts as one.
    """
    if cost < 0:
        raise ValueError(f"cost is {cost}; a draft step takes some share of a pass, at least 0")
    return expected_tokens(rate, length) / (length * cost + 1)


def accept(
    target: Tensor, draft: Tensor, drafted: Sequence[int], generator: torch.Generator | None = None
) -> tuple[int, int]:
    """How many drafted tokens stay, and the token that comes after them, Leviathan et al. (2023), algorithm 1.

    target: the model's probabilities (n + 1, V) at the drafted places and at the one after; draft: the draft's (n, V).
    Token x stays with probability min(1, p(x) / q(x)). The first that goes is replaced from the residual, and all after
    it go too. If none goes, the model's last distribution gives one more: the bonus token.
    """
    if target.shape[0] != len(drafted) + 1 or draft.shape[0] != len(drafted):
        raise ValueError(
            f"{len(drafted)} drafted tokens need {len(drafted)} distributions of the draft and one more of the target; "
            f"there are {draft.shape[0]} and {target.shape[0]}"
        )
    chances = torch.rand(len(drafted), generator=generator, device=target.device)
    for k, token in enumerate(drafted):
        if chances[k] * draft[k, token] >= target[k, token]:
            return k, _draw(residual(target[k], draft[k]), generator)
    return len(drafted), _draw(target[len(drafted)], generator)


def _draw(probs: Tensor, generator: torch.Generator | None) -> int:
    return int(torch.multinomial(probs, 1, generator=generator))


def distribution(logits: Tensor, sampling: Sampling, ids: Sequence[int]) -> Tensor:
    """The probabilities (V,) that the next token is drawn from; at temperature 0 all on the likeliest token.

    logits: (V,) after the tokens ids, which penalties look at.
    """
    logits = sampling.apply(logits[None], torch.tensor([list(ids)], device=logits.device))[0]
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter(0, logits.argmax()[None], 1.0)
    return logits.softmax(-1)


# -- reading ----------------------------------------------------------------------------------------------------


class Reader:
    """A model and the tokens that its cache holds: it reads what is new in a text and forgets what is gone from it."""

    def __init__(self, model: nn.Module, capacity: int = 0) -> None:
        self.decoder = Transformer.view(model)
        self.capacity = capacity
        self.ids: list[int] = []
        self.cache: KVCache | None = None

    def logits(self, ids: Sequence[int], last: int) -> Tensor:
        """Next-token logits (last, V), float32, after each of the last tokens of ids."""
        if self.cache is None or len(ids) > self.cache.capacity:  # too small: begin anew with a larger one
            context = self.decoder.config.max_position_embeddings
            self.cache = self.decoder.cache(1, max(self.capacity, len(ids), min(context, 2 * len(ids) + 64)))
            self.ids = []
        known = _shared(self.ids, ids, len(ids) - last)
        self.cache.truncate(known)
        new = torch.tensor([list(ids[known:])], device=self.decoder.norm.weight.device)
        states = self.decoder.hidden(new, cache=self.cache)[0, -last:]
        self.ids = list(ids)
        return self.decoder.lm_head(states).float()


def _shared(a: Sequence[int], b: Sequence[int], most: int) -> int:
    """Length of the common beginning of two texts, at most `most`."""
    for k in range(min(len(a), len(b), most)):
        if a[k] != b[k]:
            return k
    return min(len(a), len(b), most)


# -- drafts -----------------------------------------------------------------------------------------------------


class Draft:
    """Where guesses come from. Any draft leaves the output's distribution as it is; a good one saves passes."""

    def propose(self, ids: Sequence[int], length: int, sampling: Sampling, vocabulary: int) -> tuple[list[int], Tensor]:
        """At most `length` tokens to follow ids, and the probabilities (n, vocabulary) that each was drawn from."""
        raise NotImplementedError

    def observe(self, accepted: int, logits: Tensor) -> None:
        """What the target made of the last proposal: how many stayed, and its logits (n + 1, V)."""


class ModelDraft(Draft):
    """A smaller model with the same vocabulary, read with a cache of its own, sampling as the target does."""

    def __init__(self, model: nn.Module, generator: torch.Generator | None = None) -> None:
        self.reader = Reader(model)
        self.generator = generator

    def propose(self, ids: Sequence[int], length: int, sampling: Sampling, vocabulary: int) -> tuple[list[int], Tensor]:
        tokens: list[int] = []
        rows: list[Tensor] = []
        for _ in range(length):
            so_far = [*ids, *tokens]
            rows.append(distribution(self.reader.logits(so_far, 1)[0], sampling, so_far))
            if rows[-1].shape[0] != vocabulary:
                raise ValueError(f"the draft has {rows[-1].shape[0]} tokens, the target {vocabulary}; they must agree")
            tokens.append(_draw(rows[-1], self.generator))
        return tokens, torch.stack(rows) if rows else torch.zeros(0, vocabulary)


class _Certain(Draft):
    """A draft that is sure of its guesses: it puts all probability on them."""

    def guess(self, ids: Sequence[int], length: int) -> list[int]:
        raise NotImplementedError

    def propose(self, ids: Sequence[int], length: int, sampling: Sampling, vocabulary: int) -> tuple[list[int], Tensor]:
        tokens = self.guess(ids, length)[:length]
        rows = torch.zeros(len(tokens), vocabulary)
        rows[torch.arange(len(tokens)), tokens] = 1.0
        return tokens, rows


class LookupDraft(_Certain):
    """Prompt lookup: what followed the last few tokens when they last occurred, Saxena (2023), a repository.

    longest: how many tokens to match, tried from the longest to one token. ValueError where it is below 1.
    """

    def __init__(self, longest: int = 3) -> None:
        if longest < 1:
            raise ValueError(f"longest is {longest}; match at least 1 token")
        self.longest = longest

    def guess(self, ids: Sequence[int], length: int) -> list[int]:
        ids = list(ids)
        for size in range(min(self.longest, len(ids) - 1), 0, -1):
            tail = ids[-size:]
            for start in range(len(ids) - size - 1, -1, -1):
                if ids[start : start + size] == tail:
                    return ids[start + size : start + size + length]
        return []


class JacobiDraft(_Certain):
    """Jacobi iteration, Santilli et al. (2023): guess the next tokens, and take the model's own answers as new guesses.

    A guess that no pass has made yet is the text's last token.
    """

    def __init__(self) -> None:
        self.guesses: list[int] = []

    def guess(self, ids: Sequence[int], length: int) -> list[int]:
        return (self.guesses + [ids[-1]] * length)[:length]

    def observe(self, accepted: int, logits: Tensor) -> None:
        self.guesses = logits.argmax(-1).tolist()[accepted + 1 :]


def skip_layers(model: nn.Module, keep: Sequence[int]) -> Transformer:
    """The same model with these of its layers alone: a draft that needs no weights of its own, Zhang et al. (2023).

    keep: layers in ascending order, as in range(8) for an early exit. ValueError where one is not there.
    """
    decoder = Transformer.view(model)
    layers = list(keep)
    if not layers or sorted(set(layers)) != layers or not 0 <= layers[0] <= layers[-1] < len(decoder.layers):
        raise ValueError(f"keep is {layers}; give layers from 0 to {len(decoder.layers) - 1}, ascending")
    with torch.device("meta"):
        draft = Transformer(replace(decoder.config, num_hidden_layers=len(layers)))
    draft.embed_tokens, draft.norm, draft.lm_head = decoder.embed_tokens, decoder.norm, decoder.lm_head
    draft.layers = nn.ModuleList(decoder.layers[k] for k in layers)
    return draft.train(decoder.training)


# -- decoding ---------------------------------------------------------------------------------------------------


class Pass(NamedTuple):
    """One pass of the target: the tokens drafted, how many of them stayed, and the token that the pass itself gave."""

    drafted: list[int]
    accepted: int
    token: int


@dataclass(frozen=True)
class Run:
    """What was generated, without the stop token, whether it stopped by itself, and the passes that it took."""

    ids: list[int]
    ended: bool
    passes: list[Pass] = field(repr=False)

    @property
    def tokens_per_pass(self) -> float:
        """Accepted tokens and the target's own, for each pass, that over the prompt included; the stop token counts."""
        return sum(one.accepted + 1 for one in self.passes) / len(self.passes)


def _check(decoder: Transformer, prompt: Sequence[int], max_new_tokens: int) -> None:
    if not len(prompt):
        raise ValueError("the prompt is empty; give it at least one token")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    if len(prompt) + max_new_tokens > (context := decoder.config.max_position_embeddings):
        raise ValueError(
            f"a prompt of {len(prompt)} tokens and {max_new_tokens} new ones exceed the model's context of {context}"
        )


@torch.inference_mode()
def speculative(
    model: nn.Module,
    prompt: Sequence[int],
    max_new_tokens: int,
    draft: Draft,
    sampling: Sampling = GREEDY,
    *,
    length: int = 4,
    stop_id: int | None = None,
    generator: torch.Generator | None = None,
) -> Run:
    """Speculative decoding, Leviathan et al. (2023), Chen et al. (2023): draft, check in one pass, keep what stands.

    The text has the distribution of `generate` with the same sampling; greedy text is the same, token for token.
    prompt: token ids. length: tokens to draft for each pass, 0 for plain decoding. ValueError for an empty prompt,
    a negative length, or a text that exceeds the context.
    """
    decoder = Transformer.view(model)
    _check(decoder, prompt, max_new_tokens)
    if length < 0:
        raise ValueError(f"length is {length}; draft 0 tokens or more")
    ids, end, vocabulary = list(prompt), len(prompt) + max_new_tokens, decoder.config.vocab_size
    reader, passes = Reader(decoder, end), list[Pass]()
    while len(ids) < end:
        drafted, q = draft.propose(ids, min(length, end - len(ids) - 1), sampling, vocabulary)
        logits = reader.logits(ids + drafted, len(drafted) + 1)
        p = torch.stack([distribution(row, sampling, ids + drafted[:k]) for k, row in enumerate(logits)])
        accepted, token = accept(p, q.to(p), drafted, generator)
        draft.observe(accepted, logits)
        new = [*drafted[:accepted], token]
        if stop_id is not None and stop_id in new:
            new = new[: new.index(stop_id)]
            passes.append(Pass(drafted, len(new), stop_id))
            return Run(ids[len(prompt) :] + new, True, passes)
        passes.append(Pass(drafted, accepted, token))
        ids += new
    return Run(ids[len(prompt) :], False, passes)


# -- lookahead --------------------------------------------------------------------------------------------------


def lookahead_mask(window: int, ngram: int, guesses: int) -> Tensor:
    """Who sees whom in a pass of lookahead decoding, (T, T), Fu et al. (2024), figure 2b.

    First the current token; then ngram - 1 rows of `window` tokens, a row after the other; then `guesses` guesses of
    ngram - 1 tokens. A token in column i of row r sees the current one, the first row up to column i, and column i of
    the rows down to its own: one token for each position before it. A guess sees the current token and itself.
    """
    rows, total = ngram - 1, 1 + (ngram - 1) * (window + guesses)
    mask = torch.eye(total, dtype=torch.bool)
    mask[:, 0] = True
    for row in range(rows):
        for column in range(window):
            at = 1 + row * window + column
            mask[at, 1 : 2 + column] = True
            mask[at, [1 + above * window + column for above in range(row + 1)]] = True
    for guess in range(guesses):
        start = 1 + rows * (window + guess)
        mask[start : start + rows, start : start + rows] = torch.ones(rows, rows).tril().bool()
    return mask


@torch.inference_mode()
def lookahead(
    model: nn.Module,
    prompt: Sequence[int],
    max_new_tokens: int,
    *,
    window: int = 4,
    ngram: int = 3,
    guesses: int = 3,
    stop_id: int | None = None,
) -> Run:
    """Lookahead decoding, Fu et al. (2024), algorithm 2: Jacobi iteration beside the text collects n-grams to guess.

    The text is that of greedy decoding. window: columns W; ngram: N, at least 2; guesses: how many n-grams, G, a pass
    checks. A pass reads 1 + (N - 1)(W + G) tokens at most.
    """
    decoder = Transformer.view(model)
    _check(decoder, prompt, max_new_tokens)
    if min(window, guesses) < 1 or ngram < 2:
        raise ValueError(f"window is {window}, ngram {ngram}, guesses {guesses}; they must be at least 1, 2 and 1")
    device, rows = decoder.norm.weight.device, ngram - 1
    cache = decoder.cache(1, len(prompt) + max_new_tokens + 1 + rows * (window + guesses))
    ids, passes = list(prompt), list[Pass]()
    start = decoder.lm_head(decoder.hidden(torch.tensor([ids], device=device), cache=cache)[:, -1])
    ids.append(int(start.argmax()))  # the current token: known, not yet read
    passes.append(Pass([], 0, ids[-1]))
    filler = [ids[k % len(ids)] for k in range(window + rows)]
    levels = [filler[row : row + window] for row in range(rows)]
    pool: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    while len(ids) - len(prompt) < max_new_tokens and ids[-1] != stop_id:
        known = pool[ids[-1]][-guesses:]
        tokens = [ids[-1], *(t for level in levels for t in level), *(t for guess in known for t in guess)]
        past = cache.length
        tree = lookahead_mask(window, ngram, len(known))
        states = decoder.hidden(torch.tensor([tokens], device=device), cache=cache, tree=tree)[0]
        first = 1 + rows * window  # where the guesses begin
        asked = [0, *range(first - window, len(tokens))]
        answers = dict(zip(asked, decoder.lm_head(states[asked]).argmax(-1).tolist(), strict=True))
        best: list[int] = []  # places of the guessed tokens that greedy decoding says too
        for guess in range(len(known)):
            path, at = list[int](), 0
            for place in range(first + guess * rows, first + (guess + 1) * rows):
                if tokens[place] != answers[at]:
                    break
                path.append(place)
                at = place
            best = max(best, path, key=len)
        best = best[: len(prompt) + max_new_tokens - len(ids) - 1]
        cache.keep(past, torch.tensor([0, *best]))
        last = [answers[first - window + column] for column in range(window)]
        for column in range(window):
            key, *rest = (*(level[column] for level in levels), last[column])
            grams = pool[key]
            if tuple(rest) in grams:
                grams.remove(tuple(rest))
            grams.append(tuple(rest))
        moved = len(best)  # beyond the one position that the rows move by themselves
        levels = [(level + level)[moved % window :][:window] for level in [*levels[1:], last]]
        new = [*(tokens[place] for place in best), answers[best[-1] if best else 0]]
        if stop_id is not None and stop_id in new:
            new = new[: new.index(stop_id) + 1]
        passes.append(Pass([tokens[place] for place in range(first, len(tokens))], len(new) - 1, new[-1]))
        ids += new
    ended = ids[-1] == stop_id
    return Run(ids[len(prompt) : len(ids) - ended], ended, passes)
