"""Structured generation against other truths: Python's `re`, all texts of small languages, json, jsonschema, Outlines.

What the mask allows is compared with what can be finished, found by trying every sequence of tokens.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest
import torch
import yaml

from alignlab import decoding
from alignlab.decoding import structured
from alignlab.decoding.regular import DFA, compile_regex, parse, written
from alignlab.decoding.structured import DONE, Constraint, TokenAutomaton, Vocabulary, constrain, schema_regex

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]

# ---- patterns: against Python's re, on every text up to a length

PATTERNS = {
    "ab": ["", "a", "b", "ab", "a|b", "a|bb|ab", "ab|ba*", "(a|b)*abb", "a?b?a?", "a+b+", "(ab)+", "(ab){2}", "a{2,3}",
           "a{2,}b", "a{0}b", "(a|ab)(b|)", "(?:a|b){1,3}b", "[ab]a", "[^a]", "[^a]*a", ".b", "(a*)*b", "((a|b)a)*",
           "a{0,2}"],
    "0.-1": [r"-?(0|1[01]*)(\.[01]+)?", r"\d+", r"\d*\.?\d*", r"[0-1.-]{2}", r"[\d.]+", r"\D1", r"[^\d]", r"\.|-"],
    ' "\\x': [r'"([^"\\]|\\["\\])*"', r"\s?x\s?", r"\S+", r"\w", r"\W\w", r"[]x]|[\\x]", r"\x78\u0078", r"x{1,2}( x)?"],
    "é☕a\n": ["é", ".", ".*é", "[^é]", "[é☕]a", "[a-é]{2}", "\\n|\\u00e9", "☕{2}|[☕]a", r"[^\x00-\x7f]a", "a\n?"],
}  # fmt: skip
Matcher = Callable[[str], Callable[[str], bool]]


def check_patterns(compile_: Matcher) -> None:
    """Whole texts match or do not, as Python's re says, for every text of up to five characters."""
    for alphabet, patterns in PATTERNS.items():
        texts = ["".join(t) for n in range(6) for t in itertools.product(alphabet, repeat=n)]
        for pattern in patterns:
            accepts = compile_(pattern)
            for text in texts:
                want = re.fullmatch(pattern, text, re.ASCII) is not None
                assert accepts(text) == want, (pattern, text)


def ours(pattern: str) -> Callable[[str], bool]:
    return compile_regex(pattern).accepts


def with_pattern(change: Callable[[str], str]) -> Matcher:
    return lambda pattern: ours(change(pattern))


def test_a_pattern_accepts_the_texts_that_pythons_re_accepts() -> None:
    check_patterns(ours)


def test_a_pattern_written_from_its_tree_means_the_same() -> None:
    check_patterns(with_pattern(lambda pattern: written(parse(pattern))))


WRONG_PATTERNS: dict[str, Matcher] = {
    "a match anywhere is enough": with_pattern(lambda p: f"(.|\n)*({p})(.|\n)*"),
    "a beginning is enough": lambda p: lambda text: any(ours(p)(text[:n]) for n in range(len(text) + 1)),
    "plus taken for star": with_pattern(lambda p: p.replace("+", "*")),
    "one repetition too many": with_pattern(lambda p: re.sub(r"\{(\d),(\d)\}", r"{\1,\g<2>0}", p)),
    "alternatives bind tighter than sequences": with_pattern(lambda p: re.sub(r"(\w)\|(\w)", r"(\1|\2)", p)),
    "bytes taken for characters": lambda p: (
        lambda text: re.fullmatch(p.encode().decode("latin-1"), text.encode().decode("latin-1"), re.ASCII) is not None
    ),
    "a dot that takes line breaks": with_pattern(lambda p: re.sub(r"(?<![\\\[\d])\.", "(.|\n)", p)),
}


@pytest.mark.parametrize("name", WRONG_PATTERNS)
def test_a_wrong_matcher_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_patterns(WRONG_PATTERNS[name])


def test_a_set_of_characters_is_exactly_their_utf8() -> None:
    everything = compile_regex("[^a]|a")
    for pattern in ("[^a]", "[߿-ࠀ]", "[\\ud7ff-\\ue000]", "[က-𐀀]", "[🀀-\U0010ffff]", "[é-é]"):
        dfa = compile_regex(pattern)
        codes = {
            c + d for c in (0, 0x7F, 0x80, 0x7FF, 0x800, 0x1000, 0xD7FF, 0xE000, 0xFFFF, 0x10000) for d in (-1, 0, 1)
        }
        codes |= set(range(0, 0x110000, 1009)) | {0x10FFFF, 0x3FFFF, 0x40000, 0xE9}
        for character in map(chr, sorted(c for c in codes if c >= 0 and not 0xD800 <= c <= 0xDFFF)):
            assert dfa.accepts(character) == bool(re.fullmatch(pattern, character)), (pattern, hex(ord(character)))
    draw = random.Random(0)
    loose = [
        bytes(draw.choice([0x41, 0xE0, 0xED, 0xF0, 0xF4, draw.randrange(256)]) for _ in range(1)) for _ in range(50)
    ]
    loose += [bytes([a, b]) for a in range(256) for b in range(0x70, 0xD0, 3)]
    loose += [bytes([a, b, 0x80]) for a in range(0xE0, 0xF0) for b in range(0x70, 0xD0)]
    loose += [bytes([a, b, 0x80, 0xBF]) for a in range(0xF0, 0xF8) for b in range(0x70, 0xD0)]
    for text in loose:
        try:
            valid = len(text.decode()) == 1
        except UnicodeDecodeError:
            valid = False
        assert everything.accepts(text) == valid, text


def test_the_automaton_is_the_smallest_there_is() -> None:
    sizes = {
        "abc": 4,
        "(a|b)*abb": 4,
        "a|b|cd": 3,
        r"[0-9]+(\.[0-9]{2})?": 5,
        "(aa)*|(aaa)*": 7,
        "(a|b|c)*": 1,
        "x?": 2,
    }
    for pattern, states in sizes.items():
        if pattern == "(aa)*|(aaa)*":
            states = 6  # lengths modulo 6; the start is one of them
        assert compile_regex(pattern).states == states, pattern


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(a", r"a '\(' without its '\)' at character 3"),
        ("a)", "without its '\\('"),
        ("[a", "without its ']'"),
        ("*a", "nothing to repeat at character 1"),
        ("a{2,1}", "at least 2 and at most 1 times, which nothing satisfies"),
        ("a{9999}", "more than 1000 times"),
        ("(?=a)", "lookaround"),
        ("a+?", "lazy"),
        (r"\b", r"unknown escape \\b"),
        (r"\xZZ", "hexadecimal"),
        ("a^b", "not at the pattern's end"),
        ("[b-a]", "backwards"),
        ("a[^\\x00-\U0010ffff]", "nothing matches the pattern"),
    ],
)
def test_a_pattern_that_is_not_covered_or_matches_nothing_is_refused(pattern: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        compile_regex(pattern)


# ---- the mask: against every sequence of tokens

TOKENS: list[bytes | None] = [
    *(b"<|end|>", b"y", b"yes", b" yes", b"no", b"n", b"o", b"e", b"s", b" ", b"yesno", b"es ", b"'"),
    *("é".encode()[:1], "é".encode()[1:], "é".encode(), b"<|user|>", b"ye", b"'n", b""),
]
END, SPECIAL = 0, 16
VOCABULARY = Vocabulary([None if i in (END, SPECIAL) else token for i, token in enumerate(TOKENS)], END)
LANGUAGES = [" ?(yes|no)", "yes|ye|né", "'(no|é)'?", "(no|yes){1,2}", "<\\|user\\|>|no", "nox|yes"]
Allowed = Callable[[str, list[int]], set[int]]


def check_allowed(allowed: Allowed) -> None:
    """After each beginning, the tokens with which something that matches can still be finished; the end where it is."""
    for pattern in LANGUAGES:
        texts: dict[tuple[int, ...], bytes] = {(): b""}
        whole = [t for t in sorted(_language(pattern)) if b"<" not in t]
        finished: set[tuple[int, ...]] = set()
        beginnings: set[tuple[int, ...]] = {()}
        while texts:  # every way to write every text in tokens
            grown: dict[tuple[int, ...], bytes] = {}
            for ids, text in texts.items():
                if text in whole:
                    finished.add(ids)
                for i, token in enumerate(TOKENS):
                    if token and i not in (END, SPECIAL) and any(t.startswith(text + token) for t in whole):
                        grown[(*ids, i)] = text + token
            texts = grown
        for ids in finished:
            beginnings |= {ids[:n] for n in range(len(ids) + 1)}
        for ids in sorted(beginnings):
            want = {other[len(ids)] for other in finished if other[: len(ids)] == ids and len(other) > len(ids)}
            want |= {END} if ids in finished else set()
            assert allowed(pattern, list(ids)) == want, (pattern, [TOKENS[i] for i in ids])


def _language(pattern: str) -> set[bytes]:
    """All texts that match: every sequence of up to two of a few pieces."""
    pieces = ["", " ", "yes", "no", "ye", "n", "é", "'", "o", " yes", "<|user|>", "x"]
    return {
        t.encode()
        for n in range(4)
        for t in map("".join, itertools.product(pieces, repeat=n))
        if re.fullmatch(pattern, t)
    }


def by_mask(pattern: str, ids: list[int]) -> set[int]:
    automaton = TokenAutomaton(compile_regex(pattern), VOCABULARY)
    mask = automaton.mask(automaton.states(ids)[-1])
    return set(mask.nonzero().flatten().tolist())


def by_processor(pattern: str, ids: list[int]) -> set[int]:
    logits = constrain(VOCABULARY, pattern)(torch.zeros(1, len(TOKENS)), [ids])
    return set((logits[0] == 0).nonzero().flatten().tolist())


@pytest.mark.parametrize("allowed", [by_mask, by_processor])
def test_a_token_is_allowed_exactly_where_a_match_can_still_be_finished(allowed: Allowed) -> None:
    check_allowed(allowed)


def naive(
    pattern: str,
    ids: list[int],
    tokens: Sequence[bytes | None] = TOKENS,
    special: tuple[int, ...] = (END, SPECIAL),
    overrun: bool = False,
    end_anywhere: bool = False,
    end_last: bool = False,
    longest: bool = False,
) -> set[int]:
    """The mask token by token, as one would first write it, with the mistakes to choose from."""
    dfa = compile_regex(pattern)
    text = b"".join(TOKENS[i] or b"" for i in ids)
    state = dfa.run(text)
    found = set()
    for i, token in enumerate(tokens):
        if i in special or not token:
            continue
        ends = [dfa.run(token[:n], state) for n in range(1, len(token) + 1)]
        if ends[-1] >= 0 or (overrun and any(s >= 0 and dfa.accepting[s] for s in ends)):
            found.add(i)
    if longest:
        most = max((len(tokens[i] or b"") for i in found), default=0)
        found = {i for i in found if len(tokens[i] or b"") == most}
    if end_anywhere or (dfa.accepting[state] and not (end_last and found)):
        found.add(END)
    return found


def _text(token: bytes | None) -> str:
    return (token or b"").decode(errors="replace")


WRONG_MASKS: dict[str, Allowed] = {
    "off by one token id": lambda p, ids: {(i + 1) % len(TOKENS) for i in by_mask(p, ids)},
    "the state of one step before": lambda p, ids: by_mask(p, ids[:-1]),
    "tokens that overrun the end": lambda p, ids: naive(p, ids, overrun=True),
    "the end before an accepting state": lambda p, ids: naive(p, ids, end_anywhere=True),
    "the end only where nothing else fits": lambda p, ids: naive(p, ids, end_last=True),
    "tokens that are the beginning of others forbidden": lambda p, ids: naive(p, ids, longest=True),
    "leading spaces lost": lambda p, ids: naive(p, ids, tokens=[(t or b"").lstrip() for t in TOKENS]),
    "pieces of characters lost": lambda p, ids: naive(
        p, ids, tokens=[None if "\ufffd" in _text(t) else t for t in TOKENS]
    ),
    "special tokens by their names": lambda p, ids: naive(p, ids, special=(END,)),
    "ways into which the vocabulary has no way out": lambda p, ids: naive(p, ids),
}


@pytest.mark.parametrize("name", WRONG_MASKS)
def test_a_wrong_mask_is_rejected(name: str) -> None:
    with pytest.raises(AssertionError):
        check_allowed(WRONG_MASKS[name])


def test_each_token_leads_to_the_state_of_its_bytes_and_others_are_refused() -> None:
    automaton = TokenAutomaton(compile_regex(" ?(yes|no)"), VOCABULARY)
    for state in range(automaton.dfa.states):
        ids, targets = automaton.row(state)
        assert [automaton.step(state, int(i)) for i in ids] == targets.tolist()
        for i in set(range(len(TOKENS))) - set(ids.tolist()):
            with pytest.raises(ValueError, match=f"is not allowed in state {state}"):
                automaton.step(state, i)
    assert automaton.states([3, END, END]) == [0, automaton.states([3])[-1], DONE, DONE]
    assert automaton.row(DONE)[0].tolist() == [END]


def test_a_vocabulary_that_cannot_spell_any_match_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no sequence of this vocabulary's tokens spells a match.*b'x'"):
        TokenAutomaton(compile_regex("yx"), VOCABULARY)
    with pytest.raises(ValueError, match="end token is 99"):
        Vocabulary(TOKENS, 99)


# ---- the limit: an answer that ends in time


def check_limit(row: Callable[[TokenAutomaton, int, int], set[int]]) -> None:
    """With `left` tokens to come, exactly the tokens from which the end can be reached in time, by trying all ways."""
    for pattern in ("'?(yes|no)+'?", " ?yes", "(é|n){2,}"):
        automaton = TokenAutomaton(compile_regex(pattern), VOCABULARY)

        def ends(state: int, left: int, automaton: TokenAutomaton = automaton) -> bool:
            if left < 1:
                return False
            if automaton.dfa.accepting[state]:
                return True
            return any(ends(to, left - 1) for to in {int(t) for t in automaton.row(state)[1]} if to != DONE)

        for state in range(automaton.dfa.states):
            for left in range(6):
                if ends(state, left):
                    ids, targets = automaton.row(state)
                    want = {int(i) for i, to in zip(ids, targets, strict=True) if to == DONE or ends(int(to), left - 1)}
                    assert row(automaton, state, left) == want, (pattern, state, left)


def test_with_a_limit_a_token_is_allowed_exactly_where_the_end_is_still_in_reach() -> None:
    check_limit(lambda automaton, state, left: set(automaton.row(state, left)[0].tolist()))
    check_limit(lambda automaton, state, left: set(automaton.mask(state, left).nonzero().flatten().tolist()))


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_limit_off_by_one_is_rejected(shift: int) -> None:
    with pytest.raises(AssertionError):
        check_limit(lambda automaton, state, left: set(automaton.row(state, left + shift)[0].tolist()))


def test_a_limit_below_the_shortest_match_is_refused() -> None:
    constrain(VOCABULARY, " yes", limit=2)
    with pytest.raises(ValueError, match="the limit is 1 tokens; the shortest answer that fits takes 2"):
        constrain(VOCABULARY, " yes", limit=1)


# ---- schemas

ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "day": {"enum": ["Monday", "Tuesday", 3, None]},
        "people": {"type": "integer", "minimum": 1, "maximum": 12},
        "price": {"type": "number"},
        "tags": {
            "type": "array",
            "items": {"type": "string", "pattern": '^[a-z"]{1,3}$'},
            "minItems": 1,
            "maxItems": 2,
        },
        "paid": {"type": "boolean"},
        "where": {"$ref": "#/$defs/Place"},
        "note": {"anyOf": [{"type": "null"}, {"type": "integer"}]},
    },
    "required": ["name", "people", "tags", "where"],
    "$defs": {
        "Place": {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"const": 1}}, "required": ["x"]}
    },
}
LEAST = {"name": "Ann", "people": 2, "tags": ["a"], "where": {"x": 0}}
VALID: list[dict[str, Any]] = [
    LEAST,
    {"name": 'é"\\\n☕', "day": "Monday", **{k: LEAST[k] for k in ("people", "tags", "where")}},
    {
        "name": "A",
        "day": 3,
        "people": 12,
        "price": -0.5,
        "tags": ["ab", 'c"d'],
        "paid": True,
        "where": {"x": -7, "y": 1},
    },
    {"name": "A", "day": None, "people": 1, "tags": ["a"], "where": {"x": 10}, "note": None},
    {"name": "12345678", "people": 9, "price": 1e-07, "tags": ["a"], "where": {"x": 1}, "note": 5},
]
INVALID: list[dict[str, Any]] = [
    {**LEAST, "name": ""},
    {**LEAST, "name": "123456789"},
    {**LEAST, "people": 0},
    {**LEAST, "people": 13},
    {**LEAST, "people": "2"},
    {**LEAST, "tags": []},
    {**LEAST, "tags": ["a", "b", "c"]},
    {**LEAST, "tags": ["abcd"]},
    {**LEAST, "where": {}},
    {k: v for k, v in LEAST.items() if k != "people"},
    {"name": "Ann", "day": "Sunday", "people": 2, "tags": ["a"], "where": {"x": 0}},
]
INVALID_TEXTS = [
    "",
    "{}",
    "{",
    json.dumps(LEAST)[:-1],
    json.dumps(LEAST).replace('"Ann"', "Ann"),
    f"{json.dumps(LEAST)}.",
]
INVALID_TEXTS += [json.dumps(LEAST).replace(": 2", ": 02"), json.dumps(LEAST).replace("}}", ", }}")]
INVALID_TEXTS += [json.dumps(LEAST).replace("Ann", 'A"n'), json.dumps(LEAST).replace("Ann", "A\nn")]
INVALID_TEXTS += [json.dumps(LEAST).replace(", ", " "), json.dumps(LEAST).replace('"x": 0', '"x": 01')]


def check_schema(regex: Callable[[dict[str, Any]], str]) -> None:
    """What json writes is accepted where jsonschema accepts it, and nothing else is."""
    accepts = compile_regex(regex(ORDER)).accepts
    for document in VALID:
        jsonschema.validate(document, ORDER)
        assert accepts(json.dumps(document, ensure_ascii=False)), document
    for document in INVALID:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document, ORDER)
        assert not accepts(json.dumps(document, ensure_ascii=False)), document
    for text in INVALID_TEXTS:
        assert not accepts(text), text


def test_a_schema_accepts_what_json_writes_of_a_valid_document() -> None:
    check_schema(schema_regex)


WRONG_SCHEMAS: dict[str, Callable[[dict[str, Any]], str]] = {
    "all properties optional": lambda s: schema_regex({**s, "required": []}),
    "all properties required": lambda s: schema_regex({**s, "required": list(s["properties"])}),
    "commas optional": lambda s: schema_regex(s).replace(", ", ",? "),
    "quotes allowed inside strings": lambda s: schema_regex(s).replace('"\\\\]|', "\\\\]|"),
    "leading zeros": lambda s: schema_regex(s).replace("(0|[1-9][0-9]*)", "[0-9]+"),
    "lengths ignored": lambda s: schema_regex(s).replace("{1,8}", "*"),
    "lengths off by one": lambda s: schema_regex(s).replace("{1,8}", "{1,7}"),
    "escapes counted as two characters": lambda s: schema_regex(s).replace(
        '|\\\\["\\\\bfnrt]){1,8}', "|\\\\|[bfnrt]){1,8}"
    ),
    "no escapes": lambda s: re.sub(r'\|\\\\\["\\\\bfnrt\]', "", schema_regex(s)),
    "negative numbers lost": lambda s: schema_regex(s).replace("\\-?", "").replace("-?", ""),
}


@pytest.mark.parametrize("name", WRONG_SCHEMAS)
def test_a_wrong_pattern_of_a_schema_is_rejected(name: str) -> None:
    wrong = WRONG_SCHEMAS[name]
    assert wrong(ORDER) != schema_regex(ORDER)
    with pytest.raises(AssertionError):
        check_schema(wrong)


def walked(automaton: TokenAutomaton, limit: int, draw: random.Random) -> bytes:
    """A random answer within the limit: an allowed token at a time, each kind of next state as likely as another."""
    ids: list[int] = []
    state = 0
    while state != DONE:
        allowed, targets = automaton.row(state, limit - len(ids))
        target = draw.choice(sorted(set(targets.tolist())))
        ids.append(int(draw.choice(allowed[targets == target].tolist())))
        state = target
        assert len(ids) <= limit
    return b"".join(automaton.vocabulary.tokens[i] or b"" for i in ids)


DEEP: dict[str, Any] = {
    "type": "object",
    "properties": {
        "on": {"type": "boolean"},
        "no key": {"type": ["string", "null"]},
        "in": ORDER["$defs"]["Place"],
        "free": {"type": "object", "properties": {"a": {"type": "number"}}},
        "rows": {"type": "array", "items": ORDER["$defs"]["Place"], "maxItems": 2},
        "what": {
            "anyOf": [{"type": "object", "properties": {"z": {"type": "null"}}, "required": ["z"]}, {"type": "string"}]
        },
    },
    "required": ["in", "free"],
}


@pytest.mark.parametrize("style", ["json", "yaml"])
@pytest.mark.parametrize("schema", [ORDER, DEEP], ids=["order", "deep"])
def test_whatever_is_let_through_can_be_read_and_is_valid(tiny: Loaded, schema: dict[str, Any], style: Any) -> None:
    automaton = constrain(tiny[1], schema, style=style).automaton
    draw = random.Random(0)
    least = int(automaton.distance[0])
    seen = set()
    for n in range(300):
        text = walked(automaton, least + (n % 40), draw).decode()
        seen.add(text)
        document = json.loads(text) if style == "json" else yaml.safe_load(text)
        jsonschema.validate(document, schema)
    assert len(seen) > 150


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (
            {"type": "string", "minLength": 4, "maxLength": 3},
            r"\$: minLength is 4 and maxLength is 3; nothing satisfies",
        ),
        ({"type": "array", "items": {"type": "null"}, "minItems": 2, "maxItems": 1}, "nothing satisfies both"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "nothing satisfies both"),
        ({"enum": []}, r"none of the values \[\]"),
        ({"enum": ["a"], "type": "integer"}, "none of the values"),
        ({"anyOf": []}, "empty; nothing satisfies it"),
        ({"type": "object", "properties": {}, "required": ["a"]}, "not among the properties: a"),
        ({"type": "object", "properties": {"a": {"type": "date"}}}, r"\$\.a: the type is 'date'"),
        ({"type": "string", "format": "email"}, "not covered for type string: format"),
        ({"type": "number", "multipleOf": 3}, "multipleOf"),
        ({"type": "integer", "minimum": 0}, "minimum and maximum together"),
        ({"type": "integer", "minimum": 0, "maximum": 10**9}, "too many integers"),
        ({"type": "array"}, "needs items"),
        ({"type": "number", "minimum": 0, "maximum": 1}, "not covered for type number: maximum, minimum"),
        ({"enum": ["ab"], "maxLength": 1}, "not covered beside enum: maxLength"),
        ({"anyOf": [{"type": "string"}], "type": "string"}, "not covered beside anyOf: type"),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"type": "array", "items": {"$ref": "#/$defs/A"}}}}, "holds itself"),
        ({"$ref": "#/$defs/B"}, "is not found"),
        ({"type": "string", "pattern": "\\x00"}, "no json string can hold"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, "a pattern or lengths"),
        ({"properties": {}}, "the type is None"),
    ],
)
def test_a_schema_that_nothing_satisfies_or_that_is_not_covered_is_refused(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        schema_regex(schema)
    if "$ref" in schema or "$defs" in schema:
        return
    with pytest.raises(ValueError, match=said.removeprefix(r"\$: ").removeprefix(r"\$\.a: ")):
        schema_regex({"type": "object", "properties": {"inner": schema}})


# ---- with models and peers


def test_a_constrained_answer_is_valid_and_ends_in_time(tiny: Loaded) -> None:
    model, tokenizer = tiny
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
        "required": ["a", "b"],
    }
    prompts = [tokenizer.encode(text, add_special_tokens=False) for text in ("What is 17 + 25?", "The bear", "1")]
    shortest = int(constrain(tokenizer, schema).automaton.distance[0])
    for limit in (shortest, shortest + 9):
        constraint = constrain(tokenizer, schema, limit=limit)
        for sampling in (decoding.GREEDY, decoding.Sampling(temperature=1.5)):
            answers = decoding.generate(
                model,
                prompts,
                limit,
                sampling,
                stop_id=tokenizer.eos_token_id,
                generator=torch.Generator().manual_seed(0),
                processor=constraint,
            )
            for answer in answers:
                assert answer.ended
                jsonschema.validate(json.loads(tokenizer.decode(answer.ids)), schema)


def test_an_answer_cut_off_in_the_middle_is_no_document_and_its_state_says_so(tiny: Loaded) -> None:
    model, tokenizer = tiny
    constraint = constrain(tokenizer, {"type": "array", "items": {"type": "integer"}, "minItems": 3})
    (answer,) = decoding.generate(model, [[5]], 4, stop_id=tokenizer.eos_token_id, processor=constraint)
    assert not answer.ended
    state = constraint.state(answer.ids)
    assert not constraint.automaton.dfa.accepting[state]
    with pytest.raises(json.JSONDecodeError):
        json.loads(tokenizer.decode(answer.ids))


def test_rows_of_a_batch_are_masked_each_by_its_own_state() -> None:
    constraint = constrain(VOCABULARY, " ?(yes|no)")
    logits = torch.randn(3, len(TOKENS) + 4, generator=torch.Generator().manual_seed(0))
    histories = [[], [4], [1]]
    together = constraint(logits, histories)
    for row, ids in enumerate(histories):
        alone = constrain(VOCABULARY, " ?(yes|no)")(logits[row : row + 1], [ids])
        assert torch.equal(together[row : row + 1], alone)
        assert torch.equal(alone[alone > -torch.inf], logits[row : row + 1][alone > -torch.inf])
        assert (alone[0, len(TOKENS) :] == -torch.inf).all()  # logits beyond the vocabulary belong to no token
    assert torch.equal(
        constraint(logits[1:], [[4, 0], [1, 7]])[1], constrain(VOCABULARY, " ?(yes|no)")(logits[2:], [[1, 7]])[0]
    )


def test_token_bytes_are_what_the_tokenizer_decodes(small_tokenizer: Any, tiny: Loaded) -> None:
    for tokenizer in (small_tokenizer, tiny[1]):
        tokens = structured.token_bytes(tokenizer)
        assert len(tokens) == len(tokenizer)
        assert all(tokens[i] is None for i in tokenizer.all_special_ids)
        for text in ('{"name": "Ann", "n": 17}', "a  b\n\tc", "né ☕ 日本 🙂", "\x00\x7f"):
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert b"".join(tokens[i] or b"" for i in ids) == text.encode()


@pytest.fixture(scope="module")
def small_tokenizer() -> Any:
    from transformers import AutoTokenizer

    from alignlab import models

    return AutoTokenizer.from_pretrained(models._small())


def beside_outlines(dfa: DFA, pattern: str, vocabulary: Vocabulary) -> set[tuple[int, int]]:
    """Walk both automata side by side over the vocabulary; (state, token) where Outlines forbids what we allow."""
    from outlines_core import Index
    from outlines_core import Vocabulary as Theirs

    names: dict[bytes, list[int]] = {}
    for i, token in enumerate(vocabulary.tokens):
        if token:
            names.setdefault(token, []).append(i)
    index = Index(pattern, Theirs(vocabulary.end_id, names))
    automaton = TokenAutomaton(dfa, vocabulary)
    start = (0, index.get_initial_state())
    pairs, todo, missing = {start}, [start], set()
    for mine, other in todo:
        ids, targets = automaton.row(mine)
        allowed = set(index.get_allowed_tokens(other) or ()) - {vocabulary.end_id}
        assert index.is_final_state(other) == bool(dfa.accepting[mine])
        assert allowed <= set(ids.tolist())
        missing |= {(mine, i) for i in set(ids.tolist()) - allowed - {vocabulary.end_id}}
        for target in set(targets.tolist()) - {DONE}:
            for i in [i for i in ids[targets == target].tolist() if i in allowed][:3]:
                pair = (target, index.get_next_state(other, i))
                if pair not in pairs:
                    pairs.add(pair)
                    todo.append(pair)
    return missing


@pytest.mark.parametrize(
    "pattern",
    [" ?(yes|no|né)", r'"([^"\\\x00-\x1f]|\\["\\/bfnrt]){1,3}"', "[☕é]{2}|x", r"-?(0|[1-9][0-9]*)\.[0-9]+", "[ab]*"],
)
def test_allowed_tokens_equal_those_of_outlines_in_every_state(small_tokenizer: Any, pattern: str) -> None:
    assert beside_outlines(compile_regex(pattern), pattern, Vocabulary.of(small_tokenizer)) == set()


def test_allowed_tokens_equal_those_of_outlines_for_a_schema(small_tokenizer: Any) -> None:
    pattern = schema_regex({k: v for k, v in ORDER.items() if k != "tags"})
    assert beside_outlines(compile_regex(pattern), pattern, Vocabulary.of(small_tokenizer)) == set()


@pytest.mark.parametrize("pattern", [r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", "(a|b)*abb", "a(bc)?"])
def test_outlines_forbids_at_most_ways_on_from_where_a_text_may_end(small_tokenizer: Any, pattern: str) -> None:
    """Its index leaves out a last byte that leads from an accepting state to another kind: 0 may not become 0.5."""
    dfa, vocabulary = compile_regex(pattern), Vocabulary.of(small_tokenizer)
    for state, i in beside_outlines(dfa, pattern, vocabulary):
        token = vocabulary.tokens[i]
        assert token and dfa.accepting[dfa.run(token[:-1], state)] and not dfa.accepting[dfa.run(token, state)]
    assert re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", "0.5")
    assert re.fullmatch("(a|b)*abb", "abbabb")
    assert re.fullmatch("a(bc)?", "abc")


def test_the_regex_that_outlines_writes_for_a_schema_can_be_read_here() -> None:
    from outlines_core.json_schema import build_regex_from_schema

    schema = {k: ORDER["properties"][k] for k in ("name", "day", "price", "paid")}
    theirs = build_regex_from_schema(json.dumps({"type": "object", "properties": schema, "required": ["name"]}))
    accepts = compile_regex(theirs).accepts
    assert accepts('{"name": "Ann", "day": 3}') and accepts('{"name":"Ann"}') and not accepts('{"day": 3}')


def test_probabilities_after_the_mask_are_the_models_divided_by_what_is_allowed() -> None:
    logits = torch.randn(1, len(TOKENS), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    constraint = constrain(VOCABULARY, " ?(yes|no)")
    before, after = logits.softmax(-1)[0], constraint(logits, [[]]).softmax(-1)[0]
    mask = constraint.automaton.mask(0)
    assert torch.allclose(after[mask], before[mask] / before[mask].sum())
    assert after[~mask].sum() == 0
    assert isinstance(constraint, Constraint) and np.array_equal(mask.numpy(), (after > 0).numpy())
