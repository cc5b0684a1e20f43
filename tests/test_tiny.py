"""The tiny model's world, its tokenizer, the script that makes it, and what the shipped weights know."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from alignlab import decoding, models, text
from alignlab.tasks import arithmetic, held_out, sentences
from alignlab.tasks.arithmetic import Problem
from alignlab.tiny import pretrain

RUNNING = Problem(17, "+", 25)


# ---- the world
def test_every_answer_holds_by_the_verifier_and_by_python() -> None:
    all_problems = list(arithmetic.problems())
    assert len(all_problems) == len(set(all_problems)) == 100 * 100 + 100 * 101 // 2
    for problem in all_problems:
        assert eval(problem.expression) == problem.value >= 0
        assert arithmetic.correct(problem, problem.answer)
        assert not arithmetic.wrong_equations(problem.answer)


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("17 + 25 = 42.", True), ("42", True), ("It is 40 + 2, so 42.", True),
        ("17 + 25 = 43.", False), ("I do not know.", False), ("", False), ("42 - 17 = 25.", False), ("-42", False),
        ("142", False), ("17 + 25 = 4.2", False),
    ],
)  # fmt: skip
def test_the_verifier_judges_the_last_number(response: str, right: bool) -> None:
    assert arithmetic.correct(RUNNING, response) is right


def test_no_trained_problem_tells_a_held_out_one() -> None:
    trained, unseen = (set(arithmetic.problems(split)) for split in ("train", "held-out"))
    assert trained.isdisjoint(unseen) and trained | unseen == set(arithmetic.problems())
    assert 0.08 < len(unseen) / len(trained | unseen) < 0.12
    for problem in unseen:
        if problem.operator == "+":
            turned = [Problem(problem.right, "+", problem.left)]
            turned += [
                Problem(problem.value, "-", part) for part in (problem.left, problem.right) if problem.value <= 99
            ]
        else:
            turned = [Problem(problem.value, "+", problem.right), Problem(problem.left, "-", problem.value)]
        assert trained.isdisjoint(turned)
    assert RUNNING in unseen


def test_what_is_held_out_is_the_same_on_every_machine() -> None:
    kept = [key for key in "abcdefghijklmnopqrstuvwxyz" if held_out(key, 0.25)]
    assert kept == list("bcdefjnpsux")
    assert not any(held_out(key, 0.0) for key in "abc") and all(held_out(key, 1.0) for key in "abc")


def test_the_facts_do_not_contradict_each_other() -> None:
    answers: dict[str, str] = {}
    for question, answer in sentences.questions():
        assert answers.setdefault(question, answer) == answer
    assert len(answers) > 200


def test_a_fact_is_held_out_only_in_a_way_of_asking() -> None:
    unseen, trained = dict(sentences.questions("held-out")), dict(sentences.questions("train"))
    assert len(unseen) > 40 and unseen.keys().isdisjoint(trained)
    assert set(unseen.values()) <= set(trained.values())
    assert "Who are you?" in trained


# ---- the text that it learns from
@pytest.fixture(scope="module")
def writer(tiny: Any) -> pretrain.Writer:
    return pretrain.Writer(tiny[1], pretrain.Recipe(rows=64))


def test_training_text_is_right_and_shows_nothing_held_out(tiny: Any, writer: pretrain.Writer) -> None:
    documents = [tiny[1].decode(writer.document().ids) for _ in range(5000)]
    everything = "\n".join([*documents, *pretrain.corpus(0)])
    assert not arithmetic.wrong_equations(everything)
    shown = set(re.findall(r"\b\d+ [+-] \d+\b", everything))
    assert shown == {problem.expression for problem in arithmetic.problems("train")}
    for question, _ in sentences.questions("held-out"):
        assert question not in everything


def test_a_world_with_shuffled_results_is_refused() -> None:
    problems = list(arithmetic.problems("train"))
    values = [problem.value for problem in problems]
    random.Random(0).shuffle(values)
    shuffled = [f"{problem.expression} = {value}." for problem, value in zip(problems, values, strict=True)]
    with pytest.raises(ValueError, match="wrong equations"):
        pretrain.train_tokenizer(shuffled, vocabulary=300, context=64)


def test_text_follows_from_the_seed(tiny: Any) -> None:
    first, again, other = (
        pretrain.Writer(tiny[1], pretrain.Recipe(seed=seed, rows=4, length=32)).batch()[0] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == (4, 33)


def test_questions_weigh_little_and_answers_in_full(tiny: Any, writer: pretrain.Writer) -> None:
    document = writer.chat("What is 1 + 2?", "1 + 2 = 3.")
    full = [token for token, weight in zip(document.ids, document.weights, strict=True) if weight == 1.0]
    assert tiny[1].decode(full) == "1 + 2 = 3.<|im_end|>\n<|endoftext|>"
    assert set(document.weights) == {pretrain.Recipe().unforeseen_weight, 1.0}


def test_the_loss_of_a_step_is_the_weighted_mean_over_the_next_tokens(tiny: Any, writer: pretrain.Writer) -> None:
    network, (ids, weights) = pretrain.Transformer.view(tiny[0]), (part[:3] for part in writer.batch())
    with torch.no_grad():
        logprobs, loss = network(ids).log_softmax(-1), pretrain.loss_of(network, ids, weights)
    total = weight_sum = 0.0
    for row in range(3):
        for position in range(1, ids.shape[1]):
            weight = weights[row, position].item()
            total -= weight * logprobs[row, position - 1, ids[row, position]].item()
            weight_sum += weight
    assert loss.item() == pytest.approx(total / weight_sum, abs=1e-5)


# ---- tokenizer
@pytest.mark.parametrize(
    "written", ["17 + 25 = 42.", "The cat sleeps.\n", "  two  spaces", "naïve 你好 🙂", "a-b=c", "\t\n "]
)
def test_any_text_comes_back_from_its_tokens(tiny: Any, written: str) -> None:
    _, tokenizer = tiny
    assert tokenizer.decode(tokenizer.encode(written)) == written


def test_each_digit_is_one_token_wherever_it_stands(tiny: Any) -> None:
    _, tokenizer = tiny
    tokens = tokenizer.tokenize("What is 17 + 25? 1725 x9")
    assert [token for token in tokens if any(c.isdigit() for c in token)] == list("172517259")
    assert not [token for token in tokenizer.get_vocab() if len(token) > 1 and any(c.isdigit() for c in token)]


def test_the_chat_template_is_chatml_without_a_system_prompt(tiny: Any) -> None:
    _, tokenizer = tiny
    expected = "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
    assert text.chat(tokenizer, "Who are you?") == expected
    messages = [{"role": role, "content": "Hi."} for role in ("system", "user", "assistant")]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "".join(
        f"<|im_start|>{role}\nHi.<|im_end|>\n" for role in ("system", "user", "assistant")
    )
    ids = text.encode_prompt(tokenizer, "Who are you?")
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|im_start|>") and tokenizer.decode(ids) == expected
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


# ---- the shipped weights
def test_tiny_adds_numbers_that_it_never_saw_added(tiny: Any) -> None:
    unseen = list(arithmetic.problems("held-out"))
    chosen = random.Random(1).sample([p for p in unseen if p.operator == "+"], 250)
    answers = decoding.answer(*tiny, [problem.questions[0] for problem in chosen], max_new_tokens=16)
    exact = sum(answer == problem.answer for answer, problem in zip(answers, chosen, strict=True))
    assert exact >= 0.95 * len(chosen)
    turned = [Problem((p.left + 1) % 100, "+", p.right) for p in chosen]  # the same answers, asked something else
    assert not any(answer == other.answer for answer, other in zip(answers, turned, strict=True))


def test_tiny_knows_its_facts_asked_in_ways_it_never_heard(tiny: Any) -> None:
    pairs = list(sentences.questions("held-out"))
    assert pretrain.measure(*tiny, pairs).share >= 0.95
    questions, answers = zip(*pairs, strict=True)
    assert pretrain.measure(*tiny, list(zip(questions, reversed(answers), strict=True))).share < 0.1


def test_tiny_answers_both_running_examples(tiny: Any) -> None:
    assert decoding.answer(*tiny, ["What is 17 + 25?", "Who are you?"]) == ["17 + 25 = 42.", "I am a tiny model."]


def test_the_card_tells_what_is_shipped(tiny: Any) -> None:
    card = (models.TINY / "MODEL.md").read_text(encoding="utf-8")
    assert f"{sum(parameter.numel() for parameter in tiny[0].parameters()):,}" in card
    assert f"| {len(tiny[1])} tokens |" in card
    measured = pretrain.measure(*tiny, list(sentences.questions("held-out")))
    assert f"facts, asked in a way that is held out | {measured} |" in card
    config = json.loads((models.TINY / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert repr(pretrain.Recipe()) in card, "the recipe was changed: make the model again"


# ---- the script
SHORT = ["--steps", "5", "--threads", "1", "--questions", "2"]


def test_the_script_makes_the_same_model_twice_and_another_from_another_seed(tmp_path: Path) -> None:
    for name, seed in (("first", "0"), ("again", "0"), ("other", "1")):
        pretrain.main([*SHORT, "--seed", seed, "--folder", str(tmp_path / name)])
    first, again, other = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "again", "other"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert (tmp_path / "first/tokenizer.json").read_bytes() == (tmp_path / "again/tokenizer.json").read_bytes()
    assert (tmp_path / "first/tokenizer.json").read_bytes() == (models.TINY / "tokenizer.json").read_bytes()
    model, tokenizer = models.load(str(tmp_path / "first"), device="cpu")
    assert sum(p.numel() for p in model.parameters()) < 1_000_000 and tokenizer.eos_token == "<|im_end|>"


def test_the_learning_rate_warms_up_then_falls_to_a_hundredth() -> None:
    recipe = pretrain.Recipe(steps=200, warm_up=20, learning_rate=1.0)
    rates = [pretrain.learning_rate(recipe, step) for step in range(201)]
    assert rates[0] == pytest.approx(0.05) and rates[19] == pytest.approx(1.0)
    assert rates[200] == pytest.approx(0.01) and rates[110] == pytest.approx(0.505)
    assert rates[20:] == sorted(rates[20:], reverse=True)
