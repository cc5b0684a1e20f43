"""What a lab puts on the page: outputs replaced in place, live curves and tables; in Jupyter, Colab and a terminal."""

import base64
import itertools
import json
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from alignlab import palette, sketch

Bundle = dict[str, Any]
"""MIME type -> content; every bundle has text/plain, which a terminal prints."""

PLOTLY = "application/vnd.plotly.v1+json"
_DASHES = {"solid": "none", "dash": "9 7", "dot": "2 5", "dashdot": "9 5 2 5"}
"""plotly's name -> SVG's."""
_TEXT_WIDTH = 100


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code (JupyterLab, Colab, VS Code, nbclient)."""
    return getattr(_shell(), "kernel", None) is not None


def cell() -> int | None:
    """The number of the execution under way in IPython; None elsewhere."""
    shell = _shell()
    return None if shell is None else int(shell.execution_count)


def _shell() -> Any:
    ipython = sys.modules.get("IPython")  # not imported: nothing to ask
    return None if ipython is None else ipython.get_ipython()


def line(text: str) -> Bundle:
    """One line of text that wraps on a narrow page."""
    style = f"margin:.25em 0;font-family:{escape(palette.FONT)};font-size:.9rem;color:{palette.colour('muted')}"
    return {"text/html": f'<p style="{style}">{escape(text)}</p>', "text/plain": text}


def show(bundle: Bundle) -> None:
    """Display a bundle once."""
    Output().update(bundle, final=True)


class Output:
    """One output that is replaced in place by its display id; a terminal prints its final text only."""

    def __init__(self) -> None:
        self._id = ""

    def update(self, bundle: Bundle, final: bool = False) -> None:
        if not in_notebook():
            if final:
                print(bundle["text/plain"])
            return
        from IPython.display import display, update_display

        if self._id:
            update_display(bundle, raw=True, display_id=self._id)
        else:
            self._id = uuid.uuid4().hex
            display(bundle, raw=True, display_id=self._id)


def figure(fig: Any, text: str = "") -> Bundle:
    """A plotly figure as a bundle: our template, float32 arrays, no JavaScript inside.

    text: what the figure shows, for those who cannot see it; default: its title.
    Raises TypeError for a FigureWidget, which would put 5 MB into the notebook.
    """
    if "Widget" in type(fig).__name__:
        raise TypeError("a FigureWidget cannot be kept in a notebook; pass a plotly Figure")
    fig.update_layout(template=palette.plotly_template())
    for trace in fig.data:
        for key in ("x", "y", "z"):
            values = getattr(trace, key, None)
            if isinstance(values, tuple | list) and np.asarray(values).dtype.kind == "f":
                trace[key] = np.asarray(values, dtype=np.float32)
    text = text or fig.layout.title.text or "a figure"
    fig.update_layout(meta={"description": text})
    bundle: Bundle = {PLOTLY: _single(json.loads(fig.to_json())), "text/plain": text}
    if "google.colab" in sys.modules:  # Colab shows no plotly JSON
        bundle["text/html"] = fig.to_html(include_plotlyjs="cdn", full_html=False)
    return bundle


def _single(part: Any) -> Any:
    """The figure's JSON with its float64 arrays as float32: half the bytes, no visible difference."""
    if isinstance(part, list):
        return [_single(item) for item in part]
    if not isinstance(part, dict):
        return part
    if part.get("dtype") == "f8" and "bdata" in part:
        numbers = np.frombuffer(base64.b64decode(part["bdata"]), dtype="<f8").astype("<f4")
        return part | {"dtype": "f4", "bdata": base64.b64encode(numbers.tobytes()).decode()}
    return {key: _single(value) for key, value in part.items()}


class Curve:
    """A chart that grows while a loop runs, as a sketch, and stays as one plotly figure.

    lines: the names of its lines; a mapping gives each one its palette role.
    log: whether the y axis is logarithmic.
    """

    def __init__(
        self, title: str, x: str, y: str, lines: Sequence[str] | Mapping[str, str] = ("loss",), log: bool = False
    ) -> None:
        self.title, self.x, self.y, self.log = title, x, y, log
        names = list(lines)
        roles = list(lines.values()) if isinstance(lines, Mapping) else _roles(names)
        if unknown := set(roles) - set(palette.MIDDLE):
            raise ValueError(f"no palette role {', '.join(sorted(unknown))}; roles are {', '.join(palette.ROLES)}")
        self._roles = dict(zip(names, roles, strict=True))
        self._points: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
        self._dashes = dict(zip(names, itertools.cycle(_DASHES), strict=False))
        self._output, self._cell, self._drawn, self._final = Output(), cell(), 0.0, False

    def add(self, line: str, x: float, y: Any) -> None:
        """Append a point; y may be a tensor of one element. A point at an earlier x replaces what came after it."""
        if line not in self._points:
            raise KeyError(f"the curve {self.title!r} has no line {line!r}; it has {', '.join(self._points)}")
        xs, ys = self._points[line]
        while xs and xs[-1] >= x:
            del xs[-1], ys[-1]
        xs.append(float(x))
        ys.append(float(y))
        self.refresh()

    def refresh(self, at_once: bool = False) -> None:
        """Redraw the sketch in place, where there is a page; at most a few times a second unless at once."""
        if in_notebook() and (at_once or time.monotonic() - self._drawn >= 0.3):
            self._place().update(self._sketch())
            self._drawn, self._final = time.monotonic(), False

    def show(self) -> None:
        """Leave the figure as it is now: in place if this cell already shows it, else here."""
        output = self._place()
        if not in_notebook():
            output.update({"text/plain": self.describe()}, final=True)
            return
        if self._final:  # JupyterLab keeps the figure it has unless something else stood there in between
            output.update(self._sketch())
        output.update(figure(self.figure(), self.describe()), final=True)
        self._final = True

    def latest(self) -> str:
        """The last value of each line, in words."""
        return ", ".join(f"{name} {ys[-1]:.3g}" for name, (_, ys) in self._points.items() if ys)

    def describe(self) -> str:
        """What the chart shows, in words."""
        parts = [
            f"{name} from {ys[0]:.3g} at {xs[0]:g} to {ys[-1]:.3g} at {xs[-1]:g}"
            for name, (xs, ys) in self._points.items()
            if ys
        ]
        return f"{self.title}: {self.y} by {self.x}; {'; '.join(parts) or 'no points yet'}."

    def state_dict(self) -> dict[str, list[list[float]]]:
        return {name: [list(xs), list(ys)] for name, (xs, ys) in self._points.items()}

    def load_state_dict(self, points: Mapping[str, Sequence[Sequence[float]]]) -> None:
        self._points = {name: (list(points[name][0]), list(points[name][1])) for name in self._points}

    def figure(self) -> Any:
        """The chart as a plotly Figure."""
        import plotly.graph_objects as go

        fig = go.Figure()
        for name, (xs, ys) in self._points.items():
            fig.add_scatter(
                x=np.array(xs, dtype=np.float32),
                y=np.array(ys, dtype=np.float32),
                name=name,
                mode="lines+markers" if len(xs) < 30 else "lines",
                line={"color": palette.MIDDLE[self._roles[name]], "width": 2.5, "dash": self._dashes[name]},
                showlegend=True,
                hovertemplate="%{y:.4g}",
            )
        fig.update_layout(title=self.title, xaxis_title=self.x, yaxis_title=self.y)
        return fig.update_yaxes(type="log" if self.log else "linear")

    def _place(self) -> Output:
        if cell() != self._cell:  # a new cell shows the curve anew
            self._output, self._cell, self._final = Output(), cell(), False
        return self._output

    def _sketch(self) -> Bundle:
        lines = [(name, self._roles[name], _DASHES[self._dashes[name]], *self._points[name]) for name in self._points]
        html = sketch.line_chart(self.title, self.x, self.y, lines, self.log)
        return {"text/html": html, "text/plain": self.describe()}


def _roles(names: Sequence[str]) -> list[str]:
    """A palette role for each name: its own where it is one, else the next that is free."""
    free = [role for role in palette.ROLES if role not in names]
    return [name if name in palette.ROLES else free.pop(0) if free else "ink" for name in names]


def table(
    rows: Sequence[Sequence[Any] | Mapping[str, Any]],
    columns: Sequence[str] | Mapping[str, str],
    caption: str = "",
    mark: str | Sequence[str] = (),
) -> Bundle:
    """A table as HTML that assistive technology can read, and as text.

    rows: one sequence or mapping per row; its first entry names the row.
    columns: headings; a mapping gives each one its palette role or "".
    mark: words to mark wherever they stand.
    Raises ValueError for a row of another length.
    """
    headings = list(columns)
    roles = list(columns.values()) if isinstance(columns, Mapping) else [_column_role(name) for name in headings]
    cells = [[row[name] for name in headings] if isinstance(row, Mapping) else list(row) for row in rows]
    for row in cells:
        if len(row) != len(headings):
            raise ValueError(f"the row {row} has {len(row)} entries for {len(headings)} columns: {', '.join(headings)}")
    caption = caption or ", ".join(headings)
    words = [mark] if isinstance(mark, str) else list(mark)
    return {
        "text/html": _html_table(cells, headings, roles, caption, words),
        "text/plain": _text_table([[_text(value) for value in row] for row in cells], headings, caption),
    }


def _column_role(heading: str) -> str:
    known = {"before": "reference", "after": "policy", **{role: role for role in palette.ROLES}}
    return known.get(heading.lower().split(" ")[0], "")


def _html_table(
    cells: Sequence[Sequence[Any]], headings: Sequence[str], roles: Sequence[str], caption: str, mark: Sequence[str]
) -> str:
    line = f"1px solid {palette.colour('faint')}"
    common = "padding:.5em .75em;vertical-align:top;white-space:normal;border:0;"
    common += f"border-bottom:{line};"

    def style(column: int, heading: bool = False) -> str:
        numbers = bool(cells) and all(isinstance(row[column], int | float) for row in cells)
        align = "text-align:right;font-variant-numeric:tabular-nums;" if numbers else "text-align:left;"
        if not numbers and not heading:
            align += "overflow-wrap:anywhere;"
        role = roles[column]
        if heading and role:
            return common + align + f"border-bottom:3px solid {palette.colour(role)};"
        return common + align + (f"background:{palette.colour(role + '-soft')};" if role and not heading else "")

    head = "".join(
        f'<th scope="col" style="{style(i, True)}font-weight:600">{escape(name)}</th>'
        for i, name in enumerate(headings)
    )
    body = ""
    for row in cells:
        name, rest = escape(_text(row[0])), [_marked(_text(value), mark) for value in row[1:]]
        body += '<tr style="background:transparent">'
        body += f'<th scope="row" style="{style(0)}min-width:5em;font-weight:500">{name}</th>'
        body += "".join(f'<td style="{style(i)}">{text}</td>' for i, text in enumerate(rest, 1)) + "</tr>"
    return (
        f'<table style="width:100%;max-width:60em;margin:.75em 0;border-collapse:collapse;border:0;table-layout:auto;'
        f'font-family:{escape(palette.FONT)};font-size:.9rem;line-height:1.45;color:{palette.colour("ink")}">'
        f'<caption style="caption-side:top;text-align:left;padding:0 0 .4em;color:{palette.colour("muted")}">'
        f"{escape(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _marked(text: str, words: Sequence[str]) -> str:
    html = escape(text)
    style = f"background:{palette.colour('chosen-soft')};color:inherit;font-weight:600;border-radius:3px;padding:0 .2em"
    for word in words:
        html = html.replace(escape(word), f'<mark style="{style}">{escape(word)}</mark>') if word else html
    return html


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _text_table(cells: Sequence[Sequence[str]], headings: Sequence[str], caption: str) -> str:
    """Columns side by side where they fit, else one entry a line."""
    widths = [max(len(row[i]) for row in [headings, *cells]) for i in range(len(headings))]
    if sum(widths) + 2 * len(widths) <= _TEXT_WIDTH:
        lines = [
            "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip() for row in cells
        ]
        header = "  ".join(name.ljust(width) for name, width in zip(headings, widths, strict=True)).rstrip()
        return "\n".join([caption, header, "  ".join("-" * width for width in widths), *lines])
    lines = [caption]
    for row in cells:
        lines.append(f"{headings[0]}: {row[0]}")
        lines += [f"  {name}: {value}" for name, value in zip(headings[1:], row[1:], strict=True)]
    return "\n".join(lines)
