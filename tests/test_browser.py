"""The built book in a real Chromium, served on 127.0.0.1 and once from file://: what a reader meets and never may.

A page may load nothing from another host, log no error, scroll sideways on no phone and hold nothing that axe calls
serious or critical. `test_the_checks_reject_a_bad_page` proves that each of these checks can fail.
"""

from __future__ import annotations

import base64
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

    def stands_out(self, selector: str, left: float, top: float, width: float = 4, height: float = 4) -> float:
        """Largest contrast (WCAG) to the page's surface within a rectangle of the first such element, all in pixels."""
        element = self.page.locator(selector).first
        element.scroll_into_view_if_needed()
        box = element.bounding_box()
        clip = {"x": box["x"] + left % box["width"], "y": box["y"] + top, "width": width, "height": height}
        shot = base64.b64encode(self.page.screenshot(clip=clip)).decode()
        return float(self.page.evaluate(STANDS_OUT, f"data:image/png;base64,{shot}"))

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


CONTRAST = """
  const board = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const light = rgb => [0.2126, 0.7152, 0.0722].reduce((sum, share, k) => {
    const c = rgb[k] / 255;
    return sum + share * (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  }, 0);
  const rgb = colour => {
    board.fillStyle = colour;
    board.fillRect(0, 0, 1, 1);
    return board.getImageData(0, 0, 1, 1).data;
  };
  const paper = light(rgb(getComputedStyle(document.body).backgroundColor));
  const contrast = its => (Math.max(light(its), paper) + 0.05) / (Math.min(light(its), paper) + 0.05);
"""
STANDS_OUT = f"""async address => {{ {CONTRAST}
  const image = new Image();
  image.src = address;
  await image.decode();
  const shot = new OffscreenCanvas(image.width, image.height).getContext('2d');
  shot.drawImage(image, 0, 0);
  const pixels = shot.getImageData(0, 0, image.width, image.height).data;
  return Math.max(...Array.from({{length: pixels.length / 4}}, (_, k) => contrast(pixels.subarray(4 * k))));
}}"""
# What is drawn too faintly: outlines of boxes, and texts that stand on the page's surface, in drawings and explorers.
FAINT = f"""() => {{ {CONTRAST}
  const roots = [...document.querySelectorAll('figure.al-drawing, alignlab-dpo')].map(e => e.shadowRoot || e);
  const drawn = kind => roots.flatMap(root => [...root.querySelectorAll(`svg ${{kind}}`)]);
  const texts = drawn('text:not([fill*="panel"])').map(e => [e, 'fill']);
  const parts = [...drawn('rect[stroke]').map(e => [e, 'stroke']), ...texts];
  return [parts.length, parts.map(([e, key]) => [e.outerHTML.slice(0, 90), getComputedStyle(e)[key]])
    .filter(([, colour]) => colour !== 'none' && contrast(rgb(colour)) < 3)];
}}"""


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
def visiting(
    browser: Any, origin: str, size: tuple[int, int] = DESK, scheme: str = "light", forced: bool = False
) -> Iterator[Visit]:
    """A fresh reader: empty storage, a window size, a system colour scheme, perhaps with forced colours."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,
        reduced_motion="reduce",
        forced_colors="active" if forced else "none",
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


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_vanishes_where_the_system_forces_its_colours(
    browser: Any, origin: str, scheme: str, theme: str
) -> None:
    """High contrast, whatever theme the reader chose: bars, sliders, pressed buttons, icons and drawings are there."""
    with visiting(browser, origin, scheme=scheme, forced=True) as reader:
        reader.page.add_init_script(f"localStorage.mode = localStorage.theme = '{theme}'")
        reader.open(HOME)
        first = "alignlab-decoding input[type=range]"  # its thumb is at the left end
        marks = {
            "bar": reader.stands_out("alignlab-decoding .bar", 6, 4),
            "thumb": reader.stands_out(first, 8, 4),
            "track": reader.stands_out(first, -12, 13, 4, 2),
            "key of a legend": reader.stands_out("alignlab-decoding .key.final", 4, 0, 4, 3),
            "icon": reader.stands_out("button.theme-switch-button", 8, 8, 24, 24),
            "how much is written": reader.stands_out(".al-meter > span", 4, 1, 4, 2),
        }
        reader.open(DPO)
        button = "alignlab-dpo .chip[aria-pressed={}]"
        marks["dot of a legend"] = reader.stands_out("alignlab-dpo .dot.good", 3, 3, 3, 3)
        marks["pressed button"] = reader.stands_out(button.format("true"), 4, 12)
        marks["current page"] = reader.stands_out("nav.bd-links a.current", 4, 8)
        assert {name: ratio for name, ratio in marks.items() if ratio < 3} == {}
        assert reader.stands_out(button.format("false"), 4, 12) == 1, "all buttons look pressed"
        count, faint = reader.page.evaluate(FAINT)
        assert count > 100 and not faint, faint
        assert not reader.errors


def test_a_mark_that_forced_colours_take_away_is_noticed(browser: Any, tmp_path: Path) -> None:
    """The measure itself: a plain bar is gone, one that keeps its colour is seen."""
    bar = "display:block;height:9px;background:#2563c9"
    (tmp_path / "bars.html").write_text(
        f'<!doctype html><body style="background:#fff"><i class="lost" style="{bar}"></i>'
        f'<i class="kept" style="{bar};forced-color-adjust:none"></i></body>'
    )
    with served(tmp_path) as address, visiting(browser, address, forced=True) as reader:
        reader.open("bars.html")
        assert reader.stands_out(".lost", 20, 2) == 1
        assert reader.stands_out(".kept", 20, 2) > 3


def test_a_dark_page_is_printed_dark_on_white(browser: Any, origin: str) -> None:
    """On paper the text, the code, the drawings and the explorers of a dark page have the light page's colours."""
    with visiting(browser, origin, scheme="dark") as reader:
        reader.open(DPO)
        seen = {}
        for media in ("screen", "print"):
            reader.page.emulate_media(media=media)
            seen[media] = reader.page.evaluate(INKS)
        assert len(seen["print"]) == 4
        assert all(brightness(ink) > 150 for ink in seen["screen"]), seen
        assert all(brightness(ink) < 110 for ink in seen["print"]), seen


INKS = """() => {
  const find = selector => document.querySelector(selector);
  const explorer = find('alignlab-dpo').shadowRoot.querySelector('.explorer');
  const drawing = getComputedStyle(find('figure.al-drawing svg text')).fill;
  return [...[find('article p'), find('article pre'), explorer].map(e => getComputedStyle(e).color), drawing];
}"""
