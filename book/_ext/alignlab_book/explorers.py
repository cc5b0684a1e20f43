"""Live figures: {explorer} puts an explorer's element, its data and, once a page, its script into the page.

    ```{explorer} decoding
    :try: Lower the temperature until one token takes all.
    ```

The element works without kernel, network or module loader. Its data are labs/explorers/NAME.json, written by a lab.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from .markup import embed_json, escape, raw
from .project import alignlab, labs_dir

logger = logging.getLogger(__name__)


def element(env: BuildEnvironment, name: str, data: Any, attempt: str = "") -> str:
    """HTML of an explorer; the first of its name on a page loads its script, the first of all brings the style."""
    faces = alignlab(env, "explorers")
    brought = env.temp_data.setdefault("alignlab_explorers", set())
    parts = []
    if not brought:
        parts.append(f"<style>{faces.style()}</style>")
        brought.add("")
    attempt = f'<p class="al-try"><strong>Try:</strong> {escape(attempt)}</p>' if attempt else ""
    parts.append(
        f'<div class="al-explorer" data-explorer="{escape(name)}">{attempt}<alignlab-{escape(name)}>'
        f'<script type="application/json">{embed_json(faces.packed(data))}</script>'
        f"<noscript>This figure is live: it needs JavaScript.</noscript></alignlab-{escape(name)}></div>"
    )
    if name not in brought:
        root = "../" * env.docname.count("/")
        parts.append(f'<script src="{root}_static/explorers/{escape(name)}.js"></script>')
        brought.add(name)
    return "".join(parts)


class Explorer(SphinxDirective):
    """An explorer with the data that its lab wrote."""

    required_arguments = 1
    option_spec: ClassVar = {"try": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Read the data and render the element; a missing file is a warning."""
        name = self.arguments[0]
        path = labs_dir(self.env) / "explorers" / f"{name}.json"
        self.env.note_dependency(str(path))
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return [raw(element(self.env, name, data.get("data", data), self.options.get("try", "")))]
        except (OSError, ValueError, ImportError, KeyError) as error:
            logger.warning("explorer %s: %s", name, error, location=self.get_location(), type="alignlab")
            return [nodes.paragraph("", f"The explorer {name} is not ready yet.", classes=["al-missing"])]


def setup(app: Sphinx) -> None:
    """Register the directive."""
    app.add_directive("explorer", Explorer)
