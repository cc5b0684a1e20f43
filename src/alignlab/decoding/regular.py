"""Regular expressions as automata over bytes: pattern -> syntax tree -> NFA (Thompson) -> DFA (subset construction).

Knows UTF-8; nothing about tokens, models or JSON. Bytes, since that is what the tokens of a byte-level vocabulary are
made of: a token may end in the middle of a character.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn

import numpy as np

Ranges = tuple[tuple[int, int], ...]
"""A set of characters: inclusive ranges of code points, in order."""

LAST = 0x10FFFF
MOST_COPIES = 1_000


@dataclass(frozen=True)
class Chars:
    """One character out of a set."""

    ranges: Ranges


@dataclass(frozen=True)
class Then:
    """All parts, one after the other; no parts are the empty text."""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True)
class Either:
    """One of the parts."""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True)
class Repeat:
    """A part at least `least` times, at most `most` times (None: without end)."""

    part: "Node"
    least: int
    most: int | None


Node = Chars | Then | Either | Repeat


def chars(*ranges: tuple[int, int]) -> Chars:
    """The union of ranges of code points, without the surrogates, which no UTF-8 text holds."""
    valid = [piece for low, high in ranges for piece in ((low, min(high, 0xD7FF)), (max(low, 0xE000), high))]
    merged: list[tuple[int, int]] = []
    for low, high in sorted(piece for piece in valid if piece[0] <= piece[1]):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return Chars(tuple(merged))


def others(node: Chars) -> Chars:
    """Every character that is not in the set."""
    starts = [0, *(high + 1 for _, high in node.ranges)]
    ends = [*(low - 1 for low, _ in node.ranges), LAST]
    return chars(*((low, high) for low, high in zip(starts, ends, strict=True) if low <= high))


def common(a: Chars, b: Chars) -> Chars:
    """The characters that are in both sets."""
    return others(chars(*others(a).ranges, *others(b).ranges))


ANY = others(chars((10, 10)))
_DIGIT, _SPACE = chars((48, 57)), chars((9, 13), (32, 32))
_WORD = chars((48, 57), (65, 90), (95, 95), (97, 122))
_CLASSES = {"d": _DIGIT, "s": _SPACE, "w": _WORD} | {
    name.upper(): others(known) for name, known in (("d", _DIGIT), ("s", _SPACE), ("w", _WORD))
}
_CONTROLS = {"n": 10, "r": 13, "t": 9, "f": 12, "v": 11, "0": 0}


def parse(pattern: str) -> Node:
    """The syntax tree of a pattern that has to match a whole text (^ and $ at its ends are allowed and mean nothing).

    Covered: literals, `.` (all but a line break), `[a-z]`, `[^"]`, `\\d \\w \\s` and their opposites (ASCII),
    `\\n \\t \\xHH \\uHHHH`, groups, `|`, `? * + {m} {m,} {m,n}`. ValueError, with the place, for anything else.
    """
    body = pattern.removeprefix("^")
    if body.endswith("$") and (len(body) - len(body[:-1].rstrip("\\"))) % 2 == 1:
        body = body[:-1]
    parser = _Parser(body)
    node = parser.alternatives()
    if parser.at < len(body):
        parser.refuse("a ')' without its '('")
    return node


class _Parser:
    """Recursive descent over a pattern; `at` is the next character."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.at = pattern, 0

    def refuse(self, what: str) -> NoReturn:
        raise ValueError(f"the pattern {self.pattern!r} has {what} at character {self.at + 1}")

    def peek(self) -> str:
        return self.pattern[self.at : self.at + 1]

    def take(self, text: str) -> bool:
        if self.pattern.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def alternatives(self) -> Node:
        parts = [self.sequence()]
        while self.take("|"):
            parts.append(self.sequence())
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def sequence(self) -> Node:
        parts: list[Node] = []
        while self.peek() not in ("", "|", ")"):
            parts.append(self.repeated(self.atom()))
        return parts[0] if len(parts) == 1 else Then(tuple(parts))

    def repeated(self, node: Node) -> Node:
        while self.peek() and self.peek() in "?*+{":
            start = self.at
            if self.take("{"):
                inside, closed, _ = self.pattern[self.at :].partition("}")
                first, comma, last = inside.partition(",")
                if not closed or not first.isdecimal() or not (last.isdecimal() or last == ""):
                    self.refuse("a '{' that is no {m}, {m,} or {m,n} (for the character write \\{)")
                least, most = int(first), (int(last) if last else None) if comma else int(first)
                self.at += len(inside) + 1
            else:
                least, most = {"?": (0, 1), "*": (0, None), "+": (1, None)}[self.peek()]
                self.at += 1
            if most is not None and most < least:
                self.at = start
                self.refuse(f"a repetition of at least {least} and at most {most} times, which nothing satisfies,")
            if max(least, most or 0) > MOST_COPIES:
                self.refuse(f"a repetition of more than {MOST_COPIES} times")
            if self.peek() and self.peek() in "?+":
                self.refuse("a lazy or possessive repetition, which says nothing about whole texts,")
            node = Repeat(node, least, most)
        return node

    def atom(self) -> Node:
        if self.take("("):
            if self.take("?") and not self.take(":"):
                self.refuse("a group '(?...' that is not '(?:'; lookaround, flags and names are not regular here,")
            node = self.alternatives()
            if not self.take(")"):
                self.refuse("a '(' without its ')'")
            return node
        if self.take("["):
            return self.one_of()
        if self.take("."):
            return ANY
        if self.take("\\"):
            return self.escaped()
        if self.peek() in "?*+{":
            self.refuse(f"a {self.peek()!r} with nothing to repeat")
        if self.peek() in "^$":
            self.refuse(f"a {self.peek()!r} that is not at the pattern's end; a pattern matches a whole text")
        self.at += 1
        return chars((ord(self.pattern[self.at - 1]),) * 2)

    def escaped(self) -> Chars:
        name = self.peek()
        self.at += 1
        if name in _CLASSES:
            return _CLASSES[name]
        if name in _CONTROLS:
            return chars((_CONTROLS[name],) * 2)
        if name in ("x", "u"):
            digits = self.pattern[self.at : self.at + (2 if name == "x" else 4)]
            if len(digits) != (2 if name == "x" else 4) or not set(digits) <= set("0123456789abcdefABCDEF"):
                self.refuse(f"a \\{name} without its hexadecimal digits")
            self.at += len(digits)
            return chars((int(digits, 16),) * 2)
        if name == "" or name.isalnum():
            self.refuse(f"an unknown escape \\{name}")
        return chars((ord(name),) * 2)

    def one_of(self) -> Chars:
        negated, first = self.take("^"), True
        ranges: list[tuple[int, int]] = []
        while first or self.peek() != "]":
            if not self.peek():
                self.refuse("a '[' without its ']'")
            first, low = False, self.member()
            if self.peek() == "-" and self.pattern[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                high = self.member()
                if len(low) != 1 or len(high) != 1 or low[0][0] > high[-1][1]:
                    self.refuse("a range that runs backwards or from a class")
                low = ((low[0][0], high[0][1]),)
            ranges += low
        self.at += 1
        found = chars(*ranges)
        return others(found) if negated else found

    def member(self) -> Ranges:
        if self.take("\\"):
            return self.escaped().ranges
        self.at += 1
        return ((ord(self.pattern[self.at - 1]),) * 2,)


def written(node: Node) -> str:
    """A pattern of the same meaning, which `parse` and other engines read."""
    match node:
        case Chars(ranges):
            if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
                return _written_char(ranges[0][0])
            sign, shown = ("^", others(node).ranges) if ranges and ranges[-1][1] == LAST else ("", ranges)
            pieces = (_written_char(low) + ("" if low == high else f"-{_written_char(high)}") for low, high in shown)
            return f"[{sign}{''.join(pieces)}]"
        case Then(parts):
            return "".join(f"({written(part)})" if isinstance(part, Either) else written(part) for part in parts)
        case Either(parts):
            return "|".join(map(written, parts))
        case Repeat(part, least, most):
            inner = written(part) if isinstance(part, Chars) else f"({written(part)})"
            usual = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((least, most))
            upto = "" if most == least else "," if most is None else f",{most}"
            return inner + (usual or f"{{{least}{upto}}}")


def _written_char(code: int) -> str:
    character = chr(code)
    if character.isascii() and (character.isalnum() or character in " \"%&',/:;<=>@_`!#~"):
        return character
    if code == 10:
        return "\\n"
    if 32 < code < 127:
        return f"\\{character}"
    return (
        f"\\x{code:02x}"
        if code < 128
        else character
        if character.isprintable()
        else f"\\u{code:04x}"
        if code < 0x10000
        else character
    )


def _spelled(low: int, high: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """The code points low..high in UTF-8, as sequences of ranges of bytes."""
    for first, last in ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, LAST)):
        a, b = max(low, first), min(high, last)
        if a <= b:
            yield from _between(chr(a).encode(), chr(b).encode())


def _between(a: bytes, b: bytes) -> Iterator[tuple[tuple[int, int], ...]]:
    """All encodings from a to b, two encodings of one length, as sequences of ranges of bytes."""
    if len(a) == 1:
        yield ((a[0], b[0]),)
        return
    if a[0] == b[0]:
        yield from (((a[0], a[0]), *rest) for rest in _between(a[1:], b[1:]))
        return
    least, most, first, last = b"\x80" * (len(a) - 1), b"\xbf" * (len(a) - 1), a[0], b[0]
    if a[1:] != least:
        yield from (((first, first), *rest) for rest in _between(a[1:], most))
        first += 1
    if b[1:] != most:
        last -= 1
    if first <= last:
        yield ((first, last), *(((0x80, 0xBF),) * (len(a) - 1)))
    if b[1:] != most:
        yield from (((b[0], b[0]), *rest) for rest in _between(least, b[1:]))


class NFA:
    """Thompson's construction (1968): a nondeterministic automaton with edges on ranges of bytes, and free edges."""

    def __init__(self, node: Node) -> None:
        self.edges: list[list[tuple[int, int, int]]] = []
        self.free: list[list[int]] = []
        self.start = self._state()
        self.end = self._add(node, self.start)

    def _state(self) -> int:
        self.edges.append([])
        self.free.append([])
        return len(self.edges) - 1

    def _add(self, node: Node, start: int) -> int:
        """Build what `node` matches from `start`; return the state where it ends."""
        match node:
            case Chars(ranges):
                end = self._state()
                for sequence in (spelled for low, high in ranges for spelled in _spelled(low, high)):
                    at = start
                    for i, (low, high) in enumerate(sequence):
                        to = end if i == len(sequence) - 1 else self._state()
                        self.edges[at].append((low, high, to))
                        at = to
                return end
            case Then(parts):
                for part in parts:
                    start = self._add(part, start)
                return start
            case Either(parts):
                end = self._state()
                for part in parts:
                    first = self._state()
                    self.free[start].append(first)
                    self.free[self._add(part, first)].append(end)
                return end
            case Repeat(part, least, most):
                for _ in range(least):
                    start = self._add(part, start)
                if most is None:
                    loop, end = self._state(), self._state()
                    self.free[start].append(loop)
                    self.free[self._add(part, loop)].append(loop)
                    self.free[loop].append(end)
                    return end
                end = self._state()
                for _ in range(most - least):
                    self.free[start].append(end)
                    start = self._add(part, start)
                self.free[start].append(end)
                return end

    def reached(self, states: Iterable[int]) -> frozenset[int]:
        """The states that free edges lead to from these, these included."""
        found, todo = set(states), list(states)
        while todo:
            for to in self.free[todo.pop()]:
                if to not in found:
                    found.add(to)
                    todo.append(to)
        return frozenset(found)


@dataclass(frozen=True, eq=False)
class DFA:
    """A deterministic automaton over bytes. State 0 is the start; each state can still reach an accepting one.

    table: (states, 256) next state, -1 where no match can follow. accepting: (states,) whether a match may end there.
    """

    table: np.ndarray
    accepting: np.ndarray

    @property
    def states(self) -> int:
        """How many states there are."""
        return len(self.table)

    def run(self, text: str | bytes, state: int = 0) -> int:
        """The state after the text, -1 where no match begins with it."""
        for byte in text.encode() if isinstance(text, str) else text:
            if state >= 0:
                state = int(self.table[state, byte])
        return state

    def accepts(self, text: str | bytes) -> bool:
        """Whether the whole text matches."""
        state = self.run(text)
        return state >= 0 and bool(self.accepting[state])


def compile_regex(pattern: str | Node) -> DFA:
    """The smallest DFA over bytes that accepts exactly the UTF-8 texts that match the pattern as a whole.

    ValueError for syntax that `parse` does not cover, and where no text at all matches.
    """
    nfa = NFA(parse(pattern) if isinstance(pattern, str) else pattern)
    names = {nfa.reached([nfa.start]): 0}
    rows, todo = [], list(names)
    for states in todo:  # grows while it is walked through
        row = np.full(256, -1, dtype=np.int32)
        edges = [edge for state in states for edge in nfa.edges[state]]
        cuts = sorted({0, 256, *(low for low, _, _ in edges), *(high + 1 for _, high, _ in edges)})
        for low, stop in pairwise(cuts):  # between two cuts all bytes behave alike
            target = nfa.reached({to for first, last, to in edges if first <= low <= last})
            if target:
                if target not in names:
                    names[target] = len(names)
                    todo.append(target)
                row[low:stop] = names[target]
        rows.append(row)
    dfa = _smallest(np.stack(rows), np.array([nfa.end in states for states in todo]))
    if dfa is None:
        raise ValueError(f"nothing matches the pattern {pattern!r}; a constraint needs at least one text that fits")
    return dfa


def _smallest(table: np.ndarray, accepting: np.ndarray) -> DFA | None:
    """Without states that lead nowhere, and with states that no text tells apart made one (Moore's partitions)."""
    alive = accepting
    while (more := alive | ((table >= 0) & alive[table]).any(1)).sum() > alive.sum():
        alive = more
    if not alive[0]:
        return None
    number = np.where(alive, alive.cumsum() - 1, -1)
    table = np.where(table >= 0, number[table], -1)[alive]
    accepting = accepting[alive]
    columns = np.unique(table, axis=1)  # bytes that all states treat alike need looking at once
    kinds, kind = 0, accepting.astype(np.int32)
    while (now := len(np.unique(kind))) > kinds:
        kinds = now
        seen = np.column_stack([kind, np.where(columns >= 0, kind[columns], -1)]).astype(np.int32)
        numbers: dict[bytes, int] = {}
        kind = np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in seen], dtype=np.int32)
    first: dict[int, int] = {}  # kind -> one state of it, in the order in which a walk from the start meets them
    todo = [0]
    for state in todo:
        if int(kind[state]) not in first:
            first[int(kind[state])] = state
            todo += [int(to) for to in dict.fromkeys(table[state].tolist()) if to >= 0]
    order = np.full(kind.max() + 1, -1, dtype=np.int32)
    order[list(first)] = np.arange(len(first))
    picked = list(first.values())
    return DFA(np.where(table >= 0, order[kind[table]], -1)[picked].astype(np.int32), accepting[picked])
