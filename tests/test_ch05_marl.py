"""The worked examples of section 5.6, recomputed, and what its diagrams state."""

import re
import sys
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

BOOK = Path(__file__).resolve().parents[1] / "book"
sys.path.insert(0, str(BOOK))

from diagrams import ch05_marl  # noqa: E402

from alignlab.rl import multi_agent as marl  # noqa: E402

PAGE = re.sub(r"\s+", " ", (BOOK / "ch05_rl" / "multi_agent.md").read_text(encoding="utf-8"))


def said(*texts: str) -> None:
    for text in texts:
        assert text in PAGE, text


def test_credit_and_joint_actions_are_counted_right() -> None:
    assert (0.5**2, round(0.5**10, 3), 5**10) == (0.25, 0.001, 9765625)
    assert round(49152**2 / 1e9, 1) == 2.4
    said("0.25 for two agents, 0.001 for ten", "5^{10}=9{,}765{,}625", "\\approx2.4$ billion")


def test_the_sampled_gradient_is_nonzero_as_often_as_the_page_says() -> None:
    """By enumeration: the gradient of log-probability is never 0, so the sample is 0 unless the reward comes."""
    for n in (2, 10):
        nonzero = sum(all(joint) for joint in product((0, 1), repeat=n)) / 2**n
        assert nonzero == 0.5**n


def test_the_stag_hunt_has_the_equilibria_and_the_exploitability_of_the_page() -> None:
    stag = torch.tensor([[4.0, 0.0], [3.0, 3.0]], dtype=torch.float64)
    pairs = marl.nash_equilibria(stag, stag.T)
    assert sorted(round(x[0].item(), 6) for x, _ in pairs) == [0.0, 0.75, 1.0]
    assert sorted(round((x @ stag @ y).item(), 6) for x, y in pairs) == [3.0, 3.0, 4.0]
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    assert (stag @ half).tolist() == [2.0, 3.0] and (half @ stag @ half).item() == 2.5
    assert marl.exploitability(stag, stag.T, half, half).item() == 1.0
    said(
        "stag earns 2, hare 3, the mix 2.5",
        "so the exploitability is 1",
        "with payoffs 4, 3 and 3",
        "equal at $q=\\tfrac34$",
    )


def test_fictitious_plays_second_step_in_matching_pennies() -> None:
    pennies = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    played = marl.fictitious_play(pennies, -pennies, 2)
    assert played.rows[0].tolist() == [0, 0] and played.columns[0].tolist() == [0, 1]
    x, y = played.x[0, 1], played.y[0, 1]
    assert x.tolist() == [1.0, 0.0] and y.tolist() == [0.5, 0.5]
    assert (pennies @ y).tolist() == [0.0, 0.0] and (x @ -pennies).tolist() == [-1.0, 1.0]
    said("Frequencies now $x=(1,0)$, $y=(\\tfrac12,\\tfrac12)$: row is indifferent, column earns 1 by tails")


def test_the_minimax_operator_contracts_by_gamma() -> None:
    """The page's argument for convergence, on random games: values differ by no more than the tables do."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        a = torch.randn(3, 3, generator=draw, dtype=torch.float64)
        b = a + 0.5 * (torch.rand(3, 3, generator=draw, dtype=torch.float64) * 2 - 1)
        assert abs(marl.solve_zero_sum(a)[0] - marl.solve_zero_sum(b)[0]) <= (a - b).abs().max() + 1e-9


def test_policies_of_a_small_team_are_as_many_as_the_page_counts() -> None:
    histories = sum(2**t for t in (1, 2, 3))
    assert (histories, 2**histories, round((2**histories) ** 2 / 1e6)) == (14, 16384, 268)
    said("$2+4+8=14$ histories", "2^{14}=16{,}384", "16{,}384^2\\approx268$ million")


def test_two_doors_by_going_through_every_policy() -> None:
    right = 0.8
    worlds = [
        (prize, u, v, 0.5 * (right if u == prize else 1 - right) * (right if v == prize else 1 - right))
        for prize, u, v in product(range(2), repeat=3)
    ]
    local = list(product(range(2), repeat=2))
    apart = max(sum(p for z, u, v, p in worlds if f[u] == z == g[v]) for f in local for g in local)
    together = max(sum(p for z, u, v, p in worlds if plan[2 * u + v] == z) for plan in product(range(2), repeat=4))
    told = max(sum(p for z, u, _, p in worlds if f[u] == z) for f in local)
    assert (round(apart, 6), round(together, 6), round(told, 6)) == (0.64, 0.8, 0.8)
    assert together == pytest.approx(0.64 + 0.32 * 0.5) and together - apart == pytest.approx(0.16)
    said("$0.64+0.32\\cdot0.5=$", "not *agreeing* costs 0.16", "all sixteen pairs")
    assert len(local) ** 2 == 16


def test_the_two_step_game_by_hand_is_the_least_squares_sum_and_its_value_one_step_earlier() -> None:
    table = torch.tensor(ch05_marl.PAYOFFS["B"], dtype=torch.float64)
    fit = marl.additive_fit(table)
    assert fit.tolist() == [list(row) for row in ch05_marl.SUM_FIT]
    assert table.mean(1).tolist() == [0.5, 4.5] and table.mean().item() == 2.5
    assert (round(0.99 * 6.5, 3), round(0.99 * 7, 2), round(0.99 * 8, 2)) == (6.435, 6.93, 7.92)
    said("0.99\\cdot6.5=6.435", "0.99\\cdot7=6.93", "| truth | 6.93 | 7.92 | 0, 1, 1, 8 | 8 |")
    said("$0.5+0.5-2.5=-1.5$; $0.5+4.5-2.5=2.5$; $4.5+4.5-2.5=6.5$")
    assert ch05_marl.PAYOFFS["A"] == ((7, 7), (7, 7))


def dare(p: float) -> np.ndarray:
    return np.array([[p, -12.0, -12.0], [-12.0, 0.0, 0.0], [-12.0, 0.0, 0.0]])


def best_monotone(table: np.ndarray) -> tuple[float, np.ndarray]:
    """The least-squares table that rises along some order of rows and some order of columns, by enumeration."""
    cuts = [cut for cut in product(range(4), repeat=3) if cut[0] >= cut[1] >= cut[2]]
    stairs = [np.array([[j >= cut[i] for j in range(3)] for i in range(3)], float).ravel() for cut in cuts]
    basis, best = np.stack([*stairs, -np.ones(9)], 1), (np.inf, table)
    for rows, columns in product(permutations(range(3)), permutations(range(3))):
        weights, residual = nnls(basis, table[np.ix_(rows, columns)].ravel())
        if residual**2 < best[0] - 1e-9:
            fit = np.empty((3, 3))
            fit[np.ix_(rows, columns)] = (basis @ weights).reshape(3, 3)
            best = residual**2, fit
    return best


@pytest.mark.parametrize("p", [0.0, 4.0, 6.0, 6.9, 7.0, 8.0, 20.0])
def test_below_697_the_best_monotone_table_gives_the_prize_up(p: float) -> None:
    error, fit = best_monotone(dare(p))
    given_up, kept = 0.8 * (p + 12) ** 2, 288.0
    assert error == pytest.approx(min(given_up, kept), abs=1e-6)
    keeps = fit[0, 0] == pytest.approx(p)
    assert keeps == (p > np.sqrt(360) - 12)
    assert (fit[0, 0] > fit[1, 1]) == (p > np.sqrt(360) - 12)


def test_the_numbers_of_the_dare_game_are_those_of_the_page() -> None:
    assert round(np.sqrt(360) - 12, 2) == 6.97
    assert (round(0.8 * 20**2), round(0.8 * 18**2)) == (320, 259) and 8 * 6**2 == 288
    said("squared error 288", "\\tfrac45(p+12)^2", "At $p=8$ that is 320", "At $p=6$ it is 259", "\\approx6.97")


def test_rock_worth_double_has_the_equilibrium_of_the_page() -> None:
    twisted = torch.tensor([[0.0, -1.0, 2.0], [1.0, 0.0, -1.0], [-2.0, 1.0, 0.0]], dtype=torch.float64)
    ((x, y),) = marl.nash_equilibria(twisted, -twisted)
    assert x.tolist() == pytest.approx([0.25, 0.5, 0.25]) and y.tolist() == pytest.approx([0.25, 0.5, 0.25])
    said("The equilibrium is (¼, ½, ¼)")


def test_the_diagram_of_qmix_shows_the_librarys_shapes() -> None:
    mixer = marl.QMixer(ch05_marl.AGENTS, 3, ch05_marl.WIDTH)
    state = torch.zeros(1, 5, 3)
    assert mixer.first_weights(state).shape == (1, 5, ch05_marl.AGENTS * ch05_marl.WIDTH)
    assert mixer.first_bias(state).shape == mixer.second_weights(state).shape == (1, 5, ch05_marl.WIDTH)
    assert mixer.second_bias(state).shape == (1, 5, 1)
    assert mixer(torch.zeros(1, 5, ch05_marl.AGENTS), state).shape == (1, 5)
    assert marl.QMixer(2, 3).width == ch05_marl.WIDTH  # the lab takes the default


def test_no_reader_meets_a_table_row_of_the_methods_that_a_diagram_contradicts() -> None:
    for name in ch05_marl.METHODS:
        assert re.search(rf"\b{name}\b", PAGE), name
    assert not ch05_marl.METHODS["IQL"][2] and all(
        ch05_marl.METHODS[name][2] for name in ("VDN", "QMIX", "MADDPG", "MAPPO")
    )
    on_policy = {name for name, method in ch05_marl.METHODS.items() if "on-policy" in method[3]}
    assert on_policy == {"MAPPO"} and "| on/off-policy | off | off | off | off | on |" in PAGE
