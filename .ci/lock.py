"""Writes requirements.txt and tests/requirements.txt from pyproject.toml: exact versions for every system and Python.

Versions that are already in the files stay; `--upgrade` takes the newest that the ranges allow. Run by `make lock`.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Newer torch releases are to be tried before they are taken.
PINS = ["torch==2.13.0"]
# What torch itself pins exactly, and asks for only where its wheel is one for NVIDIA GPUs; and what is for no desktop.
LEFT_OUT = re.compile(r"(nvidia|cuda|triton)\b|.*sys_platform == 'emscripten'$")

READER = """\
# Everything that a reader of the book and its labs needs, in exact versions, for Linux, Mac and Windows and for
# Python 3.11 to 3.13. Install with `python -m pip install -r requirements.txt` (`make start` does).
# Written by `make lock` from pyproject.toml; the comments say what each direct dependency is for.
# On Linux with an NVIDIA GPU torch brings its own CUDA packages, which it pins itself.
"""
TESTER = """\
# What the tests need beyond what a reader needs, in exact versions. Written by `make lock` from pyproject.toml.
-r ../requirements.txt
"""


def reasons() -> dict[str, str]:
    """What each direct dependency is for, by the comments in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.findall(r'^    "([\w-]+)[^"]*",\s*# (.+)$', text, re.MULTILINE)
    return {name.lower(): why for name, why in found}


def resolve(extras: list[str], upgrade: bool) -> list[str]:
    """One line a package, `name==version ; marker`, sorted by name."""
    pins = PINS + [line for name in ("requirements.txt", "tests/requirements.txt") for line in kept(name, upgrade)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as constraints:
        constraints.write("\n".join(pins))
        constraints.flush()
        command = [sys.executable, "-m", "uv", "pip", "compile", "--universal", "--python-version", "3.11"]
        command += ["--fork-strategy", "fewest", "--no-annotate", "--no-header", "--quiet"]
        command += ["--constraint", constraints.name, *(f"--extra={extra}" for extra in extras), "pyproject.toml"]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return [line for line in done.stdout.splitlines() if not LEFT_OUT.match(line)]


def kept(name: str, upgrade: bool) -> list[str]:
    """The pins of a requirements file that is there, without their comments."""
    path = ROOT / name
    if upgrade or not path.exists():
        return []
    lines = [line.split("  #")[0].rstrip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "==" in line and not line.startswith("#")]


def layout(head: str, lines: list[str]) -> str:
    """The file: direct dependencies first, each with what it is for, then what those need."""
    why = reasons()
    direct = [line for line in lines if line.split("==")[0] in why]
    width = max(map(len, direct)) + 2
    first = [f"{line:<{width}}# {why[line.split('==')[0]]}" for line in direct]
    rest = [line for line in lines if line not in direct]
    return "\n".join([head, *first, "", "# What those need in their turn.", *rest, ""])


def main() -> int:
    """Both files; returns 0."""
    upgrade = "--upgrade" in sys.argv[1:]
    reader = resolve(["book"], upgrade)
    (ROOT / "requirements.txt").write_text(layout(READER, reader), encoding="utf-8")
    tester = [line for line in resolve(["book", "test"], upgrade) if line not in reader]
    (ROOT / "tests" / "requirements.txt").write_text(layout(TESTER, tester), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
