"""Structured generation: which tokens may come next, so that the whole answer matches a pattern or a JSON schema.

Knows a tokenizer's bytes, automata and JSON schemas; nothing about models. Everything that it lets through is valid;
not every valid document is let through (keys stand in the schema's order, spaces are fixed).
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import count
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from alignlab.bpe import BYTE, bytes_of
from alignlab.decoding.regular import (
    DFA,
    Chars,
    Either,
    Node,
    Repeat,
    Then,
    chars,
    common,
    compile_regex,
    others,
    parse,
    written,
)

Schema = Mapping[str, Any]
Style = Literal["json", "yaml"]
DONE = -1
"""The state after the end token: nothing but the end token may follow."""


# -- a vocabulary as bytes ----------------------------------------------------------------------------------------


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> list[bytes | None]:
    """What each token id writes, as bytes; None for special tokens, which write nothing whatever they are called.

    A byte-level token may be a piece of a character, which has no text of its own. ValueError for other tokenizers.
    """
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = set(tokenizer.added_tokens_decoder)
    found: list[bytes | None] = []
    for i, name in enumerate(names):
        if i in special or not name:
            found.append(None)
        elif not BYTE.keys() >= set(name):
            raise ValueError(f"token {i}, {name!r}, is not written in the byte-level alphabet of GPT-2's tokenizer")
        else:
            found.append(bytes_of(name))
    return found


class Vocabulary:
    """The tokens of a model as bytes, laid out so that one automaton reads all of them at once.

    tokens: what each id writes, None (or nothing) for an id that is never allowed. end_id: the end-of-sequence token.
    """

    def __init__(self, tokens: Sequence[bytes | None], end_id: int) -> None:
        if not 0 <= end_id < len(tokens):
            raise ValueError(f"the end token is {end_id}; the vocabulary has ids 0 to {len(tokens) - 1}")
        self.tokens, self.end_id = [token or None for token in tokens], end_id
        self.tokens[end_id] = None
        written_ids = [i for i, token in enumerate(self.tokens) if token]
        ids = sorted(written_ids, key=lambda i: -len(self.tokens[i] or b""))
        texts = [self.tokens[i] or b"" for i in ids]
        self.ids = np.array(ids, dtype=np.int64)
        """Token ids, the longest first."""
        self.columns: list[np.ndarray] = []
        """Column k: byte k of each token that has more than k bytes, in the order of `ids`."""
        for k in range(len(texts[0]) if texts else 0):
            self.columns.append(np.array([text[k] for text in texts if len(text) > k], dtype=np.uint8))
        self.single = {text[0] for text in texts if len(text) == 1}
        """Bytes that are a token by themselves."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, end_id: int | None = None) -> Self:
        """The vocabulary of a byte-level tokenizer; its own end-of-sequence token unless another is named."""
        end = tokenizer.eos_token_id if end_id is None else end_id
        if end is None:
            raise ValueError("the tokenizer has no end-of-sequence token; name one as end_id")
        return cls(token_bytes(tokenizer), end)

    def __len__(self) -> int:
        return len(self.tokens)


# -- from bytes to tokens -----------------------------------------------------------------------------------------


class TokenAutomaton:
    """A DFA over bytes read token by token: the index from state to allowed tokens of Willard and Louf (2023), sec. 3.

    Rows of the index are made when a state is first met. ValueError where no sequence of tokens spells a match.
    """

    def __init__(self, dfa: DFA, vocabulary: Vocabulary) -> None:
        self.dfa, self.vocabulary = dfa, vocabulary
        self._rows: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._masks: dict[int, Tensor] = {}
        used = set(np.flatnonzero((dfa.table >= 0).any(0)).tolist())
        # Where each byte is a token too, whatever can be finished in bytes can be finished in tokens.
        self._may_stick = not used <= vocabulary.single
        if self._may_stick and self.distance[0] < 0:
            missing = bytes(sorted(used - vocabulary.single))
            raise ValueError(
                f"no sequence of this vocabulary's tokens spells a match; bytes that it has no token for: {missing!r}"
            )

    def _row(self, state: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens whose bytes all fit from a state, (n,) ids, and the state that each leads to, (n,)."""
        if state not in self._rows:
            table, columns = self.dfa.table, self.vocabulary.columns
            at = np.arange(len(self.vocabulary.ids))
            states = np.full(len(at), state, dtype=np.int32)
            ids, targets = [], []
            for column in columns:
                going = at < len(column)  # the others ended with the byte before, and fit
                ids.append(at[~going])
                targets.append(states[~going])
                at = at[going]
                states = table[states[going], column[at]]
                fits = states >= 0
                at, states = at[fits], states[fits]
            self._rows[state] = (
                self.vocabulary.ids[np.concatenate([*ids, at])],
                np.concatenate([*targets, states]),
            )
        return self._rows[state]

    @cached_property
    def distance(self) -> np.ndarray:
        """(states,) the fewest tokens from each state to the end, the end token counted; -1 where there is no way."""
        distance = np.where(self.dfa.accepting, 1, -1)
        following = [np.unique(self._row(state)[1]) for state in range(self.dfa.states)]
        for steps in count(2):
            near = [s for s, to in enumerate(following) if distance[s] < 0 and (distance[to] == steps - 1).any()]
            if not near:
                return distance
            distance[near] = steps
        raise AssertionError("unreachable")

    def row(self, state: int, left: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The tokens allowed in a state, (n,) ids, and the state that each leads to, (n,); the end token to DONE.

        left: how many tokens may still come, the end token included; a token that leaves no way to the end is not
        allowed.
        """
        if state == DONE:
            return np.array([self.vocabulary.end_id]), np.array([DONE])
        ids, targets = self._row(state)
        if self._may_stick or left is not None:
            near = self.distance[targets]
            fits = (near > 0) & (near <= (near if left is None else left - 1))
            ids, targets = ids[fits], targets[fits]
        if self.dfa.accepting[state] and (left is None or left > 0):
            ids, targets = np.append(ids, self.vocabulary.end_id), np.append(targets, DONE)
        return ids, targets

    def mask(self, state: int, left: int | None = None, size: int | None = None) -> Tensor:
        """(size,) True for each allowed token; size: the number of logits, where the model has more than tokens."""
        roomy = left is None or state == DONE or left > self.distance.max()
        if roomy and state in self._masks and len(self._masks[state]) == (size or len(self.vocabulary)):
            return self._masks[state]
        allowed = torch.zeros(size or len(self.vocabulary), dtype=torch.bool)
        allowed[torch.from_numpy(self.row(state, None if roomy else left)[0])] = True
        if roomy:
            self._masks[state] = allowed
        return allowed

    def step(self, state: int, token_id: int) -> int:
        """The state after one more token. ValueError for a token that is not allowed there."""
        if state == DONE or token_id == self.vocabulary.end_id:
            if token_id == self.vocabulary.end_id and (state == DONE or self.dfa.accepting[state]):
                return DONE
        elif (token := self.vocabulary.tokens[token_id]) and (to := self.dfa.run(token, state)) >= 0:
            return to
        raise ValueError(f"token {token_id} ({self.vocabulary.tokens[token_id]!r}) is not allowed in state {state}")

    def states(self, ids: Sequence[int]) -> list[int]:
        """The states that a sequence of tokens walks through, the start first: one more than there are tokens."""
        walked = [0]
        for token_id in ids:
            walked.append(self.step(walked[-1], token_id))
        return walked


class Constraint:
    """A processor for `generate`: sets the logits of tokens that cannot lead to a match to -inf.

    limit: the generation's max_new_tokens. With it, the answer is finished in time: what would not leave room for the
    rest is not allowed either. ValueError where even the shortest match, with its end token, takes more.
    """

    def __init__(self, automaton: TokenAutomaton, limit: int | None = None) -> None:
        if limit is not None and limit < automaton.distance[0]:
            raise ValueError(
                f"the limit is {limit} tokens; the shortest answer that fits takes {automaton.distance[0]}, its end "
                "token included"
            )
        self.automaton, self.limit = automaton, limit
        self._known: dict[tuple[int, ...], int] = {}

    def state(self, new_ids: Sequence[int]) -> int:
        """The state after these new tokens; a step is looked up from the state one token before."""
        key = tuple(new_ids)
        if not key:
            return 0
        before = self._known.get(key[:-1])
        if before is None:
            return self.automaton.states(key)[-1]
        return self.automaton.step(before, key[-1])

    def __call__(self, logits: Tensor, new_ids: Sequence[Sequence[int]]) -> Tensor:
        """logits (B, V) and the B sequences' new tokens so far -> logits (B, V) with -inf for what is not allowed."""
        states = [self.state(ids) for ids in new_ids]
        self._known = {tuple(ids): state for ids, state in zip(new_ids, states, strict=True)}
        lefts = [None if self.limit is None else self.limit - len(ids) for ids in new_ids]
        size = logits.shape[-1]
        kinds = {(state, left): i for i, (state, left) in enumerate(dict.fromkeys(zip(states, lefts, strict=True)))}
        masks = torch.stack([self.automaton.mask(state, left, size) for state, left in kinds]).to(logits.device)
        if len(kinds) > 1:
            masks = masks[[kinds[kind] for kind in zip(states, lefts, strict=True)]]
        return logits.masked_fill(~masks, -torch.inf)


def constrain(
    tokenizer: PreTrainedTokenizerBase | Vocabulary,
    to: str | Schema,
    *,
    style: Style = "json",
    limit: int | None = None,
) -> Constraint:
    """A constraint to a pattern (a string) or to a JSON schema (a mapping); see `schema_regex` and `Constraint`.

    Give a Vocabulary in place of the tokenizer to lay it out once for many constraints.
    """
    vocabulary = tokenizer if isinstance(tokenizer, Vocabulary) else Vocabulary.of(tokenizer)
    return Constraint(TokenAutomaton(compile_regex(to if isinstance(to, str) else _tree(to, style)), vocabulary), limit)


# -- from JSON schemas to patterns --------------------------------------------------------------------------------


def schema_regex(schema: Schema, style: Style = "json") -> str:
    """A pattern all of whose matches are documents that the schema allows.

    Covered: object (properties in the schema's order, required), string (minLength, maxLength, or pattern, which then
    has to match as a whole), integer (minimum with maximum), number, boolean, null, array (items, minItems, maxItems),
    enum, const, anyOf, local $ref. style: "json" with a space after each comma and colon, as json.dumps writes it, or
    "yaml" with one line for each property (strings quoted, arrays as in JSON).
    ValueError, with the place in the schema, for keywords that are not covered and for schemas that nothing satisfies.
    """
    return written(_tree(schema, style))


_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip
_SAYS_NOTHING = {
    "title", "description", "default", "examples", "$schema", "$id", "$defs", "$comment", "additionalProperties"
}  # fmt: skip
_KEYWORDS = {
    "object": {"properties", "required"}, "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern"}, "integer": {"minimum", "maximum"},
    "number": set(), "boolean": set(), "null": set(),
}  # fmt: skip
_MOST_INTEGERS = 1_000
_PLAIN_KEY = re.compile(r"(?!(?:true|false|null|yes|no|on|off|y|n)$)[A-Za-z_][A-Za-z0-9_]*")


def _text(text: str) -> Node:
    return Then(tuple(chars((ord(character),) * 2) for character in text))


def _tree(schema: Schema, style: Style) -> Node:
    if style not in ("json", "yaml"):
        raise ValueError(f"the style is {style!r}; it is 'json' or 'yaml'")
    return _Writer(schema, style).value(schema, "$", 0)


class _Writer:
    """Turns one schema into a syntax tree; `path` says where in the schema, `depth` how far YAML is indented."""

    def __init__(self, root: Schema, style: Style) -> None:
        self.root, self.style = root, style
        self.open: list[str] = []
        special = [(0, 31), (34, 34), (92, 92)]
        if style == "yaml":  # no YAML text holds these bare, or it would fold them as line breaks
            special += [(127, 159), (0x2028, 0x2029), (0xFEFF, 0xFEFF), (0xFFFE, 0xFFFF)]
        self.plain = others(chars(*special))
        self.exponent = "" if style == "yaml" else "([eE][+-]?[0-9]+)?"  # to many YAML readers 1e5 is a text

    def flow(self) -> "_Writer":
        """A writer of JSON inside YAML, which reads it as it is."""
        inner = _Writer(self.root, "json")
        inner.open, inner.plain, inner.exponent = self.open, self.plain, self.exponent
        return inner

    def value(self, schema: Any, path: str, depth: int) -> Node:
        if not isinstance(schema, Mapping):
            raise ValueError(f"{path}: a schema is a mapping, not {schema!r}")
        alone = next((keyword for keyword in ("$ref", "anyOf", "const", "enum") if keyword in schema), None)
        beside = schema.keys() - _SAYS_NOTHING - {alone} - ({"type"} if alone in ("const", "enum") else set())
        if alone and beside:
            raise ValueError(f"{path}: not covered beside {alone}: {', '.join(sorted(beside))}")
        if "$ref" in schema:
            return self.reference(schema["$ref"], path, depth)
        if "anyOf" in schema:
            options = self.flow().satisfiable(schema["anyOf"], f"{path}.anyOf", depth)
            return Either(tuple(options))
        if "const" in schema or "enum" in schema:
            return self.listed(schema, path)
        kind = schema.get("type")
        if isinstance(kind, list):
            options = self.flow().satisfiable([{**schema, "type": one} for one in kind], f"{path}.type", depth)
            return Either(tuple(options))
        if kind not in _KEYWORDS:
            raise ValueError(f"{path}: the type is {kind!r}; it must be one of {', '.join(_KEYWORDS)}")
        of_others = {keyword for keywords in _KEYWORDS.values() for keyword in keywords} - _KEYWORDS[kind]
        of_others -= _KEYWORDS["integer"] if kind == "number" else set()  # which limit numbers too
        unknown = schema.keys() - _KEYWORDS[kind] - _SAYS_NOTHING - of_others - {"type"}
        if unknown:
            raise ValueError(f"{path}: not covered for type {kind}: {', '.join(sorted(unknown))}")
        match kind:
            case "object":
                return self.object(schema, path, depth)
            case "array":
                return self.array(schema, path, depth)
            case "string":
                return self.string(schema, path)
            case "integer":
                return self.integer(schema, path)
            case "number":
                return parse(rf"-?(0|[1-9][0-9]*)(\.[0-9]+)?{self.exponent}")
            case "boolean":
                return parse("true|false")
            case _:
                return _text("null")

    def satisfiable(self, schemas: Sequence[Any], path: str, depth: int) -> list[Node]:
        if not schemas:
            raise ValueError(f"{path} is empty; nothing satisfies it")
        return [self.value(schema, f"{path}[{i}]", depth) for i, schema in enumerate(schemas)]

    def reference(self, ref: str, path: str, depth: int) -> Node:
        name = ref.removeprefix("#/$defs/")
        definitions = self.root.get("$defs", {})
        if name == ref or name not in definitions:
            raise ValueError(f"{path}: {ref!r} is not found; a reference is '#/$defs/NAME', to one of $defs")
        if name in self.open:
            raise ValueError(f"{path}: {ref!r} holds itself; documents nested without end are no regular language")
        self.open.append(name)
        node = self.value(definitions[name], path, depth)
        self.open.pop()
        return node

    def listed(self, schema: Schema, path: str) -> Node:
        values = [schema["const"]] if "const" in schema else list(schema["enum"])
        kinds = schema.get("type", list(_TYPES))
        types = [one for kind in ([kinds] if isinstance(kinds, str) else kinds) for one in _TYPES[kind]]
        fitting = [v for v in values if type(v) in types or (type(v) is bool and bool in types)]
        if not fitting:
            raise ValueError(f"{path}: none of the values {values!r} has the type {kinds!r}; nothing satisfies it")
        return Either(tuple(_text(json.dumps(value, ensure_ascii=False)) for value in fitting))

    def between(self, schema: Schema, least: str, most: str, path: str) -> tuple[int, int | None]:
        low, high = schema.get(least, 0), schema.get(most)
        if high is not None and high < low:
            raise ValueError(f"{path}: {least} is {low} and {most} is {high}; nothing satisfies both")
        return low, high

    def string(self, schema: Schema, path: str) -> Node:
        low, high = self.between(schema, "minLength", "maxLength", path)
        if "pattern" not in schema:
            return Then((_text('"'), Repeat(self.characters(others(Chars(())), path), low, high), _text('"')))
        if "minLength" in schema or "maxLength" in schema:
            raise ValueError(f"{path}: give a pattern or lengths, not both (a pattern can say how long: [a-z]{{1,9}})")
        return Then((_text('"'), self.quoted(parse(schema["pattern"]), path), _text('"')))

    def characters(self, allowed: Chars, path: str) -> Node:
        """One character of a set, as it is written inside quotes: bare, or escaped."""
        escapes = {'"': '"', "\\": "\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
        bare = common(allowed, self.plain)
        codes = [ord(e) for c, e in escapes.items() if any(low <= ord(c) <= high for low, high in allowed.ranges)]
        options: list[Node] = [bare] if bare.ranges else []
        if codes:
            options.append(Then((_text("\\"), chars(*((code, code) for code in codes)))))
        if not options:
            raise ValueError(f"{path}: the pattern asks for a character that no {self.style} string can hold")
        return options[0] if len(options) == 1 else Either(tuple(options))

    def quoted(self, node: Node, path: str) -> Node:
        match node:
            case Chars():
                return self.characters(node, path)
            case Then(parts):
                return Then(tuple(self.quoted(part, path) for part in parts))
            case Either(parts):
                return Either(tuple(self.quoted(part, path) for part in parts))
            case Repeat(part, least, most):
                return Repeat(self.quoted(part, path), least, most)

    def integer(self, schema: Schema, path: str) -> Node:
        if "minimum" not in schema and "maximum" not in schema:
            return parse("-?(0|[1-9][0-9]*)")
        if not ("minimum" in schema and "maximum" in schema):
            raise ValueError(f"{path}: give minimum and maximum together, or none of them")
        low, high = self.between(schema, "minimum", "maximum", path)
        if high is None or high - low > _MOST_INTEGERS:
            raise ValueError(f"{path}: {low} to {high} are too many integers; at most {_MOST_INTEGERS} are listed")
        return Either(tuple(_text(str(number)) for number in range(low, high + 1)))

    def array(self, schema: Schema, path: str, depth: int) -> Node:
        low, high = self.between(schema, "minItems", "maxItems", path)
        if "items" not in schema:
            raise ValueError(f"{path}: an array needs items: what stands in it")
        item = self.flow().value(schema["items"], f"{path}.items", depth)
        if high == 0:
            return _text("[]")
        more = Repeat(Then((_text(", "), item)), max(low - 1, 0), None if high is None else high - 1)
        some: Node = Then((item, more))
        return Then((_text("["), some if low else Repeat(some, 0, 1), _text("]")))

    def object(self, schema: Schema, path: str, depth: int) -> Node:
        properties, required = schema.get("properties", {}), set(schema.get("required", ()))
        if required - properties.keys():
            missing = ", ".join(sorted(required - properties.keys()))
            raise ValueError(f"{path}: required, but not among the properties: {missing}; nothing satisfies it")
        if self.style == "yaml" and not required:
            return self.flow().object(schema, path, depth)  # no line may be there: as in JSON, {}
        members: list[tuple[Node, bool]] = []
        for name, inner in properties.items():
            key, space = json.dumps(name, ensure_ascii=False), " "
            if self.style == "yaml":
                key = name if _PLAIN_KEY.fullmatch(name) else key
                space = "\n" + "  " * (depth + 1) if self.is_block(inner) else " "
            value = self.value(inner, f"{path}.{name}", depth + 1)
            members.append((Then((_text(f"{key}:{space}"), value)), name in required))
        if self.style == "yaml":
            return _members(members, _text("\n" + "  " * depth))
        body = _members(members, _text(", "))
        return Then((_text("{"), body if required or not members else Repeat(body, 0, 1), _text("}")))

    def is_block(self, schema: Any) -> bool:
        """Whether a value stands on lines of its own in YAML: an object that cannot be empty."""
        while isinstance(schema, Mapping) and "$ref" in schema:
            schema = self.root.get("$defs", {}).get(schema["$ref"].removeprefix("#/$defs/"))
        return isinstance(schema, Mapping) and schema.get("type") == "object" and bool(schema.get("required"))


def _members(members: Sequence[tuple[Node, bool]], comma: Node) -> Node:
    """At least one member, required ones always, in order, with commas between those that are there."""
    if not members:
        return Then(())
    pivots = [i for i, (_, needed) in enumerate(members) if needed][:1] or range(len(members))
    options: list[Node] = []
    for pivot in pivots:  # the first required one; where there is none, any one as the first that is there
        parts: list[Node] = [members[pivot][0]]
        for node, needed in members[pivot + 1 :]:
            after = Then((comma, node))
            parts.append(after if needed else Repeat(after, 0, 1))
        if members[pivot][1]:
            parts = [*(Repeat(Then((node, comma)), 0, 1) for node, _ in members[:pivot]), *parts]
        options.append(Then(tuple(parts)))
    return options[0] if len(options) == 1 else Either(tuple(options))
