"""Exercises: every solution passes, every wrong answer is told what is wrong with it, an untouched stub is no error."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignlab import exercises
from alignlab.exercises import Exercise, Mistake, Wrong, check, judge, require, same

LAB_SOURCES = sorted((Path(__file__).parents[1] / "labs" / "source").glob("ch[0-9][0-9]_*.py"))
ALL = list(exercises.every())


def pairs() -> Iterator[Any]:
    for exercise in ALL:
        for number, wrong in enumerate(exercise.wrong):
            yield pytest.param(exercise, wrong, id=f"{exercise.name}-wrong-{number + 1}")


def lab_of(source: Path) -> str:
    return re.sub(r"^ch\d\d_", "", source.stem)


# --- all exercises of all labs ---


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.name)
def test_the_solution_passes(exercise: Exercise) -> None:
    verdict = judge(exercise, exercise.right())
    assert (verdict.status, verdict.message) == ("passed", "")


@pytest.mark.parametrize(("exercise", "wrong"), list(pairs()))
def test_a_wrong_answer_is_rejected_with_its_own_message(exercise: Exercise, wrong: Wrong) -> None:
    verdict = judge(exercise, wrong.answer)
    assert verdict.status == "wrong"
    assert wrong.says in verdict.message
    others = [other.says for other in exercise.wrong if other is not wrong and other.says in verdict.message]
    assert not others, "another wrong answer is told the same"


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.name)
def test_the_solution_is_shown_as_code_that_defines_it(exercise: Exercise) -> None:
    compile(exercises._solution_source(exercise), exercise.name, "exec")


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.name)
def test_grading_twice_gives_the_same_verdict(exercise: Exercise) -> None:
    for wrong in exercise.wrong:
        assert judge(exercise, wrong.answer).message == judge(exercise, wrong.answer).message


@pytest.mark.parametrize("source", LAB_SOURCES, ids=lambda source: source.stem)
def test_a_lab_asks_each_of_its_three_to_six_exercises(source: Path) -> None:
    assert lab_of(source) in exercises.labs(), f"write alignlab/exercises/{lab_of(source)}.py"
    names = [exercise.name for exercise in exercises.exercises_of(lab_of(source))]
    assert 3 <= len(names) <= 6
    asked = re.findall(r"^check\(\s*[\"']([^\"']+)[\"']", source.read_text(encoding="utf-8"), re.MULTILINE)
    assert asked == names, "the lab's checks and its EXERCISES differ, or stand in another order"


def test_exercises_have_names_of_their_own() -> None:
    names = [exercise.name for exercise in ALL]
    assert len(set(names)) == len(names)


# --- the framework, by a sample ---


def margin(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
    return beta * (chosen - rejected)


def flipped(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
    return beta * (rejected - chosen)


def without_beta(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
    return chosen - rejected


def grade_margin(answer: Any) -> None:
    chosen, rejected = torch.tensor([-3.0, -5.0]), torch.tensor([-4.0, -9.0])
    got = answer(chosen, rejected, 0.5)
    mistakes = {
        "The margin is the wrong way round: chosen less rejected.": flipped(chosen, rejected, 0.5),
        "beta is missing.": without_beta(chosen, rejected, 0.5),
    }
    same(got, margin(chosen, rejected, 0.5), "the margin", mistakes=mistakes)


SAMPLE = Exercise(
    name="sample.margin",
    task="Write the `margin` of each pair.",
    difficulty=1,
    minutes=5,
    grade=grade_margin,
    solution=margin,
    wrong=[Wrong(flipped, "wrong way round"), Wrong(without_beta, "beta is missing")],
    hint="Which of the two should be `larger`?",
)


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch) -> Exercise:
    monkeypatch.setattr(exercises, "labs", lambda: ["sample"])
    monkeypatch.setattr(exercises, "exercises_of", lambda lab: [SAMPLE])
    return SAMPLE


def test_the_sample_is_graded_like_every_exercise(sample: Exercise) -> None:
    test_the_solution_passes(sample)
    test_the_solution_is_shown_as_code_that_defines_it(sample)
    for wrong in sample.wrong:
        test_a_wrong_answer_is_rejected_with_its_own_message(sample, wrong)


def test_a_grader_that_gives_every_wrong_answer_the_same_message_is_caught() -> None:
    def grade(answer: Any) -> None:
        require(answer is margin, "wrong way round, or beta is missing.")

    vague = Exercise("sample.vague", "t", 1, 1, grade, margin, SAMPLE.wrong, "h")
    with pytest.raises(AssertionError):
        test_a_wrong_answer_is_rejected_with_its_own_message(vague, vague.wrong[0])


def test_a_grader_that_accepts_a_wrong_answer_is_caught() -> None:
    lax = Exercise("sample.lax", "t", 1, 1, lambda answer: None, margin, SAMPLE.wrong, "h")
    with pytest.raises(AssertionError):
        test_a_wrong_answer_is_rejected_with_its_own_message(lax, lax.wrong[0])


def stub(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> Any:
    """The implicit reward of the chosen response less that of the rejected one."""
    ...  # noqa: PIE790


def half_a_stub(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> Any:
    difference: Any = ...
    return beta * difference


def returned_stub(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> Any:
    return ...


@pytest.mark.parametrize("answer", [None, ..., stub, half_a_stub, returned_stub])
def test_an_untouched_stub_is_not_attempted(answer: Any) -> None:
    assert judge(SAMPLE, answer).status == "not attempted"


def test_an_answer_below_a_stubs_dots_is_graded() -> None:
    def below(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
        ...  # noqa: PIE790
        return chosen[..., :] - rejected

    assert "beta is missing" in judge(SAMPLE, below).message


def test_a_missing_return_is_named() -> None:
    def forgot(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> None:
        beta * (chosen - rejected)

    verdict = judge(SAMPLE, forgot)
    assert verdict.status == "wrong"
    assert "is None: is a `return` missing?" in verdict.message


def test_an_error_in_the_answer_is_shown_with_its_line() -> None:
    def broken(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
        half = beta / 2
        return half * chosen @ rejected[0]

    verdict = judge(SAMPLE, broken)
    assert verdict.status == "wrong"
    assert "`return half * chosen @ rejected[0]`, raised RuntimeError" in verdict.message
    assert f"Line {broken.__code__.co_firstlineno + 2}," in verdict.message


def test_a_wrong_signature_is_a_diagnosis_and_no_traceback() -> None:
    assert "TypeError" in judge(SAMPLE, lambda chosen: chosen).message
    assert "'float' object is not callable" in judge(SAMPLE, 0.5).message


def test_checking_leaves_the_random_numbers_as_they_were(sample: Exercise) -> None:
    def noisy(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
        return torch.rand(2) + np.random.random()

    torch.manual_seed(0)
    want = torch.rand(1)
    torch.manual_seed(0)
    check("sample.margin", noisy)
    assert torch.equal(torch.rand(1), want)


def test_an_unknown_name_lists_close_ones(sample: Exercise) -> None:
    with pytest.raises(LookupError, match=r"'sample\.margn'; close: sample\.margin"):
        check("sample.margn", None)
    with pytest.raises(LookupError, match=r"'sample\.x'; close: sample\.margin"):
        check("sample.x", None)
    with pytest.raises(LookupError, match="see the lab"):
        check("zzz", None)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (margin, "✓ Passed: sample.margin (difficulty 1 of 3, 5 min)"),
        (
            flipped,
            """\
            ✗ Not yet: sample.margin (difficulty 1 of 3, 5 min)
            The margin is the wrong way round: chosen less rejected.
            Hint: Which of the two should be `larger`?""",
        ),
        (stub, "○ Not attempted: sample.margin (difficulty 1 of 3, 5 min)\nTask: Write the `margin` of each pair."),
    ],
    ids=["passed", "wrong", "not attempted"],
)
def test_check_reads_as_plain_text(
    sample: Exercise, capsys: pytest.CaptureFixture[str], answer: Any, text: str
) -> None:
    check("sample.margin", answer)
    assert capsys.readouterr().out == textwrap.dedent(text) + "\n"


def test_the_card_holds_the_solution_one_click_away_and_escapes_the_message() -> None:
    verdict = exercises.Verdict(SAMPLE, "wrong", "`a < b` is <script>")
    card = exercises._card(verdict)
    assert "<code>a &lt; b</code> is &lt;script&gt;" in card
    assert "<details" in card
    assert "open" not in re.search(r"<details[^>]*>", card).group()  # type: ignore[union-attr]
    assert "return beta * (chosen - rejected)" in card
    assert 'aria-label="Exercise sample.margin"' in card


def test_an_exercise_without_two_distinct_wrong_answers_is_refused() -> None:
    def exercise(**changes: Any) -> Exercise:
        fields = {
            "name": "a.b", "task": "t", "difficulty": 1, "minutes": 1, "grade": grade_margin,
            "solution": margin, "wrong": SAMPLE.wrong, "hint": "h",
        }  # fmt: skip
        return Exercise(**{**fields, **changes})  # type: ignore[arg-type]

    exercise()
    for changes in (
        {"wrong": SAMPLE.wrong[:1]},
        {"wrong": [Wrong(flipped, "x"), Wrong(without_beta, "x")]},
        {"name": "margin"},
        {"difficulty": 4},
        {"minutes": 0},
        {"hint": ""},
    ):
        with pytest.raises(ValueError, match=r"a\.b|margin"):
            exercise(**changes)


# --- what graders are made of ---


def said(*arguments: Any, **named: Any) -> str:
    try:
        same(*arguments, **named)
    except Mistake as mistake:
        return str(mistake)
    return ""


def test_same_accepts_numbers_arrays_tensors_and_lists_of_one_value() -> None:
    for got in ([1.0, 2.0], (1, 2), np.array([1, 2]), torch.tensor([1.0, 2.0], requires_grad=True)):
        assert said(got, torch.tensor([1.0, 2.0])) == ""
    assert said(torch.tensor(0.5).bfloat16(), 0.5) == ""
    assert said(True, torch.tensor(True)) == ""


def test_same_names_the_first_difference() -> None:
    want = torch.zeros(2, 3)
    got = want.clone()
    got[1, 2] = 7
    assert said(got, want, "the mask") == "the mask at [1, 2] is 7; it should be 0."
    assert said(2, 1.0) == "your answer is 2; it should be 1."


def test_same_names_a_wrong_shape_or_type() -> None:
    assert said(torch.zeros(2), torch.zeros(2, 1), "x") == "x has shape (2,); it should have (2, 1)."
    assert said(torch.zeros(1), 0.0, "x") == "x has shape (1,); it should have () (one number)."
    assert said("a", 1.0, "x") == "x is a str; it should be made of numbers."


def test_same_never_takes_a_nan_for_right() -> None:
    assert "is nan" in said(float("nan"), 1.0)
    assert "is nan" in said(float("nan"), float("nan"))
    assert said(float("-inf"), float("-inf")) == ""


def test_same_holds_to_its_tolerance_on_both_sides() -> None:
    assert said(1.0 + 1e-6, 1.0) == ""
    assert said(1.0 + 1e-4, 1.0) != ""
    assert said(1000.0 + 5e-3, 1000.0) == ""
    assert said(1.05, 1.0, tolerance=0.1) == ""


def test_a_known_mistake_that_happens_to_be_right_here_is_not_blamed() -> None:
    assert said(1.0, 1.0, mistakes={"flipped": 1.0}) == ""
    assert said(-1.0, 1.0, mistakes={"flipped": -1.0}) == "flipped"
    assert said(torch.zeros(2), torch.zeros(3), mistakes={"one short": torch.zeros(2)}) == "one short"
