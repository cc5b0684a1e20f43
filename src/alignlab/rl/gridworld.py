"""A gridworld drawn as lines of text: an environment of Gymnasium's, its exact tables, and a picture of it.

Knows maps, moves and colours; nothing about learning. Importing this module registers "alignlab/GridWorld-v0".
"""

from collections.abc import Sequence
from html import escape
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from alignlab import palette
from alignlab.rl.mdp import FiniteMDP

MAPS: dict[str, tuple[str, ...]] = {
    "textbook": ("...G", ".#.X", "S..."),
    "corridor": ("S......G",),
    "bridge": ("XXXXX", "S...G", "XXXXX"),
    "cliff": ("............", "............", "............", "SCCCCCCCCCCG"),
    "maze": ("S.#.....", ".##.###.", "....#...", ".##.#.##", "..#...#G", "#...#..."),
    "rooms": (
        "S....#.....",
        ".....#.....",
        "...........",
        ".....#.....",
        ".....#.....",
        "#.####.....",
        ".....###.##",
        ".....#.....",
        ".....#.....",
        "...........",
        ".....#....G",
    ),
}
"""Maps by name. "textbook" is the 4x3 world of Russell and Norvig, "rooms" the four rooms of Sutton et al. (1999)."""

ACTIONS = ("up", "right", "down", "left")
"""Names of the actions 0 to 3."""

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""(rows down, columns right) of each action."""


class GridWorld(gym.Env[np.int64, np.int64]):
    """Walk on free cells from S to G. An action may slip to either side; a wall or the edge leaves you where you are.

    map: a name of MAPS, or its lines: `#` wall, `.` free, `S` start (several: one is drawn; none: any free cell),
    `G` goal and `X` pit (both end the episode), `C` cliff (costs `cliff`, and back to the start; the episode goes on).
    slip: probability that the move goes 90 degrees off, half of it to each side. step_reward: the reward of each step
    that does not enter G, X or C; goal, pit, cliff: the reward of one that does.
    An observation is the number of the cell among the cells one can stand on, row by row; `cells[i]` is (row, column).
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012 (as Gymnasium declares it)

    def __init__(
        self,
        map: str | Sequence[str] = "textbook",
        slip: float = 0.2,
        step_reward: float = -0.04,
        goal: float = 1.0,
        pit: float = -1.0,
        cliff: float = -100.0,
        render_mode: str | None = None,
    ) -> None:
        if isinstance(map, str) and map not in MAPS:
            raise ValueError(f"no map {map!r}; the maps are {', '.join(MAPS)}, or give its lines")
        self.map = tuple(MAPS[map] if isinstance(map, str) else map)
        if not self.map or not self.map[0] or len({len(line) for line in self.map}) != 1:
            raise ValueError(f"the lines of a map must be equally long: {list(self.map)}")
        if unknown := sorted(set("".join(self.map)) - set("#.SGXC")):
            raise ValueError(f"the map holds {' '.join(unknown)}; it may hold # . S G X C")
        if not 0 <= slip <= 1:
            raise ValueError(f"slip is {slip}; a probability lies in [0, 1]")
        rewards = {"step_reward": step_reward, "goal": goal, "pit": pit, "cliff": cliff}
        if bad := [f"{name} = {value}" for name, value in rewards.items() if not np.isfinite(value)]:
            raise ValueError(f"rewards must be finite: {', '.join(bad)}")
        self.slip, self.step_reward, self.goal, self.pit, self.cliff = slip, step_reward, goal, pit, cliff
        self.render_mode = render_mode
        self.rows, self.columns = len(self.map), len(self.map[0])
        self.cells = [(i, j) for i in range(self.rows) for j in range(self.columns) if self.map[i][j] not in "#C"]
        self.number = {cell: s for s, cell in enumerate(self.cells)}
        kinds = [self.map[i][j] for i, j in self.cells]
        self.terminal = np.array([kind in "GX" for kind in kinds])
        starts = np.array([kind == "S" for kind in kinds])
        starts = starts if starts.any() else ~self.terminal
        if not starts.any():
            raise ValueError(f"the map has no cell to start from: {list(self.map)}")
        self.start = starts / starts.sum()
        self.observation_space = spaces.Discrete(len(self.cells))
        self.action_space = spaces.Discrete(len(MOVES))
        self.state = int(starts.argmax())

    def directions(self, action: int) -> list[tuple[float, int]]:
        """In which directions `action` may move, and how probably: straight on, or 90 degrees off to either side."""
        chances = [(1 - self.slip, action), (self.slip / 2, (action - 1) % 4), (self.slip / 2, (action + 1) % 4)]
        return [(probability, direction) for probability, direction in chances if probability > 0]

    def outcomes(self, state: int, direction: int) -> list[tuple[float, int, float]]:
        """Where one move leads: (probability, next state, reward); several only where a cliff sends back to starts."""
        row, column = self.cells[state]
        i, j = row + MOVES[direction][0], column + MOVES[direction][1]
        kind = self.map[i][j] if 0 <= i < self.rows and 0 <= j < self.columns else "#"
        if kind == "C":
            return [(float(self.start[s]), int(s), self.cliff) for s in np.flatnonzero(self.start)]
        if kind == "#":
            return [(1.0, state, self.step_reward)]
        return [(1.0, self.number[i, j], {"G": self.goal, "X": self.pit}.get(kind, self.step_reward))]

    def mdp(self, gamma: float) -> FiniteMDP:
        """The same world as tables."""
        states = len(self.cells)
        p, gains = np.zeros((2, states, 4, states))
        for s in np.flatnonzero(~self.terminal):
            for a in range(4):
                for chance, direction in self.directions(a):
                    for probability, s2, reward in self.outcomes(int(s), direction):
                        p[s, a, s2] += chance * probability
                        gains[s, a, s2] += chance * probability * reward
        p[self.terminal] = np.eye(states)[self.terminal][:, None]
        rewards = np.divide(gains, p, out=np.zeros_like(p), where=p > 0)
        return FiniteMDP(
            torch.from_numpy(p),
            torch.from_numpy(gains.sum(-1)),
            gamma,
            torch.from_numpy(self.start),
            torch.from_numpy(self.terminal),
            torch.from_numpy(rewards),
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = int(self.np_random.choice(len(self.cells), p=self.start))
        return np.int64(self.state), {}

    def step(self, action: Any) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ValueError(f"the action is {action!r}; it must be 0 to 3 ({', '.join(ACTIONS)})")
        direction = self._draw([(chance, d) for chance, d in self.directions(int(action))])
        found = self.outcomes(self.state, direction)
        self.state, reward = self._draw([(probability, (s2, reward)) for probability, s2, reward in found])
        return np.int64(self.state), float(reward), bool(self.terminal[self.state]), False, {}

    def _draw(self, chances: list[tuple[float, Any]]) -> Any:
        index = self.np_random.choice(len(chances), p=[probability for probability, _ in chances])
        return chances[int(index)][1]

    def render(self) -> str | None:
        """The map as text, with @ where the agent stands; None unless render_mode is "ansi"."""
        if self.render_mode != "ansi":
            return None
        lines = [list(line) for line in self.map]
        row, column = self.cells[self.state]
        lines[row][column] = "@"
        return "\n".join("".join(line) for line in lines)

    def svg(
        self,
        values: Tensor | Sequence[float] | None = None,
        policy: Tensor | None = None,
        title: str = "A gridworld",
        scale: float | None = None,
        digits: int = 2,
        size: int = 64,
    ) -> str:
        """The map as inline SVG: values (S,) as numbers and colours (teal, red below 0), a policy (S, A) as arrows.

        scale: the value that gets the full colour; default the largest that is there. An arrow's strength is its
        action's probability. It follows the page's light or dark theme.
        """
        numbers = None if values is None else torch.as_tensor(values, dtype=torch.float64).tolist()
        scale = scale or (max(abs(x) for x in numbers) if numbers else 0) or 1.0
        parts = []
        for i, line in enumerate(self.map):
            for j, kind in enumerate(line):
                state = self.number.get((i, j))
                value = None if numbers is None or state is None or kind in "GX" else numbers[state]
                role, strength = _SHADES.get(kind, ("", 0.0))
                if value is not None:
                    role, strength = "value" if value >= 0 else "rejected", 0.6 * min(1.0, abs(value) / scale)
                fill = f'fill="{palette.colour(role)}" fill-opacity="{strength:.2f}"' if role else 'fill="none"'
                square = f'x="{j * size}" y="{i * size}" width="{size}" height="{size}"'
                parts.append(f'<rect {square} {fill} stroke="{palette.colour("faint")}"/>')
                x, y = (j + 0.5) * size, (i + 0.5) * size
                if kind in "GXC":
                    worth = {"G": self.goal, "X": self.pit, "C": self.cliff}[kind]
                    parts.append(f'<text x="{x:g}" y="{y + 5:g}" text-anchor="middle">{kind} {worth:+g}</text>')
                elif value is not None:
                    at = y + (0.4 * size if policy is not None else 5)
                    parts.append(f'<text x="{x:g}" y="{at:g}" text-anchor="middle">{value:.{digits}f}</text>')
                if kind == "S":
                    parts.append(f'<text x="{j * size + 4}" y="{i * size + 14}">S</text>')
                if policy is not None and state is not None and kind not in "GX":
                    parts += _arrows(x, y - 0.08 * size, 0.22 * size, policy[state].tolist())
        width, height = self.columns * size, self.rows * size
        return (
            f'<svg role="img" aria-label="{escape(title)}" viewBox="-1 -1 {width + 2} {height + 2}" '
            f'style="display:block;width:100%;max-width:{width}px;color:{palette.colour("ink")}" font-size="13" '
            f'fill="currentColor" font-family="{escape(palette.FONT)}">{"".join(parts)}</svg>'
        )


_SHADES = {"#": ("reference", 0.6), "G": ("chosen", 0.35), "X": ("rejected", 0.35), "C": ("rejected", 0.2)}


def _arrows(x: float, y: float, length: float, chances: Sequence[float]) -> list[str]:
    """An arrow from (x, y) for each action, as strong as the action is probable."""
    drawn = []
    for chance, (down, right) in zip(chances, MOVES, strict=True):
        if chance < 0.01:
            continue
        tip_x, tip_y = x + right * length, y + down * length
        wing_x, wing_y = tip_x - right * 6, tip_y - down * 6
        wings = ((wing_x - down * 4, wing_y - right * 4), (wing_x + down * 4, wing_y + right * 4))
        head = "".join(f"M{tip_x:g} {tip_y:g}L{a:g} {b:g}" for a, b in wings)
        stroke = f'fill="none" stroke="currentColor" stroke-width="2" stroke-opacity="{chance:.2f}"'
        drawn.append(f'<path d="M{x:g} {y:g}L{tip_x:g} {tip_y:g}{head}" {stroke}/>')
    return drawn


if "alignlab/GridWorld-v0" not in gym.registry:
    gym.register("alignlab/GridWorld-v0", entry_point="alignlab.rl.gridworld:GridWorld", max_episode_steps=500)
