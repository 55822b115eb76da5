"""The embedded corpus: text from a seeded grammar, the same on every machine, with something to learn at every range.

Within words, spelling. Within sentences, agreement in number and gender, also across other words, and closing
brackets and quotes. Within paragraphs, sums with right answers, running totals, lists that are referred to
again. Within chapters, the topics and a password. Over the whole text, what is said of each noun, and persons
whose home, trade and belongings never change. Frequencies follow Zipf's law, so something rarer is always left.
"""

from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Generic, TypeVar

from compressm_cli.data import corpus_words as words

SEED = 1
INVENTED_NOUNS = 1200
PERSONS = 300
TOWNS = 120
TOPICS = 12
"""Nouns that a chapter prefers."""

Item = TypeVar("Item")


def generated_text(size: int) -> bytes:
    """The first ``size`` bytes of the corpus, ASCII; a longer one starts with the shorter one."""
    author = Author()
    chapters: list[bytes] = []
    missing = size
    while missing > 0:
        chapters.append(author.chapter(len(chapters) + 1).encode("ascii"))
        missing -= len(chapters[-1])
    return b"".join(chapters)[:size]


@dataclass(frozen=True)
class Person:
    """What never changes of a person."""

    name: str
    woman: bool
    town: str
    trade: str
    thing: str
    """What she or he has: an adjective and a noun."""

    @property
    def pronoun(self) -> str:
        return "she" if self.woman else "he"

    @property
    def possessive(self) -> str:
        return "her" if self.woman else "his"


@dataclass(frozen=True)
class Habits:
    """What is said of a noun wherever it stands."""

    adjectives: list[str]
    verbs: list[list[str]]
    """Base, third person singular and past of each."""


class Zipf(Generic[Item]):
    """Items of which the first is the most frequent; the k-th has weight 1 / (k + 2)."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        # Divisions and sums only, which all machines round alike.
        self._upto = list(accumulate(1.0 / (place + 3.0) for place in range(len(items))))

    def at(self, quantile: float) -> Item:
        """The item for a uniform draw between 0 and 1."""
        return self.items[min(bisect(self._upto, quantile * self._upto[-1]), len(self.items) - 1)]


class Author:
    """Writes one chapter after another."""

    def __init__(self) -> None:
        # Nothing else of Random is used: this is the one stream that Python promises not to change.
        self._random = Random(SEED).random
        self._verbs = [verb.split() for verb in words.VERBS]
        self._nouns = Zipf(self._shuffled([*words.THINGS, *words.OTHER_NOUNS]) + self._invented_nouns())
        self._habits = {noun: self._some_habits() for noun in self._nouns.items}
        self._towns = Zipf(self._invented_names(TOWNS, words.TOWN_ENDINGS))
        women = [self._person(name, True) for name in self._invented_names(PERSONS // 2, words.WOMEN)]
        men = [self._person(name, False) for name in self._invented_names(PERSONS // 2, words.MEN)]
        self._persons = Zipf(self._shuffled([*women, *men]))
        self._paragraphs: list[Callable[[], str]] = [self._narrative] * 5 + [self._dialogue] * 3
        self._paragraphs += [self._list, self._sums, self._ledger]
        self._cast: list[Person] = []
        self._topics: list[str] = []
        self._password = ""

    def chapter(self, number: int) -> str:
        """A title, all that is known of some persons, and paragraphs about them."""
        self._topics = [self._nouns.at(self._random()) for _ in range(TOPICS)]
        size, cast = self._number(2, 4), dict[str, Person]()
        while len(cast) < size:
            person = self._persons.at(self._random())
            cast[person.name] = person
        self._cast = list(cast.values())
        # It cannot be guessed, only remembered.
        self._password = self._pick(words.ONSETS) + str(self._number(10, 99)) + self._pick(words.ONSETS)
        title = f"Chapter {number}: {self._cast[0].name} and the {self._pick(self._topics).capitalize()}"
        parts = [title, self._introduction()]
        parts += [self._pick(self._paragraphs)() for _ in range(self._number(5, 14))]
        return "\n\n".join(parts) + "\n\n"

    # Draws.

    def _pick(self, items: Sequence[Item]) -> Item:
        return items[int(self._random() * len(items))]

    def _number(self, low: int, high: int) -> int:
        """From low to high, both possible."""
        return low + int(self._random() * (high - low + 1))

    def _shuffled(self, items: Sequence[Item]) -> list[Item]:
        keys = [self._random() for _ in items]
        return [items[place] for place in sorted(range(len(items)), key=keys.__getitem__)]

    def _syllable(self) -> str:
        return self._pick(words.VOWELS) + self._pick(words.CODAS)

    def _invented_nouns(self) -> list[str]:
        made: dict[str, None] = {}
        while len(made) < INVENTED_NOUNS:
            made[self._pick(words.ONSETS) + self._syllable() + self._syllable()] = None
        return list(made)

    def _invented_names(self, count: int, endings: list[str]) -> list[str]:
        made: dict[str, None] = {}
        while len(made) < count:
            name = self._pick(words.ONSETS) + self._syllable() + self._pick(endings)
            made[name.capitalize()] = None
        return list(made)

    def _person(self, name: str, woman: bool) -> Person:
        noun = self._pick(words.THINGS)
        thing = f"{self._pick(self._habits[noun].adjectives)} {noun}"
        return Person(name, woman, self._towns.at(self._random()), self._pick(words.TRADES), thing)

    def _some_habits(self) -> Habits:
        adjectives = [self._pick(words.ADJECTIVES) for _ in range(4)]
        return Habits(adjectives, [self._pick(self._verbs) for _ in range(3)])

    def _noun(self) -> str:
        """One of the chapter's topics half of the time."""
        return self._pick(self._topics) if self._random() < 0.5 else self._nouns.at(self._random())

    # Paragraphs.

    def _introduction(self) -> str:
        sentences = [
            f"{person.name} of {person.town} was {_with_article(person.trade)}, "
            f"and {person.pronoun} had {_with_article(person.thing)}."
            for person in self._cast
        ]
        return " ".join([*sentences, f"The word for the gate was {self._password}."])

    def _narrative(self) -> str:
        hero = self._pick(self._cast)
        sentences = [_sentence(self._deed(hero, hero.name))]
        for _ in range(self._number(2, 7)):
            draw = self._random()
            if draw < 0.3:
                sentences.append(_sentence(self._deed(hero, hero.pronoun)))
            elif draw < 0.4:
                hero = self._pick(self._cast)
                sentences.append(_sentence(self._deed(hero, hero.name)))
            elif draw < 0.5:
                sentences.append(self._memory(hero))
            elif draw < 0.9:
                sentences.append(_sentence(self._remark()))
            else:
                link = self._pick(["and", "but", "for", "so"])
                sentences.append(_sentence(f"{self._remark()}, {link} {self._clause(hero, hero.pronoun)}"))
        return " ".join(sentences)

    def _dialogue(self) -> str:
        asker, asked = self._shuffled(self._cast)[:2]
        lines = []
        for _ in range(self._number(1, 4)):
            question, answer = self._exchange(asked)
            manner = f" {self._adverb()}" if self._random() < 0.5 else ""
            lines += [f'"{question}?" asked {asker.name}.', f'"{answer}," said {asked.name}{manner}.']
            if self._random() < 0.5:
                asker, asked = asked, asker
        return "\n".join(lines)

    def _exchange(self, asked: Person) -> tuple[str, str]:
        """A question that has one right answer, and the answer."""
        first, second = self._number(1, 10), self._number(1, 10)
        owner = self._pick(self._cast)
        return self._pick(
            [
                (f"Where do you come from, {asked.name}", f"I come from {asked.town}"),
                (f"What do you have there, {asked.name}", f"It is my {asked.thing}"),
                ("And what is your trade", f"I am {_with_article(asked.trade)}"),
                ("What is the word for the gate", f"The word is {self._password}"),
                (
                    f"How much is {words.NUMBERS[first - 1]} and {words.NUMBERS[second - 1]}",
                    f"It is {words.NUMBERS[first + second - 1]}",
                ),
                (f"Who has the {owner.thing}", "I do" if owner is asked else f"{owner.name} has it"),
            ]
        )

    def _list(self) -> str:
        """Numbered, and one thing of it again."""
        things = [_with_article(self._described(self._noun())) for _ in range(self._number(3, 7))]
        lines = [f"{self._pick(self._cast).name} had to bring {words.NUMBERS[len(things) - 1]} things:"]
        lines += [f"{place}. {thing}" for place, thing in enumerate(things, start=1)]
        place = self._number(1, len(things)) - 1
        lines.append(f"The {words.ORDINALS[place]} was {things[place]}.")
        return "\n".join(lines)

    def _sums(self) -> str:
        exercises = []
        for _ in range(self._number(3, 7)):
            sign, small, large = self._pick("+-x"), self._number(2, 9), self._number(2, 60)
            if sign == "+":
                exercises.append(f"{large} + {small} = {large + small}")
            elif sign == "-":
                exercises.append(f"{large + small} - {small} = {large}")
            else:
                exercises.append(f"{small} x {large % 11} = {small * (large % 11)}")
        return f"{self._pick(self._cast).name} wrote on the wall: {'; '.join(exercises)}."

    def _ledger(self) -> str:
        """Prices, and their running total."""
        buyer, total = self._pick(self._cast), 0
        lines = [f"The purse of {buyer.name}:"]
        for _ in range(self._number(2, 5)):
            count, price = self._number(2, 9), self._number(2, 9)
            total += count * price
            lines.append(f"- {count} {_plural(self._noun())} at {price} make {count * price}, so far {total}")
        return "\n".join([*lines, f"{buyer.name} paid {total} coins."])

    # Sentences and their parts, without capital and full stop.

    def _deed(self, hero: Person, subject: str) -> str:
        if self._random() < 0.25:
            when = self._pick(["when", "while", "after", "although", "because"])
            return f"{when} {self._clause(hero, subject)}, {self._clause(hero, hero.pronoun)}"
        return self._clause(hero, subject)

    def _clause(self, hero: Person, subject: str) -> str:
        draw = self._random()
        if draw < 0.3:
            return f"{subject} {self._pick(words.MOTIONS)} {self._place()}"
        verb = self._pick(self._verbs)[2]
        thing = f"{hero.possessive} {hero.thing}" if draw < 0.4 else self._thing()
        ending = f" {self._adverb()}" if draw < 0.6 else f" {self._place()}" if draw < 0.75 else ""
        return f"{subject} {verb} {thing}{ending}"

    def _memory(self, hero: Person) -> str:
        """Something that the reader knows of the person."""
        return self._pick(
            [
                f"{hero.name} thought of {hero.town}.",
                f"{hero.name} looked for {hero.possessive} {hero.thing}.",
                f"It was a long way to {hero.town}, where {hero.name} was known as a good {hero.trade}.",
                f"At the gate {hero.pronoun} said {self._password}.",
            ]
        )

    def _remark(self, depth: int = 0) -> str:
        """A clause in the present, whose verb agrees with its first noun and not with the nearest one."""
        noun, plural = self._noun(), self._random() < 0.5
        subject = f"the {self._described(noun, plural)}"
        draw = self._random()
        if draw < 0.6:
            other = self._described(self._noun(), self._random() < 0.5)
            subject += f" {self._pick(words.PREPOSITIONS)} the {other}"
        elif draw < 0.75:
            subject += f" that {self._pick(self._cast).name} {self._pick(self._verbs)[2]}"
        elif depth < 3:
            subject += f" ({self._remark(depth + 1)})"
        if self._random() < 0.5:
            return f"{subject} {'are' if plural else 'is'} {self._pick(self._habits[noun].adjectives)}"
        base, third, _ = self._pick(self._habits[noun].verbs)
        return f"{subject} {base if plural else third} {self._thing()}"

    def _described(self, noun: str, plural: bool = False) -> str:
        form = _plural(noun) if plural else noun
        return f"{self._pick(self._habits[noun].adjectives)} {form}" if self._random() < 0.4 else form

    def _thing(self) -> str:
        draw, noun = self._random(), self._noun()
        if draw < 0.5:
            return f"the {self._described(noun)}"
        if draw < 0.8:
            return _with_article(self._described(noun))
        return f"{words.NUMBERS[self._number(2, 12) - 1]} {self._described(noun, plural=True)}"

    def _place(self) -> str:
        if self._random() < 0.2:
            return f"{self._pick(['to', 'from', 'through'])} {self._towns.at(self._random())}"
        return f"{self._pick(words.PREPOSITIONS)} the {self._described(self._noun())}"

    def _adverb(self) -> str:
        return self._pick(words.ADVERBS).replace("_", " ")


IRREGULAR_PLURALS = {
    "child": "children",
    "fish": "fish",
    "knife": "knives",
    "leaf": "leaves",
    "loaf": "loaves",
    "shelf": "shelves",
    "wolf": "wolves",
}


def _plural(noun: str) -> str:
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def _with_article(phrase: str) -> str:
    """``a lamp``, ``an old lamp``, ``an honest guest``."""
    return f"{'an' if phrase[0] in 'aeiou' or phrase.startswith('honest') else 'a'} {phrase}"


def _sentence(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:]}."
