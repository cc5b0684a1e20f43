"""The outline of the book: placeholder pages, the outline map, and links by section number.

```{outline} 3.1          the outline of a chapter or section that is not written yet
```{outline-map}          every section and topic, with page, labs and status
{sec}`3.3.1`              a link to a section or topic, or to the page that will hold it while it is not written
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from . import labs
from .markup import escape, raw
from .numbering import numbered_pages
from .project import root, store

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A chapter, section or leaf (id "3.3.1"), or a further topic (id "dpo-identity")."""

    id: str
    en: str
    zh: str
    chapter: str
    lab: bool
    topic: bool = False

    @property
    def label(self) -> str:
        """The MyST target that marks the entry as written."""
        return f"topic-{self.id}" if self.topic else "sec-" + self.id.replace(".", "-")

    @property
    def depth(self) -> int:
        """1 for a chapter, 2 for a section, 3 for a leaf and for a topic."""
        return 3 if self.topic else self.id.count(".") + 1


@lru_cache(maxsize=4)
def load(path: Path) -> tuple[Entry, ...]:
    """Every entry of outline.yml in reading order, a chapter's topics after its sections."""
    data = yaml.safe_load(path.read_text(encoding="utf-8"))

    def walk(item: dict[str, Any], chapter: str) -> Iterator[Entry]:
        yield Entry(item["id"], item["en"], item["zh"], chapter, item.get("lab", False))
        for child in item.get("sections", []) + item.get("items", []):
            yield from walk(child, chapter)

    entries: list[Entry] = []
    for chapter in data["chapters"]:
        entries.extend(walk(chapter, chapter["id"]))
        entries.extend(
            Entry(
                topic["id"],
                topic["en"].replace("->", "→"),
                topic.get("zh", ""),
                chapter["id"],
                topic.get("lab", False),
                topic=True,
            )
            for topic in data["topics"]
            if topic["in"] == chapter["id"]
        )
    return tuple(entries)


def entries(env: BuildEnvironment) -> tuple[Entry, ...]:
    """The outline of this book."""
    return load(root(env) / "book" / "outline.yml")


def page_of(env: BuildEnvironment, entry: Entry) -> str:
    """The document that holds, or will hold, the entry."""
    pages = {".".join(map(str, number)): document for document, number in numbered_pages_cached(env).items()}
    return pages[entry.chapter if entry.topic else ".".join(entry.id.split(".")[:2])]


def numbered_pages_cached(env: BuildEnvironment) -> dict[str, tuple[int, ...]]:
    """`numbered_pages`, computed once per build."""
    cached = env.__dict__.get("alignlab_pages")
    if cached is None:
        cached = env.__dict__["alignlab_pages"] = numbered_pages(env)
    return cached


def written(env: BuildEnvironment, entry: Entry) -> tuple[str, str] | None:
    """(document, anchor) of the entry's target, None if it is not written."""
    domain = env.get_domain("std")
    found = domain.anonlabels.get(entry.label)  # type: ignore[attr-defined]
    return (found[0], found[1]) if found else None


def link(env: BuildEnvironment, builder: Any, source: str, entry: Entry) -> str:
    """Relative URL from a document to the entry, or to the page that will hold it."""
    document, anchor = written(env, entry) or (page_of(env, entry), "")
    return str(builder.get_relative_uri(source, document)) + (f"#{anchor}" if anchor else "")


class outline_node(nodes.General, nodes.Element):
    """Placeholder body: the outline of one chapter or section, filled in when all pages are known."""


class outline_map_node(nodes.General, nodes.Element):
    """The outline map."""


class Outline(SphinxDirective):
    """The outline of a chapter or section that is not written yet."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Check the id, and leave a node to be filled in later."""
        name = self.arguments[0]
        self.env.note_dependency(str(root(self.env) / "book" / "outline.yml"))
        if name not in {entry.id for entry in entries(self.env) if not entry.topic}:
            logger.warning("no section %s in the outline", name, location=self.get_location(), type="alignlab")
            return []
        store(self.env, "live").setdefault(self.env.docname, True)
        return [outline_node(section=name)]


class OutlineMap(SphinxDirective):
    """Every section and topic of the book."""

    def run(self) -> list[nodes.Node]:
        """Leave a node to be filled in when all pages are known."""
        self.env.note_dependency(str(root(self.env) / "book" / "outline.yml"))
        store(self.env, "live").setdefault(self.env.docname, True)
        return [outline_map_node()]


def _chinese(entry: Entry) -> str:
    return f' <span class="al-zh" lang="zh">{escape(entry.zh)}</span>' if entry.zh else ""


def _outline_html(env: BuildEnvironment, builder: Any, source: str, name: str) -> str:
    everything = entries(env)
    top = next(entry for entry in everything if entry.id == name)
    kind = "chapter" if top.depth == 1 else "section"
    inside = [entry for entry in everything if not entry.topic and entry.id.startswith(name + ".")]
    topics = [entry for entry in everything if entry.topic and entry.chapter == name]
    parts = [
        f'<div class="al-outline"><p class="al-outline-zh" lang="zh">{escape(top.zh)}</p>'
        f'<p class="al-unwritten"><strong>This {kind} is not written yet.</strong> '
        f"{'This is what it will cover.' if inside else 'Its page is here already, so that its number stays.'}</p>"
    ]
    if inside:
        parts.append("<ul>")
        depth = 0
        for entry in inside:
            while depth > entry.depth:
                parts.append("</li></ul>")
                depth -= 1
            if depth and depth == entry.depth:
                parts.append("</li>")
            elif depth:
                parts.append("<ul>")
            depth = entry.depth
            text = escape(entry.en)
            own_page = entry.depth == 2 and top.depth == 1
            if own_page or written(env, entry):
                text = f'<a class="reference internal" href="{link(env, builder, source, entry)}">{text}</a>'
            parts.append(f'<li><span class="al-number">{entry.id}</span> {text}{_chinese(entry)}')
        while depth >= inside[0].depth:
            parts.append("</li></ul>")
            depth -= 1
    if topics:
        parts.append('<p class="al-outline-topics">Further topics</p><ul>')
        parts.extend(f"<li>{escape(topic.en)}{_chinese(topic)}</li>" for topic in topics)
        parts.append("</ul>")
    return "".join(parts) + "</div>"


def _anchor(env: BuildEnvironment, builder: Any, source: str, entry: Entry, text: str) -> str:
    return f'<a class="reference internal" href="{link(env, builder, source, entry)}">{escape(text)}</a>'


def _map_row(env: BuildEnvironment, builder: Any, source: str, entry: Entry, found: list[labs.Lab]) -> str:
    done = written(env, entry) is not None
    links = (
        f'<a class="reference internal" href="{builder.get_relative_uri(source, lab.document)}">{escape(lab.title)}</a>'
        for lab in found
    )
    planned = '<span class="al-planned">planned</span>' if entry.lab else "–"
    return (
        f'<tr data-depth="{entry.depth}" data-written="{int(done)}" data-lab="{int(bool(found))}">'
        f'<td class="al-number">{"topic" if entry.topic else entry.id}</td>'
        f"<td>{_anchor(env, builder, source, entry, entry.en)}{_chinese(entry)}</td>"
        f"<td>{', '.join(links) or planned}</td><td>{'written' if done else 'outline only'}</td></tr>"
    )


def _map_html(env: BuildEnvironment, builder: Any, source: str) -> str:
    everything = entries(env)
    listed = [entry for entry in everything if entry.depth > 1]
    done = sum(1 for entry in listed if written(env, entry))
    hint = "for example: KL, 奖励, 3.3"
    parts = [
        '<div class="al-map"><form class="al-map-filter" hidden role="search" aria-label="Filter the outline">'
        f'<label>Filter <input type="search" name="text" autocomplete="off" placeholder="{hint}"></label> '
        '<label><input type="checkbox" name="written"> written only</label> '
        '<label><input type="checkbox" name="lab"> with a lab only</label> '
        '<output aria-live="polite"></output></form>'
        f"<p>{done} of {len(listed)} sections and topics are written.</p>"
    ]
    by_section = labs.by_section(env)
    for chapter in [entry for entry in everything if entry.depth == 1]:
        title = _anchor(env, builder, source, chapter, f"{chapter.id} {chapter.en}") + _chinese(chapter)
        parts.append(
            f'<div class="al-map-part"><table class="table al-map-table"><caption>{title}</caption>'
            '<thead><tr><th scope="col">No.</th><th scope="col">Section or topic</th><th scope="col">Lab</th>'
            '<th scope="col">Status</th></tr></thead><tbody>'
        )
        parts.extend(
            _map_row(env, builder, source, entry, by_section.get(entry.id, []))
            for entry in listed
            if entry.chapter == chapter.id
        )
        parts.append("</tbody></table></div>")
    return "".join(parts) + "</div>"


def fill(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Replace the outline nodes of a page by HTML, now that all pages are known."""
    for node in list(doctree.findall(outline_node)):
        node.replace_self(raw(_outline_html(app.env, app.builder, docname, node["section"])))
    for node in list(doctree.findall(outline_map_node)):
        node.replace_self(raw(_map_html(app.env, app.builder, docname)))


def sec_role(
    name: str, rawtext: str, text: str, lineno: int, inliner: Any, options: Any = None, content: Any = None
) -> Any:
    """{sec}`3.3.1` or {sec}`dpo-identity`: a link that `resolve_sec` fills in."""
    node = addnodes.pending_xref("", refdomain="", reftype="alignlab-sec", reftarget=text.strip(), refwarn=True)
    node["refdoc"] = inliner.document.settings.env.docname
    node += nodes.inline("", text)
    return [node], []


def resolve_sec(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Element
) -> nodes.Node | None:
    """Resolve a {sec} role; an id that the outline does not have is left to Sphinx, which warns."""
    if node["reftype"] != "alignlab-sec":
        return None
    entry = next((entry for entry in entries(env) if entry.id == node["reftarget"]), None)
    if entry is None:
        logger.warning("no section or topic %s in the outline", node["reftarget"], location=node, type="alignlab")
        return content
    text = entry.en if entry.topic else {1: "Chapter", 2: "Section", 3: "Section"}[entry.depth] + " " + entry.id
    reference = nodes.reference("", "", internal=True, refuri=link(env, app.builder, node["refdoc"], entry))
    reference["reftitle"] = entry.en
    reference += nodes.inline("", text)
    return reference


def check_targets(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of a target that looks like the outline's and is not in it."""
    known = {entry.label for entry in entries(env)}
    for label, (document, *_rest) in env.get_domain("std").anonlabels.items():  # type: ignore[attr-defined]
        if label.startswith(("sec-", "topic-")) and label not in known:
            logger.warning("target %s is not in the outline", label, location=document, type="alignlab")


def update(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Pages that show what other pages hold are written again whenever anything changed."""
    env.__dict__.pop("alignlab_pages", None)
    return list(store(env, "live"))


def setup(app: Sphinx) -> None:
    """Register directives, the role and the handlers."""
    app.add_node(outline_node)
    app.add_node(outline_map_node)
    app.add_directive("outline", Outline)
    app.add_directive("outline-map", OutlineMap)
    app.add_role("sec", sec_role)
    app.connect("doctree-resolved", fill)
    app.connect("missing-reference", resolve_sec)
    app.connect("env-check-consistency", check_targets)
    app.connect("env-get-updated", update)
