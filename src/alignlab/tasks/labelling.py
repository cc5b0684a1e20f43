"""Three small tasks made in code, with answers known by construction: reviews, topics, and orders to be extracted.

What decides the answer (the word of judgement, the noun, the names) is split: no held-out item uses one of training.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alignlab.tasks import Split


@dataclass(frozen=True)
class Item:
    """A text with its right answer, and the kind of difficulty that it has."""

    text: str
    answer: str
    kind: str


SENTIMENTS = ("positive", "negative")
TOPICS = ("animal", "vehicle", "food", "clothing")

_PRAISE: dict[Split, str] = {
    "train": "wonderful superb charming delicious pleasant brilliant splendid impressive flawless comfortable",
    "held-out": "excellent lovely fantastic delightful perfect great beautiful amazing outstanding enjoyable",
}
_BLAME: dict[Split, str] = {
    "train": "terrible dull disgusting shabby noisy tedious dreadful filthy disappointing rude",
    "held-out": "awful boring horrible dirty bad poor ugly unpleasant mediocre miserable",
}
_HAPPY_END: dict[Split, tuple[str, ...]] = {
    "train": ("I will be back soon", "I left with a smile", "it was worth every coin", "I would do it all again"),
    "held-out": ("I loved it", "I would go there again", "I told all my friends to try it", "it made my day"),
}
_SAD_END: dict[Split, tuple[str, ...]] = {
    "train": ("I will not be back", "I left in a bad mood", "it was a waste of time", "I wanted my money back"),
    "held-out": ("I hated it", "I would never go there again", "I warned all my friends", "it ruined my day"),
}
_THINGS = (
    "hotel room", "soup", "film", "concert", "service", "museum", "bread", "bus tour", "garden", "waiter", "view",
    "dinner", "play", "beach", "market", "coffee", "guide", "music", "cake", "lake",
)  # fmt: skip

_NOUNS: dict[str, dict[Split, str]] = {
    "animal": {
        "train": "horse fox rabbit eagle snake goat wolf camel",
        "held-out": "cat tiger sheep owl dolphin mouse bear lizard duck pig",
    },
    "vehicle": {
        "train": "truck train bicycle tractor ferry scooter yacht van",
        "held-out": "car bus motorcycle tram helicopter ship taxi ambulance jet canoe",
    },
    "food": {
        "train": "sandwich pancake soup cheese pie noodle tomato cookie",
        "held-out": "pizza cake burger sausage omelette salad banana steak muffin potato",
    },
    "clothing": {
        "train": "coat skirt sock glove scarf sweater belt robe",
        "held-out": "shirt jacket dress hat vest uniform blouse hoodie suit cap",
    },
}
_CARDS = (
    "There is a drawing of a {} on the wall.", "She told us a story about a {}.", "The first word on the card was {}.",
    "He could not remember the name of the {}.", "On page nine you can see a {}.", "My sister painted a small {}.",
    "We talked about the {} all evening.", "The child pointed at the {}.",
)  # fmt: skip

_PEOPLE: dict[Split, str] = {
    "train": "Anna Boris Clara David Elena Felix Grace Hugo",
    "held-out": "Maria Peter Laura Simon Julia Martin Nina Oscar Paula Victor",
}
_CITIES: dict[Split, str] = {
    "train": "Berlin Madrid Oslo Vienna Dublin Athens Warsaw Prague",
    "held-out": "Paris Rome Lisbon London Zurich Boston Tokyo Cairo Lima Milan",
}
_GOODS = ("lamps", "chairs", "books", "tables", "clocks", "plates", "mirrors", "boxes")
_ORDERS = (
    "{name} from {city} ordered {count} {goods}.", "We shipped {count} {goods} to {name} in {city}.",
    "{count} {goods} were bought by {name}, who lives in {city}.", "In {city}, {name} asked us for {count} {goods}.",
    "Please send {name} the {count} {goods}; the address is in {city}.",
)  # fmt: skip


def reviews(split: Split, count: int, seed: int = 0) -> list[Item]:
    """Short reviews, half of them positive, of three kinds in turn.

    plain: two judgements that agree. turn: a judgement, "but", and the opposite verdict, which counts. negated: "not
    dull at all" praises, "far from perfect" blames.
    """
    draw = random.Random(f"reviews {split} {seed}")
    praise, blame = _PRAISE[split].split(), _BLAME[split].split()

    def one(number: int) -> Item:
        answer, kind = SENTIMENTS[number % 2], ("plain", "turn", "negated")[number // 2 % 3]
        words, others = (praise, blame) if answer == "positive" else (blame, praise)
        first, second = draw.sample(_THINGS, 2)
        if kind == "plain":
            good, better = draw.sample(words, 2)
            return Item(f"The {first} was {good} and the {second} was {better}.", answer, kind)
        if kind == "turn":
            end = draw.choice((_HAPPY_END if answer == "positive" else _SAD_END)[split])
            return Item(f"The {first} was {draw.choice(others)}, but in the end {end}.", answer, kind)
        form = draw.choice(("The {} was not {} at all.", "The {} was far from {}.", "Nobody could call the {} {}."))
        return Item(form.format(first, draw.choice(others)), answer, kind)

    return _distinct(one, count, draw)


def topics(split: Split, count: int, seed: int = 0) -> list[Item]:
    """Sentences that say the same of an animal, a vehicle, a food or a piece of clothing, a quarter each."""
    draw = random.Random(f"topics {split} {seed}")

    def one(number: int) -> Item:
        answer = TOPICS[number % len(TOPICS)]
        return Item(draw.choice(_CARDS).format(draw.choice(_NOUNS[answer][split].split())), answer, answer)

    return _distinct(one, count, draw)


def orders(split: Split, count: int, seed: int = 0) -> list[Item]:
    """Sentences about an order; the answer is `name | city | count`."""
    draw = random.Random(f"orders {split} {seed}")

    def one(number: int) -> Item:
        name, city = draw.choice(_PEOPLE[split].split()), draw.choice(_CITIES[split].split())
        amount, form = draw.randrange(2, 100), number % len(_ORDERS)
        text = _ORDERS[form].format(name=name, city=city, count=amount, goods=draw.choice(_GOODS))
        return Item(text, f"{name} | {city} | {amount}", f"form {form + 1}")

    return _distinct(one, count, draw)


def extracted(answer: str, item: Item) -> bool:
    """The verifier of an order: the answer's first line is exactly the right one, but for spaces at its ends."""
    return answer.strip().split("\n")[0].strip() == item.answer


def _distinct(one: Callable[[int], Item], count: int, draw: random.Random) -> list[Item]:
    """`count` different items by number, in a shuffled order. ValueError where there are not as many."""
    found: dict[str, Item] = {}
    for number in range(count):
        for _ in range(1000):
            item = one(number)
            if item.text not in found:
                found[item.text] = item
                break
        else:
            raise ValueError(f"there are no {count} different items of this kind; ask for fewer")
    items = list(found.values())
    draw.shuffle(items)
    return items


def words(split: Split) -> Sequence[str]:
    """Every word of this split that decides an answer."""
    lists = (_PRAISE, _BLAME, _PEOPLE, _CITIES, *_NOUNS.values())
    return [word for each in lists for word in each[split].split()] + [*_HAPPY_END[split], *_SAD_END[split]]
