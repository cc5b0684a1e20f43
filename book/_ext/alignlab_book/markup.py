"""Small helpers that turn text into safe HTML and docutils nodes."""

from __future__ import annotations

import html
import json
from typing import Any

from docutils import nodes


def escape(text: object) -> str:
    """Text as HTML character data, quotes included."""
    return html.escape(str(text), quote=True)


def raw(text: str) -> nodes.raw:
    """A raw HTML node."""
    return nodes.raw("", text, format="html")


def embed_json(data: Any) -> str:
    """JSON that may stand inside a <script> element: no sequence in it can close the element or open a comment."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("</", "<\\/").replace("<!--", "<\\u0021--")
