"""Diagrams of section 4.1: what stands in a prompt, a prefix read once, calibration, and what shots cost.

Every number follows from the arithmetic of the page's worked examples; tests recompute them.
"""

from __future__ import annotations

from itertools import pairwise

from diagrams.kit import Diagram, Line, Rect, measure, runs, sheet

PROMPT, CONTENT_FREE = (0.70, 0.30), (0.80, 0.20)
"""Worked example of calibration: probabilities of positive and negative for a review, and for "N/A"."""

PARAMETERS = 134_515_008
SHOT_TOKENS, QUERY_TOKENS, TRAINED_TOKENS = 150, 20, 12_000
"""Worked example of cost: tokens of the examples, of a query, and of a LoRA fine-tune's training data."""


def calibrated() -> tuple[float, float]:
    """p / p_cf of the worked example, normalized."""
    ratios = [p / cf for p, cf in zip(PROMPT, CONTENT_FREE, strict=True)]
    return ratios[0] / sum(ratios), ratios[1] / sum(ratios)


def gflops(way: str, requests: float) -> float:
    """Billions of operations after so many requests: 2 N a token read, 4 N a token trained on with frozen weights."""
    read = {"shots": SHOT_TOKENS + QUERY_TOKENS, "cached": QUERY_TOKENS, "lora": QUERY_TOKENS}[way]
    once = {"shots": 0, "cached": 2 * SHOT_TOKENS, "lora": 4 * TRAINED_TOKENS}[way]
    return (2 * read * requests + once) * PARAMETERS / 1e9


def break_even() -> float:
    """Requests after which the fine-tune has cost less than shots that are read anew each time."""
    return 4 * TRAINED_TOKENS / (2 * SHOT_TOKENS)


# -- shots ------------------------------------------------------------------------------------------------------

KINDS = (("Zero-shot", 0), ("One-shot", 1), ("Few-shot", 3))
EXAMPLES = (
    ("The soup was superb.", "positive"),
    ("The film was dull.", "negative"),
    ("I left with a smile.", "positive"),
)


def shots(narrow: bool = False) -> Diagram:
    """Three prompts side by side: the same instruction and query, and none, one or three examples between them."""
    d = sheet(
        "ch04_prompting.shots",
        "Zero-shot, one-shot and few-shot prompts",
        "Three prompts for the same review. Each begins with an instruction and ends with the query and an empty place "
        "for the answer. Between them stand no example, one, or three. The weights are the same in all three.",
        narrow,
    )
    width, gap = (344.0, 0.0) if narrow else (330.0, 25.0)
    left, top, lowest = (8.0, 8.0, 0.0) if narrow else (20.0, 16.0, 0.0)
    for name, count in KINDS:
        y = d.text(left, top, f"**{name}**").y1 + 8
        y = d.box(left, y, width, [Line("Is the review positive or negative?", d.small)], role="prompt").y1 + 7
        for text, label in EXAMPLES[:count]:
            content = [Line(f"Review: {text}", d.small), Line(f"Sentiment: **{label}**", d.small)]
            y = d.box(left, y, width, content, role="value", align="start").y1 + 7
        query = [Line("Review: The room was awful.", d.small), Line("Sentiment:", d.small)]
        query_box = d.box(left, y, width, query, role="prompt", align="start")
        d.arrow(query_box.bottom, (query_box.cx, query_box.y1 + (20 if narrow else 30)))
        answer = d.box(
            left + width * 0.2, query_box.y1 + (22 if narrow else 32), width * 0.6,
            [Line("$p$(positive), $p$(negative)", d.small)], role="policy",
        )  # fmt: skip
        lowest = max(lowest, answer.y1)
        if narrow:
            top = answer.y1 + 18
        else:
            left += width + gap
    legend = [("prompt", "instruction and query"), ("value", "examples"), ("policy", "what the model adds")]
    end = d.legend(8 if narrow else 20, lowest + (14 if narrow else 26), 344 if narrow else 1040, legend)
    d.height = end.y1 + 12
    return d


# -- prefix -----------------------------------------------------------------------------------------------------


def prefix(narrow: bool = False) -> Diagram:
    """The common beginning is read once; its keys and values serve every query."""
    d = sheet(
        "ch04_prompting.prefix",
        "Label words scored behind a shared prefix",
        "The instruction and the examples, P tokens, pass through the model once and leave keys and values of shape "
        "(30, 3, P, 64). These are copied to N rows. Each row reads its own query, some 20 tokens. The state at each "
        "row's last token, (N, 576), times the output layer gives logits (N, 49152); their log-softmax at the K label "
        "words is (N, K), and the largest is the answer.",
        narrow,
    )
    steps = [
        ("prompt", "Instruction and examples", "`(1, P)` tokens, read **once**"),
        ("reference", "Keys and values", "`(30, 3, P, 64)` each, copied to N rows"),
        ("prompt", "N queries", "`(N, T)` tokens, some 20 each"),
        ("policy", "States at each row's last token", "`(N, 576)`"),
        ("policy", "Output layer, log-softmax", "`(N, 49152)`"),
        ("value", "Columns of the label words", "`(N, K)`; the largest is the answer"),
    ]
    if narrow:
        y = 8.0
        boxes: list[Rect] = []
        for role, what, shape in steps:
            boxes.append(d.box(8, y, 344, [Line(f"**{what}**"), Line(shape, d.small, "muted", 3)], role=role))
            y = boxes[-1].y1 + 22
        for first, second in pairwise(boxes):
            d.arrow((first.cx, first.y1 + 1), (second.cx, second.y - 1))
        d.height = y - 12
        return d
    width, across, top = 310.0, 55.0, 16.0
    boxes = []
    for index, (role, what, shape) in enumerate(steps):
        x, y = 20 + index % 3 * (width + across), top + index // 3 * 170
        boxes.append(d.box(x, y, width, [Line(f"**{what}**"), Line(shape, d.small, "muted", 4)], role=role, h=104))
    for left, right in ((0, 1), (1, 2), (3, 4), (4, 5)):
        d.arrow(boxes[left].right, (boxes[right].x - 2, boxes[right].cy))
    between = boxes[2].y1 + 33
    d.arrow(boxes[2].bottom, (boxes[2].cx, between), (boxes[3].cx, between), (boxes[3].cx, boxes[3].y - 2))
    d.height = boxes[5].y1 + 18
    return d


# -- calibration ------------------------------------------------------------------------------------------------


def calibration(narrow: bool = False) -> Diagram:
    """A prompt that leans to one label, measured on an input without content, and divided out."""
    after = calibrated()
    rows = [
        ("the review", "$p$", PROMPT),
        ("“N/A”", "$p_{cf}$", CONTENT_FREE),
        ("calibrated", "$q$", after),
    ]
    said = "; ".join(f"{name}: positive {values[0]:.0%}, negative {values[1]:.0%}" for name, _, values in rows)
    d = sheet(
        "ch04_prompting.calibration",
        "Contextual calibration of two labels",
        f"Three stacked bars. {said}. The prompt prefers positive even for an input without content; divided by that "
        "leaning, the review is judged negative.",
        narrow,
    )
    left, right, height, step = (118.0, 346.0, 36.0, 52.0) if narrow else (230.0, 1050.0, 54.0, 78.0)
    start = 8.0 if narrow else 20.0
    end = d.legend(start, 10 if narrow else 16, right - start, [("chosen", "positive"), ("rejected", "negative")])
    y = end.y1 + (14 if narrow else 22)
    for name, symbol, values in rows:
        d.text(left - 12, y + height / 2 - d.small * 0.55, f"{name}, {symbol}", size=d.small, anchor="end")
        x = left
        for role, share in zip(("chosen", "rejected"), values, strict=True):
            rect = Rect(x, y, share * (right - left), height)
            d.rect(rect, role, radius=0)
            d.text(rect.cx, rect.cy - d.small * 0.55, f"{share:.0%}", size=d.small, anchor="middle")
            x = rect.x1
        y += step
    d.height = y - step + height + 10
    return d


# -- cost -------------------------------------------------------------------------------------------------------

REQUESTS = 400
WAYS = (
    ("shots", "rejected", "examples read with each request"),
    ("cached", "prompt", "examples cached"),
    ("lora", "policy", "LoRA fine-tune, no examples"),
)


def cost(narrow: bool = False) -> Diagram:
    """Operations over the number of requests: shots read anew, shots cached, and a fine-tune."""
    meet = break_even()
    d = sheet(
        "ch04_prompting.cost",
        "What examples cost, and when a fine-tune is cheaper",
        f"Total operations against the number of requests, from 0 to {REQUESTS}. Examples of {SHOT_TOKENS} tokens that "
        "are read with each request make the steepest line, from zero. A LoRA fine-tune starts at "
        f"{gflops('lora', 0):,.0f} billion operations and rises slowly; the two cross at {meet:.0f} requests. With the "
        "examples cached the line starts near zero and rises as slowly as the fine-tune's, so those two never cross.",
        narrow,
    )
    plot = Rect(58, 40, 286, 210) if narrow else Rect(140, 60, 900, 360)
    highest = gflops("shots", REQUESTS)

    def at(requests: float, total: float) -> tuple[float, float]:
        return plot.x + requests / REQUESTS * plot.w, plot.y1 - total / highest * plot.h

    d.text(8 if narrow else 20, 8 if narrow else 14, "operations, in units of $10^{12}$", size=d.small, color="muted")
    for trillions in (0, 5, 10, 15):
        x, y = at(0, trillions * 1000)
        d.line((x, y), (plot.x1, y), role="faint")
        d.text(x - 10, y - d.small * 0.55, f"{trillions}", size=d.small, anchor="end", color="muted")
    for requests in (0, 100, 200, 300, 400):
        x, _ = at(requests, 0)
        d.text(x, plot.y1 + 8, f"{requests}", size=d.small, anchor="middle", color="muted")
    label = "requests"
    label_y = plot.y1 + 10 + d.small * 1.3
    d.text(plot.cx - measure(runs(label), d.small) / 2, label_y, label, size=d.small, color="muted")
    for way, role, _ in WAYS:
        d.line(at(0, gflops(way, 0)), at(REQUESTS, gflops(way, REQUESTS)), role=role, stroke=d.stroke * 1.7)
    x, y = at(meet, gflops("lora", meet))
    d.line((x, y), (x, plot.y1), role="muted", dashed=True)
    d.dot(x, y, "ink")
    d.text(x - (8 if narrow else 14), y - d.small * 1.9, f"{meet:.0f} requests", size=d.small, anchor="end")
    start = 8.0 if narrow else 20.0
    end = d.legend(start, label_y + d.small * 2.1, d.width - 2 * start, [(role, name) for _, role, name in WAYS])
    d.height = end.y1 + 12
    return d
