"""The built book in a real Chromium, served on 127.0.0.1 and once from file://: what a reader meets and never may.

A page may load nothing from another host, log no error, scroll sideways on no phone and hold nothing that axe calls
serious or critical. `test_the_checks_reject_a_bad_page` proves that each of these checks can fail.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

import pytest

WHY = "browser tests need tests/requirements.txt"
sync_api = pytest.importorskip("playwright.sync_api", reason=WHY)
axe_api = pytest.importorskip("axe_playwright_python.sync_playwright", reason=WHY)

pytestmark = pytest.mark.browser

DESK, PHONE = (1280, 900), (390, 844)
HOME = "book/intro.html"
DPO = "book/ch03_dpo/training.html"
KEY_PAGES = (
    HOME,
    DPO,
    *(f"book/ch03_dpo/{page}.html" for page in ("index", "core_idea", "preference_data", "practice", "beyond")),
    *(
        f"book/ch04_training_free/{page}.html"
        for page in ("index", "prompting", "chain_of_thought", "decoding", "retrieval", "tools")
    ),
    *(
        f"book/ch05_rl/{page}.html"
        for page in (
            "index",
            "core",
            "value_functions",
            "temporal_difference",
            "value_based",
            "policy_gradient",
            "multi_agent",
            "imitation",
            "advanced",
        )
    ),
    *(
        f"book/ch01_structure/{page}.html"
        for page in (
            "index",
            "large_model",
            "decoder",
            "attention",
            "families",
            "experts",
            "multimodal",
            "training_landscape",
            "roadmap",
            "scaling_laws",
        )
    ),
    *(f"book/{page}.html" for page in ("outline_map", "glossary")),
)
FIRST_LOAD = 1_000_000  # bytes on the wire, gzipped, plotly left out
FRAME = 16.0  # milliseconds
PARTS = 5  # of the tests that read many pages, so that several processes share them; odd, so that each has both schemes
AXE: dict[str, Any] = {
    "resultTypes": ["violations"],
    "preload": False,  # else axe asks for imported stylesheets beside the page, where they are not
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]},
}

# thousands of spans in the text's own colour; readers who listen hear the MathML beside them
NOT_READ_ALOUD = {"exclude": [[".katex-html"]]}


@dataclass
class Visit:
    """An open page and what it did that it should not have done."""

    page: Any
    origin: str
    errors: list[str] = field(default_factory=list)
    external: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)

    def watch(self) -> None:
        """Record console errors, exceptions, failed and foreign requests from now on."""
        self.page.on("console", lambda message: self._say(message.type == "error", message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._request)
        self.page.on("response", lambda answer: self._say(answer.status >= 400, f"{answer.status} {answer.url}"))

    def _say(self, wrong: bool, text: str) -> None:
        if wrong:
            self.errors.append(text)

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.origin, "data:", "blob:")):
            self.external.append(request.url)

    def open(self, path: str) -> None:
        """Go to a page of the book and wait until it and its fonts are there."""
        self.errors.clear()
        self.external.clear()
        self.page.goto(urljoin(self.origin, path), wait_until="load")
        self.page.evaluate("document.fonts.ready.then(() => true)")

    def sideways(self) -> list[str]:
        """Elements that make the page itself wider than the window; none on a page that scrolls only down."""
        return list(self.page.evaluate(SIDEWAYS))

    def axe(self) -> list[str]:
        """What axe calls serious or critical, one line each."""
        found = axe_api.Axe().run(self.page, NOT_READ_ALOUD, AXE).response["violations"]
        return [
            f"{one['impact']} {one['id']}: {node['target']} {node['html'][:120]}"
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"][:3]
        ]


SIDEWAYS = """() => {
  const wide = document.documentElement.clientWidth;
  if (Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) <= wide) return [];
  return [...document.body.querySelectorAll('*')].filter(e => {
    const box = e.getBoundingClientRect();
    return box.right > wide + 1 && box.width > 0 && getComputedStyle(e).position !== 'fixed';
  }).slice(0, 5).map(e => `${e.tagName} ${e.className} ${Math.round(e.getBoundingClientRect().right)}`)
    .concat([`page ${document.documentElement.scrollWidth} > ${wide}`]);
}"""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port of 127.0.0.1; gives the origin with its slash."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def origin(built_book: Path) -> Iterator[str]:
    """Where the built book is served."""
    with served(built_book) as address:
        yield address


@contextlib.contextmanager
def visiting(browser: Any, origin: str, size: tuple[int, int] = DESK, scheme: str = "light") -> Iterator[Visit]:
    """A fresh reader: empty storage, a window size, a system colour scheme."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
    )
    context.set_default_timeout(120_000)  # a machine that is busy with something else is slow, not broken
    visit = Visit(context.new_page(), origin)
    visit.watch()
    try:
        yield visit
    finally:
        context.close()


@pytest.fixture(scope="module")
def pages(browser: Any, origin: str) -> list[str]:
    """Every page of the table of contents, the home page and the search page, relative to the origin."""
    with visiting(browser, origin) as reader:
        reader.open(HOME)
        links = reader.page.eval_on_selector_all("nav.bd-links a.reference.internal", "all => all.map(a => a.href)")
    found = [HOME, "search.html"]
    for link in links:
        path = urldefrag(link)[0].removeprefix(origin)
        if path not in found and not path.startswith("http"):
            found.append(path)
    assert len(found) > 50, f"the sidebar names only {len(found)} pages: has the table of contents gone?"
    return found


@pytest.mark.parametrize("part", range(PARTS))
def test_every_page_is_quiet_local_narrow_and_accessible(
    browser: Any, origin: str, pages: list[str], part: int
) -> None:
    """Each page: no error, no foreign request, no sideways scroll at 390 px, nothing serious from axe.

    Even pages are read in light, odd pages in dark: the key pages are read in both, at both sizes, below.
    """
    faults: dict[str, list[str]] = {}
    with (
        visiting(browser, origin, PHONE, "light") as light,
        visiting(browser, origin, PHONE, "dark") as dark,
    ):
        for place, path in list(enumerate(pages))[part::PARTS]:
            reader = dark if place % 2 else light
            reader.open(path)
            foreign = [f"external: {url}" for url in reader.external]
            wrong = [*reader.errors, *foreign, *reader.sideways(), *reader.axe()]
            if wrong:
                faults[path] = wrong
    assert not faults, "\n".join(f"{path}\n  " + "\n  ".join(wrong) for path, wrong in faults.items())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("part", range(PARTS))
def test_key_pages_are_accessible_in_both_schemes_and_sizes(
    browser: Any, origin: str, part: int, scheme: str, size: tuple[int, int]
) -> None:
    """The pages with explorers, quizzes, diagrams, tables and mathematics, in all four ways of reading them."""
    with visiting(browser, origin, size, scheme) as reader:
        for path in KEY_PAGES[part::PARTS]:
            reader.open(path)
            assert not reader.sideways(), path
            assert not reader.axe(), path
            assert not reader.errors, path


def test_the_checks_reject_a_bad_page(browser: Any, tmp_path: Path) -> None:
    """An external image, a script error, a wide block, unreadable text and a missing file are each reported."""
    (tmp_path / "bad.html").write_text(
        '<!doctype html><html lang="en"><title>bad</title><main><h1>Bad</h1>'
        '<img src="https://example.org/a.png" alt="">'
        '<script>throw new Error("broken")</script><script src="missing.js"></script>'
        '<div style="width:900px">wide</div><p style="color:#ccc;background:#fff">pale</p></main></html>'
    )
    with served(tmp_path) as address, visiting(browser, address, PHONE) as reader:
        reader.open("bad.html")
        assert reader.external == ["https://example.org/a.png"]
        assert any("broken" in error for error in reader.errors)
        assert any("missing.js" in error for error in reader.errors)
        assert any("DIV" in fault for fault in reader.sideways())
        assert any("color-contrast" in fault for fault in reader.axe())


def test_signs_that_katex_draws_have_a_height(browser: Any, origin: str) -> None:
    """A root's sign is a drawing of its own; a rule for pictures must not press it flat."""
    with visiting(browser, origin) as reader:
        reader.open("book/ch01_structure/decoder.html")
        heights = reader.page.eval_on_selector_all(
            ".katex .sqrt svg", "all => all.map(e => e.getBoundingClientRect().height)"
        )
    assert heights, "the page has no root any more: choose another one"
    assert min(heights) > 8, heights


def test_the_book_works_from_the_file_system(browser: Any, built_book: Path) -> None:
    """Opened with no server at all: explorers drawn, mathematics set, links followed, nothing fetched."""
    with visiting(browser, built_book.as_uri() + "/") as reader:
        for path in (HOME, DPO):
            reader.open(path)
            assert not reader.errors and not reader.external, path
        assert reader.page.locator("alignlab-dpo input[type=range]").first.is_visible()
        assert reader.page.locator(".katex").count() > 10
        reader.page.locator(".prev-next-area a").first.click()
        reader.page.wait_for_load_state()
        assert reader.page.url.startswith("file://") and reader.page.locator("article h1").first.is_visible()
        assert not reader.errors and not reader.external


def test_search_finds_a_term(browser: Any, origin: str) -> None:
    """Typed into the dialog that Ctrl+K opens; the results name the 3.3 page."""
    with visiting(browser, origin) as reader:
        reader.open("book/notation.html")
        reader.page.keyboard.press("Control+k")
        reader.page.keyboard.type("preference")
        reader.page.keyboard.press("Enter")
        reader.page.wait_for_url("**/search.html?q=preference*")
        reader.page.wait_for_selector("#search-results li a")
        links = reader.page.eval_on_selector_all("#search-results li a", "all => all.map(a => a.getAttribute('href'))")
        assert any("ch03_dpo" in link for link in links), links
        assert not reader.errors and not reader.external
        assert not reader.sideways()


def test_the_theme_is_the_system_s_until_the_reader_chooses(browser: Any, origin: str) -> None:
    """Auto by default, in both schemes; the switch changes the page and is remembered."""
    paper = "getComputedStyle(document.body).backgroundColor"
    with visiting(browser, origin, scheme="light") as light, visiting(browser, origin, scheme="dark") as dark:
        for reader in (light, dark):
            reader.open(HOME)
            assert reader.page.evaluate("document.documentElement.dataset.mode") == "auto"
        seen = {scheme: reader.page.evaluate(paper) for scheme, reader in (("light", light), ("dark", dark))}
        assert brightness(seen["light"]) > 200 > 60 > brightness(seen["dark"])
        switch = light.page.locator("button.theme-switch-button").first
        for _ in range(3):
            if light.page.evaluate("document.documentElement.dataset.mode") == "dark":
                break
            switch.click()
        assert light.page.evaluate(paper) == seen["dark"]
        light.open(DPO)
        assert light.page.evaluate(paper) == seen["dark"], "the choice was forgotten on the next page"


def brightness(colour: str) -> float:
    """Mean of the channels of a CSS rgb() colour, 0 to 255."""
    return sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3]) / 3


@pytest.mark.parametrize(("path", "name"), [(HOME, "decoding"), (DPO, "dpo")])
def test_an_explorer_answers_to_the_keyboard_within_a_frame(browser: Any, origin: str, path: str, name: str) -> None:
    """Every slider: an arrow key changes what the explorer shows, and the page's work for it fits into one frame."""
    with visiting(browser, origin) as reader:
        reader.open(path)
        explorer = reader.page.locator(f"alignlab-{name}").first
        explorer.scroll_into_view_if_needed()
        sliders = explorer.locator("input[type=range]")
        assert sliders.count() >= 2
        for place in range(sliders.count()):
            slider = sliders.nth(place)
            slider.focus()
            before = explorer.evaluate("e => e.shadowRoot.innerHTML"), slider.input_value()
            at_end = before[1] == slider.get_attribute("max")
            reader.page.keyboard.press("ArrowLeft" if at_end else "ArrowRight")
            after = explorer.evaluate("e => e.shadowRoot.innerHTML"), slider.input_value()
            assert after[1] != before[1], f"slider {place} does not move"
            assert after[0] != before[0], f"slider {place} changes nothing"
        times = sorted(explorer.evaluate(TIME_UPDATES))
        assert times[len(times) // 2] < FRAME, f"milliseconds of {len(times)} updates: {times}"
        assert not reader.errors


# Work caused by one step of a slider: its handlers, the frames they ask for, style and layout.
TIME_UPDATES = """element => {
  const frame = window.requestAnimationFrame, jobs = [], times = [];
  window.requestAnimationFrame = job => jobs.push(job);
  try {
    for (const slider of element.shadowRoot.querySelectorAll('input[type=range]')) {
      const low = +slider.min || 0, high = +slider.max;
      for (let k = 0; k <= 8; k++) {
        const began = performance.now();
        slider.value = low + (high - low) * k / 8;
        slider.dispatchEvent(new Event('input', {bubbles: true}));
        while (jobs.length) jobs.shift()(performance.now());
        element.getBoundingClientRect();
        times.push(performance.now() - began);
      }
    }
  } finally { window.requestAnimationFrame = frame; }
  return times;
}"""


def test_a_quiz_says_why_and_remembers(browser: Any, origin: str) -> None:
    """A wrong answer says why it is wrong, the right one is taken, and both are still there after a reload."""
    with visiting(browser, origin) as reader:
        reader.open(DPO)
        quiz = reader.page.locator("alignlab-quiz").first
        right = quiz.locator("[data-correct]").first
        wrong = quiz.locator(".al-quiz-answers > :not([data-correct])").first
        reasons = []
        for answer in (wrong, right):
            control = answer.locator("input, button, summary").first
            control.focus()
            reader.page.keyboard.press("Space")
            reasons.append(answer.locator(".al-quiz-why").inner_text())
            assert answer.locator(".al-quiz-why").is_visible()
        assert reasons[0] and reasons[0] != reasons[1]
        kept = reader.page.evaluate("Object.keys(localStorage).filter(key => !['mode', 'theme'].includes(key))")
        assert kept, "nothing was stored"
        reader.open(DPO)
        assert reader.page.locator("alignlab-quiz").first.locator(".al-quiz-why:visible").count() >= 1
        assert not reader.errors


def test_the_first_load_of_a_chapter_page_is_under_a_megabyte(browser: Any, origin: str) -> None:
    """Bytes of everything that the 3.3 page loads for a new reader, gzipped as a server sends it, plotly left out."""
    with visiting(browser, origin) as reader:
        answers: list[Any] = []
        reader.page.on("response", lambda answer: answers.append(answer))
        reader.open(DPO)
        reader.page.wait_for_load_state("networkidle")
        weights = {}
        for answer in answers:
            body, name = answer.body(), urlsplit(answer.url).path
            weights[name] = len(body) if name.endswith((".woff2", ".png")) else len(gzip.compress(body, 6))
        total = sum(size for name, size in weights.items() if "plotly" not in name)
        heaviest = sorted(weights.items(), key=lambda item: -item[1])[:8]
        assert total < FIRST_LOAD, f"{total:,} bytes; heaviest: {heaviest}"
        assert not [name for name in weights if "fontawesome" in name or "fa-" in name], "the icon font came back"


def test_fonts_swap_without_moving_the_text(browser: Any, origin: str) -> None:
    """Layout shift over the whole load of the 3.3 page, fonts and mathematics included, stays under 0.1.

    Web Vitals calls under 0.1 good and over 0.25 poor.
    """
    with visiting(browser, origin) as reader:
        reader.page.add_init_script(
            "window.shift = 0;"
            "new PerformanceObserver(list => list.getEntries().forEach(e => { window.shift += e.value; }))"
            ".observe({type: 'layout-shift', buffered: true});"
        )
        reader.open(DPO)
        reader.page.wait_for_timeout(300)
        assert reader.page.evaluate("window.shift") < 0.1
