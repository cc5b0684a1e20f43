"""The home page: one card per chapter with how much of it is written.

```{chapters}
```
"""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from . import outline
from .markup import escape, raw
from .project import root, store


class chapters_node(nodes.General, nodes.Element):
    """The chapter cards, filled in when all pages are known."""


class Chapters(SphinxDirective):
    """Cards of all chapters."""

    def run(self) -> list[nodes.Node]:
        """Leave a node to be filled in when all pages are known."""
        self.env.note_dependency(str(root(self.env) / "book" / "outline.yml"))
        store(self.env, "live").setdefault(self.env.docname, True)
        return [chapters_node()]


def cards(app: Sphinx, source: str) -> str:
    """HTML of the cards; a chapter counts its sections x.y.z, or x.y where a section has no leaves."""
    everything = [entry for entry in outline.entries(app.env) if not entry.topic]
    parts = []
    for chapter in [entry for entry in everything if entry.depth == 1]:
        inside = [entry for entry in everything if entry.chapter == chapter.id and entry.depth > 1]
        leaves = [entry for entry in inside if not any(other.id.startswith(entry.id + ".") for other in inside)]
        done = sum(1 for leaf in leaves if outline.written(app.env, leaf))
        status = f"{done} of {len(leaves)} sections written" if done else f"{len(leaves)} sections, outline only"
        uri = outline.link(app.env, app.builder, source, chapter)
        parts.append(
            f'<li><a class="al-chapter reference internal" data-written="{done}" href="{uri}">'
            f'<span class="al-chapter-number">{chapter.id}</span>'
            f'<span class="al-chapter-title">{escape(chapter.en)}</span>'
            f'<span class="al-zh" lang="zh">{escape(chapter.zh)}</span>'
            f'<span class="al-chapter-status"><span class="al-meter" aria-hidden="true">'
            f'<span style="width:{100 * done / len(leaves):.0f}%"></span></span>{status}</span></a></li>'
        )
    return f'<ol class="al-chapters">{"".join(parts)}</ol>'


def fill(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Replace the node by the cards."""
    for node in list(doctree.findall(chapters_node)):
        node.replace_self(raw(cards(app, docname)))


def setup(app: Sphinx) -> None:
    """Register the directive."""
    app.add_node(chapters_node)
    app.add_directive("chapters", Chapters)
    app.connect("doctree-resolved", fill)
