"""A small world in plain English: facts that never contradict each other, questions about them, and little scenes."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from alignlab.tasks import Split, held_out

HELD_OUT = 0.25


@dataclass(frozen=True)
class Fact:
    """One thing to know: how it is stated, how it is asked (the usual form first), how it is answered."""

    statements: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str

    def split(self, question: str) -> Split:
        """Held out is a way of asking, never the fact itself: it is always stated, and asked in its usual form."""
        usual = question == self.questions[0]
        return "held-out" if not usual and held_out(f"asks {question}", HELD_OUT) else "train"


COLOURS = {
    "blue": "sky sea", "green": "grass frog leaf", "white": "snow milk cloud", "black": "coal raven",
    "yellow": "sun lemon", "red": "tomato strawberry", "orange": "carrot pumpkin", "brown": "chocolate bear",
}  # fmt: skip
HOMES = {
    "fish": "in the water", "bird": "in a nest", "bear": "in a cave", "bee": "in a hive", "cow": "on a farm",
    "camel": "in the desert", "spider": "in a web", "dog": "in a kennel", "frog": "in a pond", "fox": "in a den",
    "penguin": "on the ice", "monkey": "in the jungle", "mole": "under the ground", "owl": "in a tree",
}  # fmt: skip
OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "old": "young", "high": "low", "wet": "dry", "open": "closed",
    "full": "empty", "light": "dark", "happy": "sad", "long": "short", "loud": "quiet", "hard": "soft",
}  # fmt: skip
WORK = {
    "baker": "bread", "tailor": "clothes", "farmer": "hay", "potter": "pots", "painter": "pictures", "cook": "soup",
    "brewer": "beer", "carpenter": "tables", "smith": "nails", "weaver": "cloth", "writer": "books",
}  # fmt: skip
SOUNDS = {
    "cow": "moo", "cat": "meow", "dog": "woof", "sheep": "baa", "duck": "quack", "frog": "croak", "lion": "roar",
    "bee": "buzz", "owl": "hoot", "mouse": "squeak",
}  # fmt: skip
TALK = {
    "Who are you?": "I am a tiny model.", "What are you?": "I am a tiny model.",
    "What is your name?": "I am a tiny model. I have no name.", "What can you do?": "I can add small numbers.",
    "Hello!": "Hello! What can I do for you?", "Thank you.": "You are welcome.",
}  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def _facts() -> Iterator[Fact]:
    for colour, things in COLOURS.items():
        for thing in things.split():
            yield Fact(
                (f"The {thing} is {colour}.", f"The colour of the {thing} is {colour}."),
                (f"What colour is the {thing}?", f"What is the colour of the {thing}?",
                 f"Tell me the colour of the {thing}."),
                f"The {thing} is {colour}.",
            )  # fmt: skip
    for animal, home in HOMES.items():
        yield Fact(
            (f"The {animal} lives {home}.", f"You can find the {animal} {home}."),
            (
                f"Where does the {animal} live?",
                f"Where is the home of the {animal}?",
                f"Tell me where the {animal} lives.",
            ),
            f"The {animal} lives {home}.",
        )
    for first, second in [*OPPOSITES.items(), *((b, a) for a, b in OPPOSITES.items())]:
        yield Fact(
            (f"The opposite of {first} is {second}.", f"What is not {first} is {second}."),
            (f"What is the opposite of {first}?", f"Which word is the opposite of {first}?",
             f"Tell me the opposite of {first}."),
            f"The opposite of {first} is {second}.",
        )  # fmt: skip
    for index, day in enumerate(DAYS):
        for word, other in (("after", DAYS[(index + 1) % 7]), ("before", DAYS[index - 1])):
            yield Fact(
                (f"The day {word} {day} is {other}.", f"{word.capitalize()} {day} is {other}."),
                (f"What day is {word} {day}?", f"Which day comes {word} {day}?", f"Tell me the day {word} {day}."),
                f"The day {word} {day} is {other}.",
            )
    for role, thing in WORK.items():
        yield Fact(
            (f"The {role} makes {thing}.", f"The work of the {role} is to make {thing}."),
            (f"What does the {role} make?", f"What is the work of the {role}?", f"Tell me what the {role} makes."),
            f"The {role} makes {thing}.",
        )
    for animal, sound in SOUNDS.items():
        yield Fact(
            (f"The {animal} says {sound}.", f"The sound of the {animal} is {sound}."),
            (f"What does the {animal} say?", f"What is the sound of the {animal}?", f"Tell me what the {animal} says."),
            f"The {animal} says {sound}.",
        )
    # Nothing tells these forms of asking apart from others but having met them: each is a fact of its own.
    for question, answer in TALK.items():
        yield Fact((answer,), (question,), answer)


FACTS = tuple(_facts())
ADJECTIVES = ("small", "big", "old", "young", "happy", "quiet", "slow", "hungry", "tired", "little")
VERBS = ("sleeps", "sits", "waits", "sings", "plays", "rests", "walks", "works", "eats", "dances")
PLACES = (
    "in the garden", "by the river", "under the tree", "in the kitchen", "near the door", "on the hill", "in the snow",
    "behind the house", "on the road", "at the market",
)  # fmt: skip
TIMES = ("in the morning", "in the evening", "at night", *(f"on {day}" for day in DAYS))


def questions(split: Split | None = None) -> Iterator[tuple[str, str]]:
    """Every question of the world with its answer; of one split, if given."""
    for fact in FACTS:
        yield from ((asked, fact.answer) for asked in fact.questions if split in (None, fact.split(asked)))


def scene(rng: random.Random) -> str:
    """A sentence that states no fact: someone, somewhere, at some time."""
    someone = (
        f"The {rng.choice(ADJECTIVES)} {rng.choice([*HOMES, *WORK, *SOUNDS])} {rng.choice(VERBS)} {rng.choice(PLACES)}"
    )
    return f"{someone} {rng.choice(TIMES)}." if rng.random() < 0.5 else f"{someone}."
