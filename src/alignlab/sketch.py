"""A line chart as SVG, drawn in a millisecond: what a curve looks like while its loop runs.

JupyterLab does not redraw a plotly figure in place, and Colab would load plotly at each update; SVG they both replace.
"""

import math
from collections.abc import Sequence
from html import escape

from alignlab import palette

Line = tuple[str, str, str, Sequence[float], Sequence[float]]
"""Name, palette role, stroke-dasharray, x and y."""

WIDTH, HEIGHT = 800, 340
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 72, 48


def line_chart(title: str, x: str, y: str, lines: Sequence[Line], log: bool = False) -> str:
    """The chart as HTML with inline SVG, of the size that the finished figure will have. Points that are not finite,
    or not positive on a log axis, are left out."""
    shown = [
        (name, role, dash, [(a, math.log10(b) if log else b) for a, b in zip(xs, ys, strict=True) if _fits(b, log)])
        for name, role, dash, xs, ys in lines
    ]
    points = [point for *_, line in shown for point in line] or [(0.0, 0.0), (1.0, 1.0)]
    (x_low, x_high), (y_low, y_high) = (_range([point[axis] for point in points]) for axis in (0, 1))

    def across(value: float) -> float:
        return LEFT + (value - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def down(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    ink, faint = palette.MIDDLE["ink"], palette.MIDDLE["faint"]
    parts = [f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>']
    for value in _ticks(x_low, x_high):
        at = across(value)
        parts.append(f'<path d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="{faint}"/>')
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - 30}" text-anchor="middle">{value:g}</text>')
    for value in _ticks(y_low, y_high):
        at = down(value)
        parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="{faint}"/>')
        label = f"{10**value:.2g}" if log else f"{value:g}"
        parts.append(f'<text x="{LEFT - 5}" y="{at + 4:.1f}" text-anchor="end">{label}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{escape(y)}</text>')
    legend = float(LEFT)
    for name, role, dash, line in shown:
        stroke = f'fill="none" stroke="{palette.MIDDLE[role]}" stroke-width="2.5" stroke-dasharray="{dash}"'
        parts.append(f'<path d="M{legend} 52h26" {stroke}/><text x="{legend + 32}" y="56">{escape(name)}</text>')
        legend += 32 + 8 * len(name) + 24
        if line:
            path = "L".join(f"{across(a):.1f} {down(b):.1f}" for a, b in line)
            parts.append(f'<path d="M{path}" stroke-linecap="round" stroke-linejoin="round" {stroke}/>')
    return (
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {WIDTH} {HEIGHT}" width="100%" '
        f'style="display:block;max-height:{HEIGHT}px" fill="{ink}" font-size="13" '
        f'font-family="{escape(palette.FONT)}">{"".join(parts)}</svg>'
    )


def _fits(value: float, log: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not log)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers between low and high."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= max(factor for factor in (1, 2, 5) if (high - low) / (factor * step) >= 4)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(number * step, 12) for number in range(first, last + 1)]
