"""What a page loads: nothing from another host, nothing twice, nothing that it does not use."""

from __future__ import annotations

import re
from collections import Counter
from html import unescape
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from .project import alignlab

UNUSED = ("sphinx-thebe", "THEBE_JS_URL")


def _name(asset: Any) -> str:
    return str(getattr(asset, "filename", asset) or "")


def _wanted(asset: Any, unused: tuple[str, ...]) -> bool:
    name = _name(asset)
    attributes = getattr(asset, "attributes", {})
    if name.startswith(("http:", "https:", "//")):
        return False
    if attributes.get("type") == "application/vnd.jupyter.widget-state+json":
        return False
    text = name + str(attributes.get("body", ""))
    return not any(part in text for part in unused)


def trim(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Keep only the files that the page needs."""
    body = context.get("body", "")
    unused = UNUSED + (() if "sd-tab" in body else ("design-tabs",))
    for kind in ("script_files", "css_files"):
        context[kind][:] = [asset for asset in context[kind] if _wanted(asset, unused)]
    # docutils calls a list what holds no list items
    body = body.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    context["body"] = with_shared_styles(without_plain_spans(body))
    context["lean"] = without_icon_font
    if 'class="al-map"' in body:
        app.add_js_file("outline-map.js", loading_method="defer")


def without_icon_font(head: str) -> str:
    """The theme's head without its icon script of 1.5 MB; alignlab.css draws the few icons in use."""
    return re.sub(r"<script[^>]*fontawesome[^>]*></script>", "", head)


def disconnect_thebe(app: Sphinx, config: Any) -> None:
    """Jupyter Book loads sphinx_thebe on every page, for a live kernel that this book does not offer."""
    for listeners in app.events.listeners.values():
        listeners[:] = [listener for listener in listeners if listener.handler.__module__ != "sphinx_thebe"]


def write_palette(app: Sphinx) -> None:
    """Write the palette of the library as the stylesheet palette.css, so that pages and plots cannot differ."""
    if app.builder.format == "html":
        folder = Path(app.outdir) / "_static"
        folder.mkdir(parents=True, exist_ok=True)
        # the theme sets data-theme="auto" until its script has run, and for good where scripts are off
        text = alignlab(app.env, "palette").css()
        text = text.replace(":root:not([data-theme])", ':root:not([data-theme="light"], [data-theme="dark"])')
        (folder / "palette.css").write_text(text, encoding="utf-8")


def write_explorers(app: Sphinx) -> None:
    """Write each explorer's script where its pages load it, and its large data beside it: all work from file:// too."""
    if app.builder.format == "html":
        faces = alignlab(app.env, "explorers")
        folder = Path(app.outdir) / "_static" / "explorers"
        folder.mkdir(parents=True, exist_ok=True)
        for name in faces.names():
            for file, text in {f"{name}.js": faces.script(name), **faces.statics(name)}.items():
                (folder / file).write_text(text, encoding="utf-8")


def without_plain_spans(body: str) -> str:
    """Code without a span around each name, bracket and operator: they have the colour of text, and are half a lab."""
    return re.sub(r'<span class="(?:n|nn|p|o|w|si)">([^<]*)</span>', r"\1", body)


def with_shared_styles(body: str) -> str:
    """The page with each inline style that recurs written once: the tables of a lab repeat theirs in every cell."""
    counts = Counter(re.findall(r' style="([^"]{40,})"', body))
    shared = {style: f"s{index}" for index, (style, count) in enumerate(counts.most_common()) if count >= 3}
    if not shared:
        return body
    rules = "".join(f'[data-al="{name}"][data-al][data-al]{{{unescape(style)}}}' for style, name in shared.items())
    body = re.sub(
        r' style="([^"]{40,})"',
        lambda found: f' data-al="{shared[found[1]]}"' if found[1] in shared else found[0],
        body,
    )
    return f"<style>{rules}</style>{body}"


def setup(app: Sphinx) -> None:
    """Register the stylesheets of the book, and the filter after every other extension (priority 990)."""
    app.add_css_file("palette.css", priority=200)
    for name in ("fonts.css", "components.css", "alignlab.css"):
        app.add_css_file(name, priority=850)
    app.connect("config-inited", disconnect_thebe, priority=990)
    app.connect("html-page-context", trim, priority=990)
    app.connect("builder-inited", write_palette)
    app.connect("builder-inited", write_explorers)
