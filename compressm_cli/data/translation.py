"""Sentences of a small grammar in English and in German: words are to be reordered, and to agree with each other."""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from compressm_cli.data.encodings import Encoding, SourceTarget, Texts, Words
from compressm_cli.data.generated import DrawnTask
from compressm_cli.data.interface import Dataset, DataSpec, Split
from compressm_cli.data.rows import Rows as RowsOfTexts


class Noun(NamedTuple):
    """A noun in both languages."""

    one: str
    many: str
    einer: str
    viele: str
    gender: Literal["m", "f", "n"]


NOUNS = (
    Noun("dog", "dogs", "Hund", "Hunde", "m"),
    Noun("cat", "cats", "Katze", "Katzen", "f"),
    Noun("child", "children", "Kind", "Kinder", "n"),
    Noun("man", "men", "Mann", "Männer", "m"),
    Noun("woman", "women", "Frau", "Frauen", "f"),
    Noun("house", "houses", "Haus", "Häuser", "n"),
    Noun("tree", "trees", "Baum", "Bäume", "m"),
    Noun("flower", "flowers", "Blume", "Blumen", "f"),
    Noun("book", "books", "Buch", "Bücher", "n"),
    Noun("bird", "birds", "Vogel", "Vögel", "m"),
    Noun("lamp", "lamps", "Lampe", "Lampen", "f"),
    Noun("ship", "ships", "Schiff", "Schiffe", "n"),
)
ADJECTIVES = (
    *(("small", "klein"), ("big", "groß"), ("old", "alt"), ("new", "neu"), ("red", "rot")),
    *(("green", "grün"), ("white", "weiß"), ("beautiful", "schön")),
)
VERBS = (
    *(("sees", "see", "sieht", "sehen"), ("finds", "find", "findet", "finden")),
    *(("loves", "love", "liebt", "lieben"), ("draws", "draw", "zeichnet", "zeichnen")),
    *(("seeks", "seek", "sucht", "suchen"), ("knows", "know", "kennt", "kennen")),
)
"""Third person, of one and of many."""
ADVERBS = (("today", "heute"), ("often", "oft"), ("here", "hier"), ("sometimes", "manchmal"))
BECAUSE, AND = ("because", "weil"), ("and", "und")
ONES = (
    *(("one", "ein"), ("two", "zwei"), ("three", "drei"), ("four", "vier"), ("five", "fünf")),
    *(("six", "sechs"), ("seven", "sieben"), ("eight", "acht"), ("nine", "neun")),
)
TEENS = (
    *(("ten", "zehn"), ("eleven", "elf"), ("twelve", "zwölf"), ("thirteen", "dreizehn")),
    *(("fourteen", "vierzehn"), ("fifteen", "fünfzehn"), ("sixteen", "sechzehn")),
    *(("seventeen", "siebzehn"), ("eighteen", "achtzehn"), ("nineteen", "neunzehn")),
)
TENS = (
    *(("twenty", "zwanzig"), ("thirty", "dreißig"), ("forty", "vierzig"), ("fifty", "fünfzig")),
    *(("sixty", "sechzig"), ("seventy", "siebzig"), ("eighty", "achtzig"), ("ninety", "neunzig")),
)
DEFINITE = {
    "nominative": {"m": ("der", "e"), "f": ("die", "e"), "n": ("das", "e")},
    "accusative": {"m": ("den", "en"), "f": ("die", "e"), "n": ("das", "e")},
}
"""Article and ending of an adjective, by case and gender, of one; of many they are die and -en."""
INDEFINITE = {
    "nominative": {"m": ("ein", "er"), "f": ("eine", "e"), "n": ("ein", "es")},
    "accusative": {"m": ("einen", "en"), "f": ("eine", "e"), "n": ("ein", "es")},
}
LARGEST = 99
"""Number of things; from 2 on they are many."""
SOURCE_STEPS, TARGET_STEPS = 13, 15
"""Of a clause at most, with what joins it to the next or ends the text."""


class Both(NamedTuple):
    """Words in both languages."""

    english: list[str]
    german: list[str]


class Translation(DrawnTask):
    """``data: {task: translation}``: say in German what a sentence of a small grammar says in English.

    Articles and adjectives agree with gender, number and case, verbs with number; the verb comes before the subject
    after an adverb, and last after ``weil``; numbers up to 99 have their ones first, as in ``drei und vierzig``. Each
    sentence has one translation, so that the best BLEU is 100, and no sentence is there twice, in one split or in two.
    A token is a word.
    """

    task: Literal["translation"] = "translation"
    own_objective = "translation"
    train_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    """Sentences of the training split."""
    validation_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    """Sentences of the validation split."""
    test_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 2_000
    """Sentences of the test split."""
    clauses: Annotated[int, Field(ge=1, le=20)] = 1
    """Clauses of a sentence at most, joined by ``and``; each number of them is equally frequent."""

    @property
    def encoding(self) -> Encoding:
        """One vocabulary of the words of both languages."""
        source, target = self.clauses * SOURCE_STEPS, self.clauses * TARGET_STEPS
        inputs = SourceTarget(tokens=Words(names=words()), source=source, target=target)
        return Encoding(inputs=inputs, outputs=Texts())

    def spec(self) -> DataSpec:
        """Known without drawing the rows."""
        return self.encoding.spec(self.clauses * (SOURCE_STEPS + TARGET_STEPS), self._rows())

    def target_text(self, tokens: Sequence[int]) -> str:
        return Words(names=words()).decode(tokens)

    def load(self) -> Dataset:
        """Draw the sentences: those of the test split first, so that more of training leave the others as they are."""
        encoding, seen = self.encoding, set[str]()
        splits = [
            self._drawn(place, rows, seen, encoding) for place, rows in reversed([*enumerate(self._rows())])
        ]
        return Dataset(self.spec(), *reversed(splits), encoding=encoding)

    def _split(self, place: int, rows: int) -> Split:
        return self._drawn(place, rows, set(), self.encoding)

    def _drawn(self, place: int, rows: int, seen: set[str], encoding: Encoding) -> Split:
        """So many sentences that are not ``seen`` yet."""
        random = self._random(place)
        sources: list[bytes] = []
        targets: list[str] = []
        while len(sources) < rows:
            english, german = map(" ".join, self.sentence(random))
            if english not in seen:
                seen.add(english)
                sources.append(english.encode())
                targets.append(german)
        return encoding.split(RowsOfTexts(f"task {self.task}", "texts", sources, labels=targets))

    def sentence(self, random: np.random.RandomState) -> Both:
        """One sentence, of some clauses."""
        whole = _clause(random)
        for _ in range(random.randint(self.clauses)):
            more = _clause(random)
            whole = Both([*whole.english, AND[0], *more.english], [*whole.german, AND[1], *more.german])
        return whole


def words() -> list[str]:
    """All that there are, in a fixed order."""
    german = {
        form for table in (DEFINITE, INDEFINITE) for case in table.values() for form, _ in case.values()
    }
    inflected = {f"{stem}{end}" for _, stem in ADJECTIVES for end in ("e", "en", "er", "es")}
    nouns = {form for noun in NOUNS for form in noun[:4]}
    verbs = {form for verb in VERBS for form in verb}
    pairs = (*ADVERBS, BECAUSE, AND, *ONES, *TEENS, *TENS)
    others = {word for pair in pairs for word in pair} | {english for english, _ in ADJECTIVES}
    return sorted({"the", "a", "an"} | german | inflected | nouns | verbs | others)


def _clause(random: np.random.RandomState) -> Both:
    subject, many = _things(random, "nominative")
    thing, _ = _things(random, "accusative")
    verb = VERBS[random.randint(len(VERBS))]
    does, tut = verb[many], verb[2 + many]
    english = [*subject.english, does, *thing.english]
    kind = random.randint(3)
    if kind == 0:
        return Both(english, [*subject.german, tut, *thing.german])
    if kind == 1:
        adverb = ADVERBS[random.randint(len(ADVERBS))]
        return Both([adverb[0], *english], [adverb[1], tut, *subject.german, *thing.german])
    return Both([BECAUSE[0], *english], [BECAUSE[1], *subject.german, *thing.german, tut])


def _things(random: np.random.RandomState, case: str) -> tuple[Both, bool]:
    """Such as ``the two old dogs``, and whether they are many."""
    noun = NOUNS[random.randint(len(NOUNS))]
    adjective = ADJECTIVES[random.randint(len(ADJECTIVES))] if random.randint(2) else None
    is_definite, many = bool(random.randint(2)), bool(random.randint(2))
    if many:
        # Without an article there is always a number.
        count = random.randint(2, LARGEST + 1) if not is_definite or random.randint(2) else None
        number = Both([], []) if count is None else _number(count)
        article, ending = ("die", "en") if is_definite else (None, "e")
    else:
        number = Both([], [])
        article, ending = (DEFINITE if is_definite else INDEFINITE)[case][noun.gender]
    english = ["the"] if is_definite else []
    if not is_definite and not many:
        english = ["an" if adjective is not None and adjective[0][0] in "aeiou" else "a"]
    english += [
        *number.english,
        *([] if adjective is None else [adjective[0]]),
        noun.many if many else noun.one,
    ]
    german = [*([] if article is None else [article]), *number.german]
    german += [*([] if adjective is None else [adjective[1] + ending]), noun.viele if many else noun.einer]
    return Both(english, german), many


def _number(count: int) -> Both:
    """2 to 99."""
    tens, ones = divmod(count, 10)
    if tens == 0:
        return Both([ONES[ones - 1][0]], [ONES[ones - 1][1]])
    if tens == 1:
        return Both([TEENS[ones][0]], [TEENS[ones][1]])
    ten = TENS[tens - 2]
    if ones == 0:
        return Both([ten[0]], [ten[1]])
    one = ONES[ones - 1]
    return Both([ten[0], one[0]], [one[1], AND[1], ten[1]])
