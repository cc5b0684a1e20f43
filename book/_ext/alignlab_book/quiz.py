"""Quiz questions with immediate feedback, and a summary of the reader's progress.

    ```{quiz} ch03-training-1
    question: What does the reference model do during training?
    answers:
    - {text: It stays as it was., correct: true, why: "Its log-probabilities anchor the implicit reward."}
    - {text: It is trained too., why: "Then the margin would measure nothing."}
    ```

    ```{quiz-summary} 3       how many questions of the chapter the reader has answered (all chapters without a number)

Question, answers and reasons are MyST (mathematics and code included). Without JavaScript each answer is a details
element that opens on its reason; with it, quiz.js makes a radio group of them and keeps the outcome in the browser.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from .markup import escape, raw
from .numbering import numbered_pages
from .project import store

logger = logging.getLogger(__name__)
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*$")


class QuizError(ValueError):
    """A question that is not sound; says what is wrong with it."""


def parse(text: str) -> tuple[str, list[dict[str, Any]]]:
    """Read a question. Returns its text and its answers, each {text, correct, why}; raises QuizError."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise QuizError(f"not YAML: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("question"), str):
        raise QuizError("needs a `question`")
    answers = data.get("answers")
    if not isinstance(answers, list) or len(answers) < 2:
        raise QuizError("needs at least two `answers`")
    checked = []
    for place, answer in enumerate(answers, start=1):
        if not isinstance(answer, dict) or answer.get("text") in (None, ""):
            raise QuizError(f"answer {place} has no `text`")
        if not isinstance(answer.get("why"), str) or not answer["why"].strip():
            raise QuizError(f"answer {place} does not say `why`")
        if unknown := set(answer) - {"text", "correct", "why"}:
            raise QuizError(f"answer {place} has unknown keys {sorted(unknown)}")
        checked.append({"text": str(answer["text"]), "correct": bool(answer.get("correct")), "why": answer["why"]})
    correct = sum(answer["correct"] for answer in checked)
    if correct != 1:
        raise QuizError(f"needs exactly one correct answer, has {correct}")
    if len({answer["text"] for answer in checked}) < len(checked):
        raise QuizError("has the same answer twice")
    return data["question"], checked


class quiz_summary_node(nodes.General, nodes.Element):
    """Progress over the questions of a chapter, or of the book."""


class Quiz(SphinxDirective):
    """One question."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Check the question and render it."""
        name = self.arguments[0]
        try:
            if not NAME.match(name):
                raise QuizError("name must be lower-case words and digits joined by hyphens")
            for document, known in store(self.env, "quizzes").items():
                if name in known:
                    raise QuizError(f"name already used in {document}")
            question, answers = parse("\n".join(self.content))
        except QuizError as error:
            logger.warning("quiz %s: %s", name, error, location=self.get_location(), type="alignlab", subtype="quiz")
            return []
        store(self.env, "quizzes").setdefault(self.env.docname, []).append(name)
        out: list[nodes.Node] = [
            raw(f'<alignlab-quiz class="al-quiz" id="quiz-{name}" data-quiz="{name}"><div class="al-quiz-question">'),
            *self._markdown(question),
            raw('</div><ul class="al-quiz-answers">'),
        ]
        for answer in answers:
            correct = " data-correct" if answer["correct"] else ""
            verdict = "Right." if answer["correct"] else "Not so."
            out += [
                raw(f'<li{correct}><details><summary class="al-quiz-text">'),
                *self._markdown(answer["text"]),
                raw(f'</summary><div class="al-quiz-why"><strong class="al-quiz-verdict">{verdict}</strong> '),
                *self._markdown(answer["why"]),
                raw("</div></details></li>"),
            ]
        return [*out, raw("</ul></alignlab-quiz>")]

    def _markdown(self, text: str) -> list[nodes.Node]:
        holder = nodes.container()
        self.state.nested_parse(
            StringList(text.splitlines(), source=self.get_source_info()[0]), self.content_offset, holder
        )
        return holder.children


class QuizSummary(SphinxDirective):
    """The reader's progress."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Leave a node to be filled in when all questions are known."""
        store(self.env, "live").setdefault(self.env.docname, True)
        return [quiz_summary_node(chapter=self.arguments[0] if self.arguments else "")]


def fill(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Replace the summaries by lists of links, which quiz.js marks with what the reader answered."""
    for node in list(doctree.findall(quiz_summary_node)):
        pages = numbered_pages(app.env)
        parts = ['<alignlab-quiz-summary class="al-quiz-summary"><p class="al-quiz-score" aria-live="polite"></p><ul>']
        for document, number in pages.items():
            names = store(app.env, "quizzes").get(document, [])
            if not names or (node["chapter"] and str(number[0]) != node["chapter"]):
                continue
            title = ".".join(map(str, number)) + " " + app.env.titles[document].astext()
            uri = app.builder.get_relative_uri(docname, document)
            links = " ".join(
                f'<a class="reference internal" href="{uri}#quiz-{name}" data-quiz="{name}"'
                f' aria-label="Question {place}">{place}</a>'
                for place, name in enumerate(names, start=1)
            )
            parts.append(f"<li>{escape(title)}: <span>{links}</span></li>")
        node.replace_self(raw("".join(parts) + "</ul></alignlab-quiz-summary>"))


def add_files(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Add quiz.js and quiz.css to a page with a question or a summary."""
    if "<alignlab-quiz" in context.get("body", ""):
        app.add_css_file("quiz.css")
        app.add_js_file("quiz.js", loading_method="defer")


def setup(app: Sphinx) -> None:
    """Register directives and handlers."""
    app.add_node(quiz_summary_node)
    app.add_directive("quiz", Quiz)
    app.add_directive("quiz-summary", QuizSummary)
    app.connect("doctree-resolved", fill)
    app.connect("html-page-context", add_files)
