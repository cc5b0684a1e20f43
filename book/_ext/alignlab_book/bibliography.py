"""Citations in less time: which class a plugin of pybtex is, is looked up once and not at every citation.

pybtex asks the metadata of all installed packages each time, about 10 ms; the book cites some 700 times.
"""

from __future__ import annotations

from functools import cache

from pybtex import plugin
from sphinx.application import Sphinx


def setup(app: Sphinx) -> None:
    """Remember what pybtex's plugin look-up found, for as long as this process lasts."""
    if not hasattr(plugin._load_entry_point, "cache_info"):
        plugin._load_entry_point = cache(plugin._load_entry_point)
