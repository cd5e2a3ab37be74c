"""What was the earlier conversation about? Key sentences, chosen without a model and the same every time.

Recursive: each step reads the previous summary and the next stretch of the log, and keeps the sentences that say most
that is not said yet. The best next sentence is the one with the most new terms a word, and terms that come often weigh
more by the square root of their number: greedy coverage (after Lin and Bilmes 2011). `benchmarks/summary_quality.py`
compares it.
"""

import heapq
import re
from collections import Counter
from collections.abc import Callable, Sequence

from memory.domain.segments import Span

STEP_TOKENS = 4_096
"""A summary is made anew after so many tokens of the shared log."""
WORDS = 400
"""Of a kept summary: about an eighth of a step."""
_LONGEST = 240
_SHORTEST = 20
_SENTENCE = re.compile(r"[^.!?。！？\n]+[.!?。！？]*")
_SAID = 0.1
"""What a term that a chosen sentence has counts for the next. 0 covers as much; with a little, a subject that is spoken
of often gets a second sentence."""
_FIXED_WORDS = 2
"""Counted with a sentence's own, so that a single term is no summary."""

Terms = Callable[[str], Sequence[str]]


def sentences(author: str, text: str, within: Sequence[Span] | None = None) -> list[str]:
    """The statements of one event, each with its author; questions tell nothing. `within`: those that lie in a span."""
    matches = (m for m in _SENTENCE.finditer(text) if within is None or any(_lies(m, span) for span in within))
    found = (match.group().strip() for match in matches)
    return [f"{author}: {s}" for s in found if _SHORTEST <= len(s) <= _LONGEST and not s.endswith(("?", "？"))]


def extend(previous: Sequence[str], stretch: Sequence[str], terms: Terms, *, words: int = WORDS) -> list[str]:
    """Of both, in their order, what has `words` words at most. `terms`: of a sentence, without words of function."""
    pool = list(dict.fromkeys([*previous, *stretch]))
    said = [frozenset(terms(sentence)) for sentence in pool]
    weight = {term: count**0.5 for term, count in Counter(term for found in said for term in found).items()}
    lengths = [_words(sentence) for sentence in pool]

    def gain(at: int) -> float:
        said_anew: float = sum(weight[term] for term in sorted(said[at]))
        return said_anew / (lengths[at] + _FIXED_WORDS)

    chosen: list[int] = []
    waiting = [(-gain(at), at) for at in range(len(pool))]
    heapq.heapify(waiting)
    while waiting:
        known, at = heapq.heappop(waiting)
        if lengths[at] > words:
            continue
        now = -gain(at)
        if now > known:  # a gain only falls: what is still the least of all is the best of all
            heapq.heappush(waiting, (now, at))
            continue
        chosen.append(at)
        words -= lengths[at]
        for term in said[at]:
            weight[term] *= _SAID
    return [pool[at] for at in sorted(chosen)]


def _lies(found: re.Match[str], span: Span) -> bool:
    """But for the spaces around it."""
    blank = len(found.group()) - len(found.group().lstrip())
    return span.start <= found.start() + blank and found.start() + len(found.group().rstrip()) <= span.end


def _words(sentence: str) -> int:
    """A script without spaces has about two characters a word."""
    return max(len(sentence.split()), sum(not character.isascii() for character in sentence) // 2)
