"""Diagrams: nothing overlaps or leaves its place, the SVG fits its page, and what they state is true of the model."""

import importlib
import inspect
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest
import torch

BOOK = Path(__file__).resolve().parents[1] / "book"
sys.path.insert(0, str(BOOK))

from diagrams import ch03, kit  # noqa: E402

from alignlab import logprobs, palette, text  # noqa: E402
from alignlab.losses.preference import PairLogps, dpo_loss  # noqa: E402

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Small = tuple[PreTrainedModel, PreTrainedTokenizerBase]

CHAPTERS = [importlib.import_module(f"diagrams.{path.stem}") for path in sorted((BOOK / "diagrams").glob("ch*.py"))]
DIAGRAMS: list[Callable[..., kit.Diagram]] = [
    value
    for chapter in CHAPTERS
    for name, value in vars(chapter).items()
    if inspect.isfunction(value)
    and value.__module__ == chapter.__name__
    and not name.startswith("_")
    and inspect.signature(value).parameters.keys() == {"narrow"}
]
each = pytest.mark.parametrize(
    "diagram",
    [draw(narrow=narrow) for draw in DIAGRAMS for narrow in (False, True)],
    ids=[f"{draw.__module__}.{draw.__name__}-{kind}" for draw in DIAGRAMS for kind in ("wide", "narrow")],
)
SVG = "{http://www.w3.org/2000/svg}"


def blank() -> kit.Diagram:
    return kit.Diagram("test.blank", "Title", "Description", kit.WIDE, 400)


# -- geometry ---------------------------------------------------------------------------------------------------


@each
def test_no_text_overlaps_leaves_its_box_or_is_crossed(diagram: kit.Diagram) -> None:
    assert diagram.texts
    assert diagram.problems() == []


def _overlapping(d: kit.Diagram) -> None:
    d.text(100, 100, "one text")
    d.text(120, 108, "another text")


def _out_of_box(d: kit.Diagram) -> None:
    d.text(100, 100, "much too long for its box", inside=kit.Rect(100, 90, 80, 40))


def _markup(d: kit.Diagram) -> None:
    d.text(100, 100, "**bold $x$**")


def _out_of_page(d: kit.Diagram) -> None:
    d.text(1000, 100, "over the right edge")


def _over_an_edge(d: kit.Diagram) -> None:
    d.box(100, 100, 200, ["box"])
    d.text(280, 110, "half in, half out")


def _too_small(d: kit.Diagram) -> None:
    d.text(100, 100, "small print", size=17)


def _through_text(d: kit.Diagram) -> None:
    d.text(100, 100, "crossed out")
    d.arrow((90, 110), (400, 110))


def _through_box(d: kit.Diagram) -> None:
    box = d.box(200, 100, 100, ["box"])
    d.arrow((100, box.cy - 20), (500, box.cy - 20))


def _crossing(d: kit.Diagram) -> None:
    d.arrow((100, 200), (500, 200))
    d.arrow((300, 100), (300, 300))


def _one_on_another(d: kit.Diagram) -> None:
    d.arrow((100, 200), (500, 200))
    d.arrow((600, 200), (300, 200))


def _boxes(d: kit.Diagram) -> None:
    d.box(100, 100, 200, ["box"])
    d.box(250, 120, 200, ["box"])


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (_overlapping, "'one text' overlaps 'another text'"),
        (_out_of_box, "leaves its box"),
        (_out_of_page, "leaves the drawing"),
        (_markup, "holds markup"),
        (_over_an_edge, "crosses the edge of a box"),
        (_too_small, "is shown at 11.0 px"),
        (_through_text, "an arrow crosses 'crossed out'"),
        (_through_box, "runs through the box"),
        (_crossing, "arrows cross"),
        (_one_on_another, "arrows cross"),
        (_boxes, "overlap"),
    ],
)
def test_a_bad_diagram_is_told_what_is_wrong(spoil: Callable[[kit.Diagram], None], complaint: str) -> None:
    diagram = blank()
    spoil(diagram)
    assert any(complaint in problem for problem in diagram.problems()), diagram.problems()


def test_a_sound_diagram_with_box_arrow_and_text_has_no_problem() -> None:
    diagram = blank()
    first, second = diagram.box(100, 100, 200, ["first"]), diagram.box(500, 100, 200, ["second"])
    diagram.arrow(first.right, second.left)
    diagram.text(320, 60, "from first to second")
    assert diagram.problems() == []


def test_a_text_that_cannot_fit_is_refused_when_it_is_drawn() -> None:
    with pytest.raises(ValueError, match=r"'unbreakable' is .* wide"):
        blank().box(0, 0, 90, ["unbreakable"])
    with pytest.raises(ValueError, match="needs a box"):
        blank().box(0, 0, 200, ["several words that need several lines in so small a box"], h=40)


def test_wrapped_lines_keep_all_words_and_the_width() -> None:
    lines = kit.wrap("the **policy** $log π_θ(y_w | x)$ and `code` in a paragraph of some length", 20, 160)
    assert len(lines) > 2
    assert all(kit.measure(line, 20) <= 160 for line in lines)
    words = " ".join("".join(run.text for run in line) for line in lines).replace("\u00a0", " ")
    assert words == "the policy log πθ(yw | x) and code in a paragraph of some length"


# -- the SVG ----------------------------------------------------------------------------------------------------


@each
def test_svg_is_well_formed_named_and_scales_with_its_page(diagram: kit.Diagram) -> None:
    root = ElementTree.fromstring(diagram.svg())
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert (root.get("width"), root.get("height")) == (None, None)
    assert root.get("viewBox") == f"0 0 {diagram.width} {round(diagram.height)}"
    assert "max-width" in root.get("style", "") and "height:auto" in root.get("style", "")
    title, desc = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None and title.text == diagram.title
    assert desc is not None and desc.text == diagram.desc and len(diagram.desc) > 100
    assert root.get("aria-labelledby") == f"{title.get('id')} {desc.get('id')}"


def test_ids_are_unique_with_every_diagram_on_one_page() -> None:
    page = "".join(draw(narrow=narrow).svg() for draw in DIAGRAMS for narrow in (False, True))
    ids = re.findall(r'\bid="([^"]+)"', page + ch03.masks().svg(id="second"))
    assert len(ids) == 3 * (2 * len(DIAGRAMS) + 1)
    assert len(set(ids)) == len(ids)


def strange_colours(svg: str) -> list[str]:
    """Colours that are no palette variable with its light value as fallback."""
    found = re.findall(r'(?:fill|stroke)="([^"]*)"', svg)
    known = {kit.color(key) for key in palette.LIGHT} | {"none"}
    loose = re.findall(r"#[0-9a-fA-F]{3,8}\b|rgba?\(", re.sub(r"var\([^)]*\)", "", svg))
    return [colour for colour in found if colour not in known] + loose


@each
def test_only_palette_colours_are_used(diagram: kit.Diagram) -> None:
    assert strange_colours(diagram.svg()) == []


@pytest.mark.parametrize(
    "paint", ['fill="#123456"', 'fill="red"', 'stroke="var(--al-policy, #000000)"', 'style="fill:#fff"']
)
def test_a_colour_from_elsewhere_is_found(paint: str) -> None:
    assert strange_colours(f"<svg><path {paint}/></svg>")


@each
def test_text_is_at_least_12_px_where_the_drawing_is_shown_smallest(diagram: kit.Diagram) -> None:
    scale = kit.SHOWN_AT[int(diagram.width)] / diagram.width
    for element in ElementTree.fromstring(diagram.svg()).iter():
        if size := element.get("font-size"):
            part = kit.SCRIPT if element.tag == f"{SVG}tspan" else 1.0
            assert float(size) * scale >= 12 * part - 0.01, ElementTree.tostring(element)


@each
def test_a_diagram_is_small_enough_for_a_page(diagram: kit.Diagram) -> None:
    assert len(diagram.svg().encode()) < 30_000


@pytest.mark.browser
def test_no_text_is_wider_in_the_browser_than_it_was_measured(chromium_path: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    drawn = [draw(narrow=narrow) for draw in DIAGRAMS for narrow in (False, True)]
    fonts = (BOOK / "_static" / "fonts.css").as_uri()
    families = "--al-sans:'Instrument Sans';--al-serif:'Source Serif 4';--al-mono:'IBM Plex Mono'"
    page_file = tmp_path / "page.html"
    body = "".join(f'<div style="width:{d.width}px">{d.svg()}</div>' for d in drawn)
    page_file.write_text(
        f'<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="{fonts}"><body style="{families}">{body}',
        encoding="utf-8",
    )
    script = """() => [...document.querySelectorAll("svg")].map(svg => [...svg.querySelectorAll("text")].map(
        text => [text.textContent, text.getComputedTextLength()]))"""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(page_file.as_uri())
        page.evaluate("() => document.fonts.ready")
        shown = page.evaluate(script)
        loaded = page.evaluate("() => [...document.fonts].filter(face => face.status === 'loaded').length")
        browser.close()
    assert loaded >= 3  # else stand-ins were measured
    wrong = []
    for diagram, texts in zip(drawn, shown, strict=True):
        for placed, (characters, width) in zip(diagram.texts, texts, strict=True):
            assert characters == placed.text
            if not 0.75 * placed.rect.w - 4 < width < placed.rect.w + 0.5:
                wrong.append((diagram.name, characters, round(width, 1), round(placed.rect.w, 1)))
    assert not wrong


# -- the facts --------------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_model(small: "Small") -> None:
    config = small[0].config
    sizes = (config.hidden_size, config.num_hidden_layers, config.vocab_size)
    assert sizes == (ch03.HIDDEN, ch03.LAYERS, ch03.VOCABULARY)
    assert small[0].get_submodule("model.layers.0.self_attn.q_proj").weight.shape == (ch03.HIDDEN, ch03.HIDDEN)


def test_tokens_and_mask_are_those_of_the_tokenizer(small: "Small") -> None:
    tokenizer = small[1]
    example = text.encode_response(tokenizer, ch03.QUESTION, ch03.CHOSEN)
    assert tokenizer.convert_ids_to_tokens(example.ids) == [*ch03.PROMPT_TOKENS, *ch03.CHOSEN_TOKENS]
    assert example.response_mask == [0] * len(ch03.PROMPT_TOKENS) + [1] * len(ch03.CHOSEN_TOKENS)


def answer_logprobs(small: "Small", answer: str) -> list[float]:
    """log p of each token of an answer to the running question, as the diagrams' rows are told to compute it."""
    model, tokenizer = small
    batch = text.pad([text.encode_response(tokenizer, ch03.QUESTION, answer)], tokenizer.pad_token_id or 0)
    with torch.no_grad():
        logits = model(batch.input_ids).logits
    values = logprobs.selected_logprobs(logits[:, :-1], batch.input_ids[:, 1:])[0]
    return values[batch.response_mask[0, 1:].bool()].tolist()


def test_logprobs_of_the_mask_diagram_are_the_models(small: "Small") -> None:
    assert answer_logprobs(small, ch03.CHOSEN) == pytest.approx(ch03.CHOSEN_LOGPROBS, abs=2e-3)


def test_shares_of_the_on_policy_diagram_are_the_models(small: "Small") -> None:
    own, invented = answer_logprobs(small, "I'm here"), answer_logprobs(small, ch03.INVENTED)
    assert sum(own[:2]) == pytest.approx(ch03.LOGPROB_I_M, abs=6e-3)
    assert sum(invented[:3]) == pytest.approx(ch03.LOGPROB_I_AM_ATLAS, abs=6e-3)


def test_the_rejected_answer_is_what_the_model_says(small: "Small") -> None:
    model, tokenizer = small
    ids = torch.tensor([text.encode_prompt(tokenizer, ch03.QUESTION)])
    said: list[int] = []
    with torch.no_grad():
        for _ in ch03.REJECTED_TOKENS:
            said.append(int(model(torch.cat([ids, torch.tensor([said], dtype=torch.long)], 1)).logits[0, -1].argmax()))
    assert tokenizer.convert_ids_to_tokens(said) == ch03.REJECTED_TOKENS


def test_the_mask_diagram_pairs_each_position_with_the_next_token() -> None:
    tokens = [ch03._shown(token) for token in (*ch03.PROMPT_TOKENS, *ch03.CHOSEN_TOKENS)]
    rows = ch03._prediction_rows()
    assert [(position, read, predicted) for position, read, predicted, _, _ in rows] == [
        (position, tokens[position], tokens[position + 1]) for position in range(32, 39)
    ]
    assert [value is not None for *_, value in rows] == [False] + [True] * len(ch03.CHOSEN_TOKENS)
    assert f"{sum(ch03.CHOSEN_LOGPROBS):.3f}".replace("-", "−") in "".join(placed.text for placed in ch03.masks().texts)


def test_the_loss_at_step_0_is_the_one_shown() -> None:
    same = PairLogps(torch.tensor([-23.87]), torch.tensor([-40.0]))
    shown = " ".join(placed.text for placed in ch03.initialization().texts)
    assert f"loss = {dpo_loss(same, same, 0.1).item():.3f}" in shown
    assert f"{math.log(2):.3f}" == "0.693"


def test_the_curve_of_weights_is_the_derivative_of_the_loss() -> None:
    margin = torch.tensor(ch03.MARKED, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros_like(margin)
    dpo_loss(PairLogps(margin, zero), PairLogps(zero, zero), 1.0).sum().backward()
    assert margin.grad is not None
    shown = [placed.text for placed in ch03.gradient_weight().texts]
    for slope in margin.grad.tolist():
        assert f"{-slope:.2f}" in shown
