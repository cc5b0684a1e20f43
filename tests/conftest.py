"""What all tests share: one thread each, the models loaded once, and a Chromium for the browser tests.

On a reader's machine without a Chromium the browser tests are skipped; where CI=true they fail, and a run with
`--require-browser` fails unless at least one of them ran and none was skipped.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for every process that a test starts

import pytest
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

torch.set_num_threads(1)

pytest_plugins = ["book_fixture"]  # the project's book, built once

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome", "msedge")
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)


@pytest.fixture(scope="session")
def small() -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """SmolLM2-135M-Instruct and its tokenizer; do not change it."""
    from alignlab import models

    return models.load("small", device="cpu")


@pytest.fixture(scope="session")
def tiny() -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The tiny model that ships with the package and its tokenizer; do not change it."""
    from alignlab import models

    return models.load("tiny", device="cpu")


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """The Chromium that browser tests drive: $CHROMIUM, one on the path, or one in its usual place."""
    found = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES), *filter(os.path.exists, PLACES)]
    if path := next(filter(None, found), None):
        return path
    reason = "no Chromium here: install one, or set CHROMIUM to its path"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser(chromium_path: str) -> Iterator[Any]:
    """One Chromium for a whole file; it can resolve no host name."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="browser tests need tests/requirements.txt")
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=chromium_path, args=list(FLAGS))
        yield chromium
        chromium.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-browser", action="store_true", help="fail unless browser tests ran, none skipped")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--require-browser") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_BrowserTally(config))


class _BrowserTally:
    """Counts what became of the tests marked `browser`, in the process that hears of all of them."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.ran = 0
        self.skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if "browser" in report.keywords:
            self.ran += report.when == "call" and not report.skipped
            if report.skipped:
                self.skipped.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        # A module that is skipped whole (importorskip) never gets as far as its marks.
        if report.skipped and "browser" in report.nodeid:
            self.skipped.append(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.skipped or not self.ran:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.skipped or not self.ran:
            what = f"{len(self.skipped)} were skipped: {', '.join(self.skipped[:5])}" if self.skipped else "none ran"
            terminalreporter.write_line(f"browser tests are required, and {what}", red=True)


def pytest_report_header() -> str:
    return f"python {sys.version.split()[0]} at {Path(sys.prefix).name}, torch {torch.__version__}, 1 thread"
