"""Exercises of the lab structured_generation: allowed tokens, the way to the end, spellings, what a mask bends."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from alignlab.exercises import Exercise, Mistake, Wrong, require, same

Table = list[dict[str, int]]

# A number with an optional two-digit fraction, [0-9]+(\.[0-9]{2})?, as {character: next state} for each state.
_DIGITS = "0123456789"
TABLE: Table = [
    dict.fromkeys(_DIGITS, 1),
    {**dict.fromkeys(_DIGITS, 1), ".": 2},
    dict.fromkeys(_DIGITS, 3),
    dict.fromkeys(_DIGITS, 4),
    {},
]
ACCEPTING = {1, 4}
TOKENS = ["4", "42", ".", ".5", ".50", ".505", "50", "5.", " 4", "x", "4x"]


def allowed_tokens(table: Table, tokens: Sequence[str], state: int) -> set[int]:
    found = set()
    for i, token in enumerate(tokens):
        at: int | None = state
        for character in token:
            at = table[at].get(character) if at is not None else None
        if at is not None:
            found.add(i)
    return found


def first_character_alone(table: Table, tokens: Sequence[str], state: int) -> set[int]:
    return {i for i, token in enumerate(tokens) if token[0] in table[state]}


def overruns_the_end(table: Table, tokens: Sequence[str], state: int) -> set[int]:
    found = set()
    for i, token in enumerate(tokens):
        at: int | None = state
        for character in token:
            at = table[at].get(character) if at is not None else None
            if at in ACCEPTING:
                found.add(i)
        if at is not None:
            found.add(i)
    return found


def only_complete_matches(table: Table, tokens: Sequence[str], state: int) -> set[int]:
    found = set()
    for i, token in enumerate(tokens):
        at: int | None = state
        for character in token:
            at = table[at].get(character) if at is not None else None
        if at in ACCEPTING:
            found.add(i)
    return found


def spaces_do_not_count(table: Table, tokens: Sequence[str], state: int) -> set[int]:
    return allowed_tokens(table, [token.strip() for token in tokens], state)


Index = list[dict[int, int]]


def fewest_tokens(index: Index, accepting: set[int]) -> list[float]:
    fewest = [1.0 if state in accepting else float("inf") for state in range(len(index))]
    for _ in index:
        for state, row in enumerate(index):
            fewest[state] = min([fewest[state], *(1 + fewest[to] for to in row.values())])
    return fewest


def forgets_the_end_token(index: Index, accepting: set[int]) -> list[float]:
    return [tokens - 1 for tokens in fewest_tokens(index, accepting)]


def one_sweep(index: Index, accepting: set[int]) -> list[float]:
    fewest = [1.0 if state in accepting else float("inf") for state in range(len(index))]
    for state, row in enumerate(index):
        fewest[state] = min([fewest[state], *(1 + fewest[to] for to in row.values())])
    return fewest


def counts_from_the_start(index: Index, accepting: set[int]) -> list[float]:
    fewest = [1.0 if state == 0 else float("inf") for state in range(len(index))]
    for _ in index:
        for state, row in enumerate(index):
            for to in row.values():
                fewest[to] = min(fewest[to], 1 + fewest[state])
    return fewest


def spellings(text: str, tokens: Sequence[str]) -> int:
    ways = [1] + [0] * len(text)
    for end in range(1, len(text) + 1):
        ways[end] = sum(ways[end - len(token)] for token in tokens if text[:end].endswith(token))
    return ways[len(text)]


def longest_first(text: str, tokens: Sequence[str]) -> int:
    while text:
        fitting = [token for token in tokens if text.startswith(token)]
        if not fitting:
            return 0
        text = text[len(max(fitting, key=len)) :]
    return 1


def counts_cuts(text: str, tokens: Sequence[str]) -> int:
    return 2 ** (len(text) - 1)


def counts_tokens_inside(text: str, tokens: Sequence[str]) -> int:
    return sum(token in text for token in tokens)


def order_pattern() -> str:
    return r'\{"item": "[a-z]+"(, "count": (0|[1-9][0-9]*))?\}'


COMMA_ALWAYS = r'\{"item": "[a-z]+", ("count": (0|[1-9][0-9]*))?\}'
COMMA_OPTIONAL = r'\{"item": "[a-z]+",?( "count": (0|[1-9][0-9]*))?\}'
LEADING_ZEROS = r'\{"item": "[a-z]+"(, "count": [0-9]+)?\}'
COUNT_ALWAYS = r'\{"item": "[a-z]+", "count": (0|[1-9][0-9]*)\}'

Steps = Sequence[Sequence[tuple[float, float]]]


def given_valid(answers: Steps) -> list[float]:
    whole = []
    for steps in answers:
        product = 1.0
        for p, _ in steps:
            product *= p
        whole.append(product)
    return [p / sum(whole) for p in whole]


def as_the_mask_draws(answers: Steps) -> list[float]:
    found = []
    for steps in answers:
        product = 1.0
        for p, allowed in steps:
            product *= p / allowed
        found.append(product)
    return found


def not_normalized(answers: Steps) -> list[float]:
    conditional, total = given_valid(answers), 0.0
    for steps in answers:
        product = 1.0
        for p, _ in steps:
            product *= p
        total += product
    return [p * total for p in conditional]


def first_step_alone(answers: Steps) -> list[float]:
    first = [steps[0][0] for steps in answers]
    return [p / sum(first) for p in first]


def _names(found: set[int]) -> str:
    return ", ".join(repr(TOKENS[i]) for i in sorted(found)) or "nothing"


def _grade_allowed(answer: Callable[..., Any]) -> None:
    got = [answer(TABLE, list(TOKENS), state) for state in range(len(TABLE))]
    require(all(isinstance(one, set | frozenset | list | tuple) for one in got), "Return a set of token ids.")
    diagnoses = {
        "You looked at a token's first character alone; the automaton must survive all of them.": first_character_alone,
        "A token overruns the end: it passes a place to end, and its rest does not fit.": overruns_the_end,
        "You ask that the token completes a match; it is enough that a match can still follow.": only_complete_matches,
        "A token's leading space is a character like any other; you have stripped it.": spaces_do_not_count,
    }
    for message, mistaken in diagnoses.items():
        if all(set(one) == mistaken(TABLE, TOKENS, state) for state, one in enumerate(got)):
            raise Mistake(message)
    for state, one in enumerate(got):
        want = allowed_tokens(TABLE, TOKENS, state)
        require(set(one) <= want, f"In state {state} you allow {_names(set(one) - want)}, which does not fit.")
        require(set(one) >= want, f"In state {state} you forbid {_names(want - set(one))}, which fits.")


INDEX: Index = [{0: 1, 1: 2}, {2: 2, 3: 4}, {4: 3}, {5: 4}, {6: 5, 7: 4}, {8: 4}]


def _grade_fewest(answer: Callable[..., Any]) -> None:
    for accepting in ({4}, {5}, {3, 4}):
        got = answer([dict(row) for row in INDEX], set(accepting))
        mistakes = {
            "The end token is missing: where a match may end, one token is still to come.": forgets_the_end_token(
                INDEX, accepting
            ),
            "One sweep is not enough: a shorter way found later must reach the states before it.": one_sweep(
                INDEX, accepting
            ),
            "You counted from the start; count the tokens that are still to come.": counts_from_the_start(
                INDEX, accepting
            ),
        }
        same(got, fewest_tokens(INDEX, accepting), f"with accepting states {accepting}, your list", mistakes=mistakes)


def _grade_spellings(answer: Callable[..., Any]) -> None:
    tokens = ["b", "a", "ba", "nan", "na", "n", "ana", "an", "banana"]
    for text in ("ban", "bana", "banana", "bx"):
        mistakes = {
            "You followed one way to cut the text, the longest token first; count every way.": longest_first(
                text, tokens
            ),
            "You counted places to cut; each piece must also be a token.": counts_cuts(text, tokens),
            "You counted the tokens that occur in the text; count sequences of tokens that spell it.": (
                counts_tokens_inside(text, tokens)
            ),
        }
        same(
            answer(text, list(tokens)),
            spellings(text, tokens),
            f"the number of spellings of {text!r}",
            mistakes=mistakes,
        )


def _grade_pattern(answer: Any) -> None:
    require(isinstance(answer, str), "Give the pattern as a string.")
    try:
        pattern = re.compile(answer)
    except re.error as error:
        raise Mistake(f"Python's re cannot read the pattern: {error}.") from error

    def fits(text: str) -> bool:
        return pattern.fullmatch(text) is not None

    both, alone = json.dumps({"item": "tea", "count": 12}), json.dumps({"item": "tea"})
    require(fits(both), f"{both} is valid, and your pattern refuses it. Spaces are as json.dumps writes them.")
    require(
        not fits('{"item": "tea", }'), "Your pattern lets a comma stand before nothing: the comma belongs to count."
    )
    require(fits(alone), f"{alone} is valid: count may be missing. Your pattern refuses it.")
    require(
        not fits('{"item": "tea" "count": 2}') and not fits('{"item": "tea",}'),
        "Your pattern takes the comma and count apart: one may not come without the other.",
    )
    require(
        not fits('{"item": "tea", "count": 012}'), "A leading zero, 012, is no JSON number; your pattern allows it."
    )
    require(fits('{"item": "tea", "count": 0}'), "The count 0 is valid, and your pattern refuses it.")
    for bad in ('{"count": 2}', '{"item": ""}', '{"item": "Tea"}', '{"item": "tea", "count": -1}', f"{alone} "):
        require(not fits(bad), f"Your pattern allows {bad!r}.")


# Each answer as (probability of the token, probability of all tokens allowed there) for each of its steps.
ANSWERS: list[list[tuple[float, float]]] = [
    [(0.6, 0.8), (0.01, 0.01), (0.02, 0.5)],
    [(0.2, 0.8), (0.5, 0.5), (0.9, 0.9)],
]
MORE: list[list[tuple[float, float]]] = [
    [(0.3, 0.9), (0.2, 0.2)],
    [(0.5, 0.9), (0.1, 0.4), (0.7, 0.7)],
    [(0.5, 0.9), (0.3, 0.4), (0.05, 0.05)],
    [(0.1, 0.9), (0.9, 0.9)],
]


def _grade_given_valid(answer: Callable[..., Any]) -> None:
    for answers in (ANSWERS, MORE):
        mistakes = {
            "That is what the mask draws: it divides at each step. Divide the whole products by their one sum.": (
                as_the_mask_draws(answers)
            ),
            "These are not normalized: given that the answer is valid, the probabilities sum to 1.": not_normalized(
                answers
            ),
            "You used the first step alone; an answer's probability is the product over all of its steps.": (
                first_step_alone(answers)
            ),
        }
        same(answer([list(steps) for steps in answers]), given_valid(answers), mistakes=mistakes)


EXERCISES = [
    Exercise(
        name="structured_generation.allowed",
        task="Give the ids of the tokens allowed in a state; `table[state][character]` is the automaton's next state.",
        difficulty=1,
        minutes=6,
        grade=_grade_allowed,
        solution=allowed_tokens,
        wrong=[
            Wrong(first_character_alone, "first character alone"),
            Wrong(overruns_the_end, "overruns the end"),
            Wrong(only_complete_matches, "completes a match"),
            Wrong(spaces_do_not_count, "leading space"),
        ],
        hint="Walk through the token's characters; it is allowed if no step is missing.",
    ),
    Exercise(
        name="structured_generation.pattern",
        task=(
            "Write a pattern for an object with a string `item` of lower-case letters (at least one), then a whole "
            "number `count` from 0 up, which may be missing; spaces as `json.dumps` writes them."
        ),
        difficulty=2,
        minutes=8,
        grade=_grade_pattern,
        solution=order_pattern,
        wrong=[
            Wrong(COMMA_ALWAYS, "comma stand before nothing"),
            Wrong(COMMA_OPTIONAL, "comma and count apart"),
            Wrong(LEADING_ZEROS, "leading zero"),
            Wrong(COUNT_ALWAYS, "count may be missing"),
        ],
        hint="What is optional is the comma with the member behind it, as one group.",
        value=True,
    ),
    Exercise(
        name="structured_generation.fewest",
        task=(
            "From an index (`index[state][token]` is the next state) and the accepting states, give for each state the "
            "fewest tokens to the end, the end token counted; infinity where there is no way."
        ),
        difficulty=2,
        minutes=10,
        grade=_grade_fewest,
        solution=fewest_tokens,
        wrong=[
            Wrong(forgets_the_end_token, "end token is missing"),
            Wrong(one_sweep, "One sweep"),
            Wrong(counts_from_the_start, "counted from the start"),
        ],
        hint="1 in an accepting state; elsewhere 1 more than the best next state. Repeat until nothing changes.",
    ),
    Exercise(
        name="structured_generation.spellings",
        task="Count the sequences of tokens that spell a text: all of these the automaton allows.",
        difficulty=2,
        minutes=10,
        grade=_grade_spellings,
        solution=spellings,
        wrong=[
            Wrong(longest_first, "longest token first"),
            Wrong(counts_cuts, "places to cut"),
            Wrong(counts_tokens_inside, "occur in the text"),
        ],
        hint="Let ways[end] be the number for the first `end` characters; its last token ends there.",
    ),
    Exercise(
        name="structured_generation.given_valid",
        task=(
            "Each answer is a list of (probability of its token, probability of all tokens allowed at that step). Give "
            "each answer's probability given that the answer is one of these."
        ),
        difficulty=2,
        minutes=6,
        grade=_grade_given_valid,
        solution=given_valid,
        wrong=[
            Wrong(as_the_mask_draws, "what the mask draws"),
            Wrong(not_normalized, "not normalized"),
            Wrong(first_step_alone, "first step alone"),
        ],
        hint="The second number of each pair is of no use here: p(y) is the product of the first ones.",
    ),
]
