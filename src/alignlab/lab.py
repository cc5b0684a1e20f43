"""What a lab is run with: budget, progress, live curves, checkpoints, tables, named results and asserted claims.

    run = lab.Lab("ch03_dpo_identity")
    for step in run.progress(80, "training", checkpoint=state, curve=curve): ...

Knows nothing about models or algorithms: those stand in the lab itself.
"""

import ast
import hashlib
import json
import linecache
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import torch

from alignlab import compute, display, download
from alignlab.checkpoint import Adapter, Checkpoint, trainable
from alignlab.progress import Progress

__all__ = ["Adapter", "Checkpoint", "ClaimFailed", "Lab", "trainable"]

RESULTS = "application/vnd.alignlab.results+json"


class ClaimFailed(AssertionError):
    """A lab's claim that its own run does not bear out."""


class Lab:
    """One lab's run: what it may spend, what it shows, what it measured.

    name: the lab's file name, `chNN_topic`; its results are known to the book as `topic.RESULT`.
    """

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ValueError(f"the lab's name is {name!r}; use its file name: lower-case letters, digits and _")
        self.name = name
        self.namespace = re.sub(r"^ch\d\d_", "", name)
        self.profile = compute.profile()
        self._results: dict[str, tuple[dict[str, Any], _Place]] = {}
        self._claims: dict[str, tuple[bool, _Place]] = {}
        self._cut_short: set[str] = set()

    def budget(self, *, full: dict[str, Any], quick: dict[str, Any]) -> SimpleNamespace:
        """The lab's sizes under the current profile, as attributes; see `compute.budget`."""
        return compute.budget(full=full, quick=quick)

    def curve(
        self,
        title: str,
        x: str = "step",
        y: str = "loss",
        lines: Sequence[str] | Mapping[str, str] = ("loss",),
        log: bool = False,
    ) -> display.Curve:
        """A chart that grows while a loop runs; see `display.Curve`."""
        return display.Curve(title, x, y, lines, log)

    def checkpoint(
        self, name: str, holders: Mapping[str, Any], fingerprint: Mapping[str, Any] | None = None, every: int = 10
    ) -> Checkpoint:
        """The state of one loop, kept in the user's cache until the loop is done; see `checkpoint.Checkpoint`."""
        folder = Path(os.environ.get("ALIGNLAB_CHECKPOINTS") or download.cache_dir() / "checkpoints")
        path = folder / f"{self.name}-{name}-{self.profile}.pt"
        return Checkpoint(path, holders, fingerprint or {}, every)

    def progress(
        self,
        steps: int | Iterable[Any],
        label: str = "running",
        checkpoint: Checkpoint | None = None,
        curve: display.Curve | Sequence[display.Curve] = (),
    ) -> Progress:
        """The loop `for step in run.progress(80, "training")`: a bar, a live curve, a state that can be resumed.

        steps: how many, or what to go through; see `progress.Progress`.
        """
        curves = [curve] if isinstance(curve, display.Curve) else list(curve)
        items = range(steps) if isinstance(steps, int) else steps
        return Progress(items, label, checkpoint, curves, self._cut_short)

    def figure(self, fig: Any, text: str = "") -> None:
        """Show a plotly figure in the book's hand; text says what it shows to those who cannot see it."""
        display.show(display.figure(fig, text))

    def table(
        self,
        rows: Sequence[Sequence[Any] | Mapping[str, Any]],
        columns: Sequence[str] | Mapping[str, str],
        caption: str = "",
        mark: str | Sequence[str] = (),
    ) -> None:
        """Show a table, for example of answers before and after; see `display.table`."""
        display.show(display.table(rows, columns, caption, mark))

    def result(self, name: str, value: Any, text: str | None = None, format: str | None = None) -> float | int | None:
        """Report one number under a name that the book can print.

        value: a number, or a tensor or array of one element; None where the result is a text alone.
        text: what the book prints, or format: how (".0%").
        Raises ValueError if the name is taken, or (in `full`) if the value is not finite.
        """
        if not name.isidentifier():
            raise ValueError(f"the result's name is {name!r}; use letters, digits and _")
        if text is not None and format is not None:
            raise TypeError(f"the result {name!r} has a text and a format; give one")
        place = _Place.of_caller()
        if name in self._results and not place.runs_again(self._results[name][1]):
            raise ValueError(f"the result {name!r} is reported twice; give the second one a name of its own")
        if value is None and text is None:
            raise TypeError(f"the result {name!r} is None; report a number, or a text")
        number: float | int | None = None if value is None else _number(value, f"the result {name!r}")
        if number is not None and not math.isfinite(number):
            if self.profile == "full":
                raise ValueError(f"the result {name!r} is {number}")
            number = None
        if text is None:
            text = "not a number" if number is None else _formatted(number, format)
        self._results[name] = ({"value": number, "text": text}, place)
        return number

    def claim(self, text: str, condition: Any, **measured: Any) -> None:
        """Assert what the lab says of its run. In `quick`, and after an interrupted loop, it is noted but not required.

        measured: further values to show if it fails; the names in `condition` are shown anyway.
        Raises ClaimFailed with the measured values. A value that is not a number fails every claim that compares it.
        """
        place = _Place.of_caller()
        if text in self._claims and not place.runs_again(self._claims[text][1]):
            raise ValueError(f"the claim {text!r} is made twice")
        values, compared = _names_in_condition(sys._getframe(1))
        values.update(measured)
        not_numbers = [name for name in [*compared, *measured] if _has_nan(values[name])]
        holds = _truth(condition, text) and not not_numbers
        self._claims[text] = (holds, place)
        if not holds and self.profile == "full" and not self._cut_short:
            shown = ", ".join(f"{name} = {_shown(value)}" for name, value in values.items())
            raise ClaimFailed(f"not borne out: {text}" + (f" (measured: {shown})" if shown else ""))

    def explorer(self, name: str, data: Any, digits: int = 5) -> None:
        """Show an explorer with this run's data; in `full`, run from the labs folder, keep the data for the book too.

        data: dicts, lists, numbers, tensors and arrays; numbers are rounded to `digits` significant digits.
        """
        from IPython.display import display as show

        from alignlab import explorers

        data = _rounded(data, digits)
        if self.profile == "full" and not self._cut_short and Path("source", f"{self.name}.py").is_file():
            body = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
            stamp = {
                "lab": self.name,
                "profile": self.profile,
                "torch": str(torch.__version__),
                "data_sha256": hashlib.sha256(body.encode()).hexdigest(),
            }
            path = Path("explorers", f"{name}.json")
            path.parent.mkdir(exist_ok=True)
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            temporary.write_text(f'{{"stamp":{json.dumps(stamp)},"data":{body}}}\n', encoding="utf-8")
            os.replace(temporary, path)
        show(explorers.show(name, data))

    def finish(self) -> None:
        """Show the results and claims; the same output carries them to the book."""
        results = {name: result for name, (result, _) in self._results.items()}
        claims = {text: holds for text, (holds, _) in self._claims.items()}
        bundles = []
        if results:
            measured = [(name, str(result["text"])) for name, result in results.items()]
            bundles.append(display.table(measured, ("Result", "Measured"), f"Results of {self.namespace}"))
        if claims:
            note = "" if self.profile == "full" else " (quick run: sizes are cut, so claims are noted, not required)"
            rows = [(text, "✓ holds" if holds else "✗ does not hold") for text, holds in claims.items()]
            bundles.append(display.table(rows, ("Claim", "In this run"), f"Claims of {self.namespace}{note}"))
        display.show(
            {
                RESULTS: {
                    "lab": self.namespace,
                    "results": results,
                    "claims": [{"text": text, "holds": holds} for text, holds in claims.items()],
                },
                "text/html": "".join(bundle["text/html"] for bundle in bundles) or "<p>No results.</p>",
                "text/plain": "\n\n".join(bundle["text/plain"] for bundle in bundles) or "No results.",
            }
        )


class _Place:
    """Where a call stands, so that running a cell again may report anew and a second place may not."""

    def __init__(self, code: str, line: int, execution: int | None) -> None:
        self.code, self.line, self.execution = code, line, execution

    @classmethod
    def of_caller(cls) -> "_Place":
        """The place of the call to the method that asks."""
        frame = sys._getframe(2)
        code, line = frame.f_code.co_filename, frame.f_lineno
        with suppress(Exception):  # JupyterLab and VS Code name the cell, which outlives an edit
            from IPython import get_ipython

            code, line = get_ipython().kernel.get_parent("shell")["metadata"]["cellId"], 0
        return cls(code, line, display.cell())

    def runs_again(self, earlier: "_Place") -> bool:
        same = (self.code, self.line) == (earlier.code, earlier.line)
        return same and self.execution is not None and self.execution != earlier.execution


def _number(value: Any, what: str) -> float | int:
    if hasattr(value, "item") and getattr(value, "size", None) is not None:
        elements = value.numel() if isinstance(value, torch.Tensor) else value.size
        if elements != 1:
            raise TypeError(f"{what} has {elements} elements; report one number")
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} is a {type(value).__name__}; report one number")
    return value


def _formatted(number: float | int, format: str | None) -> str:
    if format is None:
        return f"{number:.3g}" if isinstance(number, float) else str(number)
    return format.format(number) if "{" in format else f"{number:{format}}"


def _truth(condition: Any, text: str) -> bool:
    if hasattr(condition, "item"):
        if math.prod(condition.shape) != 1:
            raise TypeError(f"the claim {text!r} has {math.prod(condition.shape)} conditions; use .all() or .any()")
        condition = condition.item()
    if not isinstance(condition, bool):
        raise TypeError(f"the claim {text!r} needs a condition that is true or false, not {condition!r}")
    return condition


def _names_in_condition(frame: FrameType) -> tuple[dict[str, Any], list[str]]:
    """The numbers named by the second argument of the call under way in `frame`, and which of them it compares itself.

    A name inside a call, as in isnan(loss), is only shown. Empty where the source cannot be read.
    """
    values: dict[str, Any] = {}
    compared: list[str] = []

    def visit(node: ast.AST, inside_call: bool) -> None:
        if isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
            expression = ast.unparse(node)
            if not any(isinstance(part, ast.Call) for part in ast.walk(node)):
                with suppress(Exception):
                    value = eval(expression, frame.f_globals, frame.f_locals)
                    if isinstance(value, int | float) or hasattr(value, "isfinite") or hasattr(value, "dtype"):
                        values[expression] = value
                        if not inside_call:
                            compared.append(expression)
                        return
        for child in ast.iter_child_nodes(node):
            visit(child, inside_call or isinstance(node, ast.Call))

    with suppress(Exception):
        first, last, start, end = list(frame.f_code.co_positions())[frame.f_lasti // 2]
        assert first is not None
        lines = linecache.getlines(frame.f_code.co_filename, frame.f_globals)[first - 1 : last]
        lines[-1] = lines[-1].encode()[:end].decode()
        lines[0] = lines[0].encode()[start:].decode()
        call = ast.parse("".join(lines).strip(), mode="eval").body
        if isinstance(call, ast.Call):
            named = [keyword.value for keyword in call.keywords if keyword.arg == "condition"]
            visit([*call.args[1:2], *named][0], False)
    return values, compared


def _has_nan(value: Any) -> bool:
    with suppress(Exception):
        return bool(torch.as_tensor(value).isnan().any())
    return False


def _shown(value: Any) -> str:
    with suppress(Exception):
        if hasattr(value, "shape") and math.prod(value.shape) != 1:
            return f"{type(value).__name__} of shape {tuple(value.shape)}" + (" with nan" if _has_nan(value) else "")
        value = value.item() if hasattr(value, "item") else value
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def _rounded(data: Any, digits: int) -> Any:
    """Plain lists, dicts and numbers of at most `digits` significant digits."""
    if isinstance(data, torch.Tensor):
        data = data.detach().cpu()
    if hasattr(data, "tolist"):
        data = data.tolist()
    if isinstance(data, Mapping):
        return {str(key): _rounded(value, digits) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_rounded(value, digits) for value in data]
    if isinstance(data, float):
        if not math.isfinite(data):
            raise ValueError(f"an explorer's data hold {data}; give it finite numbers or None")
        return float(f"{data:.{digits}g}")
    return data
