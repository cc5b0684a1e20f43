"""Scaling laws: the published ones as they are stated, how one is fitted, how sure it is, and what follows from it.

Knows parameters, tokens, FLOPs and losses as numbers; nothing about models or how they are trained. Losses are in nats
per token, compute in FLOPs unless a name says PF-days.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
X = TypeVar("X", float, FloatArray)

PF_DAY = 1e15 * 24 * 3600
"""FLOPs of one petaFLOP/s-day, the unit of Kaplan et al. (2020)."""


# ---- compute
def training_flops(parameters: X, tokens: X) -> X:
    """6 N D: two FLOPs for each parameter and token forward, four backward; Kaplan et al. (2020), section 2.1.

    Attention over the context is left out, as there; it counts where the context is long beside the width.
    """
    return 6.0 * parameters * tokens


def inference_flops(parameters: X, tokens: X) -> X:
    """2 N for each token that is read or written; Kaplan et al. (2020), section 2.1."""
    return 2.0 * parameters * tokens


# ---- the laws
@dataclass(frozen=True)
class PowerLaw:
    """L(x) = (scale / x)^exponent: a straight line in logarithms. scale: the x at which the loss would be 1 nat."""

    scale: float
    exponent: float

    def __call__(self, x: X) -> X:
        """The loss at x > 0."""
        return (self.scale / x) ** self.exponent


KAPLAN_PARAMETERS = PowerLaw(8.8e13, 0.076)
"""Kaplan et al. (2020), eq. 1.1: x is the number of parameters without embeddings, trained to convergence."""

KAPLAN_TOKENS = PowerLaw(5.4e13, 0.095)
"""Kaplan et al. (2020), eq. 1.2: x is the size of the data set in tokens; large models, stopped early."""

KAPLAN_COMPUTE = PowerLaw(3.1e8, 0.050)
"""Kaplan et al. (2020), eq. 1.3: x is compute in PF-days, spent in the best way and at a small batch size."""


def kaplan_loss(parameters: X, tokens: X) -> X:
    """Loss of N parameters (without embeddings) on D tokens; Kaplan et al. (2020), eq. 1.5 with the fit of table 2."""
    exponent_n, exponent_d, scale_n, scale_d = 0.076, 0.103, 6.4e13, 1.8e13
    return ((scale_n / parameters) ** (exponent_n / exponent_d) + scale_d / tokens) ** exponent_d


@dataclass(frozen=True)
class LossLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta, Hoffmann et al. (2022), eq. 2, and what follows from it."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def __call__(self, parameters: X, tokens: X) -> X:
        """The loss of N parameters trained on D tokens, each seen once."""
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta

    @property
    def exponents(self) -> tuple[float, float]:
        """a and b of N_opt ~ C^a and D_opt ~ C^b, Hoffmann et al. (2022), eq. 4; they sum to 1."""
        both = self.alpha + self.beta
        return self.beta / both, self.alpha / both

    def optimal(self, flops: X) -> tuple[X, X]:
        """The parameters and tokens of least loss for C = 6 N D, Hoffmann et al. (2022), eq. 4.

        On the line of equal compute both terms fall alike at the optimum: alpha A / N^alpha = beta B / D^beta.
        """
        a, b = self.exponents
        G = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        return G * (flops / 6) ** a, (flops / 6) ** b / G

    def frontier(self, flops: X) -> X:
        """The least loss that C FLOPs can buy: E + K / C^(alpha beta / (alpha + beta))."""
        return self(*self.optimal(flops))

    def tokens_for(self, parameters: float, loss: float) -> float:
        """How many tokens N parameters need for a loss. ValueError where no number of tokens is enough."""
        left = loss - self.E - self.A / parameters**self.alpha
        if left <= 0:
            floor = self.E + self.A / parameters**self.alpha
            raise ValueError(f"{parameters:g} parameters stay above {floor:.4f} nats by this law; {loss:.4f} is asked")
        return float((self.B / left) ** (1 / self.beta))

    def lifetime_optimum(self, loss: float, served: float) -> tuple[float, float]:
        """Parameters and tokens that reach a loss with the least 6 N D + 2 N D_served; Sardana et al. (2023).

        served: tokens that the model will read and write in its life; 0 gives the optimum of training alone.
        """
        if loss <= self.E:
            raise ValueError(f"no model reaches {loss:.4f} nats by this law; its floor is E = {self.E:.4f}")
        smallest = math.log((self.A / (loss - self.E)) ** (1 / self.alpha))  # log N that would need infinite tokens

        def cost(log_n: float) -> float:
            n = math.exp(log_n)
            return training_flops(n, self.tokens_for(n, loss)) + inference_flops(n, served)

        low, high = smallest + 1e-9, smallest + 20.0
        golden = (math.sqrt(5) - 1) / 2
        for _ in range(200):  # golden-section search: the cost has one valley
            left, right = high - golden * (high - low), low + golden * (high - low)
            low, high = (low, right) if cost(left) < cost(right) else (left, high)
        n = math.exp((low + high) / 2)
        return n, self.tokens_for(n, loss)


CHINCHILLA = LossLaw(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
"""Hoffmann et al. (2022), eq. 10, as printed (rounded). N counts all parameters."""

REPLICATION = LossLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
"""Besiroglu et al. (2024): the same form fitted anew to the runs read off the paper's figure."""

REPETITIONS = 15.39
"""R_D* of Muennighoff et al. (2023): how many repetitions are worth (1 - 1/e) of as many fresh epochs."""


def effective_tokens(unique: X, tokens: X, worth: float = REPETITIONS) -> X:
    """What D tokens are worth of which only U differ, in fresh tokens; Muennighoff et al. (2023), section 3.1.

    unique: U, at most D. The first epoch counts in full, each further one less: U + U R* (1 - exp(-(D/U - 1) / R*)).
    """
    repeated = tokens / unique - 1
    return unique + unique * worth * (1 - np.exp(-repeated / worth))


# ---- fitting
@dataclass(frozen=True)
class Fit:
    """A law fitted to runs, and the laws fitted to the same runs drawn anew: their spread is its uncertainty."""

    law: LossLaw
    draws: tuple[LossLaw, ...]

    def interval(self, of: Callable[[LossLaw], float], level: float = 0.9) -> tuple[float, float]:
        """The middle `level` of what the drawn laws say: `fit.interval(lambda law: law.alpha)`."""
        low, high = np.quantile([of(law) for law in self.draws], [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


def fit_loss_law(
    parameters: ArrayLike,
    tokens: ArrayLike,
    losses: ArrayLike,
    *,
    E: float | None = None,
    groups: ArrayLike | None = None,
    draws: int = 0,
    delta: float = 1e-3,
    seed: int = 0,
) -> Fit:
    """Fit L(N, D) by the Huber loss of the logarithms' differences; Hoffmann et al. (2022), eq. 3.

    parameters, tokens, losses: (n,) each, above 0. E: fixed where it is known (0 for no floor), else fitted too.
    groups: (n,) the run that each point belongs to; runs are drawn anew as a whole, with replacement, `draws` times,
    since points of one run err together. Default: each point by itself. delta: where the Huber loss turns linear.
    The minimum is searched from many starts by damped Gauss-Newton steps, all starts and all draws at once.
    """
    given = [np.asarray(x, dtype=np.float64) for x in (parameters, tokens, losses)]
    if len({x.shape for x in given}) > 1 or given[0].ndim != 1:
        raise ValueError(f"shapes {', '.join(str(x.shape) for x in given)}; give one number of each a point")
    if not all(np.isfinite(x).all() and (x > 0).all() for x in given):
        raise ValueError("parameters, tokens and losses must all be above 0")
    log_n, log_d, log_l = (np.log(x) for x in given)
    unknown = 5 if E is None else 4
    if len(log_n) < unknown or len(set(log_n)) < 3 or len(set(log_d)) < 3:
        raise ValueError(
            f"{len(log_n)} points with {len(set(log_n))} sizes and {len(set(log_d))} token counts cannot fix "
            f"{unknown} constants; give three of each or more"
        )
    x = _Points(log_n, log_d, log_l, delta, fixed=E is not None)
    starts = np.array(list(_starts(x, E)))
    found, values = _descend(x, starts, np.ones((len(starts), len(log_n))))
    best = found[int(values.argmin())]
    rng = np.random.default_rng(seed)
    names, members = np.unique(np.arange(len(log_n)) if groups is None else np.asarray(groups), return_inverse=True)
    weights: list[FloatArray] = []
    while len(weights) < draws:
        counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)))[members].astype(np.float64)
        seen = counts > 0
        if len(set(log_n[seen])) >= 3 and len(set(log_d[seen])) >= 3:
            weights.append(counts)
    drawn = _descend(x, np.repeat(best[None], draws, 0), np.array(weights))[0] if draws else np.zeros((0, 5))
    return Fit(_law(best), tuple(_law(theta) for theta in drawn))


@dataclass(frozen=True)
class _Points:
    """What is fitted, in logarithms, (n,) each."""

    log_n: FloatArray
    log_d: FloatArray
    log_l: FloatArray
    delta: float
    fixed: bool  # E is given


def _law(theta: FloatArray) -> LossLaw:
    e, a, b, alpha, beta = theta.tolist()
    return LossLaw(math.exp(e), math.exp(a), math.exp(b), alpha, beta)


def _starts(x: _Points, E: float | None) -> Sequence[list[float]]:
    """Logarithms of E, A and B, and the exponents: floor and both terms of plausible sizes amid the points."""
    least, middle = math.exp(x.log_l.min()), math.exp(x.log_l.mean())
    starts = []
    for floor in (0.3 * least, 0.9 * least) if E is None else (E,):
        for alpha in (0.15, 0.4, 0.8):
            for beta in (0.15, 0.4, 0.8):
                half = math.log(max(middle - floor, 0.05 * middle) / 2)
                e = math.log(floor) if floor > 0 else -math.inf
                starts.append([e, half + alpha * x.log_n.mean(), half + beta * x.log_d.mean(), alpha, beta])
    return starts


def _residuals(x: _Points, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Logarithm of the law minus that of the loss, (S, n), and its gradient by the five constants, (S, n, 5)."""
    e, a, b, alpha, beta = (theta[:, k, None] for k in range(5))
    terms = np.stack([e + 0 * x.log_n, a - alpha * x.log_n, b - beta * x.log_d], -1)  # (S, n, 3)
    top = terms.max(-1, keepdims=True)
    parts = np.exp(terms - top)
    total = parts.sum(-1, keepdims=True)
    share = parts / total
    gradient = np.stack(
        [share[..., 0], share[..., 1], share[..., 2], -share[..., 1] * x.log_n, -share[..., 2] * x.log_d], -1
    )
    return (np.log(total) + top)[..., 0] - x.log_l, gradient


def _objective(x: _Points, theta: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted sum of Huber losses, (S,)."""
    size = np.abs(_residuals(x, theta)[0])
    huber = np.where(size <= x.delta, 0.5 * size**2, x.delta * (size - 0.5 * x.delta))
    return np.asarray((weights * huber).sum(-1))


def _descend(x: _Points, theta: FloatArray, weights: FloatArray, steps: int = 400) -> tuple[FloatArray, FloatArray]:
    """Minimize S problems at once by Levenberg-Marquardt, the Huber loss as a reweighted square: (S, 5) and (S,)."""
    theta, free = theta.copy(), slice(1 if x.fixed else 0, 5)
    value, damping = _objective(x, theta, weights), np.full(len(theta), 1e-2)
    before = value + np.inf
    for done in range(steps):
        if done % 20 == 0:
            if (before - value <= 1e-7 * value).all():
                break
            before = value
        residual, gradient = _residuals(x, theta)
        row = weights * x.delta / np.maximum(np.abs(residual), x.delta)
        J = gradient[..., free]
        slope = np.einsum("sn,snk->sk", row * residual, J)
        curve = np.einsum("sn,snk,snl->skl", row, J, J)
        ridge = damping[:, None] * np.maximum(np.einsum("skk->sk", curve), 1e-12)
        step = np.linalg.solve(curve + ridge[..., None] * np.eye(J.shape[-1]), slope[..., None])[..., 0]
        trial = theta.copy()
        trial[:, free] -= np.clip(step, -2.0, 2.0)
        new = _objective(x, trial, weights)
        better = new < value
        theta[better], value = trial[better], np.where(better, new, value)
        damping = np.clip(np.where(better, damping / 3, damping * 2.5), 1e-12, 1e8)
    return theta, value


def fit_power_law(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> tuple[float, float]:
    """c and p of y = c x^p by least squares in logarithms: a straight line through the points of a log-log plot.

    x, y: (n,) above 0. weights: (n,), 1 if not given.
    """
    log_x, log_y = np.log(np.asarray(x, dtype=np.float64)), np.log(np.asarray(y, dtype=np.float64))
    w = np.ones_like(log_x) if weights is None else np.asarray(weights, dtype=np.float64)
    if log_x.shape != log_y.shape or log_x.ndim != 1 or len(set(log_x[w > 0])) < 2:
        raise ValueError(f"x is {log_x.shape} and y {log_y.shape}; a line needs two different x or more, and a y each")
    mean_x, mean_y = np.average(log_x, weights=w), np.average(log_y, weights=w)
    slope = np.average((log_x - mean_x) * (log_y - mean_y), weights=w) / np.average((log_x - mean_x) ** 2, weights=w)
    return float(np.exp(mean_y - slope * mean_x)), float(slope)


def isoflop_minimum(parameters: ArrayLike, losses: ArrayLike) -> tuple[float, float]:
    """N and loss at the lowest point of a parabola in log N, of runs of equal compute; Hoffmann et al. (2022), 3.2.

    ValueError for fewer than three sizes, and where the parabola has no lowest point within the sizes: then the best
    size was not among those tried, and a vertex beyond them is a guess.
    """
    log_n, y = np.log(np.asarray(parameters, dtype=np.float64)), np.asarray(losses, dtype=np.float64)
    if len(set(log_n)) < 3:
        raise ValueError(f"a parabola needs three sizes or more; there are {len(set(log_n))}")
    middle = log_n.mean()
    c2, c1, c0 = np.polyfit(log_n - middle, y, 2)
    vertex = -c1 / (2 * c2) if c2 else math.inf
    if c2 <= 0 or not log_n.min() <= middle + vertex <= log_n.max():
        raise ValueError("the losses have no lowest point within the sizes tried; add smaller or larger models")
    return float(np.exp(middle + vertex)), float(c0 - c1**2 / (4 * c2))


# ---- test time
def pass_at_k(samples: int, right: int, k: int) -> float:
    """Chance that one of k samples is right, without bias from c right ones among n; Chen et al. (2021), eq. 1.

    1 - C(n - c, k) / C(n, k): the share of all subsets of k samples that hold a right one. ValueError for k > n.
    """
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(f"{right} right of {samples}, k = {k}; give 0 <= right <= samples and 1 <= k <= samples")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def coverage(chances: ArrayLike, k: ArrayLike) -> FloatArray:
    """Share of problems that k tries solve, where problem i is solved by one with chance p_i: mean of 1 - (1 - p_i)^k.

    chances: (problems,) between 0 and 1. k: (K,). Returns (K,). Each problem's failures fall exponentially; their
    mean falls as a power law where chances near 0 are common; Schaeffer et al. (2025).
    """
    p, tries = np.asarray(chances, dtype=np.float64), np.asarray(k, dtype=np.float64)
    return np.asarray(1 - ((1 - p)[:, None] ** tries).mean(0))
