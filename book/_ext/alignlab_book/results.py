"""Numbers that labs measured, printed where the text speaks of them: {result}`dpo_identity.accuracy_after`.

The text comes from the results output of the executed notebook. An unknown name is a warning, so a strict build fails.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

from .labs import Lab, all_labs

logger = logging.getLogger(__name__)


def find(labs: list[Lab], name: str) -> tuple[Lab, str]:
    """The lab and the text of a result `lab.name`; raises KeyError with a sentence that says what there is."""
    owner, _, key = name.partition(".")
    lab = next((lab for lab in labs if lab.name == owner), None)
    if lab is None:
        raise KeyError(f"no executed lab {owner!r}; there are: {', '.join(lab.name for lab in labs) or 'none'}")
    known: dict[str, Any] = lab.results.get("results", {})
    if key not in known:
        raise KeyError(f"lab {owner!r} has no result {key!r}; it has: {', '.join(known) or 'none'}")
    return lab, str(known[key]["text"])


class Result(SphinxRole):
    """{result}`lab.name`."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The result's text, with the lab as its tooltip."""
        try:
            lab, text = find(all_labs(self.env), self.text)
        except KeyError as error:
            logger.warning("result %s: %s", self.text, error.args[0], location=self.get_location(), type="alignlab")
            return [nodes.literal("", f"?{self.text}?", classes=["al-missing"])], []
        self.env.note_dependency(str(lab.path))
        node = nodes.inline("", text, classes=["al-result"])
        return [node], []


def setup(app: Sphinx) -> None:
    """Register the role."""
    app.add_role("result", Result())
