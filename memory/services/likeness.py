"""Do two memories say the same in slightly other words? Pure.

Their vectors must be as near as asked, and their words must not contradict it: an embedding hardly notices a "not", a
number or a name. `benchmarks/results/near_duplicates.json` has what that costs and what it saves.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from memory.ports.models import Vectors

Signatures = NDArray[np.int64]

_BITS = 64
_FARTHEST = 18
"""Bits in which the signatures of a pair may differ. A cosine of .9 differs in 9.2 on average, deviation 2.8."""
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_NEGATIONS = frozenset("no not never none nobody nothing neither nor without cannot nowhere hardly".split())
_SMALL = frozenset(
    "a actually also am an and any anyway are as at be because been but by can could did do does for from had has"
    " have he her here hers him his how i if in into is it its just know let may me might mine my of oh ok okay on"
    " or our out please really shall she should since so some than that the their them then there these they this"
    " those though to too us very was way we well were what when where which while who whose why will would yes"
    " yet you your".split()
)
"""Words that may come or go. None that turns a sentence round: before, after, more, less, only, with, up, always."""
_COMPARED = 20_000
"""Characters; what comes after them is left to the vectors."""
_LONG, _STEM = 5, 4
"""From so many letters on, a word may have one of them wrong; so many in common, it may end otherwise (like, likes)."""
_ENDING = 3
_MORE = 1
"""Words that one side may have beyond the other's."""
_MISSPELT = 50
"""More words than these are not looked for one by one."""


@lru_cache(maxsize=8)
def _planes(dimensions: int) -> Vectors:
    return np.random.default_rng(_BITS).standard_normal((dimensions, _BITS)).astype(np.float32)


def signatures(vectors: Vectors) -> Signatures:
    """int64 [n]: on which side of 64 fixed planes each vector lies (after Charikar 2002)."""
    sides = vectors @ _planes(vectors.shape[1]) > 0
    return np.packbits(sides, axis=1).view(">i8").astype(np.int64).ravel()


def near(signature: int, others: Signatures, most: int) -> NDArray[np.int64]:
    """The places of up to `most` others that may be near enough, nearest first."""
    distances = np.bitwise_count((others ^ np.int64(signature)).view(np.uint64))  # of int64 it counts the magnitude's
    places = np.flatnonzero(distances <= _FARTHEST)
    return places[np.argsort(distances[places], kind="stable")[:most]]


def similarity(one: Sequence[bytes], other: Sequence[bytes]) -> float:
    """The cosine of two texts: the lowest of their segments', one by one; 0 when they have not equally many."""
    if len(one) != len(other) or not one:
        return 0.0
    a, b = (
        np.frombuffer(b"".join(vectors), "<f2").astype(np.float32).reshape(len(one), -1) for vectors in (one, other)
    )
    return float(np.vecdot(a, b).min())


def may_be_same(one: str, other: str) -> bool:
    """Whether numbers, negations and names are the same on both sides, and no word stands in another's place."""
    one, other = one[:_COMPARED], other[:_COMPARED]
    if sorted(_NUMBER.findall(one)) != sorted(_NUMBER.findall(other)):
        return False
    words, others = _words(one), _words(other)
    if _negated(words) != _negated(others):
        return False
    missing, added = _unmatched(_counted(words), _counted(others))
    named = (missing & _names(one)) - set(others) or (added & _names(other)) - set(words)
    return not (missing and added) and max(len(missing), len(added)) <= _MORE and not named


def _words(text: str) -> list[str]:
    return [_plain(word) for word in _WORD.findall(text)]


def _plain(word: str) -> str:
    return word.replace("’", "'").lower().removesuffix("'s")


def _negated(words: Sequence[str]) -> bool:
    """An odd number of negations."""
    return sum(word in _NEGATIONS or word.endswith("n't") for word in words) % 2 == 1


def _names(text: str) -> set[str]:
    """Words with a capital letter; one that only begins a sentence is a name, too."""
    return {_plain(word) for word in _WORD.findall(text) if word[0].isupper()}


def _counted(words: Sequence[str]) -> Counter[str]:
    """Without small words, and without what negates."""
    return Counter(w for w in words if w not in _SMALL and w not in _NEGATIONS and "'" not in w)


def _unmatched(words: Counter[str], others: Counter[str]) -> tuple[set[str], set[str]]:
    """What either side has and the other has nothing like."""
    missing, added = list((words - others).elements()), list((others - words).elements())
    if max(len(missing), len(added)) <= _MISSPELT:
        for word in list(missing):
            match = next((other for other in added if _like(word, other)), None)
            if match is not None:
                missing.remove(word)
                added.remove(match)
    return set(missing), set(added)


def _like(one: str, other: str) -> bool:
    short, long = sorted((len(one), len(other)))
    if short >= _STEM and long - short <= _ENDING and one[:short] == other[:short]:
        return True
    return short >= _LONG - 1 and long >= _LONG and _one_letter(one, other)


def _one_letter(one: str, other: str) -> bool:
    """At most one letter is changed, missing or added, or two neighbours are swapped."""
    if abs(len(one) - len(other)) > 1:
        return False
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    rest, others = one[at:], other[at:]
    swapped = rest[:2] == others[1::-1] and rest[2:] == others[2:]
    return rest[1:] == others[1:] or rest[1:] == others or rest == others[1:] or swapped
