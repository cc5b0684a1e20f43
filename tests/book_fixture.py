"""Books to test: the project's own, built once for a whole test session, and specimens small enough to break.

Workers of pytest-xdist share one build of the project's book: the first to take the lock builds it, the others wait.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

ROOT = Path(__file__).resolve().parent.parent
MAIN = "from jupyter_book.cli.main import main; main()"
LIBRARY = ("palette", "losses", "explorers")
COPIED = (
    *("_config.yml", "book/_ext", "book/_static", "book/_templates", "book/diagrams", "book/outline.yml"),
    *("src/alignlab/__init__.py", "src/alignlab/palette.py", "src/alignlab/losses", "src/alignlab/explorers"),
    *(
        f"src/alignlab/tiny/{file}"
        for file in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja")
    ),
)


@dataclasses.dataclass(frozen=True)
class Built:
    """A built book. `html` is its folder, `seconds` the processor time it took, `output` what the builder said."""

    html: Path
    seconds: float
    output: str
    code: int

    def page(self, document: str) -> str:
        """The HTML of a document, for example book/ch03_dpo/training."""
        return (self.html / f"{document}.html").read_text(encoding="utf-8")


def build(source: Path, out: Path) -> Built:
    """Build a book as `make book` does: every warning is an error, all of them are shown."""
    command = [
        sys.executable,
        "-c",
        MAIN,
        "build",
        str(source),
        "--path-output",
        str(out),
        "-W",
        "-n",
        "--keep-going",
        "--all",
    ]
    environment = {**os.environ, "NO_COLOR": "1"}
    environment.pop("GITHUB_REPOSITORY", None)
    before = os.times()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    output = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    after = os.times()
    seconds = after.children_user - before.children_user + after.children_system - before.children_system
    return Built(out / "_build" / "html", seconds or after.elapsed - before.elapsed, output, done.returncode)


@pytest.fixture(scope="session")
def project_book(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The project's book, built once for all workers; a failed build fails every test that needs it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    record = shared / "book.json"
    with filelock.FileLock(str(record) + ".lock"):
        if not record.exists():
            built = build(ROOT, shared / "book")
            record.write_text(json.dumps({**dataclasses.asdict(built), "html": str(built.html)}), encoding="utf-8")
    loaded = json.loads(record.read_text(encoding="utf-8"))
    book = Built(Path(loaded["html"]), loaded["seconds"], loaded["output"], loaded["code"])
    assert book.code == 0, book.output[-6000:]
    return book


@pytest.fixture(scope="session")
def built_book(project_book: Built) -> Path:
    """The folder of the project's built book."""
    return project_book.html


def notebook(cells: list[tuple[str, str, dict[str, object] | None]]) -> str:
    """Text of a notebook from (type, source, output data or None)."""
    made = []
    for place, (kind, source, data) in enumerate(cells):
        cell: dict[str, object] = {"cell_type": kind, "id": f"cell-{place}", "metadata": {}, "source": source}
        if kind == "code":
            outputs = [{"output_type": "display_data", "metadata": {}, "data": data}] if data else []
            cell |= {"execution_count": 1, "outputs": outputs}
        made.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    return json.dumps({"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def specimen(folder: Path, page: str, lab: str | None = None) -> Path:
    """A book with the project's own extension, one page 3.3 of the given text, and one lab. Returns its folder."""
    for name in COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
        elif source.exists():
            shutil.copy(source, target)
    chapters = "".join(f"  - file: book/ch0{number}\n" for number in (1, 2))
    sections = "".join(f"    - file: book/s{number}\n" for number in (1, 2, 3))
    (folder / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nparts:\n- caption: Book\n  numbered: true\n  chapters:\n"
        f"{chapters}  - file: book/ch03\n    sections:\n{sections}"
        "- caption: Labs\n  chapters:\n  - glob: labs/ch*\n- caption: Reference\n  chapters:\n  - file: book/losses\n",
        encoding="utf-8",
    )
    pages = {
        "intro": "# Specimen\n",
        "ch01": "# One\n",
        "ch02": "# Two\n",
        "ch03": "(sec-3)=\n# Three\n\n## What you will be able to do\n\nRead.\n\n```{quiz-summary} 3\n```\n",
        "s1": "# Core\n\n```{outline} 3.1\n```\n",
        "s2": "# Data\n\n```{outline} 3.2\n```\n",
        "s3": page,
        "losses": "# Losses\n\n```{library}\n" + "\n".join(LIBRARY) + "\n```\n",
    }
    for name, text in pages.items():
        (folder / "book" / f"{name}.md").write_text(text, encoding="utf-8")
    (folder / "book" / "references.bib").write_text("", encoding="utf-8")
    (folder / "labs").mkdir(exist_ok=True)
    if lab is not None:
        (folder / "labs" / "ch03_specimen.ipynb").write_text(lab, encoding="utf-8")
    return folder
