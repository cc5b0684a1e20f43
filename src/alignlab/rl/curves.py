"""Learning curves of several seeds, drawn one way throughout: a line for the mean, a band for the seeds.

Knows arrays and plotly; nothing about what was learned.
"""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from alignlab import palette


def band(
    figure: go.Figure, x: Any, runs: Any, name: str, role: str = "policy", dash: str = "solid", **place: int
) -> None:
    """Add the mean over seeds as a line, and the seeds' range as a band.

    x: (T,). runs: (seeds, T). role: key of the palette. place: row and col in a figure with subplots. The band holds
    the middle 80% of the seeds (10th to 90th percentile); with fewer than 10 it reaches from the least to the most.
    """
    x, runs = np.asarray(x, dtype=np.float32), np.asarray(runs, dtype=np.float32)
    if runs.ndim != 2 or x.shape != runs.shape[1:]:
        raise ValueError(f"x is {x.shape} and runs {runs.shape}; runs must be (seeds, T) and x (T,)")
    low, high = np.percentile(runs, (10, 90), axis=0) if len(runs) >= 10 else (runs.min(0), runs.max(0))
    colour = palette.MIDDLE[role]
    figure.add_scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([high, low[::-1]]).astype(np.float32),
        fill="toself",
        fillcolor=palette.wash(colour, 0.18),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=name,
        **place,
    )
    figure.add_scatter(
        x=x,
        y=runs.mean(0),
        name=name,
        legendgroup=name,
        mode="lines",
        line={"color": colour, "dash": dash, "width": 2},
        **place,
    )
