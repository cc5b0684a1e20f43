"""The explorers: numbers equal to the library's, small data true to the vocabulary, figures that work in a browser.

Pages are opened from file://, with no server, no kernel and no network.
"""

from __future__ import annotations

import base64
import json
import math
import random
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers

from alignlab import bpe, counting, decoding, explorers, palette, scaling
from alignlab.decoding import Beams, Sampling
from alignlab.decoding.beam import Candidate
from alignlab.decoding.speculative import LookupDraft, ModelDraft, expected_tokens, skip_layers, speculative
from alignlab.explorers import algorithms, milestones, smollm2_merges
from alignlab.explorers.columns import next_token_columns
from alignlab.losses.preference import (
    PairLogps,
    cpo_loss,
    dpo_loss,
    ipo_loss,
    kto_loss,
    orpo_loss,
    per_token,
    simpo_loss,
)
from alignlab.retrieval import reciprocal_rank_fusion
from alignlab.rl import bandits, distributional, tabular
from alignlab.rl import mdp as finite
from alignlab.rl.gridworld import MAPS, GridWorld
from alignlab.transformer import Config, Transformer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parent.parent
DECODING = ROOT / "labs" / "explorers" / "decoding.json"
BEAM_TREE = ROOT / "labs" / "explorers" / "beam_tree.json"
VOCABULARY = 49_152
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.05},
    {"temperature": 2.0},
    {"temperature": 1.7, "topK": 40},
    {"topP": 0.9},
    {"temperature": 2.0, "topP": 0.95},
    {"temperature": 1.5, "minP": 0.1},
    {"temperature": 1.5, "minP": 0.01},
    {"penalty": 1.5, "topK": 50},
    {"penalty": 2.0, "temperature": 0.7, "topK": 100, "topP": 0.8, "minP": 0.05},
]


def sampling(settings: dict[str, Any]) -> Sampling:
    names = {
        "temperature": "temperature",
        "topK": "top_k",
        "topP": "top_p",
        "minP": "min_p",
        "penalty": "repetition_penalty",
    }
    return Sampling(**{names[key]: value for key, value in settings.items()})


def exact(logits: torch.Tensor, seen: list[int], settings: dict[str, Any]) -> torch.Tensor:
    """Probabilities (V,) by the library, in float64."""
    return sampling(settings).apply(logits[None], torch.tensor([seen])).softmax(-1)[0]


def tokens_kept(logits: torch.Tensor, seen: list[int], settings: dict[str, Any]) -> int:
    """Tokens that the library has not cut; those whose probability underflows are not cut."""
    return int((sampling(settings).apply(logits[None], torch.tensor([seen])) > -torch.inf).sum())


def entropy(p: torch.Tensor) -> float:
    return -torch.xlogy(p, p).sum().item()


def language_like(seed: int, peak: float, slope: float) -> torch.Tensor:
    """Logits (V,) shaped like a language model's: a few favourites, then a tail that falls faster and faster."""
    generator = torch.Generator().manual_seed(seed)
    rank = torch.arange(1, VOCABULARY + 1, dtype=torch.float64)
    tail = -slope * rank.log() - 3e-4 * rank + 0.3 * torch.randn(VOCABULARY, generator=generator, dtype=torch.float64)
    tail[0] += peak
    return (18.0 + tail)[torch.randperm(VOCABULARY, generator=generator)]


CASES = {"open": language_like(0, 0.0, 0.7), "peaked": language_like(1, 4.0, 1.4), "flat": language_like(2, 0.0, 0.45)}


# ---- the Python face


def test_the_names_are_the_elements_that_the_scripts_define() -> None:
    for name in explorers.names():
        assert f'define("alignlab-{name}"' in explorers.script(name)


def test_an_unknown_explorer_is_named_in_the_error() -> None:
    with pytest.raises(KeyError, match=r"no explorer 'sampling'; there are .*decoding, "):
        explorers.script("sampling")


def test_a_script_is_classic_small_and_asks_for_nothing_from_elsewhere() -> None:
    for name in explorers.names():
        script = explorers.script(name)
        assert len(script.encode()) < (80_000 if name in explorers.PARTS else 60_000)
        code = re.sub(r"https?://www\.w3\.org/2000/svg", "", script)
        assert not re.search(r"(?m)^\s*(import|export)\b|\bfetch\(|XMLHttpRequest|https?://|</script", code)


def test_one_output_holds_the_live_widget_and_the_same_figure_for_the_book() -> None:
    bundle = explorers.show("dpo", {"beta": 0.1, "runs": []})._repr_mimebundle_()
    assert bundle[explorers.EXPLORER_MIME] == {"name": "dpo", "data": {"beta": 0.1, "runs": []}}
    assert bundle[explorers.WIDGET_MIME]["model_id"]
    assert "dpo" in bundle["text/plain"]


def test_the_widget_runs_the_very_same_script() -> None:
    for name in explorers.names():
        assert explorers.module(name).startswith(explorers.script(name))


@pytest.mark.parametrize("data", [{"x": float("nan")}, {"x": {1, 2}}])
def test_data_that_json_cannot_hold_are_refused_before_they_are_shown(data: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        explorers.show("decoding", data)


# ---- the summary of a vocabulary


def test_each_token_is_counted_once_and_the_mass_at_temperature_one_is_whole() -> None:
    logits = CASES["open"]
    columns = next_token_columns(logits, [3, 5, 5, 8])
    assert len(columns["id"]) + sum(columns["tail"]["size"]) == VOCABULARY
    assert {columns["id"][place] for place in columns["seen"]} == {3, 5, 8}
    whole = torch.cat(
        [
            torch.tensor(columns["logit"]),
            torch.tensor(columns["tail"]["logit"]) + torch.tensor(columns["tail"]["size"]).log(),
        ]
    )
    assert whole.double().logsumexp(0).item() == pytest.approx(logits.logsumexp(0).item(), abs=1e-4)


def test_the_summary_takes_the_logits_of_one_position_only() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 10\)"):
        next_token_columns(torch.zeros(1, 10), [])


# ---- in Chromium

browser_test = pytest.mark.browser


def decoding_data() -> dict[str, Any]:
    """What the lab wrote; before it has run, prompts made of language-like logits."""
    if DECODING.exists():
        data: dict[str, Any] = json.loads(DECODING.read_text(encoding="utf-8"))["data"]
        return data
    prompts = []
    for name, logits in CASES.items():
        columns = next_token_columns(logits, [1, 2, 3])
        words = [f" w{i}" for i in columns["id"]]
        prompts.append(
            {
                "name": name,
                "group": "Made up",
                "title": name,
                "context": ["<|im_start|>", " a", "\n"],
                "text": words,
                **columns,
            }
        )
    return {
        "model": "made up",
        "vocabulary": VOCABULARY,
        "prompts": prompts,
        "start": {"temperature": 0.8, "minP": 0.2},
        "try": "Move it.",
    }


def dpo_data() -> dict[str, Any]:
    """Two small runs; the numbers only exercise the figure."""
    generator = torch.Generator().manual_seed(0)
    runs = []
    for name, pace in (("on-policy", 1.0), ("fixed", 2.0)):
        steps = list(range(0, 41, 10))
        pairs = []
        for k in range(9):
            noise = torch.randn(2, len(steps), generator=generator).tolist()
            pairs.append(
                {
                    "prompt": f"Question {k}?",
                    "chosen": "I am Lumen. " * 3,
                    "rejected": "I am another model. " * 8,
                    "chosen_logratio": [round(pace * s / 4 + noise[0][i] * (s > 0), 3) for i, s in enumerate(steps)],
                    "rejected_logratio": [
                        round(-pace * s / 3 + 4 * noise[1][i] * (s > 0), 3) for i, s in enumerate(steps)
                    ],
                }
            )
        runs.append({"name": name, "steps": steps, "pairs": pairs, "said": [0.0, 0.1, 0.4, 0.8, 0.9]})
    return {"beta": 0.1, "runs": runs, "try": "Play it."}


def losses_data() -> dict[str, Any]:
    """Forty pairs as after some training: chosen likelier than before, rejected far less likely."""
    generator = torch.Generator().manual_seed(0)
    verbs, places = ("sings", "sleeps", "plays", "eats", "walks"), ("in the garden", "near the door", "at the market")
    points = []
    for k in range(40):
        a, b, c, d = torch.randn(4, generator=generator).tolist()
        tokens = torch.randint(6, 13, (2,), generator=generator).tolist()
        ratio, other = 0.6 + 1.1 * a, -2.2 + 1.6 * b
        good, bad = f"{verbs[k % 5]} {places[k % 3]}.", f"{verbs[(k + 2) % 5]} {places[(k + 1) % 3]} in the evening."
        points.append(
            {
                "name": f"The old bear {k} ... {good} | {bad}",
                "chosen": ratio,
                "rejected": other,
                "chosen_logp": min(-0.75 * tokens[0] + 0.5 * c + ratio, -0.4),  # a log-probability is below 0
                "rejected_logp": min(-0.75 * tokens[1] + 0.5 * d + other, -0.4),
                "chosen_tokens": tokens[0],
                "rejected_tokens": tokens[1],
            }
        )
    return {"beta": 0.5, "points": points, "try": "Move β."}


def funnel_data() -> dict[str, Any]:
    """60 prompts, 12 of them the same or nearly the same as an earlier one, and two pairs for each prompt."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> float:
        return torch.rand(1, generator=generator).item()

    asks = ("Explain in one sentence how {} works.", "Write a short note about {}.", "What should I know about {}?")
    things = ("a kettle", "the tides", "compound interest", "a bicycle bell", "rain", "a library card", "yeast")
    prompts: list[dict[str, Any]] = []
    for k in range(60):
        text = asks[k % 3].format(things[k % 7]) + (" Keep it plain." if k % 11 == 3 else "")
        near = 0.1 + 0.5 * draw() ** 2 if k % 5 else 0.62 + 0.38 * draw()
        prompts.append({"id": f"p{k}", "text": text, "near": 1.0 if k % 15 == 14 else near, "exact": k % 15 == 14})
    pairs = []
    for k in range(120):
        length = 20 + int(60 * draw())
        score = 2 + 6 * draw()
        pairs.append(
            {
                "prompt": f"p{k // 2}",
                "chosen": f"It works in three steps, and the second takes the longest ({k}). " + "Wait. " * (k % 7),
                "rejected": f"Nobody knows for sure, but many people have opinions about it ({k}). " * (1 + k % 3),
                "score_chosen": score,
                "score_rejected": score - 4 * draw() ** 2,
                "chosen_tokens": length,
                "rejected_tokens": max(4, int(length * (0.3 + 1.2 * draw()))),
                "leak": draw() ** 4,
                "contradicts": k % 17 == 5,
                "truth": (k * 7) % 5 % 3 - 1 if k % 3 else 1,
            }
        )
    return {"prompts": prompts, "pairs": pairs, "try": "Raise the least margin."}


BEAM_DEPTH, BEAM_TOKENS = 6, 9
BEAM_STOP = BEAM_TOKENS - 1


def beam_logprobs(seed: int, ids: tuple[int, ...]) -> list[float]:
    """Next-token log-probabilities (9,) after ids, made up but fixed; the last token ends the text."""
    place = 1 + seed
    for token in ids:
        place = (place * 31 + token + 1) % 1_000_003
    logits = 2 * torch.randn(BEAM_TOKENS, generator=torch.Generator().manual_seed(place), dtype=torch.float64)
    logits[BEAM_STOP] += 0.4 * len(ids)
    return [round(value, 6) for value in logits.log_softmax(-1).tolist()]


def beam_candidates(beams: Beams, seed: int) -> list[Candidate]:
    """The 2 * width best continuations of the running beams."""
    every = [
        Candidate(place, token, beam.logprob + value, beam.score + value)
        for place, beam in enumerate(beams.running)
        for token, value in enumerate(beam_logprobs(seed, beam.ids))
    ]
    return sorted(every, key=lambda candidate: -candidate.score)[: 2 * beams.width]


class PatientBeams(Beams):
    """Goes on to the last token, so that its candidates serve every way of stopping."""

    def _settled(self, length: int) -> bool:
        return False


def beam_tree_data() -> dict[str, Any]:
    """Two trees that hold every candidate of widths 1 to 4."""
    trees = []
    for seed in (0, 1):
        nodes: dict[tuple[int, ...], float] = {}
        for width in range(1, 5):
            beams = PatientBeams(width, BEAM_DEPTH, stop_id=BEAM_STOP)
            while not beams.done:
                candidates = beam_candidates(beams, seed)
                for candidate in candidates:
                    ids = beams.running[candidate.parent].ids
                    nodes[(*ids, candidate.token)] = beam_logprobs(seed, ids)[candidate.token]
                beams.advance(candidates)
        number = {(): 0} | {ids: row for row, ids in enumerate(sorted(nodes, key=lambda ids: (len(ids), ids)), start=1)}
        texts = [*(f" word{token}" for token in range(BEAM_STOP)), ""]
        trees.append(
            {
                "title": f"Prompt {seed}",
                "nodes": [
                    {
                        "parent": number[ids[:-1]],
                        "text": texts[ids[-1]],
                        "logprob": nodes[ids],
                        "end": ids[-1] == BEAM_STOP,
                    }
                    for ids in list(number)[1:]
                ],
            }
        )
    return {"model": "made up", "widest": 4, "depth": BEAM_DEPTH, "trees": trees, "try": "Step on."}


FRONTIER = ((8, 1.43, 0.005), (2, 1.68, 0.075), (1, 1.89, 0.23), (0.5, 2.18, 0.66), (0.25, 2.41, 1.29), (0.1, 2.5, 2))


def overoptimization_data() -> dict[str, Any]:
    """Four betas and two seeds: the smaller beta, the farther a run goes, and the more gold it loses in the end."""
    generator = torch.Generator().manual_seed(0)
    runs = []
    for beta in (1.0, 0.3, 0.1, 0.03):
        for seed in (0, 1):
            points = []
            for step in range(0, 201, 10):
                noise = torch.randn(3, generator=generator).tolist()
                kl = 0.9 / beta**0.75 * (1 - math.exp(-step / 90)) * (1 + 0.03 * noise[0] * (step > 0))
                gold = 1.4 + 1.05 * (1 - math.exp(-1.6 * kl)) - 0.035 * kl**1.6 + 0.02 * noise[1] * (step > 0)
                points.append(
                    {
                        "step": step,
                        "kl": kl,
                        "gold": gold,
                        "proxy": 2.6 * (1 - math.exp(-0.35 * kl)) + 0.03 * noise[2] * (step > 0),
                        "loss": 0.6931 - 0.45 * (1 - math.exp(-step / 60)),
                        "chosen_logp": -7.5 + 0.9 * math.sin(step / 60) - 0.35 * kl,
                        "rejected_logp": -7.8 - 1.4 * kl,
                        "broken": min(1.0, 0.015 + 0.0035 * kl**2),
                    }
                )
            runs.append({"beta": beta, "seed": seed, "label": f"seed {seed}", "points": points})
    return {
        "runs": runs,
        "frontier": [{"beta": beta, "gold": gold, "kl": kl} for beta, gold, kl in FRONTIER],
        "try": "Lower β.",
    }


def tiny_data() -> dict[str, Any]:
    """Two prompts; see test_tiny_live.py for what the model does with them."""
    prompts = [{"title": "a scene", "kind": "text", "text": "The old"}, {"title": "", "kind": "chat", "text": "Hello!"}]
    return {"model": "tiny", "prompts": prompts, "start": {"temperature": 1.0, "seed": 1}, "try": "Press a token."}


def retrieval_data() -> dict[str, Any]:
    """Sixty chunks in two clouds and eight questions, two of each kind; dense and BM25 agree now and then."""
    generator = torch.Generator().manual_seed(3)
    places = torch.rand(60, 2, generator=generator) * 1.2 - 0.6 + torch.tensor([[-0.3, 0.2]] * 30 + [[0.3, -0.2]] * 30)
    queries = []
    for n, kind in enumerate(("plain", "paraphrase", "term", "none") * 2):
        dense, bm25 = (torch.randperm(60, generator=generator)[:10].tolist() for _ in range(2))
        bm25[2], dense[3] = (dense[0], dense[3]) if dense[0] not in bm25 else (bm25[2], dense[3])
        queries.append(
            {
                "text": f"What does question {n} ask, in so many words that a phone needs two lines for it?",
                "kind": kind,
                "x": places[dense[0], 0].item(),
                "y": places[dense[0], 1].item(),
                "answers": []
                if kind == "none" or n == 5
                else [dense[n % 4], bm25[1]],  # 5: the cutting went through it
                "dense": [[chunk, 0.7 - 0.05 * rank - 0.04 * n] for rank, chunk in enumerate(dense)],
                "bm25": [[chunk, 12.0 - rank] for rank, chunk in enumerate(bm25)] if n != 5 else [],
            }
        )
    return {
        "pages": ["glossary", "ch03_dpo/practice", "intro"],
        "points": [{"x": x, "y": y, "page": n % 3} for n, (x, y) in enumerate(places.clamp(-1, 1).tolist())],
        "snippets": [
            {"chunk": n, "title": f"A heading of some length, number {n}", "text": f"Chunk {n} says something. " * 4}
            for n in range(60)
        ],
        "queries": queries,
        "k": 60,
        "threshold": 0.4,
    }


def cot_data() -> dict[str, Any]:
    """Two sizes of problems, five problems each; the harder the problem, the fewer of its ten chains are right."""
    generator = torch.Generator().manual_seed(0)
    groups = []
    for terms, others in ((3, 2), (8, 5)):
        traces = []
        for k in range(5):
            numbers = [2 + (7 * k + 11 * j) % 45 for j in range(terms)]
            right, chains = sum(numbers), []
            for _ in range(10):
                off = 0 if torch.rand(1, generator=generator).item() > 0.15 + 0.17 * k else [1, 10, -1][len(chains) % 3]
                done, steps = numbers[0], []
                for number in numbers[1:]:
                    slip = off if not steps else 0
                    steps.append(f"{done} + {number} = {done + number + slip}")
                    done += number + slip
                marks = ("s" if off else "r") + "r" * (terms - 2)
                chains.append([", ".join(steps) + f", so {done}.", marks, 11 * (terms - 1) + 5, done])
            direct = [right + (k + j) % 4 for j in range(9)] + [None]
            question = "What is " + " + ".join(map(str, numbers)) + "?"
            traces.append(
                {"question": question, "value": right, "chains": chains, "direct": direct, "direct_tokens": 4}
            )

        def curve(base: float, tokens: int) -> list[dict[str, float]]:
            best = [base + 0.03 * n * (base < 0.7) for n in range(1, 11)]
            sizes = enumerate(best, 1)
            return [{"n": n, "tokens": n * tokens, "accuracy": a, "low": a - 0.05, "high": a + 0.05} for n, a in sizes]

        points = [{"name": f"tree {k}", "tokens": 90.0 * (k + 1), "accuracy": 0.5 + 0.1 * k} for k in range(others)]
        groups.append(
            {
                "name": f"{terms} terms",
                "problems": 40,
                "steps": curve(0.6, 11 * terms),
                "direct": curve(0.1, 4),
                "others": points,
                "traces": traces,
            }
        )
    return {"groups": groups, "start": {"group": 0, "votes": 3}, "try": "Raise the votes."}


def small_decoder() -> Transformer:
    torch.manual_seed(0)
    sizes = {"vocab_size": 29, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "head_dim": 4}
    return Transformer(Config(**sizes, num_attention_heads=4, num_key_value_heads=2)).initialize(std=0.5).eval()


def speculative_data() -> dict[str, Any]:
    """Two real runs in small: a random decoder, and what its own early exit and a lookup would guess at every place."""
    target = small_decoder()
    exit_draft = skip_layers(target, range(2))
    prompts = []
    for title, prompt in (("First", [1, 2, 3]), ("Second", [4, 5]), ("Third", [6])):
        said = speculative(target, prompt, 24, LookupDraft(), length=0).ids
        texts = [prompt + said[:k] for k in range(24)]
        guesses = [speculative(exit_draft, words, 6, LookupDraft(), length=0).ids for words in texts]
        copied = [LookupDraft().guess(words, 6) for words in texts]
        prompts.append({"title": title, "said": said, "drafts": {"exit": guesses, "lookup": copied}})
    return {
        "model": "a random decoder",
        "pieces": [f" w{k}" for k in range(29)],
        "prompts": prompts,
        "pass": [1.0, 1.1, 1.15, 1.3, 1.4, 1.5, 1.7],
        "ms": 50.0,
        "drafts": [
            {"name": "exit", "title": "Early exit", "cost": 0.25, "longest": 6},
            {"name": "lookup", "title": "Lookup", "cost": 0.0, "longest": 6},
        ],
        "start": {"prompt": 1, "draft": "exit", "length": 3},
        "try": "Lengthen the draft.",
    }


def grammar_data() -> dict[str, Any]:
    """Two answers under a mask: one of nine steps with next-token lists as they fall, one of two steps."""
    generator = torch.Generator().manual_seed(0)
    scenes = []
    for name, steps in (("booking", 9), ("sum", 2)):
        made = []
        for k in range(steps):
            p = (
                torch.randn(40, generator=generator, dtype=torch.float64)
                .mul(2)
                .softmax(-1)
                .sort(descending=True)
                .values
            )
            ok = (torch.rand(40, generator=generator) < 0.4) | (torch.arange(40) == 5)
            taken = int((p * ok).argmax())
            tokens = [
                {"text": f" w{i}", "end": int(i == 3 and k == steps - 1), "p": p[i].item(), "ok": int(ok[i])}
                for i in range(12)
            ]
            made.append(
                {
                    "state": 3 * k,
                    "may": "0-9  ,  }",
                    "end": k == steps - 1,
                    "allowed": int(ok.sum()),
                    "mass": (p * ok).sum().item(),
                    "taken": taken,
                    "tokens": tokens,
                }
            )
        scenes.append({"name": name, "title": f"Scene {name}", "message": "A message.", "states": 30, "steps": made})
    return {"model": "made up", "vocabulary": 40, "scenes": scenes, "try": "Step on."}


def bandit_data() -> dict[str, Any]:
    """Two small worlds, their mean regrets from a few games of the library."""
    ticks, worlds = [1, 3, 10, 30, 100, 300, 1000], []
    for title, means in (("Two arms", [0.3, 0.6]), ("Five arms", [0.9, 0.2, 0.5, 0.55, 0.1])):

        def curve(rule: bandits.Rule, means: list[float] = means) -> list[float]:
            games = bandits.regret(means, bandits.play(means, rule, 1000, 3).actions).mean(0)
            return [float(games[t - 1]) for t in ticks]

        worlds.append(
            {
                "title": title,
                "names": [f"arm {k + 1}" for k in range(len(means))],
                "means": means,
                "slope": bandits.lai_robbins(means),
                "ticks": ticks,
                "epsilon": [{"at": e, "regret": curve(bandits.epsilon_greedy(e))} for e in (0.0, 0.1, 1.0)],
                "c": [{"at": c, "regret": curve(bandits.ucb(c))} for c in (0.2, 0.5, 2.0)],
                "thompson": curve(bandits.thompson(0)),
            }
        )
    return {"worlds": worlds, "games": 3, "start": {"epsilon": 0.1, "c": 2.0, "pulls": 200, "seed": 1}}


def policy_field_data() -> dict[str, Any]:
    """Two places; in the second staying is worth twice as much, and few episodes begin there."""
    rewards, start = [[1.0, 0.0], [2.0, 0.0]], [0.8, 0.2]
    return {"gamma": 0.9, "start": start, "rewards": rewards, "places": ["A", "B"], "p": [0.8, 0.1]}


def clip_table_data() -> dict[str, Any]:
    """Two sets of six pictures with cosines drawn at random, as no trained CLIP gives them."""
    generator = torch.Generator().manual_seed(3)
    dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    colours = ("red", "green", "blue", "yellow", "purple", "white")
    sets = [
        {
            "name": name,
            "title": title,
            "note": "Made up.",
            "captions": [f"a {colour} triangle left of a purple circle" for colour in colours],
            "pictures": [dot] * 6,
            "cosines": (0.8 * torch.eye(6) + 0.3 * torch.randn(6, 6, generator=generator)).clamp(-1, 1).tolist(),
        }
        for name, title in (("random", "At random"), ("order", "Same words"))
    ]
    return {"scale": 14.3, "sets": sets}


def gridworld_data() -> dict[str, Any]:
    """The library's maps and rewards, as the lab gives them."""
    world = GridWorld("textbook")
    maps = [{"name": name, "lines": list(MAPS[name])} for name in ("textbook", "bridge", "cliff", "rooms")]
    rewards = {"step": world.step_reward, "goal": world.goal, "pit": world.pit, "cliff": world.cliff}
    return {"maps": maps, "slip": world.slip, "gamma": 0.95, **rewards, "try": "Sweep."}


def td_weights_data() -> dict[str, Any]:
    """A walk of 24 steps over nineteen cells, and moments that a made-up table would have."""
    states, turns = [10], torch.randint(2, (200,), generator=torch.Generator().manual_seed(5)).tolist()
    while 0 < states[-1] < 20 and len(states) < 25:
        states.append(states[-1] + 2 * turns[len(states)] - 1)
    states[-1] = states[-2]  # where the walk was cut for this sample, its end is a state like any other
    rewards = [0.0] * (len(states) - 2) + [1.0]
    values = [0.0] + [0.7 * (k - 10) / 10 for k in range(1, 20)] + [0.0]
    truth = [0.0] + [(k - 10) / 10 for k in range(1, 20)] + [0.0]
    lambdas = [{"lam": k / 20, "bias2": 0.1 * (1 - k / 20), "variance": 0.02 + 0.5 * (k / 20) ** 6} for k in range(21)]
    steps = [{"n": n, "bias2": 0.1 / n, "variance": 0.02 * n**0.8} for n in range(1, 65)]
    walk = {"states": states, "rewards": rewards, "values": values, "truth": truth}
    return {"walk": walk, "lambdas": lambdas, "steps": steps, "try": "Raise lambda."}


def return_distribution_data() -> dict[str, Any]:
    """Exact distributions in a world with a bridge, and beliefs that come nearer to them step by step."""
    lines, low, high, atoms = (".....", ".###.", "S...G", "#XXX#"), -1.6, 1.0, 51
    world = GridWorld(lines, slip=0.1, step_reward=-0.04)
    mdp = world.mdp(0.99)
    exact = distributional.return_distributions(mdp, finite.policy_iteration(mdp).policy)
    support, steps, places = torch.linspace(low, high, atoms, dtype=torch.float64), [0, 50, 400, 3000], []
    for name, cell, actions in (
        ("S, the start", (2, 0), ((1, "right"), (0, "up"))),
        ("above", (0, 0), ((1, "right"),)),
    ):
        entries = []
        for action, words in actions:
            z = exact[world.number[cell]][action]
            projected = (1 - (z.values[None] - support[:, None]).abs() / (support[1] - support[0])).clamp(
                0, 1
            ) @ z.probs
            shares = [k / (len(steps) - 1) for k in range(len(steps))]
            entries.append(
                {
                    "name": words,
                    "exact": {"values": z.values.tolist(), "probs": z.probs.tolist()},
                    "C51": [(share * projected + (1 - share) / atoms).tolist() for share in shares],
                    "QR-DQN": [(share * distributional.quantiles(z, 32)).tolist() for share in shares],
                    "DQN": [share * z.mean() for share in shares],
                }
            )
        places.append({"name": name, "cell": list(cell), "actions": entries})
    return {
        "map": list(lines),
        "low": low,
        "high": high,
        "atoms": atoms,
        "steps": steps,
        "gamma": 0.99,
        "places": places,
    }


def attention_heads_data() -> dict[str, Any]:
    """Two texts and a model of 3 layers and 4 heads, one of which copies the token before; no text is as long."""
    from alignlab.explorers.heads import attention_example

    examples = []
    for seed, (title, tokens) in enumerate(
        {
            "Who are you?": ["<|im_start|>", "user", "\n", "Who", " are", " you", "?", "<|im_end|>", "\n"],
            "What is 17 + 25?": ["What", " is", " ", "1", "7", " +", " ", "2", "5", "?", "\n"],
        }.items()
    ):
        length = len(tokens)
        scores = 2 * torch.randn(3, 4, length, length, generator=torch.Generator().manual_seed(seed))
        scores[1, 2] = torch.full((length, length), -4.0) + 12 * torch.eye(length).roll(-1, 1)
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        examples.append(attention_example(title, tokens, weights))
    return {
        "model": "A made-up model",
        "examples": examples,
        "next": [[["I", 0.6], [" am", 0.2], ["My", 0.1]], [["17", 0.5], ["The", 0.3], ["4", 0.1]]],
        "notable": [{"name": "a head with a name", "example": 1, "layer": 2, "head": 3, "position": 8}],
        "start": {"example": 1, "layer": 0, "head": 1},
        "try": "Press a cell.",
    }


def planner_data() -> dict[str, Any]:
    """Two published laws and a made-up one with runs of its own; five models, one of them of that scale."""
    own = scaling.LossLaw(2.6, 15.0, 9e4, 0.49, 1.05)
    grid = [(n, d) for n in (2216, 6992, 27296) for d in (280_000, 1_120_000)]
    return {
        "laws": [
            {"name": "Chinchilla, 2022", "note": "as printed", **vars(scaling.CHINCHILLA)},
            {"name": "Replication, 2024", "note": "fitted anew", **vars(scaling.REPLICATION)},
            {"name": "A ladder", "note": "made up", **vars(own)},
        ],
        "own": 2,
        "chips": [
            {"name": "A100", "peak": 312e12, "note": "312 TFLOP/s"},
            {"name": "H100", "peak": 989e12, "note": "989 TFLOP/s"},
        ],
        "models": [
            {"name": "Gopher (2021)", "parameters": 280e9, "tokens": 300e9, "note": "280B, 300B tokens"},
            {"name": "Chinchilla (2022)", "parameters": 70e9, "tokens": 1.4e12, "note": "70B, 1.4T tokens"},
            {
                "name": "Llama 3.1 405B (2024)",
                "parameters": 405e9,
                "tokens": 15.6e12,
                "hours": 30.84e6,
                "chip": 1,
                "note": "405B, 15.6T tokens",
            },
            {"name": "SmolLM2-135M (2025)", "parameters": 134_515_008, "tokens": 2e12, "note": "134.5M, 2T tokens"},
            {"name": "A held-out run", "parameters": 227_808, "tokens": 793_600, "law": 2, "note": "measured"},
        ],
        "runs": [[n, d, own(float(n), float(d))] for n, d in grid],
        "start": {"model": 0, "law": 1, "chip": 0},
    }


def rope_data() -> dict[str, Any]:
    """Random queries and keys of two heads for a short and a longer text, packed as the lab packs them."""
    generator, size, examples = torch.Generator().manual_seed(4), 16, []
    for question, length in (("Who?", 5), ("How many are there?", 9)):
        heads = []
        for _ in range(2):
            vectors = 2.5 * torch.randn(1 + length, size, generator=generator)
            scale = float(f"{vectors.abs().max().item() / 32767:.8g}")
            whole = (vectors / scale).round().clamp(-32767, 32767).to(torch.int16)
            bits = base64.b64encode(whole.numpy().astype("<i2").tobytes()).decode()
            heads.append({"scale": scale, "bits": bits, "row": rope_row(whole.double() * scale)})
        tokens = [f" token{n}" if n else "<|im_start|>" for n in range(length)]
        examples.append({"question": question, "tokens": tokens, "heads": heads})
    named = [{"name": "looks back", "layer": 3, "head": 1}, {"name": "reads", "layer": 9, "head": 4}]
    start = {"example": 1, "head": 0}
    return {"theta": 1e5, "size": size, "context": 8192, "heads": named, "examples": examples, "start": start}


def rope_row(
    vectors: torch.Tensor, theta: float = 1e5, place: Callable[[torch.Tensor], torch.Tensor] = lambda p: p
) -> list[float]:
    """Weights of the last token, by the library: vectors holds its query, then all keys, before rotation."""
    from alignlab.architectures.attention import rotary_score

    query, keys = vectors[0].double(), vectors[1:].double()
    at = place(torch.arange(len(keys)).double())
    scores = [rotary_score(query, key, (at[-1] - p)[None], theta)[0] for key, p in zip(keys, at, strict=True)]
    return (torch.stack(scores) / len(query) ** 0.5).softmax(-1).tolist()


def model_tour_data() -> dict[str, Any]:
    """Two texts through a small random decoder: every tensor of every layer at the last token."""
    from alignlab.explorers.tour import tour_example
    from alignlab.transformer import rotary_angles, rotate

    decoder = small_decoder()
    c = decoder.config
    texts = {"abba": [0, 1, 1, 0, 5], "A longer text": [7, 3, 28, 11, 3, 2, 9, 4]}
    examples = []
    for title, ids in texts.items():
        rotary = rotary_angles(c, torch.arange(len(ids))[None])
        x = decoder.embed_tokens(torch.tensor([ids]))
        streams, layers, looks = [x], [], []
        for n, block in enumerate(decoder.layers):
            part: Any = block
            normed = part.input_layernorm(x)
            q, k, v = (
                project(normed) for project in (part.self_attn.q_proj, part.self_attn.k_proj, part.self_attn.v_proj)
            )
            heads = [flat.view(1, len(ids), -1, c.head_dim).transpose(1, 2) for flat in (q, k)]
            turned = [rotate(one, *rotary)[0] for one in heads]
            keys = turned[1].repeat_interleave(2, dim=0)
            looks.append((turned[0][:, -1:] @ keys.transpose(1, 2) / c.head_dim**0.5).softmax(-1)[:, 0])
            kept: dict[str, torch.Tensor] = {}
            hook = part.self_attn.o_proj.register_forward_pre_hook(
                lambda m, args, kept=kept: kept.update(mixed=args[0])
            )
            attention = part.self_attn(normed, rotary, None, None, n)
            hook.remove()
            middle = x + attention
            norm2 = part.post_attention_layernorm(middle)
            gate, up = part.mlp.gate_proj(norm2), part.mlp.up_proj(norm2)
            inner = torch.nn.functional.silu(gate) * up
            written = part.mlp.down_proj(inner)
            x = middle + written
            streams.append(x)
            named = {
                "norm1": normed, "q": q, "k": k, "v": v, "mixed": kept["mixed"], "attention": attention,
                "middle": middle,
                "norm2": norm2, "gate": gate, "up": up, "inner": inner, "mlp": written, "out": x,
            }  # fmt: skip
            last = {name: tensor[0, -1] for name, tensor in named.items()}
            layers.append(last | {"turned_q": turned[0][:, -1].flatten(), "turned_k": turned[1][:, -1].flatten()})
        stack = torch.cat(streams)
        final = decoder.norm(stack[:, -1])
        best = (final @ decoder.embed_tokens.weight.T).softmax(-1).topk(5)
        guesses = [
            [(f"t{i}", p) for p, i in zip(*pair, strict=True)]
            for pair in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        tokens = [f" t{i}" for i in ids]
        examples.append(
            tour_example(title, tokens, stack[0, -1], layers, torch.stack(looks), stack, final[-1], guesses)
        )
    sizes = {"d": 16, "h": 4, "h_kv": 2, "d_h": 4, "d_ff": 32, "L": 3, "V": 29}
    return {
        "model": "A small random decoder",
        "sizes": sizes,
        "examples": examples,
        "ids": list(texts.values()),
        "start": {"example": 0, "layer": 1, "stage": 0},
        "try": "Step on.",
    }


def counter_data() -> dict[str, Any]:
    """All published models: dense, grouped, latent, with experts, tied and not."""
    return {"models": [counting.plain(model) for model in counting.PUBLISHED], "start": "DeepSeek-V3"}


def tokenizer_data() -> dict[str, Any]:
    """SmolLM2's merges, as they ship with the package, for three texts."""
    texts = {
        "Who are you?": "Who are you?",
        "A long word": "Antidisestablishmentarianism and strawberries",
        "Chinese in chat format": "<|im_start|>user\n你是谁?<|im_end|>\n",
    }
    start = {"text": 1, "piece": 0}
    return {**smollm2_merges.data(smollm2_merges.tokenizer(), texts), "start": start, "try": "Type your name."}


DATA: dict[str, Callable[[], dict[str, Any]]] = {
    "algorithm_map": algorithms.data,
    "attention_heads": attention_heads_data,
    "bandit_race": bandit_data,
    "beam_tree": beam_tree_data,
    "clip_table": clip_table_data,
    "cot_cost": cot_data,
    "decoding": decoding_data,
    "dpo": dpo_data,
    "grammar_mask": grammar_data,
    "gridworld": gridworld_data,
    "model_tour": model_tour_data,
    "overoptimization": overoptimization_data,
    "parameter_counter": counter_data,
    "policy_field": policy_field_data,
    "preference_funnel": funnel_data,
    "preference_losses": losses_data,
    "scaling_planner": planner_data,
    "speculative": speculative_data,
    "td_weights": td_weights_data,
    "timeline": milestones.data,
    "tiny_live": tiny_data,
    "tokenizer": tokenizer_data,
    "retrieval_space": retrieval_data,
    "return_distribution": return_distribution_data,
    "rope": rope_data,
}
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SHIFTS = """window.shifts = 0;
new PerformanceObserver((list) => list.getEntries().forEach((entry) => { window.shifts += entry.value; }))
  .observe({type: 'layout-shift', buffered: true});"""


def write_page(folder: Path, name: str, theme: str = "light", twice: bool = False) -> str:
    """A page with one explorer, as the book makes it; its file:// address."""
    data = json.dumps(explorers.packed(DATA[name]())).replace("</", "<\\/")
    script = f"<script>{explorers.script(name)}</script>" * (2 if twice else 1)
    script = "".join(f"<script>{static}</script>" for static in explorers.statics(name).values()) + script
    page = folder / f"{name}-{theme}.html"
    page.write_text(
        f'<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>An explorer</title><style>{palette.css()}{explorers.style()}"
        "body{margin:0;background:var(--al-paper);color:var(--al-ink)}"
        f"main{{max-width:1000px;margin:auto;padding:0 12px}}</style></head><body><main><h1>An explorer</h1>"
        f'<alignlab-{name}><script type="application/json">{data}</script></alignlab-{name}>'
        f'<p id="after">After.</p></main>{script}</body></html>',
        encoding="utf-8",
    )
    return page.as_uri()


class Opened:
    """An open page and the errors it reported."""

    def __init__(self, browser: Browser, address: str, viewport: dict[str, int]) -> None:
        self.page: Page = browser.new_page(viewport=viewport)  # type: ignore[arg-type]
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on(
            "console",
            lambda message: self.errors.append(message.text) if message.type in ("error", "warning") else None,
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.add_init_script(SHIFTS)
        self.page.goto(address)
        self.page.wait_for_timeout(150)


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """Opens an explorer on a page of its own: opened("decoding", PHONE, "dark")."""
    pages: list[Page] = []

    def open_page(name: str, viewport: dict[str, int] = DESK, theme: str = "light", twice: bool = False) -> Opened:
        visit = Opened(browser, write_page(tmp_path, name, theme, twice), viewport)
        pages.append(visit.page)
        return visit

    yield open_page
    for page in pages:
        page.close()


EACH = pytest.mark.parametrize("name", explorers.names())
DISTRIBUTION = """([prompts, settings]) => {
  const E = customElements.get("alignlab-decoding");
  return prompts.map((prompt) => {
    const columns = E.prepare(prompt);
    return settings.map((one) => {
      const r = E.distribution(columns, {...one, topK: one.topK ?? Infinity});
      return {p: Array.from(columns.p), entropy: r.entropy, tokens: r.tokens};
    });
  });
}"""


def test_packing_writes_the_keys_of_like_objects_once() -> None:
    like = [{"x": i, "y": [{"z": 1}]} for i in range(3)]
    assert explorers.packed({"points": like}) == {
        "points": {"@columns": ["x", "y"], "@rows": [[i, [{"z": 1}]] for i in range(3)]}
    }
    for kept in ([{"x": 1}, {"x": 2}], [{"x": 1}, {"y": 2}, {"x": 3}], [{}, {}, {}], [1, 2, 3]):
        assert explorers.packed(kept) == kept


@browser_test
@pytest.mark.parametrize("name", explorers.NAMES)
def test_a_page_reads_packed_data_back_as_they_were(opened: Callable[..., Opened], name: str) -> None:
    read = opened(name).page.evaluate("name => document.querySelector(`alignlab-${name}`).data", name)
    assert read == json.loads(json.dumps(DATA[name]()))


@browser_test
def test_every_probability_equals_the_librarys_on_a_whole_vocabulary(opened: Callable[..., Opened]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 6 * torch.randn(
        3, 2000, generator=generator, dtype=torch.float64
    )  # of both signs: the penalty divides and multiplies
    seen = [0, 5, 17, 200, 1999]
    prompts = [{"logit": row.tolist(), "seen": seen} for row in logits]
    settings = [*SETTINGS, {"topK": 1}, {"topP": 0.05}, {"minP": 0.5, "penalty": 1.1}]
    got = opened("decoding").page.evaluate(DISTRIBUTION, [prompts, settings])
    for row, answers in zip(logits, got, strict=True):
        for setting, answer in zip(settings, answers, strict=True):
            want = exact(row, seen, setting)
            assert (torch.tensor(answer["p"], dtype=torch.float64) - want).abs().max() < 1e-6, setting
            assert answer["tokens"] == tokens_kept(row, seen, setting), setting
            assert answer["entropy"] == pytest.approx(entropy(want), abs=1e-6), setting


@browser_test
def test_temperature_zero_takes_the_likeliest_token_after_the_penalty(opened: Callable[..., Opened]) -> None:
    prompts = [{"logit": [5.0, 4.0, 3.0], "seen": [0]}]
    [[plain, pressed]] = opened("decoding").page.evaluate(
        DISTRIBUTION, [prompts, [{"temperature": 0}, {"temperature": 0, "penalty": 2.0}]]
    )
    assert plain["p"] == [1, 0, 0]
    assert pressed["p"] == [0, 1, 0]


@browser_test
def test_tokens_tied_with_the_kth_are_kept_as_in_the_library(opened: Callable[..., Opened]) -> None:
    tied = [3.0, 2.0, 2.0, 2.0, 1.0]
    [[answer]] = opened("decoding").page.evaluate(DISTRIBUTION, [[{"logit": tied, "seen": []}], [{"topK": 2}]])
    want = exact(torch.tensor(tied, dtype=torch.float64), [0], {"topK": 2})
    assert answer["p"] == pytest.approx(want.tolist(), abs=1e-9)


@browser_test
def test_the_order_of_operations_matters_and_is_temperature_first(opened: Callable[..., Opened]) -> None:
    logits = torch.linspace(4, 0, 40, dtype=torch.float64)
    setting = {"temperature": 2.0, "topP": 0.9}
    [[answer]] = opened("decoding").page.evaluate(DISTRIBUTION, [[{"logit": logits.tolist(), "seen": []}], [setting]])
    other_way = Sampling(temperature=2.0).apply(
        Sampling(top_p=0.9).apply(logits[None], torch.zeros(1, 0, dtype=torch.long)),
        torch.zeros(1, 0, dtype=torch.long),
    )
    assert answer["tokens"] == (exact(logits, [], setting) > 0).sum()
    assert answer["tokens"] != (other_way > -torch.inf).sum()


def _close(
    errors: tuple[float, float, float, float], want: torch.Tensor, settings: dict[str, Any], shown: list[int]
) -> bool:
    """Within a thousandth; where a cut falls inside a group of the tail, one token more or less is allowed."""
    token, tail, nats, kept = errors
    cuts = bool({"topK", "topP", "minP"} & settings.keys())
    rest = want.clone()
    rest[shown] = 0
    one = rest.max().item() if cuts else 0.0
    return token < 1e-3 and tail < 1e-3 + one and nats < 2e-3 + 2 * one and kept < 0.01


def _errors(answer: dict[str, Any], columns: Any, want: torch.Tensor, kept: int) -> tuple[float, float, float, float]:
    """Errors: a shown token's probability, the tail's mass, the entropy, and (relative) the tokens kept."""
    shown = torch.tensor(columns["id"])
    p = torch.tensor(answer["p"], dtype=torch.float64)
    tail = abs(p[len(shown) :].sum() - (want.sum() - want[shown].sum())).item()
    return (
        (p[: len(shown)] - want[shown]).abs().max().item(),
        tail,
        abs(answer["entropy"] - entropy(want)),
        abs(answer["tokens"] - kept) / kept,
    )


@browser_test
def test_a_few_hundred_numbers_stand_for_the_whole_vocabulary_within_a_thousandth(
    opened: Callable[..., Opened],
) -> None:
    seen = torch.randint(VOCABULARY, (30,), generator=torch.Generator().manual_seed(1)).tolist()
    summaries = [next_token_columns(logits, seen) for logits in CASES.values()]
    got = opened("decoding").page.evaluate(DISTRIBUTION, [summaries, SETTINGS])
    for logits, columns, answers in zip(CASES.values(), summaries, got, strict=True):
        assert len(columns["logit"]) + len(columns["tail"]["logit"]) < 640
        for setting, answer in zip(SETTINGS, answers, strict=True):
            want = exact(logits, seen, setting)
            errors = _errors(answer, columns, want, tokens_kept(logits, seen, setting))
            assert _close(errors, want, setting, columns["id"]), (setting, errors)


@browser_test
def test_a_coarser_summary_would_be_caught(opened: Callable[..., Opened]) -> None:
    coarse, setting = next_token_columns(CASES["flat"], [], singles=0, growth=3.0), {"temperature": 2.0}
    [[answer]] = opened("decoding").page.evaluate(DISTRIBUTION, [[coarse], [setting]])
    want = exact(CASES["flat"], [0], setting)
    assert not _close(_errors(answer, coarse, want, VOCABULARY), want, setting, coarse["id"])


@pytest.mark.skipif(not DECODING.exists(), reason="the lab ch04_next_token has not been run yet")
def test_the_labs_data_are_small_enough_for_a_page_and_hold_both_running_examples() -> None:
    assert DECODING.stat().st_size < 120_000
    data = decoding_data()
    assert len(data["prompts"]) == 12
    assert {"who", "sum"} <= {prompt["name"] for prompt in data["prompts"]}
    for prompt in data["prompts"]:
        assert len(prompt["id"]) + sum(prompt["tail"]["size"]) == data["vocabulary"] == VOCABULARY
        assert len(prompt["text"]) == len(prompt["logit"])
        assert prompt["logit"] == sorted(prompt["logit"], reverse=True)


@browser_test
@pytest.mark.slow
@pytest.mark.skipif(not DECODING.exists(), reason="the lab ch04_next_token has not been run yet")
def test_the_figure_tells_the_truth_about_the_real_model(opened: Callable[..., Opened]) -> None:
    from alignlab import models

    model, tokenizer = models.load("small", "cpu")
    prompts = decoding_data()["prompts"]
    got = opened("decoding").page.evaluate(DISTRIBUTION, [prompts, SETTINGS])
    for prompt, answers in zip(prompts, got, strict=True):
        ids = tokenizer.encode("".join(prompt["context"]), add_special_tokens=False)
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, -1].double()
        for setting, answer in zip(SETTINGS, answers, strict=True):
            want = exact(logits, ids, setting)
            errors = _errors(answer, prompt, want, tokens_kept(logits, ids, setting))
            assert _close(errors, want, setting, prompt["id"]), (prompt["name"], setting, errors)


@browser_test
@pytest.mark.slow
@pytest.mark.skipif(not BEAM_TREE.exists(), reason="the lab ch04_decoding has not been run yet")
def test_the_trees_of_the_lab_find_what_beam_search_finds_on_smollm2(opened: Callable[..., Opened], small: Any) -> None:
    model, tokenizer = small
    data = json.loads(BEAM_TREE.read_text(encoding="utf-8"))["data"]
    page = opened("beam_tree").page
    for width, alpha in ((1, 1.0), (3, 0.0), (5, 1.0)):
        setting = {"width": width, "alpha": alpha, "early": False, "depth": data["depth"]}
        told = page.evaluate(
            """([trees, setting]) => {
              const { prepare, search, path } = customElements.get("alignlab-beam_tree");
              return trees.map((one) => {
                const tree = prepare(one.nodes);
                const words = (node) => path(tree, node).map((k) => tree.text[k]).join("");
                return search(tree, setting).steps.at(-1).finished.map((f) => [words(f.node), f.score]);
              });
            }""",
            [data["trees"], setting],
        )
        found = decoding.beam_search(
            model, [tree["ids"] for tree in data["trees"]], data["depth"], width, length_penalty=alpha,
            stop_id=tokenizer.eos_token_id,
        )  # fmt: skip
        for texts, hypotheses in zip(told, found, strict=True):
            assert [text for text, _ in texts] == [
                "".join(tokenizer.decode([id]) for id in hypothesis.ids) for hypothesis in hypotheses
            ]
            assert [score for _, score in texts] == pytest.approx([one.score for one in hypotheses], abs=1e-3)


@browser_test
def test_the_tree_finds_what_the_librarys_beam_search_finds(opened: Callable[..., Opened]) -> None:
    settings = [
        {"width": width, "alpha": alpha, "early": early, "depth": BEAM_DEPTH}
        for width in (1, 2, 3, 4)
        for alpha in (0.0, 0.5, 1.0, 2.0)
        for early in (False, True, "never")
    ]
    got = opened("beam_tree").page.evaluate(
        """([trees, settings]) => {
          const { prepare, search, path } = customElements.get("alignlab-beam_tree");
          return trees.map((one) => {
            const tree = prepare(one.nodes);
            return settings.map((setting) => {
              const { steps } = search(tree, setting);
              const words = (node) => path(tree, node).map((k) => tree.text[k]);
              const told = steps.at(-1).finished.map((f) => [words(f.node), f.score, f.total]);
              return { length: steps.length, told };
            });
          });
        }""",
        [beam_tree_data()["trees"], settings],
    )
    lengths = set()
    for seed, answers in enumerate(got):
        for setting, answer in zip(settings, answers, strict=True):
            beams = Beams(
                setting["width"], BEAM_DEPTH, length_penalty=setting["alpha"], early_stopping=setting["early"],
                stop_id=BEAM_STOP,
            )  # fmt: skip
            steps = 0
            while not beams.done:
                beams.advance(beam_candidates(beams, seed))
                steps += 1
            lengths.add(steps)
            assert answer["length"] == steps, setting
            texts = [[f" word{t}" for t in one.ids] + [""] * one.ended for one in beams.finished]
            assert [text for text, _, _ in answer["told"]] == texts, setting
            assert [score for _, score, _ in answer["told"]] == pytest.approx([one.score for one in beams.finished])
            assert [total for _, _, total in answer["told"]] == pytest.approx([one.logprob for one in beams.finished])
    assert len(lengths) > 1  # searches that end early, and such that do not


@browser_test
def test_the_generator_is_mulberry32_and_a_draw_falls_where_the_mass_is(opened: Callable[..., Opened]) -> None:
    page = opened("decoding").page

    def mulberry32(seed: int) -> Iterator[float]:
        a = seed
        while True:
            a = (a + 0x6D2B79F5) & 0xFFFFFFFF
            t = ((a ^ (a >> 15)) * (a | 1)) & 0xFFFFFFFF
            t ^= (t + (((t ^ (t >> 7)) * (t | 61)) & 0xFFFFFFFF)) & 0xFFFFFFFF
            yield ((t ^ (t >> 14)) & 0xFFFFFFFF) / 2**32

    stream = mulberry32(7)
    want = [next(stream) for _ in range(5)]
    assert page.evaluate("() => Array.from({length: 5}, customElements.get('alignlab-decoding').mulberry32(7))") == want
    shares = page.evaluate("""() => {
      const E = customElements.get('alignlab-decoding'), c = E.prepare({logit: [2, 1, 0], seen: []});
      const r = E.mulberry32(1), n = [0, 0, 0];
      E.distribution(c, {});
      for (let k = 0; k < 20000; k++) n[E.draw(c, r())]++;
      return n.map((x) => x / 20000);
    }""")
    assert shares == pytest.approx(torch.tensor([2.0, 1.0, 0.0]).softmax(-1).tolist(), abs=0.01)


@browser_test
def test_dpo_numbers_equal_the_librarys_loss_and_its_gradient(opened: Callable[..., Opened]) -> None:
    chosen = torch.tensor([3.0, -2.0, 0.0, 40.0, -900.0], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([-5.0, 4.0, 0.0, -80.0, 900.0], dtype=torch.float64)
    zero = torch.zeros(5, dtype=torch.float64)
    page = opened("dpo").page
    for beta in (0.01, 0.1, 1.0):
        loss = dpo_loss(PairLogps(chosen, rejected), PairLogps(zero, zero), beta)
        [gradient] = torch.autograd.grad(loss.sum(), chosen)
        got = page.evaluate(
            "([c, r, b]) => c.map((x, k) => customElements.get('alignlab-dpo').dpo(x, r[k], b))",
            [chosen.tolist(), rejected.tolist(), beta],
        )
        assert [one["loss"] for one in got] == pytest.approx(loss.tolist(), rel=1e-9, abs=1e-12)
        assert [one["weight"] for one in got] == pytest.approx((-gradient).tolist(), rel=1e-9, abs=1e-12)
        assert [one["rewards"] for one in got] == [
            [beta * c, beta * r] for c, r in zip(chosen.tolist(), rejected.tolist(), strict=True)
        ]


PAIRS: dict[str, list[float]] = {
    # log-ratios and log-probabilities of chosen and rejected (summed, nats) and their tokens; the last are far out
    "chosen": [0.0, 1.5, -2.0, 0.7, 30.0, -40.0],
    "rejected": [0.0, -2.5, 1.0, 0.9, -200.0, 60.0],
    "chosen_logp": [-6.0, -3.5, -12.0, -0.5, -1e-3, -90.0],
    "rejected_logp": [-6.0, -9.0, -4.0, -0.75, -260.0, -0.02],
    "chosen_tokens": [8, 8, 11, 3, 5, 12],
    "rejected_tokens": [8, 14, 6, 9, 20, 4],
}
FAMILY = [
    {"beta": 0.1, "tau": 0.1, "orpo": 0.1, "simpo": 2.0, "gamma": 0.5, "desirable": 1.0, "undesirable": 1.0, "kl": 0.0},
    {"beta": 0.5, "tau": 0.7, "orpo": 1.5, "simpo": 4.0, "gamma": 0.0, "desirable": 1.3, "undesirable": 0.6, "kl": 2.5},
    {"beta": 3.0, "tau": 2.0, "orpo": 0.3, "simpo": 0.7, "gamma": 3.0, "desirable": 0.2, "undesirable": 3.0, "kl": -4},
]
LOSSES = """([pairs, settings]) => {
  const { losses } = customElements.get("alignlab-preference_losses");
  const all = Object.entries(losses);
  return Object.fromEntries(all.map(([name, loss]) => [name, pairs.map((pair) => loss(pair, settings))]));
}"""


def by_the_library(setting: dict[str, float], lengths: str) -> dict[str, tuple[list[float], list[float], list[float]]]:
    """Each method's losses, and its pulls: -dL/dlog pi(chosen) and dL/dlog pi(rejected), by autograd in float64."""
    value = {key: torch.tensor(numbers, dtype=torch.float64) for key, numbers in PAIRS.items()}
    policy = PairLogps(value["chosen_logp"].requires_grad_(), value["rejected_logp"].requires_grad_())
    reference = PairLogps(*[(value[f"{one}_logp"] - value[one]).detach() for one in ("chosen", "rejected")])
    tokens = PairLogps(value["chosen_tokens"], value["rejected_tokens"])
    mean, mean_reference = per_token(policy, tokens), per_token(reference, tokens)
    beta, kl = setting["beta"], torch.tensor(setting["kl"], dtype=torch.float64)
    weights = (setting["desirable"], setting["undesirable"])
    good, bad = torch.ones(6, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)
    trl = lengths == "trl"
    losses = {
        "dpo": dpo_loss(policy, reference, beta),
        "ipo": ipo_loss(*((mean, mean_reference) if trl else (policy, reference)), setting["tau"]),
        "kto": kto_loss(policy.chosen, reference.chosen, good, kl, beta, *weights)
        + kto_loss(policy.rejected, reference.rejected, bad, kl, beta, *weights),
        "orpo": orpo_loss(mean, setting["orpo"]),
        "cpo": cpo_loss(policy, beta, nll=-mean.chosen if trl else None),
        "simpo": simpo_loss(mean, setting["simpo"], setting["gamma"]),
    }
    answers = {}
    for name, loss in losses.items():
        chosen, rejected = torch.autograd.grad(loss.sum(), policy, retain_graph=True)
        answers[name] = (loss.tolist(), (-chosen).tolist(), rejected.tolist())
    return answers


def as_pairs() -> list[dict[str, float]]:
    rows = zip(*PAIRS.values(), strict=True)
    return [dict(zip(("c", "r", "lw", "ll", "nw", "nl"), row, strict=True)) for row in rows]


@browser_test
@pytest.mark.parametrize("lengths", ["trl", "paper"])
def test_six_losses_and_both_their_gradients_equal_the_librarys(opened: Callable[..., Opened], lengths: str) -> None:
    page = opened("preference_losses").page
    for setting in FAMILY:
        got = page.evaluate(LOSSES, [as_pairs(), {**setting, "lengths": lengths}])
        want = by_the_library(setting, lengths)
        assert got.keys() == want.keys()
        for name, (loss, up, down) in want.items():
            assert [one["loss"] for one in got[name]] == pytest.approx(loss, rel=1e-9, abs=1e-12), (name, setting)
            assert [one["up"] for one in got[name]] == pytest.approx(up, rel=1e-7, abs=1e-12), (name, setting)
            assert [one["down"] for one in got[name]] == pytest.approx(down, rel=1e-7, abs=1e-12), (name, setting)


@browser_test
def test_a_line_moves_its_pair_along_every_axis_and_the_pull_is_the_lines_slope(opened: Callable[..., Opened]) -> None:
    page = opened("preference_losses").page
    for of in ("ratio", "logp"):
        for per in ("sum", "token"):
            for pair in as_pairs()[1:4]:
                before, after = page.evaluate(
                    """([pair, axis]) => {
                      const E = customElements.get("alignlab-preference_losses");
                      return [E.margin(pair, axis), E.margin(E.moved(pair, 0.25 * E.stretch(pair, axis)), axis)];
                    }""",
                    [pair, {"of": of, "per": per}],
                )
                assert after - before == pytest.approx(0.25, abs=1e-9)
    slopes = page.evaluate(
        """([pairs, settings]) => {
          const { losses, moved } = customElements.get("alignlab-preference_losses");
          return Object.values(losses).flatMap((loss) => pairs.map((pair) => {
            const at = (d) => loss(moved(pair, d), settings).loss;
            const { up, down } = loss(pair, settings);
            return [(at(-1e-4) - at(1e-4)) / 2e-4, (up + down) / 2];
          }));
        }""",
        [as_pairs()[:4], {**FAMILY[1], "lengths": "trl"}],
    )
    assert [slope for slope, _ in slopes] == pytest.approx([pull for _, pull in slopes], rel=1e-5, abs=1e-8)


@browser_test
def test_a_chosen_response_cannot_be_likelier_than_certain(opened: Callable[..., Opened]) -> None:
    sure = {"c": 1.0, "r": 0.0, "lw": 0.3, "ll": -4.0, "nw": 5, "nl": 5}
    got = opened("preference_losses").page.evaluate(LOSSES, [[sure], {**FAMILY[0], "lengths": "trl"}])
    assert {name for name, [one] in got.items() if one["loss"] is None or math.isnan(one["loss"])} == {"orpo", "cpo"}


@browser_test
def test_a_real_pair_of_the_losses_can_be_read_by_key_by_finger_and_by_mouse(opened: Callable[..., Opened]) -> None:
    page = opened("preference_losses").page
    element = page.locator("alignlab-preference_losses")
    points = losses_data()["points"]
    order = sorted(range(len(points)), key=lambda k: points[k]["chosen"] - points[k]["rejected"])
    text = element.locator("dl dd")

    def said(k: int) -> list[str]:
        prompt, answers = points[k]["name"].split(" ... ")
        return [prompt, *answers.split(" | ")]

    element.get_by_role("listbox").focus()
    page.keyboard.press("Home")
    assert text.all_text_contents() == said(order[0])
    page.keyboard.press("ArrowRight")
    assert text.all_text_contents() == said(order[1])
    page.keyboard.press("End")
    assert text.all_text_contents() == said(order[-1])
    dot = element.locator("[role=option][id$='-7'] circle.dpo").bounding_box()
    assert dot is not None
    page.mouse.click(dot["x"] + dot["width"] / 2, dot["y"] + dot["height"] / 2)
    assert element.locator(".card-head b").text_content() == "Pair 8 of 40"


@browser_test
def test_a_method_not_shown_is_not_drawn_and_one_that_lacks_its_data_cannot_be_chosen(
    opened: Callable[..., Opened],
) -> None:
    page = opened("preference_losses").page
    element = page.locator("alignlab-preference_losses").first
    line = element.locator("path.method.simpo").first
    assert line.get_attribute("visibility") == "visible"
    element.get_by_label("SimPO", exact=True).uncheck()
    assert line.get_attribute("visibility") == "hidden"
    page.evaluate(
        "(data) => { const e = document.createElement('alignlab-preference_losses'); e.id = 'bare'; e.data = data; "
        "document.body.append(e); }",
        {"points": [{"name": "a pair", "chosen": 1.0, "rejected": -2.0}], "beta": 0.1},
    )
    bare = page.locator("#bare")
    assert bare.get_by_label("SimPO", exact=True).is_disabled()
    assert bare.get_by_label("DPO", exact=True).is_enabled()
    assert bare.locator(".said-pair").text_content() == "a pair"
    assert bare.locator(".method-row.dpo .value").first.text_content() == f"{math.log1p(math.exp(-0.3)):.2f}"


def survivors(data: dict[str, Any], near: float, margin: float, ratio: float, leak: float, reverse: bool) -> list[int]:
    """The pairs that a plain reading of the filters keeps."""
    gone = {prompt["id"] for prompt in data["prompts"] if prompt["exact"] or prompt["near"] >= near}
    kept = []
    for k, pair in enumerate(data["pairs"]):
        lengths = sorted((pair["chosen_tokens"], pair["rejected_tokens"]))
        if (
            pair["prompt"] not in gone
            and not (reverse and pair["contradicts"])
            and pair["score_chosen"] - pair["score_rejected"] >= margin
            and lengths[1] <= ratio * lengths[0]
            and pair["leak"] < leak
        ):
            kept.append(k)
    return kept


@browser_test
def test_the_funnel_keeps_what_a_plain_reading_of_its_filters_keeps(opened: Callable[..., Opened]) -> None:
    page, data = opened("preference_funnel").page, funnel_data()
    run = "([data, limits]) => customElements.get('alignlab-preference_funnel').funnel(data, limits)"
    for near, margin, ratio, leak, reverse in (
        (2.0, -9.0, 99.0, 2.0, False),
        (0.7, 0.5, 2.0, 0.5, True),
        (0.4, 1.0, 1.3, 0.1, False),
        (0.9, 0.0, 1.1, 0.9, True),
    ):
        limits = {"exact": True, "near": near, "margin": margin, "ratio": ratio, "leak": leak}
        limits["contradictions"] = reverse
        got = page.evaluate(run, [data, limits])
        assert got["pairs"] == survivors(data, near, margin, ratio, leak, reverse)
        for stage in got["stages"]:
            assert sorted(stage["kept"] + stage["removed"]) == stage["before"]
    assert len(page.evaluate(run, [data, {}])["pairs"]) == 120
    got = page.evaluate(
        "([data, all]) => customElements.get('alignlab-preference_funnel').portrait(data, all)", [data, [0, 1, 2, 5]]
    )
    four = [data["pairs"][k] for k in (0, 1, 2, 5)]
    lengths = [pair["chosen_tokens"] - pair["rejected_tokens"] for pair in four]
    decided = [pair["truth"] for pair in four if pair["truth"]]
    assert got["longer"] == sum(1.0 if d > 0 else 0.5 if d == 0 else 0.0 for d in lengths) / 4
    assert got["right"] == decided.count(1) / len(decided)
    assert got["margin"] == pytest.approx(sum(pair["score_chosen"] - pair["score_rejected"] for pair in four) / 4)


@browser_test
def test_a_field_that_is_missing_removes_nothing_and_its_filter_is_left_out(opened: Callable[..., Opened]) -> None:
    page = opened("preference_funnel").page
    data = funnel_data()
    for pair in data["pairs"]:
        del pair["leak"]
    for prompt in data["prompts"]:
        prompt["near"] = None
    got = page.evaluate(
        "([data, limits]) => customElements.get('alignlab-preference_funnel').funnel(data, limits).pairs",
        [data, {"near": 0.05, "leak": 0.05}],
    )
    assert len(got) == 120
    page.evaluate(
        "(data) => { const e = document.createElement('alignlab-preference_funnel'); e.id = 'bare'; e.data = data; "
        "document.body.append(e); }",
        data,
    )
    names = page.locator("#bare .stage-name").all_text_contents()
    assert "Near-ties" in names and not {"Leakage", "Near-duplicates"} & set(names)


@browser_test
def test_the_texts_of_a_stage_can_be_read_page_by_page(opened: Callable[..., Opened]) -> None:
    page, data = opened("preference_funnel").page, funnel_data()
    element = page.locator("alignlab-preference_funnel")
    element.get_by_role("button", name="No filter").click()
    element.get_by_role("button", name="Contradictions").click()
    assert element.locator(".empty").text_content() == "This step removes nothing."
    element.get_by_label("drop them").last.check()
    reverse = [pair for pair in data["pairs"] if pair["contradicts"]]
    shown: list[str] = []
    for _ in range(2):
        shown += element.locator(".text-card:visible .answers p:first-of-type").all_text_contents()
        element.get_by_role("button", name="More texts").click()
    assert shown[: len(reverse)] == [pair["chosen"] for pair in reverse]
    assert element.locator(".list-count").text_content() == f"1–4 of {len(reverse)}"
    element.get_by_role("button", name="Kept after it").click()
    assert element.locator(".list-count").text_content() == f"1–4 of {120 - len(reverse)}"


@browser_test
def test_distance_tail_and_mean_of_a_return_distribution_are_the_librarys(opened: Callable[..., Opened]) -> None:
    page, data = opened("return_distribution").page, return_distribution_data()
    action = data["places"][0]["actions"][0]
    truth = distributional.distribution(torch.tensor(action["exact"]["values"]), torch.tensor(action["exact"]["probs"]))
    for agent in ("DQN", "C51", "QR-DQN"):
        for k in (1, 3):
            got = page.evaluate(
                """([data, agent, k]) => {
                  const E = customElements.get('alignlab-return_distribution');
                  const action = data.places[0].actions[0];
                  const z = E.belief(data, action, agent, k);
                  return [E.mean(z), E.wasserstein(z, action.exact), E.cvar(z, 0.1), E.cvar(z, 0.55), E.cdf(z, 0.3)];
                }""",
                [data, agent, k],
            )
            out = torch.tensor(action[agent][k], dtype=torch.float64)
            values = torch.linspace(-1.6, 1.0, 51, dtype=torch.float64) if agent == "C51" else out
            z = distributional.distribution(values, out / out.sum() if agent == "C51" else None)
            tails = [distributional.cvar(z, share) for share in (0.1, 0.55)]
            want = [z.mean(), distributional.wasserstein(z, truth), *tails, z.below(0.3)]
            assert got == pytest.approx(want, abs=1e-6)


@browser_test
def test_step_agent_and_action_pick_the_distribution_that_is_shown(opened: Callable[..., Opened]) -> None:
    page, data = opened("return_distribution").page, return_distribution_data()
    element = page.locator("alignlab-return_distribution")
    mean = element.locator(".figure b").first

    def said(value: float) -> str:
        return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")

    first, second = data["places"][0]["actions"]
    element.get_by_role("button", name="DQN", exact=True).click()
    assert mean.text_content() == said(first["DQN"][3])
    element.get_by_role("button", name="up", exact=True).click()
    assert mean.text_content() == said(second["DQN"][3])
    element.get_by_label("Updates").evaluate("e => { e.value = 1; e.dispatchEvent(new Event('input')); }")
    assert mean.text_content() == said(second["DQN"][1])
    element.get_by_label("Where").select_option("above")
    assert mean.text_content() == said(data["places"][1]["actions"][0]["DQN"][1])
    element.get_by_role("button", name="cumulative").click()
    assert element.locator(".believed-line").get_attribute("d")


@browser_test
def test_the_worst_share_of_one_is_the_mean(opened: Callable[..., Opened]) -> None:
    element = opened("return_distribution").page.locator("alignlab-return_distribution")
    share = element.get_by_label("Worst share")
    share.evaluate("e => { e.value = e.max; e.dispatchEvent(new Event('input')); }")
    figures = element.locator(".figure b").all_text_contents()
    assert figures[0] == figures[1]
    share.evaluate("e => { e.value = 0; e.dispatchEvent(new Event('input')); }")
    assert element.locator(".figure b").all_text_contents()[1] != figures[0]


@browser_test
def test_the_frontier_is_read_between_its_points_and_a_run_at_its_last_saved_step(
    opened: Callable[..., Opened],
) -> None:
    page = opened("overoptimization").page
    frontier = overoptimization_data()["frontier"]
    got = page.evaluate(
        "([f, kls]) => kls.map((kl) => customElements.get('alignlab-overoptimization').frontierAt(f, kl))",
        [frontier[::-1], [0.005, 0.1525, 0.66, 2, 9.0]],
    )
    assert got == pytest.approx([1.43, (1.68 + 1.89) / 2, 2.18, 2.5, 2.5])
    below = page.evaluate("f => customElements.get('alignlab-overoptimization').frontierAt(f, 0.001)", frontier)
    assert math.isnan(below)
    run = {"points": [{"step": 0, "gold": 1.0}, {"step": 10, "gold": 2.0}, {"step": 30, "gold": 1.5}]}
    steps = page.evaluate(
        """(run) => {
          const E = customElements.get('alignlab-overoptimization');
          return [...[0, 9, 10, 29, 30, 99].map((step) => E.pointAt(run, step).step), E.best(run).step];
        }""",
        run,
    )
    assert steps == [0, 0, 10, 10, 30, 30, 10]


@browser_test
def test_beta_and_step_pick_the_point_that_is_shown(opened: Callable[..., Opened]) -> None:
    page, data = opened("overoptimization").page, overoptimization_data()
    element = page.locator("alignlab-overoptimization")
    gold = element.locator(".figure b").first
    worst = max(data["runs"], key=lambda run: max(p["gold"] for p in run["points"]) - run["points"][-1]["gold"])
    assert gold.text_content() == f"{worst['points'][-1]['gold']:.2f}".replace("-", "−")
    element.get_by_role("button", name="To the best gold").click()
    assert gold.text_content() == f"{max(p['gold'] for p in worst['points']):.2f}"
    beta, step = element.get_by_label("β of the run"), element.get_by_label("Training step")
    beta.evaluate("e => { e.value = 3; e.dispatchEvent(new Event('input')); }")
    step.evaluate("e => { e.value = 5; e.dispatchEvent(new Event('input')); }")
    element.get_by_label("Run", exact=True).select_option("seed 1")
    run = next(run for run in data["runs"] if run["beta"] == 1.0 and run["seed"] == 1)
    assert gold.text_content() == f"{run['points'][5]['gold']:.2f}"


@browser_test
def test_a_run_of_steps_kl_and_gold_alone_is_drawn(opened: Callable[..., Opened]) -> None:
    visit = opened("overoptimization")
    points = [{"step": k, "kl": 0.1 * k, "gold": 1.0 + 0.1 * k} for k in range(4)]
    visit.page.evaluate(
        "(data) => { const e = document.createElement('alignlab-overoptimization'); e.id = 'bare'; e.data = data; "
        "document.body.append(e); }",
        {"runs": [{"beta": 0.1, "points": points}]},
    )
    bare = visit.page.locator("#bare")
    assert bare.locator(".figure b").all_text_contents() == ["1.30", "0.30"]
    assert bare.locator(".verdict").text_content() == "Gold rises to the end of training."
    assert visit.errors == []


@browser_test
def test_a_vote_of_chains_equals_the_librarys_for_every_number_of_votes(opened: Callable[..., Opened]) -> None:
    from collections import Counter

    from alignlab.reasoning.voting import majority, vote_at_n

    page = opened("cot_cost").page
    ballots: list[tuple[list[int | None], int]] = [
        ([50, 40, 50, 49, 40, 50, 48, None], 50),
        ([50, 40, 50, 49, 40, 50, 48, None], 40),
        ([41, 41, 42, 42], 42),
        ([None, 7, 7, None, None, 8], 7),
        ([1, 2, 3, 4, 5], 3),
        ([1, 2, 3], 9),
    ]
    for answers, right in ballots:
        winner, chances = page.evaluate(
            """([answers, right]) => {
              const E = customElements.get("alignlab-cot_cost");
              return [E.majority(answers), answers.map((_, k) => E.voteAtN(answers, right, k + 1))];
            }""",
            [answers, right],
        )
        assert winner == majority(answers)
        assert chances == pytest.approx([vote_at_n(Counter(answers), right, n + 1) for n in range(len(answers))])


@browser_test
def test_accuracy_at_a_cost_is_read_between_the_points_of_a_curve(opened: Callable[..., Opened]) -> None:
    points = [{"tokens": 10, "accuracy": 0.2}, {"tokens": 30, "accuracy": 0.6}]
    got = opened("cot_cost").page.evaluate(
        "p => [5, 10, 15, 30, 99].map((t) => customElements.get('alignlab-cot_cost').accuracyAt(p, t))", points
    )
    assert got == pytest.approx([0.2, 0.2, 0.3, 0.6, 0.6])


@browser_test
def test_the_chains_that_vote_are_those_that_are_counted(opened: Callable[..., Opened]) -> None:
    page, data = opened("cot_cost").page, cot_data()
    element = page.locator("alignlab-cot_cost")
    votes, problem = element.get_by_label("Chains that vote"), element.get_by_label("Problem", exact=True)
    problem.evaluate("e => { e.value = 3; e.dispatchEvent(new Event('input')); }")
    votes.evaluate("e => { e.value = 6; e.dispatchEvent(new Event('input')); }")
    trace = data["groups"][0]["traces"][3]
    cast = [chain[3] for chain in trace["chains"][:7]]
    assert element.locator("li.votes").count() == 7
    assert element.locator(".figure b").nth(1).text_content() == str(sum(chain[2] for chain in trace["chains"][:7]))
    assert sum(int(text) for text in element.locator(".tally > span").all_text_contents() if text) == len(cast)
    assert element.locator(".question").text_content() == trace["question"]
    element.get_by_role("button", name="8 terms").click()
    assert element.locator(".question").text_content() == data["groups"][1]["traces"][3]["question"]


def mulberry32(seed: int) -> Iterator[float]:
    """The generator of core.js, by its definition: 32-bit numbers, in [0, 1)."""
    a, mask = seed, 0xFFFFFFFF
    while True:
        a = (a + 0x6D2B79F5) & mask
        t = ((a ^ (a >> 15)) * (a | 1)) & mask
        t ^= (t + (((t ^ (t >> 7)) * (t | 61)) & mask)) & mask
        yield ((t ^ (t >> 14)) & mask) / 2**32


@browser_test
def test_the_rules_of_the_race_have_the_librarys_probabilities(opened: Callable[..., Opened]) -> None:
    page = opened("bandit_race").page
    draw = np.random.default_rng(0)
    for rule, knobs, make in (
        ("epsilonGreedy", (0.0, 0.1, 1.0), bandits.epsilon_greedy),
        ("ucb", (0.2, 2.0), bandits.ucb),
    ):
        for knob in knobs:
            counts = draw.integers(0, 4, (12, 4)).astype(float)  # small numbers: ties, and arms never pulled
            sums = np.floor(draw.random((12, 4)) * (counts + 1))
            got = page.evaluate(
                f"""([counts, sums, knob]) => counts.map((n, k) =>
                  customElements.get("alignlab-bandit_race").{rule}(n, sums[k], n.reduce((a, b) => a + b), knob))""",
                [counts.tolist(), sums.tolist(), knob],
            )
            want = [make(knob)(n[None], s[None], int(n.sum()))[0] for n, s in zip(counts, sums, strict=True)]
            assert np.array(got) == pytest.approx(np.array(want), abs=1e-12)


@browser_test
def test_a_game_of_the_race_is_the_librarys_on_the_same_payments(opened: Callable[..., Opened]) -> None:
    """UCB breaks no ties by chance once all arms are pulled: from there on both must pull the same arms."""
    means, pulls, seed = [0.3, 0.62, 0.5], 400, 5
    got = opened("bandit_race").page.evaluate(
        """([means, pulls, seed]) => {
          const one = customElements.get("alignlab-bandit_race").game(means, "c", 0.31, pulls, seed);
          return [one.actions, one.paid, one.regret].map((list) => Array.from(list));
        }""",
        [means, pulls, seed],
    )
    luck = mulberry32(seed)
    draws = [next(luck) for _ in range(pulls)]
    paid = np.array([[float(u < p) for p in means] for u in draws])
    first = iter(got[0][:3])

    def rule(counts: bandits.Array, sums: bandits.Array, t: int) -> bandits.Array:
        if t < 3:
            return np.eye(3)[[next(first)]]
        return np.eye(3)[bandits.ucb_index(counts, sums, t, 0.31).argmax(-1)]

    game = bandits.play(means, rule, pulls, 1, paid=paid[None])
    assert sorted(got[0][:3]) == [0, 1, 2]
    assert got[0] == game.actions[0].tolist()
    assert got[1] == game.rewards[0].tolist()
    assert got[2] == pytest.approx(bandits.regret(means, game.actions)[0].tolist())


@browser_test
def test_the_races_beta_has_the_moments_of_a_beta(opened: Callable[..., Opened]) -> None:
    page = opened("bandit_race").page
    for a, b in ((1, 1), (4, 2), (30, 90)):
        draws = page.evaluate(
            """([a, b]) => {
              const E = customElements.get("alignlab-bandit_race");
              const random = E.seeded(1);
              return Array.from({ length: 20000 }, () => E.beta(random, a, b));
            }""",
            [a, b],
        )
        variance = a * b / ((a + b) ** 2 * (a + b + 1))
        assert np.mean(draws) == pytest.approx(a / (a + b), abs=4 * (variance / 20000) ** 0.5)
        assert np.var(draws) == pytest.approx(variance, rel=0.05)


@browser_test
def test_the_race_shows_what_its_players_did(opened: Callable[..., Opened]) -> None:
    page, data = opened("bandit_race").page, bandit_data()
    element = page.locator("alignlab-bandit_race")
    element.get_by_label("Arms").select_option("1")
    element.get_by_label("Pulls so far").evaluate("e => { e.value = 0; e.dispatchEvent(new Event('input')); }")
    assert [t for t in element.locator(".arms.epsilon text").all_text_contents() if t.isdigit()].count("1") == 1
    element.get_by_label("Pulls so far").evaluate("e => { e.value = e.max; e.dispatchEvent(new Event('input')); }")
    for key in ("epsilon", "c", "thompson"):
        shown = element.locator(f".arms.{key} text").all_text_contents()
        pulls = [int(text.replace(",", "")) for text in shown if text.replace(",", "").isdigit()]
        assert sum(pulls) == 1000 and len(pulls) == 5
        lost = sum(n * (0.9 - p) for n, p in zip(pulls, data["worlds"][1]["means"], strict=True))
        place = ("epsilon", "c", "thompson").index(key)
        figure = float((element.locator(".figure b").nth(place).text_content() or "").replace(",", ""))
        assert figure == pytest.approx(lost, abs=0.51)


@browser_test
def test_filters_of_the_map_leave_what_they_say(opened: Callable[..., Opened]) -> None:
    page = opened("algorithm_map").page
    element = page.locator("alignlab-algorithm_map")
    element.get_by_label("From whose data").select_option("off")
    element.get_by_label("Actions").select_option("continuous")
    element.get_by_label("Up to the year").evaluate("e => { e.value = e.max; e.dispatchEvent(new Event('input')); }")
    want = {one.name for one in algorithms.ALGORITHMS if one.data == "off" and one.actions in ("continuous", "both")}
    assert set(element.locator(".chip:not(:disabled)").all_text_contents()) - {"Show all"} == want
    assert (element.locator(".verdict").text_content() or "").startswith(f"{len(want)} of ")
    element.get_by_role("button", name="Show all").click()
    assert element.locator(".chip:not(:disabled)").count() == len(algorithms.ALGORITHMS) + 1
    element.get_by_role("button", name="SAC", exact=True).click()
    assert (element.locator(".named").text_content() or "").startswith("SAC 2018")
    kin = page.evaluate(
        "() => { const e = document.querySelector('alignlab-algorithm_map');"
        " return [...e.constructor.relatives(e.data.algorithms, 'QMIX')]; }"
    )
    assert set(kin) == {"QMIX", "VDN", "DQN", "Q-learning", "TD(λ)", "Value iteration"}


@browser_test
def test_the_map_leads_to_the_sections_of_the_book(opened: Callable[..., Opened]) -> None:
    page = opened("algorithm_map").page
    element = page.locator("alignlab-algorithm_map")
    assert element.locator(".card-of a").count() == 0  # on a page of its own there is no book to lead to
    page.evaluate("document.documentElement.dataset.content_root = '../../'")
    page.evaluate(
        "() => { const e = document.createElement('alignlab-algorithm_map');"
        " e.data = document.querySelector('alignlab-algorithm_map').data; e.id = 'second'; document.body.append(e); }"
    )
    link = page.locator("#second .card-of a")
    assert link.get_attribute("href") == "../../book/ch06_policy_optimization/grpo.html#sec-6-4-1"


@browser_test
def test_filters_of_the_timeline_leave_what_they_say(opened: Callable[..., Opened]) -> None:
    page = opened("timeline").page
    element = page.locator("alignlab-timeline")
    element.get_by_label("Subject").select_option("language")
    element.get_by_label("Weights").select_option("open")
    element.get_by_label("From", exact=True).evaluate("e => { e.value = 7; e.dispatchEvent(new Event('input')); }")
    want = {
        one.name
        for one in milestones.MILESTONES
        if one.subject == "language" and one.open is True and one.date >= "2019"
    }
    assert set(element.locator(".chips .chip:not(:disabled)").all_text_contents()) == want
    assert (element.locator(".verdict").text_content() or "").startswith(f"{len(want)} of {len(milestones.MILESTONES)}")
    assert element.locator("circle:visible").count() == len(want)
    element.get_by_role("button", name="Show all").click()
    assert element.locator("circle:visible").count() == len(milestones.MILESTONES)
    element.get_by_role("button", name="BERT", exact=True).click()
    assert (element.locator(".named").text_content() or "") == "BERT October 2018"
    assert "Grew fromTransformer, ELMo, GPT-1" in (element.locator(".facts").text_content() or "")


@browser_test
def test_dots_of_the_timeline_cover_no_other_and_stand_at_the_logarithm_of_their_size(
    opened: Callable[..., Opened],
) -> None:
    page = opened("timeline").page
    element = page.locator("alignlab-timeline")
    spots = "all => all.map(c => [c.style.display, +c.getAttribute('cx'), +c.getAttribute('cy')])"
    placed = [(x, y) for hidden, x, y in element.locator("circle").evaluate_all(spots) if hidden != "none"]
    assert len(placed) == len(milestones.MILESTONES)
    for k, (x, y) in enumerate(placed):
        assert all(math.hypot(x - u, y - v) >= 8 for u, v in placed[:k])
    element.get_by_role("button", name="By parameters").click()
    ordered = sorted(milestones.MILESTONES, key=lambda one: one.date)
    shown = element.locator("circle").evaluate_all(spots)
    known = [(one.parameters, spot) for one, spot in zip(ordered, shown, strict=True) if one.parameters]
    assert all((spot[0] == "none") == (one.parameters is None) for one, spot in zip(ordered, shown, strict=True))
    heights = np.array([spot[2] for _, spot in known])
    logs = np.log10([size for size, _ in known])
    slope, start = np.polyfit(logs, heights, 1)
    assert slope < 0 and np.abs(heights - (slope * logs + start)).max() < 0.1
    times = np.array([int(one.date[:4]) + (int(one.date[5:]) - 0.5) / 12 for one in ordered if one.parameters])
    across = np.array([spot[1] for _, spot in known])
    slope, start = np.polyfit(times, across, 1)
    assert slope > 0 and np.abs(across - (slope * times + start)).max() < 0.1
    sticks = element.locator(".stick").evaluate_all("all => all.filter(p => p.getAttribute('d')).length")
    assert sticks == sum(one.active is not None for one in milestones.MILESTONES)


@browser_test
def test_the_timeline_knows_ancestors_and_leads_to_sections(opened: Callable[..., Opened]) -> None:
    page = opened("timeline").page
    kin = page.evaluate(
        "() => { const e = document.querySelector('alignlab-timeline');"
        " return [...e.constructor.kinOf(e.data.milestones, 'RoBERTa')]; }"
    )

    def ancestors(name: str) -> set[str]:
        its = next(one for one in milestones.MILESTONES if one.name == name)
        return {name}.union(*(ancestors(parent) for parent in its.parents))

    assert set(kin) == ancestors("RoBERTa")  # nothing on the timeline grew from it
    assert page.locator("alignlab-timeline .card-of a").count() == 0
    page.evaluate("document.documentElement.dataset.content_root = '../../'")
    page.evaluate(
        "() => { const e = document.createElement('alignlab-timeline');"
        " e.data = document.querySelector('alignlab-timeline').data; e.id = 'second'; document.body.append(e); }"
    )
    link = page.locator("#second .card-of a").first
    assert link.get_attribute("href") == "../../book/ch01_structure/large_model.html#sec-1-1-1"


@browser_test
@EACH
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_draws_from_a_file_without_an_error_a_request_or_a_sideways_scroll(
    opened: Callable[..., Opened], name: str, viewport: dict[str, int], theme: str
) -> None:
    visit = opened(name, viewport, theme)
    assert visit.errors == []
    assert len(visit.requests) == 1
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert visit.page.locator(f"alignlab-{name}").bounding_box()["height"] > 600  # type: ignore[index]
    ink = visit.page.evaluate(f"getComputedStyle(document.querySelector('alignlab-{name}')).color")
    assert ink == "rgb({}, {}, {})".format(
        *bytes.fromhex((palette.DARK if theme == "dark" else palette.LIGHT)["ink"][1:])
    )


@browser_test
@EACH
def test_a_script_loaded_twice_defines_once(opened: Callable[..., Opened], name: str) -> None:
    visit = opened(name, twice=True)
    assert visit.errors == []
    assert (
        visit.page.evaluate(f"document.querySelector('alignlab-{name}').shadowRoot.querySelectorAll('section').length")
        == 1
    )


@browser_test
@EACH
def test_data_may_also_come_as_a_property_before_or_after_the_element_is_on_the_page(
    opened: Callable[..., Opened], name: str
) -> None:
    visit = opened(name)
    for order in (
        "e.data = data; document.body.append(e);",
        "document.body.append(e); e.data = {stamp: {lab: 'x'}, data};",
    ):
        drawn = visit.page.evaluate(
            f"(data) => {{ const e = document.createElement('alignlab-{name}'); {order} "
            "return !!e.shadowRoot.querySelector('svg path'); }",
            DATA[name](),
        )
        assert drawn
    assert visit.errors == []


@browser_test
@EACH
def test_arrow_keys_move_every_slider_and_what_it_says(opened: Callable[..., Opened], name: str) -> None:
    page = opened(name).page
    sliders = page.locator(f"alignlab-{name} input[type=range]")
    assert sliders.count() >= 2
    for k in range(sliders.count()):
        slider = sliders.nth(k)
        slider.focus()
        before = slider.get_attribute("aria-valuetext")
        keys = ("ArrowLeft", "ArrowRight") if slider.evaluate("e => +e.value > 0") else ("ArrowRight", "ArrowLeft")
        page.keyboard.press(keys[0])
        assert slider.get_attribute("aria-valuetext") != before
        page.keyboard.press(keys[1])
        assert slider.get_attribute("aria-valuetext") == before
        assert slider.evaluate("e => e.getRootNode().querySelector(`label[for=${e.id}]`).textContent.trim().length") > 0


@browser_test
@EACH
def test_an_update_takes_less_than_a_frame(opened: Callable[..., Opened], name: str) -> None:
    page = opened(name).page
    median = page.evaluate(f"""() => {{
      const times = [];
      for (const slider of document.querySelector('alignlab-{name}').shadowRoot.querySelectorAll('input[type=range]'))
        for (let v = +slider.min; v <= +slider.max; v += Math.max(1, Math.floor(slider.max / 20))) {{
          const start = performance.now();
          slider.value = v;
          slider.dispatchEvent(new Event('input'));
          document.body.offsetHeight;  // style and layout belong to the update
          times.push(performance.now() - start);
        }}
      return times.sort((a, b) => a - b)[times.length >> 1];
    }}""")
    assert median < 16


@browser_test
@EACH
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_nothing_on_the_page_moves_while_a_reader_plays(
    opened: Callable[..., Opened], name: str, viewport: dict[str, int]
) -> None:
    page = opened(name, viewport).page
    after = page.locator("#after").bounding_box()
    page.evaluate("window.shifts = 0")
    tops = set()
    for slider in page.locator(f"alignlab-{name} input[type=range]").all():
        for _ in range(3):
            slider.evaluate("e => { e.value = (+e.value + 7) % (+e.max + 1); e.dispatchEvent(new Event('input')); }")
            page.wait_for_timeout(40)
            tops.add(slider.evaluate("e => e.id + '@' + Math.round(e.getBoundingClientRect().top)"))
    for button in page.locator(f"alignlab-{name} button").all():
        button.evaluate("e => e.click()")
        page.wait_for_timeout(40)
    assert page.evaluate("window.shifts") == 0
    assert page.locator("#after").bounding_box() == after
    assert len(tops) == len({top.split("@")[0] for top in tops})


@browser_test
@EACH
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_what_is_touched_is_at_least_24_pixels(
    opened: Callable[..., Opened], name: str, viewport: dict[str, int]
) -> None:
    boxes = opened(name, viewport).page.evaluate(f"""() =>
      [...document.querySelector('alignlab-{name}').shadowRoot.querySelectorAll('button, input, select, svg[tabindex]')]
        .map((e) => [e, e.getBoundingClientRect()])
        .map(([e, box]) => [e.tagName + ' ' + e.className, box.width, box.height])""")
    assert len(boxes) > 3
    assert [box for box in boxes if min(box[1:]) < 24] == []


@browser_test
@EACH
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(opened: Callable[..., Opened], name: str, theme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = opened(name, PHONE, theme).page

    def serious() -> list[str]:
        found = axe.Axe().run(page).response["violations"]
        return [
            f"{one['id']}: {one['nodes'][0]['html'][:120]}" for one in found if one["impact"] in ("serious", "critical")
        ]

    assert serious() == []
    page.evaluate(f"document.querySelector('alignlab-{name}').shadowRoot.querySelector('label').remove()")
    page.evaluate(
        f"document.querySelector('alignlab-{name}').shadowRoot.querySelector('section').append(document.createElement('button'))"
    )
    assert any("button-name" in one for one in serious())  # axe looks inside


@browser_test
def test_the_same_seed_draws_the_same_tokens_and_a_changed_setting_starts_anew(opened: Callable[..., Opened]) -> None:
    page = opened("decoding").page
    element = page.locator("alignlab-decoding")
    times = element.locator(".times")

    def draws() -> list[str]:
        element.get_by_role("button", name="Sample 100").click()
        return times.all_text_contents()

    first = draws()
    numbers = [int(text) for text in first if text.isdigit()]
    assert sum(numbers) == 100
    element.get_by_role("button", name="Reset").click()
    assert [text for text in times.all_text_contents() if text.isdigit()] == []
    assert draws() == first
    element.get_by_label("Seed").fill("2")
    assert draws() != first


@browser_test
def test_cut_tokens_are_struck_and_say_which_rule_cut_them(opened: Callable[..., Opened]) -> None:
    page = opened("decoding").page
    element = page.locator("alignlab-decoding")
    element.get_by_role("button", name="As the model has it").click()
    assert element.locator(".row.gone").count() == 0
    element.get_by_label("Top-k").evaluate(
        "e => { e.value = 2; e.dispatchEvent(new Event('input')); }"
    )  # its third value: 3
    assert element.locator(".row.gone").count() == 12 - 3
    assert set(element.locator(".row.gone .rule").all_text_contents()) == {"cut: top-k"}
    assert (
        element.locator(".row.gone .token").first.evaluate("e => getComputedStyle(e).textDecorationLine")
        == "line-through"
    )
    element.get_by_role("button", name="Greedy").click()
    assert element.locator(".row:not(.gone):not(.head):not(.rest)").count() == 1


@browser_test
def test_a_pair_can_be_read_by_key_by_finger_and_by_mouse(opened: Callable[..., Opened]) -> None:
    page = opened("dpo").page
    element = page.locator("alignlab-dpo")
    title = element.locator(".card-head b")
    plane = element.locator("svg.plane")
    plane.focus()
    page.keyboard.press("ArrowRight")
    assert title.text_content() == "Pair 2 of 9"
    page.keyboard.press("End")
    assert title.text_content() == "Pair 9 of 9"
    circle = element.locator("svg.plane circle[id$='-4']").bounding_box()
    assert circle is not None
    page.mouse.click(circle["x"] + circle["width"] / 2, circle["y"] + circle["height"] / 2)
    assert title.text_content() == "Pair 5 of 9"
    assert element.locator("dd.one").text_content() == "Question 4?"


@browser_test
def test_play_goes_through_training_and_stops_at_its_end(opened: Callable[..., Opened]) -> None:
    page = opened("dpo").page
    element = page.locator("alignlab-dpo")
    element.get_by_role("button", name="Play").click()
    page.wait_for_function(
        "document.querySelector('alignlab-dpo').shadowRoot.querySelector('.play').textContent === 'Play'",
        timeout=10_000,
    )
    assert element.locator(".time-slider output").text_content() == "40"


@browser_test
def test_the_run_toggle_shows_the_other_run_at_the_same_step(opened: Callable[..., Opened]) -> None:
    page = opened("dpo").page
    element = page.locator("alignlab-dpo")
    loss = element.locator(".side .figure b").first
    before, step = loss.text_content(), element.locator(".time-slider output").text_content()
    element.get_by_role("button", name="fixed").click()
    assert loss.text_content() != before
    assert element.locator(".time-slider output").text_content() == step
    run = dpo_data()["runs"][1]
    k = run["steps"].index(int(step or 0))
    margins = [pair["chosen_logratio"][k] - pair["rejected_logratio"][k] for pair in run["pairs"]]
    assert loss.text_content() == f"{sum(math.log1p(math.exp(-0.1 * m)) for m in margins) / 9:.3f}"


@browser_test
def test_the_fusion_of_two_rankings_equals_the_librarys(opened: Callable[..., Opened]) -> None:
    page, data = opened("retrieval_space").page, retrieval_data()
    for query in data["queries"]:
        for k in (0, 1, 60, 200):
            got = page.evaluate(
                "([q, k]) => customElements.get('alignlab-retrieval_space').fuse([q.dense, q.bm25], k)", [query, k]
            )
            rankings = [[chunk for chunk, _ in query[by]] for by in ("dense", "bm25")]
            want = reciprocal_rank_fusion(rankings, k)
            assert [chunk for chunk, _ in got] == [chunk for chunk, _ in want]
            assert [score for _, score in got] == pytest.approx([score for _, score in want])
    first = page.evaluate(
        "r => [[7], [9, 4], [1]].map((a) => customElements.get('alignlab-retrieval_space').firstRank(r, a))",
        [[4, 0.9], [7, 0.8], [9, 0.1]],
    )
    assert first == [2, 1, 0]


@browser_test
def test_a_question_shows_what_the_chosen_search_finds_and_whether_it_is_refused(
    opened: Callable[..., Opened],
) -> None:
    page, data = opened("retrieval_space").page, retrieval_data()
    element = page.locator("alignlab-retrieval_space")
    question, k, refuse = (element.locator("input[type=range]").nth(n) for n in range(3))

    def set_to(slider: Any, at: int) -> None:
        slider.evaluate("(e, at) => { e.value = at; e.dispatchEvent(new Event('input')); }", at)

    for n, query in enumerate(data["queries"]):
        set_to(question, n)
        assert element.locator(".asked").inner_text() == query["text"]
        for by in ("Dense", "BM25"):
            element.get_by_role("button", name=by).click()
            hits = query[by.lower()][:5]
            shown = element.locator(".hits p").all_inner_texts()
            assert [text.split(" says")[0] for text in shown[: len(hits)]] == [f"Chunk {chunk}" for chunk, _ in hits]
        answered = element.locator(".verdict").inner_text().startswith("Answered")
        assert answered == (query["dense"][0][1] >= data["threshold"])
        tiles = element.locator(".figures").all_inner_texts()
        assert any("cut through" in text for text in tiles) == (query["kind"] != "none" and not query["answers"])
    set_to(refuse, 40)
    assert element.locator(".verdict").inner_text().startswith("Refused")
    set_to(k, 0)
    assert element.locator("select").evaluate("e => e.options[e.selectedIndex].text") == data["queries"][-1]["text"]


@browser_test
def test_a_replay_goes_through_the_passes_that_the_library_makes(opened: Callable[..., Opened]) -> None:
    page, data = opened("speculative").page, speculative_data()
    target = small_decoder()
    kept = 0
    for prompt, sample in zip(([1, 2, 3], [4, 5], [6]), data["prompts"], strict=True):
        for name, draft in (("exit", ModelDraft(skip_layers(target, range(2)))), ("lookup", LookupDraft())):
            for length in (0, 1, 4):
                run = speculative(target, prompt, 24, draft, length=length)
                got = page.evaluate(
                    "([said, guesses, g]) => customElements.get('alignlab-speculative').replay(said, guesses, g)",
                    [sample["said"], sample["drafts"][name], length],
                )
                assert [(p["drafted"], p["accepted"], p["token"]) for p in got] == [tuple(p) for p in run.passes]
                kept += sum(p.accepted for p in run.passes)
    assert kept > 0
    told = page.evaluate(
        "[[0.3, 4], [0, 2], [1, 3]].map(([a, g]) => customElements.get('alignlab-speculative').expectedTokens(a, g))"
    )
    assert told == pytest.approx([expected_tokens(0.3, 4), 1.0, 4.0])


@browser_test
def test_the_time_of_a_replay_counts_passes_by_their_width_and_each_draft_step(opened: Callable[..., Opened]) -> None:
    page = opened("speculative").page
    got = page.evaluate(
        """() => {
          const E = customElements.get('alignlab-speculative');
          const passes = E.replay([1, 2, 3, 4, 5], [[1, 2, 9], [], [], [4, 5], [5]], 3);
          return E.summary(passes, [1, 1.1, 1.2, 1.5], { cost: 0.1, once: 0.05 });
        }"""
    )
    # Three drafted, two kept and one given; then one drafted (the end leaves no room for two) and kept, one given.
    assert (got["tokens"], got["passes"], got["rate"]) == (5, 2, pytest.approx(3 / 4))
    assert got["time"] == pytest.approx((1.5 + 0.3 + 0.05) + (1.1 + 0.1 + 0.05))
    assert got["speed"] == pytest.approx(5 / got["time"])


@browser_test
def test_each_pass_shows_what_stays_and_what_goes(opened: Callable[..., Opened]) -> None:
    page, data = opened("speculative").page, speculative_data()
    element = page.locator("alignlab-speculative")
    element.get_by_role("button", name="Pass back").click()
    for _ in range(30):
        element.get_by_role("button", name="Next pass").click()
    said = data["prompts"][1]["said"]
    assert element.locator(".written .piece").all_text_contents() == [f"·w{t}" for t in said]
    passes, figure = element.locator(".told").text_content() or "", element.locator(".figure b").all_text_contents()
    total = int(re.findall(r"Pass (\d+) of (\d+)", passes)[0][1])
    assert figure[2] == str(total) and figure[0] == f"{24 / total:.2f}"
    assert element.locator(".now-pass .guess.given").count() == 1
    element.get_by_label("Draft length").evaluate("e => { e.value = 0; e.dispatchEvent(new Event('input')); }")
    assert element.locator(".figure b").all_text_contents()[:3] == ["1.00", "–", "24"]


@browser_test
def test_probabilities_under_a_penalty_are_the_softmax_of_the_lowered_logits(opened: Callable[..., Opened]) -> None:
    page = opened("grammar_mask").page
    logits = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ok = torch.tensor([0, 1, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0]).bool()
    p, mass = logits.softmax(-1), logits.softmax(-1)[ok].sum().item()
    for penalty in (0.0, 2.5, math.inf):
        want = torch.where(ok, logits, logits - penalty).softmax(-1)
        got = page.evaluate(
            "([p, ok, mass, penalty]) => p.map((one, i) => "
            "customElements.get('alignlab-grammar_mask').after(one, ok[i], mass, penalty ?? Infinity))",
            [p.tolist(), ok.tolist(), mass, None if penalty == math.inf else penalty],
        )
        assert got == pytest.approx(want.tolist(), abs=1e-12)


@browser_test
def test_a_step_on_writes_the_taken_token_and_the_penalty_lets_forbidden_ones_through(
    opened: Callable[..., Opened],
) -> None:
    page, data = opened("grammar_mask").page, grammar_data()
    element = page.locator("alignlab-grammar_mask")
    forbidden = element.locator(".figure b").nth(3)
    assert forbidden.text_content() == "0%"
    steps = data["scenes"][0]["steps"]
    element.get_by_role("button", name="Next token").click()
    first = steps[0]["tokens"][steps[0]["taken"]]["text"]
    assert element.locator(".context .piece").all_text_contents() == [first.replace(" ", "·")]
    element.get_by_label("Penalty on forbidden (nats)").evaluate(
        "e => { e.value = 0; e.dispatchEvent(new Event('input')); }"
    )
    assert float((forbidden.text_content() or "").rstrip("%")) == pytest.approx(100 * (1 - steps[1]["mass"]), abs=0.06)
    element.get_by_label("Answer", exact=True).select_option("1")
    element.get_by_role("button", name="To the end").click()
    assert element.locator(".context .piece").count() == 1


@browser_test
def test_the_field_of_gradients_equals_the_librarys_and_its_estimates_are_unbiased(
    opened: Callable[..., Opened],
) -> None:
    from alignlab.rl.mdp import FiniteMDP, q_from_v, values
    from alignlab.rl.policy_gradient import softmax_gradient

    page, data = opened("policy_field").page, policy_field_data()
    stay, go = torch.eye(2), torch.eye(2).flip(0)
    for gamma in (0.5, 0.9):
        mdp = FiniteMDP(
            torch.stack([stay, go], 1),
            torch.tensor(data["rewards"]),
            gamma,
            torch.tensor(data["start"]),
            torch.zeros(2, dtype=torch.bool),
        )
        for p in ([0.8, 0.1], [0.35, 0.9]):
            got = page.evaluate(
                "([d, p, g]) => customElements.get('alignlab-policy_field').solve(d, p, g)", [data, p, gamma]
            )
            share = torch.tensor(p, dtype=torch.float64)
            logits = torch.stack([share.logit(), torch.zeros(2, dtype=torch.float64)], 1)
            v = values(mdp, logits.softmax(-1))
            q = q_from_v(mdp, v)
            assert got["J"] == pytest.approx((mdp.start @ v).item())
            assert got["V"] == pytest.approx(v.tolist())
            assert got["natural"] == pytest.approx((q[:, 0] - q[:, 1]).tolist())
            assert got["plain"] == pytest.approx(softmax_gradient(mdp, logits)[:, 0].tolist())
            for baseline in ([0, 0], got["V"]):
                drawn = page.evaluate(
                    """([d, p, g, b]) => {
                      const E = customElements.get('alignlab-policy_field');
                      const random = E.mulberry32(5);
                      return Array.from({ length: 400 }, () => E.estimate(d, p, g, 50, b, random));
                    }""",
                    [data, p, gamma, baseline],
                )
                sampled = torch.tensor(drawn, dtype=torch.float64)[:, :2]
                within = 4.5 * sampled.std(0) / 400**0.5
                assert ((sampled.mean(0) - torch.tensor(got["plain"])).abs() < within).all()


@browser_test
def test_the_clip_table_has_the_librarys_losses_and_the_scale_changes_no_choice(opened: Callable[..., Opened]) -> None:
    from alignlab.losses.contrastive import clip_loss

    page, data = opened("clip_table").page, clip_table_data()
    for one in data["sets"]:
        cosines = torch.tensor(one["cosines"], dtype=torch.float64)
        values, axes = torch.linalg.eigh(torch.eye(12, dtype=torch.float64) * 40 + _off_diagonal(cosines))
        vectors = axes * values.sqrt()  # rows with these products, all of length sqrt(40)
        for scale in (1.0, 14.3, 100.0):
            got = page.evaluate(
                "([c, s]) => customElements.get('alignlab-clip_table').losses(c, s)", [one["cosines"], scale]
            )
            want = clip_loss(vectors[:6], vectors[6:], 40 * scale)
            pairs = [(a + b) / 2 for a, b in zip(got["rows"], got["columns"], strict=True)]
            assert pairs == pytest.approx(want.tolist()) and got["mean"] == pytest.approx(want.mean().item())
            shares = page.evaluate(
                "([c, s]) => customElements.get('alignlab-clip_table').shares(c, s)", [one["cosines"], scale]
            )
            assert torch.allclose(torch.tensor(shares, dtype=torch.float64), (scale * cosines).softmax(-1))
    element = page.locator("alignlab-clip_table")
    page.evaluate(
        "document.querySelector('alignlab-clip_table')"
        ".addEventListener('alignlab-update', e => { window.last = e.detail; })"
    )
    found = []
    for at in (0, 20, 41):  # the learned scale is one more stop
        element.get_by_label("Scale s").evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", at)
        found.append(page.evaluate("[window.last.scale, window.last.right]"))
    assert [scale for scale, _ in found] == pytest.approx([1, 10, 100]) and len({right for _, right in found}) == 1
    element.get_by_label("Pairs in the batch").evaluate("e => { e.value = 1; e.dispatchEvent(new Event('input')); }")
    part = [row[:3] for row in data["sets"][0]["cosines"][:3]]
    assert page.evaluate("window.last.loss") == pytest.approx(
        page.evaluate("c => customElements.get('alignlab-clip_table').losses(c, 100).mean", part)
    )
    element.get_by_label("Pairs in the batch").evaluate("e => { e.value = 4; e.dispatchEvent(new Event('input')); }")
    element.get_by_role("button", name="Same words").click()
    element.get_by_role("button", name="Text chooses picture").click()
    cells = [float(text.replace("−", "-")) for text in element.locator("tbody td").all_text_contents()]
    want = (100 * torch.tensor(data["sets"][1]["cosines"])).softmax(0).flatten()
    assert torch.allclose(torch.tensor(cells), want, atol=0.006)
    element.get_by_role("button", name="Learned scale").click()
    assert page.evaluate("window.last.scale") == pytest.approx(14.3)


def _off_diagonal(block: torch.Tensor) -> torch.Tensor:
    """[[0, block], [block^T, 0]]: products of pictures and texts, none among themselves."""
    nothing = torch.zeros_like(block)
    return torch.cat([torch.cat([nothing, block], 1), torch.cat([block.T, nothing], 1)])


def cloud_spread(data: dict[str, Any], episodes: int, baseline: bool, runs: int = 40_000) -> float:
    """Spread of REINFORCE's estimate from so many episodes, by a simulation apart from the page's, in NumPy."""
    draw, p, gamma = np.random.default_rng(0), np.array(data["p"]), data["gamma"]
    rewards = np.array(data["rewards"])
    moves = np.stack([p, 1 - p], 1)[:, :, None] * np.array([[[1.0, 0], [0, 1]], [[0, 1], [1, 0]]])
    chances = np.stack([p, 1 - p], 1)
    v = np.linalg.solve(np.eye(2) - gamma * moves.sum(1), (chances * rewards).sum(1)) if baseline else np.zeros(2)
    place = (draw.random(runs) >= data["start"][0]).astype(int)
    alive, scores, gains = np.ones(runs, dtype=bool), np.zeros((runs, 2)), np.zeros((runs, 2))
    while alive.any():  # score of the past times the reward now, less the score times the baseline: the same sum
        go = (draw.random(runs) >= p[place]).astype(int)
        score = np.where(alive, 1 - go - p[place], 0.0)
        scores[np.arange(runs), place] += score
        gains += scores * np.where(alive, rewards[place, go], 0.0)[:, None]
        gains[np.arange(runs), place] -= score * v[place]
        place = np.where(go == 1, 1 - place, place)
        alive &= draw.random(runs) < gamma
    return float(np.sqrt(gains.var(0).sum() / episodes))


@browser_test
def test_a_baseline_shrinks_the_cloud_and_the_natural_gradient_leaves_the_plateau(
    opened: Callable[..., Opened],
) -> None:
    page = opened("policy_field").page
    element = page.locator("alignlab-policy_field")
    page.evaluate(
        "document.querySelector('alignlab-policy_field')"
        ".addEventListener('alignlab-update', e => { window.last = e.detail; })"
    )

    def spread() -> float:
        """Root mean square of a dozen clouds' spreads: one cloud of 120 heavy-tailed estimates tells little."""
        total = 0.0
        for _ in range(12):
            element.get_by_role("button", name="New episodes").click()
            total += page.evaluate("window.last.spread ** 2")
        return float((total / 12) ** 0.5)

    data = policy_field_data()
    wide, wide_truth = spread(), cloud_spread(data, 4, baseline=False)
    assert page.evaluate("window.last.paths.plain.steps > 3 * window.last.paths.natural.steps")
    element.get_by_role("button", name="Baseline V(s)").click()
    narrow, narrow_truth = spread(), cloud_spread(data, 4, baseline=True)
    assert wide == pytest.approx(wide_truth, rel=0.12) and narrow == pytest.approx(narrow_truth, rel=0.12)
    assert narrow_truth < 0.9 * wide_truth and narrow < wide
    element.get_by_label("Stay in A").evaluate("e => { e.value = 48; e.dispatchEvent(new Event('input')); }")
    assert page.evaluate("window.last.p") == pytest.approx([0.5, 0.1])
    element.get_by_role("button", name="Back to the start").click()
    assert page.evaluate("window.last.p") == pytest.approx([0.8, 0.1])
    box = element.locator("svg.field").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 60)
    p = page.evaluate("window.last.p")
    assert 0.4 < p[0] < 0.7 and p[1] > 0.75


def test_sweeps_in_the_page_equal_the_librarys_value_iteration(opened: Callable[..., Opened]) -> None:
    data = gridworld_data()
    found = opened("gridworld").page.evaluate(
        """(data) => {
      const E = customElements.get("alignlab-gridworld");
      return data.maps.map(({lines}) => [0, data.slip].map((slip) => {
        const model = E.gridModel(lines, {...data, slip});
        let V = model.cells.map(() => 0);
        const sweeps = [];
        for (let k = 0; k < 25; k++) { V = E.gridSweep(model, V, 0.95).V; sweeps.push(V); }
        return {cells: model.cells, sweeps, exact: E.gridSolve(model, 0.95), q: E.gridQ(model, V, 0.95)};
      }));
    }""",
        data,
    )
    for map_, pair in zip(data["maps"], found, strict=True):
        for slip, got in zip((0.0, data["slip"]), pair, strict=True):
            world = GridWorld(map_["name"], slip=slip)
            mdp = world.mdp(0.95)
            assert [tuple(cell) for cell in got["cells"]] == world.cells
            values = torch.zeros(mdp.states, dtype=torch.float64)
            for sweep in got["sweeps"]:
                values = finite.v_from_q(finite.q_from_v(mdp, values))
                assert torch.allclose(torch.tensor(sweep, dtype=torch.float64), values, atol=1e-9)
            want = finite.value_iteration(mdp, tolerance=1e-10).values
            assert torch.allclose(torch.tensor(got["exact"], dtype=torch.float64), want, atol=1e-6)
            q = torch.tensor(got["q"], dtype=torch.float64)
            assert torch.allclose(q[~mdp.terminal], finite.q_from_v(mdp, values)[~mdp.terminal], atol=1e-9)


def test_learning_in_the_page_is_the_librarys_update_on_the_same_steps(opened: Callable[..., Opened]) -> None:
    """Q-learning and Monte Carlo of the page, replayed step by step by the library's functions."""
    found = opened("gridworld").page.evaluate(
        """(data) => {
      const E = customElements.get("alignlab-gridworld");
      const model = E.gridModel(data.maps[0].lines, data);
      const random = E.mulberry32(3);
      const zeros = () => model.cells.map(() => [0, 0, 0, 0]);
      const [Q, M, N, steps, paths] = [zeros(), zeros(), zeros(), [], []];
      for (let k = 0; k < 60; k++) {
        let s = model.start.indexOf(1);
        const path = [];
        while (!model.terminal[s]) {
          const a = E.gridAct(Q[s], 0.3, random);
          const [s2, r, ended] = E.gridStep(model, s, a, random);
          E.gridLearn(Q, s, a, r, s2, ended, 0.2, 0.9);
          steps.push([s, a, r, s2, ended]);
          path.push([s, a, r]);
          s = s2;
        }
        E.gridAverage(M, N, path, 0.9);
        paths.push([...path, [s, 0, 0]]);
      }
      return {Q, M, steps, paths};
    }""",
        gridworld_data(),
    )
    mdp = GridWorld("textbook").mdp(0.9)
    q = torch.zeros(mdp.states, 4, dtype=torch.float64)
    moved: dict[tuple[int, int], list[int]] = {}
    for s, a, r, s2, ended in found["steps"]:
        assert mdp.transitions[s, a, s2] > 0 and bool(mdp.terminal[s2]) == ended
        assert mdp.outcomes is not None and mdp.outcomes[s, a, s2].item() == pytest.approx(r)
        ahead = tabular.q_learning_value(q[s2][None])
        target = tabular.td_target(torch.tensor([r]), ahead, torch.tensor([ended]), 0.9)
        q[s, a] += 0.2 * (target[0] - q[s, a])
        moved.setdefault((s, a), []).append(s2)
    assert torch.allclose(torch.tensor(found["Q"], dtype=torch.float64), q, atol=1e-9)
    totals, counts = torch.zeros(2, mdp.states * 4, dtype=torch.float64)
    for path in found["paths"]:
        pairs = torch.tensor([[s * 4 + a for s, a, _ in path]])
        rewards = torch.tensor([[r for _, _, r in path[:-1]]], dtype=torch.float64)
        episode = finite.Episodes(
            pairs, pairs[:, :-1] % 4, rewards, torch.ones_like(rewards).bool(), torch.tensor([True])
        )
        visits = tabular.visit_returns(episode, mdp.states * 4, 0.9)
        totals, counts = totals + visits.totals[0], counts + visits.counts[0]
    mean = torch.where(counts > 0, totals / counts.clamp_min(1), 0.0).view(-1, 4)
    assert torch.allclose(torch.tensor(found["M"], dtype=torch.float64), mean, atol=1e-9)
    frequent = max(moved, key=lambda pair: len(moved[pair]))
    share = len([s2 for s2 in moved[frequent] if s2 == mdp.transitions[frequent].argmax()]) / len(moved[frequent])
    assert share > 0.6  # the move goes straight in eight of ten


def test_a_wall_that_is_drawn_changes_the_optimum(opened: Callable[..., Opened]) -> None:
    page = opened("gridworld").page
    page.evaluate(
        "document.querySelector('alignlab-gridworld')"
        ".addEventListener('alignlab-update', (e) => { window.seen = e.detail; })"
    )
    host = page.locator("alignlab-gridworld")
    host.get_by_role("button", name="100 sweeps").click()
    before = page.evaluate("window.seen")
    assert before["gap"] < 1e-3 and before["count"] <= 102
    host.get_by_role("button", name="Wall").click()
    world = host.get_by_role("application")
    world.focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "Space"):  # row 2, column 3: beside the pit
        page.keyboard.press(key)
    after = page.evaluate("window.seen")
    assert len(after["cells"]) == len(before["cells"]) - 1 and after["gap"] > 0.02
    lines = list(MAPS["textbook"])
    lines[1] = ".##X"
    want = finite.value_iteration(GridWorld(lines).mdp(0.95)).values
    assert torch.allclose(torch.tensor(after["exact"], dtype=torch.float64), want, atol=1e-6)
    host.get_by_role("button", name="100 sweeps").click()
    assert page.evaluate("window.seen.gap") < 1e-3


def test_the_weights_of_returns_are_the_lambda_returns_by_the_library(opened: Callable[..., Opened]) -> None:
    data = td_weights_data()
    walk = data["walk"]
    steps = len(walk["rewards"])
    states, values = torch.tensor([walk["states"]]), torch.tensor([walk["values"]], dtype=torch.float64)
    rewards = torch.tensor([walk["rewards"]], dtype=torch.float64)
    episode = finite.Episodes(
        states, torch.zeros(1, steps).long(), rewards, torch.ones(1, steps).bool(), torch.tensor([True])
    )
    page = opened("td_weights").page
    for lam, gamma in ((0.0, 1.0), (0.8, 0.9), (1.0, 0.95)):
        found = page.evaluate(
            """([walk, lam, gamma]) => {
          const E = customElements.get("alignlab-td_weights");
          const returns = walk.rewards.map((_, t) => E.nStepReturns(walk, t, gamma));
          const weights = returns.map((row) => E.lambdaWeights(lam, row.length));
          const traces = walk.rewards.map((_, t) => E.traceOf(walk, walk.states[t], gamma * lam));
          return {returns, weights, deltas: E.tdErrors(walk, gamma), traces};
        }""",
            [walk, lam, gamma],
        )
        want = tabular.lambda_targets(values, episode, gamma, lam)[0]
        for t in range(steps):
            assert sum(found["weights"][t]) == pytest.approx(1.0)
            mean = sum(w * g for w, g in zip(found["weights"][t], found["returns"][t], strict=True))
            assert mean == pytest.approx(want[t].item(), abs=1e-9)
        moved = tabular.td_lambda(values, episode, 0.1, gamma, lam, offline=True) - values
        for s in set(walk["states"]):  # TD errors times a state's trace are what TD(lambda) adds to it
            trace = found["traces"][walk["states"].index(s)]
            added = 0.1 * sum(e * delta for e, delta in zip(trace, found["deltas"], strict=True))
            assert moved[0, s].item() == pytest.approx(added, abs=1e-9)


def test_the_target_shown_follows_lambda_and_n(opened: Callable[..., Opened]) -> None:
    page = opened("td_weights").page
    page.evaluate(
        "document.querySelector('alignlab-td_weights')"
        ".addEventListener('alignlab-update', (e) => { window.seen = e.detail; })"
    )
    host = page.locator("alignlab-td_weights")
    host.get_by_label("λ").fill("0")
    assert page.evaluate("window.seen.weights.indexOf(1)") == 0
    host.get_by_label("λ").fill("100")
    seen = page.evaluate("window.seen")
    assert seen["weights"][-1] == 1 and seen["target"] == pytest.approx(seen["gains"][-1])
    host.get_by_role("button", name="n-step").click()
    host.get_by_label("n", exact=True).fill("2")
    seen = page.evaluate("window.seen")
    assert seen["target"] == pytest.approx(seen["gains"][2])


# ---- attention heads


def test_packed_attention_weights_are_within_a_step_of_the_true_ones() -> None:
    from alignlab.explorers.heads import attention_example, unpacked_weights

    for length in (5, 6):  # an odd and an even number of codes
        scores = 3 * torch.randn(3, 3, length, length, generator=torch.Generator().manual_seed(length))
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1).double()
        read = unpacked_weights(attention_example("x", ["t"] * length, weights))
        assert torch.allclose(read.sum(-1), torch.ones(()).double()) and read.triu(1).abs().max() == 0
        assert (read - weights).abs().max() < 0.08  # half a step of the square root at 1, and the rows' scaling
        assert (read - weights).abs().mean() < 0.01


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        (torch.full((1, 2, 3, 3), 1 / 3), "reads a later one"),
        (torch.eye(3).expand(2, 2, 3, 3) * 0.9, r"misses 1 by 0\.1"),
        (torch.eye(4).expand(2, 2, 4, 4), "for 3 tokens"),
    ],
)
def test_weights_that_are_no_causal_attention_are_refused(weights: torch.Tensor, complaint: str) -> None:
    from alignlab.explorers.heads import attention_example

    with pytest.raises(ValueError, match=complaint):
        attention_example("x", ["a", "b", "c"], weights)


HEADS = ROOT / "labs" / "explorers" / "attention_heads.json"


@pytest.mark.skipif(not HEADS.exists(), reason="the lab ch01_open_the_model has not been run yet")
def test_the_labs_heads_are_those_of_smollm2_and_small_enough_for_a_page() -> None:
    from alignlab.explorers.heads import unpacked_weights

    assert HEADS.stat().st_size < 60_000
    data = json.loads(HEADS.read_text(encoding="utf-8"))["data"]
    assert [example["title"] for example in data["examples"]] == ["Who are you?", "What is 17 + 25?"]
    for example in data["examples"]:
        assert (example["layers"], example["heads"]) == (30, 9)
        weights = unpacked_weights(example)
        assert torch.allclose(weights.sum(-1), torch.ones(()).double())
        before = weights.diagonal(-1, -2, -1)[..., 1:].mean(-1)  # the token before, from the third token on
        first = weights[:, :, 2:, 0].mean()
        assert before.max() > 0.6 and first > 0.3  # a head that copies the neighbour; most attention rests on the first


@browser_test
def test_the_weights_and_scores_of_heads_equal_those_in_python(opened: Callable[..., Opened]) -> None:
    from alignlab.explorers.heads import unpacked_weights

    page, data = opened("attention_heads").page, attention_heads_data()
    for example in data["examples"]:
        found = page.evaluate(
            """(example) => {
          const E = customElements.get("alignlab-attention_heads");
          const weights = E.unpackWeights(example);
          const scores = Object.entries(E.headScores(example, weights)).map(([name, list]) => [name, Array.from(list)]);
          const read = E.tokensRead([0.5, 0.25, 0.25, 0]);
          return { weights: Array.from(weights), scores: Object.fromEntries(scores), read };
        }""",
            example,
        )
        weights = unpacked_weights(example)
        assert torch.allclose(torch.tensor(found["weights"], dtype=torch.float64), weights.flatten(), atol=1e-12)
        tokens, length = example["tokens"], len(example["tokens"])
        rows = range(2, length)
        for layer in range(3):
            for head in range(4):
                w, at = weights[layer, head], layer * 4 + head
                copies = {t: [s for s in range(t) if tokens[s] == tokens[t]] for t in rows}
                copied = [sum(w[t, s].item() for s in copies[t]) for t in rows if copies[t]]
                want = {
                    "first": sum(w[t, 0].item() for t in rows) / len(rows),
                    "previous": sum(w[t, t - 1].item() for t in rows) / len(rows),
                    "itself": sum(w[t, t].item() for t in rows) / len(rows),
                    "same": sum(copied) / len(copied) if copied else 0.0,
                }
                assert {name: found["scores"][name][at] for name in want} == pytest.approx(want)
        assert found["read"] == pytest.approx(math.exp(1.5 * math.log(2)))


@browser_test
def test_head_and_token_are_chosen_by_slider_by_button_and_on_the_map(opened: Callable[..., Opened]) -> None:
    from alignlab.explorers.heads import unpacked_weights

    page, data = opened("attention_heads").page, attention_heads_data()
    element = page.locator("alignlab-attention_heads")
    page.evaluate(
        "document.querySelector('alignlab-attention_heads')"
        ".addEventListener('alignlab-update', e => { window.last = e.detail; })"
    )
    element.get_by_role("button", name="Strongest: token before").click()
    last = page.evaluate("window.last")
    assert (last["layer"], last["head"], last["kind"]) == (1, 2, "previous") and last["share"] > 0.9
    element.locator(".strip .token").nth(4).click()
    last = page.evaluate("window.last")
    assert last["best"] == 3
    weights = unpacked_weights(data["examples"][1])
    assert last["row"] == pytest.approx(weights[1, 2, 4, :5].tolist())
    element.get_by_role("button", name="a head with a name").click()
    last = page.evaluate("window.last")
    assert (last["example"], last["layer"], last["head"], last["position"]) == (1, 2, 3, 8)
    element.get_by_label("Layer").evaluate("e => { e.value = 1; e.dispatchEvent(new Event('input')); }")
    assert page.evaluate("window.last.layer") == 1
    box = element.locator("svg.map").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 32, box["y"] + 20)
    assert page.evaluate("[window.last.layer, window.last.head]") == [0, 0]
    element.get_by_role("button", name="Who are you?").click()
    assert page.evaluate("[window.last.example, window.last.position]") == [0, 8]


@browser_test
def test_the_planners_laws_and_optima_are_the_librarys(opened: Callable[..., Opened]) -> None:
    page = opened("scaling_planner").page
    for law in (scaling.CHINCHILLA, scaling.REPLICATION, scaling.LossLaw(2.6, 15.0, 9e4, 0.49, 1.05)):
        for n, d, served in ((70e9, 1.4e12, 1e13), (3e4, 4e5, 1e6), (405e9, 15.6e12, 0.0)):
            got = page.evaluate(
                """([law, n, d, served]) => {
              const E = customElements.get("alignlab-scaling_planner");
              const loss = E.lawLoss(law, n, d);
              const [best, least] = [E.lawOptimal(law, 6 * n * d), E.leastCompute(law, loss)];
              return {loss, best, least, life: E.lifetimeOptimum(law, loss, served), tokens: E.tokensFor(law, n, loss)};
            }""",
                [vars(law), n, d, served],
            )
            loss = law(n, d)
            assert got["loss"] == pytest.approx(loss)
            assert got["best"] == pytest.approx(law.optimal(6 * n * d))
            assert law.frontier(got["least"]) == pytest.approx(loss) and got["least"] <= 6 * n * d * 1.0001
            assert got["life"] == pytest.approx(law.lifetime_optimum(loss, served), rel=1e-4)
            assert got["tokens"] == pytest.approx(d, rel=1e-6)
    with pytest.raises(ValueError, match="floor"):
        scaling.REPLICATION.lifetime_optimum(1.0, 0.0)
    assert page.evaluate(
        "(law) => customElements.get('alignlab-scaling_planner').leastCompute(law, 1.0)", vars(scaling.REPLICATION)
    ) == float("inf")


@browser_test
def test_the_planner_follows_a_model_a_slider_and_the_tokens_served(opened: Callable[..., Opened]) -> None:
    page = opened("scaling_planner").page
    page.evaluate(
        "document.querySelector('alignlab-scaling_planner')"
        ".addEventListener('alignlab-update', (e) => { window.seen = e.detail; })"
    )
    host = page.locator("alignlab-scaling_planner")
    host.get_by_label("Start from").select_option("2")
    seen = page.evaluate("window.seen")
    assert seen["flops"] == pytest.approx(3.79e25, rel=1e-3) and seen["law"] == "Replication, 2024"
    assert seen["hours"] == pytest.approx(3.79e25 / (989e12 * 0.4) / 3600, rel=1e-3)
    assert "6ND in that time is 34.5% of the peak" in (host.locator(".source").text_content() or "")
    host.get_by_label("Tokens served").fill("25")
    later = page.evaluate("window.seen")
    assert later["life"][0] < 0.9 * seen["life"][0] and later["best"] == pytest.approx(seen["best"])
    host.get_by_label("Parameters").fill("150")
    moved = page.evaluate("window.seen")
    assert moved["n"] < 405e9 and moved["flops"] == pytest.approx(seen["flops"])
    host.get_by_role("button", name="Hold compute").click()
    host.get_by_label("Parameters").fill("140")
    freed = page.evaluate("window.seen")
    assert freed["d"] == pytest.approx(moved["d"]) and freed["flops"] < 0.8 * moved["flops"]
    assert host.get_by_label("Start from").input_value() == ""
    host.get_by_role("button", name="A ladder").click()
    own = page.evaluate("window.seen")
    assert own["law"] == "A ladder" and own["n"] == 227_808
    assert own["loss"] == pytest.approx(scaling.LossLaw(2.6, 15.0, 9e4, 0.49, 1.05)(227_808.0, 793_600.0))
    box = host.locator("svg.plane").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.4, box["y"] + 100)
    assert page.evaluate("window.seen.n") < 100_000


@browser_test
def test_rotation_in_the_page_equals_the_librarys(opened: Callable[..., Opened]) -> None:
    page, data = opened("rope").page, rope_data()
    settings = [
        (1e5, 1.0, 0.0), (1e5, 1.0, 20_000.0), (100.0, 1.0, 7.0), (1e5, 4.0, 0.0), (1e7, 0.25, 3.0), (1e5, 0.0, 0.0),
    ]  # fmt: skip
    for example in data["examples"]:
        for head in example["heads"]:
            vectors = vectors_of(head, data["size"])
            got = page.evaluate(
                """([head, size, settings]) => {
                  const E = customElements.get("alignlab-rope");
                  const both = E.unpackHead(head, size);
                  return settings.map(([theta, stretch, shift]) => {
                    const speeds = E.frequencies(size, theta);
                    const { scores, weights } = E.look(both, both.keys.map((_, n) => shift + stretch * n), speeds);
                    const far = both.keys.length - 1;
                    return { scores, weights, first: E.scoreAt(both.query, both.keys[0], stretch * far, speeds) };
                  });
                }""",
                [head, data["size"], settings],
            )
            for (theta, stretch, shift), found in zip(settings, got, strict=True):
                want = rope_row(vectors, theta, lambda p, by=stretch, more=shift: more + by * p)
                assert found["weights"] == pytest.approx(want, abs=1e-9), (theta, stretch, shift)
                assert found["first"] == pytest.approx(found["scores"][0], abs=1e-9)
            assert got[0]["weights"] == pytest.approx(head["row"], abs=1e-9)
            assert got[1]["weights"] == pytest.approx(got[0]["weights"], abs=1e-9)  # a shift changes nothing
            assert got[3]["weights"] != pytest.approx(got[0]["weights"], abs=1e-3)


@browser_test
def test_a_shift_moves_no_weight_and_missing_positions_do(opened: Callable[..., Opened]) -> None:
    page, data = opened("rope").page, rope_data()
    element = page.locator("alignlab-rope")
    page.evaluate(
        "document.querySelector('alignlab-rope').addEventListener('alignlab-update', e => { window.last = e.detail; })"
    )

    def move(label: str, step: int) -> dict[str, Any]:
        script = f"e => {{ e.value = {step}; e.dispatchEvent(new Event('input')); }}"
        element.get_by_label(label).evaluate(script)
        found: dict[str, Any] = page.evaluate("window.last")
        return found

    assert move("Shift all by", 5)["moved"] < 1e-9
    assert element.get_by_text("Every weight is as trained").count() == 1
    without = move("Positions times", 0)
    row = rope_row(vectors_of(data["examples"][1]["heads"][0], data["size"]), place=lambda p: 0 * p)
    assert without["weights"] == pytest.approx(row, abs=1e-9) and without["moved"] > 0.01
    element.get_by_role("button", name="As trained").click()
    assert page.evaluate("window.last.moved") < 1e-9
    element.get_by_role("button", name="reads").click()
    element.locator(".look").nth(2).click()
    last = page.evaluate("window.last")
    assert (last["chosen"], last["distance"]) == (2, 6)
    element.get_by_role("button", name="Who?").click()
    assert len(page.evaluate("window.last.weights")) == 5


def vectors_of(head: dict[str, Any], size: int) -> torch.Tensor:
    bits = np.frombuffer(base64.b64decode(head["bits"]), dtype="<i2").astype(np.float64)
    return torch.from_numpy(bits).view(-1, size) * head["scale"]


MODEL_TOUR = ROOT / "labs" / "explorers" / "model_tour.json"


def test_a_tour_whose_parts_do_not_fit_is_refused() -> None:
    from alignlab.explorers.tour import tour_example

    x = torch.ones(4)
    layers = [dict.fromkeys(("norm1",), x)]
    with pytest.raises(ValueError, match="1 layers and 2 tokens do not fit"):
        tour_example("x", ["a", "b"], x, layers, torch.ones(1, 2, 3), torch.ones(2, 2, 4), x, [[], []])
    with pytest.raises(ValueError, match="beyond a 16-bit float"):
        tour_example("x", ["a"], 1e6 * x, [], torch.ones(0, 2, 1), torch.ones(1, 1, 4), x, [[]])


@browser_test
def test_the_tour_shows_the_decoders_own_numbers(opened: Callable[..., Opened]) -> None:
    page, data = opened("model_tour").page, model_tour_data()
    decoder = small_decoder()
    for example, ids in zip(data["examples"], data["ids"], strict=True):
        found = page.evaluate(
            """(example) => {
          const one = customElements.get("alignlab-model_tour").opened(example);
          const names = ["in", "attention", "middle", "gate", "up", "inner", "mlp", "out"];
          return { layers: [1, 2, 3].map((l) => Object.fromEntries(names.map((name) => [name, one.at(l, name)]))),
                   final: one.at(4, "final"), streams: [0, 1, 2, 3].map((l) => ids.map((_, t) => one.stream(l, t))),
                   looks: [1, 2, 3].map((l) => [0, 1, 2, 3].map((head) => one.look(l, head))) };
        }""".replace("ids.map", "example.tokens.map"),
            example,
        )
        states = []
        hooks = [
            block.register_forward_hook(lambda m, args, out, states=states: states.append((args[0], out)))
            for block in decoder.layers
        ]
        final = decoder.hidden(torch.tensor([ids]))[0, -1]
        for hook in hooks:
            hook.remove()
        for layer, (before, after) in zip(found["layers"], states, strict=True):
            for name, tensor in (("in", before), ("out", after)):
                assert layer[name]["values"] == pytest.approx(tensor[0, -1, :8].tolist(), rel=1e-3, abs=1e-4)
                size = tensor[0, -1].square().mean().sqrt().item()
                assert layer[name]["rms"] == pytest.approx(size, rel=1e-3)
            sums = [a + b for a, b in zip(layer["middle"]["values"], layer["mlp"]["values"], strict=True)]
            assert layer["out"]["values"] == pytest.approx(sums, rel=5e-3, abs=5e-3)
            products = [
                g / (1 + math.exp(-g)) * u for g, u in zip(layer["gate"]["values"], layer["up"]["values"], strict=True)
            ]
            assert layer["inner"]["values"] == pytest.approx(products, rel=1e-2, abs=5e-3)
        assert found["final"]["values"] == pytest.approx(final[:8].tolist(), rel=1e-3, abs=1e-4)
        want = torch.stack([states[0][0][0], *(after[0] for _, after in states)]).square().mean(-1).sqrt()
        assert torch.allclose(torch.tensor(found["streams"]), want, rtol=1e-3)
        sums_of_weights = torch.tensor(found["looks"]).sum(-1)
        assert (sums_of_weights - 1).abs().max() < 0.034 * len(ids)


@browser_test
def test_the_tour_steps_through_every_station_and_ends_at_the_answer(opened: Callable[..., Opened]) -> None:
    page, data = opened("model_tour").page, model_tour_data()
    element = page.locator("alignlab-model_tour")
    page.evaluate(
        "document.querySelector('alignlab-model_tour')"
        ".addEventListener('alignlab-update', e => { window.last = e.detail; })"
    )
    layer = element.get_by_label("Layer", exact=True)
    layer.evaluate("e => { e.value = 0; e.dispatchEvent(new Event('input')); }")
    seen = [page.evaluate("[window.last.layer, window.last.station]")]
    forward = element.get_by_role("button", name="Next step")
    while forward.is_enabled():
        forward.click()
        seen.append(page.evaluate("[window.last.layer, window.last.station]"))
    assert len(seen) == 1 + 3 * 11 + 2 and seen[0] == [0, "Look up"] and seen[-1] == [4, "Logits"]
    assert page.evaluate("window.last.guesses") == [list(one) for one in data["examples"][0]["guesses"][-1]]
    element.get_by_role("button", name="Back").click()
    assert page.evaluate("window.last.station") == "Last norm"
    layer.evaluate("e => { e.value = 2; e.dispatchEvent(new Event('input')); }")
    last = page.evaluate("window.last")
    assert last["layer"] == 2 and last["guesses"] == [list(one) for one in data["examples"][0]["guesses"][1]]
    first = last["weights"]
    element.get_by_label("Head", exact=True).evaluate("e => { e.value = 3; e.dispatchEvent(new Event('input')); }")
    assert page.evaluate("window.last.weights") != first
    element.get_by_role("button", name="9. Gate and up").click()
    assert list(page.evaluate("window.last.tensors")) == ["gate", "up", "silu(gate) · up"]
    element.get_by_role("button", name="A longer text").click()
    assert page.evaluate("[window.last.example, window.last.weights.length]") == [1, 8]


@pytest.mark.skipif(not MODEL_TOUR.exists(), reason="the lab ch01_open_the_model has not been run yet")
def test_the_tours_data_are_the_models_and_small_enough_for_a_page() -> None:
    assert MODEL_TOUR.stat().st_size < 40_000
    data = json.loads(MODEL_TOUR.read_text(encoding="utf-8"))["data"]
    assert [len(example["tokens"]) for example in data["examples"]] == [13, 27]
    assert all(example["layers"] == 30 and example["heads"] == 9 for example in data["examples"])
    assert [example["guesses"][-1][0][0] for example in data["examples"]] == ["I", "3"]


def as_architecture(m: dict[str, Any]) -> counting.Architecture:
    """A row of the counter as the library's sizes."""
    latent, experts = m["latent"], m["experts"]
    return counting.Architecture(
        m["vocab"], m["d"], m["ff"], m["layers"], m["heads"], m["kv"], m["head"], m["context"],
        tie_word_embeddings=m["tied"], attention_bias=m["bias"], query_key_norm=m["norm"],
        latent=counting.Latent(*latent) if latent else None, experts=counting.Experts(*experts) if experts else None,
    )  # fmt: skip


@browser_test
def test_the_counter_counts_as_the_library_does(opened: Callable[..., Opened]) -> None:
    page, data = opened("parameter_counter").page, counter_data()
    settings = [
        {"layers": 1, "width": 1, "inner": 1, "shared": 0},  # as published
        {"layers": 0.5, "width": 1, "inner": 1.5, "shared": 4},
        {"layers": 2, "width": 0.5, "inner": 0.25, "shared": 64},
        {"layers": 0.25, "width": 1.25, "inner": 1, "shared": 3},
    ]
    got = page.evaluate(
        """([models, settings]) => {
          const E = customElements.get('alignlab-parameter_counter');
          return models.flatMap((one) => settings.map((s) => {
            const m = E.changed(one, {...s, shared: s.shared || one.heads / one.kv});
            return {m, all: E.parameters(m), used: E.activeParameters(m), read: E.forwardFlops(m, 512, 0, 512),
                    step: E.forwardFlops(m, 1, 4095, 1), cache: E.cacheBytes(m, 4096, 3)};
          }));
        }""",
        [data["models"], settings],
    )
    assert len(got) == len(counting.PUBLISHED) * len(settings)
    for one in got:
        a = as_architecture(one["m"])
        assert one["all"] == counting.parameters(a) and one["used"] == counting.active_parameters(a)
        assert one["read"] == pytest.approx(sum(counting.forward_flops(a, 512).values()), rel=1e-12)
        assert one["step"] == pytest.approx(sum(counting.forward_flops(a, 1, past=4095).values()), rel=1e-12)
        assert one["cache"] == counting.kv_cache_bytes(a, 4096, batch=3)
    for one, model in zip(got[:: len(settings)], data["models"], strict=True):
        assert sum(one["all"].values()) == model["total"] and sum(one["used"].values()) == model["used"]


@browser_test
def test_the_counter_opens_on_a_published_model_and_goes_back_to_it(opened: Callable[..., Opened]) -> None:
    page = opened("parameter_counter").page
    element = page.locator("alignlab-parameter_counter")
    page.evaluate(
        "document.querySelector('alignlab-parameter_counter')"
        ".addEventListener('alignlab-update', e => { window.last = e.detail; })"
    )
    for number, model in enumerate(counting.PUBLISHED):
        element.get_by_label("Model", exact=True).select_option(str(number))
        row = counting.plain(model)
        last = page.evaluate("window.last")
        assert last["total"] == row["total"] and last["model"]["kv"] == row["kv"]
        assert f"stated: {model.stated}" in element.locator(".figures").inner_text()
    layers = element.get_by_label("Layers L", exact=True)
    element.get_by_label("Model", exact=True).select_option("7")  # Llama-2-7B
    published = page.evaluate("window.last.total")
    layers.evaluate("e => { e.value = 2; e.dispatchEvent(new Event('input')); }")
    assert page.evaluate("window.last.model.layers") == 16
    assert "stated" not in element.locator(".figures").inner_text()
    element.get_by_role("button", name="As published").click()
    assert page.evaluate("window.last.total") == published


@browser_test
def test_sharing_key_heads_shrinks_the_cache_and_a_latent_one_does_not_care(opened: Callable[..., Opened]) -> None:
    page = opened("parameter_counter").page
    element = page.locator("alignlab-parameter_counter")
    page.evaluate(
        "document.querySelector('alignlab-parameter_counter')"
        ".addEventListener('alignlab-update', e => { window.last = e.detail; })"
    )
    shared = element.get_by_label("Queries per key head")
    shared.evaluate("e => { e.value = 6; e.dispatchEvent(new Event('input')); }")
    latent = page.evaluate("window.last")
    assert latent["cache"] == counting.kv_cache_bytes(counting.published("DeepSeek-V3").architecture, 4096)
    assert latent["total"] == counting.plain(counting.published("DeepSeek-V3"))["total"]
    element.get_by_label("Model", exact=True).select_option("7")
    before = page.evaluate("window.last.cache")
    shared.evaluate("e => { e.value = 6; e.dispatchEvent(new Event('input')); }")
    assert page.evaluate("window.last.cache") * 8 == before and page.evaluate("window.last.model.kv") == 4
    element.get_by_label("Context T").evaluate("e => { e.value = e.max; e.dispatchEvent(new Event('input')); }")
    assert page.evaluate("window.last.cache") * 8 == before * 32


# ---- the tokenizer

TOKEN_IDS = """async ([texts, digits]) => {
  const E = customElements.get("alignlab-tokenizer");
  const bpe = E.bpeOf({ ...(await E.unpackedMerges(globalThis.alignlabStatics.smollm2_merges)), digits });
  return texts.map((text) => ({
    ids: bpe.ids(text),
    pieces: bpe.pieces(text).map((piece) => piece.text),
    most: bpe.pieces(text).map((one) =>
      [0, 100, 5000, 48900].map((most) => bpe.tokens(one, E.reached(one, most)).length)),
    falls: E.falls(bpe.pieces(text)),
  }));
}"""


def unusual_texts() -> list[str]:
    """Letters of all scripts, spaces of many widths, emoji, special tokens, and bytes that SmolLM2 has no token for."""
    rng = random.Random(0)
    draws: list[Callable[[], str]] = [
        lambda: rng.choice("abc etaoin  \n\t.,'s'll 0123456789()-_ĠĊ"),
        lambda: chr(rng.randint(0x20, 0x52F)),
        lambda: chr(rng.choice([rng.randint(0x900, 0xD7A3), rng.randint(0xF900, 0xFFFD)])),
        lambda: chr(rng.randint(0x1F300, 0x1FAD0)),
        lambda: rng.choice(["the", " and", "\r\n", "  ", "\u3000", "\u200d", "\ufeff", "\x85", "\x1c", "\x04", "²"]),
    ]
    texts = ["".join(rng.choice(draws)() for _ in range(rng.randint(0, 30))) for _ in range(400)]
    texts = ["".join(c for c in text if unicodedata.category(c) != "Cn") for text in texts]
    return [*texts, "<|im_start|>user\n你<|im_end|>", "\n\n1. a  2", "a" * 200, "中" * 80, *DIGITS_AFTER_SPACES]


DIGITS_AFTER_SPACES = ("Tips:\n\n1. Sleep.\n\n2. Eat.", "  42", "a  7", "add ½ cup")


def published_tokenizer() -> Tokenizer:
    """SmolLM2's in the tokenizers library, cut as its published file says: digits alone, then GPT-2's pattern."""
    library = Tokenizer.from_str(json.dumps(smollm2_merges.tokenizer().to_json()))
    parts: list[Any] = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    library.pre_tokenizer = pre_tokenizers.Sequence(parts)
    return library


@browser_test
def test_the_tokenizers_ids_are_the_librarys_on_unusual_text(opened: Callable[..., Opened]) -> None:
    ours, library = smollm2_merges.tokenizer(), published_tokenizer()
    texts, page = unusual_texts(), opened("tokenizer").page
    got = page.evaluate(TOKEN_IDS, [texts, tokenizer_data()["digits"]])
    for text, answer in zip(texts, got, strict=True):
        assert answer["ids"] == library.encode(text, add_special_tokens=False).ids, text
    for text, answer in zip(DIGITS_AFTER_SPACES, page.evaluate(TOKEN_IDS, [DIGITS_AFTER_SPACES, False]), strict=True):
        assert answer["ids"] != library.encode(text, add_special_tokens=False).ids, "the rule for digits matters here"
    plain = [(text, answer) for text, answer in zip(texts, got, strict=True) if "<|im" not in text]
    assert all(answer["pieces"] == ours.pieces(text) for text, answer in plain)


@browser_test
def test_fewer_merges_give_the_tokens_of_a_tokenizer_that_learned_only_those(opened: Callable[..., Opened]) -> None:
    ours = smollm2_merges.tokenizer()
    texts = [*unusual_texts()[:150], "Antidisestablishmentarianism, strawberries"]
    got = opened("tokenizer").page.evaluate(TOKEN_IDS, [texts, True])
    for k, limit in enumerate((0, 100, 5000, 48_900)):
        few = bpe.Tokenizer(ours.vocabulary, ours.merges[:limit])
        for text, answer in zip(texts, got, strict=True):
            pieces = [piece.encode() for piece in ours.pieces(text)]
            kept = [bytes(byte for byte in piece if bytes([byte]) in ours.vocabulary) for piece in pieces]
            want = [len(few.merge(piece)) for piece in kept]
            assert [counts[k] for counts in answer["most"]] == want, text
            assert sum(want) == sum(map(len, kept)) - sum(place <= limit for place in answer["falls"])


@browser_test
def test_a_typed_text_shows_its_ids_and_a_lost_byte_is_told(opened: Callable[..., Opened]) -> None:
    visit = opened("tokenizer")
    ours, page = smollm2_merges.tokenizer(), visit.page
    page.wait_for_function("globalThis.alignlabStatics.smollm2_merges")
    page.wait_for_timeout(400)
    for text in ("Zebras 你好 42!", "a  7", "one\x04two"):
        page.locator("alignlab-tokenizer textarea").fill(text)
        ids = ours.encode(text, missing="drop")
        assert page.locator("alignlab-tokenizer .ids").inner_text() == f"Ids {' '.join(map(str, ids))}"
        assert page.locator("alignlab-tokenizer .piece-button").count() == len(ours.pieces(text))
    assert "1 lost: 0x04" in page.locator("alignlab-tokenizer .figures").inner_text()
    assert visit.errors == []
