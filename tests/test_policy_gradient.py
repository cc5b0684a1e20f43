"""Policy gradients against finite differences, enumeration and slow definitions; wrong versions that must not pass."""

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from alignlab.losses.policy import entropy_bonus, policy_gradient_loss, value_loss
from alignlab.rl.environments import Copies
from alignlab.rl.mdp import FiniteMDP, occupancy, q_from_v, values
from alignlab.rl.networks import Networks
from alignlab.rl.policy_gradient import (
    ActorCritic,
    Config,
    Rollout,
    collect,
    losses,
    sample,
    score,
    softmax_gradient,
    train,
)

# ---- the theorem, exactly


def world(gamma: float, seed: int = 0, states: int = 5, actions: int = 3) -> FiniteMDP:
    """A random process whose last state is terminal, reached from everywhere."""
    generator = torch.Generator().manual_seed(seed)
    transitions = torch.rand(states, actions, states, generator=generator, dtype=torch.float64) + 0.05
    start = torch.rand(states, generator=generator, dtype=torch.float64)
    start[-1] = 0.0
    return FiniteMDP(
        transitions / transitions.sum(-1, keepdim=True),
        torch.randn(states, actions, generator=generator, dtype=torch.float64),
        gamma,
        start / start.sum(),
        torch.arange(states) == states - 1,
    )


def by_differences(mdp: FiniteMDP, logits: Tensor, step: float = 1e-6) -> Tensor:
    found = torch.zeros_like(logits)
    for place in range(logits.numel()):
        nudge = torch.zeros_like(logits)
        nudge.view(-1)[place] = step
        up, down = (mdp.start @ values(mdp, (logits + sign * nudge).softmax(-1)) for sign in (1, -1))
        found.view(-1)[place] = (up - down) / (2 * step)
    return found


def check_softmax_gradient(gradient: Callable[[FiniteMDP, Tensor], Tensor]) -> None:
    """The gradient of J by every logit, with and without a discount, from several starts."""
    for gamma in (0.5, 0.9, 1.0):
        for seed in (0, 1):
            mdp = world(gamma, seed)
            logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed + 7), dtype=torch.float64)
            torch.testing.assert_close(gradient(mdp, logits), by_differences(mdp, logits), atol=1e-7, rtol=1e-6)


def test_the_theorem_gives_the_gradient_of_the_expected_return() -> None:
    check_softmax_gradient(softmax_gradient)


def _parts(mdp: FiniteMDP, logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    policy = logits.softmax(-1)
    v = values(mdp, policy)
    return policy, v, q_from_v(mdp, v), occupancy(mdp, policy)


def _without_state_weights(mdp: FiniteMDP, logits: Tensor) -> Tensor:
    policy, v, q, _ = _parts(mdp, logits)
    return policy * (q - v[:, None])


def _weights_normalized(mdp: FiniteMDP, logits: Tensor) -> Tensor:
    policy, v, q, d = _parts(mdp, logits)
    return (d / d.sum())[:, None] * policy * (q - v[:, None])


def _q_for_advantage(mdp: FiniteMDP, logits: Tensor) -> Tensor:
    policy, _, q, d = _parts(mdp, logits)
    return d[:, None] * policy * q


def _undiscounted_visits(mdp: FiniteMDP, logits: Tensor) -> Tensor:
    policy, v, q, _ = _parts(mdp, logits)
    return occupancy(mdp.with_gamma(1.0), policy)[:, None] * policy * (q - v[:, None])


def _policy_forgotten(mdp: FiniteMDP, logits: Tensor) -> Tensor:
    _, v, q, d = _parts(mdp, logits)
    return d[:, None] * (q - v[:, None])


def _reward_for_q(mdp: FiniteMDP, logits: Tensor) -> Tensor:
    policy, _, _, d = _parts(mdp, logits)
    return d[:, None] * policy * (mdp.rewards - (policy * mdp.rewards).sum(-1, keepdim=True))


WRONG_GRADIENTS = {
    "sign flipped": lambda mdp, logits: -softmax_gradient(mdp, logits),
    "states weighted alike": _without_state_weights,
    "visits divided by their sum": _weights_normalized,
    "Q in place of the advantage": _q_for_advantage,
    "discount misplaced: visits not discounted": _undiscounted_visits,
    "pi(a|s) forgotten": _policy_forgotten,
    "reward in place of Q: the future left out": _reward_for_q,
}


@pytest.mark.parametrize("name", WRONG_GRADIENTS)
def test_a_wrong_gradient_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_softmax_gradient(WRONG_GRADIENTS[name])


def check_score(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    actions = torch.tensor([0, 3, 2, 1, 1, 0])
    taken = logits.log_softmax(-1).gather(1, actions[:, None]).sum()
    torch.testing.assert_close(function(logits.detach(), actions), torch.autograd.grad(taken, logits)[0])


def test_the_score_is_the_gradient_of_the_log_probability_and_zero_on_average() -> None:
    check_score(score)
    logits = torch.randn(4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mean = logits.softmax(-1) @ score(logits.expand(4, 4), torch.arange(4))
    assert mean.abs().max() < 1e-15


@pytest.mark.parametrize(
    "wrong",
    [
        lambda z, a: -score(z, a),
        lambda z, a: torch.eye(z.shape[-1]).to(z)[a],
        lambda z, a: score(z, a) * z.softmax(-1).gather(1, a[:, None]),
    ],
    ids=["sign flipped", "normalizer left out", "gradient of the probability"],
)
def test_a_wrong_score_is_rejected(wrong: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(AssertionError):
        check_score(wrong)


# ---- the losses


def check_policy_gradient_loss(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Summed over every action of a decision, weighted by its probability, its gradient is minus that of J."""
    logits = torch.tensor([0.3, -0.5, 1.1], dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64)
    wanted = torch.autograd.grad((logits.softmax(-1) * rewards).sum(), logits)[0]
    logprobs = logits.log_softmax(-1)
    per_action = loss(logprobs, rewards)
    assert per_action.shape == (3,)
    (got,) = torch.autograd.grad((logprobs.detach().exp() * per_action).sum(), logits)
    torch.testing.assert_close(got, -wanted)
    # a learned baseline gets no gradient through it, and does not change the expectation
    baseline = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    logprobs = logits.log_softmax(-1)
    whole = (logprobs.detach().exp() * loss(logprobs, rewards - baseline)).sum()
    got, through = torch.autograd.grad(whole, (logits, baseline), allow_unused=True)
    torch.testing.assert_close(got, -wanted)
    assert through is None or through.abs() < 1e-12


def test_the_loss_has_minus_the_policy_gradient() -> None:
    check_policy_gradient_loss(policy_gradient_loss)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda logprobs, advantages: advantages.detach() * logprobs,
        lambda logprobs, advantages: -advantages * logprobs,
        lambda logprobs, advantages: -advantages.detach() * logprobs.exp(),
        lambda logprobs, advantages: -(advantages.detach() - advantages.detach().mean()) * logprobs / 2,
        lambda logprobs, advantages: (-advantages.detach() * logprobs).mean(),
    ],
    ids=["sign flipped", "advantage not detached", "probability for its logarithm", "scaled", "reduced"],
)
def test_a_wrong_policy_loss_is_rejected(wrong: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(AssertionError):
        check_policy_gradient_loss(wrong)


def check_value_loss(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Half the squared error, whose gradient reaches the value alone."""
    v = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    following = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    found = loss(v, 0.9 * following)
    torch.testing.assert_close(found, (0.5 * (v - 0.9 * following) ** 2).detach())
    by_value, by_target = torch.autograd.grad(found.sum(), (v, following), allow_unused=True)
    torch.testing.assert_close(by_value, (v - 0.9 * following).detach())
    assert by_target is None or by_target.abs().max() == 0


def test_the_critics_loss_is_half_the_squared_error_and_holds_the_target() -> None:
    check_value_loss(value_loss)


@pytest.mark.parametrize(
    "wrong",
    [lambda v, g: (v - g.detach()).square(), lambda v, g: (v - g).square() / 2, lambda v, g: (v - g.detach()).abs()],
    ids=["missing 0.5", "target not detached", "absolute error"],
)
def test_a_wrong_critics_loss_is_rejected(wrong: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        check_value_loss(wrong)


def test_the_entropy_bonus_is_minus_the_entropy() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    wanted = -torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(entropy_bonus(logits), wanted)
    assert entropy_bonus(torch.zeros(2)).item() == pytest.approx(-0.6931472)


def test_shapes_that_would_broadcast_and_losses_without_gradient_are_refused() -> None:
    logprobs = torch.zeros(4, 3, requires_grad=True)
    with pytest.raises(ValueError, match=r"logprobs are \(4, 3\) and advantages \(4,\)"):
        policy_gradient_loss(logprobs, torch.zeros(4))
    with pytest.raises(ValueError, match=r"values are \(4, 1\) and targets \(4,\)"):
        value_loss(torch.zeros(4, 1, requires_grad=True), torch.zeros(4))
    with pytest.raises(ValueError, match="carry no gradient"):
        policy_gradient_loss(torch.zeros(4), torch.zeros(4))
    with torch.no_grad():
        assert policy_gradient_loss(torch.ones(2), torch.ones(2)).tolist() == [-1, -1]


# ---- REINFORCE's estimate, by enumeration: every episode of a two-armed tree of depth 3


def episodes() -> tuple[Tensor, Tensor]:
    """Actions (8, 3) of all episodes, and rewards (8, 3) that depend on all actions so far."""
    actions = (torch.arange(8)[:, None] >> torch.arange(3)) & 1
    rewards = torch.stack(
        [actions[:, 0] * 1.0, actions[:, 0] - 2.0 * actions[:, 1], (actions.sum(1) == 2) * 3.0], 1
    ).double()
    return actions, rewards


def tree_logits() -> Tensor:
    return torch.tensor([[0.2, -0.3], [0.7, 0.1], [-0.5, 0.4]], dtype=torch.float64)  # one decision a time step


Weights = Callable[[Tensor, Tensor], Tensor]


def check_weights(weights: Weights, gamma: float = 0.9) -> None:
    """The expected estimate equals the gradient of the discounted objective, both summed over all episodes."""
    actions, rewards = episodes()
    logits = tree_logits().requires_grad_()
    logprobs = logits.log_softmax(-1)[torch.arange(3), actions]
    discounts = gamma ** torch.arange(3, dtype=torch.float64)
    chances = logprobs.sum(1).exp()
    (wanted,) = torch.autograd.grad((chances * (rewards @ discounts)).sum(), logits, retain_graph=True)
    weighed = policy_gradient_loss(logprobs, weights(rewards, actions))
    (got,) = torch.autograd.grad((chances.detach()[:, None] * weighed).sum(), logits)
    torch.testing.assert_close(-got, wanted)


def returns_by_definition(rewards: Tensor, gamma: float = 0.9) -> Tensor:
    return torch.stack(
        [sum((gamma ** (k - t) * rewards[:, k] for k in range(t, 3)), torch.zeros(len(rewards))) for t in range(3)], 1
    )


DISCOUNT = 0.9 ** torch.arange(3, dtype=torch.float64)


def reward_to_go(rewards: Tensor, actions: Tensor) -> Tensor:
    return DISCOUNT * returns_by_definition(rewards)


def with_baseline(rewards: Tensor, actions: Tensor) -> Tensor:
    before = torch.cat([torch.zeros(8, 1, dtype=torch.long), actions[:, :2].cumsum(1)], 1)  # the past alone
    return DISCOUNT * (returns_by_definition(rewards) - 0.5 * before - 1.3)


def whole_return(rewards: Tensor, actions: Tensor) -> Tensor:
    return (rewards @ DISCOUNT)[:, None].expand(-1, 3)


@pytest.mark.parametrize("weights", [reward_to_go, with_baseline, whole_return])
def test_reinforce_is_unbiased_with_and_without_a_baseline(weights: Weights) -> None:
    check_weights(weights)


@pytest.mark.parametrize(
    "weights",
    [
        lambda r, a: DISCOUNT * (returns_by_definition(r) - 0.5 * a),
        lambda r, a: -reward_to_go(r, a),
        lambda r, a: (r * DISCOUNT).cumsum(1),
        lambda r, a: returns_by_definition(r),
        lambda r, a: DISCOUNT * (returns_by_definition(r) - r),
        lambda r, a: DISCOUNT * r,
    ],
    ids=[
        "baseline that depends on the action", "sign flipped", "the future left out", "gamma^t left out",
        "begins one step late", "immediate reward alone",
    ],
)  # fmt: skip
def test_a_biased_estimate_is_rejected(weights: Weights) -> None:
    with pytest.raises(AssertionError):
        check_weights(weights)


# ---- actor-critic's loss on a rollout, against a slow definition


def agent_of(copies: int = 2, width: int = 4) -> ActorCritic:
    policy = Networks((width, 8, 2), copies, 0, torch.tanh).double()
    return ActorCritic(policy, Networks((width, 8, 1), copies, 50, torch.tanh).double())


def rollout_of(copies: int = 2, n: int = 3, steps: int = 7) -> Rollout:
    """Random numbers with an end of each kind in the middle, one at the end, and the rows that follow them."""
    generator = torch.Generator().manual_seed(4)
    shape = (copies, n, steps)
    terminated, truncated = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    terminated[0, 0, 2] = terminated[1, 2, 6] = terminated[1, 0, 3] = True
    truncated[0, 1, 4] = truncated[1, 1, 6] = truncated[1, 0, 1] = True
    real = torch.ones(shape, dtype=torch.bool)
    real[..., 1:] = ~(terminated | truncated)[..., :-1]
    terminated, truncated = terminated & real, truncated & real
    return Rollout(
        torch.randn(copies, n, steps + 1, 4, generator=generator, dtype=torch.float64),
        torch.randint(2, shape, generator=generator),
        torch.randn(shape, generator=generator, dtype=torch.float64) * real,
        terminated,
        truncated,
        real,
    )


def slow_gradients(agent: ActorCritic, rollout: Rollout, config: Config) -> list[Tensor]:
    """Row by row: the lambda-weighted sum of TD errors by its definition, then one backward pass for each term."""
    gamma, lam = config.gamma, config.lam
    copies, n, steps = rollout.rewards.shape
    parameters = [*agent.policy.parameters(), *agent.critic.parameters()]
    total = torch.zeros((), dtype=torch.float64)
    for c in range(copies):
        one = torch.zeros((), dtype=torch.float64)
        for i in range(n):
            seen = rollout.observations[c, i]

            def through(network: Networks, rows: Tensor, c: int = c) -> Tensor:
                return network(rows.expand(copies, *rows.shape))[c]

            v, logits = through(agent.critic, seen)[:, 0], through(agent.policy, seen)
            fixed = v.detach()
            for t in range(steps):
                if not rollout.real[c, i, t]:
                    continue
                advantage, weight, k = 0.0, 1.0, t
                while True:
                    over, cut = bool(rollout.terminated[c, i, k]), bool(rollout.truncated[c, i, k])
                    ahead = 0.0 if over else gamma * float(fixed[k + 1])
                    advantage += weight * (float(rollout.rewards[c, i, k]) + ahead - float(fixed[k]))
                    weight *= gamma * lam
                    k += 1
                    if over or cut or k == steps:
                        break
                logp = logits[t].log_softmax(-1)
                one = one - advantage * logp[rollout.actions[c, i, t]]
                one = one + config.value_weight * (v[t] - (float(fixed[t]) + advantage)) ** 2 / 2
                one = one + config.entropy_weight * (logp.exp() * logp).sum()
        total = total + one / rollout.real[c].sum()
    return list(torch.autograd.grad(total, parameters))


Loss = Callable[[ActorCritic, Rollout, Config], Tensor]


def check_actor_critic(loss: Loss) -> None:
    agent, rollout = agent_of(), rollout_of()
    parameters = [*agent.policy.parameters(), *agent.critic.parameters()]
    for lam in (0.0, 0.7, 1.0):
        config = Config(gamma=0.9, lam=lam, value_weight=0.4, entropy_weight=0.03)
        found = loss(agent, rollout, config)
        assert found.shape == (2,)
        got = torch.autograd.grad(found.sum(), parameters)
        for mine, slow in zip(got, slow_gradients(agent, rollout, config), strict=True):
            torch.testing.assert_close(mine, slow, atol=1e-9, rtol=1e-7)


def test_actor_critics_loss_has_the_gradient_of_its_definition() -> None:
    check_actor_critic(losses)


def _changed(**fields: Callable[[Rollout], Any]) -> Loss:
    def loss(agent: ActorCritic, rollout: Rollout, config: Config) -> Tensor:
        return losses(agent, rollout._replace(**{name: change(rollout) for name, change in fields.items()}), config)

    return loss


def _not_detached(agent: ActorCritic, rollout: Rollout, config: Config) -> Tensor:
    seen = rollout.observations.flatten(1, 2)
    v = agent.critic(seen).view(2, 3, 8)
    logits = agent.policy(seen).view(2, 3, 8, 2)[:, :, :-1]
    logp = logits.log_softmax(-1).gather(-1, rollout.actions[..., None])[..., 0]
    through = ((v - v.detach())[..., :-1] * logp * rollout.real).sum((1, 2)) / rollout.real.sum((1, 2))
    return losses(agent, rollout, config) + through


def _sign_flipped(agent: ActorCritic, rollout: Rollout, config: Config) -> Tensor:
    critic_only = Config(gamma=config.gamma, lam=config.lam, value_weight=2 * config.value_weight)
    without_actor = losses(agent, rollout, critic_only) - losses(
        agent, rollout, Config(gamma=config.gamma, lam=config.lam, value_weight=0.0)
    )
    return without_actor - losses(agent, rollout, config)


WRONG_LOSSES: dict[str, Loss] = {
    "terminal state bootstrapped": _changed(
        terminated=lambda r: torch.zeros_like(r.terminated), truncated=lambda r: r.terminated | r.truncated
    ),
    "truncation taken for termination": _changed(terminated=lambda r: r.terminated | r.truncated),
    "sum runs on across an episode's end": _changed(truncated=lambda r: torch.zeros_like(r.truncated)),
    "rows that only begin an episode count": _changed(real=lambda r: torch.ones_like(r.real)),
    "actions shifted by a step": _changed(actions=lambda r: r.actions.roll(1, -1)),
    "rewards shifted by a step": _changed(rewards=lambda r: r.rewards.roll(1, -1)),
    "advantage not detached": _not_detached,
    "actor's sign flipped": _sign_flipped,
    "summed over the rollout": lambda a, r, c: losses(a, r, c) * r.real.sum((1, 2)),
    "seeds averaged": lambda a, r, c: losses(a, r, c).mean().expand(2) / 2,
    "lambda ignored": lambda a, r, c: losses(a, r, Config(gamma=0.9, lam=1.0, value_weight=0.4, entropy_weight=0.03)),
    "entropy's sign flipped": lambda a, r, c: losses(
        a, r, Config(gamma=0.9, lam=c.lam, value_weight=0.4, entropy_weight=-0.03)
    ),
}


@pytest.mark.parametrize("name", WRONG_LOSSES)
def test_a_wrong_actor_critic_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_actor_critic(WRONG_LOSSES[name])


# ---- acting


def test_gumbel_noise_draws_from_the_softmax() -> None:
    logits = torch.tensor([1.0, -0.5, 0.3, -4.0])
    drawn = sample(logits.expand(200_000, 4), torch.Generator().manual_seed(0))
    found = torch.bincount(drawn, minlength=4) / len(drawn)
    assert (found - logits.softmax(-1)).abs().max() < 0.004
    again = sample(logits.expand(200_000, 4), torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)


def test_a_rollout_holds_what_happened_and_the_next_row_begins_where_a_step_led() -> None:
    policy = Networks((4, 8, 2), 2, 0, torch.tanh)
    environments, recent = Copies("CartPole-v1", 6, 3), [deque[float](), deque[float]()]
    first = environments.observation.clone()
    rollout = collect(policy, environments, 60, (2, 3), torch.Generator().manual_seed(0), recent)
    assert rollout.observations.shape == (2, 3, 61, 4) and rollout.rewards.shape == (2, 3, 60)
    assert torch.equal(rollout.observations[:, :, 0].reshape(6, 4), first)
    ended = rollout.terminated | rollout.truncated
    assert ended.sum() > 6 and torch.equal(rollout.real[..., 1:], ~ended[..., :-1])
    assert (rollout.rewards == rollout.real).all()  # CartPole pays 1 for each real step
    fallen = rollout.observations[:, :, 1:][rollout.terminated]
    assert ((fallen[:, 0].abs() > 2.4) | (fallen[:, 2].abs() > 0.2094)).all()  # the true last state, not the next first
    for c in range(2):  # the returns that were handed over are the lengths of the episodes
        lengths = []
        for i in range(3):
            count = 0
            for t in range(60):
                count += bool(rollout.real[c, i, t])
                if ended[c, i, t]:
                    lengths.append(count)
                    count = 0
        assert sorted(lengths) == sorted(recent[c])


# ---- training


@pytest.mark.slow
def test_actor_critic_balances_the_pole() -> None:
    agent = train("CartPole-v1", 2, 0, 60_000)
    assert agent.steps[-1] >= 59_000 and len(agent.returns) == len(agent.steps)
    assert min(agent.returns[-1]) > 150 > 60 > max(agent.returns[0])


def test_training_repeats_itself_and_ends_when_told() -> None:
    small = Config(environments=2, steps=8)
    one, two = (train("CartPole-v1", 2, 5, 400, small) for _ in range(2))
    assert one.returns == two.returns
    for a, b in zip(one.policy.parameters(), two.policy.parameters(), strict=True):
        assert torch.equal(a, b)
    seen: list[int] = []

    def watch(agent: ActorCritic) -> bool:
        seen.append(agent.steps[-1])
        return len(seen) == 2

    ended = train("CartPole-v1", 1, 0, 100_000, small, watch)
    assert seen == [160, 320] == ended.steps and ended.episodes[0] >= 1


@pytest.mark.parametrize(("name", "error"), [("Pendulum-v1", "Discrete"), ("FrozenLake-v1", "vector of numbers")])
def test_an_environment_that_the_agent_cannot_handle_is_refused_before_training(name: str, error: str) -> None:
    with pytest.raises(TypeError, match=error):
        train(name, steps=1_000_000_000)


@pytest.mark.parametrize(
    ("settings", "error"),
    [({"gamma": 1.5}, "gamma is 1.5"), ({"lam": -0.1}, "lam is -0.1"), ({"steps": 0}, "steps is 0")],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        Config(**settings)
