"""What the outputs of a committed notebook may hold: nothing that differs from run to run or machine to machine."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from alignlab.explorers import EXPLORER_MIME
from alignlab.kernel import ANSI, collapse

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

_START = r"(?<![\w/.~:<+-])"  # not inside a web address, a relative path, a closing tag or base64
_MACHINE_PATH = re.compile(
    _START + r"(?:/(?:home|Users|root|tmp|var|private|mnt|opt|usr|srv|media|content)/[\w.]"
    r"|[A-Za-z]:\\(?:Users|Windows|Program))"
)
_ADDRESS = re.compile(r"\b0x[0-9a-f]{8,16}\b")
_CELL_FILE = re.compile(r"[^\s\"'<>]*ipykernel_\d+[\\/]\d+\.py")


def scrub(notebook: NotebookNode, checkout: Path) -> NotebookNode:
    """The notebook without what a reader could not see again or would not see at all.

    Progress bars keep their last state; escape codes, object addresses, execution times and paths of this machine go;
    so do widgets, whose kernel is gone. Neighbouring pieces of one stream become one.
    """
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [_scrubbed(output, checkout) for output in _joined(cell.outputs) if not _is_gone(output)]
            cell.outputs = [output for output in cell.outputs if output.get("text", "-").strip()]
    return nbformat.reads(nbformat.writes(notebook), as_version=4)


def problems(notebook: NotebookNode, checkout: Path) -> Iterator[str]:
    """What must not be committed, a sentence each: errors, widgets, terminal escape codes, paths of a machine."""
    if "widgets" in notebook.metadata:
        yield "the notebook holds a saved widget state: run it with `execute`, which saves none"
    for number, cell in enumerate(notebook.cells, 1):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                yield f"the output of cell {number} is an error: {output.get('ename')}: {output.get('evalue')}"
                continue
            if WIDGET_VIEW in output.get("data", {}):
                yield f"the output of cell {number} is a widget, which is dead without its kernel"
            figure = set(_strings(output.get("data", {}).get(EXPLORER_MIME, "")))  # a token may hold "\r"
            for text in _strings(output):
                if text not in figure and ("\x1b" in text or "\r" in text.replace("\r\n", "\n")):
                    yield f"the output of cell {number} holds terminal control codes: {text[:80]!r}"
                own = (path.search(text) for path, _ in _paths(checkout))
                found = _MACHINE_PATH.search(text) or next(filter(None, own), None)
                if found:
                    yield f"the output of cell {number} names a path of one machine: {text[found.start() :][:60]!r}"


def _joined(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    joined: list[NotebookNode] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and last.output_type == output.output_type == "stream" and last.name == output.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined


def _is_gone(output: NotebookNode) -> bool:
    """Whether nothing is left of an output without the kernel: a widget with no other face than its name."""
    return output.get("data", {}).keys() - {"text/plain"} == {WIDGET_VIEW}


def _scrubbed(output: NotebookNode, checkout: Path) -> NotebookNode:
    if output.output_type == "stream":
        output.text = _clean(collapse(output.text), checkout)
    data = output.get("data", {})
    data.pop(WIDGET_VIEW, None)
    for kind, value in data.items():
        if isinstance(value, str) and not kind.startswith("image/"):
            data[kind] = _clean(ANSI.sub("", value), checkout)
    return output


def _clean(text: str, checkout: Path) -> str:
    text = _ADDRESS.sub("0x...", _CELL_FILE.sub("cell.py", text))
    for path, instead in _paths(checkout):
        text = path.sub(instead, text)
    return text


def _paths(checkout: Path) -> list[tuple[re.Pattern[str], str]]:
    """The folders of this machine that an output could name, inner ones first, and what is written in their place."""
    folders = [
        (f"{sys.prefix}{os.sep}", ""),
        (sys.prefix, ".venv"),
        (f"{checkout.resolve()}{os.sep}", ""),
        (str(checkout.resolve()), "."),
        (f"{Path.home()}{os.sep}", "~/"),
        (f"{Path(tempfile.gettempdir()).resolve()}{os.sep}", ""),
    ]
    return [(re.compile(_START + re.escape(folder)), instead) for folder, instead in folders]


def _strings(value: Any) -> Iterator[str]:
    """The texts in an output; not the long unbroken ones, which are pictures and arrays in base64."""
    if isinstance(value, str):
        if len(value) < 2000 or " " in value:
            yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _strings(inner)
