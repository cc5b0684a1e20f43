"""Runs a notebook in a fresh kernel of a given interpreter, shows how far it is, and measures what it cost.

Knows nothing about labs, twins or stamps: alignlab.notebooks decides what is run and what becomes of it.
"""

import re
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import psutil  # type: ignore[import-untyped]
import zmq
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]")
SAMPLES_PER_SECOND = 10
SECONDS_BETWEEN_LOG_LINES = 15.0


@dataclass(frozen=True)
class Cost:
    """What a run took. seconds: from the first cell to the last; peak_memory_mb: resident, kernel and its children."""

    seconds: float
    peak_memory_mb: int


class CellFailed(RuntimeError):
    """A cell raised an error, or the kernel died in it. The message holds the cell's number, its code and the error."""


def run(
    notebook: NotebookNode,
    *,
    cwd: Path,
    env: Mapping[str, str],
    python: str = sys.executable,
    log: TextIO | None = None,
) -> Cost:
    """Run all cells of `notebook` in place, top to bottom, in a new kernel of the interpreter `python`.

    cwd: where the kernel starts. env: its whole environment. log: where progress goes (nowhere if None).
    Raises CellFailed at the first cell that fails; the outputs up to there are in `notebook`.
    """
    progress = _Progress(len(notebook.cells), log)
    client = _Client(
        notebook,
        km=_kernel_of(python),
        timeout=None,
        startup_timeout=180,
        store_widget_state=False,
        record_timing=False,
        shutdown_kernel="immediate",
    )
    client.progress = progress
    index = 0
    try:
        with client.setup_kernel(cwd=str(cwd), env=dict(env), cleanup_kc=True), _PeakMemory(client.km) as memory:
            start = time.perf_counter()
            count = 0
            for index, cell in enumerate(notebook.cells):
                progress.start(index, cell)
                if cell.cell_type == "code" and cell.source.strip():
                    count += 1
                    client.execute_cell(cell, index, execution_count=count)
                progress.end()
            return Cost(round(time.perf_counter() - start, 1), memory.peak_mb())
    except CellExecutionError as error:
        raise CellFailed(_told(notebook, index, _traceback(notebook.cells[index]) or str(error))) from None
    except DeadKernelError:
        reason = "The kernel died here: it was stopped from outside, or the machine ran out of memory."
        raise CellFailed(_told(notebook, index, reason)) from None
    finally:
        progress.clear()


def collapse(text: str) -> str:
    """Text as a terminal would show it in the end: no escape codes, a line redrawn with carriage returns once."""
    lines = ANSI.sub("", text).replace("\r\n", "\n").split("\n")
    return "\n".join(next((part for part in reversed(line.split("\r")) if part.strip()), "") for line in lines)


def _traceback(cell: NotebookNode) -> str:
    return "\n".join(line for output in cell.outputs for line in output.get("traceback", []))


def _told(notebook: NotebookNode, index: int, error: str) -> str:
    code = "\n".join(f"    {line}" for line in notebook.cells[index].source.splitlines())
    return f"cell {index + 1} of {len(notebook.cells)} failed:\n\n{code}\n\n{ANSI.sub('', error).strip()}"


def _kernel_of(python: str) -> AsyncKernelManager:
    """A manager of kernels of exactly this interpreter, whatever kernels are registered on the machine."""
    manager = AsyncKernelManager()
    manager._kernel_spec = KernelSpec(
        argv=[python, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        display_name="Python 3",
        language="python",
        metadata={"supported_encryption": "curve"},
    )
    if zmq.has("curve"):
        manager.transport_encryption = "auto"
    return manager


class _Client(NotebookClient):
    progress: "_Progress"

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        content = msg["content"]
        self.progress.say(content.get("text") or content.get("data", {}).get("text/plain") or "")
        return super().process_message(msg, cell, cell_index)


class _PeakMemory:
    """Samples the resident memory of a kernel and its children while the context lasts."""

    def __init__(self, manager: Any) -> None:
        self.process = psutil.Process(manager.provisioner.process.pid)
        self.peak = 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_PeakMemory":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join()

    def peak_mb(self) -> int:
        """The largest sample until now, in MB (10^6 bytes)."""
        return round(self.peak / 1e6)

    def _watch(self) -> None:
        while not self.stopped.wait(1 / SAMPLES_PER_SECOND):
            try:
                family = [self.process, *self.process.children(recursive=True)]
            except psutil.Error:
                return
            self.peak = max(self.peak, sum(map(_resident, family)))


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


class _Progress:
    """One line a cell; below it, on a terminal, the last line that the cell printed (in a log: now and then)."""

    def __init__(self, cells: int, log: TextIO | None) -> None:
        self.cells, self.log = cells, log
        self.terminal = log is not None and log.isatty()
        self.began = self.spoke = time.perf_counter()
        self.title: str | None = None

    def start(self, index: int, cell: NotebookNode) -> None:
        first = next((line.strip("# ") for line in cell.source.splitlines() if line.strip("# ")), "")
        self.title = f"[{index + 1:>2}/{self.cells}] {first[:70]}" if cell.cell_type == "code" else None
        self.began = self.spoke = time.perf_counter()
        if self.terminal and self.title:
            self._redraw(self.title)

    def say(self, text: str) -> None:
        now = time.perf_counter()
        wait = 0.1 if self.terminal else SECONDS_BETWEEN_LOG_LINES
        last = next((line for line in reversed(collapse(str(text)).splitlines()) if line.strip()), "")
        if not self.title or not last or now - self.spoke < wait:
            return
        self.spoke = now
        if self.terminal:
            self._redraw(f"{self.title.split(']')[0]}] {last.strip()[:90]}")
        else:
            self._line(f"        {now - self.began:5.0f} s  {last.strip()[:90]}")

    def end(self) -> None:
        if self.title:
            self.clear()
            self._line(f"{self.title:<80} {time.perf_counter() - self.began:6.1f} s")
        self.title = None

    def clear(self) -> None:
        if self.terminal:
            self._redraw("")

    def _redraw(self, text: str) -> None:
        if self.log:
            self.log.write(f"\r\x1b[K{text}")
            self.log.flush()

    def _line(self, text: str) -> None:
        if self.log:
            print(text, file=self.log, flush=True)
