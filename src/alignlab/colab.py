"""The cell that makes a lab run where AlignLab is not installed, and the copies of the labs that Colab opens.

The text of the cell stands here once; alignlab.notebooks puts it into every lab.
"""

import json
import re
from collections.abc import Mapping

MARKER = '# %% cellView="form" jupyter={"source_hidden": true} tags=["setup", "hide-input"]'
CELL = """\
# @title Set-up: does nothing where AlignLab is installed; elsewhere it installs it, and leaves torch as it is
import importlib.util

if importlib.util.find_spec("alignlab") is None:
    import os
    import subprocess
    import sys
    from importlib.metadata import version

    source = os.environ.get("ALIGNLAB_SOURCE") or ""
    if not source:
        raise SystemExit(
            "AlignLab is not installed here. Set the environment variable ALIGNLAB_SOURCE to the address of its "
            "repository (git+https://...) or to the folder of a checkout, and run this cell again."
        )
    print("Installing AlignLab, a minute or two ...")
    kept = [f"{name}=={version(name)}" for name in ("torch", "torchvision", "numpy") if importlib.util.find_spec(name)]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", source, *kept]
    installed = subprocess.run(pip, capture_output=True, text=True)
    if installed.returncode:
        raise SystemExit(f"pip could not install AlignLab from {source}. It said:\\n{installed.stderr[-2000:]}")
    importlib.invalidate_caches()
    print("AlignLab is installed.")"""

_UNSTAMPED = 'os.environ.get("ALIGNLAB_SOURCE") or ""'
_CELL_START = re.compile(r"(?m)^(?=#\s*%%+(?:\s|$))")


def with_cell(text: str) -> str:
    """A lab's source text whose second cell is the set-up cell: put in if it was missing, replaced if it differed."""
    head, *cells = _CELL_START.split(text)
    title, *rest = [cell for cell in cells if '"setup"' not in cell.split("\n", 1)[0]] or [""]
    if not title:
        raise ValueError("this is no lab: none of its lines starts a cell with '# %%'")
    setup = f"{MARKER}\n{CELL}\n" + ("\n" if rest else "")
    return "".join([head, title.rstrip() + "\n\n", setup, *rest])


def stamped(address: str) -> str:
    """The set-up cell that installs from `address` (anything that pip takes) unless ALIGNLAB_SOURCE names another."""
    if not address or re.search(r"""[\s"'\\{}]""", address):
        raise ValueError(
            f"the source to install from is {address!r}; give an address or a folder without spaces or quotes"
        )
    return CELL.replace(_UNSTAMPED, _UNSTAMPED.removesuffix('""') + json.dumps(address))


def repository(environment: Mapping[str, str]) -> str:
    """The address of the repository that a workflow runs in, at its commit: an archive for pip."""
    name = environment.get("GITHUB_REPOSITORY", "")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"GITHUB_REPOSITORY is {name!r}, not owner/name; say with --source where to install from")
    server = environment.get("GITHUB_SERVER_URL", "https://github.com")
    return f"{server}/{name}/archive/{environment.get('GITHUB_SHA', 'HEAD')}.zip"
