"""Diagrams drawn by code: {diagram} inlines both SVGs of a function in book/diagrams, wide and narrow, as one figure.

```{diagram} ch03.panorama
:name: fig-dpo-panorama
One caption, in MyST.
```
"""

from __future__ import annotations

import importlib
import sys
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from .markup import raw
from .project import root

logger = logging.getLogger(__name__)


def svg(env: BuildEnvironment, name: str, narrow: bool) -> str:
    """SVG text of diagram `module.function`; raises LookupError where there is none."""
    module_name, _, function_name = name.rpartition(".")
    folder = str(root(env) / "book")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        function = getattr(importlib.import_module(f"diagrams.{module_name}"), function_name)
    except (ImportError, AttributeError) as error:
        raise LookupError(f"book/diagrams/{module_name}.py has no diagram {function_name!r} ({error})") from error
    return str(function(narrow=narrow).svg())


class Diagram(SphinxDirective):
    """A diagram with its caption."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {"name": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Draw both versions; a diagram that does not exist is a warning."""
        name = self.arguments[0]
        folder = root(self.env) / "book" / "diagrams"
        for path in (folder / "kit.py", folder / f"{name.rpartition('.')[0]}.py"):
            self.env.note_dependency(str(path))
        try:
            wide, narrow = svg(self.env, name, False), svg(self.env, name, True)
        except LookupError as error:
            logger.warning("diagram %s: %s", name, error, location=self.get_location(), type="alignlab")
            return []
        figure = nodes.figure("", classes=["al-drawing"])
        figure += raw(f'<div class="al-wide-only">{wide}</div><div class="al-narrow-only">{narrow}</div>')
        if self.content:
            holder = nodes.container()
            self.state.nested_parse(self.content, self.content_offset, holder)
            first, *rest = holder.children
            caption = nodes.caption("", "", *(first.children if isinstance(first, nodes.paragraph) else [first]))
            self.set_source_info(caption)
            figure += caption
            if rest:
                figure += nodes.legend("", *rest)
        self.set_source_info(figure)
        self.add_name(figure)
        return [figure]


def setup(app: Sphinx) -> None:
    """Register the directive."""
    app.add_directive("diagram", Diagram)
