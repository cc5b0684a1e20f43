"""Exercises: `check("lab.exercise", answer)` says pass, or what is wrong and a hint; the solution is a click away.

Each lab's exercises stand in a module of its own name, as EXERCISES. This one knows how to check, not what.
"""

import ast
import importlib
import inspect
import linecache
import pkgutil
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from html import escape
from typing import Any, Literal

import numpy as np

from alignlab import display, palette
from alignlab.checkpoint import same_random_numbers_after

Status = Literal["passed", "wrong", "not attempted"]


class Mistake(Exception):
    """What a grader says of a wrong answer: what is wrong, in one sentence, with values where they help."""


@dataclass(frozen=True)
class Wrong:
    """A plausible wrong answer, and words that only its diagnosis holds."""

    answer: Any
    says: str


@dataclass(frozen=True)
class Exercise:
    """One exercise of a lab.

    name: `lab.exercise`. task: one or two sentences. difficulty: 1 to 3. minutes: for a reader who followed the lab.
    grade: raises Mistake unless the answer is right; `same` and `require` help.
    solution: a function that is the answer or, for an exercise that asks for a value, returns it (value=True).
    """

    name: str
    task: str
    difficulty: int
    minutes: int
    grade: Callable[[Any], None]
    solution: Callable[..., Any]
    wrong: Sequence[Wrong]
    hint: str
    value: bool = False

    def __post_init__(self) -> None:
        if self.name.count(".") != 1:
            raise ValueError(f"the exercise's name is {self.name!r}; write lab.exercise")
        if self.difficulty not in (1, 2, 3) or self.minutes < 1:
            raise ValueError(f"{self.name}: difficulty is 1 to 3, minutes at least 1")
        if len({wrong.says for wrong in self.wrong}) != len(self.wrong) or len(self.wrong) < 2:
            raise ValueError(f"{self.name}: give two wrong answers or more, each with words of its own")
        if not self.task or not self.hint or not all(wrong.says for wrong in self.wrong):
            raise ValueError(f"{self.name}: the task, the hint and what each wrong answer is told must not be empty")

    def right(self) -> Any:
        """The right answer."""
        return self.solution() if self.value else self.solution


@dataclass(frozen=True)
class Verdict:
    """What `check` found; shown as a card in a notebook, as text elsewhere."""

    exercise: Exercise
    status: Status
    message: str = ""


def check(name: str, answer: Any) -> None:
    """Show whether `answer` solves the exercise, else what is wrong with it. Raises LookupError for an unknown name."""
    verdict = judge(find(name), answer)
    display.show({"text/html": _card(verdict), "text/plain": _plain_text(verdict)})


def judge(exercise: Exercise, answer: Any) -> Verdict:
    """Grade `answer`. Errors in it become its diagnosis; the random numbers that follow are not changed."""
    if answer is None or answer is Ellipsis:
        return Verdict(exercise, "not attempted")
    with same_random_numbers_after():
        try:
            exercise.grade(answer)
        except Exception as error:
            if callable(answer) and _is_unfinished(answer):
                return Verdict(exercise, "not attempted")
            return Verdict(exercise, "wrong", str(error) if isinstance(error, Mistake) else _diagnosis(error, answer))
    return Verdict(exercise, "passed")


def find(name: str) -> Exercise:
    """The exercise of that name; LookupError that lists close names if there is none."""
    lab = name.partition(".")[0]
    for exercise in exercises_of(lab) if lab in labs() else ():
        if exercise.name == name:
            return exercise
    known = [exercise.name for exercise in every()]
    close = get_close_matches(name, known, n=3, cutoff=0.5) or [other for other in known if other.startswith(f"{lab}.")]
    raise LookupError(f"no exercise is called {name!r}; " + (f"close: {', '.join(close)}" if close else "see the lab"))


def labs() -> list[str]:
    """The labs that have exercises."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def exercises_of(lab: str) -> list[Exercise]:
    """The exercises of one lab, in its order."""
    exercises: list[Exercise] = importlib.import_module(f"{__name__}.{lab}").EXERCISES
    for exercise in exercises:
        if not exercise.name.startswith(f"{lab}."):
            raise ValueError(f"{exercise.name} stands in the exercises of {lab}; call it {lab}.NAME")
    return exercises


def every() -> Iterator[Exercise]:
    """All exercises of all labs."""
    for lab in labs():
        yield from exercises_of(lab)


def require(condition: Any, message: str) -> None:
    """For graders: raises Mistake(message) unless `condition` holds."""
    if not condition:
        raise Mistake(message)


def same(
    got: Any, want: Any, what: str = "your answer", tolerance: float = 1e-5, mistakes: Mapping[str, Any] | None = None
) -> None:
    """For graders: raises Mistake unless `got` equals `want` within the tolerance, with the first difference.

    got, want: numbers, tensors, arrays or nested lists of one shape; want fixes the shape.
    tolerance: absolute, and relative to want.
    mistakes: message -> the value that a known mistake leads to; if `got` is that value, the message is the diagnosis.
    """
    right, answer = _array(want), _array_given(got, what)
    for message, value in (mistakes or {}).items():
        if _equal(answer, _array(value), tolerance) and not _equal(right, _array(value), tolerance):
            raise Mistake(message)
    if answer.shape != right.shape:
        raise Mistake(f"{what} has shape {_shape(answer)}; it should have {_shape(right)}.")
    if _equal(answer, right, tolerance):
        return
    place = tuple(int(i) for i in np.argwhere(~_close(answer, right, tolerance))[0])
    at = f" at {list(place)}" if place else ""
    raise Mistake(f"{what}{at} is {answer[place]:.6g}; it should be {right[place]:.6g}.")


def _array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu().double() if value.is_floating_point() else value.detach().cpu()
    return np.asarray(value).astype(np.float64)


def _array_given(value: Any, what: str) -> np.ndarray:
    if value is None:
        raise Mistake(f"{what} is None: is a `return` missing?")
    try:
        return _array(value)
    except (TypeError, ValueError):
        raise Mistake(f"{what} is a {type(value).__name__}; it should be made of numbers.") from None


def _close(a: np.ndarray, b: np.ndarray, tolerance: float) -> np.ndarray:
    return np.asarray(np.isclose(a, b, rtol=tolerance, atol=tolerance))  # nan is close to nothing


def _equal(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    return a.shape == b.shape and bool(_close(a, b, tolerance).all())


def _shape(array: np.ndarray) -> str:
    return str(array.shape) if array.ndim else "() (one number)"


def _is_unfinished(answer: Callable[..., Any]) -> bool:
    """Whether `...` still stands where the answer belongs: as a value, or as all that a function does."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(answer)))
    except (OSError, TypeError, SyntaxError):
        return False
    indices = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Subscript) for part in ast.walk(node.slice)}
    notes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value is Ellipsis and id(node) not in indices | notes:
            return True
        if isinstance(node, ast.FunctionDef) and all(_does_nothing(line) for line in node.body):
            return True
    return False


def _does_nothing(line: ast.stmt) -> bool:
    return isinstance(line, ast.Pass) or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))


def _diagnosis(error: Exception, answer: Any) -> str:
    """The error in words, with the line of the answer that raised it."""
    said = f"{type(error).__name__}: {error}"
    file = getattr(getattr(answer, "__code__", None), "co_filename", None) or _file(answer)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == file and frame.lineno:
            line = linecache.getline(frame.filename, frame.lineno).strip()
            return f"Line {frame.lineno}, `{line}`, raised {said}"
    return f"Your answer could not be checked: {said}"


def _file(answer: Any) -> str | None:
    try:
        return inspect.getfile(answer)
    except (TypeError, OSError):
        return None


def _solution_source(exercise: Exercise) -> str:
    return textwrap.dedent(inspect.getsource(exercise.solution)).rstrip()


_SAID: dict[Status, tuple[str, str, str]] = {
    "passed": ("✓", "Passed", "chosen"),
    "wrong": ("✗", "Not yet", "rejected"),
    "not attempted": ("○", "Not attempted", "reference"),
}


def _facts(exercise: Exercise) -> str:
    return f"difficulty {exercise.difficulty} of 3, {exercise.minutes} min"


def _plain_text(verdict: Verdict) -> str:
    exercise, (mark, word, _) = verdict.exercise, _SAID[verdict.status]
    lines = [f"{mark} {word}: {exercise.name} ({_facts(exercise)})"]
    if verdict.status == "not attempted":
        lines.append(f"Task: {exercise.task}")
    if verdict.status == "wrong":
        lines += [verdict.message, f"Hint: {exercise.hint}"]
    return "\n".join(lines)


def _card(verdict: Verdict) -> str:
    exercise, (mark, word, role) = verdict.exercise, _SAID[verdict.status]
    ink, muted, line = palette.colour("ink"), palette.colour("muted"), palette.colour(role)
    body = ""
    if verdict.status == "not attempted":
        body = f'<p style="margin:.35em 0 0">{_prose(exercise.task)}</p>'
    if verdict.status == "wrong":
        body = (
            f'<p style="margin:.35em 0 0">{_prose(verdict.message)}</p>'
            f'<p style="margin:.35em 0 0"><strong>Hint.</strong> {_prose(exercise.hint)}</p>'
        )
    return (
        f'<section aria-label="Exercise {escape(exercise.name)}" style="margin:.75em 0;padding:.7em 1em;max-width:60em;'
        f"border-left:4px solid {line};border-radius:0 6px 6px 0;background:{palette.colour(role + '-soft')};"
        f'font-family:{escape(palette.FONT)};font-size:.95rem;line-height:1.5;color:{ink};overflow-wrap:anywhere">'
        f'<p style="margin:0"><span aria-hidden="true" style="font-weight:700">{mark} </span><strong>{word}</strong> '
        f'<span style="color:{muted}">· {escape(exercise.name)} · {_facts(exercise)}</span></p>{body}'
        f'<details style="margin:.5em 0 0"><summary style="cursor:pointer;min-height:24px">Solution</summary>'
        f'<pre tabindex="0" style="margin:.4em 0 0;padding:.7em .9em;overflow-x:auto;border-radius:4px;'
        f'background:{palette.colour("code")};color:{ink};font-size:.85rem;line-height:1.45;white-space:pre">'
        f'<code style="background:none;color:inherit;padding:0">{escape(_solution_source(exercise))}</code></pre>'
        f"</details></section>"
    )


def _prose(text: str) -> str:
    """Text as HTML, with `code` between backquotes."""
    parts = escape(text).split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))
