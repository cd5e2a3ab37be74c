"""How can a text be put so that it says the same, or, with as few changes, something else? Drawn from a seed."""

import random
import re
from collections.abc import Callable, Sequence

Change = Callable[[str, random.Random], str | None]
"""None where the text offers nothing to change."""

_SYNONYMS = (
    "big:large small:little buy:purchase bought:purchased begin:start began:started help:assist show:demonstrate"
    " showed:demonstrated get:obtain need:require talk:speak talked:spoke think:believe many:numerous quick:fast"
    " glad:happy often:frequently maybe:perhaps difficult:hard also:too large:big children:kids film:movie"
    " significant:considerable increased:rose children:kids important:crucial almost:nearly"
).split()
_OPPOSITES = (
    "like:hate love:hate good:bad more:less before:after up:down increase:decrease increased:decreased always:never"
    " first:last high:low higher:lower old:new best:worst can:can't buy:sell agree:disagree likes:hates prefer:avoid"
    " early:late with:without same:different positive:negative reduced:raised enhance:inhibit"
).split()
_AUXILIARY = re.compile(r"\b(is|are|was|were|can|could|will|would|should|do|does|did|has|have|had)\b(?! not|n't)")
_SPELT = {"do not": "don't", "does not": "doesn't", "did not": "didn't", "is not": "isn't", "I am": "I'm"}
_SPELT |= {"it is": "it's", "we are": "we're", "they are": "they're", "I have": "I've", "that is": "that's"}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b")


def lower_case(text: str, rng: random.Random) -> str | None:
    return text.lower()


def no_punctuation(text: str, rng: random.Random) -> str | None:
    return re.sub(r"(?<=\w)[.,;:!?]+(?=\s|$)", "", text)


def typos(text: str, rng: random.Random) -> str | None:
    """One wrong letter in each dozen of words, not in numbers."""
    words = text.split(" ")
    long = [place for place, word in enumerate(words) if word.isalpha() and len(word) >= 5]
    for place in rng.sample(long, min(len(long), 1 + len(words) // 12)):
        word, at = words[place], rng.randrange(1, len(words[place]) - 1)
        wrong = (word[:at] + word[at + 1 :], word[:at] + word[at + 1] + word[at] + word[at + 2 :])
        words[place] = rng.choice((*wrong, word[:at] + rng.choice(_LETTERS) + word[at + 1 :]))
    return " ".join(words) if long else None


def filler(text: str, rng: random.Random) -> str | None:
    before = rng.choice(("By the way, ", "So, ", "Well, ", "As far as I know, ", "Just so you know: "))
    return before + text if rng.random() < 0.5 else f"{text} {before.strip(' ,:').lower()}."


def contraction(text: str, rng: random.Random) -> str | None:
    changed = text
    for long, short in _SPELT.items():
        changed = changed.replace(short, long) if short in changed else changed.replace(long, short)
    return changed


def no_articles(text: str, rng: random.Random) -> str | None:
    return re.sub(r"\b(the|a|an) ", "", text)


def turned_round(text: str, rng: random.Random) -> str | None:
    """The two halves of a sentence in the other order."""
    halves = text.rstrip(".").split(", ")
    return f"{halves[1]}, {halves[0]}." if len(halves) == 2 and min(map(len, halves)) > 15 else None


def synonym(text: str, rng: random.Random) -> str | None:
    return _swapped(text, _SYNONYMS)


def other_number(text: str, rng: random.Random) -> str | None:
    numbers = list(re.finditer(r"\d+", text))
    if not numbers:
        return None
    found = rng.choice(numbers)
    return text[: found.start()] + str(int(found[0]) + rng.randint(1, 9)) + text[found.end() :]


def negated(text: str, rng: random.Random) -> str | None:
    return _AUXILIARY.sub(r"\1 not", text, count=1) if _AUXILIARY.search(text) else None


def other_name(names: Sequence[str]) -> Change:
    def change(text: str, rng: random.Random) -> str | None:
        found = list(_NAME.finditer(text))
        if not found:
            return None
        name = rng.choice(found)
        other = rng.choice([other for other in names if other != name[0]])
        return text[: name.start()] + other + text[name.end() :]

    return change


def opposite(text: str, rng: random.Random) -> str | None:
    return _swapped(text, _OPPOSITES)


def other_word(words: Sequence[str]) -> Change:
    """One long word gives way to another of the same set of texts."""

    def change(text: str, rng: random.Random) -> str | None:
        found = list(re.finditer(r"\b[a-z]{5,}\b", text))
        if not found:
            return None
        word = rng.choice(found)
        return text[: word.start()] + rng.choice([other for other in words if other != word[0]]) + text[word.end() :]

    return change


def more_said(texts: Sequence[str]) -> Change:
    """A few words of another text are added."""

    def change(text: str, rng: random.Random) -> str | None:
        other = rng.choice(texts).split(" ")
        at = rng.randrange(max(1, len(other) - 5))
        return f"{text} {' '.join(other[at : at + 5])}"

    return change


def _swapped(text: str, pairs: Sequence[str]) -> str | None:
    for pair in pairs:
        for one, other in (pair.split(":"), pair.split(":")[::-1]):
            if re.search(rf"\b{one}\b", text):
                return re.sub(rf"\b{one}\b", other, text, count=1)
    return None


def names_of(texts: Sequence[str]) -> list[str]:
    return sorted({name for text in texts for name in _NAME.findall(text)})


def words_of(texts: Sequence[str]) -> list[str]:
    return sorted({word for text in texts for word in re.findall(r"\b[a-z]{5,}\b", text)})


SAME: dict[str, Change] = {
    "lower case": lower_case,
    "no punctuation": no_punctuation,
    "typos": typos,
    "filler": filler,
    "contraction": contraction,
    "no articles": no_articles,
    "turned round": turned_round,
    "synonym": synonym,
}


def different(texts: Sequence[str]) -> dict[str, Change]:
    return {
        "other number": other_number,
        "negated": negated,
        "other name": other_name(names_of(texts)),
        "opposite": opposite,
        "other word": other_word(words_of(texts)),
        "more said": more_said(texts),
    }
