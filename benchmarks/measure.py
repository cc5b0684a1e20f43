"""How two ways of doing the same thing are compared: turn by turn in one process, medians, and ratios pair by pair.

Knows nothing about what is measured.
"""

import importlib.metadata
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Comparison:
    """Seconds of each turn, `ours` and `theirs` measured right after one another: `ours[i]` pairs with `theirs[i]`."""

    name: str
    ours: Sequence[float]
    theirs: Sequence[float]
    target: float
    same: str  # what shows that both did the same work
    agree: bool = True  # whether what shows it is near enough

    def __post_init__(self) -> None:
        if len(self.ours) != len(self.theirs) or not self.ours:
            raise ValueError(
                f"{self.name}: {len(self.ours)} and {len(self.theirs)} turns do not pair; measure as many of each"
            )
        print(" · ".join(self.row()), file=sys.stderr, flush=True)  # a long run shows what it has

    @property
    def ratios(self) -> list[float]:
        """How many times as fast ours was, turn by turn."""
        return [theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the turns' ratios: a burst of other work hits both sides of a turn, or few turns."""
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool:
        """Whether the median ratio reaches the target, and both sides did the same work."""
        return self.ratio >= self.target and self.agree

    def row(self) -> list[str]:
        """The comparison as a row of the table; see `table`."""
        return [
            self.name,
            seconds(statistics.median(self.ours)),
            seconds(statistics.median(self.theirs)),
            f"{self.ratio:.2f}",
            f"{min(self.ratios):.2f}–{max(self.ratios):.2f}",
            str(len(self.ratios)),
            f"≥ {self.target:.1f}: {'met' if self.met else 'not met'}",
            self.same,
        ]


HEADER = ["what", "ours", "theirs", "times as fast", "min–max", "turns", "target", "same work"]


def alternate(ours: Callable[[], object], theirs: Callable[[], object], turns: int) -> tuple[list[float], list[float]]:
    """Run A B B A A B ..., after one unmeasured turn of each; seconds of every turn."""
    ours(), theirs()
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns):
        for run, taken in list(zip((ours, theirs), times, strict=True))[:: -1 if turn % 2 else 1]:
            taken.append(timed(run))
    return times


def padded(prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts as transformers' generate takes them: ids and mask, (B, T) each, padded on the left with 0."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def timed(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def seconds(value: float) -> str:
    """0.0123 -> 12.3 ms; 1.234 -> 1.23 s."""
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up in a terminal."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def machine() -> str:
    """What a reader needs to know of the machine, and nothing that names it."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    bfloat16 = any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "trl", "peft")
    )
    return (
        f"{platform.system()} on {platform.machine()}, {torch.get_num_threads()} threads, vectors: "
        f"{torch.backends.cpu.get_cpu_capability()}, bfloat16 in hardware: {'yes' if bfloat16 else 'no'}; "
        f"Python {platform.python_version()}, {versions}."
    )


def peak_memory() -> float:
    """The most memory that this process has held, in GB (resident)."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 1e9
    status = Path("/proc/self/status")
    if status.exists():  # Linux hands ru_maxrss down to children, so that a child's would be its parent's
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024 / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def document(before: str, report: Mapping[str, str], parts: Sequence[str]) -> str:
    """The file of results, a section a part: those of `report` are new, the others stay as they were `before`."""
    kept = [section.split("\n", 1) for section in before.split("\n## ")[1:]]
    sections = {name: told.strip() for name, told in kept}
    sections |= {part: f"{machine()}\n\n{told}" for part, told in report.items()}
    head = "<!-- Written by `make bench`; do not edit. README.md beside this file says how it is measured. -->"
    shown = [f"## {part}\n\n{sections[part]}" for part in parts if part in sections]
    return "\n\n".join([head, "# Measured side by side", *shown]) + "\n"
