"""Labs as the book sees them: which sections a lab serves, cards that link to it, and its Colab and download buttons.

    ```{labs} 3.3             cards of the labs that serve a chapter, a section or anything inside it
    ```{labs} all             cards of every lab

A lab says in its first cell what it serves and what it costs, each on a line of its own, in bold or not:
`Sections: 3.3.1-3.3.3`, `Topics: dpo-identity` where it serves further topics, `Time: 4 minutes on a CPU`.

No repository is written into the project: links to Colab come from GITHUB_REPOSITORY, else from the git remote, and are
left out where neither names a GitHub repository.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from .markup import escape, raw
from .project import labs_dir, root, store

logger = logging.getLogger(__name__)
SPAN = re.compile(r"(\d+(?:\.\d+)+)(?:\s*(?:-|–|to)\s*(\d+(?:\.\d+)+))?")
COLAB_BRANCH = "colab"
GITHUB = re.compile(
    r"(?:https://(?:[^@/]+@)?github\.com/|(?:ssh://)?git@github\.com[:/])([\w.-]+/[\w.-]+?)(?:\.git)?/?$"
)


@dataclasses.dataclass(frozen=True)
class Lab:
    """One executed notebook. `sections` holds outline ids and topic ids; `results` is its results output or empty."""

    name: str
    path: Path
    title: str
    time: str
    sections: tuple[str, ...]
    results: dict[str, Any]

    @property
    def document(self) -> str:
        """Its Sphinx document name."""
        return f"labs/{self.path.stem}"


def expand(text: str) -> list[str]:
    """Section ids named in a text, ranges spelled out: "3.3.1-3.3.3, 3.4" -> [3.3.1, 3.3.2, 3.3.3, 3.4]."""
    found = []
    for first, last in SPAN.findall(text):
        stem, start = first.rsplit(".", 1)
        stop = int(last.rsplit(".", 1)[1]) if last else int(start)
        found += [f"{stem}.{number}" for number in range(int(start), stop + 1)]
    return found


def read(path: Path) -> Lab:
    """Read a notebook's title, sections, minutes and results."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    first: str = next(("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"), "")
    title = re.search(r"^#\s+(.+)$", first, re.MULTILINE)
    plain = first.replace("*", "").replace("`", "").replace("\n  ", " ")
    sections = re.search(r"\bSections?:?\s+(?=\d)([^\n]*)", plain)
    topics = re.search(r"\bTopics?:?\s+([a-z0-9, -]+)", plain)
    time = re.search(r"\bTime:\s*([^\n]+)", plain)
    results: dict[str, Any] = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            results = output.get("data", {}).get("application/vnd.alignlab.results+json", results)
    return Lab(
        name=re.sub(r"^ch\d+_", "", path.stem),
        path=path,
        title=title[1].strip() if title else path.stem,
        time=time[1].strip(" .") if time else "",
        sections=(
            *(expand(sections[1]) if sections else ()),
            *(re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)*", topics[1]) if topics else ()),
        ),
        results=results,
    )


@lru_cache(maxsize=256)
def _read_cached(path: Path, changed: int) -> Lab:
    return read(path)


def all_labs(env: BuildEnvironment) -> list[Lab]:
    """Every executed notebook in labs/, by name."""
    return [_read_cached(path, path.stat().st_mtime_ns) for path in sorted(labs_dir(env).glob("ch*.ipynb"))]


def by_section(env: BuildEnvironment) -> dict[str, list[Lab]]:
    """Outline id or topic id -> labs; a lab also stands for the section x.y that holds its leaves."""
    found: dict[str, list[Lab]] = {}
    for lab in all_labs(env):
        parents = {".".join(section.split(".")[:2]) for section in lab.sections if section[:1].isdigit()}
        for section in sorted({*lab.sections, *parents}):
            found.setdefault(section, []).append(lab)
    return found


@lru_cache(maxsize=4)
def repository(folder: Path) -> str | None:
    """owner/name of the GitHub repository of this build, None if not known."""
    if named := os.environ.get("GITHUB_REPOSITORY"):
        return named
    try:
        remote = subprocess.run(
            ["git", "remote", "get-url", "origin"], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    match = GITHUB.match(remote)
    return match[1] if match else None


def colab_url(env: BuildEnvironment, lab: Lab) -> str | None:
    """Where the lab opens in Colab: on the branch to which the publish workflow pushes the stamped notebooks."""
    named = repository(root(env))
    return (
        f"https://colab.research.google.com/github/{named}/blob/{COLAB_BRANCH}/labs/{lab.path.name}" if named else None
    )


def buttons(env: BuildEnvironment, builder: Any, source: str, lab: Lab, read_button: bool) -> str:
    """The row of buttons of a lab: read it here (on other pages), open it in Colab, download it."""
    up = str(builder.get_relative_uri(source, lab.document))
    base = "../" * source.count("/")
    parts = []
    if read_button:
        parts.append(f'<a class="al-button" href="{escape(up)}">Read the lab</a>')
    if url := colab_url(env, lab):
        parts.append(f'<a class="al-button" href="{escape(url)}" rel="noopener">Open in Colab</a>')
    copy = f"{base}_sources/{lab.document}.ipynb"
    parts.append(f'<a class="al-button" href="{copy}" download="{lab.path.name}">Download notebook</a>')
    return f'<p class="al-buttons">{" ".join(parts)}</p>'


class labs_node(nodes.General, nodes.Element):
    """Cards of the labs of a section, filled in when the page is written."""


class lab_buttons_node(nodes.General, nodes.Element):
    """The buttons under a lab's title."""


class Labs(SphinxDirective):
    """Cards that link to the labs of a chapter or section."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Leave a node to be filled in when the page is written."""
        for lab in all_labs(self.env):
            self.env.note_dependency(str(lab.path))
        store(self.env, "live").setdefault(self.env.docname, True)
        return [labs_node(section=self.arguments[0])]


def _cards(env: BuildEnvironment, builder: Any, source: str, section: str) -> str:
    found = [
        lab
        for lab in all_labs(env)
        if section == "all" or any(name == section or name.startswith(section + ".") for name in lab.sections)
    ]
    if not found:
        return '<p class="al-labs-none">No lab of this section is ready yet.</p>'
    cards = []
    for lab in found:
        facts = ", ".join(filter(None, [lab.time, _spans(lab)]))
        cards.append(
            f'<li class="al-card"><p class="al-card-title">Lab: {escape(lab.title)}</p>'
            f'<p class="al-card-facts">{escape(facts)}</p>{buttons(env, builder, source, lab, read_button=True)}</li>'
        )
    return f'<ul class="al-cards">{"".join(cards)}</ul>'


def _spans(lab: Lab) -> str:
    numbers = [name for name in lab.sections if name[:1].isdigit()]
    return f"sections {', '.join(numbers)}" if len(numbers) > 1 else f"section {numbers[0]}" if numbers else ""


def add_buttons(app: Sphinx, doctree: nodes.document) -> None:
    """Put the buttons under the title of each lab page."""
    if not app.env.docname.startswith("labs/"):
        return
    section = next(doctree.findall(nodes.section), None)
    if section is not None:
        section.insert(1, lab_buttons_node())


def fill(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Replace the nodes of this module by HTML."""
    for node in list(doctree.findall(labs_node)):
        node.replace_self(raw(_cards(app.env, app.builder, docname, node["section"])))
    for node in list(doctree.findall(lab_buttons_node)):
        lab = next(lab for lab in all_labs(app.env) if lab.document == docname)
        node.replace_self(raw(buttons(app.env, app.builder, docname, lab, read_button=False)))


def setup(app: Sphinx) -> None:
    """Register the directive and the handlers."""
    app.add_node(labs_node)
    app.add_node(lab_buttons_node)
    app.add_directive("labs", Labs)
    app.connect("doctree-read", add_buttons)
    app.connect("doctree-resolved", fill)
