"""The Sphinx extension of this book: its directives, roles, numbering, notebook outputs and assets.

Each module does one thing and has its own `setup`; they share `project` (where things are) and `markup` (HTML helpers).
"""

from __future__ import annotations

import gc
from typing import Any

from sphinx.application import Sphinx

from . import (
    assets,
    bibliography,
    diagrams,
    explorers,
    home,
    labs,
    library,
    maths,
    notebooks,
    numbering,
    outline,
    quiz,
    results,
)

VERSION = "1"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register every part of the extension with Sphinx."""
    # A build makes millions of nodes that stay to its end: to look through them for garbage costs seconds for nothing.
    gc.set_threshold(200_000, 50, 1000)
    for part in (
        *(outline, numbering, maths, quiz, results, explorers, diagrams, notebooks, labs, library, home, assets),
        bibliography,
    ):
        part.setup(app)
    return {"version": VERSION, "env_version": 1, "parallel_read_safe": False, "parallel_write_safe": True}
