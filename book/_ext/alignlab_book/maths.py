"""Mathematics by KaTeX, vendored: the page carries TeX between \\( \\) or \\[ \\], and math.js renders it.

Equation numbers and {eq} references are Sphinx's. KaTeX's files are added only to pages that hold mathematics.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.math import get_node_equation_number

from .markup import embed_json


def visit_math(self: Any, node: nodes.math) -> None:
    """Inline mathematics."""
    self.body.append(self.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    self.body.append("\\(" + self.encode(node.astext()) + "\\)</span>")
    raise nodes.SkipNode


def tex(text: str) -> str:
    """TeX of a displayed equation as KaTeX reads it: equations parted by blank lines are stacked, `\\\\` is aligned."""
    parts = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    if len(parts) == 1 and (r"\begin{" in parts[0] or r"\\" not in parts[0]):
        return parts[0]
    rows = r" \\ ".join(parts)
    return r"\begin{aligned}" + rows + r"\end{aligned}"


def visit_displaymath(self: Any, node: nodes.math_block) -> None:
    """Displayed mathematics, its number and the link to itself."""
    self.body.append(self.starttag(node, "div", CLASS="math notranslate nohighlight"))
    if node.get("number"):
        number = get_node_equation_number(self, node)
        self.body.append(f'<span class="eqno">({number})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    text = node.astext() if node.get("nowrap") else tex(node.astext())
    text = re.sub(r"\\(begin|end)\{(align|gather|alignat|equation)\*?\}", _inner_environment, text)
    self.body.append("\\[" + self.encode(text) + "\\]</div>\n")
    raise nodes.SkipNode


def _inner_environment(match: re.Match[str]) -> str:
    """KaTeX numbers align and equation itself; Sphinx has numbered them already."""
    inner = {"align": "aligned", "gather": "gathered", "alignat": "alignedat", "equation": "aligned"}[match[2]]
    return f"\\{match[1]}{{{inner}}}"


def add_files(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Add KaTeX to a page with mathematics."""
    if 'class="math' not in context.get("body", "") + context.get("toc", ""):
        return
    # The first paint waits for them where the browser can: mathematics set later would move the text below it.
    early: dict[str, Any] = {"loading_method": "defer", "blocking": "render"}
    app.add_css_file("katex/katex.min.css", priority=300)
    app.add_js_file("katex/katex.min.js", priority=300, **early)
    app.add_js_file(None, body=f"window.alignlabMacros={embed_json(app.config.katex_macros)};", priority=300)
    app.add_js_file("math.js", priority=310, **early)


def setup(app: Sphinx) -> None:
    """Register the renderer "katex" and its macros."""
    app.add_config_value("katex_macros", {}, "html")
    app.add_html_math_renderer("katex", (visit_math, None), (visit_displaymath, None))
    app.connect("html-page-context", add_files)
