"""From next-token logits to text: one module per family of strategies, all names in one place."""

from alignlab.decoding.beam import Beams, Hypothesis, beam_search
from alignlab.decoding.contrastive import contrastive_search
from alignlab.decoding.sampling import (
    GREEDY,
    Completion,
    Processor,
    Sampling,
    answer,
    choose,
    eta,
    generate,
    min_p,
    no_repeat_ngram,
    occurrence_penalty,
    repetition_penalty,
    temperature,
    top_k,
    top_p,
    typical,
)

__all__ = [
    "GREEDY",
    "Beams",
    "Completion",
    "Hypothesis",
    "Processor",
    "Sampling",
    "answer",
    "beam_search",
    "choose",
    "contrastive_search",
    "eta",
    "generate",
    "min_p",
    "no_repeat_ngram",
    "occurrence_penalty",
    "repetition_penalty",
    "temperature",
    "top_k",
    "top_p",
    "typical",
]
