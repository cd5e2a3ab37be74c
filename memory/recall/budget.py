"""Which results fit, and in which order?"""

import itertools
from collections.abc import Sequence
from datetime import datetime


def diverse_order(texts: Sequence[str], moments: Sequence[datetime]) -> list[int]:
    """The order of showing, of places in a list that is best first: what says the same as another goes to the end.

    The latest of those that say the same stands where the best of them stood. Nothing is dropped: a match that there is
    room for is shown. Texts say the same when they differ only in case, spaces and punctuation.
    """
    alike: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        alike.setdefault("".join(filter(str.isalnum, text.casefold())) or text, []).append(place)
    latest = [max(places, key=lambda place: (moments[place], -place)) for places in alike.values()]
    return latest + sorted({*range(len(texts))} - {*latest})


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
