"""Outputs of executed notebooks: plotly figures, explorers and named results, without kernel or network.

A plotly figure becomes its JSON and an empty box that figure.js fills with the vendored plotly, loaded only on pages
that hold a figure. An explorer output becomes the same live element that {explorer} makes.
"""

from __future__ import annotations

from typing import Any, ClassVar

import myst_nb.core.render
from docutils import nodes
from sphinx.application import Sphinx

from .explorers import element
from .markup import embed_json, escape, raw

PLOTLY = "application/vnd.plotly.v1+json"
EXPLORER = "application/vnd.alignlab.explorer+json"
RESULTS = "application/vnd.alignlab.results+json"
DEFAULT_HEIGHT = 400


def plotly(data: dict[str, Any]) -> str:
    """HTML of a plotly figure (its JSON); the box has its final height from the start, so that nothing moves."""
    layout = data.get("layout", {})
    title = layout.get("title", {})
    text = title.get("text", "") if isinstance(title, dict) else str(title)
    label = f"Plot: {text}" if text else "Plot"
    figure = {"data": data.get("data", []), "layout": layout}
    height = int(layout.get("height") or DEFAULT_HEIGHT)
    return (
        f'<div class="al-plot" role="img" aria-label="{escape(label)}" style="height:{height}px">'
        f'<script type="application/json">{embed_json(figure)}</script>'
        "<noscript>This plot is drawn by JavaScript.</noscript></div>"
    )


def results(data: dict[str, Any]) -> str:
    """HTML table of named results, and the list of claims."""
    rows = "".join(
        f'<tr><th scope="row"><code>{escape(name)}</code></th><td>{escape(result["text"])}</td></tr>'
        for name, result in data.get("results", {}).items()
    )
    claims = "".join(
        f"<li>{'Holds' if claim.get('holds') else 'Does not hold'}: {escape(claim['text'])}</li>"
        for claim in data.get("claims", [])
    )
    table = f'<table class="table al-results"><caption>Results</caption><tbody>{rows}</tbody></table>' if rows else ""
    return table + (f'<ul class="al-claims">{claims}</ul>' if claims else "")


class Outputs:
    """myst-nb plugin for our MIME types; a lower number is preferred (text/html has 30)."""

    mime_priority_overrides: ClassVar = [("*", EXPLORER, 1), ("*", PLOTLY, 2), ("*", RESULTS, 35)]

    @staticmethod
    def handle_mime(renderer: Any, data: Any, inline: bool) -> list[nodes.Element] | None:
        """Render our MIME types; None leaves the rest to myst-nb."""
        if data.mime_type == PLOTLY:
            return [raw(plotly(data.content))]
        if data.mime_type == RESULTS:
            return [raw(results(data.content))]
        if data.mime_type == EXPLORER:
            env = renderer.renderer.sphinx_env
            return [raw(element(env, data.content["name"], data.content["data"]))]
        return None


def add_files(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Add plotly to a page with a figure."""
    if 'class="al-plot"' in context.get("body", ""):
        app.add_js_file("plotly/plotly-cartesian.min.js", loading_method="defer", priority=300)
        app.add_js_file("figure.js", loading_method="defer", priority=310)


def setup(app: Sphinx) -> None:
    """Register the plugin. myst-nb finds plugins by entry points, which a folder of the project does not have."""
    found = myst_nb.core.render.load_mime_renders()
    if Outputs not in found:
        found.append(Outputs)
    app.connect("html-page-context", add_files)
