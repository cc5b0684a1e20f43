"""Where the project's parts are, seen from the book, and the environment data that the extension keeps."""

from __future__ import annotations

import importlib
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from sphinx.environment import BuildEnvironment


def root(env: BuildEnvironment) -> Path:
    """The folder of _config.yml."""
    return Path(env.srcdir)


def labs_dir(env: BuildEnvironment) -> Path:
    """Executed notebooks, and explorers/ with the data that labs write."""
    return root(env) / "labs"


@cache
def _import(name: str, folder: str) -> ModuleType:
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


def alignlab(env: BuildEnvironment, module: str) -> ModuleType:
    """Import alignlab.<module> of this checkout, installed or not."""
    return _import(f"alignlab.{module}", str(root(env) / "src"))


def store(env: BuildEnvironment, name: str) -> dict[str, Any]:
    """A dictionary kept in the build environment, one entry per document (see `forget`)."""
    kept: dict[str, dict[str, Any]] = env.__dict__.setdefault("alignlab_store", {})
    return kept.setdefault(name, {})


def forget(env: BuildEnvironment, docname: str) -> None:
    """Drop what a document that is read again, or removed, had stored."""
    for entries in env.__dict__.setdefault("alignlab_store", {}).values():
        entries.pop(docname, None)
