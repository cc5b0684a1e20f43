"""Exercises of the lab ch03_dpo_identity: margin, log-probability of an answer, gradient weight, masks, preference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alignlab.exercises import Exercise, Wrong, require, same

FOUR = [
    torch.tensor(values, dtype=torch.float64)
    for values in ([-9.0, -30.0], [-11.0, -8.0], [-12.0, -31.0], [-10.0, -12.0])
]
"""Log-probabilities of two pairs: policy chosen and rejected, reference chosen and rejected."""

LOGITS = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
IDS = torch.tensor([[1, 4, 2, 7, 3, 8], [5, 0, 6, 2, 2, 2]])
MASK = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0]])
MARGINS = torch.tensor([-8.0, 0.0, 3.0, 40.0], dtype=torch.float64)


# ---- solutions
def margin(
    policy_chosen: Tensor, policy_rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor
) -> Tensor:
    """What chosen gained on the reference, minus what rejected gained."""
    return (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)


def sequence_logprob(logits: Tensor, input_ids: Tensor, response_mask: Tensor) -> Tensor:
    """Position t predicts token t + 1; the mask belongs to the targets."""
    logp = logits[:, :-1].log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0]
    return (logp * response_mask[:, 1:]).sum(-1)


def weight(margin: Tensor, beta: float) -> Tensor:
    """The probability, by the implicit reward, that the rejected answer is the better one."""
    return torch.sigmoid(-beta * margin)


def example(prompt_ids: list[int], answer_ids: list[int], ended: bool, end_id: int) -> tuple[list[int], list[int]]:
    """The end token is part of the answer where the answer ended."""
    answer = answer_ids + [end_id] * ended
    return prompt_ids + answer, [0] * len(prompt_ids) + [1] * len(answer)


def preference(chosen_gain: Tensor, rejected_gain: Tensor, beta: float) -> Tensor:
    """Bradley-Terry on the implicit rewards beta * gain."""
    return torch.sigmoid(beta * (chosen_gain - rejected_gain))


# ---- wrong answers
def no_reference(pc: Tensor, pr: Tensor, rc: Tensor, rr: Tensor) -> Tensor:
    return pc - pr


def swapped(pc: Tensor, pr: Tensor, rc: Tensor, rr: Tensor) -> Tensor:
    return (pr - rr) - (pc - rc)


def adds_reference(pc: Tensor, pr: Tensor, rc: Tensor, rr: Tensor) -> Tensor:
    return (pc - pr) + (rc - rr)


def gains_added(pc: Tensor, pr: Tensor, rc: Tensor, rr: Tensor) -> Tensor:
    return (pc - rc) + (pr - rr)


def unshifted(logits: Tensor, input_ids: Tensor, response_mask: Tensor) -> Tensor:
    return (logits.log_softmax(-1).gather(-1, input_ids[..., None])[..., 0] * response_mask).sum(-1)


def unmasked(logits: Tensor, input_ids: Tensor, response_mask: Tensor) -> Tensor:
    return logits[:, :-1].log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0].sum(-1)


def averaged(logits: Tensor, input_ids: Tensor, response_mask: Tensor) -> Tensor:
    return sequence_logprob(logits, input_ids, response_mask) / response_mask.sum(-1)


def mask_of_inputs(logits: Tensor, input_ids: Tensor, response_mask: Tensor) -> Tensor:
    logp = logits[:, :-1].log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0]
    return (logp * response_mask[:, :-1]).sum(-1)


def negative(logits: Tensor, input_ids: Tensor, response_mask: Tensor) -> Tensor:
    return -sequence_logprob(logits, input_ids, response_mask)


def without_softmax(logits: Tensor, input_ids: Tensor, response_mask: Tensor) -> Tensor:
    return (logits[:, :-1].gather(-1, input_ids[:, 1:, None])[..., 0] * response_mask[:, 1:]).sum(-1)


def weight_of_the_settled(margin: Tensor, beta: float) -> Tensor:
    return torch.sigmoid(beta * margin)


def weight_without_beta(margin: Tensor, beta: float) -> Tensor:
    return torch.sigmoid(-margin)


def weight_times_beta(margin: Tensor, beta: float) -> Tensor:
    return beta * torch.sigmoid(-beta * margin)


def derivative(margin: Tensor, beta: float) -> Tensor:
    return -beta * torch.sigmoid(-beta * margin)


def always_ends(prompt_ids: list[int], answer_ids: list[int], ended: bool, end_id: int) -> tuple[list[int], list[int]]:
    return example(prompt_ids, answer_ids, True, end_id)


def never_ends(prompt_ids: list[int], answer_ids: list[int], ended: bool, end_id: int) -> tuple[list[int], list[int]]:
    return example(prompt_ids, answer_ids, False, end_id)


def end_unmarked(prompt_ids: list[int], answer_ids: list[int], ended: bool, end_id: int) -> tuple[list[int], list[int]]:
    ids, mask = example(prompt_ids, answer_ids, ended, end_id)
    return ids, [*mask[:-1], 0] if ended else mask


def marks_everything(
    prompt_ids: list[int], answer_ids: list[int], ended: bool, end_id: int
) -> tuple[list[int], list[int]]:
    ids, mask = example(prompt_ids, answer_ids, ended, end_id)
    return ids, [1] * len(mask)


def answer_alone(prompt_ids: list[int], answer_ids: list[int], ended: bool, end_id: int) -> tuple[list[int], list[int]]:
    answer = answer_ids + [end_id] * ended
    return answer, [1] * len(answer)


def inverted(prompt_ids: list[int], answer_ids: list[int], ended: bool, end_id: int) -> tuple[list[int], list[int]]:
    ids, mask = example(prompt_ids, answer_ids, ended, end_id)
    return ids, [1 - response for response in mask]


def preference_without_beta(chosen_gain: Tensor, rejected_gain: Tensor, beta: float) -> Tensor:
    return torch.sigmoid(chosen_gain - rejected_gain)


def log_preference(chosen_gain: Tensor, rejected_gain: Tensor, beta: float) -> Tensor:
    return preference(chosen_gain, rejected_gain, beta).log()


def chosen_alone(chosen_gain: Tensor, rejected_gain: Tensor, beta: float) -> Tensor:
    return torch.sigmoid(beta * chosen_gain)


def preference_of_rejected(chosen_gain: Tensor, rejected_gain: Tensor, beta: float) -> Tensor:
    return torch.sigmoid(beta * (rejected_gain - chosen_gain))


# ---- graders
def _grade_margin(answer: Callable[..., Any]) -> None:
    mistakes = {
        "The reference is missing: this compares two texts, and the shorter one wins.": no_reference(*FOUR),
        "Chosen and rejected are swapped: yours grows when the model gets worse.": swapped(*FOUR),
        "The reference is added; what counts is what each answer gained, so it is subtracted.": adds_reference(*FOUR),
        "The two gains are added; the margin is chosen's gain minus rejected's.": gains_added(*FOUR),
    }
    same(answer(*(values.clone() for values in FOUR)), margin(*FOUR), "your margin", mistakes=mistakes)


def _grade_sequence_logprob(answer: Callable[..., Any]) -> None:
    given = LOGITS.clone(), IDS.clone(), MASK.clone()
    mistakes = {
        "The shift is missing: logits at position t predict token t + 1, but yours score token t.": unshifted(*given),
        "The mask is missing: prompt and padding are in your sum.": unmasked(*given),
        "You took the mean; the log-probability of a sequence is the sum over its tokens.": averaged(*given),
        "The mask is one position early: it belongs to the targets, so shift it with them.": mask_of_inputs(*given),
        "The sign is flipped: a log-probability is at most 0; yours is its negative, a loss.": negative(*given),
        "These are raw logits: log_softmax over the vocabulary makes them log-probabilities.": without_softmax(*given),
    }
    same(answer(*given), sequence_logprob(*given), "your log-probability", mistakes=mistakes)


def _grade_weight(answer: Callable[..., Any]) -> None:
    for beta in (0.1, 0.5):
        mistakes = {
            "The sign is flipped: yours pulls hardest on the pairs that are settled.": weight_of_the_settled(
                MARGINS, beta
            ),
            "Beta is missing inside the sigmoid.": weight_without_beta(MARGINS, beta),
            "Beta stands in front; the task asks for the weight w alone.": weight_times_beta(MARGINS, beta),
            "That is the whole derivative, -beta w; the task asks for w.": derivative(MARGINS, beta),
        }
        same(answer(MARGINS.clone(), beta), weight(MARGINS, beta), f"your weight at beta {beta}", mistakes=mistakes)


def _grade_example(answer: Callable[..., Any]) -> None:
    for prompt, reply, ended, end in (
        ([7, 8, 9], [4, 5], True, 2),
        ([7, 8, 9], [4, 5], False, 2),
        ([6], [3, 1], True, 0),
    ):
        got = answer(list(prompt), list(reply), ended, end)
        require(
            isinstance(got, tuple | list) and len(got) == 2,
            f"your answer is a {type(got).__name__}; return two lists, ids and response_mask",
        )
        ids, mask = [list(part) for part in got]
        want_ids, want_mask = example(prompt, reply, ended, end)
        require(ids[: len(prompt)] == prompt, "Your ids do not begin with the prompt; they are prompt, then answer.")
        if ended:
            require(
                ids != prompt + reply,
                "The end token is missing: the model would learn what to say, and never to stop.",
            )
            require(
                mask != [*want_mask[:-1], 0],
                "The end token is not marked as response: nothing would teach the model to stop.",
            )
        else:
            require(
                ids != [*prompt, *reply, end],
                "This answer was cut, and you ended it: the model would learn to stop in mid-sentence.",
            )
        require(mask != [1] * len(ids), "The prompt is marked as response: its tokens would be scored too.")
        require(
            mask != [1 - response for response in want_mask],
            "The mask is inverted: 1 belongs on the answer, 0 on the prompt.",
        )
        same(ids, want_ids, "your ids")
        same(mask, want_mask, "your response mask")


def _grade_preference(answer: Callable[..., Any]) -> None:
    chosen, rejected = torch.tensor([3.0, -2.0]).double(), torch.tensor([-4.0, 1.5]).double()
    for beta in (0.1, 0.7):
        mistakes = {
            "Beta is missing: the implicit reward is beta times the gain.": preference_without_beta(
                chosen, rejected, beta
            ),
            "That is the logarithm of the probability.": log_preference(chosen, rejected, beta),
            "The rejected answer is missing: Bradley-Terry compares two rewards.": chosen_alone(chosen, rejected, beta),
            "Chosen and rejected are swapped: this is the rejected answer's chance.": preference_of_rejected(
                chosen, rejected, beta
            ),
        }
        got = answer(chosen.clone(), rejected.clone(), beta)
        same(got, preference(chosen, rejected, beta), f"your probability at beta {beta}", mistakes=mistakes)


EXERCISES = [
    Exercise(
        name="dpo_identity.margin",
        task="Turn four log-probabilities, each (B,), into the margin of every pair, (B,).",
        difficulty=1,
        minutes=4,
        grade=_grade_margin,
        solution=margin,
        wrong=[
            Wrong(no_reference, "reference is missing"),
            Wrong(swapped, "swapped"),
            Wrong(adds_reference, "reference is added"),
            Wrong(gains_added, "two gains are added"),
        ],
        hint="How much did each answer gain on the reference? Subtract the two gains.",
    ),
    Exercise(
        name="dpo_identity.sequence_logprob",
        task="Turn logits (B, T, V), token ids (B, T) and response mask (B, T) into log-probabilities of answers (B,).",
        difficulty=2,
        minutes=8,
        grade=_grade_sequence_logprob,
        solution=sequence_logprob,
        wrong=[
            Wrong(unshifted, "shift is missing"),
            Wrong(unmasked, "mask is missing"),
            Wrong(averaged, "took the mean"),
            Wrong(mask_of_inputs, "one position early"),
            Wrong(negative, "at most 0"),
            Wrong(without_softmax, "raw logits"),
        ],
        hint="`logits[:, :-1]` against `input_ids[:, 1:]`; the mask says which targets count.",
    ),
    Exercise(
        name="dpo_identity.weight",
        task="Give each pair's weight in the gradient, between 0 and 1, from its margin (B,) and beta.",
        difficulty=2,
        minutes=5,
        grade=_grade_weight,
        solution=weight,
        wrong=[
            Wrong(weight_of_the_settled, "sign is flipped"),
            Wrong(weight_without_beta, "Beta is missing inside"),
            Wrong(weight_times_beta, "Beta stands in front"),
            Wrong(derivative, "whole derivative"),
        ],
        hint="The derivative of -log sigmoid(u) by u is -sigmoid(-u).",
    ),
    Exercise(
        name="dpo_identity.example",
        task="Turn prompt ids, answer ids and whether the answer ended by itself into (ids, response_mask).",
        difficulty=2,
        minutes=8,
        grade=_grade_example,
        solution=example,
        wrong=[
            Wrong(always_ends, "mid-sentence"),
            Wrong(never_ends, "never to stop"),
            Wrong(end_unmarked, "not marked as response"),
            Wrong(marks_everything, "prompt is marked"),
            Wrong(answer_alone, "do not begin with the prompt"),
            Wrong(inverted, "mask is inverted"),
        ],
        hint="The end token is a token of the answer like any other, if the answer ended.",
    ),
    Exercise(
        name="dpo_identity.preference",
        task="Give the probability that the chosen answer is the better one, from both gains (B,) and beta.",
        difficulty=3,
        minutes=8,
        grade=_grade_preference,
        solution=preference,
        wrong=[
            Wrong(preference_without_beta, "Beta is missing"),
            Wrong(log_preference, "logarithm of the probability"),
            Wrong(chosen_alone, "rejected answer is missing"),
            Wrong(preference_of_rejected, "swapped"),
        ],
        hint="Bradley-Terry: the sigmoid of the difference of two rewards. Which rewards does a policy imply?",
    ),
]
