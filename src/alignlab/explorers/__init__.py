"""Figures that readers can work with: one JavaScript file each, the same in a book page and in a notebook.

Knows how to hand out the files and how to show one; nothing about what is in them. No kernel, no network is needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any

from alignlab import palette
from alignlab.explorers import smollm2_merges, tiny_weights

NAMES = (
    "algorithm_map",
    "attention_heads",
    "bandit_race",
    "beam_tree",
    "clip_table",
    "cot_cost",
    "decoding",
    "dpo",
    "grammar_mask",
    "gridworld",
    "model_tour",
    "overoptimization",
    "parameter_counter",
    "policy_field",
    "preference_funnel",
    "preference_losses",
    "retrieval_space",
    "return_distribution",
    "rope",
    "scaling_planner",
    "speculative",
    "td_weights",
    "timeline",
    "tiny_live",
    "tokenizer",
)
PARTS = {"tiny_live": ("tiny_engine.js",)}  # scripts that an explorer is built on, beside core.js
STATICS: dict[str, dict[str, Callable[[], Any]]] = {
    "tiny_live": {"tiny_weights": tiny_weights.tiny},
    "tokenizer": {"smollm2_merges": smollm2_merges.packed},
}
EXPLORER_MIME = "application/vnd.alignlab.explorer+json"
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"


def names() -> tuple[str, ...]:
    """The explorers there are; `name` is the custom element `<alignlab-name>`."""
    return NAMES


@cache
def script(name: str) -> str:
    """The classic script that defines `<alignlab-name>`: safe to load twice, safe inside a `<script>` element."""
    _known(name)
    sheet = json.dumps(_read("explorer.css") + _read_if_any(f"{name}.css"))
    parts = "\n".join(_read(file) for file in ("core.js", *PARTS.get(name, ()), f"{name}.js"))
    body = f'(() => {{\n"use strict";\nconst SHEET = {sheet};\n{parts}\n}})();\n'
    if "</script" in body.lower():
        raise ValueError(
            f"the script of {name!r} holds '</script', which would end the element it is put in; write '<\\/script'"
        )
    return body


def statics(name: str) -> dict[str, str]:
    """Data of an explorer that are too large for a page: classic scripts by file name, loaded when they are needed.

    They stand beside the explorer's own script. In a notebook the kernel sends the same data when it is asked: no
    output and no saved widget state holds them.
    """
    _known(name)
    return {f"{key}.js": _static(key, make) for key, make in STATICS.get(name, {}).items()}


@cache
def _static(key: str, make: Callable[[], Any]) -> str:
    data = json.dumps(make(), separators=(",", ":"), ensure_ascii=True).replace("</", "<\\/")
    return f"(globalThis.alignlabStatics ||= {{}})[{json.dumps(key)}] = {data};\n"


def style() -> str:
    """The page's own few rules around explorers: they keep an explorer's place until its script has run."""
    return _read("host.css").replace("EXPLORERS", ", ".join(f"alignlab-{name}" for name in NAMES))


def packed(data: Any) -> Any:
    """The same data for a page, each list of three or more like objects as a table that says its keys once.

    A table is {"@columns": keys, "@rows": values by row}; core.js reads it back as the list it was.
    """
    if isinstance(data, dict):
        return {key: packed(value) for key, value in data.items()}
    if not isinstance(data, list):
        return data
    alike = len(data) >= 3 and all(isinstance(item, dict) and item.keys() == data[0].keys() for item in data)
    if not alike or not data[0]:
        return [packed(item) for item in data]
    return {"@columns": list(data[0]), "@rows": [[packed(item[key]) for key in data[0]] for item in data]}


def show(name: str, data: dict[str, Any]) -> Shown:
    """An explorer as a cell's output: live in Jupyter and Colab, and the very same element in the built book.

    data: what the explorer draws (see its lab). TypeError if JSON cannot hold it, KeyError for an unknown name.
    """
    _known(name)
    try:
        json.dumps(data, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"the data of explorer {name!r} cannot be written as JSON: {error}") from error
    return Shown(name, data)


class Shown:
    """What a cell shows: the same explorer under two MIME types."""

    def __init__(self, name: str, data: dict[str, Any]) -> None:
        self.name = name
        self.data = data

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = {
            "text/plain": f"Explorer {self.name!r}: open this notebook in Jupyter or in the book to use it.",
            EXPLORER_MIME: {"name": self.name, "data": self.data},
        }
        view = _widget_view(self.name, self.data)
        return bundle | ({WIDGET_MIME: view} if view else {})


def module(name: str) -> str:
    """The same script as an ES module with anywidget's `render`, made around the text of `script(name)`."""
    return (
        f"{script(name)}\n"
        "export default { render({ model, el }) {\n"
        f'  const explorer = document.createElement("alignlab-{name}");\n'
        "  explorer.bring = (name) => new Promise((resolve) => {\n"
        "    const hear = (message) => {\n"
        "      if (message.brought !== name) return;\n"
        '      model.off("msg:custom", hear);\n'
        "      resolve(message.data);\n"
        "    };\n"
        '    model.on("msg:custom", hear);\n'
        "    model.send({ bring: name });\n"
        "  });\n"
        '  explorer.data = model.get("data");\n'
        '  model.on("change:data", () => { explorer.data = model.get("data"); });\n'
        "  el.append(explorer);\n"
        "} };\n"
    )


@cache
def _widget_class(name: str) -> type:
    """The anywidget class of one explorer, made when it is first shown."""
    import anywidget
    import traitlets

    members = {"_esm": module(name), "_css": palette.css() + style(), "data": traitlets.Dict().tag(sync=True)}
    return type(f"{name.title()}Explorer", (anywidget.AnyWidget,), members)


def _widget_view(name: str, data: dict[str, Any]) -> dict[str, Any] | None:
    """The live half of the output; None where anywidget is not installed."""
    try:
        widget = _widget_class(name)(data=data)
    except ImportError:
        return None
    widget.on_msg(lambda asked, content, buffers: _answer(asked, name, content))
    bundle = widget._repr_mimebundle_()
    parts = bundle[0] if isinstance(bundle, tuple) else bundle
    return parts.get(WIDGET_MIME) if parts else None


def _answer(widget: Any, name: str, content: Any) -> None:
    """Send the large data that a widget asks for by {"bring": key}: a message, which is in no state and no output."""
    wanted = content.get("bring") if isinstance(content, dict) else None
    make = STATICS.get(name, {}).get(str(wanted))
    if make is not None:
        widget.send({"brought": wanted, "data": make()})


def _known(name: str) -> None:
    if name not in NAMES:
        raise KeyError(f"there is no explorer {name!r}; there are {', '.join(NAMES)}")


@cache
def _read(file: str) -> str:
    return (resources.files(__package__) / file).read_text(encoding="utf-8")


def _read_if_any(file: str) -> str:
    found = resources.files(__package__) / file
    return found.read_text(encoding="utf-8") if found.is_file() else ""
