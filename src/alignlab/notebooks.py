"""The labs as files: text twins, executed notebooks, the stamps that tie them, and the copies that Colab opens.

A lab is edited in labs/source/NAME.py (jupytext, py:percent) and committed, executed, as labs/NAME.ipynb. The stamp in
the notebook's metadata says what was run, and what it took. `python -m alignlab.notebooks --help` lists the commands.
"""

import argparse
import hashlib
import json
import logging
import os
import platform
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import jupytext
import nbformat
from nbformat import NotebookNode

import alignlab
from alignlab import colab, outputs
from alignlab.kernel import CellFailed, Cost, run

MAX_BYTES = 1_000_000
RESULTS = "application/vnd.alignlab.results+json"
EXPLORER = "application/vnd.alignlab.explorer+json"
VERSIONS = ("torch", "transformers", "trl", "peft", "numpy")

_HANDMADE = {"lines_to_next_cell", "lines_to_end_of_cell_marker"}  # jupytext's notes on blank lines: no metadata
_LANGUAGE = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3"}


@dataclass(frozen=True)
class Lab:
    """One lab: its folder (labs/) and its name (ch03_dpo_identity)."""

    folder: Path
    name: str

    @property
    def source(self) -> Path:
        """The text twin, what people edit."""
        return self.folder / "source" / f"{self.name}.py"

    @property
    def notebook(self) -> Path:
        """The committed, executed notebook."""
        return self.folder / f"{self.name}.ipynb"


def folder(start: Path | None = None) -> Path:
    """The labs folder of the checkout that `start` (the current folder) lies in. FileNotFoundError if there is none."""
    start = (start or Path.cwd()).resolve()
    for parent in (start, *start.parents):
        if (parent / "labs" / "source").is_dir():
            return parent / "labs"
    raise FileNotFoundError(f"no folder labs/source in {start} or above it: run this inside the AlignLab checkout")


def labs(where: Path, names: Iterable[str] = ()) -> list[Lab]:
    """The labs of the folder `where`, sorted; only those in `names` if any are given.

    A name may leave the chapter out (dpo_identity). ValueError for one that is not there.
    """
    known = sorted(path.stem for path in (where / "source").glob("*.py"))
    chosen = []
    for name in names:
        found = [stem for stem in known if name in (stem, re.sub(r"^ch\d+_", "", stem))]
        if not found:
            raise ValueError(f"there is no lab {name!r}; the labs are: {', '.join(known) or 'none'}")
        chosen += found
    return [Lab(where, name) for name in (chosen or known)]


# ---- twins


def compose(lab: Lab) -> NotebookNode:
    """The notebook that the source stands for: cells with ids that depend on their text alone, no outputs, no stamp."""
    text = jupytext.reads(colab.with_cell(lab.source.read_text("utf-8")), fmt="py:percent")
    notebook = nbformat.v4.new_notebook(
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": dict(_LANGUAGE),
            "colab": {"name": lab.notebook.name, "provenance": [], "toc_visible": True},
        }
    )
    if "accelerator" in text.metadata:
        notebook.metadata["accelerator"] = text.metadata["accelerator"]
    seen: defaultdict[str, int] = defaultdict(int)
    for cell in text.cells:
        make = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}[cell.cell_type]
        digest = _sha256(f"{cell.cell_type}\n{cell.source}")[:8]
        seen[digest] += 1
        identity = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        kept = {key: value for key, value in cell.metadata.items() if key not in _HANDMADE}
        notebook.cells.append(make(cell.source, id=identity, metadata=kept))
    return notebook


def sync_source(lab: Lab) -> bool:
    """Put the set-up cell into the source, or bring it up to date; True if the file was written."""
    return _replace(lab.source, colab.with_cell(lab.source.read_text("utf-8")))


def sync(lab: Lab) -> bool:
    """Bring the set-up cell of the source and the cells of the notebook up to date; True if a file was written.

    Outputs of code cells whose text is unchanged stay, and so does the stamp: it tells that the others were not run.
    """
    changed = sync_source(lab)
    notebook = compose(lab)
    if lab.notebook.exists():
        old = _read(lab.notebook)
        ran: defaultdict[str, list[NotebookNode]] = defaultdict(list)
        for cell in _code(old):
            ran[cell.source].append(cell)
        for cell in _code(notebook):
            if ran[cell.source]:
                before = ran[cell.source].pop(0)
                cell.outputs, cell.execution_count = before.outputs, before.execution_count
        if "alignlab" in old.metadata:
            notebook.metadata["alignlab"] = old.metadata["alignlab"]
    return _replace(lab.notebook, _text(notebook)) or changed


def code_sha256(notebook: NotebookNode) -> str:
    """The hash of what a lab computes: its code cells in order, without the set-up cell, which computes nothing."""
    return _sha256("\0".join(cell.source for cell in _code(notebook) if not _is_setup(cell)))


def outputs_sha256(notebook: NotebookNode) -> str:
    """The hash of all outputs: another run, saved over the stamped one, has another."""
    return _sha256(json.dumps([cell.outputs for cell in _code(notebook)], sort_keys=True, ensure_ascii=False))


# ---- checks


def check(lab: Lab) -> list[str]:
    """What is wrong with a committed lab, a sentence each; empty if nothing is."""
    if not lab.notebook.exists():
        return [f"{lab.notebook.name} does not exist: run `sync`, then `execute`"]
    problems = []
    size = lab.notebook.stat().st_size
    if size > MAX_BYTES:
        problems.append(f"the notebook has {size:,} bytes, more than {MAX_BYTES:,}: make its figures smaller")
    try:
        notebook = _read(lab.notebook)
    except (ValueError, nbformat.ValidationError) as error:
        return [*problems, f"{lab.notebook.name} is no notebook: {error}"]
    return [
        *problems,
        *_twin_problems(lab, notebook),
        *_stamp_problems(notebook),
        *outputs.problems(notebook, lab.folder.parent),
        *_explorer_problems(lab, notebook),
    ]


def stale(lab: Lab) -> bool:
    """Whether the notebook lacks a full run of the source's code as it is now."""
    if not lab.notebook.exists():
        return True
    notebook = _read(lab.notebook)
    return code_sha256(compose(lab)) != code_sha256(notebook) or any(_stamp_problems(notebook))


def _twin_problems(lab: Lab, notebook: NotebookNode) -> Iterator[str]:
    text = lab.source.read_text("utf-8")
    if colab.with_cell(text) != text:
        yield "the second cell of the source is not the set-up cell that all labs share: run `sync`"
    expected = compose(lab)
    first = expected.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "the first cell is not a markdown cell that starts with the title ('# ...')"
    if len(expected.cells) != len(notebook.cells):
        yield f"the source has {len(expected.cells)} cells, the notebook {len(notebook.cells)}: run `sync`"
    for number, (ours, theirs) in enumerate(zip(expected.cells, notebook.cells, strict=False), 1):
        for key in ("cell_type", "source", "metadata", "id"):
            if ours[key] != theirs.get(key):
                yield f"cell {number} of the notebook ({ours.cell_type}) has another {key} than the source: run `sync`"
                return
    plain = {key: value for key, value in notebook.metadata.items() if key != "alignlab"}
    if plain != expected.metadata:
        yield f"the notebook's metadata ({', '.join(plain)}) are not those that `sync` writes: run `sync`"


def _stamp_problems(notebook: NotebookNode) -> Iterator[str]:
    stamp = notebook.metadata.get("alignlab")
    if not stamp:
        yield "the notebook has no stamp, so it was not run by `execute`: run it"
        return
    missing = _STAMP - stamp.keys()
    if missing:
        yield f"the stamp lacks {', '.join(sorted(missing))}: execute the lab again"
    if stamp.get("code_sha256") != code_sha256(notebook):
        yield "the code has changed since the notebook was executed: execute the lab again"
    elif stamp.get("outputs_sha256") != outputs_sha256(notebook):
        yield "the outputs are not those of the stamped run: execute the lab again"
    if stamp.get("profile") != "full":
        yield f"the notebook is from the profile {stamp.get('profile')!r}; only a 'full' run is committed"
    if stamp.get("device") != "cpu":
        yield f"the notebook was run on {stamp.get('device')!r}; only a run on the CPU is committed"


def _explorer_problems(lab: Lab, notebook: NotebookNode) -> Iterator[str]:
    shown = [o.data[EXPLORER] for cell in _code(notebook) for o in cell.outputs if EXPLORER in o.get("data", {})]
    for path in sorted((lab.folder / "explorers").glob("*.json")):
        kept = json.loads(path.read_text("utf-8"))
        if kept["stamp"]["lab"] == lab.name and {"name": path.stem, "data": kept["data"]} not in shown:
            yield f"explorers/{path.name} holds other data than this notebook shows: execute the lab again"


# ---- execution


def execute(
    lab: Lab,
    *,
    profile: str = "full",
    output: Path | None = None,
    log: TextIO | None = None,
    python: str = sys.executable,
) -> NotebookNode:
    """Run a lab in a fresh kernel, stamp it, and write it: over labs/NAME.ipynb, or into the folder `output`.

    The kernel starts in labs/, or in `output`, so that a trial leaves nothing in the checkout; its training loops
    begin at their beginning, whatever an interrupted run has left.

    profile: full or quick. A committed notebook comes from a full run on the CPU: anything else needs `output`
    (ValueError, before anything runs). Raises CellFailed when a cell fails; the committed notebook then stays as it
    was, and what ran is kept as NAME.failed.ipynb in `output` or _build/failed/.
    """
    from alignlab import compute

    device = compute.device().type
    if output is None and profile != "full":
        raise ValueError(f"a {profile} run is not for the committed notebook: give an output folder (--output)")
    if output is None and device != "cpu":
        raise ValueError(
            f"the committed notebooks are run on the CPU, not on {device}: hide it (CUDA_VISIBLE_DEVICES=)"
        )
    if output is None:
        sync_source(lab)
    notebook = compose(lab)
    where = output or lab.folder
    where.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "ALIGNLAB_PROFILE": profile, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    try:
        with tempfile.TemporaryDirectory(prefix="alignlab-", ignore_cleanup_errors=True) as checkpoints:
            environment["ALIGNLAB_CHECKPOINTS"] = checkpoints
            cost = run(notebook, cwd=where, env=environment, python=python, log=log)
    except CellFailed as failure:
        kept = (output or lab.folder.parent / "_build/failed") / f"{lab.name}.failed.ipynb"
        _replace(kept, _text(notebook))
        untouched = f"What ran is kept in {kept}; {lab.notebook.name} is untouched."
        raise CellFailed(f"{lab.name}: {failure}\n\n{untouched}") from None
    notebook.metadata["language_info"] = dict(_LANGUAGE)
    notebook = outputs.scrub(notebook, lab.folder.parent)
    notebook.metadata["alignlab"] = _stamp(notebook, profile, device, cost)
    _replace(where / lab.notebook.name, _text(notebook))
    return notebook


def results(notebook: NotebookNode) -> dict[str, Any]:
    """What the lab reported: {"lab", "results": {name: {"value", "text"}}, "claims": [...]}. KeyError if nothing."""
    for cell in reversed(_code(notebook)):
        for output in reversed(cell.outputs):
            if RESULTS in output.get("data", {}):
                return output.data[RESULTS]
    raise KeyError(f"no output of this notebook holds results ({RESULTS}): its last cell should call run.finish()")


# ---- publishing


def publish(lab: Lab, address: str, output: Path) -> Path:
    """A copy of the notebook in `output` whose set-up cell installs from `address`, and nothing else changed.

    ValueError for a notebook whose set-up cell is not the one that all labs share.
    """
    notebook = _read(lab.notebook)
    setup = [cell for cell in _code(notebook) if _is_setup(cell)]
    if [cell.source for cell in setup] != [colab.CELL]:
        raise ValueError(f"{lab.notebook.name} has not the set-up cell that all labs share: run `sync`")
    setup[0].source = colab.stamped(address)
    _replace(output / lab.notebook.name, _text(notebook))
    return output / lab.notebook.name


# ---- files


_STAMP = {"code_sha256", "outputs_sha256", "profile", "device", "versions", "seconds", "peak_memory_mb", "executed"}


def _stamp(notebook: NotebookNode, profile: str, device: str, cost: Cost) -> dict[str, Any]:
    return {
        "code_sha256": code_sha256(notebook),
        "outputs_sha256": outputs_sha256(notebook),
        "profile": profile,
        "device": device,
        "versions": {
            "python": platform.python_version(),
            "alignlab": alignlab.__version__,
            **{name: metadata.version(name) for name in VERSIONS},
        },
        "seconds": cost.seconds,
        "peak_memory_mb": cost.peak_memory_mb,
        "executed": date.today().isoformat(),
    }


def _code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _is_setup(cell: NotebookNode) -> bool:
    return "setup" in cell.metadata.get("tags", [])


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def _text(notebook: NotebookNode) -> str:
    nbformat.validate(notebook)
    return nbformat.writes(notebook, version=nbformat.NO_CONVERT).rstrip("\n") + "\n"


def _replace(path: Path, text: str) -> bool:
    """Write `text` to `path` in one step, never half; False, and nothing touched, if it holds that text already."""
    content = text.encode()
    if path.exists() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


# ---- commands


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m alignlab.notebooks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--labs", type=Path, help="the labs folder (default: that of the checkout around here)")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, told in (
        ("sync", "bring notebooks up to date with their sources; outputs of unchanged cells stay"),
        ("check", "say what is wrong with the committed notebooks"),
        ("execute", "run the labs whose code changed since they were run, or those named"),
        ("stamp", "copy the notebooks with the address to install from in their set-up cell, for Colab"),
        ("results", "print what a lab reported, as JSON"),
    ):
        command = commands.add_parser(name, help=told, description=told)
        command.add_argument("names", nargs="*", metavar="NAME", help="with or without its chapter: dpo_identity")
        if name == "execute":
            command.add_argument("--profile", choices=("full", "quick"), default="full")
            command.add_argument("--output", type=Path, help="write there, not over the committed notebooks")
            command.add_argument("--all", action="store_true", help="all labs, not only the stale ones")
        if name == "stamp":
            command.add_argument("--source", help="what pip installs (default: the repository of GITHUB_REPOSITORY)")
            command.add_argument("--output", type=Path, required=True, help="where the copies go")
    chosen = parser.parse_args(arguments)
    try:
        selected = labs(chosen.labs or folder(), chosen.names)
        return {"sync": _sync, "check": _check, "execute": _execute, "stamp": _publish, "results": _results}[
            chosen.command
        ](selected, chosen)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


def _sync(selected: list[Lab], _: argparse.Namespace) -> int:
    for lab in selected:
        print(f"{lab.name}: {'updated' if sync(lab) else 'up to date'}{', to be executed' if stale(lab) else ''}")
    return 0


def _check(selected: list[Lab], chosen: argparse.Namespace) -> int:
    problems = [f"{lab.name}: {problem}" for lab in selected for problem in check(lab)]
    if selected and not chosen.names:
        known = {lab.notebook for lab in selected}
        orphans = sorted(path for path in selected[0].folder.glob("*.ipynb") if path not in known)
        problems += [f"{path.name}: there is no source/{path.stem}.py for this notebook" for path in orphans]
    print("\n".join(problems) or f"{len(selected)} labs: twins, stamps and outputs are in order")
    return 1 if problems or not selected else 0


def _execute(selected: list[Lab], chosen: argparse.Namespace) -> int:
    failed = 0
    for lab in selected:
        if not (chosen.names or chosen.all or stale(lab)):
            print(f"{lab.name}: up to date")
            continue
        print(f"{lab.name}: profile {chosen.profile}", flush=True)
        try:
            stamp = execute(lab, profile=chosen.profile, output=chosen.output, log=sys.stderr).metadata["alignlab"]
        except CellFailed as failure:
            print(failure, file=sys.stderr)
            failed += 1
            continue
        except KeyboardInterrupt:
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # tasks that waited for the kernel complain
            print(f"\n{lab.name}: stopped; {lab.notebook.name} is untouched", file=sys.stderr)
            return 130
        print(f"{lab.name}: {stamp['seconds']:.0f} s, at most {stamp['peak_memory_mb']:,} MB of memory", flush=True)
    return 1 if failed else 0


def _publish(selected: list[Lab], chosen: argparse.Namespace) -> int:
    address = chosen.source or colab.repository(os.environ)
    for lab in selected:
        print(f"{publish(lab, address, chosen.output)}: installs from {address}")
    return 0


def _results(selected: list[Lab], chosen: argparse.Namespace) -> int:
    try:
        found = {lab.name: results(_read(lab.notebook)) for lab in selected}
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    print(json.dumps(found[selected[0].name] if len(chosen.names) == 1 else found, indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
