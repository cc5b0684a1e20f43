"""One palette for book, diagrams, explorers and plots: the same thing has the same colour everywhere.

Pure data and two small writers: `css` for pages and `plotly_template` for plots. Importing this module imports nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

TEMPLATE = "alignlab"
"""Name of the registered plotly template."""

FONT = '"Instrument Sans", system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
"""Font stack of plots and tables; the families that a page does not carry are skipped by the browser."""

LIGHT: dict[str, str] = {
    "ink": "#1b2330",
    "muted": "#566072",
    "faint": "#d9dee7",
    "paper": "#fbfaf7",
    "panel": "#ffffff",
    "code": "#f3f1ec",
    "accent": "#1f5fbf",
    "policy": "#2563c9",
    "reference": "#5f697d",
    "chosen": "#0a745b",
    "rejected": "#b83a27",
    "prompt": "#925a06",
    "reward": "#7c3aed",
    "value": "#0d7089",
    "kl": "#be185d",
    "warn": "#a84d08",
    "policy-soft": "#e3ecfa",
    "reference-soft": "#eceef2",
    "chosen-soft": "#dff2ec",
    "rejected-soft": "#fbe6e2",
    "prompt-soft": "#f8eed6",
    "reward-soft": "#eee6fd",
    "value-soft": "#dcf0f4",
    "kl-soft": "#fbe3ee",
}

DARK: dict[str, str] = {
    "ink": "#e7eaf0",
    "muted": "#a3adbd",
    "faint": "#2f3846",
    "paper": "#12161d",
    "panel": "#1a2029",
    "code": "#1f2630",
    "accent": "#7fb0ff",
    "policy": "#79a8ff",
    "reference": "#a3adbd",
    "chosen": "#4fd1a5",
    "rejected": "#ff8f7a",
    "prompt": "#e3b341",
    "reward": "#b99bff",
    "value": "#5cc8dd",
    "kl": "#ff8fc0",
    "warn": "#f0b35a",
    "policy-soft": "#1d2c47",
    "reference-soft": "#28303c",
    "chosen-soft": "#163529",
    "rejected-soft": "#43231e",
    "prompt-soft": "#3a2f14",
    "reward-soft": "#2e2448",
    "value-soft": "#15343b",
    "kl-soft": "#42203a",
}

ROLES: tuple[str, ...] = ("policy", "reference", "chosen", "rejected", "prompt", "reward", "value", "kl")
"""Keys that name a thing of the subject; each has a `-soft` fill."""

MIDDLE: dict[str, str] = {
    "ink": "#6f7a8c",
    "faint": "rgba(128, 138, 154, 0.28)",
    "policy": "#3f7fe6",
    "reference": "#7a8598",
    "chosen": "#12936f",
    "rejected": "#e0533c",
    "prompt": "#b17a12",
    "reward": "#8f5cf0",
    "value": "#168ba8",
    "kl": "#dc3d83",
    "warn": "#c8690f",
    "accent": "#3f7fe6",
}
"""Mid-contrast twins: at least 3:1 against both papers, for plots that cannot know the page they land on."""


def colour(role: str) -> str:
    """The CSS value of a key for inline styles: the page's variable, with a fallback for pages without our palette.

    The fallback is the mid-contrast twin, a light wash of it for `-soft` keys, and the page's own colour for text.
    """
    if role not in LIGHT:
        raise KeyError(f"the palette has no {role!r}; it has {', '.join(LIGHT)}")
    if role in ("ink", "muted"):
        fallback = "inherit"
    elif role == "code":
        fallback = "rgba(128, 138, 154, 0.12)"
    elif role.endswith("-soft"):
        fallback = wash(MIDDLE[role.removesuffix("-soft")])
    else:
        fallback = MIDDLE.get(role, "transparent")
    return f"var(--al-{role}, {fallback})"


def wash(colour: str, alpha: float = 0.14) -> str:
    """`#rrggbb` as a transparent `rgba(...)`."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {alpha})"


def _rule(selector: str, colours: Mapping[str, str], scheme: str) -> str:
    lines = "".join(f"--al-{key}:{value};" for key, value in colours.items())
    return f"{selector}{{color-scheme:{scheme};{lines}}}\n"


def css() -> str:
    """Custom properties `--al-KEY`, light and dark, by the book's `data-theme`, JupyterLab's theme or the system's.

    Paper is white, so what is printed is light. Where the system forces its colours, its scheme alone counts.
    """
    dark_pages = 'html[data-theme="dark"],body[data-jp-theme-light="false"]'
    system = _rule(":root:not([data-theme])", DARK, "dark")
    jupyter_light = _rule('body[data-jp-theme-light="true"]', LIGHT, "light")
    forced = "".join(
        f"@media (forced-colors: active) and (prefers-color-scheme: {scheme}){{\n"
        f"{_rule('html:root,body[data-jp-theme-light]', colours, scheme)}}}\n"
        for scheme, colours in (("light", LIGHT), ("dark", DARK))
    )
    return (
        _rule(":root", LIGHT, "light")
        + f"@media (prefers-color-scheme: dark){{\n{system}}}\n"
        + f"@media screen{{\n{_rule(dark_pages, DARK, 'dark')}}}\n"
        + jupyter_light
        + forced
    )


def plotly_template() -> str:
    """Registers the plotly template and returns its name.

    Transparent paper and mid-contrast colours, so that one stored figure reads on light and on dark pages.
    """
    import plotly.graph_objects as go
    import plotly.io as pio

    axis = {
        "gridcolor": MIDDLE["faint"],
        "linecolor": MIDDLE["faint"],
        "zeroline": False,
        "ticks": "",
        "automargin": True,
        "title": {"standoff": 8},
    }
    pio.templates[TEMPLATE] = go.layout.Template(
        layout={
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": [MIDDLE[role] for role in ROLES],
            "font": {"family": FONT, "size": 13, "color": MIDDLE["ink"]},
            "title": {"x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 15}},
            "xaxis": axis,
            "yaxis": axis,
            "hovermode": "x unified",
            "hoverlabel": {"font": {"family": FONT, "size": 12}},
            "legend": {
                "orientation": "h",
                "x": 0,
                "y": 1.02,
                "xanchor": "left",
                "yanchor": "bottom",
                "title": {"text": ""},
            },
            "margin": {"l": 56, "r": 16, "t": 72, "b": 48},
            "height": 340,
        }
    )
    return TEMPLATE
