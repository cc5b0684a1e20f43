"""Fast decoding against independent truth: exact sums over small vocabularies, plain forward passes, exhaustive search.

Each core function meets wrong versions that people write, and the same check must reject them.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alignlab.decoding import speculative as speculative_module
from alignlab.decoding.dola import dola, jensen_shannon, layer_logits
from alignlab.decoding.medusa import (
    CHAIN,
    MedusaHeads,
    Tree,
    best_tree,
    medusa,
    medusa_loss,
    medusa_targets,
    tree_mask,
    typical_acceptance,
)
from alignlab.decoding.sampling import Sampling, generate
from alignlab.decoding.speculative import (
    Draft,
    JacobiDraft,
    LookupDraft,
    ModelDraft,
    Reader,
    accept,
    acceptance_rate,
    expected_speedup,
    expected_tokens,
    lookahead,
    lookahead_mask,
    residual,
    skip_layers,
    speculative,
)
from alignlab.transformer import Config, KVCache, Transformer

SIZES = Config(
    vocab_size=23,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    max_position_embeddings=128,
)
PROMPTS = ([3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 6, 5])


def model(seed: int = 0, **changes: Any) -> Transformer:
    """A decoder with random weights, large enough that its text is no mere repetition."""
    torch.manual_seed(seed)
    return Transformer(replace(SIZES, **changes)).double().initialize(std=0.6).eval()


def chi_squared_p(counts: Tensor, expected: Tensor) -> float:
    """Chance of a chi-squared statistic as large; cells that expect fewer than 5 are put together."""
    few = expected < 5
    seen = torch.cat([counts[~few], counts[few].sum()[None]]) if few.any() else counts
    due = torch.cat([expected[~few], expected[few].sum()[None]]) if few.any() else expected
    keep = due > 0
    if bool((seen[~keep] > 0).any()):
        return 0.0
    statistic = ((seen[keep] - due[keep]) ** 2 / due[keep]).sum()
    return float(torch.special.gammaincc((keep.sum() - 1) / 2.0, statistic / 2.0))


@contextmanager
def changed(target: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(target, name)
    setattr(target, name, value)
    try:
        yield
    finally:
        setattr(target, name, original)


# ---- the rule of acceptance

Accept = Callable[[Tensor, Tensor, Sequence[int], torch.Generator], tuple[int, int]]
V = 3


def tables() -> tuple[Tensor, Tensor]:
    """Target and draft that depend on the last token: row 0 for the start, row 1 + x after token x. (V + 1, V) each."""
    generator = torch.Generator().manual_seed(1)
    target, draft = (torch.randn(V + 1, V, generator=generator).double().mul(1.2).softmax(-1) for _ in range(2))
    return target, draft


def check_accept(rule: Accept) -> None:
    """Three tokens, two of them drafted, have the target's distribution; a draft that is the target loses none."""
    target, draft = tables()
    generator = torch.Generator().manual_seed(0)
    trials, counts = 3_000, torch.zeros(V, V, V)
    for _ in range(trials):
        first = int(torch.multinomial(draft[0], 1, generator=generator))
        second = int(torch.multinomial(draft[1 + first], 1, generator=generator))
        p = torch.stack([target[0], target[1 + first], target[1 + second]])
        kept, token = rule(p, torch.stack([draft[0], draft[1 + first]]), [first, second], generator)
        text = [*[first, second][:kept], token]
        while len(text) < 3:
            text.append(int(torch.multinomial(target[1 + text[-1]], 1, generator=generator)))
        counts[tuple(text)] += 1
    exact = target[0][:, None, None] * target[1:][:, :, None] * target[1:][None]
    assert chi_squared_p(counts.flatten(), trials * exact.flatten()) > 1e-3
    for _ in range(50):
        same = target[[0, 1, 2]]
        tokens = [int(torch.multinomial(row, 1, generator=generator)) for row in same[:2]]
        assert rule(same, same[:2], tokens, generator)[0] == 2


def test_accepted_and_replaced_tokens_have_the_targets_distribution() -> None:
    check_accept(accept)


def rule(
    ratio: Callable[[Tensor, Tensor], Tensor] = lambda p, q: p / q,
    instead: Callable[[Tensor, Tensor], Tensor] = residual,
    bonus: bool = True,
    last: bool = True,
) -> Accept:
    """The rule of acceptance with one of its parts changed."""

    def changed_rule(p: Tensor, q: Tensor, drafted: Sequence[int], generator: torch.Generator) -> tuple[int, int]:
        for k, token in enumerate(drafted):
            if torch.rand((), generator=generator) >= ratio(p[k, token], q[k, token]):
                return k, int(torch.multinomial(instead(p[k], q[k]), 1, generator=generator))
        if not bonus and drafted:
            return len(drafted) - 1, drafted[-1]
        return len(drafted), int(torch.multinomial(p[-1] if last else q[-1], 1, generator=generator))

    return changed_rule


WRONG_RULES: dict[str, Accept] = {
    "replaced from the target, not the residual": rule(instead=lambda p, q: p),
    "replaced from the draft": rule(instead=lambda p, q: q),
    "ratio inverted": rule(ratio=lambda p, q: q / p),
    "accepted with p alone": rule(ratio=lambda p, q: p),
    "residual of absolute differences": rule(instead=lambda p, q: (p - q).abs()),
    "residual the wrong way round": rule(instead=lambda p, q: (q - p).clamp(min=0)),
    "no bonus token": rule(bonus=False),
    "bonus token from the draft": rule(last=False),
    "everything accepted": rule(ratio=lambda p, q: torch.ones(())),
}


def test_the_rule_with_no_part_changed_passes() -> None:
    check_accept(rule())


@pytest.mark.parametrize("name", WRONG_RULES)
def test_a_wrong_rule_of_acceptance_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_accept(WRONG_RULES[name])


def test_a_token_has_probability_p_after_acceptance_and_residual_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(200, 11, generator=generator).double().mul(2).softmax(-1) for _ in range(2))
    stays = torch.minimum(torch.ones_like(p), p / q)
    kept = q * stays
    whole = kept + (1 - kept.sum(-1, keepdim=True)) * residual(p, q)
    torch.testing.assert_close(whole, p, rtol=0, atol=1e-15)
    torch.testing.assert_close(acceptance_rate(p, q), kept.sum(-1))
    torch.testing.assert_close(acceptance_rate(p, q), 1 - (p - q).abs().sum(-1) / 2)
    torch.testing.assert_close(residual(p, p), p)


def check_expected_tokens(formula: Callable[[float, int], float]) -> None:
    """Equal to the sum over all patterns of kept and rejected tokens."""
    for rate in (0.0, 0.3, 0.8, 1.0):
        for length in range(6):
            total = 0.0
            for pattern in itertools.product((True, False), repeat=length):
                chance = math.prod(rate if stays else 1 - rate for stays in pattern)
                kept = pattern.index(False) if False in pattern else length
                total += chance * (kept + 1)
            assert formula(rate, length) == pytest.approx(total)


def test_expected_tokens_equal_the_sum_over_all_patterns() -> None:
    check_expected_tokens(expected_tokens)
    assert expected_tokens(0.8, 4) == pytest.approx((1 - 0.8**5) / (1 - 0.8))
    assert expected_speedup(0.8, 4, 0.1) == pytest.approx(expected_tokens(0.8, 4) / 1.4)


@pytest.mark.parametrize(
    "formula",
    [
        lambda rate, length: (1 - rate**length) / (1 - rate) if rate < 1 else length,
        lambda rate, length: 1 + rate * length,
        lambda rate, length: (1 - rate ** (length + 1)) / (1 - rate) - 1 if rate < 1 else length,
    ],
    ids=["no bonus token", "as if each stayed by itself", "accepted only"],
)
def test_a_wrong_expectation_is_rejected(formula: Callable[[float, int], float]) -> None:
    with pytest.raises(AssertionError):
        check_expected_tokens(formula)


# ---- whole texts


def drafts() -> dict[str, Callable[[Transformer], Draft]]:
    return {
        "early exit": lambda target: ModelDraft(skip_layers(target, range(2))),
        "skipped layer": lambda target: ModelDraft(skip_layers(target, [0, 2])),
        "another model": lambda target: ModelDraft(model(7)),
        "itself": lambda target: ModelDraft(target),
        "lookup": lambda target: LookupDraft(),
        "jacobi": lambda target: JacobiDraft(),
    }


def check_greedy(decode: Callable[..., Any] = speculative) -> None:
    """Greedy text is that of plain decoding with every draft and length, and a draft that is the target loses none."""
    target = model()
    for prompt in PROMPTS:
        (plain,) = generate(target, [prompt], 20)
        for make in drafts().values():
            for length in (0, 1, 4):
                run = decode(target, prompt, 20, make(target), length=length)
                assert run.ids == plain.ids
        itself = decode(target, prompt, 20, ModelDraft(target), length=4)
        assert [one.accepted for one in itself.passes] == [4, 4, 4, 4]


def test_greedy_text_is_the_same_with_every_draft() -> None:
    check_greedy()


def test_a_cache_that_keeps_rejected_tokens_is_noticed() -> None:
    with changed(KVCache, "truncate", lambda self, length: None), pytest.raises((AssertionError, ValueError)):
        check_greedy()


@pytest.mark.parametrize("name", ["no bonus token", "everything accepted", "ratio inverted"])
def test_a_wrong_rule_shows_in_greedy_text_or_its_passes(name: str) -> None:
    with changed(speculative_module, "accept", WRONG_RULES[name]), pytest.raises((AssertionError, RuntimeError)):
        check_greedy()


def exact_texts(
    target: Transformer, prompt: Sequence[int], length: int, sampling: Sampling
) -> dict[tuple[int, ...], float]:
    """The probability of every text of this length, by plain forward passes."""
    texts = list(itertools.product(range(target.config.vocab_size), repeat=length))
    with torch.inference_mode():
        logits = target(torch.tensor([[*prompt, *text] for text in texts]))[:, len(prompt) - 1 : -1]
        chances = sampling.apply(logits.flatten(0, 1), torch.zeros(len(texts) * length, 0, dtype=torch.long))
    chances = chances.softmax(-1).view(len(texts), length, -1)
    each = chances.gather(-1, torch.tensor(texts)[..., None])[..., 0].prod(-1)
    return dict(zip(texts, each.tolist(), strict=True))


@pytest.mark.parametrize(
    ("name", "sampling"), [("early exit", Sampling()), ("lookup", Sampling(temperature=0.7, top_k=3))]
)
def test_sampled_texts_have_the_distribution_that_the_model_has(name: str, sampling: Sampling) -> None:
    target, prompt, trials = model(3, vocab_size=5), [1, 2, 1], 800
    generator = torch.Generator().manual_seed(0)
    draft = drafts()[name](target)
    if isinstance(draft, ModelDraft):
        draft.generator = generator
    seen = Counter(
        tuple(speculative(target, prompt, 3, draft, sampling, length=2, generator=generator).ids) for _ in range(trials)
    )
    exact = exact_texts(target, prompt, 3, sampling)
    counts = torch.tensor([float(seen[text]) for text in exact])
    assert chi_squared_p(counts, trials * torch.tensor(list(exact.values()))) > 1e-3


def test_a_penalty_sees_the_drafted_tokens_before_each_place() -> None:
    target, sampling = model(2), Sampling(temperature=0.0, repetition_penalty=1.8)
    (plain,) = generate(target, [PROMPTS[0]], 16, sampling)
    assert speculative(target, PROMPTS[0], 16, ModelDraft(skip_layers(target, range(2))), sampling).ids == plain.ids
    assert plain.ids != generate(target, [PROMPTS[0]], 16)[0].ids


def test_a_reader_that_goes_back_reads_as_if_it_had_never_gone_on() -> None:
    target = model()
    reader = Reader(target)
    with torch.inference_mode():
        for ids in ([1, 2, 3, 4, 5], [1, 2, 3, 9], [1, 2, 3, 9, 4, 4], [7, 7], list(range(20)) * 5):
            fresh = target(torch.tensor([ids]))[0, -2:].float()
            torch.testing.assert_close(reader.logits(ids, 2), fresh, rtol=0, atol=1e-5)


def test_text_ends_at_the_stop_token_wherever_it_stands() -> None:
    target = model()
    (plain,) = generate(target, [PROMPTS[0]], 20)
    for place in (0, 3, 7):
        stop = plain.ids[place]
        (stopped,) = generate(target, [PROMPTS[0]], 20, stop_id=stop)
        runs = [
            speculative(target, PROMPTS[0], 20, ModelDraft(target), stop_id=stop),
            speculative(target, PROMPTS[0], 20, LookupDraft(), stop_id=stop),
            lookahead(target, PROMPTS[0], 20, stop_id=stop),
            medusa(target, heads_of(target), PROMPTS[0], 20, BUSHY, stop_id=stop),
        ]
        for run in runs:
            assert (run.ids, run.ended) == (stopped.ids, True)


def test_lookup_proposes_what_followed_the_last_match_of_the_longest_tail() -> None:
    draft = LookupDraft(longest=3)
    assert draft.guess([5, 1, 2, 3, 8, 9, 1, 2, 3], 2) == [8, 9]
    assert draft.guess([1, 2, 3, 7, 4, 3, 6, 1, 2, 3], 3) == [7, 4, 3]  # three tokens that match outrank a nearer one
    assert draft.guess([4, 6, 4, 7, 4], 1) == [7]
    assert draft.guess([1, 2, 3], 4) == []


def test_jacobi_takes_the_models_answers_as_its_next_guesses() -> None:
    draft = JacobiDraft()
    assert draft.guess([1, 2], 3) == [2, 2, 2]
    draft.observe(1, F.one_hot(torch.tensor([4, 5, 6, 7]), 9).float())
    assert draft.guess([1, 2, 4, 5], 3) == [6, 7, 5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: speculative(m, [], 4, LookupDraft()), "prompt is empty"),
        (lambda m: speculative(m, [1], 0, LookupDraft()), "max_new_tokens is 0"),
        (lambda m: speculative(m, [1] * 120, 20, LookupDraft()), "exceed the model's context of 128"),
        (lambda m: speculative(m, [1], 4, LookupDraft(), length=-1), "length is -1"),
        (lambda m: speculative(m, [1], 4, ModelDraft(model(1, vocab_size=7))), "the draft has 7 tokens, the target 23"),
        (lambda m: lookahead(m, [1], 4, ngram=1), "ngram 1"),
        (lambda m: LookupDraft(0), "longest is 0"),
        (lambda m: skip_layers(m, [0, 3]), "layers from 0 to 2"),
        (lambda m: expected_tokens(1.2, 3), "rate is 1.2"),
        (lambda m: medusa(m, heads_of(m, 2), [1], 4, CHAIN), "3 guesses deep; there are 2 heads"),
        (lambda m: best_tree(torch.ones(2, 2), 7), "a tree of 7 guesses"),
        (lambda m: typical_acceptance(torch.zeros(3), torch.tensor(0), epsilon=0.0), "epsilon is 0.0"),
        (lambda m: dola(torch.zeros(3), torch.zeros(1, 3), alpha=0.0), "alpha is 0.0"),
        (lambda m: layer_logits(m, torch.ones(1, 2).long(), [4], 1), "layers are"),
        (lambda m: accept(torch.ones(2, 3) / 3, torch.ones(2, 3) / 3, [1, 1]), "2 drafted tokens need"),
        (lambda m: m.hidden(torch.ones(1, 3).long(), tree=torch.ones(2, 2)), "a tree of 3 tokens"),
        (lambda m: m.cache(1, 4).truncate(2), "cannot keep 2 positions"),
    ],
)
def test_bad_input_is_told_with_its_value(call: Callable[[Transformer], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(model())


# ---- trees

BUSHY = Tree([-1, 0, 0, 1, 1, 2, 3], [0, 0, 1, 0, 1, 0, 0])


def heads_of(target: Transformer, heads: int = 3) -> MedusaHeads:
    """Heads that guess something: their blocks are random."""
    torch.manual_seed(5)
    made = MedusaHeads(target.lm_head.weight, torch.arange(target.config.vocab_size), heads).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def check_tree_mask(mask_of: Callable[[Sequence[int]], Tensor]) -> None:
    """Each node's logits are those of the plain text of its path; the branch that is kept can be read on from."""
    target, prompt, tokens = model(), [3, 1, 4], [5, 6, 7, 8, 9, 10, 11]
    paths = {0: [0], 1: [0, 1], 2: [0, 2], 3: [0, 1, 3], 4: [0, 1, 4], 5: [0, 2, 5], 6: [0, 1, 3, 6]}
    with torch.inference_mode():
        for kept in (6, 5, 0):
            cache = target.cache(1, 20)
            target.hidden(torch.tensor([prompt]), cache=cache)
            logits = target.lm_head(target.hidden(torch.tensor([tokens]), cache=cache, tree=mask_of(BUSHY.parents)))[0]
            for node, path in paths.items():
                plain = target(torch.tensor([prompt + [tokens[at] for at in path]]))[0, -1]
                torch.testing.assert_close(logits[node], plain, rtol=0, atol=1e-9)
            cache.keep(len(prompt), torch.tensor(paths[kept]))
            text = prompt + [tokens[at] for at in paths[kept]]
            assert cache.length == len(text)
            going_on = target(torch.tensor([[2, 2]]), cache=cache)[0, -1]
            torch.testing.assert_close(going_on, target(torch.tensor([[*text, 2, 2]]))[0, -1], rtol=0, atol=1e-9)


def test_a_node_of_a_tree_is_read_as_the_plain_text_of_its_path() -> None:
    check_tree_mask(tree_mask)


def parents_only(parents: Sequence[int]) -> Tensor:
    mask = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents[1:], 1):
        mask[node, parent] = True
    return mask


def with_siblings(parents: Sequence[int]) -> Tensor:
    mask = tree_mask(parents)
    for a, b in itertools.combinations(range(1, len(parents)), 2):
        if parents[a] == parents[b]:
            mask[b, a] = True
    return mask


@pytest.mark.parametrize(
    "mask_of",
    [lambda parents: torch.ones(len(parents), len(parents)).tril().bool(), with_siblings, parents_only],
    ids=["all before it", "siblings", "parents only"],
)
def test_a_wrong_tree_mask_is_rejected(mask_of: Callable[[Sequence[int]], Tensor]) -> None:
    with pytest.raises(AssertionError):
        check_tree_mask(mask_of)


def test_a_cache_that_keeps_the_wrong_branch_is_noticed() -> None:
    def first_ones(self: KVCache, start: int, offsets: Tensor) -> None:
        self.length = start + len(offsets)

    with changed(KVCache, "keep", first_ones), pytest.raises(AssertionError):
        check_tree_mask(tree_mask)


def all_trees(heads: int, most: int, size: int) -> Iterator[frozenset[tuple[int, ...]]]:
    """Every set of `size` paths of ranks that holds the parents of its paths."""
    paths = [p for depth in range(1, heads + 1) for p in itertools.product(range(most), repeat=depth)]
    for chosen in itertools.combinations(paths, size):
        if all(len(path) == 1 or path[:-1] in chosen for path in chosen):
            yield frozenset(chosen)


def check_best_tree(make: Callable[[Tensor, int], Tree]) -> None:
    """No tree of that size keeps more tokens."""
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        accuracies = torch.rand(2, 3, generator=generator).sort(descending=True).values * 0.5
        for size in (2, 4, 6):

            def worth(paths: Any, share: Tensor = accuracies) -> float:
                return float(sum(math.prod(float(share[d, r]) for d, r in enumerate(path)) for path in paths))

            tree = make(accuracies, size)
            paths: list[tuple[int, ...]] = [()]
            for parent, rank in zip(tree.parents[1:], tree.ranks[1:], strict=True):
                paths.append((*paths[parent], rank))
            assert len(set(paths)) == size + 1
            assert worth(paths[1:]) == pytest.approx(max(worth(other) for other in all_trees(2, 3, size)))


def test_the_best_tree_is_the_best_of_all() -> None:
    check_best_tree(best_tree)


@pytest.mark.parametrize(
    "make",
    [
        lambda accuracies, size: Tree(
            [-1] + [0] * min(size, 3) + [1] * max(0, size - 3), [0, *range(3), *range(3)][: size + 1]
        ),
        lambda accuracies, size: best_tree(accuracies.flip(0), size),
    ],
    ids=["broad first", "heads in the wrong order"],
)
def test_a_worse_tree_is_rejected(make: Callable[[Tensor, int], Tree]) -> None:
    with pytest.raises(AssertionError):
        check_best_tree(make)


# ---- Medusa


def test_medusa_with_the_greedy_rule_gives_greedy_text_with_every_tree() -> None:
    target = model()
    for prompt in PROMPTS:
        (plain,) = generate(target, [prompt], 20)
        for tree in (CHAIN, BUSHY, Tree([-1, 0], [0, 0])):
            run = medusa(target, heads_of(target), prompt, 20, tree)
            assert run.ids == plain.ids
            assert sum(one.accepted + 1 for one in run.passes) == 20


def test_medusa_keeps_a_branch_where_heads_know_what_comes() -> None:
    """Heads that are told the greedy text are believed: one pass for four tokens."""
    target = model()
    (plain,) = generate(target, [PROMPTS[0]], 21)

    class Told(MedusaHeads):
        at = 0

        def guesses(self, hidden: Tensor, most: int) -> list[list[int]]:
            known = [plain.ids[Told.at + 1 + k] if Told.at + 1 + k < 21 else 0 for k in range(3)]
            Told.at += 4
            return [[22, token] for token in known]

    told = Told(target.lm_head.weight, torch.arange(23), 3).double()
    tree = Tree([-1, 0, 0, 2, 2, 4, 4], [0, 0, 1, 0, 1, 0, 1])
    run = medusa(target, told, PROMPTS[0], 21, tree)
    assert run.ids == plain.ids
    assert [one.accepted for one in run.passes] == [0, 3, 3, 3, 3, 3]


def check_targets(targets_of: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    """Head k at position t is asked for the token at t + 1 + k; tokens that it cannot say are left out."""
    ids, known = torch.tensor([7, 3, 9, 3, 5, 7]), torch.tensor([3, 7, 9])
    want = [[2, 0, -100, 1, -100, -100], [0, -100, 1, -100, -100, -100], [-100, 1, -100, -100, -100, -100]]
    assert targets_of(ids, known, 3).tolist() == want


def test_heads_are_asked_for_the_tokens_after_the_next() -> None:
    check_targets(medusa_targets)


@pytest.mark.parametrize("shift", [-1, 1], ids=["the next token itself", "one too far"])
def test_targets_off_by_one_are_rejected(shift: int) -> None:
    def shifted(ids: Tensor, known: Tensor, heads: int) -> Tensor:
        return torch.stack([row.roll(-shift) for row in medusa_targets(ids, known, heads)])

    with pytest.raises(AssertionError):
        check_targets(shifted)


def test_the_loss_weighs_head_k_by_decay_to_the_k() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(2, 5, 4, generator=generator), torch.tensor([[0, 1, 2, 3, 1], [2, 2, -100, 0, -100]])
    logp = logits.log_softmax(-1)
    first = -sum(logp[0, t, targets[0, t]] for t in range(5)) / 5
    second = -sum(logp[1, t, targets[1, t]] for t in (0, 1, 3)) / 3
    torch.testing.assert_close(medusa_loss(logits, targets, 0.8), 0.8 * first + 0.64 * second)


def test_a_head_begins_as_the_model_itself() -> None:
    target = model()
    heads = MedusaHeads(target.lm_head.weight, torch.tensor([4, 9, 17]), 2).double()
    states = torch.randn(3, 16).double()
    torch.testing.assert_close(heads(states), target.lm_head(states)[:, [4, 9, 17]].expand(2, 3, 3))
    assert heads.guesses(states[0], 1)[0][0] in (4, 9, 17)


Typical = Callable[[Tensor, Tensor, float, float], Tensor]


def check_typical(rule: Typical) -> None:
    """By hand: a sure model asks for 0.09; one that hesitates among n tokens for 0.3 / n."""
    sure = torch.tensor([0.9, 0.08, 0.02] + [0.0] * 7).log()  # H = 0.375 nats: 0.3 exp(-H) = 0.206
    torn = torch.full((10,), 0.1).log()  # 0.3 / 10 = 0.03
    mixed = torch.tensor([0.5, *[0.05] * 10]).log()  # H = 0.347 + 1.498 nats: 0.3 exp(-H) = 0.0475
    two = torch.tensor([0.85, 0.15, *[0.0] * 8]).log()  # 0.3 exp(-H) = 0.197, more than 0.09, which then counts
    assert rule(two[None], torch.tensor([1]), 0.09, 0.3).tolist() == [True]
    rows = torch.stack([sure, sure, torn])
    assert rule(rows, torch.tensor([0, 1, 5]), 0.09, 0.3).tolist() == [True, False, True]
    assert rule(mixed[None].expand(2, -1), torch.tensor([0, 3]), 0.09, 0.3).tolist() == [True, True]
    assert rule(mixed[None], torch.tensor([3]), 0.09, 0.4).tolist() == [False]
    assert rule(torn[None], torch.tensor([2]), 0.2, 1.0).tolist() == [False]  # p is not above 0.1


def test_typical_acceptance_by_hand() -> None:
    check_typical(typical_acceptance)


def typical_with(threshold: Callable[[Tensor, float, float], Tensor]) -> Typical:
    def changed_rule(logits: Tensor, tokens: Tensor, epsilon: float, delta: float) -> Tensor:
        p = logits.softmax(-1)
        entropy = -torch.xlogy(p, p).sum(-1)
        return p.gather(-1, tokens[..., None])[..., 0] > threshold(entropy, epsilon, delta) * (1 + 1e-6)

    return changed_rule


def test_the_typical_rule_with_no_part_changed_passes() -> None:
    check_typical(typical_with(lambda h, e, d: (d * (-h).exp()).clamp(max=e)))


@pytest.mark.parametrize(
    "threshold",
    [
        lambda h, e, d: (d * (-h).exp()).clamp(min=e),
        lambda h, e, d: (d * h.exp()).clamp(max=e),
        lambda h, e, d: torch.full_like(h, e),
        lambda h, e, d: d * (-h).exp(),
        lambda h, e, d: (d * (-h / math.log(2)).exp()).clamp(max=e),
    ],
    ids=["larger of the two", "entropy's sign flipped", "epsilon alone", "delta alone", "entropy in bits"],
)
def test_a_wrong_typical_rule_is_rejected(threshold: Callable[[Tensor, float, float], Tensor]) -> None:
    with pytest.raises(AssertionError):
        check_typical(typical_with(threshold))


def test_typical_acceptance_keeps_no_fewer_guesses_with_a_lower_threshold() -> None:
    target = model()
    heads = heads_of(target)
    kept = [
        medusa(target, heads, PROMPTS[2], 40, BUSHY, "typical", epsilon=e, delta=d).tokens_per_pass
        for e, d in ((1e-9, 1e-9), (0.09, 0.3), (1.0, 1.0))
    ]
    assert kept[0] > 3 and kept[0] > kept[1] >= kept[2] >= 1


# ---- lookahead


def test_lookahead_gives_greedy_text_and_saves_passes_where_text_repeats() -> None:
    target = model()
    for prompt in PROMPTS:
        (plain,) = generate(target, [prompt], 40)
        for window, ngram, guesses in ((4, 3, 3), (1, 2, 1), (3, 4, 2)):
            run = lookahead(target, prompt, 40, window=window, ngram=ngram, guesses=guesses)
            assert run.ids == plain.ids
            assert sum(one.accepted + 1 for one in run.passes) == 40
    looping = model(1).initialize(std=0.2)  # small weights: soon it says one token again and again
    (looped,) = generate(looping, [[3]], 60)
    assert len(set(looped.ids[-20:])) <= 3
    assert lookahead(looping, [3], 60).tokens_per_pass > 1.5


def test_the_lookahead_mask_is_the_one_of_the_paper() -> None:
    """W = 2, N = 3, one guess: c | a1 a2 | b1 b2 | g1 g2. Each token sees one token at every place before it."""
    want = [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0, 0],
        [1, 1, 1, 0, 1, 0, 0],
        [1, 0, 0, 0, 0, 1, 0],
        [1, 0, 0, 0, 0, 1, 1],
    ]
    assert lookahead_mask(2, 3, 1).int().tolist() == want


# ---- DoLa


def test_reading_at_a_layer_is_the_model_without_the_layers_after_it() -> None:
    target, ids = model(), torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    logits = layer_logits(target, ids, [0, 1, 2, 3], last=2)
    assert logits.shape == (4, 2, 2, 23)
    with torch.inference_mode():
        torch.testing.assert_close(logits[3], target(ids)[:, -2:].float())
        for depth in (1, 2):
            torch.testing.assert_close(logits[depth], skip_layers(target, range(depth))(ids)[:, -2:].float())
    assert not any(block._forward_hooks for block in target.layers)


def check_dola(score: Callable[..., tuple[Tensor, Tensor]]) -> None:
    """The definition token by token, in plain Python."""
    generator = torch.Generator().manual_seed(0)
    final, early = torch.randn(6, 7, generator=generator) * 2, torch.randn(3, 6, 7, generator=generator) * 2
    scores, taken = score(final, early, 0.2)
    for row in range(6):
        q = final[row].softmax(-1).tolist()
        others = early[:, row].softmax(-1).tolist()

        def divergence(a: list[float], b: list[float]) -> float:
            mean = [(x + y) / 2 for x, y in zip(a, b, strict=True)]
            return sum(x * math.log(x / m) + y * math.log(y / m) for x, y, m in zip(a, b, mean, strict=True)) / 2

        gaps = [divergence(q, other) for other in others]
        best = gaps.index(max(gaps))
        assert int(taken[row]) == best
        for token in range(7):
            if q[token] >= 0.2 * max(q):
                assert float(scores[row, token]) == pytest.approx(math.log(q[token] / others[best][token]), abs=1e-4)
            else:
                assert float(scores[row, token]) == -math.inf


def test_dola_equals_its_definition() -> None:
    check_dola(dola)
    assert float(jensen_shannon(torch.tensor([30.0, -30.0]), torch.tensor([-30.0, 30.0]))) == pytest.approx(math.log(2))


def wrong_dola(how: str) -> Callable[..., tuple[Tensor, Tensor]]:
    def score(final: Tensor, early: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
        right, taken = dola(final, early, alpha)
        if how == "sign flipped":
            return -right, taken
        if how == "nothing cut":
            return dola(final, early, 1e-9)
        if how == "nearest layer":
            nearest = jensen_shannon(final[None], early).argmin(0)
            return dola(final, early.gather(0, nearest[None, :, None].expand(1, *final.shape)), alpha)[0], nearest
        if how == "alpha against 1":
            return right.masked_fill(final.softmax(-1) < alpha, -torch.inf), taken
        raise AssertionError(how)

    return score


@pytest.mark.parametrize("how", ["sign flipped", "nothing cut", "nearest layer", "alpha against 1"])
def test_a_wrong_dola_is_rejected(how: str) -> None:
    with pytest.raises(AssertionError):
        check_dola(wrong_dola(how))
