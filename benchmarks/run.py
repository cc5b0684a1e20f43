"""AlignLab beside its peers, in one process, turn by turn: a table with ratios, also written to RESULTS.md.

`python benchmarks/run.py`, or `make bench`; `--smoke` runs everything on toy sizes and writes nothing.
"""

import argparse
import multiprocessing
import os
import random
import sys
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import actor_critic
import beam
import bpe
import dpo
import dqn
import family
import in_page
import model as decoder
import retrieval
import sampler
import structured
import torch
from measure import HEADER, Comparison, document, machine, table
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.utils import logging

from alignlab import models, text
from alignlab.decoding.structured import Vocabulary

PARTS = ["decoder", "bpe", "sampler", "beam", "masks", "retrieval", "dpo", "agents", "memory", "page"]
RESULTS = Path(__file__).parent / "RESULTS.md"
QUESTIONS = """Who are you? | What is the capital of France? | What is 17 + 25? | Name three colours of a flag.
Why is the sky blue? | How do bees make honey? | What is a triangle? | Tell me about the sea."""


def main() -> int:
    """0 where every target is met (--smoke has none)."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="toy sizes, a few seconds, no RESULTS.md")
    parser.add_argument("--only", choices=PARTS, help="one part alone; RESULTS.md keeps the others")
    options = parser.parse_args()
    logging.set_verbosity_error()
    parts = [options.only] if options.only else PARTS
    measures = {
        "decoder": decoders, "bpe": tokenizers, "sampler": samplers, "beam": beams, "masks": masks,
        "retrieval": searches, "dpo": trainers, "agents": agents,
    }  # fmt: skip
    report: dict[str, str] = {}
    met = True
    print(machine())
    for part in parts:
        if part in measures:
            comparisons = measures[part](options.smoke)
            report[part] = table(HEADER, [comparison.row() for comparison in comparisons])
            met = met and all(comparison.met for comparison in comparisons)
        elif options.smoke:
            continue
        elif part == "memory":
            report[part] = table(
                ["peak memory of 3 DPO steps, process by process", "GB"], memory(["ours", *dpo.SETTINGS])
            )
        else:
            page = in_page.measure()
            report[part] = table(in_page.HEADER, page.rows())
            met = met and page.met
        print(f"\n{report[part]}", flush=True)
    if not options.smoke:
        before = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
        RESULTS.write_text(document(before, report, PARTS), encoding="utf-8")
        print(f"\nwritten to {RESULTS.relative_to(Path(__file__).parents[1])}")
    return 0 if options.smoke or met else 1


def decoders(smoke: bool) -> list[Comparison]:
    """The decoder's forward pass and training step, at the size of the tiny model and of SmolLM2."""
    if smoke:
        return decoder.compare("toy decoder", toy(50)[0], 2, 8, turns=2, target=0.0)
    tiny, (small, _) = decoder.sized(512, 128, 384, 4, 4, 2, 128), models.load("small", "cpu")
    return [
        *decoder.compare("0.9M decoder", tiny, 16, 128, turns=15, target=1.0),
        *decoder.compare("SmolLM2 sizes", small, 2, 128, turns=7, target=1.0),
    ]


def tokenizers(smoke: bool) -> list[Comparison]:
    """Training a tokenizer, and encoding with SmolLM2's merges."""
    return bpe.compare(smoke)


def samplers(smoke: bool) -> list[Comparison]:
    """Generation by the tiny model and by SmolLM2."""
    if smoke:
        return [sampler.compare("toy", toy(50)[0], [[1, 2, 3], [4, 5]], tokens=4, turns=2, target=0.0)]
    (tiny, letters), (small, words) = models.load("tiny", "cpu"), models.load("small", "cpu")
    draw = random.Random(0)
    sums = [
        text.encode_prompt(letters, f"What is {draw.randrange(10, 90)} + {draw.randrange(10, 90)}?") for _ in range(32)
    ]
    asked = [text.encode_prompt(words, question.strip()) for question in QUESTIONS.replace("\n", "|").split("|")]
    return [
        sampler.compare("sampler, tiny", tiny, sums, tokens=64, turns=15, target=2.0),
        sampler.compare("sampler, SmolLM2", small, asked[:1], tokens=24, turns=7, target=1.0),
        sampler.compare("sampler, SmolLM2", small, asked, tokens=24, turns=7, target=1.0),
    ]


def beams(smoke: bool) -> list[Comparison]:
    """Beam search by the tiny model and by SmolLM2."""
    if smoke:
        return [beam.compare("beams, toy", toy(50)[0], [[1, 2, 3], [4, 5]], tokens=4, width=2, turns=2, target=0.0)]
    (tiny, letters), (small, words) = models.load("tiny", "cpu"), models.load("small", "cpu")
    sums = [text.encode_prompt(letters, f"What is {n} + {n + 8}?") for n in range(10, 42)]
    asked = [text.encode_prompt(words, question) for question in ("What is 17 + 25?", "What is 30 + 9?")]
    return [
        beam.compare("beams, tiny", tiny, sums, tokens=32, width=4, turns=9, target=1.0),
        beam.compare("beams, SmolLM2", small, asked, tokens=16, width=4, turns=5, target=1.0),
    ]


def masks(smoke: bool) -> list[Comparison]:
    """Grammar masks over a vocabulary, and whole constrained answers, beside Outlines and transformers."""
    document = list(structured.DOCUMENT.encode())
    if smoke:
        return [structured.compare_masks("masks, toy", structured.toy_vocabulary(), document, 2, turns=2, target=0.0)]
    small, words = models.load("small", "cpu")
    vocabulary = Vocabulary.of(words)
    ids = words.encode(structured.DOCUMENT, add_special_tokens=False)
    asked = [text.encode_prompt(words, "A table for Ann on Tuesday, 4 people.")] * 4
    return [
        structured.compare_masks("grammar masks, SmolLM2", vocabulary, ids, 1, turns=15, target=1.0),
        structured.compare_masks("grammar masks, SmolLM2", vocabulary, ids, 32, turns=15, target=1.0),
        structured.compare_answers("constrained answers, SmolLM2", small, vocabulary, asked, turns=5, target=1.0),
        structured.compare_answers(
            "constrained answers, SmolLM2", small, vocabulary, asked, turns=5, target=1.0, peer="transformers"
        ),
    ]


def searches(smoke: bool) -> list[Comparison]:
    """The nearest vectors beside LanceDB, BM25 beside bm25s."""
    if smoke:
        return [retrieval.nearest("nearest, toy", 50, turns=2, target=0.0, width=8, k=3)]
    return [
        retrieval.nearest("nearest 10", 1_000, turns=9, target=1.0),
        retrieval.nearest("nearest 10", 50_000, turns=5, target=1.0),
        retrieval.words("BM25", 1, turns=9, target=0.0),
        retrieval.words("BM25", 50, turns=5, target=0.0),
    ]


def trainers(smoke: bool) -> list[Comparison]:
    """DPO steps beside trl's trainer, under each of its settings, then a step of each of DPO's relatives."""
    if smoke:
        _, tokenizer = models.load("small", "cpu")
        base = toy(len(tokenizer))[0]
        return [dpo.compare(base, tokenizer, 2, setting, target=0.0) for setting in dpo.SETTINGS] + [
            family.compare(base, tokenizer, 2, name, target=0.0) for name in family.METHODS
        ]
    base, tokenizer = models.load("small", "cpu")
    targets = {setting: 1.0 if setting == dpo.EXACT else 2.5 for setting in dpo.SETTINGS}
    return [dpo.compare(base, tokenizer, 10, setting, target) for setting, target in targets.items()] + [
        family.compare(base, tokenizer, 7, name, target=1.0) for name in family.METHODS
    ]


def agents(smoke: bool) -> list[Comparison]:
    """DQN and actor-critic to a mean return of 475 on CartPole, beside stable-baselines3's, five seeds each."""
    if smoke:
        return [
            dqn.compare("DQN, toy", seeds=1, steps=300, look=150, episodes=2, target=0.0),
            actor_critic.compare(
                "actor-critic, toy", seeds=1, steps=400, patience=400, marks=(200,), more_seeds=1, target=0.0
            ),
        ]
    return [dqn.compare("DQN to 475 on CartPole"), actor_critic.compare("actor-critic to 475 on CartPole")]


def toy(vocabulary: int) -> tuple[PreTrainedModel, None]:
    """A random Llama of a few thousand parameters beside its embedding."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, initializer_range=0.3, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), None


def memory(sides: list[str]) -> list[list[str]]:
    """Each side in a process of its own, since a process never forgets its peak."""
    rows = []
    for side in sides:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append([side if side == "ours" else f"trl {side}", f"{pool.apply(dpo.memory_of, (side, 3)):.2f}"])
    return rows


if __name__ == "__main__":
    sys.exit(main())
