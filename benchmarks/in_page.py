"""`tiny` in a page: tokens per second of its plain JavaScript, and what a reader's slider costs while it runs.

`python benchmarks/in_page.py` prints a table and needs a Chromium. Nothing is compared: a page has no peer here.
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import table

from alignlab import explorers

RATE, FRAME = 200.0, 16.0
HEADER = ["in the page, one thread", "median", "min–max", "turns", "target"]
DATA = {"prompts": [{"title": "", "kind": "text", "text": "The old"}], "start": {"temperature": 1.5, "seed": 1}}

# Greedy answers to one question, the stop tokens ignored: `tokens` forward passes after the prompt, again and again.
GENERATE = """([turns, tokens]) => {
  const E = customElements.get("alignlab-tiny_live");
  const model = {...E.modelOf(globalThis.alignlabStatics.tiny_weights), stops: []};
  const prompt = E.promptIds(model, "chat", "What is 17 + 25?");
  const rates = [];
  for (let turn = -1; turn < turns; turn++) {
    const before = model.done.passes;
    const began = performance.now();
    const plan = {prompt, settings: {temperature: 0}, most: tokens};
    for (const _ of E.sampled(model, model.start(), {}, plan));
    if (turn >= 0) rates.push((1000 * (model.done.passes - before)) / (performance.now() - began));
  }
  return rates;
}"""
# The sliders of the figure, moved once a frame while it generates: milliseconds of the handler with style and layout,
# and of each update after a slice of generation.
PLAY = """async (moves) => {
  const host = document.querySelector("alignlab-tiny_live");
  const sliders = [...host.shadowRoot.querySelectorAll("input[type=range]")].slice(0, 6);
  const [handlers, updates] = [[], []];
  host.addEventListener("alignlab-update", ({detail}) => detail.running && updates.push(detail.milliseconds));
  for (let k = 0; k < moves; k++) {
    const slider = sliders[k % sliders.length];
    slider.value = (+slider.value + 3) % (+slider.max + 1);
    const began = performance.now();
    slider.dispatchEvent(new Event("input"));
    document.body.offsetHeight;
    handlers.push(performance.now() - began);
    await new Promise((done) => requestAnimationFrame(done));
  }
  return [handlers, updates];
}"""


@dataclass(frozen=True)
class Measured:
    """What a Chromium without a window measured: tokens per second, and milliseconds of single events."""

    rates: list[float]
    handlers: list[float]
    updates: list[float]

    @property
    def met(self) -> bool:
        """At least RATE tokens per second, and events within a frame, by their medians."""
        slow = max(statistics.median(self.handlers), statistics.median(self.updates))
        return statistics.median(self.rates) >= RATE and slow < FRAME

    def rows(self) -> list[list[str]]:
        """Rows for the table under HEADER."""

        def row(name: str, values: list[float], unit: str, digits: int, target: str) -> list[str]:
            middle, low, high = (f"{f(values):.{digits}f}" for f in (statistics.median, min, max))
            return [name, f"{middle} {unit}", f"{low}–{high}", str(len(values)), target]

        return [
            row("tiny (int8 weights), tokens", self.rates, "tokens/s", 0, f"≥ {RATE:.0f}"),
            row("a slider moved while it generates", self.handlers, "ms", 1, f"< {FRAME:.0f}"),
            row("the figure drawn anew while it generates", self.updates, "ms", 1, f"< {FRAME:.0f}"),
        ]


def measure(turns: int = 7, tokens: int = 200, moves: int = 120) -> Measured:
    """Open the explorer from the file system in a Chromium and let it work. ImportError where playwright is missing."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as player:
        browser = player.chromium.launch(
            executable_path=chromium(), args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        try:
            page: Any = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(write(Path(folder)))
            page.wait_for_function("globalThis.alignlabStatics && globalThis.alignlabStatics.tiny_weights")
            page.wait_for_timeout(500)
            rates = page.evaluate(GENERATE, [turns, tokens])
            handlers, updates = page.evaluate(PLAY, moves)
        finally:
            browser.close()
    return Measured(rates, handlers, updates)


def chromium() -> str | None:
    """$CHROMIUM, or one on the path; None for the one that playwright may have installed."""
    names = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome", "msedge")
    return next(filter(None, [os.environ.get("CHROMIUM"), *map(shutil.which, names)]), None)


def write(folder: Path) -> str:
    """The explorer on a page of its own, its script and its weights beside it, as in the book; the page's address."""
    for file, text in {"tiny_live.js": explorers.script("tiny_live"), **explorers.statics("tiny_live")}.items():
        (folder / file).write_text(text, encoding="utf-8")
    page = folder / "page.html"
    page.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><body><alignlab-tiny_live>'
        f'<script type="application/json">{json.dumps(DATA)}</script></alignlab-tiny_live>'
        '<script src="tiny_live.js"></script></body></html>',
        encoding="utf-8",
    )
    return page.as_uri()


def main() -> int:
    """0 where the targets are met; `--smoke` measures little and has none."""
    smoke = "--smoke" in sys.argv[1:]
    measured = measure(turns=1, tokens=20, moves=4) if smoke else measure()
    print(table(HEADER, measured.rows()))
    return 0 if smoke or measured.met else 1


if __name__ == "__main__":
    sys.exit(main())
