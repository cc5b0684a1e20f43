"""The book's own words as a small file that ships with the package: what the retrieval lab searches.

`python -m alignlab.retrieval_corpus` reads the pages in book/ and the executed notebooks in labs/ of a checkout and
writes retrieval_corpus.jsonl.gz, one section a line. Knows MyST well enough to take the words out, and no more.
"""

import argparse
import gzip
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).with_name("retrieval_corpus.jsonl.gz")
PAGES = (
    "intro.md",
    "how_to_use.md",
    "notation.md",
    "ch03_dpo/index.md",
    "ch03_dpo/core_idea.md",
    "ch03_dpo/preference_data.md",
    "ch03_dpo/training.md",
    "ch03_dpo/practice.md",
    "ch03_dpo/beyond.md",
    "ch03_dpo/_family.md",
    "glossary.md",
)
"""What the snapshot holds, in this order. Chapter 4 is left out: it would hold the answers about this very search."""

DROPPED = frozenset({"quiz", "labs", "explorer", "outline", "quiz-summary", "chapters", "bibliography", "include"})
"""Directives that bring no prose of their own. Quizzes go because their wrong answers are wrong: a search would find
them, and a model would repeat them."""


class Section(NamedTuple):
    """One heading of the book and the text below it, up to the next heading; or one entry of the glossary."""

    id: str  # page#slug, the same in every snapshot while the heading stands
    number: str  # of the outline's section it belongs to, for example "3.4.1"; empty where there is none
    page: str
    title: str
    text: str


def read(file: Path = FILE) -> list[Section]:
    """The sections of a snapshot. ValueError for a file that is not one."""
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            return [Section(**json.loads(line)) for line in lines]
    except (gzip.BadGzipFile, EOFError, ValueError, TypeError) as error:
        raise ValueError(
            f"{file} is no snapshot of the book: make it with python -m alignlab.retrieval_corpus"
        ) from error


def write(sections: Sequence[Section], file: Path = FILE) -> None:
    """One JSON object a line, compressed; the same sections give the same bytes."""
    body = "".join(json.dumps(section._asdict(), ensure_ascii=False) + "\n" for section in sections)
    file.write_bytes(gzip.compress(body.encode(), compresslevel=9, mtime=0))


def collect(root: Path) -> list[Section]:
    """The sections of all PAGES of the checkout at `root`, with the labs' results and the citations filled in."""
    import yaml  # only who makes a snapshot needs it

    outline = yaml.safe_load((root / "book" / "outline.yml").read_text(encoding="utf-8"))
    topics = {topic["id"]: f'"{topic["en"].split(":")[0]}"' for topic in outline["topics"]}
    words = _Words(_results(root / "labs"), _authors(root / "book" / "references.bib"), topics)
    sections = _outline(outline)
    for page in PAGES:
        source = (root / "book" / page).read_text(encoding="utf-8")
        name = page.removesuffix(".md")
        sections += _glossary(source, words) if name == "glossary" else _page(source, name, words)
    return [section for section in sections if len(section.text) >= 40]


def _outline(outline: Any) -> list[Section]:
    """One section for each x.y of the outline: what it will hold. Chapters not yet written stand here by name alone."""
    found = []
    for chapter in outline["chapters"]:
        for one in chapter["sections"]:
            items = "; ".join(f"{item['id']} {item['en']}" for item in one.get("items", []))
            text = f"Chapter {chapter['id']}, {chapter['en']}. Section {one['id']}, {one['en']}. {items}".strip()
            found.append(Section(f"outline#{one['id']}", one["id"], "outline", f"Outline of {one['id']}", text))
    return found


def _page(source: str, page: str, words: "_Words") -> Iterator[Section]:
    """The sections of one page. A heading without a number belongs to the numbered one above it."""
    number = title = target = ""
    body: list[str] = []

    def section() -> Section:
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        return Section(f"{page}#{slug}", number, page, title, _tidy("\n".join(body)))

    for line in words.plain(source).split("\n"):
        if found := re.fullmatch(r"\((sec|topic|chapter)-([a-z0-9-]+)\)=", line.strip()):
            target = found[2].replace("-", ".") if found[1] != "topic" else found[2]
        elif found := re.fullmatch(r"(#{1,4}) +(.+)", line):
            if title:
                yield section()
            title, body = found[2].strip(), []
            number, target = target or number, ""
        else:
            body.append(line)
    if title:
        yield section()


def _glossary(source: str, words: "_Words") -> Iterator[Section]:
    """One section an entry: the terms that head it, then its text."""
    body = source.split("```{glossary}")[1].split("```")[0]
    for entry in re.split(r"\n\s*\n", body):
        lines = [line for line in entry.split("\n") if line.strip() and not line.startswith(":")]
        terms = [line.strip() for line in lines if not line.startswith(" ")]
        text = words.plain(" ".join(line.strip() for line in lines if line.startswith(" ")))
        if terms and text:
            slug = re.sub(r"[^a-z0-9]+", "-", terms[0].lower()).strip("-")
            yield Section(f"glossary#{slug}", "", "glossary", ", ".join(terms), f"{', '.join(terms)}: {_tidy(text)}")


class _Words:
    """Turns MyST into plain text."""

    def __init__(self, results: dict[str, str], authors: dict[str, str], topics: dict[str, str]) -> None:
        self.results, self.authors, self.topics = results, authors, topics

    def plain(self, source: str) -> str:
        """Directives resolved or dropped, roles replaced by what they print, tables as sentences of cells."""
        kept: list[str] = []
        fences: list[tuple[str, str]] = []  # (fence, directive) of the open blocks
        for line in source.split("\n"):
            fence = re.match(r"\s*(`{3,})(?:\{([a-z:-]+)\}\s*(.*))?", line)
            if fence and fences and fence[1] == fences[-1][0] and not fence[2] and line.strip() == fence[1]:
                fences.pop()
                continue
            if fence:
                fences.append((fence[1], fence[2] or "code"))
                if fence[2] == "admonition":
                    kept.append(fence[3])
                continue
            names = {name for _, name in fences}
            if names & DROPPED or "literalinclude" in names:
                continue
            if names and re.match(r"\s*:[a-z-]+:", line):
                continue  # an option of a directive
            if "implements" in names:
                line = f"In code: alignlab.{line.strip()}" if line.strip() else ""
            if re.fullmatch(r"\s*\|[\s:|-]+\|\s*", line) or line.startswith("%") or re.match(r"\s*:{3,}", line):
                continue
            if re.match(r"\s*:(header-rows|widths|class|name):", line):
                continue
            if line.lstrip().startswith("|"):
                line = "; ".join(cell.strip() for cell in _cells(line) if cell.strip()) + "."
            kept.append(line)
        return self._roles("\n".join(kept))

    def _roles(self, text: str) -> str:
        def said(match: re.Match[str]) -> str:
            role, body = match[1], " ".join(match[2].split())
            shown = re.fullmatch(r"(.+?) <(.+)>", body)
            if role == "result":
                return self.results.get(body, "(not measured)")
            if role == "sec":
                return f"section {self.topics.get(body, body)}"
            if role == "cite:t":
                return " and ".join(self.authors.get(key.strip(), key) for key in body.split(","))
            if role == "cite":
                return "(" + "; ".join(self.authors.get(key.strip(), key) for key in body.split(",")) + ")"
            if role == "code":
                return f"`alignlab.{body}`"
            return shown[1] if shown else body

        text = re.sub(r"\{([a-z:]+)\}`([^`]+)`", said, text)
        text = re.sub(r"\[([^\]\n]+)\](?:\([^)\s]+\)|\{[^}]*\})", r"\1", text)  # links and styled words
        return re.sub(r"\*\*(.+?)\*\*", r"\1", text)


def _cells(row: str) -> list[str]:
    """The cells of a table's row; a bar inside a formula or a code span is no border."""
    hidden = re.sub(r"\$[^$]*\$|`[^`]*`", lambda found: found[0].replace("|", "\0"), row.strip().strip("|"))
    return [cell.replace("\0", "|") for cell in hidden.split("|")]


def _tidy(text: str) -> str:
    """Lines of a paragraph joined, at most one empty line between paragraphs."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    return "\n\n".join(part for part in paragraphs if part)


def _results(labs: Path) -> dict[str, str]:
    """`lab.name` -> what the book prints, from the executed notebooks."""
    found: dict[str, str] = {}
    for path in sorted(labs.glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                bundle: Any = output.get("data", {}).get("application/vnd.alignlab.results+json")
                if bundle:
                    found |= {f"{bundle['lab']}.{name}": one["text"] for name, one in bundle["results"].items()}
    return found


def _authors(bibliography: Path) -> dict[str, str]:
    """Key -> "Rafailov et al. (2023)"."""
    found: dict[str, str] = {}
    for entry in bibliography.read_text(encoding="utf-8").split("\n@")[1:]:
        key = entry.split("{", 1)[1].split(",", 1)[0].strip()
        author, year = re.search(r"author\s*=\s*\{(.+?)\},?\n", entry), re.search(r"year\s*=\s*\{?(\d{4})", entry)
        if author and year:
            names = author[1].split(" and ")
            last = [name.split(",")[0] if "," in name else name.split()[-1] for name in names]
            last = [name.strip("{}") for name in last]
            who = {1: last[0], 2: " and ".join(last)}.get(len(names), f"{last[0]} et al.")
            found[key] = f"{who} ({year[1]})"
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the snapshot anew from a checkout, and says what it holds."""
    parser = argparse.ArgumentParser(prog="python -m alignlab.retrieval_corpus", description=main.__doc__)
    parser.add_argument("--root", type=Path, default=FILE.parents[2], help="the checkout (default: this one)")
    parser.add_argument("--output", type=Path, default=FILE)
    chosen = parser.parse_args(arguments)
    sections = collect(chosen.root)
    write(sections, chosen.output)
    words = sum(len(section.text.split()) for section in sections)
    print(f"{len(sections)} sections, {words:,} words, {chosen.output.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
