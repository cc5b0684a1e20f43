"""The library reference, read from src/alignlab without importing it, and links between equations and code.

```{library}              what is public in the modules named, one a line; a package means all in it
```{library-index}        every module with its opening line
{code}`losses.preference.dpo_loss`     a link to an entry
```{implements} eq-dpo-loss            chips under an equation: the functions, one a line, that compute it
"""

from __future__ import annotations

import ast
import dataclasses
import re
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from .markup import escape, raw
from .project import root, store

logger = logging.getLogger(__name__)
MAX_SOURCE_LINES = 80
LABEL = re.compile(r"^([`*]*[A-Za-z_][\w, /`*.]{0,60}?):\s+(.*)$")


@dataclasses.dataclass(frozen=True)
class Item:
    """A public function or class of the library. `name` leaves out the package: losses.preference.dpo_loss."""

    name: str
    kind: str
    signature: str
    doc: str
    source: str
    members: tuple[Item, ...] = ()

    @property
    def anchor(self) -> str:
        """Its id on the reference page."""
        return "code-" + re.sub(r"[^A-Za-z0-9]+", "-", self.name).strip("-")


@dataclasses.dataclass(frozen=True)
class Module:
    """A module with its docstring and its public items."""

    name: str
    doc: str
    items: tuple[Item, ...]
    path: Path
    exports: tuple[tuple[str, str], ...] = ()
    """What a package hands on from its modules: the name under the package, and where it stands."""


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    arguments = ast.unparse(node.args)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{node.name}({arguments}){returns}"
    if len(line) <= 88:
        return line
    pieces: list[str] = []
    everything = node.args
    positional = everything.posonlyargs + everything.args
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(everything.defaults)) + list(everything.defaults)

    def argument(item: ast.arg, default: ast.expr | None, star: str = "") -> str:
        text = star + ast.unparse(item)
        return f"{text}{' = ' if item.annotation else '='}{ast.unparse(default)}" if default is not None else text

    for item, default in zip(positional, defaults, strict=True):
        pieces.append(argument(item, default))
        if everything.posonlyargs and item is everything.posonlyargs[-1]:
            pieces.append("/")
    if everything.vararg:
        pieces.append(argument(everything.vararg, None, "*"))
    elif everything.kwonlyargs:
        pieces.append("*")
    pieces += [
        argument(item, default) for item, default in zip(everything.kwonlyargs, everything.kw_defaults, strict=True)
    ]
    if everything.kwarg:
        pieces.append(argument(everything.kwarg, None, "**"))
    inside = "".join(f"    {piece},\n" for piece in pieces)
    return f"{node.name}(\n{inside}){returns}"


def _class_head(node: ast.ClassDef) -> str:
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    head = f"class {node.name}({bases})" if bases else f"class {node.name}"
    fields = [f"    {ast.unparse(child)}" for child in node.body if isinstance(child, ast.AnnAssign)]
    return "\n".join([head + (":" if fields else ""), *fields])


def _source(text: str, node: ast.stmt) -> str:
    lines = text.splitlines()
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
    return "\n".join(lines[first - 1 : node.end_lineno])


def read_module(path: Path, name: str) -> Module:
    """Read one module: public functions and classes that have a docstring, in their order."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    items = []
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        doc = ast.get_docstring(node)
        if not doc:
            continue
        dotted = f"{name}.{node.name}"
        if isinstance(node, ast.ClassDef):
            members = tuple(
                Item(f"{dotted}.{child.name}", "method", _signature(child), ast.get_docstring(child) or "", "")
                for child in node.body
                if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
                and (not child.name.startswith("_") or child.name == "__init__")
                and ast.get_docstring(child)
            )
            items.append(Item(dotted, "class", _class_head(node), doc, _source(text, node), members))
        else:
            items.append(Item(dotted, "function", "def " + _signature(node), doc, _source(text, node)))
    inner = f"alignlab.{name}."
    exports = [
        (f"{name}.{alias.asname or alias.name}", f"{(node.module or '').removeprefix('alignlab.')}.{alias.name}")
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and path.name == "__init__.py" and (node.module or "").startswith(inner)
        for alias in node.names
    ]
    return Module(name, ast.get_docstring(tree) or "", tuple(items), path, tuple(exports))


@cache
def _read_cached(path: Path, name: str, changed: int) -> Module:
    return read_module(path, name)


def modules(env: BuildEnvironment) -> dict[str, Module]:
    """Every public module of the library, by dotted name without the package."""
    folder = root(env) / "src" / "alignlab"
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = list(path.relative_to(folder).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        if parts and not any(part.startswith("_") for part in parts):
            name = ".".join(parts)
            found[name] = _read_cached(path, name, path.stat().st_mtime_ns)
    return found


def canonical(env: BuildEnvironment, name: str) -> str:
    """Where a name stands that a package hands on: decoding.top_p is decoding.sampling.top_p. Others stay."""
    package = modules(env).get(name.rpartition(".")[0])
    return dict(package.exports).get(name, name) if package else name


def paragraphs(doc: str, text_nodes: Any) -> list[nodes.Node]:
    """Docstring -> nodes: paragraphs, `name: meaning` lines as a definition list, indented blocks kept as they are.

    text_nodes turns a line of text into inline nodes. Backticks are the only markup; everything else is shown as it is.
    """
    out: list[nodes.Node] = []
    for block in re.split(r"\n\s*\n", doc.strip()):
        lines = block.splitlines()
        if all(line.startswith("    ") for line in lines):
            out.append(nodes.literal_block("", "\n".join(line[4:] for line in lines), language="text"))
            continue
        plain: list[str] = []
        fields: list[list[str]] = []
        for line in lines:
            label = LABEL.match(line)
            if label and not line.startswith(" ") and (fields or _is_label(label[1])):
                fields.append([label[1], label[2]])
            elif match := re.match(r"^(Returns|Raises|Yields)\b:?\s*(.*)$", line):
                fields.append([match[1], match[2]])
            elif fields:
                fields[-1][1] += " " + line.strip()
            else:
                plain.append(line.strip())
        if plain:
            out.append(nodes.paragraph("", "", *text_nodes(" ".join(plain))))
        if fields:
            listing = nodes.definition_list(classes=["al-fields"])
            for term, meaning in fields:
                listing += nodes.definition_list_item(
                    "",
                    nodes.term("", "", *_terms(term)),
                    nodes.definition("", nodes.paragraph("", "", *text_nodes(meaning))),
                )
            out.append(listing)
    return out


def _is_label(text: str) -> bool:
    """Whether the words before a colon are parameter names rather than the start of a sentence."""
    return all(re.fullmatch(r"[`*]*[A-Za-z_][\w.]*[`*]*", word.strip()) for word in text.split(","))


def _terms(term: str) -> list[nodes.Node]:
    if term in ("Returns", "Raises", "Yields"):
        return [nodes.Text(term)]
    out: list[nodes.Node] = []
    for word in term.split(","):
        out += [nodes.Text(", ")] if out else []
        out.append(nodes.literal("", word.strip(" `*")))
    return out


def inline(text: str) -> list[nodes.Node]:
    """Text with `code` as literals."""
    out: list[nodes.Node] = []
    for place, piece in enumerate(re.split(r"``?([^`]+)``?", text)):
        if piece:
            out.append(nodes.literal("", piece) if place % 2 else nodes.Text(piece))
    return out


class equation_links_node(nodes.General, nodes.Element):
    """On the reference page: the equations that a function implements."""


class chips_node(nodes.General, nodes.Element):
    """Under an equation: the functions that implement it."""


class Library(SphinxDirective):
    """Reference entries of some modules, each with the modules below it; a package and a colon: the package alone."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Sections for the modules named and everything in them; an unknown module is a warning."""
        known = modules(self.env)
        out: list[nodes.Node] = []
        described = store(self.env, "library").setdefault(self.env.docname, {})
        store(self.env, "live").setdefault(self.env.docname, True)
        for line in self.content:
            wanted, alone = line.strip().removesuffix(":"), line.strip().endswith(":")
            names = [name for name in known if name == wanted or (name.startswith(wanted + ".") and not alone)]
            if wanted and not names:
                logger.warning("no module %s in the library", wanted, location=self.get_location(), type="alignlab")
            for name in names:
                module = known[name]
                self.env.note_dependency(str(module.path))
                out.append(self._module(module))
                described[name] = "module-" + nodes.make_id(name)
                for item in module.items:
                    described[item.name] = item.anchor
                    described.update({member.name: member.anchor for member in item.members})
        return out

    def _module(self, module: Module) -> nodes.section:
        section = nodes.section(ids=["module-" + nodes.make_id(module.name)], names=[])
        section += nodes.title("", "", nodes.literal("", f"alignlab.{module.name}"))
        section += paragraphs(module.doc, inline)
        for item in module.items:
            section += self._item(item)
        return section

    def _item(self, item: Item) -> nodes.section:
        section = nodes.section(ids=[item.anchor], names=[], classes=["al-item"])
        section += nodes.title("", "", nodes.literal("", item.name.rpartition(".")[2]))
        section += nodes.literal_block(item.signature, item.signature, language="python", classes=["al-signature"])
        section += equation_links_node(item=item.name)
        section += paragraphs(item.doc, inline)
        for member in item.members:
            holder = nodes.container(ids=[member.anchor], classes=["al-member"])
            holder += nodes.literal_block(
                member.signature, member.signature, language="python", classes=["al-signature"]
            )
            holder += equation_links_node(item=member.name)
            holder += paragraphs(member.doc, inline)
            section += holder
        if item.source:
            section += raw("<details class='al-source'><summary>Source</summary>")
            section += nodes.literal_block(item.source, item.source, language="python")
            section += raw("</details>")
        return section


class LibraryIndex(SphinxDirective):
    """Every module with its opening line."""

    def run(self) -> list[nodes.Node]:
        """A definition list of links."""
        listing = nodes.definition_list(classes=["al-modules"])
        store(self.env, "live").setdefault(self.env.docname, True)
        for module in modules(self.env).values():
            self.env.note_dependency(str(module.path))
            opening = re.split(r"(?<=[.!?])\s|\n\n", module.doc.strip(), maxsplit=1)[0].replace("\n", " ")
            listing += nodes.definition_list_item(
                "",
                nodes.term("", "", _xref(self.env.docname, module.name)),
                nodes.definition("", nodes.paragraph("", "", *inline(opening))),
            )
        return [listing]


class Implements(SphinxDirective):
    """Links from an equation to the functions that compute it."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Note the links; they are resolved when all pages are known."""
        words = [word for line in self.content for word in line.replace(",", " ").split()]
        names = [canonical(self.env, word) for word in words]
        known = {name for module in modules(self.env).values() for item in module.items for name in _names(item)}
        for name in names:
            if name not in known:
                logger.warning(
                    "the library has no documented function %s", name, location=self.get_location(), type="alignlab"
                )
        names = [name for name in names if name in known]
        store(self.env, "implements").setdefault(self.env.docname, []).append((self.arguments[0], names))
        node = chips_node(equation=self.arguments[0], names=names)
        self.set_source_info(node)
        return [node]


def _names(item: Item) -> list[str]:
    return [item.name, *(member.name for member in item.members)]


def _xref(source: str, name: str) -> addnodes.pending_xref:
    node = addnodes.pending_xref("", refdomain="", reftype="alignlab-code", reftarget=name, refwarn=True, refdoc=source)
    node += nodes.literal("", name, classes=["al-code"])
    return node


def code_role(
    name: str, rawtext: str, text: str, lineno: int, inliner: Any, options: Any = None, content: Any = None
) -> Any:
    """{code}`losses.preference.dpo_loss`."""
    node = _xref(inliner.document.settings.env.docname, text.strip().removesuffix("()").removeprefix("alignlab."))
    node.source, node.line = inliner.document.get("source"), lineno
    return [node], []


def place(env: BuildEnvironment, name: str) -> tuple[str, str] | None:
    """(document, anchor) of an entry of the reference."""
    name = canonical(env, name)
    for document, described in store(env, "library").items():
        if name in described:
            return document, described[name]
    return None


def resolve_code(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Element
) -> nodes.Node | None:
    """Resolve a {code} role; a name that the reference does not have is a warning."""
    if node["reftype"] != "alignlab-code":
        return None
    found = place(env, node["reftarget"])
    if found is None:
        logger.warning("the library reference has no %s", node["reftarget"], location=node, type="alignlab")
        return content
    uri = app.builder.get_relative_uri(node["refdoc"], found[0]) + "#" + found[1]
    return nodes.reference("", "", content, internal=True, refuri=uri)


def _equation(app: Sphinx, docname: str, label: str) -> nodes.Node | None:
    node = addnodes.pending_xref("", refdomain="math", reftype="eq", reftarget=label, refdoc=docname)
    domain = app.env.get_domain("math")
    resolved: nodes.Node | None = domain.resolve_xref(
        app.env, docname, app.builder, "eq", label, node, nodes.literal("", label)
    )
    return resolved


def fill(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Resolve the links between equations and functions on one page."""
    for node in list(doctree.findall(chips_node)):
        if _equation(app, docname, node["equation"]) is None:
            logger.warning("no equation labelled %s", node["equation"], location=node, type="alignlab")
        links = []
        for name in node["names"]:
            document, anchor = place(app.env, name) or (docname, "")
            uri = app.builder.get_relative_uri(docname, document) + "#" + anchor
            links.append(f'<a class="reference internal al-chip" href="{uri}"><code>{escape(name)}</code></a>')
        node.replace_self(raw(f'<p class="al-implements"><span>In code:</span> {" ".join(links)}</p>'))
    for node in list(doctree.findall(equation_links_node)):
        labels = [
            label for pairs in store(app.env, "implements").values() for label, names in pairs if node["item"] in names
        ]
        references = [reference for label in labels if (reference := _equation(app, docname, label)) is not None]
        if not references:
            node.parent.remove(node)
            continue
        line = nodes.paragraph("", "Implements equation ", classes=["al-implements"])
        for number, reference in enumerate(references):
            if number:
                line += nodes.Text(", ")
            line += reference
        node.replace_self(line)


def check_complete(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of a public module that no reference page describes."""
    described = {name for names in store(env, "library").values() for name in names}
    for name, module in modules(env).items():
        if described and module.items and name not in described:
            logger.warning(
                "module %s stands on no page of the library reference", name, type="alignlab", subtype="library"
            )


def setup(app: Sphinx) -> None:
    """Register directives, the role and the handlers."""
    for node in (chips_node, equation_links_node):
        app.add_node(node)
    app.add_directive("library", Library)
    app.add_directive("library-index", LibraryIndex)
    app.add_directive("implements", Implements)
    app.add_role("code", code_role, override=True)
    app.connect("missing-reference", resolve_code)
    app.connect("doctree-resolved", fill)
    app.connect("env-check-consistency", check_complete)
