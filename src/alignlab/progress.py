"""The loop of a lab: a bar in one line, live curves, and a state that survives interrupts and kills."""

import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tqdm import tqdm

from alignlab import display
from alignlab.checkpoint import Checkpoint

_FORMAT = "{desc}: {percentage:3.0f}% |{bar:20}| {n_fmt} of {total_fmt}, {elapsed} gone, {remaining} left"


class Progress:
    """Goes through `items` with a bar; with a checkpoint it goes on where an earlier run stopped.

    An interrupt (the stop button, Ctrl-C) ends the loop after the step under way, with its state saved and no
    traceback; a second one ends the step too. After `break` or an error the state last saved is kept; `finish` ends
    the loop early for good.
    cut_short: receives the labels of loops that an interrupt ended.
    Raises TypeError for a checkpoint with items that cannot be taken up in the middle.
    """

    def __init__(
        self,
        items: Iterable[Any],
        label: str = "running",
        checkpoint: Checkpoint | None = None,
        curves: Sequence[display.Curve] = (),
        cut_short: set[str] | None = None,
    ) -> None:
        if checkpoint is not None and not isinstance(items, Sequence):
            raise TypeError(f"{label} cannot be resumed: go through a number of steps or a sequence, not an iterator")
        self._items, self._label, self._checkpoint, self._curves = items, label, checkpoint, curves
        self._cut_short = set() if cut_short is None else cut_short
        self._total = len(items) if isinstance(items, Sized) else None
        self._enough = False
        if checkpoint is not None:
            checkpoint.holders |= {f"curve {number}": curve for number, curve in enumerate(curves)}
            checkpoint.fingerprint |= {"steps": self._total}

    def finish(self) -> None:
        """End the loop after the step under way, as if it were the last."""
        self._enough = True

    def __iter__(self) -> Iterator[Any]:
        done, said = self._checkpoint.resume() if self._checkpoint else (0, "")
        if done:
            said = f"Goes on after step {done} of {self._total}; discard() of the checkpoint would start afresh."
        if said:
            print(said)
        items = self._items[done:] if isinstance(self._items, Sequence) else self._items
        self._enough, end = False, "left"
        bar = _Bar(self._label, self._total, done)
        for curve in self._curves:
            curve.refresh(at_once=True)
        with _interrupts() as interrupts:
            try:
                for item in items:
                    yield item
                    done += 1
                    bar.update(done, ", ".join(filter(None, (curve.latest() for curve in self._curves))))
                    if self._enough or done == self._total:
                        break
                    if interrupts:
                        end = "interrupted"
                        return
                    if self._checkpoint and done % self._checkpoint.every == 0:
                        self._checkpoint.save(done)
                end = "finished"
            finally:
                if interrupts and end != "finished":
                    self._cut_short.add(self._label)
                self._end(bar, done, end)

    def _end(self, bar: "_Bar", done: int, end: str) -> None:
        for curve in self._curves:
            curve.show()
        if end == "finished":
            self._cut_short.discard(self._label)
            if self._checkpoint:
                self._checkpoint.discard()
            bar.close(f"{self._label}: {done} {'step' if done == 1 else 'steps'} in {bar.elapsed()}")
            return
        sentence = f"{self._label}: stopped after step {done}" + ("" if self._total is None else f" of {self._total}")
        if end == "interrupted" and self._checkpoint and self._checkpoint.save(done):
            sentence += ", state saved; run this again to go on"
        bar.close(sentence)


class _Bar:
    """One line: a moving bar in a notebook or a terminal, in the end a sentence."""

    def __init__(self, label: str, total: int | None, done: int) -> None:
        self._label, self._total, self._first = label, total, done
        self._start = self._drawn = time.monotonic()
        self._output = display.Output()
        self._terminal = None
        if display.in_notebook():
            self._draw(done, "")
        elif sys.stderr.isatty():
            self._terminal = tqdm(desc=label, total=total, initial=done, leave=False)

    def update(self, done: int, note: str) -> None:
        if self._terminal is not None:
            self._terminal.set_postfix_str(note, refresh=False)
            self._terminal.update()
        elif display.in_notebook() and time.monotonic() - self._drawn > 0.25:
            self._draw(done, note)

    def close(self, sentence: str) -> None:
        if self._terminal is not None:
            self._terminal.close()
        self._output.update(display.line(sentence), final=True)

    def elapsed(self) -> str:
        seconds = time.monotonic() - self._start
        return f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"

    def _draw(self, done: int, note: str) -> None:
        self._drawn = time.monotonic()
        elapsed = self._drawn - self._start
        form = None if self._total is None else _FORMAT
        line = tqdm.format_meter(
            done, self._total, elapsed, prefix=self._label, initial=self._first, unit=" steps", bar_format=form
        )
        self._output.update({"text/plain": f"{line}\n{note}" if note else line})


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collects the first interrupt instead of raising it, for this loop and those around it; the second is raised."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread is interrupted
        return
    outer = signal.getsignal(signal.SIGINT) or signal.default_int_handler

    def receive(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        if getattr(outer, "__qualname__", "") == receive.__qualname__:
            outer(number, frame)  # type: ignore[operator]

    signal.signal(signal.SIGINT, receive)
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, outer)
