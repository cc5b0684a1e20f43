"""Section numbers equal to the outline's.

A chapter's number is its place in the numbered part of _toc.yml, a page's number its place in the chapter; a heading in
a page has a number if, and only if, it carries an outline target (sec-x-y-z). All other headings (a summary, a quiz, a
further topic) stand without one, so that 3.3.1 is 3.3.1 whatever else the page holds. A page below a section's
page, for topics that it has no room for, has no number at all.
"""

from __future__ import annotations

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

from .project import forget, store

logger = logging.getLogger(__name__)
TARGET = re.compile(r"sec-(\d+(?:-\d+)*)$")
Number = tuple[int, ...]


def numbered_pages(env: BuildEnvironment) -> dict[str, Number]:
    """Document -> number, from the numbered toctree of the root: {ch03/index: (3,), ch03/training: (3, 3)}."""
    pages: dict[str, Number] = {}
    for tree in env.get_doctree(env.config.root_doc).findall(addnodes.toctree):
        if not tree.get("numbered"):
            continue
        for chapter, (_, document) in enumerate(tree["entries"], start=1):
            pages[document] = (chapter,)
            for section, child in enumerate(env.toctree_includes.get(document, []), start=1):
                pages[child] = (chapter, section)
    return pages


def topic_pages(env: BuildEnvironment, numbered: dict[str, Number]) -> set[str]:
    """Documents below a section's page: they hold further topics, and have no number."""
    waiting, found = list(numbered), set[str]()
    while waiting:
        new = set(env.toctree_includes.get(waiting.pop(), [])) - numbered.keys() - found
        found |= new
        waiting += new
    return found


def collect(app: Sphinx, doctree: nodes.document) -> None:
    """Remember which headings carry an outline target, by their anchor in the table of contents ("" for the title)."""
    found = {}
    for place, section in enumerate(doctree.findall(nodes.section)):
        for name in section["ids"]:
            if match := TARGET.match(name):
                anchor = "#" + section["ids"][0] if place else ""
                found[anchor] = tuple(int(part) for part in match[1].split("-"))
    if found:
        store(app.env, "headings")[app.env.docname] = found


def assign(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Replace the numbers that Sphinx counted by the outline's. Returns the documents that must be written again."""
    headings = store(env, "headings")
    previous = store(env, "numbers")
    changed = []
    numbered = numbered_pages(env)
    for document, number in numbered.items():
        numbers: dict[str, Number | None] = {"": number}
        for anchor, claimed in headings.get(document, {}).items():
            if anchor and claimed[: len(number)] == number:
                numbers[anchor] = claimed
            elif claimed != number:
                _warn(f"target sec-{'-'.join(map(str, claimed))} stands on page {_text(number)}", document)
        for reference in env.tocs[document].findall(nodes.reference):
            found = numbers.setdefault(reference["anchorname"], None)
            reference["secnumber"] = list(found) if found else None
        env.toc_secnumbers[document] = numbers  # type: ignore[assignment]
        env.titles[document]["secnumber"] = list(number)
        if previous.get(document) != numbers:
            previous[document] = numbers
            changed.append(document)
    for document in topic_pages(env, numbered):
        for reference in env.tocs[document].findall(nodes.reference):
            reference["secnumber"] = None
        env.toc_secnumbers.pop(document, None)
        env.titles[document].attributes.pop("secnumber", None)
        if previous.get(document) != {}:
            previous[document] = {}
            changed.append(document)
    return changed


def _text(number: Number) -> str:
    return ".".join(map(str, number))


def _warn(message: str, document: str) -> None:
    logger.warning(message, location=document, type="alignlab", subtype="numbering")


def setup(app: Sphinx) -> None:
    """Connect the collector, and the assignment after Sphinx's own (priority 900)."""
    app.connect("env-purge-doc", lambda app, env, docname: forget(env, docname))
    app.connect("doctree-read", collect)
    app.connect("env-get-updated", assign, priority=900)
