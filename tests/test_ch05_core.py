"""Section 5.1: worked examples recomputed, off-policy estimates against exact values, the map against the book."""

import itertools
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

BOOK = Path(__file__).resolve().parents[1] / "book"
sys.path.insert(0, str(BOOK))

from diagrams import ch05_core  # noqa: E402

from alignlab.explorers import algorithms  # noqa: E402
from alignlab.rl import bandits, mdp, off_policy  # noqa: E402
from alignlab.rl.mdp import Episodes, FiniteMDP  # noqa: E402

PAGE = re.sub(r"\s+", " ", (BOOK / "ch05_rl" / "core.md").read_text(encoding="utf-8"))
UNSURE, SURE, DONE = 0, 1, 2
THINK, ANSWER = 0, 1


def says(*texts: str) -> None:
    for text in texts:
        assert text in PAGE, text


def desk() -> FiniteMDP:
    """The page's decision process, from the numbers of its diagram."""
    p = torch.zeros(3, 2, 3, dtype=torch.float64)
    p[UNSURE, THINK] = torch.tensor([1 - ch05_core.SURE_AFTER, ch05_core.SURE_AFTER, 0.0])
    p[SURE, THINK, SURE] = 1.0
    p[:, ANSWER, DONE] = 1.0
    p[DONE, :, DONE] = 1.0
    r = torch.tensor(
        [[-ch05_core.THINK_COST, ch05_core.RIGHT_UNSURE], [-ch05_core.THINK_COST, ch05_core.RIGHT_SURE], [0.0, 0.0]],
        dtype=torch.float64,
    )
    return FiniteMDP(p, r, 1.0, torch.tensor([1.0, 0.0, 0.0]), torch.tensor([False, False, True]))


COIN = torch.full((3, 2), 0.5, dtype=torch.float64)
CAREFUL = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], dtype=torch.float64)
CAUTIOUS = 0.9 * CAREFUL + 0.05


# ---- what a learner is told


def test_the_expected_policy_gradient_is_the_supervised_step_times_the_chance_of_being_right() -> None:
    """Both sides by automatic differentiation of their losses, not by the formulas of the diagram."""
    z = torch.tensor(ch05_core.PROBABILITIES, dtype=torch.float64).log().requires_grad_()
    supervised = torch.autograd.grad(z.log_softmax(-1)[0], z)[0]
    earned = torch.autograd.grad(z.softmax(-1)[0], z)[0]
    assert supervised.tolist() == pytest.approx(ch05_core.supervised_step())
    assert earned.tolist() == pytest.approx((0.5 * supervised).tolist())
    drawn = sum(p * np.array(ch05_core.rewarded_step(k)) for k, p in enumerate(ch05_core.PROBABILITIES))
    assert drawn == pytest.approx(earned.numpy())
    assert ch05_core.rewarded_step(1) == [0.0, 0.0, 0.0]
    says("(+0.5,\\,-0.3,\\,-0.2)", "(+0.25,-0.15,-0.10)")


# ---- the desk


def test_the_values_of_the_desk_are_those_worked_out_by_hand() -> None:
    world = desk()
    at_once = torch.tensor([[0.0, 1.0]] * 3, dtype=torch.float64)
    assert mdp.values(world, at_once)[UNSURE].item() == pytest.approx(0.4)
    assert mdp.values(world, CAREFUL)[UNSURE].item() == pytest.approx(0.9 - 2 * 0.05) == pytest.approx(0.8)
    coin = mdp.values(world, COIN)
    assert coin[SURE].item() == pytest.approx(0.85)
    assert coin[UNSURE].item() == pytest.approx(0.3875 / 0.75)
    says("0.9-2\\cdot0.05=0.8", "V(\\text{sure})=0.85", "0.3875/0.75=0.517")


def test_the_trajectory_of_the_text_has_one_chance_in_32() -> None:
    world = desk()
    path = [(UNSURE, THINK, UNSURE), (UNSURE, THINK, SURE), (SURE, ANSWER, DONE)]
    chance = math.prod(COIN[s, a].item() * world.transitions[s, a, t].item() for s, a, t in path)
    assert chance == 1 / 32
    says("three choices of the policy and two of the world")


def test_the_chain_of_endless_questions_is_in_balance_at_two_thirds() -> None:
    chain, _ = mdp.policy_transitions(desk(), COIN)
    endless = chain[:2, :2].clone()
    endless[:, UNSURE] += chain[:2, DONE]
    mu = torch.tensor([2 / 3, 1 / 3], dtype=torch.float64)
    assert (mu @ endless).tolist() == pytest.approx(mu.tolist())
    assert torch.linalg.matrix_power(endless, 60)[1].tolist() == pytest.approx(mu.tolist())
    assert endless[UNSURE, SURE].item() == 0.25 and endless[SURE, UNSURE].item() == 0.5
    assert sorted(torch.linalg.eigvals(endless).real.tolist()) == pytest.approx([0.25, 1.0])
    says("\\mu=(\\tfrac23,\\tfrac13)", "\\tfrac34+\\tfrac12-1=\\tfrac14")


# ---- bandits


def test_the_indices_of_the_worked_example_send_ucb1_to_the_third_arm() -> None:
    counts, sums = np.array([[4.0, 9.0, 1.0]]), np.array([[1.0, 6.0, 0.0]])
    index = bandits.ucb_index(counts, sums, 14)[0]
    assert [f"{value:.3f}" for value in index] == ["1.399", "1.432", "2.297"]
    widths = index - bandits.averages(counts, sums)[0]
    assert [f"{value:.3f}" for value in widths] == ["1.149", "0.766", "2.297"]
    assert bandits.epsilon_greedy(0.0)(counts, sums, 14)[0].argmax() == 1
    assert math.exp(-2 * 5 * (2 * math.log(14) / 5)) == pytest.approx(14**-4)  # Hoeffding at the index's width
    says("The indices are 1.399, 1.432 and **2.297**", "2\\log14=5.278")
    assert f"{2 * math.log(14):.3f}" == "5.278"


def test_the_bounds_of_the_worked_example() -> None:
    kl = float(bandits.kl_bernoulli(0.4, 0.6))
    slope = bandits.lai_robbins((0.4, 0.6))
    assert [f"{kl:.4f}", f"{slope:.2f}", f"{math.log(10_000):.2f}"] == ["0.0811", "2.47", "9.21"]
    assert f"{slope * math.log(10_000):.1f}" == "22.7"
    assert 0.1 * bandits.gaps((0.4, 0.6)).mean() * 10_000 == pytest.approx(100)
    says("\\mathrm{KL}=0.4\\log\\tfrac23+0.6\\log\\tfrac32=0.0811", "0.2/0.0811=2.47", "2.47\\cdot9.21=22.7")


# ---- on- and off-policy


def test_the_two_targets_of_the_worked_example() -> None:
    world = desk()
    q = mdp.q_from_v(world, mdp.values(world, COIN))
    assert q[SURE].tolist() == pytest.approx([0.80, 0.90])
    sarsa = -0.05 + (COIN[SURE] * q[SURE]).sum().item()
    assert sarsa == pytest.approx(0.80) and -0.05 + q[SURE].max().item() == pytest.approx(0.85)
    says("-0.05+\\tfrac12(0.80+0.90)=0.80", "-0.05+0.90=0.85")


def test_the_weights_of_the_worked_example() -> None:
    assert (CAUTIOUS[UNSURE, THINK] / 0.5 * CAUTIOUS[SURE, ANSWER] / 0.5).item() == pytest.approx(3.61)
    assert (CAUTIOUS[UNSURE, ANSWER] / 0.5).item() == pytest.approx(0.1)
    assert [f"{1.1**12:.1f}", f"{0.9**12:.2f}"] == ["3.1", "0.28"]
    says("(0.95/0.5)^2=3.61", "0.05/0.5=0.1", "1.1^{12}=3.1", "0.9^{12}=0.28")


def every_episode(world: FiniteMDP, behaviour: Tensor, steps: int) -> tuple[Episodes, Tensor]:
    """All courses of `steps` steps with their probabilities under the behaviour policy: expectations are then sums."""
    states, actions, rewards, chances = [], [], [], []
    for path in itertools.product(itertools.product(range(2), range(3)), repeat=steps):
        s, chance, seen, paid = UNSURE, 1.0, [UNSURE], []
        for a, t in path:
            chance *= behaviour[s, a].item() * world.transitions[s, a, t].item()
            paid.append(world.rewards[s, a].item())
            s = t
            seen.append(s)
        if chance:
            states.append(seen)
            actions.append([a for a, _ in path])
            rewards.append(paid)
            chances.append(chance)
    path_states = torch.tensor(states)
    ended = world.terminal[path_states]
    found = Episodes(
        path_states, torch.tensor(actions), torch.tensor(rewards, dtype=torch.float64), ~ended[:, :-1], ended[:, -1]
    )
    return found, torch.tensor(chances, dtype=torch.float64)


def value_within(world: FiniteMDP, policy: Tensor, steps: int) -> float:
    """Expected sum of the first `steps` rewards, by stepping a distribution of states on: knows nothing of episodes."""
    at, total, gone = world.start.clone(), 0.0, 1.0
    for _ in range(steps):
        flow = at[:, None] * policy
        total += gone * (flow * world.rewards).sum().item()
        at = torch.einsum("sa,sat->t", flow, world.transitions)
        gone *= world.gamma
    return total


Judge = Callable[[Episodes, Tensor, Tensor, float], off_policy.Estimates]


def check_estimates(judge: Judge) -> None:
    """Unbiased where they claim it: the expectation over every episode is the target policy's exact value."""
    for gamma, target, behaviour in (
        (1.0, CAUTIOUS, COIN),
        (0.8, CAUTIOUS, COIN),
        (0.8, CAREFUL, 0.7 * COIN + 0.3 * CAUTIOUS),
    ):
        world, steps = desk().with_gamma(gamma), 4
        episodes, chances = every_episode(world, behaviour, steps)
        want = value_within(world, target, steps)
        each = [
            judge(Episodes(*(part[k : k + 1] for part in episodes)), target, behaviour, gamma)
            for k in range(len(chances))
        ]
        for name in ("ordinary", "per_decision"):
            got = sum(c * float(getattr(one, name)) for c, one in zip(chances.tolist(), each, strict=True))
            assert got == pytest.approx(want, abs=1e-9), name
        naive = sum(c * float(one.naive) for c, one in zip(chances.tolist(), each, strict=True))
        assert naive == pytest.approx(value_within(world, behaviour, steps), abs=1e-9)
    many, near = mdp.sample(desk(), COIN, 40_000, 40, seed=0), 0.3 * CAUTIOUS + 0.7 * COIN
    got = judge(many, near, COIN, 1.0)
    assert float(got.weighted) == pytest.approx(mdp.values(desk(), near)[UNSURE].item(), abs=0.01)
    share = 1 / off_policy.second_moments(desk(), near, COIN, 40)[-1].item()
    assert float(got.effective) / 40_000 == pytest.approx(share, rel=0.05)
    few = judge(Episodes(*(part[:3] for part in many)), CAUTIOUS, COIN, 1.0)
    returns = many.rewards[:3].sum(-1)
    assert returns.min() - 1e-9 <= float(few.weighted) <= returns.max() + 1e-9


def test_off_policy_estimates_have_the_exact_value_as_their_expectation() -> None:
    check_estimates(off_policy.estimates)


def _swapped(episodes: Episodes, target: Tensor, behaviour: Tensor, gamma: float) -> off_policy.Estimates:
    return off_policy.estimates(episodes, behaviour, target.clamp_min(1e-9), gamma)


def _after_the_end(episodes: Episodes, target: Tensor, behaviour: Tensor, gamma: float) -> off_policy.Estimates:
    """Weights go on being multiplied in the terminal state, where the tables of the two policies differ."""
    elsewhere = target.clone()
    elsewhere[DONE] = torch.tensor([0.9, 0.1])
    on = episodes._replace(running=torch.ones_like(episodes.running))
    return off_policy.estimates(on, elsewhere, behaviour, gamma)


def _last_action_only(episodes: Episodes, target: Tensor, behaviour: Tensor, gamma: float) -> off_policy.Estimates:
    running = torch.zeros_like(episodes.running)
    running[:, -1] = episodes.running[:, -1]
    return off_policy.estimates(episodes._replace(running=running), target, behaviour, gamma)


def _undiscounted(episodes: Episodes, target: Tensor, behaviour: Tensor, gamma: float) -> off_policy.Estimates:
    return off_policy.estimates(episodes, target, behaviour, 1.0)


def _shifted(episodes: Episodes, target: Tensor, behaviour: Tensor, gamma: float) -> off_policy.Estimates:
    right = off_policy.estimates(episodes, target, behaviour, gamma)
    s, a = episodes.states[:, :-1], episodes.actions
    ratio = torch.where(episodes.running, target[s, a] / behaviour[s, a], 1.0)
    before = torch.cat([torch.ones_like(ratio[:, :1]), ratio.cumprod(-1)[:, :-1]], -1)  # leaves out the action itself
    powers = gamma ** torch.arange(ratio.shape[-1], dtype=torch.float64)
    return right._replace(per_decision=(before * powers * episodes.rewards).sum(-1).mean(-1))


def _sum_for_count(episodes: Episodes, target: Tensor, behaviour: Tensor, gamma: float) -> off_policy.Estimates:
    right = off_policy.estimates(episodes, target, behaviour, gamma)
    return right._replace(ordinary=right.weighted, weighted=right.ordinary)


WRONG: dict[str, Judge] = {
    "importance weight inverted": _swapped,
    "weights grow after the end": _after_the_end,
    "only the last action weighted": _last_action_only,
    "gamma forgotten": _undiscounted,
    "a reward without its own action's ratio": _shifted,
    "ordinary and weighted swapped": _sum_for_count,
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_estimate_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_estimates(WRONG[name])


def test_second_moments_of_weights_are_the_sums_over_every_episode() -> None:
    world = desk()
    for steps in (1, 2, 4):
        episodes, chances = every_episode(world, COIN, steps)
        s, a = episodes.states[:, :-1], episodes.actions
        weights = torch.where(episodes.running, CAUTIOUS[s, a] / COIN[s, a], 1.0).prod(-1)
        assert (chances * weights).sum().item() == pytest.approx(1.0)
        got = off_policy.second_moments(world, CAUTIOUS, COIN, steps)
        assert got[-1].item() == pytest.approx((chances * weights**2).sum().item())
    with pytest.raises(ValueError, match="probability 0"):
        off_policy.estimates(mdp.sample(world, COIN, 5, 5), COIN, CAREFUL, 1.0)


# ---- offline


def test_the_maximum_of_two_guesses_is_too_high_by_the_pages_factor() -> None:
    from scipy import integrate, stats

    mean = integrate.quad(lambda x: x * 2 * stats.norm.pdf(x) * stats.norm.cdf(x), -9, 9)[0]
    assert mean == pytest.approx(1 / math.sqrt(math.pi)) and f"{mean:.2f}" == "0.56"
    assert f"{5 + 2 * mean:.1f}" == "6.1"
    says("5+2\\cdot0.56=6.1", "\\gamma\\cdot1.1")


# ---- the map


def test_the_map_names_sources_and_sections_that_exist() -> None:
    bib = (BOOK / "references.bib").read_text(encoding="utf-8")
    years = dict(re.findall(r"@\w+\{([^,]+),.*?\n  year = \{(\d{4})\}", bib, re.DOTALL))
    outline = (BOOK / "outline.yml").read_text(encoding="utf-8")
    for one in algorithms.ALGORITHMS:
        assert one.cite in years, one
        assert one.cite == "sutton2018rl" or int(years[one.cite]) == one.year, one
        assert f'id: "{one.section}"' in outline, one
        page, _, anchor = algorithms.address(one.section).partition("#")
        assert (BOOK.parent / page.replace(".html", ".md")).exists(), one
        assert anchor == f"sec-{one.section.replace('.', '-')}"


def test_pages_of_the_map_hold_the_sections_that_they_are_given_for() -> None:
    for section, page in algorithms.PAGES.items():
        text = (BOOK / f"{page}.md").read_text(encoding="utf-8")
        assert f"(sec-{section.replace('.', '-')})=" in text or f"{{outline}} {section}" in text, section


def test_nothing_on_the_map_is_older_than_what_it_grew_from() -> None:
    known = {one.name: one for one in algorithms.ALGORITHMS}
    assert len(known) == len(algorithms.ALGORITHMS)
    for one in algorithms.ALGORITHMS:
        assert one.family in algorithms.FAMILIES
        for parent in one.parents:
            assert known[parent].year <= one.year, one


@pytest.mark.parametrize("name", ["told", "loop", "desk", "whose"])
@pytest.mark.parametrize("narrow", [False, True])
def test_the_diagrams_of_the_section_are_sound(name: str, narrow: bool) -> None:
    assert getattr(ch05_core, name)(narrow=narrow).problems() == []
