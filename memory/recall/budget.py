"""Which results fit, and in which order?"""

import itertools
from collections.abc import Sequence


def diverse_order(texts: Sequence[str]) -> list[int]:
    """The order of showing, of places in a list that is best first: what says the same as a better one goes to the end.

    Nothing is dropped: a match that there is room for is shown. Texts say the same when they differ only in case,
    spaces and punctuation.
    """
    seen: set[str] = set()
    first: list[int] = []
    repeats: list[int] = []
    for place, text in enumerate(texts):
        plain = "".join(filter(str.isalnum, text.casefold())) or text
        (repeats if plain in seen else first).append(place)
        seen.add(plain)
    return first + repeats


def falling(scores: Sequence[float]) -> list[float]:
    """Scores that never rise along the list, whatever the order of showing."""
    return list(itertools.accumulate(scores, min))


def within(tokens: Sequence[int], budget: int | None) -> list[int]:
    """The places of the results that fit into `budget` tokens, best first; one that is too long is passed over."""
    if budget is None:
        return list(range(len(tokens)))
    chosen, left = [], budget
    for place, count in enumerate(tokens):
        if count <= left:
            chosen.append(place)
            left -= count
    return chosen
