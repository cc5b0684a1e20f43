"""The book: it builds strictly and fast, its numbers are the outline's, its links resolve, it asks no other host."""

from __future__ import annotations

import json
import re
import sys
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
import yaml
from book_fixture import ROOT, Built, build, notebook, specimen
from bs4 import BeautifulSoup

sys.path.insert(0, str(ROOT / "book" / "_ext"))
from alignlab_book import labs as book_labs

OUTLINE: dict[str, Any] = yaml.safe_load((ROOT / "book" / "outline.yml").read_text(encoding="utf-8"))
TOC: dict[str, Any] = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
NUMBERED = next(part for part in TOC["parts"] if part.get("numbered"))["chapters"]
PAGES = {
    **{chapter["id"]: entry["file"] for chapter, entry in zip(OUTLINE["chapters"], NUMBERED, strict=True)},
    **{
        section["id"]: child["file"]
        for chapter, entry in zip(OUTLINE["chapters"], NUMBERED, strict=True)
        for section, child in zip(chapter["sections"], entry["sections"], strict=True)
    },
}
LEAVES = {
    item["id"]: section["id"]
    for chapter in OUTLINE["chapters"]
    for section in chapter["sections"]
    for item in section.get("items", [])
}
TOPICS = {topic["id"]: topic for topic in OUTLINE["topics"]}
MAX_PAGE_BYTES = 300_000
MAX_SECONDS = 60


def soups(book: Built) -> dict[Path, BeautifulSoup]:
    """Every HTML page of a book, parsed."""
    return {
        path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in sorted(book.html.rglob("*.html"))
        if "_static" not in path.parts and "_sources" not in path.parts
    }


@pytest.fixture(scope="module")
def parsed(project_book: Built) -> dict[Path, BeautifulSoup]:
    """The pages of the project's book, parsed once."""
    return soups(project_book)


def broken_links(book: Built, parsed: dict[Path, BeautifulSoup]) -> list[str]:
    """Every link of a book that leads to no file, or to no place in its file."""
    anchors = {path: {str(tag["id"]) for tag in soup.find_all(id=True)} for path, soup in parsed.items()}
    found = []
    for path, soup in parsed.items():
        for link in soup.find_all("a", href=True):
            url = urllib.parse.urlsplit(str(link["href"]))
            if url.scheme or url.netloc or link["href"] in ("#", ""):
                continue
            target = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path.resolve()
            place = urllib.parse.unquote(url.fragment)
            known = anchors.get(target)
            if not target.exists() or (place and known is not None and place not in known):
                found.append(f"{path.relative_to(book.html)}: {link['href']}")
    return found


def external_resources(soup: BeautifulSoup) -> list[str]:
    """Every address on another host that a page would load by itself; links that a reader may follow are none."""
    found = []
    for tag in soup.find_all(["script", "img", "iframe", "source", "video", "audio", "embed", "object", "use"]):
        found += [
            str(tag.get(name)) for name in ("src", "srcset", "data", "href", "xlink:href", "poster") if tag.get(name)
        ]
    found += [str(tag["href"]) for tag in soup.find_all("link", href=True) if "canonical" not in (tag.get("rel") or [])]
    found += re.findall(r"url\(\s*[\"']?([^\"')]+)", " ".join(tag.get_text() for tag in soup.find_all("style")))
    found += re.findall(r"@import\s+[\"']([^\"']+)", " ".join(tag.get_text() for tag in soup.find_all("style")))
    return [url for url in found if re.match(r"(https?:)?//", url)]


def own_bytes(soup: BeautifulSoup) -> int:
    """Size of what a page itself says: its article, explorers' data and scripts included, without the theme's frame."""
    article = soup.find("article")
    return len(str(article).encode()) if article else 0


# -- the outline -----------------------------------------------------------------------------------------------------


def test_the_table_of_contents_holds_every_page_of_the_outline() -> None:
    assert len(PAGES) == 9 + sum(len(chapter["sections"]) for chapter in OUTLINE["chapters"])
    missing = [name for name, page in PAGES.items() if not (ROOT / f"{page}.md").exists()]
    assert missing == []


def test_every_target_in_the_pages_is_known_to_the_outline() -> None:
    known = {f"sec-{name.replace('.', '-')}" for name in [*PAGES, *LEAVES]} | {f"topic-{name}" for name in TOPICS}
    found = {
        target
        for page in (ROOT / "book").rglob("*.md")
        for target in re.findall(r"^\(((?:sec|topic)-[\w-]+)\)=", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert {"sec-3-3-1", "sec-3-3-2", "sec-3-3-3"} <= found
    assert found - known == set()


def holder(part: Path) -> Path:
    """The page that a file appears on: itself, or, for a part that begins with _, the page that includes it."""
    if not part.name.startswith("_"):
        return part
    [page] = [
        page for page in part.parent.glob("*.md") if f"{{include}} {part.name}\n" in page.read_text(encoding="utf-8")
    ]
    return page


def test_a_target_stands_on_the_page_that_the_outline_gives_it() -> None:
    for page in (ROOT / "book").rglob("*.md"):
        document = holder(page).relative_to(ROOT).with_suffix("").as_posix()
        for name in re.findall(r"^\(sec-([\d-]+)\)=", page.read_text(encoding="utf-8"), re.MULTILINE):
            dotted = name.replace("-", ".")
            assert PAGES[LEAVES.get(dotted, dotted)] == document, f"{dotted} stands on {document}"


def test_the_rendered_numbers_equal_the_outlines(project_book: Built, parsed: dict[Path, BeautifulSoup]) -> None:
    for name, page in PAGES.items():
        soup = parsed[project_book.html / f"{page}.html"]
        title = soup.select_one("article h1 .section-number")
        assert title is not None, page
        assert title.get_text().strip().rstrip(".") == name
        numbered = [
            tag.get_text().strip().rstrip(".") for tag in soup.select("article :is(h2, h3, h4) .section-number")
        ]
        targets = {name for name in LEAVES if soup.find(id=f"sec-{name.replace('.', '-')}")}
        assert sorted(numbered) == sorted(targets), page
        for leaf in targets:
            section = soup.find(id=f"sec-{leaf.replace('.', '-')}")
            heading = section.find_next(["h2", "h3"])  # type: ignore[union-attr]
            assert heading is not None
            assert heading.get_text().startswith(leaf)


def test_pages_outside_the_chapters_have_no_number(project_book: Built, parsed: dict[Path, BeautifulSoup]) -> None:
    numbered = set(PAGES.values())
    for path, soup in parsed.items():
        document = path.relative_to(project_book.html).with_suffix("").as_posix()
        if document not in numbered:
            assert soup.select("article .section-number") == [], document


def test_an_unwritten_page_says_so_and_shows_its_outline(
    project_book: Built, parsed: dict[Path, BeautifulSoup]
) -> None:
    for name, page in PAGES.items():
        text = (ROOT / f"{page}.md").read_text(encoding="utf-8")
        if f"```{{outline}} {name}\n" not in text:
            continue
        article = parsed[project_book.html / f"{page}.html"].find("article")
        assert article is not None
        shown = article.get_text()
        assert "is not written yet" in shown
        assert f"(sec-{name.replace('.', '-')})=" not in text
        for leaf, section in LEAVES.items():
            if section == name:
                assert leaf in shown, page


def test_the_outline_map_lists_every_section_and_topic_and_links_to_its_page(project_book: Built) -> None:
    soup = BeautifulSoup(project_book.page("book/outline_map"), "html.parser")
    rows = soup.select(".al-map tbody tr")
    assert len(rows) == len(PAGES) - 9 + len(LEAVES) + len(TOPICS)
    written = [row for row in rows if row["data-written"] == "1"]
    assert {"3.3.1", "3.3.2", "3.3.3"} <= {row.select("td")[0].get_text() for row in written}
    for row in rows:
        number = row.select("td")[0].get_text()
        link = row.select_one("td a")
        assert link is not None
        if number != "topic":
            target = (project_book.html / "book" / str(link["href"]).split("#")[0]).resolve()
            assert target == (project_book.html / f"{PAGES[LEAVES.get(number, number)]}.html").resolve()


# -- the whole book ---------------------------------------------------------------------------------------------------


def test_the_book_builds_strictly_in_less_than_a_minute_of_processor_time(project_book: Built) -> None:
    assert project_book.seconds < MAX_SECONDS
    assert "build succeeded" in project_book.output


def test_every_internal_link_leads_to_a_page_and_to_a_place_in_it(
    project_book: Built, parsed: dict[Path, BeautifulSoup]
) -> None:
    assert len(parsed) > len(PAGES)
    assert broken_links(project_book, parsed) == []


def test_no_page_loads_anything_from_another_host(project_book: Built, parsed: dict[Path, BeautifulSoup]) -> None:
    for path, soup in parsed.items():
        assert external_resources(soup) == [], path.name
    for sheet in (project_book.html / "_static").rglob("*.css"):
        text = sheet.read_text(encoding="utf-8", errors="replace")
        urls = re.findall(r"url\(\s*[\"']?([^\"')]+)", text) + re.findall(r"@import\s+[\"']([^\"']+)", text)
        assert [url for url in urls if re.match(r"(https?:)?//", url)] == [], sheet.name


def test_every_file_that_our_stylesheets_name_is_there() -> None:
    static = ROOT / "book" / "_static"
    named = {
        sheet.parent / url.split("#")[0].split("?")[0]
        for sheet in static.rglob("*.css")
        for url in re.findall(r"url\(\s*[\"']?([^\"')]+)", sheet.read_text(encoding="utf-8"))
        if not url.startswith(("data:", "#")) and not url.endswith((".woff", ".ttf"))  # what only old browsers ask for
    }
    assert len(named) > 10
    assert sorted(str(path.relative_to(static)) for path in named if not path.exists()) == []


def test_no_page_carries_parts_of_the_theme_that_it_does_not_use(parsed: dict[Path, BeautifulSoup]) -> None:
    for path, soup in parsed.items():
        html = str(soup.head)
        for part in ("fontawesome.js", "THEBE_JS_URL", "thebe", "require.min.js", "MathJax", "mathjax"):
            assert part not in html, f"{path.name}: {part}"
        has_math = bool(soup.select(".math"))
        assert ("katex.min.js" in html) == has_math, path.name
        assert ("plotly-cartesian" in html) == bool(soup.select(".al-plot")), path.name


def test_no_page_is_larger_than_300_kilobytes_of_its_own(parsed: dict[Path, BeautifulSoup]) -> None:
    sizes = {path.name: own_bytes(soup) for path, soup in parsed.items()}
    assert {name: size for name, size in sizes.items() if size > MAX_PAGE_BYTES} == {}


def test_ids_on_a_page_are_unique(parsed: dict[Path, BeautifulSoup]) -> None:
    for path, soup in parsed.items():
        names = [str(tag["id"]) for tag in soup.select("article [id]")]
        assert {name for name in names if names.count(name) > 1} == set(), path.name


def test_no_colab_button_where_no_repository_is_known(tmp_path: Path) -> None:
    lab = notebook([("markdown", "# A lab\n\nSections: 3.3.1-3.3.3. About 4 minutes.", None)])
    book = build(specimen(tmp_path / "book", "# Training\n\n```{labs} 3.3\n```\n", lab), tmp_path)
    assert book.code == 0, book.output
    for page in ("book/s3", "labs/ch03_specimen"):
        assert "colab" not in book.page(page).lower()
        assert "Download notebook" in book.page(page)
    assert (book.html / "_sources" / "labs" / "ch03_specimen.ipynb").exists()


@pytest.mark.parametrize(
    ("remote", "name"),
    [
        ("https://github.com/someone/a-book.git", "someone/a-book"),
        ("https://token@github.com/someone/a.book", "someone/a.book"),
        ("git@github.com:someone/book.git", "someone/book"),
        ("ssh://git@github.com/someone/book", "someone/book"),
        ("https://gitlab.com/someone/book.git", None),
        ("https://github.com.example.org/someone/book", None),
        ("/a/folder/github.com/someone/book", None),
    ],
)
def test_only_a_github_remote_gives_a_repository(remote: str, name: str | None) -> None:
    match = book_labs.GITHUB.match(remote)
    assert (match[1] if match else None) == name


def test_the_repository_of_the_build_gives_the_colab_link(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/book")
    assert book_labs.repository(tmp_path) == "someone/book"


def test_a_labs_first_cell_says_what_it_serves_and_what_it_costs(tmp_path: Path) -> None:
    facts = ("**Time:** about 4 minutes\n  on a CPU.", "**Sections:** 3.3.1-3.3.3", "**Topics:** dpo-identity, ipo")
    first = "# Who are you?\n\n" + "".join(f"- {fact}\n" for fact in facts)
    path = tmp_path / "ch03_dpo_identity.ipynb"
    path.write_text(notebook([("markdown", first, None)]), encoding="utf-8")
    lab = book_labs.read(path)
    assert (lab.name, lab.title, lab.time) == ("dpo_identity", "Who are you?", "about 4 minutes on a CPU")
    assert lab.sections == ("3.3.1", "3.3.2", "3.3.3", "dpo-identity", "ipo")


def test_a_range_of_sections_is_spelled_out() -> None:
    assert book_labs.expand("3.3.1-3.3.3 and 4.1") == ["3.3.1", "3.3.2", "3.3.3", "4.1"]
    assert book_labs.expand("3.3.1–3.3.2, 1.2") == ["3.3.1", "3.3.2", "1.2"]


# -- a specimen that uses everything ----------------------------------------------------------------------------------

PLOT = {
    "data": [{"x": [1, 2], "y": [3, 4], "type": "scatter"}],
    "layout": {"title": {"text": "Loss </script>"}, "height": 320},
}
RESULTS = {
    "lab": "specimen",
    "results": {"accuracy": {"value": 0.951, "text": "95%"}},
    "claims": [{"text": "it rises", "holds": True}],
}
LAB = notebook(
    [
        ("markdown", "# A lab\n\nSections: 3.3.1-3.3.2, Topics: dpo-identity\n\nTime: about 4 minutes on a CPU.", None),
        ("code", "plot()", {"application/vnd.plotly.v1+json": PLOT, "text/html": "<p>not this</p>"}),
        ("code", "run.finish()", {"application/vnd.alignlab.results+json": RESULTS, "text/plain": "not this either"}),
    ]
)
SOUND = r"""(sec-3-3)=
# Training

(sec-3-3-1)=
## Initializing

$$
\ell = -\log \sigma(\beta m)
$$ (eq-specimen)

```{implements} eq-specimen
losses.preference.dpo_loss
```

By {eq}`eq-specimen` and {code}`losses.preference.dpo_loss`, accuracy is {result}`specimen.accuracy`.
See {sec}`3.3.2`, {sec}`3.1.2` and {sec}`dpo-identity`.

(sec-3-3-2)=
## Training, end to end

```{quiz} specimen-1
question: What is $\beta$?
answers:
- {text: An inverse temperature., correct: true, why: "It scales the `margin`."}
- {text: A learning rate., why: "That is $\\eta$."}
```

## Summary

```{explorer} decoding
:try: Move it.
```

```{explorer} decoding
```

```{labs} 3.3
```
"""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The specimen that uses every directive and role rightly."""
    folder = tmp_path_factory.mktemp("sound")
    source = specimen(folder / "book", SOUND, LAB)
    (source / "labs" / "explorers").mkdir()
    data = {"stamp": {}, "data": {"text": "</script>", "value": 0.25}}
    (source / "labs" / "explorers" / "decoding.json").write_text(json.dumps(data), encoding="utf-8")
    book = build(source, folder)
    assert book.code == 0, book.output
    return book


def test_only_headings_with_an_outline_target_are_numbered(sound: Built) -> None:
    soup = BeautifulSoup(sound.page("book/s3"), "html.parser")
    shown = [tag.get_text().split("#")[0] for tag in soup.select("article h2")]
    assert [text.startswith(number) for text, number in zip(shown, ("3.3.1", "3.3.2", "Summary"), strict=True)] == [
        True
    ] * 3
    index = BeautifulSoup(sound.page("book/ch03"), "html.parser")
    assert index.select("article h2 .section-number") == []


def test_an_equation_its_references_and_its_function_lead_to_each_other(sound: Built) -> None:
    page = BeautifulSoup(sound.page("book/s3"), "html.parser")
    number = page.select_one("#equation-eq-specimen .eqno")
    assert number is not None
    assert number.get_text().startswith("(3.1)")
    assert page.select_one('a[href="#equation-eq-specimen"]') is not None
    chip = page.select_one(".al-implements a")
    assert chip is not None
    assert chip["href"] == "losses.html#code-losses-preference-dpo-loss"
    reference = BeautifulSoup(sound.page("book/losses"), "html.parser")
    entry = reference.find(id="code-losses-preference-dpo-loss")
    assert entry is not None
    back = entry.select_one(".al-implements a")  # type: ignore[union-attr]
    assert back is not None
    assert back["href"] == "s3.html#equation-eq-specimen"
    assert "3.1" in back.get_text()


def test_a_result_is_printed_from_the_executed_notebook(sound: Built) -> None:
    article = BeautifulSoup(sound.page("book/s3"), "html.parser").find("article")
    assert article is not None
    assert "accuracy is 95%." in article.get_text()


def test_sections_and_topics_not_yet_written_link_to_the_page_that_will_hold_them(sound: Built) -> None:
    page = BeautifulSoup(sound.page("book/s3"), "html.parser")
    links = {tag.get_text(): tag["href"] for tag in page.select("article p a.reference.internal")}
    assert links["Section 3.3.2"] == "#sec-3-3-2"
    assert links["Section 3.1.2"] == "s1.html"
    assert "ch03.html" in links.values()


def test_a_quiz_works_as_details_elements_without_javascript(sound: Built) -> None:
    quiz = BeautifulSoup(sound.page("book/s3"), "html.parser").find("alignlab-quiz")
    assert quiz is not None
    assert [item.has_attr("data-correct") for item in quiz.select("li")] == [True, False]  # type: ignore[union-attr]
    assert all(
        item.select_one("details > summary") and item.select_one("details .al-quiz-why") for item in quiz.select("li")
    )  # type: ignore[union-attr]
    assert "quiz.js" in sound.page("book/s3")
    assert "quiz.js" not in sound.page("book/s1")
    assert 'href="s3.html#quiz-specimen-1"' in sound.page("book/ch03")


def test_a_plotly_output_becomes_json_that_cannot_end_its_script_element(sound: Built) -> None:
    html = sound.page("labs/ch03_specimen")
    soup = BeautifulSoup(html, "html.parser")
    source = soup.select_one('.al-plot > script[type="application/json"]')
    assert source is not None
    assert '"Loss <\\/script>"' in source.get_text()
    assert "height:320px" in html
    assert "plotly-cartesian.min.js" in html
    assert "plotly-cartesian.min.js" not in sound.page("book/s3")
    assert "not this" not in html


def test_an_explorer_brings_its_data_each_time_and_its_script_once(sound: Built) -> None:
    html = sound.page("book/s3")
    soup = BeautifulSoup(html, "html.parser")
    found = soup.select("alignlab-decoding")
    assert len(found) == 2
    for element in found:
        source = element.select_one('script[type="application/json"]')
        assert source is not None
        assert json.loads(source.get_text()) == {"text": "</script>", "value": 0.25}
    (script,) = soup.select('script[src$="explorers/decoding.js"]')
    file = sound.html / "book" / str(script["src"])
    assert "alignlab-decoding" in file.read_text(encoding="utf-8")
    assert "alignlab-decoding" not in sound.page("book/s1")


def test_named_results_of_a_lab_stand_in_its_page_as_a_table(sound: Built) -> None:
    soup = BeautifulSoup(sound.page("labs/ch03_specimen"), "html.parser")
    row = soup.select_one("table.al-results tr")
    assert row is not None
    assert row.get_text(" ", strip=True) == "accuracy 95%"


def test_the_links_of_the_specimen_resolve_and_a_broken_one_would_be_found(sound: Built, tmp_path: Path) -> None:
    pages = soups(sound)
    assert broken_links(sound, pages) == []
    path = next(path for path in pages if path.name == "s3.html")
    spoiled = BeautifulSoup(
        str(pages[path]).replace("losses.html#code-losses", "losses.html#kode-losses"), "html.parser"
    )
    assert broken_links(sound, {**pages, path: spoiled}) != []


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://example.org/a.js"></script>',
        '<link rel="stylesheet" href="//example.org/a.css">',
        '<img src="http://example.org/a.png">',
        "<style>@font-face { src: url('https://example.org/a.woff2') }</style>",
        "<style>@import 'https://example.org/a.css';</style>",
        '<iframe src="https://example.org"></iframe>',
    ],
)
def test_a_resource_on_another_host_would_be_found(html: str) -> None:
    harmless = '<a href="https://example.org">a link</a><script src="_static/a.js"></script>'
    assert external_resources(BeautifulSoup(html, "html.parser")) != []
    assert external_resources(BeautifulSoup(harmless, "html.parser")) == []


# -- faults: every one of them must fail the build --------------------------------------------------------------------

RIGHT, WRONG = "{text: a, why: b, correct: true}", "{text: c, why: d}"


def question(name: str, *answers: str) -> str:
    """A quiz directive."""
    return "\n".join([f"```{{quiz}} {name}", "question: Q?", "answers:", *(f"- {answer}" for answer in answers), "```"])


FAULTS = {
    "unknown result": ("{result}`specimen.accuracy_before`", "has no result 'accuracy_before'; it has: accuracy"),
    "unknown lab": ("{result}`nolab.accuracy`", "no executed lab 'nolab'"),
    "unknown diagram": ("```{diagram} ch03.nothing\n```", "has no diagram 'nothing'"),
    "unknown diagram module": ("```{diagram} ch99.panorama\n```", "book/diagrams/ch99.py has no diagram"),
    "missing explorer data": ("```{explorer} nothing\n```", "explorer nothing"),
    "unknown function": ("{code}`losses.preference.nothing`", "the library reference has no losses.preference.nothing"),
    "equation without its function": (
        "```{implements} eq-x\nlosses.nothing\n```",
        "no documented function losses.nothing",
    ),
    "unknown equation": ("```{implements} eq-nowhere\n```", "no equation labelled eq-nowhere"),
    "unknown section": ("{sec}`3.9.9`", "no section or topic 3.9.9"),
    "unknown outline": ("```{outline} 3.9\n```", "no section 3.9 in the outline"),
    "unknown target": ("(sec-3-9-9)=\n## Nothing", "target sec-3-9-9 is not in the outline"),
    "target of another page": ("(sec-3-4-1)=\n## Elsewhere", "target sec-3-4-1 stands on page 3.3"),
    "quiz with no right answer": (
        question("no-right", WRONG, "{text: e, why: f}"),
        "no-right: needs exactly one correct",
    ),
    "quiz with two right answers": (question("two-right", RIGHT, "{text: e, why: f, correct: true}"), "answer, has 2"),
    "quiz without a reason": (question("no-why", RIGHT, "{text: c}"), "quiz no-why: answer 2 does not say `why`"),
    "quiz with an empty reason": (
        question("empty-why", RIGHT, "{text: c, why: ' '}"),
        "quiz empty-why: answer 2 does not",
    ),
    "quiz with one answer": (question("one-answer", RIGHT), "quiz one-answer: needs at least two"),
    "quiz with a mistyped key": (question("key", RIGHT, "{text: c, why: d, corect: 1}"), "has unknown keys ['corect']"),
    "quiz with the same answer twice": (question("same", RIGHT, "{text: a, why: d}"), "quiz same: has the same answer"),
    "quiz that is no YAML": (question("yaml", "{text: a"), "quiz yaml: not YAML"),
    "quiz name used twice": (
        question("twice", RIGHT, WRONG) + "\n\n" + question("twice", RIGHT, WRONG),
        "already used",
    ),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """One book with every fault; each is a warning of its own, and a strict build fails on any."""
    folder = tmp_path_factory.mktemp("faulty")
    text = "(sec-3-3)=\n# Training\n\n" + "\n\n".join(text for text, _ in FAULTS.values()) + "\n"
    return build(specimen(folder / "book", text, LAB), folder)


def test_a_book_with_faults_does_not_build(faulty: Built) -> None:
    assert faulty.code != 0


@pytest.mark.parametrize("fault", FAULTS)
def test_the_builder_names_the_fault(faulty: Built, fault: str) -> None:
    assert FAULTS[fault][1] in faulty.output
